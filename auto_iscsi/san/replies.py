"""What does a driver's reply say, and can it be believed?

Each text of a reply is a stranger's: it has the form that the protocol gives it (drivers/wire), or
the reply counts as broken. A message is made one printable line. What a driver says that is no
reply (another exit status, no JSON, too long, killed) is `internal` with effect `unknown`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple, NoReturn

from auto_iscsi import errors, portals, wording
from auto_iscsi.drivers import protocol, wire
from auto_iscsi.san.driver_process import Answer

_LONGEST_LIST = 100_000  # snapshots
_MOST_PORTALS = 64
_MOST_SIZE = 1 << 63
_LUNS = range(1 << 14)
_HINTS = {
    "auth": "check user, key_file and secret_file in {file}",
    "unreachable": "check address in {file}, and whether this host reaches it",
    "invalid": "check the settings in {file}",
    "busy": "try again later",
    "timeout": "try again, or raise timeout in {file}",
}


class Info(NamedTuple):
    """What a driver says of itself."""

    name: str
    target_model: str
    needs_clone: bool
    max_parallel: int


class Listing(NamedTuple):
    """The snapshots of a SAN; `left_out`: how many more there are, whose names cannot be keys."""

    snapshots: tuple[protocol.Snapshot, ...]
    complete: bool
    left_out: int


class _Wrong(Exception):
    """A reply that does not have the form of the protocol, and where."""


def read(answer: Answer, san: str, verb: str, file: str = "") -> dict[str, Any]:
    """Return a driver's reply; raise SanFailure for an error, and for what is no reply."""
    what = f"{san}: {verb}"
    if answer.is_long:
        raise broken(what, verb, "the driver's reply is longer than 8 MiB")
    try:
        reply = json.loads(answer.reply.decode("utf-8"))
    except (ValueError, RecursionError):
        reply = None
    if answer.is_late and not isinstance(reply, dict):
        hint = _HINTS["timeout"].format(file=file)
        effect = "unknown" if verb in wire.CHANGING else "none"
        why = f"{what}: the driver did not answer within {answer.seconds:.0f} s"
        raise errors.SanFailure(why, hint, "timeout", effect)
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), bool):
        shown = f"signal {-answer.status}" if answer.status < 0 else f"status {answer.status}"
        last = wire.one_line(answer.log.strip().split("\n")[-1])
        raise broken(what, verb, f"the driver gave no reply ({shown}) {last}".strip())
    if reply["ok"] is (answer.status != wire.OK):
        why = f"the driver says {'ok' if reply['ok'] else 'error'} with status {answer.status}"
        raise broken(what, verb, why)
    if not reply["ok"]:
        raise _error(what, verb, reply.get("error"), file)
    return reply


def broken(what: str, verb: str, why: str) -> errors.SanFailure:
    """Return the failure for a driver that does not keep to the protocol."""
    effect = "unknown" if verb in wire.CHANGING else "none"
    hint = "auto-iscsi san test DRIVER shows what is wrong with a driver"
    return errors.SanFailure(f"{what}: {why}", hint, "internal", effect)


def _error(what: str, verb: str, error: Any, file: str) -> errors.SanFailure:
    error = error if isinstance(error, dict) else {}
    code, message = error.get("code"), error.get("message")
    if code not in wire.CODES or not isinstance(message, str):
        return broken(what, verb, "the driver's error has no code of the protocol, or no message")
    seconds = error.get("retry_after_s")
    is_number = isinstance(seconds, int) and not isinstance(seconds, bool)
    retry_after = min(max(seconds, 0), 3600) if is_number else 0
    changes = verb in wire.CHANGING
    effect = "none" if error.get("effect") == "none" or not changes else "unknown"
    shown = wording.one_line(wire.one_line(message)) or "no reason given"
    hint = _HINTS.get(code, "").format(file=file)
    return errors.SanFailure(f"{what}: {shown} ({code})", hint, code, effect, retry_after)


def info(reply: dict[str, Any], san: str) -> Info:
    """Return what `info` says; raise SanFailure."""
    try:
        protocols = reply.get("protocols")
        if not isinstance(protocols, list) or wire.VERSION not in protocols:
            _wrong("protocols", f"has no {wire.VERSION}")
        model = _text(reply, "target_model", wire.OPAQUE)
        if model not in wire.MODELS:
            _wrong("target_model", f"is none of {', '.join(wire.MODELS)}")
        return Info(
            _text(reply, "name", wire.NAME),
            model,
            _flag(reply, "needs_clone", False),
            _number(reply, "max_parallel", 1, 64, 1),
        )
    except _Wrong as error:
        raise broken(f"{san}: info", "info", str(error)) from None


