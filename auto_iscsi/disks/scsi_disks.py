"""Which disks and partitions does a session have, and which one is meant?

/sys/class/iscsi_session/sessionSID/device/targetH:C:T/H:C:T:L/block/sdX/sdXN. A disk is only
ever found from its session downwards: never by a link's name, of which another target's can be
the beginning, and which udev may not have taken away yet. The link is what the entry says, so it
is computed (systemd src/udev/udev-builtin-path_id.c) and then has to lead to that very disk.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.config.settings import ALL
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi.config.settings import Settings

BY_PATH = "/dev/disk/by-path"
_LEFT = "E:DM_MULTIPATH_DEVICE_PATH=1"  # in udev's database (60-multipath.rules)
_DIRECT_ACCESS = "0"  # SPC: the peripheral device type of a disk


class Disk(NamedTuple):
    """A SCSI disk of a session."""

    name: str  #: sdX
    lun: int  #: as the kernel counts it
    session: Session
    path: str  #: in sysfs

    @property
    def unit(self) -> int:
        """The LUN as the SAN counts it (SAM-5, 4.7.7.3: the flat space has 0x4000 added)."""
        return self.lun & 0x3FFF if self.lun >> 14 == 1 else self.lun

    @property
    def link(self) -> str:
        """The name of its by-path link."""
        place = f"{self.session.portal.address}:{self.session.portal.port}"
        lun = f"{self.lun}"
        if self.lun > 255:
            lun = f"0x{self.lun & 0xFFFF:04x}{self.lun >> 16 & 0xFFFF:04x}00000000"
        return f"ip-{place}-iscsi-{self.session.target}-lun-{lun}"


class Device(NamedTuple):
    """What is to be mounted: a disk or a partition."""

    node: str  #: the kernel's name: sdX, sdXN
    link: str  #: the by-path link's name; "" when there is none
    number: str  #: MAJOR:MINOR
    disk: str = ""  #: the disk's place in sysfs; "": of a mount whose disk is gone
    folder: str = BY_PATH  #: where the link is

    @property
    def place(self) -> str:
        """The link, whole."""
        return f"{self.folder}/{self.link}"


def list_all(host: Host, session: Session) -> list[Disk]:
    """Return the session's disks."""
    found = []
    for target in host.names(f"{session.path}/device"):
        if not target.startswith("target"):
            continue
        for unit in host.names(f"{session.path}/device/{target}"):
            path = f"{session.path}/device/{target}/{unit}"
            number = unit.rpartition(":")[2]
            if unit.count(":") == 3 and host.read(f"{path}/type") == _DIRECT_ACCESS:
                names = host.names(f"{path}/block")
                found += [Disk(n, int(number), session, f"{path}/block/{n}") for n in names]
    return found


def known_luns(host: Host, session: Session) -> set[int]:
    """Return the LUNs that the kernel has found, as the SAN counts them; not only disks."""
    found = set()
    for target in host.names(f"{session.path}/device"):
        for unit in host.names(f"{session.path}/device/{target}") if target[:6] == "target" else ():
            number = unit.rpartition(":")[2]
            if unit.count(":") == 3 and number.isdecimal():
                found.add(Disk("", int(number), session, "").unit)
    return found


def partitions(host: Host, disk: Disk) -> dict[int, str]:
    """Return the kernel's names of a disk's partitions by number."""
    return partitions_below(host, disk.path)


def partitions_below(host: Host, path: str) -> dict[int, str]:
    """Return the kernel's names of the partitions of the disk at `path` in sysfs, by number."""
    found, disk = {}, path.rpartition("/")[2]
    for name in host.names(path):
        number = host.read(f"{path}/{name}/partition") if name.startswith(disk) else None
        if number and number.isdecimal():
            found[int(number)] = name
    return found


