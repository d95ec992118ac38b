"""The grammar of a target's name, and keys that are no target's name.

Each of these keys is refused by the map, whether a test parses it, looks it up or types it below
the mount point.
"""

from __future__ import annotations

import re

#: RFC 7143, 4.2.7, folded; a naming authority is a domain name, turned round.
GRAMMAR = re.compile(
    r"iqn\.[0-9]{4}-(?:0[1-9]|1[0-2])(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)+(?::[a-z0-9_.:-]+)?"
    r"|eui\.[0-9a-f]{16}"
    r"|naa\.(?:[0-9a-f]{16}|[0-9a-f]{32})"
)

#: What any local user can type below the mount point.
HOSTILE = [
    "-rf",
    "--help",
    "--version",
    "--root",
    "--",
    "-",
    ".hidden",
    "...",
    " ",
    "a b",
    "\t",
    "\n",
    "a\nb",
    "*",
    "&",
    "$(id)",
    "`id`",
    "$HOME",
    '"',
    "'",
    "\\",
    "\\x",
    "%s%n",
    "%s%s%s%n",
    "\x1b[2J",
    "\x07",
    "\x7f",
    "\x80",
    "\udcff\udcfe",
    "\udce9t\udce9",
    "é",
    "autorun.inf",
    ".Trash-1000",
    ".git",
    ".directory",
    "desktop.ini",
    "foo",
    "iqn",
    "iqn.",
    "iqn.*",
    "eui.",
    "naa.",
    "x" * 253,
    "#",
    "# iqn.2001-05.com.example:a",
    ";",
    "|",
    "<",
    ">",
    "lost+found",
    "~",
    "~root",
    "=",
    "-T",
]

#: Almost a target's name: one thing is wrong with each.
NEARLY = [
    "iqn.2001-05",
    "iqn.2001-05.",
    "iqn.2001-05.:a",
    "iqn.2001-00.com.example:a",
    "iqn.2001-13.com.example:a",
    "iqn.201-05.com.example:a",
    "iqn.2001-5.com.example:a",
    "iqn.2001.05.com.example:a",
    "iqn.2001-05.com..example:a",
    "iqn.2001-05.-com.example:a",
    "iqn.2001-05.com-.example:a",
    "iqn.2001-05.com.example:",
    "iqn.2001-05.com.example:a+b",
    "iqn.2001-05.com.example:a b",
    "iqn.2001-05.com.example:a/b",
    "iqn.2001-05.com.example:a\n",
    "\niqn.2001-05.com.example:a",
    " iqn.2001-05.com.example:a",
    "iqn.2001-05.com.example:a ",
    "iqn.2001-05.com.example:a\x00",
    "iqn.2001-05.com.example:*",
    "iqn.2001-05.com.example:$(id)",
    "iqn.2001-05.com.example:\udcff",
    "iqn.2001-05.com.e\u212aample:a",  # the Kelvin sign, which lower() makes a k
    "iqn.٢٠٠١-05.com.example:a",  # decimal digits, but not ASCII
    "iqn.2001-05.com.example:" + "x" * (224 - 24),
    "eui.02004567a425678",
    "eui.02004567a425678dd",
    "eui.02004567a425678g",
    "naa.52004567ba64678",
    "naa.52004567ba64678d0",
    "naa.52004567ba64678d0123456789abcdefg",
    "iqn.2001-05.com.example:a,iqn.2001-05.com.example:b",
    "fc.52004567ba64678d",
]
