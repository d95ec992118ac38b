"""Read the files and run the programs of a machine.

All access to the machine goes through a Host. A Host with another root directory than / reads the
tree below it and runs only the programs in it: it cannot reach the real iscsiadm.
"""

from __future__ import annotations

import errno
import os

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_PACKAGES = {
    "dmsetup": "dmsetup",
    "multipath": "multipath-tools",
    "prlimit": "util-linux",
    "ss": "iproute2",
    "unshare": "util-linux",
}

_OUTPUT_LIMIT = 1 << 20  # bytes of a program's output

# sysfs also answers with these while a session or a disk is being removed: it is gone, not broken.
# ENOTCONN: a session without a socket (drivers/scsi/iscsi_tcp.c, iscsi_sw_tcp_conn_get_param).
# ESRCH: a process that ended after its file in /proc was opened (fs/proc/base.c).
_GONE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENODEV,
        errno.ENXIO,
        errno.EINVAL,
        errno.ENOTCONN,
        errno.ESRCH,
    }
)


class Host(NamedTuple):
    """A machine: this one, or one whose files are below the directory `root`.

    A missing file is no error to any method that reads. When the kernel refuses access they raise
    NotPermitted, for any other error Failure.
    """

    root: str = "/"

    def path(self, name: str) -> str:
        """Return the path under which we reach `name`, an absolute path of the machine."""
        return self.root.rstrip("/") + name

    def read(self, name: str) -> str | None:
        """Return a file's text without white space around it, None when there is no such file."""
        data = self.read_bytes(name)
        return None if data is None else data.decode("utf-8", "backslashreplace").strip()

    def read_bytes(self, name: str) -> bytes | None:
        """Return a file's content, None when there is no such file."""
        try:
            handle = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _pass_if_absent(error, name)
            return None
        try:
            parts = []
            while part := os.read(handle, 1 << 16):
                parts.append(part)
            return b"".join(parts)
        except OSError as error:
            _pass_if_absent(error, name)
            return None
        finally:
            os.close(handle)

    def stat(self, name: str) -> os.stat_result | None:
        """Return the status of a file (stat(2)), None when there is no such file."""
        try:
            return os.stat(self.path(name))
        except OSError as error:
            _pass_if_absent(error, name)
            return None

    def names(self, name: str) -> list[str]:
        """Return the sorted names in a directory, none when there is no such directory."""
        try:
            return sorted(os.listdir(self.path(name)))
        except OSError as error:
            _pass_if_absent(error, name)
            return []

    def link(self, name: str) -> str | None:
        """Return the last part of a symbolic link's target, None when there is no such link."""
        try:
            return os.path.basename(os.readlink(self.path(name)))
        except OSError as error:
            _pass_if_absent(error, name)
            return None

    def write(self, name: str, text: str) -> None:
        """Write to an existing file, such as a sysfs attribute; raise OSError when that fails."""
        handle = os.open(self.path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

    def runs(self, name: str) -> bool:
        """Return whether a process with this name runs."""
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
        stdin: int = -1,
    ) -> int | None:
        """Start a program and return its exit status, or None when it still runs at `until`.

        `until` is a time.monotonic(). A program that runs longer is left alone: iscsiadm, killed,
        can leave its database locked for ever (open-iscsi usr/idbm.c, idbm_lock). So that the
        program can go on without us, it gets no pipe of ours: its stdout and stderr are the
        descriptors `out` and `err`, its stdin is /dev/null or the descriptor `stdin`, and signals
        from a terminal do not reach it. A lock on the file of `out` or `err` lives until the
        program ends.

        `files`: contents that only this program sees in place of the machine's files, by path.
        `endures`: the program ignores SIGTERM, which systemd sends to every process that automount
        started when automount stops. `quick`: start it without sh, whose import takes as long as a
        login. Raise BrokenInstallation when the program is missing or does not start.
        """
        paths = [f"{folder}/{program}" for folder in PROGRAMS]
        paths = [path for path in paths if os.access(self.path(path), os.X_OK)]
        if not paths:
            package = _PACKAGES.get(program, "open-iscsi")
            raise errors.BrokenInstallation(f"{program} is not installed", f"install {package}")
        environment = {"PATH": ":".join(PROGRAMS), "LC_ALL": "C"}
        if self.root != "/":
            environment["AUTO_ISCSI_ROOT"] = self.root
        from auto_iscsi.machine import spawn  # a warm lookup starts no program

        private_files = {self.path(name): content for name, content in (files or {}).items()}
        command = spawn.Program(
            self.path(paths[0]),
            args,
            environment,
            stdin,
            out,
            err,
            endures,
            private_files,
            self.path("/run"),
        )
        try:
            status = spawn.run(command, until, quick=quick)
        except ChildProcessError as error:
            hint = "for its files it needs CAP_SYS_ADMIN" if files else ""
            raise errors.BrokenInstallation(f"{program} not started: {error}", hint) from error
        if status == spawn.NOT_STARTED:
            raise errors.BrokenInstallation(f"{program} does not start", f"try {paths[0]}")
        return status

    def output(
        self,
        program: str,
        *args: str,
        until: float,
        endures: bool = False,
        quick: bool = False,
        stdin: int = -1,
    ) -> tuple[int | None, str]:
        """Run a program as run() does; return its exit status, and what it prints to both streams.

        What it has printed by `until` is returned for a program that still runs then.
        """
        stream = os.memfd_create("output", os.MFD_CLOEXEC)
        try:
            status = self.run(
                program,
                *args,
                out=stream,
                err=stream,
                until=until,
                endures=endures,
                quick=quick,
                stdin=stdin,
            )
            text = os.pread(stream, _OUTPUT_LIMIT, 0).decode("utf-8", "replace").strip()
        finally:
            os.close(stream)
        return status, text


def _pass_if_absent(error: OSError, name: str) -> None:
    """Return when the error means that there is no `name`; raise NotPermitted or Failure if not."""
    if error.errno in _GONE:
        return
    if error.errno in (errno.EACCES, errno.EPERM):
        raise errors.NotPermitted(f"{name}: permission denied", "run it as root") from error
    raise errors.Failure(f"{name}: {error.strerror}") from error
