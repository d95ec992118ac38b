"""Check the rest of the host: our files, libraries and timer, udev, multipath and LVM."""

from __future__ import annotations

import re
import stat
from importlib import metadata

from auto_iscsi import errors, wording
from auto_iscsi.admin import check, host_check, output, san_report
from auto_iscsi.admin.host_check import OK, PROBLEM, WARNING, Finding
from auto_iscsi.config import config_files, san_files, schema
from auto_iscsi.config.settings import ALL, AUTO, OVERLAY, SYSTEM
from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host
from auto_iscsi.san import driver_process, leases
from auto_iscsi.volumes import overlay

#: The libraries that we import, each with the oldest version that was tested (setup.cfg).
LIBRARIES = {"configobj": (5, 0, 6), "pyudev": (0, 21), "sh": (1, 12)}
_MULTIPATH = "/etc/multipath.conf"
_MULTIPATH_FOLDER = "/etc/multipath/conf.d"
_LVM = ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf")
_UDEV_RULE = "61-auto-iscsi.rules"
_RULE_FOLDERS = [
    f"{folder}/udev/rules.d" for folder in ("/usr/lib", "/lib", "/usr/local/lib", "/etc")
]
_DAMAGED = "see what auto-iscsi san list shows as presented, undo it at the SAN, delete the file"
_TIMER = "auto-iscsi.timer"


def configuration(host: Host) -> Finding:
    """Check the configuration, as auto-iscsi check does."""
    problems = check.report(host, [], False, output.Paint(False)).data["problems"]
    wrong = [problem for problem in problems if problem["severity"] == "error"]
    if not problems:
        return Finding(OK, "the configuration has no errors")
    first = (wrong or problems)[0]
    count = wording.counted(len(wrong or problems), "error" if wrong else "warning")
    place = f"{first['file']}:{first['line']}" if first["line"] else first["file"]
    what = ": ".join(filter(None, (place, first["subject"], first["text"])))
    text = f"{count} in the configuration, the first: {what}"
    return Finding(PROBLEM if wrong else WARNING, text, first["hint"] or "auto-iscsi check")


def sans(host: Host) -> Finding:
    """Check the files of the SANs, their drivers, and that the users of the drivers exist."""
    names = san_files.list_names(host)
    for name in names:
        try:
            san = san_files.find(host, name)
            driver_process.check_trusted(host, san.driver)
            driver_process.find_identity(san)
        except errors.Failure as failure:
            return Finding(PROBLEM, failure.reason, failure.hint)
    damaged = leases.list_all(host)[1]
    if damaged:
        return Finding(PROBLEM, damaged[0].why, _DAMAGED)
    return Finding(OK, f"{wording.counted(len(names), 'SAN')} configured")


def sans_answer(host: Host) -> Finding:
    """Ask each SAN for its snapshots, as `auto-iscsi san list` does."""
    report = san_report.list_snapshots(host, "", output.Paint(False))
    if not san_files.list_names(host):
        return Finding(OK, "no SAN is configured")
    if problems := report.data["problems"]:
        return Finding(PROBLEM, problems[0], "auto-iscsi san list")
    count = wording.counted(len(report.data["snapshots"]), "snapshot")
    return Finding(OK, f"each SAN answers: {count}")


def run_folder(host: Host) -> Finding:
    """Check that only root can write to the directory of claims and locks."""
    status = host.stat(claims.FOLDER)
    if status is None:
        return Finding(OK, f"{claims.FOLDER}: the first lookup makes it")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022 or (status.st_uid != 0 and host.root == "/"):
        text = f"{claims.FOLDER}: writable by non-root (mode {mode:04o}, owner {status.st_uid})"
        return Finding(PROBLEM, text, f"chown root {claims.FOLDER}; chmod 700 {claims.FOLDER}")
    return Finding(OK, f"{claims.FOLDER}: only root can write to it")


def libraries(host: Host) -> Finding:
    """Check the versions of the libraries that the program map imports."""
    shown = []
    for name, oldest in LIBRARIES.items():
        package = f"python3-{name} {'.'.join(map(str, oldest))} or later"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            return Finding(PROBLEM, f"python3-{name} is not installed", f"install {package}")
        if host_check.parse_version(version) < oldest:
            return Finding(PROBLEM, f"{name} {version} is too old", f"install {package}")
        shown.append(f"{name} {version}")
    return Finding(OK, ", ".join(shown))


