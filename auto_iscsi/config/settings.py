"""Hold the settings of one target as values.

This module is apart from the table of settings (schema): a lookup that finds them in the cache
(settings_cache) imports neither the table nor its parsers.
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from auto_iscsi import portals

AUTO, ALL = "auto", "all"  #: values: the one that the disk suggests; every one
SYSTEM = "system"  #: a value of `partition`: as the system on the disk mounts its filesystems
OVERLAY = "overlay"  #: a value of `journal`


class Settings(NamedTuple):
    """The settings of one target. Times are seconds."""

    enabled: bool
    options: tuple[str, ...]
    fstype: str
    journal: str
    overlay_dir: str
    overlay_keep_free: int  #: percent
    luks_key_file: str  #: "": LUKS is not opened
    partition: int | str  #: 0: the whole disk
    lun: int | str
    with_: tuple[str, ...]  #: globs, folded, of other targets: the setting `with`
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
    snapshot_name: tuple[str, ...]
    timezone: str
    link_format: str

    @property
    def journal_rule(self) -> str:
        """overlay, refuse, skip or replay; "" leaves the journal to mount(8) and the options."""
        if self.journal != AUTO:
            return self.journal
        return OVERLAY if self.fstype == AUTO else ""

    @property
    def writes_nothing(self) -> bool:
        """Whether the disk is made read-only before anything is mounted."""
        return self.journal_rule not in ("replay", "")
