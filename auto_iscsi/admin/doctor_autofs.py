"""Check autofs: the line in the master map, the running automount, its timeouts and version.

automount remembers the answer of a map, good or bad, for --negative-timeout without running the map
again (autofs daemon/lookup.c). It ignores a second line for the same mount point.
"""

from __future__ import annotations

import os
import time

from auto_iscsi.admin import host_check
from auto_iscsi.admin.host_check import OK, PROBLEM, UNKNOWN, WARNING, Finding
from auto_iscsi.config import config_files, schema
from auto_iscsi.machine import master_map as master
from auto_iscsi.machine.host import Host

SHIPPED = "/usr/share/auto-iscsi/iscsi.autofs"
_LONG = 10.0  # seconds; a target that came back should not be refused for longer
_RELOAD = "systemctl reload autofs"
_INSTALL_LINE = f"cp {SHIPPED} /etc/auto.master.d/ && {_RELOAD}"


def master_map(host: Host) -> Finding:
    """Check that lines of the master map lead to our program map, one for each mount point."""
    if not host_check.is_installed(host, "automount"):
        return Finding(PROBLEM, "automount is not installed", "install autofs")
    lines = master.list_lines(host)
    if not lines:
        text = "no line of the master map leads to auto.iscsi"
        return Finding(PROBLEM, text, _INSTALL_LINE)
    for line in lines:
        if problem := _program_problem(host, line):
            return problem
    first_lines: dict[str, master.Line] = {}
    for line in lines:
        first = first_lines.setdefault(line.root, line)
        if first is not line:
            text = f"{line.where} is ignored: {line.root} is already in {first.where}"
            return Finding(WARNING, text, f"remove one of the two lines for {line.root}")
    return Finding(OK, ", ".join(f"{line.root} ({line.where})" for line in lines))


def snapshots(host: Host) -> Finding:
    """Check the line of the master map that leads to the map of /snapshots."""
    lines = master.list_volume_lines(host)
    if not lines:
        text = f"no line of the master map leads to {master.VOLUMES}: there is no /snapshots"
        return Finding(OK, text, f"copy the line of {SHIPPED} that begins with /snapshots")
    for line in lines:
        if host.stat(master.VOLUMES) is None:
            text = f"{line.where}: {master.VOLUMES} does not exist"
            return Finding(PROBLEM, text, f"auto-iscsi list && {_RELOAD}")
        if line.root not in master.list_autofs_mounts(host):
            text = f"the running automount does not serve {line.root} ({line.where})"
            return Finding(PROBLEM, text, f"{_RELOAD}; journalctl -u autofs")
    return Finding(OK, ", ".join(f"{line.root} ({line.where})" for line in lines))


def _program_problem(host: Host, line: master.Line) -> Finding | None:
    """Return the problem with the program that a line names, None if it is our map."""
    program = line.program
    if not os.path.exists(host.path(program)):
        text = f"{line.where}: {program} does not exist"
        return Finding(PROBLEM, text, "install the package again, or correct the line")
    if not os.access(host.path(program), os.X_OK) and os.geteuid() == 0:
        text = f"{line.where}: {program} is not executable"
        return Finding(PROBLEM, text, f"chmod 755 {program}")
    data = host.read_bytes(program) or b""
    if b"python" not in data.partition(b"\n")[0] or b"auto_iscsi" not in data:
        text = f"{line.where}: {program} is another program, not auto-iscsi's"
        replace = f"ln -s /usr/libexec/auto-iscsi/auto.iscsi {program}"
        return Finding(PROBLEM, text, f"mv {program} {program}.orig && {replace}")
    return None


def daemon(host: Host) -> Finding:
    """Check that automount is running and serves the lines of the master map as they are now."""
    lines = {line.root: line for line in reversed(master.list_lines(host))}  # the first one counts
    mounts = master.list_autofs_mounts(host)
    pids = host_check.find_processes(host, ("automount",))
    if not pids:
        return Finding(PROBLEM, "automount is not running", "systemctl enable --now autofs")
    for root, line in lines.items():
        if root not in mounts:
            text = f"the running automount does not serve {root} ({line.where})"
            return Finding(PROBLEM, text, f"{_RELOAD}; journalctl -u autofs")
        if problem := _mount_problem(host, line, mounts[root], pids):
            return problem
    if not lines:
        return Finding(OK, f"running (process {pids[0]}), without our map")
    return Finding(OK, f"process {pids[0]} serves {', '.join(sorted(lines))}")


