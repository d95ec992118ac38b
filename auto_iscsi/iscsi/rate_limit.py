"""Limit how often the SAN is asked for targets that it does not give.

Any user can type any name, and automount remembers a failed key for one second only.

What a portal offers is remembered: within two seconds it costs one discovery, however many names
users invent. The catalogue of snapshots uses the last answer for longer.

Failed logins and discoveries are counted over the last minute, for the whole host, because anybody
can invent names. One target or portal may use a quarter of them, so that a job that tries a deleted
snapshot for ever does not block other targets. /run/auto-iscsi/attempts has a line for each
attempt: its time (seconds of CLOCK_BOOTTIME) and its target or portal.
"""

from __future__ import annotations

import os

from auto_iscsi import errors
from auto_iscsi.iscsi import claims
from auto_iscsi.lean_stdlib import TYPE_CHECKING, suppress
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

OFFERS = f"{claims.FOLDER}/offered"  #: has a file for each portal that has answered
OFFER_LIFETIME = 2.0  #: seconds for which what a portal offers is remembered
_MINUTE = 60.0
_SHARE = 4  # one target or portal may use up one part in so many


def begin(host: Host, subject: str, most: int, until: float) -> float:
    """Count an attempt at `subject`, a target or portal, before it is made; raise TooOften.

    `most`: attempts in a minute, on this host. `until` (time.monotonic()): the time limit for the
    file's lock. Return the attempt's time, by which undo() knows it.
    """
    now = round(claims.now(), 3)  # to milliseconds, as in the file

    def count(attempts: list[tuple[float, str]]) -> None:
        own = [when for when, of in attempts if of == subject]
        share = max(1, most // _SHARE)
        if len(own) < share and len(attempts) < most:
            attempts.append((now, subject))
            return
        # The next attempt is allowed when this one is more than a minute old.
        limiting = own[-share] if len(own) >= share else attempts[-most][0]
        raise errors.TooOften(
            f"{subject}: {max(len(own), 1)} failed attempts in the last minute, "
            f"{len(attempts)} on this host",
            f"try again in {limiting + _MINUTE - now:.0f} s; see attempts in auto.iscsi.conf(5)",
        )

    _change(host, until, count)
    return now


def undo(host: Host, subject: str, began: float, until: float) -> None:
    """Remove an attempt from the count: it succeeded."""

    def remove(attempts: list[tuple[float, str]]) -> None:
        attempts[:] = [attempt for attempt in attempts if attempt != (began, subject)]

    _change(host, until, remove)


def subjects(host: Host, age: float) -> set[str]:
    """Return the targets and portals with an attempt of the last minute that is `age` seconds old.

    It has failed, or is not over yet.
    """
    return {subject for when, subject in _read(host) if claims.now() - when >= age}


def recent_offer(host: Host, portal: str, waited: float = 0.0) -> str | None:
    """Return a portal's answer to a discovery in the last two seconds, None if there was none.

    Whoever has waited for his turn for longer takes an answer that has come since then.
    """
    age, text = last_offer(host, portal)
    return text if 0 <= age < max(OFFER_LIFETIME, waited) else None


def last_offer(host: Host, portal: str) -> tuple[float, str]:
    """Return a portal's last answer to a discovery since the boot, and its age in seconds.

    The age is negative if there was no answer.
    """
    when, _, text = (host.read(f"{OFFERS}/{portal}") or "").partition("\n")
    try:
        return claims.now() - float(when), text
    except ValueError:
        return -1.0, ""


def remember_offer(host: Host, portal: str, text: str) -> None:
    """Keep a portal's answer to a discovery, for two seconds."""
    claims.write_file(host, f"offered/{portal}", f"{claims.now():.3f}\n{text}")


def forget_offer(host: Host, portal: str) -> None:
    """Forget what a portal offered: something was presented there since."""
    with suppress(FileNotFoundError):
        os.unlink(host.path(f"{OFFERS}/{portal}"))


def _change(host: Host, until: float, change: Callable[[list[tuple[float, str]]], None]) -> None:
    """Have `change` change the list of the last minute's attempts, under its lock."""
    handle = claims.lock(host, "lock-attempts", until)
    if handle is None:
        raise errors.Busy("too many lookups at once", "try again")
    try:
        attempts = _read(host)
        change(attempts)
        text = "".join(f"{when:.3f} {subject}\n" for when, subject in attempts)
        claims.write_file(host, "attempts", text)
    finally:
        claims.unlock(host, "lock-attempts", handle)


def _read(host: Host) -> list[tuple[float, str]]:
    """Return the attempts of the last minute, the oldest first."""
    lines = (host.read(f"{claims.FOLDER}/attempts") or "").splitlines()
    pairs = (line.partition(" ") for line in lines)
    attempts = [(float(when), subject) for when, _, subject in pairs]
    return [(when, subject) for when, subject in attempts if 0 <= claims.now() - when < _MINUTE]
