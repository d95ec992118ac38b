"""What do the times say that were measured in the virtual machine?"""

from __future__ import annotations

import subprocess

from bench.host import PYTHON
from bench.table import Row, compared, seconds

Times = dict[str, list[float]]  #: seconds, by what was measured


def whose(python: str) -> str:
    """Return the guest's Python, and whether this host, the builder, has that version too."""
    here = subprocess.run([PYTHON, "--version"], check=True, capture_output=True, text=True).stdout
    same = here.split(".")[:2] == python.split(".")[:2]
    return f"{python}: {'the' if same else 'another Python than the'} builder's"


def warm(times: Times, python: str) -> list[Row]:
    ours, bare = times["ours"], times["bare"]
    return [
        compared("warm lookup ÷ bare Python", ours, bare, "≤ 1.75", whose(python)),
        compared("warm lookup ÷ the corrected script without sleep", ours, times["mended"]),
        compared(
            "warm lookup ÷ one without the disk's identity check",
            ours,
            times["unverified"],
            "",
            "INQUIRY",
        ),
        compared("refused key ÷ bare Python", times["refused"], bare),
    ]


def cold(times: Times) -> list[Row]:
    visit, lookup, again = times["ours, mounted"], times["ours"], times["ours, warm"]
    bare, login = times["floor, mounted"], times["floor"]
    return [
        compared("the script's first visit ÷ bare", times["original, mounted"], bare),
        compared("first visit ÷ bare", visit, bare, "", "bare: login, udev's link, mount"),
        compared("first visit, a dirty filesystem ÷ bare", times["dirty, mounted"], bare),
        compared(
            "first visit, a server with 5 volumes ÷ bare",
            times["server, mounted"],
            bare,
            "",
            "its root is mounted",
        ),
        compared("first visit ÷ the script's", visit, times["original, mounted"], "< 1"),
        compared(
            "first visit ÷ that of the script without sleep",
            visit,
            times["mended, mounted"],
            "< 1",
            failures(times["mended"]),
        ),
        compared("first lookup ÷ login and udev's link", lookup, login, "≤ 1.5"),
        compared(
            "bare Python, then login and link ÷ login and link",
            times["started"],
            login,
            "",
            "no Python program is quicker",
        ),
        compared("first lookup, a dirty filesystem ÷ plain", times["dirty"], lookup, "≤ 1.2"),
        compared("first lookup, a server ÷ plain", times["server"], lookup, "≤ 1.6"),
        compared(
            "login, the same devices by dmsetup, and replay ÷ plain: dirty",
            times["dirty by hand"],
            lookup,
            note="no program is quicker",
        ),
        compared(
            "login, the same devices by dmsetup, and replay ÷ plain: server",
            times["server by hand"],
            lookup,
            note="no program is quicker",
        ),
        compared("warm lookup, a dirty filesystem ÷ plain", times["dirty, warm"], again),
        compared("warm lookup, a server ÷ plain", times["server, warm"], again, "≤ 1.2"),
        compared(
            "speed of reading through an overlay ÷ from the LUN",
            times["read, bare"],
            times["read"],
            "≥ 0.75",
        ),
    ]


def failures(times: list[float]) -> str:
    failed = sum(each != each for each in times)
    return f"the script failed {failed} of {len(times)} times: udev was slower" if failed else ""


def together(times: Times) -> list[Row]:
    many = max(int(name.split()[1]) for name in times)
    ours, bare, servers = (times[f"{name} {many}"] for name in ("ours", "floor", "server"))
    return [
        compared(f"{many} first lookups at once ÷ one", ours, times["ours 1"]),
        compared(f"{many} bare logins and links at once ÷ one", bare, times["floor 1"]),
        compared(f"{many} servers' first lookups at once ÷ one", servers, times["server 1"]),
        compared(f"{many} first lookups ÷ {many} bare logins and links", ours, bare),
        compared(f"{many} servers' first lookups ÷ {many} bare logins and links", servers, bare),
    ]


def versions(times: Times, snapshots: int) -> list[Row]:
    ours, least, ended = times["ours"], times["least"], times["least, ended"]
    bare = f"{snapshots} bare logins, mounts and stats in turn"
    return [
        compared(f"versions over {snapshots} snapshots ÷ {bare}", ours, least, "≤ 1.1"),
        compared("the same ÷ these, with umounts and logouts", ours, ended),
    ]


def failing(times: dict[str, float]) -> list[Row]:
    places = {
        "gone": "the SAN does not know the target",
        "dead": "the portal does not answer",
        "offline": "the SAN has taken the target offline",
    }
    return [
        seconds(f"time to the user's error: {why}", times[name], "≤ 12 s")
        for name, why in places.items()
    ]
