"""What a lookup uses in place of typing and contextlib behaves like the originals."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi import lean_stdlib


def _kinds(base: Any) -> Any:
    """Return one class as typing or as lean_stdlib makes it, from the same text."""
    text = (
        "class Place(Base):\n    'Where.'\n"
        "    address: str\n    port: int = 3260\n    tpgt: int = -1\n"
        "    @property\n    def known(self): return self.tpgt >= 0\n"
    )
    names: dict[str, Any] = {"Base": base, "__name__": "x"}
    exec(compile(f"from __future__ import annotations\n{text}", "x", "exec"), names)
    return names["Place"]


THEIRS, OURS = _kinds(typing.NamedTuple), _kinds(lean_stdlib.NamedTuple)

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
    logs = []
    for maker in (lean_stdlib.contextmanager, contextlib.contextmanager):
        log: list[str] = []
        try:
            with maker(_open)(log, swallow=swallow) as value:
                log.append(value)
                if error:
                    raise error
            log.append("after")
        except Exception as raised:
            log.append(f"{raised!r}, the same: {raised is error}")
        logs.append(log)
    assert logs[0] == logs[1]


def test_some_errors_are_suppressed_and_no_others() -> None:
    with lean_stdlib.suppress(FileNotFoundError, ValueError):
        raise FileNotFoundError
    with pytest.raises(PermissionError), lean_stdlib.suppress(FileNotFoundError):
        raise PermissionError
    with lean_stdlib.suppress(OSError):
        pass


def test_signal_is_signal() -> None:
    import signal

    assert lean_stdlib.signal.SIGALRM == signal.SIGALRM
    assert lean_stdlib.signal.ITIMER_REAL == signal.ITIMER_REAL
    assert lean_stdlib.signal.setitimer is signal.setitimer


def test_the_standard_library_serves_where_cpython_lacks_the_private_modules() -> None:
    code = """\
import sys; sys.path.insert(0, sys.argv[1])
for name in ("_signal", "_socket", "_collections"):
    sys.modules[name] = None
import importlib.util, operator, signal
spec = importlib.util.find_spec("auto_iscsi.lean_stdlib")
lean = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = lean
spec.loader.exec_module(lean)
Pair = type("Pair", (lean.NamedTuple,), {"__annotations__": {"one": int, "two": int}, "two": 2})
assert (Pair(1).one, Pair(1).two, Pair(1, 3)._replace(one=5)) == (1, 2, (5, 3))
assert lean.signal is signal
"""
    root = str(Path(__file__).resolve().parents[2])
    # signal and collections of the standard library are there before their halves are hidden.
    code = "import collections, contextlib, signal, socket\n" + code
    subprocess.run([sys.executable, "-IS", "-c", code, root], check=True)
