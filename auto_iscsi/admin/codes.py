"""What does a code mean, why does it come up, and what is to be done?

Whatever auto-iscsi finds wrong has a code: why a lookup was refused, what check, status and doctor
report. Codes are stable; the words around them are not.
"""

from __future__ import annotations

from typing import NamedTuple

from auto_iscsi.admin import doctor, output, status
from auto_iscsi.config import config_files


class Code(NamedTuple):
    """What is to be said of a code."""

    source: str  #: who reports it
    means: str
    todo: str


LOOKUP, CHECK, STATUS, DOCTOR = "lookup", "check", "status", "doctor"
_MEND = "Run auto-iscsi check; it names the line, what is wrong and what is allowed."

#: Why a lookup is refused: one for each kind of Failure (errors).
_REFUSALS = {
    "failure": (
        "Something that has no code of its own went wrong.",
        "Go by the line in the log.",
    ),
    "bad-key": (
        "The key is not the name of an iSCSI target. Shells, desktops and file managers look for "
        "files such as .git or autorun.inf wherever they come by. Nothing was read or asked.",
        "Nothing, unless a person typed it: names begin with iqn., eui. or naa.",
    ),
    "disabled": (
        "The configuration says enabled = no for this target.",
        "auto-iscsi explain KEY names the line.",
    ),
    "bad-configuration": (
        "A setting that applies to the target is wrong, or a file cannot be read. So that nothing "
        "is mounted in another way than was meant, the target is refused.",
        _MEND,
    ),
    "not-permitted": (
        "The kernel refused to let us read or write: most often because it was not run as root.",
        "Run it as root.",
    ),
    "no-record": (
        "open-iscsi has no node record of the target, and no portals are configured where it "
        "could be asked for.",
        "Set portals in /etc/auto.iscsi.conf, or: iscsiadm -m discovery -t st -p PORTAL",
    ),
    "login-failed": (
        "No portal let us in: it is down, the target is not presented to this host, or the CHAP "
        "secret is wrong. The line in the log says which, for each portal.",
        "Present the target at the SAN to the initiator name in "
        "/etc/iscsi/initiatorname.iscsi; journalctl -u iscsid has the protocol's own reason.",
    ),
    "session-lost": (
        "There is a session with the target, but its connection is down. iscsid keeps trying to "
        "bring it back. Who reads from a mounted disk of it waits for replacement_timeout, and "
        "then gets an error. A snapshot that was revoked at the SAN looks like this.",
        "Bring the portal back, or present the target again: the session recovers by itself. If "
        "it is gone for good, leave the directory; the reaper ends what nobody uses.",
    ),
    "no-disk": (
        "The session is up, but the LUN that is wanted has no disk, or udev has made no link to "
        "it within udev_timeout.",
        "Map the LUN to the target at the SAN, set lun, or raise udev_timeout if udev is slow.",
    ),
    "no-partition": (
        "The disk is there, the partition that is wanted is not.",
        "Set partition to one that there is, or to none for a filesystem on the whole disk.",
    ),
    "ambiguous": (
        "With partition = auto: more than one filesystem could be meant, or none is there. The "
        "line in the log lists what is on the disk.",
        "Set partition to one of the numbers, or to all.",
    ),
    "not-mountable": (
        "What is on the disk cannot be mounted as it is: a member of something bigger (LVM, md, "
        "ZFS), encrypted, swap, nothing at all, or a type that this kernel does not have.",
        "The line in the log says what would be needed. It is never put to use by itself.",
    ),
    "dirty-journal": (
        "The filesystem was in use when the snapshot was taken: its newest changes are in its "
        "journal only, and to replay that writes to the LUN.",
        "journal = skip mounts it without them; journal = replay shows all of it, for a LUN that "
        "may be written. auto.iscsi.conf(5)",
    ),
    "wrong-disk": (
        "The SAN has another volume behind a LUN than when the kernel found the disk, and what "
        "was made of the old one is still in use.",
        "End what uses the disk, and visit the key again: the disk is then found anew.",
    ),
    "too-often": (
        "So many logins or discoveries failed in the last minute that the SAN is not asked again "
        "yet. Any user can type any key, and the SAN is to be spared that.",
        "Wait as long as the line in the log says. See attempts in auto.iscsi.conf(5).",
    ),
    "busy": (
        "Another lookup of the same target, or an iscsiadm that one started, is still at work.",
        "Try again. If it lasts: systemctl restart iscsid",
    ),
    "timed-out": (
        "lookup_timeout was over before the disk was ready.",
        "See what it waited for: auto-iscsi explain KEY, journalctl -u iscsid. Raise "
        "lookup_timeout if the SAN is only slow.",
    ),
    "no-answer": (
        "A disk did not answer within its time, although its session is up.",
        "See what auto-iscsi status says of the session, and whether the SAN serves the LUN.",
    ),
    "broken-installation": (
        "A program or a library that is needed is not there.",
        "Install what the line names; auto-iscsi doctor looks at all of it.",
    ),
}


