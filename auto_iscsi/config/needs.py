"""Which settings say nothing without another one?"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

#: A setting, with a value or with any, and what it cannot do without.
NEEDS = (
    ("chap_user", "chap_secret_file"),
    ("chap_secret_file", "chap_user"),
    ("chap_mutual_user", "chap_mutual_secret_file"),
    ("chap_mutual_secret_file", "chap_mutual_user"),
    ("chap_mutual_user", "chap_user"),  # who asks proves himself first
    ("chap_discovery=mutual", "chap_mutual_user"),
)


def lacking(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings of a target that lack another one, and which."""
    for needing, needed in NEEDS:
        name, _, only = needing.partition("=")
        value = values[name]
        if value and value == (only or value) and not values[needed]:
            yield name, needed
