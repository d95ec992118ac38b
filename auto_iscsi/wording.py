"""Write text, times and numbers for a log line, a terminal or a person."""

from __future__ import annotations


def one_line(text: str, limit: int = 900) -> str:
    """Return `text` as one line of printable ASCII, at most `limit` characters.

    Keys come from any local user, and iscsiadm's output can contain text that a target sent:
    neither may put a line break or a terminal's escape sequence into a log. automount splits lines
    at 1023 bytes (autofs modules/lookup_program.c).
    """
    clean = "".join(c if " " <= c <= "~" else "?" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def printable(text: str) -> str:
    """Return `text` with escapes in place of characters that could control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: 90s, 15m, 3h, 2d."""
    whole = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def counted(number: int, word: str) -> str:
    """Return a number with a noun: 1 session, 2 sessions."""
    return f"{number} {word}" + ("s" if number != 1 else "")


def size(value_in_bytes: int) -> str:
    """Return a size in bytes with the unit that people use."""
    value, units = float(value_in_bytes), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.4g} {units[0]}"
