"""Find the portals through which a target can be reached.

They are those of its node records. If the target has no record, the configured portals are asked in
turn which portals offer it (SendTargets discovery). Configured portals are tried before others.

Discoveries take turns: all of them have one ISID (open-iscsi usr/discovery.c), so a SAN ends the
first when a second one begins (RFC 7143, 6.3.5). Of four at once, at two portals of one SAN, three
ended with exit code 11 (seen with 2.1.8). But a portal can accept the connection and say nothing,
and iscsiadm stays with it for half a minute or more. So nobody waits longer than a second for a
turn: at a silent portal there is no session that another discovery could end. And a portal that has
just failed, or that another lookup still waits for, is asked after the others.
"""

from __future__ import annotations

import binascii
import os
import time

from auto_iscsi import errors, keys, portals
from auto_iscsi.iscsi import chap, claims, iscsiadm, node_records, rate_limit, record_ledger
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, suppress
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auto_iscsi.config.settings import Settings

UNREACHABLE = "is the portal up and reachable?"
KNOW_IT = "set portals in /etc/auto.iscsi.conf, or: iscsiadm -m discovery -t st -p PORTAL"
_CONNECT = 3.0  # seconds for a TCP connection, enough if one SYN is lost
_TURN = "discovery/turn"  # the lock of the discovery whose turn it is
_TURN_WAIT = 1.0  # seconds to wait for it
_ANSWER = 2.0  # seconds after which a discovery counts as slow


class Obstacle(NamedTuple):
    """Why there is no session through one portal, and what to do."""

    why: str
    hint: str
    last: bool = False  #: no other portal is tried


