"""List the snapshots that this host knows: from open-iscsi's node records, and from its sessions.

Nothing is asked over the network.
"""

from __future__ import annotations

import time
import zoneinfo
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import NamedTuple

from auto_iscsi import errors, keys
from auto_iscsi.config import config_files, schema
from auto_iscsi.iscsi import node_records, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.san import names


class Entry(NamedTuple):
    """A snapshot."""

    volume: str
    time: datetime  #: in the time zone of its name
    target: str  #: folded
    has_session: bool
    template: str  #: the one that took the name apart

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

    def of_volume(self, volume: str) -> list[Entry]:
        """Return the snapshots of a volume, the newest first; raise NoSnapshot if there is none."""
        entries = [entry for entry in self.entries if entry.volume == volume.lower()]
        if not entries:
            volumes = ", ".join(self.volumes) or "none"
            raise errors.NoSnapshot(
                f"no volume {volume} has a snapshot; the volumes are {volumes}",
                "run auto-iscsi list: it also lists the targets whose names fit no template",
            )
        return entries

    @property
    def volumes(self) -> list[str]:
        """The names of all volumes."""
        return list(dict.fromkeys(entry.volume for entry in self.entries))


def read(host: Host) -> Catalogue:
    """Return the catalogue; raise BadConfiguration when the configuration cannot be read.

    A target whose own settings are wrong, or that is not enabled, is among the unnamed ones.
    """
    sections = config_files.load(host, remember=False)
    connected = {keys.fold(session.target) for session in sessions.list_all(host)}
    entries: list[Entry] = []
    unnamed: list[Unnamed] = []
    for target in sorted(_known(host) | connected):
        try:
            settings = schema.resolve(sections, keys.parse(target).target)
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
        else:
            local = answer.time.astimezone(zone(settings.timezone))
            is_connected = target in connected
            entries.append(Entry(answer.volume, local, target, is_connected, answer.template))
    entries.sort(key=lambda entry: (entry.volume, -entry.time.timestamp(), entry.target))
    return Catalogue(tuple(entries), tuple(unnamed))


def zone(name: str) -> tzinfo | None:
    """Return a time zone by the value of the setting `timezone`; None: this host's own."""
    return None if name == names.LOCAL else zoneinfo.ZoneInfo(name)


def now(entries: Sequence[Entry]) -> datetime:
    """Return the present time in the time zone of these snapshots."""
    return datetime.fromtimestamp(time.time()).astimezone(
        entries[0].time.tzinfo if entries else None
    )


def _known(host: Host) -> set[str]:
    """Return the targets, folded, that open-iscsi has a node record of."""
    return {keys.fold(name) for folder in node_records.FOLDERS for name in host.names(folder)}
