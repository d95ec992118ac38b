"""Make the distribution's Python libraries importable.

The map program starts without them (python3 -S): finding them takes a third of Python's start-up
time, and most lookups use none.
"""

from __future__ import annotations

import sys


def make_importable() -> None:
    """Let Python find the libraries that the distribution installed (configobj, pyudev, sh)."""
    if sys.flags.no_site and "site" not in sys.modules:
        import site

        site.main()
