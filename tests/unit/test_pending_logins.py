"""What the output of an iscsiadm says about a session that exists now."""

from __future__ import annotations

import pytest

from auto_iscsi.iscsi import pending_logins

STARTED = "Logging in to [iface: default, target: iqn.2001-05.com.example:vm, portal: 10.0.0.1]\n"
SUCCEEDED = STARTED + "Login to [iface: default, target: …, portal: 10.0.0.1] successful.\n"
EXISTED = STARTED + "iscsiadm: initiator reported error (15 - session exists)\n"


@pytest.mark.parametrize(
    ("output", "age", "is_ours"),
    [
        (SUCCEEDED, 20, True),  # the first look at it can come later than the login
        (SUCCEEDED, 40, False),
        (STARTED, 0.5, True),  # iscsiadm was about to report success
        (STARTED, 2, False),
        (STARTED.replace(":vm", ":successful"), 2, False),  # somebody else's, a moment later
        (EXISTED, 0, False),
        (SUCCEEDED + "already present\n", 0, False),
        ("", 0, False),  # an iscsiadm that made a record
    ],
)
def test_whether_a_session_is_ours(output: str, age: float, is_ours: bool) -> None:
    written = 1000.0
    newest = pending_logins.newest_of_ours(output.encode(), written)
    assert (written + age <= newest) == is_ours
