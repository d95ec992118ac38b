"""SCSI commands: which designators are the logical unit's, and why a disk cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.disks import readiness, scsi_commands
from auto_iscsi.machine.host import Host

# SPC-5, 7.7.6: code set and protocol, type and association, reserved, length, value.
NAA = bytes.fromhex("01030010") + bytes.fromhex("6001405aaaa000000000000000000000")
NAME = bytes.fromhex("0201000c") + b"LIO-ORG aaaa"
PORT = bytes.fromhex("51940004") + bytes(3) + b"\1"
OTHER_PORT = PORT[:-1] + b"\2"


def page(*designators: bytes) -> bytes:
    body = b"".join(designators)
    return b"\0\x83" + len(body).to_bytes(2, "big") + body


def test_the_designators_of_the_unit_count_and_those_of_the_port_do_not() -> None:
    assert scsi_commands.designators(page(NAA, NAME, PORT)) == NAA + NAME
    assert scsi_commands.designators(page(NAA, NAME, OTHER_PORT)) == scsi_commands.designators(
        page(NAA, PORT, NAME)
    )
    assert scsi_commands.designators(page(NAA[:-1] + b"\1")) != scsi_commands.designators(page(NAA))


def test_a_page_without_a_designator_of_the_unit_is_no_identity() -> None:
    assert scsi_commands.designators(page(PORT)) is None
    assert scsi_commands.designators(page()) is None


@given(st.binary(max_size=300))
def test_any_answer_can_be_read(answer: bytes) -> None:
    scsi_commands.designators(answer)


def test_a_file_that_is_no_scsi_disk_has_no_identity_and_no_luns(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sdb").write_bytes(b"x" * 4096)
    host = Host(str(tmp_path))
    assert scsi_commands.identity(host, "sdb", page(NAA)) is None
    assert scsi_commands.identity(host, "sdc", page(NAA)) is None
    assert scsi_commands.luns(host, "sdb") is None


def sg_answer(
    status: int = 0, host_status: int = 0, sense: bytes = b"", data: bytes = b"", result: int = 0
) -> bytes:
    """Return a struct sg_header of include/scsi/sg.h as this machine's compiler lays it out."""
    driver = 8 if sense else 0
    if sys.byteorder == "little":
        fields = status >> 1 << 1 | host_status << 6 | driver << 14
    else:
        fields = status >> 1 << 26 | host_status << 18 | driver << 10
    words = (0, 36 + len(data), 0, result, fields)
    header = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return header + sense.ljust(16, b"\0") + data


def fixed(key: int, code: int, qualifier: int) -> bytes:
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier))


CHECK = 2
STANDBY = "not ready: the path is in standby (ALUA), sense 2/04/0b"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (sg_answer(), ""),
        (sg_answer(CHECK, sense=fixed(2, 4, 0x0B), result=5), STANDBY),
        (sg_answer(CHECK, sense=bytes((0x72, 2, 4, 0x0B))), STANDBY),
        (sg_answer(CHECK, sense=fixed(2, 4, 1)), "not ready: it is becoming ready, sense 2/04/01"),
        (sg_answer(CHECK, sense=fixed(2, 0x99, 1)), "not ready: no known cause, sense 2/99/01"),
        (sg_answer(CHECK, sense=fixed(3, 0x11, 0)), "medium error, sense 3/11/00"),
        (sg_answer(CHECK, sense=fixed(5, 0x20, 0)), ""),  # the disk does not know the command
        (sg_answer(0x18), "reservation conflict"),
        (sg_answer(0x18, host_status=0x11, result=5), "reservation conflict"),
        (sg_answer(0x08), "busy"),
    ],
)
def test_why_a_disk_cannot_be_read_is_described_in_terms_of_scsi(
    answer: bytes, reason: str
) -> None:
    assert readiness.describe(scsi_commands.parse_answer(answer)) == reason


def test_an_answer_that_did_not_come_from_the_disk_is_a_failure() -> None:
    assert scsi_commands.parse_answer(sg_answer(host_status=1)).failed
    assert scsi_commands.parse_answer(sg_answer(result=5)).failed
    good = scsi_commands.parse_answer(sg_answer(data=b"page"))
    assert (good.failed, good.status, good.data) == (False, 0, b"page")


@given(st.binary(max_size=60))
def test_any_sg_header_can_be_read(answer: bytes) -> None:
    readiness.describe(scsi_commands.parse_answer(answer))
