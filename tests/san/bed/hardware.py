"""The hardware of the guest, as QEMU's arguments.

A state can be resumed only on the hardware on which it was saved, so the key of every saved state
includes this file. The guest has one processor, because two guests run at a time: on a host with
two processors, their tests take 60 % of the time that they take with two each. $BED_CPUS asks for
more. With icount it always has one, and virtual time: one nanosecond per instruction, within some
percent the same in each run.

QEMU 7.2 keeps the code that it has translated by its address. With norandmaps, programs have the
same addresses each time, and to start one takes a quarter of the time. It copies memory byte by
byte where a processor says that it does so fast (erms, fsrm), and AVX, SMAP and page tables of five
levels cost more than they bring.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

MEMORY = "1G"
PROCESSOR = "max,-erms,-fsrm,-la57,-avx,-avx2,-xsave,-smap"
APPEND = (
    "console=ttyS0 panic=-1 quiet loglevel=4 systemd.show_status=0 mitigations=off audit=0 "
    "nowatchdog systemd.unified_cgroup_hierarchy=1 net.ifnames=0 norandmaps"
)


def cpus() -> str:
    """Return the number of a guest's processors."""
    return os.environ.get("BED_CPUS") or "1"


class Hardware(NamedTuple):
    """The files of a machine: kernel, initrd, memory and disk."""

    kernel: Path
    initrd: Path
    memory: Path
    disk: Path
    icount: bool = False

    def arguments(self, *, keep: bool, folder: Path) -> list[str]:
        """Return QEMU's arguments; keep: memory and disk become a saved state."""
        accelerator = os.environ.get("BED_ACCEL") or "tcg"
        threads = ",thread=multi" if accelerator == "tcg" and not self.icount else ""
        share = "on" if keep else "off"
        throw_away = "off" if keep else "on"
        return [
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-accel",
            accelerator + threads,
            "-cpu",
            PROCESSOR,
            "-smp",
            "1" if self.icount else cpus(),
            *(["-icount", "shift=0"] if self.icount else []),
            "-machine",
            "pc,memory-backend=ram",
            "-m",
            MEMORY,
            "-object",
            f"memory-backend-file,id=ram,size={MEMORY},mem-path={self.memory},share={share}",
            "-nic",
            "none",
            "-kernel",
            str(self.kernel),
            "-initrd",
            str(self.initrd),
            "-append",
            APPEND,
            "-drive",
            f"if=none,id=root,file={self.disk},format=qcow2,cache=unsafe,"
            f"discard=unmap,snapshot={throw_away}",
            "-device",
            "virtio-blk-pci,drive=root",
            "-device",
            "virtio-rng-pci",
            "-device",
            "virtio-serial-pci",
            "-chardev",
            f"socket,id=agent,path={folder}/agent,server=on,wait=off",
            "-device",
            "virtserialport,chardev=agent,name=bed",
            "-chardev",
            f"file,id=console,path={folder}/console,append=on",
            "-serial",
            "chardev:console",
            "-qmp",
            f"unix:{folder}/qmp,server=on,wait=off",
        ]
