"""What a visit to a snapshot at a SAN needs: the SAN's file, a configuration, a quick automount."""

from __future__ import annotations

from tests.san.bed.machine import Machine

SAN_FILE = """\
driver = lio
run_as = root
volumes = {volume}
present = yes
allow = root, user
[options]
vg = vg0
portals = 127.0.0.1
mode = {mode}
"""
CONFIGURATION = """\
options = nocheck, ro
fstype = auto
partition = auto
udev_timeout = 50s
lookup_timeout = 2m
idle = 0
lease = 1s
"""
#: The package's master lines, but a mount that nobody uses goes soon.
SOON = """
sed -i 's/--timeout=[0-9]*/--timeout=3/' /etc/auto.master.d/iscsi.autofs
systemctl restart autofs
"""

#: Lets the time pass after which what a killed run left is undone, and a revoke is tried again.
LONG_AGO = """sed -i 's/"changed": [0-9.]*/"changed": 1.0/' /var/lib/auto-iscsi/san/*-*"""


def read(vm: Machine, path: str, user: str = "user") -> str:
    return vm.run(["cat", path], user=user, cwd="/", check=False, timeout=200).stdout


def audited(vm: Machine, event: str) -> list[str]:
    """Return the lines about what was presented, or revoked."""
    lines = vm.journal("-t", "auto-iscsi", "SYSLOG_FACILITY=10").splitlines()
    return [line for line in lines if line.startswith(f"{event} san=")]
