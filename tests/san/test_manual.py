"""Each configuration in the manual page's EXAMPLES does on real targets what the page says."""

from __future__ import annotations

import pytest

from tests import manual
from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San

pytestmark = pytest.mark.shared

SNAPSHOTS = "iqn.2001-05.com.example:san"
#: The portals of the manual page, and those of this SAN.
HERE = {"10.0.0.1": "127.0.0.1", "10.0.0.2": "127.0.0.2", "10.0.1.1": "127.0.0.2"}
#: Longer timeouts for the emulation; the rest is as the manual page has it.
SLOW = "udev_timeout = 60s\nlookup_timeout = 4m\n"


def shown(introduction: str) -> str:
    """Return a worked configuration, for the addresses of this SAN."""
    text = manual.worked()[introduction]
    for shown_address, address in HERE.items():
        text = text.replace(shown_address, address)
    return SLOW + text


def test_one_path_to_each(vm: Machine, san: San) -> None:
    """All examples but the one with two portals, one after the other."""

    def disk(kind: str, content: str, *, whole: bool = False) -> LiveDisk:
        made = san.fs(kind, {"marker": f"{content}\n"})
        return san.disk(whole=made) if whole else san.disk([made])

    names = {
        name: f"{SNAPSHOTS}-{name}"
        for name in (
            "script",
            "found",
            "modern",
            "ext4-1",
            "xfs-1",
            "db-1",
            "other",
            "flat-1",
            "payroll-1",
        )
    }
    efi = san.fs("vfat", label="ESP", efi=True)
    root = san.fs("xfs", {"marker": "modern\n"})
    disks = {
        "script": disk("ext3", "script"),
        "found": disk("ext4", "found"),
        "modern": san.disk([efi, root], table="gpt"),
        "ext4-1": disk("ext4", "ext4-1"),
        "xfs-1": disk("xfs", "xfs-1", whole=True),
        "db-1": disk("ext4", "db-1"),
        "other": disk("btrfs", "other", whole=True),
        "flat-1": disk("ext3", "flat-1", whole=True),
        "payroll-1": disk("ext3", "payroll-1"),
    }
    for name, iqn in names.items():
        san.target(iqn, [disks[name]])
    vm.discover()
    job.forget(vm, names["found"])
    vm.automount("--timeout=600 --negative-timeout=1")

    def mounted(name: str) -> tuple[str, set[str]]:
        """Visit a snapshot; return its type and the options of its mount."""
        assert job.visit(vm, names[name]).stdout == f"{name}\n"
        mount = job.mount(vm, names[name])
        assert mount is not None
        return mount.fstype, {*mount.options.split(","), *mount.super.split(",")}

    def node(name: str) -> str:
        return f"/dev/{job.session(vm, names[name]).disks[0]}"

    job.configure(vm, shown("What the bash script did"))
    kind, options = mounted("script")
    assert kind == "ext3" and "ro" in options and "nosuid" not in options
    entry = vm.run(["auto-iscsi", "lookup", names["script"]]).stdout
    assert entry == f"-nocheck,ro,fstype=ext3 :{node('script')}1\n"

    job.configure(vm, shown("A host for browsing"))
    kind, options = mounted("found")
    assert kind == "ext4" and {"ro", "nosuid", "nodev", "noexec"} <= options

    job.configure(vm, shown("A modern host for browsing"))
    kind, options = mounted("modern")
    assert kind == "xfs" and {"ro", "nosuid", "nodev", "nouuid"} <= options
    assert vm.run(["blockdev", "--getro", node("modern")]).stdout == "1\n"

    job.configure(vm, shown("A SAN with mixed volumes"))
    assert mounted("ext4-1")[0] == "ext4"
    kind, options = mounted("xfs-1")
    assert kind == "xfs" and "nouuid" in options
    assert mounted("other")[0] == "btrfs"
    assert vm.run(["blockdev", "--getro", node("other")]).stdout == "1\n"
    assert mounted("db-1")[0] == "ext4"
    assert vm.run(["blockdev", "--getro", node("db-1")]).stdout == "0\n"

    job.configure(vm, shown("Disks without a partition table"))
    assert mounted("flat-1")[0] == "ext3"
    assert "enabled = no" in job.refusal(vm, names["payroll-1"])
    assert vm.sessions(names["payroll-1"]) == []


def test_a_host_with_two_portals(vm: Machine, san: San) -> None:
    job.start_multipathd(vm)
    san.target(job.BETA, portals=["127.0.0.1", "127.0.0.2"])
    job.configure(vm, shown("A host with two portals"))
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    assert len(vm.sessions(job.BETA)) == 2
    mount = job.mount(vm, job.BETA)
    assert mount and mount.source.startswith("/dev/mapper/")
    seen = vm.run("cat /sys/class/iscsi_session/*/recovery_tmo").lines
    assert seen == ["5", "5"]
