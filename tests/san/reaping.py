"""Run the reaper on the machine, and list what sessions have left there."""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine, Result

#: A configuration under which a session may end after two seconds. The timeouts are long: udev is
#: slow in a QEMU without KVM.
QUICK = """portals = 127.0.0.1
idle = 0
lease = 2s
replacement_timeout = 5s
udev_timeout = 60s
lookup_timeout = 3m
"""
#: Lists the files of targets: claims, locks, caches, iscsiadm's output.
KEPT = (
    "find /run/auto-iscsi -path '*/*/*/*/*' -type f ! -path '*/offered/*' ! -path '*/snapshots/*'"
)
#: What a host shows without a snapshot: no device of ours, no store, no disk.
LEFT = (
    "dmsetup ls | sort; losetup --list --noheadings; ls -A /var/tmp | grep -v systemd-private;"
    " lsblk -dno NAME | grep ^sd; iscsiadm -m session"
)


def reap(vm: Machine, *words: str, check: bool = True) -> Result:
    """Run the reaper as an administrator does."""
    return vm.run(["auto-iscsi", "reap", *words], check=check, timeout=180)


def decision(vm: Machine, iqn: str) -> str:
    """Return the reaper's line about a target: its session, the decision and the reason."""
    (line,) = [line for line in reap(vm, "--dry-run").lines if line.startswith(f"{iqn} ")]
    return line


def leftovers(vm: Machine) -> str:
    """List the sessions, links, node records, files of targets and disks that exist."""
    return vm.run(
        "ls /sys/class/iscsi_session 2>/dev/null; ls /dev/disk/by-path | grep iscsi;"
        "find -L /etc/iscsi/nodes /var/lib/iscsi/nodes -type f 2>/dev/null;"
        f"{KEPT}; lsblk -dno NAME | grep ^sd",
        check=False,
    ).stdout


def left(vm: Machine) -> str:
    """List what an overlay, a logical volume or a session leaves."""
    return vm.run(LEFT, check=False).stdout


def is_cleared(vm: Machine, before: str) -> bool:
    """Run the reaper until nothing is left; say whether that was reached within a minute."""

    def is_as_before() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return left(vm) == before

    return job.until(is_as_before)


def all_ended(vm: Machine, seconds: float = 60) -> bool:
    """Run the reaper until no session is left; say whether that was reached in time."""
    return bool(
        job.until(
            lambda: vm.run("auto-iscsi reap; iscsiadm -m session", check=False, timeout=120).status,
            seconds,
        )
    )


def all_unmounted(vm: Machine, iqn: str) -> bool:
    """Wait until automount has unmounted a key with all that is below it."""
    return job.until(
        lambda: all(each.fstype == "autofs" for each in vm.mounts(f"{job.ROOT}/{iqn}"))
    )
