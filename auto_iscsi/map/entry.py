"""How is it said to automount?

One line, options and location (autofs(5)). A location in double quotes is the only quoting that
every autofs build takes: outside quotes a colon in the path would become a slash. Several
filesystems are a multi-mount entry, PLACE OPTIONS LOCATION for each: automount mounts each one when
it is first entered, and one that fails takes no other down.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from auto_iscsi.config.settings import Settings
    from auto_iscsi.volumes import mountable

LONGEST = 16384  #: bytes of a multi-mount entry (autofs include/automount.h, MAPENT_MAX_LEN)


def format_entry(layout: mountable.Mountable, settings: Settings, again: bool = False) -> str:
    """Return the map entry, without a line end; `again`: it is mounted by now."""
    first = layout.filesystems[0]
    if len(layout.filesystems) == 1 and not first.place:
        return _said(first, settings, again)
    entry = " ".join(f"{part.place} {_said(part, settings)}" for part in layout.filesystems)
    if len(entry) >= LONGEST:
        raise errors.Failure(
            f"{len(layout.filesystems)} filesystems make an entry of {len(entry)} bytes, "
            f"and automount takes {LONGEST - 1}",
            "set lun or partition to one of them",
        )
    return entry


def _said(part: mountable.Filesystem, settings: Settings, again: bool = False) -> str:
    remount = ("remount",) if again else ()
    options = ",".join((*part.options, *remount, f"fstype={part.fstype}"))
    if settings.device == "kernel" or not part.device.link:
        return f"-{options} :/dev/{part.device.node}"
    return f'-{options} ":{part.device.place}"'
