"""Lay out as a host what a real kernel, udev and open-iscsi showed.

recorded/ comes from the bed's guest: `python3 -m tests.san.bed record-sysfs tests/tree/recorded`
(tests/san/bed/recording.py says what was played).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auto_iscsi.machine.host import Host
from tests.tree.tree import Content, Link, make_tree

RECORDED = Path(__file__).parent / "recorded"
ARRAY = "iqn.2001-05.com.equallogic:0-8a0906"
BETA = f"{ARRAY}-4a90da503-e2e3e8c1f704be-vm-beta-2010-05-03-04:00:01.50612"


def files(scene: str) -> dict[str, Any]:
    """Return what was recorded: path → text, {"link": …}, {"hex": …} or None."""
    recorded: dict[str, Any] = json.loads((RECORDED / f"{scene}.json").read_text("utf-8"))
    return recorded


def content(value: Any) -> Content:
    """Return a recorded value as make_tree takes it."""
    if not isinstance(value, dict):
        return str(value) if value is not None else None
    return Link(value["link"]) if "link" in value else bytes.fromhex(value["hex"])


def host(scene: str, root: Path) -> Host:
    """Lay out a recording below a folder; return it as a host."""
    make_tree(root, {path: content(value) for path, value in files(scene).items()})
    return Host(str(root))


def scenes(name: str) -> list[str]:
    """Return the recordings of a scene: one for each Debian suite."""
    return sorted(path.stem for path in RECORDED.glob(f"*-{name}.json"))
