"""A volume group with one logical volume of each kind, and the records that lie on its disks."""

from __future__ import annotations

import struct

from tests.unit.physical_volumes import PVS

MIB = 2048  # sectors; the extents of the group have this size
ALL = (1 << 64) - 1


def volume(name: str, size: int, segment: str, status: str = '"READ", "WRITE"') -> str:
    """Return the section of a logical volume with one segment of `size` extents."""
    return f"""{name} {{
id = "Sox32I-xDtK-Jm3x-mydU-nCse-qKeS-abcdef"
status = [{status}]
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {size}
{segment}
}}
}}
"""


def linear(name: str, size: int, pv: int, first: int, status: str = '"READ", "WRITE"') -> str:
    """Return the section of a linear volume."""
    stripes = f'type = "striped"\nstripe_count = 1\nstripes = ["pv{pv}", {first}]'
    return volume(name, size, stripes, status)


SHOWN = '"READ", "WRITE", "VISIBLE"'
VOLUMES = (
    volume(
        "pool",
        32,
        'type = "thin-pool"\nmetadata = "pool_tmeta"\npool = "pool_tdata"\ntransaction_id = 2\n'
        'chunk_size = 128\ndiscards = "passdown"\nzero_new_blocks = 1',
        SHOWN,
    )
    + linear("pool_tmeta", 4, 0, 0)
    + linear("pool_tdata", 32, 0, 4)
    + volume(
        "thin", 64, 'type = "thin"\nthin_pool = "pool"\ntransaction_id = 0\ndevice_id = 1', SHOWN
    )
    + volume(
        "snap",
        64,
        'type = "thin"\nthin_pool = "pool"\ntransaction_id = 1\ndevice_id = 2\norigin = "thin"',
        SHOWN,
    )
    + volume(
        "twice",
        16,
        'type = "raid1"\ndevice_count = 2\nregion_size = 4096\n'
        'raids = ["twice_rmeta_0", "twice_rimage_0", "twice_rmeta_1", "twice_rimage_1"]',
        SHOWN,
    )
    + linear("twice_rmeta_0", 1, 0, 36)
    + linear("twice_rimage_0", 16, 0, 37)
    + linear("twice_rmeta_1", 1, 1, 0)
    + linear("twice_rimage_1", 16, 1, 1)
    + volume(
        "through",
        16,
        'type = "cache"\ncache_pool = "fast"\norigin = "through_corig"',
        SHOWN,
    )
    + linear("through_corig", 16, 0, 53)
    + volume(
        "fast",
        8,
        'type = "cache-pool"\ndata = "fast_cdata"\nmetadata = "fast_cmeta"\nchunk_size = 128\n'
        'metadata_format = 2\ncache_mode = "writethrough"\npolicy = "smq"',
    )
    + linear("fast_cdata", 8, 1, 17)
    + linear("fast_cmeta", 8, 1, 25)
    + volume(
        "back",
        16,
        'type = "cache+CACHE_USES_CACHEVOL"\ncache_pool = "vol_cvol"\norigin = "back_corig"\n'
        'metadata_format = 2\nchunk_size = 128\ncache_mode = "writeback"\npolicy = "smq"',
        SHOWN,
    )
    + linear("back_corig", 16, 0, 69)
    + linear("vol_cvol", 16, 1, 33)
    + linear("old", 8, 0, 85, SHOWN)
    + linear("store", 4, 0, 93)
    + volume(
        "snapshot0",
        8,
        'type = "snapshot"\nchunk_size = 8\norigin = "old"\ncow_store = "store"',
        SHOWN,
    )
    + volume("five", 16, 'type = "raid5_ls"\ndevice_count = 3\nstripe_size = 128', SHOWN)
    + linear("lvol0_pmspare", 4, 1, 49)
)
TEXT = f"""vg0 {{
id = "i0nkLE-GzYq-iAUC-yCDx-V8X3-TRmG-fZNdQM"
seqno = 5
status = ["RESIZEABLE", "READ", "WRITE"]
extent_size = {MIB}
physical_volumes {{
pv0 {{
id = "{PVS[0]}"
pe_start = 2048
pe_count = 99
}}
pv1 {{
id = "{PVS[1]}"
pe_start = 2048
pe_count = 60
}}
}}
logical_volumes {{
{VOLUMES}}}
}}
"""


def pool_record(
    *,
    flags: int = 0,
    transaction_id: int = 2,
    blocks: int = 512,
    meta: int = 1024,
    chunk: int = 128,
) -> bytes:
    """Return the superblock of the thin pool: `blocks` of its data, `meta` of its metadata."""
    head = struct.pack("<IIQ16sQIIQQ", 0, flags, 0, b"", 27022010, 2, 0, transaction_id, 0)
    maps = struct.pack("<Q120xQ120x", blocks, meta)
    return (head + maps + struct.pack("<QQIIQ", 0, 0, chunk, 8, meta)).ljust(512, b"\0")


def leg_record(
    position: int, *, events: int = 9, failed: int = 0, recovered: int = ALL, resynced: int = ALL
) -> bytes:
    """Return the superblock of a leg."""
    fields = (0x64526D44, 0, 2, position, events, failed, recovered, resynced)
    return struct.pack("<IIIIQQQQ", *fields).ljust(512, b"\0")
