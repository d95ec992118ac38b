"""Cut a portal off from the initiator, with an nftables table of our own.

`drop` makes the portal a black hole, in both directions, for new and established connections.
`reject` answers with a reset, as a host does on which nothing listens.
"""

from __future__ import annotations

import subprocess
from typing import Any

VERDICTS = {"drop": "drop", "reject": "reject with tcp reset"}
verdicts: dict[tuple[str, int], str] = {}


def ruleset() -> str:
    """Return the commands for nft that replace the table."""
    rules = []
    for (address, port), verdict in verdicts.items():
        family = "ip6" if ":" in address else "ip"
        answer = VERDICTS[verdict]
        rules.append(f"{family} daddr {address} tcp dport {port} {answer}")
        rules.append(f"{family} saddr {address} tcp sport {port} drop")
    hook = "type filter hook input priority 0; policy accept;"
    return (
        "table inet bed {}\ndelete table inet bed\n"
        f"table inet bed {{ chain input {{ {hook}\n" + "\n".join(rules) + "\n}\n}\n"
    )


def cut(address: str, port: int, verdict: str | None) -> None:
    """Set the verdict for a portal's packets; with None they pass."""
    if verdict is None:
        verdicts.pop((address, port), None)
    else:
        verdicts[address, port] = verdict
    subprocess.run(["nft", "-f", "-"], input=ruleset(), text=True, check=True)


CALLS: dict[str, Any] = {"cut": cut}
