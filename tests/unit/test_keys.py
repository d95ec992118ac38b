"""A key is the name of an iSCSI target (RFC 7143, 4.2.7; RFC 3722), and nothing else gets past."""

from __future__ import annotations

import os
import random
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auto_iscsi import errors, keys, wording
from tests.unit.key_examples import GRAMMAR, HOSTILE, NEARLY

VM_BETA = (
    "iqn.2001-05.com.equallogic:0-8a0906-6aea44b04-b190000001d4bcdd-vm-beta"
    "-2010-05-03-04:00:01.50612"
)

TARGETS = [
    VM_BETA,
    "iqn.2001-05.com.example:a_b",
    "iqn.1992-01.com.example",
    "iqn.1992-01.com.example:storage:diskarrays-sn-a8675309",
    "iqn.2001-04.com.example:storage.tape1.sys1.xyz",
    "iqn.2003-01.org.linux-iscsi.host.x8664:sn.0123456789ab",
    "iqn.1992-08.com.netapp:sn.84167939:vs.3",
    "iqn.2001-12.example:-..-:",
    "eui.02004567a425678d",
    "naa.52004567ba64678d",
    "naa.62004567ba64678d0123456789abcdef",
    "iqn.2001-05.com.example:" + "x" * (223 - 24),
]


def log_line(text: str) -> str:
    """Return what a key that is refused brings into the log."""
    with pytest.raises(errors.BadKey) as refused:
        keys.parse(text)
    return wording.one_line(str(refused.value))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_name_is_a_key(name: str) -> None:
    assert keys.parse(name) == keys.Key(name, name)


@pytest.mark.parametrize("name", TARGETS)
def test_capital_and_small_letters_are_the_same(name: str) -> None:
    assert keys.parse(name.upper()) == keys.Key(name.upper(), name)


@pytest.mark.parametrize("text", ["", *HOSTILE, *NEARLY], ids=ascii)
def test_everything_else_is_refused(text: str) -> None:
    line = log_line(text)
    assert "refused" in line
    assert line.isascii() and line.isprintable()


def test_a_refusal_says_what_was_expected() -> None:
    line = log_line("vm-beta")
    assert "'vm-beta'" in line and "iqn.YYYY-MM." in line and "eui." in line and "naa." in line


def test_a_refusal_says_how_long_a_name_may_be() -> None:
    line = log_line("iqn.2001-05.com.example:" + "x" * 200)
    assert "224 characters" in line and "223 at most" in line


def is_target_name(text: str) -> bool:
    """Say what RFC 7143 and RFC 3722 say, in other words than the program's."""
    if len(text) > 223 or any(ord(character) > 0x7E for character in text):
        return False
    kind, dot, rest = text.lower().partition(".")
    if kind in ("eui", "naa"):
        lengths = (16,) if kind == "eui" else (16, 32)
        return len(rest) in lengths and set(rest) <= set(string.hexdigits)
    if kind != "iqn" or not dot or len(rest) < 9:
        return False
    year, dash, month, point = rest[:4], rest[4], rest[5:7], rest[7]
    if not set(year + month) <= set(string.digits) or (dash, point) != ("-", "."):
        return False
    authority, colon, name = rest[8:].partition(":")
    letters = set(string.ascii_lowercase + string.digits + "_")
    return (
        1 <= int(month) <= 12
        and all(
            label and {label[0], label[-1]} <= letters and set(label) <= letters | {"-"}
            for label in authority.split(".")
        )
        and (not colon or (name != "" and set(name) <= letters | set("-.:")))
    )


def generated(dice: random.Random) -> str:
    """Return a key: a target's name, one that was tampered with, or noise."""
    alphabet = string.ascii_letters + string.digits + ".:-"
    odd = "\n\t\r\0\x1b\x7f \"'\\$&*%/_+,;|<>#~\u212aéß\u2028\udcff\U0001f600" + alphabet
    key = dice.choice(TARGETS[:-1])
    dice_roll = dice.random()
    if dice_roll < 0.2:
        labels = ["".join(dice.choices(alphabet[:62], k=dice.randint(1, 9))) for _ in range(3)]
        name = "".join(dice.choices(alphabet, k=dice.randint(1, 60)))
        key = f"iqn.{dice.randint(1980, 2030)}-{dice.randint(0, 13):02}.{'.'.join(labels)}:{name}"
    elif dice_roll < 0.3:
        key = dice.choice(("eui.", "naa.", "NAA.", "iqn.")) + "".join(
            dice.choices(string.hexdigits, k=dice.choice((15, 16, 16, 17, 31, 32, 32, 33)))
        )
    elif dice_roll < 0.4:
        return "".join(dice.choices(odd, k=dice.randint(0, 253)))
    elif dice_roll < 0.5:
        raw = bytes(dice.choices(range(1, 256), k=dice.randint(1, 253)))
        return raw.decode("utf-8", "surrogateescape")
    for _ in range(dice.choice((0, 1, 1, 2, 5))):
        at = dice.randrange(len(key) + 1)
        with_this = dice.choice(("", dice.choice(odd), dice.choice(alphabet)))
        key = key[:at] + with_this + key[at + dice.randint(0, 1) :]
    return key * 2 if dice.random() < 0.02 else key


