"""Log in to a target.

1. Sessions of the target that are not up: those in a logout are seen to their end, and iscsid gets
   time to bring back those whose connection is lost.
2. The target's portals, one after the other (discovery), each within login_timeout.

The first session that is up ends this, unless no disk can be read through it. With paths = all,
every session and every portal is tried, and one session is enough.
"""

from __future__ import annotations

import time

from auto_iscsi import errors, portals
from auto_iscsi.iscsi import (
    chap,
    claims,
    discovery,
    iscsiadm,
    node_records,
    pending_logins,
    rate_limit,
    record_ledger,
    sessions,
)
from auto_iscsi.iscsi.discovery import Obstacle
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import udev_events
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from auto_iscsi.config.settings import Settings

_SETTLE = 2.0  # seconds from iscsiadm's end until sysfs shows what it did
_LOGGED_IN = (iscsiadm.SUCCESS, iscsiadm.SESS_EXISTS)  # exit codes after which there is a session


class Login(NamedTuple):
    """A login to one target, which the caller holds."""

    host: Host
    target: str  #: folded
    settings: Settings
    until: float  #: when everything has to be over (time.monotonic())
    events: udev_events.Listener
    #: portals through which no disk can be read: a session through one of them is not enough
    passed_over: tuple[portals.Portal, ...] = ()

    def open(self) -> tuple[list[sessions.Session], list[str]]:
        """Return sessions that are up, at least one, and the reasons why there are no more.

        Raise SessionLost, LoginFailed, NoRecord or TooOften.
        """
        existing = sessions.find_all(self.host, self.target)
        up = [session for session in existing if session.up]
        down = [session for session in existing if not session.up]
        lost = [session for session in down if not self._has_logout_ended(session)]
        obstacles: list[Obstacle] = []
        if not self._is_enough(up):
            self._bring_back(lost, up, obstacles)
        if not self._is_enough(up):
            self._try_portals(lost, up, obstacles)
        if not up:
            raise _failure(self.target, obstacles, len(lost))
        return up, [obstacle.why for obstacle in obstacles]

    # Sessions that are not up

    def _has_logout_ended(self, session: sessions.Session) -> bool:
        """Wait for the end of a session's logout; return False when none is going on.

        When iscsid was killed in the middle of a logout that was ours, we log out once more.
        """
        if session.state != sessions.UNBOUND:
            return False
        if not iscsiadm.wait_until_idle(self.host, self.target, self._search.limit.end):
            raise iscsiadm.still_running(self.target)
        if sessions.wait_until_gone(self.host, session, self._within(_SETTLE)):
            return True
        if not claims.read(self.host, self.target).owns(session):
            return False
        iscsiadm.log_out_unbound(self.host, self.target, session, self._search.limit)
        return sessions.wait_until_gone(self.host, session, self._within(_SETTLE))

    def _bring_back(
        self,
        lost: list[sessions.Session],
        up: list[sessions.Session],
        obstacles: list[Obstacle],
    ) -> None:
        """Wait until iscsid has brought lost sessions back; add each to `up` or `obstacles`."""
        for session in lost:
            recovered = self._recovered(session)
            if recovered is None:
                obstacles.append(_lost_session(session))
                continue
            up.append(recovered)
            if self._is_enough(up):
                return

    def _recovered(self, session: sessions.Session) -> sessions.Session | None:
        """Wait until a lost session is up again; return None at once if its portal is dead."""
        until = self._within(self.settings.login_timeout)
        if discovery.connection_error(session.portal, until):
            return None

        def find_up() -> sessions.Session | None:
            current = sessions.read(self.host, session.sid)
            return current if current and current.up else None

        return self.events.wait_for(find_up, until)

    # Portals

    def _try_portals(
        self,
        lost: list[sessions.Session],
        up: list[sessions.Session],
        obstacles: list[Obstacle],
    ) -> None:
        """Log in through the portals, until that is enough or pointless; add to `up`, `obstacles`.

        Raise TooOften or NoRecord if there is no session yet.
        """
        try:
            for record in self._search.records(obstacles):
                if any(record.portal.has_same_address(s.portal) for s in (*lost, *up)):
                    continue  # it has a session already
                result = self._try_portal(record)
                if isinstance(result, Obstacle):
                    obstacles.append(result)
                    if result.last:
                        return
                else:
                    up.append(result)
                    if self._is_enough(up):
                        return
        except (errors.TooOften, errors.NoRecord) as failure:
            if not up:
                raise
            obstacles.append(Obstacle(failure.reason, failure.hint))

    def _try_portal(self, record: node_records.Record) -> sessions.Session | Obstacle:
        """Return a session through a portal, or why there is none; raise TooOften or Busy."""
        place = f"login through {record.portal}"
        if reason := self._connection_error(record):
            return Obstacle(f"{place}: {reason}", discovery.UNREACHABLE)
        claim = claims.read(self.host, self.target)
        is_ours = not record.path or record_ledger.is_made_by_lookup(
            self.host, self.target, record, claim
        )
        credentials = chap.fingerprint(self.host, self.settings, record, is_ours)
        if refusal := chap.recent_refusal(self.host, self.target, credentials):
            reason, hint = refusal
            return Obstacle(f"{place}: {reason}", hint, last=True)
        answer = self._log_in(record, claim, is_ours)
        session = self._wait_until_up(record, answer)
        if session:
            return session
        if answer.status == iscsiadm.LOGIN_AUTH_FAILED:
            chap.remember_refusal(self.host, self.target, credentials)
        reason, hint = self._explanation(record, answer, is_ours)
        # While iscsiadm runs, no other login can start; and no portal takes a wrong secret.
        last = answer.status in (None, iscsiadm.LOGIN_AUTH_FAILED)
        return Obstacle(f"{place}: {reason}", hint, last)

    def _connection_error(self, record: node_records.Record) -> str:
        """Return why a portal cannot be reached; "" when it can, or when we cannot tell.

        We cannot tell if the record is bound to a network interface: our own connection could take
        another route.
        """
        if record.path and node_records.interfaces(self.host, record) not in (
            [],
            ["default"],
        ):
            return ""
        return discovery.connection_error(record.portal, self._within(self.settings.login_timeout))

    def _log_in(
        self, record: node_records.Record, claim: claims.Claim, is_ours: bool
    ) -> iscsiadm.Answer:
        """Log in through a portal, after making its record if that is for us to make.

        OK: there is a session of ours. SESSION_EXISTS: there is one of somebody else.
        """
        if claim.asked:  # by a lookup that was killed, or that did not wait for the end
            claim = self._settle(self._search.limit.end)
            if claim.asked:
                raise iscsiadm.still_running(self.target)
            if self._has_opened(claim, record):
                return iscsiadm.Answer(iscsiadm.SUCCESS, "")
        name = record.portal.folder
        files = chap.files_for_record(self.host, self.settings) if is_ours else {}
        began = rate_limit.begin(self.host, self.target, self.settings.attempts, self.until)
        pending_logins.note_request(self.host, self.target, claim, name, is_ours)
        answer = self._run_iscsiadm(record, files, is_ours)
        if answer.status is None:
            return answer  # the next lookup finds out how it ends
        claim = self._settle(self._within(1), "" if answer.status == iscsiadm.SESS_EXISTS else name)
        if answer.status not in _LOGGED_IN and self._has_opened(claim, record):
            # iscsid was restarted in the middle of the login, or the record of another target was
            # deleted while iscsiadm looked through all of them (exit code 6).
            answer = answer._replace(status=iscsiadm.SUCCESS)
        if answer.status in _LOGGED_IN:
            rate_limit.undo(self.host, self.target, began, self.until)
            return answer
        if is_ours:
            limit = self._search.limit
            deletion = iscsiadm.delete_record(self.host, self.target, record, limit)
            if deletion.status in (iscsiadm.SUCCESS, iscsiadm.NO_OBJS_FOUND):
                record_ledger.drop(self.host, self.target, name)
        pending_logins.forget_record(self.host, self.target, name)
        return answer

    def _run_iscsiadm(
        self, record: node_records.Record, files: dict[str, bytes], is_ours: bool
    ) -> iscsiadm.Answer:
        """Make the record if it is ours, then log in; return the last answer."""
        limit = self._search.limit
        if is_ours:
            record_ledger.note(self.host, self.target, record.portal.folder)
            answer = iscsiadm.make_record(
                self.host, self.target, record, self.settings, limit, files
            )
            if answer.status != iscsiadm.SUCCESS:
                return answer
            record_ledger.complete(self.host, self.target, record.portal.folder)
        return iscsiadm.login(self.host, self.target, record, limit)

    def _settle(self, until: float, record: str | None = None) -> claims.Claim:
        """Find out which sessions are ours (pending_logins.settle)."""
        timeout = self.settings.replacement_timeout
        return pending_logins.settle(self.host, self.target, until, timeout, record)

    def _has_opened(self, claim: claims.Claim, record: node_records.Record) -> bool:
        """Return whether a session is ours, with paths = all: one through this portal."""
        return any(
            claim.owns(session) and self._counts_for(session, record)
            for session in sessions.find_all(self.host, self.target)
        )

    def _wait_until_up(
        self, record: node_records.Record, answer: iscsiadm.Answer
    ) -> sessions.Session | None:
        """Return the session that a login opened, as soon as it is up; None when it failed.

        If a session existed, its login can still be going on: somebody else started it.
        """
        if answer.status not in _LOGGED_IN:
            return None

        def find_up() -> sessions.Session | None:
            for session in sessions.find_all(self.host, self.target):
                if session.up and self._counts_for(session, record):
                    return session
            return None

        is_opened = answer.status == iscsiadm.SUCCESS
        seconds = _SETTLE if is_opened else self.settings.login_timeout
        return self.events.wait_for(find_up, self._within(seconds))

    def _explanation(
        self, record: node_records.Record, answer: iscsiadm.Answer, is_ours: bool
    ) -> tuple[str, str]:
        """Return why a login failed, and what to do."""
        if answer.status is None:
            reason = f"no answer in {self.settings.login_timeout:.0f} s, iscsiadm is left running"
            return reason, "systemctl status iscsid" + self._how_long_iscsid_tries(record)
        if answer.status in _LOGGED_IN:
            reason = f"iscsiadm exit {answer.status}, yet no session is up"
            return reason, "journalctl -u iscsid"
        hint = answer.hint
        is_refused = answer.status == iscsiadm.LOGIN_AUTH_FAILED
        if is_refused or answer.status == iscsiadm.FATAL_LOGIN:
            if is_ours and self.settings.chap_user:
                hint = chap.advice(self.settings, is_refused)
            hint += f" (this host is {discovery.initiator_name(self.host)})"
        return answer.why, hint

    def _how_long_iscsid_tries(self, record: node_records.Record) -> str:
        """Return the end of a hint: the record's setting, "" for a record that we make now."""
        if not record.path:
            return ""
        values = node_records.values(self.host, record)
        tries = values.get("node.session.initial_login_retry_max") or "?"
        return f"; the record has initial_login_retry_max = {tries}"

    # What all steps use

    @property
    def _search(self) -> discovery.Search:
        settings = self.settings
        if self.passed_over:  # a further portal is wanted, as with paths = all
            settings = settings._replace(paths="all")
        return discovery.Search(self.host, self.target, settings, self.until)

    def _within(self, seconds: float) -> float:
        """Return the time (time.monotonic()) in `seconds`, or the end of all if that is sooner."""
        return min(self.until, time.monotonic() + seconds)

    def _is_enough(self, up: list[sessions.Session]) -> bool:
        """Return whether no further session is wanted."""
        return self.settings.paths != "all" and any(map(self._is_useful, up))

    def _is_useful(self, session: sessions.Session) -> bool:
        """Return whether a session leads through a portal that is not passed over."""
        return not any(session.portal.has_same_address(portal) for portal in self.passed_over)

    def _counts_for(self, session: sessions.Session, record: node_records.Record) -> bool:
        """Return whether a session is what a login through a portal is for.

        With paths = all it has to lead through that portal; otherwise any session will do, but for
        those that are passed over.
        """
        if self.settings.paths != "all":
            return self._is_useful(session)
        return session.portal.has_same_address(record.portal)


def _lost_session(session: sessions.Session) -> Obstacle:
    """Return the obstacle that a session is which iscsid has not brought back."""
    hint = "repair the connection to the portal: iscsid keeps trying"
    if session.state == sessions.UNBOUND:
        hint = (
            f"systemctl restart iscsid; ss -K dport = :{session.portal.port}; "
            f"iscsiadm -m session -r {session.sid} --logout"
        )
    reason = (
        f"session {session.sid} through {session.portal} is {session.state} and cannot be "
        "brought back"
    )
    return Obstacle(reason, hint)


def _failure(target: str, obstacles: list[Obstacle], lost: int) -> errors.Failure:
    """Return the failure of a target without a session that is up.

    It is SessionLost if the `lost` sessions are the only obstacles: no other portal was tried.
    """
    kind = errors.SessionLost if len(obstacles) == lost else errors.LoginFailed
    reasons = ", ".join(obstacle.why for obstacle in obstacles)
    return kind(f"{target}: {reasons}", obstacles[-1].hint)
