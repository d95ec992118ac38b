"""The answers of disks to SCSI commands: an identity is the logical unit's, not the path's."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.disks import scsi_commands
from auto_iscsi.machine.host import Host

# SPC-5, 7.7.6: code set and protocol, type and association, reserved, length, value.
NAA = bytes.fromhex("01030010") + bytes.fromhex("6001405aaaa000000000000000000000")
NAME = bytes.fromhex("0201000c") + b"LIO-ORG aaaa"
PORT = bytes.fromhex("51940004") + bytes(3) + b"\1"
OTHER_PORT = PORT[:-1] + b"\2"


def page(*designators: bytes) -> bytes:
    body = b"".join(designators)
    return b"\0\x83" + len(body).to_bytes(2, "big") + body


def test_only_designators_of_the_logical_unit_count() -> None:
    assert scsi_commands.designators(page(NAA, NAME, PORT)) == NAA + NAME
    assert scsi_commands.designators(page(NAA, NAME, OTHER_PORT)) == scsi_commands.designators(
        page(NAA, PORT, NAME)
    )
    assert scsi_commands.designators(page(NAA[:-1] + b"\1")) != scsi_commands.designators(page(NAA))


def test_a_page_without_designators_of_the_unit_is_no_identity() -> None:
    assert scsi_commands.designators(page(PORT)) is None
    assert scsi_commands.designators(page()) is None


@given(st.binary(max_size=300))
def test_any_answer_can_be_read(answer: bytes) -> None:
    scsi_commands.designators(answer)


def test_a_device_that_is_no_scsi_disk_gives_no_answer(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sdb").write_bytes(b"x" * 4096)
    host = Host(str(tmp_path))
    assert scsi_commands.identity(host, "sdb", page(NAA)) is None
    assert scsi_commands.identity(host, "sdc", page(NAA)) is None
    assert scsi_commands.luns(host, "sdb") is None
