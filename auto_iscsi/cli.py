"""The administrator's program: `auto-iscsi [--root DIR] VERB …`: arguments to verb.

A verb is one module and one function, imported only when the verb is asked for.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import traceback
from typing import Callable, NamedTuple

import auto_iscsi
from auto_iscsi import errors, output, program
from auto_iscsi.host import Host


class Verb(NamedTuple):
    """Something to do."""

    run: Callable[[argparse.Namespace, Host], int]
    help: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], object]


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return the exit status: 0, 1 expected failure, 2 usage, 3 a bug, 130 ^C."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    root = os.path.abspath(arguments.root)
    if not os.path.isdir(root):
        return _fail(f"--root {root}: not a directory", program.USAGE)
    try:
        status = VERBS[arguments.verb].run(arguments, Host(root))
        sys.stdout.flush()
        return status
    except errors.Failure as failure:
        return _fail(failure.reason, 1, failure.hint)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads, head(1) for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        traceback.print_exc()
        versions = f"auto-iscsi {auto_iscsi.__version__}, Python {platform.python_version()}"
        return _fail(f"a bug, please report it: {error!r} ({versions})", program.BUG)


def _lookup(arguments: argparse.Namespace, host: Host) -> int:
    return program.main([arguments.key], host)


def _explain(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import codes, explain

    paint = output.paint_for(sys.stdout)
    if arguments.settings:
        return _show(explain.table(paint), arguments.json)
    if arguments.codes:
        return _show(codes.listing(paint), arguments.json)
    if arguments.key in codes.table():
        return _show(codes.report(arguments.key), arguments.json)
    return _show(explain.report(host, arguments.key, paint), arguments.json)


def _check(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import check

    paint = output.paint_for(sys.stdout)
    return _show(check.report(host, arguments.files, arguments.strict, paint), arguments.json)


def _edit(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import edit

    return edit.edit(host, arguments.file or "", print, _ask, output.paint_for(sys.stdout))


def _status(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import metrics, status

    if arguments.metrics:
        return _show(metrics.report(host), False)
    return _show(status.report(host, output.paint_for(sys.stdout)), arguments.json)


def _doctor(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import doctor

    return _show(doctor.report(host, output.paint_for(sys.stdout)), arguments.json)


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the name of an iSCSI target (iqn.…)")


def _key_or_code(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "key", metavar="KEY|CODE", nargs="?",
        help="the name of an iSCSI target (iqn.…), or a code of what was found wrong",
    )  # fmt: skip
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


def _json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="for a program: see auto-iscsi(8)")


VERBS = {
    "lookup": Verb(
        _lookup, "do what automount's map does for a key: log in, print the map entry",
        "Do what the map does when automount looks up KEY, and print what it prints.", _key,
    ),
    "explain": Verb(
        _explain, "say what holds for a key, and what a lookup would do; or what a code means",
        "Say what holds for KEY, which line said so, and what a lookup would do now. "
        "Nothing is changed. Exit status 1: a lookup would refuse it. "
        "Or say what a CODE means, why it comes up, and what to do.", _key_or_code,
    ),
    "check": Verb(
        _check, "say everything that is wrong with the configuration",
        "Say everything that is wrong with the configuration. Exit status 1: there are errors.",
        _files,
    ),
    "edit": Verb(
        _edit, "change the configuration with an editor, and check it before it holds",
        "Edit a copy of FILE, check it, and put it in FILE's place when it has no errors. "
        "The editor: SUDO_EDITOR, VISUAL or EDITOR.", _file,
    ),
    "status": Verb(
        _status, "list the sessions, what uses them, and what the reaper would do",
        "List the iSCSI sessions of this host: target, portal, state, disks, what uses them, and "
        "what the reaper would do and when. Nothing is changed. Exit status 1: there are problems.",
        _format,
    ),
    "doctor": Verb(
        _doctor, "look whether this host is fit for the job, and say what mends it",
        "Look whether this host is fit for the job: one line a thing, and the command that mends "
        "it. Nothing is changed, no network is used. Exit status 1: there are problems.", _json,
    ),
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="auto-iscsi", allow_abbrev=False,
        description="iSCSI snapshots by name, on demand, under autofs: the administrator's side.",
        epilog="See auto-iscsi(8), auto.iscsi(8) and auto.iscsi.conf(5).",
    )  # fmt: skip
    version = f"auto-iscsi {auto_iscsi.__version__}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument(
        "--root", metavar="DIR", default="/", help="the machine is laid out below DIR (default: /)"
    )
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    for name, verb in VERBS.items():
        own = verbs.add_parser(
            name, help=verb.help, description=verb.description, allow_abbrev=False
        )
        verb.arguments(own)
    return parser


def _show(report: output.Report, as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps(report.data, indent=2))
    else:
        print("\n".join(report.lines))
    return report.status


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        print()
        return "x"


def _fail(reason: str, status: int, hint: str = "") -> int:
    print(f"auto-iscsi: {errors.one_line(reason)}", file=sys.stderr)
    if hint:
        print(f"  to do: {errors.one_line(hint)}", file=sys.stderr)
    return status
