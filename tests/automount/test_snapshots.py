"""Users enter /snapshots/VOLUME, and the real automount asks the built map for its links."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from tests.automount.browse import FILE, Browse, result
from tests.automount.offered import ALPHA, MONDAY, WEDNESDAY, present, started
from tests.unit.key_examples import HOSTILE

NAMES = ["2010-05-03_04:00:01", "2010-05-04_04:00:01"]
ENTER_ALL = """\
import json, os, sys
for name in json.loads(sys.argv[1]):
    try:
        os.stat(os.fsencode("/snapshots/" + name))
    except OSError:
        continue
    print("there is", ascii(name))
print("tried")
"""


def run(browse: Browse, *words: str, user: int = 65534) -> list[str]:
    return result(browse.enter(*words, user=user)).splitlines()


def listing(browse: Browse) -> list[str]:
    """Have the administrator list the snapshots, and return what `ls /snapshots` shows then."""
    result(browse.enter("/usr/libexec/auto-iscsi/auto-iscsi", "list", user=0))
    browse.wait_for(lambda: run(browse, "ls", "/snapshots"), "the list of volumes")
    return run(browse, "ls", "/snapshots")


def forgotten(browse: Browse, volume: str) -> None:
    """Wait until automount has unmounted a volume's links, and asks again at the next visit."""
    mounts = Path(f"/proc/{browse.holder.pid}/mounts")
    browse.wait_for(
        lambda: f"/snapshots/{volume} " not in mounts.read_text(), f"the end of {volume}"
    )
    time.sleep(2.1)  # also rate_limit.OFFER_LIFETIME


def logins(browse: Browse) -> list[str]:
    return browse.machine.runs("--login")


def test_volumes_and_their_snapshots_by_time(browse: Browse) -> None:
    started(browse)
    assert run(browse, "ls", "/snapshots") == []
    assert listing(browse) == ["vm-alpha", "vm-beta"]
    assert run(browse, "ls", "/snapshots/vm-beta") == [*NAMES, "latest"]
    (link,) = run(browse, "readlink", "-v", f"/snapshots/vm-beta/{NAMES[0]}")
    assert link == f"/iscsiauto/{MONDAY}"
    assert run(browse, "stat", "-c", "%a %U", "/snapshots/vm-beta") == ["755 root"]
    assert run(browse, "stat", "-c", "%Y", f"/snapshots/vm-beta/{NAMES[0]}") == ["1272859201"]
    assert result(browse.enter("touch", "/snapshots/vm-beta/new")) == "Read-only file system"
    assert not logins(browse)
    assert run(browse, "cat", f"/snapshots/vm-beta/latest/{FILE}") == ["disk-1"]
    assert run(browse, "cat", f"/snapshots/vm-beta/{NAMES[0]}/{FILE}") == ["disk-0"]


def test_what_walks_through_directories_logs_in_to_nothing(browse: Browse) -> None:
    started(browse)
    listing(browse)
    for words in (
        ("find", "/snapshots"),
        ("du", "-a", "/snapshots"),
        ("tar", "-cf", "/dev/null", "/snapshots"),
        ("ls", "-lR", "/snapshots"),
        ("bash", "-c", "compgen -f /snapshots/vm-beta/2010"),
    ):
        run(browse, *words)
    shown = run(browse, "bash", "-c", "compgen -f /snapshots/vm-beta/2010-05-04")
    assert shown == [f"/snapshots/vm-beta/{NAMES[1]}"]
    assert not logins(browse)


def test_what_is_presented_or_gone_is_seen_at_the_next_visit(browse: Browse) -> None:
    portal = started(browse)
    listing(browse)
    assert run(browse, "ls", "/snapshots/vm-beta") == [*NAMES, "latest"]
    forgotten(browse, "vm-beta")
    present(browse, WEDNESDAY, portal)
    browse.machine.change(MONDAY, offered=False)
    browse.machine.change(ALPHA, offered=False)
    after = [NAMES[1], "2010-05-05_04:00:01", "latest"]
    assert run(browse, "ls", "/snapshots/vm-beta") == after
    assert run(browse, "readlink", "/snapshots/vm-beta/latest") == [after[1]]
    browse.wait_for(lambda: run(browse, "ls", "/snapshots") == ["vm-beta"], "the end of vm-alpha")
    assert "No such file" in result(browse.enter("ls", "/snapshots/vm-alpha"))


def test_a_volume_that_is_gone_is_not_listed_after_a_visit_of_it(browse: Browse) -> None:
    """automount makes its directory anew: it goes on with the list as it was before the visit."""
    started(browse)
    listing(browse)
    run(browse, "ls", "/snapshots/vm-alpha")
    forgotten(browse, "vm-alpha")
    browse.machine.change(ALPHA, offered=False)
    assert "No such file" in result(browse.enter("ls", "/snapshots/vm-alpha"))
    browse.wait_for(lambda: run(browse, "ls", "/snapshots") == ["vm-beta"], "the end of vm-alpha")


def test_a_name_that_is_no_volume_is_refused_and_no_portal_is_asked(browse: Browse) -> None:
    started(browse)
    listing(browse)
    before = len(browse.machine.runs("discovery"))
    hostile = [key for key in HOSTILE if "/" not in key and key not in (".", "..", "")]
    names = json.dumps([*hostile, "vm-gamma", "VM-BETA", "*", ".vm-beta", MONDAY])
    assert run(browse, "python3", "-c", ENTER_ALL, names) == ["tried"]
    assert len(browse.machine.runs("discovery")) == before
    assert any("auto.snapshots: key 'vm-gamma' refused" in line for line in browse.logged())


def test_a_portal_that_is_down_hides_nothing_that_was_known(browse: Browse) -> None:
    started(browse)
    listing(browse)
    for each in browse.machine.sockets:
        each.close()
    time.sleep(2.1)  # for so long, automount takes what it has read from the list
    assert run(browse, "ls", "/snapshots/vm-beta") == [*NAMES, "latest"]
    assert any("auto.snapshots: vm-beta: discovery at" in line for line in browse.logged())


def test_a_link_that_somebody_stands_beside_is_brought_up_to_date(browse: Browse) -> None:
    portal = started(browse)
    listing(browse)
    script = "cd /snapshots/vm-beta && echo there && read -r _; ls; sleep 300"
    user = subprocess.Popen(
        browse.command("sh", "-c", script, user=65534),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    browse.users.append(user)
    assert user.stdin and user.stdout and user.stdout.readline() == "there\n"
    present(browse, WEDNESDAY, portal)
    time.sleep(2.1)
    listing(browse)
    user.stdin.write("\n")
    user.stdin.flush()
    names = [user.stdout.readline().strip() for _ in range(4)]
    assert names == [*NAMES, "2010-05-05_04:00:01", "latest"]
    os.killpg(user.pid, 9)
