"""Which profile each registration has: the first that matches it, whatever has changed."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from guardhouse.device_profiles import OS_NAMES, Subject, facts, first_match
from guardhouse.errors import GuardhouseError
from guardhouse.ids import default_profile_id
from guardhouse_services import audit
from guardhouse_services.database import Database, Transaction
from guardhouse_services.leases import for_each
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, Registration
from guardhouse_services.registry.messages import to_event

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
STEP = 500
"""Registrations that a transaction looks at: as many events as it may publish."""


def subjects(tx: Transaction, organization_id: str, registrations: Sequence[Registration]) -> list[Subject]:
    """Whose they are, and on what, in their order."""
    people = store.people.known(tx, organization_id, {it.holder.user_id for it in registrations} - {""})
    systems = store.devices.systems(tx, organization_id, {it.device_id for it in registrations})
    return [
        Subject(
            person=people.get(it.holder.user_id),
            service_token_id=it.holder.service_token_id,
            os_name=OS_NAMES.get(systems[it.device_id].platform, "") if it.device_id in systems else "",
            os_version=systems[it.device_id].os_version if it.device_id in systems else "",
            network=it.network,
        )
        for it in registrations
    ]


def profile_for(tx: Transaction, organization_id: str, subject: Subject) -> str:
    """The id of the profile that somebody gets."""
    rules = store.device_profiles.rules(tx, organization_id)
    return first_match(rules, facts(subject)) or default_profile_id(organization_id)


def assign(tx: Transaction, organization_id: str, registrations: Sequence[Registration]) -> list[Registration]:
    """Gives registrations, which the caller has locked, the profiles that match them now; answers those that moved.

    Whoever changes what profiles match by does so first, then locks the registrations that it is about, and then calls
    this: of two who do at once the later one sees what both have changed.
    """
    if not registrations:
        return []
    rules = store.device_profiles.rules(tx, organization_id)
    default = default_profile_id(organization_id)
    # Without rules it is the default's, whoever it is.
    about = subjects(tx, organization_id, registrations) if rules else [Subject()] * len(registrations)
    wanted = [first_match(rules, facts(subject)) or default for subject in about]
    moved = [
        replace(it, device_profile_id=profile_id, device_profile_time=tx.now)
        for it, profile_id in zip(registrations, wanted, strict=True)
        if it.device_profile_id != profile_id
    ]
    store.registrations.set_profiles(tx, organization_id, moved)
    return moved


class ProfileMatching:
    """Goes over all registrations of an organization whose profiles were changed, from where it stopped.

    It looks at enrollments under way, too: one that has looked for its profile already holds its lock until it is done,
    and one that has not will see the new ones.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.match_all()
            except GuardhouseError as error:
                log.info("device profiles are not matched now: %s", error.message)
            await asyncio.sleep(LOOK_SECONDS)

    async def match_all(self) -> None:
        """Finishes what is under way."""
        under_way = await self._database.read(store.matchings.under_way)
        await for_each(under_way, self._match, "match device profiles")

    async def _match(self, organization_id: str) -> None:
        while await self._database.write(lambda tx: _step(tx, organization_id)):
            pass


def _step(tx: Transaction, organization_id: str) -> bool:
    """Looks at the next registrations; False when these were the last."""
    matching = store.matchings.find(tx, organization_id, lock=True)
    if matching is None or matching.end_time is not None:
        return False
    found = store.registrations.lock_live_after(tx, organization_id, matching.after, STEP)
    listed = [it for it in found if it.state in LISTED]
    moved = assign(tx, organization_id, listed)
    more = len(found) == STEP
    now = replace(
        matching,
        end_time=None if more else tx.now,
        after=found[-1].registration_id if more else "",
        checked=matching.checked + len(listed),
        moved=matching.moved + len(moved),
    )
    store.matchings.save(tx, organization_id, now)
    if moved:
        ids = [it.registration_id for it in moved]
        audit.note_entry(tx, audit.Entry(organization_id, "job:match device profiles", "", ids))
        tx.publish(organization_id, [to_event(it) for it in moved])
    return more
