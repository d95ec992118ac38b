"""Which target names does a section's name match?

A glob: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`; it has to match the whole name. What fnmatch says, but
for its regular expressions: compiling one costs 60 µs, every lookup asks each section, and before
Python 3.10 `[b-a]` is an exception. A glob whose literal parts are not in the name is through with
after a microsecond, as is one that has no wildcard but `*`. re itself is imported only where there
is another one: that takes as long as all else that a first lookup does before the login.
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    import re

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-.:"  #: what a folded target name is made of (keys)


def wildcard() -> re.Pattern[str]:
    """Return what finds a wildcard; a bracket that is not closed is a bracket."""
    import re

    return re.compile(r"\*|\?|\[(?:!\][^\]]*|![^\]]+|\][^\]]*|[^\]!][^\]]*)\]")


def matches(glob: str, target: str) -> bool:
    """Say whether `glob`, folded, matches the name `target`."""
    only_stars = "?" not in glob and "[" not in glob
    first, *others = glob.split("*") if only_stars else wildcard().split(glob)
    if not others:
        return target == glob
    last = others.pop()
    if not (target.startswith(first) and target.endswith(last)):
        return False
    at = len(first)
    for literal in others:
        at = target.find(literal, at)
        if at < 0:
            return False
        at += len(literal)
    if at > len(target) - len(last):
        return False
    return only_stars or _fits(parts(glob), target)


def parts(glob: str) -> list[str]:
    """Return what stands at each place of a glob: the characters it takes, "*" for any number."""
    found: list[str] = []
    at = 0
    for token in wildcard().finditer(glob):
        found += glob[at : token.start()]
        if token[0] == "*":
            found.append("*")
        else:
            found.append(ALPHABET if token[0] == "?" else _members(token[0][1:-1]))
        at = token.end()
    return [*found, *glob[at:]]


def _members(text: str) -> str:
    """Return which characters of a name stand between brackets."""
    negated = text.startswith("!")
    text, taken = text[negated:], ""
    while text:
        ranged = len(text) > 2 and text[1] == "-"
        low, high = text[0], text[2] if ranged else text[0]
        taken += "".join(c for c in ALPHABET if low <= c <= high)
        text = text[3 if ranged else 1 :]
    return "".join(c for c in ALPHABET if (c in taken) != negated)


def _fits(wanted: list[str], target: str) -> bool:
    """Say whether the places take the name: "*" as little as possible, then more and more.

    Only the last "*" is ever tried again: what an earlier one took does not matter any more.
    """
    at = place = tried = 0
    star = -1
    while at < len(target):
        if place < len(wanted) and wanted[place] == "*":
            star, tried = place, at
            place += 1
        elif place < len(wanted) and target[at] in wanted[place]:
            at, place = at + 1, place + 1
        elif star >= 0:
            tried += 1
            at, place = tried, star + 1
        else:
            return False
    return all(part == "*" for part in wanted[place:])
