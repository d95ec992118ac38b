"""Do the imports keep the order of the folders, and do only programs print?"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "auto_iscsi"

#: A module imports only from its own folder and from those before it (docs/ARCHITECTURE.md).
FOLDERS = (
    "",
    "drivers",
    "machine",
    "config",
    "iscsi",
    "disks",
    "volumes",
    "san",
    "map",
    "reaper",
    "restore",
    "admin",
)
#: What Python itself runs: it stands outside the order.
ENTRY = "__main__"
#: Only these may print and end the process.
PROGRAMS = ("map.program", "admin.cli", "drivers.protocol", "drivers.eqlx", ENTRY)
#: Each library has one door.
DOORS = {"configobj": "config.syntax", "pyudev": "machine.udev_events", "sh": "machine.spawn"}
#: Of the standard library: fnmatch raises re.error with Python 3.9 for a range such as [z-a].
DOORS["fnmatch"] = "globs"
LONGEST = 400  # lines

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())


def folder(module: str) -> str:
    return module.rpartition(".")[0]


def imported(module: str) -> set[str]:
    """Return the modules that a module imports, wherever it does; ours without `auto_iscsi.`."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: a relative import"
            origin = node.module or ""
            members = {f"{origin}.{alias.name}" for alias in node.names}
            ours = {name for name in members if name.partition(".")[2] in MODULES}
            names |= ours or {origin}
    return {name.partition(".")[2] if name.startswith("auto_iscsi.") else name for name in names}


def test_every_folder_has_its_place() -> None:
    assert {folder(module) for module in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("module", [name for name in MODULES if name != ENTRY])
def test_a_module_imports_only_from_its_folder_and_those_before(module: str) -> None:
    allowed = FOLDERS[: FOLDERS.index(folder(module)) + 1]
    ours = {name for name in imported(module) if name in MODULES}
    wrong = sorted(name for name in ours if folder(name) not in allowed)
    assert not wrong, f"{module} imports from a later folder: {', '.join(wrong)}"


def test_no_import_leads_in_a_circle() -> None:
    below = {module: imported(module) & set(MODULES) for module in MODULES}
    while below:
        leaves = {module for module, names in below.items() if not names & set(below)}
        assert leaves, f"these import each other: {', '.join(sorted(below))}"
        below = {module: names for module, names in below.items() if module not in leaves}


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    users = [m for m in MODULES if any(n.split(".")[0] == library for n in imported(m))]
    assert users == [DOORS[library]]


def is_call_of_a_program(node: ast.AST) -> bool:
    """Tell whether code prints, asks, or ends the process: only a program may."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "print",
        "input",
        "exit",
        "quit",
        "sys.exit",
        "os.abort",
        "sys.stdout.write",
        "sys.stderr.write",
    )


@pytest.mark.parametrize("module", [m for m in MODULES if m not in PROGRAMS])
def test_only_programs_print_or_exit(module: str) -> None:
    wrong = []
    for node in ast.walk(tree(module)):
        if is_call_of_a_program(node):
            wrong.append(f"{module}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:40]}")
        if isinstance(node, ast.Call) and ast.unparse(node)[:11] in ("os.write(1,", "os.write(2,"):
            wrong.append(f"{module}:{node.lineno}: os.write")
        if isinstance(node, ast.Name) and node.id == "SystemExit":
            wrong.append(f"{module}:{node.lineno}: SystemExit")
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module: str) -> None:
    source = PACKAGE / f"{module.replace('.', '/')}.py"
    assert len(source.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_a_name_is_a_noun(module: str) -> None:
    """These four had to be decoded wherever they stood: what was found, who said what?"""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    assert not {"found", "said", "there", "wanted"} & names


def test_no_test_module_is_imported() -> None:
    """What two test files use is in a module that says what it holds."""
    wrong = []
    for path in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                if any(name.rpartition(".")[2].startswith("test_") for name in names):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong
