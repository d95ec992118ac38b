"""Lay a writable overlay over a filesystem, and replay its journal there and not on the LUN.

A dm-snapshot (kernel Documentation/admin-guide/device-mapper/snapshot.rst) reads from the LUN, and
keeps in a store what is written to it. It opens the LUN for reading only. The steps: make the
store, make the device, mount the filesystem once in a mount namespace of its own, so that the
kernel replays the journal, and make the device read-only. automount then mounts a clean filesystem
that nothing can change any more. An overlay that is not read-only yet was left by a lookup that was
killed: its replay is waited for. Then it is finished, or removed and made anew.

The store is a sparse file without a name behind a loop device that the kernel frees with its last
user (LO_FLAGS_AUTOCLEAR). So the device-mapper device is the only thing that has to be removed.
dmsetup keeps the loop device open, too: when a lookup is killed, the device's number must not be
given to another store before dmsetup has used it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from auto_iscsi import errors
from auto_iscsi.disks import our_devices
from auto_iscsi.iscsi import claims
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager
from auto_iscsi.machine import bounded
from auto_iscsi.volumes import device_mapper, mount_options, superblock
from auto_iscsi.volumes.device_mapper import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auto_iscsi.disks.scsi_disks import Device
    from auto_iscsi.machine.host import Host

_SECTOR = 512  # bytes; the unit of device-mapper's tables
_CHUNK = 128  # sectors: what is copied to the store at a time; reads are cut at its end
_XFS_CHUNK = 32  # the same where a replay writes in many places, and the store would grow
LEAST_ROOM = 32 << 20  # bytes that the store of a larger device has to have
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A  # linux/loop.h
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_CONFIG = "=II 52x I 176x 64x"  # struct loop_config: descriptor, block size, lo_flags
_PROBE_TIME = 2.0  # seconds that an overlay gets to let itself be opened
_REPLAY_STEP = 0.2  # seconds between two looks whether a replay has ended
_TRIES = 20  # times another program may take the free loop device before we do


class Store(NamedTuple):
    """Where the stores of overlays are kept."""

    folder: str
    keep_free: int  #: percent of the folder's filesystem that stay free


def lay(host: Host, target: str, device: Device, fstype: str, store: Store, until: float) -> Device:
    """Return the finished overlay of a device; make it and replay the journal if there is none.

    Raise Failure when that does not work; nothing is left then. The caller holds the target.
    """
    if existing := our_devices.find_overlay(host, device.number):
        laid = find_laid(host, device)
        if laid and _is_outgrown(host, device, existing):
            try:
                remove(host, target, existing, until)
            except errors.Busy:  # it is mounted, and shows what was there then
                return laid
        elif laid or (laid := _finish(host, target, device, existing, fstype, until)):
            return laid
        else:
            remove(host, target, existing, until)
    name = _make(host, target, device, fstype, store, until)
    node = our_devices.find_overlay(host, device.number)
    try:
        device_mapper.require_disk(host, target, device.disk)
        _replay(host, target, name, fstype, until)
        device_mapper.make_read_only(host, target, node)
    except errors.Failure:
        remove(host, target, node, until)
        raise
    laid = find_laid(host, device)
    if laid is None:
        raise errors.Failure(f"{target}: overlay {name} is gone", "auto-iscsi status")
    return laid


def _finish(
    host: Host, target: str, device: Device, node: str, fstype: str, until: float
) -> Device | None:
    """Finish an overlay whose replay outlasted its lookup; return None if the replay was cut off.

    Wait for a replay that is still under way; raise Busy when that takes too long.
    """
    name = our_devices.name(host, node)
    device_mapper.run(host, until, "resume", name)  # a dmsetup that was killed did not come to it
    while bounded.probe_exclusive(host, [f"/dev/{node}"], _PROBE_TIME) == [errno.EBUSY]:
        if time.monotonic() + _REPLAY_STEP >= until:
            raise errors.Busy(
                f"{target}: the journal of {device.node} is still replayed", "try again"
            )
        time.sleep(_REPLAY_STEP)
    family = mount_options.family(fstype)
    is_dirty = bounded.run(lambda: superblock.is_node_dirty(host, family, node), until, target)
    if is_dirty is not False or _is_full(host, name, until):
        return None
    device_mapper.make_read_only(host, target, node)
    return find_laid(host, device)


def _is_full(host: Host, name: str, until: float) -> bool:
    """Tell whether the store of an overlay was too small: it can no longer be used."""
    words = device_mapper.run(host, until, "status", name)[1].split()
    return words[3:4] in (["Invalid"], ["Overflow"])


def find_laid(host: Host, device: Device) -> Device | None:
    """Return the finished overlay of a device, None if there is none or it is not finished."""
    node = our_devices.find_overlay(host, device.number)
    if not node or not our_devices.is_finished(host, node):
        return None
    number = host.read(f"/sys/block/{node}/dev") or ""
    return device._replace(
        node=node, link=our_devices.name(host, node), number=number, folder=FOLDER
    )


def _is_outgrown(host: Host, device: Device, node: str) -> bool:
    """Tell whether a device has changed its size since this overlay (dm-N) was made."""
    sizes = (f"/sys/block/{node}/size", f"/sys/dev/block/{device.number}/size")
    return len(set(map(host.read, sizes))) > 1


def remove(host: Host, target: str, node: str, until: float) -> None:
    """Remove an overlay (dm-N) and with it its store; raise Busy when it is in use."""
    if not our_devices.is_ours(host, node):  # removed meanwhile, and the number used again
        return
    name = our_devices.name(host, node)
    if not our_devices.is_finished(host, node):  # a dmsetup that was killed did not come to it
        device_mapper.run(host, until, "resume", name)
    why = device_mapper.why_not(host, until, "remove", "--retry", name)
    if not why or host.stat(f"/sys/block/{node}") is None:
        return
    raise errors.Busy(
        f"{target}: device {name} cannot be removed: {why}",
        f"end what uses {FOLDER}/{name}, then: dmsetup remove {name}",
    )


def store_sizes(host: Host, until: float) -> dict[str, int]:
    """Return how many bytes the store of each overlay on this host takes, by its name.

    The sizes are device-mapper's. What it does not tell in time is not in the result, and neither
    is an overlay whose store is full.
    """
    sizes = {}
    # Without --noflush, a thin pool writes its metadata (dm-thin.c, pool_status).
    _, text = device_mapper.run(host, until, "status", "--noflush", "--target", "snapshot")
    for line in text.splitlines():  # NAME: 0 LENGTH snapshot USED/SIZE METADATA
        name, _, rest = line.partition(": ")
        used = rest.split()[3:4]
        number = used[0].partition("/")[0] if used else ""
        if number.isdecimal():
            sizes[name] = int(number) * _SECTOR
    return sizes


def _make(host: Host, target: str, device: Device, fstype: str, store: Store, until: float) -> str:
    """Make the overlay of a device, still writable; return its name."""
    path = f"/sys/dev/block/{device.number}"
    sectors = int(host.read(f"{path}/size") or 0)
    status = host.stat(path)
    # Another disk can get the same name; the inode in sysfs is this one's alone.
    name = f"ai-{device.node}-{status.st_ino if status else 0}"
    with _loop_device(host, target, sectors * _SECTOR, store) as (loop, number):
        chunk = _XFS_CHUNK if mount_options.family(fstype) == "xfs" else _CHUNK
        table = f"0 {sectors} snapshot {device.number} {number} P {chunk}"
        words = (name, "--uuid", our_devices.UUID_PREFIX + name, "--table", table)
        why = device_mapper.create(host, until, name, *words, holding=loop)
    if why:
        hint = "see modprobe dm_snapshot; or set journal = skip: files can then be missing"
        raise errors.DirtyJournal(f"{target}: no overlay over {device.node}: {why}", hint)
    return name


@contextmanager
def _loop_device(host: Host, target: str, size: int, store: Store) -> Iterator[tuple[int, str]]:
    """Yield a loop device with a new store for `size` bytes: a descriptor, and MAJOR:MINOR.

    At the end of the block the loop device goes, unless something else uses it by then.
    """
    try:
        file = os.open(host.path(store.folder), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.DirtyJournal(
            f"{target}: no overlay: {store.folder}: {(error.strerror or '').lower()}",
            "set overlay_dir to a directory with room",
        ) from error
    try:
        os.ftruncate(file, _room(target, file, size, store))
        loop, path = _attach(host, target, file)
    finally:
        os.close(file)
    try:
        yield loop, host.read(f"/sys/block/{os.path.basename(path)}/dev") or ""
    finally:
        os.close(loop)


def room(folder: int | str, keep_free: int) -> tuple[int, int]:
    """Return how many bytes the filesystem of a store has free, and how many of them stay free."""
    volume = os.statvfs(folder)
    return (
        volume.f_bavail * volume.f_frsize,
        volume.f_blocks * volume.f_frsize * keep_free // 100,
    )


def _room(target: str, file: int, size: int, store: Store) -> int:
    """Return how large the store may become, in bytes; raise Failure when that is too little.

    What a replay writes is not known before: for XFS it can be many times the log. So the store of
    a device of `size` bytes may take all of it, and what device-mapper notes with it.
    """
    free, kept = room(file, store.keep_free)
    needed = size + size // 512 + (1 << 20)
    if free - kept < min(needed, LEAST_ROOM):
        raise errors.DirtyJournal(
            f"{target}: no overlay: {store.folder} has {free >> 20} MiB free, and "
            f"{kept >> 20} MiB must stay free (overlay_keep_free)",
            f"make room in {store.folder}, or set overlay_dir",
        )
    return min(needed, free - kept)


def _attach(host: Host, target: str, file: int) -> tuple[int, str]:
    """Attach a file to a free loop device; return the device's descriptor and path."""
    try:
        control = os.open(host.path("/dev/loop-control"), os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_TRIES):
                path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                loop = os.open(host.path(path), os.O_RDWR | os.O_CLOEXEC)
                try:
                    flags = _LO_FLAGS_AUTOCLEAR
                    fcntl.ioctl(loop, _LOOP_CONFIGURE, struct.pack(_LOOP_CONFIG, file, 0, flags))
                    return loop, path
                except OSError as error:
                    os.close(loop)
                    if error.errno != errno.EBUSY:
                        raise
        finally:
            os.close(control)
    except OSError as error:
        why = (error.strerror or "").lower()
        raise errors.DirtyJournal(
            f"{target}: no overlay: no loop device: {why}",
            "it takes Linux 5.8 with the module loop; or set journal = skip: files can be missing",
        ) from error
    raise errors.DirtyJournal(f"{target}: no overlay: no loop device is free", "losetup --list")


def _replay(host: Host, target: str, name: str, fstype: str, until: float) -> None:
    """Mount the filesystem once, where nobody sees it, so that the kernel replays its journal."""
    point = f"{claims.FOLDER}/replay"
    os.makedirs(host.path(point), 0o700, exist_ok=True)
    options = "ro,nosuid,nodev,noexec" + (",nouuid" if fstype == "xfs" else "")
    words = ("mount", "--internal-only", "-t", fstype, "-o", options, f"{FOLDER}/{name}", point)
    status, text = host.output(
        "unshare", "--mount", "--propagation=private", *words, until=until, quick=True
    )
    if _is_full(host, name, until):
        raise errors.DirtyJournal(
            f"{target}: the store of the overlay is full: the replay of the journal takes more",
            "make room in overlay_dir, or set overlay_dir",
        )
    if status != 0:
        why = text.splitlines()[0] if text else "mount did not end in time"
        raise errors.DirtyJournal(
            f"{target}: the journal cannot be replayed into an overlay: {why}",
            "dmesg says why; journal = skip mounts it without its newest files",
        )
