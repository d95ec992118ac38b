"""Decide which sessions end, and why.

There is a decision on every session that the kernel has, ours or not, and on every claim and mount
whose session is gone. A session that is in use, within its lease or not ours is never ended, and
neither is one whose target shares the lookups of another one (setting `with`) that stays.
Nothing is changed here: the reaper decides once more while it holds the target, and then ends the
session.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from auto_iscsi import errors, keys, wording
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import identity, in_use, multipath, scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.san import leases

END, KEEP, REPORT = "end", "keep", "report"
_AT_ONCE = 64  # targets that are held at the same time


class Decision(NamedTuple):
    """What becomes of a session."""

    target: str  #: folded
    session: sessions.Session | None  #: None: a claim, or a mount, whose session is gone
    claim: claims.Claim
    ours: bool  #: a lookup opened the session
    disks: tuple[str, ...]  #: the kernel's names
    uses: tuple[in_use.Use, ...]  #: what uses the disks
    action: str  #: END, KEEP, or REPORT: the session is kept, and somebody should look at it
    reason: str  #: a short phrase for people
    when: float | None  #: seconds until it can be ended, as things are; None: never
    at_work: bool = False  #: an iscsiadm of ours works on the target
    lost: tuple[str, ...] = ()  #: those of `disks` that are in use although their volume is gone

    @property
    def has_pending_login(self) -> bool:
        """Whether a login has ended whose result no run has noted yet (pending_logins)."""
        return bool(self.claim.asked) and not self.at_work


class _Subject(NamedTuple):
    """A session with its disks."""

    target: str  #: folded
    session: sessions.Session
    disks: list[scsi_disks.Disk]
    usage: in_use.Usage


def decide(host: Host, held: str = "") -> list[Decision]:
    """Return the decisions on all sessions and claims, or on those of the target that is `held`.

    Raise NotPermitted without root, BadConfiguration when a file cannot be parsed.
    """
    subjects = _list_subjects(host, [held, *claims.read(host, held).others] if held else [])
    target_claims = _read_claims(host, held, [subject.target for subject in subjects])
    sections = config_files.load(host, remember=False)
    settings = {target: _settings(sections, target) for target in target_claims}
    uses = _uses_by_target(subjects)
    in_use_disks = [disk for subject in subjects if uses[subject.target] for disk in subject.disks]
    lost_paths = _lost_paths(host, in_use_disks)

    def judge_all() -> list[Decision]:
        return [
            _judge(
                host,
                subject,
                target_claims[subject.target],
                uses[subject.target],
                settings[subject.target],
                lost_paths,
            )
            for subject in subjects
        ]

    decided = judge_all()
    if not held:
        exclusive = _exclusive_uses(host, subjects, decided)
        for target, more in exclusive.items():
            uses[target] += more
        decided = judge_all() if exclusive else decided
    dead = _dead_mounts(host, held, subjects)
    decided = [decision for decision in _with_partners(decided) if held in ("", decision.target)]
    for target in target_claims.keys() - {subject.target for subject in subjects}:
        decided.append(_judge_claim(host, target, target_claims[target], dead.pop(target, ())))
    for target, mounted in dead.items():
        claim = target_claims.get(target, claims.Claim())
        why = f"its disk is gone, yet {mounted[0]}"
        decided.append(Decision(target, None, claim, False, (), mounted, REPORT, why, None))
    return sorted(decided, key=lambda decision: (decision.target, decision.session or ()))


def _with_partners(decided: Sequence[Decision]) -> list[Decision]:
    """Return the decisions, where a session that is up stays with those of partners that stay.

    A volume group can lie on the disks of both. One that stays for good is no reason.
    """
    staying: dict[str, Decision] = {}
    for decision in decided:
        if decision.action != END and (decision.uses or decision.when is not None):
            staying[decision.target] = decision

    def judge(decision: Decision) -> Decision:
        session = decision.session
        if decision.action != END or not session or not session.up:
            return decision
        for partner in map(staying.get, decision.claim.others):
            if partner is not None:
                why = f"it belongs to {partner.target}: {partner.reason}"
                return decision._replace(action=KEEP, reason=why, when=partner.when)
        return decision

    return [judge(decision) for decision in decided]


def _list_subjects(host: Host, targets: Sequence[str]) -> list[_Subject]:
    """Return all sessions, or those of some targets, with what uses their disks."""
    existing = [session for target in targets for session in sessions.find_all(host, target)]
    existing = existing if targets else sessions.list_all(host)
    disks = [scsi_disks.list_all(host, session) for session in existing]
    usages = in_use.find_uses(host, disks, leases.targets_by_key(host))
    return [
        _Subject(keys.fold(session.target), session, its_disks, usage)
        for session, its_disks, usage in zip(existing, disks, usages)
    ]


def _read_claims(host: Host, held: str, targets: Sequence[str]) -> dict[str, claims.Claim]:
    """Return the claims on these targets, and those on targets without a session."""
    by_target = {target: claims.read(host, target) for target in targets}
    for target in [held] if held else host.names(f"{claims.FOLDER}/claims"):
        if target not in by_target and target[:1] != ".":
            claim = claims.read(host, target)
            if claim != claims.Claim():
                by_target[target] = claim
    return by_target


def _uses_by_target(subjects: Sequence[_Subject]) -> dict[str, tuple[in_use.Use, ...]]:
    """Return what uses each target: a use of one session's disk is a use of the other paths."""
    uses: dict[str, tuple[in_use.Use, ...]] = {}
    for subject in subjects:
        earlier = uses.get(subject.target, ())
        uses[subject.target] = tuple(dict.fromkeys((*earlier, *subject.usage.uses)))
    return uses


