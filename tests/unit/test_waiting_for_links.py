"""Which of udev's links is worth a closer look while a lookup waits for the disk?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from auto_iscsi import keys
from auto_iscsi.config import schema
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi.claims import Claim
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.machine.host import Host
from auto_iscsi.map import available
from auto_iscsi.map.request import Request
from auto_iscsi.portals import Portal
from tests.tree.tree import Link, make_tree

KEY = keys.parse("iqn.2001-05.com.example:vm-beta")


@pytest.mark.parametrize(
    ("partition", "lun", "links", "is_worth_it"),
    [
        (1, 0, [], False),
        (1, 0, ["0"], False),  # the partition comes later
        (1, 0, ["0", "0-part2"], False),
        (1, 0, ["0", "0-part1"], True),
        (1, 3, ["3-part1"], True),
        (1, 3, ["0x4003000000000000-part1"], True),  # the other way in which a LUN is counted
        ("auto", 0, ["0"], True),
        ("auto", 0, [], False),
        (1, "all", [], True),
    ],
)
def test_the_link_of_the_partition_if_one_is_named(
    tmp_path: Path, partition: int | str, lun: int | str, links: list[str], is_worth_it: bool
) -> None:
    stem = f"{scsi_disks.BY_PATH}/ip-10.0.0.1:3260-iscsi-{KEY.target}-lun-"
    make_tree(tmp_path, {f"{stem}{link}": Link("../../sdb") for link in links})
    settings = schema.resolve([], KEY.target)._replace(partition=partition, lun=lun)
    request = Request(Host(str(tmp_path)), KEY, settings, time.monotonic() + 9, Claim())
    session = Session(1, KEY.target, Portal("10.0.0.1", 3260, 1), "LOGGED_IN")
    assert available.has_link(request, [session]) is is_worth_it
