"""How is it said to automount?

One line, options and location (autofs(5)). A location in double quotes is the only quoting that
every autofs build takes: outside quotes a colon in the path would become a slash.
"""

from __future__ import annotations

from auto_iscsi import disks
from auto_iscsi.light import TYPE_CHECKING

if TYPE_CHECKING:
    from auto_iscsi.settings import Settings


def of(device: disks.Device, settings: Settings, again: bool = False) -> str:
    """Return the map entry for `device`, without a line end; `again`: it is mounted by now."""
    remount = ("remount",) if again else ()
    options = ",".join((*settings.options, *remount, f"fstype={settings.fstype}"))
    if settings.device == "kernel" or not device.link:
        return f"-{options} :/dev/{device.node}"
    return f'-{options} ":{disks.BY_PATH}/{device.link}"'
