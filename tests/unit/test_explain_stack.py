"""What explain draws: what lies on what, its state, where it would be mounted, or why it is not."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.admin import cli, explain, output, stack_report
from auto_iscsi.admin.stack_report import Node
from auto_iscsi.config import config_files
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import superblock, unmapped_volumes
from auto_iscsi.volumes.lvm_volumes import Segment, Stripe
from tests.tree.tree import Content, Link, make_tree
from tests.unit.physical_volumes import TEXT, physical_volume
from tests.unit.superblocks import btrfs, ext, record, xfs

TARGET = "iqn.2001-05.com.example:server"
SESSION = "/sys/class/iscsi_session/session7"
UNIT = f"{SESSION}/device/target3:0:0/3:0:0:0"
DISK = f"{UNIT}/block/sdb"
EFI = "c12a7328-f81f-11d2-ba4b-00c04fc93ec9"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
ALL = "fstype = auto\npartition = all\noptions = ro\ndevice = kernel\n"
EXTENT = 8192 * 512  # bytes, of TEXT

#: By number: type, usage, label, type of the partition, MiB.
PARTITIONS = {
    1: ("vfat", "filesystem", "", EFI, 100),
    2: ("ext4", "filesystem", "boot", LINUX, 200),
    3: ("LVM2_member", "raid", "", LINUX, 600),
}

#: A physical volume that is all of a device.
AREA = unmapped_volumes.Area("a", "a", 0, 1 << 30)


def device(path: str, node: str, number: str, size: int, **properties: str) -> dict[str, Content]:
    """Return the files that the kernel and udev have of a device of `size` MiB."""
    lines = [f"E:{name}={value}" for name, value in properties.items()]
    return {
        f"{path}/dev": number,
        f"{path}/size": f"{size << 11}",
        f"{path}/holders": None,
        f"/sys/class/block/{node}/dev": number,
        f"/sys/dev/block/{number}/size": f"{size << 11}",
        f"/sys/dev/block/{number}/holders": None,
        f"/run/udev/data/b{number}": "\n".join(["E:DEVTYPE=disk", *lines, ""]),
        f"/dev/{node}": "",
    }


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A host that has logged in to a server's disk, of which nothing is mapped yet."""
    files: dict[str, Content] = {
        f"{SESSION}/targetname": TARGET,
        f"{SESSION}/state": "LOGGED_IN",
        f"{SESSION}/tpgt": "1",
        "/sys/class/iscsi_connection/connection7:0/persistent_address": "10.0.0.1",
        "/sys/class/iscsi_connection/connection7:0/persistent_port": "3260",
        f"{UNIT}/type": "0",
        f"{DISK}/ro": "1",
        f"{DISK}/diskseq": "40",
        **device(DISK, "sdb", "8:16", 900, ID_PART_TABLE_TYPE="gpt"),
        config_files.FILE: ALL,
    }
    link = f"disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0"
    files["/run/udev/data/b8:16"] = (
        f"S:{link}\nS:disk/by-diskseq/40\nE:ID_PART_TABLE_TYPE=gpt\nE:DEVTYPE=disk\n"
    )
    for part, (fstype, usage, label, purpose, size) in PARTITIONS.items():
        node, number = f"sdb{part}", f"8:{16 + part}"
        files |= device(f"{DISK}/{node}", node, number, size)
        files |= {f"{DISK}/{node}/partition": f"{part}", f"/dev/{link}-part{part}": Link("x")}
        files[f"/run/udev/data/b{number}"] = (
            f"S:{link}-part{part}\nE:ID_FS_TYPE={fstype}\nE:ID_FS_USAGE={usage}\n"
            f"E:ID_FS_LABEL_ENC={label}\nE:ID_PART_ENTRY_TYPE={purpose}\n"
        )
    make_tree(tmp_path, files)
    (tmp_path / "dev/sdb2").write_bytes(ext(0x44))
    with (tmp_path / "dev/sdb3").open("wb") as volume:
        volume.write(physical_volume(TEXT))
        volume.seek(1 << 20)
        volume.write(ext(0x40))
        volume.truncate(600 << 20)
    host = Host(str(tmp_path))
    session = sessions.read(host, 7)
    assert session
    claims.write(host, TARGET, claims.Claim(opened=((session.sid, session.inode),)))
    return tmp_path


