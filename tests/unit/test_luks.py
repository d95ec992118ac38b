"""LUKS of a stranger: what is opened, how cryptsetup is started, and what is refused before."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi import errors
from auto_iscsi.admin import check, doctor_host, host_check, output
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import our_devices
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import candidates, content, luks, mapping, mount_type, mountable, stack
from tests.tree.tree import make_tree

TARGET = "iqn.2001-05.com.example:server"
SESSION = "/sys/class/iscsi_session/session1"
UUID = "00112233-4455-6677-8899-aabbccddeeff"
KEY = "a key of bytes"

#: What cryptsetup 2.6.1 prints for a device of its own making (luksDump --dump-json-metadata).
METADATA = {
    "keyslots": {
        "0": {"type": "luks2", "key_size": 64, "area": {"encryption": "aes-xts-plain64"}},
    },
    "tokens": {},
    "segments": {
        "0": {
            "type": "crypt",
            "offset": "16777216",
            "size": "dynamic",
            "iv_tweak": "0",
            "encryption": "aes-xts-plain64",
            "sector_size": 4096,
        }
    },
    "digests": {"0": {"type": "pbkdf2"}},
    "config": {"json_size": "12288", "keyslots_size": "16744448"},
}

PRLIMIT = """#!/bin/sh
echo "$*" >>$AUTO_ISCSI_ROOT/limits
shift 5 # --data=, timeout, --kill-after=, seconds, cryptsetup
exec $AUTO_ISCSI_ROOT/usr/sbin/cryptsetup "$@"
"""
#: It makes what the kernel then shows: dm-1, made of the device `slave`.
CRYPTSETUP = """#!/bin/sh
cd $AUTO_ISCSI_ROOT
case $1 in
luksDump) cat metadata ;;
open)
    [ -e status ] && echo "cryptsetup has its reasons" >&2 && exit $(cat status)
    [ -e left ] && echo "Device $(cat left) already exists." >&2 && exit 5
    for name; do :; done
    mkdir -p sys/block/dm-1/dm sys/block/dm-1/slaves/x sys/dev/block/254:0/holders/dm-1
    echo CRYPT-LUKS2-00112233445566778899aabbccddeeff-$name >sys/block/dm-1/dm/uuid
    echo $name >sys/block/dm-1/dm/name
    echo 1 >sys/block/dm-1/ro
    echo 254:1 >sys/block/dm-1/dev
    cat slave >sys/block/dm-1/slaves/x/dev ;;
esac
"""
#: It knows a device without a table by the file `left`, which has its name.
DMSETUP = """#!/bin/sh
cd $AUTO_ISCSI_ROOT
case "$1" in
info)
    [ -e left ] || exit 1
    name=$(cat left)
    echo "Name: $name"
    echo "Tables present: None"
    echo "UUID: CRYPT-LUKS2-00112233445566778899aabbccddeeff-$name" ;;
