"""Through which portals is a target offered?

Through those of its node records, the configured ones first; where there is no record at all,
through those that a discovery at the configured portals finds, which are asked in turn.
"""

from __future__ import annotations

import time
import zlib

from auto_iscsi import attempts, chap, claims, errors, initiator, keys, nodes, portals
from auto_iscsi.host import Host
from auto_iscsi.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auto_iscsi.wanted import Settings

UNREACHABLE = "is the portal up and reachable?"
_CONNECT = 3.0  # seconds for a TCP connection: one SYN may be lost


class Problem(NamedTuple):
    """Why one way in is closed, and what to do."""

    why: str
    hint: str
    last: bool = False  #: no other way in is to be tried


class Search(NamedTuple):
    """A search for the portals of one target, which the caller holds."""

    host: Host
    target: str  #: folded
    settings: Settings
    until: float  #: time.monotonic(), for everything

    @property
    def limit(self) -> initiator.Limit:
        """How long one request may take."""
        # iscsid itself gives up at login_timeout, when the record is ours: a second for its word.
        return initiator.Limit(self.settings.login_timeout + 1, self.until)

    def records(self, problems: list[Problem]) -> Iterator[nodes.Record]:
        """Yield the portals to try, and note why there are no others; raise NoRecord."""
        known = nodes.find_all(self.host, self.target)
        if known and not (self.settings.portals and self._are_some_of_ours(known)):
            yield from in_order(known, self.settings)
            return
        if not self.settings.portals:
            raise no_record(self.target)
        there = {record.portal: record for record in known}
        for portal in self.settings.portals:
            place = f"discovery at {portal}"
            end = initiator.Limit(self.settings.login_timeout, self.until).end
            if unreachable := reachable(portal, end):
                problems.append(Problem(f"{place}: {unreachable}", UNREACHABLE))
                continue
            answer, offered, wrong = self._ask(portal)
            if offered:
                every = [there.get(record.portal, record) for record in offered]
                yield from in_order(every, self.settings)
                return
            problems.append(Problem(f"{place}: {wrong.why}", wrong.hint))
            if answer.status is None:
                return  # still at it: no further one for this target
        yield from in_order(known, self.settings)

    def _are_some_of_ours(self, known: list[nodes.Record]) -> bool:
        """Say whether there can be more paths than these records: we made them, of one maybe."""
        made = claims.read(self.host, self.target).records
        return self.settings.paths == "all" and {each.portal.folder for each in known} <= set(made)

    def _ask(
        self, portal: portals.Portal
    ) -> tuple[initiator.Answer, list[nodes.Record], Problem]:
        """Return what a portal offers, or why not: by its answer of a moment ago, to whomever.

        Raise TooOften when it was asked in vain too often.
        """
        proven = chap.of_settings(self.host, self.settings) if self.settings.chap_user else []
        if early := chap.refused(self.host, f"discovery-{portal}", proven):
            return initiator.Answer(initiator.REFUSED, ""), [], Problem(*early)
        name = f"{portal}"
        if proven:  # it can offer other targets to another user
            name += f"-{zlib.crc32(self.settings.chap_user.encode()):08x}"
        turn = claims.lock(self.host, f"discovery/{portal}", self.until)
        if turn is None:
            why = f"{self.target}: other targets' discoveries took too long"
            raise errors.Busy(why, "try again")
        try:
            text = attempts.offered(self.host, name)
            answer, hint = initiator.Answer(initiator.OK, text or ""), ""
            if text is None:
                most = self.settings.attempts
                began = attempts.begin(self.host, f"{portal}", most, self.until)
                answer, hint = self._discover(portal, proven)
                if answer.status in (initiator.OK, initiator.NOTHING_FOUND):
                    attempts.undo(self.host, f"{portal}", began, self.until)
                    attempts.keep_offered(self.host, name, answer.text)
        finally:
            claims.unlock(self.host, f"discovery/{portal}", turn)
        offered = listed(self.target, answer.text)
        if answer.status in (initiator.OK, initiator.NOTHING_FOUND):
            why = f"the target is not offered to {initiator_name(self.host)}"
            return answer, offered, Problem(why, "present it at the SAN")
        return answer, offered, Problem(answer.why, hint)

    def _discover(
        self, portal: portals.Portal, proven: list[str]
    ) -> tuple[initiator.Answer, str]:
        """Ask a portal, with CHAP where that is needed; return its answer and what to do."""
        must = proven and self.settings.chap_discovery == "mutual"
        answer = initiator.Answer(initiator.REFUSED, "")
        if not must:
            answer = initiator.discover(self.host, self.target, portal, self.limit, {})
        if not proven or answer.status != initiator.REFUSED:
            return answer, answer.hint
        files = chap.for_discovery(self.host, self.settings)
        answer = initiator.discover(self.host, self.target, portal, self.limit, files)
        refused = answer.status == initiator.REFUSED
        if refused:
            chap.remember(self.host, f"discovery-{portal}", proven)
        if refused or answer.status == initiator.FATAL_LOGIN:
            return answer, chap.advice(self.settings, refused)
        return answer, answer.hint


def reachable(portal: portals.Portal, until: float) -> str:
    """Return "" when the portal takes a TCP connection, else the reason.

    iscsid has no quicker way to say that nobody is there than the record's own timeouts: 122
    seconds with the defaults, and an administrator's record is not ours to change.
    """
    from auto_iscsi.light import socket

    seconds = max(0.1, min(_CONNECT, until - time.monotonic()))
    family = socket.AF_INET6 if ":" in portal.address else socket.AF_INET
    ours = socket.socket(family, socket.SOCK_STREAM)
    try:
        ours.settimeout(seconds)
        ours.connect((portal.address, portal.port))
    except (TimeoutError, socket.timeout):  # two before Python 3.10
        return f"no answer to a TCP connection in {seconds:.0f} s"
    except OSError as error:
        return (error.strerror or "no TCP connection").lower()
    finally:
        ours.close()
    return ""


def listed(target: str, text: str) -> list[nodes.Record]:
    """Return where `target` is offered, by the answer to a discovery; no records are there yet."""
    offered = filter(None, map(portals.from_send_targets, text.splitlines()))
    return [nodes.Record(name, place, "") for name, place in offered if keys.fold(name) == target]


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


def initiator_name(host: Host) -> str:
    """Return how the SAN knows this host."""
    text = host.read("/etc/iscsi/initiatorname.iscsi") or ""
    names = [line.partition("=")[2] for line in text.splitlines() if line[:1] == "I"]
    return names[0].strip() if names else "a host without an initiator name"
