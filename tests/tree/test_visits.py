"""A visit: the key is looked up, and the answer is what automount mounts."""

from __future__ import annotations

import pytest

from tests.tree.machine import NODE_FOLDERS, VOL1, VOL10, Machine


@pytest.mark.parametrize("machine", NODE_FOLDERS, indirect=True)
def test_the_first_visit_logs_in_and_names_the_partition_by_its_link(machine: Machine) -> None:
    portal = machine.target(VOL1)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.runs() == [f"-m node -T {VOL1} -p {portal},1 --login"]


def test_the_second_visit_gives_the_same_answer_and_starts_nothing(machine: Machine) -> None:
    machine.target(VOL1)
    first = machine.lookup(VOL1)
    runs = machine.runs()
    assert machine.visit(VOL1) == first.entry != ""
    assert machine.runs() == runs


def test_after_a_logout_the_next_visit_logs_in_again(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.lookup(VOL1)
    machine.log_out(1)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs("--login")) == 2


def test_after_a_reboot_the_old_claim_does_not_count(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.lookup(VOL1)
    assert machine.claim(VOL1).ours
    machine.reboot()
    assert machine.session(VOL1, portal) == 1
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert not machine.claim(VOL1).ours


@pytest.mark.parametrize("late", ["disk", "partition", "udev"])
def test_a_lookup_waits_for_disk_partition_and_link_after_the_login(
    machine: Machine, late: str
) -> None:
    portal = machine.target(VOL1, after={late: 0.4})
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    machine.quiet()


def test_with_device_kernel_the_entry_is_the_originals_and_udev_is_not_waited_for(
    machine: Machine,
) -> None:
    machine.target(VOL1, after={"udev": None})
    machine.configure("device = kernel")
    for _ in ("cold", "warm"):
        assert machine.visit(VOL1) == "-nocheck,ro,fstype=ext3 :/dev/sdb1"


def test_the_configuration_says_what_is_mounted_and_how(machine: Machine) -> None:
    portal = machine.target(VOL1, luns={0: {}, 1: {"partitions": {"1": None, "2": None}}})
    machine.configure("lun = 1\n[*-vol1]\n partition = 2\n fstype = xfs\n options = ro, nouuid")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal, "1", 2).replace(
        "-nocheck,ro,fstype=ext3", "-ro,nouuid,fstype=xfs"
    )


@pytest.mark.parametrize("length", [190, 198, 199, 210, 216, 223])
def test_a_name_too_long_for_a_link_is_mounted_by_the_kernels_name(
    machine: Machine, length: int
) -> None:
    name = f"{VOL1}-".ljust(length, "x")
    portal = machine.target(name, after={"udev": 0.4})
    by_link, by_node = machine.entry(name, portal), "-nocheck,ro,fstype=ext3 :/dev/sdb1"
    for _ in ("cold", "warm"):
        assert machine.visit(name) == (by_node if length > 198 else by_link)
    assert machine.claim(name).ours


def test_a_disk_too_long_for_a_link_waits_for_udev_and_says_so(machine: Machine) -> None:
    name = f"{VOL1}-".ljust(223, "x")
    machine.target(name, after={"udev": None})
    machine.configure("udev_timeout = 1s")
    assert "udev has not finished with sdb after 1 s" in machine.lookup(name).log


def test_with_partition_none_the_whole_disk_is_mounted(machine: Machine) -> None:
    portal = machine.target(VOL1, luns={0: {}})
    machine.configure("partition = none")
    for _ in ("cold", "warm"):
        assert machine.visit(VOL1) == machine.entry(VOL1, portal).replace("-part1", "")


def test_a_lun_above_255_is_the_sans_number_whatever_the_kernel_calls_it(machine: Machine) -> None:
    portal = machine.target(VOL1, luns={0x4000 + 300: {"partitions": {"1": None}}})
    machine.configure("lun = 300")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal, "0x412c000000000000")


@pytest.mark.parametrize("key", [VOL1, VOL1.upper(), VOL1.title()])
@pytest.mark.parametrize("spelling", [VOL1, VOL1.upper()], ids=["small", "capitals"])
def test_capitals_in_the_key_or_in_the_record_do_not_matter(
    machine: Machine, key: str, spelling: str
) -> None:
    portal = machine.target(spelling)
    for _ in ("cold", "warm"):
        assert machine.visit(key) == machine.entry(spelling, portal)
    assert machine.runs() == [f"-m node -T {spelling} -p {portal},1 --login"]


def test_a_session_that_something_else_opened_is_used_and_left_alone(machine: Machine) -> None:
    portal = machine.target(VOL1)
    sid = machine.session(VOL1, portal)
    for _ in ("first", "second"):
        assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.runs() == []
    assert not machine.claim(VOL1).ours
    assert machine.recovery_tmo(sid) == "120"


def test_a_session_that_something_else_opened_a_moment_before_us_is_left_alone_too(
    machine: Machine,
) -> None:
    portal = machine.target(VOL1)
    machine.stop_before("login")
    lookup = machine.start(VOL1)
    machine.reached("login")
    sid = machine.session(VOL1, portal)
    machine.go_on()
    assert lookup.answer().entry == machine.entry(VOL1, portal)
    assert machine.sids() == [sid]
    assert not machine.claim(VOL1).ours
    assert machine.recovery_tmo(sid) == "120"


def test_a_session_of_ours_is_claimed_and_its_loss_costs_a_reader_replacement_timeout(
    machine: Machine,
) -> None:
    machine.target(VOL1)
    machine.configure("replacement_timeout = 7s")
    machine.lookup(VOL1)
    assert (machine.claim(VOL1).ours, machine.claim(VOL1).sids) == (True, (1,))
    assert machine.recovery_tmo(1) == "7"


def test_a_session_that_is_up_is_used_and_ours_although_iscsiadm_failed(
    machine: Machine,
) -> None:
    """iscsiadm reads all records, and fails when another target's is deleted meanwhile."""
    portal = machine.target(VOL1, answers={"logged-in": {"exit": 6}})
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.claim(VOL1).opened and len(machine.sids()) == 1


def test_our_claim_ends_with_our_session(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.lookup(VOL1)
    machine.log_out(1)
    machine.session(VOL1, portal)
    assert machine.visit(VOL1)
    assert not machine.claim(VOL1).ours


def test_a_visit_renews_the_claim(machine: Machine) -> None:
    machine.target(VOL1)
    machine.lookup(VOL1)
    first = machine.claim(VOL1)
    machine.lookup(VOL1)
    assert machine.claim(VOL1).looked_up > first.looked_up
    assert machine.claim(VOL1)._replace(looked_up=0) == first._replace(looked_up=0)


def test_each_of_two_targets_has_its_own_session_and_link(machine: Machine) -> None:
    for name in (VOL10, VOL1):
        machine.target(name)
    for name in (VOL1, VOL10, VOL1, VOL10):
        assert f"-iscsi-{name}-lun-0-part1" in machine.visit(name)
    assert len(machine.sids()) == 2
