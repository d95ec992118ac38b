"""A group command line of our own, as an EqualLogic group has it: sshd starts it (ForceCommand).

Usage: group_cli.py FOLDER [serve]. FOLDER/state.json has the group: volumes, snapshots, access
records and quirks. FOLDER/typed gets each line that was typed. Where lio.py lies beside this file
and the state has `lio`, snapshots and volumes that are online are real targets of the kernel, and
access records are their ACLs; `serve` makes them so. It needs only Python, as it also runs in the
virtual machine.

Quirks, each a word in state["quirks"]:

    motd           text before the first prompt, with something that looks like a prompt
    reprint        a refused command is typed again after the prompt, until reprintBadInput off
    stubborn       with reprint: also after that
    events         news between commands, until events off
    close:N        the connection is closed at the Nth command
    limit:N        more than N sessions are refused
    both           apply-to is ignored: a record admits to the volume too
    no-description, no-read-only   the command does not exist
    silent         the terminal does not echo
    asks           logout asks, and offline asks even with confirmation off
    hang:WHEN:WORD the command with this word hangs, before or after it is carried out
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

try:
    import lio
except ImportError:
    lio = None

FOLDER = ""
SETTINGS = ("events", "formatoutput", "confirmation", "paging", "reprintBadInput", "idlelogout")
NAME_WIDTH, INITIATOR_WIDTH = 30, 29
WORDS = {"read-only": "read-only", "read-write": "read-write"}


class Refused(Exception):
    """The group answers with an error."""


@contextlib.contextmanager
def state(change: bool = False) -> Iterator[dict[str, Any]]:
    """Lock and read the group's state; write it back, and tell the kernel's target."""
    with open(f"{FOLDER}/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(f"{FOLDER}/state.json") as file:
            group = json.load(file)
        yield group
        if change:
            if group.get("lio"):
                serve(group)
            with open(f"{FOLDER}/state.new", "w") as file:
                json.dump(group, file, indent=1)
            os.rename(f"{FOLDER}/state.new", f"{FOLDER}/state.json")


def serve(group: dict[str, Any]) -> None:
    """Make the kernel's targets what the state says: those online, with the ACLs of the records."""
    for volume in group["volumes"].values():
        for is_volume, each in [
            (True, volume),
            *((False, snapshot) for snapshot in volume["snapshots"].values()),
        ]:
            kinds = ("volume", "both") if is_volume else ("snapshot", "both")
            admitted = {
                record["initiator"] for record in volume["access"] if record["applies"] in kinds
            }
            online = each["status"] == "online" and "disk" in each
            there = os.path.isdir(lio.group(each["iqn"]))
            if there and not online:
                delete(each["iqn"])
            elif online and not there:
                lio.add_target(
                    each["iqn"], [group["portal"]], {"0": each["disk"]}, True, None, None
                )
                lio.put(f"{lio.group(each['iqn'])}/attrib/generate_node_acls", 0)
                lio.put(f"{lio.group(each['iqn'])}/attrib/demo_mode_discovery", 0)
            if online:
                admit(each["iqn"], admitted, each["permission"] == "read-only")


def acls(iqn: str) -> str:
    return f"{lio.group(iqn)}/acls"


def admit(iqn: str, initiators: set[str], read_only: bool) -> None:
    """Give the target these ACLs and no others."""
    for name in set(os.listdir(acls(iqn))) - initiators:
        bar(iqn, name)
    for name in initiators - set(os.listdir(acls(iqn))):
        lun = f"{acls(iqn)}/{name}/lun_0"
        os.makedirs(lun)
        os.symlink(f"{lio.group(iqn)}/lun/lun_0", f"{lun}/mapped")
        lio.put(f"{lun}/write_protect", int(read_only))


