"""auto-iscsi explain CODE: every code that any command reports has an explanation."""

from __future__ import annotations

import json

import pytest

from auto_iscsi import errors, failures, keys
from auto_iscsi.admin import cli, codes, doctor, status
from auto_iscsi.config import config_files


def test_every_failure_problem_and_check_has_an_explanation() -> None:
    assert failures.NoDisk is errors.NoDisk  # the kinds are imported, so they are known
    kinds = (errors.TimedOut, errors.Failure, *errors.Failure.__subclasses__())
    reported = [*sorted({kind.code for kind in kinds}), *config_files.KINDS, *doctor.CHECKS]
    assert len(set(reported)) == len(reported), "a code has two meanings"
    assert set(codes.table()) == {*reported, *status.PROBLEMS}
    for code in status.PROBLEMS:
        assert "status" in codes.table()[code].source


@pytest.mark.parametrize("code", codes.table())
def test_a_code_says_what_it_means_and_what_to_do(
    code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.BadKey):  # so that explain can tell it from a key
        keys.parse(code)
    assert cli.main(["explain", code]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{code} (") and "\nTo do: " in text
    assert max(map(len, text.splitlines())) < 80
    assert cli.main(["explain", "--json", code]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["code"] == code and data["means"].endswith(".") and data["todo"]


def test_the_codes_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "--codes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(codes.table())
    assert cli.main(["explain", "--codes", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(codes.table())
