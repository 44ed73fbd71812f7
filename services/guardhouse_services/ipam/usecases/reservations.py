"""Reservations: which subnet, and which pair of it."""

import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from guardhouse import ids
from guardhouse.errors import EnrollmentAborted, GuardhouseError, SubnetExhausted
from guardhouse_services import audit
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.ip_profiles import Holder, IpProfile, first_match
from guardhouse_services.ipam.domain.leases import ASK_AFTER, Lease, State
from guardhouse_services.ipam.domain.pins import Pins
from guardhouse_services.ipam.domain.subnets import Space, Subnet, first_subnet, new_space
from guardhouse_services.together import Together

REMEMBERED = 1000
"""Of how many organizations the IP profiles are kept in memory."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reservation that is asked for."""

    call: Call
    intent_id: str
    device_id: str
    holder_id: str
    holder: Holder
    """Who that is, for IP profiles."""


class Reservations:
    """Reserves pairs. Those of an organization that wait together in this replica share a transaction."""

    def __init__(self, database: Database, network: str, quarantine: int) -> None:
        self._database = database
        self._network = network
        self._quarantine = quarantine
        self._together = Together(self._reserve_all)
        self._profiles: OrderedDict[str, tuple[int, Sequence[IpProfile]]] = OrderedDict()

    async def reserve(self, organization_id: str, wanted: Wanted) -> Lease:
        """Raises EnrollmentAborted and SubnetExhausted."""
        lease = await self._together.do(organization_id, wanted)
        failpoint("ipam.reserved")
        return lease

    async def _reserve_all(self, organization_id: str, wanted: Sequence[Wanted]) -> list[Lease | GuardhouseError]:
        def work(tx: Transaction) -> list[Lease | GuardhouseError]:
            failpoint("ipam.reserve")
            return self._reserve(tx, organization_id, wanted)

        return await self._database.write(work, turn=organization_id)

    def _reserve(
        self, tx: Transaction, organization_id: str, wanted: Sequence[Wanted]
    ) -> list[Lease | GuardhouseError]:
        """A lease for each, or why there is none."""
        space, subnets = opened(tx, organization_id, self._network)
        profiles = self._profiles_of(tx, organization_id, space)
        pins = Pins(store.pins.all_of(tx, organization_id))
        known = store.leases.find_known(
            tx, organization_id, [(each.intent_id, each.device_id, each.holder_id) for each in wanted]
        )
        results: dict[str, Lease | GuardhouseError] = {**known.reserved}
        for intent_id in known.buried:
            results[intent_id] = EnrollmentAborted("what this enrollment reserved was given back; start a new one")
        drafts: defaultdict[Subnet, dict[str, Lease]] = defaultdict(dict)
        returning: list[Lease] = []
        for each in wanted:
            if each.intent_id in results:
                continue
            subnet = _chosen(subnets, profiles, each.holder)
            draft = _draft(tx, subnet, each)
            if (pinned := self._pinned(tx, organization_id, space, subnets, draft, pins)) is not None:
                results[each.intent_id] = pinned
                continue
            own = known.resting.pop((each.device_id, each.holder_id, subnet.number), None)
            if own is None or pins.covering(own.ipv4):
                drafts[subnet][each.intent_id] = draft
            else:
                returning.append(_given(draft, own))
            results[each.intent_id] = draft
        store.leases.take_rested(tx, organization_id, returning)
        results |= {lease.registration_id or "": lease for lease in returning}
        for subnet, of_it in drafts.items():
            results |= self._allocate(tx, organization_id, space, subnet, of_it, pins)
        for intent_id, each in {each.intent_id: each for each in wanted}.items():
            lease = results[intent_id]
            if isinstance(lease, Lease) and intent_id not in known.reserved:
                audit.note(tx, each.call, lease.lease_id, intent_id)
        return [results[each.intent_id] for each in wanted]

    def _pinned(
        self,
        tx: Transaction,
        organization_id: str,
        space: Space,
        subnets: Sequence[Subnet],
        draft: Lease,
        pins: Pins,
    ) -> Lease | None:
        """Gives the lease the pair that is pinned to its holder on the device, whatever subnet it is of.

        None: there is none, or it is held, or whoever had it before may not be forgotten yet.
        """
        pin = pins.of(draft.device_id, draft.holder_id)
        if pin is None:
            return None
        subnet = next((each for each in subnets if each.contains(pin.first_ipv4, pin.last_ipv4)), None)
        if subnet is None:
            return None
        made = replace(draft, ipv4=pin.first_ipv4, ipv6=space.ipv6_of(pin.first_ipv4), subnet=subnet.number)
        pair = store.leases.find_pair(tx, organization_id, pin.first_ipv4)
        if pair is None:
            store.leases.add_leases(tx, organization_id, [made])
            return made
        was_theirs = (pair.device_id, pair.holder_id) == (draft.device_id, draft.holder_id)
        if pair.rest_time is None or (pair.rest_time > tx.now - self._quarantine and not was_theirs):
            return None
        made = replace(made, release_time=pair.release_time)
        store.leases.take_rested(tx, organization_id, [made])
        return made

    def _allocate(
        self,
        tx: Transaction,
        organization_id: str,
        space: Space,
        subnet: Subnet,
        drafts: dict[str, Lease],
        pins: Pins,
    ) -> dict[str, Lease | GuardhouseError]:
        """Gives each lease a pair of the subnet: the one that has rested longest, or one never given out.

        Rested pairs go before new ones so that no more addresses are ever in use than were needed at once: the table
        and its indexes stay as small, and a network that is used up behaves like one that is not.
        """
        waiting = list(drafts.values())
        before = tx.now - self._quarantine
        rested, is_searched = _rested(tx, organization_id, subnet, before, len(waiting), pins)
        again = [_given(draft, pair) for draft, pair in zip(waiting, rested, strict=False)]
        numbers = _never_given_out(tx, organization_id, subnet, len(waiting) - len(again), pins)
        new = [
            replace(draft, ipv4=ipv4, ipv6=space.ipv6_of(ipv4))
            for draft, ipv4 in zip(waiting[len(again) :], numbers, strict=False)
        ]
        store.leases.take_rested(tx, organization_id, again)
        store.leases.add_leases(tx, organization_id, new)
        if again or new or is_searched:
            # The next search begins where this one ended; none walks over what pins keep a second time.
            searched = before if len(again) < len(waiting) else rested[-1].rest_time or 0
            place = replace(
                subnet,
                next_ipv4=new[-1].ipv4 + 1 if new else subnet.next_ipv4,
                rested_time=max(subnet.rested_time, searched),
            )
            store.subnets.save_place(tx, organization_id, place)
        message = f"every address of {subnet.ipv4} is in use or resting; delete registrations that are not used"
        full = SubnetExhausted(message, subnet=subnet.ipv4)
        given = {lease.registration_id or "": lease for lease in (*again, *new)}
        return {intent_id: given.get(intent_id, full) for intent_id in drafts}

    def _profiles_of(self, tx: Transaction, organization_id: str, space: Space) -> Sequence[IpProfile]:
        """As they are now, from memory unless they were changed since."""
        version, profiles = self._profiles.get(organization_id, (0, ()))
        if version != space.profiles_version:
            profiles = store.ip_profiles.of_organization(tx, organization_id)
            self._profiles[organization_id] = space.profiles_version, profiles
            while len(self._profiles) > REMEMBERED:
                self._profiles.popitem(last=False)
        return profiles


