"""A Linux target in the guest: thin snapshots, and the driver `lio` as the core starts it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.san.bed.machine import Machine

DRIVER = "/usr/libexec/auto-iscsi/drivers/lio"
FOLDER = "/opt/lio"
VOLUME = "vm-beta"
FIRST, SECOND = "vm-beta_2026-11-23-04.00", "vm-beta-2026-11-24+04"
CLONE = "vm-gamma"
LEASES = ("0b51d0f6-0001-4000-8000-01", "0b51d0f6-0002-4000-8000-02")
PORTAL = "127.0.0.1:3260"

#: Makes a volume that is mounted and written, two snapshots of it, and a clone that is live.
VOLUMES = f"""
set -e
truncate -s 600M /var/tmp/pv.img
pv=$(losetup --show -f /var/tmp/pv.img)
vgcreate -qq vg0 $pv
lvcreate -qq -y --type thin-pool -L 400M -n pool vg0
lvcreate -qq -y -V 48M --thinpool pool -n {VOLUME} vg0
mkfs.ext4 -q /dev/vg0/{VOLUME}
mkdir -p /run/live && mount /dev/vg0/{VOLUME} /run/live
for name in {FIRST} {SECOND}; do
    echo $name >/run/live/marker; sync
    lvcreate -qq -y -s -n $name vg0/{VOLUME}
done
lvcreate -qq -y -s -kn -n {CLONE} vg0/{VOLUME}
echo live >/run/live/marker; sync
udevadm settle
"""

#: A volume that is mounted, and as many snapshots of it, each with its own name in its file.
_MANY = """
set -e
truncate -s 400M /var/tmp/$vg.img
vgcreate -qq $vg $(losetup --show -f /var/tmp/$vg.img)
lvcreate -qq -y --type thin-pool -L 300M -n pool $vg
lvcreate -qq -y -V 16M --thinpool pool -n $volume $vg
mkfs.ext4 -q /dev/$vg/$volume
mkdir -p /run/$volume && mount /dev/$vg/$volume /run/$volume
for number in $(seq $count); do
    echo $volume@s$number >/run/$volume/marker; sync -f /run/$volume
    lvcreate -qq -y -s -n s$number $vg/$volume
done
echo live >/run/$volume/marker; sync
mount -o remount,ro /run/$volume
udevadm settle
"""

#: sshd with the driver as the forced command of a key, as auto-iscsi-lio(8) has it.
_SSHD = f"""
set -e
mkdir -p {FOLDER} /run/sshd && cd {FOLDER}
ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f key
echo "[127.0.0.1]:2022 $(cut -d ' ' -f 1,2 host.pub)" >known_hosts
printf 'restrict,command="%s" %s\\n' "{DRIVER} far $1" "$(cat key.pub)" >authorized_keys
cat >sshd_config <<'END'
Port 2022
ListenAddress 127.0.0.1
HostKey {FOLDER}/host
AuthorizedKeysFile {FOLDER}/authorized_keys
StrictModes no
UsePAM no
PidFile none
PermitRootLogin forced-commands-only
END
/usr/sbin/sshd -f {FOLDER}/sshd_config
"""

_DUMP = """
cd /sys/kernel/config/target
find core/iblock* core/fileio* iscsi \\
    ! -path '*/statistics*' ! -path '*/alua/*' ! -path 'core/*/*/*' 2>/dev/null | sort
