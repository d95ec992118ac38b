"""What does the output of the EqualLogic group's command line say?

Tables wrap: a name that is too long for its column goes on in the next line, which is indented. So
a table is read by its words, and by the places of its columns only where words do not decide. An
access record that cannot be read without doubt is returned as one that is nobody's.

Sources: the fixtures and parsers of OpenStack cinder (dell_emc/ps.py, removed in 2020) and of
pve-storage-custom-dellps; no array was at hand (auto-iscsi-eqlx(8), UNVERIFIED).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from auto_iscsi.drivers import wire

#: Escape sequences of terminals (ECMA-48), and what else is no text.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])|[\x00-\x08\x0b-\x1f\x7f]")
_RULE = re.compile(r"-{2,}(?:\s+-+)*")
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9 /_-]{0,40}):(?:\s+(.*)|)")
_ERROR = re.compile(r"\s*(?:% ?)?Error\b[\s:-]*(.*)", re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9*]{1,3}(?:\.[0-9*]{1,3}){3}|[0-9a-fA-F:]*::?[0-9a-fA-F:.*]+")
#: VOLUME-YEAR-MONTH-DAY-HOUR:MINUTE:SECOND.NUMBER, or the same without the number.
_TIME = re.compile(r".*-(\d{4}-\d{2}-\d{2}-\d{2}:\d{2}:\d{2})(?:\.\d+(?:\.\d+)?)?")
_TAG = re.compile(r"auto-iscsi:([0-9a-f-]{8,64}):([0-9a-f]{8}):([a-z]+(?:,[a-z]+)*)")

NO_TAG = "auto-iscsi"  #: what stays in the description when a lease ends
APPLIES = ("volume", "snapshot", "both")


class Row(NamedTuple):
    """A line of `snapshot show`: one snapshot."""

    name: str
    permission: str  #: read-write or read-only
    status: str  #: online, offline, or what is wrong with it
    connections: int


class Access(NamedTuple):
    """A line of `access show`: who may log in. `doubt`: not all of it was understood."""

    number: str
    initiator: str
    address: str
    method: str
    user: str
    applies: str
    doubt: bool = False

    def admits(self, initiator: str) -> bool:
        """Tell whether it admits this initiator to the snapshots, without CHAP."""
        return (
            not self.doubt
            and self.initiator == initiator
            and self.address in ("", "*.*.*.*")
            and self.method == "none"
            and not self.user
            and self.applies in ("snapshot", "both")
        )

    def is_as_made(self, initiator: str) -> bool:
        """Tell whether it is such a record as this driver makes, with access to snapshots only."""
        return self.admits(initiator) and self.applies == "snapshot"


class Tag(NamedTuple):
    """What a lease wrote into the description of a snapshot: who it is and what it makes."""

    lease: str
    whose: str  #: eight hexadecimal digits of the initiator's hash
    made: tuple[str, ...]

    def __str__(self) -> str:
        return f"auto-iscsi:{self.lease}:{self.whose}:{','.join(self.made)}"


def plain(text: str) -> str:
    """Return output without carriage returns, escape sequences and other control characters."""
    return _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def error(text: str) -> str | None:
    """Return the array's words for an error, None when the command succeeded."""
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines):
        if line.startswith(("%", "Error")) and (match := _ERROR.match(line)):
            more = lines[number + 1] if number + 1 < len(lines) and not match[1] else ""
            return wire.one_line(match[1] or more) or "an error without words"
    return None


def fields(text: str) -> dict[str, str]:
    """Return the values of `Key: value` lines by their key in lower case, the first of each."""
    values: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if match := _FIELD.fullmatch(line.rstrip()):
            last = match[1].lower()
            if last in values:
                last = ""
            else:
                values[last] = (match[2] or "").strip()
        elif last and line[:1].isspace() and line.strip() and not _RULE.fullmatch(line.strip()):
            values[last] += line.strip()
        else:
            last = ""
    return values


def iqn(value: str) -> str | None:
    """Return a target's name as iSCSI compares it, without the full stop of a sentence."""
    name = value.strip().rstrip(".").lower()
    return name if wire.matches(wire.IQN, name) else None


