"""Which settings has the driver `lio`, and which names follow from them (auto-iscsi-lio(8))?

All names are made from what does not change: the volume group, the snapshot's UUID, the initiator.
So a call that comes again finds what the killed one made.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from auto_iscsi import globs
from auto_iscsi.drivers import wire
from auto_iscsi.drivers.protocol import Subject

#: What a presented snapshot consists of, in the order in which it is made.
KINDS = ("active", "backstore", "target", "lun", "acl", "map")
NAMES = ("vg", "mode", "portals", "iqn", "volumes", "initiators")

_VG = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}")
_PORTAL = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\])(?::(\d{1,5}))?")
#: rtslib wants a date and two dots in a target's name.
_IQN = re.compile(r"iqn\.\d{4}-[01]\d\.[a-z0-9][a-z0-9-]*\.[a-z0-9.:-]{1,90}")
_LONGEST_TAIL = 100  # characters of an IQN that the names of volume and snapshot may have


class Settings(NamedTuple):
    """The driver's own settings, checked."""

    vg: str
    is_shared: bool
    portals: tuple[str, ...]
    iqn: str  #: the target of mode shared; in mode own, what each target's name begins with
    volumes: tuple[str, ...]  #: patterns of volumes whose snapshots may be presented
    initiators: tuple[str, ...]  #: patterns of initiators that may have them


class Place(NamedTuple):
    """Where a snapshot is, or is to be, for one initiator."""

    uuid: str
    vg: str
    volume: str  #: the name of the snapshot's logical volume
    initiator: str
    iqn: str
    lun: int
    backstore: str
    serial: str
    portals: tuple[str, ...]
    is_shared: bool

    @property
    def device(self) -> str:
        return f"/dev/{self.vg}/{self.volume}"

    @property
    def wwid(self) -> str:
        """Return the disk's WWID, as the initiator's kernel shows it.

        LIO makes it of its company identifier and 25 digits of the serial number
        (spc_gen_naa_6h_vendor_specific in drivers/target/target_core_spc.c).
        """
        return f"naa.6001405{self.serial[:25]}"

    @property
    def parts(self) -> dict[str, str]:
        """Return each part's name by its kind. What two places have in common has one name."""
        return {
            "active": f"active {self.uuid}",
            "backstore": f"backstore {self.backstore}",
            "target": f"target {self.iqn}",
            "lun": f"lun {self.iqn} {self.lun}",
            "acl": f"acl {self.iqn} {self.initiator}",
            "map": f"map {self.iqn} {self.initiator} {self.lun}",
        }


def read(option: Callable[[str, str | None], str]) -> Settings:
    """Check the settings; `option` returns one by its name, or a default."""
    vg = option("vg", None)
    if not _VG.fullmatch(vg):
        raise wire.Refused("invalid", "setting vg is no name of a volume group")
    mode = option("mode", "own")
    if mode not in wire.MODELS:
        raise wire.Refused("invalid", f"setting mode: {mode}: it is own or shared")
    iqn = option("iqn", default_iqn(os.uname().nodename))
    if not _IQN.fullmatch(iqn):
        raise wire.Refused("invalid", f"setting iqn: {iqn}: no name as iqn.2003-01.org.example:x")
    portals = tuple(portal(each) for each in words(option("portals", None)))
    if not portals:
        raise wire.Refused("invalid", "setting portals is empty")
    volumes, initiators = words(option("volumes", "*")), words(option("initiators", "*"))
    return Settings(vg, mode == "shared", portals, iqn, volumes, initiators)


def words(text: str) -> tuple[str, ...]:
    """Take a list apart: blanks or commas stand between the words."""
    return tuple(text.replace(",", " ").split())


def portal(text: str) -> str:
    """Return ADDRESS:PORT for an IPv4 address, or an IPv6 address in brackets."""
    match = _PORTAL.fullmatch(text)
    if not match:
        raise wire.Refused("invalid", f"setting portals: {text}: no address, as 10.0.0.5:3260")
    return f"{match[1]}:{match[2] or 3260}"


def default_iqn(host: str) -> str:
    """Return the name with which our targets on a host begin."""
    name = re.sub(r"[^a-z0-9-]", "-", host.partition(".")[0].lower()).strip("-")[:63]
    return f"iqn.2003-01.org.linux-iscsi.{name or 'localhost'}:auto-iscsi"


def check_allowed(settings: Settings, subject: Subject) -> None:
    """Raise Refused where the settings do not allow the volume or the initiator."""
    if not allows(settings.volumes, subject.volume):
        raise wire.Refused("denied", f"{subject.volume}: setting volumes does not name it")
    check_initiator(settings, subject)


def check_initiator(settings: Settings, subject: Subject) -> None:
    """Raise Refused where the settings do not allow the initiator.

    A host that may come here by ssh only for itself does not end what another one uses, either: the
    leases of all are in the list.
    """
    if not allows(settings.initiators, subject.initiator):
        raise wire.Refused("denied", f"{subject.initiator}: setting initiators does not name it")


def allows(patterns: tuple[str, ...], name: str) -> bool:
    return any(globs.matches(pattern, name) for pattern in patterns)


def own_iqn(settings: Settings, subject: Subject) -> str:
    """Return the name of the target that only this snapshot has."""
    readable = re.sub(r"[^a-z0-9.:-]", "-", f"{subject.volume}-{subject.snapshot}".lower())
    return f"{settings.iqn}.{readable[:_LONGEST_TAIL]}.{_hash(settings, subject)[:8]}"


def backstore(settings: Settings, subject: Subject) -> str:
    return f"ai-{_hash(settings, subject)[:16]}"


def serial(settings: Settings, subject: Subject) -> str:
    """Return the disk's serial number: the same each time, and for each initiator."""
    return _hash(settings, subject)[16:48]


def _hash(settings: Settings, subject: Subject) -> str:
    return hashlib.sha256(f"{settings.vg}/{subject.id}".encode()).hexdigest()
