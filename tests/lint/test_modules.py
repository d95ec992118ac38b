"""Does the code keep the order of its modules?"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "auto_iscsi"

#: A module imports only from those above itself.
ORDER = (
    "__init__", "bundle", "light", "errors", "namespace", "host", "keys", "globs", "portals",
    "syntax",
    "compiled", "config", "wanted", "kinds", "needs", "settings", "resolved", "patterns", "nodes",
    "sessions", "contents", "fitting", "superblock", "apart", "scsi", "multipath", "disks",
    "mounts", "mapentry", "choice", "claims", "identity", "journal", "layout", "chap", "audit",
    "attempts", "pending", "initiator", "discovery", "udev", "paths", "login", "lookup", "program",
    "survey", "output", "probe", "usage", "verdicts", "ending", "reap", "explain", "check", "edit",
    "status", "metrics", "checkup", "automount", "doctor_iscsi", "doctor_autofs", "doctor_host",
    "doctor", "codes", "verbs", "cli", "__main__",
)  # fmt: skip
FORKS = ("apart", "host")  # a child of theirs ends
PROGRAMS = ("program", "cli", "__main__")
#: Each library has one door.
DOORS = {"configobj": "syntax", "pyudev": "udev", "sh": "host"}
LONGEST = 250

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def imported(module: str) -> set[str]:
    """Return the names that a module imports, wherever it does; our own as auto_iscsi.NAME."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}.py:{node.lineno}: a relative import"
            origin = node.module or ""
            if origin == "auto_iscsi":
                found |= {f"auto_iscsi.{alias.name}" for alias in node.names}
            else:
                found.add(origin)
    return found


def test_every_module_has_its_place() -> None:
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_above(module: str) -> None:
    ours = {name.split(".")[1] for name in imported(module) if name.startswith("auto_iscsi.")}
    below = ours - set(ORDER[: ORDER.index(module)]) - {"__version__"}
    assert not below, f"{module} imports what stands below it: {', '.join(sorted(below))}"


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    users = [m for m in MODULES if any(n.split(".")[0] == library for n in imported(m))]
    assert users == [DOORS[library]]


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(PROGRAMS)))
def test_only_programs_print_or_exit(module: str) -> None:
    said = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "print", "input", "exit", "quit", "sys.exit", "os._exit", "os.abort",
            "sys.stdout.write", "sys.stderr.write",
        ) and not (module in FORKS and ast.unparse(node.func) == "os._exit"):  # fmt: skip
            said.append(f"{module}.py:{node.lineno}: {ast.unparse(node.func)}")
        if isinstance(node, ast.Call) and ast.unparse(node)[:11] in ("os.write(1,", "os.write(2,"):
            said.append(f"{module}.py:{node.lineno}: os.write")
        if isinstance(node, ast.Name) and node.id == "SystemExit":
            said.append(f"{module}.py:{node.lineno}: SystemExit")
    assert not said


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module: str) -> None:
    assert len((PACKAGE / f"{module}.py").read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module}.py has no docstring"
