"""What is asked of iscsiadm, and what do its answers mean?

Always with the target and the portal: without a target it means all of them, and open-iscsi
2.1.12 fails when one old record is among them. Never twice at once for a target. One at a time
for the database of records, of which its maintainers promise nothing else. One discovery at a time
for a portal: of eight at once seven ended with 11 (PDU timeout), seen with 2.1.8. A discovery that
hangs keeps nobody from other portals, nor from the database. Never killed: we stop
waiting, and the lock that its stdout is keeps the next one away until it is through. One that is
at the database outlives automount, too: killed there, it can leave a lock behind that stops every
iscsiadm of the host.
"""

from __future__ import annotations

import os
import time

from auto_iscsi import errors, portals
from auto_iscsi.iscsi import claims, node_records, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from auto_iscsi.config.settings import Settings

OK, NO_SESSION, PORTAL_DOWN, FATAL_LOGIN, SESSION_EXISTS = 0, 2, 8, 19, 15
NOTHING_FOUND, REFUSED = 21, 24
_ALONE = "iscsiadm/alone"
_DATABASE_LOCK = "/run/lock/iscsi/lock.write"
_STEP = 0.02  # seconds between two looks at a lock

# open-iscsi include/iscsi_err.h: what it means, and what to do next
_EXITS = {
    1: ("failed", "see journalctl -u iscsid"),
    4: ("connection failed", "is the portal up and reachable?"),
    5: ("login error", "see journalctl -u iscsid"),
    6: ("its database cannot be read or written", "see df -h /etc/iscsi /var/lib/iscsi"),
    7: ("invalid parameter", "see iscsiadm -m node -T TARGET"),
    PORTAL_DOWN: ("the portal did not let us in in time", "is the target enabled at the SAN?"),
    9: ("a login to it is under way", "try again"),
    10: ("logout failed", "see journalctl -u iscsid"),
    11: ("no answer in time", "is the portal up and reachable?"),
    12: ("no iSCSI transport", "modprobe iscsi_tcp"),
    13: ("not permitted", "run it as root"),
    18: ("iscsid does not answer", "systemctl start iscsid"),
    FATAL_LOGIN: ("the target is not there, or not for this host", "present it at the SAN"),
    20: ("iscsid does not answer", "systemctl start iscsid"),
    NOTHING_FOUND: ("no node record", "see iscsiadm -m node"),
    28: ("it is in use", "see auto-iscsi status"),
    32: ("the session is not connected", "try again"),
    REFUSED: (
        "the target refused this host or its CHAP secret",
        "mend node.session.auth in the record, or the access list at the SAN",
    ),
}


# What a record of ours has, and one that somebody made anew most likely has not.
_OURS = {"node.startup": "manual", "node.session.initial_login_retry_max": "1"}


class Limit(NamedTuple):
    """How long a request may take: `seconds` once it is its turn, and not beyond `until`."""

    seconds: float
    until: float  #: time.monotonic()

    @property
    def end(self) -> float:
        """When a request that begins now is to be over (time.monotonic())."""
        return min(self.until, time.monotonic() + self.seconds)


class Answer(NamedTuple):
    """How iscsiadm ended: None while it still runs."""

    status: int | None
    text: str
    locked: bool = False  #: open-iscsi's database was locked when iscsiadm had ended

    @property
    def why(self) -> str:
        """What the status means, for the log."""
        if self.status is None:
            return "iscsiadm still runs"
        if self.status == 6 and self.locked:
            return "its database is locked (iscsiadm exit 6)"
        meaning = _EXITS.get(self.status, ("failed", ""))[0]
        return f"{meaning} (iscsiadm exit {self.status})"

    @property
    def hint(self) -> str:
        """What to do next."""
        if self.status == 6 and self.locked:
            return f"when no iscsiadm runs: rm {_DATABASE_LOCK}"
        return _EXITS.get(self.status or 0, _EXITS[1])[1]


