"""Which disks and partitions does a session have, and which one is meant?

/sys/class/iscsi_session/sessionSID/device/targetH:C:T/H:C:T:L/block/sdX/sdXN. A disk is only
ever found from its session downwards: never by a link's name, of which another target's can be
the beginning, and which udev may not have taken away yet. The link is what the entry says, so it
is computed (systemd src/udev/udev-builtin-path_id.c) and then has to lead to that very disk.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.host import Host
from auto_iscsi.light import TYPE_CHECKING, NamedTuple
from auto_iscsi.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi.settings import Settings

BY_PATH = "/dev/disk/by-path"
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


def partitions(host: Host, disk: Disk) -> dict[int, str]:
    """Return the kernel's names of a disk's partitions by number."""
    found = {}
    for name in host.names(disk.path):
        number = host.read(f"{disk.path}/{name}/partition") if name.startswith(disk.name) else None
        if number and number.isdecimal():
            found[int(number)] = name
    return found


def candidates(host: Host, sessions: Sequence[Session], settings: Settings) -> list[Device]:
    """Return the kernel's devices for the LUN and partition that are wanted, one per session.

    Raise NoPartition when a disk is there, udev is through with it, and the partition is not: the
    kernel reads the partition table before it announces the disk (block/genhd.c, device_add_disk).
    """
    found = []
    for session in sessions:
        for disk in list_all(host, session):
            if disk.unit != settings.lun:
                continue
            if not settings.partition:
                node, link, path = disk.name, disk.link, disk.path
            else:
                present = partitions(host, disk)
                if settings.partition not in present:
                    if _announced(host, disk):
                        raise _no_partition(disk, settings.partition, sorted(present))
                    continue
                node = present[settings.partition]
                link, path = f"{disk.link}-part{settings.partition}", f"{disk.path}/{node}"
            found.append(Device(node, link, host.read(f"{path}/dev") or ""))
    return found


def choose(host: Host, sessions: Sequence[Session], settings: Settings) -> Device | None:
    """Return what is to be mounted, None while it is not there yet; raise NoPartition."""
    found = candidates(host, sessions, settings)
    if settings.device == "kernel":
        return found[0] if found else None
    for device in found:
        # Two sessions through one portal share the link: it leads to either one's disk.
        node = host.link(f"{BY_PATH}/{device.link}")
        for other in found:
            if other.node == node and other.link == device.link:
                return other
    return None


def _announced(host: Host, disk: Disk) -> bool:
    """Say whether udev knows this disk, and not one that had its number before.

    That can be the same LUN before its last logout, until udev is through with the removal:
    /run/udev/queue is there as long as it has events to work on (systemd src/udev/udevd.c).
    """
    known = host.read(f"/run/udev/data/b{host.read(f'{disk.path}/dev')}") or ""
    announced = f"S:disk/by-path/{disk.link}" in known.splitlines()
    return announced and host.read("/run/udev/queue") is None


def _no_partition(disk: Disk, wanted: int, present: list[int]) -> errors.NoPartition:
    there = f"there is {', '.join(map(str, present))}" if present else "there is none at all"
    return errors.NoPartition(
        f"{disk.session.target}: no partition {wanted} on LUN {disk.unit} ({disk.name}) through "
        f"{disk.session.portal}: {there}",
        f"set partition = {present[0] if present else 'none'} in /etc/auto.iscsi.conf",
    )
