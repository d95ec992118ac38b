"""auto-iscsi doctor: a host without problems, and each problem that a check reports."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import pytest

from auto_iscsi.admin import cli, doctor, doctor_autofs, output
from auto_iscsi.machine.host import Host
from tests.tree.tree import Content, make_tree

VOL = "iqn.2001-05.com.example:vol"
RECORD = f"/etc/iscsi/nodes/{VOL}/10.0.0.1,3260,1/default"
SESSION = "/sys/class/iscsi_session/session1/targetname"
MAP = "/usr/libexec/auto-iscsi/auto.iscsi"
MASTER = "/etc/auto.master.d/iscsi.autofs"
MOUNTS = "/proc/self/mounts"
AUTOFS = "{} {} autofs rw,fd=6,pgrp={},timeout={},minproto=5,maxproto=5,indirect 0 0\n"
SYSTEMCTL = '#!/bin/sh\ncat "$AUTO_ISCSI_ROOT/units"\n'
VOLUMES = "/var/lib/auto-iscsi/volumes.map"
UNITS = (
    "Id=iscsid.socket\nLoadState=loaded\nActiveState=active\n\nId=auto-iscsi.timer\n"
    "LoadState=loaded\nActiveState=active\n"
)


def version(text: str) -> str:
    return f"#!/bin/sh\necho {text}\n"


#: A host without problems; automount is process 7.
HEALTHY: dict[str, Content] = {
    "/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.1993-08.org.debian:01:5f3a\n",
    "/etc/iscsi/iscsid.conf": "iscsid.startup = /bin/systemctl start iscsid.socket\n",
    "/etc/auto.master": "# the maps\n/misc /etc/auto.misc\n+dir:/etc/auto.master.d\n",
    MASTER: f"/iscsiauto program:{MAP} --timeout=300 --negative-timeout=1 nosuid,nodev\n",
    MAP: "#!/usr/bin/python3 -I\nfrom auto_iscsi.map import program\n",
    MOUNTS: AUTOFS.format(MAP, "/iscsiauto", 7, 300),
    "/proc/7/comm": "automount\n",
    "/proc/7/stat": f"7 (automount) S {' 0' * 30}\n",
    "/proc/uptime": "0.00 0.00\n",
    "/proc/sys/kernel/osrelease": "6.1.0\n",
    "/lib/modules/6.1.0/modules.dep": "kernel/drivers/scsi/iscsi_tcp.ko: \n",
    "/run/udev/control": "",
    "/run/systemd/system": None,
    "/units": UNITS,
    "/usr/sbin/iscsid": version(""),
    "/usr/sbin/iscsiadm": version("iscsiadm version 2.1.8"),
    "/usr/sbin/automount": version("Linux automount version 5.1.9"),
    "/usr/bin/systemctl": SYSTEMCTL,
}


def checked(root: Path, files: dict[str, Content]) -> dict[str, dict[str, str]]:
    """Return the findings, by code, on a healthy host to which these files are added.

    A file with the content "gone" is removed instead.
    """
    for name, content in {**HEALTHY, **files}.items():
        if content == "gone":
            continue
        make_tree(root, {name: content})
        if name.startswith("/usr/"):
            os.chmod(root / name[1:], 0o755)
    report = doctor.report(Host(str(root)), output.Paint(False))
    checks = {check["code"]: check for check in report.data["checks"]}
    assert list(checks) == [c for c in doctor.CHECKS if c not in doctor.ON_THE_NETWORK]
    problems = [check for check in checks.values() if check["level"] == "problem"]
    assert report.status == (1 if problems else 0) and report.data["ok"] == (not problems)
    for check in checks.values():
        line = next(line for line in report.lines if line.split()[1:2] == [check["code"]])
        assert line.startswith(check["level"]) and check["text"] in line
        assert not check["mend"] or f"to do: {check['mend']}" in "\n".join(report.lines)
    return checks


def test_a_healthy_host(tmp_path: Path) -> None:
    checks = checked(tmp_path, {})
    assert {check["level"] for check in checks.values()} == {"ok"}, checks


OLD = "node.name = x\nnode.session.conn_reopen_log_freq = 1\n"
ALL = "[*-vm]\npaths = all\n"
MULTIPATHD = "/proc/9/comm"
SECRET = "node.session.auth.password = secret\n"
AUTOMATIC = "node.startup = automatic\n"
NO_SOCKET = UNITS.replace("active", "inactive", 1)


@pytest.mark.parametrize(
    ("code", "level", "files", "text", "mend"),
    [
        ("iscsid", "problem", {"/usr/sbin/iscsid": "gone"}, "not installed", "open-iscsi"),
        (
            "iscsid",
            "problem",
            {"/units": UNITS.replace("loaded", "masked", 1)},
            "masked",
            "systemctl unmask iscsid.socket",
        ),
        (
            "iscsid",
            "problem",
            {"/units": NO_SOCKET, "/etc/iscsi/iscsid.conf": ""},
            "nothing starts",
            "systemctl enable --now iscsid.socket",
        ),
        (
            "iscsid",
            "warning",
            {"/etc/iscsi/iscsid.conf": "iscsid.startup = /sbin/iscsid\n"},
            "ends with",
            "iscsid.startup",
        ),
        ("kernel-module", "problem", {"/lib/modules/6.1.0/modules.dep": ""}, "no module", "kernel"),
        ("kernel-module", "problem", {"/proc/sys/kernel/osrelease": "6.1.1"}, "are gone", "reboot"),
        (
            "initiator-name",
            "problem",
            {"/etc/iscsi/initiatorname.iscsi": "gone"},
            "does not exist",
            "iscsi-iname",
        ),
        (
            "initiator-name",
            "problem",
            {"/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.1993-08.org.debian:01:\n"},
            "two hosts",
            "iscsi-iname",
        ),
        (
            "initiator-name",
            "problem",
            {"/etc/iscsi/initiatorname.iscsi": "InitiatorName=me\n"},
            "not an iSCSI name",
            "iscsi-iname",
        ),
        (
            "initiator-name",
            "warning",
            {"/etc/iscsi/initiatorname.iscsi": "GenerateName=yes\n"},
            "when it starts",
            "systemctl start open-iscsi",
        ),
        (
            "iscsi-secrets",
            "problem",
            {"/etc/iscsi/iscsid.conf": SECRET},
            "iscsid.conf",
            "chmod 600 /etc/iscsi/iscsid.conf",
        ),
        ("iscsi-secrets", "problem", {RECORD: SECRET}, RECORD, f"chmod 600 {RECORD}"),
        (
            "startup-automatic",
            "warning",
            {RECORD: AUTOMATIC},
            VOL,
            f"iscsiadm -m node -T {VOL} -o update -n node.startup -v manual",
        ),
        (
            "startup-automatic",
            "warning",
            {RECORD.replace(VOL, f"{VOL}$(id)"): AUTOMATIC},  # a portal can offer any name
            VOL,
            f"iscsiadm -m node -T '{VOL}$(id)' -o update -n node.startup -v manual",
        ),
        (
            "startup-automatic",
            "warning",
            {RECORD: AUTOMATIC, SESSION: VOL, f"/run/auto-iscsi/claims/{VOL}": ""},
            VOL,
            "manual",
        ),
        ("startup-automatic", "ok", {RECORD: AUTOMATIC, SESSION: VOL}, "1 other target", ""),
        (
            "open-iscsi-version",
            "problem",
            {"/usr/sbin/iscsiadm": version("iscsiadm version 2.1.12"), RECORD: OLD},
            VOL,
            "2.1.13",
        ),
        (
            "open-iscsi-version",
            "warning",
            {"/usr/sbin/iscsiadm": version("iscsiadm version 6.2.1.12")},
            "none now",
            "2.1.13",
        ),
        ("open-iscsi-version", "unknown", {"/usr/sbin/iscsiadm": "gone"}, "does not print", ""),
        ("master-map", "problem", {MASTER: "# nothing\n"}, "no line", "systemctl reload autofs"),
        ("master-map", "problem", {MAP: "#!/bin/bash\n"}, "another program", "ln -s"),
        ("master-map", "problem", {MAP: "gone"}, "does not exist", "install"),
        (
            "master-map",
            "warning",
            {"/etc/auto.master": f"/iscsiauto \\\n  {MAP}\n+dir:/etc/auto.master.d\n"},
            f"{MASTER}:1 is ignored: /iscsiauto is already in /etc/auto.master:1",
            "remove",
        ),
        ("automount", "problem", {"/proc/7/comm": "bash\n"}, "not running", "systemctl enable"),
        ("automount", "problem", {MOUNTS: "\n"}, "does not serve /iscsiauto", "reload"),
        (
            "automount",
            "problem",
            {MOUNTS: AUTOFS.format(MAP, "/iscsiauto", 8, 300)},
            "left behind by an automount",
            "systemctl restart autofs",
        ),
        (
            "automount",
            "warning",
            {MOUNTS: AUTOFS.format(MAP, "/iscsiauto", 7, 60)},
            "timeout 60",
            "systemctl reload autofs",
        ),
        ("automount", "warning", {"/proc/uptime": "1000.00 0.00\n"}, "newer than", "reload"),
        ("snapshots", "ok", {}, "there is no /snapshots", "begins with /snapshots"),
        (
            "snapshots",
            "problem",
            {"/etc/auto.master.d/own.autofs": f"/snapshots file:{VOLUMES} browse\n"},
            f"{VOLUMES} does not exist",
            "auto-iscsi list",
        ),
        (
            "snapshots",
            "problem",
            {"/etc/auto.master.d/own.autofs": f"/old file:{VOLUMES} browse\n", VOLUMES: ""},
            "does not serve /old (/etc/auto.master.d/own.autofs:1)",
            "systemctl reload autofs",
        ),
        (
            "negative-timeout",
            "warning",
            {MASTER: f"/iscsiauto program:{MAP} --timeout=300\n"},
            "for 60 s (automount's default)",
            "--negative-timeout=1",
        ),
        (
            "negative-timeout",
            "problem",
            {
                MASTER: f"/iscsiauto program:{MAP} --timeout=300 --negative-timeout 5\n",
                "/etc/auto.iscsi.conf": "lease = 1m\n[*-vm]\nlease = 5s\n",
            },
            "after 5 s (lease)",
            "--negative-timeout=1",
        ),
        (
            "autofs-version",
            "warning",
            {"/usr/sbin/automount": version("Linux automount version 5.1.8")},
            "initgroups",
            "mount_wait",
        ),
        (
            "autofs-version",
            "ok",
            {
                "/usr/sbin/automount": version("Linux automount version 5.1.8"),
                "/etc/autofs.conf": "[ autofs ]\nmount_wait = 30\n",
            },
            "5.1.8",
            "",
        ),
        ("udev", "problem", {"/run/udev/control": "gone"}, "not running", "systemd-udevd"),
        (
            "multipath",
            "warning",
            {MULTIPATHD: "multipathd\n", "/etc/multipath.conf": "defaults { no_path_retry queue }"},
            "wait for ever",
            "no_path_retry fail",
        ),
        (
            "multipath",
            "ok",
            {
                MULTIPATHD: "multipathd\n",
                "/etc/multipath.conf": "defaults {\n find_multipaths yes\n}",
            },
            "find_multipaths yes (/etc/multipath.conf)",
            "",
        ),
        ("multipath", "ok", {MULTIPATHD: "multipathd\n"}, "strict (the default)", ""),
        (
            "multipath",
            "warning",
            {MULTIPATHD: "multipathd\n", "/etc/auto.iscsi.conf": ALL},
            "joins known volumes only",
            "find_multipaths yes",
        ),
        ("multipath", "warning", {"/etc/auto.iscsi.conf": ALL}, "not running", "multipathd"),
        ("overlays", "problem", {"/etc/auto.iscsi.conf": "fstype = auto\n"}, "dmsetup", "dmsetup"),
        (
            "overlays",
            "problem",
            {"/etc/auto.iscsi.conf": "fstype = auto\npartition = system\njournal = skip\n"},
            "no logical volumes",
            "dmsetup",
        ),
        (
            "overlays",
            "problem",
            {
                "/etc/auto.iscsi.conf": "journal = overlay\n",
                "/usr/sbin/dmsetup": version(""),
            },
            "has no module dm-snapshot",
            "full kernel package",
        ),
        (
            "overlays",
            "problem",
            {
                "/etc/auto.iscsi.conf": "fstype = auto\noverlay_dir = /srv/none\n",
                "/usr/sbin/dmsetup": version(""),
                "/lib/modules/6.1.0/modules.builtin": "kernel/drivers/md/dm-snapshot.ko\n",
                "/usr/lib/udev/rules.d/61-auto-iscsi.rules": "\n",
            },
            "/srv/none does not exist",
            "mkdir",
        ),
        (
            "overlays",
            "problem",
            {
                "/etc/auto.iscsi.conf": "fstype = auto\noverlay_keep_free = 99\n",
                "/usr/sbin/dmsetup": version(""),
                "/lib/modules/6.1.0/modules.builtin": "kernel/drivers/md/dm-snapshot.ko\n",
                "/usr/lib/udev/rules.d/61-auto-iscsi.rules": "\n",
                "/var/tmp/": None,
            },
            "too little for an overlay",
            "make room in /var/tmp",
        ),
        ("overlays", "ok", {}, "no target's settings need an overlay", ""),
        (
            "lvm-activation",
            "warning",
            {"/usr/sbin/lvm": version(""), "/etc/lvm/lvm.conf": "# event_activation = 0\n"},
            "activates",
            "61-auto-iscsi.rules",
        ),
        (
            "lvm-activation",
            "ok",
            {
                "/usr/sbin/lvm": version(""),
                "/etc/udev/rules.d/68-x.rules": (
                    'ENV{ID_FS_TYPE}=="LVM2_member", ENV{ID_PATH}=="ip-*-iscsi-*"\n'
                ),
            },
            "68-x.rules",
            "",
        ),
        (
            "lvm-activation",
            "ok",
            {"/usr/sbin/lvm": version(""), "/etc/lvm/lvm.conf": "event_activation = 0\n"},
            "by itself",
            "",
        ),
        (
            "configuration",
            "problem",
            {"/etc/auto.iscsi.conf": "lun = x\n"},
            "/etc/auto.iscsi.conf:1: lun: expected",
            "auto-iscsi check",
        ),
        (
            "configuration",
            "warning",
            {"/etc/auto.iscsi.conf": "[vm]\nlun = 1\n"},
            "1 warning in",
            "auto-iscsi check",
        ),
        (
            "reaper",
            "warning",
            {
                "/units": UNITS.replace(
                    "loaded\nActiveState=active\n", "loaded\nActiveState=inactive\n"
                )
            },
            "not active",
            "systemctl enable --now auto-iscsi.timer",
        ),
    ],
)
def test_each_problem_is_reported_and_nothing_else(
    tmp_path: Path, code: str, level: str, files: dict[str, Content], text: str, mend: str
) -> None:
    checks = checked(tmp_path, files)
    assert checks[code]["level"] == level, checks[code]
    assert text in checks[code]["text"] and mend in checks[code]["mend"]
    others = {name for name, check in checks.items() if check["level"] not in ("ok", "unknown")}
    follow = {"master-map": {"automount", "negative-timeout"}, "reaper": {"iscsid"}}
    assert others - {code} <= follow.get(code, set())


@pytest.mark.parametrize(("age", "level"), [(0.0, "ok"), (100.0, "problem")])
def test_an_old_lock_without_a_process_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, level: str
) -> None:
    now = time.time()
    make_tree(tmp_path, {"/run/lock/iscsi/lock.write": ""})
    monkeypatch.setattr(time, "time", lambda: now + age)
    check = checked(tmp_path, {"/proc/uptime": f"{age:.2f} 0\n"} if age else {})["iscsi-lock"]
    assert check["level"] == level and ("rm /run/lock" in check["mend"]) == (level == "problem")


def test_a_lock_is_no_problem_while_an_iscsiadm_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    make_tree(tmp_path, {"/run/lock/iscsi/lock.write": "", "/proc/9/comm": "iscsiadm\n"})
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert checked(tmp_path, {})["iscsi-lock"]["level"] == "ok"


def test_without_root_checks_that_need_it_are_unknown() -> None:
    before = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # only root may enter the parent of tmp_path
        os.chmod(folder, 0o755)
        root = Path(folder)
        make_tree(root, {RECORD: AUTOMATIC})
        checked(root, {})
        hidden = [root / "etc/iscsi/nodes", root / "etc/iscsi/initiatorname.iscsi"]
        for path in hidden:
            path.chmod(0)
        os.seteuid(65534 if before == 0 else before)
        try:
            report = doctor.report(Host(folder), output.Paint(False))
        finally:
            os.seteuid(before)
            for path in hidden:
                path.chmod(0o700)
    levels = {check["code"]: check["level"] for check in report.data["checks"]}
    unknown = [code for code, level in levels.items() if level == "unknown"]
    assert unknown == ["initiator-name", "startup-automatic"] and report.status == 0
    assert "permission denied" in "\n".join(report.lines)
    assert report.lines[-1].startswith("2 not checked")


def test_the_json_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, {"/etc/auto.iscsi.conf": "lun = x\n"})
    assert cli.main(["--root", str(tmp_path), "doctor", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert not data["ok"] and set(data) == {"ok", "checks"}
    assert all(set(check) == {"code", "level", "text", "mend"} for check in data["checks"])
    assert cli.main(["--root", str(tmp_path), "doctor"]) == 1
    assert "problems" in capsys.readouterr().out.splitlines()[-1]


def test_the_libraries_versions_are_those_of_the_package() -> None:
    from auto_iscsi.admin import doctor_host

    setup = (Path(__file__).parents[2] / "setup.cfg").read_text()
    for name, least in doctor_host.LIBRARIES.items():
        assert f"{name}>={'.'.join(map(str, least))}" in setup.replace(" ", "")
    program = (Path(__file__).parents[2] / "tools/auto.iscsi").read_text()
    assert program.startswith("#!/usr/bin/python3") and "auto_iscsi" in program
    assert doctor_autofs.SHIPPED in (Path(__file__).parents[2] / "tools/join-automount").read_text()
