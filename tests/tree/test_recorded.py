"""Do we read correctly what a real kernel, udev and open-iscsi showed (recordings.py)?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from auto_iscsi import errors, keys
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi import node_records, sessions
from auto_iscsi.map import lookup
from tests.tree.recordings import ARRAY, BETA, files, host, scenes

BY_PATH = re.compile(
    r"/dev/disk/by-path/ip-.*-iscsi-(?P<target>.*)-lun-(?P<lun>[0-9a-fx]+)(-part(?P<part>\d+))?"
)


def links(scene: str) -> list[str]:
    """Return the by-path links that udev made."""
    return [path for path in files(scene) if BY_PATH.fullmatch(path)]


@pytest.mark.parametrize(
    ("scene", "link"), [(scene, link) for scene in scenes("many") for link in links(scene)]
)
def test_a_lookup_finds_every_link_that_udev_made(scene: str, link: str, tmp_path: Path) -> None:
    parts = BY_PATH.fullmatch(link)
    assert parts
    here = host(scene, tmp_path)
    lun = int(parts["lun"], 16) >> 48 if parts["lun"].startswith("0x") else int(parts["lun"])
    conf = tmp_path / "etc/auto.iscsi.conf"
    conf.write_text(f"partition = {parts['part'] or 'none'}\nlun = {lun}\n")
    entry = lookup.lookup(here, parts["target"])
    # Through two portals there are two links to one disk: either is right.
    either = {link, link.replace("127.0.0.1", "127.0.0.2"), link.replace("127.0.0.2", "127.0.0.1")}
    assert entry in {f'-nocheck,ro,fstype=ext3 ":{each}"' for each in either}


@pytest.mark.parametrize("scene", scenes("many"))
def test_a_session_has_its_own_disks_and_no_others(scene: str, tmp_path: Path) -> None:
    here = host(scene, tmp_path)
    luns = {
        name: [
            disk.lun
            for session in sessions.find_all(here, f"{ARRAY}-{name}")
            for disk in scsi_disks.list_all(here, session)
        ]
        for name in ("vol", "vol1", "vol10", "v6", "two")
    }
    assert luns == {"vol": [], "vol1": [0], "vol10": [0, 1, 300], "v6": [0], "two": [0, 0]}


@pytest.mark.parametrize("scene", scenes("known"))
def test_records_are_read_and_a_dead_portal_is_named(scene: str, tmp_path: Path) -> None:
    here = host(scene, tmp_path)
    (record,) = node_records.find_all(here, BETA)
    assert (record.target, str(record.portal), record.portal.tpgt) == (BETA, "127.0.0.1:3260", 1)
    assert node_records.values(here, record)["node.session.initial_login_retry_max"] == "8"
    with pytest.raises(errors.LoginFailed, match=r"login through 127\.0\.0\.1:3260: "):
        lookup.lookup(here, BETA)


@pytest.mark.parametrize("scene", [*scenes("mounted"), *scenes("failed")])
def test_a_mounted_target_is_answered_whether_its_session_is_up_or_lost(
    scene: str, tmp_path: Path
) -> None:
    """The recording has no iscsiadm, so a lookup that starts it fails."""
    here = host(scene, tmp_path)
    (session,) = sessions.find_all(here, keys.fold(BETA))
    assert session.state == ("FAILED" if "failed" in scene else "LOGGED_IN")
    link = f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{BETA}-lun-0-part1"
    assert lookup.lookup(here, BETA) == f'-nocheck,ro,fstype=ext3 ":{link}"'
