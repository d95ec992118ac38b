"""What can be asked of auto-iscsi, in which words?

A row here and a function of the same name in cli is all that a new verb needs. Help, completion
and the manual page are held against this.
"""

from __future__ import annotations

import argparse
from typing import Callable, NamedTuple

from auto_iscsi.config import values


class Verb(NamedTuple):
    """Something to do."""

    help: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], object]


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the name of an iSCSI target (iqn.…)")


def _key_or_code(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "key",
        metavar="KEY|CODE",
        nargs="?",
        help="the name of an iSCSI target (iqn.…), or a code of what was found wrong",
    )
    what.add_argument("--settings", action="store_true", help="list every setting there is")
    what.add_argument("--codes", action="store_true", help="list every code there is")
    _json(parser)


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="read in this order (default: what a lookup reads)"
    )
    parser.add_argument("-s", "--strict", action="store_true", help="a warning is a problem, too")
    _json(parser)


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="default: /etc/auto.iscsi.conf")


def _format(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    _json(what)
    what.add_argument(
        "--metrics", action="store_true", help="for Prometheus, by a node exporter's textfiles"
    )


def _reaper(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would become of each, and why"
    )
    parser.add_argument(
        "--wait",
        metavar="TIME",
        type=values.seconds,
        nargs="?",
        const=600.0,
        default=0.0,
        help="go on until nothing is left that could be ended by then (default: 10m)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")


def _json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="for a program: see auto-iscsi(8)")


VERBS = {
    "lookup": Verb(
        "do what automount's map does for a key: log in, print the map entry",
        "Do what the map does when automount looks up KEY, and print what it prints.",
        _key,
    ),
    "explain": Verb(
        "say what holds for a key, and what a lookup would do; or what a code means",
        "Say what holds for KEY, which line said so, and what a lookup would do now. "
        "Nothing is changed. Exit status 1: a lookup would refuse it. "
        "Or say what a CODE means, why it comes up, and what to do.",
        _key_or_code,
    ),
    "check": Verb(
        "say everything that is wrong with the configuration",
        "Say everything that is wrong with the configuration. Exit status 1: there are errors.",
        _files,
    ),
    "edit": Verb(
        "change the configuration with an editor, and check it before it holds",
        "Edit a copy of FILE, check it, and put it in FILE's place when it has no errors. "
        "The editor: SUDO_EDITOR, VISUAL or EDITOR.",
        _file,
    ),
    "status": Verb(
        "list the sessions, what uses them, and what the reaper would do",
        "List the iSCSI sessions of this host: target, portal, state, disks, what uses them, and "
        "what the reaper would do and when. Nothing is changed. Exit status 1: there are problems.",
        _format,
    ),
    "reap": Verb(
        "end the sessions that nobody needs any more",
        "End the sessions that a lookup opened, that nobody uses, and whose lease and idle time "
        "are over. Exit status 1: one that was to end did not.",
        _reaper,
    ),
    "doctor": Verb(
        "look whether this host is fit for the job, and say what mends it",
        "Look whether this host is fit for the job: one line a thing, and the command that mends "
        "it. Nothing is changed, no network is used. Exit status 1: there are problems.",
        _json,
    ),
}
