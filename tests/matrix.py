"""Run the tests on the oldest and the newest Python and libraries that the programs support.

    python3 tests/matrix.py [--results=FOLDER] [pytest's arguments]
    python3 tests/matrix.py --sets    print each set: its Python, then its libraries

Each set is a Python and the three libraries. It gets a virtual environment in the tests' cache, and
a copy of the tree in build/matrix: there the programs are built for that Python, and the tests that
need no root run. A Python that this machine lacks is reported; with CI=true that is a failure, but
not if the set is for a Python that few machines have yet. The sets overlap by pairs. The other
tests run on what a distribution combines today. FOLDER gets the results of each
set, as JUnit XML.
"""

from __future__ import annotations

import concurrent.futures
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "Makefile",
    "LICENSE",
    "NEWS",
    "README.md",
    "setup.cfg",
    "auto_iscsi",
    "debian",
    "docs",
    "etc",
    "man",
    "rpm",
    "tests",
    "tools",
)
#: pip takes only what these name, with these hashes (tests/lock).
TOOLS, LIBRARIES = ROOT / "tests/requirements.lock", ROOT / "tests/matrix.lock"
TESTS = (
    "tests/unit",
    "tests/tree",
    "tests/program/test_programs.py",
    "tests/program/test_standalone.py",
    "tests/program/test_completion.py",
)
#: Slow, and only about our own code: the run on the Python of the host is enough.
LEFT_OUT = (
    "--ignore=tests/unit/test_language_properties.py",
    "--ignore=tests/unit/test_keys.py",
    "--ignore=tests/unit/test_lvm_metadata.py",
    "--ignore=tests/unit/test_patterns.py",
    "--ignore=tests/tree/test_killed.py",
    "--deselect=tests/tree/test_san.py::test_killed_at_every_step_of_present",
    "--deselect=tests/tree/test_san.py::test_killed_at_every_step_of_revoke",
    "--deselect=tests/tree/test_status.py::test_a_thousand_sessions_are_reported",
    "--deselect=tests/tree/test_status.py::test_the_stores_of_many_overlays_are_asked_for_at_once",
    "--deselect=tests/tree/test_reap.py::test_a_thousand_sessions_come_to_an_end",
    # A user who is not root cannot read root's virtual environment.
    "--deselect=tests/unit/test_doctor.py::test_without_root_checks_that_need_it_are_unknown",
)


NO_TESTS = 5  #: pytest's exit status when it has selected no test


class Set(NamedTuple):
    """A Python and the versions of the three libraries."""

    python: str
    sh: str
    configobj: str
    pyudev: str
    optional: bool = False  #: few machines have this Python yet

    def __str__(self) -> str:
        return f"Python {self.python}, {', '.join(self.libraries).replace('==', ' ')}"

    @property
    def libraries(self) -> list[str]:
        """The libraries as pip names them."""
        return [f"sh=={self.sh}", f"configobj=={self.configobj}", f"pyudev=={self.pyudev}"]


#: sh 2.3 and later do not run on Python 3.9, pyudev before 0.22 not on 3.10.
SETS = (
    Set("3.9", "1.12.14", "5.0.6", "0.21.0"),
    Set("3.13", "1.14.3", "5.0.6", "0.24.0"),
    Set("3.13", "2.4.0", "5.0.9", "0.24.5"),
    Set("3.14", "2.4.0", "5.0.9", "0.24.5", optional=True),
)


def find(version: str) -> str:
    """Return the path of a Python of a version, "" if this machine has none."""
    home = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    candidates = [shutil.which(f"python{version}", path="/usr/bin:/usr/local/bin") or ""]
    candidates += sorted(glob.glob(f"{home}/versions/{version}.*/bin/python3"))
    return next((path for path in candidates if path), "")


def locked(chosen: Set) -> str:
    """Return the lines of a set in the lock file of the libraries."""
    name = f"[{' '.join((chosen.python, *chosen.libraries))}]"
    block = LIBRARIES.read_text().partition(f"{name}\n")[2].partition("\n[")[0]
    if not block:
        sys.exit(f"matrix: {LIBRARIES} has no {name}: run make lock")
    return f"{block}\n"


