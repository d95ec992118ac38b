"""Find the disks and partitions of a session, and the one that the configuration selects.

In sysfs they are below /sys/class/iscsi_session/sessionSID/device/targetH:C:T/H:C:T:L/block, as
sdX/sdXN. A disk is only ever found from its session downwards, never by the name of a link: the
name of one target can begin with the name of another, and udev may not have removed an old link
yet. The by-path link that a map entry names is computed (systemd
src/udev/udev-builtin-path_id.c), and must then lead to that very disk. A target's name can be too
long for such a link: the entry then names the disk as the kernel does.
"""

from __future__ import annotations

from auto_iscsi import errors, keys
from auto_iscsi.config.settings import ALL
from auto_iscsi.disks import udev_db
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auto_iscsi.config.settings import Settings

BY_PATH = "/dev/disk/by-path"
BY_ID = "/dev/disk/by-id"
# A file's name has at most 255 bytes. udev first makes a link under another name, which is up to
# 18 bytes longer (systemd src/udev/udev-node.c); and a partition's link ends in -part128, say.
_LONGEST_LINK = 255 - 18 - len("-part128")
_DIRECT_ACCESS = "0"  # the peripheral device type of a disk (SPC)
_FLAT = 1  # the address method in bits 14 and 15 of a LUN: flat space addressing


class Disk(NamedTuple):
    """A SCSI disk of a session."""

    name: str  #: sdX
    lun: int  #: as the kernel counts it
    session: Session
    path: str  #: in sysfs

    @property
    def san_lun(self) -> int:
        """The LUN as the SAN counts it: without the 0x4000 of flat addressing (SAM-5, 4.7.7.3)."""
        return self.lun & 0x3FFF if self.lun >> 14 == _FLAT else self.lun

    @property
    def link(self) -> str:
        """The name of the disk's by-path link; "": udev can make none of a name that long."""
        portal = f"{self.session.portal.address}:{self.session.portal.port}"
        lun = f"{self.lun}"
        if self.lun > 255:
            lun = f"0x{self.lun & 0xFFFF:04x}{self.lun >> 16 & 0xFFFF:04x}00000000"
        link = f"ip-{portal}-iscsi-{self.session.target}-lun-{lun}"
        return link if len(link) <= _LONGEST_LINK else ""


class Extent(NamedTuple):
    """A partition that has no node of its own (volumes/hidden_partitions)."""

    part: int  #: its number
    start: int  #: 512-byte sectors from the start of the disk
    size: int  #: 512-byte sectors


class Device(NamedTuple):
    """A block device that can be mounted: a disk, a partition, or multipath's map of either."""

    node: str  #: its name in /dev: sdX, sdXN, dm-N
    link: str  #: the name of its by-path or by-id link; "": it has none, the node is its name
    number: str  #: MAJOR:MINOR
    disk: str = ""  #: the path of its disk in sysfs; "": the device is mounted, its disk is gone
    folder: str = BY_PATH  #: the directory of the link
    extent: Extent | None = None  #: the partition of `node` that is meant; None: all of `node`

    @property
    def name(self) -> str:
        """Its name for a message: of a hidden partition, the one that its node would have."""
        if self.extent is None:
            return self.node
        return f"{self.node}{'p' if self.node[-1:].isdecimal() else ''}{self.extent.part}"

    @property
    def is_map(self) -> bool:
        """Whether it is multipath's map of a disk or of a partition."""
        return self.folder == BY_ID

    @property
    def link_path(self) -> str:
        """The path of its link."""
        return f"{self.folder}/{self.link}"


def list_all(host: Host, session: Session) -> list[Disk]:
    """Return the disks of a session."""
    disks = []
    for path, lun in _units(host, session):
        if host.read(f"{path}/type") == _DIRECT_ACCESS:
            names = host.names(f"{path}/block")
            disks += [Disk(name, lun, session, f"{path}/block/{name}") for name in names]
    return disks


def kernel_luns(host: Host, session: Session) -> set[int]:
    """Return the LUNs that the kernel has found, as the SAN counts them; not only disks."""
    return {Disk("", lun, session, "").san_lun for _, lun in _units(host, session)}


def _units(host: Host, session: Session) -> Iterator[tuple[str, int]]:
    """Yield the path in sysfs of each SCSI device of a session, and its LUN."""
    for target in host.names(f"{session.path}/device"):
        if not target.startswith("target"):
            continue
        for unit in host.names(f"{session.path}/device/{target}"):
            lun = unit.rpartition(":")[2]
            if unit.count(":") == 3 and lun.isdecimal():
                yield f"{session.path}/device/{target}/{unit}", int(lun)


def list_partitions(host: Host, disk: Disk) -> dict[int, str]:
    """Return the names (sdXN) of a disk's partitions by number."""
    return partitions_below(host, disk.path)


