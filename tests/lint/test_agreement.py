"""Facts that several files contain agree: version, dependencies, settings, codes, options."""

from __future__ import annotations

import argparse
import configparser
import re
import subprocess

import pytest

import auto_iscsi
from auto_iscsi.admin import cli, codes, doctor, status, verbs
from auto_iscsi.config import config_files, san_files, schema
from auto_iscsi.machine import master_map

from .tracked_files import ROOT, tracked

VERSION = auto_iscsi.__version__


def text(name: str) -> str:
    return (ROOT / name).read_text()


def first(pattern: str, name: str) -> str:
    """Return the first group of the pattern's first match in a file."""
    match = re.search(pattern, text(name), re.MULTILINE)
    assert match, f"{name}: nothing matches {pattern}"
    return match[1]


def rendered(page: str) -> str:
    """Return a manual page as plain text, its lines joined."""
    mandoc = subprocess.run(
        ["mandoc", "-T", "utf8", f"man/{page}"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return re.sub(r"\s+", " ", re.sub(".\b", "", mandoc.stdout))


def test_there_is_one_version() -> None:
    versions = {
        "debian/changelog": first(r"\Aauto-iscsi \((.*?)\)", "debian/changelog"),
        "rpm/auto-iscsi.spec": first(r"^Version:\s*(\S+)$", "rpm/auto-iscsi.spec"),
        "its changelog": first(r"^\* .* - (\S+)-\d+$", "rpm/auto-iscsi.spec"),
        "NEWS": first(r"\Aauto-iscsi (\S+)$", "NEWS"),
    }
    assert versions == dict.fromkeys(versions, VERSION)
    assert first(r"^version = (.*)$", "setup.cfg") == "attr: auto_iscsi.__version__"


def test_both_packages_depend_on_what_setup_cfg_says() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    dependencies = [f"python3 {setup['options']['python_requires'].replace('>=', '>= ')}"]
    for line in setup["options"]["install_requires"].split():
        dependencies.append("python3-" + line.replace(">=", " >= "))
    for dependency in dependencies:
        name, least = dependency.split(" ", 1)
        assert f" {name} ({least})," in text("debian/control"), dependency
        assert re.search(
            rf"^Requires: +{re.escape(dependency)}$", text("rpm/auto-iscsi.spec"), re.M
        ), dependency


TABLES = {
    "man/auto.iscsi.conf.5": schema.TABLE,
    "man/auto.iscsi.san.conf.5": san_files.TABLE,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_manual_names_every_setting_and_no_other(name: str) -> None:
    assert re.findall(r"^\.It Ic (\w+)", text(name), re.M) == list(TABLES[name])


@pytest.mark.parametrize("manual", TABLES)
def test_the_manual_knows_the_defaults(manual: str) -> None:
    page = text(manual)
    for name, setting in TABLES[manual].items():
        if name == "driver":
            continue  # it has none
        item = page.split(f".It Ic {name} ", 1)[1].split("\n.It Ic ")[0].split("\n.El\n.Sh ")[0]
        match = re.search(r"Default:(?:\n\.Cm (.*?)(?: \.)?| none\.)$", item, re.M)
        assert match, f"{name}: no default"
        default = (match[1] or "").replace(" , ", ", ")
        value = default.split(", ") if ", " in default else default
        assert setting.parse(value) == setting.default, f"{name}: the manual says {default!r}"


def test_the_manual_lists_every_code_under_who_reports_it() -> None:
    listed = text("man/auto-iscsi.8").split("\n.Sh CODES\n")[1].split("\n.Sh ")[0]
    lists = re.findall(r"^\.Bl.*?^\.El$", listed, re.M | re.S)
    shown = [re.findall(r"^\.It Cm ([\w-]+)$", each, re.M) for each in lists]
    known = codes.table()
    assert shown == [
        [code for code in known if codes.LOOKUP in known[code].source.split(", ")],
        list(config_files.KINDS),
        list(status.PROBLEMS),
        list(doctor.CHECKS),
    ]


def test_every_verb_does_something() -> None:
    assert list(cli.VERBS) == list(verbs.VERBS)


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_the_manual_has_every_verb_with_all_its_options(verb: str) -> None:
    page = text("man/auto-iscsi.8")
    synopsis = page.split("\n.Sh SYNOPSIS\n")[1].split("\n.Sh ")[0]
    (shown,) = [each for each in synopsis.split("\n.Nm\n") if f"\n.Cm {verb}" in f"\n{each}"]
    parser = argparse.ArgumentParser(add_help=False)
    verbs.VERBS[verb].arguments(parser)
    for action in parser._actions:
        for option in action.option_strings[-1:]:
            assert re.search(rf"Fl {re.escape(option[1:])}\b", page), option
            short = action.option_strings[0][1:]
            flags = "".join(re.findall(r"Fl (\w+)$", shown, re.M))
            assert f"Fl {option[1:]}" in shown or short in flags, option
    assert f"\n.It Cm {verb}" in page


def test_the_example_file_shows_every_setting_at_its_default() -> None:
    shown = dict(re.findall(r"^#(\w+) =(?: (.*))?$", text("etc/auto.iscsi.conf"), re.M))
    assert list(shown) == list(schema.TABLE)
    for name, setting in schema.TABLE.items():
        value = shown[name].split(", ") if ", " in shown[name] else shown[name]
        assert setting.parse(value) == setting.default, f"{name}: the file says {shown[name]!r}"


def test_the_shipped_configuration_sets_nothing() -> None:
    set_lines = [
        line for line in text("etc/auto.iscsi.conf").splitlines() if line[:1] not in ("#", "")
    ]
    assert not set_lines


def test_the_manual_has_the_shipped_master_lines() -> None:
    targets, snapshots = text("etc/iscsi.autofs").splitlines()[-2:]
    assert targets.startswith("/iscsiauto program:/usr/libexec/auto-iscsi/auto.iscsi ")
    assert snapshots.startswith(f"/snapshots file:{master_map.VOLUMES} ")
    assert targets in rendered("auto.iscsi.8")
    assert snapshots in rendered("auto.iscsi.8")


def test_no_address_of_a_mirror_or_registry() -> None:
    # In pieces, so that this file itself does not match.
    hosts = r"(deb\.debian|ftp\.[a-z]+\.debian|security\.debian|archive\.ubuntu|pypi\.python|pypi|"
    hosts += r"files\.pythonhosted|registry\.npmjs|proxy\.golang|snapshot\.debian)" + r"\.org"
    options = r"(extra-)?index" + r"-url|find" + r"-links"
    addresses = []
    for name in tracked():
        content = (ROOT / name).read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(content.splitlines(), 1):
            if re.search(f"{hosts}|{options}", line, re.IGNORECASE):
                addresses.append(f"{name}:{number}: {line.strip()[:80]}")
    assert not addresses
