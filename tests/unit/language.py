"""Configurations that hypothesis generates, and an oracle that knows what they mean.

The oracle knows what was written and where; it shares no code with the program.
"""

from __future__ import annotations

import contextlib
import fnmatch
import signal
import string
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import strategies as st

TARGET = "iqn.2001-05.com.example:vm-beta-1"
BUILT_IN = "built in"
PATIENCE = 60  # seconds: what does not end in a moment would take years


@contextlib.contextmanager
def time_limit(seconds: int = PATIENCE) -> Iterator[None]:
    """Raise TimeoutError when the block takes too long for any machine."""

    def over(*_: object) -> None:
        raise TimeoutError(f"not through after {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


#: Per setting, what a file may say and what `explain` then shows.
VALUES = {
    "enabled": [("yes", "yes"), ("no", "no"), ("On", "yes"), ('"false"', "no")],
    "options": [("ro", "ro"), ("ro, nosuid ,nodev", "ro, nosuid, nodev"), ("ro,", "ro"), ("", "")],
    "fstype": [("xfs", "xfs"), ("'ext4'", "ext4"), ("auto", "auto"), ('"""btrfs"""', "btrfs")],
    "journal": [("skip", "skip"), ("'replay'", "replay"), ("refuse # c", "refuse")],
    "overlay_dir": [("/srv/o", "/srv/o"), ('"/a, b"', '"/a, b"')],
    "overlay_keep_free": [("0", "0"), ("'25'", "25")],
    "luks_key_file": [("/etc/key", "/etc/key"), ('"/a, b#"', '"/a, b#"')],
    "partition": [
        ("3", "3"),
        ("none", "none"),
        ("auto", "auto"),
        ("All", "all"),
        ("'''2\n'''", "2"),
        ("None", "none"),
    ],
    "lun": [("0", "0"), ('"""\n7\n"""', "7"), ("16383", "16383"), ("all", "all")],
    "with": [("*:b-*", "*:b-*"), ("'A*', iqn.x:?", "a*, iqn.x:?"), ("", "")],
    "portals": [("[fd00::1]:860, 10.0.0.1", "[fd00::1]:860, 10.0.0.1:3260"), ("", "")],
    "chap_user": [("browse", "browse"), ("'a b'", "a b"), ("", "")],
    "chap_secret_file": [("/etc/s", "/etc/s"), ('"/a, b#"', '"/a, b#"')],
    "chap_mutual_user": [("", "")],
    "chap_mutual_secret_file": [("", "")],
    "chap_discovery": [("auto", "auto")],
    "paths": [("all", "all"), ("'one'", "one")],
    "login_timeout": [("5", "5s"), ("2m", "2m"), ("90 s", "90s")],
    "udev_timeout": [("1h", "1h"), ("3600", "1h"), ("60s", "60s")],
    "lookup_timeout": [("7s", "7s")],
    "replacement_timeout": [("1", "1s")],
    "attempts": [("4", "4"), ("1000", "1000")],
    "device": [("kernel", "kernel"), ("'by-path'", "by-path")],
    "idle": [("0", "0s"), ("20m", "20m")],
    "reap": [("any", "any"), ("never", "never")],
    "lease": [("61", "61s")],
    "snapshot_name": [("*:{volume}-{date:%Y-%m-%d}", "*:{volume}-{date:%Y-%m-%d}"), ("", "")],
    "timezone": [("UTC", "UTC"), ("local", "local")],
    "link_format": [("%Y-%m-%d", "%Y-%m-%d"), ("@GMT-%Y.%m.%d", "@GMT-%Y.%m.%d")],
}
WRONG = {"enabled": "perhaps", "lun": "x", "fstype": "a b", "option": "ro", "partition": "1, 2"}

_GLOBS = st.one_of(
    st.sampled_from(["*", TARGET, TARGET.upper(), "iqn.*", "*-VM-*", "*:vm-*", "eui.*"]),
    st.sampled_from(["*vm-?eta-?"]),
    st.sampled_from(["*vm-[a-c]eta*", "*[!1]", "*[0-9]", "iqn.2001-0[5]*", "*[", "*]", "[]*"]),
    st.text("*?ivmbeta1.:[]!", min_size=1, max_size=8),
)
_FILLING = st.lists(
    st.sampled_from(["", "   ", "# lun = 1", "  # [*]", "#", "\t", "# caf\u00e9"]), max_size=3
)


class File(NamedTuple):
    """A file, and the meaning of each of its lines."""

    text: str
    settings: list[tuple[str, str, str, int]]  #: glob, setting, meaning, line; in order
    wrong: list[tuple[str, str, int]]  #: glob, setting, line


@st.composite
def files(draw: st.DrawFn) -> File:
    """Draw a file that can be parsed, with some wrong values in it."""
    lines: list[str] = []
    settings: list[tuple[str, str, str, int]] = []
    wrong: list[tuple[str, str, int]] = []
    titles = ["", *draw(st.lists(_GLOBS, max_size=5, unique=True))]
    for title in titles:
        lines += draw(_FILLING)
        if title:
            quote = draw(st.sampled_from("\"'")) if _needs_quotes(title) else ""
            inner = f"{quote}{title}{quote}"
            header = draw(st.sampled_from(["[{}]", "  [ {} ]  # c", "[{}]# [x]"]))
            lines += header.format(inner).split("\n")
        names = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=4, unique=True))
        for name in names:
            lines += draw(_FILLING)
            text, meaning = draw(st.sampled_from(VALUES[name]))
            equals = draw(st.sampled_from(["=", " = ", "   =  "]))
            shown = draw(st.sampled_from([name, f'"{name}"', f"  '{name}'"]))
            comment = draw(st.sampled_from(["", "  # why", "# a, 'b'"]))
            settings.append((title.lower() or "*", name, meaning, len(lines) + 1))
            lines += f"{shown}{equals}{text}{comment}".split("\n")
        for name in draw(st.lists(st.sampled_from(sorted(set(WRONG) - set(names))), max_size=1)):
            if draw(st.integers(0, 4)) == 0:
                wrong.append((title.lower() or "*", name, len(lines) + 1))
                lines.append(f"{name} = {WRONG[name]}")
    lines += draw(_FILLING)
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return File(end.join([*lines, ""]), settings, wrong)


def expected(read: dict[str, File], target: str = TARGET) -> dict[str, tuple[str, str]]:
    """Return meaning and FILE:LINE of each setting that the files set for a target."""
    settings = {}
    for name, file in read.items():
        for glob, setting, meaning, line in file.settings:
            if fnmatch.fnmatchcase(target, glob):
                settings[setting] = (meaning, f"{name}:{line}")
    return settings


def refusals(read: dict[str, File], target: str = TARGET) -> list[str]:
    """Return FILE:LINE: SETTING of the lines for which a target is refused."""
    return [
        f"{name}:{line}: {setting}"
        for name, file in read.items()
        for glob, setting, line in file.wrong
        if fnmatch.fnmatchcase(target, glob)
    ]


def _needs_quotes(title: str) -> bool:
    return bool(set(title) & set("[]\"'#")) or title != title.strip()


ANYTHING = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(
        st.text("[]*?!\"'=,# \t\n\r" + string.ascii_lowercase[:5] + "0", max_size=30), max_size=20
    ).map(lambda lines: "\n".join(lines).encode()),
)
