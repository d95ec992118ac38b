"""Read the LVM2 metadata of physical volumes, and trust none of it.

A physical volume has a label in one of its first four sectors, which leads to metadata areas. Each
holds the description of the whole volume group as text, once in each of its physical volumes
(LVM2 lib/format_text/layout.h, lib/label/label.c; lvm2's format is documented in man 8 pvck). No
program of LVM's is run: with a copy of a volume group that is active on this host, some of them
change the original.

What is read here becomes device-mapper tables that the kernel gets from root. So every number is
checked: a table names only sectors that are inside the physical volume.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

SECTOR = 512  # bytes
_LABEL = b"LABELONE"
_TYPE = b"LVM2 001"
_MAGIC = b" LVM2 x[5A%r0N*>"
_CRC_START = 0xF597A6CF  # LVM2 lib/misc/crc.h, INITIAL_CRC
_LABEL_SECTORS = 4
_AREA_HEADER = 512  # bytes; where a metadata area's text may begin
_LARGEST_TEXT = 16 << 20  # bytes; LVM's own limit is the metadata area's size, 1 MiB by default
_MOST_AREAS = 16
_DEEPEST = 16  # sections within sections
_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}\Z")  # lvm(8), VALID NAMES
_TOKEN = re.compile(r"""[\s,]+|\#[^\n]*|(?P<token>[{}=\[\]]|"(?:[^"\\]|\\.)*"|[^\s,{}=\[\]"#]+)""")

Read = Callable[[int, int], bytes]  #: offset and size in bytes → bytes


class Malformed(ValueError):
    """The metadata is not what LVM writes."""


class PhysicalVolume(NamedTuple):
    """What the label of a physical volume says."""

    uuid: str  #: 32 characters, without hyphens
    text: str  #: the newest description of its volume group; "": it holds none


class Stripe(NamedTuple):
    """Where a part of a logical volume lies."""

    pv: str  #: the UUID of the physical volume
    start: int  #: sectors from the start of the physical volume


class Segment(NamedTuple):
    """A part of a logical volume that is mapped in one way."""

    start: int  #: sectors from the start of the logical volume
    size: int  #: sectors
    stripes: tuple[Stripe, ...]  #: one: linear
    stripe_size: int  #: sectors; 0 for one stripe


class LogicalVolume(NamedTuple):
    """A logical volume that users see."""

    name: str
    segments: tuple[Segment, ...]  #: empty: it cannot be shown
    why: str = ""  #: why it cannot be shown

    @property
    def sectors(self) -> int:
        """Its size in sectors."""
        return sum(segment.size for segment in self.segments)


class VolumeGroup(NamedTuple):
    """A volume group, as its metadata describes it."""

    name: str
    uuid: str
    seqno: int  #: grows with each change
    pv_uuids: tuple[str, ...]
    volumes: tuple[LogicalVolume, ...]


def read_label(read: Read) -> PhysicalVolume | None:
    """Return what a device's label says, None when it is no physical volume; raise Malformed."""
    for sector in range(_LABEL_SECTORS):
        block = read(sector * SECTOR, SECTOR)
        if len(block) == SECTOR and block[:8] == _LABEL and block[24:32] == _TYPE:
            number, crc, offset = struct.unpack_from("<QII", block, 8)
            if number != sector or crc != _crc(block[20:]):
                raise Malformed("the label's checksum is wrong")
            return _read_header(read, block, offset)
    return None


def _read_header(read: Read, block: bytes, offset: int) -> PhysicalVolume:
    """Return the physical volume whose header is at `offset` in its label's sector."""
    if not 32 <= offset <= SECTOR - 40:
        raise Malformed("the header is outside the label's sector")
    uuid = block[offset : offset + 32].decode("ascii", "replace")
    at = offset + 40
    at = _skip_areas(block, at)  # the data areas
    newest: tuple[int, str] = (-1, "")
    for start, size in _areas(block, at):
        text = _read_area(read, start, size)
        seqno = re.search(r"^[ \t]*seqno[ \t]*=[ \t]*(\d{1,10})[ \t]*(?:#.*)?$", text, re.M)
        newest = max(newest, (int(seqno[1]) if seqno else -1, text))
    return PhysicalVolume(uuid, newest[1])