def mapped(root: Path, node: str, number: str, name: str, below: str, **properties: str) -> None:
    """Add one of our devices, on the device MAJOR:MINOR `below`."""
    uuid = {f"/sys/block/{node}/dm/uuid": f"AUTOISCSI-{name}", f"/sys/block/{node}/dm/name": name}
    path = f"/sys/block/{node}"
    make_tree(root, {**device(path, node, number, 48, **properties), **uuid, f"{path}/ro": "1"})
    slave = next(
        name
        for name in os.listdir(root / "sys/class/block")
        if (root / f"sys/class/block/{name}/dev").read_text() == below
    )
    make_tree(
        root,
        {f"/sys/dev/block/{below}/holders/{node}/x": "", f"{path}/slaves/{slave}/dev": below},
    )
    folder = f"{DISK}/{slave}" if slave.startswith("sdb") else f"/sys/block/{slave}"
    make_tree(root, {f"{folder}/holders/{node}/x": ""})


def report(root: Path) -> output.Report:
    """Return the report on the target, after a look that it changed nothing."""

    def files() -> dict[Path, tuple[int, int]]:
        return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")}

    before = files()
    made = explain.report(Host(str(root)), TARGET, output.Paint(False))
    assert files() == before
    return made


def drawn(root: Path) -> list[str]:
    """Return the lines of the drawing."""
    lines = report(root).lines
    first = next(index for index, line in enumerate(lines) if line.startswith("  LUN"))
    return [re.sub(r" {2,}", "  ", line.strip()) for line in lines[first : lines.index("", first)]]


def nodes(root: Path) -> dict[str, Any]:
    """Return all nodes of the JSON report by their names."""

    def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node["children"]:
            yield from walk(child)

    stack = json.loads(json.dumps(report(root).data["stack"]))
    return {node["name"]: node for lun in stack for node in walk(lun)}


def test_before_a_visit_the_volumes_are_read_from_their_physical_volume(server: Path) -> None:
    assert drawn(server) == [
        "LUN 0 sdb  gpt  900 MiB",
        "|- 1 sdb1  vfat (EFI system partition)  100 MiB  /p1",
        "|- 2 sdb2  ext4 'boot'  200 MiB  dirty: overlay  /p2",
        "`- 3 sdb3  LVM2_member of vg0  600 MiB",
        "|- vg0/root  ext4  48 MiB  clean  /vg0-root, not mapped yet",
        "|- vg0/striped  32 MiB  left out: 1 of its 2 physical volumes are missing",
        "`- vg0/squeezed  left out: its data is compressed by VDO",
    ]
    data = report(server).data
    assert (data["outcome"], data["entry"], data["refused"]) == ("map", None, None)
    root = nodes(server)["vg0/root"]
    assert (root["pending"], root["device"], root["kind"]) == (True, None, "logical volume")


@pytest.mark.parametrize(
    ("setting", "place", "left_out"),
    [("vg0/root", "/", None), ("vg0/none", None, "partition = vg0/none"), ("2", None, "partition")],
)
def test_a_volume_is_where_the_setting_has_it(
    server: Path, setting: str, place: str | None, left_out: str | None
) -> None:
    make_tree(server, {config_files.FILE: ALL.replace("= all", f"= {setting}")})
    node = nodes(server)["vg0/root"]
    assert node["place"] == place and bool(node["left_out"]) == bool(left_out)
    assert (node["left_out"] or "").startswith(left_out or "")
    assert report(server).data["outcome"] == {"vg0/root": "map", "2": "answer"}.get(
        setting, "refuse"
    )
    assert nodes(server)["1"]["left_out"] == f"partition = {setting}" or setting == "vg0/none"


def test_after_a_visit_our_devices_are_drawn(server: Path) -> None:
    inode = (server / "sys/dev/block/8:19").stat().st_ino
    mapped(server, "dm-0", "253:0", f"ai-{inode}-vg0-root", "8:19", ID_FS_TYPE="ext4",
           ID_FS_USAGE="filesystem")  # fmt: skip
    mapped(server, "dm-1", "253:1", "ai-dm-0-9", "253:0")
    make_tree(server, {"/sys/block/dm-1/slaves/loop0/x": ""})
    (server / "dev/dm-0").write_bytes(ext(0x44))
    node = nodes(server)["vg0/root"]
    assert (node["device"], node["kind"], node["state"]) == ("dm-0", "logical volume", "dirty")
    assert (node["journal"], node["overlay"], node["pending"]) == ("overlay", "ai-dm-0-9", False)
    assert (node["place"], node["left_out"]) == ("/vg0-root", None)
    data = report(server).data
    assert data["outcome"] == "answer" and "/vg0-root -ro,fstype=ext4 :/dev/dm-1" in (data["entry"])