def snapshots(text: str, left_out: list[str] | None = None) -> list[Row]:
    """Return the rows of `snapshot show`; a row with other words goes to `left_out` instead.

    Columns: name, permission, status, connections. The name goes on in the next line.
    """
    rows: list[Row] = []
    for words, starts, rule in _records(text):
        first, more = words[0], words[1:]
        is_row = len(first) > 3 and first[1] in ("read-write", "read-only")
        if not is_row or not re.fullmatch(r"[0-9]{1,9}", first[-1]):
            if left_out is not None:
                left_out.append(" ".join(first))
            continue
        name, status = first[0], list(first[2:-1])
        second = rule[1] if len(rule) > 1 else starts[0][1]
        for line, columns in zip(more, starts[1:]):
            for word, column in zip(line, columns):
                if column < second:
                    name += word
                else:
                    status.append(word)
        rows.append(Row(name, first[1], "-".join(status).lower(), int(first[-1])))
    return rows


def volumes(text: str) -> list[str]:
    """Return the names in `volume show`: the first column, which goes on in the next line."""
    names = []
    for words, starts, rule in _records(text):
        if len(words[0]) < 2:
            continue
        second = rule[1] if len(rule) > 1 else starts[0][1]
        rest = [
            word
            for line, columns in zip(words[1:], starts[1:])
            for word, column in zip(line, columns)
            if column < second
        ]
        names.append(words[0][0] + "".join(rest))
    return names


def accesses(text: str) -> list[Access]:
    """Return the records of `access show`, each that begins with a number.

    Columns: ID, Initiator, Ipaddress, AuthMethod, UserName, Apply-To. Cells can be empty and wider
    than their columns. The initiator's name goes on in the next line.
    """
    records = []
    for words, _starts, _rule in _records(text):
        if not words[0][0].isdecimal():
            continue
        first, more = words[0], [word for line in words[1:] for word in line]
        initiator = address = method = user = applies = ""
        cells = list(first[1:])
        if cells and cells[-1].lower() in APPLIES:
            applies = cells.pop().lower()
        if cells and re.match(r"(?:iqn|eui|naa)\.", cells[0], re.IGNORECASE):
            initiator = cells.pop(0)
        if cells and _ADDRESS.fullmatch(cells[0]):
            address = cells.pop(0)
        if cells and cells[0].lower() in ("none", "chap"):
            method = cells.pop(0).lower()
        if cells:
            user = cells.pop(0)
        doubt = bool(cells) or not applies or not method or len(more) > len(words) - 1
        initiator = (initiator + "".join(more)).lower()
        records.append(Access(first[0], initiator, address, method, user, applies, doubt))
    return records


def tag(description: str) -> Tag | None:
    """Return what a lease wrote into a description, None when it is not from a lease."""
    match = _TAG.fullmatch(description.strip())
    return Tag(match[1], match[2], tuple(match[3].split(","))) if match else None


def created(name: str, zone: tzinfo | None) -> float | None:
    """Return the time that a snapshot's name says, in seconds since 1970; None: it says none.

    zone: None means this host's. A time that the change to summer time skips is none.
    """
    if not (match := _TIME.fullmatch(name)):
        return None
    try:
        local = datetime.strptime(match[1], "%Y-%m-%d-%H:%M:%S")
        at = (local.replace(tzinfo=zone) if zone else local).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    back = at.astimezone(zone).replace(tzinfo=None)
    return at.timestamp() if abs(back - local) < timedelta(seconds=1) else None


_Words = list[list[str]]  # of each line


def _records(text: str) -> Iterator[tuple[_Words, list[list[int]], list[int]]]:
    """Yield the records of the tables: the words of each line, where they start, and the rule's.

    A record is a line below the rule (`--- ------`) and the indented lines after it.
    """
    rule: list[int] | None = None
    words: _Words = []
    starts: list[list[int]] = []
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        continues = bool(words) and line[:1].isspace() and bool(stripped)
        if words and not continues:
            yield words, starts, rule or []
            words, starts = [], []
        if stripped and _RULE.fullmatch(stripped):
            rule = [match.start() for match in re.finditer(r"-+", line)]
        elif not stripped:
            continue
        elif rule is not None and (continues or not line[:1].isspace()):
            matches = list(re.finditer(r"\S+", line))
            words.append([match[0] for match in matches])
            starts.append([match.start() for match in matches])
