"""Run dmsetup, with a deadline.

dmsetup itself waits until udev has made the links of a new device.
"""

from __future__ import annotations

import fcntl
import os
import time

from auto_iscsi import errors
from auto_iscsi.disks import our_devices
from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from auto_iscsi.machine.host import Host

FOLDER = "/dev/mapper"  #: where udev makes the links
MAKERS = ("dmsetup", "cryptsetup")  #: the programs that make our devices
_STEP = 0.1  # seconds between two looks whether such a program still runs
_BLKROSET = 0x125D  # linux/fs.h: _IO(0x12, 93)
_LONGEST_REASON = 300  # characters of what dmsetup printed


def run(host: Host, until: float, *words: str, holding: int = -1) -> tuple[int | None, str]:
    """Run dmsetup; return its exit status, None when it still runs at `until`, and its output.

    systemd sends SIGTERM to dmsetup when automount stops. dmsetup is started so that it ignores it:
    otherwise a device could be left without its table.
    dmsetup keeps the descriptor `holding` open until it ends, even when we are killed before.
    """
    return host.output("dmsetup", *words, until=until, endures=True, quick=True, stdin=holding)


def why_not(host: Host, until: float, *words: str, holding: int = -1) -> str:
    """Run dmsetup; return why it failed, "" when it did not."""
    status, text = run(host, until, *words, holding=holding)
    if status == 0:
        return ""
    end = "did not end in time" if status is None else f"ended with exit status {status}"
    return text[:_LONGEST_REASON] or f"dmsetup {end}"


def create(host: Host, until: float, name: str, *words: str, holding: int = -1) -> str:
    """Make our device `name` with dmsetup create; return why it failed, "" when it did not.

    What a killed dmsetup left under that name, without a table, is removed and made anew.
    """
    why = why_not(host, until, "create", *words, holding=holding)
    if why and remove_without_table(host, until, name):
        why = why_not(host, until, "create", *words, holding=holding)
    return why


def remove_without_table(host: Host, until: float, name: str) -> bool:
    """Remove our device `name` if it has no table; tell whether it had none.

    A dmsetup or cryptsetup that outlived its lookup can be about to load one, by this name, into
    whatever has the name then. So its end is waited for.
    """
    while name in list_without_table(host, until, name):
        if not _is_being_made(host, name):
            run(host, until, "remove", "--retry", name)
            return True
        if time.monotonic() + _STEP >= until:
            break
        time.sleep(_STEP)
    return False


def _is_being_made(host: Host, name: str) -> bool:
    """Tell whether a program runs that makes the device `name`."""
    return any(
        host.read(f"/proc/{pid}/comm") in MAKERS
        and name in (host.read(f"/proc/{pid}/cmdline") or "")
        for pid in host.names("/proc")
        if pid.isdecimal()
    )


def list_without_table(host: Host, until: float, *names: str) -> list[str]:
    """Return the names of our devices, of all or of `names`, that have no table.

    dmsetup makes a device, and then loads its table. sysfs shows the device only with a table
    (since Linux 5.15, drivers/md/dm.c, dm_setup_md_queue).
    """
    names_of_ours = []
    for text in run(host, until, "info", *names)[1].split("\n\n"):
        values = {}
        for line in text.split("\n"):
            field, _, value = line.partition(":")
            values[field] = value.strip()
        name, uuid = values.get("Name", ""), values.get("UUID", "")
        is_ours = uuid.startswith(our_devices.UUID_PREFIX)
        is_ours |= our_devices.is_opened_by_us(host, uuid, name)
        if is_ours and values.get("Tables present") == "None":
            names_of_ours.append(name)
    return names_of_ours


def require_disk(host: Host, target: str, disk: str) -> None:
    """Raise NoDisk if a disk (its path in sysfs) is gone: another one can have its number now."""
    if disk and host.stat(disk) is None:
        raise errors.NoDisk(
            f"{target}: the disk {os.path.basename(disk)} is gone", "did somebody log it out?"
        )


def make_read_only(host: Host, target: str, node: str) -> None:
    """Make a device of ours (dm-N) read-only that was made writable; raise Failure.

    Its table stays as it is: a read-only one in its place takes two runs of dmsetup more, and an
    event of udev's.
    """
    try:
        handle = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, _BLKROSET, (1).to_bytes(4, "little"))
        finally:
            os.close(handle)
    except OSError as error:
        raise errors.Failure(
            f"{target}: {our_devices.name(host, node)} cannot be made read-only: {error.strerror}"
        ) from error
