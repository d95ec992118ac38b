"""Which target names does a section's name match?

A glob as in fnmatch: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`; it has to match the whole name. Every
lookup asks each section, so no regular expression is compiled (60 µs each) for a glob whose
literal parts are not in the name, or that has no wildcard but `*`.
"""

from __future__ import annotations

import re

# Where fnmatch sees a wildcard; a bracket that is not closed is a bracket.
WILDCARD = re.compile(r"\*|\?|\[(?:!\][^\]]*|![^\]]+|\][^\]]*|[^\]!][^\]]*)\]")


def matches(glob: str, target: str) -> bool:
    """Say whether `glob` matches `target`; both are folded."""
    first, *others = WILDCARD.split(glob)
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
    if "?" not in glob and "[" not in glob:
        return True
    import fnmatch

    return fnmatch.fnmatchcase(target, glob)
