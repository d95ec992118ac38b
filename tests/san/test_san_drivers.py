"""A driver runs as the packages' user, and what it presented is revoked by the timer's service."""

from __future__ import annotations

import json
import re

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.conftest import TREE

NAME = "vm-beta@monday"
FILE = """\
driver = /opt/example/driver
volumes = vm-*
present = yes
[options]
folder = /srv/array
"""


def set_up(vm: Machine) -> None:
    """Install the example driver of docs/san-driver.md, with an array of two snapshots."""
    document = (TREE / "docs/san-driver.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", document, re.S)
    vm.write("/opt/example/driver", code)
    vm.write("/etc/auto.iscsi.san.d/example.conf", FILE)
    vm.run(
        "chmod 755 /opt/example/driver; install -d -o auto-iscsi /srv/array /srv/array/vm-beta;"
        " touch /srv/array/vm-beta/monday /srv/array/vm-beta/tuesday"
    )


def presented(vm: Machine) -> list[str]:
    return vm.run("cd /srv/array/vm-beta; stat -c %U:%n *.lease 2>/dev/null; true").lines


def leases(vm: Machine) -> list[dict[str, str]]:
    done = vm.run("auto-iscsi san journal --json", check=False)
    found: list[dict[str, str]] = json.loads(done.stdout)["leases"]
    return found


def test_the_suite_as_the_packages_user(vm: Machine) -> None:
    set_up(vm)
    report = vm.run("auto-iscsi san test example", timeout=600)
    assert report.lines[-1].startswith("11 ok, 0 failed"), report.stdout
    assert presented(vm) == []


def test_presented_by_the_administrator_and_revoked_by_the_timer(vm: Machine) -> None:
    set_up(vm)
    assert vm.run("auto-iscsi check; auto-iscsi doctor", check=False).stdout.count("1 SAN") == 1
    vm.run(f"auto-iscsi san present example {NAME}")
    assert presented(vm) == ["auto-iscsi:monday.lease"]
    # For two minutes it is left to whoever wants to log in. After a boot, nobody does.
    vm.run("systemctl start auto-iscsi.service auto-iscsi-san.service", timeout=120)
    assert presented(vm) != []
    lease = leases(vm)[0]["lease"]
    vm.run(f'sed -i \'s/"boot": "[^"]*"/"boot": "-"/\' /var/lib/auto-iscsi/san/{lease}')
    vm.run("systemctl start auto-iscsi.service", timeout=120)
    assert job.until(lambda: not presented(vm), 60), vm.journal("-u", "auto-iscsi-san.service")
    assert leases(vm) == []
    lines = vm.journal("-t", "auto-iscsi", "SYSLOG_FACILITY=10").splitlines()
    head = "san=example volume=vm-beta snapshot=monday lease="
    assert [line.split("lease=")[0] + "lease=" for line in lines] == [
        f"present {head}",
        f"revoke {head}",
    ]
    assert "result=done" in lines[1] and lines[1].endswith("via=systemd")


def test_killed_while_it_is_presented(vm: Machine) -> None:
    """SIGKILL of auto-iscsi: the kernel ends the driver, and the journal knows the snapshot."""
    set_up(vm)
    vm.run(
        "sed -i 's/^    draft.unlink()/    __import__(\"time\").sleep(600)/' /opt/example/driver"
    )
    vm.run(
        f"auto-iscsi san present example {NAME} >/dev/null 2>&1 & pid=$!;"
        " until [ -e /srv/array/vm-beta/monday.lease ]; do sleep 0.1; done; kill -9 $pid"
    )
    assert job.until(lambda: not vm.run("pgrep -u auto-iscsi; true").stdout, 30)
    assert [lease["state"] for lease in leases(vm)] == ["PRESENTING"]
    set_up(vm)
    vm.run('sed -i \'s/"boot": "[^"]*"/"boot": "-"/\' /var/lib/auto-iscsi/san/*-*')
    vm.run("auto-iscsi san journal --finish")
    assert (presented(vm), leases(vm)) == ([], [])
