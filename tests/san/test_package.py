"""Does the package's life on a host with systemd go as on one without (tests/automount)?"""

from __future__ import annotations

from pathlib import Path

from tests.san import job
from tests.san.bed import requirements
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

TREE = Path(__file__).resolve().parents[2]
DEB = "/root/auto-iscsi.deb"
FILES = {"etc/really_important_file": "text\n"}


def send(vm: Machine) -> None:
    """Put the package that was built last on the machine."""
    deb = requirements.newest_deb(TREE)
    assert deb, "no package in dist/: make deb"
    vm.write(DEB, deb.read_bytes())


def dpkg(vm: Machine, *words: str) -> str:
    return vm.run(["dpkg", *words], env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=300).stdout


def test_once_it_is_installed_nothing_else_is_to_be_done(vm: Machine, san: San) -> None:
    san.target(job.BETA, [san.disk([san.fs("ext3", FILES)])])
    vm.discover()
    assert job.visit(vm, job.BETA, "etc/really_important_file").stdout == "text\n"
    found = job.mount(vm, job.BETA)
    assert found and {"ro", "nosuid", "nodev"} <= set(found.options.split(","))
    assert vm.run("stat -c %a:%U /run/auto-iscsi").stdout == "700:root\n"


def test_over_the_script_what_is_in_use_stays_and_the_next_visit_is_ours(
    bare: Machine, san: San
) -> None:
    san.target(job.BETA, [san.disk([san.fs("ext3", FILES)])])
    san.target(job.ALPHA, [san.disk([san.fs("ext3", FILES)])])
    bare.discover()
    job.original(bare, "/etc/auto.iscsi")
    bare.run("echo '/iscsiauto program:/etc/auto.iscsi' >> /etc/auto.master")
    bare.run("systemctl restart autofs", timeout=120)
    job.visit(bare, job.BETA, "etc/really_important_file")
    before = job.mount(bare, job.BETA)
    worker = bare.start(f"cd {job.ROOT}/{job.BETA}; sleep 600", user="user", timeout=700)
    send(bare)
    said = dpkg(bare, "--install", DEB)
    assert "/etc/auto.iscsi.orig" in said and "/etc/auto.master:" in said
    assert not worker.done and job.mount(bare, job.BETA) == before
    assert job.visit(bare, job.ALPHA, "etc/really_important_file").stdout == "text\n"
    found = job.mount(bare, job.ALPHA)
    assert found and found.fstype == "ext3"
    points = [each.point for each in bare.mounts("/") if each.fstype == "autofs"]
    assert points.count(job.ROOT) == 1
    assert bare.run("ls /etc/auto.master.d").stdout == ""
    worker.kill()


def test_purged_and_installed_anew_it_works_again(vm: Machine, san: San) -> None:
    san.target(job.BETA, [san.disk([san.fs("ext3", FILES)])])
    vm.discover()
    job.visit(vm, job.BETA, "etc/really_important_file")
    send(vm)
    dpkg(vm, "--purge", "auto-iscsi")
    # Its last mount point gone, automount ends.
    assert job.until(lambda: not vm.mounts(job.ROOT))
    assert vm.run("ls -d /etc/auto.iscsi* /etc/auto.master.d/*", check=False).stdout == ""
    dpkg(vm, "--install", DEB)
    assert job.visit(vm, job.BETA, "etc/really_important_file").stdout == "text\n"
