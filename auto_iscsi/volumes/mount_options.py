"""Adapt mount options to the type of a filesystem.

The kernel refuses a mount with an option that the type does not accept (exit status 32 of
mount(8)). So with `fstype = auto`, an option of _ACCEPTED that the type found on the disk does not
accept is left out. All other options are passed to every type. The table only has options that
matter to a mount for reading (journal, copies, owners, character sets) and the errors, acl and
user_xattr of many an fstab: what tunes writing grows with each kernel, and nobody needs it here.
Sources: mount(8), ext4(5), xfs(5), btrfs(5), ntfs-3g(8), ntfs3 and squashfs in the kernel's
Documentation/filesystems, and fs/exfat/super.c.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXT = ("ext2", "ext3", "ext4")

_OWNERS = "uid gid umask dmask fmask iocharset"
#: The options of the table that each type accepts.
_ACCEPTED = {
    "ext": "nocheck noload norecovery errors acl user_xattr",
    "xfs": "norecovery nouuid",
    "btrfs": "norecovery nologreplay rescue subvol subvolid acl",
    "vfat": f"{_OWNERS} codepage shortname utf8 errors",
    "exfat": f"{_OWNERS} errors",
    "ntfs3": f"{_OWNERS} nls acl",
    "ntfs-3g": "uid gid umask dmask fmask acl",
    "iso9660": "uid gid mode dmode iocharset utf8",
    "squashfs": "errors",
}
_ANY = frozenset(" ".join(_ACCEPTED.values()).split())

#: The option with which each type is mounted without a look at its journal.
WITHOUT_JOURNAL = {"ext": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}


NTFS = ("ntfs3", "ntfs-3g")  #: the types that mount an NTFS: the kernel's, and that of FUSE


def driver(fstype: str) -> str:
    """Return the type that mounts what libblkid names `fstype`."""
    return "ntfs3" if fstype == "ntfs" else fstype


def family(fstype: str) -> str:
    """Return the name for the types that share their options and the format of their journal."""
    return "ext" if fstype in EXT else driver(fstype)


def for_type(fstype: str, options: Sequence[str]) -> tuple[str, ...]:
    """Return the options without those that only other types accept; for XFS, with nouuid.

    A snapshot has the UUID of its volume, and XFS mounts only one filesystem of a UUID without
    nouuid.
    """
    refused = _ANY.difference(_ACCEPTED.get(family(fstype), "").split())
    fitting = [option for option in options if option.partition("=")[0] not in refused]
    if fstype == "xfs" and "nouuid" not in fitting:
        fitting.append("nouuid")
    return tuple(fitting)


def read_only(options: Sequence[str]) -> tuple[str, ...]:
    """Return options with `ro` and without `rw`."""
    if "ro" in options:
        return tuple(option for option in options if option != "rw")
    return ("ro", *(option for option in options if option != "rw"))


def without_journal(fstype: str, options: Sequence[str]) -> tuple[str, ...]:
    """Return options with the one that ignores the journal; raise Failure where a type has none."""
    option = WITHOUT_JOURNAL.get(family(fstype))
    if not option:
        raise errors.Failure(f"{fstype} has no option to mount it without its journal")
    return tuple(options) if option in options else (*options, option)
