"""Tell whether a thin pool can be shown, by its superblock, and with which table.

The kernel reads a pool's mappings itself (Linux drivers/md/dm-thin-metadata.c, struct
thin_disk_superblock; Documentation/admin-guide/device-mapper/thin-provisioning.rst). With the
feature read_only it opens the metadata for reading only, and never writes: a pool whose data and
metadata are of another size than the superblock says would have to be changed first, and is
refused here. A pool's own device shows its data; the kernel makes it only as a writable one, and it
is made read-only afterwards (mapping.Mapping).
"""

from __future__ import annotations

import struct

from auto_iscsi.lean_stdlib import NamedTuple

SIZE = 512  #: bytes of a superblock that are read
_MAGIC = 27022010
_VERSIONS = (1, 2)
_NEEDS_CHECK = 1  # THIN_METADATA_NEEDS_CHECK_FLAG
_BLOCK = 8  # sectors of a metadata block
_MOST_BLOCKS = 255 * ((1 << 14) - 64)  # dm-space-map-metadata.h, DM_SM_METADATA_MAX_BLOCKS
#: Checksum, flags, block number, UUID, magic, version, time, transaction, held root, space maps of
#: data and of metadata (each begins with its number of blocks), two roots, sectors of a data block.
_FIELDS = struct.Struct("<IIQ16sQIIQQ Q120x Q120x QQ I")
#: What a pool that is only read needs: no block is made, discarded or zeroed.
_FEATURES = "3 read_only ignore_discard skip_block_zeroing"


class Unusable(ValueError):
    """A thin pool cannot be shown; the text says why."""


class Pool(NamedTuple):
    """What LVM's metadata says about a thin pool."""

    chunk: int  #: sectors
    transaction_id: int
    metadata: int  #: sectors of the volume with the pool's metadata
    data: int  #: sectors of the volume with its data


def data_sectors(pool: Pool, superblock: bytes) -> int:
    """Return how many sectors of its data volume a pool uses; raise Unusable."""
    if len(superblock) < _FIELDS.size:
        raise Unusable("the superblock of its thin pool cannot be read")
    fields = _FIELDS.unpack_from(superblock)
    flags, magic, version, transaction_id = fields[1], fields[4], fields[5], fields[7]
    blocks, metadata_blocks, chunk = fields[9], fields[10], int(fields[13])
    if magic != _MAGIC or version not in _VERSIONS:
        raise Unusable("its thin pool has no superblock")
    if flags & _NEEDS_CHECK:
        raise Unusable("its thin pool is damaged and needs a check")
    # LVM writes its own metadata first: the pool can be one transaction behind.
    if transaction_id not in (pool.transaction_id, pool.transaction_id - 1):
        raise Unusable(
            f"its thin pool is at transaction {transaction_id}, and LVM's metadata at "
            f"{pool.transaction_id}"
        )
    expected = min(pool.metadata // _BLOCK, _MOST_BLOCKS)
    if chunk != pool.chunk or metadata_blocks != expected or not blocks:
        raise Unusable("its thin pool has another size than LVM's metadata says")
    if blocks > pool.data // chunk:
        raise Unusable("its thin pool is larger than the volume with its data")
    return int(blocks) * chunk


def pool_line(sectors: int, metadata: str, data: str, chunk: int) -> str:
    """Return the table of a pool on the devices MAJOR:MINOR."""
    return f"0 {sectors} thin-pool {metadata} {data} {chunk} 0 {_FEATURES}"


def volume_line(sectors: int, pool: str, device_id: int) -> str:
    """Return the table of a volume in the pool MAJOR:MINOR."""
    return f"0 {sectors} thin {pool} {device_id}"
