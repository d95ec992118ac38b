"""Run iscsiadm for one target, and interpret its exit codes.

Every command names the target, and the portal where there is one. Without a target, iscsiadm works
on all of them, and open-iscsi 2.1.12 fails then if one of their records is old.

At most one iscsiadm works on a target, and at most one on the host uses the record database, since
the maintainers of open-iscsi promise nothing for two. A discovery does neither: it asks a portal,
and at most one at a time asks the same portal (discovery).

iscsiadm is never killed. When its time is over we stop waiting. Its stdout is the file of the
target's or the portal's lock, so that the next command waits until it has ended. When automount
stops, iscsiadm goes on: a killed one can leave a lock behind that stops every later iscsiadm on the
host.
"""

from __future__ import annotations

import os
import time

from auto_iscsi import errors, portals
from auto_iscsi.iscsi import claims, node_records, record_ledger, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from auto_iscsi.config.settings import Settings

# The exit codes, named as in open-iscsi include/iscsi_err.h: ERR is ISCSI_ERR, X is ISCSI_ERR_X.
SUCCESS = 0  # ISCSI_SUCCESS
ERR = 1
SESS_NOT_FOUND = 2  # ISCSI_ERR_SESS_NOT_FOUND
TRANS = 4
LOGIN = 5
IDBM = 6
INVAL = 7
TRANS_TIMEOUT = 8
INTERNAL = 9
LOGOUT = 10
PDU_TIMEOUT = 11
TRANS_NOT_FOUND = 12
ACCESS = 13
SESS_EXISTS = 15  # ISCSI_ERR_SESS_EXISTS
ISCSID_COMM_ERR = 18
FATAL_LOGIN = 19
ISCSID_NOTCONN = 20
NO_OBJS_FOUND = 21  # ISCSI_ERR_NO_OBJS_FOUND
LOGIN_AUTH_FAILED = 24
BUSY = 28
SESSION_NOT_CONNECTED = 32

#: What each of them means for us, and what to do next. Other codes are shown as ERR.
_EXIT_CODES = {
    ERR: ("failed", "see journalctl -u iscsid"),
    SESS_NOT_FOUND: ("the session does not exist", "see iscsiadm -m session"),
    TRANS: ("the connection failed", "is the portal up and reachable?"),
    LOGIN: ("the login failed", "see journalctl -u iscsid"),
    IDBM: ("the record database cannot be read or written", "df -h /etc/iscsi /var/lib/iscsi"),
    INVAL: ("invalid parameter", "see iscsiadm -m node -T TARGET"),
    TRANS_TIMEOUT: (
        "the portal did not accept the login in time",
        "is the target enabled at the SAN?",
    ),
    INTERNAL: ("another login to the target has not ended yet", "try again"),
    LOGOUT: ("the logout failed", "see journalctl -u iscsid"),
    PDU_TIMEOUT: ("the portal did not answer in time", "is the portal up and reachable?"),
    TRANS_NOT_FOUND: ("the kernel has no iSCSI transport", "modprobe iscsi_tcp"),
    ACCESS: ("permission denied", "run it as root"),
    SESS_EXISTS: ("the session exists already", "see iscsiadm -m session"),
    ISCSID_COMM_ERR: ("iscsid does not answer", "systemctl start iscsid"),
    FATAL_LOGIN: ("the portal does not let this host use the target", "present it at the SAN"),
    ISCSID_NOTCONN: ("iscsid does not answer", "systemctl start iscsid"),
    NO_OBJS_FOUND: ("no node record", "see iscsiadm -m node"),
    LOGIN_AUTH_FAILED: (
        "the target refused this host or its CHAP secret",
        "correct node.session.auth in the record, or the access list at the SAN",
    ),
    BUSY: ("the session is in use", "see auto-iscsi status"),
    SESSION_NOT_CONNECTED: ("the session is not connected", "try again"),
}

