"""Through which portal do we get in?

A lost session first, if iscsid can mend it; then the portals that the target is offered through
(discovery), one after the other, each within login_timeout. The first that lets us in is enough;
with paths = all each is tried, and one of them is enough too.
"""

from __future__ import annotations

import time

from auto_iscsi import errors
from auto_iscsi.iscsi import (
    chap,
    claims,
    discovery,
    iscsiadm,
    node_records,
    rate_limit,
    sessions,
    unseen_logins,
)
from auto_iscsi.iscsi.discovery import Obstacle
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import udev_events
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from auto_iscsi.config.settings import Settings

_SETTLE = 2.0  # seconds from iscsiadm's answer to the session's state in sysfs


class Login(NamedTuple):
    """A login to one target, which the caller holds."""

    host: Host
    target: str  #: folded
    settings: Settings
    until: float  #: time.monotonic(), for everything
    events: udev_events.Listener

    def open(self) -> tuple[list[sessions.Session], list[str]]:
        """Return sessions that are up, at least one, and why there are no more.

        Raise SessionLost, LoginFailed or NoRecord.
        """
        lost = [s for s in sessions.find_all(self.host, self.target) if not self._ended(s)]
        found: list[sessions.Session] = []
        problems: list[Obstacle] = []
        for session in lost:
            recovered = self._recovered(session)
            found += [recovered] if recovered else []
            if found and not self._all:
                return found, []
            if not recovered:
                hint = "mend the way to the portal: iscsid keeps trying"
                if session.state == sessions.UNBOUND:
                    hint = (
                        f"systemctl restart iscsid; ss -K dport = :{session.portal.port}; "
                        f"iscsiadm -m session -r {session.sid} --logout"
                    )
                problems.append(
                    Obstacle(
                        f"session {session.sid} through {session.portal} is {session.state} and "
                        "cannot be brought back",
                        hint,
                    )
                )
        for record in self._search.records(problems):
            if any(record.portal.has_same_address(session.portal) for session in (*lost, *found)):
                continue
            try:
                opened = self._through(record, problems)
            except errors.TooOften as failure:
                if not found:
                    raise
                problems.append(Obstacle(failure.reason, failure.hint))
                break
            found += [opened] if opened else []
            if (found and not self._all) or (problems and problems[-1].last):
                break
        if found:
            return found, [problem.why for problem in problems]
        kind = errors.SessionLost if len(problems) == len(lost) else errors.LoginFailed
        reasons = ", ".join(problem.why for problem in problems)
        raise kind(f"{self.target}: {reasons}", problems[-1].hint)

    @property
    def _all(self) -> bool:
        return self.settings.paths == "all"

    @property
    def _search(self) -> discovery.Search:
        return discovery.Search(self.host, self.target, self.settings, self.until)

    def _within(self, seconds: float) -> float:
        return min(self.until, time.monotonic() + seconds)

    def _through(
        self, record: node_records.Record, problems: list[Obstacle]
    ) -> sessions.Session | None:
        """Return a session through a portal; note why there is none."""
        place = f"login through {record.portal}"
        if unreachable := self._unreachable(record):
            problems.append(Obstacle(f"{place}: {unreachable}", discovery.UNREACHABLE))
            return None
        mine = self._is_mine(record)
        proven = chap.proof(self.host, self.settings, record, mine)
        if early := chap.refused(self.host, self.target, proven):
            problems.append(Obstacle(f"{place}: {early[0]}", early[1], last=True))
            return None
        answer = self._try(record, mine)
        session = self._up(answer, record)
        if session is None:
            why, hint = self._verdict(record, answer, mine)
            # Still at it, or a secret that is wrong at every portal: no further try.
            last = answer.status in (None, iscsiadm.REFUSED)
            problems.append(Obstacle(f"{place}: {why}", hint, last))
            if answer.status == iscsiadm.REFUSED:
                chap.remember(self.host, self.target, proven)
        return session

    def _ended(self, session: sessions.Session) -> bool:
        """See a logout that is under way to its end, one of ours that iscsid was killed in, too."""
        if session.state != sessions.UNBOUND:
            return False

        def gone() -> bool | None:
            return None if sessions.still_exists(self.host, session) else True

        if not iscsiadm.wait_until_idle(self.host, self.target, self._search.limit.end):
            raise iscsiadm.still_running(self.target)
        if self.events.wait_for(gone, self._within(_SETTLE)):
            return True
        if not claims.read(self.host, self.target).owns(session):
            return False
        iscsiadm.finish(self.host, self.target, session, self._search.limit)
        return bool(self.events.wait_for(gone, self._within(_SETTLE)))

    def _recovered(self, session: sessions.Session) -> sessions.Session | None:
        """Wait for iscsid to mend a lost session, if its portal answers at all."""
        until = self._within(self.settings.login_timeout)
        if discovery.connection_error(session.portal, until):
            return None

        def up() -> sessions.Session | None:
            now = sessions.read(self.host, session.sid)
            return now if now and now.up else None

        return self.events.wait_for(up, until)

    def _unreachable(self, record: node_records.Record) -> str:
        """Say why a portal cannot be reached; "" when it can, or when only iscsid can tell.

        A record that is bound to an interface goes another way than our own connection would.
        """
        if record.path and node_records.interfaces(self.host, record) not in (
            [],
            ["default"],
        ):
            return ""
        return discovery.connection_error(record.portal, self._within(self.settings.login_timeout))

    def _is_mine(self, record: node_records.Record) -> bool:
        """Say whether a record is one that we have made, or have yet to make."""
        made = claims.read(self.host, self.target).records
        return not record.path or record.portal.folder in made

    def _try(self, record: node_records.Record, mine: bool) -> iscsiadm.Answer:
        """Log in through a portal, making its record first when that is ours to make."""
        tmo = self.settings.replacement_timeout
        claim = claims.read(self.host, self.target)
        if claim.asked:  # by a run that was killed, or that did not wait for the end
            claim = unseen_logins.settle(self.host, self.target, self._search.limit.end, tmo)
            if claim.asked:
                raise iscsiadm.still_running(self.target)
            if self._is_there(claim, record):
                return iscsiadm.Answer(iscsiadm.OK, "")
        files = chap.for_record(self.host, self.settings) if mine else {}
        name = record.portal.folder
        began = rate_limit.begin(self.host, self.target, self.settings.attempts, self.until)
        unseen_logins.note_request(self.host, self.target, name, mine)
        limit = self._search.limit
        answer = iscsiadm.Answer(iscsiadm.OK, "")
        if mine:
            answer = iscsiadm.make_record(
                self.host, self.target, record, self.settings, limit, files
            )
        if answer.status == iscsiadm.OK:
            answer = iscsiadm.login(self.host, self.target, record, limit)
        if answer.status is None:
            return answer
        # Of a login that failed there can be a session all the same: iscsid was restarted in it, or
        # another target's record went while iscsiadm looked through them all (6).
        seen = "" if answer.status == iscsiadm.SESSION_EXISTS else name
        claim = unseen_logins.settle(self.host, self.target, self._within(1), tmo, seen)
        if answer.status not in (iscsiadm.OK, iscsiadm.SESSION_EXISTS):
            if not self._is_there(claim, record):
                if mine:
                    iscsiadm.delete_record(self.host, self.target, record, limit)
                unseen_logins.forget_record(self.host, self.target, name)
                return answer
            answer = answer._replace(status=iscsiadm.OK)
        rate_limit.undo(self.host, self.target, began, self.until)
        return answer

    def _is_there(self, claim: claims.Claim, record: node_records.Record) -> bool:
        """Say whether we have opened a session, with paths = all: through this portal."""
        known = filter(claim.owns, sessions.find_all(self.host, self.target))
        return any(not self._all or s.portal.has_same_address(record.portal) for s in known)

    def _up(self, answer: iscsiadm.Answer, record: node_records.Record) -> sessions.Session | None:
        """Return the session that a login opened, once sysfs says that it is up."""
        if answer.status not in (iscsiadm.OK, iscsiadm.SESSION_EXISTS):
            return None

        def up() -> sessions.Session | None:
            for session in sessions.find_all(self.host, self.target):
                if session.up and (not self._all or session.portal.has_same_address(record.portal)):
                    return session
            return None

        # "Session exists" can be a login of somebody else's that is still under way.
        opened = answer.status == iscsiadm.OK
        seconds = _SETTLE if opened else self.settings.login_timeout
        return self.events.wait_for(up, self._within(seconds))

    def _verdict(
        self, record: node_records.Record, answer: iscsiadm.Answer, mine: bool
    ) -> tuple[str, str]:
        """Return why a login failed, and what to do."""
        if answer.status is None:
            hint = "systemctl status iscsid"
            if record.path:  # of ours we know it
                tries = node_records.values(self.host, record).get(
                    "node.session.initial_login_retry_max"
                )
                hint += f"; the record has initial_login_retry_max = {tries or '?'}"
            seconds = f"{self.settings.login_timeout:.0f}"
            return f"no answer in {seconds} s, iscsiadm is left to go on", hint
        if answer.status in (iscsiadm.OK, iscsiadm.SESSION_EXISTS):
            return f"iscsiadm exit {answer.status}, yet no session is up", "journalctl -u iscsid"
        hint = answer.hint
        if answer.status in (iscsiadm.FATAL_LOGIN, iscsiadm.REFUSED):
            if mine and self.settings.chap_user:
                hint = chap.advice(self.settings, answer.status == iscsiadm.REFUSED)
            hint += f" (this host is {discovery.initiator_name(self.host)})"
        return answer.why, hint
