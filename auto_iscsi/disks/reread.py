"""Have the kernel read a disk's partition table again.

With find_multipaths smart, udev takes a lone path for one of multipathd's at first, and deletes the
partitions that the kernel has of it (kpartx, 68-del-part-nodes.rules). When nobody wants the disk
after find_multipaths_timeout, nobody brings them back.
"""

from __future__ import annotations

import fcntl
import os

from auto_iscsi.disks import identity, multipath, ownership, scsi_disks, udev_db
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host

_BLKRRPART = 0x125F  # linux/fs.h


def lacks_partitions(host: Host, target: str, disk: scsi_disks.Disk) -> bool:
    """Tell whether udev has seen a partition table on a disk, and the kernel has no partitions.

    False where a lookup may not change the disk.
    """
    if scsi_disks.list_partitions(host, disk) or multipath.map_of(host, disk.path):
        return False
    if identity.hidden_partitions(host, target, disk.path):  # a lookup has deleted them
        return False
    record = udev_db.read(host, host.read(f"{disk.path}/dev") or "")
    return (
        "ID_PART_TABLE_TYPE" in record.properties
        and not scsi_disks.is_left_to_multipathd(host, disk)
        and ownership.is_changeable(host, target, disk.path)
    )


def reread(host: Host, target: str, disk: scsi_disks.Disk, until: float) -> bool:
    """Have the kernel read the table; return False when it refuses. Raise NoAnswer."""
    node = host.path(f"/dev/{disk.name}")

    def ask() -> bool:
        handle = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, _BLKRRPART)
        except OSError:  # a partition of it is in use by now, or the table is broken
            return False
        finally:
            os.close(handle)
        return True

    return bool(bounded.run(ask, until, target))
