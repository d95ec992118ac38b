"""Which of the filesystems on a session's disks are meant?

For `fstype = auto`, `partition = auto` and `all`, and `lun = all`: by what udev says is there. It
is asked only once udev is through with a disk and its partitions. A member of something bigger, an
LVM volume group for one, is named and refused; it is never put to use here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from auto_iscsi import errors
from auto_iscsi.config.settings import ALL, AUTO, Settings
from auto_iscsi.disks import scsi_commands, scsi_disks, udev_db
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mount_options, mountable

_TWINS = (6, 7)  # the Linux that mounts two btrfs with one UUID (fs/btrfs/volumes.c, temp_fsid)
_SECTOR = 512  # bytes; what sysfs counts sizes in, whatever the disk's block size

#: What is no filesystem, and what would be needed to see the files on it.
FOREIGN = {
    "LVM2_member": (
        "an LVM physical volume",
        "its volume group under another name (vgimportclone), away from this host",
    ),
    "LVM1_member": ("an LVM physical volume", "its volume group, on a host of its own"),
    "crypto_LUKS": ("LUKS encrypted", "its key (cryptsetup open --readonly)"),
    "BitLocker": ("BitLocker encrypted", "its key (cryptsetup open --type bitlk --readonly)"),
    "linux_raid_member": (
        "a member of an md RAID",
        "the other members (mdadm --assemble --readonly)",
    ),
    "zfs_member": ("a member of a ZFS pool", "its pool (zpool import -o readonly=on -N)"),
    "swap": ("swap space", "nothing: it holds no files"),
    "mpath_member": ("held by multipathd", "paths = all, or a blacklist in multipath.conf"),
}


class Place(NamedTuple):
    """A disk or a partition, and what is there."""

    part: int  #: 0: the whole disk
    device: scsi_disks.Device
    content: udev_db.Content
    size: int  #: bytes

    @property
    def holds_files(self) -> bool:
        """Say whether a filesystem is there."""
        return self.content.usage == "filesystem" and self.content.fstype not in FOREIGN

    def __str__(self) -> str:
        """Return number, size, type and label, as a list has them."""
        found = self.content
        what = found.fstype or ("partitions" if found.table else "nothing known")
        words = [f"{self.part or 'disk'}: {_size(self.size)} {what}"]
        words += [f"'{found.label}'"] if found.label else []
        words += [f"({found.purpose})"] if found.purpose else []
        return " ".join(words)


class Selection(NamedTuple):
    """What is meant on one disk."""

    places: list[Place]
    why: str


def find(host: Host, up: Sequence[Session], settings: Settings) -> mountable.Mountable | None:
    """Return what is to be mounted, None while it is not there; raise Failure."""
    units: dict[int, list[scsi_disks.Disk]] = {}
    for session in up:
        for disk in scsi_disks.list_all(host, session):
            if scsi_disks.is_selected(disk, settings):
                units.setdefault(disk.unit, []).append(disk)
    if settings.lun == ALL and not _all_there(host, up, units):
        return None
    kept = mountable.Collector(up[0].target if up else "")
    for unit, same in sorted(units.items()):
        known = next(((d, there) for d in same if (there := read_contents(host, d))), None)
        if known is None:
            return None
        below = f"/lun{unit}" if settings.lun == ALL else ""
        with kept.leave_out_failures(below):
            for place in select(*known, settings).places:
                inner = f"/p{place.part}" if settings.partition == ALL and place.part else ""
                with kept.leave_out_failures(below + inner):
                    device = _node(host, same, place, settings)
                    if device is None:
                        return None
                    part = _part(host, known[0], place, device, below + inner, settings)
                    kept.filesystems.append(part)
    return kept.result()


def read_contents(host: Host, disk: scsi_disks.Disk) -> list[Place] | None:
    """Return what is on a disk and its partitions; None: udev is not through with them."""
    if not scsi_disks.is_known_to_udev(host, disk):
        return None
    found = []
    for part, device in scsi_disks.devices(host, disk).items():
        content = udev_db.read(host, device.number)
        if content is None or device.place[len("/dev/") :] not in content.links:
            return None
        path = f"{disk.path}/{device.node}" if part else disk.path
        if device.folder != scsi_disks.BY_PATH:  # a multipath map, or a partition of one
            path = f"/sys/block/{device.node}"
        found.append(Place(part, device, content, int(host.read(f"{path}/size") or 0) * _SECTOR))
    return found


def select(disk: scsi_disks.Disk, there: Sequence[Place], settings: Settings) -> Selection:
    """Return what is meant of that which is on a disk; raise Failure when that is not clear."""
    asked = f"partition = {settings.partition or 'none'}"
    if isinstance(settings.partition, int):
        found = [place for place in there if place.part == settings.partition]
        if not found:
            numbers = [place.part for place in there if place.part]
            raise scsi_disks.no_partition(disk, settings.partition, numbers)
        return Selection(found, asked)
    if there[0].holds_files:
        return Selection([there[0]], f"{asked}: the filesystem on the whole disk")
    if settings.partition == ALL:
        found = [place for place in there if place.part and _is_there(place)]
        if found:
            return Selection(found, f"{asked}: each partition with something on it")
    with_files = [place for place in there if place.part and place.holds_files]
    with_files = _of_type(with_files, settings)
    meant = [place for place in with_files if not place.content.purpose] or with_files
    if len(meant) == 1:
        beside = [f"{p.part} is an {p.content.purpose}" for p in with_files if p not in meant]
        only = "the only filesystem" + (f"; {', '.join(beside)}" if beside else "")
        return Selection(meant, f"{asked}: {only}")
    foreign = [place for place in there if place.content.fstype in FOREIGN]
    if not meant and len(foreign) == 1:
        return Selection(foreign, f"{asked}: the only thing there")
    raise errors.Ambiguous(
        f"{_name(disk)} has {'more than one' if meant else 'no'} filesystem: {describe(there)}",
        "set partition to one of the numbers, or to all" if meant else "see auto-iscsi explain",
    )


def describe(there: Sequence[Place]) -> str:
    """Return what is on a disk, in one line."""
    return ", ".join(map(str, there[1:] or there))


def _all_there(host: Host, up: Sequence[Session], units: dict[int, list[scsi_disks.Disk]]) -> bool:
    """Say whether the kernel has found each LUN that the target has."""
    for same in units.values():
        offered = scsi_commands.luns(host, same[0].name)
        there = scsi_disks.known_luns(host, same[0].session)
        return offered is None or offered <= there
    return False


def _of_type(there: Sequence[Place], settings: Settings) -> list[Place]:
    """Return those of a type that is given; ext2, ext3 and ext4 have one driver."""
    if settings.fstype == AUTO:
        return list(there)
    exact = [place for place in there if place.content.fstype == settings.fstype]
    family = mount_options.family(settings.fstype)
    return exact or [
        place for place in there if mount_options.family(place.content.fstype) == family
    ]


def _is_there(place: Place) -> bool:
    return bool(place.content.fstype)


def _node(
    host: Host, same: Sequence[scsi_disks.Disk], place: Place, settings: Settings
) -> scsi_disks.Device | None:
    """Return the device that the entry's name for it leads to, None while there is none."""
    if settings.device == "kernel":
        return place.device
    every = [scsi_disks.devices(host, disk, place.part).get(place.part) for disk in same]
    return scsi_disks.first_linked(host, [device for device in every if device])


