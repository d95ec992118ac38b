"""What is written below /run/auto-iscsi is whole, private, and refused with a reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.machine import state_files
from auto_iscsi.machine.host import Host

PROJECT = Path(__file__).parents[2]
NAME = "claims/iqn.2001-05.com.example:vol1"
# A tmpfs of one page, in a mount namespace of its own; then what the kernel says there.
FULL = """\
    mount -t tmpfs -o size=4k,mode=755 tmpfs {root}/run
    exec {python} -c '
    from auto_iscsi import errors
    from auto_iscsi.config import file_cache
    from auto_iscsi.machine import state_files
    from auto_iscsi.machine.host import Host
    import os
    host = Host("{root}")
    state_files.write(host, "{name}", b"old", is_locked=True)
    {before}
    try:
        state_files.write(host, "{name}", bytes(1 << 16), is_locked=True)
    except errors.Failure as error:
        print(error)
    file_cache.write(host, [], list(range(1 << 16)))
    for folder, _, names in os.walk("{root}/run"):
        print(*names, end="")
    print("", host.read("/run/auto-iscsi/{name}"))'
"""


def written(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_file_is_replaced_and_only_root_can_read_it(tmp_path: Path, is_locked: bool) -> None:
    host = Host(str(tmp_path))
    for data in (b"old", b"new"):
        state_files.write(host, NAME, data, is_locked=is_locked)
        assert host.read_bytes(f"{state_files.FOLDER}/{NAME}") == data
    assert written(tmp_path) == [NAME.rpartition("/")[2]]
    path = tmp_path / f"run/auto-iscsi/{NAME}"
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in (path.parent, path.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    host, other = Host(str(tmp_path)), tmp_path / "other"
    state_files.write(host, NAME, b"old", is_locked=True)
    other.write_bytes(b"somebody's")
    folder, base = (tmp_path / f"run/auto-iscsi/{NAME}").parent, NAME.rpartition("/")[2]
    (folder / f".{base}").symlink_to(other)
    with pytest.raises(OSError):
        state_files.write(host, NAME, b"new", is_locked=True)
    assert other.read_bytes() == b"somebody's"
    assert host.read(f"{state_files.FOLDER}/{NAME}") == "old"


def test_a_folder_that_refuses_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(errors.NotPermitted, match="permission denied; run it as root"):
            state_files.write(Host(str(tmp_path)), NAME, b"", is_locked=True)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("", "no space left on device; make room: df -h {folder}; df -i {folder}"),
        (
            'os.system("mount -o remount,ro {root}/run")',
            "read-only file system; mount the filesystem of {folder} writable",
        ),
    ],
    ids=["full", "read-only"],
)
def test_where_nothing_can_be_written_the_old_file_stays(
    tmp_path: Path, before: str, says: str
) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root and unshare, for a mount of its own")
    (tmp_path / "run").mkdir()
    script = textwrap.dedent(FULL).format(
        root=tmp_path, python=sys.executable, name=NAME, before=before.format(root=tmp_path)
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    folder = f"{tmp_path}/run/auto-iscsi/{NAME.rpartition('/')[0]}"
    reason, rest = done.stdout.splitlines()
    assert reason.startswith(str(tmp_path)) and reason.endswith(
        f"{NAME}: {says.format(folder=folder)}"
    )
    assert rest == f"{NAME.rpartition('/')[2]} old"
