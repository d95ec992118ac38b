"""What is to become of each session, and why?

For every session that the kernel has, ours or not, and for every claim whose session is gone. One
that is in use, within its lease or not ours is never ended (the reaper looks once more, holding the
target). Nothing is changed here.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from auto_iscsi import errors, keys, wording
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import identity, in_use, scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine.host import Host

END, KEEP, REPORT = "end", "keep", "report"
_AT_ONCE = 64  # targets that are held together


class Decision(NamedTuple):
    """What is to become of a session."""

    target: str  #: folded
    session: sessions.Session | None  #: None: a claim whose session is gone
    claim: claims.Claim
    ours: bool  #: a lookup opened it
    disks: tuple[str, ...]  #: the kernel's names
    uses: tuple[in_use.Use, ...]  #: what uses it
    action: str  #: END, KEEP, or REPORT: kept, and somebody should look at it
    reason: str  #: for people, a short phrase
    when: float | None  #: seconds until it can be ended, as things are; None: never
    at_work: bool = False  #: an iscsiadm of ours is at the target
    lost: tuple[str, ...] = ()  #: of `disks`: in use, but the volume is there no more

    @property
    def unseen(self) -> bool:
        """Say whether a login has come to an end that nobody has looked at."""
        return bool(self.claim.asked) and not self.at_work


def decide(host: Host, held: str = "") -> list[Decision]:
    """Return the verdicts on all sessions and claims, or on those of the one target that is held.

    Raise NotPermitted for who is not root, BadConfiguration when a file cannot be parsed.
    """
    present = sessions.find_all(host, held) if held else sessions.list_all(host)
    names = [keys.fold(session.target) for session in present]
    there = [scsi_disks.list_all(host, session) for session in present]
    used = in_use.find_uses(host, there)
    known = {name: claims.read(host, name) for name in names}
    for name in [held] if held else host.names(f"{claims.FOLDER}/claims"):
        claim = claims.Claim() if name in known or name[:1] == "." else claims.read(host, name)
        if claim != claims.Claim():
            known[name] = claim
    sections = config_files.load(host, remember=False)
    wanted = {name: _wanted(sections, name) for name in known}
    busy: dict[str, tuple[in_use.Use, ...]] = {}
    for name, each in zip(names, used):  # several ways to one disk: who uses one, uses all
        busy[name] = tuple(dict.fromkeys((*busy.get(name, ()), *each.uses)))

    gone = _lost(host, [disk for name, group in zip(names, there) for disk in group if busy[name]])

    def judged() -> list[Decision]:
        found = []
        for name, session, group in zip(names, present, there):
            claim, at_work = known[name], _at_work(host, name)
            lost = tuple(disk.name for disk in group if disk.path in gone)
            basis = _Basis(session, claim, busy[name], wanted[name], at_work, lost)
            found.append(
                Decision(
                    name,
                    session,
                    claim,
                    claim.owns(session),
                    tuple(disk.name for disk in group),
                    busy[name],
                    *basis.judge(),
                    at_work,
                    lost,
                )
            )
        return found

    found = judged()
    ready = [] if held else [at for at, each in enumerate(found) if each.action == END]
    for some in (ready[at : at + _AT_ONCE] for at in range(0, len(ready), _AT_ONCE)):
        with contextlib.ExitStack() as stack:
            free = [at for at in some if _hold(host, found[at], stack)]
            for at, uses in zip(free, in_use.probe_exclusive(host, [used[at] for at in free])):
                busy[names[at]] += uses
    found = judged() if ready else found
    for name in known.keys() - set(names):
        when: float | None = 0.0
        action, reason = END, "its session is gone"
        if at_work := _at_work(host, name):
            action, reason, when = KEEP, "a login is under way", None
        mine = known[name].ours
        found.append(Decision(name, None, known[name], mine, (), (), action, reason, when, at_work))
    return sorted(found, key=lambda each: (each.target, each.session or ()))


def _lost(host: Host, wanted: Sequence[scsi_disks.Disk]) -> set[str]:
    """Return the paths of the disks whose volume is there no more, though the session is up."""
    up = [disk for disk in wanted if disk.session.up]

    def lost(disk: scsi_disks.Disk) -> bool:
        return identity.is_lost(host, keys.fold(disk.session.target), disk.path)

    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        return {disk.path for disk, is_lost in zip(up, pool.map(lost, up)) if is_lost}


def _wanted(
    sections: Sequence[config_files.Section], target: str
) -> schema.Settings | errors.Failure:
    try:
        return schema.resolve(sections, target)
    except errors.BadConfiguration as failure:
        return failure


def _hold(host: Host, verdict: Decision, stack: contextlib.ExitStack) -> bool:
    """Hold a target for as long as its disks are looked at; no, if it is wanted right now."""
    name = f"lock/{verdict.target}"
    handle = claims.lock(host, name, 0.0)
    if handle is None:
        return False
    stack.callback(claims.unlock, host, name, handle)
    return claims.read(host, verdict.target) == verdict.claim


class _Basis(NamedTuple):
    """What a verdict on a session goes by."""

    session: sessions.Session
    claim: claims.Claim
    uses: tuple[in_use.Use, ...]
    wanted: schema.Settings | errors.Failure
    at_work: bool
    lost: tuple[str, ...]

    def judge(self) -> tuple[str, str, float | None]:
        """Return action, reason, and when it could be ended."""
        up, ours = self.session.up, self.claim.owns(self.session)
        if self.uses:
            more = len(self.uses) - 1
            use = f"{self.uses[0]}" + (f" and {more} more" if more else "")
            if up and not self.lost:
                return KEEP, use, None
            what = f"the volume of {self.lost[0]} is gone" if up else self.session.state
            return REPORT, f"{what}, yet {use}", None
        if not isinstance(self.wanted, schema.Settings):
            return REPORT, f"its settings are not known: {self.wanted.reason}", None
        if self.wanted.reap == "never":
            return KEEP, "reap = never", None
        if self.at_work or (self.claim.asked and not ours):
            return KEEP, "a login is under way, or its result is not known yet", None
        if not ours and self.wanted.reap != "any":
            return KEEP, "not ours", None
        return self._by_time(ours)

    def _by_time(self, ours: bool) -> tuple[str, str, float | None]:
        assert isinstance(self.wanted, schema.Settings)
        now = claims.now()
        looked_up, used = now - self.claim.looked_up, now - self.claim.used
        if not ours and (self.session.sid, self.session.inode) not in self.claim.watched:
            used = 0.0  # nobody knows how long: from the reaper's first look
        lease = self.wanted.lease - looked_up
        idle = min(looked_up, used)
        if lease > 0:
            left = max(lease, self.wanted.idle - idle if self.session.up else 0)
            ago, term = wording.duration(looked_up), wording.duration(self.wanted.lease)
            return KEEP, f"looked up {ago} ago, lease {term}", left
        if not self.session.up:
            return END, f"{self.session.state}, and nobody uses it", 0.0
        if idle < self.wanted.idle:
            left = self.wanted.idle - idle
            return (
                KEEP,
                f"idle for {wording.duration(idle)} of {wording.duration(self.wanted.idle)}",
                left,
            )
        return END, f"idle for {wording.duration(idle)}", 0.0


def _at_work(host: Host, target: str) -> bool:
    """Say whether an iscsiadm of ours is at a target."""
    return claims.is_held(host, f"iscsiadm/{target}")
