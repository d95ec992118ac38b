"""What explain draws of a server's disk: before, during and after a visit. It makes no device."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.snapshot import checksum

SETTINGS = (
    "options = nocheck, ro\nfstype = auto\npartition = {}\nudev_timeout = 50s\n"
    "idle = 0\nlease = 1s\n"
)

#: Makes a disk with a dirty ext4, and a volume group in the second partition.
MAKE = """
set -e
truncate -s 96M {path}
printf 'label: gpt\nsize=16M\nsize=+\n' | sfdisk -q {path}
device=$(losetup --show -P -f {path})
udevadm settle
mkfs.ext4 -q -L boot ${{device}}p1
pvcreate -qq ${{device}}p2 && vgcreate -qq vg0 ${{device}}p2
lvcreate -qq -y -n root -L 24M vg0
lvcreate -qq -y -n swap -L 8M vg0
mkfs.ext4 -q -L root /dev/vg0/root
mkswap -q /dev/vg0/swap
mkdir -p /run/boot
mount ${{device}}p1 /run/boot
sync -f /run/boot
echo new >/run/boot/new
sync /run/boot/new
cp --sparse=always {path} {path}.taken
umount /run/boot
vgchange -qq -an vg0
losetup -d $device
cp --sparse=always {path}.taken {path}
rm {path}.taken
sync
"""


def explained(vm: Machine) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the JSON report, its nodes by name, and the lines of the drawing.

    Check that explain makes no device and leaves the sessions as they are.
    """
    look = "dmsetup ls; dmsetup table; losetup -n; iscsiadm -m session; ls /run/auto-iscsi/claims"
    before = vm.run(look, check=False).stdout
    data = json.loads(vm.run(["auto-iscsi", "explain", "--json", job.ALPHA]).stdout)
    lines = vm.run(["auto-iscsi", "explain", job.ALPHA]).lines
    assert vm.run(look, check=False).stdout == before

    def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node["children"]:
            yield from walk(child)

    nodes = {node["name"]: node for lun in data["stack"] for node in walk(lun)}
    tree = [
        re.sub(r" {2,}", "  ", line.strip()) for line in lines if re.search(r"[─-] |LUN 0 s", line)
    ]
    return data, nodes, tree


def test_the_drawing_before_during_and_after_a_visit(vm: Machine, san: San) -> None:
    disk = san.disk(whole=san.fs("", size=96))
    vm.run(MAKE.format(path=disk.path), timeout=300)
    before = checksum(vm, disk)
    san.target(job.ALPHA, [disk], read_only=True)
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, SETTINGS.format("1"))
    data, nodes, _ = explained(vm)
    assert (data["outcome"], nodes) == ("login", {})
    # A lookup of partition 1 logs in, and maps no logical volume.
    vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=200)
    job.configure(vm, SETTINGS.format("all"))
    data, nodes, tree = explained(vm)
    print(*tree, sep="\n")
    boot, root, swap = nodes["1"], nodes["vg0/root"], nodes["vg0/swap"]
    assert (boot["type"], boot["label"], boot["place"]) == ("ext4", "'boot'", "/p1")
    assert (boot["state"], boot["journal"]) == ("dirty", "overlay")
    assert boot["overlay"] in vm.run("dmsetup ls").stdout
    assert (root["type"], root["state"], root["bytes"]) == ("ext4", "clean", 24 << 20)
    assert (root["pending"], root["place"], root["device"]) == (True, "/vg0-root", None)
    assert (swap["type"], swap["left_out"]) == ("swap", "it holds no files")
    assert (data["outcome"], data["entry"], data["refused"]) == ("map", None, None)
    assert [line.endswith("dirty: overlay  /p1") for line in tree] == [False, True, *[False] * 3]
    assert tree[3].endswith("24 MiB  clean  /vg0-root, not mapped yet")
    # During a visit.
    assert "lost+found" in vm.run(f"ls /iscsiauto/{job.ALPHA}/vg0-root", timeout=200).stdout
    assert vm.run(f"cat /iscsiauto/{job.ALPHA}/p1/new", timeout=100).stdout == "new\n"
    data, nodes, tree = explained(vm)
    print(*tree, sep="\n")
    root, swap = nodes["vg0/root"], nodes["vg0/swap"]
    assert (root["type"], root["label"], root["state"]) == ("ext4", "'root'", "clean")
    assert (root["pending"], root["place"], root["kind"]) == (False, "/vg0-root", "logical volume")
    assert root["device"].startswith("dm-") and root["overlay"] is None
    assert (swap["pending"], swap["left_out"]) == (False, "it holds no files")
    assert data["outcome"] == "answer"
    assert data["entry"] == vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=100).stdout.strip()
    (row,) = json.loads(vm.run(["auto-iscsi", "status", "--json"]).stdout)["sessions"]
    kinds = sorted(device["kind"] for device in row["devices"])
    assert kinds == ["logical volume", "logical volume", "overlay", "partition"]
    assert [store["bytes"] > 0 for store in row["overlays"]] == [True]
    # After it.
    assert job.expired(vm, job.ALPHA)

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.ALPHA)

    assert job.until(is_cleared)
    data, nodes, _ = explained(vm)
    assert (data["outcome"], nodes) == ("login", {})
    assert vm.run("dmsetup ls").stdout.strip() == "No devices found"
    assert checksum(vm, disk) == before
