"""Is open-iscsi as it should be: can it start, under which name, with which records?

Its database's lock is the file lock.write (open-iscsi usr/idbm.c, idbm_lock); one that was left
behind makes every iscsiadm wait for 30 s and exit 6.
"""

from __future__ import annotations

import re
import time

from auto_iscsi import errors, keys, wording
from auto_iscsi.admin import host_check
from auto_iscsi.admin.host_check import OK, PROBLEM, UNKNOWN, WARNING, Finding
from auto_iscsi.iscsi import claims, node_records, sessions
from auto_iscsi.machine.host import Host

INITIATOR = "/etc/iscsi/initiatorname.iscsi"
DAEMON = "/etc/iscsi/iscsid.conf"
LOCK = "/run/lock/iscsi/lock.write"
_ABANDONED = 60.0  # seconds that nobody needs for the database
# Names that examples and images carry: two hosts of one name take each other's sessions away.
_SHARED = re.compile(r".*(:|[:.](initiator|example|default|localhost|changeme|template)\d*)", re.I)
_OLD_SETTING = "node.session.conn_reopen_log_freq"  # 2.1.11 wrote it, 2.1.12 fails on it


def daemon(host: Host) -> Finding:
    """Look whether iscsid runs, or will be started when it is needed."""
    pids = host_check.running(host, ("iscsid",))
    if not host_check.installed(host, "iscsid"):
        return Finding(PROBLEM, "iscsid is not installed", "install open-iscsi")
    properties = "LoadState,ActiveState"
    found = host_check.units(host, "iscsid.socket", "iscsid.service", properties=properties)
    masked = [name for name, unit in found.items() if unit.get("LoadState") == "masked"]
    if masked and not pids:
        text = f"{' and '.join(masked)} cannot be started: masked"
        return Finding(PROBLEM, text, f"systemctl unmask {' '.join(masked)}")
    starts = re.findall(r"^iscsid\.startup\s*=\s*(.+)$", host.read(DAEMON) or "", re.M)
    if found and starts and "systemctl" not in starts[-1]:
        text = "iscsiadm starts iscsid itself, so it ends with whatever service did that: autofs"
        mend = f"iscsid.startup = /bin/systemctl start iscsid.socket in {DAEMON}"
        return Finding(WARNING, text, mend)
    if pids:
        return Finding(OK, f"iscsid runs (process {pids[0]})")
    if found.get("iscsid.socket", {}).get("ActiveState") == "active":
        return Finding(OK, "iscsid.socket starts iscsid when it is needed")
    if starts:
        return Finding(OK, f"iscsiadm starts iscsid when it is needed ({starts[-1]})")
    return Finding(PROBLEM, "nothing starts iscsid", "systemctl enable --now iscsid.socket")


def module(host: Host) -> Finding:
    """Look whether the running kernel has iSCSI over TCP."""
    if host.stat("/sys/module/iscsi_tcp") or host.stat("/sys/class/iscsi_transport/tcp"):
        return Finding(OK, "iscsi_tcp is loaded")
    release = host.read("/proc/sys/kernel/osrelease") or "?"
    folder = f"/lib/modules/{release}"
    if host.stat(folder) is None:
        text = f"there are no modules of the running kernel, {release}: was it replaced?"
        return Finding(PROBLEM, text, "reboot")
    for name in ("modules.dep", "modules.builtin"):
        if b"/iscsi_tcp.ko" in (host.read_bytes(f"{folder}/{name}") or b""):
            return Finding(OK, "iscsi_tcp is there, to be loaded")
    text = f"the running kernel, {release}, has no module iscsi_tcp"
    return Finding(PROBLEM, text, "install the distribution's full kernel package, and reboot")


def initiator(host: Host) -> Finding:
    """Look at the name by which the SAN knows this host."""
    fresh = f'echo "InitiatorName=$(iscsi-iname)" > {INITIATOR} && systemctl restart iscsid'
    text = host.read(INITIATOR)
    if text is None:
        return Finding(PROBLEM, f"there is no {INITIATOR}: no login can work", fresh)
    names = re.findall(r"^InitiatorName\s*=\s*(\S+)", text, re.M)
    if not names:
        if re.search(r"^GenerateName=yes", text, re.M):
            said = "the name will be made when iscsid starts: the SAN cannot know it yet"
            return Finding(WARNING, said, "systemctl start open-iscsi")
        return Finding(PROBLEM, f"{INITIATOR} says no name", fresh)
    name = names[0]
    try:
        keys.parse(name)
    except errors.BadKey:
        return Finding(PROBLEM, f"{wording.one_line(name, 60)} is not an iSCSI name", fresh)
    if _SHARED.fullmatch(name):
        text = f"{name} looks like an example's: two hosts of one name end each other's sessions"
        return Finding(PROBLEM, text, fresh)
    return Finding(OK, name)


