"""Find out whether a section's name, a glob, matches a target's name.

A glob is what fnmatch takes: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`; it has to match the whole name.
Every lookup without a cache asks this of each section, and compiling one glob costs 60 µs. So the
literal parts of the glob are looked for first, and fnmatch gets only globs whose literal parts are
all there. A glob whose only wildcard is `*` is decided without fnmatch: importing it (re) takes
5 ms, as long as all else that a first lookup does before the login.
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    import re

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-_.:"  #: the characters of a folded name (keys)


def wildcard_expression() -> re.Pattern[str]:
    """Return an expression for one wildcard; a bracket that is not closed is a literal one."""
    import re

    return re.compile(r"\*|\?|\[(?:!.|[^!])[^\]]*\]")


def matches(glob: str, target: str) -> bool:
    """Return whether `glob` matches the name `target`, both folded to lower case."""
    only_stars = "?" not in glob and "[" not in glob
    first, *others = glob.split("*") if only_stars else wildcard_expression().split(glob)
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
    if only_stars:
        return True
    from auto_iscsi import globs

    return globs.matches(glob, target)
