"""Select the filesystems on a session's disks that are to be mounted.

This is for `fstype = auto`, for `partition = auto` and `all`, and for `lun = all`. It goes by what
udev recorded about the disks, once udev has finished with a disk and all of its partitions. A
member of something bigger, such as an LVM volume group, is refused by its name and never assembled.
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
from auto_iscsi.volumes.content import Content, from_udev

_BTRFS_COPIES = (6, 7)  # the Linux that mounts two btrfs of one UUID (fs/btrfs, temp_fsid)
_SECTOR = 512  # bytes; the unit of sizes in sysfs, whatever the disk's block size

#: By type: what is no filesystem, and what it would take to see the files in it.
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


class Candidate(NamedTuple):
    """A disk or partition that can be selected, and what is on it."""

    part: int  #: the partition number; 0: the whole disk
    device: scsi_disks.Device
    content: Content
    size: int  #: bytes

    @property
    def holds_files(self) -> bool:
        """Whether it has a filesystem."""
        return self.content.usage == "filesystem" and self.content.fstype not in FOREIGN

    def __str__(self) -> str:
        """Return number, size, type, label and purpose for a list."""
        content = self.content
        what = content.fstype or ("partitions" if content.table else "nothing known")
        words = [f"{self.part or 'disk'}: {_readable_size(self.size)} {what}"]
        words += [f"'{content.label}'"] if content.label else []
        words += [f"({content.purpose})"] if content.purpose else []
        return " ".join(words)


class Selection(NamedTuple):
    """What the settings select on one disk."""

    candidates: list[Candidate]
    why: str


def find(host: Host, up: Sequence[Session], settings: Settings) -> mountable.Mountable | None:
    """Return what is to be mounted through the sessions `up`, None while it is not there yet.

    Raise Failure when the selection is not clear, or nothing of it can be mounted.
    """
    luns = _selected_luns(host, up, settings)
    if settings.lun == ALL and not _are_all_found(host, luns):
        return None
    collected = mountable.Collector(up[0].target if up else "")
    for lun, disks in sorted(luns.items()):
        contents = _read_first(host, disks)
        if contents is None:
            return None
        disk, candidates = contents
        lun_offset = f"/lun{lun}" if settings.lun == ALL else ""
        with collected.leave_out_failures(lun_offset):
            for candidate in select(disk, candidates, settings).candidates:
                part_offset = (
                    f"/p{candidate.part}" if settings.partition == ALL and candidate.part else ""
                )
                offset = lun_offset + part_offset
                with collected.leave_out_failures(offset):
                    device = _linked_device(host, disks, candidate, settings)
                    if device is None:
                        return None
                    fstype, options = _type_and_options(host, disk, candidate, device, settings)
                    collected.filesystems.append(
                        mountable.Filesystem(offset, device, fstype, options)
                    )
    return collected.result()


def _selected_luns(
    host: Host, up: Sequence[Session], settings: Settings
) -> dict[int, list[scsi_disks.Disk]]:
    """Return the selected LUNs, each with its disks: one for each session."""
    luns: dict[int, list[scsi_disks.Disk]] = {}
    for session in up:
        for disk in scsi_disks.list_all(host, session):
            if scsi_disks.is_selected(disk, settings):
                luns.setdefault(disk.san_lun, []).append(disk)
    return luns


def _are_all_found(host: Host, luns: dict[int, list[scsi_disks.Disk]]) -> bool:
    """Tell whether the kernel has found every LUN of the target, by what the target reports.

    False while it has found none; True for a target that does not report its LUNs.
    """
    for disks in luns.values():
        reported = scsi_commands.luns(host, disks[0].name)
        return reported is None or reported <= scsi_disks.kernel_luns(host, disks[0].session)
    return False


def _read_first(
    host: Host, disks: Sequence[scsi_disks.Disk]
) -> tuple[scsi_disks.Disk, list[Candidate]] | None:
    """Return the first disk of a LUN that udev has finished with, and what is on it."""
    for disk in disks:
        candidates = read_contents(host, disk)
        if candidates is not None:
            return disk, candidates
    return None


def read_contents(host: Host, disk: scsi_disks.Disk) -> list[Candidate] | None:
    """Return what is on a disk and its partitions, None as long as udev works on one of them."""
    if not scsi_disks.is_known_to_udev(host, disk):
        return None
    candidates = []
    for part, device in scsi_disks.list_devices(host, disk).items():
        record = udev_db.read(host, device.number)
        if not scsi_disks.is_recorded(record, device.folder, device.link):
            return None
        path = f"{disk.path}/{device.node}" if part else disk.path
        if device.is_map:
            path = f"/sys/block/{device.node}"
        size = int(host.read(f"{path}/size") or 0) * _SECTOR
        candidates.append(Candidate(part, device, from_udev(record), size))
    return candidates


def select(disk: scsi_disks.Disk, candidates: Sequence[Candidate], settings: Settings) -> Selection:
    """Return what the settings select of the whole disk and its partitions.

    Raise NoPartition or, when there is not exactly one filesystem to select, Ambiguous.
    """
    setting = f"partition = {settings.partition or 'none'}"
    if isinstance(settings.partition, int):
        numbered = [candidate for candidate in candidates if candidate.part == settings.partition]
        if not numbered:
            numbers = [candidate.part for candidate in candidates if candidate.part]
            raise scsi_disks.missing_partition(disk, settings.partition, numbers)
        return Selection(numbered, setting)
    if candidates[0].holds_files:
        return Selection([candidates[0]], f"{setting}: the filesystem on the whole disk")
    if settings.partition == ALL:
        used = [
            candidate for candidate in candidates if candidate.part and candidate.content.fstype
        ]
        if used:
            return Selection(used, f"{setting}: each partition with something on it")
    return _select_only_one(disk, candidates, settings, setting)


def _select_only_one(
    disk: scsi_disks.Disk, candidates: Sequence[Candidate], settings: Settings, setting: str
) -> Selection:
    """Select the only filesystem in a partition, or the only thing there; raise Ambiguous."""
    filesystems = [
        candidate for candidate in candidates if candidate.part and candidate.holds_files
    ]
    filesystems = _of_type(filesystems, settings)
    preferred = [
        candidate for candidate in filesystems if not candidate.content.purpose
    ] or filesystems
    if len(preferred) == 1:
        others = [f"{p.part} ({p.content.purpose})" for p in filesystems if p not in preferred]
        why = f"{setting}: the only filesystem"
        return Selection(preferred, f"{why} besides {', '.join(others)}" if others else why)
    foreign = [candidate for candidate in candidates if candidate.content.fstype in FOREIGN]
    if not preferred and len(foreign) == 1:
        return Selection(foreign, f"{setting}: the only thing there")
    count = "more than one" if preferred else "no"
    raise errors.Ambiguous(
        f"{_name(disk)} has {count} filesystem: {list_in_one_line(candidates)}",
        "set partition to one of the numbers, or to all"
        if preferred
        else f"run auto-iscsi explain {disk.session.target}",
    )


def list_in_one_line(candidates: Sequence[Candidate]) -> str:
    """Return what is on a disk in one line: its partitions, or else the disk itself."""
    return ", ".join(map(str, candidates[1:] or candidates))


def _of_type(candidates: Sequence[Candidate], settings: Settings) -> list[Candidate]:
    """Return the candidates with the type of the setting `fstype`, or else one of its family."""
    if settings.fstype == AUTO:
        return list(candidates)
    family = mount_options.family(settings.fstype)
    exact = [candidate for candidate in candidates if candidate.content.fstype == settings.fstype]
    return exact or [
        candidate
        for candidate in candidates
        if mount_options.family(candidate.content.fstype) == family
    ]


def _linked_device(
    host: Host, disks: Sequence[scsi_disks.Disk], candidate: Candidate, settings: Settings
) -> scsi_disks.Device | None:
    """Return the device that the link in the map entry leads to, None while there is no link."""
    if settings.device == "kernel":
        return candidate.device
    same = [
        scsi_disks.list_devices(host, disk, candidate.part).get(candidate.part) for disk in disks
    ]
    return scsi_disks.first_linked(host, [device for device in same if device])


def _type_and_options(
    host: Host,
    disk: scsi_disks.Disk,
    candidate: Candidate,
    device: scsi_disks.Device,
    settings: Settings,
) -> tuple[str, tuple[str, ...]]:
    """Return the type and options with which a candidate is mounted; raise NotMountable."""
    content, name = candidate.content, _name(disk)
    if candidate.part:
        name += f" partition {candidate.part}"
    if settings.fstype != AUTO:
        if not isinstance(settings.partition, int) and not _of_type([candidate], settings):
            raise errors.NotMountable(
                f"{name} has {content.fstype or 'no known filesystem'}, and not "
                f"fstype = {settings.fstype}",
                "set fstype = auto",
            )
        return settings.fstype, settings.options
    _refuse_without_filesystem(name, candidate)
    fstype = mount_options.driver(content.fstype)
    if not _has_driver(host, fstype):
        raise errors.NotMountable(
            f"{name}: this kernel has no {fstype}",
            "install a kernel that has it, or set fstype to another type",
        )
    if fstype == "btrfs" and (other := _mounted_copy(host, content.uuid, device.node)):
        raise errors.NotMountable(
            f"{name}: a btrfs with the same UUID is mounted from {other}, and Linux before 6.7 "
            "cannot mount a second one",
            "wait until that one is unmounted, or boot a newer kernel",
        )
    return fstype, mount_options.for_type(fstype, settings.options)


def _refuse_without_filesystem(name: str, candidate: Candidate) -> None:
    """Raise NotMountable for a candidate that has no filesystem, or only a part of one."""
    content = candidate.content
    if content.fstype in FOREIGN:
        what, needed = FOREIGN[content.fstype]
        raise errors.NotMountable(f"{name} is {what} and is left alone", f"needed: {needed}")
    if not content.fstype and content.table and not candidate.part:
        raise errors.NotMountable(
            f"{name} has a partition table and no filesystem of its own", "set partition = auto"
        )
    if not candidate.holds_files:
        what = content.fstype or "nothing that udev knows"
        raise errors.NotMountable(f"{name} has no filesystem but {what}", "set fstype to its type")
    if content.devices_missing:
        raise errors.NotMountable(
            f"{name} is one of several devices of a btrfs, and the others are missing",
            "map the other LUNs to this host too",
        )


def _has_driver(host: Host, fstype: str) -> bool:
    """Tell whether the kernel can mount a type, itself or with a module that is installed."""
    if fstype in (host.read("/proc/filesystems") or fstype).split():
        return True
    release = host.read("/proc/sys/kernel/osrelease")
    aliases = host.read(f"/lib/modules/{release}/modules.alias")
    return aliases is None or f"alias fs-{fstype} " in aliases


def _mounted_copy(host: Host, uuid: str, node: str) -> str:
    """Return the devices of another mounted btrfs of this UUID, "" where that is no obstacle."""
    release = re.match(r"(\d+)\.(\d+)", host.read("/proc/sys/kernel/osrelease") or "0.0")
    if release and (int(release[1]), int(release[2])) >= _BTRFS_COPIES:
        return ""
    nodes = host.names(f"/sys/fs/btrfs/{uuid}/devices") if uuid else []
    return "" if node in nodes else ", ".join(nodes)


def _name(disk: scsi_disks.Disk) -> str:
    """Return target, LUN and node of a disk for a message."""
    return f"{disk.session.target}: LUN {disk.san_lun} ({disk.name})"


def _readable_size(size: int) -> str:
    """Return a size in bytes with the unit that people use."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.4g} {units[0]}"