def partitions_below(host: Host, path: str) -> dict[int, str]:
    """Return the names of the partitions of the disk at `path` in sysfs, by number."""
    names, disk = {}, path.rpartition("/")[2]
    for name in host.names(path):
        number = host.read(f"{path}/{name}/partition") if name.startswith(disk) else None
        if number and number.isdecimal():
            names[int(number)] = name
    return names


def list_devices(host: Host, disk: Disk, part: int | None = None) -> dict[int, Device]:
    """Return a disk as number 0 and its partitions by number, or only the one numbered `part`.

    Where multipathd holds the disk, these are its map and the map's partitions: nothing else can be
    mounted. A disk that udev leaves to multipathd, and that has no map yet, has none, and so has a
    disk that is not ready, or that has no link as long as udev works on it. Raise TwinVolumes
    when the map joins the disk with another volume.
    """
    if has_no_size(host, disk):
        return {}
    if host.names(f"{disk.path}/holders"):
        from auto_iscsi.disks import multipath  # a warm lookup of a disk without holders needs none

        if names := multipath.map_and_partitions(host, disk.path):
            record = udev_db.read(host, multipath.number(host, names[0]))
            is_whole = part in (None, 0) and len(names) == 1
            if is_whole and record.is_empty and why_unreadable(host, disk):
                return {}
            return {
                number: Device(
                    name,
                    multipath.link(host, name),
                    multipath.number(host, name),
                    disk.path,
                    BY_ID,
                )
                for number, name in sorted(names.items())
                if part in (None, number)
            }
    record = _udev_record(host, disk)
    if _is_multipath_path(record) or not (disk.link or is_known_to_udev(host, disk)):
        return {}
    nodes = {0: disk.name, **(list_partitions(host, disk) if part != 0 else {})}
    if part in (None, 0) and len(nodes) == 1 and record.is_empty and why_unreadable(host, disk):
        return {}
    numbered = {}
    for number, node in sorted(nodes.items()):
        if part in (None, number):
            path = f"{disk.path}/{node}" if number else disk.path
            link = f"{disk.link}-part{number}" if number and disk.link else disk.link
            numbered[number] = Device(node, link, host.read(f"{path}/dev") or "", disk.path)
    return numbered


def is_selected(disk: Disk, settings: Settings) -> bool:
    """Tell whether the setting `lun` selects a disk."""
    return settings.lun in (disk.san_lun, ALL)


def list_selected(host: Host, sessions: Sequence[Session], settings: Settings) -> list[Disk]:
    """Return the disks of sessions that the setting `lun` selects."""
    disks = [disk for session in sessions for disk in list_all(host, session)]
    return [disk for disk in disks if is_selected(disk, settings)]


def matching_devices(host: Host, sessions: Sequence[Session], settings: Settings) -> list[Device]:
    """Return the devices that the settings `lun` and `partition` can mean, in every session.

    Raise NoPartition when no disk has the partition of that number, and udev has finished with one
    that can be read: the kernel reads the partition table before it announces a disk
    (block/genhd.c, device_add_disk).
    """
    missing: errors.NoPartition | None = None
    matching: list[Device] = []
    for session in sessions:
        for disk in list_all(host, session):
            if not is_selected(disk, settings):
                continue
            part = settings.partition if isinstance(settings.partition, int) else None
            of_disk = list_devices(host, disk, part)
            if part and not of_disk and not missing and is_known_to_udev(host, disk):
                numbers = sorted(list_partitions(host, disk))
                if part in numbers:  # it came between the two looks: the next one has its device
                    continue
                missing = _hidden_partition(host, disk, part)
                if not missing and (numbers or not why_unreadable(host, disk)):
                    missing = missing_partition(disk, part, numbers)
            matching += of_disk.values()
    if missing and not matching:
        raise missing
    return matching


def find_device(host: Host, sessions: Sequence[Session], settings: Settings) -> Device | None:
    """Return the device that the settings select, None while it is missing; raise NoPartition."""
    matching = _maps_first(matching_devices(host, sessions, settings))
    if settings.device == "kernel":
        return matching[0] if matching else None
    return first_linked(host, matching)


def first_linked(host: Host, matching: Sequence[Device]) -> Device | None:
    """Return the first of several devices that one of their links leads to, None for none.

    Two sessions through one portal share a link, which leads to the disk of either session. A
    device without a link is taken as it is.
    """
    for device in _maps_first(matching):
        if not device.link:
            return device
        node = host.link(device.link_path)
        for other in matching:
            if other.node == node and other.link == device.link:
                return other
    return None


def _maps_first(matching: Sequence[Device]) -> list[Device]:
    """Sort multipath maps before disks: multipathd may have yet to add such a disk to the map."""
    return sorted(matching, key=lambda device: not device.is_map)


def has_no_size(host: Host, disk: Disk) -> bool:
    """Tell whether a disk has size 0: it was not ready when the kernel asked (READ CAPACITY).

    The kernel could not read its partitions either, and udev has a record of it all the same.
    """
    return host.read(f"{disk.path}/size") == "0"


