"""What a key shows: the filesystems to mount, and what the log should say of them."""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.disks import scsi_disks
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auto_iscsi.config.settings import Settings


class Filesystem(NamedTuple):
    """A filesystem to mount."""

    place: str  #: below the key: "", /p1, /lun0, /lun0/p1
    device: scsi_disks.Device
    fstype: str
    options: tuple[str, ...]


class Mountable(NamedTuple):
    """All that a key shows."""

    filesystems: tuple[Filesystem, ...]
    notes: tuple[str, ...] = ()  #: lines for the log


class Collector:
    """Collect the filesystems of one key; a filesystem that is refused takes no other down."""

    def __init__(self, target: str, notes: Sequence[str] = ()) -> None:
        self.filesystems: list[Filesystem] = []
        self.notes = list(notes)
        self._target = target
        self._last: errors.Failure | None = None

    @contextmanager
    def leave_out_failures(self, place: str) -> Iterator[None]:
        """Note a failure within and leave its place out; raise it when the place is the key."""
        try:
            yield
        except errors.Failure as failure:
            if not place:
                raise
            self._last = failure
            why = failure.reason
            if why.lower().startswith(f"{self._target.lower()}: "):  # the line begins with it
                why = why[len(self._target) + 2 :]
            self.notes.append(f"{place[1:]} is left out: {why}")

    def result(self) -> Mountable | None:
        """Return what was collected, None for nothing; raise the last failure if all failed."""
        if not self.filesystems and self._last:
            raise self._last
        if not self.filesystems:
            return None
        return Mountable(tuple(self.filesystems), tuple(self.notes))


def as_configured(device: scsi_disks.Device, settings: Settings) -> Mountable:
    """Return one device with the type and options that the configuration names."""
    return Mountable((Filesystem("", device, settings.fstype, settings.options),))
