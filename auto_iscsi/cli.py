"""The administrator's program: `auto-iscsi [--root DIR] VERB …`: arguments to verb."""

from __future__ import annotations

import argparse
import os
import sys

import auto_iscsi
from auto_iscsi import errors, program
from auto_iscsi.host import Host


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return the exit status: 0, 1 expected failure, 2 usage, 3 a bug, 130 ^C."""
    arguments = _parser().parse_args(argv)
    root = os.path.abspath(arguments.root)
    if not os.path.isdir(root):
        print(errors.one_line(f"auto-iscsi: --root {root}: not a directory"), file=sys.stderr)
        return program.USAGE
    return program.main([arguments.key], Host(root))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="auto-iscsi", allow_abbrev=False,
        description="iSCSI snapshots by name, on demand, under autofs: the administrator's side.",
        epilog="See auto-iscsi(8), auto.iscsi(8) and auto.iscsi.conf(5).",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=auto_iscsi.__version__)
    parser.add_argument(
        "--root", metavar="DIR", default="/", help="the machine is laid out below DIR (default: /)"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    looked_up = verbs.add_parser(
        "lookup", help="do what automount's map does for a key: log in, print the map entry",
        description="Do what the map does when automount looks up KEY, and print what it prints.",
    )  # fmt: skip
    looked_up.add_argument("key", metavar="KEY", help="the name of an iSCSI target (iqn.…)")
    return parser
