"""Is anything left presented by a crowd at two arrays, with everything killed now and then?

A moment of it here; make soak has ten minutes. 50 snapshots: one array has a target for each, the
other one has LUN numbers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tests.san import job, lio_array
from tests.san.at_san import CONFIGURATION, LONG_AGO, SOON, audited
from tests.san.bed.machine import Machine

SHORT = 45  # seconds
EACH = 25  # snapshots at an array
SCRIPT = Path(__file__).with_name("soak_at_san.py")
SAN_FILE = """\
driver = lio
run_as = root
volumes = {volume}
present = yes
allow = user
max_presented = 40
max_per_minute = 1000
timeout = 90s
[options]
vg = {vg}
portals = 127.0.0.1
mode = {mode}
"""
ARRAYS = {"own": ("vg0", "vm-alpha"), "shared": ("vg1", "vm-beta")}
LATER = f"""
{LONG_AGO} 2>/dev/null
auto-iscsi reap; auto-iscsi san journal
"""
LEFT = "find /etc/iscsi/nodes -type f; iscsiadm -m session; losetup -ln -O NAME,BACK-FILE"


@pytest.mark.long
def test_soak_at_two_arrays(vm: Machine, request: pytest.FixtureRequest) -> None:
    seconds = int(request.config.getoption("--soak") or SHORT)
    files = {}
    for mode, (vg, volume) in ARRAYS.items():
        files.update({key: f"{key}\n" for key in lio_array.make_many(vm, vg, volume, EACH)})
        text = SAN_FILE.format(volume=volume, vg=vg, mode=mode)
        vm.write(f"/etc/auto.iscsi.san.d/{mode}.conf", text)
    vm.run(SOON, timeout=100)
    job.configure(vm, CONFIGURATION.replace("= 2m", "= 4m"))
    before = (lio_array.dump(vm), vm.run(LEFT, check=False).stdout)
    vm.write("/root/soak.py", SCRIPT.read_text())
    soak = vm.start(
        ["python3", "/root/soak.py", f"{seconds}", json.dumps(files)], timeout=seconds + 900
    )
    while not soak.done:
        time.sleep(5)
        if seconds > SHORT and (lines := soak.output().splitlines()):
            print(lines[-1][:300], file=sys.stderr, flush=True)
    result = json.loads(soak.wait().lines[-1])
    print(json.dumps(result, indent=2))
    assert result["faults"] == []
    assert result["counts"]["visits that worked"] > seconds / 60

    assert job.until(lambda: not [m for m in vm.mounts(job.ROOT) if m.fstype != "autofs"], 120)
    last = ""
    for _ in range(5):
        last = vm.run(LATER, check=False, timeout=300).stdout
        if "nothing is presented" in last:
            break
    assert "nothing is presented to this host" in last
    assert (lio_array.dump(vm), vm.run(LEFT, check=False).stdout) == before
    presents, revokes = audited(vm, "present"), audited(vm, "revoke")
    print(f"{len(presents)} presents, {len(revokes)} revokes in the audit log")
    assert presents and revokes
    reasons = {line.partition(": ")[2] for line in job.messages(vm)}
    print("\n".join(sorted(reasons)))
    assert not any("please report" in reason for reason in reasons)
