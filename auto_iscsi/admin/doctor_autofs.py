"""Is automount as it should be: does it have our map, and for how long does it remember an answer?

facts: a failed lookup, and a good entry too, holds for --negative-timeout without the map being
asked (autofs daemon/lookup.c); a second line for the same mount point is ignored.
"""

from __future__ import annotations

import os
import time

from auto_iscsi.admin import host_check
from auto_iscsi.admin.host_check import OK, PROBLEM, WARNING, Finding
from auto_iscsi.config import config_files, schema
from auto_iscsi.machine import master_map as master
from auto_iscsi.machine.host import Host

SHIPPED = "/usr/share/auto-iscsi/iscsi.autofs"
_LONG = 10.0  # seconds that a target which came back may stay refused
_PUT_IN = f"cp {SHIPPED} /etc/auto.master.d/ && systemctl reload autofs"


def master_map(host: Host) -> Finding:
    """Look for the lines that lead to us."""
    if not host_check.installed(host, "automount"):
        return Finding(PROBLEM, "automount is not installed", "install autofs")
    lines = master.list_lines(host)
    if not lines:
        return Finding(PROBLEM, "no line of the master map leads to auto.iscsi", _PUT_IN)
    for line in lines:
        wrong = _wrong_program(host, line)
        if wrong:
            return wrong
    roots = [line.root for line in lines]
    for line in lines:
        first = lines[roots.index(line.root)]
        if first is not line:
            text = f"{line.where} is ignored: {line.root} is in {first.where} already"
            return Finding(WARNING, text, f"remove one of the two lines for {line.root}")
    return Finding(OK, ", ".join(f"{line.root} ({line.where})" for line in lines))


def _wrong_program(host: Host, line: master.Line) -> Finding | None:
    path = host.path(line.program)
    if not os.path.exists(path):
        text = f"{line.where}: there is no {line.program}"
        return Finding(PROBLEM, text, "install the package again, or correct the line")
    if not os.access(path, os.X_OK) and os.geteuid() == 0:
        return Finding(
            PROBLEM, f"{line.where}: {line.program} is not executable", f"chmod 755 {line.program}"
        )
    data = host.read_bytes(line.program) or b""
    if b"python" not in data.partition(b"\n")[0] or b"auto_iscsi" not in data:
        text = f"{line.where}: {line.program} is another program, not auto-iscsi's"
        return Finding(
            PROBLEM,
            text,
            f"mv {line.program} {line.program}.orig && "
            f"ln -s /usr/libexec/auto-iscsi/auto.iscsi {line.program}",
        )
    return None


def running(host: Host) -> Finding:
    """Look whether the running automount serves what the master map says."""
    served = master.list_autofs_mounts(host)
    lines = {line.root: line for line in reversed(master.list_lines(host))}  # the first one counts
    pids = host_check.running(host, ("automount",))
    if not pids:
        return Finding(PROBLEM, "automount does not run", "systemctl enable --now autofs")
    for root, line in lines.items():
        if root not in served:
            text = f"the running automount does not serve {root} ({line.where})"
            return Finding(PROBLEM, text, "systemctl reload autofs; journalctl -u autofs")
        mount = served[root]
        if mount.pid not in pids:
            text = f"{root} is left from an automount that has ended (process {mount.pid})"
            return Finding(PROBLEM, text, "systemctl restart autofs")
        if line.timeout is not None and line.timeout != mount.timeout:
            text = f"{root}: the running automount has timeout {mount.timeout:.0f}, {line.where} "
            text += f"says {line.timeout:.0f}"
            return Finding(WARNING, text, "systemctl reload autofs")
        changed = _changed(host, mount.pid)
        if changed:
            text = f"{changed} is newer than what automount has read"
            return Finding(WARNING, text, "systemctl reload autofs")
    if not lines:
        return Finding(OK, f"runs (process {pids[0]}), without our map")
    return Finding(OK, f"process {pids[0]} serves {', '.join(sorted(lines))}")


def _changed(host: Host, pid: int) -> str:
    """Return a file of the master map that was written after automount last read it."""
    read = master.process_start(host, pid)
    for file in master.list_files(host):
        status = host.stat(file)
        if status and read is not None and status.st_mtime > read:
            # A reload counts as well. systemd says when, in microseconds since boot.
            name = "autofs.service"
            said = host_check.units(host, name, properties="StateChangeTimestampMonotonic")
            micro = said.get(name, {}).get("StateChangeTimestampMonotonic", "")
            if micro.isdecimal():
                read = max(read, time.time() - time.monotonic() + int(micro) / 1e6)
            if status.st_mtime > read + 1:
                return file
    return ""


def negative_timeout(host: Host) -> Finding:
    """Compare how long automount remembers an answer with what we count on."""
    lines = master.list_lines(host)
    general = master.automount_settings(host).get("negative_timeout", "")
    default = float(general) if general.isdecimal() else master.NEGATIVE_TIMEOUT
    lease = _shortest_lease(host)
    for line in lines:
        seconds = default if line.negative_timeout is None else line.negative_timeout
        source = line.where if line.negative_timeout is not None else "automount's default"
        mend = f"put --negative-timeout=1 into {line.where}, then: systemctl reload autofs"
        if seconds >= lease:
            text = f"{line.root}: automount may mount an entry {seconds:.0f} s after it got it "
            text += f"({source}), and a session may end after {lease:.0f} s (lease)"
            return Finding(PROBLEM, text, mend)
        if seconds > _LONG:
            text = f"{line.root}: automount remembers an answer, good or bad, for {seconds:.0f} s "
            return Finding(WARNING, text + f"({source})", mend)
    if not lines:
        return Finding(OK, "no line of ours in the master map")
    return Finding(OK, "automount forgets an answer in time")


def _shortest_lease(host: Host) -> float:
    """Return the shortest lease that any target can have, in seconds."""
    general, others = float(schema.TABLE["lease"].default), []
    for section in config_files.load(host, remember=False):
        said = schema.read_section(section)[0].get("lease")
        if said is not None and section.glob == "*":
            general = said
        elif said is not None:
            others.append(said)
    return min(general, *others) if others else general


def version(host: Host) -> Finding:
    """Look for versions of autofs that are known to misbehave."""
    said = host_check.version(host_check.ask(host, "automount", "--version"))
    shown = ".".join(map(str, said))
    if not said:
        return Finding(host_check.UNKNOWN, "automount does not say its version")
    if said < (5, 1):
        return Finding(PROBLEM, f"autofs {shown} is too old", "install autofs 5.1 or later")
    wait = master.automount_settings(host).get("mount_wait", "-1")
    mended = host.stat("/etc/redhat-release") is not None  # by a patch, from 5.1.8-4 on
    if said == (5, 1, 8) and wait.startswith("-") and not mended:
        return Finding(
            WARNING,
            "autofs 5.1.8 can hang in initgroups(3) before a mount, for ever",
            "install autofs 5.1.9, or set mount_wait = 30 in /etc/autofs.conf and restart autofs",
        )
    return Finding(OK, f"autofs {shown}")
