"""Hundreds of targets at one portal, some with names that few programs are ready for."""

from __future__ import annotations

import json

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

NAMES = [f"iqn.2001-05.com.example:many-{number:03}" for number in range(297)]
LONG = "iqn.2001-05.com.example:" + "long-" * 39 + "name"  # 223 bytes, as RFC 7143 allows
UNDERSCORE = "iqn.2005-10.org.freenas.ctl:vol_1"
LATIN = "iqn.2001-05.com.example:d\u00e9j\u00e0-vu"

# All of them have the LUN of the first one, and its settings.
MAKE = """
import json, os
root = b"/sys/kernel/config/target/iscsi"
names, latin, first, portal = json.load(open("/tmp/names"))
(lun,) = [name for name in os.listdir(f"{root.decode()}/{first}/tpgt_1/lun/lun_0")
          if os.path.islink(f"{root.decode()}/{first}/tpgt_1/lun/lun_0/{name}")]
store = os.path.realpath(f"{root.decode()}/{first}/tpgt_1/lun/lun_0/{lun}").encode()
for name in [*(name.encode() for name in names), latin.encode("latin-1")]:
    group = root + b"/" + name + b"/tpgt_1"
    os.makedirs(group)
    for attribute in ("generate_node_acls", "cache_dynamic_acls", "demo_mode_write_protect"):
        with open(os.path.join(group, b"attrib", attribute.encode()), "w") as file:
            file.write("1")
    with open(group + b"/attrib/authentication", "w") as file:
        file.write("0")
    os.mkdir(group + b"/lun/lun_0")
    os.symlink(store, group + b"/lun/lun_0/disk")
    os.mkdir(group + b"/np/" + portal.encode())
    with open(group + b"/enable", "w") as file:
        file.write("1")
"""


@pytest.mark.long
def test_three_hundred_targets_of_which_some_have_strange_names(vm: Machine, san: San) -> None:
    assert len(LONG) == 223
    san.target(NAMES[0])
    plan = [[*NAMES[1:], LONG, UNDERSCORE], LATIN, NAMES[0], "127.0.0.1:3260"]
    vm.write("/tmp/names", json.dumps(plan))
    vm.write("/tmp/make.py", MAKE)
    vm.run("python3 /tmp/make.py", timeout=300)
    job.configure(vm, "portals = 127.0.0.1\nlogin_timeout = 40s\nlookup_timeout = 90s\n")
    for name in (NAMES[0], NAMES[150], NAMES[-1]):
        assert job.visit(vm, name).stdout == f"{NAMES[0]}\n"
    for name in (UNDERSCORE, LONG):  # whether they work is for open-iscsi and udev to say
        if not job.visit(vm, name, check=False).stdout:
            assert any(name in line for line in job.messages(vm))
    shown = json.loads(vm.run("auto-iscsi status --json", check=False, timeout=120).stdout)
    assert NAMES[150] in json.dumps(shown)
    doctor = vm.run("auto-iscsi doctor", check=False, timeout=120)
    assert doctor.status in (0, 1) and "bug" not in doctor.stdout + doctor.stderr
    vm.run("iscsiadm -m discovery -t st -p 127.0.0.1", check=False, timeout=120)
    vm.run("auto-iscsi doctor", check=False, timeout=120)
    assert job.visit(vm, NAMES[7]).stdout == f"{NAMES[0]}\n"
