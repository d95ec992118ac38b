"""How is something done that may never end?

To open or read a disk can take as long as its session's recovery, and no signal ends that. So a
process of its own does it, and is not waited for too long. It has none of our files: automount
waits for whoever holds our stdout, the next lookup for whoever holds our lock.
"""

from __future__ import annotations

import marshal
import os
import select
import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, signal, suppress
from auto_iscsi.machine.host import DESCRIPTORS

if TYPE_CHECKING:
    from typing import Any, Callable


def do(work: Callable[[], Any], until: float, target: str) -> Any:
    """Return what `work` does in a process of its own; raise TimedOut at `until`."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            # Nothing of ours, or automount would wait for it, and the next lookup for our lock.
            os.dup2(writing, 0)
            os.closerange(1, DESCRIPTORS)
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(0, marshal.dumps(work()))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        if ready:
            data = os.read(reading, 1 << 16)
            os.waitpid(child, 0)
            if data:
                return marshal.loads(data)
            raise errors.Failure(f"{target}: could not be looked at")
    finally:
        os.close(reading)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    raise errors.TimedOut(f"{target}: does not answer", "see lookup_timeout")
