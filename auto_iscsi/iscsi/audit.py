"""Who had which target logged in or out, and when?

One line in the system's log a login and one a logout, none where there was neither: by syslog(3),
as auto-iscsi, facility authpriv, because it says who looked at whose files and is for
administrators to read: `journalctl -t auto-iscsi`, /var/log/auth.log, /var/log/secure.

Who that was says automount (AUTOFS_UID, AUTOFS_USER: autofs lib/mounts.c), sudo, or the kernel;
what made us run, the process that we descend from. The environment is believed only where the
process that sets it is there.
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
_GENERATIONS = 8  # from automount to us there is one, with a shell or a tracer between them more


def login(host: Host, target: str, portal: portals.Portal, sid: int, seen: bool = True) -> None:
    """Note that a session was opened; not `seen`: for a run that was killed, whoever's it was."""
    fields = {"target": target, "portal": str(portal), "session": str(sid)}
    _note(host, "login", fields, seen)


def logout(host: Host, target: str, portal: portals.Portal, sid: int, reason: str) -> None:
    """Note that a session was ended, and why."""
    fields = {"target": target, "portal": str(portal), "session": str(sid), "reason": reason}
    _note(host, "logout", fields)


def _note(host: Host, what: str, fields: Mapping[str, str], ours: bool = True) -> None:
    if host.root != "/":
        return  # another machine: this one's log is none of its business
    uid, user, via = "-", "-", "-"
    if ours:
        via = started_by(host, os.getppid())
        uid, user = who(os.environ, via, os.getuid())
    syslog.openlog(IDENTITY, syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    syslog.syslog(syslog.LOG_INFO, line(what, {**fields, "uid": uid, "user": user, "via": via}))


def line(what: str, fields: Mapping[str, str]) -> str:
    """Return a line of NAME=VALUE: no value can look like another field, end the line or be long.

    In quotes where it has spaces (logfmt, as the kernel's audit has it).
    """
    parts = [what]
    for name, value in fields.items():
        clean = "".join(c if " " <= c <= "~" and c not in '"\\=' else "?" for c in value[:250])
        parts.append(f'{name}="{clean}"' if " " in clean else f"{name}={clean or '-'}")
    return wording.one_line(" ".join(parts))


def who(environment: Mapping[str, str], via: str, uid: int) -> tuple[str, str]:
    """Return the number and the name of who wanted it; "-" for what is not known.

    automount says nothing of a user without a passwd entry: that was not root.
    """
    prefix = {"automount": "AUTOFS", "sudo": "SUDO"}.get(via)
    if prefix is None:
        return str(uid), "root" if uid == 0 else "-"
    number = environment.get(f"{prefix}_UID", "")
    return (number if number.isdecimal() else "-"), environment.get(f"{prefix}_USER", "-")


def started_by(host: Host, pid: int) -> str:
    """Return the name of the process behind us: automount, sudo or cron, else the parent's.

    `pid` is the parent's. /proc/PID/stat (proc(5)): PID (NAME) STATE PARENT ….
    """
    parent = ""
    for _ in range(_GENERATIONS):
        try:
            head, _, rest = (host.read(f"/proc/{pid}/stat") or "").rpartition(")")
        except errors.Failure:
            break
        name, fields = head.partition("(")[2], rest.split()
        if len(fields) < 2 or name in _STARTERS:
            return name or parent or "-"
        parent = parent or name
        pid = int(fields[1])
    return parent or "-"
