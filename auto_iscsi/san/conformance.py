"""Does a driver keep to the protocol? The suite of `auto-iscsi san test` (docs/san-driver.md).

It knows nothing of the array: it calls the driver as auto-iscsi does, and as a broken or hostile
caller would. The checks that present a snapshot take the first one that is not presented, and leave
it as it was. They are skipped where the configuration does not have `present = yes`.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple, Union

from auto_iscsi import errors
from auto_iscsi.config.san_files import San
from auto_iscsi.drivers import protocol
from auto_iscsi.machine.host import Host
from auto_iscsi.san import driver_process, replies

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
_INITIATOR = "iqn.1993-08.org.debian:01:auto-iscsi-san-test"
_GONE = "auto-iscsi-test-that-does-not-exist"
_HOSTILE = ("v\nshow", "v;show", "$(reboot)", "../../etc", "-option", "v w", "v\0w", "", "v" * 300)
_MEMBERS = ("volume", "snapshot", "id", "initiator", "lease")
#: Seconds after which a present is ended, once by SIGTERM and once by SIGKILL.
_MOMENTS = (0.02, 0.1, 0.3)
#: Seconds that a driver gets to end after SIGTERM: more than in a call, for a machine that is slow.
_ENDING = 10.0
_ATTEMPTS = 5  # at what answers busy

Reply = Union[dict[str, Any], errors.SanFailure]


class Result(NamedTuple):
    """The result of one check."""

    name: str
    outcome: str  #: OK, FAILED or SKIPPED
    text: str


class _Failed(Exception):
    """What a driver does that the protocol does not allow."""


class _Skipped(Exception):
    """Why a check was not possible."""


def run(host: Host, san: San) -> Iterator[Result]:
    """Yield the result of each check, in order. Raise BadConfiguration, BrokenInstallation."""
    suite = _Suite(host, san)
    for name, check in CHECKS.items():
        try:
            yield Result(name, OK, check(suite))
        except _Failed as failure:
            yield Result(name, FAILED, str(failure))
        except _Skipped as reason:
            yield Result(name, SKIPPED, str(reason))
        except errors.SanFailure as failure:
            yield Result(name, FAILED, failure.reason)


class _Suite:
    """A driver under test, and the snapshot that the checks work with."""

    def __init__(self, host: Host, san: San) -> None:
        self.host, self.san = host, san
        self.output = b""  #: all that the driver wrote to stdout and stderr
        self.snapshot: protocol.Snapshot | None = None

    def request(self, seconds: float, **members: Any) -> bytes:
        members = {"request_id": uuid.uuid4().hex[:12], **members}
        return driver_process.as_request(self.san, members, seconds)

    def ask(self, verb: str, seconds: float = 0, **members: Any) -> Reply:
        """Run a verb; return its reply, or the failure that its error or its breach is."""
        seconds = seconds or self.san.timeout
        answer = self.raw([verb], self.request(seconds, **members), seconds)
        try:
            return replies.read(answer, self.san.name, verb)
        except errors.SanFailure as failure:
            return failure

    def raw(
        self, arguments: list[str], request: bytes, seconds: float = 0, grace: float = 2.0
    ) -> driver_process.Answer:
        """Run the driver with any arguments and any request."""
        seconds = seconds or self.san.timeout
        call = (arguments, request, seconds, grace)
        answer = driver_process.run(self.host, self.san, *call, is_test=True)
        self.output += answer.reply[:1_000_000] + answer.log.encode()
        return answer

    def subject(self, lease: str, **members: Any) -> dict[str, Any]:
        """Return the members of a request for the snapshot under test."""
        if not self.san.present:
            raise _Skipped("present = yes is not set: nothing is presented")
        if self.snapshot is None:
            raise _Skipped("list has no snapshot that is not presented")
        named = {name: getattr(self.snapshot, name) for name in ("volume", "snapshot", "id")}
        common = {"initiator": _INITIATOR, "host": "auto-iscsi-test", "lease": lease}
        return {**named, **common, "readonly": True, **members}

    def present(self, lease: str, **members: Any) -> protocol.Presented:
        reply = self.patiently("present", **self.subject(lease, **members))
        return replies.presented(reply, self.san.name)

    def revoke(
        self, lease: str, made: list[str] | None, handle: dict[str, str] | None
    ) -> protocol.Revoked:
        subject = self.subject(lease, made=made, handle=handle)
        return replies.revoked(self.patiently("revoke", **subject), self.san.name)

    def patiently(self, verb: str, **members: Any) -> dict[str, Any]:
        """Run a verb again while it is busy; return its reply, raise the failure of an error."""
        for attempt in range(_ATTEMPTS):
            reply = self.ask(verb, **members)
            if not isinstance(reply, errors.SanFailure):
                return reply
            if reply.kind != "busy" or attempt == _ATTEMPTS - 1:
                raise reply
            time.sleep(min(reply.retry_after or 0.2, 5))
        raise AssertionError("unreachable")

    def listed(self, **members: Any) -> replies.Listing:
        request = {"volume": None, "presented_only": False, "initiator": _INITIATOR, **members}
        return replies.listing(self.patiently("list", **request), self.san.name)

    def is_presented(self) -> bool:
        """Return whether list shows the snapshot under test as presented."""
        assert self.snapshot
        for each in self.listed(volume=self.snapshot.volume).snapshots:
            if each.id == self.snapshot.id:
                return each.presented
        raise _Failed("list no longer has the snapshot")

    def require_clean(self, after: str) -> None:
        if self.is_presented():
            raise _Failed(f"the snapshot is still presented after {after}")


def _info(suite: _Suite) -> str:
    reply = suite.ask("info")
    if isinstance(reply, errors.SanFailure):
        raise reply
    info = replies.info(reply, suite.san.name)
    return f"{info.name}, target model {info.target_model}, {info.max_parallel} call(s) at a time"


def _list(suite: _Suite) -> str:
    listing = suite.listed()
    seen = [each for each in listing.snapshots if suite.san.has_volume(each.volume)]
    usable = [each for each in seen if not each.presented and each.state in ("ready", "offline")]
    suite.snapshot = usable[0] if usable else None
    if any(each.created is None and each.created_from != "none" for each in seen):
        raise _Failed("created is null, but created_from does not say none")
    left_out = f", {listing.left_out} with a name that cannot be a key" if listing.left_out else ""
    return f"{len(listing.snapshots)} snapshots, {len(seen)} of volumes that may be seen{left_out}"


def _list_of_volume(suite: _Suite) -> str:
    if not (known := suite.listed().snapshots):
        raise _Skipped("there is no snapshot")
    volume = known[0].volume
    wrong = {each.volume for each in suite.listed(volume=volume).snapshots} - {volume}
    if wrong:
        raise _Failed(f"list of volume {volume} has snapshots of {', '.join(sorted(wrong))}")
    if any(not each.presented for each in suite.listed(presented_only=True).snapshots):
        raise _Failed("with presented_only, list has one that is not presented")
    reply = suite.ask("list", volume=_GONE, presented_only=False, initiator=_INITIATOR)
    if isinstance(reply, errors.SanFailure):
        _require(reply, "not_found", "list of a volume that does not exist")
    elif replies.listing(reply, suite.san.name).snapshots:
        raise _Failed("list of a volume that does not exist has snapshots")
    return f"volume {volume} alone, and none of a volume that does not exist"


def _garbage(suite: _Suite) -> str:
    good = driver_process.as_request(suite.san, {"request_id": "1"}, suite.san.timeout)
    other = json.dumps({**json.loads(good), "protocol": 99}).encode()
    cases = {
        "an empty request": (["list"], b""),
        "no JSON": (["list"], b"\xff\x00{"),
        "half a request": (["list"], good[: len(good) // 2]),
        "a JSON list": (["list"], b"[]"),
        "protocol 99": (["list"], other),
        "deep nesting": (["list"], b"[" * 100_000),
        "an unknown verb": (["format"], good),
        "no verb": ([], good),
    }
    for name, (arguments, request) in cases.items():
        answer = suite.raw(arguments, request)
        verb = arguments[0] if arguments else "list"
        try:
            replies.read(answer, suite.san.name, verb)
        except errors.SanFailure as failure:
            _require(failure, ("invalid", "unsupported"), name)
        else:
            raise _Failed(f"{name} gets ok")
    return f"{len(cases)} requests that are none get an error"


def _hostile(suite: _Suite) -> str:
    """Send each text as the volume of list, and by turns as each member of present and revoke."""
    subject = suite.subject(_lease()) if suite.san.present and suite.snapshot else None
    for turn, text in enumerate(_HOSTILE):
        if text:
            reply = suite.ask("list", volume=text, presented_only=False, initiator=_INITIATOR)
            if not isinstance(reply, errors.SanFailure):
                raise _Failed(f"list of volume {text!r} gets ok")
            _require(reply, ("invalid", "not_found"), f"list of volume {text!r}")
        if subject is None:
            continue
        for verb, place in (("present", turn), ("revoke", turn + 2)):
            member = _MEMBERS[place % len(_MEMBERS)]
            reply = suite.ask(verb, **{**subject, member: text, "made": None, "handle": None})
            if not isinstance(reply, errors.SanFailure):
                raise _Failed(f"{verb} with {member} {text!r} gets ok")
            _require(reply, ("invalid", "not_found"), f"{verb} with {member} {text!r}")
    if subject is not None:
        suite.require_clean("hostile requests")
    return f"{len(_HOSTILE)} hostile texts are refused" + ("" if subject else " by list")


def _twice(suite: _Suite) -> str:
    lease = _lease()
    first, second = suite.present(lease), suite.present(lease)
    if first.already:
        raise _Failed("the first present says already")
    if not first.made:
        raise _Failed("made is empty after a present that was not already there")
    if not second.already:
        raise _Failed("the second present of the same lease does not say already")
    if (first.target, first.handle) != (second.target, second.handle):
        raise _Failed("the second present of the same lease has another answer")
    if not suite.is_presented():
        raise _Failed("list does not show the snapshot as presented")
    made = list(first.made)
    if suite.revoke(lease, made, first.handle).already:
        raise _Failed("the first revoke says already")
    suite.require_clean("revoke")
    if not suite.revoke(lease, made, first.handle).already:
        raise _Failed("the second revoke does not say already")
    return f"made {', '.join(made)} once, and undid it once"


def _unknown(suite: _Suite) -> str:
    lease = _lease()
    suite.present(lease)
    suite.revoke(lease, None, None)
    suite.require_clean("revoke without made and handle")
    suite.revoke(_lease(), None, None)
    return "revoke finds out by itself what the lease made"


def _gone(suite: _Suite) -> str:
    subject = {**suite.subject(_lease()), "snapshot": _GONE, "id": _GONE}
    reply = suite.ask("present", **subject)
    if not isinstance(reply, errors.SanFailure):
        raise _Failed("present of a snapshot that does not exist gets ok")
    _require(reply, "not_found", "present of a snapshot that does not exist")
    for made, handle in ((None, None), (["acl"], {"acl": "77"})):
        reply = suite.ask("revoke", **{**subject, "made": made, "handle": handle})
        if isinstance(reply, errors.SanFailure):
            raise _Failed(f"revoke of what is gone fails: {reply.reason}")
    return "present says not_found, revoke says ok"


def _others(suite: _Suite) -> str:
    ours, theirs = _lease(), _lease()
    first = suite.present(theirs)
    try:
        reply = suite.ask("present", **suite.subject(ours))
        if isinstance(reply, errors.SanFailure):
            _require(reply, ("busy", "conflict", "denied"), "present of another lease's snapshot")
        else:
            second = replies.presented(reply, suite.san.name)
            suite.revoke(ours, list(second.made), second.handle)
        if not suite.is_presented():
            raise _Failed("the revoke of one lease undid what another one made")
    finally:
        suite.revoke(theirs, list(first.made), first.handle)
    suite.require_clean("the revoke of both leases")
    return "a lease undoes only what it made"


def _deadline(suite: _Suite) -> str:
    endings = []
    for grace, what in ((_ENDING, "SIGTERM"), (0.0, "SIGKILL")):
        for seconds in _MOMENTS:
            lease = _lease()
            request = suite.request(seconds, **suite.subject(lease))
            answer = suite.raw(["present"], request, seconds, grace)
            if grace and answer.status == -signal.SIGKILL:
                raise _Failed("the driver goes on after SIGTERM")
            endings.append(answer.status != 0)
            suite.revoke(lease, None, None)
            suite.require_clean(f"{what} after {seconds} s, and a revoke")
    return f"{sum(endings)} of {len(endings)} calls were ended early; revoke undid them"


def _parallel(suite: _Suite) -> str:
    lease = _lease()
    subject = suite.subject(lease)
    with futures.ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: suite.patiently("present", **subject), range(2)))
        first, second = (replies.presented(reply, suite.san.name) for reply in both)
        if first.target != second.target:
            raise _Failed("two calls at once have different answers")
        undo = {**subject, "made": list(first.made or second.made), "handle": first.handle}
        list(pool.map(lambda _: suite.patiently("revoke", **undo), range(2)))
    suite.require_clean("two revokes at once")
    return "two calls at once converge"


def _secrets(suite: _Suite) -> str:
    files = [file for file in (suite.san.secret_file, suite.san.key_file) if file]
    if not files:
        raise _Skipped("no secret_file and no key_file is set")
    for file in files:
        for line in (suite.host.read_bytes(file) or b"").splitlines():
            if len(line) >= 6 and line in suite.output:
                raise _Failed(f"the driver wrote a line of {os.path.basename(file)}")
    return "no reply and no log has a line of a secret"


CHECKS: dict[str, Callable[[_Suite], str]] = {
    "info": _info,
    "list": _list,
    "list-of-volume": _list_of_volume,
    "garbage": _garbage,
    "hostile-texts": _hostile,
    "present-twice": _twice,
    "revoke-unknown": _unknown,
    "what-is-gone": _gone,
    "other-leases": _others,
    "deadline": _deadline,
    "parallel-calls": _parallel,
    "secrets": _secrets,
}


def _lease() -> str:
    return str(uuid.uuid4())


def _require(failure: errors.SanFailure, kinds: str | tuple[str, ...], what: str) -> None:
    """Raise _Failed unless a failure is one of these kinds, and changed nothing."""
    allowed = (kinds,) if isinstance(kinds, str) else kinds
    if failure.kind not in allowed:
        raise _Failed(f"{what} gets {failure.kind} instead of {allowed[0]}: {failure.reason}")
    if failure.effect != "none":
        raise _Failed(f"{what} gets effect {failure.effect}")
