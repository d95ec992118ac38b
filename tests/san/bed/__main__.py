"""Build, show and clean the test bed from the command line.

python3 -m tests.san.bed build [--deb FILE]     make the image and the saved states
python3 -m tests.san.bed demo --deb FILE        show what auto-iscsi does
python3 -m tests.san.bed shell [--deb FILE]     open a root shell in the guest
python3 -m tests.san.bed autopkgtest --deb FILE run debian/tests as Debian runs them
python3 -m tests.san.bed record-sysfs DIR       record /sys for the tests without a machine
python3 -m tests.san.bed clean                  remove everything that is cached
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from . import adt, apt, cache, channel, demo, layers, progress, qemu, recording, requirements, shell
from .machine import CommandFailed

TREE = Path(__file__).resolve().parents[3]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python3 -m tests.san.bed")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    helps = {
        "build": "make the image and the saved states",
        "demo": "show what auto-iscsi does",
        "shell": "open a root shell in the guest",
        "autopkgtest": "run debian/tests as Debian runs them",
        "record-sysfs": "record what the guest's /sys holds",
        "clean": "remove everything that is cached",
    }
    for name, text in helps.items():
        verb = verbs.add_parser(name, help=text, description=text)
        if name != "clean":
            verb.add_argument("--suite", help="the guest's Debian suite (default: bookworm)")
        if name in ("build", "demo", "shell", "autopkgtest"):
            verb.add_argument(
                "--deb",
                type=Path,
                required=name in ("demo", "autopkgtest"),
                metavar="FILE",
                help="the package to install",
            )
        if name == "demo":
            verb.add_argument("--picture", type=Path, metavar="SVG", help="draw its end there")
        if name == "autopkgtest":
            verb.add_argument("arguments", nargs="*", help="arguments of autopkgtest, after --")
        if name == "record-sysfs":
            verb.add_argument("directory", type=Path, metavar="DIR")
    return top


def build(deb: Path | None, suite: str | None) -> int:
    """Make everything that can be made before the first test."""
    if deb:
        layers.installed(deb, suite)
    else:
        layers.booted(suite)
    return 0


def carry_out(options: argparse.Namespace) -> int:
    """Carry out a verb of the command line."""
    if options.verb == "clean":
        cache.clean()
        return 0
    records = options.verb == "record-sysfs"
    if missing := requirements.missing(filesystems=records):
        raise progress.Failed("the VM test bed needs " + ", ".join(missing))
    if options.verb == "build":
        return build(options.deb, options.suite)
    if options.verb == "demo":
        return demo.run(options.deb, options.suite, TREE, options.picture)
    if options.verb == "autopkgtest":
        return adt.run(options.deb, options.suite, TREE, options.arguments)
    if options.verb == "shell":
        return shell.run(options.deb, options.suite)
    return recording.run(options.directory, options.suite)


def main() -> int:
    """Carry out the command line; return 1 for an expected failure."""
    # So that SIGTERM, too, ends the machine and removes its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = parser().parse_args()
    try:
        return carry_out(options)
    except (
        apt.NoSources,
        progress.Failed,
        qemu.Failed,
        channel.Lost,
        channel.Refused,
        CommandFailed,
        OSError,
    ) as error:
        print(f"bed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
