"""Whatever is done in whatever order, addresses are whose a model says (I-01, I-02, decisions 24, 25 and 26)."""

import asyncio
import ipaddress
import secrets
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from guardhouse.durations import SECOND
from guardhouse.errors import AddressHeld, EnrollmentAborted, PinExists, SubnetExhausted, SubnetInUse, SubnetOverlaps
from guardhouse.ids import DEVICE, ORGANIZATION, REGISTRATION, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.database import change
from guardhouse_services.ipam.domain.ip_profiles import Holder, IpProfile
from guardhouse_services.ipam.domain.leases import Lease, State
from guardhouse_services.ipam.metrics import STATES
from guardhouse_services.paging import Page
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, name, new

T = TypeVar("T")
Person = tuple[str, str]
"""A device and a holder."""
NOBODY: Person = ("", "")
BASE = int(ipaddress.IPv4Address("10.9.8.0"))
"""Addresses are told by how far behind this one they are."""
SUBNETS = 3
"""Networks of a /28 each, a /24 apart. The organization begins with the first."""
TOLERANCE = 20
"""Seconds within which the clock of a quarantine is not asked: the real one runs on."""


@dataclass
class Made:
    """A registration as the registry has it."""

    registration_id: str
    person: Person
    lease: Lease
    is_revoked: bool = False
    is_live: bool = True
    is_told_gone: bool = False

    @property
    def address(self) -> int:
        return self.lease.ipv4 - BASE


@dataclass
class Intent:
    """A reservation whose outcome is open, or lost."""

    lease: Lease
    person: Person
    is_lost: bool = False
    since: float = 0

    @property
    def address(self) -> int:
        return self.lease.ipv4 - BASE


def usable(number: int) -> range:
    """The addresses of a subnet that somebody may have."""
    return range(number * 256 + 1, number * 256 + 15)


@dataclass
class Model:
    """What there should be, by addresses."""

    intents: dict[str, Intent] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    released: dict[int, tuple[int, Person]] = field(default_factory=dict)
    last: dict[int, Person] = field(default_factory=dict)
    pins: dict[str, tuple[range, Person]] = field(default_factory=dict)
    subnets: dict[int, str] = field(default_factory=dict)
    default: int = 0
    profiles: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """By precedence: the id, for which of the people, and the subnet."""
    log: list[list[tuple[str, str]]] = field(default_factory=list)
    """The registry's changes: ("exists" or "gone", registration)."""
    applied: int = 0

    def in_use(self) -> dict[int, Person]:
        """Reserved, or held as far as ipam has been told."""
        used = {it.address: it.person for it in self.intents.values()}
        return used | {it.address: it.person for it in self.made.values() if not it.is_told_gone}

    def kept_from(self, person: Person) -> set[int]:
        return {each for of, who in self.pins.values() for each in of if who != person}

    def chosen(self, who: int) -> int:
        """The subnet that somebody is given an address of."""
        return next((subnet for _, (_, of, subnet) in sorted(self.profiles.items()) if of == who), self.default)


