"""Show in five minutes what auto-iscsi does.

The demonstration has a real SAN with snapshots, a host with the package installed and a shell on
that host. Every line after a prompt is a command that runs. What the text promises is checked, and
the demonstration fails if something is not so. Its second part can be drawn as a picture.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from . import layers, logs, picture, server
from .machine import AUTOFS_LINE, Machine
from .picture import Run
from .san import LiveDisk, San
from .typed import Shown, Typed

VENDOR = "iqn.2001-05.com.equallogic:0-8a0906"
BETA = f"{VENDOR}-4a90da503-e2e3e8c1f704be-vm-beta-2010-05-03-04:00:01.50612"
OLDER = f"{VENDOR}-4a90da503-9d13e8c1f6d4bd-vm-beta-2010-05-02-04:00:01.50598"
ALPHA = f"{VENDOR}-1c20da503-77b3e8c1f6d4bd-vm-alpha-2010-05-03-04:00:01.50611"
FILE = "etc/really_important_file"
CONTENT = "the way it was on the 3rd of May\n"
NOW = "2010-05-05 10:00"  # a Wednesday
MONDAY, TUESDAY, WEDNESDAY = (
    f"iqn.2001-05.com.example:vm-beta-2010-05-0{day}-04:00:01" for day in (3, 4, 5)
)
OLD = "limit  = 100\nnotify = alice\n"
NEW = "limit  = 1000\nnotify = alice\n"
VERSIONS = (
    server.Version(MONDAY, OLD, "2010-04-29 16:05:00"),
    server.Version(TUESDAY, NEW, "2010-05-03 17:40:00"),
    server.Version(WEDNESDAY, NEW, "2010-05-03 17:40:00"),
)
#: The timeouts are for a machine that QEMU emulates.
SETTINGS = """\
udev_timeout = 80s
lookup_timeout = 3m
[*:vm-beta-*]
    fstype = auto
    partition = auto
