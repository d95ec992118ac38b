"""A group command line of our own behind a real sshd, and the driver `eqlx` as the core has it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "dist" / "drivers" / "eqlx"
CLI = ROOT / "tests" / "san" / "group_cli.py"
INITIATOR = "iqn.1993-08.org.debian:01:2227dab76162"
OTHER = "iqn.1993-08.org.debian:01:another-host-with-a-long-name"
VOLUME = "vm-beta"
SNAPSHOT = "vm-beta-2010-05-03-04:00:01.50612"
SECOND = "vm-beta-2010-05-04-04:00:01.50613"
LEASE, LEASE2 = "0b51d0f6-0001-4000-8000-000000000001", "0b51d0f6-0002-4000-8000-000000000002"
PREFIX = "iqn.2001-05.com.equallogic:0-8a0906-4a90da503-e2e3e8c1f704be"


def snapshot(name: str, **more: Any) -> dict[str, Any]:
    """Return a snapshot as the array makes one: offline and writable."""
    about = {"status": "offline", "permission": "read-write", "description": "", "connections": 0}
    return {**about, "iqn": f"{PREFIX}-{name}", **more}


def access(initiator: str, applies: str = "both", method: str = "none") -> dict[str, str]:
    user = "bob" if method == "chap" else ""
    return {"initiator": initiator, "method": method, "user": user, "applies": applies}


def group(*quirks: str) -> dict[str, Any]:
    """Return the state of a group: a volume with two snapshots, which another host uses."""
    volume = {
        "iqn": f"{PREFIX}-{VOLUME}",
        "status": "online",
        "permission": "read-write",
        "access": [access(OTHER)],
        "snapshots": {name: snapshot(name) for name in (SNAPSHOT, SECOND)},
    }
    return {
        "name": "group-0",
        "portal": "127.0.0.1:3260",
        "quirks": list(quirks),
        "volumes": {VOLUME: volume},
    }


def lacking() -> str:
    """Return what this machine lacks, "" if it has everything."""
    if os.geteuid():
        return "root"
    for program in ("sshd", "ssh", "ssh-keygen", "setpriv"):
        if not shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin"):
            return f"{program}: install openssh-server"
    return "" if DRIVER.exists() else "make build"


class Group:
    """The group: an sshd whose only command is the group's command line."""

    def __init__(self, folder: Path, *quirks: str) -> None:
        self.folder = folder
        self.write(group(*quirks))
        for name in ("host", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        host_key = (folder / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nPidFile none\n"
            "PermitRootLogin prohibit-password\nPrintMotd no\n"
            f"ForceCommand /usr/bin/python3 {CLI} {folder}\n"
        )
        os.makedirs("/run/sshd", exist_ok=True)
        self.log = (folder / "sshd.log").open("w")
        command = ["/usr/sbin/sshd", "-D", "-e", "-f", f"{folder}/config"]
        self.sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self.log)
        self.wait_for(self.is_up)

    def close(self) -> None:
        self.sshd.terminate()
        self.sshd.wait()
        self.log.close()

    def is_up(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    @staticmethod
    def wait_for(is_so: Any, seconds: float = 10) -> None:
        until = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.05)

    def read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    def write(self, state: dict[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    def quirks(self, *words: str) -> None:
        self.write({**self.read(), "quirks": list(words)})

    @property
    def volume(self) -> dict[str, Any]:
        volume: dict[str, Any] = self.read()["volumes"][VOLUME]
        return volume

    def of(self, name: str) -> tuple[str, str, str]:
        """Return status, permission and description of a snapshot."""
        each = self.volume["snapshots"][name]
        return each["status"], each["permission"], each["description"]

    def change(self, name: str, **more: Any) -> None:
        state = self.read()
        state["volumes"][VOLUME]["snapshots"][name].update(more)
        self.write(state)

    def admit(self, *records: dict[str, str]) -> None:
        state = self.read()
        state["volumes"][VOLUME]["access"] = list(records)
        self.write(state)

    @property
    def records(self) -> list[dict[str, str]]:
        records: list[dict[str, str]] = self.volume["access"]
        return records

    def typed(self) -> list[str]:
        """Return what was typed, without what each session begins and ends with."""
        path = self.folder / "typed"
        lines = path.read_text().splitlines() if path.exists() else []
        skipped = ("stty", "cli-settings", "logout", "grpparams")
        return [line for line in lines if not line.startswith(skipped)]

    def changes(self) -> list[str]:
        return [line for line in self.typed() if not line.endswith("show")]

    def sessions(self) -> int:
        """Return how many sessions the group has now."""
        found = subprocess.run(["pgrep", "-f", f"{CLI} {self.folder}"], capture_output=True)
        return len(found.stdout.split())

    def request(self, options: dict[str, str], deadline: float, **more: Any) -> str:
        config = {
            "address": f"127.0.0.1:{self.port}",
            "user": "root",
            "timezone": "UTC",
            "options": {"known_hosts": f"{self.folder}/known_hosts", **options},
            "key_fd": self.key,
        }
        common = {"protocol": 1, "request_id": "r1", "san": "eql1", "deadline_s": deadline}
        return json.dumps({**common, "config": config, **more})

    def start(
        self, verb: str, options: dict[str, str] | None = None, deadline: float = 30, **more: Any
    ) -> subprocess.Popen[str]:
        """Start the driver as the core does: with an inherited key, in its own process group."""
        self.key = os.open(self.folder / "key", os.O_RDONLY)
        try:
            process = subprocess.Popen(
                [str(DRIVER), verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[self.key],
                env={"PATH": "/usr/bin:/bin"},
                start_new_session=True,
                text=True,
            )
            assert process.stdin
            process.stdin.write(self.request(options or {}, deadline, **more))
            process.stdin.close()
            process.stdin = None
        finally:
            os.close(self.key)
        return process

    def call(self, verb: str, options: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        """Run the driver; return its reply."""
        process = self.start(verb, options, **more)
        out, self.stderr = process.communicate(timeout=60)
        reply: dict[str, Any] = json.loads(out)
        assert process.returncode == 0 if reply["ok"] else process.returncode in (1, 75)
        return reply

    def present(self, name: str = SNAPSHOT, lease: str = LEASE, **more: Any) -> dict[str, Any]:
        return self.call("present", **wanted(name, lease), **more)

    def revoke(self, name: str = SNAPSHOT, lease: str = LEASE, **more: Any) -> dict[str, Any]:
        return self.call("revoke", **{**wanted(name, lease), "made": None, **more})

    def kill(self, verb: str, where: str, **more: Any) -> None:
        """Run the driver until the group hangs at a command, and kill its process group then."""
        self.quirks(f"hang:{where}")
        process = self.start(verb, **more)
        self.wait_for((self.folder / "hangs").exists, 20)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (self.folder / "hangs").unlink()
        self.quirks()


def wanted(name: str = SNAPSHOT, lease: str = LEASE) -> dict[str, Any]:
    return {
        "volume": VOLUME,
        "snapshot": name,
        "id": f"{VOLUME}/{name}",
        "initiator": INITIATOR,
        "host": "host1",
        "lease": lease,
        "readonly": True,
    }
