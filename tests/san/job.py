"""What users and administrators of the browse host do: visit, configure, log out, read the log."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.san.bed.machine import Machine, Mount, Result, Session

ARRAY = "iqn.2001-05.com.equallogic:0-8a0906"
BETA = f"{ARRAY}-4a90da503-e2e3e8c1f704be-vm-beta-2010-05-03-04:00:01.50612"
ALPHA = f"{ARRAY}-1c20da503-77b3e8c1f6d4bd-vm-alpha-2010-05-03-04:00:01.50611"
ROOT = "/iscsiauto"
ORIGINAL = Path(__file__).parent / "original" / "auto.iscsi"
#: Seconds for which automount answers for a refused key by itself: --negative-timeout = 1, counted
#: in whole seconds.
NEGATIVE = 2.1
Seen = TypeVar("Seen")
_refused_at: weakref.WeakKeyDictionary[Machine, float] = weakref.WeakKeyDictionary()


def until(look: Callable[[], Seen], seconds: float = 60) -> Seen:
    """Call `look` until it returns something true, or the time is over; return the last result."""
    over = time.monotonic() + seconds
    while not (result := look()) and time.monotonic() < over:
        time.sleep(0.2)
    return result


def visit(vm: Machine, iqn: str, file: str = "marker", *, check: bool = True) -> Result:
    """Read a file of a snapshot as a user, once automount has forgotten the last refusal."""
    time.sleep(max(0.0, _refused_at.get(vm, 0.0) + NEGATIVE - time.monotonic()))
    return vm.run(["cat", f"{ROOT}/{iqn}/{file}"], user="user", check=check, timeout=120)


def mount(vm: Machine, iqn: str, root: str = ROOT) -> Mount | None:
    """Return the mount of a snapshot, or None."""
    mounts = [each for each in vm.mounts(f"{root}/{iqn}") if each.fstype != "autofs"]
    return mounts[0] if mounts else None


def expired(vm: Machine, iqn: str, seconds: float = 60) -> bool:
    """Wait for autofs to unmount a snapshot that nobody uses.

    A tree is gone with its last autofs mount: until then a visit is given the old one.
    """
    return until(lambda: not vm.mounts(f"{ROOT}/{iqn}"), seconds)


def session(vm: Machine, iqn: str) -> Session:
    """Return the one session with a target."""
    (found,) = vm.sessions(iqn)
    return found


def original(vm: Machine, path: str) -> None:
    """Install the original shell script on the machine, so that it works there.

    It waits a second for the disk, which is too short for udev under TCG: here it waits for the
    link. It reads node records from a folder that Debian 12 does not use: here that is a link.
    """
    link = '"/dev/disk/by-path/ip-${IP}:${PORT}-iscsi-${IQN}-lun-0-part1"'
    patience = f"for _ in $(seq 60); do [ -e {link} ] && break; sleep 1; done"
    vm.write(path, ORIGINAL.read_text().replace("sleep 1", patience), 0o755)
    vm.run(
        "mkdir -p /var/lib/iscsi; [ -e /var/lib/iscsi/nodes ] ||"
        " ln -s /etc/iscsi/nodes /var/lib/iscsi/nodes"
    )


def configure(vm: Machine, text: str) -> None:
    """Write the configuration; with idle = 0, stop the timer, whose reaper would interfere."""
    if "idle = 0" in text:
        vm.run("systemctl stop auto-iscsi.timer", check=False)
    vm.write("/etc/auto.iscsi.conf", text)


def messages(vm: Machine) -> list[str]:
    """Return the lines that the map program has logged so far."""
    lines = vm.journal("-u", "autofs").splitlines()
    return [line.partition(">> ")[2] for line in lines if ">> auto.iscsi: " in line]


def refusal(vm: Machine, iqn: str) -> str:
    """Visit a snapshot whose lookup must fail; return the line in the log."""
    before = len(messages(vm))
    assert visit(vm, iqn, check=False).status == 1
    _refused_at[vm] = time.monotonic()
    (line,) = until(lambda: messages(vm)[before:])
    return line


def last_message(vm: Machine) -> str:
    """Return the last line that the map program logged, "" if there is none."""
    lines = messages(vm)
    return lines[-1] if lines else ""


def records(vm: Machine) -> dict[str, bytes]:
    """Return every node record, byte for byte."""
    paths = vm.run(
        "find -L /etc/iscsi/nodes /var/lib/iscsi/nodes -type f 2>/dev/null", check=False
    ).lines
    return {path: vm.read(path) for path in paths}


def forget(vm: Machine, iqn: str) -> None:
    """Delete a target's node records, as an administrator does."""
    vm.run(["iscsiadm", "-m", "node", "-T", iqn, "-o", "delete"])


def logout(vm: Machine, iqn: str) -> None:
    """End a target's sessions by hand."""
    vm.run(["iscsiadm", "-m", "node", "-T", iqn, "--logout"])


def start_multipathd(vm: Machine, blacklist: str = "") -> None:
    """Start multipathd, which takes every disk but the guest's own and those of `blacklist`."""
    conf = "defaults {\nfind_multipaths greedy\npolling_interval 1\n}\n"
    vm.write("/etc/multipath.conf", f'{conf}blacklist {{\ndevnode "^vd"\n{blacklist}}}\n')
    vm.run(
        "systemctl unmask multipathd.socket multipathd && systemctl start multipathd", timeout=120
    )
