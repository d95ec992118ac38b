"""The expected failures: one exception class for each kind.

Each carries a reason, with target, portal and exit code where they are known, and a hint: what to
do next. It is raised where the fact is known; the two programs' mains print it. `code` is stable:
people look it up (auto-iscsi explain CODE), and scripts may compare it.

The base classes are in `failure`. The kinds are in `failures`, which is imported when a kind is
needed: Python takes longer to make two dozen classes than to import any other module of a lookup,
and a lookup that works needs none of them.
"""

from auto_iscsi.failure import Failure as Failure
from auto_iscsi.failure import Reported as Reported
from auto_iscsi.failure import TimedOut as TimedOut

TYPE_CHECKING = False  # type checkers assume that a name TYPE_CHECKING is true

if TYPE_CHECKING:
    from auto_iscsi.failures import *  # noqa: F403 (used by others, as errors.NoDisk)


def __getattr__(name: str) -> object:
    """Return a kind of failure."""
    from auto_iscsi import failures

    if name not in vars(failures):
        raise AttributeError(name)
    return vars(failures)[name]
