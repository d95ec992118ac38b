"""Run dmsetup, with a deadline. It waits until udev has made the links of a new device."""

from __future__ import annotations

import os

from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from auto_iscsi.machine.host import Host

FOLDER = "/dev/mapper"  #: where udev makes the links
_LONGEST_REASON = 300  # characters of what a program printed


def run(host: Host, until: float, *words: str) -> tuple[int | None, str]:
    """Run dmsetup; return its exit status, None when it still runs at `until`, and its output.

    It ignores SIGTERM, which systemd sends it when automount stops: a device would be left without
    its table.
    """
    return run_program(host, until, "dmsetup", *words, endures=True)


def run_program(
    host: Host, until: float, program: str, *words: str, endures: bool = False
) -> tuple[int | None, str]:
    """Run a program; return its exit status, None when it still runs at `until`, and its output."""
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        status = host.run(
            program, *words, out=output, err=output, until=until, quick=True, endures=endures
        )
        text = os.pread(output, 1 << 16, 0).decode("utf-8", "replace").strip()
    finally:
        os.close(output)
    return status, text[:_LONGEST_REASON]
