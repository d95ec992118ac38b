"""The directories of links below /snapshots, and the list of volumes, as files of a host."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from auto_iscsi.machine.host import Host
from auto_iscsi.san import links, names
from auto_iscsi.san.catalogue import Catalogue, Entry
from tests.tree.tree import make_tree

VIENNA = ZoneInfo("Europe/Vienna")
STEM = "iqn.2001-05.com.example:vm-beta"
GMT = "@GMT-%Y.%m.%d-%H.%M.%S"


def entry(day: int, volume: str = "vm-beta", tail: str = "", **more: object) -> Entry:
    moment = datetime(2010, 5, day, 4, 0, 1, tzinfo=VIENNA)
    made = Entry(volume, moment, f"{STEM}-{volume}-{day}{tail}", False, "")
    return made._replace(**more)  # type: ignore[arg-type]


def shown(host: Host, volume: str = "vm-beta") -> dict[str, str]:
    folder = Path(host.path(f"{links.FOLDER}/{volume}"))
    return {path.name: os.readlink(path) for path in folder.iterdir()}


def update(host: Host, *entries: Entry) -> frozenset[str]:
    return links.update(host, Catalogue(entries, ()))


def test_names_are_times_in_the_zone_of_the_snapshots_or_utc_for_samba() -> None:
    assert list(links.names([entry(3)])) == ["2010-05-03_04:00:01"]
    assert list(links.names([entry(3, link_format=GMT)])) == ["@GMT-2010.05.03-02.00.01"]


def test_two_snapshots_of_one_name_are_both_there() -> None:
    named = links.names([entry(3, link_format="%Y-%m"), entry(2, link_format="%Y-%m")])
    assert [(name, each.time.day) for name, each in named.items()] == [
        ("2010-05_2", 3),
        ("2010-05", 2),
    ]


def test_thousands_of_snapshots_of_one_second_take_no_time() -> None:
    """A portal's answer has room for them, and a visit to any volume has 30 seconds."""
    same = [entry(3, tail=f".{number}") for number in range(17_000)]
    began = time.process_time()
    named = links.names(same)
    assert time.process_time() - began < 5
    assert (len(named), *list(named)[:2]) == (
        17_000,
        "2010-05-03_04:00:01_17000",
        "2010-05-03_04:00:01_16999",
    )


def test_the_hour_that_comes_twice_has_two_names() -> None:
    autumn = [datetime(2010, 10, 31, hour, 30, tzinfo=timezone.utc) for hour in (1, 0)]
    local = [entry(3)._replace(time=moment.astimezone(VIENNA)) for moment in autumn]
    assert list(links.names(local)) == ["2010-10-31_02:30:00_2", "2010-10-31_02:30:00"]


def test_a_directory_follows_what_there_is(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    old, new = entry(3), entry(4)
    assert update(host, new, old) == {"vm-beta"}
    first = os.stat(host.path(f"{links.FOLDER}/vm-beta"))
    assert first.st_mode & 0o777 == 0o755
    assert shown(host) == {
        "2010-05-03_04:00:01": f"/iscsiauto/{old.target}",
        "2010-05-04_04:00:01": f"/iscsiauto/{new.target}",
        "latest": "2010-05-04_04:00:01",
    }
    update(host, new._replace(is_gone=True), old)
    assert shown(host) == {
        "2010-05-03_04:00:01": f"/iscsiauto/{old.target}",
        "latest": "2010-05-03_04:00:01",
    }
    # It is the same directory: one that is mounted shows what is new.
    assert os.stat(host.path(f"{links.FOLDER}/vm-beta")).st_ino == first.st_ino
    assert update(host, entry(3, "vm-alpha")) == {"vm-alpha"}
    assert [name for name in host.names(links.FOLDER) if name[0] != "."] == ["vm-alpha"]


def test_the_list_keeps_its_program_and_has_a_line_for_each_volume(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    path = Path(host.path("/var/lib/auto-iscsi/volumes.map"))
    path.parent.mkdir(parents=True)
    path.write_text("+program:/usr/local/libexec/auto-iscsi/auto.snapshots\n")
    update(host, entry(3), entry(3, "vm-alpha"))
    assert path.read_text().splitlines() == [
        "+program:/usr/local/libexec/auto-iscsi/auto.snapshots",
        "vm-alpha -fstype=bind,ro :/run/auto-iscsi/snapshots/vm-alpha",
        "vm-beta -fstype=bind,ro :/run/auto-iscsi/snapshots/vm-beta",
    ]
    assert links.listed(host) == ["vm-alpha", "vm-beta"]
    before = path.stat().st_mtime_ns
    update(host, entry(3), entry(3, "vm-alpha"))
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["", ".", "..", ".x", "-x", "VM", "a/b", "a b", "*", "ä", "a\n"])
def test_what_is_no_volumes_name(text: str) -> None:
    assert not names.is_volume(text)


def test_what_a_killed_run_left_does_no_harm(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    update(host, entry(3))
    os.symlink("/etc", host.path(f"{links.FOLDER}/.link"))
    update(host, entry(4), entry(3))
    assert shown(host)["latest"] == "2010-05-04_04:00:01"


#: A tmpfs without room for many links, in a mount namespace of its own.
FULL = """\
    mkdir -p {root}/run
    mount -t tmpfs -o nr_inodes=20,mode=755 tmpfs {root}/run
    exec {python} -m auto_iscsi --root {root} list --offline
"""


def test_a_full_run_is_said_and_no_bug(tmp_path: Path) -> None:
    names = [f"iqn.2001-05.com.example:vm-{n:02}-2010-05-03-04:00:01" for n in range(30)]
    records = {f"/etc/iscsi/nodes/{name}/10.0.0.1,3260,1": "" for name in names}
    make_tree(tmp_path, records)
    script = textwrap.dedent(FULL).format(root=tmp_path, python=sys.executable)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "vm-29" in done.stdout and "no space left on device" in done.stdout
