"""What holds for one target, as the configuration has it?

Apart from the table of settings, which a warm lookup does without (resolved).
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from auto_iscsi import portals

AUTO, ALL = "auto", "all"  #: what the disk says; each that is there


class Settings(NamedTuple):
    """What holds for one target. Times are seconds."""

    enabled: bool
    options: tuple[str, ...]
    fstype: str
    journal: str
    partition: int | str  #: 0: the whole disk
    lun: int | str
    portals: tuple[portals.Portal, ...]
    chap_user: str  #: "": no CHAP
    chap_secret_file: str
    chap_mutual_user: str  #: "": the target need not prove itself
    chap_mutual_secret_file: str
    chap_discovery: str
    paths: str
    login_timeout: float
    udev_timeout: float
    lookup_timeout: float
    replacement_timeout: float
    attempts: int
    device: str
    idle: float
    reap: str
    lease: float

    @property
    def journal_rule(self) -> str:
        """What holds for a dirty journal: refuse, skip, replay, or nothing."""
        if self.journal != AUTO:
            return self.journal
        return "refuse" if self.fstype == AUTO else ""
