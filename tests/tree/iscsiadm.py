"""A fake iscsiadm: a login makes the files that the kernel and udev make on a real host.

san/plan.json below the root says what the SAN has and how it answers. Each run and each step is
logged in san/log, one JSON object per line. The fake does what the real iscsiadm does even where
that does harm: a discovery that is not `nonpersistent` rewrites records, and `-o new` takes its
startup mode from iscsid.conf. It logs a violation where the real one works only by luck: with a
second run for the same target, with a pipe or another descriptor of automount's, with a terminal.

It waits before a step as long as a file with the step's name is in san/stop.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from typing import Any

from tests.tree import kernel

ROOT = os.environ.get("AUTO_ISCSI_ROOT", "")
SAN = f"{ROOT}/san"
OK, ERROR, NO_SESSION, NO_ANSWER, EXISTS = 0, 1, 2, 11, 15
FATAL, NOTHING, REFUSED = 19, 21, 24
PATIENCE = 60.0  # seconds; no process outlives its test by more


def note(**what: Any) -> None:
    """Write one line of the log."""
    line = json.dumps({"pid": os.getpid(), **what}) + "\n"
    log = os.open(f"{SAN}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(log, line.encode())
    os.close(log)


def rest(seconds: float) -> None:
    """Sleep, but not longer than the folder of the test exists."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and os.path.exists(f"{SAN}/plan.json"):
        time.sleep(min(left, 0.05))


def step(name: str) -> None:
    """Log a step, and wait before it if the test asks for that."""
    note(step=name)
    until = time.monotonic() + PATIENCE
    while os.path.exists(f"{SAN}/stop/{name}") and time.monotonic() < until:
        time.sleep(0.005)


