"""Start child processes that keep nothing of their parent.

A child can outlive its parent. It must not hold the parent's stdout (automount waits for its end),
the parent's locks (the next lookup waits for them) or automount's working directory (which autofs
could not unmount). The only module that imports sh.
"""

from __future__ import annotations

import os
import select
import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, signal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Callable

NOT_STARTED = 127  #: exit status of a program that did not start, as the dynamic linker has it
_DESCRIPTORS = 4096  # as many as we, or the process that started us, could have open
_TERMINAL_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)


class Program(NamedTuple):
    """A program to start, and what it gets."""

    path: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    stdin: int  #: the descriptor that becomes its stdin; -1: /dev/null
    out: int  #: the descriptor that becomes its stdout
    err: int  #: the descriptor that becomes its stderr
    ignores_sigterm: bool
    private_files: Mapping[str, bytes]  #: contents that only this program sees, by path
    scratch: str  #: a directory to make these files in


def run(program: Program, until: float, *, quick: bool) -> int | None:
    """Start a program and return its exit status, None when it still runs at `until`.

    `until` is a time.monotonic(). `quick`: without sh, whose import takes 20 to 60 ms. Raise
    ChildProcessError when the program cannot be started; `quick` returns NOT_STARTED instead.
    """
    pid, exit_status = (_start_directly if quick else _start_with_sh)(program)
    try:
        exited = os.pidfd_open(pid)
    except ProcessLookupError:  # sh's own thread has reaped it already
        exited = -1
    try:
        while (status := exit_status()) is None:
            seconds = until - time.monotonic()
            if seconds <= 0:
                return None
            if exited >= 0:
                select.select([exited], [], [], seconds)
        return status
    finally:
        if exited >= 0:
            os.close(exited)


def fork(work: Callable[[], object], out: int, err: int = -1, stdin: int = -1) -> int:
    """Call `work` in a child process, which ends when it returns; return the child's process id.

    The child's stdin, stdout and stderr are `stdin`, `out` and `err`; -1 means /dev/null. It has no
    other descriptor of ours. Timers (alarm) are not inherited (fork(2)).
    """
    child = os.fork()
    if not child:
        try:
            _set_streams(stdin, out, err)
            os.closerange(3, _DESCRIPTORS)
            os.chdir("/")
            work()
        finally:
            os._exit(NOT_STARTED)
    return child


def _set_streams(*streams: int) -> None:
    """Make these descriptors stdin, stdout and stderr, in this order; -1 means /dev/null."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number, stream in enumerate(streams):
        os.dup2(null if stream < 0 else stream, number)


def _preparation(program: Program) -> Callable[[], None]:
    """Return what the child calls before its exec."""
    if program.private_files:
        from auto_iscsi.machine import private_files  # imports ctypes: before the fork

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)
        if program.ignores_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if program.private_files:
            private_files.mount_over(program.private_files, program.scratch)

    return prepare


def _start_directly(program: Program) -> tuple[int, Callable[[], int | None]]:
    """Start a program; return its process id and what returns its exit status, None until then."""
    prepare = _preparation(program)

    def execute() -> None:
        prepare()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
        os.execve(program.path, [program.path, *program.arguments], program.environment)

    child = fork(execute, program.out, program.err, program.stdin)

    def exit_status() -> int | None:
        pid, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    return child, exit_status


def _start_with_sh(program: Program) -> tuple[int, Callable[[], int | None]]:
    """Do what _start_directly() does; raise ChildProcessError when the start fails."""
    from auto_iscsi.machine import libraries

    try:
        libraries.make_importable()
        import sh  # 20 to 60 ms
    except ImportError as error:
        raise errors.BrokenInstallation(f"{error}", "install python3-sh") from error

    prepare = _preparation(program)

    def set_streams_and_prepare() -> None:
        # Not by sh's own means: sh 1.12 hands on only pipes and terminals as they are, and puts a
        # pipe and a thread of its own in front of everything else.
        _set_streams(program.stdin, program.out, program.err)
        prepare()

    try:
        process = sh.Command(program.path)(
            *program.arguments,
            _bg=True,
            _bg_exc=False,
            _tty_out=False,  # or the child gets a terminal
            _new_session=False,
            _cwd="/",
            _env=program.environment,
            _preexec_fn=set_streams_and_prepare,
        ).process
    except sh.ForkException as error:
        raise ChildProcessError(str(error).strip().splitlines()[-1].strip()) from error

    def exit_status() -> int | None:
        alive, status = process.is_alive()
        if not alive and status is None:
            time.sleep(0.001)  # sh's thread holds the lock
        return None if alive or status is None else int(status)

    return process.pid, exit_status
