"""Accept a key only if it is the name of an iSCSI target.

Such a name begins with `iqn.`, `eui.` or `naa.` (RFC 7143, 4.2.7). automount passes on whatever any
local user typed below its mount point, so everything else is refused here, before a file is read or
a process is started.

Names are case-insensitive (RFC 3722 folds them to lower case), but some arrays, and with them
open-iscsi's records, spell them in capitals. So `target` is folded, to compare names and to name
our own files; the spelling that open-iscsi and the kernel need is read from their own files.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import NamedTuple

LONGEST = 223  # bytes, RFC 7143, 4.2.7.1

_DIGITS = frozenset("0123456789")
_HEX = _DIGITS.union("abcdef")
# The ASCII characters that RFC 3722 allows, and the underscore: several targets use it. Some
# versions of open-iscsi refuse it and some do not, so open-iscsi decides.
_LABEL = _DIGITS.union("abcdefghijklmnopqrstuvwxyz-_")
_OWN = _LABEL.union(".:")
_MONTHS = frozenset(f"-{month:02}" for month in range(1, 13))


class Key(NamedTuple):
    """A key that names a target."""

    text: str  #: the key as it was typed
    target: str  #: the target's name, folded to lower case


def fold(name: str) -> str:
    """Return a target's name in the form in which names are compared (RFC 3722: lower case).

    A name that is not ASCII stays as it is: lower() maps U+212A (the Kelvin sign) to a plain "k",
    and one target could pass for another.
    """
    return name.lower() if name.isascii() else name


def parse(text: str) -> Key:
    """Return the key `text`; raise BadKey when it is not the name of an iSCSI target."""
    if len(text) > LONGEST:
        raise errors.BadKey(
            f"key {shown(text)} refused: {len(text)} characters, a name has {LONGEST} at most"
        )
    if not text.isascii() or not _is_name(fold(text)):
        raise errors.BadKey(
            f"key {shown(text)} refused: not an iSCSI target name",
            "expected iqn.YYYY-MM.DOMAIN[:NAME], eui.16-HEX-DIGITS or naa.16-OR-32-HEX-DIGITS",
        )
    return Key(text, fold(text))


def _is_name(name: str) -> bool:
    """Return whether a folded text is a target's name.

    Without re, whose import costs more than a whole lookup. The naming authority is a reversed
    domain name, so it has no empty label; what follows the colon is up to the authority.
    """
    kind, _, rest = name.partition(".")
    if kind != "iqn":
        return f"{kind}.{len(rest)}" in ("eui.16", "naa.16", "naa.32") and _HEX.issuperset(rest)
    authority, colon, own = rest.partition(":")
    date, *labels = authority.split(".")
    return (
        len(date) == 7
        and _DIGITS.issuperset(date[:4])
        and date[4:] in _MONTHS
        and bool(labels)
        and all(map(_is_label, labels))
        and bool(own) == bool(colon)
        and _OWN.issuperset(own)
    )


def _is_label(text: str) -> bool:
    return _LABEL.issuperset(text) and text[:1] not in ("", "-") and text[-1] != "-"


def shown(text: str) -> str:
    """Return a refused key for the log: in quotes, ASCII, not too long."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
