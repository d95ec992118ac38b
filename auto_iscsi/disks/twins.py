"""Find twins: disks of different volumes that have the same identity (WWID).

The kernel makes the WWID of VPD page 0x83 (`wwid` in sysfs, drivers/scsi/scsi_lib.c,
scsi_vpd_lun_id). Where a disk has no such page, udev makes one of page 0x80, the serial number. A
target without serial numbers gives all its volumes the same one: of LIO's, without vpd_unit_serial,
only the vendor's name is left. multipathd joins disks that have one WWID, and nobody can tell from
a disk's answers that another volume was mapped to its LUN.

The same LUN of the same target, seen through several sessions, is one volume with several paths.
Sysfs has the pages as the kernel read them: no disk is asked here.
"""

from __future__ import annotations

from auto_iscsi import keys
from auto_iscsi.disks import identity, multipath, scsi_disks
from auto_iscsi.iscsi import sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Sequence

_JOINED = "joined/"  # names such a line in the file of a target's disks


class Twins(NamedTuple):
    """Disks of several volumes that have one WWID, or that are in one multipath map."""

    wwid: str
    disks: tuple[scsi_disks.Disk, ...]


def find_all(host: Host) -> list[Twins]:
    """Return the twins among the disks of all iSCSI sessions of the host."""
    by_wwid: dict[str, list[scsi_disks.Disk]] = {}
    for session in sessions.list_all(host):
        for disk in scsi_disks.list_all(host, session):
            if wwid := read_wwid(host, disk):
                by_wwid.setdefault(wwid, []).append(disk)
    groups = []
    for wwid, disks in by_wwid.items():
        if len({_volume(disk) for disk in disks}) > 1:
            groups.append(Twins(wwid, tuple(disks)))
    return groups


def read_wwid(host: Host, disk: scsi_disks.Disk) -> str:
    """Return the WWID of a disk, "" when it has none: multipathd joins no such disk."""
    device = identity.scsi_device(disk.path)
    if wwid := host.read(f"{device}/wwid"):
        return wwid
    serial = host.read_bytes(f"{device}/vpd_pg80")
    if serial is None:
        return ""
    names = [host.read(f"{device}/{name}") or "" for name in ("vendor", "model")]
    text = serial[4:].decode("ascii", "replace").strip("\0 ") or "no serial number"
    return " ".join([*names, text])


def others(groups: Sequence[Twins], disk: scsi_disks.Disk) -> list[scsi_disks.Disk]:
    """Return the disks of other volumes that have the WWID of a disk."""
    return [
        other
        for group in groups
        if disk in group.disks
        for other in group.disks
        if _volume(other) != _volume(disk)
    ]


def describe(host: Host, groups: Sequence[Twins], disk: scsi_disks.Disk) -> str:
    """Return in words which other volumes are taken for a disk's, "" when there are none."""
    joined = multipath.joined_with(host, disk.path)
    names = [name(other) for other in others(groups, disk)] or ([joined] if joined else [])
    if not names:
        return ""
    if names[3:]:
        names = [*names[:2], f"{len(names) - 2} more"]
    map_name = multipath.map_of(host, disk.path)
    in_map = f"; multipath map {map_name} joins them" if joined else ""
    return f"{disk.name} has the same WWID as {', '.join(names)}{in_map}"


def describe_all(
    host: Host, groups: Sequence[Twins], session: sessions.Session | None
) -> tuple[str, ...]:
    """Return describe() of each disk of a session that has twins."""
    disks = scsi_disks.list_all(host, session) if session else []
    return tuple(text for disk in disks if (text := describe(host, groups, disk)))


def name(disk: scsi_disks.Disk) -> str:
    """Return a disk's name for a message, with its LUN and target."""
    return f"{disk.name} (LUN {disk.san_lun} of {keys.fold(disk.session.target)})"


def remember(host: Host, target: str, disks: Sequence[scsi_disks.Disk]) -> None:
    """Keep the WWIDs of disks that multipathd joined with other volumes. The caller holds `target`.

    They are kept as long as the target's claim.
    """
    wwids = {read_wwid(host, disk).encode().hex() for disk in disks} - {""}
    lines = {f"{_JOINED}{wwid}": identity.Remembered(wwid) for wwid in wwids}
    identity.write(host, target, {**identity.read(host, target), **lines})


def find_remembered(host: Host, target: str) -> scsi_disks.Disk | None:
    """Return a disk of another target with which multipathd would join one of `target` again."""
    remembered = identity.read(host, target).items()
    wwids = {disk.identity for name, disk in remembered if name.startswith(_JOINED)}
    for session in sessions.list_all(host) if wwids else ():
        if keys.fold(session.target) != target:
            for disk in scsi_disks.list_all(host, session):
                if read_wwid(host, disk).encode().hex() in wwids:
                    return disk
    return None


def _volume(disk: scsi_disks.Disk) -> tuple[str, int]:
    return keys.fold(disk.session.target), disk.lun
