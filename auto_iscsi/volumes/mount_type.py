"""Decide with which type and options a candidate is mounted, or refuse it with the reason."""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.config.settings import ALL, AUTO, Settings
from auto_iscsi.disks import scsi_disks
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mount_options
from auto_iscsi.volumes.candidates import Candidate, of_type
from auto_iscsi.volumes.content import FOREIGN, SIGNATURES
from auto_iscsi.volumes.mountable import LUKS_MEMBER, LVM_MEMBER, MEMBERS

_BTRFS_COPIES = (6, 7)  # the Linux that mounts two btrfs of one UUID (fs/btrfs, temp_fsid)


def type_and_options(
    host: Host, name: str, candidate: Candidate, device: scsi_disks.Device, settings: Settings
) -> tuple[str, tuple[str, ...]]:
    """Return the type and options with which a candidate is mounted; raise NotMountable.

    `name` is the candidate's name in messages. A member (mountable.MEMBERS) keeps its type, by
    which volumes/stack then replaces it by what is on it.
    """
    content = candidate.content
    if is_shown_as_member(content.fstype, settings):
        return content.fstype, settings.options
    if settings.fstype != AUTO:
        is_chosen = isinstance(settings.partition, int) or candidate.is_unknown
        if not is_chosen and not of_type([candidate], settings):
            raise errors.NotMountable(
                f"{name} has {content.fstype}, and not fstype = {settings.fstype}",
                "set fstype = auto",
            )
        return settings.fstype, settings.options
    _refuse_without_filesystem(name, candidate)
    fstype = mount_options.driver(content.fstype)
    if fstype in mount_options.NTFS and not _has_driver(host, fstype) and _has_ntfs_3g(host):
        fstype = "ntfs-3g"
    elif not _has_driver(host, fstype):
        raise errors.NotMountable(
            f"{name}: this kernel has no {fstype}",
            "install ntfs-3g"
            if fstype in mount_options.NTFS
            else "install a kernel that has it, or set fstype to another type",
        )
    if fstype == "btrfs" and (other := _mounted_copy(host, content.uuid, device.node)):
        raise errors.NotMountable(
            f"{name}: a btrfs with the same UUID is mounted from {other}, and Linux before 6.7 "
            "cannot mount a second one",
            "wait until that one is unmounted, or boot a newer kernel",
        )
    return fstype, mount_options.for_type(fstype, settings.options)


def is_shown_as_member(fstype: str, settings: Settings) -> bool:
    """Tell whether the settings show a member of this type, by what is on it."""
    if fstype == LVM_MEMBER:  # can hold any number of filesystems
        return settings.partition == ALL or "/" in str(settings.partition)
    if fstype == LUKS_MEMBER:
        return bool(settings.luks_key_file)
    return fstype in MEMBERS


def _refuse_without_filesystem(name: str, candidate: Candidate) -> None:
    """Raise NotMountable for a candidate that has no filesystem, or only a part of one."""
    content = candidate.content
    if content.fstype in FOREIGN:
        needed = FOREIGN[content.fstype][1]
        raise errors.NotMountable(
            f"{name} is {content.foreign} and is left alone", f"needed: {needed}"
        )
    if content.is_ambivalent:
        raise errors.Ambiguous(
            f"{name} has {SIGNATURES}",
            f"wipefs -n /dev/{candidate.device.node} shows them; set fstype and partition",
        )
    if not content.fstype and content.table and not candidate.part:
        raise errors.NotMountable(
            f"{name} has a partition table and no filesystem of its own", "set partition = auto"
        )
    if not candidate.holds_files:
        what = content.fstype or "nothing that udev knows"
        is_known = content.fstype or candidate.part
        hint = "set fstype to its type" if is_known else set_fstype_hint(candidate)
        raise errors.NotMountable(f"{name} has no filesystem but {what}", hint)
    if content.devices_missing:
        raise errors.NotMountable(
            f"{name} is one of several devices of a btrfs, and the others are missing",
            "map the other LUNs to this host too",
        )


def _has_driver(host: Host, fstype: str) -> bool:
    """Tell whether the kernel can mount a type, itself or with a module that is installed."""
    if fstype in (host.read("/proc/filesystems") or fstype).split():
        return True
    release = host.read("/proc/sys/kernel/osrelease")
    aliases = host.read(f"/lib/modules/{release}/modules.alias")
    return aliases is None or f"alias fs-{fstype} " in aliases


def _has_ntfs_3g(host: Host) -> bool:
    """Tell whether mount(8) finds the helper that mounts an NTFS through FUSE."""
    return host.stat("/sbin/mount.ntfs-3g") is not None and _has_driver(host, "fuseblk")


def _mounted_copy(host: Host, uuid: str, node: str) -> str:
    """Return the devices of another mounted btrfs of this UUID, "" where that is no obstacle."""
    import re  # takes as long as a quarter of a warm lookup

    release = re.match(r"(\d+)\.(\d+)", host.read("/proc/sys/kernel/osrelease") or "0.0")
    if release and (int(release[1]), int(release[2])) >= _BTRFS_COPIES:
        return ""
    nodes = host.names(f"/sys/fs/btrfs/{uuid}/devices") if uuid else []
    return "" if node in nodes else ", ".join(nodes)


def set_fstype_hint(candidate: Candidate) -> str:
    """Return the hint for a place of which udev says nothing, perhaps because it is ambivalent."""
    return f"if wipefs -n /dev/{candidate.device.node} shows {SIGNATURES}, set fstype and partition"
