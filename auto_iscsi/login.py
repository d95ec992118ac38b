"""Through which portal do we get in?

A lost session first, if iscsid can mend it; then the portals of the node records, the configured
ones first; then, when there is no record at all, those that a discovery at the configured portals
finds. One portal after the other, each within login_timeout.
"""

from __future__ import annotations

import time

from auto_iscsi import (
    attempts,
    claims,
    errors,
    initiator,
    nodes,
    pending,
    sessions,
    udev,
)
from auto_iscsi.host import Host
from auto_iscsi.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auto_iscsi.wanted import Settings

_UNREACHABLE = "is the portal up and reachable?"
_SETTLE = 2.0  # seconds from iscsiadm's answer to the session's state in sysfs


class Problem(NamedTuple):
    """Why one way in is closed, and what to do."""

    why: str
    hint: str


class Login(NamedTuple):
    """A login to one target, which the caller holds."""

    host: Host
    target: str  #: folded
    settings: Settings
    until: float  #: time.monotonic(), for everything
    events: udev.Listener

    def open(self) -> sessions.Session:
        """Return a session that is up; raise SessionLost, LoginFailed or NoRecord."""
        lost = sessions.find_all(self.host, self.target)
        for session in lost:
            recovered = self._recovered(session)
            if recovered:
                return recovered
        problems = [
            Problem(
                f"session {s.sid} through {s.portal} is {s.state} and cannot be brought back",
                "mend the way to the portal: iscsid keeps trying",
            )
            for s in lost
        ]
        for record in self._records(problems):
            if any(record.portal.same_place(session.portal) for session in lost):
                continue
            place = f"login through {record.portal}"
            if unreachable := self._unreachable(record):
                problems.append(Problem(f"{place}: {unreachable}", _UNREACHABLE))
                continue
            answer = self._try(record)
            found = self._up(answer)
            if found:
                return found
            why, hint = self._verdict(record, answer)
            problems.append(Problem(f"{place}: {why}", hint))
            if answer.status in (None, initiator.REFUSED):
                break  # still at it, or a secret that is wrong at every portal: no further try
        kind = errors.SessionLost if len(problems) == len(lost) else errors.LoginFailed
        reasons = ", ".join(problem.why for problem in problems)
        raise kind(f"{self.target}: {reasons}", problems[-1].hint)

    def _limit(self) -> initiator.Limit:
        # iscsid itself gives up at login_timeout, when the record is ours: a second for its word.
        return initiator.Limit(self.settings.login_timeout + 1, self.until)

    def _within(self, seconds: float) -> float:
        return min(self.until, time.monotonic() + seconds)

    def _recovered(self, session: sessions.Session) -> sessions.Session | None:
        """Wait for iscsid to mend a lost session, if its portal answers at all."""
        until = self._within(self.settings.login_timeout)
        if initiator.reachable(session.portal, until):
            return None

        def up() -> sessions.Session | None:
            now = sessions.read(self.host, session.sid)
            return now if now and now.up else None

        return self.events.wait_for(up, until)

    def _records(self, problems: list[Problem]) -> Iterator[nodes.Record]:
        """Yield the portals to try; discover them when there is no record."""
        known = nodes.find_all(self.host, self.target)
        if known:
            yield from in_order(known, self.settings)
            return
        if not self.settings.portals:
            raise no_record(self.target)
        for portal in self.settings.portals:
            place = f"discovery at {portal}"
            end = self._within(self.settings.login_timeout)
            if unreachable := initiator.reachable(portal, end):
                problems.append(Problem(f"{place}: {unreachable}", _UNREACHABLE))
                continue
            most = self.settings.attempts
            answer, offered = initiator.discover(
                self.host, self.target, portal, self._limit(), most
            )
            if offered:
                yield from in_order(offered, self.settings)
                return
            if answer.status in (initiator.OK, initiator.NOTHING_FOUND):
                name = self._initiator_name()
                why, hint = f"the target is not offered to {name}", "present it at the SAN"
            else:
                why, hint = answer.why, answer.hint
            problems.append(Problem(f"{place}: {why}", hint))
            if answer.status is None:
                return  # still at it: no further one for this target

    def _unreachable(self, record: nodes.Record) -> str:
        """Say why a portal cannot be reached; "" when it can, or when only iscsid can tell.

        A record that is bound to an interface goes another way than our own connection would.
        """
        if record.path and self.host.names(record.path) not in ([], ["default"]):
            return ""
        return initiator.reachable(record.portal, self._within(self.settings.login_timeout))

    def _try(self, record: nodes.Record) -> initiator.Answer:
        """Log in through a portal, making its record first when there is none."""
        tmo = self.settings.replacement_timeout
        claim = claims.read(self.host, self.target)
        if claim.asked:  # by a run that was killed, or that did not wait for the end
            claim = pending.settle(self.host, self.target, self._limit().end, tmo)
            if claim.asked:
                raise initiator.still_at_it(self.target)
            if any(map(claim.owns, sessions.find_all(self.host, self.target))):
                return initiator.Answer(initiator.OK, "")
        name = f"{record.portal.address},{record.portal.port},{record.portal.tpgt}"
        mine = not record.path or name in claim.records
        began = attempts.begin(self.host, self.target, self.settings.attempts, self.until)
        pending.ask(self.host, self.target, name, mine)
        limit = self._limit()
        answer = initiator.Answer(initiator.OK, "")
        if mine:
            answer = initiator.make_record(self.host, self.target, record, self.settings, limit)
        if answer.status == initiator.OK:
            answer = initiator.login(self.host, self.target, record, limit)
        if answer.status is None:
            return answer
        if answer.status in (initiator.OK, initiator.SESSION_EXISTS):
            attempts.undo(self.host, self.target, began, self.until)
        # Of a login that failed there can be a session all the same: iscsid was restarted in it.
        seen = "" if answer.status == initiator.SESSION_EXISTS else name
        claim = pending.settle(self.host, self.target, self._within(1), tmo, seen)
        failed = answer.status not in (initiator.OK, initiator.SESSION_EXISTS)
        if failed and not any(map(claim.owns, sessions.find_all(self.host, self.target))):
            if mine:
                initiator.delete_record(self.host, self.target, record, limit)
            pending.forget(self.host, self.target, name)
        return answer

    def _up(self, answer: initiator.Answer) -> sessions.Session | None:
        """Return the session that a login opened, once sysfs says that it is up."""
        if answer.status not in (initiator.OK, initiator.SESSION_EXISTS):
            return None

        def up() -> sessions.Session | None:
            known = sessions.find_all(self.host, self.target)
            return known[0] if known and known[0].up else None

        # "Session exists" can be a login of somebody else's that is still under way.
        opened = answer.status == initiator.OK
        seconds = _SETTLE if opened else self.settings.login_timeout
        return self.events.wait_for(up, self._within(seconds))

    def _verdict(self, record: nodes.Record, answer: initiator.Answer) -> tuple[str, str]:
        """Return why a login failed, and what to do."""
        if answer.status is None:
            hint = "systemctl status iscsid"
            if record.path:  # of ours we know it
                tries = nodes.values(self.host, record).get("node.session.initial_login_retry_max")
                hint += f"; the record has initial_login_retry_max = {tries or '?'}"
            seconds = f"{self.settings.login_timeout:.0f}"
            return f"no answer in {seconds} s, iscsiadm is left to go on", hint
        if answer.status in (initiator.OK, initiator.SESSION_EXISTS):
            return f"iscsiadm exit {answer.status}, yet no session is up", "journalctl -u iscsid"
        hint = answer.hint
        if answer.status in (initiator.FATAL_LOGIN, initiator.REFUSED):
            hint += f" (this host is {self._initiator_name()})"
        return answer.why, hint

    def _initiator_name(self) -> str:
        text = self.host.read("/etc/iscsi/initiatorname.iscsi") or ""
        names = [line.partition("=")[2] for line in text.splitlines() if line[:1] == "I"]
        return names[0].strip() if names else "a host without an initiator name"


def in_order(found: list[nodes.Record], settings: Settings) -> list[nodes.Record]:
    """Return records in the order in which they are tried: configured portals first."""

    def place(record: nodes.Record) -> int:
        at = [n for n, portal in enumerate(settings.portals) if portal.same_place(record.portal)]
        return at[0] if at else len(settings.portals)

    return sorted(found, key=place)


def no_record(target: str) -> errors.NoRecord:
    """Return the failure of a target that nobody says where to find."""
    return errors.NoRecord(
        f"{target}: no node record, and no portals are configured",
        "set portals in /etc/auto.iscsi.conf, or: iscsiadm -m discovery -t st -p PORTAL",
    )