def lock(host: Host) -> Finding:
    """Look for a database lock that nobody holds any more."""
    status = host.stat(LOCK)
    age = time.time() - status.st_ctime if status else 0.0
    if status is None:
        return Finding(OK, "open-iscsi's database is not locked")
    pids = host_check.running(host, ("iscsiadm", "iscsistart"))
    if pids or age < _ABANDONED:
        return Finding(OK, "open-iscsi's database is in use")
    text = f"{LOCK} was left behind {age / 60:.0f} min ago, and no iscsiadm runs"
    return Finding(PROBLEM, text, f"rm {LOCK}")


def startup(host: Host) -> Finding:
    """Look for records that are logged in at boot, of targets that are ours or not there."""
    claimed = set(host.names(f"{claims.FOLDER}/claims"))
    present = {
        keys.fold(host.read(f"{sessions.FOLDER}/{name}/targetname") or "")
        for name in host.names(sessions.FOLDER)
    }
    wrong, others = set(), 0
    for target in _targets(host):
        automatic = any(
            node_records.values(host, record).get("node.startup") == "automatic"
            for record in node_records.find_all(host, target)
        )
        if automatic and (target in claimed or target not in present):
            wrong.add(target)
        others += automatic and target not in wrong
    if wrong:
        one = min(wrong)
        return Finding(
            WARNING,
            f"logged in at each boot, whether it is there or not: {host_check.some(wrong)}",
            f"iscsiadm -m node -T {one} -o update -n node.startup -v manual",
        )
    also = f" ({others} of others' are, and logged in)" if others else ""
    return Finding(OK, f"no record of ours is automatic{also}")


def _targets(host: Host) -> list[str]:
    """Return the targets that have a node record, folded."""
    names = {keys.fold(name) for folder in node_records.FOLDERS for name in host.names(folder)}
    return sorted(names)


def version(host: Host) -> Finding:
    """Look for versions of open-iscsi that are known to misbehave."""
    said = host_check.version(host_check.ask(host, "iscsiadm", "--version"))
    if not said:
        return Finding(UNKNOWN, "iscsiadm does not say its version")
    if said[0] == 6:  # RHEL and Fedora put it before upstream's
        said = said[1:]
    shown = ".".join(map(str, said))
    if said < (2, 1):
        return Finding(WARNING, f"open-iscsi {shown} is older than what was tested", "update it")
    if said == (2, 1, 12):
        mend = "update open-iscsi to 2.1.13, or make those records anew by a discovery"
        old = {target for target in _targets(host) if _old(host, target)}
        if old:
            text = f"open-iscsi 2.1.12 fails on records that 2.1.11 wrote: {host_check.some(old)}"
            return Finding(PROBLEM, text, mend)
        text = "open-iscsi 2.1.12 fails (exit 7) on records that 2.1.11 wrote; there is none now"
        return Finding(WARNING, text, mend)
    return Finding(OK, f"open-iscsi {shown}")


def _old(host: Host, target: str) -> bool:
    found = node_records.find_all(host, target)
    return any(_OLD_SETTING in node_records.values(host, record) for record in found)


def secrets(host: Host) -> Finding:
    """Look whether files that can hold CHAP secrets are root's alone."""
    names = [DAEMON]
    for folder in filter(lambda name: _open(host, name, 0o001), node_records.FOLDERS):
        for target in _targets(host):
            for record in node_records.find_all(host, target):
                files = node_records.files(host, record)
                is_open = files == [record.path] or _open(host, record.path, 0o001)
                if record.path.startswith(folder) and is_open:
                    names += files
    found = [name for name in names if _open(host, name, 0o006) and _has_secret(host, name)]
    if found:
        text = f"others than root can read a CHAP secret: {host_check.some(found)}"
        return Finding(PROBLEM, text, f"chmod 600 {found[0]}, and another secret")
    return Finding(OK, "CHAP secrets of open-iscsi are for root alone")


def _open(host: Host, name: str, rights: int) -> bool:
    """Say whether everybody has one of these rights."""
    status = host.stat(name)
    return bool(status and status.st_mode & rights)


def _has_secret(host: Host, name: str) -> bool:
    return bool(re.search(r"^[\w.]*password\w*[ \t]*=[ \t]*\S", host.read(name) or "", re.M))