class Search(NamedTuple):
    """A search for the portals of one target, which the caller holds."""

    host: Host
    target: str  #: folded
    settings: Settings
    until: float  #: when everything has to be over (time.monotonic())

    @property
    def limit(self) -> iscsiadm.Limit:
        """The time limit of one iscsiadm.

        With a record of ours iscsid itself gives up at login_timeout: one second more, so that
        iscsiadm can say so.
        """
        return iscsiadm.Limit(self.settings.login_timeout + 1, self.until)

    def records(self, obstacles: list[Obstacle]) -> Iterator[node_records.Record]:
        """Yield a node record for each portal to try, existing or not; raise NoRecord.

        What keeps a discovery from finding portals is appended to `obstacles`.
        """
        known = node_records.find_all(self.host, self.target)
        if known and not self._may_be_incomplete(known):
            yield from configured_first(known, self.settings)
            return
        if not self.settings.portals:
            raise no_record(self.target)
        existing = {record.portal: record for record in known}
        offered = self._offered(obstacles, bool(known))
        records = [existing.get(record.portal, record) for record in offered]
        yield from configured_first(records or known, self.settings)

    def list_offered(self) -> set[str]:
        """Return the targets, folded, that the first portal offers that answers at all."""
        for portal in self.settings.portals:
            with suppress(errors.TooOften):
                answer = self.ask(portal)
                if isinstance(answer, str):
                    return {keys.fold(name) for name, _ in list_offers(answer)}
        return set()

    def _offered(self, obstacles: list[Obstacle], is_known: bool) -> list[node_records.Record]:
        """Return the target's portals as the first portal that offers it names them; [] if none.

        A portal that does not answer another lookup either is asked last. Raise TooOften if a
        portal may not be asked now, unless the target `is_known` by node records.
        """
        too_often: errors.TooOften | None = None
        slow = rate_limit.subjects(self.host, _ANSWER)
        to_ask = sorted(self.settings.portals, key=lambda portal: str(portal) in slow)
        postponed: set[portals.Portal] = set()
        while to_ask:
            portal = to_ask.pop(0)
            is_last = portal in postponed or not to_ask
            try:
                offered = self._offered_at(portal, None if is_last else _ANSWER)
            except errors.TooOften as failure:
                too_often = failure
                offered = Obstacle(failure.reason, failure.hint)
            if offered is None:
                postponed.add(portal)
                to_ask.append(portal)
            elif isinstance(offered, Obstacle):
                obstacles.append(offered)
            else:
                return offered
        if too_often and not is_known:
            raise too_often
        return []

    def _may_be_incomplete(self, known: list[node_records.Record]) -> bool:
        """Return whether a discovery could find more portals than the known records have.

        That matters with paths = all only. Records that we made can be those of one portal.
        """
        if self.settings.paths != "all" or not self.settings.portals:
            return False
        ours = claims.read(self.host, self.target).records
        return all(
            record.portal.folder in ours or record_ledger.is_ours(self.host, self.target, record)
            for record in known
        )

    def _offered_at(
        self, portal: portals.Portal, patience: float | None
    ) -> list[node_records.Record] | Obstacle | None:
        """Ask a portal for the target's portals; raise TooOften when it was asked too often.

        Return None if another lookup asks it already, and has no answer for `patience` seconds.
        """
        result = self.ask(portal, patience)
        if result is None or isinstance(result, Obstacle):
            return result
        if records := offered_records(self.target, result):
            return records
        reason = f"the target is not offered to {initiator_name(self.host)}"
        hint = "present it at the SAN"
        if ignored := ignored_line(result):
            hint += f"; iscsiadm left targets out: {ignored}"
        return Obstacle(f"discovery at {portal}: {reason}", hint)

    def ask(self, portal: portals.Portal, patience: float | None = None) -> str | Obstacle | None:
        """Return what a portal offers, in iscsiadm's words; raise TooOften, Busy.

        None: another lookup asks it already, and we have waited `patience` seconds for that answer.
        """
        place = f"discovery at {portal}"
        limit = iscsiadm.Limit(self.settings.login_timeout, self.until)
        limit = limit._replace(until=limit.end)
        if reason := connection_error(portal, limit.end):
            return Obstacle(f"{place}: {reason}", UNREACHABLE)
        chap_user = self.settings.chap_user
        credentials = chap.fingerprint_of_settings(self.host, self.settings) if chap_user else []
        if refusal := chap.recent_refusal(self.host, f"discovery-{portal}", credentials):
            reason, hint = refusal
            return Obstacle(f"{place}: {reason}", hint)
        result = self._answer_of(portal, credentials, limit, patience)
        if result is None and patience is not None:
            return None
        if result is None or _is_silent(result[0]):
            reason = f"it accepts connections, but has not answered in {limit.seconds:.0f} s"
            return Obstacle(f"{place}: {reason}", "is an iSCSI target running there?")
        answer, hint = result
        if answer.status not in (iscsiadm.SUCCESS, iscsiadm.NO_OBJS_FOUND):
            offers_target = self.target and offered_records(self.target, answer.text)
            if not offers_target:
                return Obstacle(f"{place}: {answer.why}", hint)
        return answer.text

    def _answer_of(
        self,
        portal: portals.Portal,
        credentials: list[str],
        limit: iscsiadm.Limit,
        patience: float | None,
    ) -> tuple[iscsiadm.Answer, str] | None:
        """Return what a portal offers, and what to do if it offers nothing.

        An answer of the last two seconds to a lookup of any target will do, or one that has come
        since we wait. Several lookups take turns, so that all but the first find such an answer,
        however slow the portal is. Return None when the discovery before ours has no answer within
        `patience` seconds, or within the limit.
        """
        name = offer_name(portal, self.settings)
        until = limit.end if patience is None else min(limit.end, time.monotonic() + patience)
        began = claims.now()
        handle = claims.lock(self.host, f"discovery/{portal}", until)
        if handle is None:
            return None
        still_runs = False
        try:
            text = rate_limit.recent_offer(self.host, name, claims.now() - began)
            if text is not None:
                return iscsiadm.Answer(iscsiadm.SUCCESS, text), ""
            attempt = rate_limit.begin(self.host, f"{portal}", self.settings.attempts, self.until)
            still_runs = True
            answer, hint = self._discover_in_turn(portal, handle, credentials, limit)
            still_runs = answer.status is None
            if answer.status in (iscsiadm.SUCCESS, iscsiadm.NO_OBJS_FOUND):
                rate_limit.undo(self.host, f"{portal}", attempt, self.until)
                rate_limit.remember_offer(self.host, name, answer.text)
            return answer, hint
        finally:
            if still_runs:
                os.close(handle)  # iscsiadm holds it
            else:
                claims.unlock(self.host, f"discovery/{portal}", handle)

    def _discover_in_turn(
        self, portal: portals.Portal, handle: int, credentials: list[str], limit: iscsiadm.Limit
    ) -> tuple[iscsiadm.Answer, str]:
        """Run a discovery beside which no other one runs, unless that one takes too long.

        Two discoveries that meet at one SAN both end without an answer: ours is run once more then.
        """
        turn = claims.lock(self.host, _TURN, min(limit.end, time.monotonic() + _TURN_WAIT))
        try:
            answer, hint = self._discover(portal, handle, credentials, limit)
            if answer.status == iscsiadm.PDU_TIMEOUT:
                turn = turn or claims.lock(self.host, _TURN, limit.end)
                answer, hint = self._discover(portal, handle, credentials, limit)
            return answer, hint
        finally:
            if turn is not None:
                claims.unlock(self.host, _TURN, turn)

    def _discover(
        self, portal: portals.Portal, handle: int, credentials: list[str], limit: iscsiadm.Limit
    ) -> tuple[iscsiadm.Answer, str]:
        """Run a discovery, with CHAP where the portal requires it; return what to do, too."""
        if not (credentials and self.settings.chap_discovery == "mutual"):
            answer = iscsiadm.discover(self.host, portal, handle, limit, {})
            if not credentials or answer.status != iscsiadm.LOGIN_AUTH_FAILED:
                return answer, answer.hint
        files = chap.files_for_discovery(self.host, self.settings)
        answer = iscsiadm.discover(self.host, portal, handle, limit, files)
        is_refused = answer.status == iscsiadm.LOGIN_AUTH_FAILED
        if is_refused:
            chap.remember_refusal(self.host, f"discovery-{portal}", credentials)
        if is_refused or answer.status == iscsiadm.FATAL_LOGIN:
            return answer, chap.advice(self.settings, is_refused)
        return answer, answer.hint


