"""Keep the settings of each target, until a configuration file changes.

A lookup keeps the settings that it worked out and used, below /run/auto-iscsi/settings, one file
for each target that it found (file_cache). The next lookup reads this file instead of all sections,
however many there are, and imports neither the table of settings nor its parsers.
"""

from __future__ import annotations

from auto_iscsi import portals
from auto_iscsi.config import file_cache
from auto_iscsi.config.settings import Settings
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from typing import Any


class ResolvedSettings(NamedTuple):
    """The settings of a target, and the state of the files that they come from."""

    settings: Settings
    files: file_cache.Files
    is_cached: bool  #: they come from an earlier lookup


def find(host: Host, target: str) -> ResolvedSettings:
    """Return the settings of `target`, a folded name; raise BadConfiguration."""
    files = file_cache.list_existing(host)
    if file_cache.are_safe(host, files):
        values = file_cache.read(host, files, _name(target))
        if values and tuple(values) == Settings._fields:  # or another build of this version kept it
            return ResolvedSettings(from_plain(values), files, True)
    from auto_iscsi.config import config_files, schema  # with all parsers: only without a cache

    return ResolvedSettings(schema.resolve(config_files.load(host), target), files, False)


def keep(host: Host, target: str, resolved: ResolvedSettings) -> None:
    """Keep the settings of a target that a lookup found, if the files are still the same."""
    if not resolved.is_cached and file_cache.are_same(
        file_cache.list_existing(host), resolved.files
    ):
        file_cache.write(host, resolved.files, to_plain(resolved.settings), _name(target))


def to_plain(settings: Settings) -> dict[str, Any]:
    """Return settings in a form that marshal can write."""
    values = settings._asdict()
    values["portals"] = tuple(map(tuple, settings.portals))
    return values


def from_plain(values: dict[str, Any]) -> Settings:
    """Return the settings that were put into that form, which has them in order."""
    known = tuple(portals.Portal(*each) for each in values["portals"])
    return Settings(*{**values, "portals": known}.values())


def _name(target: str) -> str:
    return f"settings/{target}"
