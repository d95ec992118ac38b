"""Which parts of a presented snapshot has the kernel's target (LIO), and how are they made?

A backstore reads the logical volume, a target has it as a LUN, an ACL admits the initiator, and
maps the LUN for it. All of it goes through rtslib, which writes to configfs. A part is missing,
whole, or partial: rtslib makes most parts in several steps, and can be killed between them.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

from auto_iscsi.drivers import wire
from auto_iscsi.drivers.lio_settings import Place

MISSING, PARTIAL, WHOLE = "missing", "partial", "whole"

#: Nobody without an ACL gets in or is told the name; what is mapped is read-only.
_ATTRIBUTES = {
    "generate_node_acls": "0",
    "cache_dynamic_acls": "0",
    "demo_mode_discovery": "0",
    "demo_mode_write_protect": "1",
    "prod_mode_write_protect": "1",
    "authentication": "0",
}


class Lio:
    """The kernel's target on this host."""

    def __init__(self) -> None:
        if os.geteuid():
            hint = "set run_as = root, or address and user to go there by ssh"
            raise wire.Refused("denied", f"only root may change the kernel's target: {hint}")
        warnings.simplefilter("ignore")  # rtslib warns of a folder that we do not use
        try:
            self.lib: Any = importlib.import_module("rtslib_fb")
        except ImportError as error:
            hint = "install python3-rtslib-fb (Debian) or python3-rtslib (Fedora)"
            raise wire.Refused("unsupported", f"{error}: {hint}") from None
        self.error: Any = importlib.import_module("rtslib_fb.utils").RTSLibError
        try:
            # rtslib refuses to work without it, and Debian's package does not make it.
            os.makedirs(self.lib.RTSRoot._preferred_dbroot, 0o755, exist_ok=True)
            self.root = self.lib.RTSRoot()
            self.iscsi = self.lib.FabricModule("iscsi")
        except (self.error, OSError) as error:
            raise wire.Refused("unsupported", f"the kernel's target: {error}") from None

    def state(self, place: Place, kind: str) -> str:
        """Tell whether a part of a place is missing, partial or whole; `active` is LVM's."""
        state: str = getattr(self, f"_{kind}_state")(place)
        return state

    def make(self, place: Place, kind: str) -> None:
        """Make a part, or complete it; raise Refused if the kernel does not want it."""
        try:
            getattr(self, f"_make_{kind}")(place)
        except (self.error, OSError) as error:
            what = place.parts[kind]
            raise wire.Refused("conflict", f"{what} cannot be made: {error}") from None

    def remove(self, place: Place, kind: str) -> str:
        """Remove a part that nothing of somebody else's lies on; return why it stays, or ""."""
        try:
            reason: str = getattr(self, f"_remove_{kind}")(place)
        except (self.error, OSError) as error:
            what = place.parts[kind]
            raise wire.Refused("internal", f"{what} cannot be removed: {error}") from None
        return reason

    def _look(self, node: str, *arguments: Any) -> Any:
        """Return a node of rtslib's that exists, or None."""
        try:
            return getattr(self.lib, node)(*arguments)
        except self.error:
            return None

    # The backstore

    def _backstore(self, place: Place) -> Any:
        return self._look("BlockStorageObject", place.backstore)

    def _backstore_state(self, place: Place) -> str:
        backstore = self._backstore(place)
        if backstore is None:
            return MISSING
        if not backstore.is_configured() or not backstore.readonly:
            return PARTIAL
        if os.path.realpath(backstore.udev_path) != os.path.realpath(place.device):
            return PARTIAL
        return WHOLE if backstore.wwn else PARTIAL

    def _make_backstore(self, place: Place) -> None:
        if self._backstore(place) and (reason := self._remove_backstore(place)):
            raise self.error(reason)
        self.lib.BlockStorageObject(
            place.backstore, dev=place.device, wwn=place.serial, readonly=True
        )

    def _remove_backstore(self, place: Place) -> str:
        backstore = self._backstore(place)
        for lun in backstore.attached_luns:
            return f"{lun.parent_tpg.parent_target.wwn} has it as LUN {lun.lun}"
        backstore.delete()
        return ""

    def find_backstore(self, device: str, ours: str) -> tuple[str, str] | None:
        """Return name and serial number of somebody else's backstore for a device, or None.

        The kernel opens a device for one backstore only: it can be used if it is read-only.
        """
        for backstore in self._backstores():
            if backstore.name != ours and os.path.realpath(backstore.udev_path) == os.path.realpath(
                device
            ):
                if not backstore.readonly:
                    what = f"backstore {backstore.name} has {device}, and can write to it"
                    raise wire.Refused("conflict", what)
                return backstore.name, backstore.wwn.replace("-", "")
        return None

    def _backstores(self) -> Iterator[Any]:
        for backstore in self.root.storage_objects:
            if backstore.plugin == "block" and backstore.is_configured():
                yield backstore

    # The target

    def _target(self, iqn: str) -> Any:
        return self._look("Target", self.iscsi, iqn, "lookup")

    def _group(self, iqn: str) -> Any:
        target = self._target(iqn)
        return target and self._look("TPG", target, 1, "lookup")

    def _target_state(self, place: Place) -> str:
        group = self._group(place.iqn)
        if group is None:
            return PARTIAL if self._target(place.iqn) else MISSING
        portals = {f"{portal.ip_address}:{portal.port}" for portal in group.network_portals}
        # Nobody else gets in, and this host does without a password.
        needed = ("generate_node_acls", "authentication")
        closed = all(group.get_attribute(name) == "0" for name in needed)
        return WHOLE if group.enable and closed and portals >= set(place.portals) else PARTIAL

    def _make_target(self, place: Place) -> None:
        target = self.lib.Target(self.iscsi, place.iqn)
        group = self.lib.TPG(target, 1)
        for name, value in _ATTRIBUTES.items():
            group.set_attribute(name, value)
        for portal in place.portals:
            address, _, port = portal.rpartition(":")
            self.lib.NetworkPortal(group, address, int(port))
        group.enable = True

    def _remove_target(self, place: Place) -> str:
        if group := self._group(place.iqn):
            for acl in group.node_acls:
                return f"it admits {acl.node_wwn}"
            for lun in group.luns:
                return f"it has LUN {lun.lun}"
        self._target(place.iqn).delete()
        return ""

    # The LUN

    def _lun(self, place: Place) -> Any:
        group = self._group(place.iqn)
        return group and self._look("LUN", group, place.lun)

    def _lun_state(self, place: Place) -> str:
        lun = self._lun(place)
        if lun is None:
            return MISSING
        name = self._name(lun, "storage_object", "name")
        if name not in (None, place.backstore):
            raise wire.Refused("conflict", f"{place.parts['lun']} is backstore {name}")
        return WHOLE if name else PARTIAL

    def _make_lun(self, place: Place) -> None:
        if lun := self._lun(place):
            lun.delete()
        self.lib.LUN(self._group(place.iqn), place.lun, self._backstore(place))

    def _remove_lun(self, place: Place) -> str:
        lun = self._lun(place)
        for acl in lun.parent_tpg.node_acls:
            for mapped in acl.mapped_luns:
                if self._name(mapped, "tpg_lun", "lun") == place.lun:
                    return f"it is mapped for {acl.node_wwn}"
        lun.delete()
        return ""

    def luns(self, iqn: str) -> dict[int, str]:
        """Return the LUNs of a target and their backstores."""
        group = self._group(iqn)
        luns = group.luns if group else ()
        return {lun.lun: self._name(lun, "storage_object", "name") or "" for lun in luns}

    # The ACL, and the LUN that it maps

    def _acl(self, place: Place) -> Any:
        group = self._group(place.iqn)
        return group and self._look("NodeACL", group, place.initiator, "lookup")

    def _acl_state(self, place: Place) -> str:
        return WHOLE if self._acl(place) else MISSING

    def _make_acl(self, place: Place) -> None:
        self.lib.NodeACL(self._group(place.iqn), place.initiator, "create")

    def _remove_acl(self, place: Place) -> str:
        acl = self._acl(place)
        for mapped in acl.mapped_luns:
            return f"it maps LUN {mapped.mapped_lun}"
        acl.delete()
        return ""

    def _map(self, place: Place) -> Any:
        acl = self._acl(place)
        return acl and self._look("MappedLUN", acl, place.lun)

    def _map_state(self, place: Place) -> str:
        mapped = self._map(place)
        if mapped is None:
            return MISSING
        lun = self._name(mapped, "tpg_lun", "lun")
        if lun not in (None, place.lun):
            raise wire.Refused("conflict", f"{place.parts['map']} is LUN {lun} of the target")
        return WHOLE if lun is not None and mapped.write_protect else PARTIAL

    def _make_map(self, place: Place) -> None:
        if mapped := self._map(place):
            mapped.delete()
        self.lib.MappedLUN(self._acl(place), place.lun, place.lun, True)

    def _remove_map(self, place: Place) -> str:
        self._map(place).delete()
        return ""

    # Who uses it

    def why_busy(self, place: Place, removed: tuple[str, ...]) -> str:
        """Return why a place cannot be taken away: "" if nobody is logged in to it.

        The kernel does not tell which LUNs of a session are used. So, in mode shared, a session
        counts for the last LUN that the initiator has: one more would be kept by the others.
        """
        acl = self._acl(place)
        if acl is None or not {"map", "acl", "lun"} & set(removed) or acl.session is None:
            return ""
        others = [each for each in acl.mapped_luns if each.mapped_lun != place.lun]
        if place.is_shared and others and "acl" not in removed:
            return ""
        return f"{place.initiator} has a session with {place.iqn}"

    def presented(self) -> dict[str, set[str]]:
        """Return the devices that a target presents, and for which initiators."""
        initiators: dict[str, set[str]] = {}
        for target in self.iscsi.targets:
            for group in target.tpgs:
                for acl in group.node_acls:
                    for mapped in acl.mapped_luns:
                        device = self._name(mapped, "tpg_lun", "storage_object", "udev_path")
                        if device:
                            initiators.setdefault(os.path.realpath(device), set()).add(acl.node_wwn)
        return initiators

    def _name(self, node: Any, *attributes: str) -> Any:
        """Follow attributes from a node; None where a part was left without what it leads to."""
        try:
            for attribute in attributes:
                node = getattr(node, attribute)
        except self.error:
            return None
        return node
