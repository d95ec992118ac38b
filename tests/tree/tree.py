"""Make the files of a host below a directory, for a `Host` with that root."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Union


class Link(NamedTuple):
    """A symbolic link, and where it leads."""

    to: str


Content = Union[str, bytes, Link, None]


def make_tree(root: Path, files: Mapping[str, Content]) -> None:
    """Lay out `files` below `root`: text and bytes, links, and None for an empty directory."""
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, Link):
            path.symlink_to(content.to)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its relative path."""
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            files[str(path.relative_to(folder))] = path.read_bytes()
    return files
