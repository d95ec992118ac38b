"""Build a program that needs only Python: one zip file, the same bytes on every host.

Usage: build_zipapp.py MODULE OUTPUT PYTHON LIBRARIES

MODULE has a main() that returns the exit status. PYTHON is the interpreter for the first line.
LIBRARIES is a folder that pip filled; the program contains its modules and their licences.

The program contains each module twice: as .pyc for the Python version that built it, and as .py for
all others. Entries are stored without compression, because decompression takes longer than reading.
The bytes do not depend on the host: order, times, modes, the file names in tracebacks and the
system of the entries are fixed here. umask and SOURCE_DATE_EPOCH have no effect.
"""

from __future__ import annotations

import os
import py_compile
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

SHEBANG = "#!{python} -I\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
LAUNCHER = """\
import sys

try:
    from {package}.{module} import main

    status = main()
except KeyboardInterrupt:  # while modules are loaded
    status = 130
sys.exit(status)
"""


def compiled(source: bytes, name: str) -> bytes:
    """Return the .pyc of a module, in the form that Python does not compare with the source."""
    with tempfile.TemporaryDirectory() as folder:
        plain, code = Path(folder, "module.py"), Path(folder, "module.pyc")
        plain.write_bytes(source)
        py_compile.compile(
            str(plain),
            str(code),
            dfile=name,
            doraise=True,
            optimize=0,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        return code.read_bytes()


def modules(folder: Path) -> dict[str, bytes]:
    """Return the source of each module below a folder, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}


def notices(libraries: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the metadata of the libraries (importlib.metadata) and their licences.

    Exit if a library has no licence.
    """
    for info in libraries.glob("*.dist-info"):
        yield f"{info.name}/METADATA", (info / "METADATA").read_bytes()
        found = [*info.rglob("LICENSE*"), *info.rglob("COPYING*")]
        if not found:
            raise SystemExit(f"{info.name}: no licence file, so it must not be distributed")
        for path in found:
            yield f"licenses/{info.name.removesuffix('.dist-info')}/{path.name}", path.read_bytes()


def entries(package: Path, module: str, libraries: Path) -> dict[str, bytes]:
    """Return the content of every file of the zip, by its name, sorted."""
    launcher = LAUNCHER.format(package=package.name, module=module).encode()
    ours = {f"{package.name}/{name}": source for name, source in modules(package).items()}
    sources = {"__main__.py": launcher, **ours, **modules(libraries)}
    texts = dict(notices(libraries))
    texts["licenses/auto-iscsi/LICENSE"] = (package.parent / "LICENSE").read_bytes()
    codes = {f"{name}c": compiled(source, name) for name, source in sorted(sources.items())}
    files = {**sources, **codes, **texts}
    return {name: files[name] for name in sorted(files)}


def write(output: Path, python: str, files: dict[str, bytes]) -> None:
    """Write the program in one step: a build that fails does not change the old program."""
    draft = output.with_name(output.name + ".new")
    with open(draft, "wb") as stream:
        stream.write(SHEBANG.format(python=python).encode())
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.create_system = 3  # Unix, which external_attr needs
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, content)
    os.chmod(draft, 0o755)
    os.replace(draft, output)


def main(arguments: list[str]) -> int:
    if len(arguments) != 4:
        print("usage: build_zipapp.py MODULE OUTPUT PYTHON LIBRARIES", file=sys.stderr)
        return 2
    module, output, python, libraries = arguments
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    package = Path(__file__).resolve().parent.parent / "auto_iscsi"
    write(Path(output), python, entries(package, module, Path(libraries)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
