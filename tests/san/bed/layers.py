"""Make the saved states from which tests resume their machines.

`booted` is the image after its boot: nothing of the project is in it, iscsid does not run, and
iscsi_tcp is not loaded. `installed` is the same after `dpkg --install` of the project's .deb
(apt-get would take 9 s instead of 4, and cannot download). `prepared` is `installed` after what
several tests would do first. A test resumes one of them, and its machine is discarded afterwards.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from . import cache, hardware, image, initrd, machine, progress, qemu

HERE = Path(__file__).parent
BOOT_TIMEOUT = 200.0
INSTALL_TIMEOUT = 300.0


def of(place: Path, base: Path, *, icount: bool) -> hardware.Hardware:
    """Describe the machine whose memory and disk are in a directory and belong to an image."""
    return hardware.Hardware(
        kernel=base / "vmlinuz",
        initrd=place / "initrd",
        memory=place / "memory",
        disk=place / "disk.qcow2",
        icount=icount,
    )


def boot(base: Path, place: Path, *, icount: bool) -> None:
    """Boot an image, wait until it is ready, and save it."""
    (place / "initrd").write_bytes(initrd.initrd(base))
    qemu.overlay(base / "root.raw", "raw", place / "disk.qcow2")
    progress.say("booting the guest")
    process = qemu.Process(of(place, base, icount=icount), keep=True)
    vm = machine.Machine(process)
    try:
        up = vm.start(
            "systemctl is-system-running --wait; systemctl --failed --plain --no-legend",
            timeout=BOOT_TIMEOUT,
        )
        wait(up, "booting the guest")
        first = up.wait(check=False)
        if first.lines[:1] != ["running"]:
            raise progress.Failed(
                f"the guest did not come up: {first.stdout}{first.stderr}\n"
                + vm.console.read_text(errors="replace")[-3000:]
            )
        vm.run("id user >/dev/null 2>&1 || useradd -m -u 1000 -s /bin/bash user")
        vm.call("load_target")  # 1.5 s that each test saves
        vm.run("udevadm settle && sync")
        save(vm, place)
    finally:
        vm.end()


def install(parent: Layer, deb: Path, place: Path) -> None:
    """Install a package in a booted guest, and save it."""
    with continued(parent, place) as vm:
        path = f"/root/{deb.name}"
        vm.write(path, deb.read_bytes())
        progress.say(f"installing {deb.name} in the guest")
        doing = vm.start(
            ["dpkg", "--install", path],
            env={"DEBIAN_FRONTEND": "noninteractive"},
            timeout=INSTALL_TIMEOUT,
        )
        wait(doing, f"installing {deb.name}")
        doing.wait()
        vm.run(["rm", path])
        vm.run("systemctl is-system-running --wait; udevadm settle; sync", check=False)


@contextlib.contextmanager
def continued(parent: Layer, place: Path) -> Iterator[machine.Machine]:
    """Resume a saved state; what was done in the machine by then is saved as another state."""
    copy(parent.place / "memory", place / "memory")
    shutil.copy(parent.place / "initrd", place / "initrd")
    qemu.overlay(parent.place / "disk.qcow2", "qcow2", place / "disk.qcow2")
    hardware = of(place, parent.base, icount=parent.icount)
    vm = machine.Machine(qemu.Process(hardware, keep=True, resume=parent.place / "state"))
    try:
        yield vm
        save(vm, place)
    finally:
        vm.end()


def wait(command: machine.Command, what: str) -> None:
    """Wait for a long command, and report from time to time that it still runs."""
    began = time.monotonic()
    while not command.done:
        if time.monotonic() - began > command.timeout:
            console = command.machine.console.read_text(errors="replace")
            raise progress.Failed(
                f"{what}: not done after {command.timeout:g} s; the console's "
                f"end:\n{console[-3000:]}"
            )
        try:
            command.future.result(progress.EVERY)
        except concurrent.futures.TimeoutError:
            progress.say(f"… {what}, for {time.monotonic() - began:.0f} s")


def save(vm: machine.Machine, place: Path) -> None:
    """Save a machine that is idle."""
    progress.say("saving its state")
    vm.process.save(place / "state")


def copy(source: Path, to: Path) -> None:
    """Copy a sparse file."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, to], check=True)


class Layer:
    """A saved state from which machines are resumed, and the states on which it depends."""

    def __init__(self, chain: tuple[Path, ...], suite: str, *, icount: bool) -> None:
        self.chain, self.suite, self.icount = chain, suite, icount
        self.base, self.place = chain[0], chain[-1]

    @contextlib.contextmanager
    def resumed(self) -> Iterator[machine.Machine]:
        """Resume a machine; at the end it is discarded, whatever happens."""
        with cache.used(*self.chain):
            process = qemu.Process(
                of(self.place, self.base, icount=self.icount), resume=self.place / "state"
            )
            vm = machine.Machine(process)
            try:
                yield vm
            finally:
                vm.end()


def booted(suite: str | None = None, *, icount: bool = False) -> Layer:
    """Return the state in which nothing of ours is installed."""
    chosen = suite or image.suite()
    base = image.image(chosen)
    # A QEMU reads states of its own version; other versions may or may not be compatible.
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True)
    name = cache.key(
        base.name,
        cache.sources(initrd.GUEST),
        (HERE / "initrd.py").read_bytes(),
        (HERE / "hardware.py").read_bytes(),
        os.environ.get("BED_ACCEL", ""),
        hardware.cpus(),
        str(icount),
        version.stdout,
    )
    place = cache.entry("booted", name, lambda new: boot(base, new, icount=icount))
    return Layer((base, place), chosen, icount=icount)


def installed(deb: Path, suite: str | None = None, *, icount: bool = False) -> Layer:
    """Return the state in which a package is installed."""
    parent = booted(suite, icount=icount)
    name = cache.key(parent.place.name, deb.read_bytes())
    place = cache.entry("installed", name, lambda new: install(parent, deb, new))
    return Layer((*parent.chain, place), parent.suite, icount=icount)


def prepared(parent: Layer, script: str, timeout: float) -> Layer:
    """Return the state in which a script has run as root."""

    def prepare(new: Path) -> None:
        with continued(parent, new) as vm:
            progress.say("preparing the guest for several tests")
            vm.run(script, timeout=timeout)

    # A parent that was removed and made again has the same name, and another disk.
    made = (parent.place / "state").stat().st_mtime_ns
    name = cache.key(parent.place.name, str(made), script)
    place = cache.entry("prepared", name, prepare)
    return Layer((*parent.chain, place), parent.suite, icount=parent.icount)
