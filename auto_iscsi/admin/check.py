"""What is wrong with the configuration, all of it, before automount finds out?

Errors keep targets from being mounted; warnings are sections that do nothing. Any file can be
checked by any user, with no machine around it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.admin import output
from auto_iscsi.config import config_files, pattern_proofs, patterns, schema
from auto_iscsi.config.config_files import Problem, Section
from auto_iscsi.iscsi import chap
from auto_iscsi.machine.host import Host


class Source(NamedTuple):
    """A file to check."""

    host: Host
    path: str
    shown: str  #: the name that problems are reported under


def report(host: Host, files: Sequence[str], strict: bool, paint: output.Paint) -> output.Report:
    """Return what is wrong with `files`, or, without any, with what a lookup reads."""
    if files:
        sources = [given(file) for file in files]
    else:
        sources = [Source(host, name, name) for name, _ in config_files.list_existing(host)]
    problems = examine(sources)
    if not files:
        problems = (
            config_files.permission_problems(host, config_files.list_existing(host))
            + problems
            + secrets(host)
        )
    failed = any(problem.is_error or strict for problem in problems)
    lines = [said(problem, paint) for problem in problems]
    blamed = {problem.file for problem in problems}
    lines += [f"{s.shown}: {paint.good('ok')}" for s in sources if s.shown not in blamed]
    if not sources:
        lines.append(f"no {config_files.FILE}: the built-in settings hold")
    data = {
        "ok": not failed,
        "files": [source.shown for source in sources],
        "problems": [
            {**problem._asdict(), "severity": "error" if problem.is_error else "warning"}
            for problem in problems
        ],
    }
    return output.Report(1 if failed else 0, lines, data)


def given(file: str, shown: str = "") -> Source:
    """Return a file of the machine that we run on, whatever it is called."""
    return Source(Host(), os.path.abspath(file), shown or file)


def examine(sources: Sequence[Source]) -> list[Problem]:
    """Return everything that is wrong with files that are read one after the other."""
    sections: list[Section] = []
    problems: list[Problem] = []
    for source in sources:
        found, wrong = config_files.read(source.host, source.path, source.shown)
        sections += found
        problems += wrong
    for section in sections:
        problems += schema.read_section(section)[1]
    lacking = [
        each for chosen in _with_chap(sections) for each in schema.missing_requirements(chosen)
    ]
    problems += dict.fromkeys(lacking)
    problems += _useless(sections)
    place = {source.shown: number for number, source in enumerate(sources)}
    return sorted(problems, key=lambda problem: (place[problem.file], problem.line))


def secrets(host: Host) -> list[Problem]:
    """Return what is wrong with the CHAP secrets of the machine, as far as we may look."""
    sections = [
        each
        for name, _ in config_files.list_existing(host)
        for each in config_files.read(host, name)[0]
    ]
    problems: dict[Problem, None] = {}
    for chosen in _with_chap(sections):
        for name in ("chap_secret_file", "chap_mutual_secret_file"):
            file, section = chosen[name]
            if section and file:
                place = (section.file, section.lines[name], name)
                other = chosen["chap_secret_file"].value if name.startswith("chap_mutual") else ""
                problems.update(dict.fromkeys(_secret(host, file, other, place)))
    return list(problems)


def _secret(host: Host, file: str, other: str, place: tuple[str, int, str]) -> list[Problem]:
    """Return what is wrong with one secret, said of the line that names its file."""
    try:
        size = len(chap.secret(host, file))
        if other:
            chap.differ(host, other, file)
    except errors.BadConfiguration as failure:
        return [Problem("secret", *place, failure.reason, failure.hint)]
    except errors.NotPermitted:
        return []
    if size in chap.USUAL:
        return []
    usual = f"{chap.USUAL[0]} to {chap.USUAL[-1]}"
    return [Problem("weak-secret", *place, f"{file}: {size} bytes, many targets take {usual}")]


def said(problem: Problem, paint: output.Paint) -> str:
    """Return a problem as a line: FILE:LINE: what is wrong."""
    place = f"{problem.file}:{problem.line}" if problem.line else problem.file
    tag = paint.bad("error") if problem.is_error else paint.doubtful("warning")
    hint = f" ({problem.hint})" if problem.hint else ""
    what = ": ".join(filter(None, (problem.subject, problem.text)))
    return f"{place}: {tag}: {wording.printable(what)}{hint}"


def _with_chap(sections: Sequence[Section]) -> Iterator[dict[str, schema.Effective]]:
    """Yield what holds for a target of each section that says something of CHAP."""
    for section in sections:
        if section.glob and any(name.startswith("chap_") for name in section.values):
            with contextlib.suppress(errors.BadConfiguration):  # that is said anyway
                if target := pattern_proofs.example_name(section.glob):
                    yield schema.effective_values(sections, target)


def _useless(sections: Sequence[Section]) -> list[Problem]:
    """Return a warning for each section that changes nothing for any target."""
    problems = []
    for number, section in enumerate(sections):
        if not section.glob:
            continue  # its header is wrong, which was said
        name = f"[{section.title}]"
        target = pattern_proofs.example_name(section.glob)
        if target is None:
            kind, why = _impossible(section)
            problems.append(Problem(kind, section.file, section.line, name, why))
            continue
        left, by = set(section.values), []
        for later in sections[number + 1 :]:
            common = left & set(later.values)
            # What stands above the sections of a drop-in is there to override what stands above
            # those of the main file.
            if (
                common
                and (section.title or later.title)
                and patterns.matches(later.glob, target)
                and pattern_proofs.covers(later.glob, section.glob)
            ):
                left -= common
                by.append(later.where(min(common, key=later.lines.__getitem__)))
        if by and not left:
            why = f"nothing of it holds: {', '.join(by)} set it anew for all that it matches"
            line = section.line or min(section.lines.values())
            subject = name if section.title else "settings above the first section"
            problems.append(Problem("shadowed", section.file, line, subject, why))
    return problems


def _impossible(section: Section) -> tuple[str, str]:
    """Return the kind of a section that matches no target, and why it does not."""
    literal = patterns.wildcard_expression().sub("", section.glob)
    alien = sorted(set(literal) - set(patterns.ALPHABET))
    kind = (
        "never-matches" if patterns.wildcard_expression().search(section.glob) else "not-a-target"
    )
    if alien:
        signs = " or ".join(f'"{wording.printable(c)}"' for c in alien)
        return kind, f"it can match no target: no target's name has {signs} in it"
    meant = pattern_proofs.suggest(section.glob)
    hint = f"; did you mean [{meant}]?" if meant else ""
    if kind == "not-a-target":
        return kind, "not a target's name (iqn.YYYY-MM.DOMAIN[:NAME], eui.HEX, naa.HEX)" + hint
    return kind, "it can match no target: their names begin with iqn., eui. or naa." + hint
