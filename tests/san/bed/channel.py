"""Send requests to the agent in the guest, and receive its answers.

The channel is a UNIX socket whose other end is the guest's virtio-serial port; guest/agent.py
defines the frames. Each request has its own future, so any number can be under way at once.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """An answer of the agent."""

    header: dict[str, Any]
    body: bytes


class Lost(Exception):
    """The machine is gone, or does not answer."""


class Refused(Exception):
    """The agent could not carry out a request; the text is the guest's exception."""


class Channel:
    """The connection with one guest."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.numbers = itertools.count(1)
        self.pending: dict[int, Future[Answer]] = {}
        self.parts: dict[int, Callable[[bytes], None]] = {}
        self.sending = threading.Lock()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def request(
        self,
        header: dict[str, Any],
        body: bytes = b"",
        part: Callable[[bytes], None] | None = None,
    ) -> tuple[int, Future[Answer]]:
        """Send a request; return its number and the future of its answer."""
        number = next(self.numbers)
        future: Future[Answer] = Future()
        self.pending[number] = future
        if part:
            self.parts[number] = part
        text = json.dumps({**header, "id": number}).encode()
        frame = struct.pack(">II", len(text), len(body)) + text + body
        with self.sending:
            try:
                self.connection.sendall(frame)
            except OSError as error:
                raise Lost(f"cannot send to the guest: {error}") from error
        return number, future

    def exchange(self, header: dict[str, Any], body: bytes = b"", timeout: float = 60) -> Answer:
        """Send a request and wait for its answer."""
        return answer(self.request(header, body)[1], timeout, str(header.get("name", header["op"])))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.connection.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise OSError("the machine closed the connection")
            data += piece
        return bytes(data)

    def _read(self) -> None:
        try:
            while True:
                text_size, body_size = struct.unpack(">II", self._receive(8))
                header, body = json.loads(self._receive(text_size)), self._receive(body_size)
                number = header["id"]
                if header.get("part"):
                    self.parts[number](body)
                else:
                    self.pending.pop(number).set_result(Answer(header, body))
        except (OSError, struct.error) as error:
            while self.pending:
                self.pending.popitem()[1].set_exception(Lost(str(error)))


def answer(future: Future[Answer], timeout: float | None, what: str) -> Answer:
    """Wait for an answer; raise Lost if none comes in time, Refused if the agent failed."""
    try:
        reply = future.result(timeout)
    except concurrent.futures.TimeoutError as error:
        raise Lost(f"no answer from the guest in {timeout} s: {what}") from error
    if "error" in reply.header:
        raise Refused(f"{what}: {reply.header['error']}\n{reply.header['trace']}")
    return reply
