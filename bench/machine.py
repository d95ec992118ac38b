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
ROUNDS = {"warm": 9, "cold": 3, "together": 2, "contents": 3}
SUITES = ("bookworm", "trixie")

#: What "contents" sets for each of its targets but the first, which has what the package ships.
CONTENTS = {
    "vol01": "fstype = auto\npartition = auto\n",
    "vol02": "fstype = auto\npartition = system\nudev_timeout = 30s\nlookup_timeout = 1m\n",
}

#: Copies a disk while the filesystem in its partition is mounted and written.
DIRTY = """
set -e
device=$(losetup --show -P -f {path})
udevadm settle
mkfs.ext4 -q -F ${{device}}p1
mount ${{device}}p1 /mnt
sync -f /mnt
for n in $(seq 50); do echo new >/mnt/new$n; sync /mnt/new$n; done
cp --sparse=always {path} /run/taken
umount /mnt
losetup -d $device
cp --sparse=always /run/taken {path}
rm /run/taken
"""

#: Makes the disk of a server, with five logical volumes, and copies it while it is written.
SERVER = """
set -e
truncate -s 600M /run/server.img
printf 'label: gpt\\nsize=16M,type=U\\nsize=32M\\nsize=+\\n' | sfdisk -q /run/server.img
device=$(losetup --show -P -f /run/server.img)
udevadm settle
mkfs.vfat ${{device}}p1 >/dev/null
mkfs.ext4 -q -L boot ${{device}}p2
pvcreate -qq ${{device}}p3 && vgcreate -qq vg0 ${{device}}p3
lvcreate -qq -y -n root -L 320M vg0
mkfs.xfs -q /dev/vg0/root
mount /dev/vg0/root /mnt
mkdir -p /mnt/etc /mnt/boot /mnt/home /mnt/var /mnt/srv /mnt/data
cat >/mnt/etc/fstab <<END
/dev/mapper/vg0-root / xfs defaults 0 0
LABEL=boot /boot ext4 defaults 0 0
UUID=$(blkid -s UUID -o value ${{device}}p1) /boot/efi vfat defaults 0 0
END
for lv in home var srv data; do
    lvcreate -qq -y -n $lv -L 24M vg0
    mkfs.ext4 -q /dev/vg0/$lv
    echo "/dev/vg0/$lv /$lv ext4 defaults 0 0" >>/mnt/etc/fstab
done
mount ${{device}}p2 /mnt/boot && mkdir -p /mnt/boot/efi
for lv in home var srv data; do mount /dev/vg0/$lv /mnt/$lv; done
for place in . boot home var srv data; do
    sync -f /mnt/$place
    for n in $(seq 8); do echo new >/mnt/$place/new$n; sync /mnt/$place/new$n; done
done
cp --sparse=always /run/server.img {path}
umount -R /mnt
vgchange -qq -an vg0
losetup -d $device
rm /run/server.img
"""


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


def named(volume: str) -> str:
    return f"iqn.2001-05.com.equallogic:0-8a0906-{volume}"


def prepared(vm: Machine, san: San, many: int) -> list[str]:
    """Make the targets and the files that the guest needs; return the targets."""
    targets = [named(f"vol{number:02}") for number in range(many)]
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


def prepared_contents(vm: Machine) -> list[str]:
    """Make a plain target, a dirty one and a server; return the targets."""
    san = San(vm)
    dirty = san.disk([san.fs("", size=128)])
    vm.run(DIRTY.format(path=dirty.path), timeout=600)
    server = san.disk(whole=san.fs("", size=600))
    vm.run(SERVER.format(path=server.path), timeout=1200)
    targets = prepared(vm, san, 1)
    for volume, disk in (("vol01", dirty), ("vol02", server)):
        san.target(named(volume), [disk], read_only=True)
        targets.append(named(volume))
    vm.discover()
    sections = [f"[{named(volume)}]\n{lines}" for volume, lines in CONTENTS.items()]
    vm.write("/etc/auto.iscsi.conf", "\n".join(sections))
    return targets


def rows(part: str) -> list[Row]:
    """Measure one of ROUNDS on the first of SUITES, or "warm" on the suite of that name."""
    if missing := requirements.missing(filesystems=True):
        return [Row(f"{part} visits", "–", "", "", "needs " + ", ".join(missing))]
    deb = requirements.newest_deb(ROOT)
    assert deb, "run make deb"
    job, suite = ("warm", part) if part in SUITES else (part, SUITES[0])
    with layers.installed(deb, suite, icount=True).resumed() as vm:
        if job == "contents":
            targets = prepared_contents(vm)
        else:
            targets = prepared(vm, San(vm), MANY if job == "together" else 1)
        python = vm.run(f"{PYTHON} --version").stdout.strip()
        print(f"bench: {job} visits in the virtual machine, {suite}, {python}", file=sys.stderr)
        command = ["python3", "/root/guest.py", job, str(ROUNDS[job]), *targets]
        times = json.loads(vm.run(command, timeout=3000).stdout)
    if job == "warm":
        return _warm(times, python)
    return {"cold": _cold, "together": _together, "contents": _contents}[job](times)


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


def _contents(contents: dict[str, list[float]]) -> list[Row]:
    plain, warm = contents["plain"], contents["plain, warm"]
    return [
        compared("first lookup, a dirty filesystem ÷ plain", contents["dirty"], plain, "≤ 1.2"),
        compared(
            "first lookup, a server with 5 volumes ÷ plain", contents["server"], plain, "≤ 1.6"
        ),
        compared("warm lookup, a dirty filesystem ÷ plain", contents["dirty, warm"], warm),
        compared("warm lookup, a server ÷ plain", contents["server, warm"], warm, "≤ 1.2"),
        compared(
            "speed of reading through an overlay ÷ from the LUN",
            contents["read, bare"],
            contents["read"],
            "≥ 0.75",
        ),
    ]


def _failures(times: list[float]) -> str:
    failed = sum(each != each for each in times)
    return f"the script failed {failed} of {len(times)} times: udev was slower" if failed else ""
