"""The files that both packages install."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: By path, the mode and, for a link, where it leads.
FILES = {
    "/etc/auto.iscsi": "lrwxrwxrwx /usr/libexec/auto-iscsi/auto.iscsi",
    "/etc/auto.iscsi.conf": "-rw-r--r--",
    "/etc/cron.d/auto-iscsi": "-rw-r--r--",
    "/usr/lib/systemd/system/auto-iscsi-san.service": "-rw-r--r--",
    "/usr/lib/systemd/system/auto-iscsi.service": "-rw-r--r--",
    "/usr/lib/systemd/system/auto-iscsi.timer": "-rw-r--r--",
    "/usr/lib/tmpfiles.d/auto-iscsi.conf": "-rw-r--r--",
    "/usr/lib/udev/rules.d/61-auto-iscsi.rules": "-rw-r--r--",
    "/usr/libexec/auto-iscsi/auto-iscsi": "-rwxr-xr-x",
    "/usr/libexec/auto-iscsi/auto.iscsi": "-rwxr-xr-x",
    "/usr/libexec/auto-iscsi/auto.snapshots": "-rwxr-xr-x",
    "/usr/libexec/auto-iscsi/udev-has-claim": "-rwxr-xr-x",
    "/usr/sbin/auto-iscsi": "lrwxrwxrwx ../libexec/auto-iscsi/auto-iscsi",
    "/usr/share/auto-iscsi/iscsi.autofs": "-rw-r--r--",
    "/usr/share/auto-iscsi/join-automount": "-rwxr-xr-x",
    "/usr/share/bash-completion/completions/auto-iscsi": "-rw-r--r--",
    "/usr/share/man/man5/auto.iscsi.conf.5": "-rw-r--r--",
    "/usr/share/man/man5/auto.iscsi.san.conf.5": "-rw-r--r--",
    "/usr/share/man/man8/auto-iscsi-eqlx.8": "-rw-r--r--",
    "/usr/share/man/man8/auto-iscsi-lio.8": "-rw-r--r--",
    "/usr/share/man/man8/auto-iscsi.8": "-rw-r--r--",
    "/usr/share/man/man8/auto.iscsi.8": "-rw-r--r--",
    **{
        f"/usr/libexec/auto-iscsi/drivers/{driver.name}": "-rwxr-xr-x"
        for driver in (ROOT / "tools" / "drivers").glob("*")
    },
    **{
        f"/usr/share/auto-iscsi/{module.relative_to(ROOT)}": "-rw-r--r--"
        for module in (ROOT / "auto_iscsi").rglob("*.py")
    },
}