def _lost_paths(host: Host, disks: Sequence[scsi_disks.Disk]) -> set[str]:
    """Return the paths in sysfs of the disks whose volume is gone although their session is up."""
    up = [disk for disk in disks if disk.session.up]

    def is_lost(disk: scsi_disks.Disk) -> bool:
        return identity.is_lost(host, keys.fold(disk.session.target), disk.path)

    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        return {disk.path for disk, lost in zip(up, pool.map(is_lost, up)) if lost}


def _settings(
    sections: Sequence[config_files.Section], target: str
) -> schema.Settings | errors.Failure:
    """Return the settings of a target, or why they are not known."""
    try:
        return schema.resolve(sections, target)
    except errors.BadConfiguration as failure:
        return failure


def _judge(
    host: Host,
    subject: _Subject,
    claim: claims.Claim,
    uses: tuple[in_use.Use, ...],
    settings: schema.Settings | errors.Failure,
    lost_paths: set[str],
) -> Decision:
    """Return the decision on one session."""
    at_work = _is_iscsiadm_running(host, subject.target)
    lost = tuple(disk.name for disk in subject.disks if disk.path in lost_paths)
    joined = [multipath.joined_with(host, disk.path) for disk in subject.disks]
    joined = [stranger for stranger in joined if stranger]
    basis = _Basis(subject.session, claim, uses, settings, at_work, lost, "".join(joined[:1]))
    names = tuple(disk.name for disk in subject.disks)
    is_ours = claim.owns(subject.session)
    return Decision(
        subject.target,
        subject.session,
        claim,
        is_ours,
        names,
        uses,
        *basis.judge(),
        at_work,
        lost,
    )


def _dead_mounts(
    host: Host, held: str, subjects: Sequence[_Subject]
) -> dict[str, tuple[in_use.Use, ...]]:
    """Return what is mounted although its disk is gone, by target, or of the held one only."""
    existing = {node.number for subject in subjects for node in subject.usage.nodes}
    dead = in_use.dead_mounts(host, existing, leases.targets_by_key(host))
    return {target: uses for target, uses in dead.items() if held in ("", target)}


def _judge_claim(
    host: Host, target: str, claim: claims.Claim, mounted: tuple[in_use.Use, ...]
) -> Decision:
    """Return the decision on a claim whose session is gone; `mounted`: what is left of it."""
    if _is_iscsiadm_running(host, target):
        reason = "a login is under way"
        return Decision(target, None, claim, claim.ours, (), mounted, KEEP, reason, None, True)
    return Decision(target, None, claim, claim.ours, (), mounted, END, "its session is gone", 0.0)


