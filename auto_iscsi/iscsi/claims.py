"""Record which sessions are ours, and lock targets.

All files are below /run/auto-iscsi, which is empty after a boot:

claims/TARGET    which sessions we opened for a target, and when the target was last looked up
lock/TARGET      locked (flock) by the lookup or the reaper that works on the target
iscsiadm/TARGET  locked by an iscsiadm that works on the target, as long as it runs: it can outlive
                 the lookup that started it

TARGET is a folded name: at most 223 bytes, without slashes (keys).

A session is ours if we saw it come up. We know it by its number and the inode of its folder in
sysfs. The number is not enough: after the kernel module was reloaded, numbers start at 1 again, and
an administrator's session can have the number of one of ours.
"""

from __future__ import annotations

import fcntl
import os
import time

from auto_iscsi import errors
from auto_iscsi.iscsi import sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager, suppress
from auto_iscsi.machine import state_files
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = state_files.FOLDER
_LONG_AGO = -1e9  # seconds of CLOCK_BOOTTIME: before any lease or idle time
_STEP = 0.02  # seconds between two attempts to get a lock; the first ones follow faster


class Claim(NamedTuple):
    """What we know about a target's sessions. Times are seconds of CLOCK_BOOTTIME.

    A session is a pair: its number and the inode of its folder in sysfs. A node record is the name
    of its folder.
    """

    sids: tuple[int, ...] = ()  #: numbers of the sessions that the last lookup used, ours or not
    opened: tuple[tuple[int, int], ...] = ()  #: sessions that we opened
    asked: tuple[str, ...] = ()  #: node records of logins that we started and did not see end
    records: tuple[str, ...] = ()  #: node records that we made
    watched: tuple[tuple[int, int], ...] = ()  #: others' sessions that may end: idle since `used`
    looked_up: float = 0.0  #: when the target was last looked up
    used: float = 0.0  #: when the reaper last saw a session in use; 0: never
    asked_by: int = 0  #: the process group of the last lookup: automount's, if it was a visit
    others: tuple[str, ...] = ()  #: the targets that share its lookups (setting `with`)

    @property
    def ours(self) -> bool:
        """Whether we opened a session, or started a login and did not see it end."""
        return bool(self.opened or self.asked)

    @property
    def last_used(self) -> float:
        """When the target was last looked up or seen in use."""
        return max(self.looked_up, self.used) if self.used else self.looked_up

    def owns(self, session: sessions.Session) -> bool:
        """Return whether we opened this session."""
        return (session.sid, session.inode) in self.opened


def read(host: Host, target: str) -> Claim:
    """Return the claim on a target; an empty one if there is none, or it is from another boot."""
    text = host.read(f"{FOLDER}/claims/{target}") or ""
    values = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    if not values or values.get("boot") != boot(host):
        return Claim()
    try:
        return Claim(
            tuple(map(int, values.get("sids", "").split())),
            _pairs(values.get("opened", "")),
            tuple(values.get("asked", "").split()),
            tuple(values.get("records", "").split()),
            _pairs(values.get("watched", "")),
            float(values["looked_up"]),
            float(values.get("used", "0")),
            int(values.get("asked_by", "0")),
            tuple(values.get("others", "").split()),
        )
    except (KeyError, ValueError):
        return Claim()


