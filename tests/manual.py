"""Read the worked examples of the manual page auto.iscsi.conf(5)."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "man" / "auto.iscsi.conf.5"


def worked() -> dict[str, str]:
    """Return the configurations under EXAMPLES, each by the first words that introduce it."""
    examples = PAGE.read_text().split(".Sh EXAMPLES\n", 1)[1].split("\n.Sh ", 1)[0]
    configurations = {}
    for piece in examples.split(".Pp\n"):
        if match := re.search(r"^\.Bd -literal.*?\n(.*?)^\.Ed", piece, re.M | re.S):
            words = re.split(r"[,:]", piece, maxsplit=1)[0]
            configurations[words.replace("\n", " ")] = match[1].replace("\\(dq", '"')
    return configurations
