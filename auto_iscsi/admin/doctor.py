"""Check whether this host is set up correctly, and name the command that corrects it.

Each check looks at one thing and returns one finding. Nothing is changed, the network is used only
for ON_THE_NETWORK, and a program gets five seconds to answer. A check that needs root is reported
as unknown without it.
"""

from __future__ import annotations

from collections import Counter

from auto_iscsi import errors, wording
from auto_iscsi.admin import doctor_autofs, doctor_host, doctor_iscsi, output
from auto_iscsi.admin.host_check import OK, PROBLEM, UNKNOWN, WARNING, Check, Finding
from auto_iscsi.machine.host import Host

#: The checks by code. The codes never change: people look them up, and scripts compare them.
CHECKS = {
    "libraries": Check(
        doctor_host.libraries,
        "The program map imports configobj, pyudev and sh from the distribution's packages.",
        "Install the packages that the line names.",
    ),
    "configuration": Check(
        doctor_host.configuration,
        "Each mistake in /etc/auto.iscsi.conf refuses the targets that it applies to.",
        "Run auto-iscsi check to list every mistake. Change the file with auto-iscsi edit, which "
        "does not install a file with errors.",
    ),
    "san": Check(
        doctor_host.sans,
        "Each file in /etc/auto.iscsi.san.d describes a SAN. Its driver runs as a user of its own, "
        "and only if nobody but root can change the driver's file. The SAN is not asked here.",
        "Correct the file that the line names: auto-iscsi check.",
    ),
    "san-answers": Check(
        doctor_host.sans_answer,
        "auto-iscsi doctor --san asks each SAN for its snapshots, through its driver. Nothing is "
        "presented.",
        "Read the line, and what the driver wrote: journalctl -t auto-iscsi-driver.",
    ),
    "run-folder": Check(
        doctor_host.run_folder,
        "Anyone who can write to /run/auto-iscsi can make other sessions look like ours.",
        "Give the directory back to root, and find out who could have changed it.",
    ),
    "iscsid": Check(
        doctor_iscsi.daemon,
        "iscsid opens the sessions and restores their connections. In a unit of its own, it "
        "survives a restart of autofs; started from within autofs, it ends with autofs.",
        "Enable iscsid.socket.",
    ),
    "kernel-module": Check(
        doctor_iscsi.kernel_module,
        "Without the module iscsi_tcp, the kernel cannot use iSCSI. Cloud kernels do not contain "
        "it, and an update of the kernel can remove the modules of the running one.",
        "Install the full kernel package, or reboot into the kernel that is installed.",
    ),
    "initiator-name": Check(
        doctor_iscsi.initiator_name,
        "The SAN presents targets to a host by its initiator name. Two hosts with one name, "
        "usually clones of one image, end each other's sessions.",
        "Make a unique name for the host with iscsi-iname, and enter it at the SAN.",
    ),
    "iscsi-lock": Check(
        doctor_iscsi.database_lock,
        "An iscsiadm that is killed leaves its database locked: every later iscsiadm waits 30 s "
        "and exits with status 6.",
        "Remove the lock while no iscsiadm is running. Do not kill iscsiadm.",
    ),
    "iscsi-secrets": Check(
        doctor_iscsi.secrets,
        "Node records and iscsid.conf can contain CHAP secrets.",
        "Make these files readable for root only.",
    ),
    "startup-automatic": Check(
        doctor_iscsi.automatic_startup,
        "A target whose node record has node.startup = automatic is logged in at every boot. A "
        "snapshot that no longer exists delays the boot, and one that does exist stays logged in.",
        "Set node.startup to manual in the records of snapshots; auto-iscsi logs in on demand. "
        "On RHEL and Fedora, new records are automatic unless iscsid.conf says otherwise.",
    ),
    "open-iscsi-version": Check(
        doctor_iscsi.version,
        "open-iscsi 2.1.12 does not accept node records that 2.1.11 wrote: a single such record "
        "makes `iscsiadm -m node` exit with status 7 (open-iscsi issue 540, fixed in 2.1.13).",
        "Update open-iscsi, or delete the records and discover the targets again.",
    ),
    "master-map": Check(
        doctor_autofs.master_map,
        "A line in automount's master map makes it run the program map.",
        "Install the line that the package contains, or correct the existing line.",
    ),
    "automount": Check(
        doctor_autofs.daemon,
        "The running automount uses what it read when it was started or reloaded, not what the "
        "files say now.",
        "Reload autofs. What is mounted stays mounted.",
    ),
    "snapshots": Check(
        doctor_autofs.snapshots,
        "A second line in automount's master map shows the snapshots by volume and time, below "
        "/snapshots. The package brings it; a host that had its own line for /iscsiauto, or an "
        "older version of the package, has to add it.",
        "Copy the line from /usr/share/auto-iscsi/iscsi.autofs, and reload autofs.",
    ),
    "negative-timeout": Check(
        doctor_autofs.negative_timeout,
        "automount remembers an answer for --negative-timeout seconds, by default 60. For that "
        "time, a target that came back is still refused. An entry can also be mounted that long "
        "after the lookup, so the lease must be longer.",
        "Add --negative-timeout=1 to the line in the master map, and reload autofs.",
    ),
    "autofs-version": Check(
        doctor_autofs.version,
        "autofs 5.1.8 calls initgroups(3) between fork and exec, where it can wait for a lock for "
        "ever. The user who entered the directory then waits, too. This is fixed in 5.1.9.",
        "Update autofs, or set mount_wait in /etc/autofs.conf, which limits the wait.",
    ),
    "udev": Check(
        doctor_host.udev,
        "udev makes the links under /dev/disk that map entries contain.",
        "Start systemd-udevd.",
    ),
    "multipath": Check(
        doctor_host.multipath,
        "multipathd joins the paths of a target with `paths = all` only if find_multipaths allows "
        "it: strict accepts only volumes that multipathd already knows. With no_path_retry queue, "
        "or queue_if_no_path in the features, a program that reads from a revoked snapshot waits "
        "for ever, whatever replacement_timeout is.",
        "In multipath.conf, set find_multipaths to yes, and no_path_retry to fail or a number.",
    ),
    "serial-numbers": Check(
        doctor_iscsi.serial_numbers,
        "multipathd takes two volumes that have the same serial number (WWID) for one, and so does "
        "everything else that knows volumes by their identity: a program that reads the multipath "
        "device gets blocks of either. A copied configuration of a target has this fault, and so "
        "has LIO without vpd_unit_serial. Only volumes that are logged in can be compared.",
        "Give each volume its own serial number at the SAN, or blacklist the disks in "
        "multipath.conf.",
    ),
    "lvm-activation": Check(
        doctor_host.lvm,
        "On a snapshot of a disk with LVM, the volume groups have the names and UUIDs of the "
        "originals. If LVM activates them when the disk appears, logging out leaves dead devices "
        "behind, and on the host with the originals, data can be lost.",
        "Configure LVM to activate only this host's own volume groups.",
    ),
    "overlays": Check(
        doctor_host.overlays,
        "A filesystem that was in use when its snapshot was taken is replayed in an overlay, a "
        "device-mapper snapshot on this host. Without one, such a filesystem is refused.",
        "Install dmsetup and the full kernel package. Or set journal = skip: the newest files can "
        "then be missing.",
    ),
    "luks": Check(
        doctor_host.luks,
        "luks_key_file opens what LUKS encrypted, with cryptsetup and the kernel's dm-crypt.",
        "Install cryptsetup and the full kernel package.",
    ),
    "reaper": Check(
        doctor_host.reaper_schedule,
        "Idle sessions end when auto-iscsi reap runs: from its systemd timer, or from cron on a "
        "host without systemd.",
        "Enable the timer.",
    ),
}


