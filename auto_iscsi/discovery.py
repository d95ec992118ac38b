"""Through which portals is a target offered?

Through those of its node records, the configured ones first; where there is no record at all,
through those that a discovery at the configured portals finds, which are asked in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from auto_iscsi import chap, claims, errors, initiator, nodes, portals
from auto_iscsi.host import Host
from auto_iscsi.settings import Settings

UNREACHABLE = "is the portal up and reachable?"


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
            if unreachable := initiator.reachable(portal, end):
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
        """Ask a portal, with CHAP where that is needed; return what it offers, or why not."""
        proven = chap.of_settings(self.host, self.settings) if self.settings.chap_user else []
        if early := chap.refused(self.host, f"discovery-{portal}", proven):
            return initiator.Answer(initiator.REFUSED, ""), [], Problem(*early)
        must = proven and self.settings.chap_discovery == "mutual"
        answer = initiator.Answer(initiator.REFUSED, "")
        offered: list[nodes.Record] = []
        if not must:
            answer, offered = initiator.discover(self.host, self.target, portal, self.limit, {})
        hint = answer.hint
        if proven and answer.status == initiator.REFUSED:
            files = chap.for_discovery(self.host, self.settings)
            answer, offered = initiator.discover(self.host, self.target, portal, self.limit, files)
            hint = answer.hint
            if answer.status in (initiator.REFUSED, initiator.FATAL_LOGIN):
                hint = chap.advice(self.settings, answer.status == initiator.REFUSED)
            if answer.status == initiator.REFUSED:
                chap.remember(self.host, f"discovery-{portal}", proven)
        if answer.status in (initiator.OK, initiator.NOTHING_FOUND):
            why = f"the target is not offered to {initiator_name(self.host)}"
            return answer, offered, Problem(why, "present it at the SAN")
        return answer, offered, Problem(answer.why, hint)


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
