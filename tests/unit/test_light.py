"""What a lookup uses in place of typing and contextlib does what those do."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi import light


def _kinds(base: Any) -> Any:
    """Return one class as typing or as light makes it, from the same text."""
    text = (
        "class Place(Base):\n    'Where.'\n"
        "    address: str\n    port: int = 3260\n    tpgt: int = -1\n"
        "    @property\n    def known(self): return self.tpgt >= 0\n"
    )
    names: dict[str, Any] = {"Base": base, "__name__": "x"}
    exec(compile(f"from __future__ import annotations\n{text}", "x", "exec"), names)
    return names["Place"]


THEIRS, OURS = _kinds(typing.NamedTuple), _kinds(light.NamedTuple)

USES: dict[str, Callable[[Any], object]] = {
    "by place": lambda kind: kind("a", 1, 2),
    "with defaults": lambda kind: kind("a"),
    "by name": lambda kind: kind(tpgt=3, address="a"),
    "too few": lambda kind: kind(),
    "too many": lambda kind: kind("a", 1, 2, 3),
    "an unknown name": lambda kind: kind("a", here=1),
    "twice": lambda kind: kind("a", address="b"),
    "twice and full": lambda kind: kind("a", 1, 2, tpgt=3),
    "_make": lambda kind: kind._make(["a", 1, 2]),
    "_make too short": lambda kind: kind._make([]),
    "_replace": lambda kind: kind("a")._replace(port=1),
    "_asdict": lambda kind: kind("a")._asdict(),
    "_fields": lambda kind: kind._fields,
    "a member": lambda kind: kind("a").port,
    "a property": lambda kind: kind("a", 1, 2).known,
    "to pieces": lambda kind: [*kind("a", 1, 2)],
    "same": lambda kind: (kind("a") == kind("a"), hash(kind("a")), kind("a") == ("a", 3260, -1)),
    "order": lambda kind: sorted([kind("b"), kind("a", 4), kind("a")]),
    "not to be changed": lambda kind: setattr(kind("a"), "port", 1),
    "said": lambda kind: f"{kind('a')} {kind('a')!r}",
    "what it is for": lambda kind: kind.__doc__,
}


def outcome(use: Callable[[Any], object], kind: Any) -> object:
    try:
        return use(kind)
    except (TypeError, AttributeError, ValueError) as error:
        return type(error)


@pytest.mark.parametrize("use", USES)
def test_a_named_tuple_is_one(use: str) -> None:
    if use == "_make too short":  # typing leaves that to a len() of its own
        assert outcome(USES[use], OURS) is TypeError
    assert outcome(USES[use], OURS) == outcome(USES[use], THEIRS)


def _open(log: list[str], swallow: bool) -> Iterator[str]:
    log.append("in")
    try:
        yield "value"
    except KeyError as error:
        log.append(f"caught {error}")
        if not swallow:
            raise
    finally:
        log.append("out")


@pytest.mark.parametrize("error", [None, KeyError("k"), ValueError("v")])
@pytest.mark.parametrize("swallow", [True, False])
def test_a_generator_is_a_context_manager(error: Exception | None, swallow: bool) -> None:
    said = []
    for maker in (light.contextmanager, contextlib.contextmanager):
        log: list[str] = []
        try:
            with maker(_open)(log, swallow=swallow) as value:
                log.append(value)
                if error:
                    raise error
            log.append("after")
        except Exception as raised:
            log.append(f"{raised!r}, the same: {raised is error}")
        said.append(log)
    assert said[0] == said[1]


def test_some_errors_are_suppressed_and_no_others() -> None:
    with light.suppress(FileNotFoundError, ValueError):
        raise FileNotFoundError
    with pytest.raises(PermissionError), light.suppress(FileNotFoundError):
        raise PermissionError
    with light.suppress(OSError):
        pass


def test_signal_is_signal() -> None:
    import signal

    assert light.signal.SIGALRM == signal.SIGALRM
    assert light.signal.ITIMER_REAL == signal.ITIMER_REAL
    assert light.signal.setitimer is signal.setitimer


def test_os_is_os_as_far_as_a_lookup_needs_it() -> None:
    code = """\
import sys; sys.path.insert(0, sys.argv[1])
from auto_iscsi.light import os, stat
assert "os" not in sys.modules
ours = os
assert ours.environ["ONE"] == "two\\udcff"  # and from here on the real one is there, too
paths = ["", "/", "//", "a", "/a", "a/", "/a/", "a/b", "//a", "/a//b", "a//b/", "/etc", "/nowhere"]
said = [(ours.path.basename(p), ours.path.dirname(p), ours.path.isdir(p)) for p in paths]
joined = [ours.path.join(p, q) for p in paths for q in paths]
import os, stat as theirs
assert said == [(os.path.basename(p), os.path.dirname(p), os.path.isdir(p)) for p in paths]
assert joined == [os.path.join(p, q) for p in paths for q in paths]
assert ours.path.samestat(os.stat("/"), os.stat("/"))
assert not ours.path.samestat(os.stat("/"), os.stat("/etc"))
assert ours.open is os.open and ours.fork is os.fork and ours.O_CLOEXEC == os.O_CLOEXEC
assert ours.makedirs is os.makedirs and ours.path.exists is os.path.exists
assert stat.S_ISREG(os.stat(sys.argv[1] + "/Makefile").st_mode) and stat.S_IMODE(0o100644) == 0o644
"""
    root = str(Path(__file__).resolve().parents[2])
    environment = {b"ONE": b"two\xff"}
    subprocess.run([sys.executable, "-IS", "-c", code, root], check=True, env=environment)


def test_array_is_array_and_collections_is_not_touched() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from auto_iscsi.light import array\n"
        "assert not {'collections', 'collections.abc'} & sys.modules.keys()\n"
        "import array as theirs, collections.abc, typing\n"
        "assert array is theirs.array and collections.OrderedDict\n"
        "assert collections.abc.MutableSequence.__name__ == 'MutableSequence'\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-IS", "-c", code, root], check=True)
