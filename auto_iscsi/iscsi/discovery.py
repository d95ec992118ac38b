"""Through which portals is a target offered?

Through those of its node records, the configured ones first; where there is no record at all,
through those that a discovery at the configured portals finds, which are asked in turn.
"""

from __future__ import annotations

import time
import zlib

from auto_iscsi import errors, keys, portals
from auto_iscsi.iscsi import chap, claims, iscsiadm, node_records, rate_limit
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auto_iscsi.config.settings import Settings

UNREACHABLE = "is the portal up and reachable?"
_CONNECT = 3.0  # seconds for a TCP connection: one SYN may be lost


class Obstacle(NamedTuple):
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
    def limit(self) -> iscsiadm.Limit:
        """How long one request may take."""
        # iscsid itself gives up at login_timeout, when the record is ours: a second for its word.
        return iscsiadm.Limit(self.settings.login_timeout + 1, self.until)

    def records(self, problems: list[Obstacle]) -> Iterator[node_records.Record]:
        """Yield the portals to try, and note why there are no others; raise NoRecord."""
        known = node_records.find_all(self.host, self.target)
        if known and not (self.settings.portals and self._are_some_of_ours(known)):
            yield from configured_first(known, self.settings)
            return
        if not self.settings.portals:
            raise no_record(self.target)
        there = {record.portal: record for record in known}
        too_often: errors.TooOften | None = None
        for portal in self.settings.portals:
            place = f"discovery at {portal}"
            end = iscsiadm.Limit(self.settings.login_timeout, self.until).end
            if unreachable := connection_error(portal, end):
                problems.append(Obstacle(f"{place}: {unreachable}", UNREACHABLE))
                continue
            try:
                offered, wrong = self._ask(portal)
            except errors.TooOften as failure:
                too_often = failure
                problems.append(Obstacle(f"{place}: {failure.reason}", failure.hint))
                continue
            if offered:
                every = [there.get(record.portal, record) for record in offered]
                yield from configured_first(every, self.settings)
                return
            problems.append(Obstacle(f"{place}: {wrong.why}", wrong.hint))
        if too_often and not known:
            raise too_often
        yield from configured_first(known, self.settings)

    def _are_some_of_ours(self, known: list[node_records.Record]) -> bool:
        """Say whether there can be more paths than these records: we made them, of one maybe."""
        made = claims.read(self.host, self.target).records
        return self.settings.paths == "all" and {each.portal.folder for each in known} <= set(made)

    def _ask(
        self, portal: portals.Portal
    ) -> tuple[list[node_records.Record], Obstacle]:
        """Return what a portal offers, or why not: by its answer of a moment ago, to whomever.

        Raise TooOften when it was asked in vain too often.
        """
        proven = chap.of_settings(self.host, self.settings) if self.settings.chap_user else []
        if early := chap.refused(self.host, f"discovery-{portal}", proven):
            return [], Obstacle(*early)
        name = f"{portal}"
        if proven:  # it can offer other targets to another user
            name += f"-{zlib.crc32(self.settings.chap_user.encode()):08x}"
        turn = claims.lock(self.host, f"discovery/{portal}", self.limit.end)
        if turn is None:
            return [], Obstacle("other targets' discoveries took too long", "try again")
        try:
            text = rate_limit.offered(self.host, name)
            answer, hint = iscsiadm.Answer(iscsiadm.OK, text or ""), ""
            if text is None and iscsiadm.discovery_hangs(self.host, portal):
                why = "an earlier discovery still has no answer"
                return [], Obstacle(why, "does an iSCSI target answer at this portal?")
            if text is None:
                most = self.settings.attempts
                began = rate_limit.begin(self.host, f"{portal}", most, self.until)
                answer, hint = self._discover(portal, proven)
                if answer.status in (iscsiadm.OK, iscsiadm.NOTHING_FOUND):
                    rate_limit.undo(self.host, f"{portal}", began, self.until)
                    rate_limit.keep_offered(self.host, name, answer.text)
        finally:
            claims.unlock(self.host, f"discovery/{portal}", turn)
        offered = offered_records(self.target, answer.text)
        if answer.status in (iscsiadm.OK, iscsiadm.NOTHING_FOUND):
            why = f"the target is not offered to {initiator_name(self.host)}"
            if ignored := ignored_line(answer.text):
                return offered, Obstacle(why, f"iscsiadm left targets out: {ignored}")
            return offered, Obstacle(why, "present it at the SAN")
        return offered, Obstacle(answer.why, hint)

    def _discover(self, portal: portals.Portal, proven: list[str]) -> tuple[iscsiadm.Answer, str]:
        """Ask a portal, with CHAP where that is needed; return its answer and what to do."""
        must = proven and self.settings.chap_discovery == "mutual"
        answer = iscsiadm.Answer(iscsiadm.REFUSED, "")
        if not must:
            answer = iscsiadm.discover(self.host, self.target, portal, self.limit, {})
        if not proven or answer.status != iscsiadm.REFUSED:
            return answer, answer.hint
        files = chap.for_discovery(self.host, self.settings)
        answer = iscsiadm.discover(self.host, self.target, portal, self.limit, files)
        refused = answer.status == iscsiadm.REFUSED
        if refused:
            chap.remember(self.host, f"discovery-{portal}", proven)
        if refused or answer.status == iscsiadm.FATAL_LOGIN:
            return answer, chap.advice(self.settings, refused)
        return answer, answer.hint


def connection_error(portal: portals.Portal, until: float) -> str:
    """Return "" when the portal takes a TCP connection, else the reason.

    iscsid has no quicker way to say that nobody is there than the record's own timeouts: 122
    seconds with the defaults, and an administrator's record is not ours to change.
    """
    from auto_iscsi.lean_stdlib import socket

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


def offered_records(target: str, text: str) -> list[node_records.Record]:
    """Return where `target` is offered, by the answer to a discovery; no records are there yet."""
    # Not splitlines(), which ends a line at some characters of a name that is not ASCII, too.
    offered = filter(None, map(portals.from_send_targets, text.split("\n")))
    return [
        node_records.Record(name, place, "") for name, place in offered if keys.fold(name) == target
    ]


def ignored_line(text: str) -> str:
    """Return the line in which iscsiadm says that it ignores part of an answer, "" if none does.

    It ends with 0 all the same.
    """
    lines = (line for line in text.split("\n") if "ignoring" in line.lower())
    return ascii(next(lines, ""))[1:-1][:200]


def configured_first(
    found: list[node_records.Record], settings: Settings
) -> list[node_records.Record]:
    """Return records in the order in which they are tried: configured portals first."""

    def place(record: node_records.Record) -> int:
        at = [
            n for n, portal in enumerate(settings.portals) if portal.has_same_address(record.portal)
        ]
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
