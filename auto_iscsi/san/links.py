"""Write what stands below /snapshots: a list of the volumes, and for each a directory of links.

volumes.map is a file map of automount's (autofs(5)), in /var/lib/auto-iscsi, so that a boot keeps
the list. Its first line includes the map program: automount asks that at each visit. The lines
below it are what `ls /snapshots` shows.

A volume's directory is below /run/auto-iscsi/snapshots, where only root gets to; automount binds it
to /snapshots/VOLUME. It has a symbolic link for each snapshot, named by its time. Programs such as
find, du and tar follow no symbolic links, so they log in to nothing. A directory is changed in
place, link by link: whoever stands in it sees what is new.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timezone

from auto_iscsi import errors
from auto_iscsi.iscsi import claims
from auto_iscsi.machine import master_map, spawn, state_files
from auto_iscsi.machine.host import Host
from auto_iscsi.san.catalogue import Catalogue, Entry

FOLDER = f"{state_files.FOLDER}/snapshots"
LATEST = "latest"
_STATE = f"{FOLDER}/.state"  # that of the catalogue of which everything was made (catalogue.state)
_LOCK = "lock-snapshots"
_LOCKING = 5.0  # seconds
_ENDING = 3.0  # seconds in which automount ends a lookup after its program, and counts one on
_PROGRAM = "+program:/usr/libexec/auto-iscsi/auto.snapshots"
_UTC = "@GMT-"  # how a link_format begins whose times are in UTC, as Samba reads them


def names(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return the snapshots of a volume by the names of their links, the newest first.

    Of several with the same name, the second oldest gets `_2`.
    """
    named: dict[str, Entry] = {}
    numbers: dict[str, int] = {}  # the last one by stem: a portal can offer thousands of one second
    for entry in reversed(entries):
        moment = entry.time
        if entry.link_format.startswith(_UTC):
            moment = moment.astimezone(timezone.utc)
        stem = name = moment.strftime(entry.link_format)
        while name in named:
            numbers[stem] = numbers.get(stem, 1) + 1
            name = f"{stem}_{numbers[stem]}"
        named[name] = entry
    return dict(reversed(list(named.items())))


def update(host: Host, known: Catalogue) -> frozenset[str]:
    """Bring the list of volumes and their directories up to date; return the volumes.

    automount reads the list again if it has changed. For a second or so after that it mounts by the
    list, without asking the program: so each volume that is listed has its directory. A volume
    without a snapshot has none. Raise Busy, NotPermitted, Failure.
    """
    with _locked(host):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host.path(_STATE))
        by_volume: dict[str, list[Entry]] = {}
        for entry in known.entries:
            if not entry.is_gone:
                by_volume.setdefault(entry.volume, []).append(entry)
        listed_before = (name for name in host.names(FOLDER) if name[:1] != ".")
        for volume in {*listed_before, *by_volume}:
            _write_folder(host, volume, by_volume.get(volume, []))
        old = host.read(master_map.VOLUMES) or ""
        program = next((line for line in old.split("\n") if line[:1] == "+"), _PROGRAM)
        lines = [f"{volume} -fstype=bind,ro :{FOLDER}/{volume}" for volume in sorted(by_volume)]
        text = "".join(f"{line}\n" for line in (program, *lines))
        is_new = text.strip() != old
        if is_new:
            below, _, name = master_map.VOLUMES.rpartition("/")
            state_files.write(host, name, text.encode("ascii"), is_locked=True, below=below)
        state_files.write(host, "snapshots/.state", known.state.encode("ascii"), is_locked=True)
    if is_new:
        _tell_automount(host)
    return frozenset(by_volume)


def tell_again(host: Host) -> None:
    """Have automount read the list once more when the lookup that runs now has failed.

    It goes on with the list as it was when the lookup began, and makes the directory anew of a
    volume that has just been taken off the list (autofs modules/lookup_file.c, lookup_one, and
    modules/mount_bind.c). It removes what is older than its reading of the list, in whole seconds
    (daemon/lookup.c, lookup_prune_one_cache). So a process of our own waits, with nothing open for
    which automount would wait.
    """

    def tell() -> None:
        time.sleep(_ENDING)
        _tell_automount(host)

    spawn.fork(tell, out=-1)


def is_current(host: Host, volume: str, state: str) -> bool:
    """Tell whether a volume's directory is what a catalogue of this state makes of it."""
    return host.read(_STATE) == state and os.path.isdir(host.path(f"{FOLDER}/{volume}"))


def listed(host: Host) -> list[str]:
    """Return the volumes that `ls /snapshots` shows."""
    lines = (host.read(master_map.VOLUMES) or "").splitlines()
    return [line.split()[0] for line in lines if line[:1] not in ("", "+", "#")]


@contextlib.contextmanager
def _locked(host: Host) -> Iterator[None]:
    handle = claims.lock(host, _LOCK, time.monotonic() + _LOCKING)
    if handle is None:
        raise errors.Busy("the list of snapshots is being written by another process", "try again")
    try:
        yield
    finally:
        claims.unlock(host, _LOCK, handle)


def _write_folder(host: Host, volume: str, entries: Sequence[Entry]) -> None:
    """Give a volume's directory these links, one after the other; the new ones come first."""
    root = master_map.target_root(host)
    named = names(entries)
    links = {name: f"{root}/{entry.key}" for name, entry in named.items()}
    times = {name: entry.time.timestamp() for name, entry in named.items()}
    if named:
        newest = next(iter(named))
        links[LATEST], times[LATEST] = newest, times[newest]
    state_files.make_folder(host.path(FOLDER))
    with state_files.expect_refusals(host.path(f"{FOLDER}/{volume}")):
        _change_folder(host, volume, links, times)


def _change_folder(
    host: Host, volume: str, links: Mapping[str, str], times: Mapping[str, float]
) -> None:
    """Make, change or remove a directory; `links`: where each leads, the new ones first."""
    above = host.path(FOLDER)
    folder = f"{above}/{volume}"
    if not os.path.isdir(folder):
        if not links:
            return
        os.mkdir(folder)
    os.chmod(folder, 0o755)  # readable by everybody once it is bound, whatever our umask is
    existing = {name: os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
    draft = f"{above}/.link"
    for name, leads in links.items():
        if existing.get(name) == leads:
            continue
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)  # of a killed run
        os.symlink(leads, draft)
        os.utime(draft, (times[name], times[name]), follow_symlinks=False)
        os.rename(draft, f"{folder}/{name}")
    for name in existing.keys() - links.keys():
        os.unlink(f"{folder}/{name}")
    if not links:
        os.rmdir(folder)


def _tell_automount(host: Host) -> None:
    """Have automount read the list of volumes again (automount(8), SIGHUP)."""
    for mount in master_map.list_autofs_mounts(host).values():
        if mount.map == master_map.VOLUMES and host.read(f"/proc/{mount.pid}/comm") == "automount":
            with contextlib.suppress(OSError):
                os.kill(mount.pid, signal.SIGHUP)
