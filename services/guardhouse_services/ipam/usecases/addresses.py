"""Addresses: reserve, give back, follow the registry, and say who holds what."""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from guardhouse import ids
from guardhouse.clock import Clock
from guardhouse.durations import format_duration
from guardhouse.errors import AddressNotFound, EnrollmentAborted, GuardhouseError, SubnetExhausted
from guardhouse.following import Follower
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services import audit
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.failpoint import failpoint
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.leases import (
    ASK_AFTER,
    ASK_AGAIN,
    FOREVER,
    Exists,
    Holding,
    Lease,
    Ledger,
    Place,
    State,
)
from guardhouse_services.ipam.domain.pins import Pins
from guardhouse_services.ipam.domain.subnets import Network, Space, Subnet, first_subnet, new_space, pairs_of
from guardhouse_services.ipam.usecases.effects import note, write
from guardhouse_services.paging import Page

log = logging.getLogger(__name__)

RESOLVE_SECONDS = 5.0
# Asked at once; the next ones follow without a pause.
RESOLVE_BATCH = 16
FORGET_SECONDS = 3600.0
FORGET_BATCH = 1000
# For good: the registry has it durably.
ENDED = (registry.INTENT_OUTCOME_ABORTED, registry.INTENT_OUTCOME_DELETED)

ResolveIntent = Callable[[str, str], Awaitable[registry.ResolveIntentResponse]]
"""Asks the registry: (organization_id, intent_id) → the outcome."""


