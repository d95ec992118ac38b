"""Report everything that is wrong in the configuration, before automount uses it.

Errors keep targets from being mounted; most warnings are sections without effect. Any user can
check any file: only the CHAP secrets, and who can read or write files, are read from the host.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.admin import output
from auto_iscsi.config import (
    config_files,
    file_cache,
    pattern_proofs,
    patterns,
    san_files,
    schema,
)
from auto_iscsi.config.config_files import Problem, Section
from auto_iscsi.iscsi import chap
from auto_iscsi.machine.host import Host
from auto_iscsi.san import driver_process
from auto_iscsi.volumes import luks


class Source(NamedTuple):
    """A file to check."""

    host: Host
    path: str
    shown: str  #: the file's name in the report


def report(host: Host, files: Sequence[str], strict: bool, paint: output.Paint) -> output.Report:
    """Return the problems in `files`, or, if there are none, in the files that a lookup reads.

    Status 1 if there are errors; if `strict`, for warnings as well.
    """
    if files:
        sans = [local_file(file) for file in files if is_san_file(file)]
        sources = [local_file(file) for file in files if not is_san_file(file)]
        problems = find_problems(sources) + find_san_problems(sans)
    else:
        existing = file_cache.list_existing(host)
        sources = [Source(host, name, name) for name, _ in existing]
        paths = [san_files.path_of(name) for name in san_files.list_names(host)]
        sans = [Source(host, path, path) for path in paths]
        problems = config_files.permission_problems(host, existing)
        problems += find_problems(sources) + secret_problems(host) + key_file_problems(host)
        problems += find_san_problems(sans) + san_secret_problems(host)
    has_failed = any(problem.is_error or strict for problem in problems)
    lines = [problem_line(problem, paint) for problem in problems]
    faulty = {problem.file for problem in problems}
    checked = [source.shown for source in (*sources, *sans)]
    lines += [f"{shown}: {paint.ok('ok')}" for shown in checked if shown not in faulty]
    if not sources and not files:
        lines.append(f"no {config_files.FILE}: the built-in settings apply")
    data = {
        "ok": not has_failed,
        "files": checked,
        "problems": [
            {**problem._asdict(), "severity": "error" if problem.is_error else "warning"}
            for problem in problems
        ],
    }
    return output.Report(1 if has_failed else 0, lines, data)


def local_file(file: str, shown: str = "") -> Source:
    """Return a file below the real root directory as a source, whatever --root is."""
    return Source(Host(), os.path.abspath(file), shown or file)


def is_san_file(file: str) -> bool:
    """Tell whether a file describes a SAN, by the folder that it is in."""
    folder = os.path.basename(os.path.dirname(os.path.abspath(file)))
    return folder == os.path.basename(san_files.FOLDER)


def find_san_problems(sources: Sequence[Source]) -> list[Problem]:
    """Return everything that is wrong in files that describe SANs."""
    problems: list[Problem] = []
    for source in sources:
        problems += san_files.read(source.host, source.path, source.shown)[1]
    return problems


def san_secret_problems(host: Host) -> list[Problem]:
    """Return what is wrong with the secrets of SANs, as far as this user may see."""
    problems = []
    for name in san_files.list_names(host):
        with contextlib.suppress(errors.Failure):  # reported as a problem of its own
            san = san_files.find(host, name)
            for setting in ("key_file", "secret_file"):
                if file := getattr(san, setting):
                    problems.append(driver_process.secret_problem(host, san, setting, file))
    return [problem for problem in problems if problem]


def find_problems(sources: Sequence[Source]) -> list[Problem]:
    """Return everything that is wrong in files that apply one after the other."""
    sections: list[Section] = []
    problems: list[Problem] = []
    for source in sources:
        file_sections, file_problems = config_files.read(source.host, source.path, source.shown)
        sections += file_sections
        problems += file_problems
    for section in sections:
        problems += schema.read_section(section)[1]
    incomplete: dict[Problem, None] = {}  # several sections can lead to the same problem
    for effective in _with_chap(sections):
        incomplete.update(dict.fromkeys(schema.missing_requirements(effective)))
    problems += [*incomplete, *_without_effect(sections)]
    order = {source.shown: number for number, source in enumerate(sources)}
    return sorted(problems, key=lambda problem: (order[problem.file], problem.line))


def secret_problems(host: Host) -> list[Problem]:
    """Return what is wrong with the host's CHAP secrets, as far as this user may read them."""
    sections: list[Section] = []
    for name, _ in file_cache.list_existing(host):
        sections += config_files.read(host, name)[0]
    problems: dict[Problem, None] = {}
    for effective in _with_chap(sections):
        for name in ("chap_secret_file", "chap_mutual_secret_file"):
            file, section = effective[name]
            if section and file:
                place = (section.file, section.lines[name], name)
                is_mutual = name.startswith("chap_mutual")
                other = effective["chap_secret_file"].value if is_mutual else ""
                problems.update(dict.fromkeys(_secret_problems(host, file, other, place)))
    return list(problems)


