"""A portal (address, port, portal group), and the four ways in which it is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi import portals
from auto_iscsi.portals import Portal

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
PORTALS = st.builds(Portal, ADDRESSES, st.integers(1, 65535), st.integers(-1, 65535))
TARGET = "iqn.2001-05.com.example:a"


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("10.0.0.1", Portal("10.0.0.1", 3260, -1)),
        ("10.0.0.1:860", Portal("10.0.0.1", 860, -1)),
        ("10.0.0.1:3260,1", Portal("10.0.0.1", 3260, 1)),
        ("10.0.0.1:3260,-1", Portal("10.0.0.1", 3260, -1)),
        ("10.0.0.1,2", Portal("10.0.0.1", 3260, 2)),
        (" 10.0.0.1 ", Portal("10.0.0.1", 3260, -1)),
        ("[fd00::1]", Portal("fd00::1", 3260, -1)),
        ("[fd00::1]:860", Portal("fd00::1", 860, -1)),
        ("[fd00::1]:3260,1", Portal("fd00::1", 3260, 1)),
        ("[::ffff:10.0.0.1]:3260", Portal("::ffff:10.0.0.1", 3260, -1)),
    ],
)
def test_the_configuration_and_iscsiadm_write_a_portal_like_this(text: str, portal: Portal) -> None:
    assert portals.parse(text) == portal


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "numeric address"),
        ("san.example.com", "numeric address"),
        ("san.example.com:3260", "numeric address"),
        ("10.0.0", "numeric address"),
        ("10.0.0.256", "numeric address"),
        ("10.0.0.1 10.0.0.2", "numeric address"),
        ("10.0.0.1;reboot", "numeric address"),
        ("-T", "numeric address"),
        ("10.0.0.1\x00", "."),
        ("\udcff", "."),
        ("[10.0.0.1]:3260", "numeric address"),
        ("[fe80::1%eth0]", "numeric address"),
        ("[]:3260", "numeric address"),
        ("fd00::1", "brackets"),
        ("fd00::1:3260", "brackets"),
        ("[fd00::1", "IPV6-ADDRESS"),
        ("[fd00::1]3260", "IPV6-ADDRESS"),
        ("[fd00::1]:", "IPV6-ADDRESS"),
        ("10.0.0.1:", "no port"),
        ("10.0.0.1:0", "1 to 65535"),
        ("10.0.0.1:65536", "1 to 65535"),
        ("10.0.0.1:-1", "1 to 65535"),
        ("10.0.0.1:+1", "1 to 65535"),
        ("10.0.0.1:iscsi", "1 to 65535"),
        ("10.0.0.1:٣٢٦٠", "1 to 65535"),
        ("[fd00::1]:x", "1 to 65535"),
        ("10.0.0.1:3260,one", "portal group"),
        ("10.0.0.1:3260,-2", "portal group"),
    ],
    ids=ascii,
)
def test_anything_else_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        portals.parse(text)


@given(st.text())
def test_any_text_is_either_a_portal_or_refused(text: str) -> None:
    try:
        portal = portals.parse(text)
    except ValueError:
        return
    assert ipaddress.ip_address(portal.address) and 0 < portal.port < 65536


@given(PORTALS)
def test_a_portal_is_read_as_it_is_written(portal: Portal) -> None:
    assert portals.parse(portal.with_group) == portal
    assert portals.parse(str(portal)) == portal._replace(tpgt=-1)


def test_iscsiadm_is_given_the_portal_group_where_it_is_known() -> None:
    assert Portal("10.0.0.1", 3260, 7).with_group == "10.0.0.1:3260,7"
    assert Portal("fd00::1", 3260, 7).with_group == "[fd00::1]:3260,7"
    assert Portal("fd00::1", 3260).with_group == "[fd00::1]:3260"


def test_portals_that_differ_only_in_the_group_have_the_same_address() -> None:
    portal = Portal("10.0.0.1", 3260, 1)
    assert portal.has_same_address(Portal("10.0.0.1", 3260, -1))
    assert not portal.has_same_address(Portal("10.0.0.1", 3261, 1))
    assert not portal.has_same_address(Portal("10.0.0.2", 3260, 1))


@pytest.mark.parametrize(
    ("folder", "portal"),
    [
        ("10.0.0.1,3260,1", Portal("10.0.0.1", 3260, 1)),
        ("fd00::1,3260,1", Portal("fd00::1", 3260, 1)),
        ("10.0.0.1,3260,-1", Portal("10.0.0.1", 3260, -1)),
        ("san.example.com,3260,1", Portal("san.example.com", 3260, 1)),
        ("default", None),
        ("10.0.0.1", None),
        ("10.0.0.1,3260", Portal("10.0.0.1", 3260, -1)),
        ("10.0.0.1,iscsi,1", None),
        ("10.0.0.1,3260,one", None),
        ("10.0.0.1,3260,", None),
        ("10.0.0.1,3260,--1", None),
        ("10.0.0.1,3260,-", None),
        (".10.0.0.1,3260,1.swp", None),
        ("", None),
    ],
)
def test_a_node_records_folder_names_its_portal(folder: str, portal: Portal | None) -> None:
    assert portals.from_record(folder) == portal


@given(st.text())
def test_any_name_of_a_folder_can_be_read(folder: str) -> None:
    portals.from_record(folder)


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        (f"10.0.0.1:3260,1 {TARGET}", (TARGET, Portal("10.0.0.1", 3260, 1))),
        (f"10.0.0.1:3260,-1 {TARGET}\n", (TARGET, Portal("10.0.0.1", 3260, -1))),
        (f"[fd00::1]:3260,2 {TARGET}", (TARGET, Portal("fd00::1", 3260, 2))),
        ("iscsiadm: No portals found", None),
        ("iscsiadm: connect to 10.0.0.1 timed out", None),
        (f"Portal: 10.0.0.1:3260,1 {TARGET}", None),
        (TARGET, None),
        (f" {TARGET}", None),
        ("", None),
    ],
)
def test_a_discovery_prints_a_portal_and_a_target(
    line: str, pair: tuple[str, Portal] | None
) -> None:
    assert portals.from_send_targets(line) == pair


@given(st.text())
def test_any_line_of_a_discovery_can_be_read(line: str) -> None:
    portals.from_send_targets(line)
