"""Run debian/tests as Debian runs them: under autopkgtest, in a machine of their own.

autopkgtest's qemu runner starts an image of the bed that already has the packages which
debian/tests/control requires, so that it downloads nothing. The runner requires a login prompt on
the first serial line and a root shell on a console. Both come in a second initrd after the bed's,
whose files take precedence. The runner adds --enable-kvm wherever /dev/kvm exists, even if it does
not work; so a script stands in for QEMU and removes that option.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import cache, hardware, image, initrd, progress

#: Files of a clone that a source package does not have.
NOT_SOURCE = (".git", "dist", "build", "__pycache__", ".*_cache", ".hypothesis")
#: In seconds. The runner's own 60 s are too short under TCG with two tests at work.
BOOT_TIMEOUT = 600

PROMPT = """[Service]
ExecStartPre=-/usr/sbin/useradd -m user
ExecStart=/bin/sh -c 'systemctl is-system-running --wait; echo "browse login: "'
StandardOutput=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
"""
SHELL = """[Service]
ExecStart=/bin/sh -i
Environment=HOME=/root ENV=/root/.shrc
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/hvc1
WorkingDirectory=/root
[Install]
WantedBy=multi-user.target
"""
UNITS = {"prompt": PROMPT, "root-shell": SHELL}
#: The runner sets the guest's time zone with dpkg-reconfigure, which is too slow for its timeout.
SHELL_RC = "alias dpkg-reconfigure=true\n"


def depends(control: str) -> list[str]:
    """Return the packages that the tests of a debian/tests/control need besides ours."""
    fields = re.findall(r"^Depends:(.*)$", control, re.MULTILINE)
    names = {name.split()[0] for field in fields for name in field.split(",")}
    return sorted(names - {"@"})


def console(base: Path) -> bytes:
    """Return the initrd of an image, with prompt and shell in the place of the bed's agent."""
    more = initrd.Archive()
    units = "lay/etc/systemd/system"
    more.link(f"{units}/bed-agent.service", "/dev/null")
    for name, text in UNITS.items():
        more.file(f"{units}/{name}.service", text)
        more.link(f"{units}/multi-user.target.wants/{name}.service", f"../{name}.service")
    more.file("lay/root/.shrc", SHELL_RC)
    return initrd.initrd(base) + more.closed()


def script(path: Path, base: Path, started: Path) -> None:
    """Write the script that the runner starts as QEMU."""
    words = [
        "-accel",
        os.environ.get("BED_ACCEL") or "tcg,thread=multi",
        "-cpu",
        "max",
        "-kernel",
        str(base / "vmlinuz"),
        "-initrd",
        str(started),
        "-append",
        hardware.APPEND,
    ]
    path.write_text(
        "#!/bin/bash\nfor word; do\n    shift\n"
        '    [ "$word" = -enable-kvm ] || set -- "$@" "$word"\ndone\n'
        f'exec qemu-system-x86_64 "$@" {shlex.join(words)}\n'
    )
    path.chmod(0o755)


def run(deb: Path, suite: str | None, tree: Path, arguments: list[str]) -> int:
    """Run autopkgtest on a tree and its package; return its status.

    arguments: of autopkgtest, such as --test-name=unit.
    """
    if not shutil.which("autopkgtest"):
        raise progress.Failed("autopkgtest is not installed: tests/prepare autopkgtest")
    chosen = suite or image.suite()
    needed = ["apt-utils", "dpkg-dev", *depends((tree / "debian/tests/control").read_text())]
    name = cache.key(chosen, Path(image.__file__).read_bytes(), " ".join(needed))
    base = cache.entry(
        "autopkgtest", f"{chosen}-{name}", lambda place: image.build(chosen, place, needed)
    )
    with cache.used(base), tempfile.TemporaryDirectory(prefix="autopkgtest-") as folder:
        top = Path(folder)
        top.chmod(0o755)
        (top / "initrd").write_bytes(console(base))
        script(top / "qemu-system-x86_64", base, top / "initrd")
        shutil.copytree(
            tree, top / "tree", symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE)
        )
        command = [
            "autopkgtest",
            *arguments,
            "--no-built-binaries",
            str(deb),
            str(top / "tree"),
            "--",
            "qemu",
            "--cpus=2",
            f"--timeout-reboot={BOOT_TIMEOUT}",
            f"--qemu-command={top}/qemu-system-x86_64",
            str(base / "root.raw"),
        ]
        progress.say(shlex.join(command))
        return subprocess.run(command, check=False).returncode
