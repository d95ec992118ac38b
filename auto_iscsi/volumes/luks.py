"""Open LUKS partitions, disks and logical volumes read-only, with the key of `luks_key_file`.

cryptsetup opens them. It gets the name of the key file, never the key. A stranger wrote the LUKS
header, and cryptsetup and the kernel would do what it says. So before cryptsetup opens a device,
these are refused:

- a device whose opening writes to it or to other hardware: an interrupted reencryption, an
  integrity layer (dm-integrity has a journal of its own), a self-encrypting drive (OPAL);
- a cipher or UUID with white space in it. cryptsetup copies them into dm-crypt's table (the UUID as
  the name of a key in the keyring, which is not used here), where the words after the space would
  name another device of this host.

cryptsetup runs without locks, because it repairs a damaged copy of a LUKS2 header only with them
(lib/luks2/luks2_disk_metadata.c, LUKS2_disk_hdr_read), and without tokens, which could ask the
keyring or the network (src/cryptsetup.c, action_open_luks). Below it lies a read-only device of
ours: its name is this disk's alone, and programs cannot write through it.

The header also says how much memory and time the key takes (argon2). prlimit and timeout bound
both, even when the lookup is killed.
"""

from __future__ import annotations

import os
import re
import stat
import time
from typing import NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.config import config_files
from auto_iscsi.config.settings import Settings
from auto_iscsi.disks import our_devices, ownership
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import PROGRAMS, Host
from auto_iscsi.volumes import device_mapper, mapping, mountable, overlay
from auto_iscsi.volumes.mountable import LUKS_MEMBER

_MAGIC = b"LUKS\xba\xbe"  # then the version, two bytes, big endian
_HEADER = 208  # bytes: what is read here of a header; LUKS1's strings end before
_UUID = re.compile(r"[0-9A-Za-z-]{1,36}\Z")
_CIPHER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:(),.-]{0,63}\Z")
_LARGEST_KEY = 8 << 20  # bytes (cryptsetup --help: the compiled-in limit of a key file)
_LARGEST_DUMP = 64 << 20  # bytes; a header has 4 MiB at most, indented for people when dumped
_MOST_MEMORY = 4 << 30  # bytes that cryptsetup lets a new key take (lib/utils_pbkdf.c)
_MARGIN = 0.5  # seconds before the end of the lookup at which cryptsetup is ended
_KILL_TIME = 0.5  # seconds that it then gets
_NO_PLUGINS = "--disable-external-tokens"
_IN_TURN = "--serialize-memory-hard-pbkdf"  # not a gigabyte each for several at once
_NO_TOKENS = (_NO_PLUGINS, "--token-type", "none-of-the-header")
_TIMED_OUT = (124, 137, -9)  # exit statuses of timeout(1): it sent SIGTERM, SIGKILL
_WRONG_KEY, _NO_MEMORY = 2, 3  # exit statuses of cryptsetup(8)
_LONGEST_REASON = 300  # bytes of what cryptsetup printed
_NO_CIPHER = "its header names no cipher that exists"


class _Header(NamedTuple):
    """What a LUKS header says that matters here."""

    version: int
    uuid: str
    cipher: str  #: of LUKS1, as dm-crypt gets it; cryptsetup tells that of LUKS2


class _Answer(NamedTuple):
    """The result of a cryptsetup."""

    status: int | None  #: exit status; None: it did not end in time
    output: bytes
    text: str  #: the first line of its messages


def expand(
    host: Host,
    target: str,
    layout: mountable.Mountable,
    settings: Settings,
    until: float,
    act: bool,
) -> mountable.Mountable:
    """Replace each LUKS member in `layout` by what is in it; raise Failure when nothing is left.

    Without `act`, only devices that are there already are used.
    """
    collected = mountable.Collector(target, layout.notes)
    for member in layout.filesystems:
        if member.fstype != LUKS_MEMBER:
            collected.filesystems.append(member)
            continue
        with collected.leave_out_failures(member.offset or f"/{member.device.node}"):
            collected.filesystems.append(_shown(host, target, member, settings, until, act))
    result = collected.result()
    if result is None:
        raise errors.NotMountable(f"{target}: nothing is left: {'; '.join(collected.notes)}")
    return result


