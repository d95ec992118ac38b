"""Copy what the packages are built from, so that a test can build it elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_to(folder: Path) -> Path:
    """Copy the sources to a new folder, in reverse order and with other times; return the folder.

    `tests/prepare` is replaced by a script that does nothing.
    """
    sources = [
        "Makefile",
        "LICENSE",
        "NEWS",
        "README.md",
        "setup.cfg",
        "auto_iscsi",
        "docs",
        "etc",
        "man",
        "debian",
        "rpm",
        "tools",
    ]
    folder.mkdir(parents=True)
    for name in reversed(sources):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    for path in folder.rglob("*"):
        os.utime(path, (10**9, 10**9))
    (folder / "tests").mkdir()
    (folder / "tests/prepare").write_text("#!/bin/sh\n")
    (folder / "tests/prepare").chmod(0o755)
    return folder
