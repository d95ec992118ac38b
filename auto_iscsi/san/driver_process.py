"""How is a driver run so that it can neither hang, nor harm, nor learn more than it must?

A driver is a program of a stranger's. It runs as a user of its own (run_as), without further
groups, with no privileges to gain (no_new_privs, prctl(2)), a little memory and few files; in /,
with an environment of three variables. A secret is an open file that it inherits, never an argument
or a variable. It is the leader of a process group. When its time is over, the group gets SIGTERM
and, two seconds later, SIGKILL; and SIGKILL when the driver has ended, so that no child of its own
is left. If we are killed, the kernel kills the driver (PR_SET_PDEATHSIG).

Its file, and the folders above it, have to be root's and writable by nobody else; so do those that
a symbolic link on the way leads to.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pwd
import resource
import select
import signal
import stat
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from auto_iscsi import errors
from auto_iscsi.config import config_files
from auto_iscsi.config.san_files import San
from auto_iscsi.drivers import wire
from auto_iscsi.machine.host import PROGRAMS, Host

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
_GRACE = 2.0  # seconds from SIGTERM to SIGKILL
_LOG = 1 << 16  # bytes of a driver's log that are kept
_PIECE = 1 << 16
_DESCRIPTORS = 4096  # as many as we, or the process that started us, could have open
_NOT_STARTED = 127
_MOST_LINKS = 40  # linux/namei.h, MAXSYMLINKS
_LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_FSIZE: 1 << 26,
    resource.RLIMIT_AS: 1 << 31,
}


#: The descriptors of the two secrets in a driver. A shell takes only one digit.
KEY, SECRET = 3, 4
_LOG_FD = 2
_ABOVE = 10  # descriptors below this are the driver's own


class Answer(NamedTuple):
    """What a driver did: its exit status (-SIGNAL when killed), its reply and its log."""

    status: int
    reply: bytes
    log: str
    seconds: float
    is_late: bool  #: it was killed, because its time was over
    is_long: bool  #: it was killed, because its reply had more than wire.LONGEST_REPLY bytes


def call(host: Host, san: San, verb: str, request: dict[str, Any], seconds: float) -> Answer:
    """Run one verb of a driver; raise BrokenInstallation or BadConfiguration.

    `seconds`: the driver's time. It gets two more between SIGTERM and SIGKILL.
    """
    return run(host, san, [verb], as_request(san, request, seconds), seconds)


def as_request(san: San, request: dict[str, Any], seconds: float) -> bytes:
    """Return a request as a driver reads it, with the descriptors of the secrets in its config."""
    config: dict[str, Any] = {
        "address": san.address,
        "user": san.user,
        "timezone": san.timezone,
        "options": san.options,
    }
    if san.key_file:
        config["key_fd"] = KEY
    if san.secret_file:
        config["secret_fd"] = SECRET
    whole = {"protocol": wire.VERSION, "san": san.name, **request, "config": config}
    whole["deadline_s"] = round(seconds, 3)
    return json.dumps(whole).encode()


def run(
    host: Host,
    san: San,
    arguments: Sequence[str],
    request: bytes,
    seconds: float,
    grace: float = _GRACE,
    is_test: bool = False,
) -> Answer:
    """Run a driver with any bytes on stdin; else as call(). `grace`: from SIGTERM to SIGKILL.

    `is_test`: a person has named the driver, whoever can write its file.
    """
    if not is_test:
        check_trusted(host, san.driver)
    identity = find_identity(san)
    until = time.monotonic() + seconds
    environment = {"PATH": ":".join(PROGRAMS), "LC_ALL": "C.UTF-8", "HOME": "/"}
    if host.root != "/":
        environment["AUTO_ISCSI_ROOT"] = host.root
    command = [host.path(san.driver), *arguments]
    files: dict[int, int] = {}  # by the descriptor in the driver, ours
    try:
        files[0] = os.memfd_create("request", os.MFD_CLOEXEC)
        os.write(files[0], request)
        os.lseek(files[0], 0, os.SEEK_SET)
        for number, name, file in (
            (KEY, "key_file", san.key_file),
            (SECRET, "secret_file", san.secret_file),
        ):
            if file:
                if problem := secret_problem(host, san, name, file):
                    raise config_files.as_failure([problem])
                files[number] = os.open(host.path(file), os.O_RDONLY | os.O_CLOEXEC)
        reply, files[1] = os.pipe()
        log, files[2] = os.pipe()
        child = _start(command, environment, files, identity)
    finally:
        for handle in files.values():
            os.close(handle)
    return _attend(child, reply, log, until, grace)


def secret_problem(host: Host, san: San, name: str, file: str) -> config_files.Problem | None:
    """Return what is wrong with a file that holds a secret: missing, or readable by others."""
    status = host.stat(file)
    if status is None or not stat.S_ISREG(status.st_mode):
        return config_files.Problem("secret", san.file, 0, name, f"{file}: no such file")
    if host.root != "/":
        return None
    problem = config_files.permission_problem(file, status, secret=True)
    return problem and problem._replace(kind="secret", file=san.file, subject=name)


def find_identity(san: San) -> pwd.struct_passwd | None:
    """Return the user as whom a driver runs, None for ourselves: only root can become another.

    Raise BrokenInstallation when there is no such user.
    """
    if os.geteuid():
        return None
    try:
        return pwd.getpwnam(san.run_as)
    except KeyError:
        raise errors.BrokenInstallation(
            f"user {san.run_as} does not exist, as whom drivers run",
            f"useradd --system --user-group --no-create-home {san.run_as}",
        ) from None


def check_trusted(host: Host, driver: str) -> None:
    """Raise BadConfiguration unless only root can change a driver's file and what is above it."""
    status = host.stat(driver)
    if status is None or not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
        raise errors.BadConfiguration(
            f"driver {driver}: no program of that name", "see driver in the SAN's file"
        )
    if os.geteuid():
        return  # it runs with no more rights than who starts it
    for path in _way(host, driver):
        if status := host.stat(path):
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid != 0:
                why, hint = f"{path} belongs to user {status.st_uid}", f"chown root {path}"
            elif mode & 0o022:
                why, hint = f"others than root can write {path}", f"chmod go-w {path}"
            else:
                why = hint = ""
            if why:
                raise errors.BadConfiguration(f"driver {driver} is not run: {why}", hint)


