"""A driver has a time, a user and a process group of its own, and gets no more than it needs."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi import errors
from auto_iscsi.config import san_files
from auto_iscsi.machine.host import Host
from auto_iscsi.san import driver_process, replies

INFO = (
    '{"ok":true,"name":"t","protocols":[1],"target_model":"own","needs_clone":false,'
    '"max_parallel":1,"can_create":false}'
)


class Driver:
    """A driver that is a shell script, on a machine that is a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.host = root, Host(str(root))
        root.chmod(0o755)

    def call(self, script: str, seconds: float = 20.0, **settings: Any) -> driver_process.Answer:
        path = self.root / "driver"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        defaults = {name: setting.default for name, setting in san_files.TABLE.items()}
        san = san_files.San(name="eql", file="/eql.conf", options={}, **defaults)
        san = san._replace(**{"driver": "/driver", "run_as": "root", **settings})
        return driver_process.call(self.host, san, "info", {"request_id": "1"}, seconds)


@pytest.fixture
def driver() -> Iterator[Driver]:
    if os.geteuid():
        pytest.skip("needs root, as whom drivers are started")
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        yield Driver(Path(folder))


def refused(answer: driver_process.Answer, verb: str = "present") -> tuple[str, str]:
    """Return kind and effect of the failure that an answer is."""
    with pytest.raises(errors.SanFailure) as raised:
        replies.read(answer, "eql", verb)
    assert raised.value.reason.isprintable() and raised.value.reason.isascii()
    return raised.value.kind, raised.value.effect


def test_a_reply_and_a_log(driver: Driver) -> None:
    answer = driver.call(f"cat >&2; echo '{INFO}'")
    assert replies.info(replies.read(answer, "eql", "info"), "eql").name == "t"
    request = json.loads(answer.log)
    assert (request["protocol"], request["san"], request["deadline_s"]) == (1, "eql", 20.0)
    assert request["config"]["timezone"] == "local" and "key_fd" not in request["config"]


def test_it_runs_as_its_user_with_nothing_of_ours(driver: Driver) -> None:
    secret = driver.root / "secret"
    secret.write_text("pass word\n")
    secret.chmod(0o600)
    script = """
    exec >&2
    id -u; id -G; pwd; umask; env | sort | cut -d= -f1 | tr '\\n' ' '; echo
    ls /proc/self/fd | tr '\\n' ' '; echo
    grep -h -E '^(NoNewPrivs|CapEff):' /proc/self/status
    read -r password <&4; echo "$password"
    """
    os.environ["AUTO_ISCSI_TEST_SECRET"] = "x"
    handle = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        answer = driver.call(script, run_as="nobody", secret_file="/secret")
    finally:
        os.close(handle)
        del os.environ["AUTO_ISCSI_TEST_SECRET"]
    lines = answer.log.splitlines()
    assert lines[0] != "0" and len(lines[1].split()) == 1, answer.log
    assert lines[2:4] == ["/", "0077"]
    assert set(lines[4].split()) == {"AUTO_ISCSI_ROOT", "HOME", "LC_ALL", "PATH", "PWD"}
    assert set(lines[5].split()) <= {"0", "1", "2", "3", "4"}, lines[5]
    assert "NoNewPrivs:\t1" in lines and "CapEff:\t0000000000000000" in lines
    assert lines[-1] == "pass word"


def test_a_user_who_does_not_exist(driver: Driver) -> None:
    with pytest.raises(errors.BrokenInstallation, match="user nosuch-x does not exist"):
        driver.call("echo", run_as="nosuch-x")


def test_a_program_that_does_not_start(driver: Driver) -> None:
    (driver.root / "other").write_text("#!/no/such/interpreter\n")
    (driver.root / "other").chmod(0o755)
    with pytest.raises(errors.BrokenInstallation, match="No such file"):
        driver.call("echo", driver="/other")
    with pytest.raises(errors.BadConfiguration, match="no program"):
        driver.call("echo", driver="/gone")


def test_it_is_ended_in_time_with_all_that_it_started(driver: Driver) -> None:
    child = "sleep 600 & echo $! >&2; trap 'exit 1' TERM; wait"
    for script in (child, f"trap '' TERM; {child}", "sleep 600 & echo $! >&2; exit 0"):
        began = time.monotonic()
        answer = driver.call(script, seconds=2)
        assert time.monotonic() - began < 15
        for _ in range(100):
            if not is_alive(int(answer.log.split()[0])):
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"{script}: a child goes on")
        if answer.is_late:
            assert refused(answer) == ("timeout", "unknown")
            assert refused(answer, "list") == ("timeout", "none")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_cannot_fill_the_memory(driver: Driver) -> None:
    answer = driver.call("yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
    assert answer.is_long and len(answer.reply) < 10 << 20
    assert refused(answer) == ("internal", "unknown")


GARBAGE = {
    "nothing": "exit 0",
    "nothing, and it failed": "exit 1",
    "a signal": "kill -9 $$",
    "no JSON": "echo hello",
    "two objects": f"echo '{INFO}{INFO}'",
    "no UTF-8": "printf '\\377'",
    "a list": "echo '[]'",
    "no ok": "echo '{}'",
    "ok is no bool": "echo '{\"ok\":1}'",
    "ok with status 1": f"echo '{INFO}'; exit 1",
    "error with status 0": 'echo \'{"ok":false,"error":{"code":"busy","message":"x"}}\'',
    "an error without a code": "echo '{\"ok\":false}'; exit 1",
    "a code of its own": 'echo \'{"ok":false,"error":{"code":"x","message":"x"}}\'; exit 1',
    "too deep": "head -c 100000 /dev/zero | tr '\\0' '['",
}


@pytest.mark.parametrize("case", GARBAGE)
def test_what_is_no_reply_is_internal_and_unknown(driver: Driver, case: str) -> None:
    assert refused(driver.call(GARBAGE[case])) == ("internal", "unknown")


def test_a_message_is_one_printable_line(driver: Driver) -> None:
    error = {"code": "denied", "message": "a\nb\x1b[1m\u202e", "effect": "none"}
    text = json.dumps({"ok": False, "error": error})
    assert refused(driver.call(f"cat <<'E'\n{text}\nE\nexit 1")) == ("denied", "none")


def test_a_secret_that_others_can_read_is_not_handed_over() -> None:
    if os.geteuid():
        pytest.skip("needs root, whose file it is")
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o644)
        defaults = {name: setting.default for name, setting in san_files.TABLE.items()}
        san = san_files.San(name="eql", file="/eql.conf", options={}, **defaults)
        problem = driver_process.secret_problem(Host(), san, "secret_file", file.name)
        assert problem and problem.kind == "secret" and "chmod 600" in problem.hint
        os.chmod(file.name, stat.S_IRUSR)
        assert driver_process.secret_problem(Host(), san, "secret_file", file.name) is None