def offer_name(portal: portals.Portal, settings: Settings) -> str:
    """Return the name under which a portal's answer is remembered (rate_limit.remember_offer).

    A portal can offer other targets to another user.
    """
    user = settings.chap_user
    return f"{portal}-{binascii.crc32(user.encode()):08x}" if user else f"{portal}"


def connection_error(portal: portals.Portal, until: float) -> str:
    """Return "" when the portal accepts a TCP connection, else the reason.

    iscsid reports a dead portal only after the record's own timeouts: 122 seconds with the
    defaults, and an administrator's record is not ours to change.
    """
    from auto_iscsi.lean_stdlib import socket

    seconds = max(0.1, min(_CONNECT, until - time.monotonic()))
    family = socket.AF_INET6 if ":" in portal.address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect((portal.address, portal.port))
    except (TimeoutError, socket.timeout):  # not the same class before Python 3.10
        return f"no answer to a TCP connection in {seconds:.0f} s"
    except OSError as error:
        return (error.strerror or "no TCP connection").lower()
    finally:
        connection.close()
    return ""


def list_offers(text: str) -> list[tuple[str, portals.Portal]]:
    """Return target and portal of each line of a discovery's answer that has them."""
    # Not splitlines(), which also ends a line at some characters of a name that is not ASCII.
    return [offer for line in text.split("\n") if (offer := portals.from_send_targets(line))]


def offered_records(target: str, text: str) -> list[node_records.Record]:
    """Return records that do not exist yet, one for each portal that a discovery's answer names."""
    return [
        node_records.Record(name, portal, "")
        for name, portal in list_offers(text)
        if keys.fold(name) == target
    ]


def ignored_line(text: str) -> str:
    """Return the line in which iscsiadm says that it ignores part of an answer, "" for none.

    It ends with 0 all the same.
    """
    lines = (line for line in text.split("\n") if "ignoring" in line.lower())
    return ascii(next(lines, ""))[1:-1][:200]


def _is_silent(answer: iscsiadm.Answer) -> bool:
    """Return whether a discovery had no answer, in our time or in iscsiadm's own.

    iscsiadm ends with 19 then, as for a login that is refused (seen with 2.1.8).
    """
    return answer.status is None or (
        answer.status == iscsiadm.FATAL_LOGIN and "Login response timeout" in answer.text
    )


def configured_first(
    records: list[node_records.Record], settings: Settings
) -> list[node_records.Record]:
    """Return records in the order in which they are tried: configured portals first."""

    def place(record: node_records.Record) -> int:
        for number, portal in enumerate(settings.portals):
            if portal.has_same_address(record.portal):
                return number
        return len(settings.portals)

    return sorted(records, key=place)


def no_record(target: str) -> errors.NoRecord:
    """Return the failure of a target without node record, when no portals are configured."""
    return errors.NoRecord(
        f"{target}: no node record, and no portals are configured",
        KNOW_IT,
    )


def initiator_name(host: Host) -> str:
    """Return the name by which the SAN knows this host."""
    text = host.read("/etc/iscsi/initiatorname.iscsi") or ""
    names = [line.partition("=")[2] for line in text.splitlines() if line[:1] == "I"]
    return names[0].strip() if names else "a host without an initiator name"
