"""What holds for this target, and which line said so?

One table of settings: a row there and a field of Settings is all that a new one needs; the parser,
`auto-iscsi explain --settings`, the example file and the man page come from it or are held
against it.

Every section whose glob matches the target applies, in file order, setting by setting: a later one
overrides an earlier one. A wrong value or an unknown setting refuses the targets that its section
matches, and no others.
"""

from __future__ import annotations

from auto_iscsi.config import config_files, needs, patterns, values
from auto_iscsi.config.settings import Settings as Settings
from auto_iscsi.config.values import as_text
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

    from auto_iscsi.config.config_files import Raw, Section


class Setting(NamedTuple):
    """A setting: how it is read, what it is when nobody says, and what a person is told of it."""

    parse: Callable[[Raw], Any]
    default: Any
    values: str
    help: str
    example: str
    said: Callable[[Any], str] = as_text  #: a value as the file would have it


TABLE = {
    "enabled": Setting(
        values.yes_no,
        True,
        "yes, no",
        "no: the key is refused before anything is asked of the network",
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
        "the type that is mounted; auto: what the disk says, with options that fit it",
        "auto",
    ),
    "journal": Setting(
        values.one_of("auto", "refuse", "skip", "replay"),
        "auto",
        "auto, refuse, skip, replay",
        "of a filesystem that was in use; auto: refuse if fstype = auto, else as mount(8) does",
        "skip",
    ),
    "partition": Setting(
        values.partition,
        1,
        "number, none, auto, all",
        "the partition that is mounted; none: the whole disk; all: as p1, p2, ... under the key",
        "auto",
        lambda number: str(number or "none"),
    ),
    "lun": Setting(
        values.lun,
        0,
        "number, all",
        "the logical unit that is mounted; all: as lun0, lun1, ... under the key",
        "3",
    ),
    "portals": Setting(
        values.portal_list,
        (),
        "list of ADDRESS[:PORT], IPv6 in brackets",
        "where to look for a target that has no node record",
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
        "which of these a discovery uses; auto: none, and chap_user where the portal asks",
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
        "how long one portal has for a login",
        "5s",
    ),
    "udev_timeout": Setting(
        values.seconds,
        10.0,
        "time",
        "how long the disk and its partition have to appear after the login",
        "30s",
    ),
    "lookup_timeout": Setting(
        values.seconds,
        60.0,
        "time",
        "the whole lookup, whatever happens",
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
        "how many failed logins and discoveries a minute the SAN sees from this host",
        "30",
    ),
    "device": Setting(
        values.one_of("by-path", "kernel"),
        "by-path",
        "by-path, kernel",
        "how the entry names the disk: a link that can only be this target's, or /dev/sdX",
        "kernel",
    ),
    "idle": Setting(
        values.seconds_or_none,
        900.0,
        "time",
        "how long a session stays after it was last used",
        "1h",
    ),
    "reap": Setting(
        values.one_of("own", "any", "never"),
        "own",
        "own, any, never",
        "which sessions the reaper may end: those that a lookup opened, all, none",
        "never",
    ),
    "lease": Setting(
        values.seconds,
        90.0,
        "time",
        "how long a session stays after a lookup, whatever happens",
        "2m",
    ),
}


class Effective(NamedTuple):
    """What holds for one setting of one target."""

    value: Any
    section: Section | None  #: that said so; None: nobody did

    def where(self, name: str) -> str:
        """Return FILE:LINE of the line that said so."""
        return self.section.where(name) if self.section else "built in"


def resolve(sections: Sequence[Section], target: str) -> Settings:
    """Return what holds for `target`, a folded name; raise BadConfiguration."""
    return together(choices(sections, target))


def together(chosen: dict[str, Effective]) -> Settings:
    """Return what holds for a target; raise BadConfiguration when it makes no sense together."""
    if wrong := incomplete(chosen):
        raise config_files.refusal(wrong)
    return Settings(**{name: choice.value for name, choice in chosen.items()})


def choices(sections: Sequence[Section], target: str) -> dict[str, Effective]:
    """Return what holds for `target`, a folded name, and who said so; raise BadConfiguration."""
    found = {name: Effective(setting.default, None) for name, setting in TABLE.items()}
    wrong: list[config_files.Problem] = []
    for section in sections:
        if patterns.matches(section.glob, target):
            values, problems = read(section)
            wrong += problems
            for name, value in values.items():
                found[name] = Effective(value, section)
    if wrong:
        raise config_files.refusal(wrong)
    return found


def incomplete(chosen: dict[str, Effective]) -> list[config_files.Problem]:
    """Return which settings of a target say nothing without another one."""
    problems = []
    for name, needed in needs.lacking({name: choice.value for name, choice in chosen.items()}):
        if section := chosen[name].section:
            line, why = section.lines[name], f"it needs {needed}"
            problems.append(config_files.Problem("incomplete", section.file, line, name, why))
    return problems


def read(section: Section) -> tuple[dict[str, Any], list[config_files.Problem]]:
    """Return the values of a section and what is wrong in it."""
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
