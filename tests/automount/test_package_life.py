"""Install, upgrade, remove and purge the packages on a host with a real automount.

The host is this machine, seen through an overlay that is discarded afterwards, with dpkg's real
database and filesystems on loop devices. It has neither systemd nor a SAN; tests/san has both.
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
#: Stands in for the original shell script: it answers every key with the same disk.
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
    """This machine behind an overlay: packages can be installed, and automount started."""

    def __init__(self, holder: int, root: Path, device: str) -> None:
        self.holder, self.root, self.device = holder, root, device
        self.started: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> list[str]:
        inside = ["chroot", str(self.root), "env", "DEBIAN_FRONTEND=noninteractive", *words]
        return ["nsenter", "--mount", "--root", f"--target={self.holder}", *inside]

    def run(self, script: str, check: bool = True) -> str:
        """Run shell commands on the host and return their output."""
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
        # In its own process group: processes of automount's group trigger no mount.
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
        output = self.run(f"dpkg --force-depends --force-unsafe-io {shlex.join(words)} 2>&1")
        assert "dpkg: error" not in output
        return output

    def mounts(self) -> dict[str, str]:
        """Return type and source of each mount at and below /iscsiauto, by mount point."""
        pairs = [line.split()[:3] for line in self.run("cat /proc/mounts").splitlines()]
        return {p: f"{fs} {what}" for what, p, fs in pairs if p.startswith("/iscsiauto")}

    def stay(self, path: str) -> subprocess.Popen[bytes]:
        """Start a process whose current folder is `path`."""
        process = self.start("sh", "-c", f"cd {path} && exec sleep 300")
        wait(lambda: os.readlink(f"/proc/{process.pid}/cwd").endswith(path))
        return process

    def code(self, folder: str = "/usr/share/auto-iscsi") -> set[str]:
        """Return the suffixes of the files from which Python loads a lookup's modules."""
        load = f"import sys; sys.path.insert(0, '{folder}'); import auto_iscsi.map.lookup"
        output = self.run(f'/usr/bin/python3 -v -BIS -c "{load}" 2>&1')
        return set(re.findall(rf"# code object from '?{folder}/\S*(\.pyc?)\b", output))


def wait(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"the condition is still false after {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A loop device with a filesystem that has one file."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "files").mkdir()
    (folder / "files/really_important_file").write_text("here\n")
    image = folder / "image"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(folder / "files"), str(image), "8M"], check=True
    )
    loop = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(image)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    yield loop
    subprocess.run(["losetup", "--detach", loop], check=True)


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
    assert holder.stdout.readline() == "ready\n", "the overlay could not be mounted"
    made = Host(holder.pid, tmp_path / "root", device)
    made.write("/etc/auto.master", MASTER)
    yield made
    for process in reversed(made.started):
        process.kill()
        process.wait()
    holder.stdin.close()
    holder.wait()


def test_after_the_installation_automount_serves_the_map(host: Host) -> None:
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


def test_an_automount_that_starts_later_reads_the_line(host: Host) -> None:
    host.install()
    host.automount()
    assert host.mounts() == {"/iscsiauto": "autofs /usr/libexec/auto-iscsi/auto.iscsi"}


@pytest.mark.parametrize("map_name", ["program:/etc/auto.iscsi", "/etc/auto.iscsi --timeout=7"])
def test_a_host_with_the_shell_script_keeps_its_line_its_script_and_its_mounts(
    host: Host, map_name: str
) -> None:
    host.script()
    host.write("/etc/auto.master", f"{MASTER}/iscsiauto {map_name}\n")
    host.automount()
    before = host.run("ls /iscsiauto/iqn.a/; cat /etc/auto.iscsi")
    worker = host.stay("/iscsiauto/iqn.a")
    mounted = host.mounts()
    output = host.install()
    assert "kept as /etc/auto.iscsi.orig" in output
    assert f"/etc/auto.master:2:/iscsiauto {map_name}" in output
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
def test_unrelated_lines_do_not_prevent_the_shipped_line(host: Host, line: str) -> None:
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


def test_after_a_removal_the_package_can_be_installed_again(host: Host) -> None:
    host.install()
    host.dpkg("--remove", "auto-iscsi")
    assert "/iscsiauto program:" in host.run(f"cat {LINE}")
    host.automount()  # it finds the line, but no program
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
    time.sleep(1)  # automount would have unmounted it by now
    assert host.mounts().get("/iscsiauto/iqn.a") == f"ext4 {host.device}"
    assert worker.poll() is None


def test_a_purge_removes_our_files_and_no_others(host: Host) -> None:
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


