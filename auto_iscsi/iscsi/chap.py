"""With which CHAP secrets does a target let us in, and how does iscsiadm learn them?

By its arguments everybody could read them. But a discovery, and a node record that it makes, take
credentials from iscsid.conf (open-iscsi usr/idbm.c): so it runs where it sees a copy of the host's
with ours in the place of what is there. From the record, which is root's alone, they come to
iscsid. A record of the administrator's is used with what it holds.

An array locks an account after some wrong secrets, and any user can repeat a lookup each second:
a refusal is remembered, until what was refused is another file.
"""

from __future__ import annotations

import stat
import time

from auto_iscsi import errors
from auto_iscsi.config import config_files
from auto_iscsi.iscsi import claims, node_records
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auto_iscsi.config.settings import Settings

CONF = "/etc/iscsi/iscsid.conf"
_NODE, _DISCOVERY = "node.session.auth", "discovery.sendtargets.auth"
_REFUSED = f"{claims.FOLDER}/refused"
_PATIENCE = 600.0  # seconds until a refused secret is tried again unchanged
LONGEST = 255  #: bytes in a secret (open-iscsi include/config.h, AUTH_STR_MAX_LEN)
USUAL = range(12, 17)  #: RFC 7143, 9.2.1: 96 bits at least; many targets take 16 bytes at most


def for_record(host: Host, settings: Settings) -> dict[str, bytes]:
    """Return the files that iscsiadm is to see when it makes a record, none without CHAP."""
    return _conf(host, settings, _NODE, both=True) if settings.chap_user else {}


def for_discovery(host: Host, settings: Settings) -> dict[str, bytes]:
    """Return the files that iscsiadm is to see for a discovery with CHAP."""
    return _conf(host, settings, _DISCOVERY, both=settings.chap_discovery == "mutual")


def secret(host: Host, name: str) -> str:
    """Return the secret in a file; raise BadConfiguration, never with what is in the file."""
    status = host.stat(name)
    if status is None:
        raise errors.BadConfiguration(f"{name}: no such file", "see chap_secret_file")
    if not stat.S_ISREG(status.st_mode):
        raise errors.BadConfiguration(f"{name}: not a regular file", "see chap_secret_file")
    wrong = config_files.permission_problem(name, status, secret=True) if host.root == "/" else None
    if wrong:
        raise config_files.as_failure([wrong])
    lines = (host.read_bytes(name) or b"").splitlines()
    found = lines[0].decode("ascii", "replace") if lines else ""
    why = ""
    if len(lines) != 1 or not found:
        why = "expected one line, the secret"
    elif not (found.isascii() and found.isprintable()) or found != found.strip():
        why = "a secret is of printable ASCII, without white space around it"
    elif len(found) > LONGEST:
        why = f"open-iscsi takes no secret above {LONGEST} bytes"
    if why:
        raise errors.BadConfiguration(f"{name}: {why}", "see chap_secret_file")
    return found


def differ(host: Host, one: str, other: str) -> None:
    """Raise BadConfiguration when both files have the same secret."""
    if secret(host, one) == secret(host, other):
        raise errors.BadConfiguration(
            f"{other}: the same secret as in {one}",
            "they have to differ: iscsid believes no target that has ours (RFC 7143, 9.2.1)",
        )


def proof(host: Host, settings: Settings, record: node_records.Record, ours: bool) -> list[str]:
    """Return what stands for the credentials of a login; nothing when there are none.

    The name, and a line for each file that the secrets are in: another one when that is another
    file, or was written since. A record that is not `ours` has its own.
    """
    if not ours:
        chap = node_records.values(host, record).get(f"{_NODE}.authmethod") == "CHAP"
        files = node_records.files(host, record) if chap else []
    elif settings.chap_user:
        return of_settings(host, settings)
    else:
        lines = (line.partition("=") for line in (host.read(CONF) or "").splitlines())
        named = [value.strip() for name, _, value in lines if name.strip() == f"{_NODE}.authmethod"]
        files = [CONF] if "CHAP" in named else []
    return _seen(host, files)


def of_settings(host: Host, settings: Settings) -> list[str]:
    """Return what stands for the credentials in the settings."""
    files = filter(None, (settings.chap_mutual_secret_file, settings.chap_secret_file))
    return [f"user {settings.chap_user}", *_seen(host, files)]


def refused(host: Host, name: str, proven: list[str]) -> tuple[str, str] | None:
    """Return why `name`, a target or a portal, is not yet asked again, and what to do.

    None: it may be asked, not having refused just these credentials lately.
    """
    first, *others = (host.read(f"{_REFUSED}/{name}") or "0").splitlines()
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - float(first)
    if not proven or others != proven or not 0 <= ago < _PATIENCE:
        return None
    file = proven[-1].split(" ")[0]
    left = f"{_PATIENCE - ago:.0f} s"
    return (
        f"the secret in {file} was refused {ago:.0f} s ago, and is not tried again for {left}",
        f"mend it, which is noticed at once; or the account at the SAN, and then: touch {file}",
    )


def advice(settings: Settings, refused: bool) -> str:
    """Return what to do about a login with the settings' credentials that failed.

    Seen with open-iscsi 2.1.8 and the kernel's target: 24 for a wrong secret of ours, 19 for one
    of the target's, and for a target that asks for none.
    """
    if refused:
        file = settings.chap_secret_file
        return f"mend chap_user or the secret in {file}, or the access list at the SAN"
    other = settings.chap_mutual_secret_file
    proof = f"its secret is not the one in {other}, or " if other else ""
    return f"present it at the SAN; or {proof}it asks for no CHAP: journalctl -u iscsid"


def remember(host: Host, name: str, proven: list[str]) -> None:
    """Note that `name` has refused these credentials, if there are any."""
    if not proven:
        return
    claims.write_file(host, f"refused/{name}", "\n".join([f"{claims.now():.3f}", *proven]))


def _seen(host: Host, files: Iterable[str]) -> list[str]:
    seen = [(name, host.stat(name)) for name in files]
    return [f"{name} {s.st_ino} {s.st_mtime_ns} {s.st_size}" for name, s in seen if s]


def _conf(host: Host, settings: Settings, prefix: str, both: bool) -> dict[str, bytes]:
    """Return the host's iscsid.conf with our credentials; all else in it holds as it did."""
    mine, theirs = settings.chap_secret_file, settings.chap_mutual_secret_file
    values = {"authmethod": "CHAP", "username": settings.chap_user, "password": secret(host, mine)}
    if both and theirs:
        differ(host, mine, theirs)
        values["username_in"] = settings.chap_mutual_user
        values["password_in"] = secret(host, theirs)
    data = host.read_bytes(CONF)
    if data is None:
        raise errors.BrokenInstallation(f"{CONF}: no such file", "install open-iscsi")
    import re  # only with CHAP

    replaced = re.compile(rb"\s*%s\.(authmethod|(username|password)(_in)?)\s*=" % prefix.encode())
    lines = [line for line in data.splitlines() if not replaced.match(line)]
    lines += [f"{prefix}.{name} = {value}".encode() for name, value in values.items()]
    return {CONF: b"\n".join(lines) + b"\n"}
