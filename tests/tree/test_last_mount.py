"""The visit after a mount that failed says so in the log, with the kernel's words."""

from __future__ import annotations

import os
import time

import pytest

from auto_iscsi.iscsi import claims
from tests.tree import kernel
from tests.tree.machine import VOL1, Machine

ROOT = "40 22 0:38 / {root}/iscsiauto rw - autofs /etc/auto.iscsi rw,pgrp={group},timeout={seconds}"
MOUNTED = "\n42 40 8:17 / {root}/{point} ro - ext3 /dev/sdb1 ro"
SAID = "the last mount of it failed or did not last"
BAD = "EXT4-fs (sdb1): couldn't mount RDWR because of unsupported optional features (40000000)"
GOOD = "EXT4-fs (sdb1): mounted filesystem with ordered data mode. Quota mode: none."
GONE = "EXT4-fs (sdb1): unmounting filesystem."


def automount(machine: Machine, seconds: int = 300, group: int = 0, point: str = "") -> None:
    """Have /iscsiauto served by the automount that starts our lookups."""
    text = ROOT + (MOUNTED if point else "")
    group = group or os.getpgrp()
    text = text.format(root=machine.root, group=group, seconds=seconds, point=point)
    kernel.write(str(machine.root), "/proc/self/mountinfo", text)


def say(machine: Machine, *lines: tuple[int, str], ago: float = 0.0) -> None:
    """Have the kernel log lines, each with its level."""
    at = int((time.monotonic() - ago) * 1e6)
    text = "".join(f"{level},{n},{at},-;{line}\n" for n, (level, line) in enumerate(lines))
    kernel.write(str(machine.root), "/dev/kmsg", text)


def visited(machine: Machine, ago: float = 60.0) -> None:
    """Have a visit lie back by some time."""
    machine.target(VOL1)
    automount(machine)
    lookup = machine.start(VOL1)
    assert not lookup.answer().log
    machine.age(VOL1, ago)


def test_it_names_what_the_kernel_said(machine: Machine) -> None:
    visited(machine)
    others = ((6, "sd 2:0:0:0: [sdb] Attached SCSI disk"), (3, "XFS (sdc1): log mount failed"))
    say(machine, *others, (4, "EXT4-fs (sdb1): \x1b[2J"), (3, BAD), (6, " sdb: sdb1"))
    answer = machine.lookup(VOL1)
    assert answer.status == 0 and answer.entry
    said = f"{SAID}; the kernel said: EXT4-fs (sdb1): ?[2J / {BAD}"
    assert answer.log == f"{VOL1}: {said}; try fstype = auto"


@pytest.mark.parametrize("log", [True, False], ids=["nothing-said", "no-log"])
def test_where_the_kernel_said_nothing_it_names_dmesg(machine: Machine, log: bool) -> None:
    visited(machine)
    if log:
        say(machine, (3, BAD), ago=2000)
    assert machine.lookup(VOL1).log == f"{VOL1}: {SAID}; dmesg says why"


def test_what_was_mounted_and_failed_later_is_named_too(machine: Machine) -> None:
    visited(machine)
    say(machine, (6, GOOD), (2, "EXT4-fs error (device sdb1): unable to read block"), (3, BAD))
    assert "unable to read block / EXT4-fs (sdb1): couldn't" in machine.lookup(VOL1).log


@pytest.mark.parametrize(
    "lines",
    [[(6, GOOD)], [(3, BAD), (4, "EXT4-fs (sdb1): old"), (6, GOOD), (6, GONE)]],
    ids=["mounted", "unmounted"],
)
def test_a_mount_that_somebody_had_expire_is_no_failure(
    machine: Machine, lines: list[tuple[int, str]]
) -> None:
    visited(machine)
    say(machine, *lines)
    machine.visit(VOL1)


@pytest.mark.parametrize(
    "after",
    ["expired", "unmounted", "restarted", "by-hand", "used", "elsewhere", "mounted", "long-ago"],
)
def test_nothing_is_said_where_the_mount_may_have_worked(machine: Machine, after: str) -> None:
    visited(machine)
    say(machine, (3, BAD))
    if after == "expired":
        automount(machine, seconds=59)
    elif after == "unmounted":  # umount leaves the directory that automount made
        machine.files({f"/iscsiauto/{VOL1}": None})
    elif after == "restarted":
        automount(machine, group=1)
    elif after == "by-hand":  # auto-iscsi lookup, as the administrator tries it
        claim = machine.claim(VOL1)
        claims.write(machine.host, VOL1, claim._replace(asked_by=1))
    elif after == "used":
        claim = machine.claim(VOL1)
        claims.write(machine.host, VOL1, claim._replace(used=claim.looked_up + 1))
    elif after == "elsewhere":
        automount(machine, point="mnt")
    elif after == "mounted":  # a restarted automount asks for what is mounted
        automount(machine, point=f"iscsiauto/{VOL1}")
    elif after == "long-ago":
        automount(machine, seconds=900)
        machine.age(VOL1, 300)
    machine.visit(VOL1)


def test_of_several_filesystems_each_is_mounted_later(machine: Machine) -> None:
    machine.configure("lun = all\n")
    machine.target(VOL1, luns={number: {"partitions": {"1": None}} for number in (0, 1)})
    automount(machine)
    assert machine.visit(VOL1).startswith("/lun0 ")
    machine.age(VOL1, 60.0)
    say(machine, (3, BAD))
    machine.visit(VOL1)
