"""Read and write portals: an address, a port and a portal group.

| written by | IPv4 | IPv6 |
|---|---|---|
| configuration, iscsiadm -p, SendTargets | 10.0.0.1:3260[,TPGT] | [fd00::1]:3260[,TPGT] |
| node record (open-iscsi usr/idbm.c) | 10.0.0.1,3260[,TPGT] | fd00::1,3260[,TPGT] |
| by-path link (udev-builtin-path_id.c) | ip-10.0.0.1:3260 | ip-fd00::1:3260 |
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import NamedTuple

DEFAULT_PORT = 3260  # RFC 7143, 4.2.7.1: iscsi-target


class Portal(NamedTuple):
    """An address at which a target listens; `tpgt` is its portal group tag, -1 when not known."""

    address: str
    port: int = DEFAULT_PORT
    tpgt: int = -1

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    @property
    def with_group(self) -> str:
        """The form that iscsiadm takes with -p, with the portal group if it is known."""
        return str(self) if self.tpgt < 0 else f"{self},{self.tpgt}"

    @property
    def folder(self) -> str:
        """The name that open-iscsi gives its node record: a folder with a group, else a file.

        from_record() reads it.
        """
        name = f"{self.address},{self.port}"
        return name if self.tpgt < 0 else f"{name},{self.tpgt}"

    def has_same_address(self, other: Portal) -> bool:
        """Return whether both have the same address and port, whatever their portal groups."""
        return self.port == other.port and (
            self.address == other.address or _canonical(self.address) == _canonical(other.address)
        )


def parse(text: str) -> Portal:
    """Return the portal in a text of the configuration or iscsiadm; raise ValueError with a reason.

    Only numeric addresses are taken: a host name would make every lookup depend on a resolver,
    whose time no setting limits, and udev's links contain the address anyway.
    """
    from auto_iscsi.lean_stdlib import socket

    place, _, group = text.strip().partition(",")
    if place.startswith("["):
        address, closed, rest = place[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest
        if not closed or (rest and not rest.startswith(":")) or rest == ":":
            raise ValueError("expected [IPV6-ADDRESS] or [IPV6-ADDRESS]:PORT")
    elif place.count(":") > 1:
        raise ValueError("an IPv6 address needs brackets: [fd00::1]:3260")
    else:
        address, colon, port = place.partition(":")
        if colon and not port:
            raise ValueError("no port after the colon")
    try:
        socket.inet_pton(socket.AF_INET6 if place.startswith("[") else socket.AF_INET, address)
    except OSError:
        raise ValueError("expected a numeric address: 10.0.0.1 or [fd00::1]") from None
    number = _number(port) if port else DEFAULT_PORT
    if not 0 < number < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    if (tag := _group(group or "-1")) is None:
        raise ValueError("a portal group is a number")
    return Portal(address, number, tag)


def from_record(name: str) -> Portal | None:
    """Return the portal in the name of a node record, None for any other name.

    ADDRESS,PORT,TPGT is a folder with a file for each interface; ADDRESS,PORT is a file: a record
    whose portal group is not known.
    """
    address, *numbers = name.split(",")
    if not address or len(numbers) not in (1, 2):
        return None
    port, tag = _number(numbers[0]), _group(numbers[1] if len(numbers) == 2 else "-1")
    return None if port < 0 or tag is None else Portal(address, port, tag)


def from_send_targets(line: str) -> tuple[str, Portal] | None:
    """Return target and portal of a line that a discovery printed, None for any other line.

    Such as `10.0.0.1:3260,1 iqn.…`; the group may be -1 (open-iscsi usr/iscsiadm.c).
    """
    place, _, target = line.strip().rpartition(" ")
    try:
        return (target, parse(place)) if place and target else None
    except ValueError:
        return None


def _canonical(address: str) -> str:
    """Return an IPv6 address in its canonical spelling, any other text as it is."""
    if ":" not in address:
        return address
    from auto_iscsi.lean_stdlib import socket

    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
    except OSError:
        return address


def _number(text: str) -> int:
    """Return a number of ASCII digits, -1 for any other text."""
    return int(text) if text.isascii() and text.isdecimal() else -1


def _group(text: str) -> int | None:
    """Return a portal group tag, -1 for -1 (not known), None for any other text."""
    return None if text != "-1" and _number(text) < 0 else int(text)
