"""A machine with a SAN: its file, its driver (san_driver.py), and its array, a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from auto_iscsi.san import leases
from tests.tree.machine import REPOSITORY, Machine
from tests.tree.tree import make_tree

FILE = "/etc/auto.iscsi.san.d/eql.conf"
DRIVER = "/usr/libexec/auto-iscsi/drivers/fake"
CONFIGURATION = """\
driver = fake
volumes = vm-*
present = yes
run_as = root
"""
LAUNCHER = """\
#!{python} -IS
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, {repository!r})
from tests.tree import san_driver
sys.exit(san_driver.main())
"""
SNAPSHOT = "vm-beta@monday"
IQN = "iqn.2026-11.org.example:vm-beta.monday"
PROGRAM = (sys.executable, "-m", "auto_iscsi")


class San:
    """The SAN of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.array = machine.root / "san/array"
        launcher = LAUNCHER.format(python=sys.executable, repository=str(REPOSITORY))
        make_tree(
            machine.root,
            {
                DRIVER: launcher,
                "/san/array/vm-beta/monday": "1272859201",
                "/san/array/vm-beta/tuesday": "1272945601",
                "/san/array/vm-gamma/monday": "",
                "/san/array/secret/monday": "",
            },
        )
        (machine.root / DRIVER[1:]).chmod(0o755)
        self.configure()
        self.plan()

    def configure(self, text: str = "", base: str = CONFIGURATION) -> None:
        make_tree(self.machine.root, {FILE: base + text})

    def plan(self, **verbs: Any) -> None:
        """Have the driver behave in another way, by verb, from now on."""
        make_tree(self.machine.root, {"/san/array/plan.json": json.dumps(verbs)})

    def run(self, *words: str, status: int = 0) -> str:
        """Run auto-iscsi san; return what it prints: on stdout, or on stderr if it has failed."""
        done = self.machine.program(PROGRAM, "san", *words)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    def calls(self) -> list[str]:
        """Return the verbs that were called so far, in order, and forget them."""
        file = self.array / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def presented(self) -> list[str]:
        """Return what the array presents."""
        found = self.array.glob("*/*.lease")
        return sorted(f"{mark.parent.name}@{mark.stem}" for mark in found)

    def leases(self) -> list[leases.Lease]:
        known, damaged = leases.list_all(self.machine.host)
        assert not damaged
        return known

    def boot(self, name: str) -> None:
        """Have another boot begin: a lease of an earlier one is left to nobody."""
        self.machine.files({"/proc/sys/kernel/random/boot_id": f"{name}\n"})

    def drafts(self) -> list[Path]:
        folder = self.machine.root / leases.FOLDER[1:]
        return [path for path in folder.iterdir() if path.name.startswith(".")]
