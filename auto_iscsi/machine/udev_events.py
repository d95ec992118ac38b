"""Wait until a block device is ready.

sysfs and /dev decide that, so the caller's condition is checked against them. At first every few
milliseconds, then less and less often: udev is done with most disks before pyudev could be
imported, and with many lookups at once their imports would only slow udev down. After some seconds,
at each event of a block device on the kernel's netlink socket: the kernel's own events, or those of
udev, which it sends when its rules have run and the links exist. The only module that imports
pyudev.
"""

from __future__ import annotations

import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable, TypeVar

    Result = TypeVar("Result")

_EVENT_TIME = 0.25  # seconds to wait for an event; netlink may drop some, or be forbidden
_POLLING_TIME = 2.0  # seconds of polling, before it is worth importing pyudev
_STEP = 0.005  # seconds between two checks while polling, or 1/25 of the time waited, if longer
_PART = 25
_ALWAYS = 10  # one of so many checks is made without asking `sign`


class Listener:
    """Waits for block devices: polls at first, then waits for their events."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._monitor: Any = None
        self._listening = False

    def wait_for(
        self,
        look: Callable[[], Result | None],
        until: float,
        sign: Callable[[], bool] = lambda: True,
    ) -> Result | None:
        """Return the first result of `look` that is not None; None when `until` comes first.

        `until` is a time.monotonic(). `sign` costs less than `look` and tells most often whether
        `look` is worth calling: udev needs the processor, too.
        """
        start, checks = time.monotonic(), 0
        while True:
            now = time.monotonic()
            polling = now < start + _POLLING_TIME and not self._listening
            checks += 1
            if not polling or now >= until or checks % _ALWAYS == 1 or sign():
                result = look()
                if result is not None or now >= until:
                    return result
            if polling:
                time.sleep(max(0.0, min(until - now, max(_STEP, (now - start) / _PART))))
            else:
                self._next_event(min(until - now, _EVENT_TIME))

    def _next_event(self, seconds: float) -> None:
        """Return at the next event, after some seconds at the latest; at once at the first call."""
        if not self._listening:
            self._monitor, self._listening = _monitor(self._source), True
        elif self._monitor is None:
            time.sleep(min(seconds, 0.05))
        elif self._monitor.poll(timeout=seconds) is not None:
            while self._monitor.poll(timeout=0) is not None:
                pass


def _monitor(source: str) -> Any:
    """Return a monitor that receives events, None when netlink is forbidden."""
    from auto_iscsi.machine import libraries

    try:
        libraries.make_importable()
        import pyudev  # 18 ms: only when a disk takes long
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
    """Yield a listener for events of "kernel" or of "udev" (sent when udev's rules have run)."""
    yield Listener(source)