#: What is wrong with a session (status); the other codes there mean what they mean to a lookup.
_STATUS = {
    "lost-in-use": (
        "The connection of a session is down while its disk is in use. Whoever reads what is not "
        "cached waits for replacement_timeout, and then gets an error; that cannot be "
        "interrupted. A snapshot that was revoked at the SAN while it was mounted looks like this.",
        "Present the target again, or bring the portal back: it goes on by itself. If it is gone "
        "for good: iscsiadm -m session -r SESSION --logout ends the waiting at once, with an "
        "error for the readers; automount then unmounts it, and the next visit logs in anew.",
    ),
    "disk-offline": (
        "The session is up, but its disk is not what it was: the LUN was unmapped, another volume "
        "is behind it, or the kernel has given up on it.",
        "Map the LUN again, leave the directory, and let the reaper end the session; the next "
        "visit logs in anew. At once: iscsiadm -m session -r SESSION --logout",
    ),
    "duplicate-session": (
        "There are two sessions with one target through one portal: two logins met, ours and "
        "somebody else's mostly. Two devices show one disk.",
        "Log out the one that nobody uses: iscsiadm -m session -r SESSION --logout",
    ),
    "reaper-late": (
        "A session could have been ended more than an hour ago: the reaper does not run, or "
        "cannot end it.",
        "systemctl status auto-iscsi.timer; auto-iscsi reap says what happens.",
    ),
}


def table() -> dict[str, Code]:
    """Return every code there is."""
    both = f"{LOOKUP}, {STATUS}"
    found = {
        code: Code(both if code in status.PROBLEMS else LOOKUP, *said)
        for code, said in _REFUSALS.items()
    }
    for code, text in _STATUS.items():
        found[code] = Code(STATUS, *text)
    for code, said in config_files.KINDS.items():
        found[code] = Code(CHECK, f"{said[0].upper()}{said[1:]}.", _MEND)
    for code, check in doctor.CHECKS.items():
        found[code] = Code(DOCTOR, check.means, check.todo)
    return found


def report(code: str) -> output.Report:
    """Return what one code means."""
    said = table()[code]
    lines = [f"{code} ({said.source})", "", *output.wrapped(said.means), ""]
    lines += output.wrapped(f"To do: {said.todo}")
    return output.Report(0, lines, {"code": code, **said._asdict()})


def listing(paint: output.Paint) -> output.Report:
    """Return all codes."""
    rows = [("code", "from", "meaning")]
    rows += [(code, said.source, _short(said.means)) for code, said in table().items()]
    first, *others = output.columns(rows)
    data = {code: said._asdict() for code, said in table().items()}
    return output.Report(0, [paint.aside(first), *others], data)


def _short(text: str) -> str:
    """Return the first sentence."""
    return text.split(". ")[0].rstrip(".")
