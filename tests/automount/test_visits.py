"""Users enter /iscsiauto/TARGET, and the real automount runs the built map."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from tests.automount.browse import FILE, MEMORY, Browse, result
from tests.tree.machine import MARGIN, has_ipv6
from tests.unit.key_examples import HOSTILE, NEARLY

VM_BETA = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta-2010-05-03-04:00:01.50612"
VM_GAMMA = "iqn.2001-05.com.equallogic:0-8a0906-vm-gamma-2010-05-03-04:00:02.50613"
ENOENT = "No such file or directory"

# Tries names that a shell would not pass on unchanged.
TRY_ALL = """\
import json, os, sys
for name in json.loads(sys.argv[1]):
    try:
        os.stat(os.fsencode("/iscsiauto/" + name))
    except FileNotFoundError:
        continue
    print("there is", ascii(name))
print("tried")
"""


def present(browse: Browse, name: str, disk: int, portal: str = "", **plan: Any) -> str:
    """Have the SAN present a target whose LUN 0 has one partition; return its portal."""
    portals = [portal] if portal else []
    luns = {0: {"partitions": {"1": browse.disks[disk]}}}
    return browse.machine.target(name, *portals, luns=luns, **plan)


def test_the_first_visit_shows_the_snapshots_files(browse: Browse) -> None:
    present(browse, VM_BETA, 0)
    browse.start()
    assert browse.read(VM_BETA) == "disk-0"
    source, fstype, options = browse.mounted(VM_BETA)
    assert (source, fstype) == ("/dev/sdb1", "ext3")
    assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
    assert len(browse.machine.runs()) == 1


def test_the_second_visit_shows_the_files_again_without_another_login(browse: Browse) -> None:
    present(browse, VM_BETA, 0)
    browse.start()
    assert browse.read(VM_BETA) == "disk-0"
    browse.expired(VM_BETA)
    time.sleep(MEMORY)
    assert browse.read(VM_BETA) == "disk-0"
    assert browse.looked_up(VM_BETA) == 2
    assert len(browse.machine.runs()) == 1


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_a_link_with_the_colons_of_an_ipv6_portal(browse: Browse) -> None:
    portal = present(browse, VM_BETA, 0, browse.machine.portal("::1"))
    browse.start()
    assert browse.read(VM_BETA) == "disk-0"
    link = f"/dev/disk/by-path/ip-{portal.replace('[', '').replace(']', '')}-iscsi-{VM_BETA}-lun-0"
    assert any(
        f'-> -nocheck,ro,fstype=ext3 ":{link}-part1"' in line for line in browse.logged(True)
    )


def test_with_device_kernel_the_same_disk_is_mounted(browse: Browse) -> None:
    present(browse, VM_BETA, 0, after={"udev": None})
    browse.machine.configure("device = kernel")
    browse.start()
    assert browse.read(VM_BETA) == "disk-0"
    assert browse.mounted(VM_BETA)[:2] == ["/dev/sdb1", "ext3"]


def test_a_key_in_capitals_is_a_directory_of_its_own_with_the_same_files(browse: Browse) -> None:
    present(browse, VM_BETA, 0)
    browse.start()
    assert browse.read(VM_BETA.upper()) == "disk-0"
    assert browse.read(VM_BETA) == "disk-0"
    assert len(browse.machine.sids()) == 1


def test_eight_keys_at_once(browse: Browse) -> None:
    names = [f"iqn.2001-05.com.equallogic:many-{number}" for number in range(8)]
    portal = browse.machine.portal()
    for number, name in enumerate(names):
        present(browse, name, number, portal, record=False)
    browse.machine.configure(f"portals = {portal}")
    browse.start()
    users = [browse.enter("cat", f"/iscsiauto/{name}/{FILE}") for name in names]
    read = [result(user) for user in users]
    assert read == [f"disk-{number}" for number in range(8)], browse.logged()
    assert len(browse.machine.sids()) == len(browse.machine.runs("--login")) == 8


def test_eight_users_of_one_key(browse: Browse) -> None:
    present(browse, VM_BETA, 0, after={"udev": 0.3})
    browse.start()
    users = [browse.enter("cat", f"/iscsiauto/{VM_BETA}/{FILE}") for _ in range(8)]
    assert {result(user) for user in users} == {"disk-0"}
    assert len(browse.machine.runs()) == 1


def test_after_ctrl_c_another_visit_of_the_key_is_mounted_with_one_login(browse: Browse) -> None:
    present(browse, VM_BETA, 0)
    # A busy machine takes its time before the second visit, and the login waits for that.
    browse.machine.configure("login_timeout = 50s\nlookup_timeout = 60s")
    browse.machine.stop_before("login")
    browse.start()
    impatient = browse.enter("cat", f"/iscsiauto/{VM_BETA}/{FILE}")
    browse.machine.reached("login")
    impatient.send_signal(signal.SIGINT)
    assert result(impatient) == ""
    again = browse.enter("cat", f"/iscsiauto/{VM_BETA}/{FILE}")
    # automount runs the map a second time beside the first.
    browse.wait_for(lambda: browse.looked_up(VM_BETA) == 2, "the second run")
    time.sleep(0.2)
    browse.machine.go_on()
    assert result(again) == "disk-0"
    assert browse.machine.sids() == [1]
    assert len(browse.machine.runs()) == 1


def test_a_restarted_automount_serves_at_once_and_expires_an_unreachable_target_later(
    browse: Browse,
) -> None:
    portal = present(browse, VM_BETA, 0)
    present(browse, VM_GAMMA, 1)
    browse.machine.configure("[*-vm-beta-*]\nlogin_timeout = 60s\nlookup_timeout = 60s")
    browse.start()
    user = browse.stay(VM_BETA)
    browse.machine.state(1, "FAILED")
    browse.machine.mute(portal)
    browse.stop()
    assert browse.mounted(VM_BETA)
    since = time.monotonic()
    browse.start()
    assert browse.read(VM_GAMMA) == "disk-1"
    assert time.monotonic() - since < 10 + MARGIN
    assert browse.looked_up(VM_BETA) == 2
    assert len(browse.machine.runs(VM_BETA)) == 1
    user.kill()
    browse.expired(VM_BETA)


@pytest.mark.parametrize("device", ["by-path", "kernel"])
def test_another_snapshot_is_never_shown_even_while_automount_remembers_an_old_answer(
    browse: Browse, device: str
) -> None:
    portal = present(browse, VM_BETA, 0)
    present(browse, VM_GAMMA, 1, portal)
    browse.machine.configure(f"device = {device}")
    browse.start(negative=60)
    assert browse.read(VM_BETA) == "disk-0"
    browse.expired(VM_BETA)
    browse.machine.log_out(1)
    assert browse.read(VM_GAMMA) == "disk-1"
    assert browse.mounted(VM_GAMMA)[0] == "/dev/sdb1"  # which was the disk of VM_BETA
    browse.expired(VM_GAMMA)
    shown = browse.read(VM_BETA)
    # `device = kernel` gives the entry of the original, which shows the wrong files.
    assert shown == (ENOENT if device == "by-path" else "disk-1")


def test_once_the_cause_of_a_failure_is_gone_the_next_visit_works(browse: Browse) -> None:
    present(browse, VM_BETA, 0, answers={"login": {"exit": 19}})
    browse.start()
    assert browse.read(VM_BETA) == ENOENT
    (line,) = browse.logged()
    assert f">> auto.iscsi: {VM_BETA}: login through " in line and "(iscsiadm exit 19)" in line
    browse.machine.change(VM_BETA, answers={})
    time.sleep(MEMORY)
    assert browse.read(VM_BETA) == "disk-0"


def test_an_iscsiadm_that_hangs_does_not_hang_automount(browse: Browse) -> None:
    present(browse, VM_BETA, 0, answers={"login": {"hang": 60}})
    present(browse, VM_GAMMA, 1)
    browse.machine.configure("[*-vm-beta-*]\nlogin_timeout = 1s")
    browse.start()
    since = time.monotonic()
    assert browse.read(VM_BETA) == ENOENT
    assert time.monotonic() - since < 1 + 2 + MARGIN
    assert browse.read(VM_GAMMA) == "disk-1"
    assert len(browse.machine.pids(ended=False)) == 1


def test_whatever_a_user_types_is_refused_with_one_clean_line_and_starts_nothing(
    browse: Browse,
) -> None:
    portal = present(browse, VM_BETA, 0)
    browse.machine.configure(f"portals = {portal}\n")
    browse.start(debug=False)
    before = len(browse.logged(debug=True))
    keys = [key for key in (*HOSTILE, *NEARLY) if not {"/", "\0"} & set(key)]
    user = browse.enter("/usr/bin/python3", "-c", TRY_ALL, json.dumps(keys))
    assert result(user) == "tried"
    lines = browse.logged(debug=True)[before:]
    ours = [line for line in lines if ">> " in line]
    assert len(ours) == len(keys) > 80, lines[-30:]
    for line in ours:
        assert ">> auto.iscsi: key " in line and " refused: " in line
        assert line.isascii() and line.isprintable()
    assert browse.machine.runs() == []
    assert not (browse.machine.root / "run/auto-iscsi").exists()
    assert browse.read(VM_BETA) == "disk-0"
