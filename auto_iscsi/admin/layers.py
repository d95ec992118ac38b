"""Find what lies on what on a target's disks, and where a lookup shows each filesystem.

On a LUN are its partitions, on a physical volume its logical volumes, and so on. What a lookup has
made is found in sysfs: each of our device-mapper devices is a holder of the device that it is made
of. Why something is left out is in the notes of the functions that a lookup calls. Logical volumes
that are not mapped are read from their physical volumes. Nothing is made.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.admin import our_holders
from auto_iscsi.admin.disk_report import Contents
from auto_iscsi.admin.stack_report import LUN, PARTITION, Node
from auto_iscsi.config.settings import ALL, Settings
from auto_iscsi.disks import our_devices, scsi_disks, udev_db
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import (
    candidates,
    content,
    journal,
    lvm_volumes,
    mapping,
    mountable,
    physical_volumes,
    stack,
    unmapped_volumes,
)
from auto_iscsi.volumes.mountable import Filesystem, Mountable

_STATES = {True: "dirty", False: "clean", None: ""}
#: Beside it, no member is the last thing that is left: stack.expand() notes each one's failure.
_REST = Filesystem("/", scsi_disks.Device("", "", ""), "", ())
_OUR_NAME = re.compile(r"ai-\d+-(.+)")  # mapping.name()


class Shown(NamedTuple):
    """What a lookup shows of a target."""

    selected: Mountable | None = (
        None  #: what the settings select; None: nothing, or it is not clear
    )
    final: Mountable | None = None  #: what is mounted of it
    others: tuple[Filesystem, ...] = ()  #: the physical volumes of other targets (`with`)


class _Volume(NamedTuple):
    """A logical volume, mapped or not."""

    group: physical_volumes.Listed
    volume: lvm_volumes.LogicalVolume
    on: str  #: the name of the disk or partition with its first part

    @property
    def names(self) -> set[str]:
        """The names of the disks and partitions with its group."""
        return {area.name for area in self.group.areas.values()}

    @property
    def name(self) -> str:
        """VG/LV."""
        return f"{self.group.name}/{self.volume.name}"

    @property
    def label(self) -> str:
        """VG-LV."""
        return f"{self.group.name}-{self.volume.name}"


def find(
    host: Host, target: str, disks: Sequence[Contents], settings: Settings, shown: Shown
) -> tuple[Node, ...]:
    """Return a node for each LUN of these disks, of which several can be paths to one LUN."""
    luns: dict[int, Contents] = {}
    for contents in disks:
        known = luns.get(contents.disk.san_lun)
        if known is None or (contents.candidates and not known.candidates):
            luns[contents.disk.san_lun] = contents
    ordered = [luns[lun] for lun in sorted(luns)]
    layers = _Layers(host, target, disks, ordered, settings, shown)
    luns_drawn = tuple(layers.lun(contents) for contents in ordered)
    return (*luns_drawn, *(layers.other(member) for member in shown.others))


class _Layers:
    """What is known of the disks of one target, from which the nodes are made."""

    def __init__(
        self,
        host: Host,
        target: str,
        disks: Sequence[Contents],
        luns: Sequence[Contents],
        settings: Settings,
        shown: Shown,
    ) -> None:
        self._host, self._target, self._settings, self._shown = host, target, settings, shown
        self._until = time.monotonic() + journal.READ_SECONDS
        #: LUN and partition by the name of any path to it
        self._numbers = {
            candidate.device.name: (contents.disk.san_lun, candidate.part)
            for contents in disks
            for candidate in contents.candidates
        }
        chosen = shown.selected.filesystems if shown.selected else ()
        #: by LUN and partition, the device that a lookup takes
        self._chosen = {
            self._numbers[each.device.name]: each.device
            for each in chosen
            if each.device.name in self._numbers
        }
        final = shown.final.filesystems if shown.final else ()
        #: the place of each filesystem that is mounted, by LUN and partition, or node of ours
        self._places = {self._key(each.device): each.offset or "/" for each in final}
        self._members = [
            Filesystem(
                self._offset(contents, candidate),
                self._device(contents, candidate),
                candidate.content.fstype,
                settings.options,
            )
            for contents in luns
            if scsi_disks.is_selected(contents.disk, settings)
            for candidate in contents.candidates
            if candidate.content.fstype in mountable.MEMBERS
        ] + list(shown.others)
        self._whys = self._read_notes()
        self._volumes = self._list_volumes()
        self._dirty = our_holders.read_journals(host, target, luns, self._until)
        self._made = our_holders.names(self._host)
        self._drawn: set[str] = set()

    def lun(self, contents: Contents) -> Node:
        """Return the node of a LUN."""
        disk, name = contents.disk, f"LUN {contents.disk.san_lun}"
        if not contents.candidates:
            return Node(name, LUN, "", device=disk.name, why=contents.why[1])
        whole, parts = contents.candidates[0], contents.candidates[1:]
        node = self._partition(contents, whole)
        why = node.why if whole.content.has_signature or not parts else ""
        if not scsi_disks.is_selected(disk, self._settings):
            why = f"lun = {self._settings.lun}"
        return node._replace(
            name=name,
            kind=LUN,
            type=node.type or whole.content.table,
            device=disk.name,
            why=why,
            children=(*(self._partition(contents, part) for part in parts), *node.children),
        )

    def other(self, member: Filesystem) -> Node:
        """Return the node of a physical volume on another target."""
        device = member.device
        part = device.extent.part if device.extent else 0
        children = tuple(self._above(device.number, device.name, member.offset, part))
        groups = sorted({v.group.name for v in self._volumes if device.name in v.names})
        return Node(
            member.offset[1:],
            LUN,
            member.fstype,
            f"of {', '.join(groups)}" if groups else "",
            device.name,
            why="" if groups else self._whys.get(member.offset[1:], "of no volume group here"),
            children=children,
        )

    def _partition(self, contents: Contents, candidate: candidates.Candidate) -> Node:
        """Return the node of a partition, or of what is on the whole disk."""
        device, what = self._device(contents, candidate), candidate.content
        offset = self._offset(contents, candidate)
        key = (contents.disk.san_lun, candidate.part)
        number = device.number
        if candidate.part and not device.extent:
            number = our_holders.of_partition(self._host, contents.disk, candidate.part) or number
        part = device.extent.part if device.extent else 0
        children = tuple(self._above(number, device.name, offset, part))
        place, why = self._places.get(key, ""), ""
        is_selected = scsi_disks.is_selected(contents.disk, self._settings)
        if is_selected and not (place or children):
            why = self._whys.get((offset or physical_volumes.WHOLE_DISK)[1:], "")
        is_pending = why.endswith(mapping.PENDING) and key in self._chosen
        if is_pending:
            place, why = (offset or "/") if self._settings.partition == ALL else "", ""
        elif not (place or children or why) and is_selected:
            why = self._why(what, key in self._chosen)
        groups = {v.group.name for v in self._volumes if device.name in v.names}
        label = f"'{what.label}'" if what.label else what.purpose and f"({what.purpose})"
        dirty = self._dirty.get(candidate.device.node)
        return Node(
            str(candidate.part),
            PARTITION,
            content.SIGNATURES if what.is_ambivalent else what.fstype,
            f"of {', '.join(sorted(groups))}" if groups else label,
            candidate.device.name,
            candidate.size,
            _STATES[dirty],
            self._settings.journal_rule if dirty and not why else "",
            our_holders.overlay(self._host, number),
            place,
            why,
            is_pending,
            children,
        )

    def _above(self, number: str, device: str, offset: str, part: int = 0) -> Iterator[Node]:
        """Yield the nodes of what lies on a device: our devices, and volumes not mapped yet.

        device: its name. offset: the directory of the partition below the key. part: of a partition
        without a node, its number; then `number` is that of the whole disk.
        """
        for holder in our_holders.holders(self._host, number):
            if self._part(holder) != part:
                continue
            if holder not in self._drawn:  # a striped volume lies on two
                self._drawn.add(holder)
                yield self._mapped(holder, offset)
        waiting = [v for v in self._volumes if v.on == device and not self._names(v) & self._made]
        places = [unmapped_volumes.Volume(v.volume.segments, v.group.areas) for v in waiting]
        try:
            answers = unmapped_volumes.recognise(self._host, self._target, places, self._until)
        except errors.Failure:
            answers = [("", None)] * len(waiting)
        for volume, (fstype, dirty) in zip(waiting, answers):
            yield self._unmapped(volume, fstype, dirty)

    def _mapped(self, node: str, offset: str) -> Node:
        """Return the node of a device of ours (dm-N), which is no overlay."""
        number, own_name = our_holders.number(self._host, node), our_devices.name(self._host, node)
        volume = next((v for v in self._volumes if own_name in self._names(v)), None)
        match = _OUR_NAME.fullmatch(own_name)
        label = match[1] if match else own_name
        label = volume.label if volume else label
        name = volume.name if volume else label
        children = tuple(self._above(number, node, offset))
        what, place, why = self._content(node), self._places.get(node, ""), ""
        if not (place or children):
            prefix = re.sub(r"/p[0-9]+\Z", "", offset)
            why = self._whys.get(f"{prefix}/{label}"[1:]) or self._whys.get(label, "")
            why = self._why(what, True) or why.removeprefix(f"{name}: ") or self._setting()
        dirty = self._dirty.get(node)
        return Node(
            name,
            our_devices.kind(self._host, node),
            what.fstype,
            f"'{what.label}'" if what.label else "",
            node,
            int(self._host.read(f"/sys/block/{node}/size") or 0) * mapping.SECTOR,
            _STATES[dirty],
            self._settings.journal_rule if dirty and not why else "",
            our_holders.overlay(self._host, number),
            place,
            why,
            children=children,
        )

    def _unmapped(self, volume: _Volume, fstype: str, dirty: bool | None) -> Node:
        """Return the node of a logical volume that is not mapped."""
        offset = f"{volume.group.prefix}/{volume.label}"
        why = self._whys.get(offset[1:], "").removeprefix(f"{volume.name}: ")
        is_pending, place = why.endswith(mapping.PENDING) and not volume.volume.why, ""
        if is_pending:
            usage = "filesystem" if fstype else ""
            why = self._why(content.Content(fstype, usage), True) if fstype else ""
            partition = self._settings.partition
            if partition == volume.name:
                place = "/"
            elif "/" in str(partition) or self._numbers.get(volume.on) not in self._chosen:
                why = self._setting()
            elif partition == ALL:
                place = offset
            is_pending = not why
        return Node(
            volume.name,
            "logical volume",
            fstype,
            size=volume.volume.sectors * mapping.SECTOR or None,
            state=_STATES[dirty],
            rule=self._settings.journal_rule if dirty and not why else "",
            place="" if why else place,
            why=why,
            is_pending=is_pending,
        )

    def _why(self, what: content.Content, is_selected: bool) -> str:
        """Return why something is not mounted by what it is or by the settings, "" for unknown."""
        if not what.has_signature:
            return what.purpose or "nothing that udev knows is on it"
        if not (what.holds_files or what.larger or what.is_ambivalent):
            return "it holds no files"
        if what.fstype in content.FOREIGN and what.fstype not in mountable.MEMBERS:
            description, needed = content.FOREIGN[what.fstype]
            return f"{description}; needed: {needed}"
        return "" if is_selected or self._shown.selected is None else self._setting()

    def _setting(self) -> str:
        return f"partition = {self._settings.partition or 'none'}"

    def _device(self, contents: Contents, candidate: candidates.Candidate) -> scsi_disks.Device:
        """Return the device of a candidate that a lookup takes, which can be on another path."""
        return self._chosen.get((contents.disk.san_lun, candidate.part), candidate.device)

    def _offset(self, contents: Contents, candidate: candidates.Candidate) -> str:
        """Return the directory below the key that `partition = all` gives a partition."""
        prefix = f"/lun{contents.disk.san_lun}" if self._settings.lun == ALL else ""
        return prefix + (f"/p{candidate.part}" if candidate.part else "")

    def _key(self, device: scsi_disks.Device) -> tuple[int, int] | str:
        """Return LUN and partition of a device, or its node if it is ours; see through overlays."""
        name = device.name
        while our_devices.is_ours(self._host, name):
            partition = our_holders.partition(self._host, name)
            if not (partition or our_devices.is_overlay(self._host, name)):
                break
            slaves = self._host.names(f"/sys/block/{name}/slaves")
            below = next((slave for slave in slaves if not slave.startswith("loop")), "")
            if partition:
                lun, _ = self._numbers.get(below, (0, 0))
                return lun, partition
            name = below
        return self._numbers.get(name, name)

    def _part(self, node: str) -> int:
        """Return the partition that a device of ours on a whole disk lies in; 0: in none.

        -1: it shows the partition itself (volumes/partitions).
        """
        if our_holders.partition(self._host, node):
            return -1
        match = _OUR_NAME.fullmatch(our_devices.name(self._host, node))
        hidden = (each.device.extent.part for each in self._members if each.device.extent)
        return next((p for p in hidden if match and match[1].startswith(f"{p}-")), 0)

    def _content(self, node: str) -> content.Content:
        """Return what udev says is on a device of ours."""
        return content.from_udev(udev_db.read(self._host, our_holders.number(self._host, node)))

    def _names(self, volume: _Volume) -> set[str]:
        """Return the names that the device of a volume can have."""
        numbers = {
            our_holders.number(self._host, area.node) for area in volume.group.areas.values()
        }
        hidden = [each.device.extent.part for each in self._members if each.device.extent]
        labels = [volume.label, *(f"{part}-{volume.label}" for part in hidden)]
        return {mapping.name(self._host, *each) for each in itertools.product(numbers, labels)}

    def _read_notes(self) -> dict[str, str]:
        """Return why something is left out, by its directory below the key."""
        layouts = [each for each in (self._shown.selected, self._shown.final) if each]
        whys = {}
        if self._members:
            settings = self._settings._replace(partition=ALL)
            layout = Mountable((*self._members, _REST))
            try:
                layouts += [
                    stack.expand(self._host, self._target, layout, settings, self._until, act=False)
                ]
            except errors.Failure as failure:  # of what the key itself would show
                whys[self._members[0].offset[1:]] = failure.reason
        for note in (note for layout in layouts for note in layout.notes):
            name, is_left_out, reason = note.partition(mountable.LEFT_OUT)
            if is_left_out:
                whys[name] = reason
        return whys

    def _list_volumes(self) -> list[_Volume]:
        """Return the logical volumes on the disks."""
        members = [each for each in self._members if each.fstype == mountable.LVM_MEMBER]
        try:
            groups = (
                physical_volumes.list_groups(self._host, self._target, members, self._until)
                if members
                else []
            )
        except errors.Failure:  # _read_notes() has the reason
            groups = []
        volumes = []
        for group in groups:
            for volume in group.volumes:
                pvs = [stripe.pv for segment in volume.segments for stripe in segment.stripes]
                present = [group.areas[pv] for pv in pvs if pv in group.areas]
                first = next(iter([*present, *group.areas.values()]), None)
                volumes.append(_Volume(group, volume, first.name if first else ""))
        return volumes
