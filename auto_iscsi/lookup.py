"""From a key to a map entry: the flow that everything else serves.

key → target → settings → session (or login) → disk (or wait) → entry. The warm path, session and
disk are there, reads a few files and starts no process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, Iterator

from auto_iscsi import (
    claims, config, disks, errors, initiator, keys, mapentry, mounts, nodes, sessions, settings, udev,
)  # fmt: skip
from auto_iscsi.host import Host

_SETTLE = 2.0  # seconds from iscsiadm's answer to the session's state in sysfs


def lookup(host: Host, text: str) -> str:
    """Return the map entry for the key `text`; raise Failure. Logs in when need be."""
    key = keys.parse(text)
    chosen = settings.resolve(config.load(host), key.target)
    if not chosen.enabled:
        raise errors.Disabled(f"{key.target}: enabled = no in /etc/auto.iscsi.conf")
    with _at_most(chosen.lookup_timeout, key.target) as until:
        with claims.hold(host, key.target, until):
            job = _Lookup(host, key, chosen, until)
            return mapentry.of(job.ready() or job.mounted() or job.bring_up(), chosen)


class _Lookup:
    """One lookup of one target, which the caller holds."""

    def __init__(self, host: Host, key: keys.Key, chosen: settings.Settings, until: float) -> None:
        self.host = host
        self.key = key
        self.target = key.target
        self.settings = chosen
        self.until = until
        self.claim = claims.read(host, key.target)

    def ready(self) -> disks.Device | None:
        """Return the device when a session that is up has it; None: there is work to do."""
        known = sessions.find_all(self.host, self.target, self.claim.sid)
        device = self._device(known)
        if not device and known and known[0].sid == self.claim.sid:
            device = self._device(sessions.find_all(self.host, self.target))
        return device

    def mounted(self) -> disks.Device | None:
        """Return the device of a mount that outlived its session.

        A restarted automount asks for every key that is still mounted, waits for the answer, and
        never expires a mount whose lookup failed (facts of autofs 5.1.8, lookup.c). What we say
        is not used as long as it is mounted.
        """
        present = mounts.list_all(self.host)
        numbers = {mount.number for mount in present}
        down = [s for s in sessions.find_all(self.host, self.target) if not s.up]
        for device in disks.candidates(self.host, down, self.settings) if down else []:
            if device.number in numbers:
                return device
        here = os.path.join(os.getcwd(), self.key.text)  # automount runs us in its root
        for mount in present:
            if mount.point == here and mount.fstype != "autofs":
                return disks.Device(os.path.basename(mount.source), "", mount.number)
        return None

    def bring_up(self) -> disks.Device:
        """Log in if need be, and wait for the disk; return it or raise Failure."""
        source = "kernel" if self.settings.device == "kernel" else "udev"
        with udev.listen(source) as events:  # before the login, so that nothing is missed
            up = [s for s in sessions.find_all(self.host, self.target) if s.up]
            if up:
                self._keep(up[0].sid)
                until = self._within(self.settings.login_timeout)
                initiator.rescan(self.host, self.target, up[0], until)
            else:
                up = [self._session(events)]
            until = self._within(self.settings.udev_timeout)
            device = events.wait_for(lambda: self._device(up), until)
        return device or self._no_disk(up)

    def _device(self, known: list[sessions.Session]) -> disks.Device | None:
        up = [session for session in known if session.up]
        device = disks.choose(self.host, up, self.settings) if up else None
        if device:
            sids = [session.sid for session in up]
            self._keep(self.claim.sid if self.claim.sid in sids else sids[0])
        return device

    def _keep(self, sid: int) -> None:
        """Renew the lease on a session, and remember whether it is ours."""
        # -1: we had asked for a session and were killed before we saw it.
        ours = self.claim.ours and self.claim.sid in (-1, sid)
        self.claim = self.claim._replace(sid=sid, ours=ours)
        claims.write(self.host, self.target, self.claim)

    def _within(self, seconds: float) -> float:
        return min(self.until, time.monotonic() + seconds)

    def _session(self, events: udev.Listener) -> sessions.Session:
        """Return a session that is up, through the first portal that lets us in."""
        problems: list[str] = []
        lost = sessions.find_all(self.host, self.target)
        for session in lost:
            recovered = self._recovered(session, events)
            if recovered:
                return recovered
            problems.append(
                f"session {session.sid} through {session.portal} is {session.state} and iscsid "
                "cannot bring it back"
            )
        hint = "mend the way to the portal; iscsid keeps trying" if lost else ""
        for record in self._records(problems):
            if any(record.portal.same_place(session.portal) for session in lost):
                continue
            problem = self._unreachable(record)
            if not problem:
                answer = self._login(record)
                found = self._wait_up(events) if self._may_be_up(answer) else None
                if found:
                    self._opened(found)
                    return found
                problem, hint = self._verdict(record, answer)
                if answer.status in (None, initiator.REFUSED):
                    problems.append(f"login through {record.portal}: {problem}")
                    break
            problems.append(f"login through {record.portal}: {problem}")
        if lost and len(problems) == len(lost):
            raise errors.SessionLost(f"{self.target}: {', '.join(problems)}", hint)
        raise errors.LoginFailed(
            f"{self.target}: {', '.join(problems)}", hint or "is the portal up and reachable?"
        )

    def _records(self, problems: list[str]) -> Iterator[nodes.Record]:
        """Yield the portals to try, the configured ones first; discover them if there is none."""
        known = nodes.find_all(self.host, self.target)
        if known:
            yield from self._in_order(known)
            return
        if not self.settings.portals:
            raise errors.NoRecord(
                f"{self.target}: no node record, and no portals are configured",
                "set portals in /etc/auto.iscsi.conf, or: iscsiadm -m discovery -t st -p PORTAL",
            )
        for portal in self.settings.portals:
            problem = initiator.reachable(portal, self._within(self.settings.login_timeout))
            if not problem:
                until = self._within(self.settings.login_timeout + 1)
                answer, offered = initiator.discover(self.host, self.target, portal, until)
                if offered:
                    yield from self._in_order(offered)
                    return
                problem = answer.why
                if answer.status in (initiator.OK, initiator.NOTHING_FOUND):
                    problem = f"the target is not offered to {self._initiator_name()}"
            problems.append(f"discovery at {portal}: {problem}")

    def _in_order(self, found: list[nodes.Record]) -> list[nodes.Record]:
        wanted = self.settings.portals

        def place(record: nodes.Record) -> int:
            at = [n for n, portal in enumerate(wanted) if portal.same_place(record.portal)]
            return at[0] if at else len(wanted)

        return sorted(found, key=place)

    def _unreachable(self, record: nodes.Record) -> str:
        """Say why a portal cannot be reached; "" when it can, or when only iscsid can tell.

        A record that is bound to an interface goes another way than our own connection would.
        """
        if record.path and self.host.names(record.path) not in ([], ["default"]):
            return ""
        return initiator.reachable(record.portal, self._within(self.settings.login_timeout))

    def _login(self, record: nodes.Record) -> initiator.Answer:
        """Log in through a portal, making its record first when there is none."""
        name = f"{record.portal.address},{record.portal.port},{record.portal.tpgt}"
        mine = not record.path or (self.claim.ours and self.claim.record == name)
        # Before anything is done: were we killed, the next run has to know what is ours.
        self.claim = claims.Claim(ours=True, record=name if mine else "")
        claims.write(self.host, self.target, self.claim)
        until = self._within(self.settings.login_timeout + 1)
        if mine:
            answer = initiator.make_record(self.host, self.target, record, self.settings, until)
            if answer.status != initiator.OK:
                return answer
        answer = initiator.login(self.host, self.target, record, until)
        if mine and answer.status is not None and not self._may_be_up(answer):
            initiator.delete_record(self.host, self.target, record, until)
            self.claim = claims.Claim(ours=True)
            claims.write(self.host, self.target, self.claim)
        return answer

    def _may_be_up(self, answer: initiator.Answer) -> bool:
        return answer.status in (initiator.OK, initiator.SESSION_EXISTS)

    def _opened(self, session: sessions.Session) -> None:
        """Note that a session is ours, and bound what its loss costs a reader.

        In sysfs, whosever record it was: since Linux 4.2 iscsid does not set it back after that
        (drivers/scsi/scsi_transport_iscsi.c, recovery_tmo_sysfs_override).
        """
        self.claim = self.claim._replace(sid=session.sid)
        claims.write(self.host, self.target, self.claim)
        with contextlib.suppress(OSError):  # it is gone already: the wait for its disk will say so
            value = f"{self.settings.replacement_timeout:.0f}"
            self.host.write(f"{session.path}/recovery_tmo", value)

    def _wait_up(self, events: udev.Listener) -> sessions.Session | None:
        def up() -> sessions.Session | None:
            known = sessions.find_all(self.host, self.target)
            return known[0] if known and known[0].up else None

        return events.wait_for(up, self._within(_SETTLE))

    def _recovered(
        self, session: sessions.Session, events: udev.Listener
    ) -> sessions.Session | None:
        """Wait for iscsid to mend a lost session, if its portal answers at all."""
        until = self._within(self.settings.login_timeout)
        if initiator.reachable(session.portal, until):
            return None

        def up() -> sessions.Session | None:
            now = sessions.read(self.host, session.sid)
            return now if now and now.up else None

        return events.wait_for(up, until)

    def _verdict(self, record: nodes.Record, answer: initiator.Answer) -> tuple[str, str]:
        """Return why a login failed, and what to do."""
        if answer.status is None:
            values = nodes.values(self.host, record)
            tries = values.get("node.session.initial_login_retry_max", "?")
            return (
                f"no answer in {self.settings.login_timeout:.0f} s, iscsiadm is left to go on",
                f"systemctl status iscsid; its record has initial_login_retry_max = {tries}",
            )
        if answer.status in (initiator.OK, initiator.SESSION_EXISTS):
            return f"iscsiadm exit {answer.status}, yet no session is up", answer.hint
        hint = answer.hint
        if answer.status in (initiator.FATAL_LOGIN, initiator.REFUSED):
            hint += f" (this host is {self._initiator_name()})"
        return answer.why, hint

    def _initiator_name(self) -> str:
        text = self.host.read("/etc/iscsi/initiatorname.iscsi") or ""
        names = [line.partition("=")[2] for line in text.splitlines() if line[:1] == "I"]
        return names[0].strip() if names else "a host without an initiator name"

    def _no_disk(self, up: list[sessions.Session]) -> disks.Device:
        there = [disk for session in up for disk in disks.list_all(self.host, session)]
        luns = ", ".join(sorted({str(disk.lun) for disk in there})) or "none"
        if any(disk.lun == self.settings.lun for disk in there):
            raise errors.NoDisk(
                f"{self.target}: no link {disks.BY_PATH}/{there[0].link} after "
                f"{self.settings.udev_timeout:.0f} s",
                "udevadm settle; raise udev_timeout if udev is only slow",
            )
        raise errors.NoDisk(
            f"{self.target}: no LUN {self.settings.lun} through {up[0].portal} after "
            f"{self.settings.udev_timeout:.0f} s, LUNs there: {luns}",
            "map the LUN at the SAN, or set lun in /etc/auto.iscsi.conf",
        )


@contextlib.contextmanager
def _at_most(seconds: float, target: str) -> Iterator[float]:
    """Bound what is done within: by its own waits, and in the end by SIGALRM."""

    def over(*_: Any) -> None:
        raise errors.TimedOut(f"{target}: not ready after {seconds:.0f} s", "see lookup_timeout")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield time.monotonic() + seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
