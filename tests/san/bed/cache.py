"""Keep images and saved machines, and delete old ones.

They are below ${BED_CACHE}, else ${XDG_CACHE_HOME:-~/.cache}/auto-iscsi: a directory for each,
named by its kind and a hash of everything that determines it. It is built under a lock in a
temporary directory, which is renamed when it is complete. Whoever uses it holds that lock shared.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import progress

#: How many of a kind are kept, most recently used first. A saved machine needs its parents.
KEPT = {"image": 3, "autopkgtest": 2, "booted": 5, "installed": 4, "prepared": 3}
#: In seconds. What was used more recently is never deleted: a run may be between two tests.
YOUNG = 900.0


def root() -> Path:
    """Return the cache's directory, which is made if need be."""
    given = os.environ.get("BED_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(given) if given else Path(home) / "auto-iscsi"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def key(*parts: str | bytes) -> str:
    """Return a hash of everything that determines an entry."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def sources(directory: Path) -> bytes:
    """Return the text of all the files of a directory, for a key."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return b"".join(
        str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes()
        for path in files
        if path.suffix != ".pyc"
    )


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a file lock; yield False if it is taken and `wait` is false."""
    with path.open("a") as file:
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            progress.say(f"waiting for another run that builds {path.stem}")
            fcntl.flock(file, operation)
        yield True


def entry(kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """Return the directory of an entry; if it does not exist, build it."""
    place = root() / f"{kind}-{name}"
    if not place.is_dir():
        with lock(root() / f"{kind}-{name}.lock"):
            if not place.is_dir():
                for left in root().glob(f".{kind}-{name}.*"):
                    shutil.rmtree(left)  # left by a killed run: we hold the lock
                temporary = root() / f".{kind}-{name}.{os.getpid()}"
                temporary.mkdir(mode=0o700)
                try:
                    build(temporary)
                    temporary.rename(place)
                except BaseException:
                    shutil.rmtree(temporary, ignore_errors=True)
                    raise
        prune()
    os.utime(place)
    return place


@contextlib.contextmanager
def used(*places: Path) -> Iterator[None]:
    """Protect entries from being pruned while they are used, and for a while after."""
    with contextlib.ExitStack() as stack:
        for place in places:
            os.utime(place)
            stack.enter_context(lock(place.with_name(place.name + ".lock"), shared=True))
        yield


def prune(kept: dict[str, int] | None = None) -> None:
    """Remove of each kind the entries whose last use is longest ago, unless they are in use."""
    for kind, number in (KEPT if kept is None else kept).items():
        places = [path for path in root().glob(f"{kind}-*") if path.is_dir()]
        places.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for place in places[number:]:
            young = time.time() - place.stat().st_mtime < YOUNG and kept is None
            lockfile = place.with_name(place.name + ".lock")
            with lock(lockfile, wait=False) as free:
                if free and not young:
                    progress.say(f"removing {place.name} from the cache")
                    shutil.rmtree(place)
                    lockfile.unlink()


def clean() -> None:
    """Remove everything that is not in use."""
    prune(dict.fromkeys(KEPT, 0))
