"""auto-iscsi status: the report of all sessions, for a person, as JSON and for Prometheus."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from auto_iscsi.admin import cli, codes, explain, metrics, output, status
from auto_iscsi.drivers import protocol
from auto_iscsi.iscsi import claims
from auto_iscsi.san import leases
from tests.tree.machine import REPOSITORY, VOL1, VOL10, Machine
from tests.tree.recordings import BETA, host, scenes
from tests.tree.tree import Content, Link, make_tree

PLAIN = output.Paint(False)


@pytest.fixture(autouse=True)
def nodes(machine: Machine) -> None:
    """Make device nodes of disks, as files that can be opened."""
    make_tree(machine.root, {f"/dev/sd{letter}{part}": "" for letter in "bc" for part in ("", "1")})


@pytest.fixture
def used(machine: Machine) -> Machine:
    """A machine with one session of ours that is mounted, and one that somebody else opened."""
    machine.target(VOL1)
    machine.target(VOL10)
    machine.visit(VOL1)
    machine.session(VOL10, machine.plan["targets"][VOL10]["portals"][0].partition(",")[0])
    mount(machine)
    return machine


def mount(machine: Machine) -> None:
    """Mount partition 1 of the first disk."""
    line = f"40 22 8:17 / /iscsiauto/{VOL1} ro - ext3 /dev/sdb1 ro\n"
    make_tree(machine.root, {"/proc/self/mountinfo": line})


def reported(machine: Machine) -> tuple[dict[str, Any], list[str]]:
    """Return the sessions of the JSON report, by target, and the lines for a person."""
    report = status.report(machine.host, PLAIN)
    assert report.status == (0 if report.data["ok"] else 1)
    assert report.data["ok"] == (not report.data["problems"])
    return {each["target"]: each for each in report.data["sessions"]}, report.lines


def test_each_session_is_shown_with_its_uses_and_the_reaper_s_decision(used: Machine) -> None:
    by_target, lines = reported(used)
    ours, other = by_target[VOL1], by_target[VOL10]
    assert (ours["session"], ours["state"], ours["ours"]) == (1, "LOGGED_IN", True)
    assert (ours["disks"], ours["mounted"]) == (("sdb",), (f"/iscsiauto/{VOL1}",))
    assert (ours["action"], ours["when_seconds"], ours["used_seconds_ago"]) == ("keep", None, 0.0)
    assert (other["session"], other["ours"], other["mounted"]) == (2, False, ())
    assert (other["action"], other["used_seconds_ago"]) == ("keep", None)
    assert lines.index(VOL1) < lines.index(VOL10)
    mine, theirs = lines[lines.index(VOL1) + 1], lines[lines.index(VOL10) + 1]
    assert mine.split()[2:] == ["LOGGED_IN", "sdb", "in", "use", "keeps", "it:", "in", "use"]
    assert lines[lines.index(VOL1) + 2].strip() == f"mounted at /iscsiauto/{VOL1}"
    assert theirs.endswith("keeps it: not ours") and "not ours" not in mine
    make_tree(used.root, {"/proc/swaps": "Filename Type\n/dev/sdc1 partition\n"})
    _, lines = reported(used)
    assert lines[lines.index(VOL10) + 1].endswith("in use     keeps it: in use  (not ours)")
    assert lines[-1] == "2 sessions, 1 ours, 1 mounted: no problems"


def test_a_copy_of_our_mount_in_another_namespace_is_not_listed(used: Machine) -> None:
    line = "40 22 8:17 / {} ro - ext3 /dev/sdb1 ro\n"
    for pid, point in ((50, f"/iscsiauto/{VOL1}"), (51, "/mnt")):
        text = line.format(point)
        make_tree(
            used.root,
            {
                f"/proc/{pid}/mountinfo": text,
                f"/proc/{pid}/comm": "udevd\n",
                f"/proc/{pid}/ns/mnt": "",
            },
        )
    make_tree(used.root, {"/proc/self/ns/mnt": ""})
    by_target, _ = reported(used)
    assert by_target[VOL1]["mounted"] == (f"/iscsiauto/{VOL1}", "/mnt by process 51 (udevd)")


def test_an_idle_session_of_ours_says_when_it_ends(machine: Machine) -> None:
    machine.target(VOL1)
    machine.configure("idle = 10m\nlease = 1m\n")
    machine.visit(VOL1)
    by_target, lines = reported(machine)
    assert by_target[VOL1]["action"] == "keep" and 500 < by_target[VOL1]["when_seconds"] <= 600
    assert re.search(r" \d+s ago +ends it in (10|9)m: ", lines[3])


def test_a_host_without_sessions(machine: Machine) -> None:
    assert reported(machine) == ({}, ["0 sessions, 0 mounted: no problems"])


@pytest.mark.parametrize(
    ("code", "state", "mounted", "disk"),
    [
        ("session-lost", "FAILED", False, "running"),
        ("lost-in-use", "FAILED", True, "running"),
        ("disk-offline", "LOGGED_IN", True, "transport-offline"),
    ],
)
def test_each_problem_of_our_session_has_a_code(
    machine: Machine, code: str, state: str, mounted: bool, disk: str
) -> None:
    machine.target(VOL1)
    machine.visit(VOL1)
    if mounted:
        mount(machine)
    machine.state(1, state)
    make_tree(machine.root, {"/sys/block/sdb/device/state": f"{disk}\n"})
    by_target, lines = reported(machine)
    assert by_target[VOL1]["problems"] == (code,)
    assert f"      problem: {code}" in lines
    assert f"1 problem: {code} (1). auto-iscsi explain CODE" in lines[-1]
    report = status.report(machine.host, PLAIN)
    assert report.data["problems"] == [{"code": code, "target": VOL1, "session": 1}]


DEAD = (
    "40 22 0:38 / /iscsiauto rw - autofs /etc/auto.iscsi rw,pgrp=1,timeout=300\n"
    "41 40 {number} / /iscsiauto/{key} ro - ext3 /dev/{node} ro\n"
    "42 40 0:39 / /iscsiauto/{key}2 rw - autofs /etc/auto.iscsi rw,pgrp=1,timeout=300\n"
    "43 40 0:40 / /iscsiauto/{key}3 rw - nfs nas:/export rw\n"
    "44 40 8:99 / /iscsiauto/.hidden rw - ext3 /dev/sdz1 rw\n"
)


@pytest.mark.parametrize("key", [VOL1, VOL1.upper(), f"{VOL1}/p1"])
@pytest.mark.parametrize("claimed", [True, False])
def test_a_mount_whose_session_is_gone_is_lost_in_use(
    machine: Machine, key: str, claimed: bool
) -> None:
    if claimed:
        machine.target(VOL1)
        machine.visit(VOL1)
        machine.log_out(1)
    machine.files({"/proc/self/mountinfo": DEAD.format(number="8:17", key=key, node="sdb1")})
    by_target, lines = reported(machine)
    row = by_target[VOL1]
    assert (row["session"], row["problems"]) == (None, ("lost-in-use",))
    assert row["mounted"] == (f"/iscsiauto/{key}",) and len(by_target) == 1
    assert f"mounted at /iscsiauto/{key}" in " ".join(lines)
    assert "umount /iscsiauto/KEY" in " ".join(codes.report("lost-in-use").lines)
    # The reaper tidies up all the same, and the mount stays a problem.
    assert machine.reap().status == 0
    assert machine.claim(VOL1) == claims.Claim() and not machine.reap("--dry-run").status
    assert reported(machine)[0][VOL1]["problems"] == ("lost-in-use",)


def test_a_mount_whose_disk_was_deleted_is_lost_beside_its_session(used: Machine) -> None:
    number, node = "8:1", "sda1"
    text = DEAD.format(number=number, key=VOL1, node=node)
    used.files({"/proc/self/mountinfo": text, "/sys/dev/block": None})
    rows = [row for row in status.list_rows(used.host)[0] if row.target == VOL1]
    assert [(bool(row.session), row.problems) for row in rows] == [
        (False, ("lost-in-use",)),
        (True, ()),
    ]


@pytest.mark.parametrize(
    ("number", "node", "files", "lost"),
    [
        ("8:17", "sdb1", {"/sys/dev/block/8:17/dev": "8:17"}, False),
        ("0:50", "sdb1", {"/sys/class/block/sdb1/dev": "8:17"}, False),
        ("0:50", "sdb1", {}, True),
        ("0:50", "mapper/mpatha", {}, False),
        ("0:50", "mapper/mpatha", {"/dev/mapper/mpatha": Link("../dm-0")}, True),
        ("253:0", "mapper/mpatha", {"/sys/block/dm-0/dm/uuid": "mpath-1"}, True),
        (
            "253:0",
            "mapper/mpatha",
            {"/sys/block/dm-0/dm/uuid": "mpath-1", "/sys/block/dm-0/slaves/sdb/dev": "8:16"},
            False,
        ),
        ("253:0", "mapper/vg-lv", {"/sys/block/dm-0/dm/uuid": "LVM-1"}, False),
        (
            "253:0",
            "mapper/ai-sdb1-7",
            {"/sys/block/dm-0/dm/uuid": "AUTOISCSI-7", "/sys/block/dm-0/slaves/loop0/dev": "7:0"},
            True,
        ),
        (
            "253:0",
            "mapper/ai-sdb1-7",
            {"/sys/block/dm-0/dm/uuid": "AUTOISCSI-7", "/sys/block/dm-0/slaves/sdb1/dev": "8:17"},
            False,
        ),
    ],
)
def test_a_disk_is_gone_when_the_kernel_has_none_below_the_mount(
    machine: Machine, number: str, node: str, files: dict[str, Content], lost: bool
) -> None:
    machine.files({"/proc/self/mountinfo": DEAD.format(number=number, key=VOL1, node=node)})
    if number == "253:0":
        files = {**files, "/sys/dev/block/253:0": Link("../../block/dm-0")}
    machine.files(files)
    by_target, _ = reported(machine)
    assert set(by_target) == ({VOL1} if lost else set())


RECORD = "node.name = {}\niface.iscsi_ifacename = {}\nnode.session.nr_sessions = {}\n"
SECOND = "/sys/class/iscsi_session/session2"


@pytest.mark.parametrize(
    ("interface", "number", "problems"),
    [
        ("default", 1, ("duplicate-session",)),
        ("default", 2, ()),
        ("eth1", 1, ()),
    ],
)
def test_two_sessions_through_one_portal_are_a_problem_unless_something_asks_for_them(
    machine: Machine, interface: str, number: int, problems: tuple[str, ...]
) -> None:
    portal = machine.target(VOL1)
    machine.visit(VOL1)
    machine.session(VOL1, portal)
    machine.files({f"{SECOND}/ifacename": f"{interface}\n"})
    machine.record(VOL1, portal, RECORD.format(VOL1, "default", number))
    rows, _ = status.list_rows(machine.host)
    assert [row.problems for row in rows if row.ours] == [problems]


@pytest.mark.parametrize(("number", "problems"), [(1, ("duplicate-session",)), (2, ())])
def test_without_a_record_iscsid_conf_says_how_many_sessions_there_are_to_be(
    machine: Machine, number: int, problems: tuple[str, ...]
) -> None:
    portal = machine.target(VOL1)
    machine.visit(VOL1)
    machine.session(VOL1, portal)
    shutil.rmtree(machine.folder(VOL1, portal))
    machine.files({"/etc/iscsi/iscsid.conf": f"node.session.nr_sessions = {number}\n"})
    rows, _ = status.list_rows(machine.host)
    assert [row.problems for row in rows if row.ours] == [problems]


def test_a_session_without_a_disk_becomes_a_problem_after_a_while(machine: Machine) -> None:
    machine.target(VOL1)
    machine.visit(VOL1)
    kernel_disk = machine.root / "sys/class/iscsi_session/session1/device/target2:0:0"
    (kernel_disk / "2:0:0:0/type").write_text("5\n")
    assert reported(machine)[0][VOL1]["problems"] == ()
    older(machine, 120)
    assert reported(machine)[0][VOL1]["problems"] == ("no-disk",)


def test_a_session_that_should_have_ended_long_ago_means_a_late_reaper(
    machine: Machine,
) -> None:
    machine.target(VOL1)
    machine.visit(VOL1)
    older(machine, 1800)
    by_target, lines = reported(machine)
    assert (by_target[VOL1]["action"], by_target[VOL1]["problems"]) == ("end", ())
    assert "ends it: idle for" in lines[3]
    older(machine, 5000)
    assert reported(machine)[0][VOL1]["problems"] == ("reaper-late",)


def older(machine: Machine, seconds: float) -> None:
    """Move the last lookup of the target this far into the past."""
    claim = machine.claim(VOL1)
    when = claims.now() - seconds  # before the boot, on a machine that has just been started
    claims.write(machine.host, VOL1, claim._replace(looked_up=when, used=when))


def test_a_failed_session_of_somebody_else_is_no_problem(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.session(VOL1, portal, state="FAILED")
    by_target, _ = reported(machine)
    assert (by_target[VOL1]["state"], by_target[VOL1]["problems"]) == ("FAILED", ())


def test_with_a_broken_configuration_the_rest_is_reported(used: Machine) -> None:
    used.configure("lun\n")
    by_target, lines = reported(used)
    assert by_target[VOL1]["mounted"] == (f"/iscsiauto/{VOL1}",) and by_target[VOL1]["ours"] is None
    assert by_target[VOL1]["problems"] == ("bad-configuration",)
    (missing,) = [line for line in lines if line.startswith("Some information is missing")]
    assert "auto.iscsi.conf:1" in missing


def test_a_thousand_sessions_are_reported(machine: Machine) -> None:
    files: dict[str, Content] = {}
    for sid in range(1, 1001):
        session = f"/sys/class/iscsi_session/session{sid}"
        connection = f"/sys/class/iscsi_connection/connection{sid}:0"
        disk = f"{session}/device/target{sid}:0:0/{sid}:0:0:0"
        files.update(
            {
                f"{session}/targetname": f"{VOL1}{sid}",
                f"{session}/state": "LOGGED_IN",
                f"{session}/tpgt": "1",
                f"{connection}/persistent_address": "10.0.0.1",
                f"{connection}/persistent_port": "3260",
                f"{disk}/type": "0",
                f"{disk}/block/sd{sid}/dev": f"8:{sid}",
                f"/dev/sd{sid}": "",
            }
        )
    machine.files(files)
    report = status.report(machine.host, PLAIN)
    assert report.lines[-1].startswith("1000 sessions, 0 ours")
    assert len(report.data["sessions"]) == 1000 and report.data["ok"]


def with_overlays(machine: Machine, sessions: int, overlays: int, dmsetup: str) -> None:
    """Make sessions, of which the first ones have an overlay each, and a dmsetup."""
    files: dict[str, Content] = {"/run": None}
    for sid in range(1, sessions + 1):
        session, node = f"/sys/class/iscsi_session/session{sid}", f"dm-{sid}"
        connection = f"/sys/class/iscsi_connection/connection{sid}:0"
        disk = f"{session}/device/target{sid}:0:0/{sid}:0:0:0/block/sd{sid}"
        files |= {
            f"{session}/targetname": f"{VOL1}{sid}",
            f"{session}/state": "LOGGED_IN",
            f"{session}/tpgt": "1",
            f"{connection}/persistent_address": "10.0.0.1",
            f"{connection}/persistent_port": "3260",
            f"{disk}/dev": f"8:{sid}",
            f"{disk.rpartition('/block/')[0]}/type": "0",
            f"/dev/sd{sid}": "",
        }
        if sid <= overlays:
            files |= {
                f"/sys/block/sd{sid}/holders/{node}/x": "",
                f"/sys/block/{node}/dm/uuid": f"AUTOISCSI-ai-{sid}",
                f"/sys/block/{node}/dm/name": f"ai-{sid}",
                f"/sys/block/{node}/slaves/sd{sid}/dev": f"8:{sid}",
                f"/sys/block/{node}/slaves/loop{sid}/dev": f"7:{sid}",
            }
    machine.files(files)
    program = machine.root / "usr/sbin/dmsetup"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\necho "$@" >>$AUTO_ISCSI_ROOT/run/calls\n{dmsetup}\n')
    program.chmod(0o755)


def test_the_stores_of_many_overlays_are_asked_for_at_once(machine: Machine) -> None:
    answer = "seq 200 | sed 's/.*/ai-&: 0 64 snapshot &\\/640 8/; s/ 7.640.*/ Invalid/'"
    with_overlays(machine, 1000, 200, answer)
    by_target, lines = reported(machine)
    assert (machine.root / "run/calls").read_text().splitlines() == [
        "status --noflush --target snapshot"
    ]
    assert by_target[f"{VOL1}200"]["overlays"] == [{"name": "ai-200", "bytes": 200 * 512}]
    assert by_target[f"{VOL1}200"]["devices"] == [{"name": "ai-200", "kind": "overlay"}]
    assert by_target[f"{VOL1}7"]["overlays"] == [{"name": "ai-7", "bytes": None}]
    assert by_target[f"{VOL1}201"]["overlays"] == []
    assert "      overlay ai-200: 100 KiB" in lines and "      overlay ai-7" in lines


def test_a_dmsetup_that_hangs_does_not_hang_the_report(machine: Machine) -> None:
    with_overlays(machine, 20, 20, "exec sleep 30")
    begin = time.monotonic()
    by_target, _ = reported(machine)
    assert time.monotonic() - begin < 15
    assert by_target[f"{VOL1}1"]["overlays"] == [{"name": "ai-1", "bytes": None}]


def test_our_devices_are_named_by_what_they_show(machine: Machine) -> None:
    with_overlays(machine, 1, 1, "echo")
    machine.files({"/sys/block/dm-1/slaves/loop1/dev": ""})
    shutil.rmtree(machine.root / "sys/block/dm-1/slaves/loop1")
    for fstype, kind in (
        ("LVM2_member", "logical volume"),
        ("linux_raid_member", "array"),
        ("ext4", "device"),
    ):
        machine.files({"/run/udev/data/b8:1": f"E:ID_FS_TYPE={fstype}\n"})
        by_target, lines = reported(machine)
        assert by_target[f"{VOL1}1"]["devices"] == [{"name": "ai-1", "kind": kind}]
        assert by_target[f"{VOL1}1"]["overlays"] == [] and f"      {kind} ai-1" in lines


@pytest.mark.parametrize("scene", [*scenes("many"), *scenes("mounted"), *scenes("failed")])
def test_a_recorded_sysfs_of_a_real_kernel_is_reported(scene: str, tmp_path: Path) -> None:
    here = host(scene, tmp_path)
    (tmp_path / "run").mkdir(exist_ok=True)
    rows, failure = status.list_rows(here)
    assert failure is None and len(rows) == len(here.names("/sys/class/iscsi_session")) > 0
    assert all(row.session and row.ours is False and not row.problems for row in rows)
    states = {row.session.state for row in rows if row.session}
    assert states == {"FAILED" if "failed" in scene else "LOGGED_IN"}
    if "many" not in scene:
        assert [row.mounted for row in rows] == [(f"/iscsiauto/{BETA}",)]
    else:
        assert " [::1]:3261 " in "\n".join(status.report(here, PLAIN).lines)


def test_every_code_has_an_explanation() -> None:
    assert set(status.PROBLEMS) <= set(codes.table())


def test_prometheus_reads_the_same_values(
    used: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    used.state(1, "FAILED")
    assert cli.main(["--root", str(used.root), "status", "--metrics"]) == 0
    text = capsys.readouterr().out
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("auto_iscsi_") for name in families)
    assert all(family.documentation and family.type == "gauge" for family in families.values())
    counts = {
        (s.labels["state"], s.labels["owner"]): s.value
        for s in families["auto_iscsi_sessions"].samples
    }
    assert counts == {("FAILED", "ours"): 1, ("LOGGED_IN", "other"): 1}
    up = {s.labels["target"]: s.value for s in families["auto_iscsi_session_up"].samples}
    assert up == {VOL1: 0, VOL10: 1}
    problems = {s.labels["code"]: s.value for s in families["auto_iscsi_problems"].samples}
    assert problems == {**dict.fromkeys(status.PROBLEMS, 0), "lost-in-use": 1}
    (mounted, _) = families["auto_iscsi_session_mounts"].samples
    assert (mounted.labels["session"], mounted.value) == ("1", 1)


def test_the_exit_status_and_the_json_report(
    used: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--root", str(used.root), "status", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] and data["unknown"] is None and len(data["sessions"]) == 2
    used.state(1, "FAILED")
    assert cli.main(["--root", str(used.root), "status"]) == 1
    assert "lost-in-use" in capsys.readouterr().out


@pytest.mark.parametrize(("environment", "colour"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colour_unless_no_color_is_set(
    used: Machine, environment: dict[str, str], colour: bool
) -> None:
    used.state(1, "FAILED")
    ours, its = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "auto_iscsi", "--root", str(used.root), "status"],
        stdout=its,
        cwd=REPOSITORY,
        env={"TERM": "xterm", "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )
    os.close(its)
    text = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"lost-in-use" in text and (b"\033[31m" in text) == colour


def test_the_manual_shows_the_fields_and_metrics_that_are_printed(used: Machine) -> None:
    page = (Path(REPOSITORY) / "man/auto-iscsi.8").read_text()
    report = status.report(used.host, PLAIN)
    shown = page.split(".Cm status\nprints:", 1)[1].split(".Ed", 1)[0]
    names = set(re.findall(r'"(\w+)":', shown))
    assert names == {*report.data, *report.data["sessions"][0], "code", "target", "session"}
    assert claims.age(used.claim(VOL1)) < 60  # so the metrics include when the session ends
    used.configure("idle = 1h\n")
    make_tree(used.root, {"/proc/self/mountinfo": ""})
    leases.begin(used.host, "eql1", protocol.Snapshot("vm-beta", "monday", "7"), "0", "root")
    printed = [line.split()[2] for line in metrics.report(used.host).lines if line[:6] == "# HELP"]
    assert re.findall(r"^\.It Cm (auto_iscsi_\w+)", page, re.M) == printed


def test_neither_a_process_nor_a_record_writes_to_the_terminal(used: Machine) -> None:
    """Any user gives his process a name; with `with`, the reason names the other target's use."""
    inode = os.stat(used.host.path("/sys/class/iscsi_session/session2")).st_ino
    claim = claims.Claim(looked_up=-1e6, opened=((2, inode),), others=(VOL1,))
    claims.write(used.host, VOL10, claim)
    make_tree(
        used.root,
        {
            "/proc/self/mountinfo": "",
            "/proc/77/comm": "\x1b]0;x\x07\n",
            "/proc/77/fd/3": Link("/dev/sdb1"),
            f"/etc/iscsi/nodes/{VOL1}/x\x1b[2J,3260,1/default": "",
        },
    )
    by_target, lines = reported(used)
    assert "it belongs to" in by_target[VOL10]["reason"] and "\x1b" in by_target[VOL10]["reason"]
    lines += explain.report(used.host, VOL1, PLAIN).lines
    assert "\\x1b]0;x" in "".join(lines) and "x\\x1b[2J" in "".join(lines)
    assert all(line.isprintable() for line in lines)
