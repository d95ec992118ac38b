"""Run the administrator's command: auto-iscsi [--root DIR] VERB …

Each verb is one function here, which imports the modules that the verb needs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from typing import Callable

import auto_iscsi
from auto_iscsi import errors, wording
from auto_iscsi.admin import output, verbs
from auto_iscsi.machine.host import Host
from auto_iscsi.map import program


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return the exit status.

    0: success; 1: an expected failure, or problems were found; 2: wrong usage; 3: a bug; 130: ^C.
    """
    for stream in (sys.stdout, sys.stderr):  # what files are called can be in any language
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    arguments = parser.parse_args(argv)
    root = os.path.abspath(arguments.root)
    if not os.path.isdir(root):
        return _fail(f"--root {root}: not a directory", program.USAGE)
    try:
        status = VERBS[arguments.verb](arguments, Host(root))
        sys.stdout.flush()
        return status
    except errors.Reported as failure:
        return _fail(failure.reason, 1, failure.hint)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, for instance head(1), has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        traceback.print_exc()
        versions = f"auto-iscsi {auto_iscsi.__version__}, Python {platform.python_version()}"
        return _fail(f"a bug, please report it: {error!r} ({versions})", program.BUG)


def _lookup(arguments: argparse.Namespace, host: Host) -> int:
    return program.main([arguments.key], host)


