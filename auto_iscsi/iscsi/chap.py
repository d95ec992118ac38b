"""Give iscsiadm the CHAP secrets, and remember which of them a target refused.

A program's arguments are visible to every user, so the secrets are not among them. But a discovery,
and a new node record, take credentials from iscsid.conf (open-iscsi usr/idbm.c). So iscsiadm sees a
copy of the host's iscsid.conf with our credentials in it. It puts them into the node record, which
only root can read, and iscsid reads them there. A record that the administrator made is used with
the credentials that it has.

Some arrays lock an account after a few wrong secrets, and any user can repeat a lookup every
second. So a refusal is remembered, and the secret is not tried again until its file changes.
"""

from __future__ import annotations

import stat

from auto_iscsi import errors
from auto_iscsi.config import config_files
from auto_iscsi.iscsi import claims, node_records, record_ledger
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from auto_iscsi.config.settings import Settings

_NODE, _DISCOVERY = "node.session.auth", "discovery.sendtargets.auth"
_REFUSED = "refused"  # folder with the refused credentials, by target or portal
_RETRY_TIME = 600.0  # seconds until a refused secret is tried again, if its file did not change
_MAX_BYTES = 255  # of a secret (open-iscsi include/config.h, AUTH_STR_MAX_LEN)
#: Bytes of a secret: at least 96 bits (RFC 7143, 9.2.1); many targets take 16 bytes at most.
USUAL_LENGTHS = range(12, 17)


def files_for_record(host: Host, settings: Settings) -> dict[str, bytes]:
    """Return the files that iscsiadm has to see when it makes a node record; none without CHAP.

    A record with a secret of ours has the marks of ours, too, from its first moment on.
    """
    if not settings.chap_user:
        return {}
    return _conf_with_secrets(host, settings, _NODE, mutual=True, more=record_ledger.MARKS)


def files_for_discovery(host: Host, settings: Settings) -> dict[str, bytes]:
    """Return the files that iscsiadm has to see for a discovery with CHAP."""
    mutual = settings.chap_discovery == "mutual"
    return _conf_with_secrets(host, settings, _DISCOVERY, mutual)


def read_secret(host: Host, name: str) -> str:
    """Return the secret in a file; raise BadConfiguration, whose text never has the content."""
    status = host.stat(name)
    if status is None:
        raise errors.BadConfiguration(f"{name}: no such file", "see chap_secret_file")
    if not stat.S_ISREG(status.st_mode):
        raise errors.BadConfiguration(f"{name}: not a regular file", "see chap_secret_file")
    if host.root == "/" and (problem := config_files.permission_problem(name, status, secret=True)):
        raise config_files.as_failure([problem])
    lines = (host.read_bytes(name) or b"").splitlines()
    text = lines[0].decode("ascii", "replace") if lines else ""
    why = ""
    if len(lines) != 1 or not text:
        why = "expected one line, the secret"
    elif not (text.isascii() and text.isprintable()) or text != text.strip():
        why = "a secret is printable ASCII, without white space around it"
    elif len(text) > _MAX_BYTES:
        why = f"open-iscsi takes no secret above {_MAX_BYTES} bytes"
    if why:
        raise errors.BadConfiguration(f"{name}: {why}", "see chap_secret_file")
    return text


def require_different_secrets(host: Host, one: str, other: str) -> None:
    """Raise BadConfiguration when the secrets in two files are equal."""
    if read_secret(host, one) == read_secret(host, other):
        raise errors.BadConfiguration(
            f"{other}: the same secret as in {one}",
            "use another one: iscsid accepts no target that has our own secret (RFC 7143, 9.2.1)",
        )


def fingerprint(
    host: Host, settings: Settings, record: node_records.Record, is_ours: bool
) -> list[str]:
    """Return lines that identify the credentials of a login without telling them; [] without CHAP.

    One line names the user, one line each file with a secret. A file's line changes when the file
    is written or replaced. `is_ours`: we made the record, or have yet to make it; other records
    have credentials of their own.
    """
    if not is_ours:
        has_chap = node_records.values(host, record).get(f"{_NODE}.authmethod") == "CHAP"
        return _file_lines(host, node_records.files(host, record) if has_chap else [])
    if settings.chap_user:
        return fingerprint_of_settings(host, settings)
    lines = (
        line.partition("=") for line in (host.read(node_records.CONFIGURATION) or "").splitlines()
    )
    methods = [value.strip() for name, _, value in lines if name.strip() == f"{_NODE}.authmethod"]
    return _file_lines(host, [node_records.CONFIGURATION] if "CHAP" in methods else [])


