"""The map program of /snapshots: `auto.snapshots VOLUME`, run by automount as root.

As with auto.iscsi, argv[1] is whatever any user typed. It only selects among the volumes that this
host knows already: a name that is none of them is refused before a portal is asked.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host
from auto_iscsi.map import program
from auto_iscsi.map.request import limit

if TYPE_CHECKING:
    from typing import Callable

_WHOLE = 30.0  # seconds for a visit
_ASKING = 20.0  # seconds of it for the portals
_LISTED = "auto-iscsi list asks the portals and SANs, and lists all volumes"


def main(argv: list[str] | None = None, host: Host = Host()) -> int:  # noqa: B008 (immutable)
    """Print the entry for the volume and return the exit status."""
    return program.run("auto.snapshots", "VOLUME", argv, host, _find)


def _find(host: Host, text: str, log: Callable[[str], object]) -> str:
    """Ask the portals, write the volume's links, and return the entry; raise Failure."""
    from auto_iscsi.san import catalogue, links, names

    if not names.is_volume(text):
        shown = ascii(text if len(text) <= 60 else text[:57] + "...")
        raise errors.BadKey(f"key {shown} refused: not the name of a volume", _LISTED)
    with limit(_WHOLE, text, f"{_LISTED}, and names a portal or SAN that does not answer"):
        if text not in links.listed(host) and not catalogue.read(host, text).entries:
            raise errors.NoSnapshot(
                f"key {text!r} refused: no volume of that name is known",
                _LISTED,
            )
        failures = catalogue.ask(host, _ASKING)
        if failures:
            log(f"{text}: {'; '.join(failures)}")
        is_current = links.is_current(host, text, catalogue.state(host))
        if not is_current and text not in links.update(host, catalogue.read(host)):
            links.tell_again(host)
            raise errors.NoSnapshot(f"{text}: no snapshot of it is presented any more", _LISTED)
        return f"-fstype=bind,ro :{links.FOLDER}/{text}"
