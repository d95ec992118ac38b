"""Kill a lookup or a reaper at one of the steps at which it calls dmsetup."""

from __future__ import annotations

from tests.san.bed.machine import Machine

#: A dmsetup that kills the program which started it, before or after it does its work.
_DMSETUP = """#!/bin/sh
grep -q auto-iscsi /proc/$PPID/cmdline || exec /usr/sbin/dmsetup.real "$@" # for udev
echo >>/run/calls
if [ $(wc -l </run/calls) = {call} ]; then
    [ {when} = after ] && /usr/sbin/dmsetup.real "$@"
    kill -KILL $PPID
    exit 1
fi
exec /usr/sbin/dmsetup.real "$@"
"""


def prepare(vm: Machine) -> None:
    """Put the real dmsetup aside."""
    vm.run("mv /usr/sbin/dmsetup /usr/sbin/dmsetup.real && udevadm control --reload")
    disarm(vm)


def arm(vm: Machine, call: int, when: str) -> None:
    """Kill whoever calls dmsetup for the `call`-th time, `when` (before, after) it has worked."""
    vm.run("rm -f /run/calls /usr/sbin/dmsetup")
    vm.write("/usr/sbin/dmsetup", _DMSETUP.format(call=call, when=when), 0o755)


def disarm(vm: Machine) -> None:
    """Kill nobody any more."""
    vm.run("rm -f /run/calls; ln -sf dmsetup.real /usr/sbin/dmsetup")
