"""Log who had a session opened or ended, or a snapshot presented or revoked, and when.

One line in the system's log for each of them. It goes through syslog(3) as
auto-iscsi, facility authpriv, because it says who looked at whose files and is for administrators
only: `journalctl -t auto-iscsi`, /var/log/auth.log or /var/log/secure.

The user's name comes from automount (AUTOFS_UID, AUTOFS_USER: autofs lib/mounts.c), from sudo, or
from the kernel. Anybody could set these variables, so they count only if automount or sudo is among
the processes that started us.
"""

from __future__ import annotations

import os
import syslog

from auto_iscsi import errors, portals, wording
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Mapping

IDENTITY = "auto-iscsi"
_STARTERS = ("automount", "sudo", "cron", "crond")
_GENERATIONS = 8  # parents to look at: automount is ours, but a shell or strace can be in between


def login(host: Host, target: str, portal: portals.Portal, sid: int, seen: bool = True) -> None:
    """Log that a session was opened.

    `seen`: by this run. Otherwise an earlier run opened it, and nobody knows for which user.
    """
    fields = {"target": target, "portal": str(portal), "session": str(sid)}
    _log(host, "login", fields, seen)


def logout(host: Host, target: str, portal: portals.Portal, sid: int, reason: str) -> None:
    """Log that a session was ended, and why."""
    fields = {"target": target, "portal": str(portal), "session": str(sid), "reason": reason}
    _log(host, "logout", fields)


def change_at_san(host: Host, event: str, fields: Mapping[str, str]) -> None:
    """Log that something was changed at a SAN: `event` is present or revoke."""
    _log(host, event, fields)


def find_asker(host: Host) -> tuple[str, str, str]:
    """Return for whom we run: the number and the name of the user, "-" if unknown, and via what."""
    via = find_starter(host, os.getppid())
    return (*find_user(os.environ, via, os.getuid()), via)


def _log(host: Host, event: str, fields: Mapping[str, str], is_this_run: bool = True) -> None:
    """Write a line to the system's log, with the user if this run caused the event."""
    if host.root != "/":
        return  # this machine's log is not that of the host
    uid, user, via = "-", "-", "-"
    if is_this_run:
        uid, user, via = find_asker(host)
    fields = {**fields, "uid": uid, "user": user, "via": via}
    syslog.openlog(IDENTITY, syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    syslog.syslog(syslog.LOG_INFO, format_line(event, fields))


def format_line(event: str, fields: Mapping[str, str]) -> str:
    """Return a line `EVENT NAME=VALUE …`, with quotes around values with spaces (logfmt).

    No value can look like another field or end the line, and long ones are cut.
    """
    parts = [event]
    for name, value in fields.items():
        clean = "".join(c if " " <= c <= "~" and c not in '"\\=' else "?" for c in value[:250])
        parts.append(f'{name}="{clean}"' if " " in clean else f"{name}={clean or '-'}")
    return wording.one_line(" ".join(parts))


def find_user(environment: Mapping[str, str], via: str, uid: int) -> tuple[str, str]:
    """Return the number and the name of the user for whom we run, "-" for what is not known.

    `via` is the process that started us, `uid` our own user. automount gives no name of a user
    without a passwd entry: then both are unknown, for it was not root.
    """
    prefix = {"automount": "AUTOFS", "sudo": "SUDO"}.get(via)
    if prefix is None:
        return str(uid), "root" if uid == 0 else "-"
    number = environment.get(f"{prefix}_UID", "")
    return (number if number.isdecimal() else "-"), environment.get(f"{prefix}_USER", "-")


def find_starter(host: Host, pid: int) -> str:
    """Return the name of the process that started us: automount, sudo or cron, else our parent.

    `pid` is our parent's number. /proc/PID/stat has PID (NAME) STATE PARENT … (proc(5)).
    """
    parent_name = ""
    for _ in range(_GENERATIONS):
        try:
            head, _, rest = (host.read(f"/proc/{pid}/stat") or "").rpartition(")")
        except errors.Failure:
            break
        name, fields = head.partition("(")[2], rest.split()
        if len(fields) < 2 or name in _STARTERS:
            return name or parent_name or "-"
        parent_name = parent_name or name
        pid = int(fields[1])
    return parent_name or "-"
