"""Which sessions end now?

`auto-iscsi reap`, run now and then by a timer or cron (`auto-iscsi reap --quiet`). Several targets
at once: one that hangs holds up nobody. One reaper at a time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import decisions, logout

AT_ONCE = 8  # targets
Say = Callable[[str], None]


class Outcome(NamedTuple):
    """What came of it for all."""

    ended: list[logout.Ended]
    alone: bool = True  #: False: another reaper is at it

    @property
    def problems(self) -> list[logout.Ended]:
        """The targets of which something could not be ended."""
        return [each for each in self.ended if each.problem]

    @property
    def status(self) -> int:
        """The program's exit status."""
        return 1 if self.problems else 0

    def summary(self, anyway: bool) -> str:
        """Say what was done, in one line; "" when that is nothing, unless `anyway`."""
        through = [each.target for each in self.ended if each.sids]
        count = sum(len(each.sids) for each in self.ended)
        if count:
            named = ", ".join(through[:3])
            named += f" and {len(through) - 3} more" if through[3:] else ""
            return f"ended {count} session{'s' if count > 1 else ''}: {named}"
        if not anyway:
            return ""
        return "nothing to end" if self.alone else "another reaper is at it"


def reap(host: Host, say: Say, wait: float = 0.0) -> Outcome:
    """End what can be ended, for `wait` seconds also what can be ended by then.

    So long it also waits for another reaper. `say` is told how far it is. Raise NotPermitted,
    BadConfiguration.
    """
    handle = claims.lock(host, "reap", time.monotonic() + wait)
    if handle is None:
        return Outcome([], alone=False)
    try:
        until = time.monotonic() + wait
        ended: list[logout.Ended] = []
        while True:
            found = _noted(host)
            failed = {each.target for each in ended if each.problem}
            todo = [v.target for v in found if v.action == decisions.END or v.unseen]
            todo = [target for target in dict.fromkeys(todo) if target not in failed]
            now = _end_all(host, todo, say)
            ended += now
            left = until - time.monotonic()
            soon = [v.when for v in found if v.when is not None and v.target not in todo]
            soon = [when for when in soon if when <= left]
            if left <= 0 or (not soon and not todo):
                break
            if soon:
                say(f"{len(soon)} to end, the next one in {min(soon):.0f} s")
            if not any(each.sids for each in now):
                time.sleep(max(0.2, min(*soon, 5.0)) if soon else 0.5)
        _tidy(host)
        return Outcome(ended)
    finally:
        claims.unlock(host, "reap", handle)


def _noted(host: Host) -> list[decisions.Decision]:
    """Look at all, and note who is in use now, and which of others' is not."""
    found = decisions.decide(host)
    for target in dict.fromkeys(each.target for each in found):
        group = [each for each in found if each.target == target]
        claim = group[0].claim
        watched = tuple(
            (each.session.sid, each.session.inode)
            for each in group
            if each.session and not each.ours and each.when is not None
        )
        used = bool(group[0].uses) and claim != claims.Claim()
        if not used and not set(watched) - set(claim.watched):
            continue
        handle = claims.lock(host, f"lock/{target}", time.monotonic())
        if handle is not None:  # else a lookup has it, and notes what it does
            now = claims.read(host, target)
            claims.write(host, target, now._replace(used=claims.now(), watched=watched))
            claims.unlock(host, f"lock/{target}", handle)
    return found


def _end_all(host: Host, targets: Sequence[str], say: Say) -> list[logout.Ended]:
    if not targets:
        return []
    ended = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [pool.submit(logout.end_sessions, host, target) for target in targets]
        for number, one in enumerate(concurrent.futures.as_completed(begun), 1):
            ended.append(one.result())
            say(f"{number} of {len(targets)} targets")
    return sorted(ended)


def _tidy(host: Host) -> None:
    """Take away what killed runs left in /run/auto-iscsi."""
    for folder in ("lock", "iscsiadm", "discovery"):
        for name in host.names(f"{claims.FOLDER}/{folder}"):
            if folder == "iscsiadm" and claims.read(host, name).asked:
                continue  # iscsiadm's last word, which nobody has drawn a conclusion from yet
            handle = claims.lock(host, f"{folder}/{name}", 0.0)
            if handle is not None:
                claims.unlock(host, f"{folder}/{name}", handle)
    # What was only kept to be quick: whoever writes it right now does without.
    known = host.names(f"{claims.FOLDER}/claims")
    kept = [f"settings/{each}" for each in host.names(f"{claims.FOLDER}/settings")]
    kept = [each for each in kept if each.partition("/")[2] not in known]
    for each in (*kept, *(n for n in host.names(claims.FOLDER) if n.startswith("config."))):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host.path(f"{claims.FOLDER}/{each}"))
    for name in {*known, *host.names(f"{claims.FOLDER}/disks")}:
        if name.startswith("."):  # half written
            handle = claims.lock(host, f"lock/{name[1:]}", 0.0)
            if handle is not None:
                claims.forget(host, name)
                claims.unlock(host, f"lock/{name[1:]}", handle)
