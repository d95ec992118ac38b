"""Recognise the device-mapper devices that lookups make: overlays and logical volumes.

volumes/overlay and volumes/volume_groups make them. The UUID of each begins with UUID_PREFIX. In
sysfs it is a holder of the disk, partition, multipath map or logical volume that it reads from.

Of an opened LUKS device (volumes/luks) the UUID is cryptsetup's: CRYPT-LUKS2-UUID-NAME, where UUID
comes from the disk and NAME from us. A cryptsetup that cannot use the kernel's AF_ALG reads the
keys through temporary-cryptsetup-PID, which stays behind only where it was killed
(lib/luks1/keyencryption.c).
"""

from __future__ import annotations

from auto_iscsi.disks import multipath, scsi_disks, udev_db
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UUID_PREFIX = "AUTOISCSI-"
OPENED = "crypt"  #: the end of the name of an opened LUKS device: ai-NUMBER-crypt
_CRYPT_PREFIXES = ("CRYPT-LUKS1-", "CRYPT-LUKS2-")
_TEMPORARY = "temporary-cryptsetup-"
_BLOCK = "/sys/block"
#: What a device of ours is that shows what is on a device of this type, as libblkid names it.
_KINDS = {
    "LVM2_member": "logical volume",
    "linux_raid_member": "array",
}
OVERLAY, DECRYPTED, PARTITION, OTHER = "overlay", "decrypted device", "partition", "device"


def is_ours(host: Host, node: str) -> bool:
    """Tell whether a block device (dm-N) is an overlay, a logical volume or the like of ours."""
    uuid = host.read(f"{_BLOCK}/{node}/dm/uuid") or ""
    return uuid.startswith(UUID_PREFIX) or (
        uuid.startswith("CRYPT-") and is_opened_by_us(host, uuid, name(host, node))
    )


def is_opened_by_us(host: Host, uuid: str, name: str) -> bool:
    """Tell whether a device of cryptsetup's is one that a lookup opened, or what was left of that.

    A cryptsetup that runs still needs its temporary device.
    """
    if name.startswith(_TEMPORARY):
        is_left = host.stat(f"/proc/{name[len(_TEMPORARY) :]}") is None
        return uuid == f"CRYPT-TEMP-{name}" and is_left
    number = name[len("ai-") : -len(f"-{OPENED}")]
    is_named = number.isdecimal() and name == f"ai-{number}-{OPENED}"
    return is_named and uuid.startswith(_CRYPT_PREFIXES) and uuid.endswith(f"-{name}")


def named(host: Host, name_: str) -> list[str]:
    """Return our devices (dm-N) with a name in /dev/mapper: one at most."""
    nodes = [node for node in host.names(_BLOCK) if node.startswith("dm-")]
    return [node for node in nodes if name(host, node) == name_ and is_ours(host, node)]


def find(host: Host, number: str) -> str:
    """Return a device of ours (dm-N) on the device MAJOR:MINOR, "" for none."""
    return next(_list_on(host, number), "")


def find_overlay(host: Host, number: str) -> str:
    """Return the overlay (dm-N) of the device MAJOR:MINOR, "" for none.

    A lookup with other settings can have left another device of ours there: the array of a member,
    or a partition of the disk. That one shows something else, and replays no journal.
    """
    return next((node for node in _list_on(host, number) if is_overlay(host, node)), "")


def _list_on(host: Host, number: str) -> Iterator[str]:
    names = host.names(f"/sys/dev/block/{number}/holders")
    return (node for node in names if is_ours(host, node))


def list_of_disk(host: Host, path: str) -> list[str]:
    """Return our devices (dm-N) on the disk at `path` in sysfs, its partitions and its maps."""
    partitions = scsi_disks.partitions_below(host, path).values()
    return _topmost_first(host, _list_above(host, path, *(f"{path}/{name}" for name in partitions)))


def list_with_holders(host: Host, node: str) -> list[str]:
    """Return a device of ours (dm-N) after those of ours that are made of it, topmost first."""
    return _topmost_first(host, [node, *_list_above(host, f"{_BLOCK}/{node}")])


def _list_above(host: Host, *paths: str) -> list[str]:
    """Return our devices (dm-N) that are made of the devices at these paths in sysfs."""
    pending, nodes = list(paths), list[str]()
    while pending:
        for node in host.names(f"{pending.pop()}/holders"):
            if is_ours(host, node):
                nodes.append(node)
            if is_ours(host, node) or multipath.is_map(host, node):
                pending.append(f"{_BLOCK}/{node}")
    return nodes


