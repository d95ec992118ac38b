"""How does the driver `lio` reach a target on another host? The same program there does the work.

ssh starts it: its forced command is `lio far NAME=VALUE …`. The first line on its stdin is the
verb, then comes the request. The settings are those of the forced command alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from auto_iscsi.drivers import lio_settings, protocol, ssh, wire
from auto_iscsi.drivers.protocol import Call, Subject

#: What ssh asks for; the forced command replaces it. An account without one does not know it.
REMOTE = "auto-iscsi-lio-has-no-forced-command"
_NO_COMMAND = 127  # the shell's exit status for an unknown program
_SSH_FAILED = 255
_RESERVE = 2.0  # seconds by which the far side stops before us


def is_far(call: Call) -> bool:
    """Tell whether the configuration names another host."""
    if not call.setting("address", ""):
        return False
    for name in lio_settings.NAMES:
        if call.option(name, ""):
            raise wire.Refused(
                "invalid", f"setting {name} in [options]: with address, the forced command has it"
            )
    return True


def info(call: Call) -> str:
    """Return the class of array that the far side is."""
    model = _ask(call, "info", {}).get("target_model")
    if model not in wire.MODELS:
        raise wire.Refused("internal", f"{call.setting('address')} is of no known class")
    return str(model)


def list_snapshots(call: Call) -> protocol.Listing:
    about = {"volume": call.volume, "initiator": call.initiator}
    reply = _ask(call, "list", {**about, "presented_only": call.presented_only})
    try:
        told = [protocol.Snapshot(**_with_time(each)) for each in reply["snapshots"]]
        return protocol.Listing(told, reply["complete"] is True)
    except (LookupError, TypeError, ValueError) as error:
        raise _malformed(call, error) from None


def present(call: Call, subject: Subject) -> protocol.Presented:
    call.about_to_change()
    reply = _ask(call, "present", subject._asdict())
    try:
        target = protocol.Target(**reply["target"])
        made, handle = tuple(reply["made"]), reply["handle"]
        return protocol.Presented(target, reply["already"], made, handle, reply["chap"])
    except (LookupError, TypeError) as error:
        raise _malformed(call, error) from None


def revoke(call: Call, subject: Subject) -> protocol.Revoked:
    call.about_to_change()
    reply = _ask(call, "revoke", subject._asdict())
    try:
        return protocol.Revoked(reply["already"], tuple(reply["kept"]))
    except (LookupError, TypeError) as error:
        raise _malformed(call, error) from None


def option(arguments: Sequence[str]) -> Callable[[str, str | None], str]:
    """Return what finds a setting among the arguments of the forced command."""
    settings = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in lio_settings.NAMES:
            known = ", ".join(lio_settings.NAMES)
            raise wire.Refused("invalid", f"forced command: {argument}: NAME is one of {known}")
        settings[name] = value

    def find(name: str, default: str | None) -> str:
        value = settings.get(name, default)
        if value is None:
            raise wire.Refused("invalid", f"forced command: {name}=… is missing")
        return value

    return find


def read_verb(descriptor: int) -> str:
    """Read the first line of the request, and nothing of the next."""
    line = b""
    while len(line) < 16 and not line.endswith(b"\n"):
        letter = os.read(descriptor, 1)
        if not letter:
            break
        line += letter
    return line.decode("ascii", "replace").strip()


def _with_time(told: dict[str, Any]) -> dict[str, Any]:
    created = told["created"]
    if created is not None:
        created = wire.read_time(created)
    return {**told, "created": created}


def _malformed(call: Call, error: Exception) -> wire.Refused:
    return wire.Refused("internal", f"{call.setting('address')} gave a malformed reply: {error}")


def _ask(call: Call, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Let the far side answer a request; raise Refused with its error, or with ssh's."""
    request = {
        "protocol": wire.VERSION,
        "request_id": call.request_id,
        "san": call.san,
        "config": {},
        "deadline_s": max(1.0, call.left() - _RESERVE),
        **body,
    }
    argv = ssh.command(call, "root", ssh.with_key(call), [REMOTE])
    done = _run(call, argv, f"{verb}\n{json.dumps(request)}".encode())
    message = wire.one_line(done.stderr.decode("utf-8", "replace"))
    if message:
        call.log(f"{call.setting('address')}: {message}")
    try:
        reply = json.loads(done.stdout.decode("utf-8"))
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise _why_no_reply(call, done.returncode, message)
    if reply.get("ok") is True:
        return reply
    error = reply.get("error")
    if not isinstance(error, dict):
        raise _malformed(call, ValueError("neither ok nor an error"))
    effect = "none" if error.get("effect") == "none" else "unknown"
    wait = error.get("retry_after_s", 0)
    raise wire.Refused(
        str(error.get("code")),
        str(error.get("message")),
        wait if isinstance(wait, int) else 0,
        effect,
    )


def _run(call: Call, argv: list[str], request: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv,
            input=request,
            capture_output=True,
            env=ssh.ENVIRONMENT,
            cwd="/",
            timeout=call.left(),
            check=False,
        )
    except OSError as error:
        raise wire.Refused("unsupported", f"ssh: {error.strerror}", effect="none") from None
    except subprocess.TimeoutExpired:
        raise wire.Refused("timeout", f"{call.setting('address')} did not answer") from None


def _why_no_reply(call: Call, status: int, message: str) -> wire.Refused:
    """Return the error for an ssh that brought no reply, from its exit status and its words."""
    host = call.setting("address")
    if status == _NO_COMMAND and REMOTE in message:
        hint = "authorized_keys there has no command=… for this key"
        return wire.Refused("unsupported", f"{host}: {hint}, see auto-iscsi-lio(8)", effect="none")
    if status == _SSH_FAILED:
        for pattern, code, hint in ssh.SAYS:
            if re.search(pattern, message):
                return wire.Refused(code, f"{host}: {hint}: {message}", effect="none")
        # Before a connection there is no effect. Later, the far side may have begun.
        return wire.Refused("unreachable", f"{host}: {message or 'the connection was closed'}", 5)
    return wire.Refused("internal", f"{host} gave no reply (exit {status}): {message}")
