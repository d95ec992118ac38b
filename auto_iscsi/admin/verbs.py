"""Define the verbs of auto-iscsi: their arguments and their help.

A new verb needs an entry here and in cli.VERBS, and its function in cli. Tests compare bash
completion and the manual page with this table.
"""

from __future__ import annotations

import argparse
from typing import Callable, NamedTuple

from auto_iscsi.config import values


class Verb(NamedTuple):
    """A verb on the command line."""

    help: str  #: one line, for the list of verbs
    description: str  #: for the verb's own --help
    arguments: Callable[[argparse.ArgumentParser], object]  #: adds its arguments to a parser


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "key",
        metavar="KEY",
        help="the name of an iSCSI target (iqn.…), or VOLUME@SNAPSHOT at a SAN",
    )


def _key_or_code(parser: argparse.ArgumentParser) -> None:
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument(
        "key",
        metavar="KEY|SAN|CODE",
        nargs="?",
        help="the name of an iSCSI target (iqn.…) or VOLUME@WHEN, the name of a file in "
        "auto.iscsi.san.d, or a code from the log or a report",
    )
    subject.add_argument("--settings", action="store_true", help="list all settings")
    subject.add_argument("--codes", action="store_true", help="list all codes")
    _json(parser)


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="files to check, in the order in which they apply (default: those that a lookup "
        "reads)",
    )
    parser.add_argument(
        "-s", "--strict", action="store_true", help="exit with status 1 for warnings, too"
    )
    _json(parser)


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="default: /etc/auto.iscsi.conf")


def _format(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_mutually_exclusive_group()
    _json(formats)
    formats.add_argument(
        "--metrics",
        action="store_true",
        help="print gauges for Prometheus (node exporter, textfile collector)",
    )


def _snapshots(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        metavar="VOLUME[@WHEN]",
        nargs="?",
        default="",
        help="list only this volume, or only the snapshot of this time (default: all volumes)",
    )
    _days(parser)
    parser.add_argument("--offline", action="store_true", help="ask no portal and no SAN")
    _json(parser)


def _file_versions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place",
        metavar="VOLUME:/PATH",
        help="the file or directory; *, ? and [abc] in PATH mean several",
    )
    _days(parser)
    parser.add_argument(
        "--all", action="store_true", help="print a line for each snapshot, not for each version"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=values.number(1, 64),
        default=4,
        help="how many snapshots to visit at a time, 1 to 64 (default: 4)",
    )
    parser.add_argument(
        "--hash", action="store_true", help="compare the content, and not times, owners and modes"
    )
    parser.add_argument(
        "--keep", action="store_true", help="do not end the sessions that the visits open"
    )
    _json(parser)


def _file_at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place", metavar="VOLUME[@WHEN]:/PATH", help="the file; without WHEN, the latest one"
    )
    _json(parser)


def _two_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place", metavar="VOLUME[@WHEN]:/PATH", help="the older file; without WHEN, the latest one"
    )
    parser.add_argument(
        "other", metavar="@WHEN|FILE", help="the same file in another snapshot, or a local file"
    )
    parser.add_argument(
        "newer",
        metavar="@WHEN|FILE",
        nargs="?",
        default="",
        help="the newer file, when the argument before it names the snapshot of the older one "
        "(VOLUME:/PATH @monday @latest)",
    )
    _json(parser)


def _restoration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place",
        metavar="VOLUME[@WHEN]:/PATH",
        help="the file or directory; without WHEN, as it is in the latest snapshot",
    )
    parser.add_argument(
        "destination",
        metavar="DESTINATION",
        help="where to: a path, or HOST:/PATH by ssh; with a slash at its end: a directory, which "
        "gets the file in it",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that exist and differ"
    )
    parser.add_argument(
        "--no-backup", action="store_true", help="do not keep the files that are replaced"
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="list what would be restored")
    _json(parser)


def _reaper(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="end nothing; list each session, what the reaper would do with it, and why",
    )
    what.add_argument(
        "--now",
        action="store_true",
        help="unmount what nobody uses, and end these sessions whatever their lease and idle time",
    )
    parser.add_argument(
        "--no-san", action="store_true", help="do not revoke what is presented and not needed"
    )
    parser.add_argument(
        "--wait",
        metavar="TIME",
        type=values.seconds,
        nargs="?",
        const=600.0,
        default=0.0,
        help="keep running while there is a session that could be ended within TIME (default: 10m)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _checks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--san", action="store_true", help="also ask each configured SAN for its snapshots"
    )
    _json(parser)


def _san(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text, allow_abbrev=False)

    listing = action("list", "list the snapshots that the SANs have, presented or not")
    listing.add_argument("san", metavar="SAN", nargs="?", default="", help="only this SAN")
    _json(listing)
    for name, text in (
        ("present", "have a snapshot presented to this host"),
        ("revoke", "have a snapshot revoked to which no session exists"),
    ):
        change = action(name, text)
        change.add_argument("san", metavar="SAN", help="the name of a file in auto.iscsi.san.d")
        change.add_argument(
            "snapshot", metavar="VOLUME@SNAPSHOT", help="a snapshot, as list shows it"
        )
        _json(change)
    journal = action("journal", "list what is presented to this host, and what happens to it")
    journal.add_argument(
        "--finish", action="store_true", help="first revoke what nobody needs, or is half done"
    )
    journal.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    _json(journal)
    test = action("test", "test whether a driver keeps to the protocol")
    test.add_argument("driver", metavar="DRIVER", help="its name or file, or the name of a SAN")
    test.add_argument("--config", metavar="FILE", default="", help="a file as in auto.iscsi.san.d")
    _json(test)


