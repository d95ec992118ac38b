"""Which sessions are ours, when were they last wanted, who holds them now?

Below /run/auto-iscsi, which ends with the boot: claims/TARGET says which sessions we opened for a
target and when it was last looked up; lock/TARGET is held (flock) by whoever works on the target;
iscsiadm/TARGET is held by an iscsiadm that works on it, even when the lookup that started it was
killed. Target names are folded, at most 223 bytes and free of slashes (keys).

A session is ours when it is the one that we saw come up, by number and by its folder's inode in
sysfs, not when it has that number: numbers begin anew when the module is loaded again, and one
that an administrator opened after ours was gone is an administrator's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from auto_iscsi import errors
from auto_iscsi.iscsi import sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager, suppress
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = "/run/auto-iscsi"
_STEP = 0.02  # seconds between two tries to get a lock, after some shorter ones
_NOT_WRITABLE = {
    errno.ENOSPC: "make room: df -h /run; df -i /run",
    errno.EDQUOT: "make room: df -h /run; df -i /run",
    errno.EROFS: "mount -o remount,rw /run",
}


class Claim(NamedTuple):
    """What we know of a target's sessions. Times are seconds of CLOCK_BOOTTIME."""

    sids: tuple[int, ...] = ()  #: the sessions last used, whosever they are
    opened: tuple[tuple[int, int], ...] = ()  #: of those that we opened: sid and inode in sysfs
    asked: tuple[str, ...] = ()  #: records through which we asked for one, and nobody saw it yet
    records: tuple[str, ...] = ()  #: the folder names of the node records that we made
    watched: tuple[tuple[int, int], ...] = ()  #: others' that the reaper may end: since `used`
    looked_up: float = 0.0
    used: float = 0.0  #: when the reaper last saw one in use

    @property
    def ours(self) -> bool:
        """Say whether we opened a session, or are about to."""
        return bool(self.opened or self.asked)

    def owns(self, session: sessions.Session) -> bool:
        """Say whether we opened this very session."""
        return (session.sid, session.inode) in self.opened


def read(host: Host, target: str) -> Claim:
    """Return the claim on a target; an empty one when there is none or it is of another boot."""
    text = host.read(f"{FOLDER}/claims/{target}") or ""
    values = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    if not values or values.get("boot") != _boot(host):
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
        )
    except (KeyError, ValueError):
        return Claim()


def now() -> float:
    """Return the time that claims go by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def age(claim: Claim) -> float:
    """Return how long ago the target was looked up, in seconds."""
    return now() - claim.looked_up


def write(host: Host, target: str, claim: Claim) -> None:
    """Keep a claim, in one step. The caller holds the target."""
    lines = {
        "sids": " ".join(map(str, claim.sids)),
        "opened": " ".join(f"{sid}:{inode}" for sid, inode in claim.opened),
        "asked": " ".join(claim.asked),
        "records": " ".join(claim.records),
        "watched": " ".join(f"{sid}:{inode}" for sid, inode in claim.watched),
        "looked_up": f"{claim.looked_up:.3f}",
        "used": f"{claim.used:.3f}",
        "boot": _boot(host),
    }
    text = "".join(f"{name} {value}\n" for name, value in lines.items() if value)
    write_file(host, f"claims/{target}", text)


def write_file(host: Host, name: str, text: str) -> None:
    """Write a file below FOLDER in one step. The caller holds what it is about."""
    path = host.path(f"{FOLDER}/{name}")
    folder = os.path.dirname(path)
    new = f"{folder}/.{os.path.basename(path)}"  # as no target is named
    _folder(folder)
    handle = _private(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with _expected(path):
            try:
                # Targets' names come in any encoding; one that is not UTF-8 has surrogates.
                data = text.encode("utf-8", "surrogateescape")
                while data:
                    data = data[os.write(handle, data) :]
            finally:
                os.close(handle)
            os.rename(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


def renew_lease(
    host: Host, target: str, up: Sequence[sessions.Session], claim: Claim | None = None
) -> Claim:
    """Renew the lease on a target that is reached through the sessions `up`; return the claim.

    `claim`: what was just read, if it was.
    """
    claim = claim or read(host, target)
    there = {session.sid: session.inode for session in up}
    kept = tuple(pair for pair in claim.opened if _there(host, pair, there))
    claim = claim._replace(sids=tuple(there), opened=kept, looked_up=now())
    write(host, target, claim)
    return claim


def forget(host: Host, target: str) -> None:
    """Forget a claim, and what was kept for the next lookup. The caller holds the target."""
    for kind in ("settings", "disks", "claims"):  # the claim last: who is killed here comes again
        with suppress(FileNotFoundError):
            os.unlink(host.path(f"{FOLDER}/{kind}/{target}"))


@contextmanager
def hold(host: Host, target: str, until: float) -> Iterator[None]:
    """Hold a target; raise Busy when somebody else still does at `until` (time.monotonic())."""
    handle = lock(host, f"lock/{target}", until)
    if handle is None:
        raise errors.Busy(f"{target}: another lookup of it is still under way", "try again")
    try:
        yield
    finally:
        unlock(host, f"lock/{target}", handle)


def lock(host: Host, name: str, until: float) -> int | None:
    """Return a descriptor that holds `name`, None when it is still held elsewhere at `until`.

    The lock lives as long as any copy of the descriptor, one in a child process too. Its file goes
    with it, so what we waited on can be a name that is gone: then it is not the lock.
    """
    path = host.path(f"{FOLDER}/{name}")
    _folder(os.path.dirname(path))
    step = 0.001  # most locks are held as long
    while True:
        handle = _private(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
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


def is_held(host: Host, name: str) -> bool:
    """Say whether somebody holds `name` now. Nobody waits for that longer than a moment."""
    try:
        handle = _private(host.path(f"{FOLDER}/{name}"), os.O_RDONLY)
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
    """Give up a lock."""
    with suppress(FileNotFoundError):
        os.unlink(host.path(f"{FOLDER}/{name}"))
    os.close(handle)


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (word.partition(":") for word in text.split())
    return tuple((int(first), int(second)) for first, _, second in pairs)


def _there(host: Host, pair: tuple[int, int], known: dict[int, int]) -> bool:
    """Say whether a session is still the one that it was."""
    if pair[0] in known:
        return known[pair[0]] == pair[1]
    found = host.stat(f"{sessions.FOLDER}/session{pair[0]}")
    return found is not None and found.st_ino == pair[1]


def _boot(host: Host) -> str:
    return host.read("/proc/sys/kernel/random/boot_id") or "-"


def _private(path: str, flags: int) -> int:
    with _expected(path):
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _folder(path: str) -> None:
    if not os.path.isdir(path):
        with _expected(path):
            above = os.path.dirname(path)
            for each in (os.path.dirname(above), above, path):
                with suppress(FileExistsError):
                    os.mkdir(each, 0o700)


@contextmanager
def _expected(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise errors.NotPermitted(f"{path}: permission denied", "run it as root") from error
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        why = (error.strerror or "").lower()
        raise errors.Failure(f"{path}: {why}", _NOT_WRITABLE[error.errno]) from error
