"""`make bench`: measure everything, print the results and write them to bench/RESULTS.md.

Each result is a ratio of two commands that ran in turn: ratios hold from machine to machine, times
do not. A ratio is one median divided by the other. Its spread is the middle eight tenths of the
ratios of single rounds.

On this machine (bench/host.py), the measure is the processor time, user and system, of the built
programs on an artificial sysfs tree, so other load hardly matters. In the virtual machine
(bench/guest.py), it is the elapsed time with a real SAN, kernel, udev, iscsid and mount. QEMU
advances the clock of the guest by one nanosecond per instruction (-icount); idle waits take their
real time. In the guest, a process costs relatively more than on hardware, and nothing runs in
parallel, because it has one processor. The guest has Debian 12, and for one part Debian 13: the
same package, built here, on two Pythons.
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
    "warm": "A warm lookup in the virtual machine",
    "trixie": "A warm lookup in the virtual machine with Debian 13",
    "cold": "A first visit in the virtual machine",
    "contents": "A dirty snapshot and a server in the virtual machine",
    "together": "Many first lookups at once in the virtual machine",
}


def about() -> str:
    """Describe this machine: processor, system and Python."""
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
    parser.add_argument(
        "--rounds", type=int, default=31, help="number of rounds on this machine (default 31)"
    )
    parser.add_argument(
        "--only", choices=PARTS, help="measure one part; RESULTS.md keeps the others"
    )
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
    """Replace the results of one part in RESULTS.md."""
    head, *parts = RESULTS.read_text().split("\n## ") if RESULTS.exists() else [HEAD]
    results = dict(each.split("\n\n", 1) for each in parts)
    results[PARTS[part]] = text.strip()
    sections = [
        f"## {title}\n\n{results[title].strip()}\n" for title in PARTS.values() if title in results
    ]
    RESULTS.write_text("\n".join([head.strip() + "\n", *sections]))


if __name__ == "__main__":
    sys.exit(main())
