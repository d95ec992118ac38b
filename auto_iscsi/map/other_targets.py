"""Bring up the other targets that a key needs: those that the setting `with` names.

A volume group can lie on LUNs of several targets: EqualLogic gives the snapshot of each volume a
target of its own. The lookup of one key holds all of them, logs in to each as a lookup of its key
would, and takes its physical volumes. Nothing else on them is shown.
"""

from __future__ import annotations

from auto_iscsi import errors, keys
from auto_iscsi.config import patterns
from auto_iscsi.config.settings import ALL, AUTO
from auto_iscsi.iscsi import claims, discovery, node_records, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, suppress
from auto_iscsi.map import available
from auto_iscsi.volumes.mountable import LVM_MEMBER, MEMBERS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Callable

    from auto_iscsi.config.settings import Settings
    from auto_iscsi.machine.host import Host
    from auto_iscsi.map.request import Request
    from auto_iscsi.volumes.mountable import Filesystem, Mountable

MOST = 16  #: targets that one lookup brings up besides its own
_SAME_TIME = 60.0  # seconds between the snapshots of one group of volumes
_SHOWN = 3  # names in a message


class Members(NamedTuple):
    """What the other targets have."""

    members: tuple[Filesystem, ...]  #: their physical volumes
    notes: tuple[str, ...]  #: why there are not more


def list_names(host: Host, target: str, settings: Settings, until: float) -> list[str]:
    """Return the other targets that the setting `with` names, folded; raise Ambiguous.

    They are looked for among the node records and sessions and, before the target's first login,
    in what the portals offer. Where the names of targets tell the time of a snapshot, those of
    another time than the target's are left out.
    """
    exact = {glob for glob in settings.with_ if not set("*?[").intersection(glob)}
    has_session = any(session.up for session in sessions.find_all(host, target))
    matching = {name for name in known(host) if _is_named(name, settings)}
    if (
        exact != set(settings.with_)
        and settings.portals
        and not (has_session and matching - {target})
    ):
        offered = discovery.Search(host, target, settings, until).list_offered()
        matching |= {name for name in offered if _is_named(name, settings)}
    names = of_same_time(target, (matching | exact) - {target}, settings)
    if len(names) > MOST:
        shown = ", ".join(names[:_SHOWN])
        raise errors.Ambiguous(
            f"{target}: the setting with names {len(names)} other targets, and at most {MOST} are "
            f"brought up: {shown}, ...",
            "make its pattern longer, or see snapshot_name: only targets of the same time count",
        )
    return names


def known(host: Host) -> set[str]:
    """Return the targets, folded, of which there is a node record or a session."""
    names = node_records.list_targets(host)
    return names | {keys.fold(session.target) for session in sessions.list_all(host)}


def of_same_time(target: str, others: Collection[str], settings: Settings) -> list[str]:
    """Return those of the others that are no snapshots of another time than the target."""
    if not others:
        return []
    from auto_iscsi.san import names

    def time_of(name: str) -> float | None:
        answer = names.take_apart(name, settings.snapshot_name, settings.timezone)
        return answer.time.timestamp() if isinstance(answer, names.Snapshot) else None

    own = time_of(target)

    def is_meant(name: str) -> bool:
        time = time_of(name) if own is not None else None
        return own is None or time is None or abs(time - own) <= _SAME_TIME

    return sorted(filter(is_meant, others))


def requests(
    request: Request,
    others: Sequence[str],
    settings_of: Callable[[Host, str], Settings],
) -> tuple[Request, ...]:
    """Return a request for each of the other targets, which the caller holds.

    The session of each is opened as its own settings say. What is on it is examined, and nothing
    is written to it, as the settings of the key say.
    """
    made = []
    for name in others:
        settings = settings_of(request.host, name)
        if not settings.enabled:
            raise errors.Disabled(
                f"{request.target}: the setting with names {name}, which has enabled = no"
            )
        own = request.settings
        settings = settings._replace(
            partition=ALL,
            fstype=AUTO,
            journal=own.journal_rule or AUTO,
            options=own.options,
            device=own.device,
            with_=(),
        )
        key = keys.Key(name, name)
        claim = claims.Claim()
        with suppress(errors.NotPermitted):  # explain can be anybody's
            claim = claims.read(request.host, name)
        made.append(request._replace(key=key, settings=settings, claim=claim, is_other=True))
    return tuple(made)


def bring_up(
    request: Request, content: Mountable, content_of: Callable[[Request], Mountable | None]
) -> Members:
    """Bring up the other targets, if a volume group can need them; return what they have.

    content_of: returns what a target shows. A target that cannot be brought up is noted.
    """
    if not _is_needed(content):
        return Members((), ())
    members: list[Filesystem] = []
    notes: list[str] = []
    for other in request.others:
        try:
            shown = content_of(other)
        except errors.Failure as failure:
            notes.append(failure.reason)
            continue
        if shown:
            members += _members(other, shown)
            notes += [f"{other.target}: {note}" for note in shown.notes]
    return Members(tuple(members), tuple(notes))


def look(request: Request, content: Mountable) -> Members:
    """Return what the other targets have that are up. Nothing is changed."""

    def content_of(other: Request) -> Mountable | None:
        shown = available.through_sessions(other).mountable
        return shown and shown._replace(notes=())

    return bring_up(request, content, content_of)


def for_explain(request: Request) -> Request:
    """Return a request with its other targets, as far as they are known without a discovery.

    No file is written.
    """
    from auto_iscsi.config import config_files, schema

    settings = request.settings._replace(portals=())
    names = list_names(request.host, request.target, settings, request.until)

    def settings_of(host: Host, name: str) -> Settings:
        return schema.resolve(config_files.load(host, remember=False), name)

    return request._replace(others=requests(request, names, settings_of))


def is_one_down(request: Request, content: Mountable) -> bool:
    """Tell whether a lookup would have to log in to another target."""
    return _is_needed(content) and not all(
        any(session.up for session in sessions.find_all(request.host, other.target))
        for other in request.others
    )


def _is_named(name: str, settings: Settings) -> bool:
    try:
        keys.parse(name)
    except errors.BadKey:
        return False
    return any(patterns.matches(glob, name) for glob in settings.with_)


def _is_needed(content: Mountable) -> bool:
    """Tell whether a volume group can be on what a target shows."""
    return any(filesystem.fstype in MEMBERS for filesystem in content.filesystems)


def _members(other: Request, content: Mountable) -> list[Filesystem]:
    """Return a target's physical volumes, in a directory of its name."""
    return [
        each._replace(offset=f"/{other.target}{each.offset}")
        for each in content.filesystems
        if each.fstype == LVM_MEMBER
    ]
