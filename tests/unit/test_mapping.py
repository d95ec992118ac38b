"""Is a device of ours made anew where the metadata on its disk has changed?"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi import errors
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mapping
from tests.tree.tree import make_tree

TARGET = "iqn.2001-05.com.example:server"
DISK = "/sys/class/iscsi_session/session7/device/block/sdb"
#: A dmsetup for what is on the disk sdb, 8:16. An overlay lies on what it makes.
DMSETUP = """#!/bin/sh
cd $AUTO_ISCSI_ROOT
echo "$*" >>calls
case $1 in
create)
    concise=$3
    mkdir -p sys/block/dm-1/dm sys/block/dm-1/slaves/sdb sys/dev/block/8:16/holders/dm-1
    echo ${concise%%,*} >sys/block/dm-1/dm/name
    concise=${concise#*,}
    echo ${concise%%,*} >sys/block/dm-1/dm/uuid
    echo 1 >sys/block/dm-1/ro ;;
remove)
    case $3 in
    top)
        [ -e mounted ] && echo "Device or resource busy" && exit 1
        rm -r sys/block/dm-2 sys/block/dm-1/holders ;;
    *) [ ! -e sys/block/dm-1/holders ] && rm -r sys/dev/block/8:16/holders/dm-1 ;;
    esac ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    make_tree(
        tmp_path,
        {
            "/usr/sbin/dmsetup": DMSETUP,
            "/sys/dev/block/8:16/size": "9000",
            f"{DISK}/ro": "1",
        },
    )
    (tmp_path / "usr/sbin/dmsetup").chmod(0o755)
    return Host(str(tmp_path))


def make(host: Host, *table: str) -> list[str]:
    """Have a device with this table; return what dmsetup was started for."""
    calls = Path(host.root, "calls")
    calls.unlink(missing_ok=True)
    name = mapping.name(host, "8:16", "vg0-home")
    shown = mapping.Mapping(name, table, DISK, "8:16")
    mapping.make(host, TARGET, shown, time.monotonic() + 30)
    return [line.split()[0] for line in calls.read_text().splitlines()] if calls.exists() else []


def lay_on_top(host: Host) -> None:
    top = {"dm/name": "top", "dm/uuid": "AUTOISCSI-top", "ro": "1", "slaves/dm-1/x": ""}
    make_tree(
        Path(host.root),
        {
            "/sys/block/dm-1/holders/dm-2/x": "",
            **{f"/sys/block/dm-2/{name}": text for name, text in top.items()},
        },
    )


def test_what_shows_another_place_is_made_anew_with_what_lies_on_it(host: Host) -> None:
    assert make(host, "0 100 linear 8:16 2048") == ["create"]
    lay_on_top(host)
    assert make(host, "0 100 linear 8:16 2048") == []
    assert make(host, "0 100 linear 8:16 4096") == ["remove", "remove", "create"]
    assert make(host, "0 100 linear 8:16 4096") == []


def test_what_is_in_use_is_not_shown_in_the_place_of_another(host: Host) -> None:
    make(host, "0 100 linear 8:16 2048")
    lay_on_top(host)
    Path(host.root, "mounted").touch()
    with pytest.raises(errors.Busy, match="top cannot be removed"):
        make(host, "0 100 linear 8:16 4096")


@pytest.mark.parametrize("is_there", [False, True], ids=["made here", "another lookup's"])
def test_another_disk_that_has_its_number_by_now_is_not_shown(
    host: Host, tmp_path: Path, is_there: bool
) -> None:
    """Somebody logged the session out, and another target's disk became sdb, in one lookup."""
    if is_there:
        make(host, "0 100 linear 8:16 2048")
    shutil.rmtree(tmp_path / DISK[1:])
    with pytest.raises(errors.NoDisk, match="the disk sdb is gone"):
        make(host, "0 100 linear 8:16 2048")
    assert (tmp_path / "sys/dev/block/8:16/holders/dm-1").exists() == is_there


def test_the_dmsetup_of_a_killed_lookup_can_be_faster(host: Host, tmp_path: Path) -> None:
    make(host, "0 100 linear 8:16 2048")
    uuid = (tmp_path / "sys/block/dm-1/dm/uuid").read_text()
    (tmp_path / "sys/dev/block/8:16/holders/dm-1").rmdir()
    (tmp_path / "usr/sbin/dmsetup").write_text(
        "#!/bin/sh\nmkdir -p $AUTO_ISCSI_ROOT/sys/dev/block/8:16/holders/dm-1\nexit 1\n"
    )
    make(host, "0 100 linear 8:16 2048")
    (tmp_path / "sys/dev/block/8:16/holders/dm-1").rmdir()
    assert uuid.startswith("AUTOISCSI-")
    with pytest.raises(errors.Failure, match="cannot be mapped"):
        make(host, "0 100 linear 8:16 4096")


@given(st.text("abc-_.0", min_size=1, max_size=300))
def test_a_name_of_any_length_has_a_uuid_that_device_mapper_takes(label: str) -> None:
    name = mapping.name(Host("/nowhere"), "8:16", label)
    uuids = {
        mapping.uuid(mapping.Mapping(name, (f"0 8 linear 8:16 {start}",), "", ""))
        for start in (0, 8)
    }
    assert len(uuids) == 2 and max(map(len, uuids)) <= 128 and len(name) <= 127
