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
    from auto_iscsi import explain

    paint = output.paint_for(sys.stdout)
    if arguments.settings:
        return _show(explain.table(paint), arguments.json)
    return _show(explain.report(host, arguments.key, paint), arguments.json)


def _check(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import check

    paint = output.paint_for(sys.stdout)
    return _show(check.report(host, arguments.files, arguments.strict, paint), arguments.json)


def _edit(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import edit

    return edit.edit(host, arguments.file or "", print, _ask, output.paint_for(sys.stdout))


def _reap(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi import reap

    if arguments.dry_run:
        return _show(reap.table(host, output.paint_for(sys.stdout)), False)
    seen = sys.stderr.isatty()
    outcome = reap.reap(host, _progress if seen else lambda _: None, arguments.wait)
    if seen:
        _progress("")
    for each in outcome.problems:
        _fail(f"{each.target}: {each.problem}", 1, each.hint)
    if not arguments.quiet and (said := outcome.summary(sys.stdout.isatty())):
        print(f"auto-iscsi: {said}")
    return outcome.status


def _progress(text: str) -> None:
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the name of an iSCSI target (iqn.…)")


def _key_or_settings(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("key", metavar="KEY", nargs="?", help="the name of an iSCSI target (iqn.…)")
    what.add_argument("--settings", action="store_true", help="list every setting there is")
    _json(parser)


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="read in this order (default: what a lookup reads)"
    )
    parser.add_argument("-s", "--strict", action="store_true", help="a warning is a problem, too")
    _json(parser)


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="default: /etc/auto.iscsi.conf")


def _reaper(parser: argparse.ArgumentParser) -> None:
    from auto_iscsi import kinds

    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would become of each, and why"
    )
    parser.add_argument(
        "--wait", metavar="TIME", type=kinds.seconds, nargs="?", const=600.0, default=0.0,
        help="go on until nothing is left that could be ended by then (default: 10m)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for a program: see auto-iscsi(8)")


VERBS = {
    "lookup": Verb(
        _lookup, "do what automount's map does for a key: log in, print the map entry",
        "Do what the map does when automount looks up KEY, and print what it prints.", _key,
    ),
    "explain": Verb(
        _explain, "say what holds for a key, which line said so, and what a lookup would do",
        "Say what holds for KEY, which line said so, and what a lookup would do now. "
        "Nothing is changed. Exit status 1: a lookup would refuse it.", _key_or_settings,
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
    "reap": Verb(
        _reap, "end the sessions that nobody needs any more",
        "End the sessions that a lookup opened, that nobody uses, and whose lease and idle time "
        "are over. Exit status 1: one that was to end did not.", _reaper,
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
