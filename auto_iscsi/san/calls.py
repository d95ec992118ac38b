"""Ask a SAN's driver: what it is, which snapshots there are, and to present or revoke one.

One function for each verb of the protocol: it runs the driver, and returns what the reply says. No
more calls of one SAN run at a time than its driver bears (max_parallel). What the driver writes to
its log goes to the system's log.
"""

from __future__ import annotations

import contextlib
import json
import syslog
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.config.san_files import San
from auto_iscsi.drivers import protocol, wire
from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host
from auto_iscsi.san import driver_process, replies

FOLDER = "san"  #: below /run/auto-iscsi
LIST_LIFETIME = 5.0  #: seconds for which what a SAN has is remembered
_IDENTITY = "auto-iscsi-driver"
_MOST_LINES = 50  # of a driver's log
_STEP = 0.05  # seconds


class Snapshot(NamedTuple):
    """A snapshot that may be seen, as `present` and `revoke` name it to the driver."""

    volume: str
    snapshot: str
    id: str


def info(host: Host, san: San, until: float) -> replies.Info:
    """Return what a driver says of itself, as long as its file and the SAN's are the same."""
    statuses = [host.stat(san.driver), host.stat(san.file)]
    identity = repr([(s.st_ino, s.st_mtime_ns, s.st_size) for s in statuses if s])
    name = f"{FOLDER}/{san.name}.info"
    known, _, text = (host.read(f"{claims.FOLDER}/{name}") or "").partition("\n")
    if known == identity:
        with contextlib.suppress(ValueError, errors.SanFailure):
            return replies.info(json.loads(text), san.name)
    reply = _ask(host, san, "info", {}, until)
    told = replies.info(reply, san.name)
    members = {**told._asdict(), "protocols": [wire.VERSION]}
    claims.write_file(host, name, f"{identity}\n{json.dumps(members)}")
    return told


def list_snapshots(
    host: Host, san: San, until: float, volume: str | None = None, presented_only: bool = False
) -> replies.Listing:
    """Return the snapshots of the volumes that may be seen; raise SanFailure."""
    request = {
        "volume": volume,
        "presented_only": presented_only,
        "initiator": initiator(host) or None,
    }
    with _slot(host, san, until):
        listing = replies.listing(_ask(host, san, "list", request, until), san.name)
    seen = tuple(each for each in listing.snapshots if san.has_volume(each.volume))
    return listing._replace(snapshots=seen)


def recent_snapshots(host: Host, san: San, until: float) -> replies.Listing:
    """Return what list_snapshots() returns, or has returned in the last LIST_LIFETIME seconds.

    Whoever comes while the driver is asked waits for its answer, or its failure. What is presented
    may have changed meanwhile: present() wants a fresh list.
    """
    name = list_file(san.name)[len(claims.FOLDER) + 1 :]
    handle = claims.lock(host, f"{name}.lock", until)
    if handle is None:
        raise errors.Busy(f"{san.name}: another run asks for the snapshots", "try again")
    try:
        when, _, text = (host.read(list_file(san.name)) or "").partition("\n")
        with contextlib.suppress(ValueError, TypeError):
            if 0 <= claims.now() - float(when) < LIST_LIFETIME:
                members, complete, left_out = json.loads(text)
                snapshots = (protocol.Snapshot(*each) for each in members)
                seen = tuple(each for each in snapshots if san.has_volume(each.volume))
                return replies.Listing(seen, complete, left_out)
        when, _, text = (host.read(f"{claims.FOLDER}/{name}.failed") or "").partition("\n")
        with contextlib.suppress(ValueError, TypeError):
            if 0 <= claims.now() - float(when) < LIST_LIFETIME:
                raise errors.SanFailure(*json.loads(text))
        try:
            listing = list_snapshots(host, san, until)
        except errors.SanFailure as failure:
            told = (failure.reason, failure.hint, failure.kind, failure.effect)
            text = json.dumps([*told, failure.retry_after])
            claims.write_file(host, f"{name}.failed", f"{claims.now():.3f}\n{text}")
            raise
        claims.write_file(host, name, f"{claims.now():.3f}\n{json.dumps(listing)}")
        return listing
    finally:
        claims.unlock(host, f"{name}.lock", handle)


