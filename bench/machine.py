"""Compare a visit on a real SAN with the shell script and with a bare iscsiadm.

bench/guest.py measures in the virtual machine of tests/san, on QEMU's virtual clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.host import PYTHON
from bench.table import Row, compared
from tests.san.bed import layers, requirements
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

ROOT = Path(__file__).resolve().parent.parent
MANY = 16
ROUNDS = {"warm": 9, "cold": 3, "together": 2}
SUITES = ("bookworm", "trixie")


def mended(script: str) -> str:
    """Return the shell script, corrected: without its sleep, and with only the entry on stdout."""
    for old, new in (
        ("sleep 1\n", "\n"),
        ('| grep "$IQN"', '| grep -q "$IQN"'),
        ("echo node exists", ":"),
    ):
        assert old in script
        script = script.replace(old, new)
    return script


def prepared(vm: Machine, many: int) -> list[str]:
    """Make the targets and the files that the guest needs; return the targets."""
    san = San(vm)
    targets = [f"iqn.2001-05.com.equallogic:0-8a0906-vol{number:02}" for number in range(many)]
    for target in targets:
        san.target(target)
    vm.discover()
    # Where the script looks for node records.
    vm.run(
        "test -e /var/lib/iscsi/nodes || "
        "{ mkdir -p /var/lib/iscsi && ln -s /etc/iscsi/nodes /var/lib/iscsi/nodes; }"
    )
    script = (ROOT / "tests/san/original/auto.iscsi").read_text()
    vm.write("/root/original", script, 0o755)
    vm.write("/root/mended", mended(script), 0o755)
    vm.write("/root/guest.py", (ROOT / "bench/guest.py").read_bytes())
    return targets


def rows(part: str) -> list[Row]:
    """Measure one of ROUNDS on the first of SUITES, or "warm" on the suite of that name."""
    if missing := requirements.missing(filesystems=True):
        return [Row(f"{part} visits", "–", "", "", "needs " + ", ".join(missing))]
    deb = requirements.newest_deb(ROOT)
    assert deb, "run make deb"
    job, suite = ("warm", part) if part in SUITES else (part, SUITES[0])
    with layers.installed(deb, suite, icount=True).resumed() as vm:
        targets = prepared(vm, MANY if job == "together" else 1)
        python = vm.run(f"{PYTHON} --version").stdout.strip()
        print(f"bench: {job} visits in the virtual machine, {suite}, {python}", file=sys.stderr)
        command = ["python3", "/root/guest.py", job, str(ROUNDS[job]), *targets]
        times = json.loads(vm.run(command, timeout=3000).stdout)
    if job == "warm":
        return _warm(times, python)
    return {"cold": _cold, "together": _together}[job](times)


def _whose(python: str) -> str:
    """Return the guest's Python, and whether this host, the builder, has that version too."""
    here = subprocess.run([PYTHON, "--version"], check=True, capture_output=True, text=True).stdout
    same = here.split(".")[:2] == python.split(".")[:2]
    return f"{python}: {'the' if same else 'another Python than the'} builder's"


def _warm(warm: dict[str, list[float]], python: str) -> list[Row]:
    return [
        compared("warm lookup ÷ bare Python", warm["ours"], warm["bare"], "≤ 1.75", _whose(python)),
        compared("warm lookup ÷ the corrected script without sleep", warm["ours"], warm["mended"]),
        compared(
            "warm lookup ÷ one without the disk's identity check",
            warm["ours"],
            warm["unverified"],
            "",
            "INQUIRY",
        ),
        compared("refused key ÷ bare Python", warm["refused"], warm["bare"]),
    ]


def _cold(cold: dict[str, list[float]]) -> list[Row]:
    return [
        compared(
            "first visit ÷ the script", cold["ours, mounted"], cold["original, mounted"], "< 1"
        ),
        compared(
            "first visit ÷ the script without sleep",
            cold["ours, mounted"],
            cold["mended, mounted"],
            "< 1",
            _failures(cold["mended"]),
        ),
        compared("first lookup ÷ login and udev's link", cold["ours"], cold["floor"], "≤ 1.15"),
        compared(
            "bare Python, then login and link ÷ login and link",
            cold["started"],
            cold["floor"],
            "",
            "no Python program is quicker",
        ),
        compared(
            "first visit ÷ login, link and mount", cold["ours, mounted"], cold["floor, mounted"], ""
        ),
    ]


def _together(together: dict[str, list[float]]) -> list[Row]:
    one, all_ = "1", f"{MANY}"
    return [
        compared(
            f"{MANY} first lookups at once ÷ one", together[f"ours {all_}"], together[f"ours {one}"]
        ),
        compared(
            f"{MANY} bare logins and links at once ÷ one",
            together[f"floor {all_}"],
            together[f"floor {one}"],
        ),
        compared(
            f"{MANY} first lookups ÷ {MANY} bare logins and links",
            together[f"ours {all_}"],
            together[f"floor {all_}"],
        ),
    ]


def _failures(times: list[float]) -> str:
    failed = sum(each != each for each in times)
    return f"the script failed {failed} of {len(times)} times: udev was slower" if failed else ""
