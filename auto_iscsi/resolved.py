"""Which settings did a target have the last time, if no file has changed since?

What a lookup found out and used is kept below /run/auto-iscsi/settings, one file for each target
that was there (compiled). The next one reads that instead of all sections, however many, and
without the table of settings and its parsers.
"""

from __future__ import annotations

from auto_iscsi import compiled, config, portals
from auto_iscsi.host import Host
from auto_iscsi.light import TYPE_CHECKING, NamedTuple
from auto_iscsi.wanted import Settings

if TYPE_CHECKING:
    from typing import Any


class Resolved(NamedTuple):
    """What holds for a target, and of which state of the files."""

    settings: Settings
    seen: compiled.Files
    kept: bool  #: from an earlier lookup


def find(host: Host, target: str) -> Resolved:
    """Return what holds for `target`, a folded name; raise BadConfiguration."""
    seen = config.trusted(host)
    values = compiled.read(host, seen, _name(target))
    if values and tuple(values) == Settings._fields:  # or another build of this version kept it
        return Resolved(restored(values), seen, True)
    from auto_iscsi import settings  # with all parsers: only where nothing was kept

    return Resolved(settings.resolve(config.load(host), target), seen, False)


def keep(host: Host, target: str, found: Resolved) -> None:
    """Keep what held for a target that was there, if the files are still the same."""
    if not found.kept and compiled.same(config.present(host), found.seen):
        compiled.write(host, found.seen, plain(found.settings), _name(target))


def plain(settings: Settings) -> dict[str, Any]:
    """Return settings as marshal can write them."""
    values = settings._asdict()
    values["portals"] = tuple(map(tuple, settings.portals))
    return values


def restored(values: dict[str, Any]) -> Settings:
    """Return what plain() was given."""
    found = Settings(**values)
    return found._replace(portals=tuple(portals.Portal(*each) for each in found.portals))


def _name(target: str) -> str:
    return f"settings/{target}"
