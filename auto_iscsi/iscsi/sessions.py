"""Which sessions has the kernel?

/sys/class/iscsi_session/sessionSID and /sys/class/iscsi_connection/connectionSID:0
(drivers/scsi/scsi_transport_iscsi.c). Never from iscsiadm: a login that is still under way is in
its list, and only `state` says LOGGED_IN. `persistent_address` is the portal that was asked for,
`address` the one a redirect led to; udev's links carry the former.
"""

from __future__ import annotations

from auto_iscsi import keys, portals
from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

FOLDER = "/sys/class/iscsi_session"
CONNECTIONS = "/sys/class/iscsi_connection"
LOGGED_IN = "LOGGED_IN"
UNBOUND = "UNBOUND"


class Session(NamedTuple):
    """A session: one login of this host to one portal of a target."""

    sid: int
    target: str  #: as the kernel was told it
    portal: portals.Portal
    state: str  #: LOGGED_IN, FAILED or FREE; UNBOUND: a logout has taken its disks, and goes on
    inode: int = 0  #: of its folder in sysfs, which gives no number twice (fs/kernfs/dir.c)

    @property
    def up(self) -> bool:
        """Say whether I/O can reach the target."""
        return self.state == LOGGED_IN

    @property
    def path(self) -> str:
        """Where sysfs shows it."""
        return f"{FOLDER}/session{self.sid}"


def read(host: Host, sid: int) -> Session | None:
    """Return session `sid`, None when there is none."""
    name = host.read(f"{FOLDER}/session{sid}/targetname")
    state = host.read(f"{FOLDER}/session{sid}/state")
    address = host.read(f"{CONNECTIONS}/connection{sid}:0/persistent_address")
    port = host.read(f"{CONNECTIONS}/connection{sid}:0/persistent_port")
    if state == LOGGED_IN and host.read(f"{FOLDER}/session{sid}/target_state") == UNBOUND:
        state = UNBOUND  # Linux 6.1.10 and later say so
    group = host.read(f"{FOLDER}/session{sid}/tpgt") or ""
    folder = host.stat(f"{FOLDER}/session{sid}")
    if not (name and state and address and port and port.isdecimal() and folder):
        return None
    portal = portals.Portal(address, int(port), int(group) if group.isdecimal() else -1)
    return Session(sid, name, portal, state, folder.st_ino)


def still_exists(host: Host, session: Session) -> bool:
    """Say whether a session is still there, and not another one of its number."""
    now = read(host, session.sid)
    return now is not None and now.inode == session.inode


def list_all(host: Host) -> list[Session]:
    """Return all sessions, in their order."""
    names = (entry[len("session") :] for entry in host.names(FOLDER))
    found = (read(host, int(sid)) for sid in names if sid.isdecimal())
    return sorted(filter(None, found))


def find_all(host: Host, target: str, hint: int = -1) -> list[Session]:
    """Return the sessions of `target`, a folded name, those that are up first.

    When session `hint` is one and is up, it alone is returned: its name is one file to read,
    all sessions' names can be a thousand.
    """
    if hint >= 0:
        known = read(host, hint)
        if known and known.up and keys.fold(known.target) == target:
            return [known]
    found = []
    for entry in host.names(FOLDER):
        sid = entry[len("session") :]
        if sid.isdecimal() and keys.fold(host.read(f"{FOLDER}/{entry}/targetname") or "") == target:
            session = read(host, int(sid))
            if session:
                found.append(session)
    return sorted(found, key=lambda session: (not session.up, session.sid))
