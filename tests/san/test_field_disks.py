"""Two volumes with one serial number: does either's name ever show the other's files?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

CONF = "defaults {{\nfind_multipaths {}\npolling_interval 1\n}}\nblacklist {{\ndevnode ^vd\n}}\n"


@pytest.mark.parametrize("mode", ["yes", "greedy", "smart", "strict"])
def test_twins_never_show_each_others_files(vm: Machine, san: San, mode: str) -> None:
    for iqn in (job.ALPHA, job.BETA):
        disk = san.disk([san.fs("ext3", {"marker": f"{iqn}\n"})], serial="5a5a5a5a-twin")
        san.target(iqn, [disk])
    vm.write("/etc/multipath.conf", CONF.format(mode))
    vm.run(
        "systemctl unmask multipathd.socket multipathd && systemctl start multipathd", timeout=120
    )
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.configure(vm, "udev_timeout = 80s\nlookup_timeout = 110s\n")
    seen = []
    for iqn in (job.ALPHA, job.BETA, job.ALPHA, job.BETA):
        seen.append(job.visit(vm, iqn, check=False).stdout)
        assert seen[-1] in ("", f"{iqn}\n")
        assert job.expired(vm, iqn)
    # smart lets udev keep a lone path back until find_multipaths_timeout is over.
    assert seen[0] == f"{job.ALPHA}\n" or mode == "smart"
    if mode == "strict":  # which joins only what it knew before
        assert "" not in seen
    else:
        assert "which is another volume" in job.last_message(vm)
        job.configure(vm, "idle = 0\nlease = 1s\n")
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        assert vm.run("ls /sys/block/dm-0/slaves").lines == ["sda", "sdb"]
