"""Work out the settings of a target, and which line of which file set each.

TABLE lists all settings; the parser and `auto-iscsi explain --settings` come from it. What a new
setting needs besides a row here is in docs/ARCHITECTURE.md, "Where something new goes"; tests
compare the example file and the man page with the table.

Every section whose glob matches the target applies, in file order: a later section overrides an
earlier one, setting by setting. A wrong value or an unknown setting refuses the targets that its
section matches, and no others.
"""

from __future__ import annotations

from auto_iscsi.config import config_files, patterns, values
from auto_iscsi.config.settings import Settings as Settings
from auto_iscsi.config.values import as_text
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Callable

    from auto_iscsi.config.config_files import Raw, Section


class Setting(NamedTuple):
    """A setting: its parser, its default, and what people are told about it."""

    parse: Callable[[Raw], Any]
    default: Any
    values: str  #: the values that it takes, for people
    help: str
    example: str
    as_written: Callable[[Any], str] = as_text  #: how a file writes a value


TABLE = {
    "enabled": Setting(
        values.yes_no,
        True,
        "yes, no",
        "no: refuse the key, without a question to the network",
        "no",
    ),
    "options": Setting(
        values.options,
        ("nocheck", "ro"),
        "list of mount options",
        "mount options",
        "ro, nosuid, nodev",
    ),
    "fstype": Setting(
        values.fstype,
        "ext3",
        "a filesystem type, auto",
        "the type to mount; auto: the type on the disk, with options that fit it",
        "auto",
    ),
    "journal": Setting(
        values.one_of("auto", "overlay", "refuse", "skip", "replay"),
        "auto",
        "auto, overlay, refuse, skip, replay",
        "what to do with a filesystem that was in use; auto: overlay if fstype = auto, else as "
        "mount(8) does",
        "overlay",
    ),
    "overlay_dir": Setting(
        values.directory,
        "/var/tmp",
        "directory name",
        "where the store of an overlay is kept",
        "/srv/overlays",
        values.quoted,
    ),
    "overlay_keep_free": Setting(
        values.number(0, 99),
        10,
        "percent",
        "how much of the filesystem of overlay_dir stays free",
        "20",
    ),
    "luks_key_file": Setting(
        values.file_name,
        "",
        "file name",
        "the file with the key that opens what LUKS encrypted",
        "/etc/auto.iscsi.luks-key",
        values.quoted,
    ),
    "partition": Setting(
        values.partition,
        1,
        "number, none, auto, all, system, VG/LV",
        "the partition to mount; none: the whole disk; auto: the only filesystem, or as system; "
        "all: as p1, p2, VG-LV, ... under the key; system: a server's filesystems as its own fstab "
        "says; VG/LV: that logical volume",
        "auto",
        lambda number: str(number or "none"),
    ),
    "lun": Setting(
        values.lun,
        0,
        "number, all",
        "the logical unit to mount; all: as lun0, lun1, ... under the key",
        "3",
    ),
    "with": Setting(
        values.globs,
        (),
        "list of patterns of targets",
        "the other targets with physical volumes of the volume groups on this one",
        "iqn.2001-05.com.example:db-data-*",
    ),
    "portals": Setting(
        values.portal_list,
        (),
        "list of ADDRESS[:PORT], IPv6 in brackets",
        "where to find a target that has no node record",
        "10.0.0.1, [fd00::1]:3260",
    ),
    "chap_user": Setting(
        values.chap_user,
        "",
        "name",
        "the name under which the target knows this host, for CHAP",
        "browse",
        values.quoted,
    ),
    "chap_secret_file": Setting(
        values.file_name,
        "",
        "file name",
        "the file with the secret that goes with chap_user",
        "/etc/auto.iscsi.secret",
        values.quoted,
    ),
    "chap_mutual_user": Setting(
        values.chap_user,
        "",
        "name",
        "the name under which the target has to prove itself, for mutual CHAP",
        "array",
        values.quoted,
    ),
    "chap_mutual_secret_file": Setting(
        values.file_name,
        "",
        "file name",
        "the file with the secret that goes with chap_mutual_user",
        "/etc/auto.iscsi.target-secret",
        values.quoted,
    ),
    "chap_discovery": Setting(
        values.one_of("auto", "mutual"),
        "auto",
        "auto, mutual",
        "the CHAP of a discovery; auto: none, or chap_user where the portal asks for it",
        "mutual",
    ),
    "paths": Setting(
        values.one_of("one", "all"),
        "one",
        "one, all",
        "all: log in through every portal, and mount the multipath device",
        "all",
    ),
    "login_timeout": Setting(
        values.seconds,
        10.0,
        "time",
        "how long a login through one portal may take",
        "5s",
    ),
    "udev_timeout": Setting(
        values.seconds,
        10.0,
        "time",
        "how long the disk and its partition may take to appear after the login",
        "30s",
    ),
    "lookup_timeout": Setting(
        values.seconds,
        60.0,
        "time",
        "how long the whole lookup may take",
        "2m",
    ),
    "replacement_timeout": Setting(
        values.seconds,
        30.0,
        "time",
        "how long I/O waits for a lost session before it fails",
        "5s",
    ),
    "attempts": Setting(
        values.number(4, 100000),
        120,
        "number",
        "how many failed logins and discoveries a minute this host may cause",
        "30",
    ),
    "device": Setting(
        values.one_of("by-path", "kernel"),
        "by-path",
        "by-path, kernel",
        "how the entry names the disk: by a link that only this target can have, or /dev/sdX",
        "kernel",
    ),
    "idle": Setting(
        values.seconds_or_none,
        900.0,
        "time",
        "how long a session stays after its last use",
        "1h",
    ),
    "reap": Setting(
        values.one_of("own", "any", "never"),
        "own",
        "own, any, never",
        "which sessions the reaper may end: those that a lookup opened, all, or none",
        "never",
    ),
    "lease": Setting(
        values.seconds,
        90.0,
        "time",
        "how long a session stays after a lookup, used or not",
        "2m",
    ),
    "snapshot_name": Setting(
        values.templates,
        (),
        "list of templates with {volume} and {date:FORMAT}",
        "how a target's name tells the volume and the time of a snapshot, besides the usual forms",
        "*:{volume}-{date:%d.%m.%Y-%H.%M}",
    ),
    "timezone": Setting(
        values.timezone,
        "local",
        "local, name of a time zone",
        "the time zone of the times in the names of snapshots",
        "Europe/Vienna",
    ),
    "link_format": Setting(
        values.link_format,
        values.LINK_FORMAT,
        "format of strftime(3)",
        "how /snapshots/VOLUME names a snapshot; a format that begins with @GMT- is in UTC",
        "@GMT-%Y.%m.%d-%H.%M.%S",
    ),
}


