"""Check that the volume behind a disk is still the one that the kernel found there.

A SAN can map another volume to a LUN while the session is up. Until somebody rescans, the kernel
keeps the size, partitions and WWID of the old volume, and reads the blocks of the new one (seen
with Linux 6.1). So the disk is asked for its identity (the logical unit's designators in VPD page
0x83), and the answer is compared with the page that sysfs keeps from when the kernel found the
disk, and with the answer that the disk gave first. The first answers are kept in
/run/auto-iscsi/disks/TARGET, one line for each disk.
"""

from __future__ import annotations

import errno
import os

from auto_iscsi import errors
from auto_iscsi.disks import scsi_commands
from auto_iscsi.iscsi import claims
from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

FOLDER = f"{claims.FOLDER}/disks"
_UNKNOWN = "-"
CHANGED = "is another volume than it was"


class Remembered(NamedTuple):
    """What /run/auto-iscsi keeps of a disk."""

    identity: str = _UNKNOWN  #: its designators in hexadecimal digits
    set_read_only: bool = False  #: it is read-only because we made it so
    hidden: tuple[tuple[int, str], ...] = ()  #: partitions without a node: number and udev's type


class Examination(NamedTuple):
    """What a disk answers now, and what it is compared with."""

    name: str  #: the disk's name in the target's file
    answer: bytes | None  #: its designators; None: it has none, or did not answer
    kernels: bytes | None  #: those that the kernel read when it found the disk
    remembered: Remembered

    @property
    def is_same(self) -> bool:
        """Whether the volume is the same; True when the disk has no identity or did not answer."""
        return self.answer is None or self._matches(self.answer)

    @property
    def is_confirmed(self) -> bool:
        """Whether the disk answered, and the volume is the same."""
        return self.answer is not None and self._matches(self.answer)

    def _matches(self, answer: bytes) -> bool:
        first = self.remembered.identity
        return answer == self.kernels and first in (_UNKNOWN, answer.hex())


def examine(host: Host, target: str, disk: str) -> Examination:
    """Ask the disk at `disk` in sysfs for its identity. Nothing is changed; 5 seconds at most."""
    page = _kernels_page(host, disk)
    node = os.path.basename(disk)
    answer = scsi_commands.identity(host, node, page) if page else None
    if answer is None:
        return Examination("", None, None, Remembered())
    name = disk_name(host, disk)
    remembered = read(host, target).get(name, Remembered())
    return Examination(name, answer, scsi_commands.designators(page), remembered)


def remember(host: Host, target: str, examination: Examination) -> None:
    """Keep the first identity of a disk that is the same. The caller holds the target."""
    answer = examination.answer
    if answer is None or not examination.is_same or examination.remembered.identity != _UNKNOWN:
        return
    remembered = examination.remembered._replace(identity=answer.hex())
    write(host, target, {**read(host, target), examination.name: remembered})


def is_lost(host: Host, target: str, disk: str) -> bool:
    """Tell whether the volume that the kernel found at `disk` in sysfs is not mapped any more.

    The LUN of an unmapped volume does not answer, or answers with another identity: a target must
    answer for LUN 0 (SAM-5, 4.7.4). This takes five seconds at most. A disk that has no identity,
    or no /dev/sgN to ask it through, is never lost.
    """
    if not _kernels_page(host, disk) or not host.names(f"{scsi_device(disk)}/scsi_generic"):
        return False
    return not examine(host, target, disk).is_confirmed


def delete_disk(host: Host, target: str, disk: str, until: float, why: str = CHANGED) -> None:
    """Delete the disk at `disk` in sysfs from the kernel, so that a scan finds it anew.

    `why`: what is wrong with it. Raise WrongDisk when it is in use or the kernel refuses, NoAnswer
    when that takes until `until`.
    """
    from auto_iscsi.machine import bounded  # rarely needed

    node = os.path.basename(disk)
    delete = f"{scsi_device(disk)}/delete"
    is_in_use, error = bounded.run(lambda: _delete(host, node, delete), until, target)
    if is_in_use:
        raise errors.WrongDisk(
            f"{target}: {node} {why}, and the old disk is still in use",
            f"run auto-iscsi status, end what uses /dev/{node}, unmount it, and try again",
        )
    if error:
        raise errors.WrongDisk(
            f"{target}: {node} {why}: {os.strerror(error)}",
            f"iscsiadm -m node -T {target} --logout, and try again",
        )


def _delete(host: Host, node: str, delete: str) -> tuple[bool, int]:
    """Delete a disk; return whether it is in use, and the errno of the deletion.

    To open a disk and to delete it both wait for I/O that is under way: a child process does it.
    """
    try:
        # The kernel refuses this while the disk or a partition of it is mounted in any namespace,
        # or held by device mapper, md or swap.
        os.close(os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True, 0
    try:
        host.write(delete, "1")
    except OSError as error:
        return False, error.errno or errno.EIO
    return False, 0


def read(host: Host, target: str) -> dict[str, Remembered]:
    """Return what is remembered of a target's disks, by disk_name(); twins adds other names."""
    disks = {}
    for line in (host.read(f"{FOLDER}/{target}") or "").splitlines():
        fields = line.split()
        if len(fields) in (3, 4):
            pairs = [pair.partition("=") for pair in "".join(fields[3:]).split(",")]
            hidden = tuple((int(part), kind) for part, _, kind in pairs if part.isdecimal())
            disks[fields[0]] = Remembered(fields[1], fields[2] == "ro", hidden)
    return disks


def write(host: Host, target: str, disks: dict[str, Remembered]) -> None:
    """Replace the file of a target's disks in one step. The caller holds the target."""
    lines = []
    for name, remembered in disks.items():
        words = [name, remembered.identity, "ro" if remembered.set_read_only else "rw"]
        if remembered.hidden:
            words.append(",".join(f"{part}={kind}" for part, kind in remembered.hidden))
        lines.append(" ".join(words) + "\n")
    claims.write_file(host, f"disks/{target}", "".join(lines))


def hidden_partitions(host: Host, target: str, disk: str) -> dict[int, str]:
    """Return the partitions of the disk at `disk` in sysfs that a lookup hid, each with its type.

    The kernel can have nodes of them all the same: a lookup was killed before it deleted them, or
    somebody has brought them back. Nobody but root can know of any.
    """
    try:
        remembered = read(host, target)
    except errors.NotPermitted:
        return {}
    return dict(remembered.get(disk_name(host, disk), Remembered()).hidden)


def disk_name(host: Host, disk: str) -> str:
    """Return a name for the disk at `disk` in sysfs that no other disk gets in this boot."""
    number = host.read(f"{disk}/diskseq") or host.read(f"{disk}/dev") or "-"
    return f"{scsi_device(disk).rpartition('/')[2]}/{number}"


def scsi_device(disk: str) -> str:
    """Return the path in sysfs of the SCSI device H:C:T:L of a disk."""
    return disk.rpartition("/block/")[0]


def _kernels_page(host: Host, disk: str) -> bytes:
    """Return VPD page 0x83 as the kernel read it when it found the disk, b"" for none."""
    return host.read_bytes(f"{scsi_device(disk)}/vpd_pg83") or b""
