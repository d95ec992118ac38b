"""When is the disk ready?

What counts is what sysfs and /dev say, so these are looked at: every few milliseconds at first,
then more and more seldom, as udev is through with most disks sooner than pyudev is imported, and
with many at once everybody's import would only hold it up; after some seconds at each event of a
block device from the kernel's netlink socket, the kernel's own or udev's, which come when its rules
ran and the links are there. The only module that imports pyudev.
"""

from __future__ import annotations

import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, contextmanager
from auto_iscsi.machine.host import find_libraries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable, TypeVar

    Found = TypeVar("Found")

_AGAIN = 0.25  # seconds; looks again without an event: netlink may drop some, or be forbidden
_SOON = 2.0  # seconds; then it is worth to import pyudev
_STEP = 0.005  # seconds between two looks until then, or a part of what was waited, if that is more
_PART = 25
_WHOLE = 10  # of so many looks one is made without asking for a sign


class Listener:
    """Waits for block devices: looks often at first, then at each event of theirs."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._monitor: Any = None
        self._listening = False

    def wait_for(
        self,
        look: Callable[[], Found | None],
        until: float,
        sign: Callable[[], bool] = lambda: True,
    ) -> Found | None:
        """Return what `look` finds, None when that is nothing until `until` (time.monotonic()).

        `sign`: what costs less than a look, and says whether one is worth it, most often: udev
        needs the processor, too.
        """
        began, looks = time.monotonic(), 0
        while True:
            now = time.monotonic()
            often = now < began + _SOON and not self._listening
            looks += 1
            if not often or now >= until or looks % _WHOLE == 1 or sign():
                found = look()
                if found is not None or now >= until:
                    return found
            if often:
                time.sleep(max(0.0, min(until - now, max(_STEP, (now - began) / _PART))))
            else:
                self._next(min(until - now, _AGAIN))

    def _next(self, seconds: float) -> None:
        """Return at an event, after some seconds at the latest; at once when it is the first."""
        if not self._listening:
            self._monitor, self._listening = _monitor(self._source), True
        elif self._monitor is None:
            time.sleep(min(seconds, 0.05))
        elif self._monitor.poll(timeout=seconds) is not None:
            while self._monitor.poll(timeout=0) is not None:
                pass


def _monitor(source: str) -> Any:
    """Return a subscription that has begun, None when netlink is forbidden."""
    try:
        find_libraries()
        import pyudev  # 18 ms: only where something takes its time
    except ImportError as error:
        raise errors.BrokenInstallation(f"{error}", "install python3-pyudev") from error
    try:
        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source)
        monitor.filter_by("block")
        monitor.start()
        return monitor
    except OSError:
        return None


@contextmanager
def listen(source: str) -> Iterator[Listener]:
    """Wait with the events of the `kernel` or, after its rules, of `udev`."""
    yield Listener(source)
