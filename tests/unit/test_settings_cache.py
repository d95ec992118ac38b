"""The cached settings of a target are its current ones, or they are not used."""

from __future__ import annotations

import marshal
import os
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.config import config_files, file_cache, schema, settings_cache
from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree

TARGET = "iqn.2001-05.com.example:a"
CACHE = f"run/auto-iscsi/settings/{TARGET}"


def everything() -> str:
    """Return a configuration in which no setting has its default."""
    return "".join(f"{name} = {row.example}\n" for name, row in schema.TABLE.items())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A machine with a configuration that was written long ago."""
    make_tree(tmp_path, {config_files.FILE: f"lun = 1\n[*:a]\n{everything()}", "/run": None})
    monkeypatch.setattr(file_cache.write, "__defaults__", (file_cache.SECTIONS, 0.0))
    return Host(str(tmp_path))


def test_every_setting_comes_back_as_it_was(host: Host) -> None:
    first = settings_cache.find(host, TARGET)
    assert not first.is_cached
    settings_cache.keep(host, TARGET, first)
    second = settings_cache.find(host, TARGET)
    assert second.is_cached
    # repr shows types, too: 1 == 1.0, and a Portal equals a plain tuple.
    assert repr(second.settings) == repr(first.settings)
    assert first.settings == schema.resolve(config_files.load(host), TARGET)
    assert marshal.loads(marshal.dumps(settings_cache.to_plain(first.settings)))


def test_the_settings_are_cached_for_their_target_alone(host: Host) -> None:
    settings_cache.keep(host, TARGET, settings_cache.find(host, TARGET))
    other = settings_cache.find(host, f"{TARGET}b")
    assert not other.is_cached and other.settings.lun == 1


def test_a_change_of_the_configuration_counts_at_once(host: Host, tmp_path: Path) -> None:
    settings_cache.keep(host, TARGET, settings_cache.find(host, TARGET))
    make_tree(tmp_path, {f"{config_files.FOLDER}/b.conf": "[*:a]\nlun = 7\n"})
    assert settings_cache.find(host, TARGET).settings.lun == 7
    make_tree(tmp_path, {f"{config_files.FOLDER}/b.conf": "[*:a]\nlun = many\n"})
    with pytest.raises(errors.BadConfiguration):
        settings_cache.find(host, TARGET)


def test_settings_that_change_during_a_lookup_are_not_cached(host: Host, tmp_path: Path) -> None:
    resolved = settings_cache.find(host, TARGET)
    make_tree(tmp_path, {config_files.FILE: "lun = 2\n"})
    settings_cache.keep(host, TARGET, resolved)
    assert not (tmp_path / CACHE).exists()


@pytest.mark.parametrize("harm", ["cut", "flipped bit", "open", "link"])
def test_a_damaged_or_unsafe_cache_is_not_used(host: Host, tmp_path: Path, harm: str) -> None:
    settings_cache.keep(host, TARGET, settings_cache.find(host, TARGET))
    file = tmp_path / CACHE
    data = file.read_bytes()
    if harm == "cut":
        file.write_bytes(data[:-1])
    elif harm == "flipped bit":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "open":
        file.chmod(0o644)
    else:
        os.rename(file, tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    assert not settings_cache.find(host, TARGET).is_cached


def test_the_cache_of_another_build_is_not_used(host: Host) -> None:
    resolved = settings_cache.find(host, TARGET)
    values = {**settings_cache.to_plain(resolved.settings), "colour": "green"}
    file_cache.write(host, resolved.files, values, f"settings/{TARGET}")
    again = settings_cache.find(host, TARGET)
    assert not again.is_cached and again.settings == resolved.settings


def test_the_cache_is_deleted_with_the_claim(host: Host, tmp_path: Path) -> None:
    settings_cache.keep(host, TARGET, settings_cache.find(host, TARGET))
    assert (tmp_path / CACHE).exists()
    claims.forget(host, TARGET)
    assert not (tmp_path / CACHE).exists()