def _part(
    host: Host,
    disk: scsi_disks.Disk,
    place: Place,
    device: scsi_disks.Device,
    below: str,
    settings: Settings,
) -> mountable.Filesystem:
    """Return how a place is mounted; raise Failure when it cannot be."""
    found, name = place.content, f"{_name(disk)}{f' partition {place.part}' if place.part else ''}"
    if settings.fstype != AUTO:
        if not isinstance(settings.partition, int) and not _of_type([place], settings):
            raise errors.NotMountable(
                f"{name}: {found.fstype or 'nothing known'}, and fstype = {settings.fstype}",
                "set fstype = auto",
            )
        return mountable.Filesystem(below, device, settings.fstype, settings.options)
    if found.fstype in FOREIGN:
        what, needed = FOREIGN[found.fstype]
        raise errors.NotMountable(f"{name} is {what} and is left alone", f"needed: {needed}")
    if not found.fstype and found.table and not place.part:
        raise errors.NotMountable(
            f"{name} has a partition table and no filesystem of its own", "set partition = auto"
        )
    if not place.holds_files:
        what = found.fstype or "nothing that udev knows"
        raise errors.NotMountable(f"{name}: no filesystem, there is {what}", "set fstype")
    if found.devices_missing:
        raise errors.NotMountable(
            f"{name} is one of several devices of a btrfs, and the others are not there",
            "map the other LUNs too",
        )
    fstype = mount_options.driver(found.fstype)
    if not _has_driver(host, fstype):
        raise errors.NotMountable(
            f"{name}: this kernel has no {fstype}", "install a kernel that has, or set fstype"
        )
    if fstype == "btrfs" and (other := _mounted_twin(host, found.uuid, device.node)):
        raise errors.NotMountable(
            f"{name}: a btrfs with the same UUID is mounted from {other}, and Linux takes a second "
            "one from 6.7 on only",
            "wait until that one is unmounted, or boot a newer kernel",
        )
    return mountable.Filesystem(
        below, device, fstype, mount_options.fitting(fstype, settings.options)
    )


def _has_driver(host: Host, fstype: str) -> bool:
    """Say whether the kernel can mount a type, now or with a module that is there for it."""
    if fstype in (host.read("/proc/filesystems") or fstype).split():
        return True
    release = host.read("/proc/sys/kernel/osrelease")
    known = host.read(f"/lib/modules/{release}/modules.alias")
    return known is None or f"alias fs-{fstype} " in known


def _mounted_twin(host: Host, uuid: str, node: str) -> str:
    """Return the device of a mounted btrfs with this UUID that the kernel takes for the same."""
    release = re.match(r"(\d+)\.(\d+)", host.read("/proc/sys/kernel/osrelease") or "0.0")
    if release and (int(release[1]), int(release[2])) >= _TWINS:
        return ""
    names = host.names(f"/sys/fs/btrfs/{uuid}/devices") if uuid else []
    return "" if node in names else ", ".join(names)


def _name(disk: scsi_disks.Disk) -> str:
    return f"{disk.session.target}: LUN {disk.unit} ({disk.name})"


def _size(size: int) -> str:
    """Return a size in bytes as people say it."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.4g} {units[0]}"
