"""What one lookup works for: the key, the settings that hold for it, and the time that is left.

`limit` bounds that time, whatever the lookup hangs in.
"""

from __future__ import annotations

import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager, signal
from auto_iscsi.machine import state_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

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


@contextmanager
def limit(seconds: float, target: str, hint: str = "see lookup_timeout") -> Iterator[float]:
    """Yield the time (time.monotonic()) at which the work within has to be over.

    The work keeps to it with its own waits; SIGALRM raises TimedOut in what does not. `hint`: what
    to do then.
    """

    def over(*_: Any) -> None:
        raise errors.TimedOut(f"{target}: not ready after {seconds:.0f} s", hint)

    before = signal.signal(signal.SIGALRM, over)
    # Again each second: what is raised within a hook or a callback (os.register_at_fork, when sh
    # forks) is lost, with a word on stderr.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield time.monotonic() + seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
