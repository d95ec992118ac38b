"""List the snapshots that this host knows, of targets and of SANs.

Targets come from node records, sessions, and what portals offer (san/offers); their names are taken
apart. Of a SAN, the driver lists the snapshots, whether presented or not (san/listings). `read`
asks nothing over the network; `refresh` asks the portals and the drivers first.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import zoneinfo
from collections.abc import Sequence
from datetime import datetime, timezone, tzinfo
from typing import NamedTuple

import auto_iscsi
from auto_iscsi import errors, keys
from auto_iscsi.config import config_files, file_cache, patterns, san_files, schema, values
from auto_iscsi.config.settings import Settings
from auto_iscsi.iscsi import node_records, rate_limit, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.san import listings, names, offers

_ASKING = 30.0  # seconds for all portals together


class Entry(NamedTuple):
    """A snapshot."""

    volume: str
    time: datetime  #: in the time zone of its name
    target: str  #: folded; "" if a SAN has it and it is not presented
    has_session: bool
    template: str  #: the one that took the name apart
    link_format: str = values.LINK_FORMAT  #: the setting
    is_gone: bool = False  #: its portals have answered and do not offer it, and it has no session
    san: str = ""  #: whose driver lists it
    san_key: str = ""  #: the key VOLUME@SNAPSHOT, in that driver's words; "" for a target's
    is_presented: bool = True

    @property
    def key(self) -> str:
        """The key below the target root."""
        return self.san_key or self.target

    @property
    def names(self) -> tuple[str, ...]:
        """Its names: that of its target, and that at the SAN."""
        return tuple(filter(None, (self.target, self.san_key.partition("@")[2])))

    @property
    def text(self) -> str:
        """The time as people write it."""
        return self.time.strftime("%Y-%m-%d %H:%M:%S")


class Unnamed(NamedTuple):
    """A target whose name does not say which snapshot it is."""

    target: str
    why: str


class Catalogue(NamedTuple):
    """All targets that this host knows."""

    entries: tuple[Entry, ...]  #: by volume; of each, the newest first
    unnamed: tuple[Unnamed, ...]
    state: str = ""  #: see `state`; "": it has the snapshots of one volume only

    def of_volume(self, volume: str) -> list[Entry]:
        """Return the snapshots of a volume, the newest first; raise NoSnapshot if there is none."""
        entries = [entry for entry in self.entries if entry.volume == volume.lower()]
        if not entries:
            volumes = ", ".join(self.volumes)
            known = f"the volumes are {volumes}" if volumes else "no volume is known"
            raise errors.NoSnapshot(
                f"no snapshot of a volume {volume} is known; {known}",
                "run auto-iscsi list: it also lists the targets whose names fit no template",
            )
        return entries

    @property
    def volumes(self) -> list[str]:
        """The names of all volumes."""
        return list(dict.fromkeys(entry.volume for entry in self.entries))


def refresh(host: Host) -> tuple[Catalogue, list[str]]:
    """Ask portals and drivers, and return the catalogue, and why one of them did not answer.

    Raise BadConfiguration.
    """
    failures = ask(host)
    return read(host), failures


def ask(host: Host, seconds: float = _ASKING) -> list[str]:
    """Ask the portals of the configuration and the SANs; return why, for each without an answer.

    seconds: for all of them together. Raise BadConfiguration.
    """
    sections = config_files.load(host, remember=False)
    until = time.monotonic() + seconds
    return [*offers.ask(host, sections, until), *listings.ask(host, until)]


def asks_anybody(host: Host) -> bool:
    """Tell whether the configuration names a portal or a SAN. Raise BadConfiguration."""
    sections = config_files.load(host, remember=False)
    return bool(offers.places(sections) or san_files.list_names(host))


def state(host: Host) -> str:
    """Return a digest of what a catalogue is made of: as long as it is the same, so is `read`."""
    files = [
        (name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in file_cache.list_existing(host)
    ]
    known: list[object] = [auto_iscsi.__version__, files, sorted(node_records.list_targets(host))]
    known.append(sorted({session.target for session in sessions.list_all(host)}))
    folder = rate_limit.OFFERS
    with contextlib.suppress(errors.NotPermitted):
        known.append(listings.state(host))
    known.append([(name, rate_limit.last_offer(host, name)[1]) for name in host.names(folder)])
    return hashlib.sha256(repr(known).encode("utf-8", "backslashreplace")).hexdigest()


def read(host: Host, volume: str = "") -> Catalogue:
    """Return the catalogue; raise BadConfiguration when the configuration cannot be read.

    A target whose own settings are wrong, or that is not enabled, is among the unnamed ones. With
    `volume`, only targets are looked at that can be snapshots of it.
    """
    digest = "" if volume else state(host)  # before all else: what changes later is seen next time
    sections = config_files.load(host, remember=False)
    chosen = _Choice(sections)
    offered = offers.remembered(host, sections)
    connected = {keys.fold(session.target) for session in sessions.list_all(host)}
    entries, unnamed = _of_sans(host, chosen, connected, volume)
    ours = {entry.target for entry in entries}
    for target in sorted(node_records.list_targets(host) | connected | offered.targets):
        if volume not in target or target in ours:
            continue
        try:
            settings = chosen.settings(keys.parse(target).target)
        except errors.BadKey:
            continue  # no key either: nobody can visit it
        except errors.BadConfiguration as failure:
            unnamed.append(Unnamed(target, failure.reason))
            continue
        if not settings.enabled:
            continue
        answer = names.take_apart(target, settings.snapshot_name, settings.timezone)
        if answer is None:
            unnamed.append(Unnamed(target, "its name fits no template (snapshot_name)"))
        elif isinstance(answer, names.Ambiguous):
            why = f"its name fits {answer.template} in more than one way"
            unnamed.append(Unnamed(target, why))
        elif not volume or volume == answer.volume:
            local = answer.time.astimezone(zone(settings.timezone))
            is_connected = target in connected
            is_gone = not is_connected and _is_gone(host, target, offered)
            entries.append(
                Entry(
                    answer.volume,
                    local,
                    target,
                    is_connected,
                    answer.template,
                    settings.link_format,
                    is_gone,
                )
            )
    entries = _without_copies(entries)
    entries.sort(key=lambda entry: (entry.volume, -entry.time.timestamp(), entry.target))
    return Catalogue(tuple(entries), tuple(unnamed), digest)


def _of_sans(
    host: Host, chosen: _Choice, connected: set[str], volume: str
) -> tuple[list[Entry], list[Unnamed]]:
    """Return what the SANs' drivers list, of all volumes or of one."""
    entries: list[Entry] = []
    unnamed: list[Unnamed] = []
    for each in listings.remembered(host):
        if volume not in ("", each.volume.lower()):
            continue
        try:
            settings = chosen.settings(keys.fold(each.key))
        except errors.BadConfiguration as failure:
            unnamed.append(Unnamed(each.key, failure.reason))
            continue
        if not names.is_volume(each.volume.lower()):
            unnamed.append(Unnamed(each.key, f"{each.volume} cannot be the name of a directory"))
        elif each.created is None:
            unnamed.append(Unnamed(each.key, f"the SAN {each.san} does not tell when it was taken"))
        elif settings.enabled:
            moment = datetime.fromtimestamp(each.created, timezone.utc)
            entries.append(
                Entry(
                    each.volume.lower(),
                    moment.astimezone(zone(settings.timezone)),
                    each.target,
                    each.target in connected,
                    "",
                    settings.link_format,
                    san=each.san,
                    san_key=each.key,
                    is_presented=each.is_presented,
                )
            )
    return entries, unnamed


