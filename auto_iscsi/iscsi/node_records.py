"""Which node records does open-iscsi hold for a target?

nodes/TARGET/ADDRESS,PORT,TPGT/IFACE (open-iscsi usr/idbm.c), below /etc/iscsi up to 2.1.6 and on
Debian 12, below /var/lib/iscsi from then on and on Debian 13, RHEL, Fedora and SUSE. Names are
read from the folders; records are written through iscsiadm only.
"""

from __future__ import annotations

from auto_iscsi import keys, portals
from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

FOLDERS = ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes")


class Record(NamedTuple):
    """A node record: one portal of one target."""

    target: str  #: as open-iscsi spells it
    portal: portals.Portal
    path: str


def find_all(host: Host, target: str) -> list[Record]:
    """Return the records of `target`, a folded name, one per portal, in the portals' order."""
    found: dict[portals.Portal, Record] = {}
    for folder in FOLDERS:
        # Most often the spelling is the folded one, and a host with 10,000 records is not listed.
        spellings = [target] if host.names(f"{folder}/{target}") else host.names(folder)
        for spelling in spellings:
            if keys.fold(spelling) != target:
                continue
            for name in host.names(f"{folder}/{spelling}"):
                portal = portals.from_record(name)
                if portal:
                    record = Record(spelling, portal, f"{folder}/{spelling}/{name}")
                    found.setdefault(portal, record)
    return [found[portal] for portal in sorted(found)]


def values(host: Host, record: Record) -> dict[str, str]:
    """Return the settings of a record's first interface: `node.startup` → `manual` and so on."""
    for iface in host.names(record.path)[:1]:
        lines = (host.read(f"{record.path}/{iface}") or "").splitlines()
        pairs = (line.partition(" = ") for line in lines if not line.startswith("#"))
        return {name: value for name, equals, value in pairs if equals}
    return {}
