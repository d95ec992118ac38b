"""When is the disk ready?

Events of block devices from the kernel's netlink socket: the kernel's own, or udev's, which come
when its rules ran and the links are there. An event is only a reason to look again: what counts
is what sysfs and /dev say. The only module that imports pyudev.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Callable, TypeVar

from auto_iscsi import errors
from auto_iscsi.host import find_libraries

_AGAIN = 0.25  # seconds; looks again without an event: netlink may drop some, or be forbidden
Found = TypeVar("Found")


class Listener:
    """A subscription to block devices' events; it counts from the moment it was made."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def wait_for(self, look: Callable[[], Found | None], until: float) -> Found | None:
        """Return what `look` finds, None when that is nothing until `until` (time.monotonic())."""
        while True:
            found = look()
            left = until - time.monotonic()
            if found is not None or left <= 0:
                return found
            self._next(min(left, _AGAIN))

    def _next(self, seconds: float) -> None:
        if self._monitor is None:
            time.sleep(min(seconds, 0.05))
        elif self._monitor.poll(timeout=seconds) is not None:
            while self._monitor.poll(timeout=0) is not None:
                pass


@contextlib.contextmanager
def listen(source: str) -> Iterator[Listener]:
    """Listen from now on: to the events of the `kernel` or, after its rules, of `udev`."""
    try:
        find_libraries()
        import pyudev  # 18 ms: only where something is waited for
    except ImportError as error:
        raise errors.BrokenInstallation(f"{error}", "install python3-pyudev") from error
    try:
        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source)
        monitor.filter_by("block")
        monitor.start()
    except OSError:
        monitor = None
    yield Listener(monitor)