def _without_copies(entries: Sequence[Entry]) -> list[Entry]:
    """Leave out what a driver lists and what is known as a target, too: somebody else presented it.

    The SAN's name for a snapshot and the target's name tell the same volume and second. A target
    that is gone is not presented: there, the driver's entry stays and the target's is left out.
    """

    def moment(each: Entry) -> tuple[str, int]:
        return each.volume, int(each.time.timestamp())

    known = {moment(each) for each in entries if not each.san and not each.is_gone}
    listed = {moment(each) for each in entries if each.san}

    def is_copy(each: Entry) -> bool:
        if each.san:
            return not each.target and moment(each) in known
        return each.is_gone and moment(each) in listed

    return [each for each in entries if not is_copy(each)]


class _Choice:
    """The settings of targets, worked out once for all targets that the same sections match."""

    def __init__(self, sections: Sequence[config_files.Section]) -> None:
        self._sections = sections
        self._known: dict[tuple[int, ...], Settings | errors.BadConfiguration] = {}

    def settings(self, target: str) -> Settings:
        """Return the settings of a folded name; raise BadConfiguration."""
        matching = tuple(
            number
            for number, section in enumerate(self._sections)
            if patterns.matches(section.glob, target)
        )
        if matching not in self._known:
            try:
                self._known[matching] = schema.resolve(self._sections, target)
            except errors.BadConfiguration as failure:
                self._known[matching] = failure
        known = self._known[matching]
        if isinstance(known, errors.BadConfiguration):
            raise known
        return known


def _is_gone(host: Host, target: str, offered: offers.Offers) -> bool:
    """Tell whether the portals of all of a target's records have answered without naming it."""
    if target in offered.targets or not offered.answered:
        return False
    return all(
        any(record.portal.has_same_address(portal) for portal in offered.answered)
        for record in node_records.find_all(host, target)
    )


def zone(name: str) -> tzinfo | None:
    """Return a time zone by the value of the setting `timezone`; None: this host's own."""
    return None if name == names.LOCAL else zoneinfo.ZoneInfo(name)


def now(entries: Sequence[Entry]) -> datetime:
    """Return the present time in the time zone of these snapshots."""
    return datetime.fromtimestamp(time.time()).astimezone(
        entries[0].time.tzinfo if entries else None
    )
