"""Describe a disk or partition that can be selected to be mounted."""

from __future__ import annotations

from auto_iscsi import wording
from auto_iscsi.config.settings import AUTO, Settings
from auto_iscsi.disks import scsi_disks
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.volumes import mount_options
from auto_iscsi.volumes.content import SIGNATURES, Content

if TYPE_CHECKING:
    from collections.abc import Sequence


class Candidate(NamedTuple):
    """A disk or partition, and what is on it."""

    part: int  #: the partition number; 0: the whole disk
    device: scsi_disks.Device
    content: Content
    size: int  #: bytes

    @property
    def holds_files(self) -> bool:
        """Whether it has a filesystem."""
        return self.content.holds_files

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of what is on it; it can have a filesystem all the same."""
        return not (self.content.has_signature or self.content.table or self.content.purpose)

    def __str__(self) -> str:
        """Return number, size, type, label and purpose for a list."""
        content = self.content
        what = content.fstype or ("partitions" if content.table else "nothing known")
        what = SIGNATURES if content.is_ambivalent else what
        words = [f"{self.part or 'disk'}: {wording.size(self.size)} {what}"]
        words += [f"'{content.label}'"] if content.label else []
        words += [f"({content.purpose})"] if content.purpose else []
        return " ".join(words)


def of_type(candidates: Sequence[Candidate], settings: Settings) -> list[Candidate]:
    """Return the candidates that the setting `fstype` can mean.

    These are the ones of exactly that type or, if there are none, of its family, and all whose type
    is not clear.
    """
    if settings.fstype == AUTO:
        return list(candidates)
    family = mount_options.family(settings.fstype)
    exact = [candidate for candidate in candidates if candidate.content.fstype == settings.fstype]
    fitting = exact or [
        candidate
        for candidate in candidates
        if mount_options.family(candidate.content.fstype) == family
    ]
    return [each for each in candidates if each in fitting or each.content.is_ambivalent]
