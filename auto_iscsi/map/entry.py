"""Write a map entry as automount reads it.

An entry is one line, options and location (autofs(5)). A location in double quotes is the only
quoting that every autofs build takes: outside quotes a colon in the path would become a slash.
Several filesystems are a multi-mount entry, PLACE OPTIONS LOCATION for each: automount mounts each
one when it is first entered, and one that fails takes no other down.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from auto_iscsi.config.settings import Settings
    from auto_iscsi.volumes.mountable import Filesystem, Mountable

LONGEST = 16384  #: bytes of a multi-mount entry (autofs include/automount.h, MAPENT_MAX_LEN)


def format_entry(content: Mountable, settings: Settings, remount: bool = False) -> str:
    """Return the map entry, without a line end; raise Failure when it is too long for automount.

    `remount`: automount has mounted the key already, and is to accept that.
    """
    filesystems = content.filesystems
    if len(filesystems) == 1 and not filesystems[0].offset:
        return _options_and_location(filesystems[0], settings, remount)
    entry = " ".join(
        f"{each.offset} {_options_and_location(each, settings, remount and each.offset == '/')}"
        for each in filesystems
    )
    if len(entry) >= LONGEST:
        raise errors.Failure(
            f"{len(filesystems)} filesystems make an entry of {len(entry)} bytes, "
            f"and automount takes {LONGEST - 1}",
            "set lun or partition to one of them",
        )
    return entry


def _options_and_location(filesystem: Filesystem, settings: Settings, remount: bool = False) -> str:
    extra = ("remount",) if remount else ()
    fstype = "auto" if filesystem.is_type_guessed else filesystem.fstype
    if remount and fstype == "ntfs-3g":  # its helper refuses to remount; the kernel's type does not
        fstype = "fuseblk"
    options = ",".join((*filesystem.options, *extra, f"fstype={fstype}"))
    device = filesystem.device
    if settings.device == "kernel" or not device.link:
        return f"-{options} :/dev/{device.node}"
    return f'-{options} ":{device.link_path}"'
