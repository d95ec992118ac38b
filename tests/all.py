"""Run every part of the tests, and report each of them: `make test`.

    python3 tests/all.py PACKAGE [pytest's arguments]

PACKAGE is the .deb that `make deb` builds. A part that fails does not stop the parts after it: only
those that need what it should have made are left out. At the end, each part has one line, and the
tests that took longest are listed; the exit status is 1 if anything failed, 130 after Ctrl-C.

The parts run one after the other, because each uses all processors. This script has nothing but the
standard library: it runs before tests/prepare has installed anything.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RUN = ("tests/prepare", "run", "python3")
DISK = 4  #: GB: two images with their saved states, virtual environments, what the tests write
NO_TESTS = 5  #: pytest's exit status when it has selected no test
LONGEST = 10  #: tests that are listed at the end
PATIENCE = 60.0  #: seconds that a part gets to end its virtual machines after Ctrl-C


class Part(NamedTuple):
    """A part of the tests: commands that run one after the other, until one fails."""

    name: str
    does: str  #: printed when the part starts
    commands: Sequence[Sequence[str]]
    results: str = ""  #: the last command's option for its results (JUnit XML); "{}": their folder
    needs: Sequence[str] = ()  #: the parts without whose success this one cannot run
    beside: Sequence[Sequence[str]] = ()  #: commands that then run beside the parts after it


class Outcome(NamedTuple):
    """What came of a part. A part that fails without a failed test counts as one failure."""

    name: str
    status: int  #: 0, or the exit status of the command that failed
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""
    tests: Sequence[tuple[float, str]] = ()  #: seconds and name of each test


def pytest_part(name: str, does: str, *words: str, needs: Sequence[str] = ()) -> Part:
    """Return the part that runs the tests of a folder."""
    # The folder comes first: its conftest.py defines options that `words` can have.
    command = (*RUN, "-m", "pytest", f"tests/{name}", *words)
    return Part(name, does, (command,), "--junitxml={}/results.xml", ("prepare", *needs))


def list_parts(package: str) -> list[Part]:
    """Return the parts of `make test`, in order."""
    # Without a cache, the images take minutes, most of them for downloads and single threads.
    guest = (*RUN, "-m", "tests.san.bed", "build")
    bed = (*guest, "--deb", package)
    # Several tests at a time: more where they mostly wait. The Makefile has the same.
    busy = ("-n", "2", "--dist", "worksteal")
    waiting = ("-n", "4", "--dist", "worksteal")
    make = ("make", "--no-print-directory", "build", "standalone", "deb", "rpm")
    # The long tests alone would take longer than all others (make test-san runs them).
    place = "the virtual machine, Debian 12, without the long tests"
    san = pytest_part("san", place, *busy, "-m", "not long", needs=["build"])
    trixie = pytest_part("san", "", *busy, "--bed-suite", "trixie", "-m", "core")
    return [
        Part(
            "prepare",
            "Debian packages and the tests' Python",
            (("tests/prepare", "test"),),
            beside=(guest, (*guest, "--suite", "trixie")),
        ),
        Part("build", "the programs and the packages, in dist/", (make,)),
        pytest_part("lint", "the code without running it", *busy),
        pytest_part("unit", "one module at a time", *busy),
        pytest_part("program", "what was built", *waiting, needs=["build"]),
        pytest_part("tree", "lookup and reaper on a host that is a folder", *waiting),
        pytest_part("automount", "the real automount", *busy, needs=["build"]),
        Part(
            "matrix",
            "the oldest and the newest Python and libraries",
            ((*RUN, "tests/matrix.py"),),
            "--results={}",
            ("prepare",),
        ),
        san._replace(commands=(bed, *san.commands)),
        trixie._replace(
            name="san-trixie",
            does="its core tests, Debian 13",
            commands=((*bed, "--suite", "trixie"), *trixie.commands),
            needs=("prepare", "build"),
        ),
    ]


def announce() -> None:
    """Say what `make test` will take: time, disk, packages, root, network."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("BED_CACHE") or home / "auto-iscsi")
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free / 1e9
    missing = subprocess.run(
        ["tests/prepare", "missing", "test"], cwd=ROOT, text=True, stdout=subprocess.PIPE
    ).stdout.split()
    say(
        "make test runs every test but the long ones of tests/san (make test-san). It needs",
        f"  time: up to an hour on 2 idle processors; this machine has {os.cpu_count()}",
        f"  disk: up to {DISK} GB, most of it in {cache}; {free:.0f} GB are free",
        f"  Debian packages: {'installs ' + ' '.join(missing) if missing else 'all installed'}",
        "  root: " + ("this is root" if os.geteuid() == 0 else "sudo can ask for your password"),
        "  network: package mirrors, for what is not in that folder yet",
    )
    if free < DISK:
        say(f"  WARNING: {free:.1f} GB can be too little disk space")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP has come. Unlike Ctrl-C in a terminal, it came to this process alone."""


def terminate(number: int, _: object) -> None:
    raise Terminated


def run_all(parts: Sequence[Part], arguments: Sequence[str]) -> int:
    """Run the parts, print a line for each, and return the exit status."""
    began = time.monotonic()
    outcomes: list[Outcome] = []
    beside: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    # A shell ignores it for what it starts with &, and so would the parts, which end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for place, part in enumerate(parts, 1):
            broken = {outcome.name for outcome in outcomes if outcome.status}
            if missing := [name for name in part.needs if name in broken]:
                outcomes.append(Outcome(part.name, 1, note=f"not run: {missing[0]} failed"))
                continue
            say("", f"== {place}/{len(parts)} {part.name}: {part.does}")
            outcomes.append(run(part, arguments))
            if part.beside and not outcomes[-1].status:
                beside.append(begin(part.beside))
    except KeyboardInterrupt:
        report(outcomes, time.monotonic() - began)
        say(f"interrupted in {parts[len(outcomes)].name}")
        return 128 + signal.SIGINT
    finally:
        for process in beside:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            end(process)
    report(outcomes, time.monotonic() - began)
    if not any(outcome.passed or outcome.failed for outcome in outcomes):
        say("no test ran" + (f": none matches {' '.join(arguments)}" if arguments else ""))
        return 1
    return 1 if any(outcome.status for outcome in outcomes) else 0


def run(part: Part, arguments: Sequence[str]) -> Outcome:
    """Run a part, and count its tests."""
    began = time.monotonic()
    status = 0
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-test-") as folder:
        for command in part.commands:
            words = list(command)
            if part.results and command is part.commands[-1]:
                words += [*arguments, part.results.format(folder)]
            status = start(words)
            if status:
                break
        passed, failed, skipped = counts(Path(folder))
        tests = times(Path(folder))
    note = ""
    if status == NO_TESTS and arguments:
        status, note = 0, "no test selected"
    elif status and not failed:
        failed, note = 1, f"exit status {status}"
    seconds = time.monotonic() - began
    return Outcome(part.name, status, passed, failed, skipped, seconds, note, tests)


def start(words: Sequence[str]) -> int:
    """Run a command, and return its exit status as a shell does. When interrupted, end it first."""
    try:
        child = subprocess.Popen(words, cwd=ROOT)
    except OSError as error:
        say(f"{words[0]}: {error.strerror}")
        return 127
    try:
        status = child.wait()
    except KeyboardInterrupt as error:
        if isinstance(error, Terminated):
            child.send_signal(signal.SIGINT)
        end(child)
        raise
    return status if status >= 0 else 128 - status


def begin(commands: Sequence[Sequence[str]]) -> subprocess.Popen[bytes]:
    """Begin commands, one after the other, whose results later parts only save time by.

    They are silent: what fails is tried again, and reported, by the part that needs it.
    """
    # The shell waits for a command that is told to end, because that cleans up.
    script = "trap : TERM; " + " && ".join(shlex.join(command) for command in commands)
    return subprocess.Popen(
        ["nice", "sh", "-c", script],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(child: subprocess.Popen[bytes]) -> None:
    """Wait until an interrupted command has cleaned up; end it if that takes too long."""
    for send in (child.terminate, child.kill):
        try:
            child.wait(PATIENCE)
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            send()
    child.wait()


def counts(folder: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed and were skipped, from the results in a folder."""
    total = failed = skipped = 0
    for file in folder.glob("*.xml"):
        for suite in xml.etree.ElementTree.parse(file).iter("testsuite"):
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
    return max(total - failed - skipped, 0), failed, skipped