def _mount_problem(
    host: Host, line: master.Line, mount: master.AutofsMount, pids: list[int]
) -> Finding | None:
    """Return how an autofs mount differs from its line in the master map, None if it does not."""
    if mount.pid not in pids:
        text = f"{line.root} was left behind by an automount that has ended (process {mount.pid})"
        return Finding(PROBLEM, text, "systemctl restart autofs")
    if line.timeout is not None and line.timeout != mount.timeout:
        text = f"{line.root}: the running automount has timeout {mount.timeout:.0f}, {line.where} "
        return Finding(WARNING, f"{text}has {line.timeout:.0f}", _RELOAD)
    if file := _changed_file(host, mount.pid):
        return Finding(WARNING, f"{file} is newer than what automount has read", _RELOAD)
    return None


def _changed_file(host: Host, pid: int) -> str:
    """Return a file of the master map that changed after automount last read it, or ""."""
    read_at = master.process_start(host, pid)
    if read_at is None:
        return ""
    for file in master.list_files(host):
        status = host.stat(file)
        if status and status.st_mtime > read_at:
            read_at = max(read_at, _last_reload(host))
            if status.st_mtime > read_at + 1:
                return file
    return ""


def _last_reload(host: Host) -> float:
    """Return when autofs was last started or reloaded, in seconds since 1970; 0.0 if unknown.

    systemd counts the time in microseconds since boot.
    """
    name, prop = "autofs.service", "StateChangeTimestampMonotonic"
    micro = host_check.unit_properties(host, name, properties=prop).get(name, {}).get(prop, "")
    return time.time() - time.monotonic() + int(micro) / 1e6 if micro.isdecimal() else 0.0


def negative_timeout(host: Host) -> Finding:
    """Check that automount forgets an answer soon, and before a session can end (lease)."""
    lines = master.list_lines(host)
    lease = _shortest_lease(host)
    for line in lines:
        seconds = master.negative_timeout(host, line)
        source = line.where if line.negative_timeout is not None else "automount's default"
        mend = f"put --negative-timeout=1 into {line.where}, then: {_RELOAD}"
        if seconds >= lease:
            text = f"{line.root}: automount may mount an entry {seconds:.0f} s after it got it "
            text += f"({source}), and a session may end after {lease:.0f} s (lease)"
            return Finding(PROBLEM, text, mend)
        if seconds > _LONG:
            text = f"{line.root}: automount remembers an answer, good or bad, for {seconds:.0f} s "
            return Finding(WARNING, f"{text}({source})", mend)
    if not lines:
        return Finding(OK, "the master map has no line that leads to auto.iscsi")
    return Finding(OK, "automount forgets an answer soon enough")


def _shortest_lease(host: Host) -> float:
    """Return the shortest lease that any target can have, in seconds."""
    general, leases = float(schema.TABLE["lease"].default), []
    for section in config_files.load(host, remember=False):
        lease = schema.read_section(section)[0].get("lease")
        if lease is not None and section.glob == "*":
            general = lease
        elif lease is not None:
            leases.append(lease)
    return min(general, *leases) if leases else general


def version(host: Host) -> Finding:
    """Check for versions of autofs that are known to misbehave."""
    installed = host_check.parse_version(host_check.run_program(host, "automount", "--version"))
    if not installed:
        return Finding(UNKNOWN, "automount does not print its version")
    shown = ".".join(map(str, installed))
    if installed < (5, 1):
        return Finding(PROBLEM, f"autofs {shown} is too old", "install autofs 5.1 or later")
    wait = master.automount_settings(host).get("mount_wait", "-1")
    is_patched = host.stat("/etc/redhat-release") is not None  # since 5.1.8-4
    if installed == (5, 1, 8) and wait.startswith("-") and not is_patched:
        return Finding(
            WARNING,
            "autofs 5.1.8 can hang for ever in initgroups(3) before a mount",
            "install autofs 5.1.9, or set mount_wait = 30 in /etc/autofs.conf and restart autofs",
        )
    return Finding(OK, f"autofs {shown}")
