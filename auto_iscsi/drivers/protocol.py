"""How does a SAN driver talk with auto-iscsi? One request in, one reply out (docs/san-driver.md).

A driver is a program. `DRIVER info|list|present|revoke` reads one JSON object on stdin, and writes
one on stdout. Its log is stderr. It exits with 0 for a reply, 1 for an error, and 75 for an error
that is worth another attempt. A driver in Python describes itself by a `Driver`, and its main is
`return protocol.serve(DRIVER)`.

The programs of this folder run under a user of their own, and import nothing else of the package.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from auto_iscsi.drivers import wire

#: A driver stops this long before its deadline, to have the time to say so. Seconds.
RESERVE = 1.0


class Snapshot(NamedTuple):
    """A snapshot as `list` tells it. `created`: seconds since 1970 or None. `size`: bytes."""

    volume: str
    snapshot: str
    id: str
    created: float | None = None
    created_from: str = "none"
    size: int = 0
    state: str = "ready"
    presented: bool = False
    owner: str | None = None


class Listing(NamedTuple):
    """The reply to `list`. It is complete if no snapshot of what was asked for is missing."""

    snapshots: Sequence[Snapshot]
    complete: bool = True


class Subject(NamedTuple):
    """What `present` and `revoke` are about: `made` and `handle` are as `present` returned them.

    `made` is None where the answer of `present` is not known: the driver then finds out what there
    is for this lease.
    """

    volume: str
    snapshot: str
    id: str
    initiator: str
    host: str
    lease: str
    readonly: bool = True
    made: tuple[str, ...] | None = None
    handle: dict[str, str] | None = None


class Target(NamedTuple):
    """Where a presented snapshot is. `portals`: ADDRESS:PORT, IPv6 in brackets."""

    iqn: str
    portals: Sequence[str]
    lun: int = 0
    shared: bool = False
    wwid: str | None = None


class Presented(NamedTuple):
    """The reply to `present`. `made` names what this lease made, in the order it was made."""

    target: Target
    already: bool = False
    made: Sequence[str] = ()
    handle: dict[str, str] | None = None
    chap: bool = False


class Revoked(NamedTuple):
    """The reply to `revoke`. `already`: nothing was left. `kept`: what stays, and why."""

    already: bool = False
    kept: Sequence[str] = ()


class Call:
    """One request: who asks for what, with which settings, until when."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request_id = wire.checked(request, "request_id", wire.OPAQUE)
        self.san = wire.checked(request, "san", wire.NAME)
        #: address, user, timezone, options of the driver; secret_fd and key_fd (section Secrets).
        self.config = wire.member(request, "config", dict, {})
        #: Of time.monotonic().
        self.deadline = time.monotonic() + float(
            wire.member(request, "deadline_s", (int, float), 30)
        )
        self.volume: str | None = None
        self.initiator: str | None = None
        self.presented_only = False
        self._changes: bool | None = None

    def setting(self, name: str, default: str | None = None) -> str:
        """Return a setting that auto-iscsi knows: address, user, timezone, timeout."""
        return self._text(self.config, name, default, f"setting {name}")

    def option(self, name: str, default: str | None = None) -> str:
        """Return a setting of section [options], which only the driver knows."""
        options = wire.member(self.config, "options", dict, {})
        return self._text(options, name, default, f"setting {name} in [options]")

    @staticmethod
    def _text(values: dict[str, Any], name: str, default: str | None, what: str) -> str:
        value = values.get(name)
        if value is None:
            if default is None:
                raise wire.Refused("invalid", f"{what} is missing")
            return default
        if not isinstance(value, str) or not value.isprintable():
            raise wire.Refused("invalid", f"{what} is no printable text")
        return value

    def secret(self) -> str:
        """Return the password that secret_file holds: the first line, as the core handed it."""
        return self._handed("secret_fd", "secret_file").decode("utf-8").split("\n")[0].rstrip("\r")

    def key_path(self) -> str:
        """Return a path for `ssh -i`, while this process lives: the key is in memory only.

        ssh closes inherited files and refuses a key that others can read. So the key lies in a
        memory file of our user, which ssh opens by /proc.
        """
        memory = os.memfd_create("key")
        os.fchmod(memory, 0o600)
        key = self._handed("key_fd", "key_file")
        while key:
            key = key[os.write(memory, key) :]
        return f"/proc/{os.getpid()}/fd/{memory}"

    def _handed(self, member: str, setting: str) -> bytes:
        number = self.config.get(member)
        if not isinstance(number, int) or isinstance(number, bool) or number < 3:
            raise wire.Refused("invalid", f"{setting} is not set")
        try:
            return os.pread(number, 1 << 16, 0)
        except OSError as error:
            raise wire.Refused(
                "internal", f"{setting} was not handed over: {error.strerror}"
            ) from None

    def left(self) -> float:
        """Return the seconds until the deadline; raise Refused if there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise wire.Refused("timeout", "the time is over")
        return left

    def about_to_change(self) -> None:
        """Say before a change at the array: an error from here on has effect unknown."""
        self._changes = True

    def nothing_changed(self) -> None:
        """Say that nothing is changed: not yet, or not any more. An error then has effect none.

        A driver that says so at its beginning says about_to_change() before each change.
        """
        self._changes = False

    def effect(self, code: str) -> str:
        """Return the effect of an error that does not say it."""
        if self._changes is None:  # the driver has never said
            return "unknown" if code in ("timeout", "internal") else "none"
        return "unknown" if self._changes else "none"

    def log(self, message: str) -> None:
        """Write a line to the log. auto-iscsi puts it beside the request; no secrets here."""
        print(wire.one_line(message), file=sys.stderr, flush=True)


class Driver(NamedTuple):
    """A driver: what `info` says of it, and its verbs.

    `list_snapshots` gets call.volume (None: all), call.presented_only and call.initiator.
    """

    name: str
    #: One of wire.MODELS, or what says it where the configuration decides.
    target_model: str | Callable[[Call], str]
    list_snapshots: Callable[[Call], Listing]
    present: Callable[[Call, Subject], Presented]
    revoke: Callable[[Call, Subject], Revoked]
    needs_clone: bool = False
    #: How many calls at once the array bears.
    max_parallel: int = 1


def serve(driver: Driver, arguments: Sequence[str] | None = None) -> int:
    """Answer one request; return the exit status. This is the main of a driver in Python."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if len(arguments) == 1 else ""
    call: Call | None = None
    try:
        if verb not in wire.VERBS:
            raise wire.Refused("unsupported", f"usage: {driver.name} {'|'.join(wire.VERBS)}")
        request = read_request(sys.stdin.fileno())
        call = Call(request)
        if verb not in wire.CHANGING:
            call.nothing_changed()
        _stop_in_time(call)
        return _reply({"ok": True, **_answer(driver, verb, call, request)}, wire.OK)
    except wire.Refused as error:
        return _refuse(error, call)
    except MemoryError:
        return _refuse(wire.Refused("internal", "out of memory"), call)
    except Exception as error:  # a bug is answered as well
        import traceback

        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        effect = "unknown" if verb in wire.CHANGING else "none"
        return _refuse(wire.Refused("internal", what, effect=effect), call)


