"""What does a host go through whose package comes and goes?

The host is this one, seen through an overlay that is thrown away, with dpkg's real database, a
real automount and filesystems on loop devices. Only systemd and the SAN are missing, which
tests/san has.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

import auto_iscsi

ROOT = Path(__file__).resolve().parents[2]
DEB = ROOT / f"dist/auto-iscsi_{auto_iscsi.__version__}_all.deb"
RPM = ROOT / f"dist/auto-iscsi-{auto_iscsi.__version__}.noarch.rpm"
LINE = "/etc/auto.master.d/iscsi.autofs"
MASTER = "+dir:/etc/auto.master.d\n"
#: The original, as far as automount can tell: it answers with a disk for every name.
SCRIPT = '#!/bin/sh\necho "-ro,fstype=ext4 :{device}"\n'

OVERLAY = """
set -e
mount -t tmpfs none {top}
mkdir {top}/upper {top}/work {top}/root
mount -t overlay none -o lowerdir=/,upperdir={top}/upper,workdir={top}/work {top}/root
mount --rbind /dev {top}/root/dev
mount -t proc none {top}/root/proc
mount -t tmpfs none {top}/root/run
mkdir -p {top}/root/etc/auto.master.d
rm -rf {top}/root/etc/auto.iscsi* {top}/root/etc/auto.master.d/* {top}/root/iscsiauto
echo ready
cat
"""


class Host:
    """A host on which everything can be tried."""

    def __init__(self, holder: int, root: Path, device: str) -> None:
        self.holder, self.root, self.device = holder, root, device
        self.started: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> list[str]:
        inside = ["chroot", str(self.root), "env", "DEBIAN_FRONTEND=noninteractive", *words]
        return ["nsenter", "--mount", "--root", f"--target={self.holder}", *inside]

    def run(self, script: str, check: bool = True) -> str:
        """Run shell commands on it and return what they say."""
        done = subprocess.run(
            self.command("sh", "-c", script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or not done.returncode, f"{script}: {done.stdout}"
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        # In a group of its own: processes of automount's group trigger nothing.
        process = subprocess.Popen(
            self.command(*words), stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.started.append(process)
        return process

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        quoted = shlex.quote(text)
        self.run(
            f"printf %s {quoted} > {path}.new; chmod {mode:o} {path}.new; mv {path}.new {path}"
        )

    def script(self, path: str = "/etc/auto.iscsi") -> None:
        self.write(path, SCRIPT.format(device=self.device), 0o755)

    def automount(self) -> None:
        """Start automount and wait until it has read the master map."""
        self.run("rm -f /run/autofs.pid")
        log = "exec automount --foreground --verbose --pid-file /run/autofs.pid >>/log 2>&1"
        self.start("sh", "-c", log)
        wait(lambda: bool(self.run("cat /run/autofs.pid", check=False).strip().isdigit()))
        wait(lambda: any(t in self.run("cat /log") for t in ("mounted indirect", "no mounts")))

    def install(self) -> str:
        return self.dpkg("--install", str(DEB))

    def dpkg(self, *words: str) -> str:
        said = self.run(f"dpkg --force-depends --force-unsafe-io {shlex.join(words)} 2>&1")
        assert "dpkg: error" not in said
        return said

    def mounts(self) -> dict[str, str]:
        """Return what is mounted where below /iscsiauto, and at it."""
        pairs = [line.split()[:3] for line in self.run("cat /proc/mounts").splitlines()]
        return {p: f"{fs} {what}" for what, p, fs in pairs if p.startswith("/iscsiauto")}

    def stay(self, path: str) -> subprocess.Popen[bytes]:
        """Have somebody work in a folder."""
        process = self.start("sh", "-c", f"cd {path} && exec sleep 300")
        wait(lambda: os.readlink(f"/proc/{process.pid}/cwd").endswith(path))
        return process

    def code(self, folder: str = "/usr/share/auto-iscsi") -> set[str]:
        """Return what Python takes a lookup's modules from, as its -v says: ".py" or ".pyc"."""
        load = f"import sys; sys.path.insert(0, '{folder}'); import auto_iscsi.map.lookup"
        told = self.run(f'/usr/bin/python3 -v -BIS -c "{load}" 2>&1')
        return set(re.findall(rf"# code object from '?{folder}/\S*(\.pyc?)\b", told))


def wait(true: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A loop device with a filesystem, whose one file says what it is."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "files").mkdir()
    (folder / "files/really_important_file").write_text("here\n")
    image = folder / "image"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(folder / "files"), str(image), "8M"], check=True
    )
    found = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(image)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    yield found
    subprocess.run(["losetup", "--detach", found], check=True)


@pytest.fixture
def host(tmp_path: Path, device: str) -> Iterator[Host]:
    if os.geteuid():
        pytest.fail("needs root: sudo make test", pytrace=False)
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", OVERLAY.format(top=tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin and holder.stdout
    assert holder.stdout.readline() == "ready\n", "no overlay filesystem here?"
    this = Host(holder.pid, tmp_path / "root", device)
    this.write("/etc/auto.master", MASTER)
    yield this
    for process in reversed(this.started):
        process.kill()
        process.wait()
    holder.stdin.close()
    holder.wait()


def test_after_the_installation_automount_serves_it(host: Host) -> None:
    host.automount()
    host.install()
    assert host.mounts() == {"/iscsiauto": "autofs /usr/libexec/auto-iscsi/auto.iscsi"}
    assert "timeout=300" in host.run("grep /iscsiauto /proc/mounts")
    host.run("ls /iscsiauto/foo", check=False)
    assert ">> auto.iscsi: key 'foo' refused" in host.run("cat /log")


def test_the_shipped_line_keeps_setuid_programs_and_device_nodes_out(host: Host) -> None:
    host.automount()
    host.install()
    host.script("/usr/libexec/auto-iscsi/auto.iscsi")
    assert host.run("cat /iscsiauto/iqn.a/really_important_file") == "here\n"
    options = host.run("grep '/iscsiauto/iqn.a ' /proc/mounts").split()[3].split(",")
    assert {"ro", "nosuid", "nodev"} <= set(options)


def test_automount_that_is_not_running_reads_the_line_later(host: Host) -> None:
    host.install()
    host.automount()
    assert host.mounts() == {"/iscsiauto": "autofs /usr/libexec/auto-iscsi/auto.iscsi"}


@pytest.mark.parametrize("map_name", ["program:/etc/auto.iscsi", "/etc/auto.iscsi --timeout=7"])
def test_a_host_of_the_script_keeps_its_line_its_script_and_its_mounts(
    host: Host, map_name: str
) -> None:
    host.script()
    host.write("/etc/auto.master", f"{MASTER}/iscsiauto {map_name}\n")
    host.automount()
    before = host.run("ls /iscsiauto/iqn.a/; cat /etc/auto.iscsi")
    worker = host.stay("/iscsiauto/iqn.a")
    mounted = host.mounts()
    said = host.install()
    assert "kept as /etc/auto.iscsi.orig" in said
    assert f"/etc/auto.master:2:/iscsiauto {map_name}" in said
    assert host.mounts() == mounted
    assert worker.poll() is None
    assert host.run("ls /iscsiauto/iqn.a/; cat /etc/auto.iscsi.orig") == before
    assert not host.run(f"ls {LINE}", check=False).startswith(LINE)
    host.run("ls /iscsiauto/foo", check=False)
    assert ">> auto.iscsi: key 'foo' refused" in host.run("cat /log")


def test_a_line_for_another_mount_point_is_enough(host: Host) -> None:
    host.script()
    host.write("/etc/auto.master.d/snapshots.autofs", "/snapshots program:/etc/auto.iscsi\n")
    host.automount()
    assert "snapshots.autofs:1:/snapshots" in host.install()
    assert host.mounts() == {}


@pytest.mark.parametrize(
    "line", ["#/iscsiauto program:/etc/auto.iscsi", "/iscsiauto2 /etc/auto.misc", "/net -hosts"]
)
def test_other_lines_do_not_keep_it_out(host: Host, line: str) -> None:
    host.write("/etc/auto.master", f"{MASTER}{line}\n")
    host.install()
    assert "/iscsiauto program:" in host.run(f"cat {LINE}")


def test_a_master_map_that_does_not_read_the_line_is_reported(host: Host) -> None:
    host.write("/etc/auto.master", "# nothing\n")
    host.automount()
    assert "+dir:/etc/auto.master.d" in host.install()


def test_an_upgrade_keeps_what_was_edited_and_what_was_deleted(host: Host) -> None:
    host.automount()
    host.install()
    host.run("echo 'lun = 3' >> /etc/auto.iscsi.conf")
    host.run(f"sed -i s/timeout=300/timeout=60/ {LINE}")
    kept = host.run(f"cat /etc/auto.iscsi.conf {LINE}")
    host.dpkg("--install", "--force-confold", str(DEB))
    assert host.run(f"cat /etc/auto.iscsi.conf {LINE}") == kept
    host.run(f"rm {LINE}")
    host.dpkg("--install", "--force-confold", str(DEB))
    assert not host.run(f"ls {LINE}", check=False).startswith(LINE)


def test_removed_and_installed_again_it_works_again(host: Host) -> None:
    host.install()
    host.dpkg("--remove", "auto-iscsi")
    assert "/iscsiauto program:" in host.run(f"cat {LINE}")
    host.automount()  # which finds the line, and no program
    assert host.mounts() == {}
    host.install()
    assert "/iscsiauto" in host.mounts()


@pytest.mark.parametrize("action", ["--remove", "--purge"])
def test_what_is_in_use_stays_mounted(host: Host, action: str) -> None:
    host.automount()
    host.install()
    host.script("/usr/libexec/auto-iscsi/auto.iscsi")
    host.run("ls /iscsiauto/iqn.a/")
    worker = host.stay("/iscsiauto/iqn.a")
    host.dpkg(action, "auto-iscsi")
    time.sleep(1)  # in which automount would have done it
    assert host.mounts().get("/iscsiauto/iqn.a") == f"ext4 {host.device}"
    assert worker.poll() is None


def test_the_purge_leaves_nothing_of_ours_and_all_of_theirs(host: Host) -> None:
    host.script()
    before = host.run("find /etc /usr/libexec /usr/share/man /usr/sbin /usr/lib/tmpfiles.d | sort")
    host.automount()
    host.install()
    assert "/iscsiauto" in host.mounts()
    host.run("mkdir -p /run/auto-iscsi/claims /var/lib/auto-iscsi/records")
    host.dpkg("--purge", "auto-iscsi")
    after = host.run("find /etc /usr/libexec /usr/share/man /usr/sbin /usr/lib/tmpfiles.d | sort")
    assert after.replace("/etc/auto.iscsi.orig\n", "/etc/auto.iscsi\n") == before
    assert "auto-iscsi" not in host.run("ls /run /var/lib")
    wait(lambda: host.mounts() == {})


def test_after_a_purge_it_can_be_installed_anew(host: Host) -> None:
    host.install()
    host.dpkg("--purge", "auto-iscsi")
    host.automount()
    host.install()
    assert "/iscsiauto" in host.mounts()


def test_the_host_makes_byte_code_for_its_own_python_and_it_goes_with_the_package(
    host: Host,
) -> None:
    host.install()
    assert host.code() == {".pyc"}
    others = r"find /usr/share/auto-iscsi \( ! -user root -o -perm /022 \)"
    assert host.run(f"{others}; dpkg --verify auto-iscsi") == ""
    # Another Python comes: python3's own scripts call this.
    host.run("find /usr/share/auto-iscsi -name '*.pyc' -delete")
    assert host.code() == {".py"}
    host.run("/usr/share/python3/runtime.d/auto-iscsi.rtupdate rtupdate python3.10 python3.11")
    assert host.code() == {".pyc"}
    host.dpkg("--remove", "auto-iscsi")
    assert "auto-iscsi" not in host.run("ls /usr/share /usr/libexec /usr/share/python3/runtime.d")


def test_so_does_the_rpm(host: Host) -> None:
    host.run(f"rpm --install --nodeps {RPM}")
    assert host.code() == {".pyc"}
    host.run(f"rpm --upgrade --replacepkgs --nodeps {RPM}")
    assert host.code() == {".pyc"}
    # Another Python comes: a package of that name.
    host.run("find /usr/share/auto-iscsi -name '*.pyc' -delete")
    head = "Name: python3\nVersion: 3.99\nRelease: 1\nSummary: a new one\nLicense: none\n"
    host.write("/python3.spec", f"{head}BuildArch: noarch\n%description\n%files\n")
    host.run(
        "rpmbuild -bb --define '_topdir /new' /python3.spec && rpm --install /new/RPMS/*/*.rpm"
    )
    assert host.code() == {".pyc"}
    host.run("rpm --erase auto-iscsi")
    assert "auto-iscsi" not in host.run("ls /usr/share /usr/libexec")