def times(folder: Path) -> list[tuple[float, str]]:
    """Return how many seconds each test took, and its name, from the results in a folder."""
    return [
        (float(case.get("time", 0)), f"{case.get('classname', '')}::{case.get('name', '')}")
        for file in folder.glob("*.xml")
        for case in xml.etree.ElementTree.parse(file).iter("testcase")
    ]


def report(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Print one line for each part, the tests that took longest, and the total."""
    say("", f"{'part':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'time':>9}")
    for one in outcomes:
        numbers = f"{one.passed:>8}{one.failed:>8}{one.skipped:>9}{spell(one.seconds):>9}"
        say(f"{one.name:<12}{numbers}  {one.note}".rstrip())
    longest = sorted((test for one in outcomes for test in one.tests), reverse=True)[:LONGEST]
    if longest:
        say("the longest tests:", *(f"{spell(took):>9}  {name}" for took, name in longest))
    passed, failed = sum(one.passed for one in outcomes), sum(one.failed for one in outcomes)
    say(f"{passed} passed, {failed} failed in {seconds / 60:.{0 if seconds > 600 else 1}f} min")


def spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def main() -> int:
    """Run the parts that `make test` has."""
    if len(sys.argv) < 2:
        print("usage: all.py PACKAGE [pytest's arguments] (make test runs it)", file=sys.stderr)
        return 2
    announce()
    return run_all(list_parts(sys.argv[1]), sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
