"""A portal that refuses every login with a given status.

LIO refuses only with 03/01 (disabled). An array answers 02/03 when a snapshot is not presented to
this host any more, and 02/01 when CHAP failed. So this portal speaks just enough iSCSI (RFC 7143,
11.12, 11.13): login and text requests. It admits discovery sessions and lists the given targets. A
login to a target gets the status, or, without a status, no answer.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from typing import Any

LOGIN, TEXT, LOGOUT = 0x03, 0x04, 0x06


def receive(connection: socket.socket, size: int) -> bytes:
    """Read `size` bytes; raise EOFError if the initiator has closed the connection."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def request(connection: socket.socket) -> tuple[bytes, dict[str, str]]:
    """Read one request: its 48-byte header and its keys."""
    header = receive(connection, 48)
    size = int.from_bytes(header[5:8], "big")
    data = receive(connection, size + -size % 4)[:size]
    pairs = [pair.partition("=") for pair in data.decode().split("\0") if "=" in pair]
    return header, {key: value for key, _, value in pairs}


def response(opcode: int, flags: int, header: bytes, keys: list[str], rest: bytes) -> bytes:
    """Build an answer; `rest` has bytes 20 to 47 of its header."""
    data = "".join(key + "\0" for key in keys).encode()
    start = struct.pack(">BBHB3s", opcode, flags, 0, 0, len(data).to_bytes(3, "big"))
    return start + header[8:16] + header[16:20] + rest + data + b"\0" * (-len(data) % 4)


def login(header: bytes, status: int, keys: list[str]) -> bytes:
    """Answer a login request with a status; 0 continues with the stage that it asks for."""
    flags = header[1] & 0x8F if status == 0 else 0
    (expected,) = struct.unpack(">I", header[24:28])
    session = header[8:14] + struct.pack(">H", 1 if status == 0 else 0)
    numbers = header[28:32] + struct.pack(">II", expected, expected + 8)
    rest = b"\0" * 4 + numbers + struct.pack(">H", status) + b"\0" * 10
    # Version 0 in bytes 2 and 3; ISID and TSIH instead of a LUN.
    return response(0x23, flags, header[:8] + session + header[16:], keys, rest)


def text(header: bytes, keys: list[str]) -> bytes:
    """Answer a text request, with the final bit."""
    (command,) = struct.unpack(">I", header[24:28])
    numbers = header[28:32] + struct.pack(">II", command + 1, command + 9)
    return response(0x24, 0x80, header, keys, b"\xff" * 4 + numbers + b"\0" * 12)


def logout(header: bytes) -> bytes:
    """Answer a logout request: closed successfully."""
    (command,) = struct.unpack(">I", header[24:28])
    numbers = header[28:32] + struct.pack(">II", command + 1, command + 9)
    return response(0x26, 0x80, b"\0" * 16 + header[16:], [], b"\0" * 4 + numbers + b"\0" * 12)


class Portal(socketserver.ThreadingTCPServer):
    """The server; `status` is class and detail in 16 bits, or None for silence."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: str, port: int, status: int | None, targets: list[str]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.status, self.targets, self.logins = status, targets, 0
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self.listing = [
            line
            for target in targets
            for line in (f"TargetName={target}", f"TargetAddress={where},1")
        ]
        super().__init__((address, port), Connection)


class Connection(socketserver.BaseRequestHandler):
    """One connection of an initiator."""

    server: Portal

    def handle(self) -> None:
        discovery = False
        try:
            while True:
                header, keys = request(self.request)
                opcode = header[0] & 0x3F
                if opcode == LOGIN:
                    discovery = discovery or keys.get("SessionType") == "Discovery"
                    self.login(header, discovery)
                elif opcode == TEXT:
                    self.request.sendall(text(header, self.server.listing))
                elif opcode == LOGOUT:
                    self.request.sendall(logout(header))
        except (EOFError, OSError):
            return

    def login(self, header: bytes, discovery: bool) -> None:
        if discovery:
            keys = ["TargetPortalGroupTag=1", "AuthMethod=None"] if not header[1] & 0x0C else []
            self.request.sendall(login(header, 0, keys))
            return
        self.server.logins += 1
        if self.server.status is not None:
            self.request.sendall(login(header, self.server.status, []))


portals: dict[tuple[str, int], Portal] = {}


def refuse(address: str, port: int, status: int | None, targets: list[str]) -> None:
    """Start a portal that refuses logins."""
    server = portals[address, port] = Portal(address, port, status, targets)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()


def refused(address: str, port: int) -> int:
    """Return how many logins to a target a portal has received."""
    return portals[address, port].logins


def close(address: str, port: int) -> None:
    """End a portal: nothing listens there any more."""
    server = portals.pop((address, port))
    server.shutdown()
    server.server_close()


CALLS: dict[str, Any] = {"refuse": refuse, "refused": refused, "close": close}
