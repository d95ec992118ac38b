"""Is the rest of the host as it should be: our files and libraries, udev, multipath, LVM?"""

from __future__ import annotations

import re
import stat
from importlib import metadata

from auto_iscsi.admin import check, host_check, output
from auto_iscsi.admin.host_check import OK, PROBLEM, WARNING, Finding
from auto_iscsi.config import config_files, schema
from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host

#: Distributions of what we import, and the least version that was tested (setup.cfg).
LIBRARIES = {"configobj": (5, 0, 6), "pyudev": (0, 21), "sh": (1, 12)}
_MULTIPATH = "/etc/multipath.conf"
_LVM = ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf")


def configuration(host: Host) -> Finding:
    """Look at what is wrong with the configuration, as auto-iscsi check does."""
    problems = check.report(host, [], False, output.Paint(False)).data["problems"]
    wrong = [problem for problem in problems if problem["severity"] == "error"]
    if not problems:
        return Finding(OK, "the configuration has no errors")
    first = (wrong or problems)[0]
    count = f"{len(wrong)} errors" if wrong else f"{len(problems)} warnings"
    place = f"{first['file']}:{first['line']}" if first["line"] else first["file"]
    text = f"{count} in the configuration, the first: {place}: {first['text']}"
    return Finding(PROBLEM if wrong else WARNING, text, first["hint"] or "auto-iscsi check")


def folder(host: Host) -> Finding:
    """Look whether claims and locks are ours alone."""
    status = host.stat(claims.FOLDER)
    if status is None:
        return Finding(OK, f"{claims.FOLDER} is made by the first lookup")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022 or (status.st_uid != 0 and host.root == "/"):
        text = f"{claims.FOLDER}: others than root can write there (mode {mode:04o})"
        return Finding(PROBLEM, text, f"chown root {claims.FOLDER}; chmod 700 {claims.FOLDER}")
    return Finding(OK, f"{claims.FOLDER} is root's alone")


def libraries(host: Host) -> Finding:
    """Look at the libraries that the program map imports."""
    shown = []
    for name, least in LIBRARIES.items():
        wanted = f"python3-{name} {'.'.join(map(str, least))} or later"
        try:
            said = metadata.version(name)
        except metadata.PackageNotFoundError:
            return Finding(PROBLEM, f"python3-{name} is not installed", f"install {wanted}")
        if host_check.version(said) < least:
            return Finding(PROBLEM, f"{name} {said} is too old", f"install {wanted}")
        shown.append(f"{name} {said}")
    return Finding(OK, ", ".join(shown))


def udev(host: Host) -> Finding:
    """Look whether udev runs, without which no link to a disk is made."""
    if host.stat("/run/udev/control") is None:
        return Finding(PROBLEM, "udev does not run", "systemctl start systemd-udevd")
    return Finding(OK, "udev runs")


def multipath(host: Host) -> Finding:
    """Look whether multipathd joins what is to be joined, and lets nobody wait for ever."""
    sections = config_files.load(host, remember=False)
    wanted = any(schema.read_section(section)[0].get("paths") == "all" for section in sections)
    if not host_check.running(host, ("multipathd",)):
        if not wanted:
            return Finding(OK, "multipathd does not run, and no target has paths = all")
        text = "multipathd does not run: of paths = all one is mounted"
        return Finding(WARNING, text, "install multipath-tools; systemctl enable --now multipathd")
    folder = "/etc/multipath/conf.d"
    files = [_MULTIPATH, *(f"{folder}/{n}" for n in host.names(folder) if n.endswith(".conf"))]
    mode, source, reload = "strict", "the default", "then: systemctl reload multipathd"
    for file in files:
        text = re.sub(r"[#!].*", "", host.read(file) or "")
        if re.search(r'\bno_path_retry\s+"?queue|queue_if_no_path', text):
            said = f"who reads from a volume that is gone waits for ever: {file}, no_path_retry"
            return Finding(WARNING, said, f"no_path_retry fail there, {reload}")
        for value in re.findall(r'\bfind_multipaths\s+"?(\w+)"?', text):
            mode, source = value, file
    if wanted and mode == "strict":
        text = f"paths = all, and find_multipaths strict ({source}) joins known volumes only"
        return Finding(WARNING, text, f"find_multipaths yes in {_MULTIPATH}, {reload}")
    return Finding(OK, f"multipathd runs with find_multipaths {mode} ({source})")


def lvm(host: Host) -> Finding:
    """Look whether LVM activates the volume groups of a snapshot as soon as it is logged in."""
    if not host_check.installed(host, "lvm"):
        return Finding(OK, "LVM is not installed")
    text = "\n".join(re.sub(r"(?m)#.*$", "", host.read(name) or "") for name in _LVM)
    if re.search(r"\bevent_activation\s*=\s*0", text):
        return Finding(OK, "LVM activates nothing by itself: event_activation = 0")
    for name in ("auto_activation_volume_list", "volume_list", "global_filter"):
        if re.search(rf"\b{name}\s*=\s*\[", text):
            return Finding(OK, f"LVM's {name} says what may be activated")
    if host.stat("/etc/lvm/devices/system.devices"):
        return Finding(OK, "LVM uses the disks of /etc/lvm/devices/system.devices only")
    for name in host.names("/etc/udev/rules.d"):
        rule = host.read(f"/etc/udev/rules.d/{name}") or ""
        if name.endswith(".rules") and "iscsi" in rule and "LVM2_member" in rule:
            return Finding(OK, f"/etc/udev/rules.d/{name} keeps LVM from iSCSI disks")
    return Finding(
        WARNING,
        "LVM activates volume groups that it finds on a snapshot, the original's twins",
        "copy 68-auto-iscsi-no-lvm.rules from the package's documentation to /etc/udev/rules.d, "
        "then: udevadm control --reload",
    )


def schedule(host: Host) -> Finding:
    """Look whether something runs the reaper."""
    found = host_check.units(host, "auto-iscsi.timer", properties="LoadState,ActiveState")
    unit = found.get("auto-iscsi.timer", {})
    if unit.get("ActiveState") == "active":
        return Finding(OK, "auto-iscsi.timer ends idle sessions")
    if unit.get("LoadState") == "masked":
        text = "auto-iscsi.timer is masked: nothing ends idle sessions"
        return Finding(WARNING, text, "systemctl unmask auto-iscsi.timer")
    if unit.get("LoadState") == "not-found":
        text = "there is no auto-iscsi.timer: nothing ends idle sessions"
        return Finding(WARNING, text, "install the package again")
    if found:
        text = "auto-iscsi.timer is not active: nothing ends idle sessions"
        return Finding(WARNING, text, "systemctl enable --now auto-iscsi.timer")
    if host.stat("/etc/cron.d/auto-iscsi"):
        return Finding(OK, "cron ends idle sessions")
    text = "nothing ends idle sessions: no timer, and no /etc/cron.d/auto-iscsi"
    return Finding(WARNING, text, "run auto-iscsi reap from cron")
