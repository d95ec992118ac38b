"""Look for a configuration file that crashes the parser, hangs it, or makes it contradict itself.

Usage: python3 -m tests.unit.fuzz_config MINUTES [SEED]. Outside CI. Mutates the files in corpus/
and every mutation that reached new lines of the program (sys.settrace), prints the file that
fails, and keeps it in corpus/, which test_syntax runs through in CI.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from auto_iscsi import errors
from auto_iscsi.admin import check
from auto_iscsi.admin.output import Paint
from auto_iscsi.config import config_files, patterns, schema
from tests.unit.language import TARGET, time_limit

CORPUS = Path(__file__).parent / "corpus"
SLOW = 20  # seconds, with tracing
WATCHED = (
    "config_files.py",
    "syntax.py",
    "values.py",
    "schema.py",
    "patterns.py",
    "pattern_proofs.py",
    "check.py",
    "portals.py",
    "configobj/__init__.py",
)
PIECES = [
    b"[",
    b"]",
    b"[[",
    b"]]",
    b'"',
    b"'",
    b'"""',
    b"'''",
    b"=",
    b",",
    b"#",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"*",
    b"?",
    b"[0-9]",
    b"[!a]",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"lun = 1\n",
    b"[*]\n",
    b"[iqn.*]\n",
    b"portals = [fd00::1]:3260, 10.0.0.1\n",
    b"options = ro,  nosuid\n",
    b"partition = none\n",
    b"%(lun)s",
    b"\\",
    b"login_timeout = 5m\n",
    b"9" * 20,
    b"  # c",
    b"naa.",
    b"eui.",
    b"_",
]


def check_file(data: bytes) -> None:
    """Parse, resolve and check a file; fail if the results contradict each other."""
    sections, problems = config_files.parse("F", data)
    last = data.count(b"\n") + 1
    assert all(1 <= problem.line <= last for problem in problems), problems
    lines = [n for section in sections for n in (section.line, *section.lines.values()) if n]
    # A broken header's settings follow it: without problems, the order is the file's.
    assert problems or lines == sorted(set(lines)), lines
    assert config_files.parse("F", data) == (sections, problems)
    wrong = [problem for section in sections for problem in schema.read_section(section)[1]]
    applying = [s for s in sections if patterns.matches(s.glob, TARGET)]
    refused = any(schema.read_section(section)[1] for section in applying)
    try:
        schema.resolve(sections, TARGET)
        assert not refused
    except errors.BadConfiguration:
        assert refused
    reported = [*problems, *wrong, *check._without_effect(sections[:30])]
    for problem in reported:
        line = check.problem_line(problem, Paint(False))
        assert line.isprintable(), line


def mutated(choice: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(choice.choice(seeds))
    for _ in range(choice.choice([1, 1, 2, 3, 8])):
        at = choice.randint(0, len(data))
        kind = choice.randrange(5)
        if kind == 0:
            data[at:at] = choice.choice(PIECES) * choice.choice([1, 1, 1, 2, 40])
        elif kind == 1:
            del data[at : at + choice.randint(1, 20)]
        elif kind == 2 and data:
            data[min(at, len(data) - 1)] = choice.randrange(256)
        elif kind == 3:
            other = choice.choice(seeds)
            start = choice.randint(0, len(other))
            data[at:at] = other[start : start + choice.randint(1, 60)]
        else:
            start = choice.randint(0, len(data))
            data[at:at] = data[start : start + choice.randint(1, 60)]
    return bytes(data[:4000])


def covered(data: bytes) -> set[tuple[str, int, int]]:
    """Check a file; return which steps from line to line the program took."""
    steps: set[tuple[str, int, int]] = set()
    before = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal before
        if event == "line":
            steps.add((frame.f_code.co_filename, before, frame.f_lineno))
            before = frame.f_lineno
        return line

    def call(frame: FrameType, _event: str, _arg: Any) -> Any:
        return line if frame.f_code.co_filename.endswith(WATCHED) else None

    sys.settrace(call)
    try:
        check_file(data)
    finally:
        sys.settrace(None)
    return steps


def main(minutes: float, seed: int) -> int:
    choice = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(CORPUS.iterdir())] or [b""]
    seen: set[tuple[str, int, int]] = set()
    end, runs, reported_at = time.monotonic() + 60 * minutes, 0, 0.0
    while time.monotonic() < end:
        data = seeds[runs] if runs < len(seeds) else mutated(choice, seeds)
        runs += 1
        try:
            with time_limit(SLOW):
                new = covered(data) - seen
        except Exception as error:
            name = CORPUS / f"crash-{hashlib.sha256(data).hexdigest()[:12]}"
            name.write_bytes(data)
            print(f"{type(error).__name__}: {error}\nin {name}: {data!r}")
            return 1
        if new:
            seen |= new
            seeds.append(data)
        if time.monotonic() > reported_at + 10:
            reported_at = time.monotonic()
            print(f"{runs} files, {len(seeds)} of interest, {len(seen)} steps", flush=True)
    print(f"{runs} files, {len(seeds)} of interest, {len(seen)} steps: nothing found (seed {seed})")
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: fuzz_config MINUTES [SEED]")
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else time.time_ns()))