#: The checks that use the network: only when they are asked for.
ON_THE_NETWORK = ("san-answers",)


def report(host: Host, paint: output.Paint, with_san: bool = False) -> output.Report:
    """Run the checks and return their findings; status 1 if there is a problem."""
    findings = {
        code: _run(check, host)
        for code, check in CHECKS.items()
        if with_san or code not in ON_THE_NETWORK
    }
    paints = {OK: paint.ok, WARNING: paint.warning, PROBLEM: paint.error, UNKNOWN: paint.dim}
    level_width, code_width = max(map(len, paints)), max(map(len, CHECKS))
    lines = []
    for code, finding in findings.items():
        level = paints[finding.level](finding.level) + " " * (level_width - len(finding.level))
        lines.append(f"{level}  {code.ljust(code_width)}  {wording.printable(finding.text)}")
        if finding.mend:
            mend = wording.printable(finding.mend)
            lines.append(f"{' ' * level_width}  {paint.dim('to do: ')}{mend}")
    levels = Counter(finding.level for finding in findings.values())
    data = {
        "ok": not levels[PROBLEM],
        "checks": [
            {"code": code, "level": finding.level, "text": finding.text, "mend": finding.mend}
            for code, finding in findings.items()
        ],
    }
    return output.Report(1 if levels[PROBLEM] else 0, [*lines, "", _summary(levels)], data)


def _run(check: Check, host: Host) -> Finding:
    try:
        return check.run(host)
    except errors.Failure as failure:
        return Finding(UNKNOWN, f"not checked: {failure.reason}", failure.hint)


def _summary(levels: Counter[str]) -> str:
    parts = [wording.counted(levels[level], level) for level in (PROBLEM, WARNING) if levels[level]]
    if levels[UNKNOWN]:
        parts.append(f"{levels[UNKNOWN]} not checked")
    if not parts:
        return "No problems found."
    return f"{', '.join(parts)}. auto-iscsi explain CODE explains a check."
