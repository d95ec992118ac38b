"""`make bench`: measure everything, print the results and write them to bench/RESULTS.md.

Most results are ratios of two commands that ran in turn: ratios hold from machine to machine, times
do not. A ratio is one median divided by the other. Its spread is the middle eight tenths of the
ratios of single rounds.

On this machine (bench/host.py), the measure is the processor time, user and system, of the built
programs on an artificial sysfs tree, so other load hardly matters. In the virtual machine
(bench/guest.py), it is the elapsed time with a real SAN, kernel, udev, iscsid and mount. QEMU
advances the clock of the guest by one nanosecond per instruction (-icount); idle waits take their
real time. In the guest, a process costs relatively more than on hardware, and nothing runs in
parallel, because it has one processor. The guest has Debian 12, and for one part Debian 13: the
same package, built here, on two Pythons.

bench/results.json keeps the results of each part until it runs again. RESULTS.md and the chart,
docs/speed.svg, are made from it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import host, machine, results, table

PARTS = {
    "host": "A lookup on this machine",
    "warm": "A warm lookup in the virtual machine",
    "trixie": "A warm lookup in the virtual machine with Debian 13",
    "cold": "Visits in the virtual machine",
    "together": "Many first lookups at once in the virtual machine",
    "versions": "A file in all snapshots of a volume, in the virtual machine",
    "failing": "A visit that fails, in the virtual machine",
}
LONGEST_FIRST = ("together", "cold", "versions", "failing", "warm", "trixie")
ONE_WRITES = threading.Lock()


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
        "--only", choices=PARTS, help="measure one part; the others keep their results"
    )
    options = parser.parse_args()
    chosen = [part for part in PARTS if options.only in (None, part)]
    if "host" in chosen:  # alone, because other load is in its spread
        keep("host", host.rows, options.rounds)
    # Two at a time: each guest has one processor, and its clock stands still while it has none.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        guests = [part for part in LONGEST_FIRST if part in chosen]
        for done in [pool.submit(keep, part, machine.rows, part) for part in guests]:
            done.result()
    return 0


def keep(part: str, measure: Callable[[Any], Sequence[table.Row]], value: Any) -> None:
    """Measure a part, print the results and keep them."""
    began, when = time.monotonic(), time.strftime("%Y-%m-%d")
    rows = measure(value)
    took = round(time.monotonic() - began)
    print(f"\n{PARTS[part]}\n\n{table.rendered(rows)}", flush=True)
    with ONE_WRITES:
        kept = results.read()
        kept[part] = results.Part(PARTS[part], f"{when}, {about()}, {took} s", rows)
        results.write({name: kept[name] for name in PARTS if name in kept})


if __name__ == "__main__":
    sys.exit(main())
