"""Partitions that were hidden from the host's own LVM: are they found again, in the right place?"""

from __future__ import annotations

import binascii
import struct
import time
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.config import schema
from auto_iscsi.disks import identity, scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.map import available
from auto_iscsi.volumes import hidden_partitions, mountable, partitions, selection, stack
from tests.tree import kernel
from tests.unit.partitioned import gpt
from tests.unit.physical_volumes import TEXT, physical_volume

TARGET = "iqn.2001-05.com.example:server"
START, BLOCKS = 2048, 200000  # where the physical volume begins, and the size of the disk
DMSETUP = """#!/bin/sh
echo "$@" >>"$AUTO_ISCSI_ROOT/dmsetup"
"""


class Server:
    """A host with a session to a disk: /boot in partition 1, a physical volume in partition 2."""

    def __init__(self, root: Path) -> None:
        self.root, self.host = root, Host(str(root))
        sid = kernel.open_session(str(root), TARGET, "192.0.2.1", 3260, 1)
        self.disk = kernel.add_disk(str(root), sid, 0)
        kernel.add_partitions(str(root), self.disk, {"1": None, "2": None})
        kernel.announce(str(root), self.disk, {"1": None, "2": None})
        self.write(f"{self.disk.path}/size", f"{BLOCKS}")
        self.write(f"{self.disk.path}/diskseq", "7")
        self.write("/sys/dev/block/8:16/size", f"{BLOCKS}")
        self.record("8:16", "ID_PART_TABLE_TYPE=gpt")
        self.record("8:17", "ID_FS_TYPE=ext4", "ID_FS_USAGE=filesystem", "ID_PART_ENTRY_TYPE=0x83")
        self.record("8:18", "ID_FS_TYPE=LVM2_member", "ID_FS_USAGE=raid", "ID_PART_ENTRY_TYPE=0x8e")
        self.place(1, 40, 1000)
        self.place(2, START, BLOCKS - START - 40)
        self.write("/usr/sbin/dmsetup", DMSETUP)
        (root / "usr/sbin/dmsetup").chmod(0o755)
        self.write("/proc/sys/kernel/random/boot_id", "boot")
        (self.session,) = sessions.find_all(self.host, TARGET)
        self.claim((self.session.sid, self.session.inode))
        self.image({1: (40, 1039), 2: (START, BLOCKS - 41)})
        self.settings = schema.resolve([], TARGET)._replace(
            fstype="auto", partition="all", device="kernel"
        )
        self.scsi = scsi_disks.list_all(self.host, self.session)

    def write(self, name: str, text: str) -> None:
        kernel.write(str(self.root), name, text)

    def record(self, number: str, *properties: str) -> None:
        """Have udev record more of a device."""
        record = f"/run/udev/data/b{number}"
        lines = kernel.read(str(self.root), record)
        self.write(record, "\n".join([lines, *(f"E:{each}" for each in properties)]))

    def place(self, part: int, start: int, size: int) -> None:
        """Have the kernel say where a partition is."""
        for name, value in (("start", start), ("size", size)):
            self.write(f"{self.disk.path}/{self.disk.name}{part}/{name}", f"{value}")

    def claim(self, *opened: tuple[int, int]) -> None:
        """Write down which sessions a lookup opened."""
        claims.write(self.host, TARGET, claims.Claim(opened=opened))

    def image(self, parts: dict[int, tuple[int, int]], text: str = TEXT) -> None:
        """Write the disk: its table, and the physical volume."""
        disk = gpt(parts, BLOCKS)
        volume = physical_volume(text)
        disk[START * 512 : START * 512 + len(volume)] = volume
        with (self.root / "dev" / self.disk.name).open("wb") as file:
            file.write(disk[: START * 512 + len(volume)])
            file.seek((BLOCKS - 33) * 512)
            file.write(disk[-33 * 512 :])

    def delete_node(self) -> None:
        """Have the node of partition 2 go, as a lookup deletes it."""
        path = self.root / f"{self.disk.path}/{self.disk.name}2".lstrip("/")
        for file in path.iterdir():
            file.unlink()
        path.rmdir()

    def hide(self) -> mountable.Mountable:
        """Find what is to be mounted, and hide what is to be hidden."""
        content = available.find(self.host, [self.session], self.settings)
        assert content
        return hidden_partitions.hide(self.host, TARGET, self.scsi, content, time.monotonic() + 30)

    def expand(self) -> tuple[str, ...]:
        """Show what is on the disk, with a dmsetup that makes nothing; return the notes."""
        content = available.find(self.host, [self.session], self.settings)
        assert content
        until = time.monotonic() + 30
        content = partitions.show(self.host, TARGET, content, until, True)
        return stack.expand(self.host, TARGET, content, self.settings, until, True).notes

    @property
    def made(self) -> str:
        """What dmsetup was to do."""
        return (self.root / "dmsetup").read_text()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def hidden(server: Server) -> dict[int, str]:
    return identity.hidden_partitions(server.host, TARGET, server.disk.path)


