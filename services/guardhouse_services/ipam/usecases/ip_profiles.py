"""IP profiles (decision 24)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guardhouse.ids import IP_PROFILE, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.ipam import messages, store
from guardhouse_services.ipam.domain.ip_profiles import (
    Holder,
    IpProfile,
    Trace,
    check_precedence,
    check_room,
    first_match,
    trace,
)
from guardhouse_services.ipam.usecases.reservations import opened
from guardhouse_services.paging import Page

Written = tuple[IpProfile, str]
"""A profile, and the revision token."""


@dataclass(frozen=True, slots=True)
class Match:
    """From which subnet somebody gets an address, by which profile, and what each profile makes of them."""

    ip_profile_id: str
    subnet_id: str
    traces: Sequence[Trace]


class IpProfiles:
    """Creates, shows, changes, deletes and tries them. Every write is done under the organization's space."""

    def __init__(self, database: Database, directory: Directory, network: str) -> None:
        self._database = database
        self._directory = directory
        self._network = network

    async def create(
        self, call: Call, organization_id: str, draft: Callable[[str, int], IpProfile], *, validate_only: bool = False
    ) -> Written:
        """The profile, which is drafted with its id and the time.

        Raises OrganizationNotFound, SubnetNotFound, PrecedenceTaken and LimitReached.
        """
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return _repeated(tx, organization_id, done)
            space, _ = opened(tx, organization_id, self._network)
            present = store.ip_profiles.of_organization(tx, organization_id)
            check_room(present)
            made = draft(new_id(IP_PROFILE, tx.now), tx.now)
            check_precedence(present, made)
            store.subnets.get(tx, organization_id, made.subnet_id, space)
            store.ip_profiles.insert(tx, organization_id, made)
            return _done(tx, call, organization_id, made)

        return await self._database.write(work, validate_only=validate_only, turn=organization_id)

    async def get(self, organization_id: str, ip_profile_id: str) -> IpProfile:
        """Raises IpProfileNotFound."""
        return await self._database.read(lambda tx: store.ip_profiles.get(tx, organization_id, ip_profile_id))

    async def page(self, organization_id: str, page: Page) -> Sequence[IpProfile]:
        """The page's profiles, and one more if there is one."""
        return await self._database.read(lambda tx: store.ip_profiles.page(tx, organization_id, page))

    async def update(
        self,
        call: Call,
        organization_id: str,
        ip_profile_id: str,
        changes: dict[str, Any],
        etag: str,
        *,
        validate_only: bool = False,
    ) -> Written:
        """Changes these fields. Raises IpProfileNotFound, EtagMismatch, SubnetNotFound and PrecedenceTaken."""

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return _repeated(tx, organization_id, done)
            space = store.subnets.lock_space(tx, organization_id)
            found = store.ip_profiles.get(tx, organization_id, ip_profile_id)
            etags.check(messages.ip_profile(found).etag, etag)
            changed = replace(found, **changes, update_time=tx.now)
            check_precedence(store.ip_profiles.of_organization(tx, organization_id), changed)
            store.subnets.get(tx, organization_id, changed.subnet_id, space)
            store.ip_profiles.update(tx, organization_id, changed)
            return _done(tx, call, organization_id, changed)

        return await self._database.write(work, validate_only=validate_only, turn=organization_id)

    async def delete(
        self, call: Call, organization_id: str, ip_profile_id: str, etag: str, *, validate_only: bool
    ) -> Written:
        """The profile as it was. Raises IpProfileNotFound and EtagMismatch."""

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return _repeated(tx, organization_id, done)
            store.subnets.lock_space(tx, organization_id)
            found = store.ip_profiles.get(tx, organization_id, ip_profile_id)
            etags.check(messages.ip_profile(found).etag, etag)
            store.ip_profiles.delete(tx, organization_id, ip_profile_id)
            return _done(tx, call, organization_id, found)

        return await self._database.write(work, validate_only=validate_only, turn=organization_id)

    async def match(self, organization_id: str, holder: Holder) -> Match:
        """As a reservation would. Raises OrganizationNotFound."""
        await self._directory.organization(organization_id)

        def read(tx: Transaction) -> Match:
            space = store.subnets.read_space(tx, organization_id)
            subnets = store.subnets.of_space(tx, organization_id, space) if space else []
            profiles = store.ip_profiles.of_organization(tx, organization_id)
            decider = first_match(profiles, holder)
            default = next((each.subnet_id for each in subnets if each.is_default), "")
            chosen = (decider.ip_profile_id, decider.subnet_id) if decider else ("", default)
            return Match(*chosen, trace(profiles, holder))

        return await self._database.read(read)


def _done(tx: Transaction, call: Call, organization_id: str, of: IpProfile) -> Written:
    """Puts the change on record. It has no event, for followers know leases only, and yet a place in history."""
    store.subnets.profiles_changed(tx, organization_id)
    requests.record(tx, call, of.ip_profile_id, value=requests.remember(of))
    return of, tx.token(organization_id, tx.publish(organization_id, []))


def _repeated(tx: Transaction, organization_id: str, done: dict[str, Any]) -> Written:
    of = requests.recall(IpProfile, done)
    if of is None:
        raise AssertionError("unreachable: it was remembered")
    return of, tx.token(organization_id, tx.revision(organization_id))
