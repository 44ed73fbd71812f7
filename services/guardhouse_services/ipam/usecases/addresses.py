"""Addresses: reserve, give back, follow the registry, and say who holds what."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial

from guardhouse.clock import Clock
from guardhouse.durations import format_duration
from guardhouse.errors import AddressNotFound, GuardhouseError
from guardhouse.following import Follower
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services import audit
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.failpoint import failpoint
from guardhouse_services.follower import begin_anew
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.ip_profiles import NOBODY, Holder
from guardhouse_services.ipam.domain.leases import (
    ASK_AGAIN,
    FOREVER,
    Exists,
    History,
    Holding,
    Lease,
    Ledger,
    Place,
)
from guardhouse_services.ipam.domain.subnets import Network, pairs_of
from guardhouse_services.ipam.usecases.effects import note, write
from guardhouse_services.ipam.usecases.reservations import Reservations, Wanted, opened
from guardhouse_services.leases import for_each

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
        self._reservations = Reservations(database, network, quarantine)
        self._history = history
        self._resolve_intent = resolve_intent

    async def reserve_addresses(
        self,
        call: Call,
        organization_id: str,
        intent_id: str,
        device_id: str,
        holder_id: str,
        holder: Holder = NOBODY,
    ) -> Lease:
        """Raises OrganizationNotFound, EnrollmentAborted and SubnetExhausted."""
        await self._directory.organization(organization_id)
        wanted = Wanted(call, intent_id, device_id, holder_id, holder)
        return await self._reservations.reserve(organization_id, wanted)

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
    ) -> History:
        """Who holds and held addresses of a network, behind a place; or with `at` only who did then."""

        def read(tx: Transaction) -> History:
            space = store.subnets.read_space(tx, organization_id)
            if space is None or (pairs := pairs_of(network, space.ipv6)) is None:
                return History([])
            first, last = pairs
            return store.leases.list_history(tx, organization_id, after or Place(first), last, at, limit)

        return await self._database.read(read)

    async def forget(self) -> None:
        """A job: drops what nobody needs to know any more: who held what, and how much was held, so long ago."""
        while True:
            await self.forget_once()
            await asyncio.sleep(FORGET_SECONDS)

    async def forget_once(self) -> None:
        """Drops what is due, in steps that keep nobody waiting."""
        for forget in (self._forget_holdings, self._forget_usage):
            while await self._database.write(forget) == FORGET_BATCH:
                log.debug("dropped %d rows that nobody needs any more", FORGET_BATCH)

    def _forget_holdings(self, tx: Transaction) -> int:
        return store.leases.forget_holdings(tx, tx.now - self._history, FORGET_BATCH)

    def _forget_usage(self, tx: Transaction) -> int:
        return store.subnets.forget_usage(tx, FORGET_BATCH)

    async def follow(self) -> None:
        """The job: follows the registry, and asks it for the outcomes that its feed does not tell.

        It is one job, because an answer may end a lease only where the feed is known to be applied up to the answer.
        """
        uncounted = await self.recount()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follower.run())
            group.create_task(self._resolve(uncounted))

    async def recount(self) -> list[str]:
        """Counts anew what subnets have held; answers the organizations for which that failed.

        Only whoever follows changes that, so counting once is enough, whichever release has followed until now. One
        that knew no subnets kept no count, nor did it note which registrations are revoked: a snapshot tells that.
        """
        after, failed = "", list[str]()
        while found := await self._database.read(partial(store.subnets.organizations, after=after)):
            failed += await self._count(found)
            after = found[-1]
        return failed

    async def _count(self, organization_ids: Collection[str]) -> list[str]:
        left = set(organization_ids)

        async def count(organization_id: str) -> None:
            await self._database.write(partial(self._recount, organization_id=organization_id), turn=organization_id)
            left.discard(organization_id)

        await for_each(organization_ids, count, "count the addresses")
        return sorted(left)

    def _recount(self, tx: Transaction, organization_id: str) -> None:
        space, subnets = opened(tx, organization_id, self._network)
        for each in subnets:
            store.subnets.recount(tx, organization_id, each)
        if not space.is_told:
            begin_anew(tx, "registry", organization_id)
            store.subnets.will_be_told(tx, organization_id)

    async def _resolve(self, uncounted: Collection[str]) -> None:
        while True:
            await asyncio.sleep(RESOLVE_SECONDS * random.uniform(0.5, 1))
            try:
                uncounted = await self._count(uncounted)
                await self.resolve_once()
            except Exception as error:  # whatever it was, the next round may fare better
                log.warning("outcomes of enrollments are not resolved", exc_info=error)

    async def resolve_once(self) -> None:
        """Asks for every outcome that is due. One that cannot be dealt with holds up no other."""
        while True:
            asking = await self._database.read(lambda tx: store.leases.find_asking(tx, tx.now, RESOLVE_BATCH))
            each_alone = (for_each([each], self._resolve_lease, "resolve the reservation") for each in asking)
            done = sum(await asyncio.gather(*each_alone))
            if len(asking) < RESOLVE_BATCH or not done:
                return

    async def _resolve_lease(self, of: tuple[str, Lease]) -> bool:
        organization_id, asked = of
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

        def put_off(tx: Transaction) -> None:
            store.subnets.lock_space(tx, organization_id)
            if store.leases.find_lease(tx, organization_id, asked.lease_id) == asked:
                store.leases.save_leases(tx, organization_id, [replace(asked, ask_time=tx.now + ASK_AGAIN)])

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
                put_off(tx)

        try:
            await self._database.write(settle, turn=organization_id)
        except Exception:
            # Or it would be among the first again, and with many such nobody else's would ever be.
            await self._database.write(put_off, turn=organization_id)
            raise
        return True

    async def _ask(self, organization_id: str, registration_id: str) -> registry.ResolveIntentResponse:
        """The registry's answer; one without an outcome when there is none."""
        try:
            return await self._resolve_intent(organization_id, registration_id)
        except GuardhouseError as error:
            log.info("the registry does not say what has become of %s: %s", registration_id, error.message)
            return registry.ResolveIntentResponse()
