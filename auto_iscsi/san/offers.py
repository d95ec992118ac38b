"""Find out which targets the portals of the configuration offer to this host.

Each portal is asked by a discovery that changes no node record, at most once in two seconds,
whoever asks (iscsi/discovery). Its answer is remembered until the next one, or until the boot: what
a portal offered last is known without asking, and also when it does not answer now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auto_iscsi import errors, keys, portals
from auto_iscsi.config import config_files, schema
from auto_iscsi.config.settings import Settings
from auto_iscsi.iscsi import discovery, rate_limit
from auto_iscsi.machine.host import Host


class Offers(NamedTuple):
    """What the portals offered when each was last asked."""

    targets: frozenset[str]  #: folded
    answered: tuple[portals.Portal, ...]  #: those that answered, and those that they named


def ask(host: Host, sections: Sequence[config_files.Section], until: float) -> list[str]:
    """Ask each portal of the configuration; return why, for each that did not answer.

    until: time.monotonic().
    """
    failures = []
    for portal, settings in places(sections):
        try:
            answer = discovery.Search(host, "", settings, until).ask(portal)
        except errors.Failure as failure:
            failures.append(f"discovery at {portal}: {failure.reason}")
            continue
        if isinstance(answer, discovery.Obstacle):
            failures.append(answer.why)
    return failures


def remembered(host: Host, sections: Sequence[config_files.Section]) -> Offers:
    """Return what the portals of the configuration offered when each was last asked."""
    targets: set[str] = set()
    answered: set[portals.Portal] = set()
    for portal, settings in places(sections):
        age, text = rate_limit.last_offer(host, discovery.offer_name(portal, settings))
        if age < 0:
            continue
        answered.add(portal)
        for target, offered in discovery.list_offers(text):
            targets.add(keys.fold(target))
            answered.add(offered._replace(tpgt=-1))
    return Offers(frozenset(targets), tuple(answered))


def places(
    sections: Sequence[config_files.Section],
) -> list[tuple[portals.Portal, Settings]]:
    """Return each portal once for each user that is to ask it, with the settings to ask it with.

    A section that is wrong is left out: it refuses its targets, and `auto-iscsi check` reports it.
    """
    general = {name: schema.Effective(row.default, None) for name, row in schema.TABLE.items()}
    special = []
    for section in sections:
        if section.glob == "*":
            general.update(_values(section))
        elif "portals" in section.values:
            special.append(section)
    places: dict[tuple[portals.Portal, str], Settings] = {}
    for chosen in (general, *({**general, **_values(section)} for section in special)):
        if schema.missing_requirements(chosen):
            continue
        settings = schema.to_settings(chosen)
        for portal in settings.portals if settings.enabled else ():
            places.setdefault((portal._replace(tpgt=-1), settings.chap_user), settings)
    return [(portal, settings) for (portal, _), settings in places.items()]


def _values(section: config_files.Section) -> dict[str, schema.Effective]:
    values, _ = schema.read_section(section)
    return {name: schema.Effective(value, section) for name, value in values.items()}