def login(host: Host, target: str, record: node_records.Record, limit: Limit) -> Answer:
    """Log in through a record's portal. What it said stays until pending.settle()."""
    place = ("-m", "node", "-T", record.target, "-p", record.portal.with_group)
    return _iscsiadm(host, target, *place, "--login", limit=limit, stays=True)


def rescan(host: Host, target: str, session: sessions.Session, limit: Limit) -> Answer:
    """Have the kernel look for LUNs that were presented after the login."""
    return _iscsiadm(host, target, "-m", "session", "-r", f"{session.sid}", "--rescan", limit=limit)


def logout(host: Host, target: str, session: sessions.Session, limit: Limit) -> Answer:
    """End a session."""
    place = ("-m", "session", "-r", f"{session.sid}")
    return _iscsiadm(host, target, *place, "--logout", limit=limit, quick=False)


def finish(host: Host, target: str, session: sessions.Session, limit: Limit) -> Answer:
    """End a session that is UNBOUND for good: iscsid was killed in the middle of its logout.

    That its disks are gone the kernel says once (scsi_transport_iscsi.c), and iscsid waits for
    that (session_logout_task), unless the connection is lost. So it is cut, for two seconds.
    """
    port = host.read(f"{sessions.CONNECTIONS}/connection{session.sid}:0/local_port") or "0"
    with open("/dev/null", "wb") as null:
        which, out = ("sport", "=", port, "dport", "=", f"{session.portal.port}"), null.fileno()
        host.run("ss", "--kill", "--tcp", *which, out=out, err=out, until=limit.end)
    return logout(host, target, session, limit)


def discover(
    host: Host, target: str, portal: portals.Portal, limit: Limit, files: Mapping[str, bytes]
) -> Answer:
    """Ask a portal what it offers, without touching a record (discovery.listed() reads the answer).

    A discovery that is not `nonpersistent` would reset other targets' records: CHAP, startup and
    timeouts (open-iscsi usr/iscsiadm.c). `files` is what iscsiadm sees in the place of the
    machine's: the credentials (chap). It asks iscsid for iscsid.conf's name, and goes without
    while iscsid only just starts (seen with 2.1.8): then it is asked once more.

    It holds its portal, not the target: when it hangs, the next portal can be asked.
    """
    args = ("-m", "discovery", "-t", "sendtargets", "-p", str(portal), "-o", "nonpersistent")
    cold = files and not host.runs("iscsid")
    name = _discovery(portal)
    answer = _iscsiadm(host, target, *args, limit=limit, name=name, files=files)
    if cold and answer.status == REFUSED:
        answer = _iscsiadm(host, target, *args, limit=limit, name=name, files=files)
    return answer


def discovery_hangs(host: Host, portal: portals.Portal) -> bool:
    """Return whether an earlier discovery at a portal still runs. The caller holds the portal."""
    return claims.is_held(host, f"iscsiadm/{_discovery(portal)}")


def _discovery(portal: portals.Portal) -> str:
    """Return the name of the lock that a discovery at a portal holds."""
    return f"discovery-{portal}"


def make_record(
    host: Host,
    target: str,
    record: node_records.Record,
    settings: Settings,
    limit: Limit,
    files: Mapping[str, bytes],
) -> Answer:
    """Make the record of one portal of one target, with the settings' times, startup manual.

    `files`: as for a discovery, and with the same exception.

    iscsid tries every two seconds for login_timeout x initial_login_retry_max, and ends with the
    first try after that (open-iscsi usr/initiator.c, iscsi_retry_initial_login): a second less than
    ours is too late where the target is disabled (03/01), as seen with 2.1.11.
    """
    place = ("-m", "node", "-T", record.target, "-p", record.portal.with_group)
    end = limit.end
    answer = _iscsiadm(host, target, *place, "-o", "new", limit=limit, alone=True, files=files)
    while answer.status == OK and files and not _has_chap(host, target, record):
        if time.monotonic() >= end:
            raise errors.TimedOut(f"{target}: iscsid does not start", "systemctl status iscsid")
        answer = _iscsiadm(host, target, *place, "-o", "new", limit=limit, alone=True, files=files)
    if answer.status != OK:
        return answer
    # A connection that says nothing any more is lost after two pings' time, and only then does
    # replacement_timeout begin: together, half as much again.
    ping = f"{max(1, min(5, settings.replacement_timeout // 4)):.0f}"
    values = {
        **_OURS,
        "node.session.scan": "auto",
        "node.session.timeo.replacement_timeout": f"{settings.replacement_timeout:.0f}",
        "node.conn[0].timeo.login_timeout": f"{max(1, settings.login_timeout - 2):.0f}",
        "node.conn[0].timeo.noop_out_interval": ping,
        "node.conn[0].timeo.noop_out_timeout": ping,
    }
    pairs = [part for name, value in values.items() for part in ("-n", name, "-v", value)]
    return _iscsiadm(host, target, *place, "-o", "update", *pairs, limit=limit, alone=True)


