"""Describe what a key shows: the filesystems to mount, and notes for the log."""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.disks import scsi_disks
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auto_iscsi.config.settings import Settings


LVM_MEMBER = "LVM2_member"  #: the type that libblkid gives an LVM physical volume
LUKS_MEMBER = "crypto_LUKS"  #: the type that it gives what LUKS encrypted
MD_MEMBER = "linux_raid_member"  #: that of a member of an md array
#: The types of what is no filesystem itself, and shown by what is on it.
MEMBERS = (LUKS_MEMBER, MD_MEMBER, LVM_MEMBER)
HIDDEN = (LVM_MEMBER,)  #: those whose partitions are hidden from the host's own programs


LEFT_OUT = " is left out: "  #: in a note, between what is left out and the reason


class Filesystem(NamedTuple):
    """A filesystem to mount, or a member (a type in MEMBERS) to replace by what is on it."""

    offset: str  #: the directory below the key: "", /p1, /lun0, /lun0/p1
    device: scsi_disks.Device
    fstype: str
    options: tuple[str, ...]
    volume: str = ""  #: VG/LV, for a logical volume
    is_type_guessed: bool = False  #: mount(8) finds the type itself, so that automount runs no fsck


class Mountable(NamedTuple):
    """Everything that a key shows."""

    filesystems: tuple[Filesystem, ...]
    notes: tuple[str, ...] = ()  #: lines for the log
    is_maybe_system: bool = False  #: to be shown as the system on it mounts it (volumes/system)
    otherwise: Mountable | errors.Failure | None = None  #: what is shown if it is no system
    is_final: bool = False  #: as an earlier lookup worked it out (map/kept_tree)


class Collector:
    """Collect the filesystems of one key, where one that is refused does not affect the others."""

    def __init__(self, target: str, notes: Sequence[str] = ()) -> None:
        self.filesystems: list[Filesystem] = []
        self.notes = list(notes)
        self._target = target
        self._last: errors.Failure | None = None

    @contextmanager
    def leave_out_failures(self, offset: str) -> Iterator[None]:
        """Turn a Failure in the block into a note; raise it where the offset is the key itself.

        Busy is raised, too: another run is still at work, and the next lookup can show all.
        """
        try:
            yield
        except errors.Busy:
            raise
        except errors.Failure as failure:
            if not offset:
                raise
            self._last = failure
            reason = failure.reason
            if reason.lower().startswith(f"{self._target.lower()}: "):  # the log line has it
                reason = reason[len(self._target) + 2 :]
            self.notes.append(f"{offset[1:]}{LEFT_OUT}{reason}")

    def result(self) -> Mountable | None:
        """Return what was collected, None for nothing; raise the last Failure if all failed."""
        if not self.filesystems and self._last:
            raise self._last
        if not self.filesystems:
            return None
        return Mountable(tuple(self.filesystems), tuple(self.notes))


def as_configured(device: scsi_disks.Device, settings: Settings) -> Mountable:
    """Return one device with the type and options of the configuration."""
    return Mountable((Filesystem("", device, settings.fstype, settings.options),))