def looks_empty(host: Host, disk: Disk) -> bool:
    """Tell whether neither the kernel nor udev found anything on a disk, or on multipath's map.

    The disk is empty, or it could not be read when they looked: they do not look again.
    """
    if list_partitions(host, disk):
        return False
    record = _udev_record(host, disk)
    if host.names(f"{disk.path}/holders"):
        from auto_iscsi.disks import multipath

        names = multipath.map_and_partitions(host, disk.path)
        if len(names) > 1:
            return False
        if names:
            record = udev_db.read(host, multipath.number(host, names[0]))
    return record.is_empty and is_known_to_udev(host, disk)


def why_unreadable(host: Host, disk: Disk) -> str:
    """Return in SCSI's words why a disk cannot be read, "" when it can, or does not say.

    A disk on which something was found is not asked: a lookup asks none that is in order. A disk
    takes five seconds to answer at most.
    """
    if not (has_no_size(host, disk) or looks_empty(host, disk)):
        return ""
    from auto_iscsi.disks import readiness

    return readiness.why_not_ready(host, disk.name) or ""


def is_unread(host: Host, disk: Disk) -> bool:
    """Tell whether a disk can be read now, and the kernel and udev know nothing of its contents.

    A disk without a size that does not say whether it can be read counts as one that can.
    """
    without_size = has_no_size(host, disk)
    if not (without_size or looks_empty(host, disk)):
        return False
    from auto_iscsi.disks import readiness

    why = readiness.why_not_ready(host, disk.name)
    return why == "" or (why is None and without_size)


def is_left_to_multipathd(host: Host, disk: Disk) -> bool:
    """Tell whether udev leaves a disk to multipathd, with or without a map of it yet."""
    return _is_multipath_path(_udev_record(host, disk))


def is_kept_back(host: Host, disk: Disk) -> bool:
    """Tell whether udev keeps a lone path back until find_multipaths_timeout is over.

    That is what find_multipaths smart means (multipath-tools, 60-multipath.rules).
    """
    until = _udev_record(host, disk).properties.get("FIND_MULTIPATHS_WAIT_UNTIL", "0")
    return until != "0"


def is_known_to_udev(host: Host, disk: Disk) -> bool:
    """Tell whether udev has finished with this disk, and not with one that had its number before.

    An earlier disk can be the same LUN before its last logout, until udev has worked on its
    removal. A by-diskseq link with the disk's sequence number (Linux 5.15, udev 251) belongs to
    this disk only. Where udev makes no such links, its queue has to be empty. What udev knows of a
    disk without a size says nothing of its contents.
    """
    if has_no_size(host, disk):
        return False
    if host.names(f"{disk.path}/holders"):
        from auto_iscsi.disks import multipath

        if multipath.map_of(host, disk.path):
            return multipath.is_settled(host, disk.path)
    record = _udev_record(host, disk)
    if _is_multipath_path(record) or not is_recorded(record, BY_PATH, disk.link):
        return False
    if any(link.startswith("disk/by-diskseq/") for link in record.links):
        return f"disk/by-diskseq/{host.read(f'{disk.path}/diskseq')}" in record.links
    return not udev_db.is_busy(host)


def is_recorded(record: udev_db.Record, folder: str, link: str) -> bool:
    """Tell whether udev has recorded a device with its link `link`; "": a device without one."""
    return f"{folder[len('/dev/') :]}/{link}" in record.links if link else bool(record.properties)


def _udev_record(host: Host, disk: Disk) -> udev_db.Record:
    return udev_db.read(host, host.read(f"{disk.path}/dev") or "")


def _is_multipath_path(record: udev_db.Record) -> bool:
    return record.properties.get("DM_MULTIPATH_DEVICE_PATH") == "1"  # 60-multipath.rules


def _hidden_partition(host: Host, disk: Disk, number: int) -> errors.NoPartition | None:
    """Return the failure for a partition that a lookup has hidden, None for another one."""
    from auto_iscsi.disks import identity  # only for a partition that is missing

    hidden = identity.hidden_partitions(host, keys.fold(disk.session.target), disk.path)
    if number not in hidden:
        return None
    return errors.NoPartition(
        f"{disk.session.target}: partition {number} on LUN {disk.san_lun} ({disk.name}) is an "
        f"{hidden[number]}, which is hidden from this host's own volume groups",
        "set fstype = auto and partition = all, which shows what is in it",
    )


def missing_partition(disk: Disk, number: int, numbers: Sequence[int]) -> errors.NoPartition:
    """Return the failure for a disk that has partitions with `numbers`, and none with `number`."""
    present = f"the disk has {', '.join(map(str, numbers)) or 'none'}"
    return errors.NoPartition(
        f"{disk.session.target}: no partition {number} on LUN {disk.san_lun} ({disk.name}) through "
        f"{disk.session.portal}: {present}",
        f"set partition = {numbers[0] if numbers else 'none'} in /etc/auto.iscsi.conf",
    )