remove) if [ -e left ]; then rm left; else rm -r sys/block/dm-1 sys/dev/block/254:0/holders/dm-1; fi
esac
"""


def luks_header(
    version: int = 2, cipher: str = "aes", mode: str = "xts-plain64", uuid: str = UUID
) -> bytes:
    fields = cipher.encode().ljust(32, b"\0") + mode.encode().ljust(32, b"\0")
    start = (b"LUKS\xba\xbe" + version.to_bytes(2, "big") + fields).ljust(168, b"\0")
    return (start + uuid.encode()).ljust(592, b"\0")


def machine(root: Path, header: bytes = b"", metadata: object = METADATA) -> Host:
    """Return a host with a session of ours and a LUKS logical volume of ours (254:0)."""
    connection = "/sys/class/iscsi_connection/connection1:0"
    programs = {"prlimit": PRLIMIT, "cryptsetup": CRYPTSETUP, "dmsetup": DMSETUP}
    make_tree(
        root,
        {
            "/proc/sys/kernel/random/boot_id": "boot\n",
            "/proc/meminfo": "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n",
            f"{SESSION}/targetname": TARGET,
            f"{SESSION}/state": "LOGGED_IN",
            f"{connection}/persistent_address": "10.0.0.1",
            f"{connection}/persistent_port": "3260",
            "/sys/dev/block/254:0/x": "",
            "/dev/mapper/ai-5-vg0-secret": header or luks_header(),
            "/run/udev/data/b254:1": "I:1\nE:ID_FS_TYPE=ext4\nE:ID_FS_USAGE=filesystem\n",
            "/proc/filesystems": "\text4\n",
            "/metadata": json.dumps(metadata),
            "/slave": "254:0",
            "/key": KEY,
            **{f"/usr/sbin/{name}": text for name, text in programs.items()},
        },
    )
    for name in programs:
        (root / "usr/sbin" / name).chmod(0o755)
    host = Host(str(root))
    inode = (root / SESSION[1:]).stat().st_ino
    claims.write(host, TARGET, claims.Claim(opened=((1, inode),)))
    return host


DEVICE = Device("dm-0", "ai-5-vg0-secret", "254:0", f"{SESSION}/device/sdb", "/dev/mapper")
LUKS_VOLUME = mountable.Filesystem("/vg0-secret", DEVICE, mountable.LUKS_MEMBER, ("ro",))


def expand(host: Host, act: bool = True, count: int = 1) -> mountable.Mountable:
    members = [LUKS_VOLUME]
    members += [mountable.Filesystem("/p1", DEVICE, "ext4", ("ro",))] * (count - 1)
    settings = schema.resolve([], TARGET)._replace(
        fstype="auto", partition="all", luks_key_file="/key"
    )
    layout = mountable.Mountable(tuple(members))
    return luks.expand(host, TARGET, layout, settings, time.monotonic() + 30, act)


def refusal(host: Host) -> str:
    with pytest.raises(errors.Failure) as refused:
        expand(host)
    text = str(refused.value)
    assert KEY not in text
    return text


@pytest.mark.parametrize("version", [1, 2])
def test_it_is_opened_read_only_within_limits_and_then_found(tmp_path: Path, version: int) -> None:
    host = machine(tmp_path, luks_header(version))
    (shown,) = expand(host).filesystems
    assert (shown.offset, shown.fstype, shown.device.node) == ("/vg0-secret", "ext4", "dm-1")
    line = (tmp_path / "limits").read_text().splitlines()[-1]
    assert line.startswith(f"--data={1 << 30} timeout --kill-after=0.5 2")
    words = line.split()
    assert words[4:6] == ["cryptsetup", "open"]
    assert {
        "--disable-keyring",
        "--readonly",
        "--disable-locks",
        "--disable-external-tokens",
    } <= set(words)
    assert words[words.index("--type") + 1] == f"luks{version}"
    assert words[words.index("--key-file") + 1] == f"{tmp_path}/key" and KEY not in line
    (tmp_path / "limits").unlink()
    assert expand(host).filesystems == expand(host, act=False).filesystems == (shown,)
    assert not (tmp_path / "limits").exists()  # nothing was started


@pytest.mark.parametrize("partition", ["all", "auto", 2, "vg1/root"])
def test_it_takes_a_key_to_be_shown_as_something_to_open(partition: int | str) -> None:
    device = Device("sdb2", "", "8:18")
    encrypted = content.Content(mountable.LUKS_MEMBER, "crypto")
    candidate = candidates.Candidate(2, device, encrypted, 1 << 30)
    settings = schema.resolve([], TARGET)._replace(fstype="auto", partition=partition)
    with pytest.raises(errors.NotMountable, match="LUKS encrypted .* set luks_key_file"):
        mount_type.type_and_options(Host("/nowhere"), "it", candidate, device, settings)
    settings = settings._replace(luks_key_file="/key")
    shown = mount_type.type_and_options(Host("/nowhere"), "it", candidate, device, settings)
    assert shown[0] == mountable.LUKS_MEMBER
    bitlocker = candidate._replace(content=content.Content("BitLocker", "crypto"))
    with pytest.raises(errors.NotMountable, match="BitLocker encrypted"):
        mount_type.type_and_options(Host("/nowhere"), "it", bitlocker, device, settings)


def test_a_filesystem_in_luks_is_no_logical_volume(tmp_path: Path) -> None:
    host = machine(tmp_path)
    (shown,) = expand(host).filesystems
    settings = schema.resolve([], TARGET)._replace(
        fstype="auto", partition="vg1/root", luks_key_file="/key"
    )
    layout = mountable.Mountable((LUKS_VOLUME,), ("p5 is left out",))
    with pytest.raises(errors.NoPartition, match="vg1/root: no volume group; p5 is left out"):
        stack.expand(host, TARGET, layout, settings, time.monotonic() + 30, True)
    layout = stack.expand(
        host, TARGET, layout, settings._replace(partition="all"), time.monotonic() + 30, True
    )
    assert layout.filesystems == (shown,)


def test_without_acting_nothing_is_opened(tmp_path: Path) -> None:
    host = machine(tmp_path)
    with pytest.raises(errors.NotMountable, match="a lookup does that"):
        expand(host, act=False)
    assert not (tmp_path / "limits").exists()


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (1, "cryptsetup has its reasons"),
        (2, "the key in /key does not fit it"),
        (3, "takes more memory than this host has free"),
        (124, "did not end in time; raise lookup_timeout"),
        (137, "did not end in time"),
    ],
)
def test_what_cryptsetup_refuses_is_left_out_alone(tmp_path: Path, status: int, why: str) -> None:
    host = machine(tmp_path)
    make_tree(tmp_path, {"/status": f"{status}"})
    assert why in refusal(host)
    shown = expand(host, count=2)
    assert [each.offset for each in shown.filesystems] == ["/p1"]
    assert shown.notes[0].startswith("vg0-secret is left out: LUKS on dm-0 ")
    (tmp_path / "status").unlink()
    assert expand(host).filesystems[0].fstype == "ext4"


def test_a_device_that_a_killed_cryptsetup_left_without_a_table_is_made_anew(
    tmp_path: Path,
) -> None:
    host = machine(tmp_path)
    make_tree(tmp_path, {"/left": mapping.name(host, "254:0", "crypt")})
    assert expand(host).filesystems[0].device.node == "dm-1"
    (tmp_path / "left").write_text("root-crypt")  # somebody else's
    shutil.rmtree(tmp_path / "sys/block/dm-1")
    shutil.rmtree(tmp_path / "sys/dev/block/254:0/holders")
    assert "already exists" in refusal(host)
    assert (tmp_path / "left").exists()


def test_a_header_that_leads_to_another_device_is_closed_again(tmp_path: Path) -> None:
    host = machine(tmp_path)
    make_tree(tmp_path, {"/slave": "8:0"})
    assert "leads to another device" in refusal(host)
    assert our_devices.named(host, "ai-5-crypt") == []
    assert not (tmp_path / "sys/block/dm-1").exists()


@pytest.mark.parametrize(
    "header",
    [
        luks_header(1, "cipher_null", "ecb - 0 8:0 0 0"),
        luks_header(1, "aes\n", "xts-plain64"),
        luks_header(1, "", ""),
        luks_header(3),
        luks_header(2, uuid="x 0 8:0 0 0"),
        luks_header(2, uuid=""),
        b"SKUL\xba\xbe\0\2".ljust(592, b"\0"),
    ],
    ids=[
        "another device",
        "white space",
        "none",
        "version 3",
        "key of that name",
        "no UUID",
        "second copy only",
    ],
)
def test_a_header_that_is_not_for_dm_crypt_starts_nothing(tmp_path: Path, header: bytes) -> None:
    # The kernel would take "8:0" for the device: this host's own disk.
    assert "is not opened: its header" in refusal(machine(tmp_path, header))
    assert not (tmp_path / "limits").exists()


SEGMENT = METADATA["segments"]["0"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"config": {"requirements": {"mandatory": ["online-reencrypt-v2"]}}}, "being changed"),
        ({"config": {"requirements": {"mandatory": ["new"]}}}, "does not know"),
        ({"segments": {}}, "more than one segment, or none"),
        ({"segments": {"0": SEGMENT, "1": SEGMENT}}, "more than one segment, or none"),
        ({"segments": {"0": {**SEGMENT, "type": "hw-opal-crypt"}}}, "OPAL"),
        ({"segments": {"0": {**SEGMENT, "type": "linear"}}}, "unknown type"),
        ({"segments": {"0": {**SEGMENT, "integrity": {"type": "aead"}}}}, "integrity layer"),
        ({"segments": {"0": {**SEGMENT, "encryption": "null-ecb - 0 8:0 0 0"}}}, "no cipher"),
        ({"segments": {"0": {**SEGMENT, "encryption": 7}}}, "no cipher"),
        ({"keyslots": {"0": {"area": {"encryption": "null-ecb - 0 8:0 0 0"}}}}, "no cipher"),
    ],
)
def test_metadata_that_is_refused(tmp_path: Path, change: dict[str, object], why: str) -> None:
    host = machine(tmp_path, metadata={**METADATA, **change})
    assert why in refusal(host)
    assert " open " not in (tmp_path / "limits").read_text()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*METADATA, *SEGMENT, "0"]), inner)
    ),
)


@given(JSON)
def test_no_metadata_passes_without_one_plain_segment(metadata: object) -> None:
    if not luks.why_refused(metadata):
        assert isinstance(metadata, dict)
        (segment,) = metadata["segments"].values()
        assert segment["type"] == "crypt" and " " not in segment["encryption"]


@given(st.text(), st.sampled_from(["segments", "keyslots"]))
def test_no_cipher_has_a_word_for_device_mapper(name: str, where: str) -> None:
    changed = {
        "segments": {"0": {**SEGMENT, "encryption": name}},
        "keyslots": {"0": {"area": {"encryption": name}}},
    }
    why = luks.why_refused({**METADATA, where: changed[where]})
    assert why or (name.isascii() and name.isprintable() and name.split() == [name])


@pytest.mark.parametrize(
    ("uuid", "name", "is_ours"),
    [
        ("CRYPT-LUKS2-00112233445566778899aabbccddeeff-ai-77-crypt", "ai-77-crypt", True),
        ("CRYPT-LUKS1-what \\x20 ever-ai-77-crypt", "ai-77-crypt", True),
        ("CRYPT-LUKS2-00112233445566778899aabbccddeeff-root_crypt", "root_crypt", False),
        ("CRYPT-LUKS2-00112233445566778899aabbccddeeff-ai-78-crypt", "ai-77-crypt", False),
        ("CRYPT-LUKS2-0011-ai-x7-crypt", "ai-x7-crypt", False),
        ("CRYPT-LUKS2-0011-ai--crypt", "ai--crypt", False),
        ("CRYPT-PLAIN-ai-77-crypt", "ai-77-crypt", False),
        ("CRYPT-TEMP-temporary-cryptsetup-7", "temporary-cryptsetup-7", True),
        ("CRYPT-TEMP-temporary-cryptsetup-8", "temporary-cryptsetup-8", False),
        ("CRYPT-TEMP-temporary-cryptsetup-7", "temporary-cryptsetup-9", False),
    ],
)
def test_which_devices_of_cryptsetups_are_ours(
    tmp_path: Path, uuid: str, name: str, is_ours: bool
) -> None:
    files = {"/sys/block/dm-3/dm/uuid": uuid, "/sys/block/dm-3/dm/name": name}
    make_tree(tmp_path, {**files, "/proc/8/comm": "cryptsetup"})
    host = Host(str(tmp_path))
    assert our_devices.is_ours(host, "dm-3") == is_ours
    assert our_devices.orphans(host) == (["dm-3"] if is_ours else [])


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "no such file"), ("", "it is empty"), ("x" * ((8 << 20) + 1), "no key above 8 MiB")],
)
def test_check_and_doctor_name_a_key_file_that_cannot_be_used(
    tmp_path: Path, content: str | None, why: str
) -> None:
    conf = {config_files.FILE: "lun = 0\nluks_key_file = /k\n"}
    make_tree(tmp_path, {**conf, **({} if content is None else {"/k": content})})
    host = Host(str(tmp_path))
    (line,) = check.report(host, [], False, output.Paint(False)).lines
    assert line.startswith("/etc/auto.iscsi.conf:2: error: luks_key_file: /k: ") and why in line
    assert doctor_host.configuration(host).level == host_check.PROBLEM
    assert doctor_host.luks(host).text == "cryptsetup is not installed: LUKS is not opened"


def test_a_key_file_is_roots_alone(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o640)
    with pytest.raises(errors.BadConfiguration, match="users other than root can read it"):
        luks.check_key_file(Host(), str(key))
    key.chmod(0o600)
    luks.check_key_file(Host(), str(key))
