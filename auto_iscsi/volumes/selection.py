"""Select the filesystems on a session's disks that are to be mounted.

This is for `fstype = auto`, for `partition = auto` and `all`, and for `lun = all`. It goes by what
udev recorded about the disks, once udev has finished with a disk and all of its partitions. A
member of a ZFS pool is refused by its name. A member of an md array is selected like a filesystem;
so are an LVM physical volume if `partition` is all or VG/LV, and LUKS if there is a key.
volumes/stack replaces these by what is on them.
"""

from __future__ import annotations

from auto_iscsi import errors, keys
from auto_iscsi.config.settings import ALL, AUTO, SYSTEM, Settings
from auto_iscsi.disks import identity, scsi_commands, scsi_disks, udev_db
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, suppress
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mount_type, mountable
from auto_iscsi.volumes.candidates import Candidate as Candidate
from auto_iscsi.volumes.candidates import of_type
from auto_iscsi.volumes.content import (
    FOREIGN,
    SIGNATURES,
    Content,
    from_udev,
    of_disk,
    of_partition,
)
from auto_iscsi.volumes.mountable import MD_MEMBER

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECTOR = 512  # bytes; the unit of sizes in sysfs, whatever the disk's block size

#: What the partitions of an isohybrid image hold: the image's own files again.
_HYBRID = ("iso9660", "hfs", "hfsplus")
_CHOOSE = "set partition to one of the numbers, or to all"


class Selection(NamedTuple):
    """What the settings select on one disk."""

    candidates: list[Candidate]
    why: str
    note: str = ""  #: what it leaves out, for the log


def find(host: Host, up: Sequence[Session], settings: Settings) -> mountable.Mountable | None:
    """Return what is to be mounted through the sessions `up`, None while it is not there yet.

    Raise Failure when the selection is not clear, or nothing of it can be mounted.
    """
    if settings.partition == SYSTEM:
        parts = _find(host, up, settings._replace(partition=ALL))
        return parts and parts._replace(is_maybe_system=True)
    if settings.partition != AUTO or settings.fstype != AUTO or settings.lun == ALL:
        return _find(host, up, settings)
    otherwise: mountable.Mountable | errors.Failure | None
    try:
        otherwise = _find(host, up, settings)
        if otherwise is None or not otherwise.notes:  # notes name what is left alone
            return otherwise
    except (errors.Ambiguous, errors.NotMountable) as failure:
        otherwise = failure
    with suppress(errors.Failure):
        if parts := _find(host, up, settings._replace(partition=ALL)):
            return parts._replace(is_maybe_system=True, otherwise=otherwise)
    if isinstance(otherwise, errors.Failure):
        raise otherwise
    return otherwise


def _find(host: Host, up: Sequence[Session], settings: Settings) -> mountable.Mountable | None:
    """Return what a value of `partition` selects, None while it is not there yet; raise Failure."""
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
    return candidates + _hidden(host, disk, devices)


def _hidden(
    host: Host, disk: scsi_disks.Disk, devices: dict[int, scsi_disks.Device]
) -> list[Candidate]:
    """Return the partitions that a lookup has hidden from the host's own LVM."""
    hidden = identity.hidden_partitions(host, keys.fold(disk.session.target), disk.path)
    if hidden.keys() <= devices.keys():
        return []
    from auto_iscsi.volumes import hidden_partitions

    return [
        Candidate(extent.part, device, Content(kind, "raid"), extent.size * _SECTOR)
        for device, kind in hidden_partitions.list_all(host, disk, devices).items()
        if (extent := device.extent)
    ]


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
    if "/" in settings.partition:  # a logical volume: VG/LV
        members = [
            each
            for each in candidates
            if mount_type.is_shown_as_member(each.content.fstype, settings)
        ]
        if members:
            return Selection(members, f"{setting}: a logical volume there")
        raise _ambiguous(
            disk,
            "no LVM physical volume",
            candidates,
            "set partition to a number, none, auto or all",
        )
    whole, parts = candidates[0], candidates[1:]
    if _is_beside_partitions(whole, parts):
        what = f"{whole.content.fstype or SIGNATURES} on the whole disk, and partitions"
        hint = "set partition to none for the whole disk, or to one of the numbers"
        raise _ambiguous(disk, what, candidates, hint)
    if whole.holds_files:
        return Selection([whole], f"{setting}: the filesystem on the whole disk")
    if settings.partition in (ALL, SYSTEM):
        used = [part for part in parts if part.content.has_signature]
        if used:
            return Selection(used, f"{setting}: each partition with something on it")
    return _select_only_one(disk, candidates, settings, setting)


def _is_beside_partitions(whole: Candidate, parts: Sequence[Candidate]) -> bool:
    """Tell whether a disk has partitions, and something on the whole of it as well.

    One of the two is left over from an earlier use of the disk, and nothing on it tells which. This
    is not so for an isohybrid image: its partitions have its own files again, and what boots it.
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
    filesystems = of_type(filesystems, settings)
    unknown = [candidate for candidate in parts or candidates if candidate.is_unknown]
    if settings.fstype != AUTO and not filesystems and len(unknown) == 1:
        why = f"{setting}: nothing else can have fstype = {settings.fstype}"
        return Selection(unknown, why, _left_alone(parts))
    preferred = [part for part in filesystems if not part.content.purpose]
    members = [part for part in parts if part.content.fstype == MD_MEMBER]
    preferred = preferred or (members if len(members) == 1 else filesystems)
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
        hint = mount_type.set_fstype_hint(candidates[0])
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


def list_contents(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return what to list of a disk: its partitions, and the whole disk if something is on it."""
    whole, parts = candidates[0], candidates[1:]
    return list(candidates if whole.content.has_signature or not parts else parts)


def _linked_device(
    host: Host, disks: Sequence[scsi_disks.Disk], candidate: Candidate, settings: Settings
) -> scsi_disks.Device | None:
    """Return the device that the link in the map entry leads to, None while there is no link."""
    if settings.device == "kernel":
        return candidate.device
    extent = candidate.device.extent  # then its link is that of the whole disk
    part = 0 if extent else candidate.part
    same = [scsi_disks.list_devices(host, disk, part).get(part) for disk in disks]
    linked = scsi_disks.first_linked(host, [device for device in same if device])
    return linked and linked._replace(extent=extent)


def _type_and_options(
    host: Host,
    disk: scsi_disks.Disk,
    candidate: Candidate,
    device: scsi_disks.Device,
    settings: Settings,
) -> tuple[str, tuple[str, ...]]:
    """Return the type and options with which a candidate is mounted; raise NotMountable."""
    name = _name(disk) + (f" partition {candidate.part}" if candidate.part else "")
    return mount_type.type_and_options(host, name, candidate, device, settings)


def _name(disk: scsi_disks.Disk) -> str:
    """Return target, LUN and node of a disk for a message."""
    return f"{disk.session.target}: LUN {disk.san_lun} ({disk.name})"