def _days(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", metavar="DAY", default="", help="no snapshot before DAY: 2010-05-03, monday"
    )
    parser.add_argument("--until", metavar="DAY", default="", help="no snapshot after DAY")


def _json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON; see auto-iscsi(8)"
    )


VERBS = {
    "lookup": Verb(
        "log in to a target and print its map entry, as automount would get it",
        "Log in to the target KEY unless it has a session, wait for its disk, and print the map "
        "entry that automount would get. Nothing stays mounted.",
        _key,
    ),
    "explain": Verb(
        "show the settings of a target, and what a lookup would do, or of a SAN; explain a code",
        "Show the settings that apply to KEY, the line that sets each of them, and what a lookup "
        "would do now. Nothing is changed. Exit status 1: a lookup would refuse KEY. "
        "Or show the settings of SAN and the line that sets each of them. "
        "Or explain CODE: what it means, what causes it, and what to do.",
        _key_or_code,
    ),
    "check": Verb(
        "report everything that is wrong in the configuration",
        "Report everything that is wrong in the configuration, and in the files of the SANs. Exit "
        "status 1: there are errors.",
        _files,
    ),
    "edit": Verb(
        "edit the configuration; a file with errors is never installed",
        "Open a copy of FILE in an editor, check the copy, and replace FILE with it if it has no "
        "errors. SUDO_EDITOR, VISUAL or EDITOR names the editor.",
        _file,
    ),
    "status": Verb(
        "list the iSCSI sessions, what uses them, and what the reaper would do",
        "List the iSCSI sessions of this host: target, portal, state, disks, what uses them, and "
        "what the reaper would do and when. Nothing is changed. Exit status 1: there are problems.",
        _format,
    ),
    "list": Verb(
        "list the snapshots by volume and time",
        "List the snapshots of each volume by time, the newest first. Volume and time come from "
        "the names of the targets that have a node record or a session, or that a portal of the "
        "configuration offers (see snapshot_name in auto.iscsi.conf(5)), or from a SAN. WHEN is "
        "latest, oldest, -1 (the one before the latest), today, yesterday, monday (the last one), "
        "2010-05-03 (the newest of that day), 2010-05-03T04:00 or 04:00 (the newest of that day, "
        "or of today, that is not later), or the whole name of a target or of a snapshot at a SAN. "
        "No session is opened. The list of volumes below /snapshots is brought up to date. Exit "
        "status 1: there is no such snapshot.",
        _snapshots,
    ),
    "versions": Verb(
        "find the versions of a file in the snapshots of a volume",
        "Visit the snapshots of VOLUME and list the versions of a file or directory, the newest "
        "first: time of change, size, mode, owner, and the snapshots that have it. Of a directory, "
        "what is in it does not count. A session that a visit opens is ended after the visit. Exit "
        "status 1: a snapshot could not be visited, or none has the file.",
        _file_versions,
    ),
    "cat": Verb(
        "print a file of a snapshot",
        "Print a file as it was in a snapshot of VOLUME. WHEN is as for list. Symbolic links are "
        "followed as on the server: none leads out of the snapshot. A session that cat opens is "
        "ended when cat ends.",
        _file_at,
    ),
    "diff": Verb(
        "compare a file of a snapshot with another snapshot's, or with a local file",
        "Print what has changed from a file of a snapshot to the same file of another snapshot of "
        "the volume (@WHEN), or to a local FILE, as diff -u does; in a pager on a terminal. WHEN "
        "is as for list. Directories are not compared. Exit status 1: they differ; 2: they could "
        "not be compared.",
        _two_files,
    ),
    "restore": Verb(
        "restore a file or directory of a snapshot, here or on another host",
        "Copy a file or a directory of a snapshot to DESTINATION with rsync: owners by number, "
        "modes, ACLs, extended attributes, hard links and times. WHEN is as for list. Devices, "
        "FIFOs and sockets are left out. A file that exists at DESTINATION and differs is replaced "
        "only with --overwrite; the old file is then kept beside the new one as "
        "NAME.before-restore-YYYY-MM-DD-hhmmss. Both sides are compared afterwards. Exit status 1: "
        "a file was not overwritten, or is not the same.",
        _restoration,
    ),
    "san": Verb(
        "list, present and revoke snapshots at the SAN; test a driver",
        "Work at the SANs that /etc/auto.iscsi.san.d describes, through their drivers. "
        "Exit status 1: the driver refused, a check of it failed, or something is not revoked.",
        _san,
    ),
    "reap": Verb(
        "end the sessions that nobody needs any more",
        "End the sessions that a lookup opened, that nothing uses, and whose lease and idle time "
        "are over. Then revoke what was presented at a SAN and is not needed any more. Exit status "
        "1: a session could not be ended, or a snapshot not revoked.",
        _reaper,
    ),
    "doctor": Verb(
        "check whether this host is set up correctly, and show how to correct it",
        "Check whether this host is set up correctly: one line for each check, and the command "
        "that corrects what is wrong. Nothing is changed, and the network is not used unless --san "
        "is given. Exit status 1: there are problems.",
        _checks,
    ),
}
