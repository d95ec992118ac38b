"""Make a partition table: DOS with primary partitions, or GPT (UEFI 2.10, 5.3) with both headers.

A table is a list of offsets and the bytes to write there. Spans are start and length in logical
blocks.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence

GPT_ENTRIES, GPT_ENTRY = 128, 128
LINUX = 0x83
EFI = 0xEF
EFI_SYSTEM = uuid.UUID("C12A7328-F81F-11D2-BA4B-00C04FC93EC9")
LINUX_DATA = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")


def dos_entry(kind: int, start: int, sectors: int) -> bytes:
    """Return an entry of a DOS table; its CHS fields have the value that means LBA."""
    return struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, sectors)


def dos(
    spans: Sequence[tuple[int, int]], sectors: int, block: int, efi: Sequence[bool]
) -> list[tuple[int, bytes]]:
    """Return the offsets and bytes of a DOS table; `efi` marks EFI system partitions."""
    if len(spans) > 4:
        raise ValueError("a DOS table has four primary partitions")
    kinds = [EFI if each else LINUX for each in efi]
    entries = b"".join(dos_entry(kind, *span) for kind, span in zip(kinds, spans)).ljust(64, b"\0")
    return [(440, uuid.uuid4().bytes[:4] + b"\0\0" + entries + b"\x55\xaa")]


def gpt(
    spans: Sequence[tuple[int, int]], sectors: int, block: int, efi: Sequence[bool]
) -> list[tuple[int, bytes]]:
    """Return the offsets and bytes of a GPT: protective DOS table, both headers, both arrays."""
    array = b"".join(
        struct.pack(
            "<16s16sQQQ72s",
            (EFI_SYSTEM if kind else LINUX_DATA).bytes_le,
            uuid.uuid4().bytes_le,
            start,
            start + size - 1,
            0,
            b"",
        )
        for (start, size), kind in zip(spans, efi)
    ).ljust(GPT_ENTRIES * GPT_ENTRY, b"\0")
    blocks = len(array) // block
    whole, checksum = uuid.uuid4().bytes_le, zlib.crc32(array)

    def header(here: int, other: int, entries: int) -> bytes:
        def packed(own: int) -> bytes:
            return struct.pack(
                "<8sIIIIQQQQ16sQIII",
                b"EFI PART",
                0x10000,
                92,
                own,
                0,
                here,
                other,
                2 + blocks,
                sectors - blocks - 2,
                whole,
                entries,
                GPT_ENTRIES,
                GPT_ENTRY,
                checksum,
            )

        return packed(zlib.crc32(packed(0)))

    protective = dos_entry(0xEE, 1, min(sectors - 1, 0xFFFFFFFF)).ljust(64, b"\0") + b"\x55\xaa"
    last = sectors - 1
    return [
        (446, protective),
        (block, header(1, last, 2)),
        (2 * block, array),
        ((last - blocks) * block, array),
        (last * block, header(last, 1, last - blocks)),
    ]
