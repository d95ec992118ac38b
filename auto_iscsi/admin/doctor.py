"""Is this host fit for the job, and which command mends what is not?

Each check looks at one thing and says one line. Nothing is changed, no network is used, and
programs that are asked have a few seconds. What only root can see is said to be so.
"""

from __future__ import annotations

from auto_iscsi import errors, wording
from auto_iscsi.admin import doctor_autofs, doctor_host, doctor_iscsi, host_check, output
from auto_iscsi.admin.host_check import OK, PROBLEM, UNKNOWN, WARNING, Check, Finding
from auto_iscsi.machine.host import Host

#: By code. The codes are stable: people look them up, and scripts compare them.
CHECKS = {
    "libraries": Check(
        doctor_host.libraries,
        "The program map imports configobj, pyudev and sh, as the distribution has them.",
        "Install the packages that the line names.",
    ),
    "configuration": Check(
        doctor_host.configuration,
        "A wrong line in /etc/auto.iscsi.conf refuses the targets that it applies to.",
        "auto-iscsi check lists every mistake, auto-iscsi edit lets none in.",
    ),
    "run-folder": Check(
        doctor_host.folder,
        "Who can write to /run/auto-iscsi can make others' sessions look like ours.",
        "Give it back to root, and look who could have changed it.",
    ),
    "iscsid": Check(
        doctor_iscsi.daemon,
        "iscsid opens and mends the sessions. Started by its own unit it outlives a restart of "
        "autofs; started from within autofs it ends with it.",
        "Enable iscsid.socket.",
    ),
    "kernel-module": Check(
        doctor_iscsi.module,
        "Without iscsi_tcp the kernel cannot speak iSCSI. Cloud kernels leave it out, and after "
        "an update of the kernel the running one's modules can be gone.",
        "Install the full kernel, or reboot into the one that is installed.",
    ),
    "initiator-name": Check(
        doctor_iscsi.initiator,
        "The SAN presents targets to a host by this name. Two hosts of one name, clones of an "
        "image mostly, end each other's sessions.",
        "Make a name of its own for the host with iscsi-iname, and tell the SAN.",
    ),
    "iscsi-lock": Check(
        doctor_iscsi.lock,
        "An iscsiadm that was killed leaves its database locked: every later one waits 30 s and "
        "exits 6.",
        "Remove the lock while no iscsiadm runs. Do not kill iscsiadm.",
    ),
    "iscsi-secrets": Check(
        doctor_iscsi.secrets,
        "Node records and iscsid.conf can hold CHAP secrets.",
        "Take the rights of others away.",
    ),
    "startup-automatic": Check(
        doctor_iscsi.startup,
        "A record with node.startup = automatic is logged in at boot: a snapshot that was "
        "revoked since holds up the boot, and one that is there stays logged in for good.",
        "Set node.startup to manual in the records of snapshots; auto-iscsi logs in on demand. "
        "On RHEL and Fedora new records are automatic unless iscsid.conf says otherwise.",
    ),
    "open-iscsi-version": Check(
        doctor_iscsi.version,
        "open-iscsi 2.1.12 does not take records that 2.1.11 wrote: `iscsiadm -m node` exits 7 "
        "for one such record among many (open-iscsi issue 540, mended in 2.1.13).",
        "Update open-iscsi, or make the records anew.",
    ),
    "master-map": Check(
        doctor_autofs.master_map,
        "automount asks us because a line of its master map says so.",
        "Put in the shipped line, or correct the one that is there.",
    ),
    "automount": Check(
        doctor_autofs.running,
        "The running automount goes by what it read when it was started or reloaded, not by what "
        "the files say now.",
        "Reload autofs. What is mounted stays mounted.",
    ),
    "negative-timeout": Check(
        doctor_autofs.negative_timeout,
        "automount remembers an answer for --negative-timeout seconds, 60 unless the master line "
        "says otherwise. So long a target that came back stays refused; and the lease has to be "
        "longer, for an entry may be mounted that long after we gave it.",
        "Put --negative-timeout=1 into the master line, and reload autofs.",
    ),
    "autofs-version": Check(
        doctor_autofs.version,
        "autofs 5.1.8 calls initgroups(3) between fork and exec, where it can wait for ever for "
        "a lock; the user who entered the directory waits with it. 5.1.9 does not.",
        "Update autofs, or set mount_wait in /etc/autofs.conf, which ends the wait.",
    ),
    "udev": Check(
        doctor_host.udev,
        "udev makes the links that entries name disks by.",
        "Start systemd-udevd.",
    ),
    "multipath": Check(
        doctor_host.multipath,
        "multipathd joins the paths of a target with `paths = all`, if find_multipaths lets it: "
        "strict takes volumes only that it knows. With no_path_retry queue, or queue_if_no_path "
        "among the features, whoever reads from a snapshot that was revoked waits for ever, "
        "whatever replacement_timeout says.",
        "Set find_multipaths to yes, and no_path_retry to fail or a number, in multipath.conf.",
    ),
    "lvm-activation": Check(
        doctor_host.lvm,
        "A snapshot of a disk with LVM has the names and UUIDs of the original's volume groups. "
        "If LVM activates them as soon as the disk is there, logging out leaves a dead device, "
        "and on a host that has the original, data can be lost.",
        "Have LVM activate only this host's own volume groups.",
    ),
    "reaper": Check(
        doctor_host.schedule,
        "Idle sessions end when auto-iscsi reap runs: by its systemd timer, or by cron where "
        "systemd does not run.",
        "Enable the timer.",
    ),
}


def report(host: Host, paint: output.Paint) -> output.Report:
    """Return what every check found; status 1 when there is a problem."""
    findings = {code: _look(check, host) for code, check in CHECKS.items()}
    shades = {OK: paint.good, WARNING: paint.doubtful, PROBLEM: paint.bad, UNKNOWN: paint.aside}
    width, longest = max(map(len, shades)), max(map(len, CHECKS))
    lines = []
    for code, found in findings.items():
        level = shades[found.level](found.level) + " " * (width - len(found.level))
        lines.append(f"{level}  {code.ljust(longest)}  {wording.printable(found.text)}")
        if found.mend:
            lines.append(f"{' ' * width}  {paint.aside('to do: ')}{wording.printable(found.mend)}")
    count = {level: sum(found.level == level for found in findings.values()) for level in shades}
    lines += ["", _summary(count)]
    data = {
        "ok": not count[PROBLEM],
        "checks": [
            {"code": code, "level": found.level, "text": found.text, "mend": found.mend}
            for code, found in findings.items()
        ],
    }
    return output.Report(1 if count[PROBLEM] else 0, lines, data)


def _look(check: Check, host: Host) -> Finding:
    try:
        return check.look(host)
    except errors.Failure as failure:
        return Finding(host_check.UNKNOWN, f"not looked at: {failure.reason}", failure.hint)


def _summary(count: dict[str, int]) -> str:
    words = {PROBLEM: "problem", WARNING: "warning", UNKNOWN: "not looked at"}
    parts = []
    for level, word in words.items():
        number = count[level]
        if number:
            plural = "s" if number > 1 and level != UNKNOWN else ""
            parts.append(f"{number} {word}{plural}")
    said = ", ".join(parts) or "All is as it should be"
    return f"{said}. auto-iscsi explain CODE says why it matters." if parts else f"{said}."