def read_request(descriptor: int) -> dict[str, Any]:
    """Read the request: one JSON object of protocol 1, up to the end of the file."""
    text = b""
    while len(text) <= wire.LONGEST_REQUEST:
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            break
        text += piece
    else:
        raise wire.Refused("invalid", "the request is longer than 1 MiB")
    try:
        request = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise wire.Refused("invalid", f"the request is no JSON: {error}") from None
    if not isinstance(request, dict):
        raise wire.Refused("invalid", "the request is no JSON object")
    if request.get("protocol") != wire.VERSION:
        raise wire.Refused("unsupported", f"this driver speaks protocol {wire.VERSION}")
    return request


def _answer(driver: Driver, verb: str, call: Call, request: dict[str, Any]) -> dict[str, Any]:
    if verb == "info":
        model = driver.target_model
        return {
            "name": driver.name,
            "protocols": [wire.VERSION],
            "target_model": model if isinstance(model, str) else model(call),
            "needs_clone": driver.needs_clone,
            "max_parallel": driver.max_parallel,
            "can_create": False,
        }
    if verb == "list":
        call.volume = wire.checked(request, "volume", wire.NAME) if request.get("volume") else None
        call.initiator = (
            wire.checked(request, "initiator", wire.IQN) if request.get("initiator") else None
        )
        call.presented_only = wire.member(request, "presented_only", bool, False)
        listing = driver.list_snapshots(call)
        told = [_told(snapshot) for snapshot in listing.snapshots]
        return {"complete": listing.complete, "snapshots": told}
    subject = _subject(request)
    if verb == "present":
        if not subject.readonly:
            raise wire.Refused("unsupported", "snapshots are presented read-only")
        done = driver.present(call, subject)
        target = {**done.target._asdict(), "portals": list(done.target.portals)}
        return {**done._asdict(), "target": target, "made": list(done.made)}
    gone = driver.revoke(call, subject)
    return {"already": gone.already, "kept": list(gone.kept)}


def _told(snapshot: Snapshot) -> dict[str, Any]:
    created = None if snapshot.created is None else wire.written_time(snapshot.created)
    source = snapshot.created_from if created else "none"
    return {**snapshot._asdict(), "created": created, "created_from": source}


def _stop_in_time(call: Call) -> None:
    """Let SIGTERM and the end of the time end the call by an error, whatever it waits for."""

    def stop(_number: int, _frame: object) -> NoReturn:
        raise wire.Refused("timeout", "the time is over")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, stop)
    left = call.left()
    signal.setitimer(signal.ITIMER_REAL, max(left - RESERVE, left / 2))


def _refuse(error: wire.Refused, call: Call | None) -> int:
    told: dict[str, Any] = {"code": error.code, "message": wire.one_line(error.message)}
    if error.retry_after_s:
        told["retry_after_s"] = error.retry_after_s
    told["effect"] = error.effect or (call.effect(error.code) if call else "none")
    temporary = error.code in wire.TEMPORARY or error.retry_after_s
    return _reply({"ok": False, "error": told}, wire.TRY_AGAIN if temporary else wire.FAILED)


def _reply(reply: dict[str, Any], status: int) -> int:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the answer is known: let it out
    text = json.dumps(reply, ensure_ascii=True, separators=(",", ":"))
    try:
        print(text, flush=True)
    except OSError:  # nobody reads any more
        return wire.FAILED
    return status


def _subject(request: dict[str, Any]) -> Subject:
    made = request.get("made")
    if made is not None:
        if not wire.are_made(made):
            raise wire.Refused("invalid", "made is no list of names")
        made = tuple(made)
    handle = request.get("handle")
    if handle is not None and not wire.is_handle(handle):
        raise wire.Refused("invalid", "handle is no object of texts")
    return Subject(
        wire.checked(request, "volume", wire.NAME),
        wire.checked(request, "snapshot", wire.NAME),
        wire.checked(request, "id", wire.OPAQUE),
        wire.checked(request, "initiator", wire.IQN),
        wire.checked(request, "host", wire.HOST),
        wire.checked(request, "lease", wire.LEASE),
        wire.member(request, "readonly", bool, True),
        made,
        handle,
    )
