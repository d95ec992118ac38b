"""Where are images and saved machines kept, and which of them may go?

Below ${BED_CACHE}, else ${XDG_CACHE_HOME:-~/.cache}/auto-iscsi: a directory for each thing, named
by its kind and by a hash of everything that determines it. It is built beside its place, under a
lock, and renamed into it when it is whole; who uses it holds that lock shared.
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
KEPT = {"image": 3, "autopkgtest": 2, "booted": 5, "installed": 4}
#: What was used in the last quarter of an hour stays in any case: a run may be between two tests.
YOUNG = 900.0


def root() -> Path:
    """Return the cache's directory, made if need be."""
    given = os.environ.get("BED_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(given) if given else Path(home) / "auto-iscsi"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def key(*parts: str | bytes) -> str:
    """Return a short name for everything that determines a thing."""
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
    """Hold a file lock; what is yielded says whether it was to be had."""
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
    """Return the directory of a thing, after building it in an empty one if it is not there."""
    place = root() / f"{kind}-{name}"
    if not place.is_dir():
        with lock(root() / f"{kind}-{name}.lock"):
            if not place.is_dir():
                for left in root().glob(f".{kind}-{name}.*"):
                    shutil.rmtree(left)  # of a run that was killed: nobody else holds the lock
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
    """Keep things from being pruned while they are used, and for a while after."""
    with contextlib.ExitStack() as stack:
        for place in places:
            os.utime(place)
            stack.enter_context(lock(place.with_name(place.name + ".lock"), shared=True))
        yield


def prune(kept: dict[str, int] | None = None) -> None:
    """Remove what was not used for longest, of each kind, and is not in use now."""
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
