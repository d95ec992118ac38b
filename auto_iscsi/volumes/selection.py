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
from auto_iscsi.volumes.content import (
    FOREIGN,
    SIGNATURES,
    Content,
    from_udev,
    of_disk,
    of_partition,
)

_BTRFS_COPIES = (6, 7)  # the Linux that mounts two btrfs of one UUID (fs/btrfs, temp_fsid)
_SECTOR = 512  # bytes; the unit of sizes in sysfs, whatever the disk's block size

#: What the partitions of an isohybrid image hold: the image's own files again.
_HYBRID = ("iso9660", "hfs", "hfsplus")
_CHOOSE = "set partition to one of the numbers, or to all"


class Candidate(NamedTuple):
    """A disk or partition that can be selected, and what is on it."""

    part: int  #: the partition number; 0: the whole disk
    device: scsi_disks.Device
    content: Content
    size: int  #: bytes

    @property
    def holds_files(self) -> bool:
        """Whether it has a filesystem."""
        return self.content.holds_files

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of what is on it; it can have a filesystem all the same."""
        return not (self.content.has_signature or self.content.table or self.content.purpose)

    def __str__(self) -> str:
        """Return number, size, type, label and purpose for a list."""
        content = self.content
        what = content.fstype or ("partitions" if content.table else "nothing known")
        what = SIGNATURES if content.is_ambivalent else what
        words = [f"{self.part or 'disk'}: {_readable_size(self.size)} {what}"]
        words += [f"'{content.label}'"] if content.label else []
        words += [f"({content.purpose})"] if content.purpose else []
        return " ".join(words)


class Selection(NamedTuple):
    """What the settings select on one disk."""

    candidates: list[Candidate]
    why: str
    note: str = ""  #: what it leaves out, for the log


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
            selected = select(disk, candidates, settings)
            for candidate in selected.candidates:
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
            if selected.note:
                where = f"{lun_offset[1:]}: " if lun_offset else ""
                collected.notes.append(f"{where}{selected.note}")
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
    """Return what is on a disk and its partitions.

    None as long as udev works on one of them, or the disk is not ready.
    """
    devices = scsi_disks.list_devices(host, disk) if scsi_disks.is_known_to_udev(host, disk) else {}
    if not devices:
        return None
    candidates: list[Candidate] = []
    for part, device in devices.items():
        record = udev_db.read(host, device.number)
        if not scsi_disks.is_recorded(record, device.folder, device.link):
            return None
        path = f"{disk.path}/{device.node}" if part else disk.path
        if device.is_map:  # of multipath, or a partition of one
            path, content = f"/sys/block/{device.node}", from_udev(record)
        elif part:
            content = of_partition(record)
        else:
            content = of_disk(record, len(devices) > 1)
        size = int(host.read(f"{path}/size") or 0) * _SECTOR
        candidates.append(Candidate(part, device, content, size))
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
    whole, parts = candidates[0], candidates[1:]
    if _is_beside_partitions(whole, parts):
        what = f"{whole.content.fstype or SIGNATURES} on the whole disk, and partitions"
        hint = "set partition to none for the whole disk, or to one of the numbers"
        raise _ambiguous(disk, what, candidates, hint)
    if whole.holds_files:
        return Selection([whole], f"{setting}: the filesystem on the whole disk")
    if settings.partition == ALL:
        used = [part for part in parts if part.content.has_signature]
        if used:
            return Selection(used, f"{setting}: each partition with something on it")
    return _select_only_one(disk, candidates, settings, setting)


def _is_beside_partitions(whole: Candidate, parts: Sequence[Candidate]) -> bool:
    """Tell whether a disk has partitions, and something on the whole of it as well.

    One of the two is left over from an earlier use of the disk, and nothing on it tells which. An
    isohybrid image is none of these: its partitions have its own files again, and what boots it.
    """
    if whole.content.fstype != "iso9660":
        return bool(parts) and whole.content.has_signature
    return not all(
        part.is_unknown or part.content.purpose or part.content.fstype in _HYBRID for part in parts
    )


def _select_only_one(
    disk: scsi_disks.Disk, candidates: Sequence[Candidate], settings: Settings, setting: str
) -> Selection:
    """Select the only filesystem in a partition, or the only thing there; raise Ambiguous."""
    parts = candidates[1:]
    filesystems = [part for part in parts if part.holds_files or part.content.is_ambivalent]
    filesystems = _of_type(filesystems, settings)
    unknown = [candidate for candidate in parts or candidates if candidate.is_unknown]
    if settings.fstype != AUTO and not filesystems and len(unknown) == 1:
        why = f"{setting}: nothing else can have fstype = {settings.fstype}"
        return Selection(unknown, why, _left_alone(parts))
    preferred = [part for part in filesystems if not part.content.purpose] or filesystems
    if len(preferred) == 1:
        others = [f"{p.part} ({p.content.purpose})" for p in filesystems if p not in preferred]
        why = f"{setting}: the only filesystem"
        why = f"{why} besides {', '.join(others)}" if others else why
        return Selection(preferred, why, _left_alone(parts))
    foreign = [candidate for candidate in candidates if candidate.content.fstype in FOREIGN]
    if not preferred and len(foreign) == 1:
        return Selection(foreign, f"{setting}: the only thing there")
    if preferred:
        raise _ambiguous(disk, "more than one filesystem", candidates, _CHOOSE)
    hint = f"run auto-iscsi explain {disk.session.target}"
    if not parts and unknown:
        hint = _set_fstype(candidates[0])
    raise _ambiguous(disk, "no filesystem", candidates, hint)


def _left_alone(parts: Sequence[Candidate]) -> str:
    """Return a note on the partitions that are part of something larger, "" for none."""
    notes = [
        f"partition {part.part} is {part.content.larger} and is left alone"
        for part in parts
        if part.content.larger
    ]
    return f"{'; '.join(notes)}: /boot may be all that you see" if notes else ""


def _ambiguous(
    disk: scsi_disks.Disk, what: str, candidates: Sequence[Candidate], hint: str
) -> errors.Ambiguous:
    """Return the failure for a disk on which the settings do not select one filesystem."""
    shown = list_contents(candidates)
    unclear = [f"/dev/{each.device.node}" for each in shown if each.content.is_ambivalent]
    if unclear:
        hint = f"wipefs -n {' '.join(unclear)} shows them; set fstype and partition"
    return errors.Ambiguous(f"{_name(disk)} has {what}: {', '.join(map(str, shown))}", hint)


def _set_fstype(candidate: Candidate) -> str:
    """Return the hint for a place of which udev says nothing, perhaps because it is ambivalent."""
    return f"if wipefs -n /dev/{candidate.device.node} shows {SIGNATURES}, set fstype and partition"


def list_contents(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return what to list of a disk: its partitions, and the whole disk if something is on it."""
    whole, parts = candidates[0], candidates[1:]
    return list(candidates if whole.content.has_signature or not parts else parts)


