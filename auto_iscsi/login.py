"""Through which portal do we get in?

A lost session first, if iscsid can mend it; then the portals of the node records, the configured
ones first; then, when there is no record at all, those that a discovery at the configured portals
finds. One portal after the other, each within login_timeout.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

from auto_iscsi import claims, errors, initiator, nodes, sessions, udev
from auto_iscsi.host import Host
from auto_iscsi.settings import Settings

_SETTLE = 2.0  # seconds from iscsiadm's answer to the session's state in sysfs


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
            f"session {s.sid} through {s.portal} is {s.state} and cannot be brought back"
            for s in lost
        ]
        hint = ""
        for record in self._records(problems):
            if any(record.portal.same_place(session.portal) for session in lost):
                continue
            problem = self._unreachable(record)
            if not problem:
                answer = self._try(record)
                found = self._up(answer)
                if found:
                    self._opened(found)
                    return found
                problem, hint = self._verdict(record, answer)
                if answer.status in (None, initiator.REFUSED):
                    # Still at it, or a secret that is wrong at every portal: no further try.
                    problems.append(f"login through {record.portal}: {problem}")
                    break
            problems.append(f"login through {record.portal}: {problem}")
        reason = f"{self.target}: {', '.join(problems)}"
        if lost and len(problems) == len(lost):
            raise errors.SessionLost(reason, "mend the way to the portal: iscsid keeps trying")
        raise errors.LoginFailed(reason, hint or "is the portal up and reachable?")

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

    def _records(self, problems: list[str]) -> Iterator[nodes.Record]:
        """Yield the portals to try; discover them when there is no record."""
        known = nodes.find_all(self.host, self.target)
        if known:
            yield from in_order(known, self.settings)
            return
        if not self.settings.portals:
            raise no_record(self.target)
        for portal in self.settings.portals:
            problem = initiator.reachable(portal, self._within(self.settings.login_timeout))
            if not problem:
                until = self._within(self.settings.login_timeout + 1)
                answer, offered = initiator.discover(self.host, self.target, portal, until)
                if offered:
                    yield from in_order(offered, self.settings)
                    return
                problem = answer.why
                if answer.status in (initiator.OK, initiator.NOTHING_FOUND):
                    problem = f"the target is not offered to {self._initiator_name()}"
            problems.append(f"discovery at {portal}: {problem}")

    def _unreachable(self, record: nodes.Record) -> str:
        """Say why a portal cannot be reached; "" when it can, or when only iscsid can tell.

        A record that is bound to an interface goes another way than our own connection would.
        """
        if record.path and self.host.names(record.path) not in ([], ["default"]):
            return ""
        return initiator.reachable(record.portal, self._within(self.settings.login_timeout))

    def _try(self, record: nodes.Record) -> initiator.Answer:
        """Log in through a portal, making its record first when there is none."""
        claim = claims.read(self.host, self.target)
        name = f"{record.portal.address},{record.portal.port},{record.portal.tpgt}"
        mine = not record.path or (claim.ours and claim.record == name)
        asked = claim.ours and claim.sid == -1  # by a run that was killed
        # Before anything is done: were we killed, the next run has to know what is ours.
        claims.write(
            self.host, self.target, claims.Claim(ours=True, record=name if mine else "")
        )
        until = self._within(self.settings.login_timeout + 1)
        if mine:
            answer = initiator.make_record(self.host, self.target, record, self.settings, until)
            if answer.status != initiator.OK:
                return answer
        answer = initiator.login(self.host, self.target, record, until)
        if answer.status == initiator.SESSION_EXISTS and not asked:  # somebody else was quicker
            claims.write(self.host, self.target, claims.Claim(ours=False))
        elif answer.status not in (None, initiator.OK, initiator.SESSION_EXISTS):
            if mine:
                initiator.delete_record(self.host, self.target, record, self._within(_SETTLE))
            claims.drop(self.host, self.target)
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

    def _opened(self, session: sessions.Session) -> None:
        """Note the session, and bound what its loss costs a reader.

        In sysfs, whosever record it was: after that iscsid does not set it back
        (drivers/scsi/scsi_transport_iscsi.c, recovery_tmo_sysfs_override).
        """
        claim = claims.read(self.host, self.target)
        claims.write(self.host, self.target, claim._replace(sid=session.sid))
        with contextlib.suppress(OSError):  # it is gone already: the wait for its disk will say so
            value = f"{self.settings.replacement_timeout:.0f}"
            self.host.write(f"{session.path}/recovery_tmo", value)

    def _verdict(self, record: nodes.Record, answer: initiator.Answer) -> tuple[str, str]:
        """Return why a login failed, and what to do."""
        if answer.status is None:
            tries = nodes.values(self.host, record).get("node.session.initial_login_retry_max", "?")
            return (
                f"no answer in {self.settings.login_timeout:.0f} s, iscsiadm is left to go on",
                f"systemctl status iscsid; the record has initial_login_retry_max = {tries}",
            )
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
