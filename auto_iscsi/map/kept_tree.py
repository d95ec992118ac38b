"""Keep what a lookup worked out of a system's filesystems, for the next lookups of the key.

To find it out again, each filesystem would have to be mounted and looked into. The file
/run/auto-iscsi/trees/TARGET has a line for each selected disk, filesystem and note. It is used as
long as the same disks are there, its devices are there under the same numbers and links, and the
settings that it came from are the same. In any doubt it counts as missing.
"""

from __future__ import annotations

import binascii
import os

import auto_iscsi
from auto_iscsi import errors
from auto_iscsi.disks import identity, multipath, our_devices, scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, suppress
from auto_iscsi.map.request import TREES
from auto_iscsi.volumes.mountable import Filesystem, Mountable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi.config.settings import Settings
    from auto_iscsi.iscsi.sessions import Session
    from auto_iscsi.machine.host import Host
    from auto_iscsi.machine.mounts import Mount
    from auto_iscsi.map.request import Request

_MAPPED = "/dev/mapper"  # the folder of the links of our devices


class _Kept(NamedTuple):
    """The content of a file."""

    disks: frozenset[str]  #: identity.disk_name() of each disk
    filesystems: tuple[Filesystem, ...]
    notes: tuple[str, ...]

    @property
    def content(self) -> Mountable:
        """What the key shows."""
        return Mountable(self.filesystems, self.notes, is_final=True)


def keep(request: Request, tree: Mountable) -> None:
    """Keep a tree, if possible. The caller holds the target."""
    host = request.host
    up = [each for each in sessions.find_all(host, request.target) if each.up]
    disks = [
        *scsi_disks.list_selected(host, up, request.settings),
        *(d for _, d in _disks_of_others(request)),
    ]
    names = [identity.disk_name(host, disk.path) for disk in disks]
    lines: list[tuple[str, ...]] = [("disk", name) for name in names]
    for offset, device, fstype, options, volume, is_guessed in tree.filesystems:
        guessed = "guessed" if is_guessed else ""
        lines.append(("mount", offset, *device[:5], fstype, ",".join(options), volume, guessed))
    lines += [("note", " ".join(note.split())) for note in tree.notes]
    body = "".join("\t".join(line) + "\n" for line in lines)
    with suppress(OSError, errors.Failure):
        claims.write_file(host, f"trees/{request.target}", f"{_head(request, body)}\n{body}")


def find(request: Request, up: Sequence[Session]) -> Mountable | None:
    """Return the tree that an earlier lookup found, if all of it is still so, else None.

    Raise TwinVolumes when a multipath map joins a disk with another volume.
    """
    kept = _read(request)
    if kept is None:
        return None
    host, settings = request.host, request.settings
    disks = scsi_disks.list_selected(host, up, request.settings)
    if not kept.disks.issuperset(identity.disk_name(host, disk.path) for disk in disks):
        return None
    paths = {disk.path for disk in disks}
    if not all(each.device.disk in paths for each in kept.filesystems):
        return None
    if settings.writes_nothing and any(host.read(f"{path}/ro") != "1" for path in paths):
        return None
    # The caller asks only the disks of `filesystems` who they are, and a volume group has others.
    others = paths.difference(each.device.disk for each in kept.filesystems)
    if not all(identity.examine(host, request.target, path).is_same for path in others):
        return None
    with_disks = _disks_of_others(request)
    if {target for target, _ in with_disks} != {other.target for other in request.others}:
        return None
    for target, disk in with_disks:
        if identity.disk_name(host, disk.path) not in kept.disks:
            return None
        if not identity.examine(host, target, disk.path).is_same:
            return None
    for path in (*paths, *(disk.path for _, disk in with_disks)):
        multipath.map_and_partitions(host, path)  # raises TwinVolumes
    return kept.content if all(_is_there(host, f.device) for f in kept.filesystems) else None


def find_mounted(request: Request, point: str, mounted: Sequence[Mount]) -> Mountable | None:
    """Return the tree that an earlier lookup found, if its root is mounted (at `point`, or at all).

    Its session can be down or gone.
    """
    kept = _read(request)
    if kept is None:
        return None
    root = kept.filesystems[0].device
    nodes = (f"/dev/{root.node}", root.link_path)  # a btrfs has a number of its own
    for mount in mounted:
        is_root = mount.number == root.number or mount.source in nodes
        if is_root and (not point or mount.point == point):
            return kept.content
    return None


def forget_gone(host: Host, claimed: Sequence[str]) -> None:
    """Delete the files of targets that have no claim, once none of their devices is left."""
    for name in host.names(TREES):
        if name in claimed or name.lstrip(".") in claimed:
            continue
        kept = _parse((host.read(f"{TREES}/{name}") or "").partition("\n")[2])
        if kept is None or not any(_is_there(host, f.device) for f in kept.filesystems):
            with suppress(FileNotFoundError):
                os.unlink(host.path(f"{TREES}/{name}"))


def _disks_of_others(request: Request) -> list[tuple[str, scsi_disks.Disk]]:
    """Return the selected disks of the targets that the setting `with` names, each with these."""
    return [
        (other.target, disk)
        for other in request.others
        for session in sessions.find_all(request.host, other.target)
        if session.up
        for disk in scsi_disks.list_selected(request.host, [session], other.settings)
    ]


def _head(request: Request, body: str) -> str:
    """Return the first line: our version, the settings that matter, and a checksum of the rest."""
    s: Settings = request.settings
    of_disk = (s.partition, s.lun, s.device, s.paths, s.luks_key_file)
    others = tuple(other.target for other in request.others)
    chosen = (s.options, s.fstype, s.journal_rule, *of_disk, *others)
    text = f"{chosen!r}\n{body}".encode("utf-8", "surrogateescape")
    return f"tree {auto_iscsi.__version__} {binascii.crc32(text):08x}"


def _read(request: Request) -> _Kept | None:
    """Return the content of the target's file, None where it is missing, damaged or of others."""
    try:
        data = request.host.read_bytes(f"{TREES}/{request.target}")
    except errors.Failure:
        return None
    head, _, body = (data or b"").decode("utf-8", "surrogateescape").partition("\n")
    return _parse(body) if head == _head(request, body) else None


def _parse(body: str) -> _Kept | None:
    """Return what the lines say, None unless there is a filesystem."""
    disks, filesystems, notes = [], [], []
    for line in body.split("\n"):
        word, *fields = line.split("\t")
        if word == "disk" and len(fields) == 1:
            disks.append(fields[0])
        elif word == "note" and len(fields) == 1:
            notes.append(fields[0])
        elif word == "mount" and len(fields) == 10:
            offset, node, link, number, disk, folder, fstype, options, volume, guessed = fields
            device = scsi_disks.Device(node, link, number, disk, folder)
            filesystems.append(
                Filesystem(offset, device, fstype, tuple(options.split(",")), volume, bool(guessed))
            )
    return _Kept(frozenset(disks), tuple(filesystems), tuple(notes)) if filesystems else None


def _is_there(host: Host, device: scsi_disks.Device) -> bool:
    """Tell whether a device is still what it was, under its number and its link."""
    if host.read(f"/sys/class/block/{device.node}/dev") != device.number:
        return False
    if device.folder == _MAPPED:  # read-only: complete
        name = our_devices.name(host, device.node)
        is_complete = our_devices.is_finished(host, device.node)
        return name == device.link and is_complete and our_devices.is_ours(host, device.node)
    return not device.link or host.link(device.link_path) == device.node
