"""Read the kernel's iSCSI sessions from sysfs.

Each session has a folder /sys/class/iscsi_session/sessionSID, and its connection has one,
/sys/class/iscsi_connection/connectionSID:0 (drivers/scsi/scsi_transport_iscsi.c).
`persistent_address` is the portal that was asked for, `address` the one that it redirected to;
udev's links have the former.

A target's name is a portal's word, and who discovers all that a portal offers and logs in to it has
sessions with any. It becomes the name of our files and a word in our reports, so `target_name` is
the only way to it.

iscsiadm is not asked: its list also has logins that have not ended yet. A session is up when its
`state` is LOGGED_IN.
"""

from __future__ import annotations

import time

from auto_iscsi import keys, portals
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "/sys/class/iscsi_session"
CONNECTIONS = "/sys/class/iscsi_connection"
LOGGED_IN = "LOGGED_IN"
UNBOUND = "UNBOUND"
_STEP = 0.01  # seconds between two checks whether a session is gone


class Session(NamedTuple):
    """A session: one login of this host to one portal of a target."""

    sid: int
    target: str  #: the target's name, as iscsid passed it to the kernel: see target_name()
    portal: portals.Portal
    state: str  #: LOGGED_IN, FAILED or FREE; UNBOUND: a logout has removed its disks and goes on
    inode: int = 0  #: of its folder in sysfs; sysfs uses no number twice (fs/kernfs/dir.c)

    @property
    def up(self) -> bool:
        """Whether the target can be reached through the session."""
        return self.state == LOGGED_IN

    @property
    def path(self) -> str:
        """Its folder in sysfs."""
        return f"{FOLDER}/session{self.sid}"


def target_name(host: Host, sid: int) -> str:
    """Return the name of a session's target, "" when the kernel has no such session.

    A slash, a control character and a dot at the beginning are question marks in it, which no key
    has: such a target has no lookup, and none of its files are outside our folders.
    """
    name = host.read(f"{FOLDER}/session{sid}/targetname") or ""
    if name.isprintable() and "/" not in name and name[:1] != ".":
        return name
    clean = "".join(c if c.isprintable() and c != "/" else "?" for c in name)
    return f"?{clean[1:]}" if clean[:1] == "." else clean


def read(host: Host, sid: int) -> Session | None:
    """Return session `sid`, None when the kernel has no such session."""
    name = target_name(host, sid)
    state = host.read(f"{FOLDER}/session{sid}/state")
    address = host.read(f"{CONNECTIONS}/connection{sid}:0/persistent_address")
    port = host.read(f"{CONNECTIONS}/connection{sid}:0/persistent_port")
    if state == LOGGED_IN and host.read(f"{FOLDER}/session{sid}/target_state") == UNBOUND:
        state = UNBOUND  # Linux 6.1.10 and later have target_state
    group = host.read(f"{FOLDER}/session{sid}/tpgt") or ""
    folder = host.stat(f"{FOLDER}/session{sid}")
    if not (name and state and address and port and port.isdecimal() and folder):
        return None
    portal = portals.Portal(address, int(port), int(group) if group.isdecimal() else -1)
    return Session(sid, name, portal, state, folder.st_ino)


def initiator(host: Host, session: Session) -> tuple[str, str]:
    """Return the interface (iface.iscsi_ifacename) and the initiator name of a session."""
    folder = f"{FOLDER}/session{session.sid}"
    return host.read(f"{folder}/ifacename") or "default", host.read(f"{folder}/initiatorname") or ""


def still_exists(host: Host, session: Session) -> bool:
    """Return whether a session still exists, and its number is not that of a newer session."""
    current = read(host, session.sid)
    return current is not None and current.inode == session.inode


def wait_until_gone(host: Host, session: Session, until: float) -> bool:
    """Wait until a session's folder is gone; return False when it still exists at `until`.

    `until` is a time.monotonic(). The kernel removes the disks before the session's folder
    (drivers/scsi/scsi_transport_iscsi.c, iscsi_remove_session), so they are gone as well then.
    read() can say None earlier: as soon as the connection's folder is gone.
    """
    while (folder := host.stat(session.path)) and folder.st_ino == session.inode:
        if time.monotonic() >= until:
            return False
        time.sleep(_STEP)
    return True


def list_all(host: Host) -> list[Session]:
    """Return all sessions of the host, by number."""
    return sorted(filter(None, (read(host, sid) for sid in numbers(host))))


def numbers(host: Host) -> Iterator[int]:
    """Yield the number of each session, also of one that read() does not know yet, or any more."""
    for name in host.names(FOLDER):
        sid = name[len("session") :]
        if sid.isdecimal():
            yield int(sid)


def find_all(host: Host, target: str, hint: int = -1) -> list[Session]:
    """Return the sessions of `target`, a folded name, those that are up first.

    If `hint` is the number of one that is up, only that one is returned: this reads one target name
    from sysfs, while a host can have a thousand sessions.
    """
    if hint >= 0:
        session = read(host, hint)
        if session and session.up and keys.fold(session.target) == target:
            return [session]
    sessions = []
    for sid in numbers(host):
        if keys.fold(target_name(host, sid)) == target:
            session = read(host, sid)
            if session:
                sessions.append(session)
    return sorted(sessions, key=lambda session: (not session.up, session.sid))
