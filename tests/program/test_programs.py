"""The two programs on the command line: help, usage errors, expected failures."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import auto_iscsi

DIST = Path(__file__).resolve().parents[2] / "dist"


def run(program: str, *arguments: str) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr."""
    command = [str(DIST / program), *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_version_is_that_of_the_package() -> None:
    status, out, err = run("auto-iscsi", "--version")
    assert (status, err) == (0, "")
    assert out.split()[-1] == auto_iscsi.__version__


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("lookup", "--help")])
def test_help_goes_to_stdout(arguments: tuple[str, ...]) -> None:
    status, out, err = run("auto-iscsi", *arguments)
    assert (status, err) == (0, "")
    assert out.startswith("usage: auto-iscsi")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--root",),
        ("--root", "/"),
        ("frobnicate",),
        ("lookup",),
        ("--rooot", "/", "lookup", "x"),
        ("lookup", "iqn.2001-05.com.example:a", "iqn.2001-05.com.example:b"),
        ("--root", "/no/such/folder", "lookup", "iqn.2001-05.com.example:a"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    status, out, err = run("auto-iscsi", *arguments)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("auto-iscsi")


@pytest.mark.parametrize("program", ["auto-iscsi", "standalone/auto-iscsi"])
def test_an_interrupt_while_modules_are_loaded_prints_nothing(program: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-BIv", DIST / program, "--version"],  # -v: report each module
        bufsize=0,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    # So that the program is never more than a page ahead of us (F_SETPIPE_SZ, linux/fcntl.h).
    fcntl.fcntl(process.stderr, 1031, 4096)
    # Python 3.9 reports modules from a zip without quotes.
    next(line for line in process.stderr if line.replace(b"'", b"")[:18] == b"import auto_iscsi ")
    process.send_signal(signal.SIGINT)
    assert b"Traceback" not in process.communicate()[1]
    assert process.returncode == 130


@pytest.mark.parametrize("arguments", [(), ("iqn.2001-05.com.example:a", "--root")])
def test_the_map_takes_one_argument(arguments: tuple[str, ...]) -> None:
    status, out, err = run("auto.iscsi", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("auto.iscsi: ") and err.count("\n") == 1


@pytest.mark.parametrize("key", ["--help", "--version", "-h", "--root=/", "lookup", "", "-"])
def test_the_map_takes_its_argument_for_a_key_whatever_it_looks_like(key: str) -> None:
    status, out, err = run("auto.iscsi", key)
    assert (status, out) == (1, "")
    assert "not an iSCSI target name" in err and err.count("\n") == 1


@pytest.mark.parametrize("program", ["auto.iscsi", "auto-iscsi lookup"])
def test_an_expected_failure_is_one_line_and_status_1(program: str) -> None:
    name, *verb = program.split()
    status, out, err = run(name, *verb, "iqn.2001-05.com.example")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1 and "iqn.2001-05.com.example" in err


def test_the_environment_and_folder_of_a_stranger_change_nothing(tmp_path: Path) -> None:
    # The programs run as root: a module that a caller put in their way must not be imported.
    for name in ("os", "sh", "configobj", "auto_iscsi", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)\n")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "PYTHONINSPECT": "1"}
    done = subprocess.run(
        [str(DIST / "auto.iscsi"), "foo"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "not an iSCSI target name" in done.stderr
