"""A portal that offers snapshots of two volumes: vm-alpha and vm-beta, on Monday and Tuesday."""

from __future__ import annotations

from typing import Any

from tests.automount.browse import Browse

STEM = "iqn.2001-05.com.example"
MONDAY, TUESDAY, WEDNESDAY = (f"{STEM}:vm-beta-2010-05-0{day}-04:00:01" for day in (3, 4, 5))
ALPHA = f"{STEM}:vm-alpha-2010-05-03-04:00:01"


def present(browse: Browse, name: str, portal: str, disk: int = 0, **plan: Any) -> None:
    luns = {0: {"partitions": {"1": browse.disks[disk]}}}
    browse.machine.target(name, portal, luns=luns, record=False, **plan)


def started(browse: Browse, timeout: int = 1) -> str:
    """Start automount beside a portal that offers snapshots; return the portal."""
    portal = browse.machine.portal()
    present(browse, MONDAY, portal)
    present(browse, TUESDAY, portal, 1)
    present(browse, ALPHA, portal)
    browse.machine.configure(f"portals = {portal}\ntimezone = UTC\n")
    browse.start(timeout=timeout)
    return portal
