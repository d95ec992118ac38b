"""Show a target's filesystems as the system on them mounts them: partition = system.

All filesystems are found, mapped and made clean as with partition = all. Then they are mounted
once where nobody sees them, the system's own /etc/fstab is read (system_tree), and each filesystem
gets its place below the key. With partition = auto, the same is done where several filesystems or
a volume group could be a system; if they are none, `auto` shows or refuses what it would without.
"""

from __future__ import annotations

import re

from auto_iscsi import errors
from auto_iscsi.config.settings import ALL, Settings
from auto_iscsi.disks import udev_db
from auto_iscsi.machine import bounded, look_inside, private_files
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import fstab, journal, mount_options, mountable, stack, system_tree

Names = dict[str, frozenset[str]]  #: by place, names as fstab.names_of() gives them
#: Failures that say nothing of whether there is a system.
NOT_NOW = (
    errors.NoAnswer,
    errors.NoDisk,
    errors.Busy,
    errors.WrongDisk,
    errors.TwinVolumes,
    errors.DirtyJournal,
)
_POINT = "/run"  # any directory: what is mounted there is seen by one child process only
#: What udev makes a device's links of, and records of it.
_RECORDED = {
    "uuid": "ID_FS_UUID_ENC",
    "label": "ID_FS_LABEL_ENC",
    "partuuid": "ID_PART_ENTRY_UUID",
    "partlabel": "ID_PART_ENTRY_NAME",
}
#: Options of a filesystem that matter to a look at it, too.
_KEPT = ("nouuid", *mount_options.WITHOUT_JOURNAL.values(), "nologreplay")
#: Types that a read-only mount never writes to.
_WITHOUT_ANY = ("vfat", "exfat", "iso9660", "udf", "squashfs")
#: With these rules, the kernel may replay the journal at automount's mount.
_REPLAYING = ("", "replay")


def names(host: Host, layout: mountable.Mountable) -> Names:
    """Return the names that an fstab has for filesystems, by their places in `layout`.

    They are asked for twice: a partition has some of its own, and later its place can be taken by a
    device of ours or by what is in it.
    """
    return {each.offset: _names(host, each) for each in layout.filesystems}


def show(
    host: Host,
    target: str,
    layout: mountable.Mountable,
    known: Names,
    settings: Settings,
    until: float,
    act: bool,
) -> mountable.Mountable:
    """Return the tree of the system on these filesystems; raise Failure where there is none.

    `known`: names() of the partitions. Without `act`, only devices that are there already are
    looked at, and no journal is replayed.
    """
    every = settings._replace(partition=ALL)
    layout = stack.expand(host, target, layout, every, until, act)
    all_names = {
        offset: own | known.get(offset, frozenset()) for offset, own in names(host, layout).items()
    }
    number = len(layout.filesystems)
    if every.journal_rule:
        layout = journal.apply_rule(host, target, layout, every, until, act)
    is_replayed = act and every.journal_rule in _REPLAYING
    tree = _look(host, target, layout, all_names, not act or is_replayed, until)
    if is_replayed and len(tree.places) > 1:
        # What automount's mount replays can put a link in the place of a mount point. So what it
        # mounts is replayed now, and looked into again.
        layout = layout._replace(
            filesystems=tuple(
                each
                for index, each in enumerate(layout.filesystems)
                if any(place.volume == index for place in tree.places)
            )
        )
        notes = tree.notes
        tree = _look(host, target, layout, all_names, False, until)
        tree = tree._replace(notes=tuple(dict.fromkeys((*notes, *tree.notes))))
    if tree.why_none:
        raise _no_system(target, tree, layout, len(layout.filesystems) < number)
    is_alone = len(tree.places) == 1
    filesystems = [
        _placed(layout.filesystems[place.volume], place, is_alone) for place in tree.places
    ]
    return mountable.Mountable(tuple(filesystems), (*layout.notes, *tree.notes))


