"""Which mount options fit a filesystem?

A type refuses what it does not know (exit status 32 of mount(8)), so with `fstype = auto` an option
that belongs to other types only is left out. What belongs to which: mount(8), ext4(5), xfs(5),
btrfs(5), ntfs3 and squashfs in the kernel's Documentation/filesystems. Any other option is passed.
"""

from __future__ import annotations

from collections.abc import Sequence

from auto_iscsi import errors

EXT = ("ext2", "ext3", "ext4")

_OWNERS = "uid gid umask dmask fmask iocharset"
_OWN = {
    "ext": "nocheck check noload norecovery errors data journal_ioprio journal_checksum commit "
    "barrier nobarrier acl noacl user_xattr nouser_xattr minixdf bsddf grpid nogrpid sb resuid "
    "resgid stripe delalloc nodelalloc dax init_itable noinit_itable quota noquota auto_da_alloc "
    "noauto_da_alloc discard nodiscard block_validity noblock_validity",
    "xfs": "nouuid norecovery logbufs logbsize logdev rtdev inode32 inode64 allocsize attr2 "
    "noattr2 ikeep noikeep largeio nolargeio noalign sunit swidth swalloc wsync filestreams uquota "
    "gquota pquota noquota grpid nogrpid dax discard nodiscard",
    "btrfs": "rescue nologreplay norecovery usebackuproot degraded device subvol subvolid compress "
    "compress-force space_cache clear_cache skip_balance thread_pool ssd nossd autodefrag "
    "noautodefrag datacow nodatacow datasum nodatasum barrier nobarrier commit acl noacl discard "
    "nodiscard fatal_errors max_inline metadata_ratio flushoncommit treelog notreelog",
    "vfat": f"{_OWNERS} codepage shortname utf8 check quiet flush showexec allow_utime tz "
    "time_offset usefree errors discard nfs rodir dots nodots sys_immutable",
    "ntfs3": f"{_OWNERS} nls nohidden sys_immutable discard force sparse showmeta prealloc acl "
    "noacsrules hide_dot_files windows_names",
    "iso9660": "norock nojoliet check uid gid map mode dmode unhide hide showassoc block "
    "cruft session sbsector iocharset utf8 overriderockperm",
    "squashfs": "errors threads",
}
OWN = {kind: frozenset(names.split()) for kind, names in _OWN.items()}
_ALL = frozenset().union(*OWN.values())

#: What mounts a filesystem without a look at its journal.
WITHOUT_JOURNAL = {"ext": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}


def driver(fstype: str) -> str:
    """Return what mounts a type that libblkid found."""
    return "ntfs3" if fstype == "ntfs" else fstype


def family(fstype: str) -> str:
    """Return the name under which a type's options and its journal are known."""
    return "ext" if fstype in EXT else driver(fstype)


def fitting(fstype: str, options: Sequence[str]) -> tuple[str, ...]:
    """Return the options that a type takes, and what it needs beside its volume or another copy."""
    own = OWN.get(family(fstype), frozenset())
    fit = [o for o in options if o.partition("=")[0] not in _ALL - own]
    if fstype == "xfs" and "nouuid" not in fit:
        fit.append("nouuid")  # a snapshot has its volume's UUID: xfs mounts only one of them
    return tuple(fit)


def read_only(options: Sequence[str]) -> tuple[str, ...]:
    """Return options for a disk that is read-only; `ro` also keeps fsck from mending (autofs)."""
    fit = [option for option in options if option not in ("ro", "rw")]
    return ("ro", *fit) if "ro" not in options else tuple(o for o in options if o != "rw")


def without_journal(fstype: str, options: Sequence[str]) -> tuple[str, ...]:
    """Return options that leave the journal alone; raise Failure where a type has none."""
    option = WITHOUT_JOURNAL.get(family(fstype))
    if not option:
        raise errors.Failure(f"{fstype} has no option to mount it without its journal")
    return tuple(options) if option in options else (*options, option)
