"""Which settings did a target have the last time, if no file has changed since?

What a lookup found out and used is kept below /run/auto-iscsi/settings, one file for each target
that was there (compiled). The next one reads that instead of all sections, however many, and
without the table of settings and its parsers.
"""

from __future__ import annotations

from auto_iscsi import portals
from auto_iscsi.config import config_files, file_cache
from auto_iscsi.config.settings import Settings
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from typing import Any


class Resolved(NamedTuple):
    """What holds for a target, and of which state of the files."""

    settings: Settings
    seen: file_cache.Files
    kept: bool  #: from an earlier lookup


def find(host: Host, target: str) -> Resolved:
    """Return what holds for `target`, a folded name; raise BadConfiguration."""
    seen = config_files.trusted(host)
    values = file_cache.read(host, seen, _name(target))
    if values and tuple(values) == Settings._fields:  # or another build of this version kept it
        return Resolved(restored(values), seen, True)
    from auto_iscsi.config import schema  # with all parsers: only where nothing was kept

    return Resolved(schema.resolve(config_files.load(host), target), seen, False)


def keep(host: Host, target: str, found: Resolved) -> None:
    """Keep what held for a target that was there, if the files are still the same."""
    if not found.kept and file_cache.same(config_files.present(host), found.seen):
        file_cache.write(host, found.seen, plain(found.settings), _name(target))


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
