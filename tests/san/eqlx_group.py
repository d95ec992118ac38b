"""An EqualLogic group in the guest: group_cli.py behind sshd, which drives real targets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.san.bed.machine import Command, Machine
from tests.san.bed.san import San

HERE = Path(__file__).parent
DRIVER = "/usr/libexec/auto-iscsi/drivers/eqlx"
FOLDER = "/opt/group"
PREFIX = "iqn.2001-05.com.equallogic:0-8a0906-4a90da503-e2e3e8c1f704be"
VOLUME = "vm-beta"
LIVE = f"{PREFIX}-{VOLUME}"
FIRST, SECOND = "vm-beta-2010-05-03-04:00:01.50612", "vm-beta-2010-05-04-04:00:01.50613"
OTHER = "iqn.1993-08.org.debian:01:another-host"
LEASES = {FIRST: "0b51d0f6-0001-4000-8000-01", SECOND: "0b51d0f6-0002-4000-8000-02"}
AS_USER = "setpriv --reuid=user --regid=user --clear-groups --no-new-privs"
SSHD = f"""\
Port 2022
ListenAddress 127.0.0.1
HostKey {FOLDER}/host
AuthorizedKeysFile {FOLDER}/key.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
ForceCommand /usr/bin/python3 {FOLDER}/group_cli.py {FOLDER}
"""
SAN_FILE = f"""\
driver = eqlx
address = 127.0.0.1:2022
user = grpadmin
key_file = {FOLDER}/key
volumes = vm-*
present = yes
allow = user
timezone = UTC
timeout = 90s
[options]
known_hosts = {FOLDER}/known_hosts
"""


class Group:
    """The group in the guest: one volume, which another host uses, and two snapshots of it."""

    def __init__(self, vm: Machine, san: San) -> None:
        self.vm = vm
        for name in ("group_cli.py", "bed/guest/lio.py"):
            vm.write(f"{FOLDER}/{Path(name).name}", (HERE / name).read_bytes())
        self.initiator = vm.run(". /etc/iscsi/initiatorname.iscsi; echo $InitiatorName").lines[0]
        disks = {
            name: san.disk([san.fs("ext3", {"marker": f"{name}\n"})]).name
            for name in (VOLUME, FIRST, SECOND)
        }
        snapshots = {
            name: {
                "iqn": f"{PREFIX}-{name}",
                "disk": disks[name],
                "status": "offline",
                "permission": "read-write",
                "description": "",
            }
            for name in (FIRST, SECOND)
        }
        record = {"initiator": OTHER, "method": "none", "user": "", "applies": "both"}
        volume = {
            "iqn": LIVE,
            "disk": disks[VOLUME],
            "status": "online",
            "permission": "read-write",
            "access": [record],
            "snapshots": snapshots,
        }
        self.write(
            {
                "name": "group-0",
                "portal": "127.0.0.1:3260",
                "lio": True,
                "quirks": ["motd", "reprint", "events"],
                "volumes": {VOLUME: volume},
            }
        )
        vm.write(f"{FOLDER}/sshd_config", SSHD)
        vm.run(
            f"cd {FOLDER} && python3 group_cli.py {FOLDER} serve && mkdir -p /run/sshd"
            " && ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f key"
            ' && echo "[127.0.0.1]:2022 $(cat host.pub)" >known_hosts'
            " && useradd -o -u 0 -g 0 -M -d /root grpadmin && echo grpadmin:eightch8 | chpasswd"
            f" && /usr/sbin/sshd -f {FOLDER}/sshd_config"
        )

    def configure(self) -> None:
        """Write the SAN's file: anybody named `user` may present."""
        self.vm.write("/etc/auto.iscsi.san.d/eql1.conf", SAN_FILE, mode=0o600)

    def read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.vm.read(f"{FOLDER}/state.json"))
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        self.vm.write(f"{FOLDER}/state.json", json.dumps(state))

    def typed(self) -> list[str]:
        """Return each line that was typed at the group's command line."""
        return self.vm.read(f"{FOLDER}/typed").decode().splitlines()

    def start(self, verb: str, password: str = "", **more: Any) -> Command:
        """Start the driver as the core does: without rights, and with the key in a descriptor."""
        config: dict[str, Any] = {
            "address": "127.0.0.1:2022",
            "user": "grpadmin",
            "timezone": "UTC",
            "options": {"known_hosts": f"{FOLDER}/known_hosts"},
            ("secret_fd" if password else "key_fd"): 5,
        }
        request = {"protocol": 1, "request_id": "r1", "san": "eql1", "deadline_s": 100}
        request = {**request, "config": config, **more}
        self.vm.write(f"{FOLDER}/request", json.dumps(request))
        if password:
            self.vm.write(f"{FOLDER}/secret", f"{password}\n", mode=0o600)
        handed = "secret" if password else "key"
        line = f"exec 5<{FOLDER}/{handed} <{FOLDER}/request; exec {AS_USER} {DRIVER} {verb}"
        return self.vm.start(line, timeout=120)

    def call(self, verb: str, password: str = "", **more: Any) -> dict[str, Any]:
        result = self.start(verb, password, **more).wait(check=False)
        assert result.stdout, result.stderr
        reply: dict[str, Any] = json.loads(result.stdout)
        return reply

    def wanted(self, name: str) -> dict[str, Any]:
        return {
            "volume": VOLUME,
            "snapshot": name,
            "id": f"{VOLUME}/{name}",
            "initiator": self.initiator,
            "host": "browse",
            "lease": LEASES[name],
            "readonly": True,
        }

    def present(self, name: str = FIRST, **more: Any) -> dict[str, Any]:
        return self.call("present", **self.wanted(name), **more)

    def revoke(self, name: str = FIRST, **more: Any) -> dict[str, Any]:
        return self.call("revoke", **{**self.wanted(name), "made": None, **more})

    def offered(self) -> list[str]:
        """Return the targets that the SAN offers to this host."""
        ask = "iscsiadm -m discovery -t st -p 127.0.0.1 -o nonpersistent"
        return sorted(line.split()[1] for line in self.vm.run(ask, check=False).lines)

    def admitted(self, iqn: str) -> list[str]:
        """Return the initiators that the kernel's target admits."""
        acls = f"/sys/kernel/config/target/iscsi/{iqn}/tpgt_1/acls"
        return sorted(self.vm.run(f"ls {acls} 2>/dev/null", check=False).lines)

    def login(self, iqn: str, *, check: bool = True) -> int:
        """Log in, with one attempt: iscsid tries for minutes where it is refused."""
        node = f"iscsiadm -m node -T {shlex.quote(iqn)} -p 127.0.0.1:3260"
        once = [
            ("node.session.initial_login_retry_max", 1),
            ("node.conn[0].timeo.login_timeout", 5),
        ]
        settings = "; ".join(f"{node} -o update -n {name} -v {value}" for name, value in once)
        line = f"{node} -o new >&2; {settings}; {node} --login"
        return self.vm.run(line, check=check, timeout=180).status

    def logout(self, iqn: str) -> None:
        node = f"iscsiadm -m node -T {shlex.quote(iqn)}"
        self.vm.run(f"{node} --logout && {node} -o delete")
