"""Does the package's life on a host with systemd go as on one without (tests/automount)?"""

from __future__ import annotations

import io
import subprocess
import tarfile
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
#: All that could be left behind, wherever it is.
OURS = r"find / -xdev -path /root -prune -o \( -name '*auto-iscsi*' -o -name 'auto.iscsi*'" + (
    r" -o -name 'iscsi.autofs*' \) -print | sort"
)


class Package(NamedTuple):
    """A version, as it was built."""

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
    """A later version, whose shipped configuration is not the same."""
    folder = sources.copy_to(tmp_path_factory.mktemp("later") / "folder")
    for name in ("auto_iscsi/__init__.py", "debian/changelog", "rpm/auto-iscsi.spec"):
        path = folder / name
        path.write_text(path.read_text().replace(VERSION, LATER))
    with open(folder / "etc/auto.iscsi.conf", "a") as stream:
        stream.write("# This is new.\n")
    said = subprocess.run(
        ["make", "deb", "rpm"],
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert not said.returncode, said.stdout
    return built(folder / "dist", LATER)


def present(vm: Machine, san: San, *names: str) -> None:
    for name in names:
        san.target(name, [san.disk([san.fs("ext3", {FILE: "text\n"})])])
    vm.discover()


def works(vm: Machine, name: str) -> bool:
    return job.visit(vm, name, FILE, check=False).stdout == "text\n"


def stay(vm: Machine, name: str) -> Command:
    """Have somebody work in a snapshot."""
    assert works(vm, name)
    there = f"cd {job.ROOT}/{name} && echo there && exec sleep 3000"
    worker = vm.start(there, user="user", timeout=3100)
    assert job.until(lambda: "there" in worker.output())
    return worker


def undisturbed(vm: Machine, name: str, worker: Command) -> bool:
    """Tell whether who works in a snapshot can go on, and reads from it."""
    mounted = job.mount(vm, name) is not None
    file = vm.run(f"cat {job.ROOT}/{name}/{FILE}", user="user", check=False).stdout
    return mounted and not worker.done and file == "text\n"


def dpkg(vm: Machine, *words: str, package: bytes = b"") -> str:
    path = "/root/auto-iscsi.deb"
    if package:
        vm.write(path, package)
    # As apt does for who wants to keep what was edited.
    options = ["--force-confold"] if package else []
    return vm.run(
        ["dpkg", *options, *words, *([path] if package else [])],
        env={"DEBIAN_FRONTEND": "noninteractive"},
        timeout=300,
    ).stdout


def rpm(vm: Machine, *words: str, package: bytes = b"") -> str:
    """Run rpm, which cannot know of Debian's packages, and return all that it says."""
    if package:
        vm.write("/root/auto-iscsi.rpm", package)
    path = ["--nodeps", "/root/auto-iscsi.rpm"] if package else []
    done = vm.run(["rpm", *words, *path], timeout=300)
    return done.stdout + done.stderr


def timer(vm: Machine) -> list[str]:
    """Return whether the timer is enabled and active."""
    return vm.run(f"systemctl is-enabled {TIMER}; systemctl is-active {TIMER}", check=False).lines


def edit(vm: Machine) -> str:
    """Change all that is the administrator's to change, and return it."""
    vm.run(
        f"echo 'udev_timeout = 31s' >> /etc/auto.iscsi.conf; echo '# mine' >> {LINE};"
        " sed -i 's/^[*]/#*/' /etc/cron.d/auto-iscsi"
    )
    return edited(vm)


def edited(vm: Machine) -> str:
    return vm.run(f"cat /etc/auto.iscsi.conf {LINE} /etc/cron.d/auto-iscsi").stdout


@pytest.mark.core
def test_once_it_is_installed_sessions_begin_and_end_by_themselves(vm: Machine, san: San) -> None:
    gone, held, hidden = job.BETA, job.ALPHA, f"{job.ARRAY}-elsewhere"
    present(vm, san, gone, held, hidden)
    assert vm.run("stat -c %a:%U /run/auto-iscsi").stdout == "700:root\n"
    assert timer(vm) == ["enabled", "active"]
    assert vm.run(f"systemd-analyze verify --man=no auto-iscsi.service {TIMER} 2>&1").stdout == ""
    level = vm.run("systemd-analyze security --no-pager auto-iscsi.service").lines[-1]
    assert "OK" in level, level
    # Sooner than shipped.
    vm.write(
        f"/etc/systemd/system/{TIMER}.d/soon.conf",
        "[Timer]\nOnCalendar=*:*:0/15\nAccuracySec=100ms\n",
    )
    vm.run(f"systemctl daemon-reload && systemctl restart {TIMER}")
    job.configure(vm, "idle = 3s\nlease = 3s\nudev_timeout = 50s\n")
    vm.automount("--timeout=2 --negative-timeout=1", program="/usr/libexec/auto-iscsi/auto.iscsi")
    worker = stay(vm, held)
    lurker = stay(vm, hidden)
    # As in a container. (A copy at its own place ends with it: automount removes the directory,
    # and that unmounts what is mounted on it in any namespace.)
    vm.run(
        f"unshare --mount --propagation private sh -c 'mount --bind {job.ROOT}/{hidden} /mnt;"
        " sleep 3000 >/dev/null 2>&1 &'"
    )
    lurker.kill()
    assert works(vm, gone)
    found = job.mount(vm, gone)
    assert found and {"ro"} <= set(found.options.split(","))
    assert job.until(lambda: not vm.sessions(gone), 120)
    assert len(vm.sessions(held)) == 1 and len(vm.sessions(hidden)) == 1
    assert undisturbed(vm, held, worker)
    assert san.sessions().get(gone, 0) == 0
    state = vm.run("systemctl show --value --property=Result auto-iscsi.service").stdout
    assert state == "success\n", vm.journal("-u", "auto-iscsi.service")
    assert works(vm, gone)
    # A login that is not through when the reaper ends is not its to kill.
    kill = vm.run("systemctl show --value --property=KillMode auto-iscsi.service").stdout
    assert kill == "process\n"


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_over_the_script_what_is_in_use_stays_and_the_next_visit_is_ours(
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
        said = dpkg(bare, "--install", package=now.deb)
    else:
        said = rpm(bare, "--install", package=now.rpm)
    assert "/etc/auto.iscsi.orig" in said and "/etc/auto.master:" in said
    assert bare.read("/etc/auto.iscsi.orig") == script
    assert undisturbed(bare, job.BETA, worker) and job.mount(bare, job.BETA) == before
    assert works(bare, job.ALPHA)
    found = job.mount(bare, job.ALPHA)
    assert found and found.fstype == "ext3"
    assert len(bare.run("ls /run/auto-iscsi/claims").lines) == 1  # the script knows no claims
    points = [each.point for each in bare.mounts("/") if each.fstype == "autofs"]
    assert points.count(job.ROOT) == 1
    assert bare.run("ls /etc/auto.master.d").stdout == ""
    # And back: the script serves its line again.
    if kind == "deb":
        dpkg(bare, "--remove", "auto-iscsi")
    else:
        rpm(bare, "--erase", "auto-iscsi")
    bare.run("mv /etc/auto.iscsi.orig /etc/auto.iscsi")
    assert undisturbed(bare, job.BETA, worker)
    assert works(bare, last) and undisturbed(bare, job.BETA, worker)
    worker.kill()


@pytest.mark.core
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
    # Its last mount point gone, automount ends; installed anew, it serves again.
    vm.run(f"umount {job.ROOT}/{job.BETA}; umount {job.ROOT}/{job.ALPHA}", check=False)
    vm.run("systemctl restart autofs", timeout=120, check=False)
    dpkg(vm, "--install", package=now.deb)
    assert works(vm, job.BETA)


def test_the_rpm_goes_the_same_way(bare: Machine, san: San, now: Package, later: Package) -> None:
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
    # rpm knows no purge: what was edited stays, under the names that rpm gives it.
    left = ["/etc/auto.iscsi.conf", LINE, "/etc/cron.d/auto-iscsi"]
    found = [path for path in bare.run(OURS).lines if not path.endswith((".rpmnew", ".rpmorig"))]
    assert found == sorted(f"{path}.rpmsave" for path in left)
    worker.kill()


def test_make_install_with_the_libraries_inside_on_a_host_without_them(
    bare: Machine, san: San
) -> None:
    # make is not in the guest; what it runs is, with the folders that it would say.
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