def bar(iqn: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{acls(iqn)}/{name}/lun_0/mapped")
        os.rmdir(f"{acls(iqn)}/{name}/lun_0")
    os.rmdir(f"{acls(iqn)}/{name}")


def delete(iqn: str) -> None:
    lio.put(f"{lio.group(iqn)}/enable", 0)
    for name in os.listdir(acls(iqn)):
        bar(iqn, name)
    lio.delete_target(iqn)


def connections(group: dict[str, Any], each: dict[str, Any]) -> int:
    """Return how many sessions a volume or snapshot has."""
    if not group.get("lio") or not os.path.isdir(lio.group(each["iqn"])):
        return int(each.get("connections", 0))
    found = 0
    for name in os.listdir(acls(each["iqn"])):
        with open(f"{acls(each['iqn'])}/{name}/info") as file:
            found += "InitiatorName" in file.read()
    return found


def wrapped(text: str, width: int) -> list[str]:
    return [text[at : at + width] for at in range(0, len(text), width)] or [""]


class Terminal:
    """One session: what was typed, and what is shown."""

    def __init__(self) -> None:
        self.settings = dict.fromkeys(SETTINGS, True)
        self.pending = ""
        self.count = 0
        with state() as group:
            self.quirks = {word.partition(":")[0]: word for word in group["quirks"]}
            self.prompt = f"{group['name']}> "
        if "silent" in self.quirks:
            settings = termios.tcgetattr(0)
            settings[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, settings)

    def show(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def line(self) -> str:
        """Return a typed line, as the terminal's line discipline gives it."""
        typed = sys.stdin.readline()
        if not typed:
            raise EOFError
        return typed.rstrip("\n")

    def ask(self, question: str) -> bool:
        self.show(f"{question} (y/n) [n]")
        return self.line().strip() == "y"

    def page(self, text: str) -> None:
        """Show output, a page at a time until paging is off."""
        lines = text.splitlines()
        while self.settings["paging"] and len(lines) > 20:
            self.show("\n".join(lines[:20]) + "\n--More--")
            self.line()
            lines = lines[20:]
        self.show("\n".join(lines) + "\n" if lines else "")

    def run(self) -> None:
        if not self.is_admitted():
            self.show("Error: the maximum number of sessions is reached\n")
            return
        if "motd" in self.quirks:
            self.show("\n           Welcome to Group Manager\n\nnote> see the manual\n\n")
            self.show("        Copyright: nobody\n")
        self.show(self.prompt)
        while True:
            typed = self.pending + self.line()
            self.pending = ""
            with open(f"{FOLDER}/typed", "a") as file:
                file.write(typed + "\n")
            self.count += 1
            if "close" in self.quirks and self.count >= int(self.quirks["close"].split(":")[1]):
                return
            words = typed.split()
            if words == ["logout"]:
                if "asks" not in self.quirks or self.ask("Do you really want to logout?"):
                    return
                continue
            try:
                self.hang(words, "before")
                self.page(self.answer(words))
                self.hang(words, "after")
            except Refused as error:
                self.show(f"% Error - {error}\n")
                again = self.settings["reprintBadInput"] or "stubborn" in self.quirks
                if "reprint" in self.quirks and again:
                    self.pending = typed
            if "events" in self.quirks and self.settings["events"]:
                self.show("\nINFO event: the array is well\n")
            self.show(self.prompt)
            if self.pending:
                time.sleep(0.1)
                self.show(self.pending)

    def hang(self, words: list[str], when: str) -> None:
        _, at, word = (self.quirks.get("hang", "::") + "::").split(":")[:3]
        if at == when and word in words:
            with open(f"{FOLDER}/hangs", "w") as file:
                file.write(" ".join(words))
            time.sleep(600)

    def is_admitted(self) -> bool:
        """Take one of the places for sessions, until this process ends."""
        most = int(self.quirks.get("limit", ":7").split(":")[1])
        for number in range(most):
            place = open(f"{FOLDER}/session{number}", "a")  # noqa: SIM115 (held until the end)
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                place.close()
                continue
            self.place = place
            return True
        return False

    def answer(self, words: list[str]) -> str:
        """Carry out a command."""
        if not words:
            return ""
        if words[0] == "stty" and len(words) == 3:
            return ""
        if words[0] == "cli-settings" and words[1] in SETTINGS and len(words) == 3:
            self.settings[words[1]] = words[2] == "on"
            return ""
        if words == ["grpparams", "show"]:
            with state() as group:
                address = group["portal"].rpartition(":")[0]
                return f"Name: {group['name']}\nGroup-Ipaddress: {address}\nDef-Snap-Reserve: 100%"
        if words == ["volume", "show"]:
            return self.volume_table()
        if words[:2] == ["volume", "select"] and len(words) >= 4:
            return self.volume(words[2], words[3:])
        raise Refused(f"Bad command: {words[0]}")

    def volume_table(self) -> str:
        rows = ["Name            Size       Snapshots Status  Permission Connections T"]
        rows.append("--------------- ---------- --------- ------- ---------- ----------- -")
        with state() as group:
            for name, volume in group["volumes"].items():
                first, *more = wrapped(name, 15)
                many = len(volume["snapshots"])
                rows.append(
                    f"{first:<15} {'1GB':<10} {many:<9} {'online':<7} {'read-write':<10} {0:<11} N"
                )
                rows += [f"  {part}" for part in more]
        return "\n".join(rows)

    def volume(self, name: str, words: list[str]) -> str:
        with state(change=words[-1] != "show") as group:
            if name not in group["volumes"]:
                raise Refused(f"Volume {name} does not exist.")
            volume = group["volumes"][name]
            if words == ["snapshot", "show"]:
                return self.snapshot_table(group, volume)
            if words[:2] == ["snapshot", "select"] and len(words) >= 4:
                if words[2] not in volume["snapshots"]:
                    raise Refused(f"Snapshot {words[2]} does not exist.")
                return self.snapshot(group, words[2], volume["snapshots"][words[2]], words[3:])
            if words == ["show"]:
                return f"Name: {name}\nSize: 1GB\niSCSI Name: {volume['iqn']}\nStatus: online"
            if words == ["access", "show"]:
                return self.access_table(volume)
            if words[:3] == ["access", "create", "initiator"]:
                return self.create_access(volume, words[3], words[4:])
            if words[:2] == ["access", "delete"] and len(words) == 3:
                return self.delete_access(volume, words[2])
        raise Refused(f"Bad command: {' '.join(words)}")

    def snapshot_table(self, group: dict[str, Any], volume: dict[str, Any]) -> str:
        rows = [f"{'Name':<30} {'Permission':<10} {'Status':<14} Connections"]
        rows.append(f"{'-' * 30} {'-' * 10} {'-' * 14} {'-' * 11}")
        for name, each in volume["snapshots"].items():
            first, *more = wrapped(name, NAME_WIDTH)
            sessions = connections(group, each)
            rows.append(f"{first:<30} {each['permission']:<10} {each['status']:<14} {sessions}")
            rows += [f"  {part}" for part in more]
        return "\n".join(rows)

    def snapshot(
        self, group: dict[str, Any], name: str, each: dict[str, Any], words: list[str]
    ) -> str:
        if words == ["show"]:
            shown = [f"Name: {name}", f"Size: 1GB\nDescription: {each['description']}"]
            shown += [f"iSCSI Name: {each['iqn']}", f"Permission: {each['permission']}"]
            shown += [f"Status: {each['status']}", f"Connections: {connections(group, each)}"]
            if self.settings["formatoutput"]:
                shown.insert(0, "_" * 20 + " Snapshot Information " + "_" * 20)
            return "\n".join(shown)
        if words in (["online"], ["offline"]):
            if words == ["offline"]:
                busy = connections(group, each)
                if (self.settings["confirmation"] or "asks" in self.quirks) and busy:
                    raise Refused(f"Snapshot {name} is in use: {busy} active connections.")
            each["status"] = words[0]
            return ""
        if words[0] in WORDS and len(words) == 1 and "no-read-only" not in self.quirks:
            if each["status"] == "online":
                raise Refused("The permission of an online snapshot cannot be changed.")
            each["permission"] = words[0]
            return ""
        if words[0] == "description" and len(words) == 2 and "no-description" not in self.quirks:
            each["description"] = words[1]
            return ""
        raise Refused(f"Bad command: {' '.join(words)}")

    def access_table(self, volume: dict[str, Any]) -> str:
        rows = ["ID  Initiator                     Ipaddress     AuthMethod UserName   Apply-To"]
        rows.append(
            "--- ----------------------------- ------------- ---------- ---------- --------"
        )
        for number, record in enumerate(volume["access"], 1):  # numbers move when one is deleted
            first, *more = wrapped(record["initiator"], INITIATOR_WIDTH)
            rows.append(
                f"{number:<3} {first:<29} {'*.*.*.*':<13} {record['method']:<10} "
                f"{record['user']:<10} {record['applies']}"
            )
            rows += [f"       {part}" for part in more]
        return "\n".join(rows)

    def create_access(self, volume: dict[str, Any], initiator: str, words: list[str]) -> str:
        given = dict(zip(words[::2], words[1::2]))
        applies = given.get("apply-to", "both")
        if "both" in self.quirks:
            applies = "both"
        if len(volume["access"]) >= 16:
            raise Refused("The maximum number of access control records is reached.")
        record = {"initiator": initiator, "method": given.get("authmethod", "none")}
        volume["access"].append({**record, "user": given.get("username", ""), "applies": applies})
        return f"Access control record created with ID {len(volume['access'])}."

    def delete_access(self, volume: dict[str, Any], number: str) -> str:
        if not number.isdecimal() or not 0 < int(number) <= len(volume["access"]):
            raise Refused(f"Access control record {number} does not exist.")
        if self.settings["confirmation"] and not self.ask("Do you really want to delete it?"):
            return ""
        del volume["access"][int(number) - 1]
        return "Access control record deleted."


def main() -> None:
    global FOLDER
    FOLDER = sys.argv[1]
    if sys.argv[2:] == ["serve"]:
        with state(change=True):
            return
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        Terminal().run()


if __name__ == "__main__":
    main()
