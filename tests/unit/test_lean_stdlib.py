"""What a lookup uses in place of typing and contextlib behaves like the originals."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi import lean_stdlib
from tests.tree.tree import make_tree

ROOT = Path(__file__).resolve().parents[2]


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


#: Programs that Python runs; the package's modules among them.
SOURCES = [*sorted((ROOT / "auto_iscsi").rglob("*.py")), *sorted((ROOT / "tools").glob("auto*"))]


def is_private(module: str) -> bool:
    """Say whether a module is CPython's own: none that the library reference documents."""
    return module != "__future__" and (module[:1] == "_" or module in ("posix", "sre_compile"))


def imports_without_a_way_out(tree: ast.Module) -> list[int]:
    """Return the lines that import a private module of CPython where nothing catches its lack."""
    caught = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.Try)
        and any(isinstance(h.type, ast.Name) and h.type.id == "ImportError" for h in block.handlers)
        for line in block.body
        for node in ast.walk(line)
    }
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in caught:
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(map(is_private, names)):
                lines.append(node.lineno)
    return lines


def private_names(tree: ast.Module) -> list[int]:
    """Return the lines that use a private name of a module of the standard library."""
    modules = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    hints = [getattr(node, "annotation", None) for node in ast.walk(tree)]
    hints += [getattr(node, "returns", None) for node in ast.walk(tree)]
    unread = {id(node) for hint in hints if hint for node in ast.walk(hint)}  # never evaluated
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and id(node) not in unread
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and node.attr[:1] == "_"
        and node.attr[:2] != "__"
        and (node.value.id, node.attr) != ("os", "_exit")  # which the library reference documents
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_program_relies_on_what_is_private_to_cpython(source: Path) -> None:
    text = source.read_text()
    if source.suffix != ".py" and "python" not in text.partition("\n")[0]:
        pytest.skip("no Python")
    tree = ast.parse(text)
    assert (imports_without_a_way_out(tree), private_names(tree)) == ([], [])


def test_a_private_module_is_found() -> None:
    assert imports_without_a_way_out(ast.parse("import os, _socket\nfrom posix import open")) == [
        1,
        2,
    ]
    assert private_names(ast.parse("import sys, os\nsys._getframe()\nos._exit(0)\nx: os._E")) == [2]


#: Runs the map and the administrator's program, on an empty host, where the private modules are
#: hidden. The standard library needs them itself, so its halves are there before.
HIDDEN = """\
import collections, contextlib, signal, socket, selectors, threading, subprocess
import sys; sys.path[:0] = sys.argv[3:]
for name in ("_signal", "_socket", "_collections"):
    sys.modules[name] = None
from auto_iscsi import lean_stdlib as lean
Pair = type("Pair", (lean.NamedTuple,), {"__annotations__": {"one": int, "two": int}, "two": 2})
assert (Pair(1).one, Pair(1).two, Pair(1, 3)._replace(one=5)) == (1, 2, (5, 3))
assert lean.signal is signal and lean.socket is socket
from auto_iscsi.admin import cli
from auto_iscsi.machine.host import Host
from auto_iscsi.map import program
assert program.main([sys.argv[2]], Host(sys.argv[1])) == 1
assert cli.main(["--root", sys.argv[1], "status"]) == 0
import importlib, pkgutil, auto_iscsi
for module in pkgutil.walk_packages(auto_iscsi.__path__, "auto_iscsi."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_the_programs_run_where_cpython_lacks_the_private_modules(tmp_path: Path) -> None:
    iqn = "iqn.2001-05.com.example:a"
    make_tree(tmp_path, {"/etc/auto.iscsi.conf": "portals = 127.0.0.1:1\n"})
    paths = [str(ROOT), *filter(None, sys.path)]
    command = [sys.executable, "-IS", "-c", HIDDEN, str(tmp_path), iqn, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "discovery at 127.0.0.1:1: " in done.stderr and iqn in done.stderr
    assert done.stdout.startswith("0 sessions")