class Addresses:
    """`follower` is set by whoever makes both: it applies the registry's feed by `apply`."""

    follower: Follower

    def __init__(
        self,
        clock: Clock,
        database: Database,
        directory: Directory,
        network: str,
        quarantine: int,
        history: int,
        resolve_intent: ResolveIntent,
    ) -> None:
        self._clock = clock
        self._database = database
        self._directory = directory
        self._network = network
        self._quarantine = quarantine
        self._history = history
        self._resolve_intent = resolve_intent

    async def reserve_addresses(
        self, call: Call, organization_id: str, intent_id: str, device_id: str, holder_id: str
    ) -> Lease:
        """Raises OrganizationNotFound, EnrollmentAborted and SubnetExhausted."""
        await self._directory.organization(organization_id)

        def reserve(tx: Transaction) -> Lease:
            failpoint("ipam.reserve")
            space, subnets = opened(tx, organization_id, self._network)
            subnet = next(each for each in subnets if each.is_default)
            wanted = Lease(
                lease_id=ids.new_id(ids.LEASE, tx.now),
                ipv4=0,
                ipv6="",
                state=State.RESERVED,
                registration_id=intent_id,
                device_id=device_id,
                holder_id=holder_id,
                reserve_time=tx.now,
                ask_time=tx.now + ASK_AFTER,
                subnet=subnet.number,
            )
            rested_before = tx.now - self._quarantine
            found = store.leases.find_prospect(tx, organization_id, wanted, subnet, rested_before)
            if found.is_buried:
                raise EnrollmentAborted("what this enrollment reserved was given back; start a new one")
            if found.intent is not None:
                return found.intent
            pins = Pins(store.pins.all_of(tx, organization_id))
            made = _pinned(tx, organization_id, space, subnets, wanted, pins, rested_before)
            if made is None:
                made = _allocate(tx, organization_id, space, subnet, wanted, found, pins, rested_before)
            audit.note(tx, call, made.lease_id, intent_id)
            return made

        lease = await self._database.write(reserve, turn=organization_id)
        failpoint("ipam.reserved")
        return lease

    async def release_addresses(self, call: Call, organization_id: str, intent_id: str) -> None:
        """Gives back what the intent reserved, and refuses it from now on. What a registration holds stays."""

        def release(tx: Transaction) -> None:
            failpoint("ipam.release")
            space = store.subnets.lock_space(tx, organization_id)
            if store.leases.bury(tx, organization_id, intent_id):
                audit.note(tx, call, intent_id)
            found = store.leases.find_intent(tx, organization_id, intent_id)
            if space is not None and found is not None and found.is_unseen:
                ledger = Ledger([found], store.subnets.rested_time(tx, organization_id, space), tx.now)
                ledger.free(found)
                write(tx, organization_id, ledger)

        await self._database.write(release, turn=organization_id)

    async def lookup_address(self, organization_id: str, address: str, at: int = FOREVER) -> Holding:
        """Who holds the address, or held it at a time: from the time on at which the registry had made it so.

        Raises AddressNotFound.
        """

        def read(tx: Transaction) -> Holding:
            space = store.subnets.read_space(tx, organization_id)
            ipv4 = space.ipv4_of(address) if space else None
            if ipv4 is not None and (found := store.leases.find_holding(tx, organization_id, ipv4, at)) is not None:
                return found
            if at < tx.now - self._history:
                message = f"who held {address!r} then may be forgotten: it is kept for {format_duration(self._history)}"
                raise AddressNotFound(address, message)
            raise AddressNotFound(address)

        return await self._database.read(read)

    async def list_history(
        self, organization_id: str, network: Network, at: int | None, after: Place | None, limit: int
    ) -> list[Holding]:
        """Who holds and held addresses of a network, behind a place; or with `at` only who did then."""

        def read(tx: Transaction) -> list[Holding]:
            space = store.subnets.read_space(tx, organization_id)
            if space is None or (pairs := pairs_of(network, space.ipv6)) is None:
                return []
            first, last = pairs
            return store.leases.list_history(tx, organization_id, after or Place(first), last, at, limit)

        return await self._database.read(read)

    async def list_addresses(self, organization_id: str, page: Page) -> list[Holding]:
        """Who holds which pair, up to one more than the page shows."""
        after, limit = page.after, page.size + 1
        return await self._database.read(lambda tx: store.leases.list_holdings(tx, organization_id, after, limit))

    async def forget(self) -> None:
        """A job: drops what was held so long ago that nobody needs to know."""
        while True:
            await self.forget_once()
            await asyncio.sleep(FORGET_SECONDS)

    async def forget_once(self) -> None:
        """Drops what is due, in steps that keep nobody waiting."""
        while await self._database.write(self._forget) == FORGET_BATCH:
            log.debug("dropped %d holds that ended long ago", FORGET_BATCH)

    def _forget(self, tx: Transaction) -> int:
        return store.leases.forget_holdings(tx, tx.now - self._history, FORGET_BATCH)

    async def follow(self) -> None:
        """The job: follows the registry, and asks it for the outcomes that its feed does not tell.

        It is one job, because an answer may end a lease only where the feed is known to be applied up to the answer.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follower.run())
            group.create_task(self._resolve())

    async def _resolve(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_SECONDS * random.uniform(0.5, 1))
            try:
                await self.resolve_once()
            except Exception as error:  # whatever it was, the next round may fare better
                log.warning("outcomes of enrollments are not resolved", exc_info=error)

    async def resolve_once(self) -> None:
        """Asks for every outcome that is due."""
        while True:
            asking = await self._database.read(lambda tx: store.leases.find_asking(tx, tx.now, RESOLVE_BATCH))
            await asyncio.gather(*(self._resolve_lease(organization_id, lease) for organization_id, lease in asking))
            if len(asking) < RESOLVE_BATCH:
                return

    async def _resolve_lease(self, organization_id: str, asked: Lease) -> None:
        registration_id, claim_id = asked.registration_id or "", asked.claim_id or ""
        answer = await self._ask(organization_id, registration_id)
        ended = [registration_id] if answer.outcome in ENDED else []
        if ended and claim_id:
            claim = await self._ask(organization_id, claim_id)
            if claim.outcome in ENDED:
                ended.insert(0, claim_id)
            elif claim.outcome != registry.INTENT_OUTCOME_ACTIVE:
                ended.clear()
        if ended and not await self.follower.fresh(self._clock.steady()):
            # Another registration may have taken the lease over before this one ended, and only the feed says so.
            ended.clear()

        def settle(tx: Transaction) -> None:
            space = store.subnets.lock_space(tx, organization_id)
            lease = store.leases.find_lease(tx, organization_id, asked.lease_id)
            if space is None or lease != asked:
                # The feed or a call was faster. What is due still is asked again.
                return
            ledger = Ledger([asked], store.subnets.rested_time(tx, organization_id, space), tx.now)
            if ended:
                store.leases.bury(tx, organization_id, registration_id)
            if ended and answer.outcome == registry.INTENT_OUTCOME_ABORTED and asked.is_unseen:
                ledger.free(asked)
            for each in ended:
                ledger.gone(each)
            if answer.outcome == registry.INTENT_OUTCOME_ACTIVE:
                ledger.exists(Exists(registration_id, answer.lease_id, tx.now))
            if ledger.changed:
                note(tx, "job:resolve intents", organization_id, ledger)
                write(tx, organization_id, ledger)
            else:
                store.leases.save_leases(tx, organization_id, [replace(asked, ask_time=tx.now + ASK_AGAIN)])

        await self._database.write(settle, turn=organization_id)

    async def _ask(self, organization_id: str, registration_id: str) -> registry.ResolveIntentResponse:
        """The registry's answer; one without an outcome when there is none."""
        try:
            return await self._resolve_intent(organization_id, registration_id)
        except GuardhouseError as error:
            log.info("the registry does not say what has become of %s: %s", registration_id, error.message)
            return registry.ResolveIntentResponse()


