"""Prove for `auto-iscsi check` that a section matches no target, or that a later one overrides it.

fnmatch can only test one name that is known; these are questions about all names that targets can
have. So finite automata answer them, exactly: one accepts the names of targets (the grammar in
keys, RFC 7143, 4.2.7.1), and one stands for each glob; its states are places in the glob, or sets
of places.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Iterator

from auto_iscsi import keys
from auto_iscsi.config import patterns

_MAX_STATES = 4_000  # a comparison that needs more is given up


class Glob:
    """The automaton of one glob."""

    def __init__(self, glob: str) -> None:
        # A literal that no name has, such as "_" or an open bracket, is a place nothing gets past.
        self.places = _places(glob)
        self.end = len(self.places)
        self.start = self._skip_stars({0})
        self.step = functools.lru_cache(maxsize=None)(self._step)

    def _skip_stars(self, places: set[int]) -> frozenset[int]:
        """Return the places and those that can be reached from them without a character."""
        for place in list(places):
            while place < self.end and self.places[place] == "*":
                place += 1
                places.add(place)
        return frozenset(places)

    def _step(self, places: frozenset[int], character: str) -> frozenset[int]:
        """Return the places that a character leads to from any of these places."""
        after = (self._after(place, character) for place in places)
        return self._skip_stars({place for place in after if place is not None})

    def _after(self, place: int, character: str) -> int | None:
        """Return the place that a character leads to, before any "*" that follows it."""
        if place == self.end:
            return None
        if self.places[place] == "*":
            return place
        return place + 1 if character in self.places[place] else None


def _places(glob: str) -> list[str]:
    """Return for each place of a glob the characters that it takes, or "*" for any number."""
    places: list[str] = []
    at = 0
    for wildcard in patterns.wildcard_expression().finditer(glob):
        places += glob[at : wildcard.start()]
        if wildcard[0] in ("*", "?"):
            places.append("*" if wildcard[0] == "*" else patterns.ALPHABET)
        else:
            places.append(_members(wildcard[0][1:-1]))
        at = wildcard.end()
    return [*places, *glob[at:]]


def _members(text: str) -> str:
    """Return the characters of a name that are meant by the text between two brackets."""
    negated = text.startswith("!")
    text, members = text[negated:], ""
    while text:
        is_range = len(text) > 2 and text[1] == "-"
        low, high = text[0], text[2] if is_range else text[0]
        members += "".join(c for c in patterns.ALPHABET if low <= c <= high)
        text = text[3 if is_range else 1 :]
    return "".join(c for c in patterns.ALPHABET if (c in members) != negated)


def example_name(glob: str) -> str | None:
    """Return a shortest target name that a folded glob matches, None when no name matches."""
    automaton = Glob(glob)
    level = [((0, place), "") for place in sorted(automaton.start)]
    seen = {state for state, _ in level}
    while level and len(level[0][1]) <= keys.LONGEST:
        next_level = []
        for (name, place), text in level:
            if name in _COMPLETE and place == automaton.end:
                return text
            for character, next_name in _NAMES[name].items():
                for next_place in automaton.step(frozenset({place}), character):
                    state = (next_name, next_place)
                    if state not in seen:
                        seen.add(state)
                        next_level.append((state, text + character))
        level = next_level
    return None


def covers(wide: str, narrow: str) -> bool:
    """Return whether `wide` matches every target name that `narrow` matches.

    Return False also when that takes too many states to find out.
    """
    if wide in ("*", narrow):
        return True
    outer, inner = Glob(wide), Glob(narrow)
    # Only the places in `wide` have to be sets: one way through `narrow` is enough.
    todo = [(0, place, outer.start) for place in inner.start]
    seen = set(todo)
    while todo:
        name, inner_place, outer_places = todo.pop()
        if name in _COMPLETE and inner_place == inner.end and outer.end not in outer_places:
            return False
        if len(seen) > _MAX_STATES:
            return False
        for character, next_name in _NAMES[name].items():
            next_outer = outer.step(outer_places, character)
            for next_inner in inner.step(frozenset({inner_place}), character):
                state = (next_name, next_inner, next_outer)
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
    return True


def suggest(glob: str) -> str | None:
    """Return a glob that matches a target and may have been meant by one that matches none."""
    candidates = (f"{glob}*", f"*{glob}", f"*{glob}*")
    return next((each for each in candidates if example_name(each) is not None), None)


def _names() -> tuple[list[dict[str, int]], set[int]]:
    """Return the automaton of target names: the next state by character, and the complete states.

    State 0 is the beginning.
    """
    edges: list[dict[str, int]] = [{}]

    def new_state() -> int:
        edges.append({})
        return len(edges) - 1

    def chain(state: int, *sets: str) -> Iterator[int]:
        for characters in sets:
            after = new_state()
            edges[state].update(dict.fromkeys(characters, after))
            state = after
            yield state

    def end(state: int, *sets: str) -> int:
        return [state, *chain(state, *sets)][-1]

    digits, letters = string.digits, string.ascii_lowercase + "_"
    month = end(0, *"iqn.", *[digits] * 4, "-")
    zero, one = end(month, "0"), end(month, "1")
    authority = end(zero, digits[1:])
    edges[one].update(dict.fromkeys("012", authority))
    dot, label, dash, colon = end(authority, "."), new_state(), new_state(), new_state()
    edges[dot].update(dict.fromkeys(letters + digits, label))
    edges[label].update(dict.fromkeys(letters + digits, label))
    edges[label].update({"-": dash, ".": dot, ":": colon})
    edges[dash].update(dict.fromkeys(letters + digits, label))
    edges[dash]["-"] = dash
    rest = end(colon, patterns.ALPHABET)
    edges[rest].update(dict.fromkeys(patterns.ALPHABET, rest))
    eui = end(0, *"eui.", *[string.hexdigits[:16]] * 16)
    naa = end(0, *"naa.", *[string.hexdigits[:16]] * 16)
    return edges, {label, rest, eui, naa, end(naa, *[string.hexdigits[:16]] * 16)}


_NAMES, _COMPLETE = _names()