"""
#: Put before SETTINGS at the end, so that nobody waits a quarter of an hour.
AT_ONCE = "idle = 0\nlease = 2s\n"
IDLE = 8
PICTURE = "A shell on a host with auto-iscsi: a server's snapshot, and a file restored from it"


class Broken(Exception):
    """Something was not as the demonstration promised."""


def present(san: San) -> None:
    """Have the SAN present three snapshots."""
    for iqn, content in (
        (BETA, CONTENT),
        (OLDER, "the way it was on the 2nd of May\n"),
        (ALPHA, "alpha's\n"),
    ):
        present_plain(san, iqn, content)


def present_plain(san: San, iqn: str, content: str) -> None:
    """Have the SAN present a snapshot with an ext3 filesystem in its first partition."""
    files = {FILE: content, "etc/hostname": "vm\n", "home/": "", "var/log/syslog": "…\n"}
    san.target(iqn, [san.disk([san.fs("ext3", files)])], read_only=True)


def expect(truth: bool, what: str) -> None:
    """Fail unless what was promised is true."""
    if not truth:
        raise Broken(what)


class Stage:
    """The shell and the explanations between its prompts, kept line by line."""

    def __init__(self, vm: Machine) -> None:
        self.shell = Typed(vm)
        self.lines: list[list[Run]] = []

    def say(self, text: str) -> None:
        """Print an explanation between the prompts."""
        line = f"\x1b[36m# {text}\x1b[0m" if sys.stdout.isatty() else f"# {text}"
        print(f"\n{line}", flush=True)
        self.lines += (
            [[], [Run("note", f"# {text}")]] if self.lines else [[Run("note", f"# {text}")]]
        )

    def command(self, line: str, timeout: float = 60) -> Shown:
        """Type a command, and return what it showed."""
        shown = self.shell.command(line, timeout)
        self.lines.append([Run("prompt", shown.prompt), Run("command", line)])
        self.lines += [[Run("output", each)] for each in shown.text.splitlines()]
        return shown


def show_a_visit(vm: Machine, stage: Stage) -> None:
    """Show a visit to a plain snapshot, its end, and a second visit."""
    stage.say("Nothing is logged in, nothing is mounted. Somebody asks for a file of May 3rd:")
    expect(stage.command(f"cd /iscsiauto/{ALPHA}", 120).status == 0, "cd goes into the snapshot")
    expect("etc" in stage.command("ls").text.split(), "ls shows its files")
    expect(stage.command(f"cat {FILE}").text == CONTENT, "the file is as it was")
    stage.say(
        "What happened: a session with only that target, and its partition mounted read-only."
    )
    session = stage.command("iscsiadm -m session")
    expect(
        session.text.count(ALPHA) == 1 and len(session.text.splitlines()) == 1,
        "there is one session",
    )
    mount = stage.command("grep /dev/sd /proc/mounts")
    expect(ALPHA in mount.text and " ext3 ro," in mount.text, "it is mounted read-only")
    expect(stage.command("cd").status == 0, "cd goes home")
    stage.say(f"Nobody uses it now; autofs unmounts it after {IDLE} seconds (300, as shipped).")
    wait_for_unmount(vm)
    gone = stage.command("grep -c /dev/sd /proc/mounts")
    expect(gone.text.strip() == "0", "the snapshot is not mounted any more")
    stage.say("And again: the second visit, while the session still exists.")
    again = stage.command(f"cat /iscsiauto/{ALPHA}/{FILE}", 120)
    expect(again.text == CONTENT, "the second visit works too")


def show_a_server(stage: Stage, disk: LiveDisk) -> str:
    """Show a whole server's snapshot; return the checksum of its disk before that."""
    stage.say('It is Wednesday. "Could you restore really_important_file from two days ago?"')
    listed = stage.command("auto-iscsi list vm-beta", 60)
    expect(listed.status == 0 and "3 snapshots of 1 volume" in listed.text, "list shows them")
    stage.say("Monday's snapshot: LVM, in use when it was taken. First, its checksum in the SAN:")
    before = stage.command(f"sha256sum {disk.path}", 120).text
    expect(len(before.split()) == 2, "the SAN has a file for the snapshot")
    expect("vm-beta" in stage.command("ls /snapshots").text.split(), "/snapshots has the volume")
    expect(stage.command("cd /snapshots/vm-beta/2010-05-03_04:00:01", 300).status == 0, "cd works")
    names = stage.command("ls").text.split()
    expect(names[:5] == ["bin", "boot", "dev", "etc", "home"], "ls shows the server's root")
    kernel = stage.command("ls boot home", 120).text
    expect("vmlinuz" in kernel and "alice" in kernel, "its own fstab's filesystems are there")
    expect(stage.command(f"cat {FILE}").text == OLD, "the file is there, from the journal")
    expect(stage.command("cd").status == 0, "cd goes home")
    drawn = stage.command(f"auto-iscsi explain {MONDAY} | grep -A4 'LUN 0 s'", 120).text
    (root,) = (line for line in drawn.splitlines() if "xfs" in line)
    expect("dirty: overlay" in root, "its XFS is dirty, and is shown by an overlay")
    return before


def show_a_restore(stage: Stage) -> None:
    """Show how a file of a day is found and restored to another host."""
    stage.say("Which versions are there, what has changed, and the old one back to the server:")
    versions = stage.command(f"auto-iscsi versions vm-beta:/{FILE}", 400)
    expect(
        versions.status == 0 and f"2 versions of /{FILE} in 3 snapshots" in versions.text,
        "there are two versions",
    )
    changed = stage.command(f"auto-iscsi diff vm-beta@monday:/{FILE} @latest", 300)
    expect(
        changed.status == 1 and "-limit  = 100\n+limit  = 1000\n" in changed.text,
        "diff shows the change",
    )
    restored = stage.command(f"auto-iscsi restore vm-beta@monday:/{FILE} web1:/root/", 300)
    expect(
        restored.status == 0 and "restored 1 file" in restored.text,
        "one command restores the file to another host",
    )
    old = stage.command("ssh web1 'hostname; cat really_important_file'", 60)
    expect(old.text == f"web1\n{OLD}", "it is the one of that day")


