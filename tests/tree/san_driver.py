"""A driver for a SAN that is a folder, /san/array; the tests change how it behaves.

A snapshot is a file VOLUME/SNAPSHOT. It is presented as long as SNAPSHOT.lease is beside it. The
file `calls` has a line for each call that began. plan.json says, by verb, what else happens:
`error`, an error's members; `raw`, what is written in place of a reply, with `status`; `wait`, a
file for which it waits before it does anything, or, as `wait_after`, when it has done it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from auto_iscsi.drivers import protocol, wire

ARRAY = Path(os.environ.get("AUTO_ISCSI_ROOT", "") + "/san/array")


def main() -> int:
    verb = sys.argv[1] if len(sys.argv) == 2 else "none"
    with open(ARRAY / "calls", "a") as calls:
        calls.write(f"{verb} {os.getpid()}\n")
    plan = json.loads((ARRAY / "plan.json").read_text()).get(verb, {})
    if "raw" in plan:
        print(plan["raw"], end="", flush=True)
        return int(plan.get("status", 0))
    return protocol.serve(
        protocol.Driver(
            "fake",
            "own",
            list_snapshots,
            lambda call, subject: present(subject, plan),
            lambda call, subject: revoke(subject, plan),
            max_parallel=int(plan.get("max_parallel", 2)),
        )
    )


def wait(plan: dict[str, Any], when: str) -> None:
    while when in plan and not (ARRAY / plan[when]).exists():
        time.sleep(0.01)


def list_snapshots(call: protocol.Call) -> protocol.Listing:
    snapshots = []
    for file in sorted(ARRAY.glob("*/*")):
        mark = Path(f"{file}.lease")
        if "." in file.name or call.volume not in (None, file.parent.name):
            continue
        if mark.exists() or not call.presented_only:
            number = float(file.read_text() or 0)
            snapshots.append(
                protocol.Snapshot(
                    file.parent.name,
                    file.name,
                    f"{file.parent.name}/{file.name}",
                    number or None,
                    "array" if number else "none",
                    presented=mark.exists(),
                )
            )
    return protocol.Listing(snapshots)


def present(subject: protocol.Subject, plan: dict[str, Any]) -> protocol.Presented:
    wait(plan, "wait")
    file = ARRAY / subject.volume / subject.snapshot
    if not file.exists() or subject.id != f"{subject.volume}/{subject.snapshot}":
        raise wire.Refused("not_found", "there is no such snapshot")
    mark, draft = Path(f"{file}.lease"), Path(f"{file}.{os.getpid()}.draft")
    draft.write_text(subject.lease)
    try:
        os.link(draft, mark)
        already = False
    except FileExistsError:
        already = True
    finally:
        draft.unlink()
    wait(plan, "wait_after")
    if "error" in plan:
        raise wire.Refused(**plan["error"])
    iqn = plan.get("iqn") or f"iqn.2026-11.org.example:{subject.volume}.{subject.snapshot}"
    made = ["mark"] if mark.read_text() == subject.lease else []
    target = protocol.Target(iqn, [plan.get("portal", "127.0.0.1:3260")])
    return protocol.Presented(target, already, made, {"mark": "1"} if made else None)


def revoke(subject: protocol.Subject, plan: dict[str, Any]) -> protocol.Revoked:
    wait(plan, "wait")
    if "error" in plan:
        raise wire.Refused(**plan["error"])
    mark = ARRAY / subject.volume / f"{subject.snapshot}.lease"
    if not mark.exists() or mark.read_text() != subject.lease:
        return protocol.Revoked(already=True)
    mark.unlink()
    wait(plan, "wait_after")
    return protocol.Revoked()


if __name__ == "__main__":
    sys.exit(main())
