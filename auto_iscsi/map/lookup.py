"""From a key to a map entry: the flow that everything else serves.

key → target → settings → session (or login) → disk (or wait) → entry. The warm path, session and
disk are there, reads a few files and starts no process.
"""

from __future__ import annotations

import os
import time

from auto_iscsi import errors, keys
from auto_iscsi.config import settings_cache
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager, signal, suppress
from auto_iscsi.machine import mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.map import entry
from auto_iscsi.map import layout as layouts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    from auto_iscsi.config.settings import Settings
    from auto_iscsi.volumes import mountable

_MOUNTING = 3.0  # seconds from our answer to the mount
_STEP = 0.02  # seconds between two looks at the mounts


def lookup(host: Host, text: str, say: Callable[[str], object] = str) -> str:
    """Return the map entry for the key `text`; raise Failure. Logs in when need be.

    What the log should have beside the entry is told to `say`, in one line, at most once.
    """
    key = keys.parse(text)
    found = settings_cache.find(host, key.target)
    settings = found.settings
    if not settings.enabled:
        raise errors.Disabled(f"{key.target}: enabled = no in /etc/auto.iscsi.conf")
    limit = _at_most(settings.lookup_timeout, key.target)
    with limit as until, claims.hold(host, key.target, until):
        this = _Lookup(host, key, settings, until, claims.read(host, key.target))
        again = this.mounted_meanwhile()
        layout = this.ready() or this.outlived() or this.bring_up()
        settings_cache.keep(host, key.target, found)
        text_of_entry = entry.format_entry(layout, settings, again)
        if layout.notes:
            say(f"{key.target}: {'; '.join(layout.notes)}")
        return text_of_entry


