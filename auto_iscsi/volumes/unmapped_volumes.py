"""Recognise the filesystems on logical volumes that are not mapped, for a report.

No device is made. Only the first blocks and the journal of a logical volume are read, at the places
on its physical volumes where its segments lie.
"""

from __future__ import annotations

import bisect
import os

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager, suppress
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import superblock
from auto_iscsi.volumes.lvm_metadata import SECTOR
from auto_iscsi.volumes.lvm_volumes import Segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Area(NamedTuple):
    """Where a physical volume lies."""

    name: str  #: of its disk or partition, also of a partition without a node
    node: str  #: the device that it is read from
    start: int  #: sectors from the start of that device
    size: int  #: sectors


class Volume(NamedTuple):
    """Where a logical volume lies."""

    segments: tuple[Segment, ...]
    areas: Mapping[str, Area]  #: its physical volumes, by UUID


def recognise(
    host: Host, target: str, volumes: Sequence[Volume], until: float
) -> list[tuple[str, bool | None]]:
    """Return the type of each volume's content, "" for unknown, and whether its journal is dirty.

    Raise NoAnswer when the disks do not answer in time.
    """

    def recognise_all() -> list[tuple[str, bool | None]]:
        nodes = {area.node for volume in volumes for area in volume.areas.values()}
        with _opened(host, sorted(nodes)) as handles:
            return [superblock.recognise(_reader(volume, handles)) for volume in volumes]

    answers = bounded.run(recognise_all, until, target) if volumes else []
    return [(fstype, dirty) for fstype, dirty in answers]


@contextmanager
def _opened(host: Host, nodes: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield a descriptor of each device that can be opened."""
    handles = {}
    try:
        for node in nodes:
            with suppress(OSError):
                handles[node] = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_CLOEXEC)
        yield handles
    finally:
        for handle in handles.values():
            os.close(handle)


def _reader(volume: Volume, handles: Mapping[str, int]) -> superblock.Read:
    """Return what reads from a logical volume; it reads less where a physical volume is missing."""
    starts = [segment.start * SECTOR for segment in volume.segments]

    def read(offset: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            at = offset + len(data)
            index = bisect.bisect_right(starts, at) - 1
            if index < 0:
                break
            pv, place, left = locate(volume.segments[index], at - starts[index])
            area = volume.areas.get(pv)
            handle = handles.get(area.node, -1) if area else -1
            left = min(left, area.size * SECTOR - place) if area else 0
            if handle < 0 or left <= 0 or not area:
                break
            part = os.pread(handle, min(left, size - len(data)), area.start * SECTOR + place)
            if not part:
                break
            data += part
        return data

    return read


def locate(segment: Segment, at: int) -> tuple[str, int, int]:
    """Return where a byte of a segment lies: physical volume, byte, and how many lie together."""
    left = segment.size * SECTOR - at
    if len(segment.stripes) == 1:
        stripe = segment.stripes[0]
        return stripe.pv, stripe.start * SECTOR + at, left
    chunk = segment.stripe_size * SECTOR
    number, inside = divmod(at, chunk)
    row, index = divmod(number, len(segment.stripes))
    stripe = segment.stripes[index]
    return stripe.pv, stripe.start * SECTOR + row * chunk + inside, min(left, chunk - inside)