def test_what_lies_on_a_device_of_ours_is_drawn_on_it(server: Path) -> None:
    record = server / "run/udev/data/b8:18"
    record.write_text(record.read_text().replace("ext4", "crypto_LUKS").replace("=filesy", "=y"))
    mapped(server, "dm-0", "253:0", "ai-7-vault", "8:18", ID_FS_TYPE="crypto_LUKS")
    mapped(server, "dm-1", "253:1", "ai-8-crypt", "253:0", ID_FS_TYPE="swap", ID_FS_USAGE="other")
    make_tree(server, {"/sys/block/dm-1/dm/uuid": "CRYPT-LUKS2-0123-ai-8-crypt"})
    lines = drawn(server)
    assert lines[3:5] == [
        "|  `- vault  crypto_LUKS  48 MiB",
        "|  `- crypt  swap  48 MiB  left out: it holds no files",
    ]
    assert nodes(server)["crypt"]["kind"] == "decrypted device"


def test_without_a_session_nothing_is_drawn(server: Path) -> None:
    make_tree(server, {f"{SESSION}/state": "FREE"})
    made = report(server)
    assert made.data["stack"] == [] and not any("LUN 0 sdb " in line for line in made.lines)


TREE = Node("LUN 1", "lun", "gpt", device="sdb", size=1 << 20, children=(
    Node("1", "partition", "LVM2_member", "of vg", "sdb1", 1 << 19, children=(
        Node("vg/a", "logical volume", "xfs", "'x\x1b[2J'", state="clean", place="/vg-a"),)),
    Node("2", "partition", "swap", device="sdb2", why="it holds no files"),
))  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "along", "branch", "last"),
    [
        ("utf-8", "│", "├─", "└─"),
        ("ascii", "|", "|-", "`-"),
        ("iso8859-15", "|", "|-", "`-"),
    ],
)
def test_the_terminal_s_encoding_decides_how_the_tree_is_drawn(
    tmp_path: Path, encoding: str, along: str, branch: str, last: str
) -> None:
    with (tmp_path / "out").open("w", encoding=encoding) as stream:
        lines = stack_report.draw([TREE], output.paint_for(stream))
        stream.writelines(lines)
    assert [line.rstrip() for line in lines] == [
        "  LUN 1 sdb   gpt                  1 MiB",
        f"  {branch} 1 sdb1   LVM2_member of vg  512 KiB",
        f"  {along}  {last} vg/a  xfs 'x\\x1b[2J'              clean  /vg-a",
        f"  {last} 2 sdb2   swap                               left out: it holds no files",
    ]


