"""Make the files that the kernel and udev make for a session, below a root directory.

The folders, files and links are those of a real kernel (compare recorded/). The fake iscsiadm uses
this module when it logs in, and a test for what exists before. A copy of it lies in the folder of
the test, so it imports only the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

SESSIONS = "/sys/class/iscsi_session"
CONNECTIONS = "/sys/class/iscsi_connection"
BY_PATH = "/dev/disk/by-path"
BY_ID = "/dev/disk/by-id"
WWID = "36001405aaaaaaaaaaaaaaaaaaaaaaaa"

#: Partition numbers, each with its MAJOR:MINOR; None: the number that follows from the disk's.
Partitions = Mapping[str, Optional[str]]


class Disk(NamedTuple):
    """A disk that the kernel has found."""

    name: str  #: sdb
    lun: int  #: as the kernel counts it
    path: str  #: in sysfs
    link: str  #: its by-path link's name


def write(root: str, name: str, text: str) -> None:
    """Write a file in one step, as an attribute in sysfs changes."""
    path = f"{root}{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
    os.rename(f"{path}.new", path)


def read(root: str, name: str) -> str:
    """Return a file's text."""
    with open(f"{root}{name}", encoding="utf-8") as file:
        return file.read().strip()


def link(root: str, name: str, to: str) -> None:
    """Make a link, or replace it."""
    path = f"{root}{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.symlink(to, path)


@contextlib.contextmanager
def alone(root: str) -> Iterator[None]:
    """Let one process at a time add, remove or list sessions and disks, as a kernel does."""
    os.makedirs(f"{root}/san", exist_ok=True)
    with open(f"{root}/san/kernel.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_session(
    root: str, target: str, address: str, port: int, tpgt: int, state: str = "LOGGED_IN"
) -> int:
    """Have a session and its connection appear; return its number."""
    with alone(root):
        used = os.listdir(f"{root}/san/sessions") if os.path.isdir(f"{root}/san/sessions") else []
        sid = 1 + max((int(name) for name in used), default=0)
        os.makedirs(f"{root}/san/sessions/{sid}")
        device = f"/sys/devices/platform/host{sid + 1}/session{sid}"
        session = f"{device}/iscsi_session/session{sid}"
        connection = f"{device}/connection{sid}:0/iscsi_connection/connection{sid}:0"
        link(root, f"{session}/device", f"../../../session{sid}")
        link(root, f"{SESSIONS}/session{sid}", f"../../devices{session[len('/sys/devices') :]}")
        # Group and state come last: while its login is under way, a session has neither.
        write(root, f"{session}/recovery_tmo", "120")
        write(root, f"{session}/targetname", target)
        for name, value in (("address", address), ("port", f"{port}")):
            write(root, f"{connection}/{name}", value)
            write(root, f"{connection}/persistent_{name}", value)
        link(
            root,
            f"{CONNECTIONS}/connection{sid}:0",
            f"../../devices{connection[len('/sys/devices') :]}",
        )
        write(root, f"{session}/tpgt", f"{tpgt}")
        write(root, f"{session}/state", state)
    return sid


def set_state(root: str, sid: int, state: str) -> None:
    """Change a session's state: LOGGED_IN, FAILED or FREE."""
    write(root, f"{SESSIONS}/session{sid}/state", state)


def _name(number: int) -> str:
    return "sd" + chr(ord("a") + number)


def _block(root: str) -> dict[str, str]:
    """Return the folder in sysfs of each disk, by the disk's name."""
    paths = {}
    for session in os.listdir(f"{root}{SESSIONS}"):
        device = f"{SESSIONS}/{session}/device"
        for target in os.listdir(f"{root}{device}"):
            for unit in os.listdir(f"{root}{device}/{target}") if target[:6] == "target" else ():
                block = f"{device}/{target}/{unit}/block"
                for name in os.listdir(f"{root}{block}") if os.path.isdir(f"{root}{block}") else ():
                    paths[name] = f"{block}/{name}"
    return paths


def add_disk(root: str, sid: int, lun: int, kind: str = "0", number: str | None = None) -> Disk:
    """Have a LUN appear, as the first free sdX, without its partitions; sda is the host's own."""
    with alone(root):
        taken = _block(root)
        index = next(n for n in range(1, 26) if _name(n) not in taken)
        name = _name(index)
        unit = f"{sid + 1}:0:0:{lun}"
        path = f"{SESSIONS}/session{sid}/device/target{sid + 1}:0:0/{unit}"
        write(root, f"{path}/type", kind)
        write(root, f"{path}/state", "running")
        write(root, f"{path}/delete", "")
        os.makedirs(f"{root}{path}/block/{name}")
    disk = f"{path}/block/{name}"
    major, minor = (8, 16 * index) if index < 16 else (65, 16 * (index - 16))
    write(root, f"{disk}/dev", number or f"{major}:{minor}")
    write(root, f"{disk}/size", "204800")
    _node(root, name, number)
    return Disk(name, lun, disk, by_path(root, sid, lun))


def by_path(root: str, sid: int, lun: int) -> str:
    """Return the name of a LUN's link (systemd src/udev/udev-builtin-path_id.c)."""
    connection = f"{CONNECTIONS}/connection{sid}:0"
    place = f"{read(root, f'{connection}/persistent_address')}:" + read(
        root, f"{connection}/persistent_port"
    )
    shown = f"{lun}" if lun < 256 else f"0x{lun & 0xFFFF:04x}{lun >> 16:04x}00000000"
    return f"ip-{place}-iscsi-{read(root, f'{SESSIONS}/session{sid}/targetname')}-lun-{shown}"


