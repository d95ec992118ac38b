"""Parse the values of settings, and write them as a file would.

Each parser takes a raw value, a text or a list of texts, and returns its meaning; it raises
ValueError with what would have been right. Times are seconds. Nothing here uses re: importing it
would cost a first lookup more than all parsers do.
"""

from __future__ import annotations

from auto_iscsi import portals
from auto_iscsi.config.settings import ALL, AUTO, SYSTEM
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
# autofs passes an entry's options to mount(8) unchanged: white space would end them, a comma or a
# quote would change their meaning (autofs lib/cat_path.c, modules/parse_sun.c).
_OPTION = _WORD.union(".:/@%+=-")
_VOLUME = _WORD.union("+.-")
_FSTYPE = _SMALL.union("_.-")
_GLOB = _SMALL.union("_.:-*?[]!")
_LINK = _WORD.union("@%.:+-")
_LINK_DIRECTIVES = "YymbdjHIpMS"
LINK_FORMAT = "%Y-%m-%d_%H:%M:%S"  #: the default of `link_format`
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
    if not (time := seconds_or_none(raw)):
        raise ValueError("expected a time above 0")
    return time


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
    """Return a parser of numbers from `lowest` to `highest`."""

    def parse(raw: Raw) -> int:
        word = _word(raw)
        if not _is_number(word) or not lowest <= int(word) <= highest:
            raise ValueError(f"expected a number from {lowest} to {highest}")
        return int(word)

    return parse


def partition(raw: Raw) -> int | str:
    """Read a partition: its number, 0 for none, VG/LV for a logical volume, or a word."""
    word = _word(raw).lower()
    if word in (AUTO, ALL, SYSTEM):
        return word
    group, slash, volume = _word(raw).partition("/")
    if slash and all(_is_volume_name(name) for name in (group, volume)):
        return f"{group}/{volume}"
    try:
        return 0 if word == "none" else number(1, 255)(raw)
    except ValueError as error:
        raise ValueError(f"{error}, VG/LV, none, auto, all or system") from None


def _is_volume_name(word: str) -> bool:
    """Tell whether a word can be the name of an LVM volume group or logical volume (lvm(8))."""
    return 0 < len(word) < 128 and word[0] != "-" and _VOLUME.issuperset(word)


def lun(raw: Raw) -> int | str:
    """Read a logical unit: its number, or all."""
    if _word(raw).lower() == ALL:
        return ALL
    try:
        return number(0, 16383)(raw)
    except ValueError as error:
        raise ValueError(f"{error} or all") from None


def split_list(raw: Raw) -> list[str]:
    """Return the members of a list."""
    return [part.strip() for part in ([raw] if isinstance(raw, str) else raw) if part.strip()]


def options(raw: Raw) -> tuple[str, ...]:
    """Read mount options."""
    for option in (members := tuple(split_list(raw))):
        if not (option[0] in _WORD and _OPTION.issuperset(option)):
            raise ValueError(f"{option!r} is not a mount option: no spaces, no quotes")
        if option.startswith("fstype="):
            raise ValueError("the filesystem's type has a setting of its own: fstype")
    return members


def fstype(raw: Raw) -> str:
    """Read a filesystem's type, or auto."""
    if not (0 < len(word := _word(raw)) <= 32 and _FSTYPE.issuperset(word)):
        raise ValueError("expected auto, or the name of a filesystem type, such as ext3 or xfs")
    return word


def portal_list(raw: Raw) -> tuple[portals.Portal, ...]:
    """Read a list of portals."""
    members = []
    for text in split_list(raw):
        try:
            members.append(portals.parse(text))
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    return tuple(members)


def globs(raw: Raw) -> tuple[str, ...]:
    """Read a list of patterns of targets, as sections have them."""
    members = tuple(word.lower() for word in split_list(raw))
    for glob in members:
        if not _GLOB.issuperset(glob):
            raise ValueError(f"{glob!r} is no pattern of targets' names")
    return members


def templates(raw: Raw) -> tuple[str, ...]:
    """Read a list of templates for the names of snapshots."""
    from auto_iscsi.config import templates  # no lookup needs them

    members = tuple(split_list(raw))
    for template in members:
        if templates.is_ambiguous(templates.parse(template)):
            raise ValueError(
                f"{template!r} could be read in more than one way: separate {{volume}} from * by a "
                "colon, or write out what is beside it"
            )
    return members


def timezone(raw: Raw) -> str:
    """Read the name of a time zone (/usr/share/zoneinfo), or local."""
    import zoneinfo  # no lookup needs it

    name = _word(raw)
    if name != "local":
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"{name!r} is not local or a time zone such as Europe/Vienna"
            ) from None
    return name


def link_format(raw: Raw) -> str:
    """Read the form of a link's name below /snapshots/VOLUME, which names at least a day."""
    from auto_iscsi.config import templates  # no lookup of a target needs them

    name = _word(raw)
    if len(name) > 100 or name[:1] in ("", ".", "-") or not _LINK.issuperset(name):
        raise ValueError("expected letters, digits and @ % _ . : + - only")
    letters = templates.directives(name)
    if unknown := letters.strip(_LINK_DIRECTIVES):
        known = " ".join(f"%{letter}" for letter in _LINK_DIRECTIVES)
        raise ValueError(f"%{unknown[0]} is not one of {known}")
    if not any(set(day) <= set(letters) for day in ("Ymd", "Ybd", "Yj")):
        raise ValueError(f"{name!r} does not name a day: %Y, %m and %d, for example")
    return name


def chap_user(raw: Raw) -> str:
    """Read a CHAP name; "": none."""
    if len(name := _word(raw)) > 255 or '"' in name or not _PRINTABLE.issuperset(name):
        raise ValueError("expected at most 255 printable ASCII characters, no double quotes")
    return name


def file_name(raw: Raw) -> str:
    """Read the absolute name of a file; "": none."""
    name = _word(raw)
    is_valid = len(name) > 1 and name[0] == "/" and '"' not in name and _CONTROL.isdisjoint(name)
    if name and not is_valid:
        raise ValueError("expected a file name that begins with /, no double quotes")
    return name


def directory(raw: Raw) -> str:
    """Read the absolute name of a directory."""
    if not (name := file_name(raw)):
        raise ValueError("expected the name of a directory that begins with /")
    return name


def one_of(*words: str) -> Callable[[Raw], str]:
    """Return a parser that takes one of these words."""

    def parse(raw: Raw) -> str:
        if (word := _word(raw)) not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return word

    return parse


def quoted(text: str) -> str:
    """Return a text as a file would write it, in quotes where it needs them."""
    return f'"{text}"' if not {",", "#", "'"}.isdisjoint(text) else text


def as_text(value: Any) -> str:
    """Return a value as a file would write it."""
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