def udev(host: Host) -> Finding:
    """Check that udev is running; without it, disks get no links."""
    if host.stat("/run/udev/control") is None:
        return Finding(PROBLEM, "udev is not running", "systemctl start systemd-udevd")
    return Finding(OK, "udev is running")


def multipath(host: Host) -> Finding:
    """Check that multipathd joins the paths of `paths = all`, and lets no reader wait for ever."""
    sections = config_files.load(host, remember=False)
    is_needed = any(schema.read_section(section)[0].get("paths") == "all" for section in sections)
    if not host_check.find_processes(host, ("multipathd",)):
        if not is_needed:
            return Finding(OK, "multipathd is not running, and no target has paths = all")
        text = "multipathd is not running: targets with paths = all use one path"
        return Finding(WARNING, text, "install multipath-tools; systemctl enable --now multipathd")
    mode, source, reload = "strict", "the default", "then: systemctl reload multipathd"
    for file, text in _multipath_texts(host):
        if re.search(r'\bno_path_retry\s+"?queue|queue_if_no_path', text):
            text = f"readers of a volume that is gone wait for ever: {file} has no_path_retry queue"
            return Finding(WARNING, text, f"set no_path_retry fail in {file}, {reload}")
        for value in re.findall(r'\bfind_multipaths\s+"?(\w+)"?', text):
            mode, source = value, file
    if is_needed and mode == "strict":
        text = f"paths = all, but find_multipaths strict ({source}) joins known volumes only"
        return Finding(WARNING, text, f"set find_multipaths yes in {_MULTIPATH}, {reload}")
    return Finding(OK, f"multipathd is running with find_multipaths {mode} ({source})")


def _multipath_texts(host: Host) -> list[tuple[str, str]]:
    """Return the name and the text, without comments, of each file of multipath's configuration."""
    names = [name for name in host.names(_MULTIPATH_FOLDER) if name.endswith(".conf")]
    files = [_MULTIPATH, *(f"{_MULTIPATH_FOLDER}/{name}" for name in names)]
    return [(file, re.sub(r"[#!].*", "", host.read(file) or "")) for file in files]


def lvm(host: Host) -> Finding:
    """Check that LVM does not activate the volume groups of a snapshot when its disk appears."""
    if not host_check.is_installed(host, "lvm"):
        return Finding(OK, "LVM is not installed")
    text = "\n".join(re.sub(r"(?m)#.*$", "", host.read(name) or "") for name in _LVM)
    if re.search(r"\bevent_activation\s*=\s*0", text):
        return Finding(OK, "LVM activates nothing by itself: event_activation = 0")
    for name in ("auto_activation_volume_list", "volume_list", "global_filter"):
        if re.search(rf"\b{name}\s*=\s*\[", text):
            return Finding(OK, f"LVM activates only what {name} allows")
    if host.stat("/etc/lvm/devices/system.devices"):
        return Finding(OK, "LVM uses only the disks in /etc/lvm/devices/system.devices")
    if _has_udev_rule(host):
        return Finding(OK, f"{_UDEV_RULE} keeps LVM from the disks that lookups log in")
    for name in host.names("/etc/udev/rules.d"):
        rule = host.read(f"/etc/udev/rules.d/{name}") or ""
        if name.endswith(".rules") and "iscsi" in rule and "LVM2_member" in rule:
            return Finding(OK, f"/etc/udev/rules.d/{name} hides iSCSI disks from LVM")
    return Finding(
        WARNING,
        "LVM activates volume groups that it finds on a snapshot, duplicates of the originals",
        f"install the package again: its rule {_UDEV_RULE} is missing",
    )


def _has_udev_rule(host: Host) -> bool:
    """Tell whether udev has the rule that keeps it from snapshots."""
    return any(host.stat(f"{folder}/{_UDEV_RULE}") for folder in _RULE_FOLDERS)


