"""What may stand in a request to a SAN driver and in its reply (docs/san-driver.md)?

The core and the drivers share these limits and forms, so that both refuse the same.
"""

from __future__ import annotations

import calendar
import re
import time
from datetime import MAXYEAR, MINYEAR
from typing import Any

VERSION = 1
VERBS = ("info", "list", "present", "revoke")
CHANGING = ("present", "revoke")  #: the verbs that change something at the array
CODES = (
    "invalid",
    "not_found",
    "denied",
    "auth",
    "busy",
    "conflict",
    "exhausted",
    "unreachable",
    "timeout",
    "unsupported",
    "internal",
)
#: Errors that can be over at the next attempt: the exit status is then 75, else 1.
TEMPORARY = ("busy", "unreachable", "timeout")
MODELS = ("own", "shared")
STATES = ("ready", "offline", "busy", "gone")
TIME_SOURCES = ("array", "name", "none")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
OK, FAILED, TRY_AGAIN = 0, 1, 75

LONGEST_REQUEST = 1 << 20  # bytes
LONGEST_REPLY = 8 << 20
LONGEST_MESSAGE = 300  # characters

#: A name of a volume or a snapshot: no space, quote, semicolon, slash or control character.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}")
#: An identifier that only the driver understands. It cannot be taken for an option.
OPAQUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@,-]{0,255}")
#: An initiator's or a target's name, in lower case (RFC 7143 4.2.7).
IQN = re.compile(r"(?:iqn|eui|naa)\.[a-z0-9][a-z0-9.:-]{0,218}")
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
LEASE = re.compile(r"[0-9a-f-]{8,64}")
#: What a driver made, so that revoke undoes this and nothing else: `acl`, `online`, `clone`.
MADE = re.compile(r"[a-z][a-z0-9_.:-]{0,63}")


class Refused(Exception):
    """A verb that did not do what was asked, with one of CODES and a line for the administrator.

    `effect` is `none` where nothing changed at the array, `unknown` where something may have. None
    lets the call say it (protocol.Call.about_to_change).
    """

    def __init__(
        self, code: str, message: str, retry_after_s: int = 0, effect: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code if code in CODES else "internal"
        self.message = message
        self.retry_after_s = retry_after_s
        self.effect = effect


def matches(pattern: re.Pattern[str], value: object) -> bool:
    """Tell whether a value is a text that matches as a whole."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def checked(request: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    """Return a text of the request that has its form; raise Refused with its name if not.

    What a driver types at an array comes through here: no line end, space, quote or semicolon.
    """
    value = request.get(name)
    if matches(pattern, value):
        return str(value)
    raise Refused("invalid", f"{name} is {'missing' if value is None else 'malformed'}")


def member(request: dict[str, Any], name: str, kind: Any, default: Any) -> Any:
    """Return a value of the request that is of a kind; raise Refused with its name if not."""
    value = request.get(name, default)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise Refused("invalid", f"{name} is malformed")
    return value


def are_made(value: object) -> bool:
    """Tell whether a value is a list of what a driver made."""
    return isinstance(value, list) and all(matches(MADE, each) for each in value)


def is_handle(value: object) -> bool:
    """Tell whether a value is an object of short names and opaque texts."""
    return isinstance(value, dict) and all(
        matches(MADE, name) and matches(OPAQUE, each) for name, each in value.items()
    )


def written_time(seconds: float) -> str | None:
    """Return a time, in seconds since 1970, as the protocol has it: 2010-05-03T04:00:01Z.

    None for one that read_time() would refuse: whoever may name a snapshot can give it such a time,
    and one of them would make the whole list a broken reply.
    """
    try:
        moment = time.gmtime(seconds)
        text = f"{moment.tm_year:04}{time.strftime(_TIME[2:], moment)}"
        read_time(text)
    except (ValueError, OverflowError, OSError):
        return None
    return text


def read_time(text: str) -> float:
    """Return the seconds since 1970; raise ValueError, TypeError or OverflowError.

    The first and the last year are refused: in some time zone, a part of them is outside the
    calendar.
    """
    moment = time.strptime(text, _TIME)
    if not MINYEAR < moment.tm_year < MAXYEAR:
        raise ValueError(f"the year is {moment.tm_year}")
    return float(calendar.timegm(moment))


def one_line(text: str) -> str:
    """Return a text as one printable line of at most LONGEST_MESSAGE characters."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(shown.split())[:LONGEST_MESSAGE]
