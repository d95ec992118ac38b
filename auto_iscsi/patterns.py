"""Can a section's name match any target at all, and does another one match all that it does?

Both are asked of finite automata, so the answers are exact: one that accepts target names (the
grammar in keys, RFC 7143, 4.2.7.1), and one per glob, whose states are the sets of places in the
glob that can be reached. Only `auto-iscsi check` asks.
"""

from __future__ import annotations

import fnmatch
import functools
import string
from collections.abc import Iterator

from auto_iscsi import globs, keys

ALPHABET = string.ascii_lowercase + string.digits + "-.:"
_ENOUGH = 20_000  # states; a comparison that needs more is given up


class Glob:
    """An automaton for one glob."""

    def __init__(self, glob: str) -> None:
        self.parts: list[str] = []  # the characters that each place takes; "*" for any number
        at = 0
        for wildcard in globs.WILDCARD.finditer(glob):
            self.parts += glob[at : wildcard.start()]
            token = wildcard[0]
            if token == "*":
                self.parts.append("*")
            else:
                self.parts.append("".join(c for c in ALPHABET if fnmatch.fnmatchcase(c, token)))
            at = wildcard.end()
        # A literal that no name has, such as "_" or an open bracket, is a place nobody gets past.
        self.parts += glob[at:]
        self.start = self._reach({0})
        self.end = len(self.parts)
        self.step = functools.lru_cache(maxsize=None)(self._step)

    def _reach(self, places: set[int]) -> frozenset[int]:
        for place in list(places):
            while place < len(self.parts) and self.parts[place] == "*":
                place += 1
                places.add(place)
        return frozenset(places)

    def _step(self, places: frozenset[int], character: str) -> frozenset[int]:
        after = set()
        for place in places:
            if place < self.end:
                if self.parts[place] == "*":
                    after.add(place)
                elif character in self.parts[place]:
                    after.add(place + 1)
        return self._reach(after)


def example(glob: str) -> str | None:
    """Return a shortest target name that a folded glob matches, None when there is none."""
    wanted = Glob(glob)
    start = (0, wanted.start)
    seen, level = {start}, [(start, "")]
    while level and len(level[0][1]) <= keys.LONGEST:
        following = []
        for (name, places), text in level:
            if name in _ACCEPT and wanted.end in places:
                return text
            for character, next_name in _NAMES[name].items():
                after = (next_name, wanted.step(places, character))
                if after[1] and after not in seen:
                    seen.add(after)
                    following.append((after, text + character))
        level = following
    return None


def covers(wide: str, narrow: str) -> bool:
    """Say whether every target name that `narrow` matches is one that `wide` matches.

    False also when that takes too long to find out.
    """
    if wide in ("*", narrow):
        return True
    outer, inner = Glob(wide), Glob(narrow)
    start = (0, inner.start, outer.start)
    seen, todo = {start}, [start]
    while todo:
        name, inside, outside = todo.pop()
        if name in _ACCEPT and inner.end in inside and outer.end not in outside:
            return False
        if len(seen) > _ENOUGH:
            return False
        for character, next_name in _NAMES[name].items():
            within = inner.step(inside, character)
            after = (next_name, within, outer.step(outside, character))
            if within and after not in seen:
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
    rest = end(colon, ALPHABET)
    edges[rest].update(dict.fromkeys(ALPHABET, rest))
    eui = end(0, *"eui.", *[string.hexdigits[:16]] * 16)
    naa = end(0, *"naa.", *[string.hexdigits[:16]] * 16)
    accept |= {label, rest, eui, naa, end(naa, *[string.hexdigits[:16]] * 16)}
    return edges, accept


_NAMES, _ACCEPT = _names()