#: Settings that require another setting: NAME or NAME=VALUE, and the setting that must be set too.
REQUIREMENTS = (
    ("chap_user", "chap_secret_file"),
    ("chap_secret_file", "chap_user"),
    ("chap_mutual_user", "chap_mutual_secret_file"),
    ("chap_mutual_secret_file", "chap_mutual_user"),
    ("chap_mutual_user", "chap_user"),  # a target proves itself only to a host that has done so
    ("chap_discovery=mutual", "chap_mutual_user"),
)


class Effective(NamedTuple):
    """The value of one setting for one target."""

    value: Any
    section: Section | None  #: the section that set it; None: it is the default

    def where(self, name: str) -> str:
        """Return FILE:LINE of the line that set it."""
        return self.section.where(name) if self.section else "built in"


def resolve(sections: Sequence[Section], target: str) -> Settings:
    """Return the settings of `target`, a folded name; raise BadConfiguration."""
    return to_settings(effective_values(sections, target))


def to_settings(chosen: dict[str, Effective]) -> Settings:
    """Return the settings with these values; raise BadConfiguration when a required one is not set.

    `chosen` has a value for each setting.
    """
    if problems := missing_requirements(chosen):
        raise config_files.as_failure(problems)
    return Settings(**{field(name): effective.value for name, effective in chosen.items()})


def field(name: str) -> str:
    """Return the name in Settings of a setting; one is a keyword of Python."""
    return "with_" if name == "with" else name


def effective_values(sections: Sequence[Section], target: str) -> dict[str, Effective]:
    """Return the value of each setting for `target`, a folded name; raise BadConfiguration."""
    chosen = {name: Effective(setting.default, None) for name, setting in TABLE.items()}
    problems: list[config_files.Problem] = []
    for section in sections:
        if patterns.matches(section.glob, target):
            section_values, section_problems = read_section(section)
            problems += section_problems
            for name, value in section_values.items():
                chosen[name] = Effective(value, section)
    if problems:
        raise config_files.as_failure(problems)
    return chosen


def missing_requirements(chosen: dict[str, Effective]) -> list[config_files.Problem]:
    """Return a problem for each setting of a target whose required other setting is not set."""
    problems = []
    for name, required in _unmet({name: effective.value for name, effective in chosen.items()}):
        if section := chosen[name].section:
            line, why = section.lines[name], f"it needs {required}"
            problems.append(config_files.Problem("incomplete", section.file, line, name, why))
    return problems


def _unmet(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each setting that requires another one that is not set, and that other one."""
    for condition, required in REQUIREMENTS:
        name, _, only = condition.partition("=")
        value = values[name]
        if value and value == (only or value) and not values[required]:
            yield name, required


def read_section(section: Section) -> tuple[dict[str, Any], list[config_files.Problem]]:
    """Return the values that a section sets, and the problems in it."""
    values, problems = {}, []
    for name, raw in section.values.items():
        kind, why = "wrong-value", ""
        if name not in TABLE:
            kind, why = "unknown-setting", "no such setting" + _nearest(name)
        else:
            try:
                values[name] = TABLE[name].parse(raw)
            except ValueError as error:
                why = str(error)
        if why:
            problems.append(
                config_files.Problem(kind, section.file, section.lines[name], name, why)
            )
    return values, problems


def _nearest(name: str) -> str:
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name.lower(), TABLE, 1)
    return f", did you mean {near[0]}?" if near else "; auto-iscsi explain --settings lists them"
