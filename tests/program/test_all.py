"""What does `make test` report of its parts, and what does it leave when it is interrupted?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import all as all_parts

ROOT = Path(__file__).resolve().parents[2]
# Parts of our own; the script and pytest are the real ones.
RUN = "import sys; from tests import all; sys.exit(all.run_all([{parts}], sys.argv[1:]))"
TESTS = """\
import pytest
def test_good(): pass
def test_as_good(): pass
def test_bad(): assert False
def test_skipped(): pytest.skip("no")
"""


class Run(NamedTuple):
    """What a run printed."""

    status: int
    out: str

    def row(self, name: str) -> list[str]:
        """Return the words of a part's line in the report."""
        (line,) = re.findall(rf"^{name} .*$", self.out, re.M)
        return str(line).split()


def shell(name: str, script: str, *, needs: str = "") -> str:
    """Return the source of a part that is a shell script."""
    return f"all.Part({name!r}, 'a script', [['sh', '-c', {script!r}]], needs={needs.split()})"


def pytest_on(name: str, file: Path) -> str:
    """Return the source of a part that is a file of tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", f"--rootdir={file.parent}"]
    words = [*command, str(file)]
    return f"all.Part({name!r}, 'some tests', [{words!r}], '--junitxml={{}}/results.xml')"


def start(*parts: str, arguments: str = "") -> subprocess.Popen[str]:
    """Start the script as a shell does with &: SIGINT is ignored."""
    script = RUN.format(parts=", ".join(parts))
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments.split()],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def run(*parts: str, arguments: str = "") -> Run:
    process = start(*parts, arguments=arguments)
    out, _ = process.communicate()
    return Run(process.returncode, out)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of tests, not all of which pass."""
    path = tmp_path / "test_some.py"
    path.write_text(TESTS)
    return path


def test_make_test_has_a_part_for_each_folder_of_tests_after_those_that_it_needs() -> None:
    parts = all_parts.list_parts("dist/some.deb")
    names = [part.name for part in parts]
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= set(names) and len(names) == len(set(names))
    for number, part in enumerate(parts):
        assert set(part.needs) <= set(names[:number])


def test_each_part_has_a_line_and_a_failure_does_not_stop_the_next(file: Path) -> None:
    done = run(pytest_on("first", file), shell("second", "exit 3"), shell("third", "echo ran"))
    assert done.status == 1
    assert done.row("first")[1:4] == ["2", "1", "1"]
    assert done.row("second")[1:4] == ["0", "1", "0"] and "exit status 3" in done.out
    assert done.row("third")[1:4] == ["0", "0", "0"] and "\nran\n" in done.out
    assert re.search(r"^2 passed, 2 failed in [\d.]+ min$", done.out, re.M)
    begins = [done.out.index(f"== {n}/3 ") for n in (1, 2, 3)]
    assert begins == sorted(begins)


def test_when_all_pass_the_status_is_0(file: Path) -> None:
    done = run(pytest_on("first", file), shell("second", ":"), arguments="-k good")
    assert done.status == 0
    assert done.row("first")[1:4] == ["2", "0", "0"]


def test_the_tests_that_took_longest_are_listed(file: Path) -> None:
    file.write_text("import time\ndef test_quick(): pass\ndef test_slow(): time.sleep(1)\n")
    lines = run(pytest_on("first", file)).out.splitlines()
    listed = lines[lines.index("the longest tests:") + 1 :]
    assert [line.partition("::")[2] for line in listed[:2]] == ["test_slow", "test_quick"]
    assert listed[0].split()[:2] == ["1", "s"]


def test_a_part_whose_needs_failed_is_not_run_and_says_so() -> None:
    done = run(shell("build", "exit 2"), shell("uses", "echo ran", needs="build"))
    assert done.status == 1
    assert "uses" in done.row("uses") and "not run: build failed" in done.out
    assert "\nran\n" not in done.out


def test_a_part_in_which_k_selects_nothing_has_not_failed(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "test_other.py"
    other.write_text("def test_other(): pass\n")
    done = run(pytest_on("first", file), pytest_on("second", other), arguments="-k test_other")
    assert done.status == 0
    assert "no test selected" in " ".join(done.row("first"))
    assert done.row("second")[1:4] == ["1", "0", "0"]


def test_if_k_selects_nothing_anywhere_that_is_a_failure(file: Path) -> None:
    done = run(pytest_on("first", file), shell("second", ":"), arguments="-k test_none")
    assert done.status == 1 and "none matches -k test_none" in done.out


def test_without_arguments_a_part_without_tests_has_failed(tmp_path: Path) -> None:
    empty = tmp_path / "test_empty.py"
    empty.write_text("")
    done = run(pytest_on("first", empty), shell("second", ":"))
    assert done.status == 1 and done.row("first")[2] == "1"


def test_a_part_that_ends_without_results_has_failed() -> None:
    done = run(shell("first", "kill -9 $$"), shell("second", ":"))
    assert done.status == 1 and "exit status 137" in done.out


def test_what_runs_beside_the_parts_is_ended_with_them(file: Path, tmp_path: Path) -> None:
    begun, ended, later = tmp_path / "begun", tmp_path / "ended", tmp_path / "later"
    cleans_up = f"trap 'sleep 0.5; touch {ended}; exit 1' TERM; touch {begun}; sleep 600 & wait"
    commands = [["true"], ["sh", "-c", cleans_up], ["touch", str(later)]]
    first = f"all.Part('first', 'a script', [['true']], beside={commands!r})"
    second = shell("second", f"until test -e {begun}; do sleep 0.05; done")
    done = run(first, second, pytest_on("third", file), arguments="-k good")
    assert done.status == 0
    assert ended.exists() and not later.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_leaves_no_process_and_reports(tmp_path: Path, number: int) -> None:
    pids, test = tmp_path / "pids", tmp_path / "test_long.py"
    test.write_text(
        "import os, subprocess\n"
        "def test_long():\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    try:\n"
        f"        with open({str(pids)!r}, 'w') as stream:\n"
        "            print(os.getpid(), child.pid, file=stream)\n"
        "        child.wait()\n"
        "    finally:\n"
        "        child.kill()\n"
        "        child.wait()\n"
    )
    later = tmp_path / "later"
    parts = (shell("first", ":"), pytest_on("second", test), shell("third", f"touch {later}"))
    process = start(*parts)
    try:
        while not (pids.exists() and len(pids.read_text().split()) == 2):
            assert process.poll() is None
            time.sleep(0.05)
        # A terminal sends Ctrl-C to all; whoever cancels a job, SIGTERM to one.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, _ = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    done = Run(process.returncode, out)
    assert done.row("first")[1:4] == ["0", "0", "0"]
    assert "interrupted in second" in out and not later.exists()
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}").exists()
