"""The driver `eqlx` with real targets: what it presents can be logged in to, and nothing else.

The group's command line is group_cli.py behind the guest's sshd; what it sets online, and whom it
admits, are targets and ACLs of the guest's kernel. The driver runs as a user without rights.
"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.eqlx_group import FIRST, FOLDER, LIVE, OTHER, PREFIX, SECOND, VOLUME, Group


@pytest.fixture
def eql(vm: Machine, san: San) -> Group:
    return Group(vm, san)


def test_what_is_presented_is_read_and_nothing_else_is_there(vm: Machine, eql: Group) -> None:
    iqn = f"{PREFIX}-{FIRST}"
    reply = eql.call("list", volume=VOLUME, initiator=eql.initiator)
    assert [each["snapshot"] for each in reply["snapshots"]] == [FIRST, SECOND]
    assert not any(each["presented"] for each in reply["snapshots"])
    assert eql.offered() == []
    reply = eql.present()
    assert reply["target"]["iqn"] == iqn and reply["target"]["portals"] == ["127.0.0.1:3260"]
    assert eql.present() == {**reply, "already": True}
    assert eql.offered() == [iqn]  # and neither the live volume nor the other snapshot
    assert eql.login(LIVE, check=False) != 0
    eql.login(iqn)
    disk = job.until(lambda: job.session(vm, iqn).disks)[0]
    vm.run(f"udevadm settle; mkdir -p /mnt/x; mount -o ro /dev/{disk}1 /mnt/x")
    assert vm.run("cat /mnt/x/marker").stdout == f"{FIRST}\n"
    write = f"blockdev --setrw /dev/{disk}; dd if=/dev/zero of=/dev/{disk} count=1 oflag=direct"
    assert vm.run(write, check=False).status  # the target itself refuses it
    vm.run("umount /mnt/x")
    given = {"made": reply["made"], "handle": reply["handle"]}
    error = eql.revoke(**given)["error"]
    assert (error["code"], error["effect"]) == ("busy", "none")
    assert job.session(vm, iqn).state == "LOGGED_IN" and eql.offered() == [iqn]
    eql.logout(iqn)
    assert eql.revoke(**given) == {"ok": True, "already": False, "kept": []}
    assert eql.revoke(**given) == {"ok": True, "already": True, "kept": []}
    assert eql.offered() == []
    assert eql.admitted(LIVE) == [OTHER] and len(eql.read()["volumes"][VOLUME]["access"]) == 1


def test_two_snapshots_share_the_record_and_a_password_opens_the_array(eql: Group) -> None:
    first, second = eql.present(password="eightch8"), eql.present(SECOND, password="eightch8")
    assert first["ok"] and second["ok"]
    assert eql.offered() == [f"{PREFIX}-{FIRST}", f"{PREFIX}-{SECOND}"]
    assert eql.admitted(f"{PREFIX}-{FIRST}") == sorted([eql.initiator, OTHER])
    assert eql.revoke(made=first["made"], handle=first["handle"])["kept"]
    eql.login(f"{PREFIX}-{SECOND}")  # it still works
    eql.logout(f"{PREFIX}-{SECOND}")
    assert eql.revoke(SECOND, made=second["made"], handle=second["handle"])["kept"] == []
    assert eql.offered() == [] and eql.admitted(LIVE) == [OTHER]
    assert eql.present(password="wrong123")["error"]["code"] == "auth"


@pytest.mark.long
def test_a_killed_driver_leaves_nothing_that_is_not_found_again(vm: Machine, eql: Group) -> None:
    iqn = f"{PREFIX}-{FIRST}"
    hangs, gone = f"test -e {FOLDER}/hangs", f"! pgrep -f '[g]roup_cli.py {FOLDER}'"
    for where, offered in (("after:create", []), ("after:online", [iqn])):
        eql.write({**eql.read(), "quirks": [f"hang:{where}"]})
        running = eql.start("present", **eql.wanted(FIRST))
        assert job.until(lambda: not vm.run(hangs, check=False).status)
        running.kill()
        running.wait(check=False)
        assert job.until(lambda: not vm.run(gone, check=False).status)
        vm.run(f"rm {FOLDER}/hangs")
        assert eql.offered() == offered
        eql.write({**eql.read(), "quirks": []})
        assert eql.revoke() == {"ok": True, "already": False, "kept": []}
        assert eql.offered() == [] and eql.admitted(LIVE) == [OTHER]
    reply = eql.present()
    assert reply["ok"] and not reply["already"]
    eql.login(iqn)
    eql.logout(iqn)
    assert eql.revoke(made=reply["made"], handle=reply["handle"])["ok"]


def test_the_administrator_presents_and_revokes(vm: Machine, eql: Group) -> None:
    iqn = f"{PREFIX}-{FIRST}"
    eql.configure()
    assert FIRST in vm.run("auto-iscsi san list eql1", timeout=120).stdout
    vm.run(f"auto-iscsi san present eql1 {VOLUME}@{FIRST}", timeout=120)
    assert eql.offered() == [iqn] and FIRST in vm.run("auto-iscsi san journal").stdout
    eql.login(iqn)
    revoke = f"auto-iscsi san revoke eql1 {VOLUME}@{FIRST}"
    assert vm.run(revoke, check=False, timeout=120).status == 1 and eql.offered() == [iqn]
    eql.logout(iqn)
    vm.run(revoke, timeout=120)
    assert eql.offered() == [] and eql.admitted(LIVE) == [OTHER]
    assert FIRST not in vm.run("auto-iscsi san journal").stdout