_DATABASE_LOCK = "/run/lock/iscsi/lock.write"  # open-iscsi's own
_DATABASE = "iscsiadm/alone"  # the lock of the one iscsiadm that uses the database
_STEP = 0.02  # seconds between two checks of a lock


class Limit(NamedTuple):
    """The time limit of a command: `seconds` from its start, and at the latest `until`."""

    seconds: float
    until: float  #: time.monotonic()

    @property
    def end(self) -> float:
        """When a command that starts now has to be over (time.monotonic())."""
        return min(self.until, time.monotonic() + self.seconds)


class Answer(NamedTuple):
    """How an iscsiadm ended, and what it printed on stdout."""

    status: int | None  #: its exit code; None: it still runs
    text: str
    is_locked: bool = False  #: the record database was locked when iscsiadm had ended

    @property
    def why(self) -> str:
        """What the exit code means, for the log."""
        if self.status is None:
            return "iscsiadm still runs"
        meaning = _EXIT_CODES.get(self.status, _EXIT_CODES[ERR])[0]
        if self.status == IDBM and self.is_locked:
            meaning = "the record database is locked"
        return f"{meaning} (iscsiadm exit {self.status})"

    @property
    def hint(self) -> str:
        """What to do next."""
        if self.status == IDBM and self.is_locked:
            return f"when no iscsiadm runs: rm {_DATABASE_LOCK}"
        return _EXIT_CODES.get(self.status or ERR, _EXIT_CODES[ERR])[1]


def login(host: Host, target: str, record: node_records.Record, limit: Limit) -> Answer:
    """Log in through the portal of a node record.

    What iscsiadm prints stays in the file of the target's lock: if this lookup is killed, the next
    one learns from it how the login ended (pending_logins.settle).
    """
    place = ("-m", "node", "-T", record.target, "-p", record.portal.with_group)
    return _iscsiadm(host, target, *place, "--login", limit=limit, keep_output=True)


def rescan(host: Host, target: str, session: sessions.Session, limit: Limit) -> Answer:
    """Make the kernel look for LUNs that were presented after the login."""
    return _iscsiadm(host, target, "-m", "session", "-r", f"{session.sid}", "--rescan", limit=limit)


def logout(host: Host, target: str, session: sessions.Session, limit: Limit) -> Answer:
    """Log a session out."""
    place = ("-m", "session", "-r", f"{session.sid}")
    return _iscsiadm(host, target, *place, "--logout", limit=limit, quick=False)


def log_out_unbound(host: Host, target: str, session: sessions.Session, limit: Limit) -> Answer:
    """End a session that stays UNBOUND because iscsid was killed in the middle of its logout.

    The kernel reports only once that a session's disks are gone (scsi_transport_iscsi.c). iscsid
    waits for that report (session_logout_task), unless the connection is lost. So we cut the
    connection, and log out in the two seconds for which it is lost. Raise Failure when it cannot be
    cut: a logout would wait for ever then.
    """
    _cut_connection(host, target, session, limit)
    return logout(host, target, session, limit)


def _cut_connection(host: Host, target: str, session: sessions.Session, limit: Limit) -> None:
    """Cut the TCP connection of a session, and of no other one.

    `ss --kill` prints the connections that it has cut. Without CAP_NET_ADMIN it cuts none, and
    exits 0 all the same (seen with iproute2 6.1). No second ss asks for the result: iscsid connects
    again after two seconds, and the logout has to come before that.
    """
    folder = f"{sessions.CONNECTIONS}/connection{session.sid}:0"
    local_port, address, port = (
        host.read(f"{folder}/{name}") for name in ("local_port", "address", "port")
    )
    if not (local_port and address and port):
        return  # the session has no connection any more
    remote = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    ends = ("sport", "=", local_port, "dst", remote)
    out, null = os.memfd_create("ss"), os.open("/dev/null", os.O_WRONLY)
    try:
        host.run("ss", "--kill", "--no-header", "--tcp", *ends, out=out, err=null, until=limit.end)
        if not os.pread(out, 1, 0):
            raise errors.Failure(
                f"{target}: the connection of session {session.sid} cannot be cut",
                f"as root: ss --kill --tcp {' '.join(ends)}",
            )
    finally:
        os.close(out)
        os.close(null)