def hold(name: str, busy: int = 0) -> int:
    """Lock a name; return the descriptor. If it is locked, exit with `busy` or a violation."""
    os.makedirs(f"{SAN}/running", exist_ok=True)
    file = name.lower().replace("/", "?")
    handle = os.open(f"{SAN}/running/{file}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not busy:
            note(violation=f"two at once for {name}")
        sys.exit(busy or 99)
    return handle


def look_around(words: list[str]) -> None:
    """Log each descriptor, signal or folder that the program must not pass on to iscsiadm."""
    open_here = {int(name) for name in os.listdir("/proc/self/fd")}
    for number in sorted(open_here):
        try:
            leads = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the descriptor that listed the others
            continue
        if number > 2 or leads.startswith(("pipe:", "socket:", "/dev/pts", "/dev/tty")):
            note(violation=f"descriptor {number} is {leads}")
        if number == 0 and leads != "/dev/null":
            note(violation=f"stdin is {leads}")
    changes = {"new", "update", "delete", "--login", "--logout"} & {*words}
    if changes and signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
        note(violation="SIGTERM would end it before it knows how that ended")
    if os.getcwd() != "/":
        note(violation=f"its current folder is {os.getcwd()}, which stays busy")


def split(portal: str) -> tuple[str, int, int]:
    """Return address, port and portal group of ADDRESS:PORT[,GROUP]."""
    place, _, group = portal.partition(",")
    address, _, port = place.rpartition(":")
    return address.strip("[]"), int(port), int(group or -1)


def conf(prefix: str) -> dict[str, str]:
    """Return the settings in iscsid.conf as this process sees it; the last line of each counts.

    There are none while iscsid starts, because iscsiadm asks iscsid where the file is. Without a
    root folder, iscsid always runs.
    """
    if ROOT and not os.path.exists(f"{ROOT}/proc/77/comm"):
        with open(f"{SAN}/plan.json", encoding="utf-8") as file:
            if json.load(file).get("iscsid") != "never":
                kernel.write(ROOT, "/proc/77/comm", "iscsid")
        return {}
    with open(f"{ROOT}/etc/iscsi/iscsid.conf", encoding="ascii") as file:
        pairs = [line.strip().partition(" = ") for line in file if line[:1] != "#"]
    return {name: value for name, equals, value in pairs if equals and name.startswith(prefix)}


def lets_in(required: list[str] | None, prefix: str, given: dict[str, Any]) -> bool:
    """Say whether credentials are the required ones: name, secret, the target's name and secret."""
    names = ("username", "password", "username_in", "password_in")
    chap = given.get(f"{prefix}.authmethod") == "CHAP"
    return not required or (chap and [given.get(f"{prefix}.{n}", "") for n in names] == required)


class Iscsiadm:
    """One run: the plan of the SAN, and the words it was started with."""

    def __init__(self, words: list[str]) -> None:
        with open(f"{SAN}/plan.json", encoding="utf-8") as file:
            self.plan: dict[str, Any] = json.load(file)
        self.nodes = ROOT + self.plan["nodes"]
        self.options: dict[str, list[str]] = {}
        while words:
            word = words.pop(0)
            alone = word.startswith("--")
            self.options.setdefault(word, []).append("" if alone else words.pop(0))

    def option(self, name: str) -> str:
        return self.options.get(name, [""])[0]

    def run(self) -> int:
        mode, operation = self.option("-m"), self.option("-o")
        if mode == "discovery" and self.option("-t") in ("st", "sendtargets"):
            return self.discover(self.option("-p"), operation == "nonpersistent")
        if mode == "session" and "--rescan" in self.options:
            return self.rescan(int(self.option("-r")))
        if mode == "session" and "--logout" in self.options:
            return self.logout(int(self.option("-r")))
        target, portal = self.option("-T"), self.option("-p")
        if mode != "node" or not target or not portal:
            note(violation=f"not limited to one target at one portal: {sys.argv[1:]}")
            return ERROR
        running = [hold(target)]
        if operation:
            running.append(hold("database"))
            step(operation)
            status = self.says(operation, target, portal)
            status = status or getattr(self, operation)(target, portal)
        else:
            step("login")
            status = self.login(target, portal, running)
        step(f"{operation or 'login'}-done")
        return int(status)

    # The SAN

    def target(self, name: str) -> dict[str, Any]:
        return dict(self.plan["targets"].get(name, {}))

    def says(self, verb: str, target: str, portal: str = "") -> int:
        """Hang as long as the plan says; return the exit status that the plan has for a verb."""
        place = portal.partition(",")[0]
        planned = self.target(target).get("answers", {})
        answer = planned.get(f"{verb} {place}", planned.get(verb, {}))
        rest(answer.get("hang", 0))
        return int(answer.get("exit", OK))

    def discover(self, portal: str, nonpersistent: bool) -> int:
        place = portal.partition(",")[0]
        if self.plan.get("silent") == place:  # no login, so nothing that another one could end
            rest(PATIENCE)
            return NO_ANSWER
        alone = hold("discovery", busy=NO_ANSWER)  # of several at once, one is answered
        step("discover")
        if complaint := self.plan.get("complaint"):
            print(complaint, file=sys.stderr)
        found = []
        for name, target in self.plan["targets"].items():
            if place in [p.partition(",")[0] for p in target["portals"]]:
                status = self.says("discover", name, place)
                credentials = target.get("discovery_chap")
                if not lets_in(credentials, "discovery.sendtargets.auth", conf("discovery.")):
                    status = REFUSED
                if status:
                    return status
                if target.get("offered", True):
                    found += [(p, name) for p in target["portals"]]
        if not found:
            print("iscsiadm: No portals found", file=sys.stderr)
            return NOTHING
        for offered, name in found:
            print(f"{offered} {name}", flush=True)
        if not nonpersistent:
            import shutil

            shutil.rmtree(self.nodes, ignore_errors=True)
            for offered, name in found:
                self.new(name, offered)
        step("discover-done")
        os.close(alone)
        return OK

    # Records

    def record(self, target: str, portal: str) -> str:
        """Return a record's folder, "" when there is none."""
        address, port, group = split(portal)
        folder = f"{self.nodes}/{target}"
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            parts = name.rsplit(",", 2)
            if parts[:2] == [address, f"{port}"] and (group < 0 or parts[2] == f"{group}"):
                return f"{folder}/{name}"
        return ""

    def new(self, target: str, portal: str) -> int:
        address, port, group = split(portal)
        values = {
            "node.name": target,
            "node.tpgt": group,
            "node.conn[0].address": address,
            "node.conn[0].port": port,
            **conf("node."),
        }
        self.save(f"{self.nodes}/{target}/{address},{port},{group}", values)
        return OK

    def save(self, folder: str, values: dict[str, Any]) -> None:
        os.makedirs(folder, 0o700, exist_ok=True)
        lines = "".join(f"{name} = {value}\n" for name, value in values.items())
        with open(f"{folder}/default", "w", encoding="utf-8") as file:
            file.write(f"# BEGIN RECORD 2.1.8\n{lines}# END RECORD\n")

    def values(self, record: str) -> dict[str, Any]:
        """Return what is in a record: in its folder, or, of an old version, itself a file."""
        if os.path.isdir(record):
            record = f"{record}/{sorted(os.listdir(record))[0]}"
        with open(record, encoding="utf-8") as file:
            pairs = [line.rstrip("\n").partition(" = ") for line in file if line[0] != "#"]
        return {name: value for name, _, value in pairs}

    def update(self, target: str, portal: str) -> int:
        folder = self.record(target, portal)
        if not folder:
            return NOTHING
        values = self.values(folder)
        values.update(zip(self.options["-n"], self.options["-v"]))
        self.save(folder, values)
        return OK

    def delete(self, target: str, portal: str) -> int:
        folder = self.record(target, portal)
        if not folder:
            return NOTHING
        if self.session(target, portal):
            return EXISTS
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
        if not os.listdir(os.path.dirname(folder)):
            os.rmdir(os.path.dirname(folder))
        return OK

    # Sessions

    def session(self, target: str, portal: str) -> bool:
        """Say whether a session to this target through this portal exists, in whatever state."""
        address, port, _ = split(portal)
        folder = f"{ROOT}{kernel.SESSIONS}"
        with kernel.alone(ROOT):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                connection = f"{kernel.CONNECTIONS}/connection{name[len('session') :]}:0"
                if kernel.read(ROOT, f"{kernel.SESSIONS}/{name}/targetname") == target and (
                    kernel.read(ROOT, f"{connection}/persistent_address"),
                    kernel.read(ROOT, f"{connection}/persistent_port"),
                ) == (address, f"{port}"):
                    return True
        return False

    def name_of(self, sid: int) -> str:
        """Return the target of a session, "" when the session is gone."""
        try:
            return kernel.read(ROOT, f"{kernel.SESSIONS}/session{sid}/targetname")
        except FileNotFoundError:
            return ""

    def login(self, target: str, portal: str, running: list[int]) -> int:
        record = self.record(target, portal)
        if not record:
            return NOTHING
        if self.session(target, portal):
            print("iscsiadm: initiator reported error (15 - session exists)", file=sys.stderr)
            return EXISTS
        place = f"[iface: default, target: {target}, portal: {portal.partition(',')[0]}]"
        print(f"Logging in to {place}")
        status = self.says("login", target, portal)
        if not lets_in(self.target(target).get("chap"), "node.session.auth", self.values(record)):
            status = REFUSED
        if status or target not in self.plan["targets"]:
            return status or FATAL
        step("session")
        address, port, _ = split(portal)
        group = int(os.path.basename(record).rsplit(",", 1)[1])
        sid = kernel.open_session(ROOT, target, address, port, group, "FREE")
        step("logged-in")
        kernel.set_state(ROOT, sid, "LOGGED_IN")
        print(f"Login to {place} successful.")
        planned = self.target(target)
        luns = planned.get("luns_at", {}).get(portal.partition(",")[0], planned["luns"])
        self.scan(sid, planned, luns, running)
        return self.says("logged-in", target)

    def logout(self, sid: int) -> int:
        target = self.name_of(sid)
        if not target:
            return NO_SESSION
        running = [hold(target)]
        step("logout")
        status = self.says("logout", target)
        if not status:
            kernel.close_session(ROOT, sid)
        step("logout-done")
        os.close(running[0])
        return status

    def rescan(self, sid: int) -> int:
        target = self.name_of(sid)
        if not target:
            return NO_SESSION
        running = [hold(target)]
        step("rescan")
        status = self.says("rescan", target)
        if not status:
            kernel.remove_deleted(ROOT, sid)
            self.scan(sid, self.target(target), self.target(target).get("rescanned", {}), running)
        return status

    def scan(
        self, sid: int, target: dict[str, Any], luns: dict[str, Any], running: list[int]
    ) -> None:
        """Have the LUNs appear: at once, or, if that takes time, from another process."""
        after = {"disk": 0.0, "partition": 0.0, "udev": 0.0, **target.get("after", {})}
        if not any(after.values()) and None not in after.values():
            return grow(sid, luns, after)
        child = os.fork()
        if child:
            note(run=["kernel"], pid=child)
        else:
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            for lock in running:
                os.close(lock)
            grow(sid, luns, after)
            note(end=0)
            os._exit(0)
        return None


def grow(sid: int, luns: dict[str, Any], after: dict[str, Any]) -> None:
    """Make what the kernel and udev make after a login; with a time of None, it is never made."""
    for lun, what in luns.items():
        partitions = what.get("partitions", {})
        if after["disk"] is None:
            continue
        rest(after["disk"])
        step("disk")
        disk = kernel.add_disk(ROOT, sid, int(lun), what.get("type", "0"), what.get("dev"))
        if after["partition"] is not None:
            rest(after["partition"])
            step("partition")
            kernel.add_partitions(ROOT, disk, partitions)
        if after["udev"] is not None:
            rest(after["udev"])
            step("udev")
            kernel.announce(ROOT, disk, partitions if after["partition"] is not None else {})


def main() -> int:
    """Run, and log the exit status."""
    note(run=sys.argv[1:])
    look_around(sys.argv)
    status = ERROR
    try:
        status = Iscsiadm(sys.argv[1:]).run()
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    except Exception as error:
        note(violation=f"{type(error).__name__}: {error}")
    finally:
        note(end=status)
    return status