def _way(host: Host, path: str) -> list[str]:
    """Return each folder that leads to a file, through symbolic links as well, and the file."""
    way, pending, links = ["/"], path.split("/")[::-1], 0
    while pending:
        name = pending.pop()
        if name == "..":
            way.append(os.path.dirname(way[-1]))
        elif name not in ("", "."):
            place = f"{way[-1].rstrip('/')}/{name}"
            try:
                target = os.readlink(host.path(place))
            except OSError:  # no link
                way.append(place)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise errors.BadConfiguration(f"driver {path}: too many symbolic links")
            if target.startswith("/"):
                way.append("/")
            pending += target.split("/")[::-1]
    return list(dict.fromkeys(way))


def _start(
    command: Sequence[str],
    environment: dict[str, str],
    files: dict[int, int],
    identity: pwd.struct_passwd | None,
) -> int:
    """Start a driver with these descriptors and as this user; return its process id.

    What keeps it from starting is the only line of its log; its exit status is then 127.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        copies = {n: fcntl.fcntl(own, fcntl.F_DUPFD, _ABOVE) for n, own in files.items()}
        os.closerange(0, _ABOVE)
        for number, copy in copies.items():
            os.dup2(copy, number)
        os.closerange(_ABOVE, _DESCRIPTORS)
        _become_driver(parent, identity)
        os.execve(command[0], list(command), environment)
    except BaseException as error:
        os.write(_LOG_FD, f"not started: {error}".encode())
    finally:
        os._exit(_NOT_STARTED)


def _become_driver(parent: int, identity: pwd.struct_passwd | None) -> None:
    """Give up, in the child, what a driver may not have."""
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    for limit, most in _LIMITS.items():
        resource.setrlimit(limit, (most, most))
    for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if identity:
        os.setgroups([])
        os.setresgid(identity.pw_gid, identity.pw_gid, identity.pw_gid)
        os.setresuid(identity.pw_uid, identity.pw_uid, identity.pw_uid)
    # After the change of the user, which would clear it.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")
    if os.getppid() != parent:
        os._exit(_NOT_STARTED)  # we were killed before the kernel knew what to do then


def _attend(child: int, reply: int, log: int, until: float, grace: float) -> Answer:
    """Read what a driver says until it ends; end its group when it takes too long or says more."""
    began = time.monotonic()
    streams = {reply: bytearray(), log: bytearray()}
    exited = os.pidfd_open(child)
    poll = select.poll()
    for handle in (*streams, exited):
        poll.register(handle, select.POLLIN)
    is_late = has_ended = False
    try:
        while not has_ended and len(streams[reply]) <= wire.LONGEST_REPLY:
            left = until - time.monotonic()
            if left <= 0 and is_late:
                break
            if left <= 0:
                is_late, until = True, time.monotonic() + grace
                _signal(child, signal.SIGTERM)
                continue
            for handle, _ in poll.poll(min(left, 60.0) * 1000 + 1):
                if handle == exited:
                    has_ended = True
                elif not _take(handle, streams[handle]):
                    poll.unregister(handle)
        # The leader is not reaped yet, so no other group can have its number.
        _signal(child, signal.SIGKILL)
        select.select([exited], [], [], _GRACE)
    finally:
        _signal(child, signal.SIGKILL)
        os.close(exited)
        for handle, buffer in streams.items():  # what it said last
            os.set_blocking(handle, False)
            while len(buffer) <= wire.LONGEST_REPLY and _take(handle, buffer):
                pass
            os.close(handle)
        pid, status = os.waitpid(child, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status) if pid else -signal.SIGKILL
    text = bytes(streams[log][:_LOG]).decode("utf-8", "replace")
    answer = bytes(streams[reply])
    if code == _NOT_STARTED and text.startswith("not started: ") and not answer:
        raise errors.BrokenInstallation(f"the driver does {text}", "see driver in the SAN's file")
    is_long = len(answer) > wire.LONGEST_REPLY
    return Answer(code, answer, text, time.monotonic() - began, is_late, is_long)


def _take(handle: int, buffer: bytearray) -> bool:
    """Take what a stream has now; False at its end."""
    try:
        piece = os.read(handle, _PIECE)
    except BlockingIOError:
        return False
    if len(buffer) <= wire.LONGEST_REPLY:
        buffer += piece
    return bool(piece)


def _signal(child: int, number: int) -> None:
    """Send a signal to a driver's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, number)
