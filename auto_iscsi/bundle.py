"""How does the map program come by its modules, without a search for each?

As Python does it, to find, read and unpack 20 modules takes longer than all that a warm lookup does
with them. So the build (tools/build_zipapp.py) puts them into one piece, in the order in which they
are imported, and a lookup takes of it as much as it gets to: PARTS. The piece is the first file in
the zip file; tools/auto.iscsi reads it and calls install(). It is as good as any .pyc: for the
Python that built it. Another one finds its modules as ever, as do the other program and the tests.
"""

from __future__ import annotations

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    Parts = list[dict[str, bytes]]

#: What a key that is no name needs; then what a warm lookup does; and then a first one, too. Each
#: module after those that it imports.
PARTS = (
    ("__init__", "light", "errors", "host", "keys", "program"),
    ("portals", "compiled", "config", "wanted", "resolved", "sessions", "scsi", "disks", "mounts",
     "mapentry", "claims", "identity", "layout", "lookup"),
    ("globs", "kinds", "needs", "settings", "nodes", "chap", "audit", "attempts", "pending",
     "initiator", "discovery", "udev", "login"),
)  # fmt: skip


class Finder:
    """On sys.meta_path: with a module come all of its part that are not there yet."""

    def __init__(self, parts: Parts, folder: str) -> None:
        self._parts = {name: part for part in parts for name in part}
        self._folder = folder

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        """Find a module (importlib.abc.MetaPathFinder)."""
        if name not in self._parts:
            return None
        return type(sys.__spec__)(name, self, is_package="." not in name)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a module, which is ready (importlib.abc.Loader)."""
        for name, code in self._parts[spec.name].items():
            if name not in sys.modules:
                self._bring(name, marshal.loads(code))
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing more."""

    def _bring(self, name: str, code: CodeType) -> None:
        module = sys.modules[name] = type(sys)(name)
        package, _, own = name.rpartition(".")
        if package:
            setattr(sys.modules[package], own, module)
        else:
            module.__path__ = [self._folder]  # where the other modules are
        exec(code, module.__dict__)


def install(parts: Parts, program: str) -> None:
    """Have Python take modules from here first; `program` is the zip file."""
    sys.meta_path.insert(0, Finder(parts, f"{program}/auto_iscsi"))
