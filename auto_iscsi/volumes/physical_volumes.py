"""Read the physical volumes of a target, and which volume groups they describe.

A volume group can have physical volumes on other targets, which the setting `with` names. Nothing
is mapped here: volume_groups does that.
"""

from __future__ import annotations

import os
import re
from collections import Counter

from auto_iscsi import errors
from auto_iscsi.disks import ownership
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import lvm_metadata, lvm_text, lvm_volumes, mountable, unmapped_volumes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST_TEXT = 64 << 20  # bytes of metadata that are kept of a target: each may have 16 MiB
WHOLE_DISK = "/the physical volume"  #: in a note, stands for one whose directory is the key itself


class Member(NamedTuple):
    """A physical volume of the target."""

    filesystem: mountable.Filesystem  #: the selected partition or disk, of type LVM_MEMBER
    sectors: int
    start: int = 0  #: sectors from the start of the device: of a partition without a node

    @property
    def area(self) -> unmapped_volumes.Area:
        """Where its data are read."""
        device = self.filesystem.device
        return unmapped_volumes.Area(device.name, device.node, self.start, self.sectors)


class Group(NamedTuple):
    """A volume group, and those of its physical volumes that are there."""

    described: lvm_volumes.VolumeGroup
    members: dict[str, Member]  #: by UUID


class Listed(NamedTuple):
    """A volume group, as its physical volumes describe it; nothing of it needs to be mapped."""

    name: str
    prefix: str  #: the directory of the LUN, "" without one
    areas: dict[str, unmapped_volumes.Area]  #: the physical volumes that are there, by UUID
    volumes: tuple[lvm_volumes.LogicalVolume, ...]


def list_groups(
    host: Host, target: str, members: Sequence[mountable.Filesystem], until: float
) -> list[Listed]:
    """Return the volume groups on these physical volumes; those that expand() leaves out are not.

    Raise NoAnswer when the disks do not answer in time.
    """
    return [
        Listed(
            group.described.name,
            common_offset(group.members.values()),
            {uuid: member.area for uuid, member in group.members.items()},
            group.described.volumes,
        )
        for group in read_groups(host, target, members, mountable.Collector(target), until)
    ]


def read_groups(
    host: Host,
    target: str,
    filesystems: Sequence[mountable.Filesystem],
    collected: mountable.Collector,
    until: float,
) -> list[Group]:
    """Return the volume groups on these physical volumes, each as its newest metadata has it.

    A physical volume belongs to the group that its own metadata names, and to no other that claims
    it. Where two have one UUID, nothing tells which one a group means, and the group is left out.
    """
    devices = [each.device for each in filesystems]
    answers = bounded.run(lambda: _read_labels(host, devices), until, target)
    uuids = Counter(uuid for uuid, _, _ in answers if uuid)
    groups: dict[str, Group] = {}
    for filesystem, (uuid, text, why) in zip(filesystems, answers):
        with collected.leave_out_failures(filesystem.offset or WHOLE_DISK):
            described = _describe(filesystem.device.name, text, why)
            member = _member(host, filesystem)
            known = groups.get(described.uuid, Group(described, {}))
            if described.seqno < known.described.seqno:
                described = known.described
            members = {**known.members, uuid: member}
            groups[described.uuid] = Group(described, members)
    clear = []
    for group in groups.values():
        twice = next((uuid for uuid in group.described.pv_uuids if uuids[uuid] > 1), "")
        if twice:
            copies = [
                _with_target(host, target, each.device)
                for each, (uuid, _, _) in zip(filesystems, answers)
                if uuid == twice
            ]
            collected.notes.append(
                f"volume group {group.described.name}{mountable.LEFT_OUT}"
                f"{' and '.join(copies)} are the same physical volume"
            )
        elif any(is_of(host, target, each) for each in group.members.values()):
            clear.append(group)  # else it is one of another target's own
    return sorted(clear, key=lambda group: (group.described.name, group.described.uuid))


def is_of(host: Host, target: str, member: Member) -> bool:
    """Tell whether a physical volume is on the target itself, not on one that `with` names."""
    return ownership.target_of(host, member.filesystem.device.disk) in ("", target)


def _with_target(host: Host, target: str, device: Device) -> str:
    """Return a device's name, with its target where that is another one than `target`."""
    other = ownership.target_of(host, device.disk)
    return f"{device.name} of {other}" if other not in ("", target) else device.name


def _member(host: Host, filesystem: mountable.Filesystem) -> Member:
    """Return a physical volume with its place on its device."""
    if extent := filesystem.device.extent:
        return Member(filesystem, extent.size, extent.start)
    sectors = int(host.read(f"/sys/dev/block/{filesystem.device.number}/size") or 0)
    return Member(filesystem, sectors)


def _describe(node: str, text: str, why: str) -> lvm_volumes.VolumeGroup:
    """Return the volume group that the text on a physical volume describes; raise NotMountable."""
    if why or not text:
        reason = f"cannot be read: {why}" if why else "belongs to no volume group"
        raise errors.NotMountable(f"{node} is an LVM physical volume that {reason}")
    try:
        return lvm_volumes.parse(text)
    except lvm_text.Malformed as error:
        raise errors.NotMountable(
            f"{node} is an LVM physical volume with wrong metadata: {error}"
        ) from error


def _read_labels(host: Host, devices: Sequence[Device]) -> list[tuple[str, str, str]]:
    """Return UUID and text of each physical volume, or why it cannot be read.

    The physical volumes of a group have the same text, which is kept once.
    """
    answers, texts, size = [], dict[str, str](), 0
    for device in devices:
        uuid, text, why = _read_label(host, device)
        if text not in texts and size + len(text) > _MOST_TEXT:
            text, why = "", f"all metadata of its target is larger than {_MOST_TEXT >> 20} MiB"
        if text not in texts:
            size += len(text)
        answers.append((uuid, texts.setdefault(text, text), why))
    return answers


def _read_label(host: Host, device: Device) -> tuple[str, str, str]:
    """Return UUID and text of a physical volume, or why it cannot be read."""
    try:
        handle = os.open(host.path(f"/dev/{device.node}"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return "", "", str(error)
    start, end = 0, 1 << 63
    if device.extent:
        start = device.extent.start * lvm_metadata.SECTOR
        end = start + device.extent.size * lvm_metadata.SECTOR

    def read(offset: int, size: int) -> bytes:
        return os.pread(handle, max(0, min(size, end - start - offset)), start + offset)

    try:
        label = lvm_metadata.read_label(read)
        return (label.uuid, label.text, "") if label else ("", "", "it has no label")
    except (lvm_text.Malformed, OSError, OverflowError) as error:
        return "", "", str(error)
    finally:
        os.close(handle)


def common_offset(members: Iterable[Member]) -> str:
    """Return the directory of the LUN (/lun0) that holds all these volumes; "" without one."""
    offsets = {re.sub(r"/p[0-9]+\Z", "", member.filesystem.offset) for member in members}
    return offsets.pop() if len(offsets) == 1 else ""
