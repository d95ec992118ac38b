"""Kill a lookup where it calls dmsetup."""

from __future__ import annotations

from tests.san.bed.machine import Machine

#: A dmsetup that kills the program which started it, before or after it does its work, or (bare)
#: as if it were killed itself, between the making of a device and the loading of its table, or
#: (unsettled) while it waits for udev, which then does nothing until udevadm lets it.
_DMSETUP = """#!/bin/sh
grep -q auto-iscsi /proc/$PPID/cmdline || exec /usr/sbin/dmsetup.real "$@" # for udev
echo >>/run/calls
if [ $(wc -l </run/calls) = {call} ]; then
    [ {when} = after ] && /usr/sbin/dmsetup.real "$@"
    if [ {when} = bare ] && [ "$1" = create ]; then
        name=$2
        [ "$2" = --concise ] && name=${{3%%,*}}
        /usr/sbin/dmsetup.real create $name --uuid AUTOISCSI-$name --notable
    fi
    if [ {when} = unsettled ]; then
        udevadm control --stop-exec-queue
        /usr/sbin/dmsetup.real "$@" &
        sleep 2
    fi
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
    """Kill who calls dmsetup for the `call`-th time (before, after, bare, unsettled: see above)."""
    vm.run("rm -f /run/calls /usr/sbin/dmsetup")
    vm.write("/usr/sbin/dmsetup", _DMSETUP.format(call=call, when=when), 0o755)


def disarm(vm: Machine) -> None:
    """Kill nobody any more."""
    vm.run("rm -f /run/calls; ln -sf dmsetup.real /usr/sbin/dmsetup")
