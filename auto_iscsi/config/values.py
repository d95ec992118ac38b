"""Which kinds of values are there, and how is each written?

Each parser takes what the file says, a text or a list of texts, and returns a value or raises
ValueError with what would have been right. Times are seconds. Without re, as in keys: a first
lookup reads them.
"""

from __future__ import annotations

from auto_iscsi import portals
from auto_iscsi.config.settings import ALL, AUTO
from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Callable

    from auto_iscsi.config.config_files import Raw

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_WORDS = {"yes": True, "true": True, "on": True, "1": True}
_WORDS.update({"no": False, "false": False, "off": False, "0": False})

_DIGITS = frozenset("0123456789")
_SMALL = _DIGITS.union("abcdefghijklmnopqrstuvwxyz")
_WORD = _SMALL.union("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
# autofs hands an entry's options to mount(8) as they are; white space would end them, a comma
# or a quote would change what they say (autofs lib/cat_path.c, modules/parse_sun.c).
_OPTION = _WORD.union(".:/@%+=-")
_FSTYPE = _SMALL.union("_.-")
_LONGEST = 6  # digits
_PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))
_CONTROL = frozenset(map(chr, (*range(0x20), 0x7F)))


def _word(raw: Raw) -> str:
    if isinstance(raw, list):
        raise ValueError("one value expected, not a list")
    return raw.strip()


def yes_no(raw: Raw) -> bool:
    """Read yes or no."""
    if (word := _word(raw).lower()) not in _WORDS:
        raise ValueError("expected yes or no")
    return _WORDS[word]


def seconds(raw: Raw) -> float:
    """Read a time above 0."""
    if not (found := seconds_or_none(raw)):
        raise ValueError("expected a time above 0")
    return found


def seconds_or_none(raw: Raw) -> float:
    """Read a time, which may be 0."""
    word = _word(raw)
    unit = word[-1:] if word[-1:] in _UNITS else ""
    digits = word[: len(word) - len(unit)].rstrip(" \t\n\r\f\v")
    if not _is_number(digits):
        raise ValueError("expected a time: 10, 10s, 5m or 2h")
    return float(int(digits) * _UNITS[unit])


def _is_number(word: str) -> bool:
    return 0 < len(word) <= _LONGEST and _DIGITS.issuperset(word)


def number(lowest: int, highest: int) -> Callable[[Raw], int]:
    """Return what reads a number from `lowest` to `highest`."""

    def parse(raw: Raw) -> int:
        word = _word(raw)
        if not _is_number(word) or not lowest <= int(word) <= highest:
            raise ValueError(f"expected a number from {lowest} to {highest}")
        return int(word)

    return parse


def partition(raw: Raw) -> int | str:
    """Read the number of a partition; 0: none; or auto or all."""
    word = _word(raw).lower()
    if word in (AUTO, ALL):
        return word
    try:
        return 0 if word == "none" else number(1, 255)(raw)
    except ValueError as error:
        raise ValueError(f"{error}, none, auto or all") from None


def lun(raw: Raw) -> int | str:
    """Read the number of a logical unit, or all."""
    if _word(raw).lower() == ALL:
        return ALL
    try:
        return number(0, 16383)(raw)
    except ValueError as error:
        raise ValueError(f"{error} or all") from None


def many(raw: Raw) -> list[str]:
    """Return the members of a list."""
    return [part.strip() for part in ([raw] if isinstance(raw, str) else raw) if part.strip()]


def options(raw: Raw) -> tuple[str, ...]:
    """Read mount options."""
    for option in (found := tuple(many(raw))):
        if not (option[0] in _WORD and _OPTION.issuperset(option)):
            raise ValueError(f"{option!r} is not a mount option: no spaces, no quotes")
        if option.startswith("fstype="):
            raise ValueError("the filesystem's type has a setting of its own: fstype")
    return found


def fstype(raw: Raw) -> str:
    """Read a filesystem's type, or auto."""
    if not (0 < len(word := _word(raw)) <= 32 and _FSTYPE.issuperset(word)):
        raise ValueError("expected auto, or the name of a filesystem type, such as ext3 or xfs")
    return word


def portal_list(raw: Raw) -> tuple[portals.Portal, ...]:
    """Read portals."""
    found = []
    for text in many(raw):
        try:
            found.append(portals.parse(text))
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    return tuple(found)


def chap_user(raw: Raw) -> str:
    """Read a CHAP name; "": none."""
    if len(name := _word(raw)) > 255 or '"' in name or not _PRINTABLE.issuperset(name):
        raise ValueError("expected at most 255 printable ASCII characters, no double quotes")
    return name


def file_name(raw: Raw) -> str:
    """Read the name of a file; "": none."""
    name = _word(raw)
    whole = len(name) > 1 and name[0] == "/" and '"' not in name and _CONTROL.isdisjoint(name)
    if name and not whole:
        raise ValueError("expected the whole name of a file, from / on, no double quotes")
    return name


def one_of(*words: str) -> Callable[[Raw], str]:
    """Return what reads one of some words."""

    def parse(raw: Raw) -> str:
        if (word := _word(raw)) not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return word

    return parse


def quoted(text: str) -> str:
    """Return a text as the file would have it: in quotes where it has to be."""
    return f'"{text}"' if not {",", "#", "'"}.isdisjoint(text) else text


def as_text(value: Any) -> str:
    """Return a value as the file would have it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        whole = round(value)
        for unit, size in (("h", 3600), ("m", 60)):
            if whole > 60 and whole % size == 0:
                return f"{whole // size}{unit}"
        return f"{whole}s"
    return str(value)
