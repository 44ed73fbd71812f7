"""Subnets (decision 24)."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

from guardhouse.errors import InvalidField, LimitReached, SubnetInUse, SubnetOverlaps
from guardhouse.ids import SUBNET, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.ipam import messages, store
from guardhouse_services.ipam.domain.subnets import LIMIT, Capacity, Subnet, capacity, first_address
from guardhouse_services.ipam.usecases.reservations import opened
from guardhouse_services.paging import Page

Shown = tuple[Subnet, Capacity]
Written = tuple[Subnet, Capacity, str]
"""A subnet, how it is used, and the revision token."""


class Subnets:
    """Creates, shows, changes and deletes them."""

    def __init__(self, database: Database, directory: Directory, network: str, quarantine: int) -> None:
        self._database = database
        self._directory = directory
        self._network = network
        self._quarantine = quarantine

    async def create(
        self, call: Call, organization_id: str, wanted: dict[str, Any], *, validate_only: bool = False
    ) -> Written:
        """Of these values. Raises OrganizationNotFound, SubnetOverlaps and LimitReached."""
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return self._repeated(tx, organization_id, done)
            space, subnets = opened(tx, organization_id, self._network)
            if len(subnets) >= LIMIT:
                raise LimitReached(f"the organization has {LIMIT} subnets already; delete one first", limit=str(LIMIT))
            _check_apart(wanted["ipv4"], subnets)
            made = Subnet(
                subnet_id=new_id(SUBNET, tx.now),
                number=space.last_number + 1,
                create_time=tx.now,
                update_time=tx.now,
                next_ipv4=first_address(wanted["ipv4"]),
                **wanted,
            )
            store.subnets.set_last_number(tx, organization_id, made.number)
            if made.is_default:
                _end_default(tx, organization_id, subnets)
            store.subnets.insert(tx, organization_id, made)
            return self._done(tx, call, organization_id, made)

        return await self._database.write(work, validate_only=validate_only, turn=organization_id)

    async def get(self, organization_id: str, subnet_id: str) -> Shown:
        """Raises SubnetNotFound."""

        def read(tx: Transaction) -> Shown:
            space = store.subnets.read_space(tx, organization_id)
            found = store.subnets.get(tx, organization_id, subnet_id, space)
            return self._shown(tx, organization_id, [found])[0]

        return await self._database.read(read)

    async def page(self, organization_id: str, page: Page) -> Sequence[Shown]:
        """The page's subnets, and one more if there is one."""

        def read(tx: Transaction) -> Sequence[Shown]:
            space = store.subnets.read_space(tx, organization_id)
            found = store.subnets.page(tx, organization_id, space, page) if space else []
            return self._shown(tx, organization_id, found)

        return await self._database.read(read)

    async def update(
        self, call: Call, organization_id: str, subnet_id: str, changes: dict[str, Any], etag: str, network: str = ""
    ) -> Written:
        """Changes these fields. Raises SubnetNotFound, EtagMismatch, and InvalidField, also for another network."""

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return self._repeated(tx, organization_id, done)
            space = store.subnets.lock_space(tx, organization_id)
            found = store.subnets.get(tx, organization_id, subnet_id, space)
            etags.check(messages.subnet(found).etag, etag)
            if network and network != found.ipv4:
                raise InvalidField(
                    "subnet.network", f"a subnet's network, {found.ipv4}, is never changed: create another subnet"
                )
            changed = replace(found, **changes, update_time=tx.now)
            if found.is_default and not changed.is_default:
                raise InvalidField(
                    "subnet.is_default", "one subnet is the default; make another one the default instead"
                )
            if space and changed.is_default:
                _end_default(tx, organization_id, store.subnets.of_space(tx, organization_id, space))
            store.subnets.describe(tx, organization_id, changed)
            return self._done(tx, call, organization_id, changed)

        return await self._database.write(work, turn=organization_id)

    async def delete(
        self, call: Call, organization_id: str, subnet_id: str, etag: str, *, validate_only: bool
    ) -> Written:
        """The subnet as it was. Raises SubnetNotFound, EtagMismatch and SubnetInUse."""

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return self._repeated(tx, organization_id, done)
            space = store.subnets.lock_space(tx, organization_id)
            found = store.subnets.get(tx, organization_id, subnet_id, space)
            etags.check(messages.subnet(found).etag, etag)
            self._check_unused(tx, organization_id, found)
            written = self._done(tx, call, organization_id, found)
            store.subnets.delete(tx, organization_id, subnet_id)
            return written

        return await self._database.write(work, validate_only=validate_only, turn=organization_id)

    def _check_unused(self, tx: Transaction, organization_id: str, found: Subnet) -> None:
        """Raises SubnetInUse."""
        if found.is_default:
            raise SubnetInUse("it is the default subnet; make another one the default first")
        profiles = store.ip_profiles.of_organization(tx, organization_id)
        if naming := [each.ip_profile_id for each in profiles if each.subnet_id == found.subnet_id]:
            message = f"{len(naming)} IP profiles name the subnet, such as {naming[0]}; let them name another first"
            raise SubnetInUse(message, ip_profile_ids=",".join(naming))
        if holders := store.subnets.holders(tx, organization_id, found):
            message = "registrations hold addresses of the subnet; delete them, or keep the subnet until they are gone"
            raise SubnetInUse(message, registration_ids=",".join(holders))
        pins = store.pins.all_of(tx, organization_id)
        if keeping := [each.pin_id for each in pins if found.contains(each.first_ipv4, each.last_ipv4)]:
            message = f"{len(keeping)} pins keep addresses of the subnet, such as {keeping[0]}; unpin them first"
            raise SubnetInUse(message, pin_ids=",".join(keeping[: store.subnets.NAMED]))
        (usage,) = store.subnets.usages(tx, organization_id, [found], self._quarantine)
        if usage.reserved or usage.quarantined:
            message = "addresses of the subnet are reserved or in quarantine; try again when the quarantine is over"
            raise SubnetInUse(message)

    def _shown(self, tx: Transaction, organization_id: str, of: Sequence[Subnet]) -> Sequence[Shown]:
        used = store.subnets.usages(tx, organization_id, of, self._quarantine)
        return [(each, capacity(each, its, tx.now)) for each, its in zip(of, used, strict=True)]

    def _done(self, tx: Transaction, call: Call, organization_id: str, of: Subnet) -> Written:
        """Puts the change on record. It has no event, for followers know leases only, and yet a place in history."""
        (shown,) = self._shown(tx, organization_id, [of])
        requests.record(tx, call, of.subnet_id, value=requests.remember(of), capacity=requests.remember(shown[1]))
        return *shown, tx.token(organization_id, tx.publish(organization_id, []))

    def _repeated(self, tx: Transaction, organization_id: str, done: dict[str, Any]) -> Written:
        of = requests.recall(Subnet, done)
        used = requests.recall(Capacity, {"value": done["capacity"]})
        if of is None or used is None:
            raise AssertionError("unreachable: both were remembered")
        return of, used, tx.token(organization_id, tx.revision(organization_id))


def _check_apart(network: str, subnets: Sequence[Subnet]) -> None:
    """Raises SubnetOverlaps."""
    wanted = IPv4Network(network)
    for each in subnets:
        if wanted.overlaps(each.network):
            message = f"{network} overlaps {each.ipv4} of {each.subnet_id}; take a network of its own"
            raise SubnetOverlaps(message, subnet_id=each.subnet_id)


def _end_default(tx: Transaction, organization_id: str, subnets: Sequence[Subnet]) -> None:
    """There is to be another default."""
    for each in subnets:
        if each.is_default:
            store.subnets.describe(tx, organization_id, replace(each, is_default=False, update_time=tx.now))