def discover(
    host: Host, portal: portals.Portal, lock: int, limit: Limit, files: Mapping[str, bytes]
) -> Answer:
    """Ask a portal which targets it offers; discovery.offered_records() reads the answer.

    No node record changes: only a `nonpersistent` discovery leaves CHAP, startup mode and timeouts
    in the records of all other targets as they are (open-iscsi usr/iscsiadm.c). It does not lock
    the database.

    `lock`: the descriptor of the portal's lock, which lasts as long as iscsiadm runs. `files` are
    contents that iscsiadm sees in place of the host's files: the credentials (chap). iscsiadm asks
    iscsid where iscsid.conf is, and works without credentials when iscsid has only just started
    (seen with 2.1.8). Then it is asked a second time. The answer's text ends with what iscsiadm
    printed on stderr.
    """
    args = ("-m", "discovery", "-t", "sendtargets", "-p", str(portal), "-o", "nonpersistent")
    iscsid_starts = files and not host.runs("iscsid")
    stderr = os.memfd_create("iscsiadm")  # no pipe: iscsiadm can go on without us
    try:
        answer = _start(host, args, lock, stderr, limit, files)
        if iscsid_starts and answer.status == LOGIN_AUTH_FAILED:
            answer = _start(host, args, lock, stderr, limit, files)
        printed = os.pread(stderr, 1 << 16, 0).decode("utf-8", "replace")
        return answer._replace(text=f"{answer.text}\n{printed}")
    finally:
        os.close(stderr)


def make_record(
    host: Host,
    target: str,
    record: node_records.Record,
    settings: Settings,
    limit: Limit,
    files: Mapping[str, bytes],
) -> Answer:
    """Make the node record of one portal of one target, with our timeouts and manual startup.

    `files`: the credentials, as in discover(). While iscsid starts, iscsiadm can make a record
    without them: then it is made again.
    """
    place = ("-m", "node", "-T", record.target, "-p", record.portal.with_group)
    end = limit.end
    new = (*place, "-o", "new")
    answer = _iscsiadm(host, target, *new, limit=limit, database=True, files=files)
    while answer.status == SUCCESS and files and not _has_chap(host, target, record):
        if time.monotonic() >= end:
            raise errors.IscsidNotRunning(
                f"{target}: iscsid does not start", "systemctl status iscsid"
            )
        answer = _iscsiadm(host, target, *new, limit=limit, database=True, files=files)
    if answer.status != SUCCESS:
        return answer
    values = _record_values(settings)
    pairs = [part for name, value in values.items() for part in ("-n", name, "-v", value)]
    return _iscsiadm(host, target, *place, "-o", "update", *pairs, limit=limit, database=True)


def _record_values(settings: Settings) -> dict[str, str]:
    """Return what a record of ours has in place of open-iscsi's defaults.

    iscsid tries to log in every two seconds for login_timeout × initial_login_retry_max, and ends
    with the first try after that (open-iscsi usr/initiator.c, iscsi_retry_initial_login). One
    second less than our own limit is too late where the target is disabled (03/01), as seen with
    2.1.11: it is two seconds less.

    A silent connection counts as lost after one ping's interval and timeout, and only then
    replacement_timeout starts: all together, at most one and a half times as long.
    """
    ping = f"{max(1, min(5, settings.replacement_timeout // 4)):.0f}"
    return {
        **record_ledger.MARKS,
        "node.session.scan": "auto",
        "node.session.timeo.replacement_timeout": f"{settings.replacement_timeout:.0f}",
        "node.conn[0].timeo.login_timeout": f"{max(1, settings.login_timeout - 2):.0f}",
        "node.conn[0].timeo.noop_out_interval": ping,
        "node.conn[0].timeo.noop_out_timeout": ping,
    }


