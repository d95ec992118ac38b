"""Does each file, make target, module, test and manual page exist that a document names?"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

from .tracked_files import ROOT, tracked

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "tests/README.md")
SUFFIXES = (".cfg", ".md", ".py", ".spec", ".toml", ".txt")

FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
COMMAND = re.compile(r"^\$ (.*?)(?:  +#.*)?$", re.M)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
MANUAL = re.compile(r"\b(auto[\w.-]*iscsi[\w.-]*)\((\d)\)")
MAKE = re.compile(r"\bmake((?: [a-z][a-z-]*)+)")
TARGET = re.compile(r"test-[a-z]+")
TEST = re.compile(r"-k \"?(test_\w+)")
MODULE = re.compile(r"-m ([\w.]+)")
#: In lower case: what has a part in capitals or dots stands for many names.
PATH = re.compile(r"[a-z_.][a-z0-9_.*-]*(/[a-z0-9_.*-]+)*/?")
ATTRIBUTE = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)\.([A-Za-z_]+)")

FILES = {f"/{name}" for name in tracked()}
FOLDERS = {str(folder) for name in FILES for folder in Path(name).parents}
TARGETS = {
    target
    for line in re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.M)
    for target in line.split()
}


def is_there(path: str) -> bool:
    """Return whether a path is the end of the path of a file or folder in the clone."""
    known = FOLDERS if path.endswith("/") else FILES | FOLDERS
    return bool(fnmatch.filter(known, f"*/{path.rstrip('/')}"))


def is_attribute(name: str) -> bool:
    """Return whether MODULE.NAME is a module of the package, or something that one defines."""
    module, attribute = re.fullmatch(ATTRIBUTE, name).groups()  # type: ignore[union-attr]
    if is_there(f"{name.replace('.', '/')}.py"):
        return True
    defined = re.compile(rf"^(def|class) {attribute}\b|^{attribute} = ", re.M)
    sources = fnmatch.filter(FILES, f"/auto_iscsi/*{module.replace('.', '/')}.py")
    return any(defined.search((ROOT / source[1:]).read_text()) for source in sources)


def is_path(word: str) -> bool:
    """Return whether a word can only be a path in the clone."""
    if not PATH.fullmatch(word):
        return False
    in_clone = f"/{word.partition('/')[0]}" in FOLDERS and "/" in word
    return in_clone or word.endswith(("/", *SUFFIXES))


def missing(document: str, text: str) -> list[str]:
    """Return what a document's text names that does not exist."""
    wrong = []
    commands = COMMAND.findall("\n".join(FENCE.findall(text)))
    spans = SPAN.findall(FENCE.sub("", text))
    for link in LINK.findall(text):
        if "://" not in link and not (ROOT / document).parent.joinpath(link).exists():
            wrong.append(link)
    for name, section in MANUAL.findall(text):
        if not (ROOT / f"man/{name}.{section}").exists():
            wrong.append(f"{name}({section})")
    for code in (*spans, *commands):
        wrong += [t for words in MAKE.findall(code) for t in words.split() if t not in TARGETS]
        wrong += [name for name in TEST.findall(code) if not is_test(name)]
        for module in MODULE.findall(code):
            path = module.replace(".", "/")
            if f"/{path.partition('/')[0]}" in FOLDERS and not is_there(f"{path}.py"):
                wrong += [] if is_there(f"{path}/__main__.py") else [module]
        wrong += [word for word in code.split() if is_path(word) and not is_there(word)]
    for span in spans:
        if TARGET.fullmatch(span) and span not in TARGETS:
            wrong.append(span)
        if ATTRIBUTE.fullmatch(span) and not is_path(span):
            wrong += [] if is_there(span) or is_attribute(span) else [span]
    return wrong


def is_test(name: str) -> bool:
    """Return whether a test, or a file of tests, has a name that contains this one."""
    files = [path[1:] for path in FILES if re.match(r"/tests/\w+/test_.*\.py$", path)]
    return any(name in path or f"def {name}" in (ROOT / path).read_text() for path in files)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document: str) -> None:
    assert missing(document, (ROOT / document).read_text()) == []


GONE = {
    "[the tests](tests/GONE.md)": "tests/GONE.md",
    "see auto.iscsi.gone(5)": "auto.iscsi.gone(5)",
    "`make gone`": "gone",
    "`make build gone`": "gone",
    "```console\n$ make gone   # a comment\n```": "gone",
    "`test-gone`": "test-gone",
    '`make test-san ARGS="-k test_that_is_gone"`': "test_that_is_gone",
    "`tests/gone`": "tests/gone",
    "`tests/gone run`": "tests/gone",
    "`config/gone.py`": "config/gone.py",
    "`admin/gone_*.py`": "admin/gone_*.py",
    "`gone/`": "gone/",
    "`gone.py`": "gone.py",
    "`python3 -m tests.san.gone`": "tests.san.gone",
    "`gone.Host`": "gone.Host",
    "`host.Gone`": "host.Gone",
}


@pytest.mark.parametrize("text", GONE)
def test_what_does_not_exist_is_found(text: str) -> None:
    assert missing("README.md", text) == [GONE[text]]
