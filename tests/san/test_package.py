"""Install, upgrade and remove the packages on a host with systemd and snapshots in use."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import auto_iscsi
from tests.program import sources
from tests.san import job
from tests.san.bed.machine import Command, Machine
from tests.san.bed.san import San

TREE = Path(__file__).resolve().parents[2]
VERSION, LATER = auto_iscsi.__version__, "99.0.0"
FILE = "etc/really_important_file"
LINE = "/etc/auto.master.d/iscsi.autofs"
TIMER = "auto-iscsi.timer"
#: Lists every file of ours, wherever it is.
OURS = r"find / -xdev -path /root -prune -o \( -name '*auto-iscsi*' -o -name 'auto.iscsi*'" + (
    r" -o -name 'iscsi.autofs*' \) -print | sort"
)


class Package(NamedTuple):
    """The built packages of a version."""

    deb: bytes
    rpm: bytes


def built(folder: Path, version: str) -> Package:
    return Package(
        (folder / f"auto-iscsi_{version}_all.deb").read_bytes(),
        (folder / f"auto-iscsi-{version}.noarch.rpm").read_bytes(),
    )


@pytest.fixture(scope="module")
def now() -> Package:
    """The version of this tree."""
    return built(TREE / "dist", VERSION)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A later version, with a changed configuration file."""
    folder = sources.copy_to(tmp_path_factory.mktemp("later") / "folder")
    for name in ("auto_iscsi/__init__.py", "debian/changelog", "rpm/auto-iscsi.spec"):
        path = folder / name
        path.write_text(path.read_text().replace(VERSION, LATER))
    with open(folder / "etc/auto.iscsi.conf", "a") as stream:
        stream.write("# This is new.\n")
    make = subprocess.run(
        ["make", "deb", "rpm"],
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert not make.returncode, make.stdout
    return built(folder / "dist", LATER)


def present(vm: Machine, san: San, *names: str) -> None:
    for name in names:
        san.target(name, [san.disk([san.fs("ext3", {FILE: "text\n"})])])
    vm.discover()


def works(vm: Machine, name: str) -> bool:
    return job.visit(vm, name, FILE, check=False).stdout == "text\n"


def stay(vm: Machine, name: str) -> Command:
    """Start a process whose current folder is in a snapshot."""
    assert works(vm, name)
    command = f"cd {job.ROOT}/{name} && echo command && exec sleep 3000"
    worker = vm.start(command, user="user", timeout=3100)
    assert job.until(lambda: "command" in worker.output())
    return worker


def undisturbed(vm: Machine, name: str, worker: Command) -> bool:
    """Say whether a process in a snapshot still runs, and its files can be read."""
    mounted = job.mount(vm, name) is not None
    file = vm.run(f"cat {job.ROOT}/{name}/{FILE}", user="user", check=False).stdout
    return mounted and not worker.done and file == "text\n"


def dpkg(vm: Machine, *words: str, package: bytes = b"") -> str:
    path = "/root/auto-iscsi.deb"
    if package:
        vm.write(path, package)
    # Keep edited files, as an administrator can tell apt to.
    options = ["--force-confold"] if package else []
    return vm.run(
        ["dpkg", *options, *words, *([path] if package else [])],
        env={"DEBIAN_FRONTEND": "noninteractive"},
        timeout=300,
    ).stdout


def rpm(vm: Machine, *words: str, package: bytes = b"") -> str:
    """Run rpm, without dependencies because they are Debian's packages; return its output."""
    if package:
        vm.write("/root/auto-iscsi.rpm", package)
    path = ["--nodeps", "/root/auto-iscsi.rpm"] if package else []
    done = vm.run(["rpm", *words, *path], timeout=300)
    return done.stdout + done.stderr


def timer(vm: Machine) -> list[str]:
    """Return the two states of the timer: enabled or not, active or not."""
    return vm.run(f"systemctl is-enabled {TIMER}; systemctl is-active {TIMER}", check=False).lines


def edit(vm: Machine) -> str:
    """Change each file that belongs to the administrator; return their contents."""
    vm.run(
        f"echo 'udev_timeout = 31s' >> /etc/auto.iscsi.conf; echo '# mine' >> {LINE};"
        " sed -i 's/^[*]/#*/' /etc/cron.d/auto-iscsi"
    )
    return edited(vm)


def edited(vm: Machine) -> str:
    return vm.run(f"cat /etc/auto.iscsi.conf {LINE} /etc/cron.d/auto-iscsi").stdout


@pytest.mark.core
def test_after_the_installation_sessions_begin_and_end_automatically(vm: Machine, san: San) -> None:
    gone, held, hidden = job.BETA, job.ALPHA, f"{job.ARRAY}-elsewhere"
    present(vm, san, gone, held, hidden)
    assert vm.run("stat -c %a:%U /run/auto-iscsi").stdout == "700:root\n"
    assert timer(vm) == ["enabled", "active"]
    assert vm.run(f"systemd-analyze verify --man=no auto-iscsi.service {TIMER} 2>&1").stdout == ""
    level = vm.run("systemd-analyze security --no-pager auto-iscsi.service").lines[-1]
    assert "OK" in level, level
    # The timer runs more often than as shipped.
    vm.write(
        f"/etc/systemd/system/{TIMER}.d/soon.conf",
        "[Timer]\nOnCalendar=*:*:0/15\nAccuracySec=100ms\n",
    )
    vm.run(f"systemctl daemon-reload && systemctl restart {TIMER}")
    job.configure(vm, "idle = 3s\nlease = 3s\nudev_timeout = 50s\n")
    vm.automount("--timeout=2 --negative-timeout=1", program="/usr/libexec/auto-iscsi/auto.iscsi")
    worker = stay(vm, held)
    lurker = stay(vm, hidden)
    # A second mount at another place, as in a container. (One at the same place would disappear:
    # automount removes the directory, which unmounts it in every namespace.)
    vm.run(
        f"unshare --mount --propagation private sh -c 'mount --bind {job.ROOT}/{hidden} /mnt;"
        " sleep 3000 >/dev/null 2>&1 &'"
    )
    lurker.kill()
    assert works(vm, gone)
    mount = job.mount(vm, gone)
    assert mount and {"ro"} <= set(mount.options.split(","))
    assert job.until(lambda: not vm.sessions(gone), 120)
    assert len(vm.sessions(held)) == 1 and len(vm.sessions(hidden)) == 1
    assert undisturbed(vm, held, worker)
    assert san.sessions().get(gone, 0) == 0
    state = vm.run("systemctl show --value --property=Result auto-iscsi.service").stdout
    assert state == "success\n", vm.journal("-u", "auto-iscsi.service")
    assert works(vm, gone)
    # The end of the reaper must not kill a login that is still under way.
    kill = vm.run("systemctl show --value --property=KillMode auto-iscsi.service").stdout
    assert kill == "process\n"
    # A removal does not leave what nobody uses to a reaper that is gone.
    vm.run(f"systemctl stop {TIMER}")
    job.configure(vm, "idle = 1h\nlease = 1h\nudev_timeout = 50s\n")
    assert works(vm, gone)
    time.sleep(6)  # reap --now leaves what was looked up a moment ago
    assert f"ended 1 session: {gone}" in dpkg(vm, "--remove", "auto-iscsi")
    assert not vm.sessions(gone) and len(vm.sessions(held)) == 1
    assert undisturbed(vm, held, worker)


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_after_the_script_mounts_in_use_stay_and_the_next_visit_is_ours(
    bare: Machine, san: San, now: Package, kind: str
) -> None:
    last = f"{job.ARRAY}-last"
    present(bare, san, job.BETA, job.ALPHA, last)
    job.original(bare, "/etc/auto.iscsi")
    script = bare.read("/etc/auto.iscsi")
    bare.run("echo '/iscsiauto program:/etc/auto.iscsi' >> /etc/auto.master")
    bare.run("systemctl restart autofs", timeout=120)
    worker = stay(bare, job.BETA)
    before = job.mount(bare, job.BETA)
    if kind == "deb":
        output = dpkg(bare, "--install", package=now.deb)
    else:
        output = rpm(bare, "--install", package=now.rpm)
    assert "/etc/auto.iscsi.orig" in output and "/etc/auto.master:" in output
    assert bare.read("/etc/auto.iscsi.orig") == script
    assert undisturbed(bare, job.BETA, worker) and job.mount(bare, job.BETA) == before
    assert works(bare, job.ALPHA)
    mount = job.mount(bare, job.ALPHA)
    assert mount and mount.fstype == "ext3"
    assert len(bare.run("ls /run/auto-iscsi/claims").lines) == 1  # the script makes no claims
    points = [each.point for each in bare.mounts("/") if each.fstype == "autofs"]
    assert points.count(job.ROOT) == 1
    assert bare.run("ls /etc/auto.master.d").stdout == ""
    # After the removal, the script serves its line again.
    if kind == "deb":
        dpkg(bare, "--remove", "auto-iscsi")
    else:
        rpm(bare, "--erase", "auto-iscsi")
    bare.run("mv /etc/auto.iscsi.orig /etc/auto.iscsi")
    assert undisturbed(bare, job.BETA, worker)
    assert works(bare, last) and undisturbed(bare, job.BETA, worker)
    worker.kill()


@pytest.mark.long
def test_upgrade_downgrade_remove_and_purge_with_snapshots_in_use(
    vm: Machine, san: San, now: Package, later: Package
) -> None:
    present(vm, san, job.BETA, job.ALPHA)
    worker = stay(vm, job.BETA)
    mine = edit(vm)
    vm.run(f"systemctl disable --now {TIMER}")
    for package, version in ((later.deb, LATER), (now.deb, VERSION), (now.deb, VERSION)):
        dpkg(vm, "--install", package=package)
        assert vm.run("auto-iscsi --version").stdout == f"auto-iscsi {version}\n"
        assert edited(vm) == mine
        assert undisturbed(vm, job.BETA, worker)
        assert timer(vm) == ["disabled", "inactive"]
    assert works(vm, job.ALPHA)
    vm.run(f"systemctl enable --now {TIMER}")
    dpkg(vm, "--remove", "auto-iscsi")
    assert edited(vm) == mine
    assert undisturbed(vm, job.BETA, worker)
    assert vm.run("systemctl --failed --plain --no-legend").stdout == ""
    dpkg(vm, "--install", package=now.deb)
    assert edited(vm) == mine and timer(vm) == ["enabled", "active"]
    assert works(vm, job.ALPHA) and undisturbed(vm, job.BETA, worker)
    dpkg(vm, "--purge", "auto-iscsi")
    assert undisturbed(vm, job.BETA, worker)
    assert vm.run(OURS).stdout == ""
    worker.kill()
    # Without a mount point automount ends; after another installation it serves again.
    vm.run(f"umount {job.ROOT}/{job.BETA}; umount {job.ROOT}/{job.ALPHA}", check=False)
    vm.run("systemctl restart autofs", timeout=120, check=False)
    dpkg(vm, "--install", package=now.deb)
    assert works(vm, job.BETA)


@pytest.mark.long
def test_the_rpm_is_upgraded_downgraded_and_erased_like_the_deb(
    bare: Machine, san: San, now: Package, later: Package
) -> None:
    present(bare, san, job.BETA, job.ALPHA)
    rpm(bare, "--install", package=now.rpm)
    worker = stay(bare, job.BETA)
    assert timer(bare) == ["enabled", "active"]
    mine = edit(bare)
    bare.run(f"systemctl disable --now {TIMER}")
    for words, package, version in (
        (["--upgrade"], later.rpm, LATER),
        (["--upgrade", "--oldpackage"], now.rpm, VERSION),
        (["--upgrade", "--replacepkgs"], now.rpm, VERSION),
    ):
        rpm(bare, *words, package=package)
        assert bare.run("auto-iscsi --version").stdout == f"auto-iscsi {version}\n"
        assert edited(bare) == mine
        assert undisturbed(bare, job.BETA, worker)
        assert timer(bare) == ["disabled", "inactive"]
    assert works(bare, job.ALPHA)
    bare.run(f"systemctl enable --now {TIMER}")
    rpm(bare, "--erase", "auto-iscsi")
    assert undisturbed(bare, job.BETA, worker)
    assert bare.run("systemctl --failed --plain --no-legend").stdout == ""
    # rpm has no purge: edited files stay, with the suffix that rpm gives them.
    edited_files = ["/etc/auto.iscsi.conf", LINE, "/etc/cron.d/auto-iscsi"]
    files = [path for path in bare.run(OURS).lines if not path.endswith((".rpmnew", ".rpmorig"))]
    assert files == sorted(f"{path}.rpmsave" for path in edited_files)
    worker.kill()


@pytest.mark.long
def test_make_install_with_the_libraries_inside_on_a_host_without_them(
    bare: Machine, san: San
) -> None:
    # The guest has no make: the command that make would run is run there.
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("dist/standalone", "etc", "man", "tools"):
            archive.add(TREE / name, f"tree/{name}")
    bare.write("/root/tree.tgz", packed.getvalue())
    install = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "install", "BUNDLED=yes"],
        cwd=TREE,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.splitlines()[-1]
    present(bare, san, job.BETA)
    bare.run("tar -C /root -xzf /root/tree.tgz")
    libraries = [f"python3-{name}" for name in ("configobj", "pyudev", "sh")]
    dpkg(bare, "--force-depends", "--remove", *libraries)
    for _ in range(2):
        bare.run(f"cd /root/tree && {install}", timeout=120)
        assert bare.run(f"cat {LINE}").stdout.count("/usr/local/libexec/auto-iscsi/auto.iscsi") == 1
    worker = stay(bare, job.BETA)
    assert bare.run("auto-iscsi explain --settings").stdout
    assert timer(bare) == ["enabled", "active"]
    bare.run("systemctl start auto-iscsi.service")
    assert undisturbed(bare, job.BETA, worker)
    bare.run(f"cd /root/tree && {install} --undo")
    assert undisturbed(bare, job.BETA, worker)
    assert bare.run(OURS).stdout == ""
    assert timer(bare)[-1] == "inactive"
    worker.kill()
