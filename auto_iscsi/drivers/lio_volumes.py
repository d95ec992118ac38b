"""Which logical volumes are snapshots, and how are they activated (lvmthin(7), lvs(8))?

A snapshot is a thin volume with an origin that LVM does not activate by itself (its flag
`activation skip`) or that is read-only. Every other thin volume counts as live: a clone that a
virtual machine runs on has an origin as well.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from auto_iscsi.drivers import wire
from auto_iscsi.drivers.protocol import Call, Subject

FIELDS = (
    "vg_uuid,lv_uuid,lv_name,origin,segtype,lv_time,lv_size,"
    "lv_skip_activation,lv_attr,lv_active,lv_device_open"
)
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "LVM_SUPPRESS_FD_WARNINGS": "1",
}


class Volume(NamedTuple):
    """A logical volume as lvs reports it. `created`: seconds since 1970. `size`: bytes."""

    name: str
    uuid: str
    dm_uuid: str  #: what device-mapper calls it while it is active
    origin: str
    created: float | None
    size: int
    is_snapshot: bool
    is_active: bool
    is_open: bool


def report(call: Call, vg: str) -> str:
    """Return what lvs reports of a volume group."""
    return _lvm(
        call,
        "lvs",
        *("--reportformat", "json", "--units", "b", "--nosuffix"),
        *("--config", 'report/time_format="%s"', "-o", FIELDS, vg),
    )


def list_all(call: Call, vg: str) -> list[Volume]:
    """Return the volumes of a volume group."""
    return parse(report(call, vg))


def parse(text: str) -> list[Volume]:
    """Return the volumes of a report; raise Refused if it is none."""
    try:
        rows = [row for part in json.loads(text)["report"] for row in part.get("lv", ())]
        return [_volume(row) for row in rows]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise wire.Refused("internal", f"lvs printed no report: {error}") from None


def _volume(row: dict[str, Any]) -> Volume:
    origin = row["origin"]
    # The second letter is the permission in LVM's metadata; lv_permissions is the active device's.
    protected = row["lv_skip_activation"] or row["lv_attr"][1] == "r"
    return Volume(
        row["lv_name"],
        row["lv_uuid"],
        f"LVM-{row['vg_uuid']}{row['lv_uuid']}".replace("-", "").replace("LVM", "LVM-", 1),
        origin,
        float(row["lv_time"]) if row["lv_time"].isdecimal() else None,
        int(row["lv_size"]),
        bool(origin) and row["segtype"] == "thin" and bool(protected),
        row["lv_active"] == "active",
        row["lv_device_open"] == "open",  # "unknown" while it is not active
    )


def find(volumes: Sequence[Volume], subject: Subject) -> Volume:
    """Return the snapshot in question; raise Refused if it is gone, or is no snapshot."""
    for volume in volumes:
        if volume.uuid == subject.id:
            if not volume.is_snapshot:
                raise wire.Refused("denied", f"{volume.name} is a live volume, no snapshot")
            if (volume.origin, volume.name) != (subject.volume, subject.snapshot):
                name = f"{volume.origin}/{volume.name}"
                raise wire.Refused("conflict", f"{subject.id} is {name} by now: list again")
            return volume
    raise wire.Refused("not_found", f"{subject.volume} has no snapshot {subject.snapshot}")


def activate(call: Call, vg: str, volume: Volume) -> None:
    """Activate a snapshot against its flag `activation skip`.

    Not by LVM's read_only_volume_list: LVM then loads the pool read-only as well, which the kernel
    refuses (seen with LVM 2.03.16, Linux 6.1). The backstore opens it for reading only.
    """
    _lvm(call, "lvchange", "-ay", "-K", f"{vg}/{volume.name}")
    check_device(vg, volume)


def check_device(vg: str, volume: Volume) -> None:
    """Raise Refused unless the device's path leads to the very volume that lvs reported."""
    path = f"/dev/{vg}/{volume.name}"
    name = os.path.basename(os.path.realpath(path))
    try:
        uuid = Path(f"/sys/class/block/{name}/dm/uuid").read_text(encoding="ascii").strip()
    except OSError:
        uuid = "no device of LVM's"
    if uuid != volume.dm_uuid:
        raise wire.Refused("conflict", f"{path} is {uuid}, and not {volume.dm_uuid}")


def deactivate(call: Call, vg: str, volume: Volume) -> str:
    """Deactivate a volume; return why it stays active, or ""."""
    try:
        _lvm(call, "lvchange", "-an", f"{vg}/{volume.name}")
    except wire.Refused as error:
        if error.code == "timeout":
            raise
        return error.message
    return ""


def _lvm(call: Call, *command: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_ENVIRONMENT,
            cwd="/",
            timeout=call.left(),
            check=False,
        )
    except OSError as error:
        raise wire.Refused("unsupported", f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise wire.Refused("timeout", f"{command[0]} did not end in time") from None
    if done.returncode:
        message = wire.one_line(done.stderr.decode("utf-8", "replace"))
        raise wire.Refused("internal", f"{command[0]} on {command[-1]} failed: {message}")
    return done.stdout.decode("utf-8", "replace")
