"""Explain the codes: what each one means, what causes it, and what to do.

A code names one kind of fault: a reason why a lookup is refused, or what check, status or doctor
report. Codes never change from one version to the next; the words around them may.
"""

from __future__ import annotations

from typing import NamedTuple

from auto_iscsi.admin import doctor, output, status
from auto_iscsi.config import config_files


class Code(NamedTuple):
    """The explanation of a code."""

    source: str  #: which commands report it
    means: str
    todo: str


LOOKUP, CHECK, STATUS, DOCTOR = "lookup", "check", "status", "doctor"
_RUN_CHECK = "Run auto-iscsi check: it names the line, the mistake and what is allowed."

_OF_A_SAN = " If the file is one of /etc/auto.iscsi.san.d, its SAN is not used."

#: The reasons why a lookup is refused: (meaning, what to do), one for each Failure (errors).
_REFUSALS = {
    "failure": (
        "Something failed that has no code of its own.",
        "Read the line in the log.",
    ),
    "bad-key": (
        "The key is not the name of an iSCSI target or of a snapshot at a SAN. Shells, desktops "
        "and file managers look for files such as .git or autorun.inf in every directory. Nothing "
        "was read, and no portal was asked.",
        "Nothing, unless a person typed the key: names begin with iqn., eui. or naa.",
    ),
    "disabled": (
        "The configuration has enabled = no for this target.",
        "Run auto-iscsi explain KEY: it names the line.",
    ),
    "bad-configuration": (
        "A setting that applies to the target is wrong, or a configuration file cannot be read. "
        "The target is refused, because it might be mounted with the wrong settings.",
        _RUN_CHECK,
    ),
    "not-permitted": (
        "The kernel denied access to a file or a device, usually because the command did not run "
        "as root.",
        "Run the command as root.",
    ),
    "no-record": (
        "open-iscsi has no node record of the target, and no portals are configured on which to "
        "discover it.",
        "Set portals in /etc/auto.iscsi.conf, or run: iscsiadm -m discovery -t st -p PORTAL",
    ),
    "login-failed": (
        "No portal accepted the login: the portal is down, the SAN does not present the target to "
        "this host, or the CHAP secret is wrong. The line in the log names the reason for each "
        "portal.",
        "Present the target at the SAN to the initiator name in "
        "/etc/iscsi/initiatorname.iscsi. journalctl -u iscsid shows the reason that the target "
        "gave.",
    ),
    "session-lost": (
        "There is a session with the target, but its connection is down. iscsid keeps trying to "
        "restore it. A program that reads from a mounted disk of the session waits for "
        "replacement_timeout and then gets an error. This is also what happens when a snapshot "
        "is revoked at the SAN.",
        "Bring the portal back, or present the target again: the session then recovers by "
        "itself. If the target is gone for good, leave the directory: the reaper ends a session "
        "that nobody uses.",
    ),
    "no-disk": (
        "The session is up, but it has no disk at the configured LUN, the disk is not ready "
        "through any portal, or udev did not make the disk's link within udev_timeout.",
        "Map the LUN to the target at the SAN and make it ready, set lun, or raise udev_timeout if "
        "udev is slow.",
    ),
    "no-partition": (
        "The disk exists, but it does not have the configured partition.",
        "Set partition to a partition that exists, or to none for a filesystem on the whole disk.",
    ),
    "no-snapshot": (
        "The volume has no snapshot of the time or name that was asked for. Or no target's name "
        "tells that it is a snapshot of this volume, and no SAN lists one.",
        "Run auto-iscsi list: it lists the snapshots, and the targets whose names fit no template. "
        "Set snapshot_name to a template for those.",
    ),
    "ambiguous": (
        "The disk has several filesystems to choose from, or none. Or it has partitions, and a "
        "filesystem on the whole disk as well: one of them is left over from an earlier use of the "
        "disk. Or there are signatures of more than one filesystem in one place, or the roots of "
        "more than one system. The line in the log lists the contents of the disk.",
        "Set partition to one of the numbers in that list, or to none for the whole disk. For "
        "several signatures in one place, wipefs -n DEVICE shows them: set fstype as well.",
    ),
    "not-mountable": (
        "The disk or partition cannot be mounted: it is part of something larger (LVM, md, ZFS), "
        "encrypted, swap space or empty, or this kernel does not support its filesystem. Or "
        "partition = system is set, and the root of a system is missing or cannot be mounted.",
        "Read the line in the log: it names what is needed. For LVM, set partition = all; "
        "for LUKS, set luks_key_file. Of md arrays, only RAID 1 can be shown.",
    ),
    "dirty-journal": (
        "The filesystem was in use when the snapshot was taken. Its latest changes exist only in "
        "its journal, and either journal = refuse is set, or the journal could not be replayed, "
        "for example because overlay_dir has no room.",
        "Set journal = overlay to see all of it: the journal is replayed on this host, and the LUN "
        "is not written. Where overlay_dir has no room, make room, or name another directory. See "
        "auto.iscsi.conf(5) for the other values of journal.",
    ),
    "wrong-disk": (
        "The SAN has mapped another volume to a LUN since the kernel found the disk, and "
        "something on this host still uses the old disk.",
        "End what uses the disk, and enter the directory again: the new volume is then found.",
    ),
    "twin-volumes": (
        "Two volumes, of different targets or LUNs, have the same serial number (WWID), or none. "
        "multipathd takes them for one volume and joins their disks in one device; a program that "
        "reads the device gets blocks of either volume. So the lookup is refused and logs out "
        "again, and there is no other login while the other volume is logged in. Without serial "
        "numbers, nobody can tell either that the SAN has mapped another volume to a LUN.",
        "Give each volume its own serial number at the SAN (LIO: vpd_unit_serial), then log out of "
        "both. If that cannot be done, blacklist the disks in multipath.conf by the WWID that "
        "multipath -ll shows, and run systemctl reload multipathd.",
    ),
    "san-failure": (
        "The driver of a SAN could not do what it was asked, or does not keep to its protocol. The "
        "line in the log has the driver's own words and, in parentheses, the kind of error: auth, "
        "busy, conflict, denied, exhausted, internal, invalid, not_found, timeout, unreachable, "
        "unsupported.",
        "Read the line in the log, and what the driver wrote: journalctl -t auto-iscsi-driver. "
        "auto-iscsi san journal shows what is presented to this host and what happens to it.",
    ),
    "not-allowed": (
        "The file of the SAN does not allow that this user has snapshots presented, or as many "
        "are presented to this host as it allows. The SAN was not asked.",
        "See present, allow and max_presented in /etc/auto.iscsi.san.d, and what is presented: "
        "auto-iscsi san journal",
    ),
    "too-often": (
        "Too many logins or discoveries failed in the last minute, so the SAN is not asked again "
        "yet. Any user can type any key; this limit protects the SAN.",
        "Wait as long as the line in the log says. See attempts in auto.iscsi.conf(5).",
    ),
    "busy": (
        "Another lookup of the same target is still running, or an iscsiadm that one started. Or "
        "an overlay or logical volume of the target is still in use and cannot be removed.",
        "Try again. For an overlay or logical volume, end what uses it: the line in the log names "
        "it. Otherwise: systemctl restart iscsid",
    ),
    "timed-out": (
        "The lookup took longer than lookup_timeout and was ended.",
        "Run auto-iscsi explain KEY and journalctl -u iscsid to see what the lookup waited for. "
        "Raise lookup_timeout if the SAN is only slow.",
    ),
    "no-answer": (
        "A disk did not answer in time, although its session is up.",
        "Run auto-iscsi status to see the state of the session, and check that the SAN serves the "
        "LUN.",
    ),
    "iscsid-not-running": (
        "iscsid does not start, so no CHAP secret reaches a node record and no session is opened.",
        "Run systemctl status iscsid, and journalctl -u iscsid.",
    ),
    "broken-installation": (
        "A program or a library is missing.",
        "Install what the line in the log names. auto-iscsi doctor checks all of them.",
    ),
}