class Machine(RuleBasedStateMachine):
    """Four people, fourteen addresses a subnet, a registry with its log, and a feed that lags, repeats and breaks."""

    def __init__(self, world: World, runner: asyncio.Runner) -> None:
        super().__init__()
        self.world, self._runner = world, runner
        self.it = Model()
        self.people: list[Person] = []
        self.snapshots: dict[int, dict[str, str]] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @initialize()
    def start(self) -> None:
        self.people = [(new(DEVICE), new(USER)) for _ in range(4)]
        self.world.organization, self.world.position = new(ORGANIZATION), 0
        self.world.outcomes.clear()
        self.run(self.world.start())
        # Whatever is asked for first makes the first subnet.
        self.run(self.world.release(name(self.run(self.world.reserve()))))
        self.it.subnets[0] = self.run(self.world.ipam.view.map(self.world.organization, "", 1)).subnet.subnet_id
        self.create_subnet(1)
        self.set_profile(0, 2, 1)

    def call(self, method: str) -> Call:
        caller = Caller("key", "key_1")
        key = RequestKey(self.world.organization, caller.name, method, secrets.token_hex(8), b"")
        return Call(caller, method, "trace", key)

    def rested(self, address: int, person: Person) -> float:
        """For how many seconds nobody has had it; without an end if nobody else did, or none has to forget it."""
        time, before = self.it.released.get(address, (0, person))
        return float("inf") if before == person else (self.world.clock.now() - time) / SECOND

    # Enrollments

    @rule(who=st.integers(0, 3))
    def reserve(self, who: int) -> None:
        person, model = self.people[who], self.it
        used, kept, chosen = model.in_use(), model.kept_from(person), usable(model.chosen(who))
        pinned = [it.start for it, whose in model.pins.values() if whose == person]
        free = {it for it in (*chosen, *pinned) if it not in used and it not in kept}
        try:
            lease = self.run(self.world.reserve("", *person, identity=Holder(email=email(who))))
        except SubnetExhausted:
            assert all(self.rested(it, person) < HOUR + TOLERANCE for it in free)
            return
        address = lease.ipv4 - BASE
        assert address in free
        assert self.rested(address, person) > HOUR - TOLERANCE
        own = [it for it in free if it in chosen and model.last.get(it) == person]
        if pinned and pinned[0] in free and self.rested(pinned[0], person) > HOUR + TOLERANCE:
            assert address == pinned[0]
        elif own and not (pinned and pinned[0] in free):
            assert address in own
        if model.released.get(address, (0, person))[1] != person:
            del model.released[address]
        model.last[address] = person
        model.intents[name(lease)] = Intent(lease, person)

    @rule(data=st.data())
    def activate(self, data: st.DataObject) -> None:
        if (intent_id := self.choose(data, [it for it, of in self.it.intents.items() if not of.is_lost])) is not None:
            intent = self.it.intents.pop(intent_id)
            self.it.made[intent_id] = Made(intent_id, intent.person, intent.lease)
            self.commit(("exists", intent_id))

    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        """The same person enrolls again: the lease moves, and what was reserved for it comes back at once."""
        old = self.choose(data, [it for it, of in self.it.made.items() if of.is_live and not of.is_revoked])
        if old is not None:
            before = self.it.made[old]
            before.is_live = False
            made = Made(new(REGISTRATION), before.person, before.lease)
            self.it.made[made.registration_id] = made
            self.commit(("exists", made.registration_id), ("gone", old))

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if (intent_id := self.choose(data, list(self.it.intents))) is not None:
            self.run(self.world.release(intent_id))
            del self.it.intents[intent_id]
            with pytest.raises(EnrollmentAborted):
                self.run(self.world.reserve(intent_id, *self.people[0]))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The registry aborts, and its call does not arrive."""
        if (intent_id := self.choose(data, list(self.it.intents))) is not None:
            self.it.intents[intent_id].is_lost = True

    # What admins do

    @rule(data=st.data())
    def revoke_or_not(self, data: st.DataObject) -> None:
        if (chosen := self.choose(data, [it for it, of in self.it.made.items() if of.is_live])) is not None:
            made = self.it.made[chosen]
            made.is_revoked = not made.is_revoked
            self.commit(("exists", chosen))

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if (chosen := self.choose(data, [it for it, of in self.it.made.items() if of.is_live])) is not None:
            self.it.made[chosen].is_live = False
            self.commit(("gone", chosen))

    @rule(who=st.integers(-1, 3), data=st.data())
    def pin(self, who: int, data: st.DataObject) -> None:
        person, model = (self.people[who] if who >= 0 else NOBODY), self.it
        address = data.draw(st.sampled_from([each for number in sorted(model.subnets) for each in usable(number)]))
        wanted = range(address, address + 1) if who >= 0 else range(address // 4 * 4, address // 4 * 4 + 4)
        taken = any(
            set(of) & set(wanted) or (whose == person and person != NOBODY) for of, whose in model.pins.values()
        )
        network = ipaddress.ip_network((BASE + wanted.start, 32 if who >= 0 else 30))
        pinning = self.world.ipam.pins.pin(self.call("PinAddress"), self.world.organization, network, *person, "")
        try:
            made = self.run(pinning)
        except PinExists:
            assert taken
        except AddressHeld:
            assert not taken
            assert who >= 0
            assert model.in_use()[address] != person
        else:
            assert not taken
            assert who < 0 or model.in_use().get(address, person) == person
            model.pins[made.pin_id] = (wanted, person)

    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        if (pin_id := self.choose(data, list(self.it.pins))) is not None:
            self.run(self.world.ipam.pins.unpin(self.call("UnpinAddress"), self.world.organization, pin_id))
            del self.it.pins[pin_id]

    @rule(number=st.integers(1, SUBNETS - 1))
    def create_subnet(self, number: int) -> None:
        """Decision 24: none overlaps another."""
        wanted = {"display_name": "x", "description": "", "ipv4": network_of(number), "is_default": False}
        creating = self.world.ipam.subnets.create(self.call("CreateSubnet"), self.world.organization, wanted)
        if number in self.it.subnets:
            with pytest.raises(SubnetOverlaps):
                self.run(creating)
        else:
            self.it.subnets[number] = self.run(creating)[0].subnet_id

    @rule(data=st.data())
    def make_default(self, data: st.DataObject) -> None:
        self.it.default = data.draw(st.sampled_from(sorted(self.it.subnets)))
        made = self.it.subnets[self.it.default]
        call, changes = self.call("UpdateSubnet"), {"is_default": True}
        self.run(self.world.ipam.subnets.update(call, self.world.organization, made, changes, ""))

    @rule(data=st.data())
    def delete_subnet(self, data: st.DataObject) -> None:
        """Decision 24: not while anything of it is in use."""
        model, number = self.it, data.draw(st.sampled_from(sorted(self.it.subnets)))
        addresses = usable(number)
        is_named = number == model.default or any(of == number for _, _, of in model.profiles.values())
        is_used = bool(set(model.in_use()) & set(addresses)) or any(
            set(pinned) & set(addresses) for pinned, _ in model.pins.values()
        )
        rested = [self.rested(each, NOBODY) for each in addresses]
        deleting = self.world.ipam.subnets.delete(
            self.call("DeleteSubnet"), self.world.organization, model.subnets[number], "", validate_only=False
        )
        try:
            self.run(deleting)
        except SubnetInUse:
            assert is_named or is_used or min(rested) < HOUR + TOLERANCE
            return
        assert not is_named
        assert not is_used
        assert min(rested) > HOUR - TOLERANCE
        del model.subnets[number]
        for each in addresses:
            model.released.pop(each, None)
            model.last.pop(each, None)

    @rule(who=st.integers(0, 3), precedence=st.integers(1, 3), data=st.data())
    def change_profile(self, who: int, precedence: int, data: st.DataObject) -> None:
        self.set_profile(who, precedence, data.draw(st.sampled_from(sorted(self.it.subnets))))

    def set_profile(self, who: int, precedence: int, number: int) -> None:
        """Decision 24: the first that matches decides. There is one of a precedence."""
        profiles, organization = self.world.ipam.ip_profiles, self.world.organization
        if precedence in self.it.profiles:
            gone, _, _ = self.it.profiles.pop(precedence)
            self.run(profiles.delete(self.call("DeleteIpProfile"), organization, gone, "", validate_only=False))
        subnet_id, match = self.it.subnets[number], f'identity.email == "{email(who)}"'

        def draft(ip_profile_id: str, now: int) -> IpProfile:
            return IpProfile(ip_profile_id, "x", "", match, precedence, subnet_id, True, now, now)

        made, _ = self.run(profiles.create(self.call("CreateIpProfile"), organization, draft, validate_only=False))
        self.it.profiles[precedence] = (made.ip_profile_id, who, number)

    @rule(data=st.data())
    def delete_profile(self, data: st.DataObject) -> None:
        if self.it.profiles:
            gone, _, _ = self.it.profiles.pop(data.draw(st.sampled_from(sorted(self.it.profiles))))
            call = self.call("DeleteIpProfile")
            deleting = self.world.ipam.ip_profiles.delete(call, self.world.organization, gone, "", validate_only=False)
            self.run(deleting)

    # Time, and the feed

    @rule(seconds=st.sampled_from([60, HOUR / 3, HOUR]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(count=st.integers(1, 4))
    def follow(self, count: int) -> None:
        for told in self.it.log[self.it.applied : self.it.applied + count]:
            self.run(self.world.change(*map(self.event, told)))
            self.tell(told)
            self.it.applied += 1

    @rule(data=st.data())
    def resync(self, data: st.DataObject) -> None:
        """A snapshot of what is, and changes again that are as old as may be."""
        model = self.it
        since = data.draw(st.integers(0, len(model.log)), "replayed since")
        replayed = model.log[since:]
        live = [self.event(("exists", it.registration_id)) for it in model.made.values() if it.is_live]
        self.world.position = len(model.log)
        self.run(self.world.resync(*live, replayed=[list(map(self.event, told)) for told in replayed]))
        for told in replayed:
            self.tell(told)
        model.applied = len(model.log)

    @rule()
    def resolve(self) -> None:
        self.world.advance(61)
        self.world.fresh.value = self.it.applied == len(self.it.log)
        for intent_id, intent in self.it.intents.items():
            self.world.answers(
                intent_id, registry.INTENT_OUTCOME_ABORTED if intent.is_lost else registry.INTENT_OUTCOME_PENDING
            )
        for made in self.it.made.values():
            outcome = registry.INTENT_OUTCOME_ACTIVE if made.is_live else registry.INTENT_OUTCOME_DELETED
            self.world.answers(made.registration_id, outcome, made.lease.lease_id)
        # One that has ended may leave the lease to another that has, too.
        for _ in range(3):
            self.run(self.world.ipam.addresses.resolve_once())
            self.world.advance(6)
        if self.world.fresh.value:
            for intent_id in [it for it, of in self.it.intents.items() if of.is_lost]:
                del self.it.intents[intent_id]
            self.tell([("gone", it.registration_id) for it in self.it.made.values() if not it.is_live])

    # What is so

    @invariant()
    def every_address_is_whose_it_should_be(self) -> None:
        rows = self.run(self.world.leases())
        taken = {row.ipv4 - BASE: (row.device_id, row.holder_id) for row in rows if row.rest_time is None}
        assert taken == self.it.in_use()

    @invariant()
    def every_address_is_counted_once(self) -> None:
        """What a subnet is said to have is what is found by looking at each of its addresses."""
        if not self.it.subnets:
            return
        rows = {row.ipv4 - BASE: row for row in self.run(self.world.leases())}
        shown = self.run(self.world.ipam.subnets.page(self.world.organization, Page("", 100)))
        assert {each.subnet_id for each, _ in shown} == set(self.it.subnets.values())
        pinned = {each for of, _ in self.it.pins.values() for each in of}
        numbers = {subnet_id: number for number, subnet_id in self.it.subnets.items()}
        for subnet, used in shown:
            now = self.world.clock.now()
            its = Counter(state_of(rows.get(each), each in pinned, now) for each in usable(numbers[subnet.subnet_id]))
            counted = {state: count for state in STATES if (count := getattr(used, state))}
            if counted != its:
                # A pair may have come out of quarantine since.
                now -= TOLERANCE * SECOND
                its = Counter(
                    state_of(rows.get(each), each in pinned, now) for each in usable(numbers[subnet.subnet_id])
                )
            assert counted == its
            assert sum(counted.values()) == used.total == 14

    @invariant()
    def the_snapshot_is_noted(self) -> None:
        if self.world.organization:
            revision = self.run(self.world.database.read(lambda tx: tx.revision(self.world.organization)))
            self.snapshots.setdefault(revision, self.run(self.world.snapshot()))

    def teardown(self) -> None:
        if not self.people:
            return
        self.follow(len(self.it.log))
        self.resolve()
        held = {it.registration_id for it in self.it.made.values() if it.is_live}
        now = self.run(self.world.snapshot())
        assert set(now.values()) == held
        assert len(now) == len(held)
        self.audit_history()
        events = self.run(self.changes())
        for revision, state in self.snapshots.items():
            assert replayed(state, [each for at, each in events if at > revision]) == now

    def audit_history(self) -> None:
        """At any time in the past one registration at most held an address."""
        spans: dict[int, int] = {}
        for row in sorted(self.run(self.world.history()), key=lambda row: (row.ipv4, row.hold_time)):
            assert row.hold_time >= spans.get(row.ipv4, 0)
            spans[row.ipv4] = row.release_time or 2**62

    async def changes(self) -> list[tuple[int, pb.Event]]:
        query = sa.select(change.c.revision, change.c.payload).order_by(change.c.revision)
        query = query.where(change.c.organization_id == self.world.organization)
        rows = await self.world.database.read(lambda tx: tx.execute(query).all())
        return [(row.revision, each) for row in rows for each in pb.Change.FromString(row.payload).events]

    # The registry

    def commit(self, *told: tuple[str, str]) -> None:
        self.it.log.append(list(told))

    def event(self, told: tuple[str, str]) -> registry.Event:
        kind, registration_id = told
        if kind == "gone":
            return deleted(registration_id)
        made = self.it.made[registration_id]
        event = self.world.record(registration_id, made.lease)
        if made.is_revoked:
            event.registration.registration.state = registry.REGISTRATION_STATE_REVOKED
        return event

    def tell(self, told: list[tuple[str, str]]) -> None:
        """What ipam has heard: an address is released when each of its holders is known to be gone."""
        for kind, registration_id in told:
            made = self.it.made[registration_id]
            if kind == "gone" and not made.is_told_gone:
                made.is_told_gone = True
                if made.address not in self.it.in_use():
                    self.it.released[made.address] = (self.world.clock.now(), made.person)

    def choose(self, data: st.DataObject, among: list[str]) -> str | None:
        return among[data.draw(st.integers(0, len(among) - 1), "which")] if among else None


def state_of(row: sa.Row[Any] | None, is_pinned: bool, now: int) -> str:
    """What an address is, by its row."""
    if row is not None and row.state == State.HELD:
        return "active" if row.revoke_time is None else "revoked"
    if row is not None and row.state == State.RESERVED:
        return "reserved"
    if row is not None and row.rest_time > now - HOUR * SECOND:
        return "quarantined"
    return "pinned" if is_pinned else "free"


def email(who: int) -> str:
    return f"{who}@example.com"


def network_of(number: int) -> str:
    return f"{ipaddress.IPv4Address(BASE + number * 256)}/28"


def replayed(state: dict[str, str], events: list[pb.Event]) -> dict[str, str]:
    """The holders of addresses after the events of the feed."""
    held = dict(state)
    for event in events:
        if event.HasField("lease"):
            held[event.lease.ipv4] = event.lease.registration_id
        else:
            held.pop(event.lease_released.ipv4, None)
    return held


@pytest.mark.parametrize("examples", [5, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_addresses_are_whose_the_model_says(database_url: DatabaseUrl, examples: int) -> None:
    with asyncio.Runner() as runner:
        world = World(database_url("ipam"), FakeClock(), network="10.9.8.0/28")
        runner.run(world.start())
        run_state_machine_as_test(
            lambda: Machine(world, runner),  # type: ignore[arg-type]  # it takes what makes one as well
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
        world.close()
