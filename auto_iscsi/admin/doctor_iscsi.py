"""Check open-iscsi: its daemon and kernel module, the initiator name, records, lock and version.

The file lock.write locks open-iscsi's database (open-iscsi usr/idbm.c, idbm_lock). If it is left
behind, every iscsiadm waits 30 s and exits with status 6.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator

from auto_iscsi import errors, keys, wording
from auto_iscsi.admin import host_check
from auto_iscsi.admin.host_check import OK, PROBLEM, UNKNOWN, WARNING, Finding
from auto_iscsi.disks import multipath, twins
from auto_iscsi.iscsi import claims, node_records, sessions
from auto_iscsi.machine.host import Host

INITIATOR = "/etc/iscsi/initiatorname.iscsi"
DAEMON = "/etc/iscsi/iscsid.conf"
LOCK = "/run/lock/iscsi/lock.write"
_ABANDONED = 60.0  # seconds; no iscsiadm holds the lock for so long
# Names from examples and images: hosts that share a name end each other's sessions.
_EXAMPLE = re.compile(r".*(:|[:.](initiator|example|default|localhost|changeme|template)\d*)", re.I)
_OLD_SETTING = "node.session.conn_reopen_log_freq"  # 2.1.11 wrote it, 2.1.12 fails on it


def daemon(host: Host) -> Finding:
    """Check that iscsid is running or starts on demand, in a unit of its own."""
    pids = host_check.find_processes(host, ("iscsid",))
    if not host_check.is_installed(host, "iscsid"):
        return Finding(PROBLEM, "iscsid is not installed", "install open-iscsi")
    properties = "LoadState,ActiveState"
    names = ("iscsid.socket", "iscsid.service")
    units = host_check.unit_properties(host, *names, properties=properties)
    masked = [name for name, unit in units.items() if unit.get("LoadState") == "masked"]
    if masked and not pids:
        text = f"{' and '.join(masked)} cannot be started: masked"
        return Finding(PROBLEM, text, f"systemctl unmask {' '.join(masked)}")
    commands = re.findall(r"^iscsid\.startup\s*=\s*(.+)$", host.read(DAEMON) or "", re.M)
    if units and commands and "systemctl" not in commands[-1]:
        text = "iscsiadm starts iscsid within the service that runs it (autofs), and iscsid ends "
        mend = f"set iscsid.startup = /bin/systemctl start iscsid.socket in {DAEMON}"
        return Finding(WARNING, f"{text}with that service", mend)
    if pids:
        return Finding(OK, f"iscsid is running (process {pids[0]})")
    if units.get("iscsid.socket", {}).get("ActiveState") == "active":
        return Finding(OK, "iscsid.socket starts iscsid on demand")
    if commands:
        return Finding(OK, f"iscsiadm starts iscsid on demand ({commands[-1]})")
    return Finding(PROBLEM, "nothing starts iscsid", "systemctl enable --now iscsid.socket")


def kernel_module(host: Host) -> Finding:
    """Check that the running kernel has iSCSI over TCP."""
    if host.stat("/sys/module/iscsi_tcp") or host.stat("/sys/class/iscsi_transport/tcp"):
        return Finding(OK, "iscsi_tcp is loaded")
    release = host.read("/proc/sys/kernel/osrelease") or "?"
    folder = f"/lib/modules/{release}"
    if host.stat(folder) is None:
        text = f"the modules of the running kernel, {release}, are gone: was it updated?"
        return Finding(PROBLEM, text, "reboot")
    for name in ("modules.dep", "modules.builtin"):
        if b"/iscsi_tcp.ko" in (host.read_bytes(f"{folder}/{name}") or b""):
            return Finding(OK, "iscsi_tcp is installed; it is loaded on demand")
    text = f"the running kernel, {release}, has no module iscsi_tcp"
    return Finding(PROBLEM, text, "install the distribution's full kernel package, and reboot")


def initiator_name(host: Host) -> Finding:
    """Check the name by which the SAN knows this host."""
    make_name = f'echo "InitiatorName=$(iscsi-iname)" > {INITIATOR} && systemctl restart iscsid'
    text = host.read(INITIATOR)
    if text is None:
        return Finding(PROBLEM, f"{INITIATOR} does not exist: no login can work", make_name)
    names = re.findall(r"^InitiatorName\s*=\s*(\S+)", text, re.M)
    if not names:
        if re.search(r"^GenerateName=yes", text, re.M):
            text = "iscsid makes the name when it starts: the SAN cannot know the name yet"
            return Finding(WARNING, text, "systemctl start open-iscsi")
        return Finding(PROBLEM, f"{INITIATOR} contains no InitiatorName", make_name)
    name = names[0]
    try:
        keys.parse(name)
    except errors.BadKey:
        return Finding(PROBLEM, f"{wording.one_line(name, 60)} is not an iSCSI name", make_name)
    if _EXAMPLE.fullmatch(name):
        text = f"{name} looks like an example: two hosts with one name end each other's sessions"
        return Finding(PROBLEM, text, make_name)
    return Finding(OK, name)


def database_lock(host: Host) -> Finding:
    """Check for a lock on open-iscsi's database that no process holds any more."""
    status = host.stat(LOCK)
    if status is None:
        return Finding(OK, "open-iscsi's database is not locked")
    age = time.time() - status.st_ctime
    if age < _ABANDONED or host_check.find_processes(host, ("iscsiadm", "iscsistart")):
        return Finding(OK, "open-iscsi's database is in use")
    text = f"{LOCK} was left behind {age / 60:.0f} min ago, and no iscsiadm is running"
    return Finding(PROBLEM, text, f"rm {LOCK}")