def _of_type(candidates: Sequence[Candidate], settings: Settings) -> list[Candidate]:
    """Return the candidates that the setting `fstype` can mean.

    These are the ones of exactly that type or, if there are none, of its family, and all whose type
    is not clear.
    """
    if settings.fstype == AUTO:
        return list(candidates)
    family = mount_options.family(settings.fstype)
    exact = [candidate for candidate in candidates if candidate.content.fstype == settings.fstype]
    fitting = exact or [
        candidate
        for candidate in candidates
        if mount_options.family(candidate.content.fstype) == family
    ]
    return [each for each in candidates if each in fitting or each.content.is_ambivalent]


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
        is_chosen = isinstance(settings.partition, int) or candidate.is_unknown
        if not is_chosen and not _of_type([candidate], settings):
            raise errors.NotMountable(
                f"{name} has {content.fstype}, and not fstype = {settings.fstype}",
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
    if content.is_ambivalent:
        raise errors.Ambiguous(
            f"{name} has {SIGNATURES}",
            f"wipefs -n /dev/{candidate.device.node} shows them; set fstype and partition",
        )
    if not content.fstype and content.table and not candidate.part:
        raise errors.NotMountable(
            f"{name} has a partition table and no filesystem of its own", "set partition = auto"
        )
    if not candidate.holds_files:
        what = content.fstype or "nothing that udev knows"
        is_known = content.fstype or candidate.part
        hint = "set fstype to its type" if is_known else _set_fstype(candidate)
        raise errors.NotMountable(f"{name} has no filesystem but {what}", hint)
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
