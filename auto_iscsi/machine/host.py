"""What is the machine, below a root directory?

The only door to the machine's files and programs. A Host below another root reads that tree and
starts only programs that are in it: it can never reach the real iscsiadm.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, signal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Callable

PROGRAMS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_PACKAGES = {"ss": "iproute2", "multipath": "multipath-tools"}
DESCRIPTORS = 4096  #: that we, or who started us, could have open
_NOT_STARTED = 127  # as the dynamic linker says it, and a shell
_TERMINALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)

# sysfs answers with these while a session or a disk goes: that means "gone", not "broken".
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.EINVAL})


class Host(NamedTuple):
    """A machine: this one, or one that is laid out below `root`."""

    root: str = "/"

    def path(self, name: str) -> str:
        """Return where the absolute path `name` is on the machine that runs us."""
        return self.root.rstrip("/") + name

    def read(self, name: str) -> str | None:
        """Return the text of a file without white space around it, None when it is not there."""
        data = self.read_bytes(name)
        return None if data is None else data.decode("utf-8", "backslashreplace").strip()

    def read_bytes(self, name: str) -> bytes | None:
        """Return a file's content, None when it is not there."""
        try:
            handle = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _absent(error, name)
            return None
        try:
            parts = []
            while part := os.read(handle, 1 << 16):
                parts.append(part)
            return b"".join(parts)
        except OSError as error:
            _absent(error, name)
            return None
        finally:
            os.close(handle)

    def stat(self, name: str) -> os.stat_result | None:
        """Return what stat(2) says, None when it is not there."""
        try:
            return os.stat(self.path(name))
        except OSError as error:
            _absent(error, name)
            return None

    def names(self, name: str) -> list[str]:
        """Return the sorted names in a directory; none when it is not there."""
        try:
            return sorted(os.listdir(self.path(name)))
        except OSError as error:
            _absent(error, name)
            return []

    def link(self, name: str) -> str | None:
        """Return the last part of what a symbolic link points to, None when there is no link."""
        try:
            return os.path.basename(os.readlink(self.path(name)))
        except OSError as error:
            _absent(error, name)
            return None

    def write(self, name: str, text: str) -> None:
        """Write to a file that exists (an attribute in sysfs); raise OSError as it comes."""
        handle = os.open(self.path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

    def runs(self, name: str) -> bool:
        """Say whether a process of that name runs."""
        pids = filter(str.isdecimal, self.names("/proc"))
        return any(self.read(f"/proc/{pid}/comm") == name for pid in pids)

    def run(
        self,
        program: str,
        *args: str,
        out: int,
        err: int,
        until: float,
        files: Mapping[str, bytes] | None = None,
        endures: bool = False,
        quick: bool = False,
    ) -> int | None:
        """Start a program and return its exit status, or None when it still runs at `until`.

        `until` is a time.monotonic(). A program that outlasts it is left alone: killing iscsiadm
        can leave its database locked for ever (open-iscsi usr/idbm.c, idbm_lock). So that it can
        go on without us, it gets no pipe of ours: stdout and stderr are the descriptors `out`
        and `err`, stdin is /dev/null, and what a terminal sends does not reach it. A lock held
        through `out` or `err` lives until it ends.

        `files` is what it alone sees in the place of files of the machine. One that `endures`
        ignores SIGTERM, which systemd sends to all that automount started when automount stops.
        `quick`: without sh, whose import alone takes as long as a login.
        """
        found = [f"{folder}/{program}" for folder in PROGRAMS]
        found = [path for path in found if os.access(self.path(path), os.X_OK)]
        if not found:
            package = _PACKAGES.get(program, "open-iscsi")
            raise errors.BrokenInstallation(f"{program} is not installed", f"install {package}")
        shown = {self.path(name): content for name, content in (files or {}).items()}
        if shown:
            from auto_iscsi.machine import private_files  # ctypes, before the fork

        def prepare() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINALS)
            # Not with sh's own means: sh 1.12 takes only pipes and terminals as they are and
            # puts a pipe and a thread of its own before everything else.
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            if endures:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if shown:
                private_files.show_to_child(shown, self.path("/run"))

        environment = {"PATH": ":".join(PROGRAMS), "LC_ALL": "C"}
        if self.root != "/":
            environment["AUTO_ISCSI_ROOT"] = self.root
        start = _forked if quick else _by_sh
        try:
            pid, ended = start(self.path(found[0]), args, environment, prepare)
        except ChildProcessError as error:
            hint = "for its files it needs CAP_SYS_ADMIN" if shown else ""
            raise errors.BrokenInstallation(f"{program} not started: {error}", hint) from error
        try:
            exited = os.pidfd_open(pid)
        except ProcessLookupError:  # sh's own thread was quicker and has reaped it
            exited = -1
        try:
            import select

            while (status := ended()) is None:
                left = until - time.monotonic()
                if left <= 0:
                    return None
                if exited >= 0:
                    select.select([exited], [], [], left)
        finally:
            if exited >= 0:
                os.close(exited)
        if status == _NOT_STARTED:
            raise errors.BrokenInstallation(f"{program} does not start", f"try {found[0]}")
        return status


def _by_sh(
    path: str, args: Sequence[str], environment: dict[str, str], prepare: Callable[[], None]
) -> tuple[int, Callable[[], int | None]]:
    """Start a program; return its process and what says how it ended, None while it runs.

    `prepare` is called in the new process. Raise ChildProcessError when that, or the start, fails.
    """
    try:
        find_libraries()
        import sh  # 20 to 60 ms
    except ImportError as error:
        raise errors.BrokenInstallation(f"{error}", "install python3-sh") from error
    # _cwd: not automount's root, which would stay busy. _tty_out: or the child gets a tty.
    try:
        process = sh.Command(path)(
            *args,
            _bg=True,
            _bg_exc=False,
            _tty_out=False,
            _new_session=False,
            _cwd="/",
            _env=environment,
            _preexec_fn=prepare,
        ).process
    except sh.ForkException as error:
        raise ChildProcessError(str(error).strip().splitlines()[-1].strip()) from error

    def ended() -> int | None:
        alive, status = process.is_alive()
        if not alive and status is None:
            time.sleep(0.001)  # for the lock of sh's thread
        return None if alive or status is None else int(status)

    return process.pid, ended


def _forked(
    path: str, args: Sequence[str], environment: dict[str, str], prepare: Callable[[], None]
) -> tuple[int, Callable[[], int | None]]:
    """Do the same as _by_sh() where every millisecond counts."""
    child = os.fork()
    if not child:
        try:
            prepare()
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
            os.closerange(3, DESCRIPTORS)
            os.chdir("/")
            os.execve(path, [path, *args], environment)
        finally:
            os._exit(_NOT_STARTED)

    def ended() -> int | None:
        pid, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    return child, ended


def find_libraries() -> None:
    """Let Python find what the distribution installed.

    The map program starts without (python3 -S): to look for them is a third of Python's start.
    """
    if sys.flags.no_site and "site" not in sys.modules:
        import site

        site.main()


def _absent(error: OSError, name: str) -> None:
    """Return when the error means that `name` is not there; raise Failure for any other."""
    if error.errno in _GONE:
        return
    if error.errno in (errno.EACCES, errno.EPERM):
        raise errors.NotPermitted(f"{name}: permission denied", "run it as root") from error
    raise errors.Failure(f"{name}: {error.strerror}") from error
