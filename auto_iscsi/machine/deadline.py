"""Bound the time that a piece of work takes, whatever it hangs in."""

from __future__ import annotations

import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, contextmanager, signal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@contextmanager
def limit(seconds: float, target: str) -> Iterator[float]:
    """Yield the time (time.monotonic()) at which the work within has to be over.

    The work keeps to it with its own waits; SIGALRM raises TimedOut in what does not.
    """

    def over(*_: Any) -> None:
        raise errors.TimedOut(f"{target}: not ready after {seconds:.0f} s", "see lookup_timeout")

    before = signal.signal(signal.SIGALRM, over)
    # Again each second: what is raised within a hook or a callback (os.register_at_fork, when sh
    # forks) is lost, with a word on stderr.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield time.monotonic() + seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
