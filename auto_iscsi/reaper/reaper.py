"""End the sessions of all targets that nobody needs any more: `auto-iscsi reap`.

A timer or cron runs it now and then (`auto-iscsi reap --quiet`). Several targets are worked on at
the same time, so that one that hangs holds up no other. Only one reaper runs at a time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

from auto_iscsi import errors
from auto_iscsi.iscsi import chap, claims, record_ledger
from auto_iscsi.machine import master_map
from auto_iscsi.machine.host import Host
from auto_iscsi.map import kept_tree
from auto_iscsi.reaper import decisions, logout, unmounting
from auto_iscsi.san import catalogue, links, presenting

AT_ONCE = 8  # targets that are worked on at the same time
_MOUNT = 4.0  # seconds, at most, from the end of a lookup until what it found is mounted
_RECENT = "looked up just now, and automount may be about to mount it"
Say = Callable[[str], None]


class Outcome(NamedTuple):
    """The result for all targets."""

    ended: list[logout.Ended]
    alone: bool = True  #: False: another reaper is running
    revoked: Sequence[presenting.Finished] = ()  #: what was presented at a SAN and is not needed
    kept: Sequence[decisions.Decision] = ()  #: on sessions of ours that stay

    @property
    def problems(self) -> list[logout.Ended]:
        """The targets with a session that could not be ended."""
        return [target for target in self.ended if target.problem]

    @property
    def status(self) -> int:
        """The program's exit status."""
        return 1 if self.problems or any(each.problem for each in self.revoked) else 0

    def summary(self, anyway: bool) -> str:
        """Return one line about what was done; "" for nothing, unless `anyway`."""
        targets = [each.target for each in self.ended if each.sids]
        count = sum(len(each.sids) for each in self.ended)
        if count:
            names = ", ".join(targets[:3])
            names += f" and {len(targets) - 3} more" if targets[3:] else ""
            return f"ended {count} session{'s' if count > 1 else ''}: {names}"
        if not anyway:
            return ""
        return "nothing to end" if self.alone else "another reaper is running"


def reap(
    host: Host, say: Say, wait: float = 0.0, with_san: bool = True, at_once: bool = False
) -> Outcome:
    """End the sessions that can be ended now, and within `wait` seconds those that can be by then.

    `at_once`: unmount what nobody uses, and heed no lease and no idle time.
    `with_san`: then revoke what was presented at a SAN for them (san/presenting), also for earlier
    ones.
    Wait as long for another reaper, too. `say` is given the progress. Raise NotPermitted,
    BadConfiguration.
    """
    handle = claims.lock(host, "reap", time.monotonic() + wait)
    if handle is None:
        return Outcome([], alone=False)
    try:
        visited: set[str] = set()
        if at_once:
            say("unmounting what nobody uses")
            unmounting.unmount_all(host)
            visited = _give_back(host)
        until = time.monotonic() + wait
        ended: list[logout.Ended] = []
        while True:
            decided = _decide_and_note(host)
            failed = {each.target for each in ended if each.problem}
            ready = [d.target for d in decided if d.action == decisions.END or d.has_pending_login]
            ready = [target for target in dict.fromkeys(ready) if target not in failed]
            now = _end_all(host, ready, say)
            ended += now
            left = until - time.monotonic()
            done = {*ready, *failed}  # what has failed is not tried again
            times = [d.when for d in decided if d.when is not None and d.target not in done]
            soon = [seconds for seconds in times if seconds <= left]
            if left <= 0 or (not soon and not ready):
                break
            if soon:
                say(f"{len(soon)} to end, the next one in {min(soon):.0f} s")
            if not any(each.sids for each in now):
                time.sleep(max(0.2, min(*soon, 5.0)) if soon else 0.5)
        ended += logout.remove_orphans(host)
        logout.remove_without_table(host)
        ended += _delete_leftover_records(host)
        _tidy(host)
        with contextlib.suppress(errors.Failure):  # `auto-iscsi check` reports a wrong file
            links.update(host, catalogue.read(host))
        until = time.monotonic() + presenting.FINISHING
        gone = {each.target for each in ended if each.sids}
        revoked = presenting.finish(host, until, gone) if with_san else []
        worked_on = {each.target for each in ended}
        kept = [
            d._replace(reason=_RECENT) if d.target in visited and d.when is not None else d
            for d in decided
            if d.ours and d.session and d.target not in worked_on
        ]
        return Outcome(ended, revoked=revoked, kept=kept)
    finally:
        claims.unlock(host, "reap", handle)


