"""Edit a configuration file so that no lookup ever reads a broken one.

As with visudo, the editor opens a copy. The copy is checked together with the other files that a
lookup reads. If it has no errors, it replaces the file in one step and keeps its owner and mode. A
file with errors is never installed.
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
from auto_iscsi.config import config_files, file_cache
from auto_iscsi.machine.host import Host

_EDITORS = ("editor", "sensible-editor", "vi", "nano")  # if no variable names one
_NEW_FILE_MODE = 0o644
_NEW_SAN_FILE_MODE = 0o600  # it may name a secret

Say = Callable[[str], None]  #: shows a line
Ask = Callable[[str], str]  #: asks a question and returns the answer


def edit(host: Host, file: str, say: Say, ask: Ask, paint: output.Paint) -> int:
    """Let a person edit `file`; return the exit status: 1 if the changes were not saved."""
    path = os.path.realpath(file or host.path(config_files.FILE))
    if os.path.lexists(path) and not os.path.isfile(path):
        raise errors.Failure(f"{path}: not a regular file")
    with _locked(path), tempfile.TemporaryDirectory(prefix="auto-iscsi.") as folder:
        before = _read(path)
        draft = os.path.join(folder, os.path.basename(path))
        with open(draft, "wb") as copy:
            copy.write(before or b"")
        is_valid = _edit_until_valid(host, path, draft, say, ask, paint)
        if not is_valid or _read(draft) == (before or b""):
            say(f"{path}: not changed")
            return 0 if is_valid else 1
        if _read(path) != before:
            copy_path = _save_copy(draft, path)
            raise errors.Failure(
                f"{path}: somebody else changed it", f"your text is in {copy_path}"
            )
        _install(_read(draft) or b"", path)
        say(f"{path}: {paint.ok('changed')}")
        return 0


def _edit_until_valid(
    host: Host, path: str, draft: str, say: Say, ask: Ask, paint: output.Paint
) -> bool:
    """Run the editor until the draft has no errors or is unchanged; False if the person gives up.

    All problems are shown, but only errors in the draft itself count.
    """
    original = _read(draft)
    while True:
        _run_editor(draft)
        if _read(draft) == original:
            return True
        if check.is_san_file(path):
            problems = check.find_san_problems([check.local_file(draft, path)])
        else:
            problems = check.find_problems(_sources(host, path, draft))
        for problem in problems:
            say(check.problem_line(problem, paint))
        if not any(problem.is_error and problem.file == path for problem in problems):
            return True
        question = "What now? (e)dit again, e(x)it without saving: "
        while (answer := ask(question).strip().lower()) not in ("e", "x"):
            pass
        if answer == "x":
            return False


def _sources(host: Host, path: str, draft: str) -> list[check.Source]:
    """Return the files that a lookup would read, with the draft in place of `path`.

    If a lookup does not read `path`, return the draft alone.
    """
    names = file_cache.list_names(host)
    edited = next((n for n in names if os.path.realpath(host.path(n)) == path), "")
    if not edited:
        folder = os.path.realpath(host.path(config_files.FOLDER))
        if os.path.dirname(path) != folder or not path.endswith(".conf"):
            return [check.local_file(draft, path)]
        edited = f"{config_files.FOLDER}/{os.path.basename(path)}"  # a new drop-in
        names = [names[0], *sorted([*names[1:], edited])]
    return [
        check.local_file(draft, path) if name == edited else check.Source(host, name, name)
        for name in names
        if name == edited or host.stat(name)
    ]


def _run_editor(draft: str) -> None:
    """Run the person's editor on the draft and wait until it ends; raise Failure."""
    command = next(
        (os.environ[name] for name in ("SUDO_EDITOR", "VISUAL", "EDITOR") if os.environ.get(name)),
        next((name for name in _EDITORS if shutil.which(name)), ""),
    )
    if not command:
        raise errors.BrokenInstallation("no editor is installed", "set EDITOR")
    # ^C is meant for the editor. The editor inherits SIG_IGN, but not a handler.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.call([*shlex.split(command), draft])
    except (OSError, ValueError) as error:
        raise errors.Failure(f"editor {command}: {error}", "set EDITOR") from error
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        raise errors.Failure(f"editor {command} ended with status {status}: nothing was changed")


def _install(text: bytes, path: str) -> None:
    """Replace the contents of `path` in one step, and write them to the disk."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    try:
        # Nobody else may open it before it has its mode: who has it open reads what comes later.
        with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
            if os.path.exists(path):
                before = os.stat(path)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                shutil.copystat(path, new)  # mode, SELinux label, access control list
                os.utime(new)
            else:
                is_san = check.is_san_file(path)
                os.fchmod(file.fileno(), _NEW_SAN_FILE_MODE if is_san else _NEW_FILE_MODE)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise _as_failure(error, path) from error
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Lock a file against a second edit; raise Busy if one is under way."""
    lock_name = f"{path}.lock"
    handle = _open_lock(lock_name, path)
    try:
        yield
    finally:
        os.unlink(lock_name)
        os.close(handle)


def _open_lock(lock_name: str, path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            handle = os.open(lock_name, flags, 0o600)
        except OSError as error:
            raise _as_failure(error, path) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(lock_name)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise errors.Busy(f"{path}: somebody else is editing it", "try again later") from None
        except FileNotFoundError:  # the edit before this one has just ended
            pass
        os.close(handle)


def _read(path: str) -> bytes | None:
    """Return the contents of a file, None if it does not exist."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _as_failure(error, path) from error


def _save_copy(draft: str, path: str) -> str:
    """Save the draft outside the temporary directory; return its new name."""
    handle, copy_path = tempfile.mkstemp(prefix=f"{os.path.basename(path)}.")
    with open(handle, "wb") as file:
        file.write(_read(draft) or b"")
    return copy_path


def _as_failure(error: OSError, path: str) -> errors.Failure:
    if isinstance(error, PermissionError):
        return errors.NotPermitted(f"{path}: permission denied", "run it as root")
    folder = os.path.dirname(path)
    hint = "" if os.path.isdir(folder) else f"mkdir {folder}"  # the packages make no empty one
    return errors.Failure(f"{path}: {(error.strerror or '').lower()}", hint)