def test_after_a_purge_the_package_can_be_installed_again(host: Host) -> None:
    host.install()
    host.dpkg("--purge", "auto-iscsi")
    host.automount()
    host.install()
    assert "/iscsiauto" in host.mounts()


def test_byte_code_is_made_for_the_host_s_python_and_removed_with_the_package(
    host: Host,
) -> None:
    host.install()
    assert host.code() == {".pyc"}
    others = r"find /usr/share/auto-iscsi \( ! -user root -o -perm /022 \)"
    assert host.run(f"{others}; dpkg --verify auto-iscsi") == ""
    # A new Python is installed: the scripts of the package python3 call this.
    host.run("find /usr/share/auto-iscsi -name '*.pyc' -delete")
    assert host.code() == {".py"}
    host.run("/usr/share/python3/runtime.d/auto-iscsi.rtupdate rtupdate python3.10 python3.11")
    assert host.code() == {".pyc"}
    host.dpkg("--remove", "auto-iscsi")
    assert "auto-iscsi" not in host.run("ls /usr/share /usr/libexec /usr/share/python3/runtime.d")


def test_the_rpm_makes_and_removes_byte_code_too(host: Host) -> None:
    host.run(f"rpm --install --nodeps {RPM}")
    assert host.code() == {".pyc"}
    host.run(f"rpm --upgrade --replacepkgs --nodeps {RPM}")
    assert host.code() == {".pyc"}
    # A new Python is installed: a package of that name.
    host.run("find /usr/share/auto-iscsi -name '*.pyc' -delete")
    head = "Name: python3\nVersion: 3.99\nRelease: 1\nSummary: a new one\nLicense: none\n"
    host.write("/python3.spec", f"{head}BuildArch: noarch\n%description\n%files\n")
    host.run(
        "rpmbuild -bb --define '_topdir /new' /python3.spec && rpm --install /new/RPMS/*/*.rpm"
    )
    assert host.code() == {".pyc"}
    host.run("rpm --erase auto-iscsi")
    assert "auto-iscsi" not in host.run("ls /usr/share /usr/libexec")


def test_make_install_makes_byte_code_too(host: Host) -> None:
    host.run(f"make -C {ROOT} install 2>&1")
    assert host.code("/usr/local/share/auto-iscsi") == {".pyc"}
    host.run(f"make -C {ROOT} uninstall 2>&1")
    assert "auto-iscsi" not in host.run("ls /usr/local/share; ls /usr/local/libexec", check=False)


def test_the_rpm_is_installed_upgraded_and_erased_like_the_deb(host: Host) -> None:
    # --nodeps: dpkg has installed the dependencies, which rpm does not know.
    host.script()
    before = host.run("find /etc /usr/libexec /usr/share/man /usr/sbin /usr/lib/tmpfiles.d | sort")
    host.automount()
    output = host.run(f"rpm --install --nodeps {RPM} 2>&1")
    assert "kept as /etc/auto.iscsi.orig" in output
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


#: How the package comes and goes, by its kind.
KINDS = {
    "deb": (f"dpkg --force-depends --install {DEB}", "dpkg --purge auto-iscsi"),
    "rpm": (f"rpm --install --nodeps {RPM}", "rpm --erase auto-iscsi"),
    "make": (f"make -C {ROOT} install", f"make -C {ROOT} uninstall"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_presented_at_a_san_is_not_forgotten_with_the_package(
    host: Host, kind: str
) -> None:
    install, remove = KINDS[kind]
    host.run(install)
    lease = "/var/lib/auto-iscsi/san/6f1c1a52-0000-4000-8000-000000000001"
    host.run(f"mkdir -p {os.path.dirname(lease)}; echo {{}} > {lease}")
    assert "presented to this host" in host.run(f"{remove} 2>&1")
    assert host.run("find /run/auto-iscsi /var/lib/auto-iscsi -type f", check=False).split()[
        -1:
    ] == [lease]
    host.run(install)
    host.run(f"rm {lease}")
    assert "presented to this host" not in host.run(f"{remove} 2>&1")
    assert "auto-iscsi" not in host.run("ls /run /var/lib")


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_without_its_user_and_a_link_that_leads_nowhere(host: Host, kind: str) -> None:
    """userdel can leave the group; the script can be on a filesystem that is not mounted."""
    host.run("userdel auto-iscsi 2>/dev/null; groupadd --force --system auto-iscsi")
    host.run("ln -s /srv/not-mounted/auto.iscsi /etc/auto.iscsi")
    host.run(KINDS[kind][0])
    assert host.run("id -gn auto-iscsi") == "auto-iscsi\n"
    assert host.run("readlink /etc/auto.iscsi.orig") == "/srv/not-mounted/auto.iscsi\n"
