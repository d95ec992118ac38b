"""Partition tables of any shape: does our reader agree with the kernel's?"""

from __future__ import annotations

from pathlib import Path

from tests.san.bed.machine import Machine

MAKER = Path(__file__).parents[1] / "unit" / "partitioned.py"
#: Makes tables at random, has the kernel read each one, and prints where our reader differs.
COMPARE = """
import os, random, subprocess, sys
sys.path[:0] = ["/usr/share/auto-iscsi", "/run"]
from partitioned import gpt, mbr, put
from auto_iscsi.volumes import partition_tables

rng, seen = random.Random(5), 0

def entry(kind, low, high):
    start = rng.randint(low, high)
    size = rng.randint(1, max(1, (high - start) // rng.choice([1, 3, 9])))
    return kind, start, size * (3 if rng.random() < 0.1 else 1)

def chain(disk, block, blocks, first, size):
    at = first
    for _ in range(rng.randint(0, 6)):
        step = rng.randint(20, 80)
        links = [entry(0x83, 1, step - 1) if rng.random() < 0.9 else (0, 0, 0)]
        links += [entry(0x83, 1, 60)] * (rng.random() < 0.2)
        if at + step < first + size - 90:
            links.append((rng.choice([5, 15]), at + step - first, rng.randint(30, 90)))
        links += [entry(0x83, 1, 60)] * (rng.random() < 0.2)
        put(disk, block, at, mbr(links[:4]))
        at += step
        if at >= blocks - 100:
            return

def table(block, blocks):
    if rng.random() < 0.3:
        starts = [rng.randint(40, blocks - 40) for _ in range(rng.randint(0, 5))]
        parts = {rng.randint(1, 128): (at, at + rng.randint(0, 300)) for at in starts}
        disk = gpt(parts, blocks, block)
        if rng.random() < 0.3:
            disk[-512 * 33 :] = bytes(512 * 33)
        return disk
    disk = bytearray(blocks * block)
    entries = [entry(0x83, 1, 200) for _ in range(rng.randint(0, 2))]
    if rng.random() < 0.8:
        first = rng.randint(210, 300)
        size = blocks - first - rng.randint(0, 5)
        entries.insert(rng.randint(0, len(entries)), (rng.choice([5, 15, 0x85]), first, size))
        chain(disk, block, blocks, first, size)
    put(disk, block, 0, mbr(entries))
    return disk

def kernels(disk, block):
    with open("/run/table.img", "wb") as file:
        file.write(disk)
    command = ["losetup", "--show", "-r", "-P", "-b", str(block), "-f", "/run/table.img"]
    node = os.path.basename(subprocess.check_output(command, text=True).strip())
    subprocess.check_call(["udevadm", "settle"])  # udev can have the table read again
    parts = {}
    for name in os.listdir(f"/sys/block/{node}"):
        if name.startswith(f"{node}p"):
            values = [
                int(open(f"/sys/block/{node}/{name}/{each}").read())
                for each in ("partition", "start", "size")
            ]
            parts[values[0]] = tuple(values[1:])
    subprocess.check_call(["losetup", "-d", f"/dev/{node}"])
    return parts

for _ in range(60):
    block, blocks = rng.choice([(512, 4096), (4096, 1024)])
    disk = table(block, blocks)
    theirs = kernels(disk, block)
    try:
        ours = partition_tables.read(lambda at, size: bytes(disk[at : at + size]), len(disk), block)
    except partition_tables.Malformed as error:
        ours = []
    for part in ours:
        seen += 1
        if theirs.get(part.number) != (part.start, part.size):
            print(block, part, theirs)
os.unlink("/run/table.img")
print("compared" if seen > 60 else f"too few: {seen}")
"""


def test_the_kernel_sees_each_partition_where_we_do(vm: Machine) -> None:
    vm.write("/run/partitioned.py", MAKER.read_text())
    vm.write("/run/compare.py", COMPARE)
    assert vm.run("python3 /run/compare.py", timeout=400).stdout == "compared\n"