#: The problems of a session that only status reports: (meaning, what to do).
_STATUS = {
    "lost-in-use": (
        "The connection of a session is down while its disk is in use. A program that reads data "
        "that is not in the cache waits for replacement_timeout and then gets an error; the wait "
        "cannot be interrupted. This is also what happens when a snapshot is revoked at the SAN "
        "while it is mounted. Or the session or its disk is gone already, and the disk is still "
        "mounted: status shows that as gone.",
        "If status shows it as gone: umount /iscsiauto/KEY, or umount -l /iscsiauto/KEY where that "
        "is busy; the next access logs in again. Otherwise present the target again, or bring the "
        "portal back: the programs then continue by themselves. If the target is gone for good, "
        "run iscsiadm -m session -r SESSION --logout: it ends the wait at once, and the programs "
        "get an error. automount then unmounts the disk, and the next access logs in again.",
    ),
    "disk-offline": (
        "The session is up, but the LUN was unmapped, the SAN has mapped another volume to it, "
        "or the kernel has taken the disk offline.",
        "Map the LUN again, leave the directory, and let the reaper end the session; the next "
        "access logs in again. To end it at once: iscsiadm -m session -r SESSION --logout",
    ),
    "disk-not-ready": (
        "A disk cannot be read through any session of its target: the SAN is still making it, the "
        "path is in standby or unavailable (ALUA), or another host has reserved the disk. status "
        "shows what the disk says, in SCSI's words.",
        "Make the LUN ready at the SAN, and visit the key again: the disk is then asked anew.",
    ),
    "duplicate-session": (
        "There are more sessions with one target through one portal and one interface than the "
        "node record asks for (node.session.nr_sessions), so two devices show the same disk. "
        "Usually, a lookup and something else logged in at the same moment.",
        "Log out the session that nobody uses: iscsiadm -m session -r SESSION --logout",
    ),
    "not-revoked": (
        "A snapshot is presented to this host at a SAN, nobody needs it, and the driver could not "
        "revoke it. The reaper tries again, at longer and longer intervals, at most an hour. Or a "
        "file in /var/lib/auto-iscsi/san is damaged, and nobody knows what it stood for.",
        "auto-iscsi san journal shows the reason, and journalctl -t auto-iscsi-driver what the "
        "driver wrote. To try at once: auto-iscsi san revoke SAN VOLUME@SNAPSHOT. For a damaged "
        "file: see what auto-iscsi san list shows as presented, undo it at the SAN, and delete the "
        "file.",
    ),
    "reaper-late": (
        "The reaper could have ended a session more than an hour ago. It does not run, or it "
        "cannot end the session.",
        "Check systemctl status auto-iscsi.timer. auto-iscsi reap shows why a session cannot be "
        "ended.",
    ),
}