def devices(host: Host, disk: Disk, part: int | None = None) -> dict[int, Device]:
    """Return a disk, as 0, and its partitions, by number; or only one of them.

    Where multipathd holds the disk, its map and the map's partitions: only they can be mounted.
    """
    if host.names(f"{disk.path}/holders"):
        from auto_iscsi.disks import multipath  # only where somebody holds it

        if held := multipath.map_and_partitions(host, disk.path):
            return {
                number: Device(
                    node,
                    multipath.link(host, node),
                    multipath.number(host, node),
                    disk.path,
                    multipath.BY_ID,
                )
                for number, node in sorted(held.items())
                if part in (None, number)
            }
    if is_left_to_multipathd(host, disk):
        return {}
    nodes = {0: disk.name, **(partitions(host, disk) if part != 0 else {})}
    found = {}
    for number, node in sorted(nodes.items()):
        if part in (None, number):
            path = f"{disk.path}/{node}" if number else disk.path
            link = f"{disk.link}-part{number}" if number else disk.link
            found[number] = Device(node, link, host.read(f"{path}/dev") or "", disk.path)
    return found


def is_selected(disk: Disk, settings: Settings) -> bool:
    """Say whether the configuration means this disk."""
    return settings.lun in (disk.unit, ALL)


def candidates(host: Host, sessions: Sequence[Session], settings: Settings) -> list[Device]:
    """Return the kernel's devices for the LUN and partition that are wanted, one per session.

    All that could be meant, where that is not a number. Raise NoPartition when a disk is there,
    udev is through with it, and the partition is not: the kernel reads the partition table before
    it announces the disk (block/genhd.c, device_add_disk).
    """
    found: list[Device] = []
    for session in sessions:
        for disk in list_all(host, session):
            if not is_selected(disk, settings):
                continue
            part = settings.partition if isinstance(settings.partition, int) else None
            present = devices(host, disk, part)
            if part is not None and not present and is_known_to_udev(host, disk):
                raise no_partition(disk, part, sorted(partitions(host, disk)))
            found += present.values()
    return found


def choose(host: Host, sessions: Sequence[Session], settings: Settings) -> Device | None:
    """Return what is to be mounted, None while it is not there yet; raise NoPartition."""
    found = _maps_first(candidates(host, sessions, settings))
    if settings.device == "kernel":
        return found[0] if found else None
    return first_linked(host, found)


def first_linked(host: Host, found: Sequence[Device]) -> Device | None:
    """Return the first device that its by-path link leads to."""
    for device in _maps_first(found):
        # Two sessions through one portal share the link: it leads to either one's disk.
        node = host.link(device.place)
        for other in found:
            if other.node == node and other.link == device.link:
                return other
    return None


def is_left_to_multipathd(host: Host, disk: Disk) -> bool:
    """Say whether udev leaves a disk to multipathd, whether that has a map of it by now or not."""
    return _LEFT in _udev(host, disk).splitlines()


def _udev(host: Host, disk: Disk) -> str:
    """Return what udev knows of a disk."""
    return host.read(f"/run/udev/data/b{host.read(f'{disk.path}/dev')}") or ""


def _maps_first(found: Sequence[Device]) -> list[Device]:
    """Return devices with a path that multipathd has yet to add to its map behind the map."""
    return sorted(found, key=lambda device: device.folder == BY_PATH)


def is_known_to_udev(host: Host, disk: Disk) -> bool:
    """Say whether udev knows this disk, and not one that had its number before.

    That can be the same LUN before its last logout, until udev is through with the removal. A link
    with the disk's sequence number (Linux 5.15, udev 251) is this one's only. Where there is none:
    /run/udev/queue is there as long as udev has events to work on (systemd src/udev/udevd.c).
    """
    if host.names(f"{disk.path}/holders"):
        from auto_iscsi.disks import multipath

        if multipath.map_of(host, disk.path):
            return multipath.is_settled(host, disk.path)
    known = _udev(host, disk)
    if _LEFT in known.splitlines():
        return False
    links = [line[len("S:disk/") :] for line in known.splitlines() if line.startswith("S:disk/")]
    if f"by-path/{disk.link}" not in links:
        return False
    if any(link.startswith("by-diskseq/") for link in links):
        return f"by-diskseq/{host.read(f'{disk.path}/diskseq')}" in links
    return host.read("/run/udev/queue") is None


def no_partition(disk: Disk, wanted: int, present: list[int]) -> errors.NoPartition:
    """Return the failure for a partition that is not there."""
    there = f"there is {', '.join(map(str, present))}" if present else "there is none at all"
    return errors.NoPartition(
        f"{disk.session.target}: no partition {wanted} on LUN {disk.unit} ({disk.name}) through "
        f"{disk.session.portal}: {there}",
        f"set partition = {present[0] if present else 'none'} in /etc/auto.iscsi.conf",
    )