def test_so_does_make_install(host: Host) -> None:
    host.run(f"make -C {ROOT} install 2>&1")
    assert host.code("/usr/local/share/auto-iscsi") == {".pyc"}
    host.run(f"make -C {ROOT} uninstall 2>&1")
    assert "auto-iscsi" not in host.run("ls /usr/local/share; ls /usr/local/libexec", check=False)


def test_the_rpm_goes_the_same_way(host: Host) -> None:
    # Its dependencies are what dpkg has installed; rpm cannot know.
    host.script()
    before = host.run("find /etc /usr/libexec /usr/share/man /usr/sbin /usr/lib/tmpfiles.d | sort")
    host.automount()
    said = host.run(f"rpm --install --nodeps {RPM} 2>&1")
    assert "kept as /etc/auto.iscsi.orig" in said
    assert host.mounts() == {"/iscsiauto": "autofs /usr/libexec/auto-iscsi/auto.iscsi"}
    host.script("/usr/libexec/auto-iscsi/auto.iscsi")
    host.run("ls /iscsiauto/iqn.a/; echo 'lun = 3' >> /etc/auto.iscsi.conf")
    worker = host.stay("/iscsiauto/iqn.a")
    host.run(f"sed -i s/timeout=300/timeout=60/ {LINE}")
    host.run(f"rpm --upgrade --replacepkgs --nodeps {RPM}")
    assert "timeout=60" in host.run(f"cat {LINE}")
    assert host.run("tail -n 1 /etc/auto.iscsi.conf") == "lun = 3\n"
    host.run("rpm --erase auto-iscsi")
    assert host.mounts().get("/iscsiauto/iqn.a") == f"ext4 {host.device}"
    assert worker.poll() is None
    after = host.run("find /etc /usr/libexec /usr/share/man /usr/sbin /usr/lib/tmpfiles.d | sort")
    kept = [f"{LINE}.rpmsave", "/etc/auto.iscsi.conf.rpmsave", "/etc/auto.iscsi.orig"]
    assert sorted(set(after.split()) - set(before.split())) == sorted(kept)
    assert set(before.split()) - set(after.split()) == {"/etc/auto.iscsi"}