def _no_system(
    target: str, tree: system_tree.Tree, layout: mountable.Mountable, lacks_any: bool
) -> errors.NotMountable | errors.Ambiguous | errors.DirtyJournal:
    """Return the failure for filesystems without one clear root among them.

    lacks_any: one of them was left out because of its journal. That can be the root.
    """
    if tree.is_ambiguous:
        return errors.Ambiguous(
            f"{target}: {tree.why_none}", "partition = all shows each filesystem"
        )
    why = "; ".join((tree.why_none, *layout.notes))
    if lacks_any:
        return errors.DirtyJournal(
            f"{target}: no root of a system: {why}",
            "see journal and overlay_dir: auto.iscsi.conf(5)",
        )
    return errors.NotMountable(
        f"{target}: no root of a system: {why}", "partition = all shows each filesystem"
    )


def _names(host: Host, filesystem: mountable.Filesystem) -> frozenset[str]:
    """Return the names that an fstab has for a filesystem: those of its own, and its place's."""
    properties = udev_db.read(host, filesystem.device.number).properties
    recorded: set[str] = set()
    for folder, key in _RECORDED.items():
        if value := properties.get(key):
            recorded.update(fstab.names_of(f"/dev/disk/by-{folder}/{value}"))
    if filesystem.volume:
        recorded.update(fstab.volume_names(*filesystem.volume.split("/")))
    return frozenset(recorded)


def _look(
    host: Host,
    target: str,
    layout: mountable.Mountable,
    known: Names,
    leaves_journals: bool,
    until: float,
) -> system_tree.Tree:
    """Look into the filesystems, in a child process; return what was worked out.

    `leaves_journals`: no journal is replayed; else they are mounted as automount mounts them.
    """
    point = host.path(_POINT)
    volumes = [
        system_tree.Volume(each.offset[1:] or each.device.node, each.fstype, known[each.offset])
        for each in layout.filesystems
    ]

    def open_volume(index: int, subvolume: tuple[str, ...]) -> int:
        each = layout.filesystems[index]
        if not is_safe_to_look(host, each):
            raise OSError(f"{each.fstype} could write to a disk that is not read-only")
        options = [*_options_of_look(each, leaves_journals), *subvolume]
        node = host.path(f"/dev/{each.device.node}")
        return look_inside.open_mounted(node, point, each.fstype, ",".join(options))

    def work() -> tuple[object, ...]:
        try:
            private_files.leave_namespace()
        except OSError as error:
            return ((), (), f"no mount namespace: {(error.strerror or '').lower()}", False)
        tree = system_tree.work_out(volumes, open_volume)
        return (tuple(map(tuple, tree.places)), *tree[1:])

    places, *rest = bounded.run(work, until, target)
    return system_tree.Tree(tuple(system_tree.Place(*each) for each in places), *rest)


def is_safe_to_look(host: Host, filesystem: mountable.Filesystem) -> bool:
    """Tell whether a look can leave the journal alone: some types replay it with `ro`, too.

    For others an option leaves the journal alone, or there is none. Nothing writes to a device that
    is read-only.
    """
    family = mount_options.family(filesystem.fstype)
    if family in mount_options.WITHOUT_JOURNAL or family in _WITHOUT_ANY:
        return True
    return host.read(f"/sys/class/block/{filesystem.device.node}/ro") == "1"


def _options_of_look(filesystem: mountable.Filesystem, leaves_journal: bool) -> list[str]:
    """Return the options with which a filesystem is mounted to look at it."""
    options = [option for option in filesystem.options if option in _KEPT]
    if filesystem.fstype == "xfs" and "nouuid" not in options:
        options.append("nouuid")
    without = mount_options.WITHOUT_JOURNAL.get(mount_options.family(filesystem.fstype))
    if without and without not in options and leaves_journal:
        options.append(without)
    return options


def _placed(
    filesystem: mountable.Filesystem, place: system_tree.Place, is_alone: bool
) -> mountable.Filesystem:
    """Return a filesystem at its place below the key; `is_alone`: the key shows no other."""
    options: tuple[str, ...] = (
        *(each for each in filesystem.options if not re.match("subvol(id)?=", each)),
        *place.subvolume,
    )
    if is_alone:
        return filesystem._replace(offset="", options=options)
    # Who could write could put a link in the place of a mount point.
    return filesystem._replace(offset=place.point, options=mount_options.read_only(options))