def _give_back(host: Host) -> set[str]:
    """End the leases of all targets, but not of those that somebody visits right now.

    automount may also still mount by an answer that it remembers. Return the targets whose lease
    goes on.
    """
    visited = set()
    lines = master_map.list_lines(host)
    recent = _MOUNT + max((master_map.negative_timeout(host, line) for line in lines), default=0.0)
    for target in host.names(f"{claims.FOLDER}/claims"):
        handle = claims.lock(host, f"lock/{target}", 0.0)
        if handle is None:
            visited.add(target)
            continue
        claim = claims.read(host, target)
        if claims.age(claim) <= recent:
            visited.add(target)
        elif claim != claims.Claim():
            claims.write(host, target, claims.given_back(claim))
        claims.unlock(host, f"lock/{target}", handle)
    return visited


def _decide_and_note(host: Host) -> list[decisions.Decision]:
    """Decide on all sessions; note in the claims which are used now, and which others are idle."""
    decided = decisions.decide(host)
    for target in dict.fromkeys(decision.target for decision in decided):
        group = [decision for decision in decided if decision.target == target]
        claim = group[0].claim
        watched = tuple(
            (decision.session.sid, decision.session.inode)
            for decision in group
            if decision.session and not decision.ours and decision.when is not None
        )
        is_used = bool(group[0].uses) and claim != claims.Claim()
        if not is_used and not set(watched) - set(claim.watched):
            continue
        handle = claims.lock(host, f"lock/{target}", time.monotonic())
        if handle is not None:  # else a lookup holds the target, and notes that itself
            now = claims.read(host, target)
            claims.write(host, target, now._replace(used=claims.now(), watched=watched))
            claims.unlock(host, f"lock/{target}", handle)
    return decided


def _end_all(host: Host, targets: Sequence[str], say: Say) -> list[logout.Ended]:
    if not targets:
        return []
    ended = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [pool.submit(_end_group, host, group) for group in _groups(host, targets)]
        for one in concurrent.futures.as_completed(begun):
            ended += one.result()
            say(f"{len(ended)} of {len(targets)} targets")
    return sorted(ended)


def _groups(host: Host, targets: Sequence[str]) -> list[list[str]]:
    """Return the targets, where those that share lookups (setting `with`) are in one group.

    Our devices can lie on the disks of both: so they are ended one after the other.
    """
    groups: list[list[str]] = []
    for target in targets:
        tied = {target, *claims.read(host, target).others}
        joined = [group for group in groups if tied.intersection(group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(name for group in joined for name in group), target])
    return groups


def _end_group(host: Host, targets: Sequence[str]) -> list[logout.Ended]:
    return [logout.end_sessions(host, target) for target in targets]


def _delete_leftover_records(host: Host) -> list[logout.Ended]:
    """Delete node records of ours from an earlier boot; return what is worth a word."""
    results = [
        logout.delete_leftover_records(host, target)
        for target in host.names(record_ledger.FOLDER)
        if target[:1] != "."
    ]
    return [result for result in results if result.problem or result.notes]


def _tidy(host: Host) -> None:
    """Remove what killed runs left in /run/auto-iscsi, and what no longer matters."""
    for folder in ("lock", "iscsiadm", "discovery"):
        for name in host.names(f"{claims.FOLDER}/{folder}"):
            if folder == "iscsiadm" and claims.read(host, name).asked:
                continue  # what iscsiadm printed there still has to be read
            handle = claims.lock(host, f"{folder}/{name}", 0.0)
            if handle is not None:
                claims.unlock(host, f"{folder}/{name}", handle)
    claimed = host.names(f"{claims.FOLDER}/claims")
    # Caches: a lookup that writes one right now does without.
    caches = [f"settings/{name}" for name in host.names(f"{claims.FOLDER}/settings")]
    stale = [cache for cache in caches if cache.partition("/")[2] not in claimed]
    stale += [name for name in host.names(claims.FOLDER) if name.startswith(".config.")]
    stale += [
        f"refused/{name}"
        for name in host.names(f"{claims.FOLDER}/refused")
        if chap.is_forgotten(host, name)
    ]
    for name in stale:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host.path(f"{claims.FOLDER}/{name}"))
    kept_tree.forget_gone(host, claimed)
    noted = host.names(record_ledger.FOLDER)
    for name in {*claimed, *host.names(f"{claims.FOLDER}/disks"), *noted}:
        if name.startswith("."):  # half written
            handle = claims.lock(host, f"lock/{name[1:]}", 0.0)
            if handle is not None:
                claims.forget(host, name)
                record_ledger.forget(host, name)
                claims.unlock(host, f"lock/{name[1:]}", handle)
        elif name in claimed and _is_void(host, name):
            handle = claims.lock(host, f"lock/{name}", 0.0)
            if handle is not None:
                if _is_void(host, name):
                    claims.forget(host, name)
                claims.unlock(host, f"lock/{name}", handle)


def _is_void(host: Host, target: str) -> bool:
    """Tell whether a claim is of an earlier boot, or damaged: only udev-has-claim heeds it."""
    return claims.read(host, target) == claims.Claim()