def listing(reply: dict[str, Any], san: str) -> Listing:
    """Return what `list` says; raise SanFailure. A name that is not allowed is left out.

    So is one that two snapshots of a volume have: a key VOLUME@SNAPSHOT could mean either.
    """
    try:
        members = reply.get("snapshots")
        if not isinstance(members, list) or len(members) > _LONGEST_LIST:
            _wrong("snapshots", "is no list, or a very long one")
        snapshots: dict[tuple[str, str], protocol.Snapshot] = {}
        left_out = 0
        for member in members:
            if not isinstance(member, dict):
                _wrong("snapshots", "has a member that is no object")
            names = [member.get(name) for name in ("volume", "snapshot")]
            if not all(wire.matches(wire.NAME, name) for name in names):
                left_out += 1
                continue
            snapshot = _snapshot(member)
            if snapshots.setdefault((snapshot.volume, snapshot.id), snapshot) is not snapshot:
                _wrong("snapshots", f"has {snapshot.id} twice")
        names_of_all = Counter((each.volume, each.snapshot) for each in snapshots.values())
        kept = [e for e in snapshots.values() if names_of_all[e.volume, e.snapshot] == 1]
        left_out += len(snapshots) - len(kept)
        return Listing(tuple(kept), _flag(reply, "complete", True), left_out)
    except _Wrong as error:
        raise broken(f"{san}: list", "list", str(error)) from None


def _snapshot(member: dict[str, Any]) -> protocol.Snapshot:
    created, text = None, member.get("created")
    if text is not None:
        try:
            created = wire.read_time(text)
        except (TypeError, ValueError, OverflowError):
            _wrong("created", "is no time such as 2010-05-03T04:00:01Z")
    state, source = member.get("state", "ready"), member.get("created_from", "none")
    if state not in wire.STATES or source not in wire.TIME_SOURCES:
        _wrong("state or created_from", "is none that the protocol has")
    owner = member.get("owner")
    return protocol.Snapshot(
        _text(member, "volume", wire.NAME),
        _text(member, "snapshot", wire.NAME),
        _text(member, "id", wire.OPAQUE),
        created,
        source,
        _number(member, "size", 0, _MOST_SIZE, 0),
        state,
        _flag(member, "presented", False),
        None if owner is None else _text(member, "owner", wire.OPAQUE),
    )


def presented(reply: dict[str, Any], san: str) -> protocol.Presented:
    """Return what `present` says; raise SanFailure."""
    try:
        target = reply.get("target")
        if not isinstance(target, dict):
            _wrong("target", "is missing")
        addresses = target.get("portals")
        if not isinstance(addresses, list) or not 0 < len(addresses) <= _MOST_PORTALS:
            _wrong("portals", "is no list of ADDRESS:PORT")
        for address in addresses:
            _check_portal(address)
        wwid = target.get("wwid")
        if reply.get("chap"):
            _wrong("chap", "is not supported: set chap_user in auto.iscsi.conf")
        return protocol.Presented(
            protocol.Target(
                _text(target, "iqn", wire.IQN),
                tuple(addresses),
                _number(target, "lun", _LUNS[0], _LUNS[-1], 0),
                _flag(target, "shared", False),
                None if wwid is None else _text(target, "wwid", wire.OPAQUE),
            ),
            _flag(reply, "already", False),
            _made(reply),
            _handle(reply),
        )
    except _Wrong as error:
        raise broken(f"{san}: present", "present", str(error)) from None


def revoked(reply: dict[str, Any], san: str) -> protocol.Revoked:
    """Return what `revoke` says; raise SanFailure."""
    try:
        kept = reply.get("kept", [])
        if not isinstance(kept, list) or not all(isinstance(each, str) for each in kept):
            _wrong("kept", "is no list of texts")
        return protocol.Revoked(
            _flag(reply, "already", False), tuple(wire.one_line(each) for each in kept[:64])
        )
    except _Wrong as error:
        raise broken(f"{san}: revoke", "revoke", str(error)) from None


def _made(reply: dict[str, Any]) -> tuple[str, ...]:
    made = reply.get("made", [])
    if not wire.are_made(made):
        _wrong("made", "is no list of small words")
    return tuple(made)


def _handle(reply: dict[str, Any]) -> dict[str, str] | None:
    handle = reply.get("handle")
    if handle is None:
        return None
    if not wire.is_handle(handle) or len(handle) > 64:
        _wrong("handle", "is no object of texts")
    return dict(handle)


def _check_portal(text: Any) -> None:
    try:
        if not isinstance(text, str):
            raise ValueError
        portals.parse(text)
    except ValueError:
        _wrong("portals", "has one that is no ADDRESS:PORT")


def _text(members: dict[str, Any], name: str, pattern: Any) -> str:
    value = members.get(name)
    if not wire.matches(pattern, value):
        _wrong(name, "is missing" if value is None else "does not have its form")
    return str(value)


def _flag(members: dict[str, Any], name: str, default: bool) -> bool:
    value = members.get(name, default)
    if not isinstance(value, bool):
        _wrong(name, "is not true or false")
    return value


def _number(members: dict[str, Any], name: str, least: int, most: int, default: int) -> int:
    value = members.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        _wrong(name, f"is no number from {least} to {most}")
    return value


def _wrong(name: str, why: str) -> NoReturn:
    raise _Wrong(f"{name} in the driver's reply {why}")
