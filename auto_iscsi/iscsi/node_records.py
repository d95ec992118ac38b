"""Read open-iscsi's node records.

A node record is the folder nodes/TARGET/ADDRESS,PORT,TPGT, with a file for each interface, or the
file nodes/TARGET/ADDRESS,PORT when its portal group is not known (open-iscsi usr/idbm.c,
idbm_rec_write): `iscsiadm -o new -p ADDRESS` and a discovery at some targets make such a file.
`nodes` is below /etc/iscsi up to open-iscsi 2.1.6, and on Debian 12. It is below /var/lib/iscsi in
later versions: on Debian 13, RHEL, Fedora and SUSE.

Records are found by these names, and only iscsiadm writes them.
"""

from __future__ import annotations

from auto_iscsi import keys, portals
from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

CONFIGURATION = "/etc/iscsi/iscsid.conf"
FOLDERS = ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes")


class Record(NamedTuple):
    """A node record: one portal of one target."""

    target: str  #: the target's name as open-iscsi spells it
    portal: portals.Portal
    path: str  #: of its folder; "" when the record does not exist yet


def list_targets(host: Host) -> set[str]:
    """Return the folded names of the targets that have a node record."""
    return {keys.fold(name) for folder in FOLDERS for name in host.names(folder)}


def find_all(host: Host, target: str) -> list[Record]:
    """Return the records of `target`, a folded name: one for each portal, in order."""
    records: dict[portals.Portal, Record] = {}
    for folder in FOLDERS:
        # Most often open-iscsi's spelling is the folded one, and 10,000 records need not be listed.
        spellings = [target] if host.names(f"{folder}/{target}") else host.names(folder)
        for spelling in spellings:
            if keys.fold(spelling) != target:
                continue
            for name in host.names(f"{folder}/{spelling}"):
                portal = portals.from_record(name)
                if portal:
                    record = Record(spelling, portal, f"{folder}/{spelling}/{name}")
                    records.setdefault(portal, record)
    return [records[portal] for portal in sorted(records)]


def files(host: Host, record: Record) -> list[str]:
    """Return the files of a record: one for each interface, or the record itself."""
    if record.path and record.portal.tpgt < 0 and not host.names(record.path):
        return [record.path] if host.stat(record.path) else []
    return [f"{record.path}/{name}" for name in host.names(record.path)]


def interfaces(host: Host, record: Record) -> list[str]:
    """Return the names of the interfaces that a record is bound to."""
    if record.portal.tpgt < 0 and files(host, record) == [record.path]:
        return [values(host, record).get("iface.iscsi_ifacename", "default")]
    return host.names(record.path)


def values(host: Host, record: Record) -> dict[str, str]:
    """Return the settings of a record's first interface, such as `node.startup`: `manual`."""
    paths = files(host, record)
    return _values_in(host, paths[0]) if paths else {}


def configured_sessions(host: Host, target: str, portal: portals.Portal, interface: str) -> int:
    """Return how many sessions open-iscsi is to open with `target` through a portal, at least 1.

    The record says so for each interface, iscsid.conf for records that are yet to be made.
    """
    paths = [
        path
        for record in find_all(host, target)
        if record.portal.has_same_address(portal)
        for path in files(host, record)
    ]
    numbers = [1]
    for path in paths or [CONFIGURATION]:
        settings = _values_in(host, path)
        if settings.get("iface.iscsi_ifacename", interface) == interface:
            number = settings.get("node.session.nr_sessions", "")
            numbers += [int(number)] if number.isdecimal() else []
    return max(numbers)


def _values_in(host: Host, path: str) -> dict[str, str]:
    """Return the settings in a file of open-iscsi."""
    lines = (host.read(path) or "").split("\n")
    pairs = (line.partition(" = ") for line in lines if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}