class _Lookup(NamedTuple):
    """One lookup of one target, which the caller holds."""

    host: Host
    key: keys.Key
    settings: Settings
    until: float  #: time.monotonic()
    claim: claims.Claim  #: as this lookup found it

    def ready(self) -> mountable.Mountable | None:
        """Return the layout when a session that is up has it; None: there is work to do."""
        layout, known = self._present()
        if layout and claims.is_held(self.host, f"iscsiadm/{self.key.target}"):
            # A logout, whose reaper was killed: what it does not hold any more goes all the same.
            from auto_iscsi.iscsi import iscsiadm  # starts programs: not on the warm path

            if not iscsiadm.wait_until_idle(self.host, self.key.target, self.until):
                raise iscsiadm.still_running(self.key.target)
            layout, known = self._present()
        return self._wanted(layout, [session for session in known if session.up], self.claim)

    def _present(self) -> tuple[mountable.Mountable | None, list[sessions.Session]]:
        try:
            return layouts.find_present(self.host, self.key.target, self.settings, self.claim)
        except errors.Failure:  # by what the kernel remembers of a disk, and it can be another
            up = [s for s in sessions.find_all(self.host, self.key.target) if s.up]
            if not layouts.forget_swapped(self.host, self.key.target, up, self.settings):
                raise
            return None, []

    def mounted_meanwhile(self) -> bool:
        """Say whether automount has mounted the key on the word of a run just before this one.

        When the last one who waits for a key is interrupted and somebody asks again, automount
        asks us again too, beside the mount that is under way, and mounts once more: EBUSY, and
        ENOENT for the user, unless that says remount. So a mount that is to be expected is waited
        for. An answer that was used up is not asked for again within autofs's memory.
        """
        age = claims.age(self.claim)
        here = self._mount_point(mounts.list_all(self.host)) if age < _MOUNTING else ""
        until = self._within(_MOUNTING - age)
        while here:
            present = mounts.list_all(self.host)
            if any(mount.point == here and mount.fstype != "autofs" for mount in present):
                return True
            if time.monotonic() >= until:
                break
            time.sleep(_STEP)
        return False

    def outlived(self) -> mountable.Mountable | None:
        """Return the layout of a mount that outlived its session.

        A restarted automount asks for every key that is still mounted, waits for the answer, and
        never expires a mount whose lookup failed (seen with autofs 5.1.8 and 5.1.9). What we say
        is not used as long as it is mounted.
        """
        mounted = mounts.list_all(self.host)
        known = sessions.find_all(self.host, self.key.target)
        layout = layouts.still_mounted(self.host, known, mounted, self.settings)
        if layout:
            return layout
        here = self._mount_point(mounted)
        for mount in mounted:
            if mount.point == here and mount.fstype != "autofs":
                device = scsi_disks.Device(os.path.basename(mount.source), "", mount.number)
                return layouts.mountable_of_mount(device, mount, self.settings)
        return None

    def bring_up(self) -> mountable.Mountable:
        """Log in if need be, and wait for the disk; return the layout or raise Failure."""
        from auto_iscsi.iscsi import iscsiadm
        from auto_iscsi.iscsi import login as logins
        from auto_iscsi.machine import udev_events  # what a warm lookup does not need

        source = "kernel" if self.settings.device == "kernel" else "udev"
        with udev_events.listen(source) as events:
            notes: list[str] = []
            up = [s for s in sessions.find_all(self.host, self.key.target) if s.up]
            if up:
                limit = iscsiadm.Limit(self.settings.login_timeout, self.until)
                self._conclude(self.claim, limit.end)
                iscsiadm.rescan(self.host, self.key.target, up[0], limit)
            else:
                target = self.key.target
                job = logins.Login(self.host, target, self.settings, self.until, events)
                up, why = job.open()
                if self.settings.paths == "all":
                    from auto_iscsi.map import paths

                    notes = paths.wait_for_map(
                        self.host, target, up, self.settings, self.until, events, why
                    )
            within = self._within(self.settings.udev_timeout)
            found = events.wait_for(
                lambda: self._layout(up),
                within,
                lambda: layouts.has_link(self.host, up, self.settings),
            ) or self._no_disk(up)
            return found._replace(notes=(*found.notes, *notes))

    def _mount_point(self, present: list[mounts.Mount]) -> str:
        """Return where automount mounts the key; "" when it was not automount that ran us."""
        root = ""
        with suppress(OSError):
            root = os.getcwd()
        is_autofs = any(mount.point == root and mount.fstype == "autofs" for mount in present)
        return os.path.join(root, self.key.text) if is_autofs else ""

    def _within(self, seconds: float) -> float:
        return min(self.until, time.monotonic() + seconds)

    def _layout(self, known: list[sessions.Session]) -> mountable.Mountable | None:
        up = [session for session in known if session.up]
        layouts.set_read_only(self.host, self.key.target, up, self.settings, self.until)
        return self._wanted(layouts.find_mountable(self.host, up, self.settings), up)

    def _wanted(
        self,
        layout: mountable.Mountable | None,
        up: list[sessions.Session],
        claim: claims.Claim | None = None,
    ) -> mountable.Mountable | None:
        """Renew the lease when there is something to be mounted, and it is what it was.

        `claim`: what it still is, if that is known.
        """
        if layout:
            layout = layouts.verify(self.host, self.key.target, layout, self.settings, self.until)
        if layout:
            claim = claims.renew_lease(self.host, self.key.target, up, claim)
            self._conclude(claim, 0.0)
        return layout

    def _conclude(self, claim: claims.Claim, until: float) -> None:
        """Settle whose session it is, if a lookup was killed between asking for it and seeing it.

        Before another iscsiadm is started, which overwrites the last one's word.
        """
        if claim.asked:
            from auto_iscsi.iscsi import unseen_logins

            unseen_logins.settle(
                self.host, self.key.target, until, self.settings.replacement_timeout
            )

    def _no_disk(self, up: list[sessions.Session]) -> mountable.Mountable:
        seconds = f"after {self.settings.udev_timeout:.0f} s"
        there = [disk for session in up for disk in scsi_disks.list_all(self.host, session)]
        for disk in there:
            if scsi_disks.is_selected(disk, self.settings):
                from auto_iscsi.disks import multipath

                held = multipath.map_of(self.host, disk.path)
                if scsi_disks.is_left_to_multipathd(self.host, disk) and not held:
                    raise errors.NoDisk(
                        f"{self.key.target}: udev leaves {disk.name} to multipathd, which has no "
                        f"map of it {seconds}",
                        "see multipath -ll, or blacklist it there",
                    )
                part = self.settings.partition
                link = f"{disk.link}-part{part}" if part and isinstance(part, int) else disk.link
                raise errors.NoDisk(
                    f"{self.key.target}: no link {scsi_disks.BY_PATH}/{link} {seconds}",
                    "udevadm settle; raise udev_timeout if udev is only slow",
                )
        luns = ", ".join(sorted({str(disk.unit) for disk in there})) or "none"
        raise errors.NoDisk(
            f"{self.key.target}: no LUN {self.settings.lun} through {up[0].portal} {seconds}, "
            f"LUNs there: {luns}",
            "map the LUN at the SAN, or set lun in /etc/auto.iscsi.conf",
        )


@contextmanager
def _at_most(seconds: float, target: str) -> Iterator[float]:
    """Bound what is done within: by its own waits, and in the end by SIGALRM."""

    def over(*_: Any) -> None:
        raise errors.TimedOut(f"{target}: not ready after {seconds:.0f} s", "see lookup_timeout")

    before = signal.signal(signal.SIGALRM, over)
    # Again each second: what is raised within a hook or a callback (os.register_at_fork, when sh
    # forks) is lost, with a word on stderr.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield time.monotonic() + seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