def add_partitions(root: str, disk: Disk, partitions: Partitions) -> None:
    """Have the kernel read a disk's partition table."""
    major, minor = read(root, f"{disk.path}/dev").split(":")
    for part, number in partitions.items():
        path = f"{disk.path}/{disk.name}{part}"
        write(root, f"{path}/dev", number or f"{major}:{int(minor) + int(part)}")
        write(root, f"{path}/partition", part)
        _node(root, f"{disk.name}{part}", number)


def announce(root: str, disk: Disk, partitions: Partitions) -> None:
    """Have udev record a disk and its partitions in its database, and make their links."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{root}/run/udev/queue")
    present = {"": (disk.name, disk.link, disk.path)}
    for part in partitions:
        name = f"{disk.name}{part}"
        present[part] = (name, f"{disk.link}-part{part}", f"{disk.path}/{name}")
    for name, by, path in present.values():
        udev_knows(root, read(root, f"{path}/dev"), by)
        if len(f"{by}.tmp-b8:17") <= 255:  # the name under which udev first makes a link
            link(root, f"{BY_PATH}/{by}", f"../../{name}")


def udev_knows(root: str, number: str, by: str) -> None:
    """Have udev's database say which by-path link a device has."""
    text = f"S:disk/by-path/{by}\nI:4711\nE:ID_BUS=scsi\nE:ID_PATH={by}\nG:systemd\nQ:systemd\nV:1"
    write(root, f"/run/udev/data/b{number}", text)


def join(root: str, disks: Sequence[Disk], partitions: Partitions, node: str = "dm-0") -> None:
    """Have multipathd make a map of disks: their partitions go, and kpartx makes the map's."""
    import shutil

    write(root, "/run/udev/queue", "")  # udev is working
    number = int(node[len("dm-") :])
    names = {"": node, **{part: f"dm-{number + int(part)}" for part in partitions}}
    for part, name in names.items():
        uuid = f"part{part}-mpath-{WWID}{number}" if part else f"mpath-{WWID}{number}"
        write(root, f"/sys/block/{name}/dm/uuid", uuid)
        write(root, f"/sys/block/{name}/dev", f"253:{name[len('dm-') :]}")
        write(root, f"/sys/block/{name}/size", "204800")
        if part:
            os.makedirs(f"{root}/sys/block/{node}/holders/{name}")
            link(root, f"/sys/block/{name}/slaves/{node}", f"../../{node}")
        link(root, f"{BY_ID}/dm-uuid-{uuid}", f"../../{name}")
        write(root, f"/run/udev/data/b253:{name[len('dm-') :]}", f"S:disk/by-id/dm-uuid-{uuid}")
    for disk in disks:
        os.makedirs(f"{root}{disk.path}/holders/{node}")
        slave = f"/sys/block/{node}/slaves/{disk.name}"
        link(root, slave, f"../../..{disk.path[len('/sys') :]}")
        for part in partitions:
            shutil.rmtree(f"{root}{disk.path}/{disk.name}{part}")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{root}{BY_PATH}/{disk.link}-part{part}")
    os.unlink(f"{root}/run/udev/queue")


def remove_deleted(root: str, sid: int) -> None:
    """Have the disks of a session go that somebody has deleted in sysfs, and udev's links."""
    import shutil

    with alone(root):
        for name, path in _block(root).items():
            unit = path.rpartition("/block/")[0]
            if f"/session{sid}/" in path and read(root, f"{unit}/delete") == "1":
                _forget(root, name, path)
                shutil.rmtree(f"{root}{unit}")


def close_session(root: str, sid: int, udev: bool = True) -> None:
    """Have a session and its disks disappear; without `udev`, udev has not noticed yet."""
    import shutil  # slow to import, and most runs of iscsiadm do not need it

    if not udev:
        write(root, "/run/udev/queue", "")
    with alone(root):
        disks = [(name, path) for name, path in _block(root).items() if f"/session{sid}/" in path]
        for name, path in disks if udev else ():
            _forget(root, name, path)
        os.unlink(f"{root}{SESSIONS}/session{sid}")
        os.unlink(f"{root}{CONNECTIONS}/connection{sid}:0")
        shutil.rmtree(f"{root}/sys/devices/platform/host{sid + 1}")


def _forget(root: str, name: str, path: str) -> None:
    """Have udev remove the nodes and links of a disk, and what it knows of it."""
    parts = [entry for entry in os.listdir(f"{root}{path}") if entry.startswith(name)]
    for node in (name, *parts):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{root}/dev/{node}")
    for inner in [path, *(f"{path}/{part}" for part in parts)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{root}/run/udev/data/b{read(root, f'{inner}/dev')}")
    for by in os.listdir(f"{root}{BY_PATH}"):
        leads = os.path.basename(os.readlink(f"{root}{BY_PATH}/{by}"))
        if leads in (name, *parts):
            os.unlink(f"{root}{BY_PATH}/{by}")


def _node(root: str, name: str, number: str | None) -> None:
    """Make a device node: of a device of this machine, or without a number a plain file."""
    if not number:
        write(root, f"/dev/{name}", "")
    else:
        major, minor = map(int, number.split(":"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{root}/dev/{name}")
        os.mknod(f"{root}/dev/{name}", stat.S_IFBLK | 0o660, os.makedev(major, minor))
