"""Are debian/tests green where Debian runs them: under autopkgtest, in a machine of its own?

autopkgtest's qemu runner on an image of the bed that has what debian/tests/control asks for, so
that nothing is downloaded while it runs. The runner wants a login prompt on the first serial line
and a root shell on a console; both come in a second initrd behind the bed's, whose files win. QEMU
is a script that takes --enable-kvm out again, which the runner puts in wherever /dev/kvm is, and
that can be a file with nothing behind it.
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

#: What is in a clone and not in a source package.
NOT_SOURCE = (".git", "dist", "build", "__pycache__", ".*_cache", ".hypothesis")
#: What the runner does in its own 60 s takes longer under TCG, where two of us are at work.
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
#: The runner gives the guest the host's time zone; dpkg-reconfigure is too slow for its patience.
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
    """Write what the runner takes for QEMU."""
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
    wanted = suite or image.suite()
    needed = ["apt-utils", "dpkg-dev", *depends((tree / "debian/tests/control").read_text())]
    name = cache.key(wanted, Path(image.__file__).read_bytes(), " ".join(needed))
    base = cache.entry(
        "autopkgtest", f"{wanted}-{name}", lambda place: image.build(wanted, place, needed)
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