def check_key_file(host: Host, name: str) -> None:
    """Raise BadConfiguration when a key file cannot be used. Its content is not read."""
    why = ""
    status = host.stat(name)
    if status is None:
        why = "no such file"
    elif not stat.S_ISREG(status.st_mode):
        why = "not a regular file"
    elif host.root == "/" and (
        problem := config_files.permission_problem(name, status, secret=True)
    ):
        raise config_files.as_failure([problem])
    elif not status.st_size:
        why = "it is empty"
    elif status.st_size > _LARGEST_KEY:
        why = f"cryptsetup takes no key above {_LARGEST_KEY >> 20} MiB"
    if why:
        raise errors.BadConfiguration(f"{name}: {why}", "see luks_key_file")


def _shown(
    host: Host,
    target: str,
    member: mountable.Filesystem,
    settings: Settings,
    until: float,
    act: bool,
) -> mountable.Filesystem:
    """Return what is in a LUKS member, opened if `act`; raise Failure."""
    what = f"{target}: LUKS on {member.device.node}"
    if not ownership.is_ours(host, target, member.device.disk):
        raise errors.NotMountable(
            f"{what} is not opened: somebody else logged its disk in",
            "log its session out, so that a lookup opens one of its own: auto-iscsi status",
        )
    check_key_file(host, settings.luks_key_file)
    below = _source(host, member)
    if act and below.table:
        mapping.make(host, target, below, until)
    number = below.holder_of
    if below.table:
        node = mapping.find(host, below)
        number = host.read(f"/sys/block/{node}/dev") or "" if node else ""
    if not number:
        raise errors.NotMountable(f"{what} is not opened yet{mapping.PENDING}")
    opened = mapping.Mapping(mapping.name(host, number, our_devices.OPENED), (), below.disk, number)
    if act and not _is_open(host, opened):
        try:
            _open(host, target, what, below.name, opened, settings.luks_key_file, until)
        except errors.Failure:
            if below.table:
                overlay.remove(host, target, mapping.find(host, below), until)
            raise
    if node := mapping.find(host, opened) if act else "":
        mapping.wait_for_udev(host, target, node, until)
    return mapping.filesystem(host, what, member.offset, opened, settings)


def _source(host: Host, member: mountable.Filesystem) -> mapping.Mapping:
    """Return the read-only device of ours that cryptsetup is to open.

    If the member is such a device itself, that one is returned, without a table: it is there.
    """
    device = member.device
    if device.folder == device_mapper.FOLDER:
        return mapping.Mapping(device.link, (), device.disk, device.number)
    sectors = int(host.read(f"/sys/dev/block/{device.number}/size") or 0)
    table = (f"0 {sectors} linear {device.number} 0",)
    name = mapping.name(host, device.number, "luks")
    return mapping.Mapping(name, table, device.disk, device.number)


def _is_open(host: Host, opened: mapping.Mapping) -> bool:
    node = mapping.find(host, opened)
    return bool(node) and our_devices.is_finished(host, node)


