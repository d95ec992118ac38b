"""Is a whole server's tree taken down again, and are its files right, whatever happens?"""

from __future__ import annotations

import re

import pytest

from tests.san import job, killer
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San
from tests.san.reaping import all_unmounted, is_cleared, left
from tests.san.snapshot import AUTO, checksum, system_taken_in_use

SETTINGS = (
    AUTO.replace("partition = auto", "partition = system").replace("50s", "150s")
    + "lookup_timeout = 5m\nidle = 0\nlease = 1s\nreplacement_timeout = 5s\n"
)
VISIT = "--timeout=1 --negative-timeout=1"
#: By its place below the key, what is the newest file of each filesystem.
PLACES = {"/": "usr", "/home": "home", "/var": "var", "/boot": "boot", "/boot/efi": "boot/efi"}
PLACES["/srv/data"] = "srv/data"
MARKERS = " ".join(f"{place}/marker" for place in PLACES.values())


def server(vm: Machine, san: San) -> tuple[LiveDisk, str, str]:
    """Make a target with a server's disk; return the disk, its checksum, and what is left now."""
    disk = system_taken_in_use(vm, san, stays=False)
    before, empty = checksum(vm, disk), left(vm)
    san.target(job.ALPHA, [disk])
    vm.discover()
    return disk, before, empty


def is_right(vm: Machine) -> bool:
    """Visit each filesystem of the tree; say whether its newest file is there."""
    read = f"echo 3 >/proc/sys/vm/drop_caches; cd {job.ROOT}/{job.ALPHA} && cat {MARKERS}"
    return vm.run(read, check=False, timeout=300).stdout == "server\n" * len(PLACES)


def looked_up(vm: Machine) -> dict[str, str]:
    """Look the key up, and mount each device of its entry where nobody sees it.

    Return what the newest file says, by place.
    """
    entry = vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=200).stdout
    found = re.findall(r'(/\S*) -(\S+) ":([^"]+)"', entry)
    script = ""
    for place, options, device in found:
        file = PLACES[place].rpartition("/")[2] if place == "/" else ""
        kind = re.search(r"fstype=([^,]+)", options)
        more = ",nouuid" if kind and kind[1] == "xfs" else ""
        path = f"/mnt/{file}/marker".replace("//", "/")
        mount = f"mount -o ro{more} {device} /mnt && cat {path}"
        script += f"echo {place} $(unshare -m sh -c '{mount}')\n"
    lines = vm.run(script, timeout=120).lines
    return dict(line.split(maxsplit=1) for line in lines)


RIGHT = dict.fromkeys(PLACES, "server")


@pytest.mark.long
def test_a_lookup_killed_at_each_dmsetup_is_finished_by_the_next_one(vm: Machine, san: San) -> None:
    disk, before, empty = server(vm, san)
    job.configure(vm, SETTINGS)
    killer.prepare(vm)
    # A server takes about a dozen runs of dmsetup: maps first, then what its overlays need.
    for call in range(1, 100):
        when = ("after", "bare", "before")[call % 3]
        killer.arm(vm, call, when)
        status = vm.run(["auto-iscsi", "lookup", job.ALPHA], check=False, timeout=400).status
        killer.disarm(vm)
        if status == 0:
            break
        assert status == -9, call
        if call % 4 == 0:  # a reaper comes first
            vm.run("sleep 1.1")
            assert is_cleared(vm, empty), (call, left(vm))
        assert looked_up(vm) == RIGHT, call
        vm.run("sleep 1.1")
        assert is_cleared(vm, empty), (call, left(vm))
    assert 10 < call < 99
    assert checksum(vm, disk) == before


@pytest.mark.long
def test_the_device_of_a_killed_dmsetup_is_shown_once_udev_knows_it(vm: Machine, san: San) -> None:
    disk, before, empty = server(vm, san)
    job.configure(vm, SETTINGS)
    killer.prepare(vm)
    killer.arm(vm, 4, "unsettled")  # a logical volume
    assert vm.run(["auto-iscsi", "lookup", job.ALPHA], check=False, timeout=400).status == -9
    killer.disarm(vm)
    again = vm.start(["auto-iscsi", "lookup", job.ALPHA], timeout=400)
    vm.run("sleep 5")
    vm.run("udevadm control --start-exec-queue")
    entry = again.wait().stdout
    assert [word for word in entry.split() if word in PLACES] == sorted(PLACES)
    assert looked_up(vm) == RIGHT
    vm.run("sleep 1.1")
    assert is_cleared(vm, empty), left(vm)
    assert checksum(vm, disk) == before


@pytest.mark.long
def test_a_target_cut_off_below_a_tree(vm: Machine, san: San) -> None:
    disk, before, empty = server(vm, san)
    vm.automount(VISIT)
    job.configure(vm, SETTINGS)
    root = f"{job.ROOT}/{job.ALPHA}"
    assert is_right(vm)
    reader = vm.start(
        f"cd {root}/home && device=$(findmnt -no SOURCE -t ext4 -M $PWD) &&"
        " while dd if=$device of=/dev/null bs=1M iflag=direct status=none; do :; done",
        timeout=200,
    )
    user = vm.start(["sleep", "1000"], cwd=f"{root}/var", timeout=1010)
    vm.run("sleep 1")
    assert not reader.done
    san.block("127.0.0.1")
    assert "Input/output error" in reader.wait(check=False).stderr
    vm.run("echo 3 >/proc/sys/vm/drop_caches")
    assert vm.run(f"cd {root} && cat {MARKERS}", check=False, timeout=90).stdout != "server\n" * 6
    # As long as somebody is in the tree, the reaper ends without waiting, and leaves it.
    vm.run(["auto-iscsi", "reap"], check=False, timeout=60)
    assert not user.done
    user.kill()
    user.wait(check=False)
    assert all_unmounted(vm, job.ALPHA)
    assert is_cleared(vm, empty), left(vm)
    san.unblock("127.0.0.1")
    assert checksum(vm, disk) == before
    assert job.until(lambda: is_right(vm))
