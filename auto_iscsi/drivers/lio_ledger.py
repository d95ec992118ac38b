"""What did each lease of the driver `lio` make, and which other lease needs it?

The ledger lies on the target's host in /var/lib/auto-iscsi-lio, and is written before each change.
So what a killed driver made is known, and two leases can share a target or a backstore: what we
made goes with the last lease that needs it. What is not in the ledger is somebody else's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from auto_iscsi.drivers import wire
from auto_iscsi.drivers.lio_settings import KINDS, Place

FOLDER = "/var/lib/auto-iscsi-lio"
_VERSION = 1
_LUNS = 255  # in mode shared: 1 to 255; rtslib knows no higher number for an initiator


class Ledger:
    """The ledger, while this process has its lock."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/leases.json"
        self.ours: set[str] = set()  #: the names of the parts that we made
        self.leases: dict[str, Place] = {}
        self.last_lun = 0
        self._read()

    def _read(self) -> None:
        try:
            with open(self.path, encoding="utf-8") as file:
                kept: dict[str, Any] = json.load(file)
            if kept["version"] != _VERSION:
                raise ValueError(f"version {kept['version']}")
            self.ours = set(kept["ours"])
            self.last_lun = int(kept["last_lun"])
            self.leases = {
                lease: Place(**{**place, "portals": tuple(place["portals"])})
                for lease, place in kept["leases"].items()
            }
        except FileNotFoundError:
            return
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            hint = "look at the target by hand, then delete the file"
            raise wire.Refused("internal", f"{self.path} is damaged: {error}; {hint}") from None

    def save(self) -> None:
        """Write the ledger in one step; it is on the disk when this returns."""
        kept = {
            "version": _VERSION,
            "ours": sorted(self.ours),
            "last_lun": self.last_lun,
            "leases": {lease: place._asdict() for lease, place in self.leases.items()},
        }
        try:
            with open(f"{self.path}.new", "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{self.path}.new", self.path)
            folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise wire.Refused("internal", f"{self.path}: {error.strerror}") from None

    def held(self, place: Place) -> tuple[str, ...]:
        """Return the kinds of a place's parts that we made, for this lease or for another."""
        return tuple(kind for kind in KINDS if place.parts[kind] in self.ours)

    def needed_by(self, lease: str) -> dict[str, str]:
        """Return the parts that other leases need, each with one of those leases."""
        return {
            part: other
            for other, place in self.leases.items()
            if other != lease
            for part in place.parts.values()
        }

    def forget(self, lease: str, kept: Collection[str]) -> None:
        """Forget a lease. What no other lease needs is not ours any more, except the kept kinds."""
        place, others = self.leases.pop(lease), self.needed_by(lease)
        for kind, part in place.parts.items():
            if kind not in kept and part not in others:
                self.ours.discard(part)

    def choose_lun(self, iqn: str, taken: Collection[int]) -> int:
        """Return the next free LUN of the shared target.

        A number is used again as late as can be: an initiator that still knows the old disk under
        it would read another snapshot.
        """
        promised = {place.lun for place in self.leases.values() if place.iqn == iqn}
        for step in range(1, _LUNS + 1):
            lun = (self.last_lun + step - 1) % _LUNS + 1
            if lun not in promised and lun not in taken:
                self.last_lun = lun
                return lun
        raise wire.Refused("exhausted", f"{iqn} has no free LUN")


class Plan(NamedTuple):
    """What the end of a lease removes, in this order, and what it keeps, with the reason."""

    remove: tuple[str, ...]
    kept: tuple[str, ...]


def plan_end(ledger: Ledger, lease: str, kinds: Collection[str], existing: Collection[str]) -> Plan:
    """Return what is removed when a lease ends. `existing`: the kinds that exist at the target."""
    place, others = ledger.leases[lease], ledger.needed_by(lease)
    remove, kept = [], []
    for kind in reversed(KINDS):
        part = place.parts[kind]
        if part not in ledger.ours or kind not in kinds or kind not in existing:
            continue
        if part in others:
            kept.append(f"{kind}:lease {others[part]} needs it")
        else:
            remove.append(kind)
    return Plan(tuple(remove), tuple(kept))


@contextlib.contextmanager
def locked(folder: str = FOLDER) -> Iterator[Ledger]:
    """Wait for the lock and read the ledger: one call at a time changes the target."""
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise wire.Refused("internal", f"{folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Ledger(folder)
    finally:
        os.close(lock)
