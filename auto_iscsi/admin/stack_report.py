"""Draw what lies on what on a target's disks; layers finds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from auto_iscsi import wording
from auto_iscsi.admin import output

LUN, PARTITION = "lun", "partition"  #: kinds, beside those of our_devices.kind()


class Node(NamedTuple):
    """A LUN, a partition or a device, and what lies on it."""

    name: str  #: LUN 0; the number of a partition; vg0/root
    kind: str  #: LUN, PARTITION, or what our_devices.kind() returns
    type: str  #: as libblkid names it, or a partition table's; "": not known
    label: str = ""  #: of the filesystem; or the volume group, or what a partition is for
    device: str = ""  #: sdXN, dm-N; "": it is not mapped
    size: int | None = None  #: bytes; None: not known
    state: str = ""  #: of the journal: clean or dirty; "": it has none, or it is not known
    rule: str = ""  #: what the setting `journal` does with a dirty one
    overlay: str = ""  #: the name of the overlay over it
    place: str = ""  #: the path below the key where it is mounted; "/": the key itself; "": nowhere
    why: str = ""  #: why it is left out
    is_pending: bool = False  #: it is shown once a lookup has mapped it
    children: tuple[Node, ...] = ()


def is_pending(nodes: Sequence[Node]) -> bool:
    """Tell whether a lookup would have to map something first."""
    return any(node.is_pending or is_pending(node.children) for node in nodes)


def draw(nodes: Sequence[Node], paint: output.Paint) -> list[str]:
    """Return the lines of the drawing."""
    rows = [row for node in nodes for row in _rows(node, "", "", paint)]
    width = max((len(row[2]) for row in rows), default=0)
    return output.columns([(*row[:2], row[2].rjust(width), *row[3:]) for row in rows], "  ")


def data(node: Node) -> dict[str, Any]:
    """Return a node for --json, in the form that auto-iscsi(8) documents."""
    return {
        "name": node.name,
        "kind": node.kind,
        "type": node.type or None,
        "label": node.label or None,
        "device": node.device or None,
        "bytes": node.size,
        "state": node.state or None,
        "journal": node.rule or None,
        "overlay": node.overlay or None,
        "place": node.place or None,
        "left_out": node.why or None,
        "pending": node.is_pending,
        "children": [data(child) for child in node.children],
    }


def _rows(node: Node, first: str, below: str, paint: output.Paint) -> Iterator[tuple[str, ...]]:
    """Yield the cells of a node's line, and of the lines of its children.

    first: what is drawn before the node's name; below: before those of its children.
    """
    branch, last, along = ("├─ ", "└─ ", "│  ") if paint.has_boxes else ("|- ", "`- ", "|  ")
    device = f" {node.device}" if node.kind in (LUN, PARTITION) and node.device else ""
    what = f"{node.type} {node.label}".strip()
    size = "" if node.size is None else wording.size(node.size)
    state = f"{node.state}: {node.rule}" if node.rule else node.state
    remarks = [node.place] if node.place else []
    remarks += ["not mapped yet"] if node.is_pending else []
    remarks += [paint.dim(f"left out: {wording.printable(node.why)}")] if node.why else []
    cells = (f"{node.name}{device}", what, size, state)
    yield (
        first + wording.printable(cells[0]),
        *map(wording.printable, cells[1:]),
        ", ".join(remarks),
    )
    for index, child in enumerate(node.children, 1):
        is_last = index == len(node.children)
        yield from _rows(
            child,
            below + (last if is_last else branch),
            below + ("   " if is_last else along),
            paint,
        )
