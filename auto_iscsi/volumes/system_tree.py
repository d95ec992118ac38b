"""Work out where a system mounts its filesystems, by the fstab(5) on its root.

The root is the filesystem with a table whose own entry for / names that filesystem. An entry is
believed only if it names a filesystem of this target, and if its mount point is a real directory:
automount mounts there, and a symbolic link would lead it elsewhere. Everything else is named.
"""

from __future__ import annotations

import errno
import os
from collections import Counter

from auto_iscsi import wording
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import look_inside
from auto_iscsi.volumes import fstab

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Callable

MOST = 100  #: filesystems of a tree; automount takes an entry of 16 KiB
_NO_ROOT = "vfat exfat ntfs ntfs3 ntfs-3g iso9660 udf squashfs hfs hfsplus".split()
_ANY_SUBVOLUME = ("subvolid=5",)  # the whole of a btrfs: each subvolume is a directory there
_ROOT_SUBVOLUMES = ("", "@", "@rootfs", "root")  # Ubuntu's, Debian's and Fedora's
_SHOWN = 60  # characters of a stranger's text in a note
_NAMED = 20  # entries that a note names


class Volume(NamedTuple):
    """A filesystem of the target."""

    label: str  #: p1, vg0-home: as notes call it
    fstype: str
    names: frozenset[str]  #: the names that mean it, as fstab.names_of() gives them


class Place(NamedTuple):
    """A filesystem, and where the system has it."""

    volume: int  #: its index among the volumes
    point: str  #: / is the root
    subvolume: tuple[str, ...] = ()  #: options of mount(8)


class Tree(NamedTuple):
    """The places of a system's filesystems, or why there are none."""

    places: tuple[Place, ...] = ()  #: the root first, each parent before its children
    notes: tuple[str, ...] = ()
    why_none: str = ""  #: why there is no tree
    is_ambiguous: bool = False  #: because several roots could be meant


if TYPE_CHECKING:
    #: Opens a volume's root directory, with options for a subvolume; raises OSError.
    Open = Callable[[int, "tuple[str, ...]"], int]


def work_out(volumes: Sequence[Volume], open_volume: Open) -> Tree:
    """Return the tree of the one system on these filesystems."""
    inside = _Inside(volumes, open_volume, {})
    roots, whys = _find_roots(inside)
    if len(roots) > 1:
        labels = ", ".join(sorted({volumes[root.volume].label for root in roots}))
        return Tree((), (), f"{len(roots)} roots of a system, on {labels}", True)
    if not roots:
        return Tree((), (), "; ".join(whys) or "no filesystem has an /etc/fstab")
    ((root, entries),) = roots.items()
    return _Arrangement(inside, root, entries).result()


class _Inside(NamedTuple):
    """Look into the filesystems of the target: open them, and read their tables."""

    volumes: Sequence[Volume]
    open_volume: Open
    opened: dict[tuple[int, tuple[str, ...]], int | OSError]

    def open(self, volume: int, subvolume: tuple[str, ...]) -> int:
        """Return a descriptor of the root directory; raise OSError."""
        key = (volume, subvolume)
        if key not in self.opened:
            try:
                self.opened[key] = self.open_volume(volume, subvolume)
            except OSError as error:
                self.opened[key] = error
        result = self.opened[key]
        if isinstance(result, OSError):
            raise result
        return result

    def table(self, place: Place, folder: str) -> list[fstab.Entry] | None:
        """Return the entries of a table, None where there is none; raise OSError."""
        root = self.open(place.volume, place.subvolume)
        data = look_inside.read_file(root, f"{folder}/etc", "fstab", fstab.LARGEST)
        return None if data is None else fstab.parse(data)

    def meant(self, what: str) -> list[int]:
        """Return the volumes that the first field of an entry names."""
        names = fstab.names_of(what)
        return [i for i, volume in enumerate(self.volumes) if not volume.names.isdisjoint(names)]


def _find_roots(inside: _Inside) -> tuple[dict[Place, list[fstab.Entry]], list[str]]:
    """Return the roots with their tables, and why other filesystems with a table are none."""
    roots: dict[Place, list[fstab.Entry]] = {}
    whys: list[str] = []
    for index, volume in enumerate(inside.volumes):
        if volume.fstype in _NO_ROOT:
            continue
        looked_at = [(Place(index, "/"), "")]
        if volume.fstype == "btrfs":
            whole = Place(index, "/", _ANY_SUBVOLUME)
            looked_at += [(whole, folder) for folder in _ROOT_SUBVOLUMES]
        for place, folder in looked_at:
            try:
                root, why = _root_by(inside, place, inside.table(place, folder))
                # The options of its own entry can lead to another subvolume, with another table.
                if root and root not in roots:
                    entries = inside.table(root, "")
                    again, why = _root_by(inside, root, entries)
                    if entries is not None and again == root:
                        roots[root] = entries
            except OSError as error:
                why = f"{volume.label} cannot be mounted: {_reason(error)}"
            if why and why not in whys:
                whys.append(why)
    return roots, whys