def _areas(block: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield offset and size, in bytes, of the areas in a list that ends with zeros."""
    for _ in range(_MOST_AREAS):
        if at + 16 > len(block):
            raise Malformed("a list of areas has no end")
        start, size = struct.unpack_from("<QQ", block, at)
        if not start:
            return
        yield start, size
        at += 16
    raise Malformed("too many areas")


def _skip_areas(block: bytes, at: int) -> int:
    return at + 16 * (sum(1 for _ in _areas(block, at)) + 1)


def _read_area(read: Read, start: int, size: int) -> str:
    """Return the text in a metadata area, "" where it holds none; raise Malformed."""
    header = read(start, _AREA_HEADER)
    if len(header) < _AREA_HEADER or header[4:20] != _MAGIC:
        raise Malformed("a metadata area has no header")
    crc, version, its_start, its_size = struct.unpack_from("<I16xIQQ", header)
    if crc != _crc(header[4:]) or version != 1 or (its_start, its_size) != (start, size):
        raise Malformed("the header of a metadata area is wrong")
    offset, length, checksum, flags = struct.unpack_from("<QQII", header, 40)
    if not offset or flags & 1:  # RAW_LOCN_IGNORED
        return ""
    if not (_AREA_HEADER <= offset < size and length <= min(size - _AREA_HEADER, _LARGEST_TEXT)):
        raise Malformed("the text is outside its metadata area")
    first = min(length, size - offset)
    text = read(start + offset, first)
    if first < length:  # the area is a ring
        text += read(start + _AREA_HEADER, length - first)
    if len(text) != length or _crc(text) != checksum:
        raise Malformed("the checksum of the text is wrong")
    return text.rstrip(b"\0").decode("utf-8", "replace")


def _crc(data: bytes) -> int:
    """Return LVM's checksum: CRC-32 with another start, and without the last inversion."""
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def parse(text: str) -> VolumeGroup:
    """Return the volume group that a text describes; raise Malformed."""
    groups = {key: value for key, value in parse_text(text).items() if isinstance(value, dict)}
    if len(groups) != 1:
        raise Malformed("not one volume group")
    ((name, group),) = groups.items()
    extent = _number(group, "extent_size", 1, 1 << 32)
    physical = _sections(group, "physical_volumes")
    pvs = {
        key: (_uuid(pv), _number(pv, "pe_start", 0, 1 << 60), _number(pv, "pe_count", 0, 1 << 40))
        for key, pv in physical.items()
    }
    volumes = [
        _volume(key, volume, extent, pvs)
        for key, volume in _sections(group, "logical_volumes").items()
        if "VISIBLE" in _words(volume, "status")
    ]
    return VolumeGroup(
        _valid_name(name),
        _uuid(group),
        _number(group, "seqno", 0, 1 << 32),
        tuple(uuid for uuid, _, _ in pvs.values()),
        tuple(volumes),
    )


def _volume(
    name: str, volume: dict[str, Any], extent: int, pvs: dict[str, tuple[str, int, int]]
) -> LogicalVolume:
    """Return a logical volume; raise Malformed when it is outside its physical volumes."""
    segments = []
    at = 0
    count = _number(volume, "segment_count", 0, 1 << 20)
    for number in range(1, count + 1):
        section = volume.get(f"segment{number}")
        if not isinstance(section, dict):
            raise Malformed(f"{name} lacks a segment")
        kind = section.get("type")
        if kind != "striped":  # LVM calls linear the striped type with one stripe
            return LogicalVolume(_valid_name(name), (), f"its type is {_printable(kind)}")
        start = _number(section, "start_extent", 0, 1 << 40) * extent
        size = _number(section, "extent_count", 1, 1 << 40) * extent
        if start != at:
            raise Malformed(f"{name} has a gap")
        stripes = tuple(_stripes(name, section, size, extent, pvs))
        stripe_size = 0
        if len(stripes) > 1:
            stripe_size = _number(section, "stripe_size", 1, 1 << 32)
            if size % len(stripes) or (size // len(stripes)) % stripe_size:
                raise Malformed(f"{name} does not divide into its stripes")
        segments.append(Segment(start, size, stripes, stripe_size))
        at += size
    if not segments:
        raise Malformed(f"{name} has no segment")
    return LogicalVolume(_valid_name(name), tuple(segments))


def _stripes(
    name: str,
    section: dict[str, Any],
    size: int,
    extent: int,
    pvs: dict[str, tuple[str, int, int]],
) -> Iterator[Stripe]:
    """Yield where the stripes of a segment of `size` sectors lie."""
    places = section.get("stripes")
    count = _number(section, "stripe_count", 1, 128)
    if not isinstance(places, list) or len(places) != 2 * count:
        raise Malformed(f"{name} does not say where its stripes are")
    for key, first in zip(places[::2], places[1::2]):
        if not isinstance(key, str) or key not in pvs or not isinstance(first, int) or first < 0:
            raise Malformed(f"{name} lies on an unknown physical volume")
        uuid, pe_start, pe_count = pvs[key]
        extents = size // count // extent
        if size % (count * extent) or first + extents > pe_count:
            raise Malformed(f"{name} lies outside its physical volume")
        yield Stripe(uuid, pe_start + first * extent)


def parse_text(text: str) -> dict[str, Any]:
    """Return LVM's text as nested dictionaries; raise Malformed.

    A value is a string, an integer, or a list of them. A number that is no integer stays a string.
    """
    tokens = _tokens(text)
    root: dict[str, Any] = {}
    open_sections = [root]
    for token in tokens:
        section = open_sections[-1]
        if token == "}":
            if len(open_sections) == 1:
                raise Malformed("a section that was not opened is closed")
            open_sections.pop()
            continue
        if token in "{=[]" or token[:1] == '"' or token in section:
            raise Malformed(f"unexpected {_printable(token)}")
        following = next(tokens, "")
        if following == "{":
            if len(open_sections) > _DEEPEST:
                raise Malformed("sections are too deep")
            section[token] = {}
            open_sections.append(section[token])
        elif following == "=":
            section[token] = _value(tokens, next(tokens, ""))
        else:
            raise Malformed(f"unexpected {_printable(following)}")
    if len(open_sections) > 1:
        raise Malformed("a section has no end")
    return root


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise Malformed(f"unexpected {_printable(text[at : at + 20])}")
        if token := match["token"]:
            yield token
        at = match.end()


def _value(tokens: Iterator[str], token: str) -> Any:
    if token == "[":
        members = []
        while (token := next(tokens, "")) != "]":
            members.append(_scalar(token))
        return members
    return _scalar(token)


def _scalar(token: str) -> str | int:
    if token[:1] == '"':
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    if not token or token in "{}=[]":
        raise Malformed(f"unexpected {_printable(token)}")
    return int(token) if re.fullmatch(r"-?[0-9]{1,20}", token) else token


def _sections(section: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return the sections within a section of this name, by their names; none if it is missing."""
    inner = section.get(name, {})
    if not isinstance(inner, dict) or not all(isinstance(v, dict) for v in inner.values()):
        raise Malformed(f"{name} is no section of sections")
    return inner


def _number(section: dict[str, Any], name: str, lowest: int, highest: int) -> int:
    value = section.get(name)
    if not isinstance(value, int) or not lowest <= value <= highest:
        raise Malformed(f"{name} is {_printable(value)}")
    return value


def _words(section: dict[str, Any], name: str) -> list[str]:
    value = section.get(name, [])
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _uuid(section: dict[str, Any]) -> str:
    value = section.get("id")
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9!#-]{32,40}", value):
        raise Malformed(f"id is {_printable(value)}")
    return value.replace("-", "")


def _valid_name(name: str) -> str:
    if not _NAME.match(name) or name in (".", ".."):
        raise Malformed(f"{_printable(name)} is no name")
    return name


def _printable(value: object) -> str:
    return repr(value)[:60]
