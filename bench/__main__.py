"""`make bench`: measures everything, prints it, and writes bench/RESULTS.md.

Only ratios of what was run side by side, in turn, in one go: they hold from machine to machine,
times don't. Each is one median divided by another; the spread is the middle eight tenths of the
single rounds' ratios.

On this machine (bench/host.py): processor time, user and system, of the programs as they were
built, on a made-up sysfs tree; so what else runs here hardly counts. In the virtual machine
(bench/guest.py): elapsed time on its own clock, which QEMU advances by one nanosecond an
instruction (-icount, one processor), with a real SAN, kernel, udev, iscsid and mount; idle waits
count as they are. There a process costs relatively more than on hardware, and what could be done
beside something else is not: one processor does one thing.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

from bench import host, machine, table

HERE = Path(__file__).resolve().parent


def about() -> str:
    """Say which machine this is."""
    model = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    cores = sum(
        line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines()
    )
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return f"{model}, {cores} processors, {system}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="measure, print, write RESULTS.md")
    parser.add_argument("--rounds", type=int, default=31, help="on this machine (default 31)")
    parser.add_argument("--only", choices=["host", "machine"], help="one half; RESULTS.md stays")
    options = parser.parse_args()
    rows: list[table.Row] = []
    began = time.strftime("%Y-%m-%d")
    if options.only != "machine":
        rows += host.rows(options.rounds)
    if options.only != "host":
        rows += machine.rows()
    text = table.rendered(rows)
    print(text)
    if not options.only:
        (HERE / "RESULTS.md").write_text(
            f"# The last `make bench`\n\n{began}, {about()}.\n"
            f"How it is measured: bench/__main__.py.\n\n{text}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