def _root_by(
    inside: _Inside, place: Place, entries: list[fstab.Entry] | None
) -> tuple[Place | None, str]:
    """Return the root that a table names, None unless it is the volume that the table lies on.

    With None, the second value says why; it is "" if there is no table.
    """
    if entries is None:
        return None, ""
    label = inside.volumes[place.volume].label
    own = [entry for entry in entries if entry.point == "/"]
    if len(own) != 1:
        return None, f"the /etc/fstab on {label} has {wording.counted(len(own), 'root')}"
    if own[0].why_left_out or inside.meant(own[0].what) != [place.volume]:
        why = own[0].why_left_out or f"not {label}"
        return None, f"the /etc/fstab on {label} has {_shown(own[0].what)} as its root: {why}"
    return Place(place.volume, "/", own[0].subvolume), ""


class _Arrangement:
    """The places of one system's filesystems, while they are worked out."""

    def __init__(self, inside: _Inside, root: Place, entries: Sequence[fstab.Entry]) -> None:
        self._inside = inside
        self._places = {"/": root}
        self._spelled: dict[str, str] = {}  # each directory on the way to a place, by lower case
        self._absent: set[str] = set()  # mount points of what is left out
        self._left: list[str] = []  # for the log: these, and why
        self._seen = {root.volume}  # volumes that an entry names
        ordered = sorted(
            ((_normal(entry.point), entry) for entry in entries),
            key=lambda pair: pair[0].split("/"),
        )
        points = Counter(point for point, entry in ordered if not entry.why_left_out)
        for point, entry in ordered:
            if point == "/":
                continue
            if why := self._why_not(point, entry, points):
                self._absent.add(point)
                self._left.append(f"{_shown(point)} ({why})")

    def _why_not(self, point: str, entry: fstab.Entry, points: Counter[str]) -> str:
        """Take an entry into the tree; return "", or why it is left out."""
        meant = self._inside.meant(entry.what)
        self._seen.update(meant)
        if why := entry.why_left_out:
            return why
        if points[point] > 1:
            return "two entries have that mount point"
        if len(meant) != 1:
            return f"{_shown(entry.what)} is " + ("ambiguous" if meant else "not on this target")
        parts = point.split("/")
        parents = ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts))]
        for parent in parents:
            if parent in self._absent and parent not in self._places:
                return f"below {_shown(parent)}, which is left out"
        # Where a filesystem does not tell cases apart, the other one is mounted over this way.
        way = {name.lower(): name for name in (*parents, point)}
        for name in (self._spelled.get(lower, own) for lower, own in way.items()):
            if name not in way.values():
                return f"another entry has {_shown(name)}"
        if len(self._places) >= MOST:
            return f"only {MOST} filesystems are shown"
        parent = [name for name in parents if name in self._places][-1]
        path = point[len(parent) :]
        holder = self._places[parent]
        try:
            root = self._inside.open(holder.volume, holder.subvolume)
        except OSError:
            return f"{parent} cannot be looked into"
        if not look_inside.is_directory(root, path):
            return "no directory there"
        try:
            self._inside.open(meant[0], entry.subvolume)
        except OSError as error:
            if error.errno != errno.ENODEV:  # a type that a program of its own mounts
                return f"{_shown(entry.what)} cannot be mounted: {_reason(error)}"
        self._places[point] = Place(meant[0], point, entry.subvolume)
        self._spelled.update(way)
        return ""

    def result(self) -> Tree:
        """Return the tree."""
        notes = []
        if self._left:
            more = f" and {len(self._left) - _NAMED} more" if len(self._left) > _NAMED else ""
            notes.append(f"left out of its /etc/fstab: {', '.join(self._left[:_NAMED])}{more}")
        volumes = self._inside.volumes
        absent = [each.label for i, each in enumerate(volumes) if i not in self._seen]
        if absent:
            notes.append(f"not in its /etc/fstab, and left out: {', '.join(absent)}")
        return Tree(tuple(self._places.values()), tuple(notes))


def _normal(point: str) -> str:
    """Return a mount point without doubled slashes and without one at its end."""
    if not point.startswith("/"):
        return point
    return "/" + "/".join(filter(None, point.split("/")))


def _shown(text: str) -> str:
    """Return a stranger's text for a note."""
    return wording.printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _reason(error: OSError) -> str:
    """Return the kernel's reason in small letters."""
    return os.strerror(error.errno).lower() if error.errno else str(error)
