"""How is a configuration file changed so that no lookup ever sees a broken one?

As visudo does it: an editor works on a copy, the copy is checked together with the other files
that a lookup reads, and it takes the file's place in one step, with its owner and mode, once
nothing is wrong with it. There is no way to install a file with errors.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Callable

from auto_iscsi import errors
from auto_iscsi.admin import check, output
from auto_iscsi.config import config_files
from auto_iscsi.machine.host import Host

_EDITORS = ("editor", "sensible-editor", "vi", "nano")  # when no variable names one
_MODE = 0o644  # of a file that was not there


def edit(
    host: Host,
    file: str,
    say: Callable[[str], None],
    ask: Callable[[str], str],
    paint: output.Paint,
) -> int:
    """Let a person edit `file` and return the exit status: 1 when it was left as it was."""
    path = os.path.realpath(file or host.path(config_files.FILE))
    if os.path.lexists(path) and not os.path.isfile(path):
        raise errors.Failure(f"{path}: not a regular file")
    with _alone(path), tempfile.TemporaryDirectory(prefix="auto-iscsi.") as folder:
        before = _content(path)
        draft = os.path.join(folder, os.path.basename(path))
        with open(draft, "wb") as copy:
            copy.write(before or b"")
        while True:
            _run_editor(draft)
            if _content(draft) == (before or b""):
                say(f"{path}: not changed")
                return 0
            problems = check.examine(_sources(host, path, draft))
            for problem in problems:
                say(check.said(problem, paint))
            if not any(problem.is_error and problem.file == path for problem in problems):
                break
            question = "What now? (e)dit again, e(x)it without saving: "
            while (answer := ask(question).strip().lower()) not in ("e", "x"):
                pass
            if answer == "x":
                say(f"{path}: not changed")
                return 1
        if _content(path) != before:
            kept = _keep(draft, path)
            raise errors.Failure(f"{path}: somebody else changed it", f"your text is in {kept}")
        _install(_content(draft) or b"", path)
        say(f"{path}: {paint.good('changed')}")
        return 0


def _sources(host: Host, path: str, draft: str) -> list[check.Source]:
    """Return what a lookup would read with the draft in place; the draft alone for other files."""
    names = config_files.list_names(host)
    real = {os.path.realpath(host.path(name)): name for name in names}
    if path not in real:
        folder = os.path.realpath(host.path(config_files.FOLDER))
        if os.path.dirname(path) != folder or not path.endswith(".conf"):
            return [check.given(draft, path)]
        names = [names[0], *sorted([*names[1:], f"{config_files.FOLDER}/{os.path.basename(path)}"])]
        real[path] = f"{config_files.FOLDER}/{os.path.basename(path)}"
    return [
        check.given(draft, path) if name == real[path] else check.Source(host, name, name)
        for name in names
        if name == real[path] or host.stat(name)
    ]


def _run_editor(draft: str) -> None:
    words = next(
        (os.environ[name] for name in ("SUDO_EDITOR", "VISUAL", "EDITOR") if os.environ.get(name)),
        next((name for name in _EDITORS if shutil.which(name)), ""),
    )
    if not words:
        raise errors.BrokenInstallation("no editor is installed", "set EDITOR")
    # ^C is the editor's. A handler of ours, unlike SIG_IGN, is not handed on to it.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.call([*shlex.split(words), draft])
    except (OSError, ValueError) as error:
        raise errors.Failure(f"editor {words}: {error}", "set EDITOR") from error
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        raise errors.Failure(f"editor {words} ended with status {status}: nothing was changed")


def _install(text: bytes, path: str) -> None:
    """Put the text in the place of `path`, all of it or nothing."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    try:
        with open(new, "xb") as file:
            file.write(text)
            if os.path.exists(path):
                before = os.stat(path)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                shutil.copystat(path, new)  # mode, labels and lists of access
                os.utime(new)
            else:
                os.fchmod(file.fileno(), _MODE)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise _failure(error, path) from error
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keep a second edit of the same file out."""
    name = f"{path}.lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            handle = os.open(name, flags, 0o600)
        except OSError as error:
            raise _failure(error, path) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(name)):
                break
        except BlockingIOError:
            os.close(handle)
            raise errors.Busy(f"{path}: somebody else is editing it", "try again later") from None
        except FileNotFoundError:  # the one before us is just through
            pass
        os.close(handle)
    try:
        yield
    finally:
        os.unlink(name)
        os.close(handle)


def _content(path: str) -> bytes | None:
    """Return what is in a file, None when there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure(error, path) from error


def _keep(draft: str, path: str) -> str:
    handle, kept = tempfile.mkstemp(prefix=f"{os.path.basename(path)}.")
    with open(handle, "wb") as file:
        file.write(_content(draft) or b"")
    return kept


def _failure(error: OSError, path: str) -> errors.Failure:
    if isinstance(error, PermissionError):
        return errors.NotPermitted(f"{path}: permission denied", "run it as root")
    return errors.Failure(f"{path}: {error.strerror}")