def _topmost_first(host: Host, nodes: Iterable[str]) -> list[str]:
    """Sort devices of ours so that one that is made of another one comes before that.

    Their numbers do not tell: the kernel uses the number of a device that is gone again.
    """

    def depth(node: str) -> int:
        slaves = host.names(f"{_BLOCK}/{node}/slaves")
        below = [name for name in slaves if name.startswith("dm-") and is_ours(host, name)]
        return 1 + max(map(depth, below), default=0)

    return sorted(set(nodes), key=lambda node: (-depth(node), node))


def is_overlay(host: Host, node: str) -> bool:
    """Tell whether a device of ours (dm-N) is an overlay: its store is behind a loop device."""
    return any(slave.startswith("loop") for slave in host.names(f"{_BLOCK}/{node}/slaves"))


def kind(host: Host, node: str) -> str:
    """Return what a device of ours (dm-N) is: OVERLAY, DECRYPTED, one of _KINDS, or another kind.

    On a whole disk we show its partitions (ai-NUMBER-pPART), and the logical volumes of partitions
    without a node (ai-NUMBER-PART-VG-LV).
    """
    if (host.read(f"{_BLOCK}/{node}/dm/uuid") or "").startswith(_CRYPT_PREFIXES):
        return DECRYPTED
    if is_overlay(host, node):
        return OVERLAY
    for slave in host.names(f"{_BLOCK}/{node}/slaves"):
        number = host.read(f"{_BLOCK}/{node}/slaves/{slave}/dev") or ""
        fstype = udev_db.read(host, number).properties.get("ID_FS_TYPE", "")
        if fstype in _KINDS:
            return _KINDS[fstype]
        if is_ours(host, slave):  # a thin volume is on its pool
            return kind(host, slave)
    label = "".join(name(host, node).split("-", 2)[2:])
    first, hyphen, _ = label.partition("-")
    if first[:1] == "p" and first[1:].isdecimal() and not hyphen:
        return PARTITION
    return _KINDS["LVM2_member"] if first.isdecimal() and hyphen else OTHER


def is_finished(host: Host, node: str) -> bool:
    """Tell whether an overlay is complete: its journal was replayed, and it was made read-only."""
    return host.read(f"{_BLOCK}/{node}/ro") == "1"


def is_recorded(host: Host, node: str) -> bool:
    """Tell whether udev has recorded what is on a device of ours, or has no more work to do.

    Whoever makes a device waits for that, unless he is killed (dmsetup's 10-dm.rules).
    """
    recorded = udev_db.read(host, host.read(f"{_BLOCK}/{node}/dev") or "").properties
    is_seen = recorded.get("DM_UDEV_PRIMARY_SOURCE_FLAG") == "1"
    is_same = recorded.get("DM_NAME") == name(host, node)
    return (is_seen and is_same) or not udev_db.is_busy(host)


def name(host: Host, node: str) -> str:
    """Return an overlay's name in /dev/mapper."""
    return host.read(f"{_BLOCK}/{node}/dm/name") or node


def orphans(host: Host) -> list[str]:
    """Return our devices (dm-N) of which a disk is gone from the kernel: its session has ended."""
    nodes = [name for name in host.names(_BLOCK) if name.startswith("dm-")]
    return _topmost_first(host, (n for n in nodes if is_ours(host, n) and not is_whole(host, n)))


def has_disk(host: Host, node: str) -> bool:
    """Tell whether a device that one of ours is made of is still there, other than its store."""
    return any(_have_disks(host, node))


def is_whole(host: Host, node: str) -> bool:
    """Tell whether all devices that one of ours is made of are still there."""
    presence = list(_have_disks(host, node))
    return bool(presence) and all(presence)


def _have_disks(host: Host, node: str) -> Iterator[bool]:
    """Yield for each device below one of ours, other than a store, whether it is still there."""
    folder = f"{_BLOCK}/{node}/slaves"
    for slave in host.names(folder):
        if slave.startswith("dm-") and is_ours(host, slave):
            presence = list(_have_disks(host, slave))
            yield from presence or [False]
        elif multipath.is_map(host, slave):
            yield multipath.has_path(host, slave)
        elif not slave.startswith("loop"):
            yield bool(host.stat(f"{folder}/{slave}"))
