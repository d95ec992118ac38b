"""Show in five minutes what auto-iscsi does.

The demonstration has a real SAN with snapshots, a host with the package installed and a shell on
that host. Every line after a prompt is a command that runs. What the text promises is checked, and
the demonstration fails if something is not so.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from . import layers, logs
from .machine import AUTOFS_LINE, Machine
from .san import San
from .typed import Typed

VENDOR = "iqn.2001-05.com.equallogic:0-8a0906"
BETA = f"{VENDOR}-4a90da503-e2e3e8c1f704be-vm-beta-2010-05-03-04:00:01.50612"
OLDER = f"{VENDOR}-4a90da503-9d13e8c1f6d4bd-vm-beta-2010-05-02-04:00:01.50598"
ALPHA = f"{VENDOR}-1c20da503-77b3e8c1f6d4bd-vm-alpha-2010-05-03-04:00:01.50611"
FILE = "etc/really_important_file"
CONTENT = "the way it was on the 3rd of May\n"
IDLE = 8


class Broken(Exception):
    """Something was not as the demonstration promised."""


def present(san: San) -> None:
    """Have the SAN present three snapshots."""
    for iqn, content in (
        (BETA, CONTENT),
        (OLDER, "the way it was on the 2nd of May\n"),
        (ALPHA, "alpha's\n"),
    ):
        files = {FILE: content, "etc/hostname": "vm\n", "home/": "", "var/log/syslog": "…\n"}
        san.target(iqn, [san.disk([san.fs("ext3", files)])], read_only=True)


def say(text: str) -> None:
    """Print an explanation between the prompts."""
    bright = sys.stdout.isatty()
    line = f"\x1b[36m# {text}\x1b[0m" if bright else f"# {text}"
    print(f"\n{line}", flush=True)


def expect(truth: bool, what: str) -> None:
    """Fail unless what was promised is true."""
    if not truth:
        raise Broken(what)


def show(vm: Machine, san: San) -> None:
    """Show everything from the first command to the second visit."""
    present(san)
    vm.run(f"sed -i 's/--timeout=[0-9]*/--timeout={IDLE}/' {AUTOFS_LINE}")
    vm.run("systemctl restart autofs", timeout=120)
    print("\nbrowse is a host with auto-iscsi installed. A SAN has presented snapshots to it.")
    print("-" * 88, flush=True)
    shell = Typed(vm)
    expect(
        BETA in shell.command("iscsiadm -m discovery -t sendtargets -p 127.0.0.1").text,
        "the SAN lists the snapshot",
    )
    say("Nothing is logged in, nothing is mounted. Somebody asks for a file of May 3rd:")
    expect(shell.command(f"cd /iscsiauto/{BETA}", 120).status == 0, "cd goes into the snapshot")
    expect("etc" in shell.command("ls").text.split(), "ls shows its files")
    expect(shell.command(f"cat {FILE}").text == CONTENT, "the file is as it was")
    say("What happened: a session with only that target, and its partition mounted read-only.")
    session = shell.command("iscsiadm -m session")
    expect(
        session.text.count(BETA) == 1 and len(session.text.splitlines()) == 1,
        "there is one session",
    )
    mount = shell.command("grep /dev/sd /proc/mounts")
    expect(BETA in mount.text and " ext3 ro," in mount.text, "it is mounted read-only")
    expect(shell.command("cd").status == 0, "cd goes home")
    say(f"Nobody uses it now; autofs unmounts it after {IDLE} seconds (300, as shipped).")
    wait_for_unmount(vm)
    gone = shell.command("grep -c /dev/sd /proc/mounts")
    expect(gone.text.strip() == "0", "the snapshot is not mounted any more")
    say("And again: the second visit, while the session still exists.")
    again = shell.command(f"cat /iscsiauto/{BETA}/{FILE}", 120)
    expect(again.text == CONTENT, "the second visit works too")
    say("By volume and day, without a target's name: what is there, and the file of May 2nd.")
    listed = shell.command("auto-iscsi list vm-beta", 60)
    expect("2 snapshots of 1 volume" in listed.text, "list shows both snapshots")
    versions = shell.command(f"auto-iscsi versions vm-beta:/{FILE} --hash", 300)
    expect(f"2 versions of /{FILE}" in versions.text, "the two snapshots have two versions")
    restored = shell.command(f"auto-iscsi restore vm-beta@2010-05-02:/{FILE} /root/", 200)
    expect("restored 1 file" in restored.text, "one command restores the file")
    old = shell.command("cat /root/really_important_file")
    expect(old.text == "the way it was on the 2nd of May\n", "it is the one of that day")


def wait_for_unmount(vm: Machine) -> None:
    """Wait until automount has unmounted the snapshot, with a dot for each second."""
    for _ in range(IDLE * 5):
        if not vm.mounts(f"/iscsiauto/{BETA}"):
            return
        time.sleep(1)
    raise Broken(f"autofs unmounts the snapshot within {IDLE * 5} s")


def run(deb: Path, suite: str | None, tree: Path) -> int:
    """Run the demonstration; return 0 if everything was as promised."""
    layer = layers.installed(deb, suite)
    with layer.resumed() as vm:
        try:
            show(vm, San(vm))
        except Exception as error:
            place = logs.folder(tree, "demo")
            logs.keep(vm, place)
            kind = "not as promised" if isinstance(error, Broken) else type(error).__name__
            print(f"\n\ndemo: {kind}: {error}\nlogs of the guest: {place}", file=sys.stderr)
            return 1
    print("\n" + "-" * 88)
    print("Everything was as promised. `make vm` gives you this shell.")
    return 0
