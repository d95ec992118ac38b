"""Make a device-mapper device of ours that shows a part of a target's disks, and find it again."""

from __future__ import annotations

import binascii
import time

from auto_iscsi import errors
from auto_iscsi.config.settings import Settings
from auto_iscsi.disks import our_devices, udev_db
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import (
    candidates,
    content,
    device_mapper,
    mount_type,
    mountable,
    overlay,
)

SECTOR = 512  #: bytes; the unit of device-mapper's tables
PENDING = ": a lookup does that"  #: without `act`, the end of why what is not made is left out
_STEP = 0.05  # seconds between two looks at udev's records
_LONGEST_ARGUMENT = 100_000  # bytes; the kernel takes 131,072 (MAX_ARG_STRLEN)
_LONGEST_UUID = 128  # characters (linux/dm-ioctl.h, DM_UUID_LEN)
_LONGEST_NAME = 120  # characters of a device-mapper device's name, which may have 127


class Mapping(NamedTuple):
    """A read-only device of ours."""

    name: str  #: in /dev/mapper
    table: tuple[str, ...]  #: lines of device-mapper's table
    disk: str  #: the path in sysfs of a disk that it is on
    holder_of: str  #: MAJOR:MINOR of a device that it is made of
    is_protected_later: bool = False  #: the kernel takes its table only as that of a writable one


def name(host: Host, number: str, label: str) -> str:
    """Return the name of our device that shows what `label` names on the device MAJOR:MINOR.

    Another disk can get the same number; the inode in sysfs is this one's alone.
    """
    status = host.stat(f"/sys/dev/block/{number}")
    text = f"ai-{status.st_ino if status else 0}-{label}"
    if len(text) > _LONGEST_NAME:
        text = f"{text[: _LONGEST_NAME - 9]}-{binascii.crc32(text.encode()):08x}"
    return text


def make(host: Host, target: str, mapping: Mapping, until: float) -> None:
    """Make the device if there is none yet; raise Failure.

    One that shows another place, or was left unfinished, is removed with what is made of it.
    """
    node = find(host, mapping)
    if node and _is_made(host, mapping, node):
        device_mapper.require_disk(host, target, mapping.disk)
        wait_for_udev(host, target, node, until)
        return
    for each in our_devices.list_with_holders(host, node) if node else ():
        overlay.remove(host, target, each, until)
    table = ",".join(mapping.table)
    mode = "rw" if mapping.is_protected_later else "ro"
    concise = f"{mapping.name},{uuid(mapping)},,{mode},{table}"
    if len(concise) > _LONGEST_ARGUMENT:
        raise errors.NotMountable(
            f"{target}: {mapping.name} has too many segments: {len(mapping.table)}"
        )
    why = device_mapper.create(host, until, mapping.name, "--concise", concise)
    if why and not _is_made(host, mapping, find(host, mapping)):
        raise errors.Failure(f"{target}: {mapping.name} cannot be mapped: {why}", "dmesg says why")
    try:
        device_mapper.require_disk(host, target, mapping.disk)
    except errors.NoDisk:
        overlay.remove(host, target, find(host, mapping), until)
        raise
    if mapping.is_protected_later:
        device_mapper.make_read_only(host, target, find(host, mapping))


def uuid(mapping: Mapping) -> str:
    """Return the device's UUID, which tells its table apart: nobody need ask device-mapper."""
    checksum = binascii.crc32("\n".join(mapping.table).encode())
    return f"{our_devices.UUID_PREFIX}{checksum:08x}-{mapping.name}"[:_LONGEST_UUID]


def _is_made(host: Host, mapping: Mapping, node: str) -> bool:
    """Tell whether a device (dm-N) is finished, and shows what the mapping says.

    The metadata on a disk can have changed since it was made: of a LUN that is no snapshot, say.
    """
    return (
        our_devices.is_finished(host, node)
        and our_devices.is_whole(host, node)
        and host.read(f"/sys/block/{node}/dm/uuid") == uuid(mapping)
    )


def wait_for_udev(host: Host, target: str, node: str, until: float) -> None:
    """Wait until udev knows what is on a device of ours (dm-N); raise Busy.

    Without that, the device of a lookup that was killed would seem to be empty.
    """
    while not our_devices.is_recorded(host, node):
        if time.monotonic() + _STEP >= until:
            name_ = our_devices.name(host, node)
            raise errors.Busy(f"{target}: udev has not examined {name_} yet", "udevadm settle")
        time.sleep(_STEP)


def find(host: Host, mapping: Mapping) -> str:
    """Return the device (dm-N), finished or not, "" for none."""
    for node in host.names(f"/sys/dev/block/{mapping.holder_of}/holders"):
        if our_devices.is_ours(host, node) and our_devices.name(host, node) == mapping.name:
            return node
    return ""


def filesystem(
    host: Host, what: str, offset: str, mapping: Mapping, settings: Settings
) -> mountable.Filesystem:
    """Return the filesystem, or the member, on the device; raise NotMountable.

    what: how a message names it, with the target.
    """
    node = find(host, mapping)
    if not node:
        raise errors.NotMountable(f"{what} is not mapped yet{PENDING}")
    number = host.read(f"/sys/block/{node}/dev") or ""
    device = Device(node, mapping.name, number, mapping.disk, device_mapper.FOLDER)
    size = int(host.read(f"/sys/block/{node}/size") or 0) * SECTOR
    recorded = content.from_udev(udev_db.read(host, number))
    if recorded.table and not recorded.fstype:
        raise errors.NotMountable(
            f"{what} has partitions of its own, and these are not shown",
            "needed: another host (kpartx -r -a)",
        )
    candidate = candidates.Candidate(0, device, recorded, size)
    fstype, options = mount_type.type_and_options(host, what, candidate, device, settings)
    return mountable.Filesystem(offset, device, fstype, options)
