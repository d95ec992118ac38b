"""Tell which legs of a raid1 volume are in step, by the records that dm-raid keeps of them.

Each leg has a volume of its own for that (NAME_rmeta_N), which begins with a superblock (Linux
drivers/md/dm-raid.c, struct dm_raid_superblock). LVM's own metadata does not say that a leg is
being rebuilt.
"""

from __future__ import annotations

import struct

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 512  #: bytes of a superblock that are read
_MAGIC = 0x64526D44
_FIELDS = struct.Struct("<IIIIQQQQ")  # from magic to array_resync_offset
_ALL = (1 << 64) - 1  # a disk_recovery_offset: nothing is left to be copied


class _Record(NamedTuple):
    """The superblock of a leg."""

    position: int
    events: int  #: grows with each change of the array's state
    failed: int  #: bits of the legs that failed
    recovered: int  #: sectors that are in step, _ALL for all
    resynced: int  #: sectors of the first copy from the first leg to the others, _ALL for all


def in_step(superblocks: Sequence[bytes | None]) -> list[bool]:
    """Return for each leg whether it has all data.

    superblocks: the first bytes of each leg's record; None: it cannot be read. A leg without a
    record is in step only as long as no leg has one: the array was never started then.
    """
    records = [_read(superblock) for superblock in superblocks]
    newest = max((record.events for record in records if record), default=0)
    failed, is_resynced = 0, True
    for record in records:
        if record and record.events == newest:
            failed |= record.failed
            is_resynced &= record.resynced == _ALL
    if not any(records):
        return [superblock is not None for superblock in superblocks]
    return [
        record is not None
        and record.events >= newest - 1  # they are written one after the other
        and record.position == index
        and record.recovered == _ALL
        and not failed >> index & 1
        and (is_resynced or index == 0)
        for index, record in enumerate(records)
    ]


def _read(superblock: bytes | None) -> _Record | None:
    if superblock is None or len(superblock) < _FIELDS.size:
        return None
    magic, _, _, position, events, failed, recovered, resynced = _FIELDS.unpack_from(superblock)
    return _Record(position, events, failed, recovered, resynced) if magic == _MAGIC else None
