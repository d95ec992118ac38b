"""The example driver of docs/san-driver.md passes `auto-iscsi san test`, and bad ones fail."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree.tree import make_tree

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "dist/auto-iscsi"
LONGEST = 60  # lines of the example
CONFIGURATION = """\
run_as = nobody
volumes = vol*
present = {present}
secret_file = {folder}/secret
[options]
folder = {folder}/array
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user nobody can reach, with the example's array and its configuration."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-", dir="/var/tmp") as name:
        made = Path(name)
        snapshots = {f"/array/vol/vol-{number}": "x" for number in range(3)}
        make_tree(made, {**snapshots, "/secret": "open sesame\n", "/driver": example()})
        (made / "secret").chmod(0o600)
        for path in (made, made / "array", made / "array/vol"):
            path.chmod(0o777)
        configure(made)
        yield made


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/san-driver.md").read_text(), re.S)
    assert len(code.splitlines()) <= LONGEST
    return str(code)


def configure(folder: Path, present: str = "yes") -> None:
    text = CONFIGURATION.format(folder=folder, present=present)
    make_tree(folder, {"/test.conf": text})
    (folder / "test.conf").chmod(0o600)
    (folder / "driver").chmod(0o755)


def suite(folder: Path, status: int) -> dict[str, tuple[str, str]]:
    """Run the suite; return the outcome and the text of each check."""
    files = (f"{folder}/driver", "--config", f"{folder}/test.conf")
    command = [str(PROGRAM), "san", "test", *files, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    checks = json.loads(done.stdout)["checks"]
    return {check["name"]: (check["outcome"], check["text"]) for check in checks}


def test_the_example_of_the_document_passes(folder: Path) -> None:
    checks = suite(folder, 0)
    assert {outcome for outcome, _ in checks.values()} == {"ok"}, checks
    assert not list(folder.glob("array/vol/*.lease"))


def test_without_present_nothing_is_changed(folder: Path) -> None:
    configure(folder, "no")
    outcomes = suite(folder, 0)
    assert outcomes["list"][0] == "ok" and outcomes["present-twice"][0] == "skipped"


#: By the check that must find it: what is wrong with a driver, as a change of the example.
FAULTS = {
    "info": ('"target_model": "own"', '"target_model": "other"'),
    "list": ('"created_from": "none"', '"created_from": "guess"'),
    "list-of-volume": ("volume in (None, file.parent.name)", "True"),
    "garbage": ('fail("unsupported", "another verb or protocol")', "pass"),
    "hostile-texts": ('fail("invalid", f"{name} is malformed")', "pass"),
    "present-twice": ('"made": ["mark"] if ours else []', '"made": []'),
    "what-is-gone": ('fail("not_found", "there is no such snapshot")', 'fail("denied", "no")'),
    "other-leases": ('or mark.read_text() != request["lease"]', ""),
    "revoke-unknown": ("if not gone else None", 'if request["made"] else None'),
    "deadline": (
        "    draft.unlink()",
        "    draft.unlink()\n    if request['deadline_s'] < 2:\n"
        "        import signal\n        signal.signal(15, signal.SIG_IGN)\n"
        "        __import__('time').sleep(60)",
    ),
    "secrets": (
        "    array = Path(",
        "    sys.stderr.write(os.read(4, 99).decode())\n    array = Path(",
    ),
}


@pytest.mark.parametrize("check", FAULTS)
def test_a_fault_is_found(folder: Path, check: str) -> None:
    code, (right, wrong) = example(), FAULTS[check]
    assert right.replace("    ", "") in code.replace("    ", "")
    make_tree(folder, {"/driver": code.replace(right, wrong)})
    assert suite(folder, 1)[check][0] == "failed"
