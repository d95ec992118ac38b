"""What does the looked-up key name?

A key is the name of an iSCSI target and nothing else: `iqn.`, `eui.` or `naa.` (RFC 7143,
4.2.7). automount passes on whatever any local user typed below its mount point, so everything
else is refused here, before a file is read or a process is started.

Names are case-insensitive (RFC 3722 folds them to lower case), but arrays, and with them
open-iscsi's records, do spell them in capitals. So `target` is folded, for comparing and for
naming our own files; how open-iscsi and the kernel spell it comes from their side.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from auto_iscsi import errors

LONGEST = 223  # bytes, RFC 7143, 4.2.7.1

# RFC 3722 leaves these of ASCII: letters, digits, "-", "." and ":". The naming authority is a
# domain name, reversed, so it has no empty label; what follows the colon is its own business.
_NAME = re.compile(
    r"iqn\.[0-9]{4}-(?:0[1-9]|1[0-2])(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+(?::[a-z0-9.:-]+)?"
    r"|eui\.[0-9a-f]{16}"
    r"|naa\.(?:[0-9a-f]{16}|[0-9a-f]{32})"
)


class Key(NamedTuple):
    """A key that names a target."""

    text: str  #: as it was typed
    target: str  #: the target's name, folded to lower case


def fold(name: str) -> str:
    """Return a target's name as it is compared (RFC 3722: lower case)."""
    return name.lower()


def parse(text: str) -> Key:
    """Return what `text` names; raise BadKey when that is not an iSCSI target."""
    if len(text) > LONGEST:
        raise errors.BadKey(
            f"key {_shown(text)} refused: {len(text)} characters, a name has {LONGEST} at most"
        )
    # isascii first: fold() would map U+212A (the Kelvin sign) to an innocent "k".
    if not text.isascii() or not _NAME.fullmatch(fold(text)):
        raise errors.BadKey(
            f"key {_shown(text)} refused: not an iSCSI target name",
            "expected iqn.YYYY-MM.DOMAIN[:NAME], eui.16-HEX-DIGITS or naa.16-OR-32-HEX-DIGITS",
        )
    return Key(text, fold(text))


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")