def automatic_startup(host: Host) -> Finding:
    """Check that no target that we use, or that is gone, is logged in at boot."""
    claimed = set(host.names(f"{claims.FOLDER}/claims"))
    logged_in = {keys.fold(sessions.target_name(host, sid)) for sid in sessions.numbers(host)}
    automatic = {
        target
        for target in sorted(node_records.list_targets(host))
        if any(record.get("node.startup") == "automatic" for record in _records(host, target))
    }
    wrong = {target for target in automatic if target in claimed or target not in logged_in}
    if wrong:
        return Finding(
            WARNING,
            f"logged in at every boot, even if they do not exist: {host_check.shorten(wrong)}",
            f"iscsiadm -m node -T {shlex.quote(min(wrong))} -o update -n node.startup -v manual",
        )
    others = len(automatic)
    also = f" ({wording.counted(others, 'other target')} logged in at boot)" if others else ""
    return Finding(OK, f"no target of ours is logged in at boot{also}")


def _records(host: Host, target: str) -> Iterator[dict[str, str]]:
    """Yield the settings in each node record of a target."""
    for record in node_records.find_all(host, target):
        yield node_records.values(host, record)


def version(host: Host) -> Finding:
    """Check for versions of open-iscsi that are known to misbehave."""
    installed = host_check.parse_version(host_check.run_program(host, "iscsiadm", "--version"))
    if not installed:
        return Finding(UNKNOWN, "iscsiadm does not print its version")
    if installed[0] == 6:  # RHEL and Fedora put it before upstream's version
        installed = installed[1:]
    shown = ".".join(map(str, installed))
    if installed < (2, 1):
        text = f"open-iscsi {shown} is older than the versions that were tested"
        return Finding(WARNING, text, "update open-iscsi")
    if installed == (2, 1, 12):
        mend = "update open-iscsi to 2.1.13, or delete those records and discover the targets again"
        old = {
            target
            for target in sorted(node_records.list_targets(host))
            if any(_OLD_SETTING in record for record in _records(host, target))
        }
        text = "open-iscsi 2.1.12 fails (exit status 7) on records that 2.1.11 wrote"
        if old:
            return Finding(PROBLEM, f"{text}: {host_check.shorten(old)}", mend)
        return Finding(WARNING, f"{text}; there are none now", mend)
    return Finding(OK, f"open-iscsi {shown}")


def secrets(host: Host) -> Finding:
    """Check that only root can read files that contain CHAP secrets."""
    files = [DAEMON]
    for folder in node_records.FOLDERS:
        if _grants_others(host, folder, 0o001):
            files += _record_files(host, folder)
    readable = [
        name for name in files if _grants_others(host, name, 0o006) and _has_secret(host, name)
    ]
    if readable:
        text = f"users other than root can read a CHAP secret: {host_check.shorten(readable)}"
        return Finding(PROBLEM, text, f"chmod 600 {readable[0]}, and set a new secret")
    return Finding(OK, "only root can read open-iscsi's CHAP secrets")


def serial_numbers(host: Host) -> Finding:
    """Check that no two volumes have the same serial number, or none."""
    groups = twins.find_all(host)
    if not groups:
        return Finding(OK, "each volume that is logged in has its own serial number (WWID)")
    disks = host_check.shorten([twins.name(disk) for disk in groups[0].disks])
    more = f", and {len(groups) - 1} more such groups" if groups[1:] else ""
    text = f"these volumes have one serial number, and multipathd can join them: {disks}{more}"
    wwid = wording.one_line(groups[0].wwid, 60)
    mend = f"{multipath.TODO}; then log out of both (their WWID is {wwid})"
    return Finding(WARNING, text, mend)


def _record_files(host: Host, folder: str) -> list[str]:
    """Return the files of the node records below `folder` whose directories others can enter."""
    files = []
    for target in sorted(node_records.list_targets(host)):
        for record in node_records.find_all(host, target):
            own = node_records.files(host, record)
            is_open = own == [record.path] or _grants_others(host, record.path, 0o001)
            if record.path.startswith(folder) and is_open:
                files += own
    return files


def _grants_others(host: Host, name: str, rights: int) -> bool:
    """Return whether everybody has one of these rights (mode bits) to a file."""
    status = host.stat(name)
    return bool(status and status.st_mode & rights)


def _has_secret(host: Host, name: str) -> bool:
    return bool(re.search(r"^[\w.]*password\w*[ \t]*=[ \t]*\S", host.read(name) or "", re.M))
