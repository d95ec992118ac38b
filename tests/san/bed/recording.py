"""Record /sys of a real initiator for tests that run without a machine.

Each scene is played in a booted guest. Then everything that auto-iscsi reads of sessions and disks
is recorded: sysfs, udev's database, by-path links, node records, mountinfo. There is one JSON file
per scene: path → text, {"hex": …} if it is not UTF-8, {"link": target}, or null for an empty
directory. CHAP names and secrets are never read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from . import demo, layers, progress
from .machine import Machine
from .san import San

VENDOR = "iqn.2001-05.com.equallogic:0-8a0906"


def login(vm: Machine, *iqns: str) -> None:
    """Log in to targets, and wait for udev."""
    for iqn in iqns:
        vm.run(["iscsiadm", "-m", "node", "-T", iqn, "--login"])
    vm.run("udevadm settle")


def known(vm: Machine, san: San) -> None:
    """Play a scene: node records of three snapshots, no session."""
    demo.present(san)
    vm.discover()


def mounted(vm: Machine, san: San) -> None:
    """Play a scene: a session with one of three snapshots, its partition mounted."""
    known(vm, san)
    login(vm, demo.BETA)
    (session,) = vm.sessions()
    where = f"/iscsiauto/{demo.BETA}"
    vm.run(
        f"mkdir -p /iscsiauto; systemctl stop autofs; mkdir -p {where};"
        f"mount -o ro -t ext3 /dev/{session.disks[0]}1 {where}"
    )


def many(vm: Machine, san: San) -> None:
    """Play a scene: names with a common prefix, LUNs, tables, filesystems, IPv6, two portals."""
    san.target(f"{VENDOR}-vol1", [san.disk([san.fs("ext4"), san.fs("xfs")], table="gpt")])
    san.target(
        f"{VENDOR}-vol10",
        {
            0: san.disk(whole=san.fs("ext4", label="whole")),
            1: san.disk([san.fs("btrfs")]),
            300: san.disk([san.fs("")]),
        },
    )
    san.target(f"{VENDOR}-v6", portals=["[::1]:3261"])
    san.target(f"{VENDOR}-two", portals=["127.0.0.1", "127.0.0.2"])
    vm.discover()
    vm.discover("[::1]:3261")
    login(vm, *(f"{VENDOR}-{name}" for name in ("vol1", "vol10", "v6", "two")))


def failed(vm: Machine, san: San) -> None:
    """Play a scene: a session whose target was revoked."""
    mounted(vm, san)
    san.targets[demo.BETA].revoke()
    vm.run("until grep -q FAILED /sys/class/iscsi_session/*/state; do sleep 0.2; done")


SCENES: dict[str, Callable[[Machine, San], None]] = {
    "known": known,
    "mounted": mounted,
    "many": many,
    "failed": failed,
}


def run(directory: Path, suite: str | None) -> int:
    """Play and record every scene."""
    layer = layers.booted(suite)
    directory.mkdir(parents=True, exist_ok=True)
    for name, play in SCENES.items():
        with layer.resumed() as vm:
            play(vm, San(vm))
            tree = vm.call("record")
        path = directory / f"{layer.suite}-{name}.json"
        path.write_text(json.dumps(tree, indent=0, sort_keys=True, ensure_ascii=False) + "\n")
        progress.say(f"{path}: {len(tree)} files and links, {path.stat().st_size // 1024} KiB")
    return 0
