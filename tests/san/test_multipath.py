"""Several portals: multipathd joins the paths, and a reader does not notice the loss of one."""

from __future__ import annotations

import hashlib

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

pytestmark = pytest.mark.shared

BOTH = ["127.0.0.1", "127.0.0.2"]
SETTINGS = (
    "portals = 127.0.0.1, 127.0.0.2\nreplacement_timeout = 5s\n"
    "udev_timeout = 60s\nlookup_timeout = 3m\n"
)
ALL = f"{SETTINGS}paths = all\n"
BIG = hashlib.sha256(b"big").digest() * (1 << 15)  # 1 MiB


def target(san: San, iqn: str) -> None:
    """Make a target behind both portals, with a big file."""
    files: dict[str, str | bytes] = {"marker": f"{iqn}\n", "big": BIG}
    san.target(iqn, [san.disk([san.fs("ext3", files)])], portals=BOTH)


def up(vm: Machine) -> list[str]:
    """Return the portals through which a session is up."""
    return sorted(s.address for s in vm.sessions(job.BETA) if s.state == "LOGGED_IN")


def test_one_path_is_lost_while_mounted_and_nobody_notices(vm: Machine, san: San) -> None:
    job.start_multipathd(vm)
    target(san, job.BETA)
    job.configure(vm, ALL)
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    assert up(vm) == BOTH
    mounted = job.mount(vm, job.BETA)
    assert mounted and mounted.source.startswith("/dev/mapper/")
    entry = vm.run(["auto-iscsi", "lookup", job.BETA]).stdout
    assert ' ":/dev/disk/by-id/dm-uuid-part1-mpath-' in entry or "remount" in entry
    assert job.last_message(vm) == ""
    claim = vm.read(f"/run/auto-iscsi/claims/{job.BETA}").decode()
    (opened,) = [line for line in claim.splitlines() if line.startswith("opened ")]
    assert len(opened.split()) == 3
    assert len(job.records(vm)) == 2
    explained = vm.run(["auto-iscsi", "explain", job.BETA]).stdout
    assert "in the multipath map dm-" in explained
    san.block("127.0.0.1")
    vm.run("echo 3 > /proc/sys/vm/drop_caches")
    whole = vm.run(["sha256sum", f"{job.ROOT}/{job.BETA}/big"], user="user", timeout=120).stdout
    assert whole.split()[0] == hashlib.sha256(BIG).hexdigest()
    assert job.mount(vm, job.BETA) == mounted
    assert job.until(lambda: up(vm) == ["127.0.0.2"])
    assert vm.run(["auto-iscsi", "lookup", job.BETA]).stdout == entry
    # At the end, the reaper ends both sessions and deletes their records and claims.
    san.unblock("127.0.0.1")
    assert job.until(lambda: up(vm) == BOTH, 120)
    job.configure(vm, f"{ALL}idle = 1s\nlease = 1s\n")
    vm.run(["umount", f"{job.ROOT}/{job.BETA}"])

    def reaped() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions()

    assert job.until(reaped, 120)
    assert job.records(vm) == {}
    assert vm.run("ls /run/auto-iscsi/claims").stdout == ""


def test_one_path_is_down_and_multipathd_makes_no_map(vm: Machine, san: San) -> None:
    target(san, job.BETA)
    target(san, job.ALPHA)
    job.configure(vm, f"{ALL}[{job.ALPHA}]\nudev_timeout = 5s\n")
    san.reject("127.0.0.2")
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    assert "a path is missing: login through 127.0.0.2:3260: " in job.last_message(vm)
    assert "multipathd does not run: one path is used" in job.last_message(vm)
    mounted = job.mount(vm, job.BETA)
    assert mounted and mounted.source == f"/dev/{job.session(vm, job.BETA).disks[0]}1"
    san.unblock("127.0.0.2")
    job.start_multipathd(vm, 'devnode ".*"\n')
    assert job.visit(vm, job.ALPHA).stdout == f"{job.ALPHA}\n"
    assert "multipathd has made no map of it in 5 s: one path is used" in job.last_message(vm)
    assert len(vm.sessions(job.ALPHA)) == 2


def test_a_disk_that_multipathd_takes_unasked_is_mounted_as_its_map(vm: Machine, san: San) -> None:
    job.start_multipathd(vm)
    target(san, job.BETA)
    target(san, job.ALPHA)
    auto = "fstype = auto\npartition = auto\noptions = ro\n"
    job.configure(vm, f"{SETTINGS}[{job.ALPHA}]\n{auto}")
    sources = []
    for iqn in (job.BETA, job.ALPHA):
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
        mounted = job.mount(vm, iqn)
        sources.append(mounted.source if mounted else "")
        assert sources[-1].startswith("/dev/mapper/")
        assert len(vm.sessions(iqn)) == 1
    # A read-only disk cannot be written through the map either.
    node = vm.run(f"basename $(readlink -f {sources[1]})").stdout.strip()
    assert vm.read(f"/sys/block/{node}/ro") == b"1\n"
