"""List the guest's sessions, disks and mounts, and record them.

Everything is read from sysfs, procfs and udev's database; no program is started, so this does not
disturb what a test measures. The files `username` and `password` of a session have CHAP secrets and
are never read.
"""

from __future__ import annotations

import os
from typing import Any

SECRET = {"username", "password", "username_in", "password_in"}
SESSIONS = "/sys/class/iscsi_session"
#: Directories and attributes that auto-iscsi does not read or that change at every read.
DULL = {
    "power",
    "trace",
    "integrity",
    "bsg",
    "scsi_device",
    "scsi_disk",
    "scsi_generic",
    "mq",
    "bdi",
    "driver",
    "generic",
    "stat",
    "inflight",
    "iocounterbits",
    "iodone_cnt",
    "diskseq",
    "iorequest_cnt",
    "ioerr_cnt",
    "iotmo_cnt",
    "vpd_pg0",
    "vpd_pg83",
    "vpd_pgb0",
    "vpd_pgb1",
    "vpd_pgb2",
    "inquiry",
    "rescan",
    "delete",
    "exp_statsn",
    "local_port",
    "modalias",
}
DULL_BEGINNINGS = ("evt_", "discard_", "events", "max_", "io_", "zone")
QUEUE = {"logical_block_size", "physical_block_size", "rotational"}


def text(path: str) -> str | None:
    """Return a file's text without its last newline, None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace").rstrip("\n")
    except OSError:
        return None


def exact(path: str) -> Any:
    """Return a file's content for a recording: text or {"hex": …}, None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}


def names(path: str) -> list[str]:
    """Return a directory's entries, sorted; [] if it does not exist."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def disks(session: str) -> dict[str, str]:
    """Return the session's disks by LUN."""
    disks_by_lun = {}
    device = f"{SESSIONS}/{session}/device"
    for target in (name for name in names(device) if name.startswith("target")):
        for address in (name for name in names(f"{device}/{target}") if name.count(":") == 3):
            for disk in names(f"{device}/{target}/{address}/block"):
                disks_by_lun[address.rsplit(":", 1)[1]] = disk
    return disks_by_lun


def sessions() -> list[dict[str, Any]]:
    """Return the initiator's sessions, oldest first."""
    listed = []
    for session in sorted(names(SESSIONS), key=lambda name: int(name.removeprefix("session"))):
        number = session.removeprefix("session")
        connection = f"/sys/class/iscsi_connection/connection{number}:0"
        listed.append(
            {
                "number": int(number),
                "target": text(f"{SESSIONS}/{session}/targetname"),
                "state": text(f"{SESSIONS}/{session}/state"),
                "address": text(f"{connection}/persistent_address"),
                "port": text(f"{connection}/persistent_port"),
                "disks": disks(session),
            }
        )
    return listed


def mounts() -> list[dict[str, str]]:
    """Return the mounts in /proc/self/mountinfo, with octal escapes decoded."""
    listed = []
    for line in (text("/proc/self/mountinfo") or "").splitlines():
        before, after = line.split(" - ", 1)
        fields, (fstype, source, superblock) = before.split(" "), after.split(" ", 2)
        plain = {
            name: value.encode().decode("unicode_escape")
            for name, value in {"point": fields[4], "source": source}.items()
        }
        listed.append({"options": fields[5], "fstype": fstype, "super": superblock, **plain})
    return listed


def blocked() -> None:
    """Have the kernel list the tasks in D state on the console (sysrq w)."""
    with open("/proc/sysrq-trigger", "w", encoding="ascii") as file:
        file.write("w\n")


def folder(root: str, tree: dict[str, Any], depth: int) -> None:
    """Add a directory's readable attributes, links and subdirectories to a recorded tree."""
    inside = [
        name
        for name in names(root)
        if name not in SECRET | DULL and not name.startswith(DULL_BEGINNINGS)
    ]
    if not inside:
        tree[root] = None
    for name in inside:
        path = f"{root}/{name}"
        if root.endswith("/queue") and name not in QUEUE:
            continue
        if os.path.islink(path):
            tree[path] = {"link": os.readlink(path)}
        elif os.path.isdir(path):
            if depth:
                folder(path, tree, depth - 1)
        elif (content := exact(path)) is not None:
            tree[path] = content


def record() -> dict[str, Any]:
    """Return everything that auto-iscsi reads of sessions and disks: path → text or link."""
    tree: dict[str, Any] = {}
    for kind in ("iscsi_session", "iscsi_connection", "iscsi_host"):
        for name in names(f"/sys/class/{kind}"):
            path = f"/sys/class/{kind}/{name}"
            real = os.path.realpath(path)
            tree[path] = {"link": os.readlink(path)}
            tree[f"{real}/device"] = {"link": os.readlink(f"{real}/device")}
            folder(real, tree, 0)
    for session in names(SESSIONS):
        device = os.path.realpath(f"{SESSIONS}/{session}/device")
        for target in (name for name in names(device) if name.startswith("target")):
            folder(f"{device}/{target}", tree, 5)
    for path in [path for path in tree if "/block/" in path and path.endswith("/dev")]:
        block(os.path.dirname(path), tree[path].strip(), tree)
    for name in names("/dev/disk/by-path"):
        if "-iscsi-" in name:
            path = f"/dev/disk/by-path/{name}"
            tree[path] = {"link": os.readlink(path)}
    for nodes in ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes"):
        if not os.path.islink(nodes):
            folder(nodes, tree, 3)
    tree["/proc/self/mountinfo"] = exact("/proc/self/mountinfo")
    return {path: without_secrets(path, content) for path, content in sorted(tree.items())}


def block(real: str, number: str, tree: dict[str, Any]) -> None:
    """Add the other names of a disk or partition, and its entry in udev's database."""
    for link in (f"/sys/dev/block/{number}", f"/sys/class/block/{os.path.basename(real)}"):
        tree[link] = {"link": os.path.relpath(real, os.path.dirname(link))}
    if (database := exact(f"/run/udev/data/b{number}")) is not None:
        tree[f"/run/udev/data/b{number}"] = database


def without_secrets(path: str, content: Any) -> Any:
    """Drop the CHAP lines of a node record."""
    if "/iscsi/nodes/" not in path or not isinstance(content, str):
        return content
    return "".join(
        line
        for line in content.splitlines(keepends=True)
        if not line.startswith(("node.session.auth.username", "node.session.auth.password"))
    )


CALLS: dict[str, Any] = {
    "sessions": sessions,
    "mounts": mounts,
    "blocked": blocked,
    "record": record,
}
