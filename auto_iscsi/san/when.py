"""Select a snapshot by the words that a person has for its time: VOLUME@WHEN.

WHEN is one of

    latest, oldest             the newest one, the oldest one
    -1, -2, …                  the one before the newest, the one before that
    today, yesterday, monday   the newest of that day; a weekday is the last one, and not today
    2010-05-03                 the newest of that day
    2010-05-03T04:00[:30]      the newest one not later; the letter T may be a space or "_"
    04:00, monday 04:00        the same, today or on that day

or the whole name of the target. If a day has no snapshot, that of another day is not taken instead:
an error lists the snapshots that there are. Days are those of the snapshots' time zone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.machine.host import Host
from auto_iscsi.san import catalogue
from auto_iscsi.san.catalogue import Entry

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_MOST = 12  # snapshots that an error lists

FORMS = "latest, oldest, -1, today, yesterday, monday, 2010-05-03, 2010-05-03T04:00 or 04:00"


class _Day(NamedTuple):
    """A day, and the time of that day that must not be passed; None: the end of the day."""

    day: date
    clock: tuple[int, int, int] | None


def split_place(place: str) -> tuple[str, str, str]:
    """Split VOLUME[@WHEN]:/path into its three parts, WHEN "" if it is not given; raise Failure."""
    subject, colon, path = place.partition(":/")
    volume, _, when = subject.partition("@")
    if not (volume and colon):
        raise errors.Failure(
            f"{place} names no file of a snapshot", "write VOLUME:/path or VOLUME@WHEN:/path"
        )
    return volume, when, f"/{path}"


def snapshot(host: Host, volume: str, when: str) -> Entry:
    """Return the snapshot that `when` means, "" for the latest; raise NoSnapshot or Ambiguous."""
    entries = catalogue.refresh(host)[0].of_volume(volume)
    return select(entries, volume, when or "latest", catalogue.now(entries))


def select(entries: Sequence[Entry], volume: str, when: str, now: datetime) -> Entry:
    """Return the snapshot that `when` means; raise NoSnapshot or Ambiguous.

    entries: the snapshots of one volume, the newest first, at least one. now: a time with a zone.
    """
    asked = when.strip().lower()
    if named := [entry for entry in entries if asked in entry.names]:
        return named[0]
    if asked in ("latest", "oldest") or re.fullmatch(r"-\d{1,4}", asked):
        index = {"latest": 0, "oldest": len(entries) - 1}.get(asked)
        index = -int(asked) if index is None else index
        if index >= len(entries):
            raise _none(volume, when, entries)
        return _only(entries, entries[index], volume, when)
    day = _parse(asked, now)
    if day is None:
        raise errors.NoSnapshot(f"{volume}@{when}: {when} is no time", f"write {FORMS}")
    zone = now.tzinfo
    same_day = [entry for entry in entries if _local(entry, zone).date() == day.day]
    if day.clock:
        limit = datetime(*day.day.timetuple()[:3], *day.clock)
        same_day = [
            entry for entry in same_day if _local(entry, zone).replace(tzinfo=None) <= limit
        ]
    if not same_day:
        raise _none(volume, when, entries, day)
    return _only(entries, same_day[0], volume, when)


def _only(entries: Sequence[Entry], chosen: Entry, volume: str, when: str) -> Entry:
    """Return the chosen snapshot; raise Ambiguous when another one has the same time."""
    same = [entry.key for entry in entries if entry.time == chosen.time]
    if len(same) > 1:
        raise errors.Ambiguous(
            f"{volume}@{when}: {len(same)} snapshots have that time: {', '.join(same)}",
            "write the whole name of the target or of the snapshot after the @",
        )
    return chosen


def _none(
    volume: str, when: str, entries: Sequence[Entry], day: _Day | None = None
) -> errors.NoSnapshot:
    """Return the failure, with the day that a word such as monday came to."""
    asked = f"snapshot of {day.day}" if day else "such snapshot"
    if day and day.clock:
        asked += " up to {:02}:{:02}:{:02}".format(*day.clock)
    times = [str(entry.text) for entry in entries]
    listed = ", ".join(times[:_MOST])
    more = f" and {len(times) - _MOST} more" if len(times) > _MOST else ""
    return errors.NoSnapshot(
        f"{volume}@{when}: there is no {asked}; there are {listed}{more}",
        f"run auto-iscsi list {volume}",
    )


def _local(entry: Entry, zone: tzinfo | None) -> datetime:
    return entry.time.astimezone(zone)


def parse_day(text: str, now: datetime) -> date | None:
    """Return the day that a word means, None for a word that means none."""
    day = text.strip().lower()
    if day in ("today", "yesterday"):
        return now.date() - timedelta(days=day == "yesterday")
    if day in _WEEKDAYS:
        back = (now.weekday() - _WEEKDAYS.index(day)) % 7 or 7
        return now.date() - timedelta(days=back)
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", day):
        return None
    try:
        return date.fromisoformat(day)
    except ValueError:
        return None


def _parse(text: str, now: datetime) -> _Day | None:
    day, _, clock = re.sub(r"(?<=\d)t(?=\d)|_", " ", text).rpartition(" ")
    if not (match := _CLOCK.fullmatch(clock)):
        whole = parse_day(f"{day} {clock}", now)
        return _Day(whole, None) if whole else None
    hour, minute, second = (int(each) if each else 0 for each in match.groups())
    if match[3] is None:
        second = 59  # 04:00 also means a snapshot at 04:00:01
    chosen = parse_day(day, now) if day.strip() else now.date()
    if chosen is None or hour > 23 or minute > 59 or second > 59:
        return None
    return _Day(chosen, (hour, minute, second))