def opened(tx: Transaction, organization_id: str, network: str) -> tuple[Space, list[Subnet]]:
    """The organization's space, locked, and its subnets, of which the first is made of the network if there is none."""
    space = store.subnets.lock_space(tx, organization_id) or store.subnets.add_space(
        tx, organization_id, new_space(network, secrets.randbits(56))
    )
    subnets = store.subnets.of_space(tx, organization_id, space)
    if not subnets:
        # It is the first use, or a release that knew no subnets made the space.
        made = first_subnet(space, ids.new_id(ids.SUBNET, tx.now), tx.now)
        store.subnets.insert(tx, organization_id, made)
        subnets.append(made)
    return space, subnets


def _pinned(
    tx: Transaction,
    organization_id: str,
    space: Space,
    subnets: Sequence[Subnet],
    wanted: Lease,
    pins: Pins,
    rested_before: int,
) -> Lease | None:
    """Gives the lease the pair that is pinned to its holder on the device, whatever subnet it is of.

    None: there is none, or it is held, or whoever had it before may not be forgotten yet.
    """
    pin = pins.of(wanted.device_id, wanted.holder_id)
    if pin is None:
        return None
    subnet = next((each for each in subnets if each.contains(pin.first_ipv4, pin.last_ipv4)), None)
    if subnet is None:
        return None
    made = replace(wanted, ipv4=pin.first_ipv4, ipv6=space.ipv6_of(pin.first_ipv4), subnet=subnet.number)
    pair = store.leases.find_pair(tx, organization_id, pin.first_ipv4)
    if pair is None:
        store.leases.add_lease(tx, organization_id, made)
        return made
    was_theirs = (pair.device_id, pair.holder_id) == (wanted.device_id, wanted.holder_id)
    if pair.rest_time is None or (pair.rest_time > rested_before and not was_theirs):
        return None
    made = replace(made, release_time=pair.release_time)
    store.leases.save_leases(tx, organization_id, [made])
    return made


def _allocate(
    tx: Transaction,
    organization_id: str,
    space: Space,
    subnet: Subnet,
    wanted: Lease,
    found: store.leases.Prospect,
    pins: Pins,
    rested_before: int,
) -> Lease:
    """Gives the lease its pair: the holder's own, or the one that has rested longest, or one never given out.

    Rested pairs go before new ones so that no more addresses are ever in use than were needed at once: the table and
    its indexes stay as small, and a network that is used up behaves like one that is not.
    """
    own = found.own if found.own and not pins.covering(found.own.ipv4) else None
    pair = own or found.rested
    while pair is not None and pins.covering(pair.ipv4):
        # It is kept, and the next search begins behind it.
        behind = (pair.rest_time or 0) + 1
        pair = store.leases.find_rested(tx, organization_id, subnet.number, behind, rested_before)
    if pair is None:
        subnet = replace(subnet, next_ipv4=_never_given_out(tx, organization_id, subnet, pins))
    if own is None:
        if pair is None and subnet.is_used_up:
            message = f"every address of {subnet.ipv4} is in use or resting; delete registrations that are not used"
            raise SubnetExhausted(message, subnet=subnet.ipv4)
        # The next search begins where this one ended.
        searched = rested_before if pair is None else pair.rest_time or 0
        rested_time = max(subnet.rested_time, searched)
        next_ipv4 = subnet.next_ipv4 + (pair is None)
        store.subnets.save_place(tx, organization_id, replace(subnet, next_ipv4=next_ipv4, rested_time=rested_time))
    if pair is None:
        made = replace(wanted, ipv4=subnet.next_ipv4, ipv6=space.ipv6_of(subnet.next_ipv4))
        store.leases.add_lease(tx, organization_id, made)
    else:
        made = replace(wanted, ipv4=pair.ipv4, ipv6=pair.ipv6, release_time=pair.release_time)
        store.leases.save_leases(tx, organization_id, [made])
    return made


def _never_given_out(tx: Transaction, organization_id: str, subnet: Subnet, pins: Pins) -> int:
    """The lowest address from the mark on that nobody had and no pin keeps.

    Somebody had one beyond the mark if it was pinned to them.
    """
    ipv4 = pins.behind(subnet.next_ipv4)
    while store.leases.find_pair(tx, organization_id, ipv4) is not None:
        ipv4 = pins.behind(ipv4 + 1)
    return ipv4
