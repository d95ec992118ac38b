r"""Describe what is on a disk or partition, by what udev recorded about it.

The properties ID_FS_* and ID_PART_* are what libblkid found when the disk appeared (systemd
src/udev/udev-builtin-blkid.c); ID_BTRFS_READY is set by udev's 64-btrfs.rules. udev writes a byte
of a label that could do harm as \xNN.

Where libblkid finds signatures of more than one filesystem, it gives up: udev then records nothing
of a disk's or a partition's content, its partition table and partition entry included (libblkid
src/probe.c, blkid_do_safeprobe).
"""

from __future__ import annotations

from auto_iscsi.disks import udev_db
from auto_iscsi.lean_stdlib import NamedTuple

#: Partitions that do not hold anybody's files, by their type in a GPT or DOS partition table.
PURPOSES = {
    "c12a7328-f81f-11d2-ba4b-00c04fc93ec9": "EFI system partition",
    "0xef": "EFI system partition",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "boot loader partition",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved partition",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery partition",
    "0x27": "Windows recovery partition",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "list of the volumes of a Windows dynamic disk",
    "0x5": "extended partition",
    "0xf": "extended partition",
    "0x85": "extended partition",
}

_DYNAMIC, _SPACES = "LDM", "Storage Spaces"
#: Partitions of which only the type tells what they are, by that: no filesystem begins at theirs.
_TYPES = {
    "af9b60a0-1431-4f62-bc68-3311714a69ad": _DYNAMIC,
    "0x42": _DYNAMIC,
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": _SPACES,
}

#: By type: what is no filesystem, and what it would take to see the files in it.
FOREIGN = {
    "LVM2_member": (
        "an LVM physical volume",
        "partition = all, which shows its logical volumes, or partition = VG/LV, which shows one",
    ),
    "LVM1_member": ("an LVM physical volume", "its volume group, on a host of its own"),
    "crypto_LUKS": ("LUKS encrypted", "its key: set luks_key_file"),
    "BitLocker": ("BitLocker encrypted", "its key (cryptsetup open --type bitlk --readonly)"),
    "linux_raid_member": (
        "a member of an md RAID",
        "partition set to its number or to all: what is on a RAID 1 is then shown",
    ),
    "isw_raid_member": (
        "a member of an Intel RAID (IMSM)",
        "the other members, on a host with that controller (mdadm --assemble --readonly)",
    ),
    "ddf_raid_member": (
        "a member of a controller's RAID (DDF)",
        "the other members, behind such a controller (or mdadm --assemble --readonly)",
    ),
    "drbd": ("a DRBD disk", "its resource, on a host of its own (drbdadm)"),
    "bcache": ("a bcache disk", "its cache device, on a host of its own (make-bcache)"),
    "zfs_member": (
        "a member of a ZFS pool",
        "all disks of the pool, on a host with ZFS (zpool import -o readonly=on -N -R DIRECTORY)",
    ),
    "VMFS": ("a VMFS datastore", "an ESXi host, or vmfs-fuse, vmfs6-fuse"),
    "VMFS_volume_member": (
        "a disk of a VMFS datastore",
        "an ESXi host, or vmfs-fuse, vmfs6-fuse",
    ),
    "ReFS": ("a ReFS", "a Windows host"),
    _DYNAMIC: (
        "part of a Windows dynamic disk (LDM)",
        "all disks of its group, on a Windows host, or ldmtool on a Linux host",
    ),
    _SPACES: ("part of a Windows storage pool (Storage Spaces)", "all its disks on a Windows host"),
    "swap": ("swap space", "nothing: it holds no files"),
    "mpath_member": ("held by multipathd", "paths = all, or a blacklist in multipath.conf"),
}

_WITHOUT_FILES = ("swap", "swsuspend")
SIGNATURES = "signatures of more than one filesystem"


class Content(NamedTuple):
    """What is on a disk or partition."""

    fstype: str = ""  #: as libblkid names it; "": nothing that libblkid knows
    usage: str = ""  #: filesystem, raid, crypto or other
    label: str = ""
    uuid: str = ""
    table: str = ""  #: of a disk, the type of its partition table: dos, gpt; "": none
    purpose: str = ""  #: of a partition, one of PURPOSES; "": it holds files
    devices_missing: bool = False  #: btrfs: other devices of the filesystem are missing
    is_ambivalent: bool = False  #: it has signatures of more than one filesystem

    @property
    def has_signature(self) -> bool:
        """Whether libblkid recognised something, other than a partition table."""
        return bool(self.fstype) or self.is_ambivalent

    @property
    def holds_files(self) -> bool:
        """Whether it is a filesystem."""
        return self.usage == "filesystem" and self.fstype not in FOREIGN

    @property
    def larger(self) -> str:
        """What it is if it can hold files as a part of something larger, "" for anything else."""
        if not self.fstype or self.holds_files or self.fstype in _WITHOUT_FILES:
            return ""
        return self.foreign or self.fstype

    @property
    def foreign(self) -> str:
        """What it is, if it is one of FOREIGN, with the name of its pool; "" for anything else."""
        if self.fstype == "zfs_member" and self.label:
            return f"a member of ZFS pool {self.label}"
        return FOREIGN[self.fstype][0] if self.fstype in FOREIGN else ""


def of_disk(record: udev_db.Record, has_partitions: bool) -> Content:
    """Return what is on a disk, apart from its partitions."""
    content = from_udev(record)
    was_read = content.fstype or content.table or not has_partitions
    return content._replace(is_ambivalent=not was_read)


def of_partition(record: udev_db.Record) -> Content:
    """Return what is on a partition, without what udev copies from the record of its disk.

    That is the type of the disk's partition table, and whether its btrfs is complete
    (60-persistent-storage.rules).
    """
    content = from_udev(record)
    was_read = content.fstype or "ID_PART_ENTRY_TYPE" in record.properties
    return content._replace(table="", is_ambivalent=not was_read)


def from_udev(record: udev_db.Record) -> Content:
    """Return what udev recorded about the content of a device."""
    values = record.properties
    kind = values.get("ID_PART_ENTRY_TYPE", "").lower()
    return Content(
        values.get("ID_FS_TYPE") or _TYPES.get(kind, ""),
        values.get("ID_FS_USAGE", ""),
        _decode(values.get("ID_FS_LABEL_ENC", "")),
        values.get("ID_FS_UUID", ""),
        values.get("ID_PART_TABLE_TYPE", ""),
        PURPOSES.get(kind, ""),
        values.get("ID_FS_TYPE") == "btrfs" and values.get("ID_BTRFS_READY") == "0",
    )


def _decode(label: str) -> str:
    r"""Return a label without udev's \xNN, and with "?" for what could control a terminal."""
    if "\\" in label:
        import re  # takes as long as a quarter of a warm lookup

        label = re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), label)
    text = label.encode("latin-1", "replace").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)
