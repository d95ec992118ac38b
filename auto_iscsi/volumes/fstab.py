r"""Read a file system table (fstab(5)) that a stranger wrote.

The fields of a line are separated by blanks: what is mounted, where, its type, its options. A blank
within a field is written as \040 (util-linux libmount/src/tab_parse.c). Nothing is believed here:
the caller decides which entries lead to a filesystem of the target.
"""

from __future__ import annotations

import re

from auto_iscsi.lean_stdlib import NamedTuple

LARGEST = 64 << 10  #: bytes of a table that is read at all
MOST = 500  #: entries of a table that are read; a server has some dozens
_LONGEST_PATH = 1024  # characters of a mount point
#: What automount's parser takes in the name of a directory, whatever stands around it.
_PLAIN = re.compile(r"[A-Za-z0-9._+@~/-]+")
_SUBVOLUME = re.compile(r"subvol=[A-Za-z0-9._+@~/-]{1,1024}|subvolid=[0-9]{1,19}")
_NETWORK = (
    "nfs nfs4 cifs smb3 smbfs ncpfs ceph glusterfs fuse.sshfs fuse.glusterfs afs 9p ocfs2 gfs2 "
    "davfs curlftpfs lustre beegfs"
).split()
_VIRTUAL = (
    "proc sysfs tmpfs ramfs devtmpfs devpts cgroup cgroup2 debugfs tracefs securityfs configfs "
    "hugetlbfs mqueue efivarfs binfmt_misc fusectl pstore rpc_pipefs usbfs"
).split()


class Entry(NamedTuple):
    """A line of the table."""

    what: str  #: UUID=…, LABEL=…, /dev/…
    point: str  #: the mount point as it stands there
    fstype: str
    options: tuple[str, ...]

    @property
    def subvolume(self) -> tuple[str, ...]:
        """The options that name a subvolume of a btrfs. No other options of a stranger are used."""
        return tuple(option for option in self.options if option.startswith("subvol"))

    @property
    def why_left_out(self) -> str:
        """Why the entry is not used; "" if a server mounts a filesystem from a disk by it."""
        words = set(self.options)
        if self.fstype == "swap" or self.point in ("none", "swap"):
            return "swap space"
        if self.fstype in _VIRTUAL:
            return self.fstype
        if words & {"bind", "rbind"} or self.fstype == "none":
            return "a bind mount"
        if self.fstype in _NETWORK or ":" in self.what.partition("=")[0]:
            return "on the network"
        if "noauto" in words:
            return "noauto"
        if why := _why_bad_path(self.point):
            return why
        if not all(_is_subvolume(option) for option in self.subvolume):
            return "its subvolume has a name that cannot be passed on"
        return ""


def parse(data: bytes) -> list[Entry]:
    """Return the entries of a table; comments and lines with less than three fields are none."""
    entries: list[Entry] = []
    for line in data[:LARGEST].decode("utf-8", "replace").split("\n"):
        fields = [_unescaped(field) for field in line.strip(" \t\r").replace("\t", " ").split(" ")]
        fields = [field for field in fields if field]
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        options = tuple(option for option in fields[3].split(",") if option) if fields[3:] else ()
        entries.append(Entry(fields[0], fields[1], fields[2], options))
        if len(entries) == MOST:
            break
    return entries


def _unescaped(field: str) -> str:
    r"""Return a field without the escapes \NNN for blanks and the like."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda match: chr(int(match[1], 8)), field)


def _why_bad_path(point: str) -> str:
    """Return why a mount point cannot be used, "" when it can."""
    if not point.startswith("/"):
        return "no absolute path"
    if {".", ".."}.intersection(point.split("/")):
        return "its path leads through . or .."
    if len(point) > _LONGEST_PATH or not _PLAIN.fullmatch(point):
        return "automount cannot take its name"
    return ""


def _is_subvolume(option: str) -> bool:
    """Tell whether an option names a subvolume, and has nothing else in it."""
    value = option.partition("=")[2]
    return bool(_SUBVOLUME.fullmatch(option)) and ".." not in value.split("/")


def names_of(what: str) -> list[str]:
    """Return the names of a device that an entry's first field stands for, most often one.

    They have one form for each way of naming: `UUID=…` in lower case, `LABEL=…`, `PARTUUID=…` in
    lower case, `PARTLABEL=…`, and `/dev/…` for the rest.
    """
    tag, equals, value = what.partition("=")
    if equals and not what.startswith("/"):
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        return [tagged(tag, value)] if value else []
    for folder, tag in _FOLDERS.items():
        if what.startswith(folder):
            return [tagged(tag, _udev_decoded(what[len(folder) :]))]
    prefix = "/dev/disk/by-id/dm-name-"
    if what.startswith(prefix):
        return [f"/dev/mapper/{what[len(prefix) :]}"]
    return [re.sub(r"/+", "/", what)] if what.startswith("/dev/") else []


_FOLDERS = {
    "/dev/disk/by-uuid/": "UUID",
    "/dev/disk/by-label/": "LABEL",
    "/dev/disk/by-partuuid/": "PARTUUID",
    "/dev/disk/by-partlabel/": "PARTLABEL",
}


def tagged(tag: str, value: str) -> str:
    """Return the form of a name by UUID, LABEL, PARTUUID or PARTLABEL that names_of() gives."""
    return f"{tag}={value.lower() if tag.endswith('UUID') else value}"


def _udev_decoded(name: str) -> str:
    r"""Return the last part of a link of udev's without its \xNN."""
    if "\\x" not in name:
        return name
    data = re.sub(
        rb"\\x([0-9a-fA-F]{2})", lambda match: bytes([int(match[1], 16)]), name.encode("utf-8")
    )
    return data.decode("utf-8", "replace")


def volume_names(group: str, volume: str) -> tuple[str, str]:
    """Return the names below /dev of a logical volume; in /dev/mapper, hyphens are doubled."""
    doubled = "-".join(name.replace("-", "--") for name in (group, volume))
    return f"/dev/{group}/{volume}", f"/dev/mapper/{doubled}"
