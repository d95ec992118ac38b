"""Replace what is no filesystem itself by the filesystems on it: volume groups, for example.

On the disk of a server, one thing lies on another: a volume group on an encrypted partition, an
encrypted logical volume in a volume group. So what a member was replaced by is looked at again.
"""

from __future__ import annotations

import importlib

from auto_iscsi import errors
from auto_iscsi.config.settings import Settings
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes.mountable import LUKS_MEMBER, LVM_MEMBER, MD_MEMBER, Mountable

if TYPE_CHECKING:
    from typing import Protocol

    class Expander(Protocol):
        """A module that knows members of one type."""

        def expand(
            self,
            host: Host,
            target: str,
            layout: Mountable,
            settings: Settings,
            until: float,
            act: bool,
        ) -> Mountable:
            """Replace each member of its type in `layout` by what is on it.

            Raise Failure when nothing is left. Without `act`, only devices that are there already
            are used.
            """


#: The module for each type of member. A volume group comes last: it can need several of the others.
_MODULES = {
    LUKS_MEMBER: "luks",
    MD_MEMBER: "md_arrays",
    LVM_MEMBER: "volume_groups",
}
_DEEPEST = 6  # layers


def expand(
    host: Host, target: str, layout: Mountable, settings: Settings, until: float, act: bool
) -> Mountable:
    """Replace each member in `layout` by the filesystems on it; raise Failure as Expander says."""
    has_groups = False
    for _ in range(_DEEPEST):
        types = {filesystem.fstype for filesystem in layout.filesystems}
        first = next((name for name in _MODULES if name in types), None)
        if first is None:
            if "/" in str(settings.partition) and not has_groups:
                why = "; ".join(("no volume group", *layout.notes))
                raise errors.NoPartition(
                    f"{target}: no logical volume {settings.partition}: {why}",
                    "set partition to a number, none, auto or all",
                )
            return layout
        has_groups |= first == LVM_MEMBER
        module: Expander = importlib.import_module(f"{__package__}.{_MODULES[first]}")
        layout = module.expand(host, target, layout, settings, until, act)
    raise errors.NotMountable(
        f"{target}: more than {_DEEPEST} layers of volume groups and the like lie on one another"
    )
