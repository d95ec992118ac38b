"""Whatever a snapshot is: is it found out, mounted as it needs to be, or refused by its name?"""

from __future__ import annotations

import json

from tests.san import job
from tests.san.bed.disk import Filesystem
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

AUTO = "options = nocheck, ro, nosuid, nodev\nfstype = auto\npartition = auto\n"
READ = "cat {0}/marker || cat {0}/etc/marker"


def explained(vm: Machine, iqn: str) -> str:
    """Return what `explain` says of a key."""
    return vm.run(["auto-iscsi", "explain", iqn], check=False).stdout


def test_every_kind_of_disk_of_one_target_at_once(vm: Machine, san: San) -> None:
    def fs(kind: str) -> Filesystem:
        return san.fs(kind, {"marker" if kind == "ntfs" else "etc/marker": f"{kind}\n"})

    efi = san.fs("vfat", {"EFI/BOOT/x": "x"}, label="ESP", efi=True)
    luns = {
        0: san.disk([fs("ext2")]),
        1: san.disk([fs("ext3"), san.fs("swap")], table="gpt"),
        2: san.disk(whole=fs("ext4")),
        3: san.disk([efi, fs("xfs")], table="gpt"),
        4: san.disk(whole=fs("btrfs")),
        5: san.disk([efi], table="gpt"),
        6: san.disk(whole=fs("iso9660")),
        7: san.disk([fs("squashfs")]),
        8: san.disk(whole=fs("ntfs")),
        300: san.disk([efi, fs("ext4")], block_size=4096, table="gpt"),
        301: san.disk([fs("ext4"), fs("ext3")]),
        302: san.disk(whole=san.fs("swap")),
        303: san.disk(whole=san.fs("")),
        304: san.disk(whole=san.fs("", size=40)),
        305: san.disk(whole=san.fs("", size=40)),
        306: san.disk(whole=san.fs("", size=40)),
    }
    vm.run(f"pvcreate -qq {luns[304].path} 2>&1 || (l=$(losetup -f --show {luns[304].path}); "
           "pvcreate -qq $l; losetup -d $l)")
    vm.run(f"echo secret | cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "
           f"{luns[305].path} -")
    vm.run(f"l=$(losetup -f --show {luns[306].path}); mdadm -q --create /dev/md9 --run --level=1 "
           "--force --raid-devices=1 --metadata=1.2 $l; mdadm -q --stop /dev/md9; losetup -d $l",
           timeout=120)
    san.target(job.BETA, luns)
    vm.discover()
    job.configure(vm, AUTO + "lun = all\nudev_timeout = 50s\n")
    vm.automount("--timeout=60 --negative-timeout=1")
    key = f"{job.ROOT}/{job.BETA}"
    assert vm.run(["cat", f"{key}/lun2/etc/marker"], user="user", timeout=120).stdout == "ext4\n"
    # Only what was entered is mounted.
    assert [m.point for m in vm.mounts(key) if m.fstype != "autofs"] == [f"{key}/lun2"]
    has_ntfs3 = vm.run("modprobe ntfs3", check=False).status == 0
    seen = {
        lun: vm.run(READ.format(f"{key}/lun{lun}") + " 2>/dev/null", user="user", check=False,
                    timeout=120).stdout
        for lun in (0, 1, 3, 4, 6, 7, 8, 300)
    }
    assert seen == {
        0: "ext2\n", 1: "ext3\n", 3: "xfs\n", 4: "btrfs\n", 6: "iso9660\n", 7: "squashfs\n",
        8: "ntfs\n" if has_ntfs3 else "", 300: "ext4\n",
    }
    assert vm.run(["ls", f"{key}/lun5/EFI/BOOT"], user="user", timeout=60).stdout == "X\n"
    there = set(vm.run(["ls", key], user="user").lines)
    assert there == {f"lun{n}" for n in (0, 1, 2, 3, 4, 5, 6, 7, *([8] if has_ntfs3 else []), 300)}
    mounted = {m.point[len(key) + 1:]: m for m in vm.mounts(key) if m.fstype != "autofs"}
    assert {"ro", "nosuid", "nodev"} <= set(mounted["lun3"].options)
    assert "nouuid" in mounted["lun3"].super
    # One line says what was left out, and why.
    (line,) = job.said(vm)
    for why in ("lun301 is left out", "more than one filesystem: 1: 8 MiB ext4, 2: 8 MiB ext3",
                "lun302 is left out", "is swap space", "lun303 is left out"):
        assert why in line, line
    whole = explained(vm, job.BETA)
    for why in ("is an LVM physical volume", "is LUKS encrypted", "a member of an md RAID",
                "swap space", "1: 8 MiB vfat 'ESP' (EFI system partition), 2: 300 MiB xfs"):
        assert why in whole, whole
    if not has_ntfs3:
        assert "this kernel has no ntfs3" in whole
    for active in ("dmsetup ls --target linear", "cat /proc/swaps | tail -n +2"):
        assert vm.run(active, check=False).stdout.strip() in ("", "No devices found"), active
    report = json.loads(vm.run(["auto-iscsi", "explain", "--json", job.BETA]).stdout)
    assert report["entry"].startswith("/lun0 -ro,") or "/lun0 -nocheck,ro" in report["entry"]


