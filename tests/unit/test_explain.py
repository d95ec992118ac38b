"""auto-iscsi explain: each setting and its line, and what a lookup would do. Nothing changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from auto_iscsi.admin import cli, explain, output
from auto_iscsi.config import config_files, file_cache, san_files, schema
from auto_iscsi.machine.host import Host
from auto_iscsi.map import lookup
from tests.tree.tree import Content, Link, contents, make_tree

TARGET = "iqn.2001-05.com.example:vm-beta"
PLAIN = output.Paint(False)
SESSION = "/sys/class/iscsi_session/session7"
DISK = f"{SESSION}/device/target3:0:0/3:0:0:0"
LINK = f"/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0"
RECORD = f"/etc/iscsi/nodes/{TARGET}"

LOGGED_IN: dict[str, Content] = {
    f"{SESSION}/targetname": TARGET,
    f"{SESSION}/state": "LOGGED_IN",
    f"{SESSION}/tpgt": "1",
    "/sys/class/iscsi_connection/connection7:0/persistent_address": "10.0.0.1",
    "/sys/class/iscsi_connection/connection7:0/persistent_port": "3260",
    f"{DISK}/type": "0",
    f"{DISK}/block/sdb/dev": "8:16",
    f"{DISK}/block/sdb/sdb1/partition": "1",
    f"{DISK}/block/sdb/sdb1/dev": "8:17",
    f"{DISK}/block/sdb/sdb2/partition": "2",
    f"{DISK}/block/sdb/sdb2/dev": "8:18",
    f"{LINK}-part1": Link("../../sdb1"),
    f"{LINK}-part2": Link("../../sdb2"),
    f"{LINK}": Link("../../sdb"),
    "/run/udev/data/b8:16": f"S:{LINK[5:]}\n",
    "/run": None,
    "/dev/sdb": "",
    "/dev/sdb1": "",
    "/dev/sdb2": "",
    "/dev/sdc1": "",
}


def explained(root: Path, files: dict[str, Content], key: str = TARGET) -> output.Report:
    """Return the explanation on a machine with these files, and check that none has changed."""
    make_tree(root, files)
    before = contents(root)
    report = explain.report(Host(str(root)), key, PLAIN)
    assert contents(root) == before
    return report


def steps(report: output.Report) -> dict[str, str]:
    """Return the text of each step by its label; of several with one label, the last."""
    return {step["step"]: step["says"] for step in report.data["steps"]}


def test_each_setting_is_shown_with_its_value_and_the_line_that_set_it(tmp_path: Path) -> None:
    files: dict[str, Content] = {
        config_files.FILE: "# c\noptions = ro, nosuid\n\n[*-BETA]\n    fstype = xfs\n",
        f"{config_files.FOLDER}/a.conf": "options = ro\n",
    }
    lines = [line.split() for line in explained(tmp_path, files).lines]
    assert ["options", "=", "ro", f"{config_files.FOLDER}/a.conf:1"] in lines
    assert ["fstype", "=", "xfs", f"{config_files.FILE}:5", "[*-BETA]"] in lines
    assert ["login_timeout", "=", "10s", "built", "in"] in lines
    assert [line[0] for line in lines if line[1:2] == ["="]] == list(schema.TABLE)


def test_for_a_session_that_is_up_the_entry_is_that_of_the_lookup(tmp_path: Path) -> None:
    report = explained(tmp_path, {**LOGGED_IN, config_files.FILE: "partition = 2\n"})
    assert report.status == 0 and report.data["outcome"] == "answer"
    assert steps(report)["session"] == "7 through 10.0.0.1:3260, LOGGED_IN"
    assert steps(report)["disk"] == "sdb, LUN 0, session 7"
    assert steps(report)["partitions"] == "1 (sdb1), 2 (sdb2)"
    assert (
        f"sdb2: lun = 0 (built in), partition = 2 ({config_files.FILE}:1)"
        in steps(report)["chosen"]
    )
    assert steps(report)["lease"] == "none"
    assert report.data["entry"] == lookup.lookup(Host(str(tmp_path)), TARGET) == report.lines[-1]
    after = explain.report(Host(str(tmp_path)), TARGET, PLAIN)
    assert steps(after)["lease"].startswith("session 7, not ours, looked up 0 s ago")


@pytest.mark.parametrize("text", ["", "device = kernel", "partition = none", "options = rw"])
def test_with_any_configuration_the_entry_is_that_of_the_lookup(tmp_path: Path, text: str) -> None:
    report = explained(tmp_path, {**LOGGED_IN, config_files.FILE: text})
    assert report.data["entry"] == lookup.lookup(Host(str(tmp_path)), TARGET)


def test_of_a_server_no_partition_is_called_selected(tmp_path: Path) -> None:
    ext4 = "E:ID_FS_TYPE=ext4\nE:ID_FS_USAGE=filesystem\n"
    database: dict[str, Content] = {
        "/proc/filesystems": "\text4\n",
        "/run/udev/data/b8:16": f"S:{LINK[5:]}\nE:ID_PART_TABLE_TYPE=gpt\n",
        "/run/udev/data/b8:17": f"S:{LINK[5:]}-part1\n{ext4}",
        "/run/udev/data/b8:18": f"S:{LINK[5:]}-part2\n{ext4}",
    }
    for partition, is_selected in (("all", True), ("system", False)):
        text = f"fstype = auto\npartition = {partition}\n"
        report = explained(tmp_path / partition, {**LOGGED_IN, **database, config_files.FILE: text})
        assert ("selected" in steps(report)) is is_selected


def test_a_record_without_a_session_means_a_login(tmp_path: Path) -> None:
    files: dict[str, Content] = {
        f"{RECORD}/10.0.0.1,3260,1/default": "node.startup = manual\n",
        f"{RECORD}/10.0.0.2,3260,1/default": "node.startup = automatic\n",
        config_files.FILE: "portals = 10.0.0.2\n",
    }
    report = explained(tmp_path, files)
    assert report.status == 0 and report.data["outcome"] == "login"
    records = [step["says"] for step in report.data["steps"] if step["step"] == "record"]
    assert records == [
        f"10.0.0.2:3260,1, startup automatic, {RECORD}/10.0.0.2,3260,1",
        f"10.0.0.1:3260,1, startup manual, {RECORD}/10.0.0.1,3260,1",
    ]


def test_portals_without_a_record_mean_a_discovery(tmp_path: Path) -> None:
    report = explained(tmp_path, {config_files.FILE: "portals = 10.0.0.1, [fd00::1]\n"})
    assert report.data["outcome"] == "discover"
    assert "10.0.0.1:3260, [fd00::1]:3260" in steps(report)["record"]


def test_a_lookup_would_wait_for_a_missing_disk(tmp_path: Path) -> None:
    report = explained(tmp_path, {**LOGGED_IN, config_files.FILE: "lun = 3\n"})
    assert report.data["outcome"] == "rescan"
    assert steps(report)["chosen"] == f"nothing yet: no LUN 3, partition 1 ({config_files.FILE}:1)"


def test_a_link_to_another_disk_is_reported(tmp_path: Path) -> None:
    report = explained(tmp_path, {**LOGGED_IN, f"{LINK}-part1": Link("../../sdc1")})
    assert report.data["outcome"] == "rescan"
    assert steps(report)["chosen"] == f"nothing yet: {LINK}-part1 leads to sdc1"


def test_a_mount_whose_session_is_down_still_gets_its_entry(tmp_path: Path) -> None:
    files = {
        **LOGGED_IN,
        f"{SESSION}/state": "FAILED",
        "/proc/self/mountinfo": "1 2 8:17 / /iscsiauto/x ro - ext3 /dev/sdb1 ro\n",
    }
    report = explained(tmp_path, files)
    assert report.data["outcome"] == "mounted" and "sdb1" in steps(report)["chosen"]


@pytest.mark.parametrize(
    ("files", "key", "code", "reason"),
    [
        ({}, "foo", "bad-key", "not an iSCSI target name"),
        ({}, "a\n\x1b[2J", "bad-key", "not an iSCSI target name"),
        ({}, TARGET, "no-record", "no portals are configured"),
        (
            {config_files.FILE: "[*beta]\nenabled = no"},
            TARGET,
            "disabled",
            f"{config_files.FILE}:2",
        ),
        (
            {config_files.FILE: "lun = x\n"},
            TARGET,
            "bad-configuration",
            f"{config_files.FILE}:1: lun: ",
        ),
        (
            {config_files.FILE: "lun\n"},
            TARGET,
            "bad-configuration",
            f"{config_files.FILE}:1: neither",
        ),
        (
            {**LOGGED_IN, config_files.FILE: "partition = 9\n"},
            TARGET,
            "no-partition",
            "the disk has 1, 2",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_refused_key_has_a_reason(
    tmp_path: Path, files: dict[str, Content], key: str, code: str, reason: str
) -> None:
    report = explained(tmp_path, files, key)
    assert report.status == 1 and report.data["outcome"] == "refuse"
    assert report.data["refused"]["code"] == code and reason in report.data["refused"]["reason"]
    assert any("refuses" in line and reason in line for line in report.lines)
    assert all(line.isprintable() for line in report.lines)


def test_a_snapshot_by_volume_and_time_is_its_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = f"{TARGET}-2010-05-03-04:00:01"
    make_tree(tmp_path, {f"/etc/iscsi/nodes/{snapshot}/10.0.0.1,3260,1/default": ""})

    def run(subject: str, status: int) -> str:
        assert cli.main(["--root", str(tmp_path), "explain", subject]) == status
        shown, complaints = capsys.readouterr()
        return f"{shown}{complaints}"

    assert f"{snapshot}\n" in run("vm-beta@2010-05-03", 0)
    assert "there is no snapshot of 2010-05-04" in run("vm-beta@2010-05-04", 1)
    assert "the volumes are vm-beta" in run("vm-bta@2010-05-03", 1)
    assert "auto-iscsi list VM-beta shows the keys" in run("VM-beta", 1)
    assert "expected iqn." in run("vm-bta", 1)


def test_without_root_what_any_user_can_see_is_reported() -> None:
    before = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # only root may enter the parent of tmp_path
        os.chmod(folder, 0o755)
        root = Path(folder)
        make_tree(root, {**LOGGED_IN, f"{RECORD}/10.0.0.1,3260,1/default": ""})
        make_tree(root, {config_files.FILE: "[*-with]\nwith = *-data\n"})
        (root / "run/auto-iscsi").mkdir()
        for name in ("etc/iscsi/nodes", "run/auto-iscsi"):
            os.chmod(root / name, 0)
        os.seteuid(65534 if before == 0 else before)
        try:
            visible = explain.report(Host(folder), TARGET, PLAIN)
            missing = explain.report(Host(folder), f"{TARGET}-2", PLAIN)
            with_others = explain.report(Host(folder), f"{TARGET}-with", PLAIN)
        finally:
            os.seteuid(before)
            for name in ("etc/iscsi/nodes", "run/auto-iscsi"):
                os.chmod(root / name, 0o700)
    assert visible.data["outcome"] == "answer" and visible.data["entry"]
    assert "permission denied" in steps(visible)["record"]
    assert "denied" in steps(visible)["lease"]
    assert missing.data["outcome"] == "unknown" and missing.status == 0
    assert with_others.data["outcome"] == "unknown" and with_others.status == 0


WATCHED = """
import os, sys
changes = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system", "os.kill",
           "os.mkdir", "os.rename", "os.remove", "os.chmod", "os.chown", "os.link", "os.symlink",
           "os.truncate", "os.utime", "fcntl.", "shutil.", "tempfile.")
writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def hook(event, args):
    if event.startswith(changes) or (event == "open" and (args[2] or 0) & writes):
        os._exit(99)
from auto_iscsi.admin import explain, output
from auto_iscsi.machine.host import Host
sys.addaudithook(hook)
print(explain.report(Host(sys.argv[1]), sys.argv[2], output.Paint(False)).data["outcome"])
"""


@pytest.mark.parametrize("session", [True, False])
def test_for_a_partition_by_number_no_socket_no_process_and_no_write(
    tmp_path: Path, session: bool
) -> None:
    machine = LOGGED_IN if session else {}
    make_tree(tmp_path, {**machine, config_files.FILE: "portals = 10.0.0.1\n", "/run": None})
    time.sleep(file_cache.SETTLE_TIME + 0.1)  # a lookup would then write its cache
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path), TARGET],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "answer\n" if session else "discover\n")
    assert not list((tmp_path / "run").rglob("config*"))


def test_the_json_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, {**LOGGED_IN, config_files.FILE: "lun = 0\n[*beta]\nfstype = xfs\n"})
    assert cli.main(["--root", str(tmp_path), "explain", "--json", TARGET.upper()]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["key"], data["target"], data["refused"]) == (TARGET.upper(), TARGET, None)
    assert data["settings"]["fstype"] == {
        "value": "xfs",
        "file": config_files.FILE,
        "line": 3,
        "section": "*beta",
    }
    assert data["settings"]["device"] == {
        "value": "by-path",
        "file": None,
        "line": None,
        "section": None,
    }
    assert data["outcome"] in explain.OUTCOMES and data["entry"]


def test_the_settings_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "--settings"]) == 0
    own, sans = capsys.readouterr().out.split("\n\n")
    lines = own.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(schema.TABLE)
    assert [line.split()[0] for line in sans.splitlines()[2:]] == list(san_files.TABLE)
    assert "nocheck, ro" in lines[2]
    assert cli.main(["explain", "--settings", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["udev_timeout"]["default"] == "10s" and set(data.pop(san_files.FOLDER)) == {
        *san_files.TABLE
    }
    assert set(data) == set(schema.TABLE)


@pytest.mark.parametrize(
    "arguments", [[], ["explain"], ["explain", "--settings", "x"], ["edit", "-x"]]
)
def test_a_wrong_command_line_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    assert exited.value.code == 2 and "usage: auto-iscsi" in capsys.readouterr().err
