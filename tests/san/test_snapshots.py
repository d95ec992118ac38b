"""/snapshots: the volumes, their snapshots by time, and Windows users' Previous Versions."""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

STEM = "iqn.2001-05.com.example"
DAYS = [f"{STEM}:vm-beta-2010-05-0{day}-04:00:01" for day in (3, 4, 5)]
ALPHA = f"{STEM}:vm-alpha-2010-05-03-04:00:01"
CONFIGURATION = "portals = 127.0.0.1\ntimezone = UTC\nudev_timeout = 50s\n"
OFFERED = "stat -c %Y%z /run/auto-iscsi/offered/*"


def present(san: San, target: str, text: str) -> None:
    san.target(target, [san.disk([san.fs("ext3", {"etc/passwd": text})])])


def listed(vm: Machine, path: str) -> list[str]:
    return vm.run(["ls", path], user="user", timeout=120).lines


def forgotten(vm: Machine, volume: str) -> bool:
    """Wait until automount has unmounted a volume's links, which nobody reads."""
    place = f"/snapshots/{volume}"
    return job.until(lambda: all(m.fstype == "autofs" for m in vm.mounts(place)), 60)


def test_snapshots_by_volume_and_time(vm: Machine, san: San) -> None:
    for target, text in ((DAYS[0], "old\n"), (DAYS[1], "newer\n"), (ALPHA, "alpha\n")):
        present(san, target, text)
    job.configure(vm, CONFIGURATION)
    assert listed(vm, "/snapshots") == []
    assert "3 snapshots of 2 volumes" in vm.run("auto-iscsi list", timeout=120).stdout
    assert job.until(lambda: listed(vm, "/snapshots") == ["vm-alpha", "vm-beta"])
    names = ["2010-05-03_04:00:01", "2010-05-04_04:00:01"]
    assert listed(vm, "/snapshots/vm-beta") == [*names, "latest"]
    (line,) = vm.run("ls -l --time-style=full-iso /snapshots/vm-beta | grep ' 2010.*03_'").lines
    assert "2010-05-03 04:00:01" in line and line.endswith(f"-> /iscsiauto/{DAYS[0]}")
    assert vm.run("stat -c '%a %U' /snapshots/vm-beta").stdout == "755 root\n"
    # Shells complete it; and what walks through directories logs in to nothing.
    complete = vm.run(["bash", "-c", "compgen -f /snapshots/vm-beta/2010-05-04"], user="user")
    assert complete.lines == [f"/snapshots/vm-beta/{names[1]}"]
    walk = "find /snapshots; du -a /snapshots; tar -cf /tmp/all.tar /snapshots; ls -lR /snapshots"
    walked = vm.run(walk, user="user", check=False, timeout=200).stdout
    assert f"/snapshots/vm-alpha/{names[0]}" in walked
    assert vm.sessions() == [] and not vm.run("ls /etc/iscsi/nodes", check=False).stdout

    passwd = "/snapshots/vm-beta/latest/etc/passwd"
    assert vm.run(["cat", passwd], user="user", timeout=120).stdout == "newer\n"
    assert [session.target for session in vm.sessions()] == [DAYS[1]]

    # Presented, and revoked: seen at the next visit.
    assert forgotten(vm, "vm-beta")
    present(san, DAYS[2], "newest\n")
    san.targets[DAYS[0]].delete()
    expected = [names[1], "2010-05-05_04:00:01", "latest"]
    assert listed(vm, "/snapshots/vm-beta") == expected
    assert vm.run(["cat", passwd], user="user", timeout=120).stdout == "newest\n"
    # The last one of a volume: the volume goes, too.
    san.targets[ALPHA].delete()
    assert forgotten(vm, "vm-alpha")
    assert vm.run("ls /snapshots/vm-alpha", check=False).status != 0
    assert job.until(lambda: listed(vm, "/snapshots") == ["vm-beta"])

    # Names that are no volume are refused, and no portal is asked.
    before = vm.run(OFFERED).stdout
    for key in ("nothing", "$(id)", "VM-BETA", "..x", DAYS[1]):
        assert vm.run(["ls", f"/snapshots/{key}"], check=False, user="user").status != 0
    assert vm.run(OFFERED).stdout == before
    assert "auto.snapshots: key 'nothing' refused" in vm.journal("-u", "autofs")


SHARE = """
[vm-beta]
    path = /snapshots/vm-beta/latest
    vfs objects = shadow_copy2
    shadow:snapdir = /snapshots/vm-beta
    shadow:basedir = /snapshots/vm-beta/latest
    guest ok = yes
"""


def test_windows_users_see_previous_versions(vm: Machine, san: San) -> None:
    present(san, DAYS[0], "old\n")
    present(san, DAYS[1], "newer\n")
    # An hour in the zone of the names; Samba reads UTC.
    zone = CONFIGURATION.replace("UTC", "Europe/Vienna")
    job.configure(vm, f"{zone}link_format = @GMT-%Y.%m.%d-%H.%M.%S\n")
    vm.run("auto-iscsi list", timeout=120)
    times = ["@GMT-2010.05.03-02.00.01", "@GMT-2010.05.04-02.00.01"]
    assert listed(vm, "/snapshots/vm-beta") == [*times, "latest"]
    vm.write("/etc/samba/smb.conf", f"[global]\n    map to guest = Bad User\n{SHARE}")
    vm.run("smbd --daemon", timeout=60)
    client = ["smbclient", "-N", "//127.0.0.1/vm-beta", "-c"]

    def shares() -> bool:
        return vm.run([*client, "ls"], check=False, timeout=200).status == 0

    assert job.until(shares, 120)
    seen = vm.run([*client, "allinfo etc/passwd"], check=False, timeout=200).stdout
    assert [line for line in seen.splitlines() if line[:4] == "@GMT"] == times[::-1], seen
    got = f'get "{times[0]}\\etc\\passwd" /tmp/got'
    vm.run([*client, got], timeout=200)
    assert vm.read("/tmp/got") == b"old\n"