def table() -> dict[str, Code]:
    """Return the explanations of all codes, by code."""
    both = f"{LOOKUP}, {STATUS}"
    codes = {
        code: Code(both if code in status.PROBLEMS else LOOKUP, means, todo)
        for code, (means, todo) in _REFUSALS.items()
    }
    for code, (means, todo) in _STATUS.items():
        codes[code] = Code(STATUS, means, todo)
    for code, kind in config_files.KINDS.items():
        of_a_san = "" if kind.startswith("warning") or code == "key-file" else _OF_A_SAN
        codes[code] = Code(CHECK, f"{kind[0].upper()}{kind[1:]}.{of_a_san}", _RUN_CHECK)
    for code, check in doctor.CHECKS.items():
        codes[code] = Code(DOCTOR, check.means, check.todo)
    return codes


def report(code: str) -> output.Report:
    """Return the explanation of one code."""
    explanation = table()[code]
    lines = [f"{code} ({explanation.source})", "", *output.wrap(explanation.means), ""]
    lines += output.wrap(f"To do: {explanation.todo}")
    return output.Report(0, lines, {"code": code, **explanation._asdict()})


def list_codes(paint: output.Paint) -> output.Report:
    """Return all codes, each with its source and the first sentence of its meaning."""
    codes = table()
    rows = [(name, code.source, _first_sentence(code.means)) for name, code in codes.items()]
    lines = output.table(("code", "from", "meaning"), rows, paint)
    return output.Report(0, lines, {name: code._asdict() for name, code in codes.items()})


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")
