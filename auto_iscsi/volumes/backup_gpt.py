"""Have the kernel make nodes of the partitions in a GPT whose first copy is broken.

The kernel reads the first copy of a GPT, and asks for the second one only if it was booted with
`gpt` (block/partitions/efi.c). So where the first copy is broken, the kernel has no partitions,
though udev recognises the table (libblkid reads either copy).
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.disks import kernel_partitions, ownership, scsi_disks
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import partition_tables


def announce(host: Host, target: str, disk: scsi_disks.Disk, until: float) -> bool:
    """Have the kernel make nodes of a disk's partitions; tell whether it made any.

    Nothing is done if the kernel has partitions of the disk, or if a lookup must not change it.
    """
    if scsi_disks.list_partitions(host, disk) or not ownership.is_changeable(
        host, target, disk.path
    ):
        return False
    number = host.read(f"{disk.path}/dev") or ""
    whole = scsi_disks.Device(disk.name, disk.link, number, disk.path)
    try:
        extents = partition_tables.of_disk(host, target, whole, until)
    except errors.NotMountable:  # the lookup says what is wrong with the disk
        return False
    kernel_partitions.add(host, target, disk.name, list(extents.values()), until)
    return bool(scsi_disks.list_partitions(host, disk))
