"""Can a section's name match any target at all, and does another one match all that it does?

Both are asked of finite automata, so the answers are exact: one that accepts target names (the
grammar in keys, RFC 7143, 4.2.7.1), and one per glob, whose states are places in the glob, or sets
of them. Only `auto-iscsi check` asks.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Iterator

from auto_iscsi import keys
from auto_iscsi.config import patterns

_ENOUGH = 4_000  # states; a comparison that needs more is given up


class Glob:
    """An automaton for one glob."""

    def __init__(self, glob: str) -> None:
        # A literal that no name has, such as "_" or an open bracket, is a place nobody gets past.
        self.parts = patterns.parts(glob)
        self.end = len(self.parts)
        self.start = self._reach({0})
        self.step = functools.lru_cache(maxsize=None)(self._step)

    def _reach(self, places: set[int]) -> frozenset[int]:
        for place in list(places):
            while place < self.end and self.parts[place] == "*":
                place += 1
                places.add(place)
        return frozenset(places)

    def _step(self, places: frozenset[int], character: str) -> frozenset[int]:
        return self._reach({after for place in places for after in self.after(place, character)})

    def after(self, place: int, character: str) -> tuple[int, ...]:
        """Return where a character leads from one place, before any "*" that follows."""
        if place < self.end:
            if self.parts[place] == "*":
                return (place,)
            if character in self.parts[place]:
                return (place + 1,)
        return ()


def example(glob: str) -> str | None:
    """Return a shortest target name that a folded glob matches, None when there is none."""
    wanted = Glob(glob)
    level = [((0, place), "") for place in sorted(wanted.start)]
    seen = {state for state, _ in level}
    while level and len(level[0][1]) <= keys.LONGEST:
        following = []
        for (name, place), text in level:
            if name in _ACCEPT and place == wanted.end:
                return text
            for character, next_name in _NAMES[name].items():
                for next_place in wanted.step(frozenset({place}), character):
                    state = (next_name, next_place)
                    if state not in seen:
                        seen.add(state)
                        following.append((state, text + character))
        level = following
    return None


def covers(wide: str, narrow: str) -> bool:
    """Say whether every target name that `narrow` matches is one that `wide` matches.

    False also when that takes too long to find out: only the places in `wide` are sets.
    """
    if wide in ("*", narrow):
        return True
    outer, inner = Glob(wide), Glob(narrow)
    todo = [(0, place, outer.start) for place in inner.start]
    seen = set(todo)
    while todo:
        name, inside, outside = todo.pop()
        if name in _ACCEPT and inside == inner.end and outer.end not in outside:
            return False
        if len(seen) > _ENOUGH:
            return False
        for character, next_name in _NAMES[name].items():
            beyond = outer.step(outside, character)
            for within in inner.step(frozenset({inside}), character):
                after = (next_name, within, beyond)
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
    return True


def instead(glob: str) -> str | None:
    """Return what may have been meant by a glob that matches no target name."""
    tries = (f"{glob}*", f"*{glob}", f"*{glob}*")
    return next((each for each in tries if example(each) is not None), None)


def _names() -> tuple[list[dict[str, int]], set[int]]:
    """Return the automaton of target names: what each state takes, and which are complete."""
    edges: list[dict[str, int]] = [{}]
    accept = set()

    def new() -> int:
        edges.append({})
        return len(edges) - 1

    def chain(state: int, *sets: str) -> Iterator[int]:
        for characters in sets:
            after = new()
            edges[state].update(dict.fromkeys(characters, after))
            state = after
            yield state

    def end(state: int, *sets: str) -> int:
        return [state, *chain(state, *sets)][-1]

    digits, letters = string.digits, string.ascii_lowercase
    month = end(0, *"iqn.", *[digits] * 4, "-")
    zero, one = end(month, "0"), end(month, "1")
    authority = end(zero, digits[1:])
    edges[one].update(dict.fromkeys("012", authority))
    dot, label, dash, colon = end(authority, "."), new(), new(), new()
    edges[dot].update(dict.fromkeys(letters + digits, label))
    edges[label].update(dict.fromkeys(letters + digits, label))
    edges[label].update({"-": dash, ".": dot, ":": colon})
    edges[dash].update(dict.fromkeys(letters + digits, label))
    edges[dash]["-"] = dash
    rest = end(colon, patterns.ALPHABET)
    edges[rest].update(dict.fromkeys(patterns.ALPHABET, rest))
    eui = end(0, *"eui.", *[string.hexdigits[:16]] * 16)
    naa = end(0, *"naa.", *[string.hexdigits[:16]] * 16)
    accept |= {label, rest, eui, naa, end(naa, *[string.hexdigits[:16]] * 16)}
    return edges, accept


_NAMES, _ACCEPT = _names()