def test_of_100000_keys_only_target_names_get_past_and_each_refusal_is_one_clean_line() -> None:
    dice = random.Random(7143)
    past = refused = 0
    for _ in range(100_000):
        text = generated(dice)
        try:
            key = keys.parse(text)
        except errors.BadKey as failure:
            refused += 1
            assert not is_target_name(text), f"refused, but a target's name: {text!a}"
            line = wording.one_line(str(failure))
            assert line.isascii() and line.isprintable() and 0 < len(line) < 512, repr(line)
        else:
            past += 1
            assert is_target_name(text), f"got past: {text!a}"
            assert key.target == text.lower() and "/" not in key.target
    # Otherwise the generator had become lopsided, and this would hold next to nothing.
    assert past > 20_000 and refused > 50_000


@st.composite
def _marred(draw: st.DrawFn) -> str:
    """Return a target's name in which a few characters are others, missing or one too many."""
    name: str = draw(st.from_regex(GRAMMAR, fullmatch=True))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(name)))
        some = draw(st.text("iqneua01-.:_ \n", max_size=2))
        name = name[:at] + some + name[at + draw(st.integers(0, 2)) :]
    return name


def _from_bytes(raw: bytes) -> str:
    """Return a key as Python gets it from automount's argument."""
    return raw.decode("utf-8", "surrogateescape")


#: What a user can type of a name: bytes in any encoding (the kernel's names have at most 255, with
#: neither slash nor NUL), addresses in the place of names, and names that are too long.
_ODD = st.one_of(
    st.binary(max_size=300).map(_from_bytes),
    st.text(max_size=300),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]:3260"),
    st.from_regex(GRAMMAR, fullmatch=True).map(lambda name: name * 9),
    st.integers(190, 4096).map(lambda length: "x" * length),
)


@st.composite
def _foreign(draw: st.DrawFn) -> str:
    """Return a target's name with something else in it, in front of it or behind it."""
    name: str = draw(st.one_of(st.from_regex(GRAMMAR, fullmatch=True), st.sampled_from(TARGETS)))
    at = draw(st.one_of(st.integers(0, len(name)), st.just(len(name))))
    odd: str = draw(_ODD)
    change = draw(st.sampled_from((str, str.upper, str.lower)))
    return str(change(name[:at] + odd + name[at:]))


@given(st.one_of(_ODD, _foreign()))
@example("iqn.2001-05.com.example:fe80::1")
@example("iqn.2001-05.com.example:[fe80::1]:3260")
@example("iqn.2001-05.com.example:fe80::1%eth0")
@example("iqn.2001-05.com.example:vm-caf\udce9")
@example(_from_bytes("iqn.2001-05.com.example:vm-café".encode("latin-1")))
@example(_from_bytes(b"\xff" * 255))
@example("iqn.2001-05.com.example:\ud800")  # no byte is decoded so, yet it is no key either
@example("iqn.2001-05.com.example:" + "x" * (223 - 24))
@example("iqn.2001-05.com.example:" + "x" * (224 - 24))
@example("eui." + "0" * 4096)
def test_any_bytes_are_a_target_name_or_refused(text: str) -> None:
    try:
        key = keys.parse(text)
    except errors.BadKey as failure:
        assert not is_target_name(text)
        line = wording.one_line(str(failure))
        assert line.isascii() and line.isprintable() and 0 < len(line) < 512
        return
    assert is_target_name(text)
    # It is the same target as a key, as a folded name, and as a name of a file or an argument.
    assert key == keys.Key(text, keys.fold(text)) and keys.parse(key.text) == key
    assert keys.parse(key.target) == keys.Key(key.target, key.target)
    assert os.fsdecode(os.fsencode(key.target)) == key.target
    assert len(os.fsencode(key.text)) <= keys.LONGEST and "/" not in key.text


def test_an_address_in_a_name_is_part_of_the_name_unless_it_has_brackets() -> None:
    assert keys.parse("iqn.2001-05.com.example:fe80::1").target.endswith(":fe80::1")
    for odd in ("[fe80::1]:3260", "fe80::1%eth0", "fe80::1,3260"):
        with pytest.raises(errors.BadKey):
            keys.parse(f"iqn.2001-05.com.example:{odd}")


@given(_marred())
@example("")
@example("iqn")
@example("eui.")
@example("iqn.2001-05.com:")
@example("iqn.2001-05.a:b\n")
def test_what_gets_past_is_the_grammar(text: str) -> None:
    def gets_past() -> bool:
        try:
            return keys.parse(text).target == text
        except errors.BadKey:
            return False

    assert gets_past() == (len(text) <= keys.LONGEST and bool(GRAMMAR.fullmatch(text)))