def _has_chap(host: Host, target: str, record: node_records.Record) -> bool:
    """Say whether a record that was made has credentials."""
    return any(
        node_records.values(host, made).get("node.session.auth.authmethod") == "CHAP"
        for made in node_records.find_all(host, target)
        if made.portal.has_same_address(record.portal)
    )


def is_unchanged(host: Host, record: node_records.Record) -> bool:
    """Say whether a record still is as make_record() made it."""
    values = node_records.values(host, record)
    return all(values.get(name) == value for name, value in _OURS.items())


def delete_record(host: Host, target: str, record: node_records.Record, limit: Limit) -> Answer:
    """Delete a record that we made."""
    place = ("-m", "node", "-T", record.target, "-p", record.portal.with_group)
    return _iscsiadm(host, target, *place, "-o", "delete", limit=limit, alone=True, quick=False)


def wait_until_idle(host: Host, target: str, until: float) -> bool:
    """Wait for the end of the iscsiadm that is at a target; say whether it came."""
    while claims.is_held(host, f"iscsiadm/{target}"):
        if time.monotonic() >= until:
            return False
        time.sleep(_STEP)
    return True


def still_running(target: str) -> errors.Busy:
    """Return the failure of a target at which an earlier iscsiadm still is."""
    return errors.Busy(
        f"{target}: an iscsiadm that was started for it earlier still runs",
        "if that lasts: systemctl restart iscsid",
    )


def _iscsiadm(
    host: Host,
    target: str,
    *args: str,
    limit: Limit,
    alone: bool = False,
    stays: bool = False,
    files: Mapping[str, bytes] | None = None,
    quick: bool = True,
    name: str = "",
) -> Answer:
    """Run iscsiadm for a target; raise Busy when an earlier one is still at it.

    `quick`: while somebody waits for the mount (Host.run), and where it needs no files of its own.

    Its stdout is the file by which it holds the target, its stderr the one by which it is alone.
    `name`: what it holds in the place of the target, for a discovery; its stderr goes there too.
    """
    lock_name = f"iscsiadm/{name or target}"
    ours = claims.lock(host, lock_name, limit.end)
    if ours is None:
        raise still_running(target)
    held = [(lock_name, ours)]
    status: int | None = 0
    try:
        if alone:  # others are ahead of us, each with its own limit: this wait is not counted
            shared = claims.lock(host, _ALONE, limit.until)
            if shared is None:
                raise errors.Busy(f"{target}: other targets' iscsiadm took too long", "try again")
            held.append((_ALONE, shared))
        os.ftruncate(ours, 0)
        status = None
        err = held[-1][1]
        status = host.run(
            "iscsiadm",
            *args,
            out=ours,
            err=err,
            until=limit.end,
            files=files,
            endures=alone or bool(name),
            quick=quick and not files,
        )
        text = os.pread(ours, 1 << 20, 0).decode("utf-8", "replace")
        return Answer(status, text, status == 6 and host.stat(_DATABASE_LOCK) is not None)
    finally:
        for lock, handle in held:
            if status is None or (stays and handle == ours):  # it may still run, and hold it
                os.close(handle)
            else:
                claims.unlock(host, lock, handle)