def _exclusive_uses(
    host: Host, subjects: Sequence[_Subject], decided: Sequence[Decision]
) -> dict[str, tuple[in_use.Use, ...]]:
    """Return the uses, by target, that only an exclusive open of the disks shows.

    Only disks of sessions that would end are opened, while their target is held.
    """
    uses: dict[str, tuple[in_use.Use, ...]] = {}
    ready = [
        (subject, decision)
        for subject, decision in zip(subjects, decided)
        if decision.action == END
    ]
    for start in range(0, len(ready), _AT_ONCE):
        with contextlib.ExitStack() as stack:
            held = [
                subject
                for subject, decision in ready[start : start + _AT_ONCE]
                if _hold(host, decision, stack)
            ]
            results = in_use.probe_exclusive(host, [subject.usage for subject in held])
        for subject, more in zip(held, results):
            if more:
                uses[subject.target] = (*uses.get(subject.target, ()), *more)
    return uses


def _hold(host: Host, decision: Decision, stack: contextlib.ExitStack) -> bool:
    """Hold a target until `stack` ends; return False when a lookup works on it or has since."""
    name = f"lock/{decision.target}"
    handle = claims.lock(host, name, 0.0)
    if handle is None:
        return False
    stack.callback(claims.unlock, host, name, handle)
    return claims.read(host, decision.target) == decision.claim


class _Basis(NamedTuple):
    """What a decision on a session rests on."""

    session: sessions.Session
    claim: claims.Claim
    uses: tuple[in_use.Use, ...]
    settings: schema.Settings | errors.Failure
    at_work: bool
    lost: tuple[str, ...]
    joined: str  #: a disk of another volume with which multipathd joins one of the session's

    def judge(self) -> tuple[str, str, float | None]:
        """Return the action, the reason, and the seconds until the session can be ended."""
        up, ours = self.session.up, self.claim.owns(self.session)
        if self.uses:
            others = len(self.uses) - 1
            use = f"{self.uses[0]}" + (f" and {others} more" if others else "")
            if up and not self.lost:
                return KEEP, use, None
            what = f"the volume of {self.lost[0]} is gone" if up else self.session.state
            return REPORT, f"{what}, yet {use}", None
        if not isinstance(self.settings, schema.Settings):
            return REPORT, f"its settings are not known: {self.settings.reason}", None
        if self.settings.reap == "never":
            return KEEP, "reap = never", None
        if self.at_work or (self.claim.asked and not ours):
            return KEEP, "a login is under way, or its result is not known yet", None
        if not ours and self.settings.reap != "any":
            return KEEP, "not ours", None
        return self._by_time(ours)

    def _by_time(self, ours: bool) -> tuple[str, str, float | None]:
        """Judge a session that nobody uses by its lease and its idle time."""
        assert isinstance(self.settings, schema.Settings)
        now = claims.now()
        looked_up, idle = now - self.claim.looked_up, now - self.claim.last_used
        if not ours and (self.session.sid, self.session.inode) not in self.claim.watched:
            idle = 0.0  # its idle time begins when the reaper first sees it
        lease = self.settings.lease - looked_up
        if lease > 0:
            left = max(lease, self.settings.idle - idle if self.session.up else 0)
            ago, term = wording.duration(looked_up), wording.duration(self.settings.lease)
            return KEEP, f"looked up {ago} ago, lease {term}", left
        if not self.session.up:
            return END, f"{self.session.state}, and nobody uses it", 0.0
        if self.joined:  # whoever reads the other volume gets blocks of this one
            return END, f"multipathd joins it with {self.joined}", 0.0
        if idle < self.settings.idle:
            left = self.settings.idle - idle
            return (
                KEEP,
                f"idle for {wording.duration(idle)} of {wording.duration(self.settings.idle)}",
                left,
            )
        return END, f"idle for {wording.duration(idle)}", 0.0


def _is_iscsiadm_running(host: Host, target: str) -> bool:
    """Return whether an iscsiadm that we started still works on a target."""
    return claims.is_locked(host, f"iscsiadm/{target}")
