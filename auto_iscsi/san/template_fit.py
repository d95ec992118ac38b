"""How does a name fit a template that has many wildcards?

Strangers choose the names of targets, and a regular expression with five `*` takes hours for some.
Here it is worked out, from the end, at which places of the name the rest of the template fits: the
time grows with the lengths only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from auto_iscsi.config.templates import ANY, HEX, LITERAL, ONE, VOLUME, VOLUME_CHARACTERS, Part

_HEX = frozenset("0123456789abcdef")
_FURTHER = frozenset(filter(re.compile(VOLUME_CHARACTERS).fullmatch, map(chr, range(128))))
_FIRST = frozenset(filter(str.isalnum, _FURTHER))  # of a volume's name


class Fit:
    """All ways in which a name fits a template; `time` is the expression for its date."""

    def __init__(self, name: str, parts: Sequence[Part], time: re.Pattern[str]) -> None:
        self._name, self._parts, self._time = name, parts, time
        self._places = [{len(name)}]  # by part: where it and all that follow it fit
        for part in reversed(parts):
            after = self._places[0]
            if part.kind == ANY:
                places = set(range(max(after, default=-1) + 1))
            else:
                places = {at for at in range(len(name) + 1) if self._ends(part, at, after, True)}
            self._places.insert(0, places)

    def groups(self, shortest: bool) -> tuple[str, str] | None:
        """Return volume and time, with short or with long parts for `*` and volume."""
        if 0 not in self._places[0]:
            return None
        at, volume, time = 0, "", ""
        for part, after in zip(self._parts, self._places[1:]):
            prefers_short = shortest and part.kind in (ANY, VOLUME)
            end = self._ends(part, at, after, prefers_short)[0]
            if part.kind == VOLUME:
                volume = self._name[at:end]
            elif part.kind not in (ANY, ONE, LITERAL, HEX):
                time = self._name[at:end]
            at = end
        return volume, time

    def _ends(self, part: Part, at: int, after: set[int], shortest: bool) -> list[int]:
        """Return the preferred end, of those in `after`, of a part that begins at a place."""
        name = self._name
        if part.kind == LITERAL:
            end = at + len(part.text)
            return [end] if end in after and name.startswith(part.text, at) else []
        if part.kind == ONE:
            return [at + 1] if at + 1 in after else []
        if part.kind not in (ANY, HEX, VOLUME):
            if not self._time.match(name, at):
                return []
            ends = (end for end in sorted(after, reverse=True) if end > at)
            return [end for end in ends if self._time.fullmatch(name, at, end)][:1]
        best: list[int] = []
        end = at
        while True:
            is_long_enough = part.kind == ANY or end > at
            if end in after and is_long_enough:
                best = [end]
                if shortest:
                    break
            if end == len(name) or not _takes(part.kind, name[end], end == at):
                break
            end += 1
        return best


def _takes(kind: str, character: str, is_first: bool) -> bool:
    """Tell whether a part can have a character."""
    if kind == VOLUME:
        return character in (_FIRST if is_first else _FURTHER)
    return kind == ANY or character in _HEX
