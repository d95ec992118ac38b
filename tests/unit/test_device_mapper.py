"""Is what a killed dmsetup left, a device without a table, recognised and removed?"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import logout
from auto_iscsi.volumes import device_mapper

#: A dmsetup that knows devices by files in a folder: their names, and in the files their tables.
DMSETUP = """#!/bin/sh
cd $AUTO_ISCSI_ROOT/devices
echo "$1" >>../calls
case "$1" in
create) [ ! -e "$2" ] || { echo "Device or resource busy"; exit 1; }; echo LIVE >"$2" ;;
remove) rm "$3" ;;
info)
    shift
    [ $# = 0 ] && set -- *
    for name; do
        [ -e "$name" ] || continue
        echo "Name:              $name"
        echo "State:             ACTIVE"
        echo "Tables present:    $(cat "$name")"
        case "$name" in
        ai-*-crypt) echo "UUID: CRYPT-LUKS2-0011-$name" ;;
        ai-*) echo "UUID: AUTOISCSI-$name" ;;
        esac
        echo
    done ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    program = tmp_path / "usr/sbin/dmsetup"
    for folder in (program.parent, tmp_path / "devices", tmp_path / "sys/module/dm_mod"):
        folder.mkdir(parents=True)
    program.write_text(DMSETUP)
    program.chmod(0o755)
    return Host(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "left", "is_made"),
    [
        ("ai-1", None, True),
        ("ai-1", "None", True),
        ("ai-1", "LIVE", False),
        ("other", "None", False),
    ],
)
def test_a_device_is_made_anew_only_where_ours_has_no_table(
    host: Host, tmp_path: Path, name: str, left: str | None, is_made: bool
) -> None:
    if left:
        (tmp_path / "devices" / name).write_text(f"{left}\n")
    why = device_mapper.create(host, time.monotonic() + 30, name, name)
    assert why == ("" if is_made else "Device or resource busy")
    assert (tmp_path / "devices" / name).read_text().strip() == ("LIVE" if is_made else left)
    assert is_made is False or left or (tmp_path / "calls").read_text() == "create\n"


def running(root: Path, program: str, *arguments: str) -> Path:
    """Have a program run; return its folder in /proc."""
    folder = root / "proc/17"
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{program}\n")
    (folder / "cmdline").write_text("\0".join((program, *arguments, "")))
    return folder


@pytest.mark.parametrize("end", ["None", "LIVE"], ids=["is killed", "finishes it"])
def test_what_the_dmsetup_of_a_killed_lookup_is_at_is_left_to_it(
    host: Host, tmp_path: Path, end: str
) -> None:
    device = tmp_path / "devices/ai-1"
    device.write_text("None\n")
    other = running(tmp_path, "dmsetup", "create", "ai-1", "--uuid", "AUTOISCSI-ai-1")
    assert device_mapper.create(host, time.monotonic() + 0.5, "ai-1", "ai-1")
    assert "remove" not in (tmp_path / "calls").read_text()

    def finish() -> None:
        device.write_text(f"{end}\n")
        shutil.rmtree(other)

    timer = threading.Timer(0.5, finish)
    timer.start()
    why = device_mapper.create(host, time.monotonic() + 30, "ai-1", "ai-1")
    timer.join()
    assert (why == "") == (end == "None")
    assert ("remove" in (tmp_path / "calls").read_text()) == (end == "None")
    assert device.read_text() == "LIVE\n"


@pytest.mark.parametrize("program", ["sleep", "dmsetup", "cryptsetup"])
def test_the_reaper_removes_what_no_program_is_about_to_finish(
    host: Host, tmp_path: Path, program: str
) -> None:
    tables = {"ai-1": "None", "ai-2": "LIVE", "ai-3-crypt": "None", "other": "None"}
    for name, table in tables.items():
        (tmp_path / "devices" / name).write_text(f"{table}\n")
    running(tmp_path, program)
    logout.remove_without_table(host)
    left = sorted(path.name for path in (tmp_path / "devices").iterdir())
    assert left == (["ai-2", "other"] if program == "sleep" else sorted(tables))