def _has_chap(host: Host, target: str, record: node_records.Record) -> bool:
    """Return whether the record that was made for this portal has credentials."""
    return any(
        node_records.values(host, made).get("node.session.auth.authmethod") == "CHAP"
        for made in node_records.find_all(host, target)
        if made.portal.has_same_address(record.portal)
    )


def delete_record(host: Host, target: str, record: node_records.Record, limit: Limit) -> Answer:
    """Delete a node record that we made."""
    place = ("-m", "node", "-T", record.target, "-p", record.portal.with_group)
    return _iscsiadm(host, target, *place, "-o", "delete", limit=limit, database=True, quick=False)


def wait_until_idle(host: Host, target: str, until: float) -> bool:
    """Wait until no iscsiadm runs for a target; return False when one still does at `until`."""
    while claims.is_locked(host, f"iscsiadm/{target}"):
        if time.monotonic() >= until:
            return False
        time.sleep(_STEP)
    return True


def still_running(target: str) -> errors.Busy:
    """Return the failure of a target for which an earlier iscsiadm still runs."""
    return errors.Busy(
        f"{target}: an iscsiadm that was started for it earlier still runs",
        "if that lasts: systemctl restart iscsid",
    )


def _iscsiadm(
    host: Host,
    target: str,
    *args: str,
    limit: Limit,
    database: bool = False,
    keep_output: bool = False,
    files: Mapping[str, bytes] | None = None,
    quick: bool = True,
) -> Answer:
    """Run iscsiadm for a target; raise Busy while an earlier one still runs.

    Its stdout is the file of the target's lock. With `database` its stderr is the file of the
    database's lock. So both locks last as long as iscsiadm runs, whatever becomes of us.

    `keep_output`: leave what it prints in the file of the target's lock. `quick`: as in Host.run,
    but for a command that needs `files`.
    """
    name = f"iscsiadm/{target}"
    stdout = claims.lock(host, name, limit.end)
    if stdout is None:
        raise still_running(target)
    locks = [(name, stdout)]
    status: int | None = 0
    try:
        if database:  # the commands before ours have limits of their own: only `until` counts
            stderr = claims.lock(host, _DATABASE, limit.until)
            if stderr is None:
                raise errors.Busy(f"{target}: iscsiadm ran too long for other targets", "try again")
            locks.append((_DATABASE, stderr))
        status = None
        answer = _start(host, args, stdout, locks[-1][1], limit, files, quick=quick)
        status = answer.status
        return answer
    finally:
        for lock, handle in locks:
            if status is None or (keep_output and handle == stdout):  # iscsiadm may still hold it
                os.close(handle)
            else:
                claims.unlock(host, lock, handle)


def _start(
    host: Host,
    args: tuple[str, ...],
    out: int,
    err: int,
    limit: Limit,
    files: Mapping[str, bytes] | None = None,
    *,
    quick: bool = True,
) -> Answer:
    """Run iscsiadm with its stdout in the file `out` and its stderr in the file `err`.

    It ignores SIGTERM. Otherwise, a stop of automount could leave its database locked, and a login
    that iscsid has been asked for would open a session that nobody knows to be ours.
    """
    os.ftruncate(out, 0)
    os.lseek(out, 0, os.SEEK_SET)
    status = host.run(
        "iscsiadm",
        *args,
        out=out,
        err=err,
        until=limit.end,
        files=files,
        endures=True,
        quick=quick and not files,
    )
    text = os.pread(out, 1 << 20, 0).decode("utf-8", "replace")
    return Answer(status, text, status == IDBM and host.stat(_DATABASE_LOCK) is not None)