def test_what_is_meant_among_partitions(vm: Machine, san: San) -> None:
    """One visit after another, each with another configuration, of one session."""
    disk = san.disk([
        san.fs("vfat", label="ESP", efi=True),
        san.fs("ext4", {"marker": "root\n"}, label="root"),
        san.fs("ext3", {"marker": "home\n"}, label="home"),
    ], table="gpt")
    san.target(job.BETA, {5: disk})
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.configure(vm, AUTO + "lun = 5\n")
    line = job.refusal(vm, job.BETA)
    listed = ("1: 8 MiB vfat 'ESP' (EFI system partition), 2: 8 MiB ext4 'root', "
              "3: 8 MiB ext3 'home'")
    assert f"LUN 5 (sda) has more than one filesystem: {listed}" in line
    assert "set partition to one of the numbers, or to all" in line
    assert listed in explained(vm, job.BETA)

    job.configure(vm, AUTO.replace("partition = auto", "partition = 3") + "lun = 5\n")
    assert job.until(lambda: job.visit(vm, job.BETA, check=False).stdout) == "home\n"
    assert job.expired(vm, job.BETA)
    # With a type that is given, what is there of that type is meant.
    job.configure(vm, AUTO.replace("fstype = auto", "fstype = ext4") + "lun = 5\n")
    assert job.until(lambda: job.visit(vm, job.BETA, check=False).stdout) == "root\n"
    assert job.expired(vm, job.BETA)

    job.configure(vm, AUTO.replace("partition = auto", "partition = all") + "lun = 5\n")
    key = f"{job.ROOT}/{job.BETA}"
    seen = job.until(lambda: vm.run(f"ls {key}; cat {key}/p2/marker", user="user", check=False,
                                    timeout=60).stdout)
    assert seen.split() == ["p1", "p2", "p3", "root"]
    assert vm.run(["cat", f"{key}/p3/marker"], user="user").stdout == "home\n"
    # And all of it goes again, and comes again.
    assert job.until(lambda: not [m for m in vm.mounts(key) if m.fstype != "autofs"])
    assert job.until(lambda: vm.run(["cat", f"{key}/p3/marker"], user="user",
                                    check=False).stdout) == "home\n"
    assert len(vm.sessions(job.BETA)) == 1


def test_a_volume_and_its_snapshots_at_once(vm: Machine, san: San) -> None:
    uuid = "11111111-2222-3333-4444-555555555555"
    names = {kind: [f"{job.ARRAY}-{kind}-{n}" for n in range(2)] for kind in ("xfs", "btrfs")}
    for kind, (volume, snapshot) in names.items():
        for iqn in (volume, snapshot):
            san.target(iqn, [san.disk(whole=san.fs(kind, {"marker": f"{iqn}\n"}, uuid=uuid))])
    vm.discover()
    job.configure(vm, AUTO)
    vm.automount("--timeout=60 --negative-timeout=1")
    for iqn in names["xfs"]:
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
    first, second = names["btrfs"]
    assert job.visit(vm, first).stdout == f"{first}\n"
    release = tuple(int(part) for part in vm.run("uname -r").stdout.split(".")[:2])
    if release >= (6, 7):
        assert job.visit(vm, second).stdout == f"{second}\n"
    else:
        disk = job.session(vm, first).disks[0]
        line = job.refusal(vm, second)
        assert f"a btrfs with the same UUID is mounted from {disk}" in line and "6.7" in line
    for iqn in (*names["xfs"], first):
        mounted = job.mount(vm, iqn)
        assert mounted is not None
        assert mounted.source == f"/dev/{job.session(vm, iqn).disks[0]}"