def test_a_partition_is_written_down_before_it_is_hidden(server: Server) -> None:
    content = server.hide()
    assert hidden(server) == {2: "LVM2_member"}
    # This kernel refuses it, and the log says so.
    assert [each.device.name for each in content.filesystems] == ["sdb1", "sdb2"]
    assert [each.device.node for each in content.filesystems] == ["sdb1", "sdb"]
    assert (
        "LVM sees physical volumes of sdb: a partition of sdb cannot be hidden" in content.notes[0]
    )


def test_a_hidden_partition_is_found_by_the_table(server: Server) -> None:
    server.hide()
    server.delete_node()
    candidates = selection.read_contents(server.host, server.scsi[0])
    assert candidates
    assert str(candidates[2]) == "2: 96.64 MiB LVM2_member"
    assert candidates[2].device.name == "sdb2"
    with pytest.raises(errors.NotMountable, match="partition 2 is an LVM physical volume"):
        available.find(server.host, [server.session], server.settings._replace(partition=2))
    plain = server.settings._replace(partition=2, fstype="ext3")
    with pytest.raises(errors.NoPartition, match=r"partition 2 on LUN 0 \(sdb\) is an LVM2_member"):
        available.find(server.host, [server.session], plain)


def test_logical_volumes_lie_on_the_whole_disk_behind_the_partitions_start(server: Server) -> None:
    server.hide()
    server.delete_node()
    server.expand()
    made = server.made
    inode = (server.root / "sys/dev/block/8:16").stat().st_ino
    table = "0 1000 linear 8:16 40"
    uuid = f"AUTOISCSI-{binascii.crc32(table.encode()):08x}-ai-{inode}-p1"
    assert f"--concise ai-{inode}-p1,{uuid},,ro,{table}\n" in made
    first, second = START + 2048, START + 2048 + 19 * 8192
    table = f"0 81920 linear 8:16 {first},81920 16384 linear 8:16 {second}\n"
    assert f"ai-{inode}-2-vg0-root,,ro,{table}" in made


def test_no_table_leads_out_of_the_partition(server: Server) -> None:
    server.image({1: (40, 1039), 2: (START, START + 2048 + 12 * 8192)})
    server.hide()  # the kernel says something else, so nothing is hidden
    assert not hidden(server)
    server.place(2, START, 2049 + 12 * 8192)
    server.hide()
    server.delete_node()
    notes = "; ".join(server.expand())
    assert "vg0/root lies outside sdb2" in notes
    assert "vg0-root" not in server.made


@pytest.mark.parametrize(
    "change",
    [
        lambda server: server.place(2, START + 8, BLOCKS - START - 40),
        lambda server: server.image({1: (40, 1039)}),
        lambda server: server.image({2: (START, BLOCKS - 41), 3: (START, BLOCKS - 41)}),
        lambda server: server.claim(),
        lambda server: server.write(f"{server.disk.path}/sdb2/holders/md0/x", ""),
        lambda server: server.write("/sys/dev/block/8:18/holders/md0/x", ""),
        lambda server: server.write(
            "/proc/self/mountinfo", "42 1 8:17 / /mnt rw - ext4 /dev/sdb1 rw"
        ),
    ],
    ids=["elsewhere", "not in the table", "twice", "not ours", "held", "held too", "other in use"],
)
def test_what_is_not_certain_or_in_use_is_not_hidden(server: Server, change: object) -> None:
    assert callable(change)
    change(server)
    content = server.hide()
    assert not hidden(server)
    assert "sdb2" in [each.device.node for each in content.filesystems]


def test_a_table_that_lost_the_partition_refuses_the_disk(server: Server) -> None:
    server.hide()
    server.delete_node()
    server.image({1: (40, 1039)})
    with pytest.raises(errors.NotMountable, match="partition 2 of sdb is hidden"):
        available.find(server.host, [server.session], server.settings)
    (server.root / "dev/sdb").write_bytes(struct.pack("512x"))
    with pytest.raises(errors.NotMountable, match="cannot be read"):
        available.find(server.host, [server.session], server.settings)


def test_another_disk_with_that_name_has_nothing_hidden(server: Server) -> None:
    server.hide()
    server.write(f"{server.disk.path}/diskseq", "8")
    assert not hidden(server)
