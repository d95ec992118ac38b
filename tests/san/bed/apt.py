"""Find the archives from which the guest is installed.

They are those that this host's apt uses for its Debian suite, read at each build, so that no
address is in the project. Entries of other distributors are left out: an entry must have the
Debian archive's key or, without a Signed-By, the host's suite name.
"""

from __future__ import annotations

import re
from pathlib import Path

DIRECTORY = Path("/etc/apt")
KEYRING = "debian-archive"
#: What may follow a suite's name in an entry that the guest can use too.
POCKETS = ("", "-updates", "-security")


class NoSources(Exception):
    """The host's apt has no entry for a Debian archive."""


def codename() -> str:
    """Return this host's suite, from os-release."""
    text = Path("/etc/os-release").read_text()
    match = re.search(r'^VERSION_CODENAME="?([a-z]+)', text, re.MULTILINE)
    return match[1] if match else ""


def one_line(text: str) -> list[str]:
    """Return the `deb` lines of a sources.list."""
    return [line.strip() for line in text.splitlines() if line.startswith(("deb ", "deb\t"))]


def deb822(text: str) -> list[str]:
    """Return the entries of a .sources file as one-line entries, those that are enabled."""
    lines = []
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", plain):
        fields = {
            name.lower(): " ".join(value.split())
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled") == "no":
            continue
        signed = f"[signed-by={fields['signed-by']}] " if "signed-by" in fields else ""
        lines += [
            f"deb {signed}{uri} {suite} {fields.get('components', '')}"
            for uri in fields["uris"].split()
            for suite in fields["suites"].split()
        ]
    return lines


def host_entries() -> list[str]:
    """Return the host's entries, each on one line."""
    lines = []
    listed = [DIRECTORY / "sources.list", *sorted((DIRECTORY / "sources.list.d").glob("*"))]
    for path in listed:
        if path.is_file() and path.suffix in (".list", ".sources"):
            read = deb822 if path.suffix == ".sources" else one_line
            lines += read(path.read_text())
    return lines


def entries(suite: str, host: str | None = None) -> list[str]:
    """Return the Debian entries with the host's suite name replaced by the guest's."""
    host = codename() if host is None else host
    lines = []
    for line in host_entries():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if not match:
            continue
        options, uri, named, components = match.groups()
        pocket = named.removeprefix(host)
        is_debian = KEYRING in options if options and "signed-by" in options else True
        if named.startswith(host) and pocket in POCKETS and is_debian and "main" in components:
            signed = re.search(r"signed-by=\S+", options or "")
            prefix = f"[{signed[0]}] " if signed else ""
            lines.append(f"deb {prefix}{uri} {suite}{pocket} main")
    if not lines:
        raise NoSources(f"no Debian archive for {host or 'this host'} in {DIRECTORY}/sources.list*")
    return lines