def _open(
    host: Host,
    target: str,
    what: str,
    source: str,
    opened: mapping.Mapping,
    key_file: str,
    until: float,
) -> None:
    """Open what is on our device `source`, and verify what cryptsetup made; raise Failure."""
    if not any(os.access(host.path(f"{each}/cryptsetup"), os.X_OK) for each in PROGRAMS):
        raise errors.BrokenInstallation(
            f"{what} cannot be opened: cryptsetup is not installed", "install cryptsetup-bin"
        )
    path = f"{device_mapper.FOLDER}/{source}"
    header = _read_header(host, target, what, path, until)
    if not _UUID.match(header.uuid):
        raise errors.NotMountable(f"{what} is not opened: its header has no UUID")
    if header.version == 2:
        _verify_luks2(host, what, path, key_file, until)
    elif not _is_cipher(header.cipher):
        raise errors.NotMountable(f"{what} is not opened: {_NO_CIPHER}")
    for node in our_devices.named(host, opened.name):  # of a cryptsetup that was killed
        overlay.remove(host, target, node, until)
    key = ("--key-file", host.path(key_file), "--tries", "1", *_NO_TOKENS)
    kind = ("--type", f"luks{header.version}", "--readonly", "--disable-keyring", _IN_TURN)
    words = (*kind, *key, path, opened.name)
    answer = _cryptsetup(host, until, "open", *words)
    nodes = our_devices.named(host, opened.name)
    is_other = answer.status not in (0, None, _WRONG_KEY, _NO_MEMORY) and not nodes
    if is_other and device_mapper.remove_without_table(host, until, opened.name):
        answer = _cryptsetup(host, until, "open", *words)
        nodes = our_devices.named(host, opened.name)
    # It is open as well where the cryptsetup of a lookup that was killed was faster than ours.
    if nodes and all(_leads_only_to(host, node, opened.holder_of) for node in nodes):
        return
    for node in nodes:
        overlay.remove(host, target, node, until)
    if nodes and answer.status == 0:
        raise errors.NotMountable(f"{what} is not opened: its header leads to another device")
    raise _failure(what, key_file, answer)


def _leads_only_to(host: Host, node: str, number: str) -> bool:
    """Tell whether our device is finished, and is made of the device MAJOR:MINOR alone."""
    folder = f"/sys/block/{node}/slaves"
    numbers = [host.read(f"{folder}/{name}/dev") for name in host.names(folder)]
    return numbers == [number] and our_devices.is_finished(host, node)


def _read_header(host: Host, target: str, what: str, path: str, until: float) -> _Header:
    """Return what the header at the beginning of a device says; raise NotMountable.

    Source: cryptsetup lib/luks1/luks.h, struct luks_phdr; lib/luks2/luks2.h, struct luks2_hdr_disk.
    """
    data, why = bounded.run(lambda: _read_start(host, path), until, target)
    version = int.from_bytes(data[6:8], "big")
    if why or data[:6] != _MAGIC or version not in (1, 2):
        raise errors.NotMountable(
            f"{what} is not opened: {why or 'its header is damaged, or of an unknown version'}",
            "cryptsetup luksDump describes the header of the original volume",
        )
    name, mode = (_text(data[start : start + 32]) for start in (8, 40))
    return _Header(version, _text(data[168:208]), f"{name}-{mode}")


