"""Which sessions are ours, when were they last wanted, who holds them now?

Below /run/auto-iscsi, which ends with the boot: claims/TARGET says which session we opened for a
target and when it was last looked up; lock/TARGET is held (flock) by whoever works on the target;
iscsiadm/TARGET is held by an iscsiadm that works on it, even when the lookup that started it was
killed. Target names are folded, at most 223 bytes and free of slashes (keys).
"""

from __future__ import annotations

import fcntl
import os
import time

from auto_iscsi import errors
from auto_iscsi.host import Host
from auto_iscsi.light import TYPE_CHECKING, NamedTuple, contextmanager, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "/run/auto-iscsi"
_STEP = 0.02  # seconds between two tries to get a lock


class Claim(NamedTuple):
    """What we know of a target's session."""

    sid: int = -1  #: the session last used; -1: none yet
    ours: bool = False  #: we asked for it; with sid -1: we are about to
    record: str = ""  #: the folder name of the node record that we made; "": none
    looked_up: float = 0.0  #: CLOCK_BOOTTIME, seconds


def read(host: Host, target: str) -> Claim:
    """Return the claim on a target; an empty one when there is none or it is of another boot."""
    text = host.read(f"{FOLDER}/claims/{target}") or ""
    values = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    if not values or values.get("boot") != _boot(host):
        return Claim()
    try:
        return Claim(
            int(values["sid"]), values["ours"] == "yes",
            values.get("record", ""), float(values["looked_up"]),
        )  # fmt: skip
    except (KeyError, ValueError):
        return Claim()


def age(claim: Claim) -> float:
    """Return how long ago the target was looked up, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - claim.looked_up


def write(host: Host, target: str, claim: Claim) -> None:
    """Keep a claim, as of now, in one step. The caller holds the target."""
    path = host.path(f"{FOLDER}/claims/{target}")
    _folder(os.path.dirname(path))
    lines = {
        "sid": claim.sid, "ours": "yes" if claim.ours else "no", "record": claim.record,
        "looked_up": f"{time.clock_gettime(time.CLOCK_BOOTTIME):.3f}", "boot": _boot(host),
    }  # fmt: skip
    text = "".join(f"{name} {value}\n" for name, value in lines.items() if value != "")
    handle = _private(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)
    os.rename(f"{path}.new", path)


def touch(host: Host, target: str, sids: list[int], claim: Claim | None = None) -> None:
    """Renew the lease on a target that is reached through sessions `sids`.

    `claim`: what was just read, if it was. One without a session is of a lookup that was killed
    between asking for one and seeing it.
    """
    claim = claim or read(host, target)
    sid = claim.sid if claim.sid in sids else sids[0]
    write(host, target, claim._replace(sid=sid, ours=claim.ours and claim.sid in (-1, sid)))


def drop(host: Host, target: str) -> None:
    """Forget a claim, and what was kept for the next lookup. The caller holds the target."""
    for kind in ("claims", "settings"):
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
            time.sleep(_STEP)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def unlock(host: Host, name: str, handle: int) -> None:
    """Give up a lock."""
    with suppress(FileNotFoundError):
        os.unlink(host.path(f"{FOLDER}/{name}"))
    os.close(handle)


def _boot(host: Host) -> str:
    return host.read("/proc/sys/kernel/random/boot_id") or "-"


def _private(path: str, flags: int) -> int:
    with _permission(path):
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _folder(path: str) -> None:
    if not os.path.isdir(path):
        with _permission(path):
            for each in (os.path.dirname(path), path):  # a mode given once is the last one's only
                os.makedirs(each, mode=0o700, exist_ok=True)


@contextmanager
def _permission(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise errors.NotPermitted(f"{path}: permission denied", "run it as root") from error
