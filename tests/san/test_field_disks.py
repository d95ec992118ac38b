"""Two volumes with one serial number: does either's name ever show the other's files?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

pytestmark = pytest.mark.shared

CONF = "defaults {{\nfind_multipaths {}\npolling_interval 1\n}}\nblacklist {{\ndevnode ^vd\n}}\n"


def twins(vm: Machine, san: San, mode: str) -> None:
    """Make two targets whose volumes have one serial number, and have multipathd run."""
    for iqn in (job.ALPHA, job.BETA):
        files: dict[str, str | bytes] = {"marker": f"{iqn}\n", "big": iqn.encode() * (1 << 13)}
        san.target(iqn, [san.disk([san.fs("ext3", files)], serial="5a5a5a5a-twin")])
    vm.write("/etc/multipath.conf", CONF.format(mode))
    vm.run(
        "systemctl unmask multipathd.socket multipathd && systemctl start multipathd", timeout=120
    )
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")


@pytest.mark.parametrize("mode", ["yes", "greedy", "smart", "strict"])
def test_twins_never_show_each_others_files(vm: Machine, san: San, mode: str) -> None:
    twins(vm, san, mode)
    job.configure(vm, "udev_timeout = 80s\nlookup_timeout = 110s\n")
    seen = []
    for iqn in (job.ALPHA, job.BETA, job.ALPHA, job.BETA):
        seen.append(job.visit(vm, iqn, check=False).stdout)
        assert seen[-1] in ("", f"{iqn}\n")
        assert job.expired(vm, iqn)
    # With smart, udev first keeps a lone path back, and deletes its partitions.
    assert seen[0] == f"{job.ALPHA}\n"
    if mode == "strict":  # which joins only what it knew before
        assert "" not in seen
    else:
        # The second one is refused and logs out again; so the first one can be read as before.
        assert seen[1:] == ["", f"{job.ALPHA}\n", ""]
        assert "another volume that has the same WWID" in job.last_message(vm)
        assert vm.sessions(job.BETA) == [] and len(vm.sessions(job.ALPHA)) == 1


def test_a_twin_leaves_the_map_of_a_mounted_volume_at_once(vm: Machine, san: San) -> None:
    twins(vm, san, "greedy")
    job.configure(vm, "udev_timeout = 80s\nlookup_timeout = 110s\nlease = 1s\nidle = 1h\n")

    def slaves() -> list[str]:
        return vm.run("ls /sys/block/dm-0/slaves", check=False).lines

    assert job.visit(vm, job.ALPHA).stdout == f"{job.ALPHA}\n"
    assert job.expired(vm, job.ALPHA)
    # Somebody logs in to the twin. Nobody uses the session of ours: it ends at once.
    vm.run(["iscsiadm", "-m", "node", "-T", job.BETA, "--login"], timeout=60)
    assert job.until(lambda: len(slaves()) == 2)
    assert "which is another volume" in job.refusal(vm, job.BETA)
    said = vm.run(["auto-iscsi", "status"], check=False)
    assert said.status == 1 and "problem: twin-volumes" in said.stdout
    assert f"has the same WWID as {job.session(vm, job.BETA).disks[0]} (LUN 0 of" in said.stdout
    assert "joins them" in said.stdout
    checked = vm.run(["auto-iscsi", "doctor"], check=False).stdout
    (line,) = [each for each in checked.splitlines() if " serial-numbers " in each]
    assert line.startswith("warning") and job.ALPHA in line and job.BETA in line
    vm.run(["auto-iscsi", "reap"], timeout=120)
    assert vm.sessions(job.ALPHA) == [] and len(vm.sessions(job.BETA)) == 1
    assert job.until(lambda: slaves() == [job.session(vm, job.BETA).disks[0]])
    # Its volume is mounted through the map, and in use; the twin's visitors cannot get in there.
    user = vm.start(f"cd {job.ROOT}/{job.BETA} && sleep 600", user="user", timeout=600)
    assert job.until(lambda: job.mount(vm, job.BETA) is not None)
    for reason in ("which is another volume", "not logged in to"):
        assert reason in job.refusal(vm, job.ALPHA)
        assert vm.sessions(job.ALPHA) == []
        assert job.until(lambda: slaves() == [job.session(vm, job.BETA).disks[0]])
    vm.run("echo 3 > /proc/sys/vm/drop_caches")
    shown = vm.run(["cat", f"{job.ROOT}/{job.BETA}/big"], user="user", timeout=120).stdout
    assert shown == job.BETA * (1 << 13)
    assert len(vm.sessions(job.BETA)) == 1
    user.kill()


def test_volumes_without_a_serial_number_are_twins(vm: Machine, san: San) -> None:
    for iqn in (job.ALPHA, job.BETA):
        disk = san.disk([san.fs("ext3", {"marker": f"{iqn}\n"})])
        unit = f"/sys/kernel/config/target/core/fileio_0/{disk.name}/wwn/vpd_unit_serial"
        vm.run(f"printf '\\n' > {unit}")
        san.target(iqn, [disk])
    vm.discover()
    for iqn in (job.ALPHA, job.BETA):
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"  # multipathd does not run
    said = vm.run(["auto-iscsi", "status", "--json"], check=False)
    assert said.status == 1 and said.stdout.count('"twin-volumes"') == 4
    assert "these volumes have one serial number" in vm.run("auto-iscsi doctor", check=False).stdout


def test_a_disk_in_standby_does_not_keep_its_session(vm: Machine, san: San) -> None:
    san.target(job.ALPHA)
    vm.discover()
    job.configure(vm, "udev_timeout = 80s\nlookup_timeout = 110s\n")
    assert job.visit(vm, job.ALPHA).stdout
    vm.run(
        "for f in /sys/kernel/config/target/core/*/*/alua/default_tg_pt_gp/alua_access_state;"
        " do echo 2 > $f; done"
    )
    # Its cache cannot be flushed, for nothing can be written to it: it ends all the same.
    vm.run(["umount", f"{job.ROOT}/{job.ALPHA}"])
    job.configure(vm, "idle = 0\nlease = 1s\n")
    vm.run("sleep 1.1; auto-iscsi reap", timeout=120)
    assert vm.sessions(job.ALPHA) == []