def list_file(san: str) -> str:
    """Return the file that keeps what a SAN's driver listed last."""
    return f"{claims.FOLDER}/{FOLDER}/{san}.list"


def remembered(host: Host, san: San) -> tuple[protocol.Snapshot, ...]:
    """Return the snapshots that recent_snapshots() returned last; nothing if there was no call."""
    _, _, text = (host.read(list_file(san.name)) or "").partition("\n")
    try:
        snapshots = [protocol.Snapshot(*each) for each in json.loads(text)[0]]
    except (ValueError, TypeError, IndexError, KeyError):
        return ()
    return tuple(each for each in snapshots if san.has_volume(each.volume))


def present(
    host: Host, san: San, snapshot: Snapshot, lease: str, until: float
) -> protocol.Presented:
    """Have a snapshot presented to this host, read-only; raise SanFailure."""
    request = _about(host, snapshot, lease)
    with _slot(host, san, until):
        return replies.presented(_ask(host, san, "present", request, until), san.name)


def revoke(
    host: Host,
    san: San,
    snapshot: Snapshot,
    lease: str,
    made: tuple[str, ...] | None,
    handle: dict[str, str] | None,
    until: float,
) -> protocol.Revoked:
    """Have undone what a lease made; made None: the driver finds out. Raise SanFailure."""
    request = {
        **_about(host, snapshot, lease),
        "made": None if made is None else list(made),
        "handle": handle,
    }
    with _slot(host, san, until):
        return replies.revoked(_ask(host, san, "revoke", request, until), san.name)


def initiator(host: Host) -> str:
    """Return the name by which the SAN knows this host, "" if it has none."""
    text = host.read("/etc/iscsi/initiatorname.iscsi") or ""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "InitiatorName" and wire.matches(wire.IQN, value.strip().lower()):
            return value.strip().lower()
    return ""


def _about(host: Host, snapshot: Snapshot, lease: str) -> dict[str, Any]:
    """Return what present and revoke say: which snapshot, for which host, under which lease."""
    name = initiator(host)
    if not name:
        raise errors.Failure(
            "this host has no initiator name, to which a SAN could present",
            "see InitiatorName in /etc/iscsi/initiatorname.iscsi",
        )
    own = (host.read("/proc/sys/kernel/hostname") or "host").partition(".")[0]
    host_name = own if wire.matches(wire.HOST, own) else "host"
    ourselves = {"initiator": name, "host": host_name}
    return {**snapshot._asdict(), **ourselves, "lease": lease, "readonly": True}


def _ask(host: Host, san: San, verb: str, request: dict[str, Any], until: float) -> dict[str, Any]:
    seconds = min(san.timeout, until - time.monotonic())
    if seconds <= 0:
        raise errors.SanFailure(
            f"{san.name}: {verb}: no time is left", f"see timeout in {san.file}", "timeout", "none"
        )
    identity = uuid.uuid4().hex[:12]
    answer = driver_process.call(host, san, verb, {"request_id": identity, **request}, seconds)
    _log(host, san, verb, identity, answer.log)
    return replies.read(answer, san.name, verb, san.file)


def _log(host: Host, san: San, verb: str, identity: str, log: str) -> None:
    """Write what a driver logged to the system's log: each line is a stranger's."""
    lines = log.splitlines()
    if host.root != "/" or not lines:
        return
    syslog.openlog(_IDENTITY, syslog.LOG_PID, syslog.LOG_DAEMON)
    for line in lines[:_MOST_LINES]:
        text = wording.one_line(f"{san.name} {verb} {identity}: {line}")
        syslog.syslog(syslog.LOG_INFO, text)


@contextlib.contextmanager
def _slot(host: Host, san: San, until: float) -> Iterator[None]:
    """Wait until fewer calls of the SAN run than its driver bears; raise Busy."""
    slots = [f"{FOLDER}/{san.name}.{n}" for n in range(info(host, san, until).max_parallel)]
    while True:
        for slot in slots:
            if (handle := claims.lock(host, slot, 0.0)) is not None:
                try:
                    yield
                finally:
                    claims.unlock(host, slot, handle)
                return
        if time.monotonic() >= until:
            raise errors.Busy(f"{san.name}: other calls of the SAN are under way", "try again")
        time.sleep(_STEP)