def now() -> float:
    """Return the time on the clock that claims use (CLOCK_BOOTTIME), in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def age(claim: Claim) -> float:
    """Return the seconds since the target was last looked up."""
    return now() - claim.looked_up


def given_back(claim: Claim) -> Claim:
    """Return a claim whose lease and idle time are over: whoever looked the target up is done."""
    return claim._replace(looked_up=_LONG_AGO, used=0.0)


def write(host: Host, target: str, claim: Claim) -> None:
    """Replace the claim on a target, in one step. The caller holds the target."""
    values = {
        "sids": " ".join(map(str, claim.sids)),
        "opened": " ".join(f"{sid}:{inode}" for sid, inode in claim.opened),
        "asked": " ".join(claim.asked),
        "records": " ".join(claim.records),
        "watched": " ".join(f"{sid}:{inode}" for sid, inode in claim.watched),
        "looked_up": f"{claim.looked_up:.3f}",
        "used": f"{claim.used:.3f}",
        "asked_by": f"{claim.asked_by}",
        "others": " ".join(claim.others),
        "boot": boot(host),
    }
    text = "".join(f"{name} {value}\n" for name, value in values.items() if value)
    write_file(host, f"claims/{target}", text)


def write_file(
    host: Host, name: str, text: str, below: str = FOLDER, *, durable: bool = False
) -> None:
    """Replace the file `name` below a folder, in one step. The caller holds the file's lock.

    `durable`: return when it is on the disk.
    """
    # Targets' names come in any encoding; one that is not UTF-8 has surrogates.
    data = text.encode("utf-8", "surrogateescape")
    state_files.write(host, name, data, is_locked=True, below=below, durable=durable)


def renew_lease(
    host: Host, target: str, up: Sequence[sessions.Session], claim: Claim | None = None
) -> Claim:
    """Renew the lease on a target that is used through the sessions `up`; return the new claim.

    `claim`: the claim as it is, if the caller has read it. Sessions of ours that no longer exist
    are removed from it.
    """
    claim = claim or read(host, target)
    inodes = {session.sid: session.inode for session in up}
    opened = tuple(pair for pair in claim.opened if _exists(host, pair, inodes))
    claim = claim._replace(
        sids=tuple(inodes), opened=opened, looked_up=now(), asked_by=os.getpgrp()
    )
    write(host, target, claim)
    return claim


def forget(host: Host, target: str) -> None:
    """Delete a target's claim and all else that we keep for it. The caller holds the target."""
    for kind in ("settings", "disks", "claims"):  # the claim last: a killed reaper starts again
        with suppress(FileNotFoundError):
            os.unlink(host.path(f"{FOLDER}/{kind}/{target}"))


@contextmanager
def hold_target(
    host: Host, target: str, until: float, others: Sequence[str] = ()
) -> Iterator[None]:
    """Hold a target's lock, and those of others; raise Busy when another run holds one at `until`.

    `until` is a time.monotonic(). Whoever takes several takes them in the order of their names: so
    no two wait for each other.
    """
    held: list[tuple[str, int]] = []
    try:
        for each in sorted({target, *others}):
            handle = lock(host, f"lock/{each}", until)
            if handle is None:
                raise errors.Busy(f"{each}: another lookup of it is still under way", "try again")
            held.append((each, handle))
        yield
    finally:
        for each, handle in held:
            unlock(host, f"lock/{each}", handle)


def tie(host: Host, target: str, others: Sequence[str]) -> None:
    """Note in the claims that targets share the lookups of `target`. The caller holds them all.

    Of what was noted before, only targets with a claim stay.
    """
    for one, partners in ((target, tuple(others)), *((other, (target,)) for other in others)):
        claim = read(host, one)
        noted = [name for name in claim.others if read(host, name) != Claim()]
        tied = tuple(sorted({*noted, *partners}))
        if tied != claim.others and claim != Claim():
            write(host, one, claim._replace(others=tied))


def lock(host: Host, name: str, until: float) -> int | None:
    """Lock the file `name` below FOLDER; return its descriptor, None when `until` comes first.

    `until` is a time.monotonic(). The lock lasts as long as any copy of the descriptor is open, in
    a child process, too. unlock() deletes the file. So we can get a lock on a file that was deleted
    while we waited: that lock is worth nothing, and we try again.
    """
    path = host.path(f"{FOLDER}/{name}")
    state_files.make_folder(os.path.dirname(path))
    step = 0.001  # most locks are held for about a millisecond
    while True:
        handle = state_files.open_private(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(handle)
                return None
            time.sleep(step)
            step = min(2 * step, _STEP)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def is_locked(host: Host, name: str) -> bool:
    """Return whether the file `name` below FOLDER is locked now.

    It is tried with a shared lock, which is given up at once.
    """
    try:
        handle = state_files.open_private(host.path(f"{FOLDER}/{name}"), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def unlock(host: Host, name: str, handle: int) -> None:
    """Give up a lock, and delete its file."""
    with suppress(FileNotFoundError):
        os.unlink(host.path(f"{FOLDER}/{name}"))
    os.close(handle)


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    """Return the pairs of numbers in `1:2 3:4`."""
    pairs = (word.partition(":") for word in text.split())
    return tuple((int(first), int(second)) for first, _, second in pairs)


def _exists(host: Host, pair: tuple[int, int], inodes: dict[int, int]) -> bool:
    """Return whether a session of ours still exists; `inodes`: those of sessions just read."""
    sid, inode = pair
    if sid in inodes:
        return inodes[sid] == inode
    folder = host.stat(f"{sessions.FOLDER}/session{sid}")
    return folder is not None and folder.st_ino == inode


def boot(host: Host) -> str:
    """Return the name of this boot."""
    return host.read("/proc/sys/kernel/random/boot_id") or "-"