dmsetup ls | sort
"""


def make_many(vm: Machine, vg: str, volume: str, count: int) -> list[str]:
    """Make a volume group with a volume and its snapshots; return the keys: so say the files."""
    vm.run(_MANY, env={"vg": vg, "volume": volume, "count": str(count)}, timeout=400)
    return [f"{volume}@s{number + 1}" for number in range(count)]


def dump(vm: Machine) -> str:
    """Return everything that the kernel's target has, and the devices of LVM's."""
    return vm.run(_DUMP, timeout=100).stdout


class Array:
    """The target's host, which is the initiator as well; `options` are the driver's settings.

    Its machine is that of the fixture `array_vm`, which has VOLUMES.
    """

    def __init__(self, vm: Machine, options: Mapping[str, str], by_ssh: bool = False) -> None:
        self.vm, self.by_ssh = vm, by_ssh
        self.options = {"vg": "vg0", "portals": PORTAL, **options}
        if by_ssh:
            words = " ".join(f"{name}={value}" for name, value in self.options.items())
            vm.run(["bash", "-c", _SSHD, "sshd", words], timeout=100)
        self.initiator = vm.run(". /etc/iscsi/initiatorname.iscsi; echo $InitiatorName").lines[0]
        self.ids = {
            line.split()[0]: line.split()[1]
            for line in vm.run("lvs --noheadings -o lv_name,lv_uuid vg0").lines
        }

    def request(self, **more: Any) -> dict[str, Any]:
        config: dict[str, Any] = {"options": self.options}
        if self.by_ssh:
            known = {"known_hosts": f"{FOLDER}/known_hosts"}
            config = {"address": "127.0.0.1:2022", "key_fd": 5, "options": known}
        about = {"protocol": 1, "request_id": "r1", "san": "san1", "deadline_s": 100}
        return {**about, "config": config, **more}

    def call(self, verb: str, **more: Any) -> dict[str, Any]:
        """Start the driver as the core does: as root here, or without rights and with a key."""
        line = f"exec {DRIVER} {verb}"
        if self.by_ssh:
            user = "setpriv --reuid=user --regid=user --clear-groups --no-new-privs"
            line = f"exec 5<{FOLDER}/key; exec {user} {DRIVER} {verb}"
        done = self.vm.run(
            line, stdin=json.dumps(self.request(**more)), check=False, timeout=120, cwd="/"
        )
        assert done.stdout, done.stderr
        reply: dict[str, Any] = json.loads(done.stdout)
        assert (done.status == 0) == reply["ok"]
        print(verb, done.stdout, done.stderr)  # shown if the test fails
        return reply

    def wanted(self, name: str, lease: int = 0, **more: Any) -> dict[str, Any]:
        about = {"volume": VOLUME, "snapshot": name, "id": self.ids.get(name, "gone")}
        who = {"initiator": self.initiator, "host": "browse", "lease": LEASES[lease]}
        return {**about, **who, "readonly": True, **more}

    def present(self, name: str, lease: int = 0, **more: Any) -> dict[str, Any]:
        return self.call("present", **self.wanted(name, lease, **more))

    def revoke(self, name: str, lease: int = 0, **more: Any) -> dict[str, Any]:
        return self.call("revoke", **self.wanted(name, lease, **more))

    def presented(self) -> list[str]:
        """Return the snapshots that this initiator can log in to."""
        reply = self.call("list", volume=VOLUME, presented_only=True, initiator=self.initiator)
        return [each["snapshot"] for each in reply["snapshots"]]

    def dump(self) -> str:
        return dump(self.vm)

    def login(self, target: Mapping[str, Any]) -> str:
        """Log in to a target as an administrator does; return the name of the LUN's disk."""
        iqn = target["iqn"]
        node = ["iscsiadm", "-m", "node", "-T", iqn, "-p", target["portals"][0]]
        if not self.vm.sessions(iqn):
            self.vm.run([*node, "-o", "new"])
            self.vm.run([*node, "--login"], timeout=100)
        else:
            self.vm.run(["iscsiadm", "-m", "session", "--rescan"], timeout=100)
        self.vm.run("udevadm settle")
        (session,) = self.vm.sessions(iqn)
        return session.disks[target["lun"]]

    def logout(self, iqn: str) -> None:
        self.vm.run(["iscsiadm", "-m", "node", "-T", iqn, "--logout"], timeout=100)
        self.vm.run(["iscsiadm", "-m", "node", "-T", iqn, "-o", "delete"])
