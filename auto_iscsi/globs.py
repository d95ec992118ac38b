"""Does a name match a glob, as fnmatch has it, with each Python?

Python 3.9 raises re.error for a range without members (`[b-a]`), at the first name that it is asked
about. The glob matches nothing then.
"""

from __future__ import annotations

import fnmatch
import re


def matches(glob: str, name: str) -> bool:
    """Return whether the whole name matches, in its own case."""
    try:
        return fnmatch.fnmatchcase(name, glob)
    except re.error:
        return False