def show_the_end(vm: Machine, stage: Stage, disk: LiveDisk, before: str) -> None:
    """Show that every session is gone, and that no byte of the snapshot has changed."""
    wait_for_unmount(vm)
    vm.write("/etc/auto.iscsi.conf", AT_ONCE + SETTINGS)
    stage.say("Nobody is in a snapshot. The reaper ends what is left (a timer runs it, too):")
    expect(stage.command("auto-iscsi reap --wait", 300).status == 0, "the reaper ends the sessions")
    sessions = stage.command("iscsiadm -m session")
    expect("No active sessions" in sessions.text, "no session is left")
    expect("No devices found" in stage.command("dmsetup ls").text, "no map is left")
    expect(not stage.command("losetup --list --noheadings").text, "no loop device is left")
    stage.say("And not one byte of the LUN has changed:")
    expect(stage.command(f"sha256sum {disk.path}", 120).text == before, "no byte has changed")


def show(vm: Machine, san: San) -> list[list[Run]]:
    """Show everything; return the lines from the server on."""
    print("\nThe SAN takes snapshots of a server.", flush=True)
    vm.run(["date", "-s", NOW])
    vm.run("modprobe iscsi_tcp")  # without it, iscsiadm's first command reports that it is missing
    present_plain(san, ALPHA, CONTENT)
    disks = server.present(vm, san, VERSIONS)
    server.start_other_host(vm)
    vm.write("/etc/auto.iscsi.conf", SETTINGS)
    vm.run(f"sed -i 's/--timeout=[0-9]*/--timeout={IDLE}/' {AUTOFS_LINE}")
    vm.run("systemctl restart autofs", timeout=120)
    print("\nbrowse is a host with auto-iscsi installed. A SAN has presented snapshots to it.")
    print("-" * 88, flush=True)
    stage = Stage(vm)
    expect(
        MONDAY in stage.command("iscsiadm -m discovery -t sendtargets -p 127.0.0.1").text,
        "the SAN lists the snapshot",
    )
    show_a_visit(vm, stage)
    stage.lines.clear()
    before = show_a_server(stage, disks[0])
    show_a_restore(stage)
    show_the_end(vm, stage, disks[0], before)
    return stage.lines


def wait_for_unmount(vm: Machine) -> None:
    """Wait until automount has unmounted every snapshot."""
    for _ in range(IDLE * 10):
        if all(mount.fstype == "autofs" for mount in vm.mounts("/iscsiauto/")):
            return
        time.sleep(1)
    raise Broken(f"autofs unmounts the snapshots within {IDLE * 10} s")


def run(deb: Path, suite: str | None, tree: Path, drawing: Path | None = None) -> int:
    """Run the demonstration; return 0 if everything was as promised.

    drawing: the file of the picture, which is written only then.
    """
    layer = layers.installed(deb, suite)
    with layer.resumed() as vm:
        try:
            lines = show(vm, San(vm))
        except Exception as error:
            place = logs.folder(tree, "demo")
            logs.keep(vm, place)
            kind = "not as promised" if isinstance(error, Broken) else type(error).__name__
            print(f"\n\ndemo: {kind}: {error}\nlogs of the guest: {place}", file=sys.stderr)
            return 1
    print("\n" + "-" * 88)
    print("Everything was as promised. `make vm` gives you this shell.")
    if drawing:
        drawing.write_text(picture.svg(lines, PICTURE), encoding="utf-8")
        print(f"The part from the server on is drawn in {drawing}.")
    return 0
