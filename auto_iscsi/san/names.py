"""Take the name of a target apart into the volume and the time of its snapshot.

BUILT_IN has the forms in which arrays and snapshot programs name snapshots. `snapshot_name` adds
templates of one's own (config/templates), which are tried first. Nothing is guessed: a name that a
template fits in two ways is no snapshot's, and is reported as such.
"""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Sequence
from datetime import MAXYEAR, MINYEAR, datetime, timedelta, timezone
from typing import NamedTuple

from auto_iscsi.config import templates
from auto_iscsi.config.templates import ANY, DATE, HEX, LITERAL, ONE, UTC, VOLUME

_FEW = 2  # `*` and {hex} that a regular expression may have beside the volume
LOCAL = "local"  #: the value of the setting `timezone` for this host's own

#: Templates, each with whose names they are. The first that fits decides.
BUILT_IN = {
    # Dell EqualLogic: VOLUME-DATE.NUMBER behind four numbers of the group's
    "iqn.2001-05.com.equallogic:{hex}-{hex}-{hex}-{hex}-{volume}"
    "-{date:%Y-%m-%d-%H:%M:%S}.*": "EqualLogic",
    "iqn.2001-05.com.equallogic:{volume}-{date:%Y-%m-%d-%H:%M:%S}.*": "EqualLogic",
    # ZFS: sanoid and zrepl
    "*:{volume}-autosnap_{date:%Y-%m-%d_%H:%M:%S}_*": "sanoid",
    "*:{volume}.autosnap_{date:%Y-%m-%d_%H:%M:%S}_*": "sanoid",
    "*:{volume}-zrepl_{utc:%Y%m%d_%H%M%S}_000": "zrepl",
    "*:{volume}.zrepl_{utc:%Y%m%d_%H%M%S}_000": "zrepl",
    # NetApp ONTAP: a schedule's name and a date
    "*:{volume}-hourly.{date:%Y-%m-%d_%H%M}": "ONTAP",
    "*:{volume}-daily.{date:%Y-%m-%d_%H%M}": "ONTAP",
    "*:{volume}-weekly.{date:%Y-%m-%d_%H%M}": "ONTAP",
    # Dell PowerStore: RULE-RESOURCE-DATE, in UTC
    "*:{volume}-{utc:%Y-%m-%dt%H:%M:%Sz}": "PowerStore",
    # Forms that administrators give LVM snapshots and the like
    "*:{volume}-{date:%Y-%m-%d-%H:%M:%S}": "LVM and others",
    "*:{volume}-{date:%Y-%m-%d_%H:%M:%S}": "LVM and others",
    "*:{volume}-{date:%Y-%m-%d-%H%M%S}": "LVM and others",
    "*:{volume}-{date:%Y%m%d-%H%M%S}": "LVM and others",
    "*:{volume}-{date:%Y%m%d%H%M%S}": "LVM and others",
}


class Snapshot(NamedTuple):
    """What the name of a snapshot says."""

    volume: str
    time: datetime  #: in UTC
    template: str  #: the one that fits


class Ambiguous(NamedTuple):
    """A name that a template fits in more than one way."""

    template: str


def is_volume(text: str) -> bool:
    """Tell whether a text can be the name of a volume, as templates or SANs give it."""
    return (
        0 < len(text) <= 223
        and text[0].isalnum()
        and text.isascii()
        and text == text.lower()
        and set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    )


def take_apart(name: str, own: Sequence[str], zone: str) -> Snapshot | Ambiguous | None:
    """Return what a folded target name says, None when it fits no template.

    own: the templates of the setting `snapshot_name`, in order. zone: the setting `timezone`.
    """
    for template in (*own, *BUILT_IN):
        expression = _expression(template)
        shortest, longest = _fits(name, template, expression)
        if shortest is None:
            continue
        if shortest != longest:
            return Ambiguous(template)
        volume, text = shortest
        time = _time(text, expression.form, expression.is_utc, zone)
        if time and MINYEAR < time.year < MAXYEAR:  # so that each time zone has it
            return Snapshot(volume, time, template)
    return None


def _fits(
    name: str, template: str, expression: _Expression
) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """Return volume and time, with short and with long parts for `*` and volume; None: no fit."""
    if expression.is_slow and template not in BUILT_IN:
        from auto_iscsi.san import template_fit

        fit = template_fit.Fit(name, templates.parse(template), expression.time)
        return fit.groups(True), fit.groups(False)
    match = expression.shortest.fullmatch(name)
    other = expression.longest.fullmatch(name) if match else None
    if match is None or other is None:  # the two differ only in what they prefer
        return None, None
    return (match["volume"], match["time"]), (other["volume"], other["time"])


class _Expression(NamedTuple):
    """A template as regular expressions that prefer short, and long, parts for `*` and volume."""

    shortest: re.Pattern[str]
    longest: re.Pattern[str]
    time: re.Pattern[str]  #: the date alone
    is_slow: bool  #: some names would take the two above hours
    form: str
    is_utc: bool


@functools.cache
def _expression(template: str) -> _Expression:
    parts = templates.parse(template)
    date = next(part for part in parts if part.kind in (DATE, UTC))
    return _Expression(
        re.compile("".join(_group(part, "?") for part in parts)),
        re.compile("".join(_group(part, "") for part in parts)),
        re.compile(_group(date, "")),
        sum(part.kind in (ANY, HEX) for part in parts) > _FEW,
        date.text,
        date.kind == UTC,
    )


def _group(part: templates.Part, lazy: str) -> str:
    if part.kind == LITERAL:
        return re.escape(part.text)
    if part.kind == VOLUME:
        return f"(?P<volume>[a-z0-9]{templates.VOLUME_CHARACTERS}*{lazy})"
    if part.kind == HEX:
        return "[0-9a-f]+"
    if part.kind in (ANY, ONE):
        return f".*{lazy}" if part.kind == ANY else "."
    text = re.sub(r"%(.)|(.)", _directive, part.text, flags=re.DOTALL)
    return f"(?P<time>{text})"


def _directive(match: re.Match[str]) -> str:
    return templates.DIRECTIVES[match[1]] if match[1] else re.escape(match[2].lower())


def _time(text: str, form: str, is_utc: bool, zone: str) -> datetime | None:
    """Return a point in time, in UTC; None for a day or an hour that does not exist."""
    try:
        if form.strip() == "%s":
            return datetime.fromtimestamp(int(text), timezone.utc)
        # Both in lower case: strptime compares without case, and a letter such as T is literal.
        local = datetime.strptime(text, _lowered(form))
        if is_utc:
            return local.replace(tzinfo=timezone.utc)
        return _in_zone(local, zone)
    except (ValueError, OverflowError, OSError):
        return None


def _lowered(form: str) -> str:
    """Return a format with its literal characters in lower case."""
    return re.sub(r"%.|.", lambda m: m[0] if m[0][0] == "%" else m[0].lower(), form)


def _in_zone(local: datetime, zone: str) -> datetime | None:
    """Return a local time in UTC; None for one that the change to summer time skips.

    The hour that comes twice when summer time ends is the first of the two.
    """
    if zone == LOCAL:
        time = local.astimezone(timezone.utc)
        back = time.astimezone().replace(tzinfo=None)
    else:
        info = zoneinfo.ZoneInfo(zone)
        time = local.replace(tzinfo=info).astimezone(timezone.utc)
        back = time.astimezone(info).replace(tzinfo=None)
    return time if abs(back - local) < timedelta(seconds=1) else None