def overlays(host: Host) -> Finding:
    """Check that a dirty filesystem can get an overlay, where a target's settings want one."""
    sections = config_files.load(host, remember=False)
    values = [schema.read_section(section)[0] for section in sections]
    shows_volumes = any(
        v.get("partition") in (ALL, SYSTEM) or "/" in str(v.get("partition", "")) for v in values
    )
    needs_overlays = any(
        v.get("journal", AUTO) == OVERLAY
        or (v.get("fstype") == AUTO and v.get("journal", AUTO) == AUTO)
        for v in values
    )
    if not (shows_volumes or needs_overlays):
        return Finding(OK, "no target's settings need an overlay")
    if not host_check.is_installed(host, "dmsetup"):
        text = "dmsetup is not installed: no overlays and no logical volumes"
        return Finding(PROBLEM, text, "install dmsetup")
    if not needs_overlays:
        return Finding(OK, "logical volumes can be shown; no target's settings need an overlay")
    release = host.read("/proc/sys/kernel/osrelease")
    listed = [host.read(f"/lib/modules/{release}/modules.{name}") for name in ("dep", "builtin")]
    if any(listed) and not any("/dm-snapshot.ko" in (text or "") for text in listed):
        text = f"kernel {release} has no module dm-snapshot: no overlays"
        return Finding(
            PROBLEM,
            text,
            "install the full kernel package; or set journal = skip: files can then be missing",
        )
    if not _has_udev_rule(host):
        text = f"udev's rule {_UDEV_RULE} is missing: LVM and md can use what is in an overlay"
        return Finding(WARNING, text, "install the package again")
    for folder in {v.get("overlay_dir", schema.TABLE["overlay_dir"].default) for v in values}:
        if host.stat(folder) is None:
            text = f"overlay_dir {folder} does not exist: no overlays"
            return Finding(PROBLEM, text, f"mkdir -p {folder}")
        default = schema.TABLE["overlay_keep_free"].default
        keep_free = max(v.get("overlay_keep_free", default) for v in values)
        free, kept = overlay.room(host.path(folder), keep_free)
        if free - kept < overlay.LEAST_ROOM:
            text = f"overlay_dir {folder} has {free >> 20} MiB free: too little for an overlay, "
            text += f"as {kept >> 20} MiB must stay free (overlay_keep_free)"
            return Finding(PROBLEM, text, f"make room in {folder}, or set overlay_dir")
    return Finding(OK, "dirty filesystems get an overlay")


def luks(host: Host) -> Finding:
    """Check that LUKS can be opened, where a section names a key file."""
    sections = config_files.load(host, remember=False)
    if not any(schema.read_section(section)[0].get("luks_key_file") for section in sections):
        return Finding(OK, "no target's settings name a LUKS key file")
    if not host_check.is_installed(host, "cryptsetup"):
        text = "cryptsetup is not installed: LUKS is not opened"
        return Finding(PROBLEM, text, "install cryptsetup-bin")
    release = host.read("/proc/sys/kernel/osrelease")
    listed = [host.read(f"/lib/modules/{release}/modules.{name}") for name in ("dep", "builtin")]
    if any(listed) and not any("/dm-crypt.ko" in (text or "") for text in listed):
        text = f"kernel {release} has no module dm-crypt: LUKS is not opened"
        return Finding(PROBLEM, text, "install the full kernel package")
    return Finding(OK, "LUKS can be opened")


def reaper_schedule(host: Host) -> Finding:
    """Check that a timer or cron runs the reaper."""
    unit = host_check.unit_properties(host, _TIMER, properties="LoadState,ActiveState").get(_TIMER)
    if unit is None:
        if host.stat("/etc/cron.d/auto-iscsi"):
            return Finding(OK, "cron ends idle sessions")
        text = "nothing ends idle sessions: no timer, and no /etc/cron.d/auto-iscsi"
        return Finding(WARNING, text, "run auto-iscsi reap from cron")
    if unit.get("ActiveState") == "active":
        return Finding(OK, f"{_TIMER} ends idle sessions")
    states = {
        "masked": (f"{_TIMER} is masked", f"systemctl unmask {_TIMER}"),
        "not-found": (f"{_TIMER} does not exist", "install the package again"),
    }
    inactive = (f"{_TIMER} is not active", f"systemctl enable --now {_TIMER}")
    state, mend = states.get(unit.get("LoadState", ""), inactive)
    return Finding(WARNING, f"{state}: nothing ends idle sessions", mend)
