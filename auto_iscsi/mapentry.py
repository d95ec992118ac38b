"""How is it said to automount?

One line, options and location (autofs(5)). A location in double quotes is the only quoting that
every autofs build takes: outside quotes a colon in the path would become a slash. Several
filesystems are a multi-mount entry, PLACE OPTIONS LOCATION for each: automount mounts each one when
it is first entered, and one that fails takes no other down.
"""

from __future__ import annotations

from auto_iscsi import disks, errors
from auto_iscsi.light import TYPE_CHECKING, NamedTuple, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auto_iscsi.wanted import Settings

LONGEST = 16384  #: bytes of a multi-mount entry (autofs include/automount.h, MAPENT_MAX_LEN)


class Part(NamedTuple):
    """A filesystem that is to be mounted."""

    place: str  #: below the key: "", /p1, /lun0, /lun0/p1
    device: disks.Device
    fstype: str
    options: tuple[str, ...]


class Layout(NamedTuple):
    """What a key is to show."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()  #: what the log should say of it


class Kept:
    """Several filesystems under one key: one that is refused takes no other down."""

    def __init__(self, target: str, notes: Sequence[str] = ()) -> None:
        self.parts: list[Part] = []
        self.notes = list(notes)
        self._target = target
        self._last: errors.Failure | None = None

    @contextmanager
    def but_for(self, place: str) -> Iterator[None]:
        """Leave out what fails within, and note it; at the key itself there is nothing else."""
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

    def layout(self) -> Layout | None:
        """Return what is left, None for nothing; raise why, when all was refused."""
        if not self.parts and self._last:
            raise self._last
        return Layout(tuple(self.parts), tuple(self.notes)) if self.parts else None


def given(device: disks.Device, settings: Settings) -> Layout:
    """Return the layout of one device that is mounted as the configuration has it."""
    return Layout((Part("", device, settings.fstype, settings.options),))


def of(layout: Layout, settings: Settings, again: bool = False) -> str:
    """Return the map entry, without a line end; `again`: it is mounted by now."""
    first = layout.parts[0]
    if len(layout.parts) == 1 and not first.place:
        return _said(first, settings, again)
    entry = " ".join(f"{part.place} {_said(part, settings)}" for part in layout.parts)
    if len(entry) >= LONGEST:
        raise errors.Failure(
            f"{len(layout.parts)} filesystems make an entry of {len(entry)} bytes, and automount "
            f"takes {LONGEST - 1}", "set lun or partition to one of them",
        )  # fmt: skip
    return entry


def _said(part: Part, settings: Settings, again: bool = False) -> str:
    remount = ("remount",) if again else ()
    options = ",".join((*part.options, *remount, f"fstype={part.fstype}"))
    if settings.device == "kernel" or not part.device.link:
        return f"-{options} :/dev/{part.device.node}"
    return f'-{options} ":{part.device.place}"'
