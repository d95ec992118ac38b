"""How is an LVM thin snapshot on a Linux target presented, and how is that undone?

Mode own: each snapshot is LUN 0 of a target of its own. Mode shared: all are LUNs of one target.
The driver works on its own host, as root, or on another one by ssh (auto-iscsi-lio(8)). On a
target's host, one call at a time looks and changes. The ledger says what we made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from auto_iscsi.drivers import (
    lio_far,
    lio_ledger,
    lio_settings,
    lio_volumes,
    protocol,
    wire,
)
from auto_iscsi.drivers.lio_ledger import Ledger
from auto_iscsi.drivers.lio_settings import KINDS, Place, Settings
from auto_iscsi.drivers.lio_target import MISSING, PARTIAL, WHOLE, Lio
from auto_iscsi.drivers.lio_volumes import Volume
from auto_iscsi.drivers.protocol import Call, Subject

_RETRY = 5  # seconds


class Here(NamedTuple):
    """What a call works with on the target's host."""

    call: Call
    settings: Settings
    lio: Lio
    volumes: list[Volume]
    ledger: Ledger

    def state(self, place: Place, kind: str) -> str:
        """Tell whether a part is missing, partial or whole."""
        if kind != "active":
            return self.lio.state(place, kind)
        volume = self.volume(place)
        return WHOLE if volume and volume.is_active else MISSING

    def volume(self, place: Place) -> Volume | None:
        return next((each for each in self.volumes if each.uuid == place.uuid), None)


def list_snapshots(call: Call, settings: Settings) -> protocol.Listing:
    """Return the snapshots of a volume, or of all."""
    lio = Lio()
    with lio_ledger.locked() as ledger:
        volumes = lio_volumes.list_all(call, settings.vg)
        presented = lio.presented()
        owners = {place.uuid: lease for lease, place in ledger.leases.items()}
    snapshots, complete = [], True
    for volume in volumes:
        if not volume.is_snapshot or call.volume not in (None, volume.origin):
            continue
        if not lio_settings.allows(settings.volumes, volume.origin):
            continue
        if not wire.matches(wire.NAME, volume.name) or not wire.matches(wire.NAME, volume.origin):
            complete = False
            continue
        device = os.path.realpath(f"/dev/{settings.vg}/{volume.name}")
        initiators = presented.get(device, set())
        is_presented = bool(initiators) and call.initiator in (None, *initiators)
        if call.presented_only and not is_presented:
            continue
        is_used = volume.is_open and not initiators and volume.uuid not in owners
        snapshots.append(
            protocol.Snapshot(
                volume.origin,
                volume.name,
                volume.uuid,
                created=volume.created,
                created_from="none" if volume.created is None else "array",
                size=volume.size,
                state="busy" if is_used else "ready",
                presented=is_presented,
                owner=owners.get(volume.uuid),
            )
        )
    return protocol.Listing(snapshots, complete)


def present(call: Call, settings: Settings, subject: Subject) -> protocol.Presented:
    """Let an initiator in to a snapshot, read-only."""
    lio_settings.check_allowed(settings, subject)
    lio = Lio()
    with lio_ledger.locked() as ledger:
        volumes = lio_volumes.list_all(call, settings.vg)
        here = Here(call, settings, lio, volumes, ledger)
        volume = lio_volumes.find(volumes, subject)
        if volume.is_active:
            lio_volumes.check_device(settings.vg, volume)
        known = ledger.leases.get(subject.lease)
        if known and (known.uuid, known.initiator) != (subject.id, subject.initiator):
            raise wire.Refused("conflict", f"lease {subject.lease} is for {known.volume}")
        place = known or choose(here, subject)
        states = {kind: here.state(place, kind) for kind in KINDS}
        check_states(ledger, place, states, volume)
        missing = [kind for kind in KINDS if states[kind] != WHOLE]
        if missing or not known:
            ledger.ours |= {place.parts[kind] for kind in missing}
            ledger.leases[subject.lease] = place
            ledger.save()
            _make(here, subject, place, volume, missing)
        target = protocol.Target(place.iqn, place.portals, place.lun, place.is_shared, place.wwid)
        return protocol.Presented(
            target, not missing, ledger.held(place), handle={"lun": str(place.lun)}
        )


def choose(here: Here, subject: Subject) -> Place:
    """Return the place that a snapshot gets, from what is there already."""
    settings = here.settings
    iqn = settings.iqn if settings.is_shared else lio_settings.own_iqn(settings, subject)
    name, serial = (
        lio_settings.backstore(settings, subject),
        lio_settings.serial(settings, subject),
    )
    device = f"/dev/{settings.vg}/{subject.snapshot}"
    if backstore := here.lio.find_backstore(device, name):
        name, serial = backstore
    lun = 0
    if settings.is_shared:
        luns = here.lio.luns(settings.iqn)
        numbers = [number for number, store in luns.items() if store == name]
        lun = numbers[0] if numbers else here.ledger.choose_lun(settings.iqn, luns)
    return Place(
        subject.id,
        settings.vg,
        subject.snapshot,
        subject.initiator,
        iqn,
        lun,
        name,
        serial,
        settings.portals,
        settings.is_shared,
    )


