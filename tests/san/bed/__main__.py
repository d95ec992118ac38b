"""What can be asked of the bed from a command line?

python3 -m tests.san.bed build [--deb FILE]     make the image and the saved states
python3 -m tests.san.bed demo --deb FILE        show the job
python3 -m tests.san.bed shell [--deb FILE]     a root shell in the guest
python3 -m tests.san.bed autopkgtest --deb FILE debian/tests, as Debian runs them
python3 -m tests.san.bed record-sysfs DIR       what tests without a machine read
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
        "demo": "show the job",
        "shell": "a root shell in the guest",
        "autopkgtest": "debian/tests, as Debian runs them",
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
        if name == "autopkgtest":
            verb.add_argument("arguments", nargs="*", help="of autopkgtest, after --")
        if name == "record-sysfs":
            verb.add_argument("directory", type=Path, metavar="DIR")
    return top


def build(deb: Path | None, suite: str | None) -> int:
    """Make all that can be made before the first test."""
    if deb:
        layers.installed(deb, suite)
    else:
        layers.booted(suite)
    return 0


def carry_out(wanted: argparse.Namespace) -> int:
    """Carry out what was asked for."""
    if wanted.verb == "clean":
        cache.clean()
        return 0
    records = wanted.verb == "record-sysfs"
    if missing := requirements.missing(filesystems=records):
        raise progress.Failed("the VM test bed needs " + ", ".join(missing))
    if wanted.verb == "build":
        return build(wanted.deb, wanted.suite)
    if wanted.verb == "demo":
        return demo.run(wanted.deb, wanted.suite, TREE)
    if wanted.verb == "autopkgtest":
        return adt.run(wanted.deb, wanted.suite, TREE, wanted.arguments)
    if wanted.verb == "shell":
        return shell.run(wanted.deb, wanted.suite)
    return recording.run(wanted.directory, wanted.suite)


def main() -> int:
    """Carry out the command line; 1 for what can be expected to go wrong."""
    # So that the machine and its folder are taken away on SIGTERM as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = parser().parse_args()
    try:
        return carry_out(wanted)
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
