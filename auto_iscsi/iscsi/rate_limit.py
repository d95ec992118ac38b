"""How often may the SAN be asked for what it does not give?

Any user can type any name, and automount remembers what failed for a second only, so we limit what
reaches the SAN. What a portal offered is not asked again for a moment, whatever name it is about:
all names that anybody invents cost it one discovery then. Logins and discoveries that fail are
counted over the last minute, for the whole host, since names are free; one target or portal may
use up a quarter, so that a job that tries one dead snapshot for ever stops nobody else.

/run/auto-iscsi/attempts has a line for each: when (CLOCK_BOOTTIME, seconds), and of what.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.iscsi import claims
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

FRESH = 2.0  #: seconds for which a portal's answer is its answer
_MINUTE = 60.0
_SHARE = 4  # one target or portal has this part of all attempts


def begin(host: Host, subject: str, most: int, until: float) -> float:
    """Count an attempt before it is made; return its name for undo(). Raise TooOften.

    `most`: in a minute; `until`: time.monotonic(), for the file's lock.
    """
    now = round(claims.now(), 3)  # as the file has it

    def change(lines: list[tuple[float, str]]) -> None:
        own = [when for when, which in lines if which == subject]
        share = max(1, most // _SHARE)
        if len(own) < share and len(lines) < most:
            lines.append((now, subject))
            return
        # The n-th from the end has to be over a minute old for another one to be the n-th.
        free = own[-share] if len(own) >= share else lines[-most][0]
        raise errors.TooOften(
            f"{subject}: {max(len(own), 1)} failed attempts in the last minute, "
            f"{len(lines)} on this host",
            f"try again in {free + _MINUTE - now:.0f} s; see attempts in auto.iscsi.conf(5)",
        )

    _change(host, until, change)
    return now


def undo(host: Host, subject: str, began: float, until: float) -> None:
    """Forget an attempt: the SAN gave what it was asked for."""

    def change(lines: list[tuple[float, str]]) -> None:
        lines[:] = [each for each in lines if each != (began, subject)]

    _change(host, until, change)


def offered(host: Host, portal: str) -> str | None:
    """Return what a portal answered to a discovery a moment ago, None if it was longer ago."""
    when, _, text = (host.read(f"{claims.FOLDER}/offered/{portal}") or "").partition("\n")
    try:
        return text if 0 <= claims.now() - float(when) < FRESH else None
    except ValueError:
        return None


def keep_offered(host: Host, portal: str, text: str) -> None:
    """Keep what a portal answered just now."""
    claims.write_file(host, f"offered/{portal}", f"{claims.now():.3f}\n{text}")


def _change(host: Host, until: float, change: Callable[[list[tuple[float, str]]], None]) -> None:
    """Read the attempts of the last minute, change them, and write them."""
    handle = claims.lock(host, "lock-attempts", until)
    if handle is None:
        raise errors.Busy("too many lookups at once", "try again")
    try:
        lines = []
        for line in (host.read(f"{claims.FOLDER}/attempts") or "").splitlines():
            when, _, subject = line.partition(" ")
            if 0 <= claims.now() - float(when) < _MINUTE:
                lines.append((float(when), subject))
        change(lines)
        claims.write_file(host, "attempts", "".join(f"{when:.3f} {of}\n" for when, of in lines))
    finally:
        claims.unlock(host, "lock-attempts", handle)