def test_the_manual_shows_the_fields_that_are_printed(
    server: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--root", str(server), "explain", "--json", TARGET]) == 0
    (lun,) = json.loads(capsys.readouterr().out)["stack"]
    page = (Path(__file__).parents[2] / "man/auto-iscsi.8").read_text()
    shown = page.split('"stack": [', 1)[1].split('"outcome"', 1)[0]
    assert re.findall(r'"(\w+)":', shown) == list(lun)


def recognised(root: Path, image: bytes, segments: tuple[Segment, ...]) -> tuple[str, bool | None]:
    """Return what is known of a volume on two physical volumes, over which `image` is spread."""
    files = {"a": bytearray(8 << 20), "b": bytearray(8 << 20)}
    for segment in segments:
        piece = image[segment.start * 512 : (segment.start + segment.size) * 512]
        chunk = segment.stripe_size * 512 or len(piece) or 1
        for number, at in enumerate(range(0, len(piece), chunk)):
            row, index = divmod(number, len(segment.stripes))
            stripe = segment.stripes[index]
            place = stripe.start * 512 + row * chunk
            files[stripe.pv][place : place + chunk] = piece[at : at + chunk]
    make_tree(root, {f"/dev/{name}": bytes(data) for name, data in files.items()})
    volume = unmapped_volumes.Volume(segments, {"a": AREA, "b": AREA._replace(node="b")})
    (answer,) = unmapped_volumes.recognise(Host(str(root)), TARGET, [volume], time.monotonic() + 20)
    return answer


A, B = Stripe("a", 2048), Stripe("b", 4096)
LINEAR = (Segment(0, 16, (A,), 0), Segment(16, 2000, (B,), 0))
STRIPED = (Segment(0, 2048, (B, A), 8),)
IMAGES = {
    "xfs": xfs(record(1, 1, 1, 0x20)),
    "btrfs": btrfs(0),
    "ext4": ext(0x40),
    "swap": b"SWAPSPACE2".rjust(4096, b"\0"),
    "crypto_LUKS": b"LUKS\xba\xbe" + bytes(4000),
    "": bytes(4096),
}


@pytest.mark.parametrize("segments", [LINEAR, STRIPED], ids=["linear", "striped"])
@pytest.mark.parametrize("fstype", IMAGES)
def test_a_type_is_read_through_the_segments(
    tmp_path: Path, fstype: str, segments: tuple[Segment, ...]
) -> None:
    clean = False if fstype in ("xfs", "btrfs", "ext4") else None
    assert recognised(tmp_path, IMAGES[fstype], segments) == (fstype, clean)


def test_a_dirty_journal_is_seen_through_the_segments(tmp_path: Path) -> None:
    assert recognised(tmp_path, xfs(record(1, 1, 2, 0)), STRIPED) == ("xfs", True)


def test_a_volume_without_its_physical_volume_is_not_known(tmp_path: Path) -> None:
    make_tree(tmp_path, {"/dev/a": bytes(4096)})
    volumes = [
        unmapped_volumes.Volume((Segment(0, 16, (Stripe("c", 0),), 0),), {"a": AREA}),
        unmapped_volumes.Volume(
            (Segment(0, 16, (Stripe("a", 0),), 0),), {"a": AREA._replace(node="gone")}
        ),
        unmapped_volumes.Volume((), {"a": AREA}),
    ]
    host = Host(str(tmp_path))
    assert (
        unmapped_volumes.recognise(host, TARGET, volumes, time.monotonic() + 20) == [("", None)] * 3
    )


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 7), st.data())
def test_each_byte_of_a_segment_lies_in_its_stripes(
    count: int, chunk: int, rows: int, data: st.DataObject
) -> None:
    stripes = tuple(Stripe(f"{number}", 100 * number) for number in range(count))
    segment = Segment(0, count * chunk * rows, stripes, chunk if count > 1 else 0)
    at = data.draw(st.integers(0, segment.size * 512 - 1))
    pv, place, together = unmapped_volumes.locate(segment, at)
    inside = place - stripes[int(pv)].start * 512
    assert inside >= 0 and inside + together <= chunk * rows * 512 and together > 0
    row = at // (count * chunk * 512) if count > 1 else 0
    assert row * chunk * 512 <= inside


@given(
    st.sampled_from([*IMAGES.values()]),
    st.lists(st.tuples(st.integers(0, 9000), st.binary(max_size=9))),
)
def test_no_superblock_breaks_the_reader(image: bytes, changes: list[tuple[int, bytes]]) -> None:
    block, reads = bytearray(image), 0
    for at, data in changes:
        block[at : at + len(data)] = data

    def read(offset: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert 0 <= size <= 1 << 16 and reads < 3000
        if not 0 <= offset < 1 << 63:  # as pread does
            raise OverflowError if offset >= 0 else OSError
        return bytes(block[offset : offset + size])

    superblock.recognise(read)


@pytest.mark.parametrize(
    ("features", "fstype"),
    [((0, 0x2, 0x3), "ext2"), ((0x4, 0x2, 0x3), "ext3"), ((0x4, 0x6, 0x3), "ext3"),
     ((0x4, 0x42, 0x3), "ext4"), ((0x4, 0x2, 0x400), "ext4"), ((0, 0x8, 0), "jbd")],
)  # fmt: skip
def test_the_generation_of_an_ext_is_told_by_its_features(
    features: tuple[int, int, int], fstype: str
) -> None:
    block = bytearray(ext(0).ljust(4096, b"\0"))
    for index, value in enumerate(features):
        block[1024 + 0x5C + 4 * index : 1024 + 0x60 + 4 * index] = value.to_bytes(4, "little")
    found, _ = superblock.recognise(lambda offset, size: bytes(block[offset : offset + size]))
    assert found == fstype
