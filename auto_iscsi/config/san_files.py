"""Which SANs may auto-iscsi ask for snapshots, and what may it do there?

Each file /etc/auto.iscsi.san.d/NAME.conf describes one SAN. The language is that of
/etc/auto.iscsi.conf (syntax). The settings of TABLE stand above the first section; those that only
the driver knows are in the section [options].

A file with a mistake keeps its SAN from being used, and no other. root runs what these files name,
so they are used only when nobody but root can write them; and one that names a secret, only when
nobody but root can read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auto_iscsi import errors, globs
from auto_iscsi.config import config_files, values
from auto_iscsi.config.config_files import Problem, Section
from auto_iscsi.config.schema import Setting
from auto_iscsi.drivers import wire
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from auto_iscsi.config.config_files import Raw

FOLDER = "/etc/auto.iscsi.san.d"
DRIVERS = "/usr/libexec/auto-iscsi/drivers"
USER = "auto-iscsi"  #: the system user that the packages make
OPTIONS = "options"  #: the section of the driver's own settings
_SUFFIX = ".conf"
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,63}")
_USER = re.compile(r"@?[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?")
_GLOB = re.compile(r"[A-Za-z0-9._:+*?\[\]!-]{1,128}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class San(NamedTuple):
    """The settings of one SAN. Times are seconds."""

    name: str
    file: str
    driver: str  #: the path of the program
    address: str
    user: str
    key_file: str
    secret_file: str
    volumes: tuple[str, ...]
    present: bool
    allow: tuple[str, ...]
    max_presented: int
    max_per_minute: int
    timeout: float
    timezone: str
    run_as: str
    options: dict[str, str]

    def has_volume(self, volume: str) -> bool:
        """Tell whether a volume may be listed. One that may not does not exist for anybody."""
        return any(globs.matches(glob, volume) for glob in self.volumes)


def _text(raw: Raw) -> str:
    if isinstance(raw, list):
        raise ValueError("one value expected, not a list")
    if not raw.isprintable() or len(raw) > 1024:
        raise ValueError("expected at most 1024 printable characters")
    return raw.strip()


def _driver(raw: Raw) -> str:
    word = _text(raw)
    if _WORD.fullmatch(word):
        return f"{DRIVERS}/{word}"
    try:
        return values.directory(raw)
    except ValueError:
        raise ValueError("expected the name of a driver, or the path of one") from None


def _members(pattern: re.Pattern[str], what: str) -> Callable[[Raw], tuple[str, ...]]:
    """Return a parser of lists whose members match a pattern; `what` says what they have to be."""

    def parse(raw: Raw) -> tuple[str, ...]:
        members = tuple(values.split_list(raw))
        for member in members:
            if not pattern.fullmatch(member):
                raise ValueError(f"{member!r} is {what}")
        return members

    return parse


def _user(raw: Raw) -> str:
    word = _text(raw)
    if not _USER.fullmatch(word) or word.startswith("@"):
        raise ValueError("expected the name of a user")
    return word


TABLE = {
    "driver": Setting(
        _driver,
        "",
        "name, or file name",
        f"the program that talks with the SAN; a name is one of {DRIVERS}",
        "eqlx",
    ),
    "address": Setting(
        _text, "", "text", "where the driver finds the SAN: a host, an address", "10.0.0.5"
    ),
    "user": Setting(_text, "", "text", "the account at the SAN", "browse", values.quoted),
    "key_file": Setting(
        values.file_name,
        "",
        "file name",
        "the file with the private key for ssh",
        "/etc/auto.iscsi.san-key",
        values.quoted,
    ),
    "secret_file": Setting(
        values.file_name,
        "",
        "file name",
        "the file with the password; its first line is the password",
        "/etc/auto.iscsi.san-secret",
        values.quoted,
    ),
    "volumes": Setting(
        _members(_GLOB, "no name of a volume, and no pattern of one"),
        (),
        "list of patterns",
        "the volumes whose snapshots may be listed; without it, none",
        "vm-*, home",
    ),
    "present": Setting(
        values.yes_no, False, "yes, no", "yes: snapshots may be presented; no: only listed", "yes"
    ),
    "allow": Setting(
        _members(_USER, "no name of a user, and no @GROUP"),
        ("root",),
        "list of users and @groups",
        "the users whose visits may present a snapshot",
        "root, jo, @backup",
    ),
    "max_presented": Setting(
        values.number(1, 10000),
        8,
        "number",
        "how many snapshots this host may have presented at a time",
        "32",
    ),
    "max_per_minute": Setting(
        values.number(1, 10000), 10, "number", "how many may be presented in a minute", "60"
    ),
    "timeout": Setting(
        values.seconds, 30.0, "time", "how long one call of the driver may take", "20s"
    ),
    "timezone": Setting(
        values.timezone,
        "local",
        "local, name of a time zone",
        "the time zone of the times that the SAN gives",
        "Europe/Vienna",
    ),
    "run_as": Setting(_user, USER, "user", "the user as whom the driver runs", "root"),
}


def list_names(host: Host) -> list[str]:
    """Return the names of the SANs that have a file, in order."""
    return [
        name[: -len(_SUFFIX)]
        for name in host.names(FOLDER)
        if name.endswith(_SUFFIX) and not name.startswith(".")
    ]


def path_of(name: str) -> str:
    """Return the file of a SAN."""
    return f"{FOLDER}/{name}{_SUFFIX}"


def find(host: Host, name: str) -> San:
    """Return a SAN; raise BadConfiguration when it has no file, or the file is wrong."""
    names = list_names(host)
    if name not in names:
        known = f"there are {', '.join(names)}" if names else "there is none"
        raise errors.BadConfiguration(
            f"no SAN is called {name}: {known}", f"auto-iscsi edit {FOLDER}/NAME.conf"
        )
    san, problems = read(host, path_of(name))
    if san is None or problems:
        raise config_files.as_failure(problems)
    return san


def read(
    host: Host, file: str, shown: str = "", driver: str = ""
) -> tuple[San | None, list[Problem]]:
    """Return the SAN that a file describes, and the problems with it; None when it is unusable.

    `driver`: the path of the driver to test with the file, whoever can write that.
    """
    shown = shown or file
    sections, problems = config_files.read(host, file, shown)
    san, more = _interpret(sections, shown, driver)
    problems += more
    if host.root == "/" and not problems and not driver:
        problems += _permissions(host, file, san)
    return (None if problems else san), problems


def _permissions(host: Host, file: str, san: San) -> list[Problem]:
    """Return the problems with who can write a file or its folder, or read one with a secret."""
    is_secret = bool(san.key_file or san.secret_file)
    problems = []
    for name, secret in ((file, is_secret), (file.rpartition("/")[0] or "/", False)):
        if status := host.stat(name):
            problems.append(config_files.permission_problem(name, status, secret))
    return [problem for problem in problems if problem]


def _interpret(sections: Sequence[Section], file: str, driver: str) -> tuple[San, list[Problem]]:
    chosen = {name: setting.default for name, setting in TABLE.items()}
    options: dict[str, str] = {}
    problems: list[Problem] = []

    def wrong(kind: str, section: Section, name: str, why: str) -> None:
        problems.append(Problem(kind, file, section.lines.get(name, section.line), name, why))

    for section in sections:
        if section.title == OPTIONS:
            for name, raw in section.values.items():
                value = ", ".join(raw) if isinstance(raw, list) else raw
                if not _OPTION.fullmatch(name) or not value.isprintable():
                    wrong("wrong-value", section, name, "expected name = text, in small letters")
                options[name] = value
            continue
        if section.title or not section.glob:
            title = f"[{section.title}]"
            why = f"the only section here is [{OPTIONS}]"
            problems.append(Problem("unknown-setting", file, section.line, title, why))
            continue
        for name, raw in section.values.items():
            if name not in TABLE:
                wrong("unknown-setting", section, name, f"no such setting{_nearest(name)}")
                continue
            try:
                chosen[name] = TABLE[name].parse(raw)
            except ValueError as error:
                wrong("wrong-value", section, name, str(error))
    name = file.rpartition("/")[2][: -len(_SUFFIX)]
    if not wire.matches(wire.NAME, name):
        why = "the name of the file is no name of a SAN: letters, digits, dots, hyphens"
        problems.append(Problem("wrong-value", file, 0, "", why))
    chosen["driver"] = driver or chosen["driver"]
    if not problems and not chosen["driver"]:
        problems.append(Problem("incomplete", file, 0, "driver", "it is not set"))
    return San(name=name, file=file, options=options, **chosen), problems


def _nearest(name: str) -> str:
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name.lower(), TABLE, 1)
    hint = f"; settings of the driver belong below [{OPTIONS}]"
    return f", did you mean {near[0]}?" if near else hint
