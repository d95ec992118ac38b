"""Tell whether automount mounted what the last lookup of a key gave it.

The map program never learns how a mount ends, and automount says nothing of it at its usual log
level. But automount asks for a key only when the key is not mounted. If it asks again before a
mount could have expired, then the last mount failed, or somebody ended it. umount(8) leaves the
key's directory behind, as does a mount that is still under way; automount removes the directory
when a mount fails, and when it unmounts. What is left is an expiry that somebody asked for (SIGUSR1
to automount): there the kernel's log shows that the filesystem was mounted, for ext and XFS.
"""

from __future__ import annotations

import os
import time

from auto_iscsi.iscsi import claims
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine import kernel_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi.disks.scsi_disks import Device
    from auto_iscsi.machine import mounts
    from auto_iscsi.machine.host import Host
    from auto_iscsi.map.request import Request
    from auto_iscsi.volumes.mountable import Mountable

_FAILED = "the last mount of it failed or did not last"
_SHOWN = 2  # of the kernel's lines
# Seconds that the log's clock can be wrong by: some, and more with each second since the boot.
_WRONG, _DRIFT = 2.0, 1e-4
#: What the kernel says when a filesystem was mounted, or unmounted again (ext4, XFS, btrfs).
_GOOD = ("mounted filesystem", "nmounting filesystem", "Ending clean mount", "mount of filesystem")


def notes(
    request: Request, content: Mountable, point: str, mounted: Sequence[mounts.Mount]
) -> tuple[str, ...]:
    """Return a line for the log if the mount after the last lookup failed, else nothing.

    `point`: where automount mounts the key. `mounted`: all mounts.
    """
    filesystems = content.filesystems
    if len(filesystems) != 1 or filesystems[0].offset:
        return ()  # of several, each is mounted when it is entered, and none at a lookup
    device = filesystems[0].device
    if not _could_still_be_mounted(request, point, mounted):
        return ()
    nodes = (device.number, f"/dev/{device.node}")
    if any(m.point == point or m.number in nodes or m.source in nodes for m in mounted):
        return ()
    if os.path.basename(point) in os.listdir(os.path.dirname(point)):
        return ()
    lines = _kernel_lines(request.host, device, claims.age(request.claim))
    if lines is None:
        return ()
    if not lines:
        return (f"{_FAILED}; dmesg says why",)
    from auto_iscsi.config.settings import AUTO

    # A given type is tried whatever is on the disk, and its journal is left to the kernel.
    remedy = "" if request.settings.fstype == AUTO else "; try fstype = auto"
    return (f"{_FAILED}; the kernel said: {' / '.join(lines[-_SHOWN:])}{remedy}",)


def _could_still_be_mounted(request: Request, point: str, mounted: Sequence[mounts.Mount]) -> bool:
    """Tell whether this automount asked the last time too, so lately that no mount has expired."""
    root = [m for m in mounted if m.point == os.path.dirname(point) and m.fstype == "autofs"][-1]
    options = dict(option.partition("=")[::2] for option in root.options.split(","))
    timeout = options.get("timeout", "")
    if options.get("pgrp") != str(request.claim.asked_by) or not timeout.isdecimal():
        return False
    return timeout == "0" or claims.age(request.claim) < int(timeout)


def _kernel_lines(host: Host, device: Device, seconds: float) -> list[str] | None:
    """Return the kernel's warnings on a device of the last `seconds`, None if it was mounted."""
    now = time.monotonic()
    since = now - seconds - _WRONG - now * _DRIFT
    names = [f"({device.node})", f"(device {device.node})", f"3: {device.node}:"]
    names += [f"dev {name}," for name in (device.node, os.path.basename(device.disk)) if name]
    names += [device.link] if device.link else []
    lines: list[str] | None = []
    for line in kernel_log.read(host):
        if line.seconds < since or not any(name in line.text for name in names):
            continue
        if any(words in line.text for words in _GOOD):
            lines = None
        elif line.level <= kernel_log.WARNING:
            lines = [*(lines or []), line.text]
    return lines