def _read_start(host: Host, path: str) -> tuple[bytes, str]:
    """Return the beginning of a device, or why it cannot be read."""
    try:
        handle = os.open(host.path(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(handle, _HEADER, 0), ""
        finally:
            os.close(handle)
    except OSError as error:
        return b"", f"it cannot be read: {(error.strerror or '').lower()}"


def _text(field: bytes) -> str:
    """Return the text of a field, which ends with a NUL."""
    return field.partition(b"\0")[0].decode("latin-1")


def _verify_luks2(host: Host, what: str, path: str, key_file: str, until: float) -> None:
    """Raise NotMountable for a LUKS2 header that is not to be opened.

    cryptsetup tells the one of the header's two copies that it uses itself.
    """
    answer = _cryptsetup(
        host, until, "luksDump", "--type", "luks2", "--dump-json-metadata", _NO_PLUGINS, path
    )
    if answer.status != 0:
        raise _failure(what, key_file, answer)
    import json  # a warm lookup does not come here

    try:
        why = why_refused(json.loads(answer.output))
    except (ValueError, RecursionError):
        why = "its header cannot be parsed"
    if why:
        raise errors.NotMountable(f"{what} is not opened: {why}")


def why_refused(metadata: object) -> str:
    """Return why a device with this LUKS2 metadata is not opened, "" for no reason.

    Source: cryptsetup docs/on-disk-format-luks2.pdf, chapter 3.
    """
    config = _member(metadata, "config")
    requirements = _member(_member(config, "requirements"), "mandatory")
    segments = _member(metadata, "segments")
    if requirements:
        names = requirements if isinstance(requirements, list) else []
        if any(str(name).startswith("online-reencrypt") for name in names):
            return "its encryption was being changed (cryptsetup reencrypt)"
        return "its header requires something that auto-iscsi does not know"
    if not isinstance(segments, dict) or len(segments) != 1:
        return "it has more than one segment, or none"
    (segment,) = segments.values()
    kind = _member(segment, "type")
    if isinstance(kind, str) and kind.startswith("hw-opal"):
        return "the drive itself encrypts it (OPAL)"
    if kind != "crypt":
        return "its segment is of an unknown type"
    if _member(segment, "integrity") is not None:
        return "it has an integrity layer (dm-integrity), which could write to it"
    if not all(_is_cipher(each) for each in _encryptions(metadata)):
        return _NO_CIPHER
    return ""


def _member(value: object, name: str) -> object:
    """Return the member `name` of a JSON object, None where there is none."""
    return value.get(name) if isinstance(value, dict) else None


def _encryptions(metadata: object) -> list[object]:
    """Return the ciphers of the data and of each key slot."""
    segments, slots = _member(metadata, "segments"), _member(metadata, "keyslots")
    named: list[object] = []
    if isinstance(segments, dict):
        named += [_member(each, "encryption") for each in segments.values()]
    if isinstance(slots, dict):
        named += [_member(_member(each, "area"), "encryption") for each in slots.values()]
    return named


def _is_cipher(name: object) -> bool:
    return isinstance(name, str) and bool(_CIPHER.match(name))


def _cryptsetup(host: Host, until: float, verb: str, *words: str) -> _Answer:
    """Run cryptsetup with bounds for its memory and time, and without locks."""
    seconds = max(_KILL_TIME, until - time.monotonic() - _MARGIN - _KILL_TIME)
    limits = (f"--data={_memory(host)}", "timeout", f"--kill-after={_KILL_TIME}", f"{seconds:.1f}")
    command = (*limits, "cryptsetup", verb, "--batch-mode", "--disable-locks", *words)
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    messages = os.memfd_create("errors", os.MFD_CLOEXEC)
    try:
        status = host.run("prlimit", *command, out=output, err=messages, until=until, quick=True)
        if status in _TIMED_OUT:
            status = None
        text = os.pread(messages, _LONGEST_REASON, 0).decode("utf-8", "replace").strip()
        return _Answer(status, os.pread(output, _LARGEST_DUMP, 0), text.partition("\n")[0])
    finally:
        os.close(output)
        os.close(messages)


def _memory(host: Host) -> int:
    """Return how many bytes cryptsetup may take: what is free, and no more than a key can need."""
    lines = (host.read("/proc/meminfo") or "").splitlines()
    free = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return min(_MOST_MEMORY, int(free[0]) << 10) if free else _MOST_MEMORY


def _failure(what: str, file: str, answer: _Answer) -> errors.Failure:
    """Return the failure that an answer of cryptsetup's means (its EXIT STATUS)."""
    if answer.status is None:
        return errors.Failure(
            f"{what} is not opened: cryptsetup did not end in time", "raise lookup_timeout"
        )
    if answer.status == _WRONG_KEY:
        return errors.NotMountable(
            f"{what} is not opened: the key in {file} does not fit it",
            "every byte of that file is the key: end a passphrase without a newline (printf %s)",
        )
    if answer.status == _NO_MEMORY:
        return errors.NotMountable(
            f"{what} is not opened: its key takes more memory than this host has free",
            "free some memory, and visit the key again",
        )
    why = wording.printable(answer.text) or f"cryptsetup ended with status {answer.status}"
    return errors.Failure(
        f"{what} cannot be opened: {why}", "dmesg says why; it takes the kernel module dm_crypt"
    )
