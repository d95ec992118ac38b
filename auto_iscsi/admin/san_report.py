"""Work at the SANs for the administrator, and test drivers: auto-iscsi san ACTION."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from auto_iscsi import errors, wording
from auto_iscsi.admin import output
from auto_iscsi.config import config_files, san_files
from auto_iscsi.config.san_files import San
from auto_iscsi.drivers import protocol
from auto_iscsi.iscsi import audit
from auto_iscsi.machine.host import Host
from auto_iscsi.san import calls, conformance, leases, presenting
from auto_iscsi.san.leases import Damaged, Lease

_PAINTS = {conformance.OK: "ok", conformance.FAILED: "error", conformance.SKIPPED: "dim"}


def list_snapshots(host: Host, name: str, paint: output.Paint) -> output.Report:
    """Return the snapshots of one SAN or of all; status 1 if one could not be asked, or not all."""
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, Any]] = []
    problems: list[str] = []
    known, _ = leases.list_all(host)
    names = [name] if name else san_files.list_names(host)
    for each in names:
        try:
            san = san_files.find(host, each)
            listing = calls.list_snapshots(host, san, time.monotonic() + san.timeout)
        except errors.Failure as failure:
            problems.append(str(failure))
            continue
        if not listing.complete:
            problems.append(f"{each}: the list is not complete")
        if listing.left_out:
            left_out = wording.counted(listing.left_out, "snapshot")
            why = "their names have other characters, or two of a volume have the same"
            problems.append(f"{each}: {left_out} left out: {why}")
        if not san.volumes:
            problems.append(f"{each}: no volume may be seen: set volumes in {san.file}")
        ours = {lease.id for lease in known if lease.san == each}
        for snapshot in sorted(listing.snapshots, key=_order):
            is_ours = snapshot.id in ours
            rows.append(_row(each, snapshot, is_ours))
            data.append({"san": each, **snapshot._asdict(), "ours": is_ours})
    if not names:
        problems.append(f"no SAN is configured: there is no file in {san_files.FOLDER}")
    header = ("SAN", "VOLUME", "SNAPSHOT", "TIME", "SIZE", "STATE")
    lines = output.table(header, rows, paint) if rows else []
    lines += [paint.warning(wording.printable(problem)) for problem in problems]
    report = {"snapshots": data, "problems": problems}
    return output.Report(1 if problems else 0, lines or ["no snapshots"], report)


def _order(snapshot: protocol.Snapshot) -> tuple[str, float, str]:
    return snapshot.volume, -(snapshot.created or 0.0), snapshot.snapshot


def _row(san: str, snapshot: protocol.Snapshot, is_ours: bool) -> tuple[str, ...]:
    state = snapshot.state
    if snapshot.presented:
        state = "presented" if is_ours else "presented by others"
    return (
        san,
        snapshot.volume,
        snapshot.snapshot,
        _time(snapshot.created) if snapshot.created is not None else "-",
        wording.size(snapshot.size) if snapshot.size else "-",
        state,
    )


def present(host: Host, name: str, subject: str, paint: output.Paint) -> output.Report:
    """Have a snapshot presented, for the administrator; return where it is."""
    _require_root(host)
    san = san_files.find(host, name)
    asker = _asker(host)
    presenting.require_allowed(san, asker)
    snapshot = _find(host, san, subject)
    until = time.monotonic() + 3 * san.timeout  # for waiting, present, and revoke if that fails
    lease = presenting.present(host, san, snapshot, asker, until)
    assert lease.target
    portals = ", ".join(lease.target.portals)
    lines = [
        f"{wording.printable(lease.name)}: {paint.ok('presented')}",
        f"  target {lease.target.iqn}, LUN {lease.target.lun}, {portals}",
    ]
    return output.Report(0, lines, _lease_data(host, lease))


def revoke(host: Host, name: str, subject: str, paint: output.Paint) -> output.Report:
    """Have a snapshot revoked that this host had presented."""
    _require_root(host)
    san = san_files.find(host, name)
    volume, _, snapshot = subject.partition("@")
    mine = [lease for lease in leases.list_all(host)[0] if lease.san == san.name]
    matching = [
        lease
        for lease in mine
        if subject == lease.lease or (lease.volume, lease.snapshot) == (volume, snapshot)
    ]
    if not matching:
        raise errors.NoSnapshot(
            f"{san.name}: this host has not had {subject} presented",
            "auto-iscsi san journal lists what it has",
        )
    presenting.revoke(host, san, matching[0], time.monotonic() + 2 * san.timeout)
    line = f"{wording.printable(matching[0].name)}: {paint.ok('revoked')}"
    return output.Report(0, [line], {"lease": matching[0].lease, "revoked": True})


def finish(host: Host) -> list[presenting.Finished]:
    """Revoke what nobody needs, and what a killed run left half-way."""
    _require_root(host)
    return presenting.finish(host, time.monotonic() + presenting.FINISHING)


def journal(
    host: Host, finished: Sequence[presenting.Finished], paint: output.Paint
) -> output.Report:
    """Return what is presented to this host; status 1 if something could not be revoked."""
    known, damaged = leases.list_all(host)
    rows = []
    for lease in known:
        decision = presenting.decide(host, lease)
        rows.append(
            (
                lease.san,
                f"{lease.volume}@{lease.snapshot}",
                lease.state,
                _time(lease.began),
                lease.user if lease.user != "-" else lease.uid,
                f"{decision.action}: {wording.printable(decision.why)}",
            )
        )
    header = ("SAN", "SNAPSHOT", "STATE", "SINCE", "USER", "NEXT")
    revoked = [each for each in finished if not each.problem]
    lines = [f"{wording.printable(each.lease.name)}: revoked" for each in revoked]
    lines += output.table(header, rows, paint) if rows else ["nothing is presented to this host"]
    lines += [paint.error(wording.printable(each.why)) for each in damaged]
    has_failed = any(lease.attempts for lease in known) or bool(damaged)
    has_failed |= any(each.problem for each in finished)
    data = {
        "leases": [_lease_data(host, lease) for lease in known],
        "damaged": [each._asdict() for each in damaged],
        "revoked": [each.lease.lease for each in revoked],
        "problems": [each.problem for each in finished if each.problem],
    }
    return output.Report(1 if has_failed else 0, lines, data)


def presented(host: Host, paint: output.Paint) -> output.Report:
    """Return what is presented to this host, for status; no lines if that is nothing."""
    try:
        known, damaged = leases.list_all(host)
    except errors.NotPermitted:
        known, damaged = [], []
    lines = journal(host, (), paint).lines if known or damaged else []
    failed = [lease for lease in known if lease.attempts]
    not_revoked = [lease.target.iqn if lease.target else lease.name for lease in failed]
    not_revoked += [each.lease for each in damaged]
    data = {"leases": [_lease_data(host, each) for each in known], "not_revoked": not_revoked}
    return output.Report(1 if not_revoked else 0, lines, data)


def test(host: Host, driver: str, config: str, paint: output.Paint) -> output.Report:
    """Return what the conformance suite finds; status 1 if a check fails."""
    san = _san_to_test(host, driver, config)
    results = list(conformance.run(host, san))
    width = max(len(result.name) for result in results)
    lines = [
        f"{getattr(paint, _PAINTS[result.outcome])(result.outcome.ljust(7))}  "
        f"{result.name.ljust(width)}  {wording.printable(result.text)}"
        for result in results
    ]
    failed = [result for result in results if result.outcome == conformance.FAILED]
    skipped = [result for result in results if result.outcome == conformance.SKIPPED]
    lines += ["", f"{len(results) - len(failed) - len(skipped)} ok, {len(failed)} failed, "]
    lines[-1] += f"{len(skipped)} skipped"
    data = {"ok": not failed, "checks": [result._asdict() for result in results]}
    return output.Report(1 if failed else 0, lines, data)


def _san_to_test(host: Host, driver: str, config: str) -> San:
    """Return the SAN for a test: of a file, of a name, or one where everything is allowed."""
    if config:
        path = os.path.abspath(config)
        san, problems = san_files.read(Host(), path, driver=_driver_path(driver))
        if san is None:
            raise config_files.as_failure(problems)
        return san
    if driver in san_files.list_names(host):
        return san_files.find(host, driver)
    return San(
        **{name: setting.default for name, setting in san_files.TABLE.items()},
        name="test",
        file="--config FILE",
        options={},
    )._replace(driver=_driver_path(driver), volumes=("*",), present=True)


def _driver_path(driver: str) -> str:
    return os.path.abspath(driver) if "/" in driver else f"{san_files.DRIVERS}/{driver}"


def _find(host: Host, san: San, subject: str) -> protocol.Snapshot:
    """Return the snapshot that VOLUME@SNAPSHOT names; only what the SAN listed reaches a driver."""
    volume, _, name = subject.partition("@")
    if not san.has_volume(volume):
        raise errors.NoSnapshot(f"{san.name}: no volume {volume}", f"see volumes in {san.file}")
    listing = calls.list_snapshots(host, san, time.monotonic() + san.timeout)
    matching = [s for s in listing.snapshots if s.volume == volume and name in (s.snapshot, s.id)]
    if not matching:
        raise errors.NoSnapshot(
            f"{san.name}: no snapshot {subject}", f"auto-iscsi san list {san.name}"
        )
    return matching[0]


def _asker(host: Host) -> presenting.Asker:
    return presenting.Asker(*audit.find_asker(host), is_administrator=True)


def _require_root(host: Host) -> None:
    if os.geteuid() and host.root == "/":
        raise errors.NotPermitted("only root works at the SAN", "run it as root")


def _lease_data(host: Host, lease: Lease | Damaged) -> dict[str, Any]:
    if isinstance(lease, Damaged):
        return lease._asdict()
    decision = presenting.decide(host, lease)
    target = lease.target and lease.target._asdict()
    return {**lease._asdict(), "target": target, "next": decision.action, "why_next": decision.why}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