def check_states(ledger: Ledger, place: Place, states: Mapping[str, str], volume: Volume) -> None:
    """Raise Refused where something of somebody else's is in the way."""
    for kind, state in states.items():
        part = place.parts[kind]
        if state == PARTIAL and part not in ledger.ours:
            raise wire.Refused("conflict", f"{part} is somebody else's, and not as it has to be")
    if volume.is_open and states["backstore"] == MISSING:
        what = f"{place.device} is in use on the target's host"
        raise wire.Refused("busy", what, _RETRY)


def _make(here: Here, subject: Subject, place: Place, volume: Volume, missing: list[str]) -> None:
    """Make what is missing; if the target refuses, undo what this lease alone needs."""
    here.call.about_to_change()
    try:
        for kind in missing:
            if kind == "active":
                lio_volumes.activate(here.call, here.settings.vg, volume)
            else:
                here.lio.make(place, kind)
    except wire.Refused as error:
        if error.code != "timeout":
            volumes = lio_volumes.list_all(here.call, here.settings.vg)
            if not _end(here._replace(volumes=volumes), subject.lease, KINDS).kept:
                here.call.nothing_changed()
        raise


def revoke(call: Call, settings: Settings, subject: Subject) -> protocol.Revoked:
    """Undo what we made for a lease and no other lease needs; refuse under a session."""
    lio_settings.check_initiator(settings, subject)
    lio = Lio()
    with lio_ledger.locked() as ledger:
        place = ledger.leases.get(subject.lease)
        if place is None:
            return protocol.Revoked(already=True)
        if (place.uuid, place.initiator) != (subject.id, subject.initiator):
            raise wire.Refused("conflict", f"lease {subject.lease} is for {place.volume}")
        volumes = lio_volumes.list_all(call, place.vg)
        kinds = KINDS if subject.made is None else subject.made
        return _end(Here(call, settings, lio, volumes, ledger), subject.lease, kinds)


def _end(here: Here, lease: str, kinds: tuple[str, ...]) -> protocol.Revoked:
    """End a lease: remove its parts in reverse, then forget it."""
    place, ledger = here.ledger.leases[lease], here.ledger
    existing = [kind for kind in KINDS if here.state(place, kind) != MISSING]
    plan = lio_ledger.plan_end(ledger, lease, kinds, existing)
    if why := here.lio.why_busy(place, plan.remove):
        raise wire.Refused("busy", why, _RETRY)
    kept = {}
    if plan.remove:
        here.call.about_to_change()
    for kind in plan.remove:
        if kind == "active":
            volume = here.volume(place)
            reason = lio_volumes.deactivate(here.call, place.vg, volume) if volume else ""
        else:
            reason = here.lio.remove(place, kind)
        if reason:
            kept[kind] = wire.one_line(f"{kind}:{reason}")
    ledger.forget(lease, kept)
    ledger.save()
    return protocol.Revoked(not plan.remove and not plan.kept, (*plan.kept, *kept.values()))


def driver(arguments: Sequence[str] | None = None) -> protocol.Driver:
    """Return the driver; `arguments`: those of the forced command, on the far side of ssh."""

    def is_far(call: Call) -> bool:
        return arguments is None and lio_far.is_far(call)

    def option(call: Call) -> Callable[[str, str | None], str]:
        return call.option if arguments is None else lio_far.option(arguments)

    def model(call: Call) -> str:
        return lio_far.info(call) if is_far(call) else option(call)("mode", "own")

    def listing(call: Call) -> protocol.Listing:
        if is_far(call):
            return lio_far.list_snapshots(call)
        return list_snapshots(call, lio_settings.read(option(call)))

    def presented(call: Call, subject: Subject) -> protocol.Presented:
        call.nothing_changed()
        if is_far(call):
            return lio_far.present(call, subject)
        return present(call, lio_settings.read(option(call)), subject)

    def revoked(call: Call, subject: Subject) -> protocol.Revoked:
        call.nothing_changed()
        if is_far(call):
            return lio_far.revoke(call, subject)
        return revoke(call, lio_settings.read(option(call)), subject)

    return protocol.Driver("lio", model, listing, presented, revoked)


def main() -> int:
    """Answer one request; on the far side of ssh, `far` and the settings are the arguments."""
    if sys.argv[1:2] == ["far"]:
        return protocol.serve(driver(sys.argv[2:]), [lio_far.read_verb(sys.stdin.fileno())])
    return protocol.serve(driver())
