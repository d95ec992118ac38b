"""Make the targets of the SAN, change them and cut their portals off.

A test needs a few lines:

    disk = san.disk(parts=[san.fs("ext3", {"etc/really_important_file": "text"})])
    target = san.target("iqn.2001-05.com.equallogic:0-8a0906-x-vm-beta", luns=[disk])
    target.revoke()

The SAN is the kernel's target in the guest (guest/lio.py). guest/portal.py is a portal that refuses
logins with a given status.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import disk as disks
from .machine import Machine

PORT = 3260


class Address(NamedTuple):
    """The address of a portal."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """Parse `127.0.0.1`, `127.0.0.2:3261`, `[::1]` or `[::1]:3261`."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return Address(host, int(rest.lstrip(":") or PORT))
    host, _, port = text.partition(":")
    return Address(host, int(port or PORT))


class LiveDisk(NamedTuple):
    """A disk in the guest's SAN; `path` is its backing file there."""

    name: str
    path: str


class Target:
    """A target of the SAN."""

    def __init__(
        self, machine: Machine, iqn: str, luns: Mapping[int, LiveDisk], settings: Mapping[str, Any]
    ) -> None:
        self.machine, self.iqn, self.luns, self.settings = machine, iqn, dict(luns), settings
        self.recreate()

    def recreate(self) -> None:
        """Make the target, or make it again after `delete`."""
        numbered = {str(lun): disk.name for lun, disk in self.luns.items()}
        self.machine.call("add_target", iqn=self.iqn, luns=numbered, **self.settings)

    def delete(self) -> None:
        """Delete the target: its sessions fail, and its name is unknown."""
        self.machine.call("delete_target", iqn=self.iqn)

    def revoke(self) -> None:
        """Take the target offline: its sessions fail, and logins are answered with 03/01."""
        self.machine.call("enable", iqn=self.iqn, on=False)

    def enable(self) -> None:
        """Bring the target back after `revoke`."""
        self.machine.call("enable", iqn=self.iqn, on=True)

    def unmap(self, lun: int) -> None:
        """Remove a LUN from the target."""
        self.machine.call("unmap_lun", iqn=self.iqn, lun=lun)
        del self.luns[lun]

    def map(self, lun: int, disk: LiveDisk) -> None:
        """Present a disk as LUN `lun`."""
        self.machine.call("map_lun", iqn=self.iqn, lun=lun, disk=disk.name)
        self.luns[lun] = disk

    def initiators(self) -> list[str]:
        """Return the initiators that the target sees, one for each session."""
        return [str(name) for name in self.machine.call("initiators", iqn=self.iqn)]

    @property
    def sessions(self) -> int:
        """Return how many sessions the target sees."""
        return len(self.initiators())


class Refusing:
    """A portal that refuses every login to a target."""

    def __init__(self, san: San, where: Address) -> None:
        self.san, self.machine, self.where = san, san.machine, where
        san.refusals.add(self)

    @property
    def logins(self) -> int:
        """Return how many logins to a target it has received."""
        return int(self.machine.call("refused", address=self.where.host, port=self.where.port))

    def close(self) -> None:
        """Stop listening."""
        self.machine.call("close", address=self.where.host, port=self.where.port)
        self.san.refusals.discard(self)


class San:
    """The SAN of one guest."""

    fs = staticmethod(disks.fs)

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.numbers = itertools.count()
        self.targets: dict[str, Target] = {}
        self.cuts: set[str] = set()
        self.refusals: set[Refusing] = set()

    def disk(
        self,
        parts: Sequence[disks.Filesystem] = (),
        *,
        whole: disks.Filesystem | None = None,
        table: str = "dos",
        block_size: int = 512,
        serial: str = "",
        slack: int = 1,
        emulated: bool = False,
    ) -> LiveDisk:
        """Make a disk: partitions in a DOS or GPT table, or a filesystem on the whole of it.

        `emulated`: the disk reports 512-byte sectors on physical ones of 4096 bytes (512e).
        """
        described = (
            disks.Disk((whole,), "", block_size, serial, 0)
            if whole
            else disks.Disk(tuple(parts), table, block_size, serial, slack)
        )
        name = f"disk{next(self.numbers)}"
        with tempfile.TemporaryDirectory(prefix="bed-disk-") as scratch:
            built = Path(scratch) / name
            disks.build(described, built)
            self.machine.send(built, f"/run/san/{name}")
        if emulated:
            path = self.machine.call("add_emulated", disk=name, serial=serial)
        else:
            path = self.machine.call("add_disk", disk=name, block_size=block_size, serial=serial)
        return LiveDisk(name, str(path))

    def target(
        self,
        iqn: str,
        luns: Sequence[LiveDisk] | Mapping[int, LiveDisk] | None = None,
        *,
        portals: Sequence[str] = ("127.0.0.1",),
        chap: tuple[str, str] | None = None,
        mutual: tuple[str, str] | None = None,
        read_only: bool = False,
    ) -> Target:
        """Make a target; without `luns`, it has an ext3 filesystem with a file `marker`."""
        if luns is None:
            luns = [self.disk([self.fs("ext3", {"marker": f"{iqn}\n"})])]
        numbered = luns if isinstance(luns, Mapping) else dict(enumerate(luns))
        settings = {
            "portals": [str(address(portal)) for portal in portals],
            "read_only": read_only,
            "chap": chap,
            "mutual": mutual,
        }
        self.targets[iqn] = Target(self.machine, iqn, numbered, settings)
        return self.targets[iqn]

    def discovery_chap(self, chap: tuple[str, str], mutual: tuple[str, str] | None = None) -> None:
        """Require CHAP for discoveries too."""
        self.machine.call("discovery_chap", chap=chap, mutual=mutual)

    def sessions(self) -> dict[str, int]:
        """Return the number of sessions of each target."""
        return {iqn: target.sessions for iqn, target in self.targets.items()}

    def block(self, portal: str) -> None:
        """Make a portal a black hole: packets to and from it are dropped."""
        self._cut(portal, "drop")

    def reject(self, portal: str) -> None:
        """Answer packets to a portal with a reset."""
        self._cut(portal, "reject")

    def unblock(self, portal: str) -> None:
        """Let packets to a portal pass again."""
        self._cut(portal, None)

    def open_all(self) -> None:
        """Let packets to every portal pass again, and end the portals that refuse logins."""
        for portal in tuple(self.cuts):
            self.unblock(portal)
        for refusing in tuple(self.refusals):
            refusing.close()

    def refusing(
        self,
        portal: str,
        status_class: int | None,
        status_detail: int = 0,
        targets: Sequence[str] = (),
    ) -> Refusing:
        """Open a portal that refuses logins with a status, or never answers them (None).

        Discovery there lists the given targets. RFC 7143, 11.13.5: 2/1 authentication failed,
        2/2 forbidden, 2/3 not found, 2/4 removed, 3/1 service unavailable.
        """
        where = address(portal)
        status = None if status_class is None else status_class << 8 | status_detail
        self.machine.call(
            "refuse", address=where.host, port=where.port, status=status, targets=list(targets)
        )
        return Refusing(self, where)

    def _cut(self, portal: str, verdict: str | None) -> None:
        where = address(portal)
        self.machine.call("cut", address=where.host, port=where.port, verdict=verdict)
        if verdict:
            self.cuts.add(portal)
        else:
            self.cuts.discard(portal)
