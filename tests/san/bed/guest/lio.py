"""Make, change and delete targets on this machine.

The target is the kernel's (LIO), used through configfs alone (/sys/kernel/config/target): each disk
is a fileio backstore, and each target has one portal group. `generate_node_acls` admits any
initiator, `demo_mode_write_protect` presents LUNs read-only, and `cache_dynamic_acls` keeps the
generated ACLs. The saved state has the target's modules loaded, but not the initiator's.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import Any

ROOT = "/sys/kernel/config/target"
DISKS = "/run/san"


def put(path: str, value: object) -> None:
    """Write one configfs attribute, without a newline: it would become part of a CHAP name."""
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError as error:
        raise OSError(f"{value!r} to {path}: {error}") from error


def group(iqn: str) -> str:
    """Return the configfs directory of a target's portal group."""
    return f"{ROOT}/iscsi/{iqn}/tpgt_1"


def backstore(disk: str) -> str:
    """Return the configfs directory of a disk."""
    emulated = f"{ROOT}/core/iblock_0/{disk}"
    return emulated if os.path.isdir(emulated) else f"{ROOT}/core/fileio_0/{disk}"


def load() -> None:
    """Load the kernel's target, once."""
    if not os.path.isdir(f"{ROOT}/iscsi"):
        modules = ["configfs", "target_core_mod", "target_core_file", "iscsi_target_mod"]
        subprocess.run(["modprobe", "-a", *modules], check=True)
        if not os.path.isdir(ROOT):
            subprocess.run(["mount", "-t", "configfs", "none", "/sys/kernel/config"], check=True)
        os.makedirs(f"{ROOT}/iscsi", exist_ok=True)


def unique(disk: str) -> str:
    """Return a serial number: disks without one have the same WWID, and multipathd joins them."""
    return hashlib.sha256(disk.encode()).hexdigest()[:32]


def add_disk(disk: str, block_size: int = 512, serial: str = "") -> str:
    """Make a disk of the file of that name below DISKS; return the file's path."""
    load()
    path, directory = f"{DISKS}/{disk}", backstore(disk)
    os.makedirs(directory)
    size = os.stat(path).st_size
    put(f"{directory}/control", f"fd_dev_name={path},fd_dev_size={size},fd_buffered_io=1")
    put(f"{directory}/wwn/vpd_unit_serial", serial or unique(disk))
    put(f"{directory}/enable", 1)
    put(f"{directory}/attrib/block_size", block_size)  # after enable, which resets it to 512
    return path


def add_emulated(disk: str, serial: str = "") -> str:
    """Make a disk with 512-byte sectors on physical ones of 4096 bytes (512e) from a file.

    There can be only one: it is the kernel's simulated disk (scsi_debug), which LIO passes on.
    """
    load()
    path = f"{DISKS}/{disk}"
    size = -(-os.stat(path).st_size // (1 << 20))
    before = set(os.listdir("/sys/block"))
    subprocess.run(["modprobe", "target_core_iblock"], check=True)
    subprocess.run(["modprobe", "scsi_debug", f"dev_size_mb={size}", "physblk_exp=3"], check=True)
    subprocess.run(["udevadm", "settle"], check=True)
    (node,) = set(os.listdir("/sys/block")) - before
    subprocess.run(["dd", f"if={path}", f"of=/dev/{node}", "bs=1M", "conv=fsync"], check=True)
    directory = f"{ROOT}/core/iblock_0/{disk}"
    os.makedirs(directory)
    put(f"{directory}/control", f"udev_path=/dev/{node}")
    put(f"{directory}/wwn/vpd_unit_serial", serial or unique(disk))
    put(f"{directory}/enable", 1)
    return f"/dev/{node}"


def map_lun(iqn: str, lun: int, disk: str) -> None:
    """Present a disk under a number; the initiator sees it at its next scan or login."""
    directory = f"{group(iqn)}/lun/lun_{lun}"
    os.mkdir(directory)
    os.symlink(backstore(disk), f"{directory}/{disk}")


def unmap_lun(iqn: str, lun: int) -> None:
    """Remove a LUN; the target stays."""
    directory = f"{group(iqn)}/lun/lun_{lun}"
    for name in os.listdir(directory):
        if os.path.islink(f"{directory}/{name}"):
            os.unlink(f"{directory}/{name}")
    os.rmdir(directory)


def add_target(
    iqn: str,
    portals: list[str],
    luns: dict[str, str],
    read_only: bool,
    chap: list[str] | None,
    mutual: list[str] | None,
) -> None:
    """Make a target with its portals and LUNs, and let initiators in."""
    load()
    directory = group(iqn)
    os.makedirs(directory)
    attributes = {
        "generate_node_acls": 1,
        "cache_dynamic_acls": 1,
        "demo_mode_write_protect": int(read_only),
        "authentication": int(chap is not None),
    }
    for name, value in attributes.items():
        put(f"{directory}/attrib/{name}", value)
    credentials(f"{directory}/auth", chap, mutual)
    for lun, disk in luns.items():
        map_lun(iqn, int(lun), disk)
    for portal in portals:
        os.mkdir(f"{directory}/np/{portal}")
    put(f"{directory}/enable", 1)


def credentials(directory: str, chap: list[str] | None, mutual: list[str] | None) -> None:
    """Set the CHAP name and secret of the initiator, and those of the target itself."""
    for suffix, pair in (("", chap), ("_mutual", mutual)):
        for name, value in zip(("userid", "password"), pair or ()):
            put(f"{directory}/{name}{suffix}", value)


def discovery_chap(chap: list[str], mutual: list[str] | None) -> None:
    """Require CHAP for discoveries at every portal: the kernel has one setting for all."""
    load()
    credentials(f"{ROOT}/iscsi/discovery_auth", chap, mutual)
    put(f"{ROOT}/iscsi/discovery_auth/enforce_discovery_auth", 1)


def enable(iqn: str, on: bool) -> None:
    """Admit initiators, or end their sessions and answer their logins with 03/01."""
    put(f"{group(iqn)}/enable", int(on))


def delete_target(iqn: str) -> None:
    """Delete a target and everything but its disks."""
    directory = group(iqn)
    put(f"{directory}/enable", 0)
    for portal in os.listdir(f"{directory}/np"):
        os.rmdir(f"{directory}/np/{portal}")
    for name in os.listdir(f"{directory}/lun"):
        unmap_lun(iqn, int(name.removeprefix("lun_")))
    os.rmdir(directory)
    os.rmdir(os.path.dirname(directory))


def initiators(iqn: str) -> list[str]:
    """Return the names of the initiators that have a session, one for each session."""
    with open(f"{group(iqn)}/dynamic_sessions", encoding="ascii") as file:
        return file.read().replace("\0", "").split()


CALLS: dict[str, Any] = {
    "load_target": load,
    "add_disk": add_disk,
    "add_emulated": add_emulated,
    "add_target": add_target,
    "enable": enable,
    "delete_target": delete_target,
    "map_lun": map_lun,
    "unmap_lun": unmap_lun,
    "initiators": initiators,
    "discovery_chap": discovery_chap,
}