def _explain(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import codes, explain, settings_report
    from auto_iscsi.config import san_files

    paint = output.paint_for(sys.stdout)
    if arguments.settings:
        return _show(settings_report.list_settings(paint), arguments.json)
    if arguments.codes:
        return _show(codes.list_codes(paint), arguments.json)
    if arguments.key in codes.table():
        return _show(codes.report(arguments.key), arguments.json)
    if arguments.key in san_files.list_names(host):
        return _show(settings_report.report_san(host, arguments.key, paint), arguments.json)
    return _show(explain.report(host, arguments.key, paint), arguments.json)


def _check(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import check

    paint = output.paint_for(sys.stdout)
    return _show(check.report(host, arguments.files, arguments.strict, paint), arguments.json)


def _edit(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import edit

    return edit.edit(host, arguments.file or "", print, _ask, output.paint_for(sys.stdout))


def _status(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import metrics, status

    if arguments.metrics:
        return _show(metrics.report(host), False)
    return _show(status.report(host, output.paint_for(sys.stdout)), arguments.json)


def _list(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import list_report

    paint = output.paint_for(sys.stdout)
    options = list_report.Options(
        arguments.subject, arguments.since, arguments.until, arguments.offline
    )
    with _progress() as say:
        say("looking for snapshots" if options.offline else "asking the portals and SANs")
        report = list_report.report(host, options, paint)
    return _show(report, arguments.json)


def _versions(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import versions_report

    options = versions_report.Options(
        arguments.place,
        arguments.since,
        arguments.until,
        arguments.jobs,
        arguments.hash,
        arguments.keep,
        arguments.all,
    )
    paint = output.paint_for(sys.stdout)
    with _progress() as say:
        report = versions_report.report(host, options, paint, say)
    return _show(report, arguments.json)


def _cat(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import versions_report
    from auto_iscsi.restore import copying
    from auto_iscsi.san import when

    volume, text, path = when.split_place(arguments.place)
    with _progress() as say:
        say(f"looking for the snapshots of {volume}")
        entry = when.snapshot(host, volume, text)
        if not arguments.json:
            copying.write_file(host, entry, path, sys.stdout.fileno(), say)
            return 0
        version, content = copying.read_file(host, entry, path, say)
    return _show(versions_report.report_content(entry, version, content), as_json=True)


def _diff(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import versions_report
    from auto_iscsi.restore import differences

    try:
        with _progress() as say:
            compared = differences.compare(
                host, arguments.place, arguments.other, arguments.newer, say
            )
    except errors.Reported as failure:  # as diff(1) has it: 1 means that they differ
        return _fail(failure.reason, 2, failure.hint)
    report = versions_report.report_differences(compared)
    if arguments.json:
        return _show(report, as_json=True)
    _page(report.lines)
    return report.status


def _restore(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import restore_report
    from auto_iscsi.restore import restoring

    options = restoring.Options(
        arguments.destination, arguments.overwrite, not arguments.no_backup, arguments.dry_run
    )
    paint = output.paint_for(sys.stdout)
    with _progress() as say:
        report = restore_report.report(host, arguments.place, options, paint, say)
    return _show(report, arguments.json)


def _san(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import san_report

    paint = output.paint_for(sys.stdout)
    if arguments.action == "test":
        report = san_report.test(host, arguments.driver, arguments.config, paint)
    elif arguments.action == "list":
        report = san_report.list_snapshots(host, arguments.san, paint)
    elif arguments.action == "present":
        report = san_report.present(host, arguments.san, arguments.snapshot, paint)
    elif arguments.action == "revoke":
        report = san_report.revoke(host, arguments.san, arguments.snapshot, paint)
    else:
        finished = san_report.finish(host) if arguments.finish else []
        for each in (each for each in finished if each.problem):
            _fail(each.problem, 1, each.hint)
        report = san_report.journal(host, finished, paint)
        if arguments.quiet:
            return report.status
    return _show(report, arguments.json)


def _doctor(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import doctor

    paint = output.paint_for(sys.stdout)
    return _show(doctor.report(host, paint, arguments.san), arguments.json)


def _reap(arguments: argparse.Namespace, host: Host) -> int:
    from auto_iscsi.admin import reap_report
    from auto_iscsi.reaper import reaper

    if arguments.dry_run:
        return _show(reap_report.report(host, output.paint_for(sys.stdout)), False)
    with _progress() as say:
        outcome = reaper.reap(host, say, arguments.wait, not arguments.no_san, arguments.now)
    for note in (note for target in outcome.ended for note in target.notes):
        _fail(note, 0)
    for session in outcome.problems:
        _fail(f"{session.target}: {session.problem}", 1, session.hint)
    for each in outcome.revoked:
        if each.problem:
            _fail(each.problem, 1, each.hint)
        elif not arguments.quiet:
            print(f"auto-iscsi: revoked {wording.one_line(each.lease.name)}")
    if arguments.now and not arguments.quiet:  # who asks for the end of all wants to know why not
        for target, reason in dict.fromkeys((each.target, each.reason) for each in outcome.kept):
            print(f"auto-iscsi: kept {target}: {wording.printable(reason)}")
    if not arguments.quiet and (summary := outcome.summary(sys.stdout.isatty())):
        print(f"auto-iscsi: {summary}")
    return outcome.status


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Yield what overwrites the terminal's current line; without a terminal, it does nothing."""
    # None: the command was started without a stderr (2>&-).
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    is_clear = True

    def say(text: str) -> None:
        nonlocal is_clear
        if is_clear and not text:  # something else may have been printed on the line
            return
        is_clear = not text
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        shown = wording.printable(text)[: width - 1]
        print(f"\r\033[K{shown}", end="", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        say("")


VERBS = {
    "lookup": _lookup,
    "explain": _explain,
    "check": _check,
    "edit": _edit,
    "status": _status,
    "list": _list,
    "versions": _versions,
    "cat": _cat,
    "diff": _diff,
    "restore": _restore,
    "san": _san,
    "reap": _reap,
    "doctor": _doctor,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="auto-iscsi",
        allow_abbrev=False,
        description="Administer on-demand iSCSI mounts.",
        epilog="See auto-iscsi(8), auto.iscsi(8) and auto.iscsi.conf(5).",
    )
    version = f"auto-iscsi {auto_iscsi.__version__}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument(
        "--root", metavar="DIR", default="/", help="use the files below DIR (default: /)"
    )
    subparsers = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    for name, verb in verbs.VERBS.items():
        subparser = subparsers.add_parser(
            name, help=verb.help, description=verb.description, allow_abbrev=False
        )
        verb.arguments(subparser)
    return parser


def _show(report: output.Report, as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps(report.data, indent=2))
    else:
        print("\n".join(report.lines))
    return report.status


def _page(lines: list[str]) -> None:
    """Print lines; on a terminal, through the pager that MANPAGER or PAGER names."""
    if lines and sys.stdout.isatty():
        import pydoc

        pydoc.pager("\n".join([*lines, ""]))
    elif lines:
        print("\n".join(lines))


def _ask(question: str) -> str:
    """Return the answer that a person types; "x" (exit) when the input has ended."""
    try:
        return input(question)
    except EOFError:
        print()
        return "x"


def _fail(reason: str, status: int, hint: str = "") -> int:
    print(f"auto-iscsi: {wording.one_line(reason)}", file=sys.stderr)
    if hint:
        print(f"  to do: {wording.one_line(hint)}", file=sys.stderr)
    return status
