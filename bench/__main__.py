"""`make bench`: measures everything, prints it, and writes bench/RESULTS.md.

Only ratios of what was run side by side, in turn, in one go: they hold from machine to machine,
times don't. Each is one median divided by another; the spread is the middle eight tenths of the
single rounds' ratios.

On this machine (bench/host.py): processor time, user and system, of the programs as they were
built, on a made-up sysfs tree; so what else runs here hardly counts. In the virtual machine
(bench/guest.py): elapsed time on its own clock, which QEMU advances by one nanosecond an
instruction (-icount, one processor), with a real SAN, kernel, udev, iscsid and mount; idle waits
count as they are. There a process costs relatively more than on hardware, and what could be done
beside something else is not: one processor does one thing. The machine has Debian 12, and Debian 13
for one part: one package, built here, on two Pythons.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from pathlib import Path

from bench import host, machine, table

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
HEAD = "# The last `make bench`\n\nHow it is measured: bench/__main__.py.\n"
PARTS = {
    "host": "A lookup on this machine",
    "warm": "What is there, in the virtual machine",
    "trixie": "What is there, in the virtual machine with Debian 13",
    "cold": "The first visit, in the virtual machine",
    "together": "Many at once, in the virtual machine",
}


def about() -> str:
    """Say which machine this is."""
    model = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    cores = os.cpu_count()
    release = Path("/etc/os-release").read_text()
    names = re.findall(r'^PRETTY_NAME="?(.*?)"?$', release, re.MULTILINE)
    system = names[0] if names else "Linux"
    return f"{model}, {cores} processors, {system}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="measure, print, write RESULTS.md")
    parser.add_argument("--rounds", type=int, default=31, help="on this machine (default 31)")
    parser.add_argument("--only", choices=PARTS, help="one part; RESULTS.md keeps the others")
    options = parser.parse_args()
    for part in PARTS:
        if options.only in (None, part):
            when = time.strftime("%Y-%m-%d")
            rows = host.rows(options.rounds) if part == "host" else machine.rows(part)
            text = table.rendered(rows)
            print(f"\n{text}", flush=True)
            write(part, f"{when}, {about()}.\n\n{text}")
    return 0


def write(part: str, text: str) -> None:
    """Put one part's results into RESULTS.md, in the place of its last ones."""
    head, *parts = RESULTS.read_text().split("\n## ") if RESULTS.exists() else [HEAD]
    known = dict(each.split("\n\n", 1) for each in parts)
    known[PARTS[part]] = text.strip()
    said = [f"## {title}\n\n{known[title].strip()}\n" for title in PARTS.values() if title in known]
    RESULTS.write_text("\n".join([head.strip() + "\n", *said]))


if __name__ == "__main__":
    sys.exit(main())
