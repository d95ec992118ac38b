"""May a test have the machine of the test before it? Yes, once it is as it was when it was resumed.

QEMU translates all code anew in each machine: the first visit, the first iscsiadm and the first
udev event take twice the processor time of the second ones. So the tests of a file that are marked
`shared` have one machine, one after the other. It is cleared before the next one has it:
nothing is mounted, there are no sessions and no targets, and the files that tests change are those
of the package. iscsid still runs, and modules stay loaded. A machine that cannot be cleared, or in
which a test failed, is discarded.
"""

from __future__ import annotations

import contextlib
import sys

from tests.san.bed import channel, layers
from tests.san.bed.machine import CommandFailed
from tests.san.bed.san import San

#: What the package and the image have where tests change something.
FILES = (
    "run/auto-iscsi var/lib/auto-iscsi var/lib/iscsi etc/auto.* etc/iscsi etc/multipath*"
    " etc/systemd/system/multipathd.*"  # links that mask it
)
#: Lists what is mounted, apart from automount's own mounts and those that come and go with a unit.
MOUNTS = 'awk \'$3 != "autofs" && $2 !~ "^/run/credentials" {print $2}\' /proc/mounts | sort'
REMEMBER = f"""
cd /
tar -cpf /root/files.tar $(ls -d {FILES} 2>/dev/null)
{MOUNTS} >/root/mounts
"""
#: Prints the time from which the journal is the next test's. The targets go last, so that sessions
#: can log out. Whoever kills a visitor need not wait for the lookup: here, it may not go on.
CLEAR = rf"""
set -e
systemctl stop auto-iscsi.timer auto-iscsi.service autofs
if pgrep -x multipathd >/dev/null; then systemctl -q stop multipathd.socket multipathd; fi
if pgrep -lx auto.iscsi >&2 || pgrep -lx iscsiadm >&2; then exit 1; fi
{MOUNTS} | comm -23 - /root/mounts | {{ ! grep . >&2; }}
if ls /sys/block | grep -q ^dm-; then
    udevadm settle
    dmsetup remove_all
fi
if [ -n "$(ls /sys/class/iscsi_session 2>/dev/null)" ]; then
    iscsiadm -m session --logout >/dev/null
    udevadm settle
fi
ls /sys/class/iscsi_session /sys/block 2>/dev/null | {{ ! grep -E '^(session|sd|dm-|md)' >&2; }}
losetup -n | {{ ! grep . >&2; }}
cd /
rm -rf {FILES} /dev/shm/multipath
tar -xpf /root/files.tar
cd /sys/kernel/config/target
shopt -s nullglob
for group in iscsi/iqn.*/tpgt_*; do
    echo 0 >"$group/enable"
    rm -f "$group"/lun/lun_*/disk*
    rmdir "$group"/np/* "$group"/lun/lun_* "$group"
done
for target in iscsi/iqn.*; do rmdir "$target"; done
echo 0 >iscsi/discovery_auth/enforce_discovery_auth
for disk in core/fileio_*/disk*; do
    rmdir "$disk"/alua/[!d]* "$disk"
    rm -f "/run/san/${{disk##*/}}"
done
date +%s.%6N
systemctl start autofs auto-iscsi.timer
"""


class Shared:
    """The machine that the marked tests of a file have, one after the other, and its SAN."""

    def __init__(self, layer: layers.Layer) -> None:
        self.layer, self.resumed = layer, contextlib.ExitStack()
        self.san: San | None = None
        self.tests: list[str] = []  #: those that had this machine

    def take(self, test: str) -> San:
        """Return the SAN in a machine that is like a resumed one, for a test of this name."""
        if self.san is not None:
            try:
                clear(self.san)
            except (channel.Lost, channel.Refused, CommandFailed) as error:
                print(f"a new machine, for this one is not clear: {error}", file=sys.stderr)
                self.discard()
        if self.san is None:
            self.san = San(self.resumed.enter_context(self.layer.resumed()))
            self.san.machine.run(REMEMBER)
        self.tests.append(test)
        return self.san

    def discard(self) -> None:
        """End the machine; the next test has a new one."""
        self.san, self.tests = None, []
        self.resumed.close()


def clear(san: San) -> None:
    """Make a machine like a resumed one."""
    san.open_all()
    since = san.machine.run(CLEAR, timeout=60).lines[-1]
    san.machine.span = f"--since=@{since}"
    san.targets.clear()