def key_file_problems(host: Host) -> list[Problem]:
    """Return what is wrong with the LUKS key files that the host's configuration names."""
    problems = []
    for name, _ in file_cache.list_existing(host):
        for section in config_files.read(host, name)[0]:
            file = schema.read_section(section)[0].get("luks_key_file")
            try:
                if file:
                    luks.check_key_file(host, file)
            except errors.BadConfiguration as failure:
                place = (section.file, section.lines["luks_key_file"], "luks_key_file")
                problems.append(Problem("key-file", *place, failure.reason, failure.hint))
            except errors.NotPermitted:
                pass  # as another user than root
    return problems


def _secret_problems(
    host: Host, file: str, other: str, place: tuple[str, int, str]
) -> list[Problem]:
    """Return what is wrong with one secret; `place` is the line that names its file.

    `other`: the file of the secret that this one must differ from, or "".
    """
    try:
        size = len(chap.read_secret(host, file))
        if other:
            chap.require_different_secrets(host, other, file)
    except errors.BadConfiguration as failure:
        return [Problem("secret", *place, failure.reason, failure.hint)]
    except errors.NotPermitted:
        return []
    if size in chap.USUAL_LENGTHS:
        return []
    usual = f"{chap.USUAL_LENGTHS[0]} to {chap.USUAL_LENGTHS[-1]}"
    return [Problem("weak-secret", *place, f"{file}: {size} bytes, many targets take {usual}")]


def problem_line(problem: Problem, paint: output.Paint) -> str:
    """Return a problem as a line: FILE:LINE: error: SETTING: what is wrong (hint)."""
    place = f"{problem.file}:{problem.line}" if problem.line else problem.file
    severity = paint.error("error") if problem.is_error else paint.warning("warning")
    hint = f" ({problem.hint})" if problem.hint else ""
    text = ": ".join(filter(None, (problem.subject, problem.text)))
    return f"{place}: {severity}: {wording.printable(text)}{hint}"


def _with_chap(sections: Sequence[Section]) -> Iterator[dict[str, schema.Effective]]:
    """Yield, for each section that sets something for CHAP, the settings of one of its targets."""
    for section in sections:
        if section.glob and any(name.startswith("chap_") for name in section.values):
            with contextlib.suppress(errors.BadConfiguration):  # reported as a problem of its own
                if target := pattern_proofs.example_name(section.glob):
                    yield schema.effective_values(sections, target)


def _without_effect(sections: Sequence[Section]) -> list[Problem]:
    """Return a warning for each section that changes nothing for any target."""
    problems = []
    for number, section in enumerate(sections):
        if not section.glob:
            continue  # its header is wrong, which is reported already
        target = pattern_proofs.example_name(section.glob)
        if target is None:
            kind, reason = _no_match(section)
            subject = f"[{section.title}]"
            problems.append(Problem(kind, section.file, section.line, subject, reason))
        elif overriding := _overriding_lines(section, target, sections[number + 1 :]):
            reason = f"no effect: overridden for all its targets by {', '.join(overriding)}"
            line = section.line or min(section.lines.values())
            subject = f"[{section.title}]" if section.title else "settings above the first section"
            problems.append(Problem("shadowed", section.file, line, subject, reason))
    return problems


def _overriding_lines(section: Section, target: str, later: Sequence[Section]) -> list[str]:
    """Return the lines that override all settings of a section, [] if some setting remains.

    `target` is a name that the section matches.
    """
    remaining, lines = set(section.values), []
    for other in later:
        common = remaining & set(other.values)
        # A drop-in may override, above its first section, what the main file sets there.
        if (
            common
            and (section.title or other.title)
            and patterns.matches(other.glob, target)
            and pattern_proofs.covers(other.glob, section.glob)
        ):
            remaining -= common
            lines.append(other.where(min(common, key=other.lines.__getitem__)))
    return [] if remaining else lines


def _no_match(section: Section) -> tuple[str, str]:
    """Return the kind of problem of a section that matches no target, and the reason."""
    wildcard = patterns.wildcard_expression()
    kind = "never-matches" if wildcard.search(section.glob) else "not-a-target"
    if invalid := sorted(set(wildcard.sub("", section.glob)) - set(patterns.ALPHABET)):
        characters = " or ".join(f'"{wording.printable(c)}"' for c in invalid)
        return kind, f"it can match no target: no target's name contains {characters}"
    suggestion = pattern_proofs.suggest(section.glob)
    hint = f"; did you mean [{suggestion}]?" if suggestion else ""
    if kind == "not-a-target":
        return kind, f"not a target's name (iqn.YYYY-MM.DOMAIN[:NAME], eui.HEX, naa.HEX){hint}"
    return kind, f"it can match no target: their names begin with iqn., eui. or naa.{hint}"
