"""From a key VOLUME@SNAPSHOT to a map entry: have the snapshot presented first, if need be.

Such a key selects one of the snapshots that the SANs' drivers list. What a user typed reaches no
driver, and whoever may not present is refused before a driver is asked. A snapshot that is logged
in is used as it is, by everybody, and no driver is asked.

lookup_timeout holds for driver and login together: the login has what the driver has left of it. A
driver that does not answer by then is ended, and the reaper revokes what it may have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from auto_iscsi import errors, keys, portals
from auto_iscsi.config import san_files, settings_cache
from auto_iscsi.config.san_files import San
from auto_iscsi.config.settings import Settings
from auto_iscsi.drivers import protocol
from auto_iscsi.iscsi import audit, discovery, rate_limit, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.map import lookup as target_lookup
from auto_iscsi.map.request import Place, limit
from auto_iscsi.san import calls, leases, listings, presenting
from auto_iscsi.san.leases import Lease

_ENDING = 3.0  # seconds at the end of a lookup, in which a driver is ended that did not answer


def lookup(host: Host, text: str, log: Callable[[str], object] = str) -> str:
    """Return the map entry for the key VOLUME@SNAPSHOT; raise Failure. `log`: see map/lookup."""
    names = listings.split_key(text)
    if names is None:
        raise errors.BadKey(
            f"key {keys.shown(text)} refused: not VOLUME@SNAPSHOT", "auto-iscsi list shows the keys"
        )
    began = time.monotonic()
    lease = _find_logged_in(host, text)
    if lease is None:
        # No target has this name: these settings hold until the target's is known.
        settings = settings_cache.find(host, keys.fold(text)).settings
        if not settings.enabled:  # what is presented is refused too late
            raise errors.Disabled(
                f"{text}: enabled = no", "see the sections of /etc/auto.iscsi.conf that match it"
            )
        with limit(settings.lookup_timeout, text) as until:
            lease = _present(host, *names, until - _ENDING)
    return target_lookup.lookup(host, text, log, _place(host, lease), began)


def _place(host: Host, lease: Lease) -> Place:
    """Return where the snapshot of a lease is presented."""
    assert lease.target

    def begin(settings: Settings, until: float) -> None:
        if lease.state != leases.LOGGED_IN:  # what the portals offered before is out of date
            for portal in settings.portals:
                rate_limit.forget_offer(host, discovery.offer_name(portal, settings))
        presenting.begin_login(host, lease, until)

    named = tuple(portals.parse(text) for text in lease.target.portals)
    return Place(keys.Key(lease.key, lease.target.iqn), named, lease.target.lun, begin)


def _find_logged_in(host: Host, key: str) -> Lease | None:
    """Return the lease of a snapshot that has a session."""
    for lease in leases.list_all(host)[0]:
        is_begun = lease.key == key and lease.state == leases.LOGGED_IN
        if is_begun and lease.target:
            known = sessions.find_all(host, lease.target.iqn)
            if any(session.up for session in known):
                return lease
    return None


def _present(host: Host, volume: str, name: str, until: float) -> Lease:
    """Have a snapshot presented that one SAN lists; return its lease. Raise Failure."""
    asker = presenting.Asker(*audit.find_asker(host))
    sans = _list_allowed(host, volume, asker)
    failures = listings.ask_each(host, sans, until)
    candidates = [
        (san, snapshot)
        for san in sans
        if (snapshot := _find(calls.remembered(host, san), volume, name))
    ]
    if not candidates:
        raise next(iter(failures.values()), None) or _not_found(f"{volume}@{name}")
    if len(candidates) > 1:
        names = " and ".join(san.name for san, _ in candidates)
        raise errors.Ambiguous(
            f"{volume}@{name}: {names} have such a snapshot",
            f"leave {volume} out of volumes in the file of one of them: {san_files.FOLDER}",
        )
    san, snapshot = candidates[0]
    if san.name in failures:
        raise failures[san.name]
    until = min(until, time.monotonic() + 3 * san.timeout)
    if snapshot.presented:  # by whom is decided by a list of now
        listed = calls.list_snapshots(host, san, until, volume=snapshot.volume).snapshots
        snapshot = _find(listed, volume, name) or snapshot
    return presenting.present(host, san, snapshot, asker, until)


def _list_allowed(host: Host, volume: str, asker: presenting.Asker) -> list[San]:
    """Return the SANs that may have a volume, and where this user may present; raise Failure."""
    refusals: list[errors.Failure] = []
    wrong_files: list[errors.Failure] = []
    allowed, is_known = [], False
    for san_name in san_files.list_names(host):
        try:
            san = san_files.find(host, san_name)
        except errors.BadConfiguration as failure:  # another SAN can have the volume
            wrong_files.append(failure)
            continue
        if not san.has_volume(volume):
            continue
        is_known = True
        try:
            presenting.require_allowed(san, asker)
            allowed.append(san)
        except errors.NotAllowed as refusal:
            refusals.append(refusal)
    if not allowed and (failures := refusals + wrong_files):
        raise failures[0]
    if not is_known:
        raise _not_found(volume)
    return allowed


def _find(
    snapshots: tuple[protocol.Snapshot, ...], volume: str, name: str
) -> protocol.Snapshot | None:
    for snapshot in snapshots:
        if (snapshot.volume, snapshot.snapshot) == (volume, name):
            return snapshot
    return None


def _not_found(name: str) -> errors.NoSnapshot:
    return errors.NoSnapshot(
        f"no SAN has {name}, or its file does not name it in volumes",
        "auto-iscsi list shows the keys",
    )
