"""How does a driver start ssh? Without questions, or anything that is the user's or the host's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from auto_iscsi.drivers import wire
from auto_iscsi.drivers.protocol import Call

_ADDRESS = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PATH = re.compile(r"/[A-Za-z0-9._/+-]+")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

#: What ssh says, the code that it means, and a hint.
SAYS = (
    (r"Permission denied|Too many authentication", "auth", "it refused the key"),
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION|No \S+ host key is known",
        "auth",
        "its host key is not the one in known_hosts",
    ),
    (r"connect to host|Could not resolve", "unreachable", "it cannot be reached"),
    (r"no matching|Unable to negotiate", "unsupported", "it has other algorithms"),
)


def command(
    call: Call,
    user: str,
    options: Sequence[str],
    remote: Sequence[str] = (),
    terminal: bool = False,
) -> list[str]:
    """Return the arguments that start ssh to the setting `address`. No secret is among them.

    user: the account if the configuration names none. options: ssh's, which go before ours; the key
    is one of them.
    """
    address = _ADDRESS.fullmatch(call.setting("address"))
    if not address:
        raise wire.Refused("invalid", "setting address is no ADDRESS or ADDRESS:PORT")
    account = call.setting("user", user)
    if not _USER.fullmatch(account):
        raise wire.Refused("invalid", "setting user is no name of an account")
    known = call.option("known_hosts", "/etc/ssh/ssh_known_hosts")
    if not _PATH.fullmatch(known) or not os.access(known, os.R_OK):
        raise wire.Refused("invalid", f"known_hosts {known}: there is no such file for this user")
    ours = [
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known}",
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        f"ConnectTimeout={max(1, int(min(10, call.left() - 2)))}",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=2",
        "EscapeChar=none",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "LogLevel=ERROR",
    ]
    #: ssh ends with us, so that a killed driver leaves no session at the array.
    argv = ["setpriv", "--pdeathsig", "TERM", "ssh", "-F", "none", "-tt" if terminal else "-T"]
    for option in [*options, *ours]:
        argv += ["-o", option]
    argv += ["-p", address[2] or "22", "-l", account, "--", address[1].strip("[]"), *remote]
    return argv


def with_key(call: Call) -> list[str]:
    """Return the options for the key in the setting key_file."""
    return ["BatchMode=yes", f"IdentityFile={call.key_path()}"]
