"""Visit snapshots as a user does, through automount, and end what a visit opened.

A session that was there before the visit stays, and so does one that somebody else has asked for
since. automount remembers the answer of a lookup for a moment, and mounts by it without running the
map again: a session ends only when that is over.

After ^C, automount goes on with the login that it has begun. So a visit begins and ends in a thread
of its own, which ^C does not reach: after the first ^C the command waits for that thread, and the
session ends; after the second one it does not wait, and the session is left to the reaper.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from typing import Callable, NamedTuple, TypeVar

from auto_iscsi import errors, keys
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine import master_map
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import logout, unmounting
from auto_iscsi.san import leases, presenting
from auto_iscsi.san.catalogue import Entry

_LONGEST_MEMORY = 5.1  # seconds; where automount remembers longer, the reaper ends the session
Say = Callable[[str], None]  #: is told what is waited for, "" for nothing
_Result = TypeVar("_Result")


class Visit(NamedTuple):
    """A visit that has begun."""

    entry: Entry
    root: str  #: where automount mounts targets
    folder: int  #: a descriptor of the root directory of the snapshot
    target: str
    claim: claims.Claim
    before: frozenset[str]  #: targets that had a session before the visit
    forgotten: float  #: when automount forgets the answer of the lookup (time.monotonic)

    @property
    def point(self) -> str:
        """Where the snapshot is mounted."""
        return f"{self.root}/{self.entry.key}"


def mount_root(host: Host) -> str:
    """Return where automount mounts targets (/iscsiauto); raise Failure when it does not."""
    roots = master_map.served_roots(host)
    if not roots:
        raise errors.Failure(
            "automount does not serve our map", "run auto-iscsi doctor: it names what is missing"
        )
    return roots[0]


@contextlib.contextmanager
def visited(host: Host, entry: Entry, say: Say) -> Iterator[int]:
    """Yield a descriptor of the root directory of a snapshot; raise Failure.

    A session that the visit has opened ends with the block.
    """
    visit = begin(host, mount_root(host), entry, say)
    try:
        yield visit.folder
    except KeyboardInterrupt:
        end(host, visit, say)
        raise
    except BaseException:
        _end_despite_interrupt(host, visit, say)
        raise
    _end_despite_interrupt(host, visit, say)


def begin(host: Host, root: str, entry: Entry, say: Say = lambda _: None) -> Visit:
    """Visit a snapshot; raise Failure. The caller ends the visit."""
    before = frozenset(keys.fold(session.target) for session in sessions.list_all(host))
    say(f"visiting {entry.volume} of {entry.text}")

    def give_up(beginning: concurrent.futures.Future[Visit]) -> None:
        say(f"interrupted; waiting for {entry.volume} of {entry.text}, to end the visit")
        with contextlib.suppress(errors.Failure):
            end(host, beginning.result(), say)

    try:
        return _result(lambda: _begin(host, root, entry, before), give_up)
    finally:
        say("")


def _result(
    work: Callable[[], _Result],
    after_interrupt: Callable[[concurrent.futures.Future[_Result]], None],
) -> _Result:
    """Do work in a thread of its own, and return its result; after ^C, call `after_interrupt`."""
    with held_interrupts() as release:
        future = in_thread(work)
        try:
            release()
            return future.result()
        except KeyboardInterrupt:
            after_interrupt(future)
            raise


@contextlib.contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Put ^C off, so that a thread starts and is known; yield what hears it again.

    Threads that are started meanwhile never hear it.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        yield release
    finally:
        release()


def in_thread(work: Callable[[], _Result]) -> concurrent.futures.Future[_Result]:
    """Do work in a thread of its own, which ^C does not reach; return its future result.

    Python hears ^C only in the main thread, and not while that one is in a system call which no
    signal ends. In automount's directory, the kernel waits for automount (Linux: fs/autofs/waitq.c,
    wait_event_killable).
    """
    future: concurrent.futures.Future[_Result] = concurrent.futures.Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whoever asks for the result gets it
            future.set_exception(error)

    # A daemon: after a second ^C the program ends without it.
    threading.Thread(target=do, daemon=True).start()
    return future


def _begin(host: Host, root: str, entry: Entry, before: frozenset[str]) -> Visit:
    """Open the root directory of a snapshot, which has automount mount it; raise Failure."""
    point = f"{root}/{entry.key}"
    try:
        folder = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.Failure(
            f"{point}: {(error.strerror or '').lower()}",
            f"journalctl -u autofs says why; or run auto-iscsi lookup {entry.key}",
        ) from error
    try:
        forgotten = time.monotonic() + _memory(host, root)
        # What was not presented before is only known by its target now.
        target = leases.targets_by_key(host).get(entry.san_key.lower(), entry.target)
        return Visit(entry, root, folder, target, claims.read(host, target), before, forgotten)
    except errors.Failure:
        os.close(folder)  # or it would be in use until the program ends
        raise


def _memory(host: Host, root: str) -> float:
    """Return for how long automount remembers an answer, in seconds; it counts whole ones."""
    lines = [line for line in master_map.list_lines(host) if line.root == root]
    # None: the master map was changed after automount had read it.
    return max((master_map.negative_timeout(host, line) + 1.1 for line in lines), default=math.inf)


def _end_despite_interrupt(host: Host, visit: Visit, say: Say) -> None:
    """End a visit, also when ^C comes meanwhile; a second ^C leaves the session to the reaper."""

    def wait(ending: concurrent.futures.Future[None]) -> None:
        say(f"interrupted; ending the visit of {visit.entry.volume} of {visit.entry.text}")
        ending.result()

    _result(lambda: end(host, visit, say), wait)


def end(host: Host, visit: Visit, say: Say = lambda _: None) -> None:
    """End a visit, and the session that it has opened; close the descriptor."""
    os.close(visit.folder)
    if visit.target in visit.before:
        return
    say(f"ending the visit of {visit.entry.volume} of {visit.entry.text}")
    opened = [name for name in visit.claim.others if name not in visit.before]
    _end(host, visit, opened)
    if visit.entry.san:
        until = time.monotonic() + presenting.FINISHING
        presenting.finish(host, until, {visit.target})
    say("")


def _end(host: Host, visit: Visit, others: Collection[str]) -> None:
    """Unmount a snapshot and end its session, unless somebody else uses it.

    others: the targets that the setting `with` names, and that had no session before.
    """
    target = visit.target
    unmounting.unmount(host, visit.root, [visit.point])
    remembered = visit.forgotten - time.monotonic()
    if remembered > _LONGEST_MEMORY:
        return
    time.sleep(max(0.0, remembered))
    if not _give_back(host, target, visit.claim):
        return
    given_back = [target]
    for name in others:
        claim = claims.read(host, name)
        # This visit looked it up a moment before the target itself.
        if claim.looked_up <= visit.claim.looked_up and _give_back(host, name, claim):
            given_back.append(name)
    for name in given_back:
        logout.end_sessions(host, name)


def _give_back(host: Host, target: str, visit: claims.Claim) -> bool:
    """End the lease of a target; return False when somebody has asked for it since the visit."""
    handle = claims.lock(host, f"lock/{target}", time.monotonic())
    if handle is None:
        return False
    try:
        claim = claims.read(host, target)
        if claim.looked_up != visit.looked_up:
            return False
        claims.write(host, target, claims.given_back(claim))
        return True
    finally:
        claims.unlock(host, f"lock/{target}", handle)