def opened(tx: Transaction, organization_id: str, network: str) -> tuple[Space, list[Subnet]]:
    """The organization's space, locked, and its subnets, of which the first is made of the network if there is none."""
    space = store.subnets.lock_space(tx, organization_id) or store.subnets.add_space(
        tx, organization_id, new_space(network, secrets.randbits(56))
    )
    subnets = store.subnets.of_space(tx, organization_id, space)
    if not subnets:
        # It is the first use, or a release that knew no subnets made the space. Its id comes before that of another one
        # that is made at this moment.
        made = first_subnet(space, ids.new_id(ids.SUBNET, tx.now - 1), tx.now)
        store.subnets.insert(tx, organization_id, made)
        subnets.append(made)
    return space, subnets


def _chosen(subnets: Sequence[Subnet], profiles: Sequence[IpProfile], holder: Holder) -> Subnet:
    """The subnet of the first profile that matches, else the default one."""
    decider = first_match(profiles, holder) if profiles else None
    if decider is None:
        return next(each for each in subnets if each.is_default)
    return next(each for each in subnets if each.subnet_id == decider.subnet_id)


def _draft(tx: Transaction, subnet: Subnet, wanted: Wanted) -> Lease:
    """The lease, without its pair."""
    return Lease(
        lease_id=ids.new_id(ids.LEASE, tx.now),
        ipv4=0,
        ipv6="",
        state=State.RESERVED,
        registration_id=wanted.intent_id,
        device_id=wanted.device_id,
        holder_id=wanted.holder_id,
        reserve_time=tx.now,
        ask_time=tx.now + ASK_AFTER,
        subnet=subnet.number,
    )


def _rested(
    tx: Transaction, organization_id: str, subnet: Subnet, before: int, count: int, pins: Pins
) -> tuple[list[Lease], bool]:
    """The pairs that have rested longest, up to so many, without those that pins keep; and whether it met any."""
    limit = count
    while True:
        found = store.leases.find_rested(tx, organization_id, subnet, before, limit)
        free = [pair for pair in found if not pins.covering(pair.ipv4)][:count]
        if len(free) == count or len(found) < limit:
            return free, bool(found)
        limit *= 4


def _never_given_out(tx: Transaction, organization_id: str, subnet: Subnet, count: int, pins: Pins) -> list[int]:
    """The lowest addresses from the mark on, up to so many, that nobody had and no pin keeps.

    Somebody had one beyond the mark if it was pinned to them. What a subnet that was deleted has left goes.
    """
    end = int(subnet.network.broadcast_address)
    numbers: list[int] = []
    ipv4 = pins.behind(subnet.next_ipv4)
    while len(numbers) < count and ipv4 < end:
        wanted: list[int] = []
        while len(numbers) + len(wanted) < count and ipv4 < end:
            wanted.append(ipv4)
            ipv4 = pins.behind(ipv4 + 1)
        known = store.leases.find_pairs(tx, organization_id, wanted[0], wanted[-1])
        if any(pair.subnet != subnet.number for pair in known):
            store.leases.drop_left(tx, organization_id, subnet.number, wanted[0], wanted[-1])
        had = {pair.ipv4 for pair in known if pair.subnet == subnet.number}
        numbers += [number for number in wanted if number not in had]
    return numbers


def _given(draft: Lease, pair: Lease) -> Lease:
    """The lease with a pair that was given out before."""
    return replace(draft, ipv4=pair.ipv4, ipv6=pair.ipv6, release_time=pair.release_time)