def environment(chosen: Set, python: str) -> Path:
    """Return the folder of a set's virtual environment, which is made if need be."""
    libraries = locked(chosen)
    digest = hashlib.sha256(repr((python, TOOLS.read_text(), libraries)).encode()).hexdigest()[:12]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(cache, "auto-iscsi", f"matrix-{chosen.python}-{digest}")
    if not (folder / "ready").exists():
        say(f"making {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        mine = {**os.environ, "TMPDIR": str(folder)}  # old versions of ensurepip leave a file there
        subprocess.run([python, "-m", "venv", str(folder)], env=mine, check=True)
        builders = [
            part for part in re.split(r"\n(?=\w)", libraries) if re.match("setup|wheel", part)
        ]
        (folder / "builders.txt").write_text("\n".join(builders))
        (folder / "libraries.txt").write_text(libraries)
        # Old libraries exist only as sources: the locked setuptools builds them, not a newer one.
        for file in (TOOLS, folder / "builders.txt", folder / "libraries.txt"):
            subprocess.run(
                [
                    folder / "bin/python3",
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                    "--no-build-isolation",
                    "--require-hashes",
                    "-r",
                    file,
                ],
                check=True,
            )
        (folder / "ready").touch()
    return folder


def copied(chosen: Set) -> Path:
    """Make a new copy of the tree, with the libraries that `make standalone` downloaded."""
    folder = ROOT / "build/matrix" / "-".join(chosen[:4])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PARTS:
        if (ROOT / name).is_dir():
            leave = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=leave)
        else:
            shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(ROOT / "build/libraries", folder / "build/libraries")
    os.utime(folder / "build/libraries/ready")
    return folder


class Ready(NamedTuple):
    """What the tests of a set run with: its environment, its Python, its copy of the tree."""

    environment: Mapping[str, str]
    python: str
    tree: Path


def prepare(chosen: Set, python: str) -> Ready:
    """Make the virtual environment and the copy of a set, and build the programs in it."""
    venv, tree = environment(chosen, python), copied(chosen)
    mine = {
        **os.environ,
        "PATH": f"{venv}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for build in (["standalone"], ["build", f"PYTHON={venv}/bin/python3"]):
        subprocess.run(["make", "--silent", *build], cwd=tree, env=mine, check=True)
    return Ready(mine, f"{venv}/bin/python3", tree)


def run(chosen: Set, ready: Ready, arguments: list[str], results: str) -> int:
    """Run the tests on a set; return pytest's exit status. `results`: the folder for results."""
    workers = ("-n", "4", "--dist", "worksteal")
    pytest = [ready.python, "-m", "pytest", "-q", *workers, *LEFT_OUT, *TESTS]
    if results:
        arguments = [*arguments, f"--junitxml={results}/{'-'.join(chosen[:4])}.xml"]
    done = subprocess.run([*pytest, *arguments], cwd=ready.tree, env=ready.environment)
    if done.returncode in (0, NO_TESTS):
        shutil.rmtree(ready.tree)
    return done.returncode


def say(text: str) -> None:
    print(f"matrix: {text}", flush=True)


def main() -> int:
    if sys.argv[1:] == ["--sets"]:
        for chosen in SETS:
            print(chosen.python, *chosen.libraries)
        return 0
    results = next((word[10:] for word in sys.argv[1:] if word.startswith("--results=")), "")
    arguments = [word for word in sys.argv[1:] if not word.startswith("--results=")]
    pythons = {chosen: find(chosen.python) for chosen in SETS}
    missing = [chosen for chosen, python in pythons.items() if not python]
    failed, ran = [], False
    subprocess.run(["make", "--silent", "build/libraries/ready"], cwd=ROOT, check=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:  # none uses two processors
        made = {
            chosen: pool.submit(prepare, chosen, python)
            for chosen, python in pythons.items()
            if python
        }
    for chosen, future in made.items():
        say(f"{chosen} ({pythons[chosen]})")
        began = time.monotonic()
        status = run(chosen, future.result(), arguments, results)
        if status == NO_TESTS and arguments:
            say(f"{chosen}: no test selected")
        elif status:
            ran = True
            failed.append(chosen)
        else:
            ran = True
            say(f"{chosen}: passed in {time.monotonic() - began:.0f} s")
    for chosen in missing:
        say(f"{chosen}: NOT RUN, no python{chosen.python} in /usr/bin, /usr/local/bin or pyenv")
    for chosen in failed:
        say(f"{chosen}: FAILED")
    needed = [chosen for chosen in missing if not chosen.optional]
    if failed or (needed and os.environ.get("CI") == "true"):
        return 1
    return 0 if ran or not arguments else NO_TESTS


if __name__ == "__main__":
    sys.exit(main())