def fingerprint_of_settings(host: Host, settings: Settings) -> list[str]:
    """Return lines that identify the credentials in the settings (fingerprint)."""
    files = filter(None, (settings.chap_mutual_secret_file, settings.chap_secret_file))
    return [f"user {settings.chap_user}", *_file_lines(host, files)]


def recent_refusal(host: Host, name: str, credentials: list[str]) -> tuple[str, str] | None:
    """Return why `name`, a target or a portal, is not asked again yet, and what to do.

    Return None when it has not refused these credentials in the last ten minutes. `credentials` are
    their fingerprint.
    """
    first, *refused = (host.read(f"{claims.FOLDER}/{_REFUSED}/{name}") or "0").splitlines()
    age = claims.now() - float(first)
    if not credentials or refused != credentials or not 0 <= age < _RETRY_TIME:
        return None
    file = credentials[-1].split(" ")[0]
    left = f"{_RETRY_TIME - age:.0f} s"
    return (
        f"the secret in {file} was refused {age:.0f} s ago, and is not tried again for {left}",
        f"correct the secret there; or correct the account at the SAN, then: touch {file}",
    )


def is_forgotten(host: Host, name: str) -> bool:
    """Return whether a remembered refusal is so old that it holds nobody back any more."""
    first = (host.read(f"{claims.FOLDER}/{_REFUSED}/{name}") or "0").partition("\n")[0]
    try:
        return not 0 <= claims.now() - float(first) < _RETRY_TIME
    except ValueError:
        return True


def remember_refusal(host: Host, name: str, credentials: list[str]) -> None:
    """Record that `name` has refused these credentials, if there are any."""
    if credentials:
        lines = [f"{claims.now():.3f}", *credentials]
        claims.write_file(host, f"{_REFUSED}/{name}", "\n".join(lines))


def advice(settings: Settings, is_refused: bool) -> str:
    """Return what to do about a failed login with the credentials in the settings.

    `is_refused`: iscsiadm ended with 24, for a wrong secret of ours. Otherwise it ended with 19,
    which it does for a wrong secret of the target, and when the target does not ask for CHAP (seen
    with open-iscsi 2.1.8 and the kernel's target).
    """
    if is_refused:
        file = settings.chap_secret_file
        return f"correct chap_user or the secret in {file}, or the access list at the SAN"
    file = settings.chap_mutual_secret_file
    wrong_secret = f"its secret is not the one in {file}, or " if file else ""
    return f"present it at the SAN; or {wrong_secret}it does not ask for CHAP: journalctl -u iscsid"


def _file_lines(host: Host, files: Iterable[str]) -> list[str]:
    """Return a line for each file that exists, which changes when the file does."""
    statuses = [(name, host.stat(name)) for name in files]
    return [f"{name} {s.st_ino} {s.st_mtime_ns} {s.st_size}" for name, s in statuses if s]


def _conf_with_secrets(
    host: Host, settings: Settings, prefix: str, mutual: bool, more: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """Return the host's iscsid.conf with our credentials in place of its own, by its path.

    `prefix`: of the names of the settings. `mutual`: with the target's credentials, if we have
    them. `more`: other settings that are replaced.
    """
    our_file, their_file = settings.chap_secret_file, settings.chap_mutual_secret_file
    values = {
        **(more or {}),
        f"{prefix}.authmethod": "CHAP",
        f"{prefix}.username": settings.chap_user,
        f"{prefix}.password": read_secret(host, our_file),
    }
    if mutual and their_file:
        require_different_secrets(host, our_file, their_file)
        values[f"{prefix}.username_in"] = settings.chap_mutual_user
        values[f"{prefix}.password_in"] = read_secret(host, their_file)
    content = host.read_bytes(node_records.CONFIGURATION)
    if content is None:
        raise errors.BrokenInstallation(
            f"{node_records.CONFIGURATION}: no such file", "install open-iscsi"
        )
    replaced = {name.encode() for name in values}
    replaced |= {f"{prefix}.{name}_in".encode() for name in ("username", "password")}
    lines = [
        line for line in content.splitlines() if line.partition(b"=")[0].strip() not in replaced
    ]
    lines += [f"{name} = {value}".encode() for name, value in values.items()]
    return {node_records.CONFIGURATION: b"\n".join(lines) + b"\n"}
