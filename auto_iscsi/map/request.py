"""What one lookup works for: the key, the settings that hold for it, and the time that is left."""

from __future__ import annotations

import time

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import state_files

if TYPE_CHECKING:
    from typing import Callable

    from auto_iscsi import keys, portals
    from auto_iscsi.config.settings import Settings
    from auto_iscsi.iscsi import claims
    from auto_iscsi.machine.host import Host


TREES = f"{state_files.FOLDER}/trees"  #: by target, what its filesystems came to (kept_tree)


class Place(NamedTuple):
    """Where a SAN has presented what a key names (at_san)."""

    key: keys.Key
    portals: tuple[portals.Portal, ...]
    lun: int
    begin: Callable[[Settings, float], None]  #: called when the target is held; raises Failure

    def adapt(self, settings: Settings) -> Settings:
        """Return the settings with the portals and the LUN that the SAN has named."""
        return settings._replace(portals=self.portals, lun=self.lun)


class Request(NamedTuple):
    """One lookup of one target, which the caller holds (claims.hold_target)."""

    host: Host
    key: keys.Key
    settings: Settings
    until: float  #: when the lookup has to be over (time.monotonic())
    claim: claims.Claim  #: the target's claim as this lookup read it at its start
    #: those of the targets that the setting `with` names; the caller holds these, too
    others: tuple[Request, ...] = ()
    is_other: bool = False  #: this one is among the `others` of a lookup

    @property
    def target(self) -> str:
        """The target's name, folded."""
        return self.key.target

    def within(self, seconds: float) -> float:
        """Return the time (time.monotonic()) in `seconds`, or the end of the lookup if sooner."""
        return min(self.until, time.monotonic() + seconds)
