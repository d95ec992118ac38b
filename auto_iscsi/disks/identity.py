"""Is the volume behind a disk still the one that the kernel found there?

A SAN can map another volume to a LUN while the session lives. The kernel keeps size, partitions
and wwid of the old one, until somebody rescans, and reads the new one's blocks (seen with Linux
6.1). So the disk is asked for its identity, and that is compared with what sysfs has from when it
was found, and with what we saw first: /run/auto-iscsi/disks/TARGET, a line for each disk.
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


class Seen(NamedTuple):
    """What we know of a disk."""

    identity: str = "-"  #: page 0x83's words for the logical unit, in hexadecimal digits
    ours: bool = False  #: it is read-only because we said so


def read(host: Host, target: str) -> dict[str, Seen]:
    """Return what we know of a target's disks."""
    found = {}
    for line in (host.read(f"{FOLDER}/{target}") or "").splitlines():
        fields = line.split()
        if len(fields) == 3:
            found[fields[0]] = Seen(fields[1], fields[2] == "ro")
    return found


def write(host: Host, target: str, known: dict[str, Seen]) -> None:
    """Keep what we know of a target's disks, in one step. The caller holds the target."""
    lines = [
        f"{name} {seen.identity} {'ro' if seen.ours else 'rw'}\n" for name, seen in known.items()
    ]
    claims.write_file(host, f"disks/{target}", "".join(lines))


def name(host: Host, disk: str) -> str:
    """Return what the disk at `disk` in sysfs is kept as: no other disk of this boot is that."""
    number = host.read(f"{disk}/diskseq") or host.read(f"{disk}/dev") or "-"
    return f"{scsi_device(disk).rpartition('/')[2]}/{number}"


def scsi_device(disk: str) -> str:
    """Return the H:C:T:L folder of a disk in sysfs."""
    return disk.rpartition("/block/")[0]


def is_same(host: Host, target: str, disk: str, keep: bool = True) -> bool:
    """Say whether the disk at `disk` in sysfs is what it was; `keep`: remember what it is."""
    page = _page(host, disk)
    answer = scsi_commands.identity(host, os.path.basename(disk), page) if page else None
    if answer is None:  # it has none, or cannot be asked
        return True
    known, key = read(host, target), name(host, disk)
    seen = known.get(key, Seen())
    if not _matches(answer, page, seen):
        return False
    if keep and seen.identity == "-":
        write(host, target, {**known, key: seen._replace(identity=answer.hex())})
    return True


def is_lost(host: Host, target: str, disk: str) -> bool:
    """Say whether the volume that the kernel found at `disk` in sysfs is there no more.

    The LUN of one that was unmapped does not answer, or not as that volume: a target has to
    answer for LUN 0 (SAM-5, 4.7.4). Within scsi's limit, five seconds.
    """
    page = _page(host, disk)
    if not page or not host.names(
        f"{scsi_device(disk)}/scsi_generic"
    ):  # it has nothing to be known by
        return False
    answer = scsi_commands.identity(host, os.path.basename(disk), page)
    seen = read(host, target).get(name(host, disk), Seen())
    return answer is None or not _matches(answer, page, seen)


def _page(host: Host, disk: str) -> bytes:
    """Return page 0x83 as the kernel read it when it found the disk."""
    return host.read_bytes(f"{scsi_device(disk)}/vpd_pg83") or b""


def _matches(answer: bytes, page: bytes, seen: Seen) -> bool:
    return answer == scsi_commands.designators(page) and seen.identity in ("-", answer.hex())


def delete_disk(host: Host, target: str, disk: str) -> None:
    """Have the kernel forget a disk that is another one by now; raise WrongDisk when in use."""
    node = os.path.basename(disk)
    try:
        # Refused while it, or a partition, is mounted in any namespace, or held by dm, md or swap.
        os.close(os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise errors.WrongDisk(
                f"{target}: {node} is another volume than it was, and the old one is still in use",
                f"end what uses /dev/{node} (auto-iscsi status), umount it, and try again",
            ) from error
    try:
        host.write(f"{scsi_device(disk)}/delete", "1")
    except OSError as error:
        raise errors.WrongDisk(
            f"{target}: {node} is another volume than it was: {error.strerror}",
            f"iscsiadm -m node -T {target} --logout, and try again",
        ) from error
