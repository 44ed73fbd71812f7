"""Whatever is done in whatever order, addresses are whose a model says (I-01, I-02, decisions 25 and 26)."""

import asyncio
import ipaddress
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from guardhouse.durations import SECOND
from guardhouse.errors import AddressHeld, EnrollmentAborted, PinExists, SubnetExhausted
from guardhouse.ids import DEVICE, ORGANIZATION, REGISTRATION, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.database import change
from guardhouse_services.ipam.domain.leases import Lease
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, name, new

T = TypeVar("T")
Person = tuple[str, str]
"""A device and a holder."""
NOBODY: Person = ("", "")
USABLE = range(1, 15)
"""Of a /28, by the last byte."""
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
        return self.lease.ipv4 & 0xF


@dataclass
class Intent:
    """A reservation whose outcome is open, or lost."""

    lease: Lease
    person: Person
    is_lost: bool = False
    since: float = 0

    @property
    def address(self) -> int:
        return self.lease.ipv4 & 0xF


@dataclass
class Model:
    """What there should be, by the last byte of addresses."""

    intents: dict[str, Intent] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    released: dict[int, tuple[int, Person]] = field(default_factory=dict)
    last: dict[int, Person] = field(default_factory=dict)
    pins: dict[str, tuple[range, Person]] = field(default_factory=dict)
    log: list[list[tuple[str, str]]] = field(default_factory=list)
    """The registry's changes: ("exists" or "gone", registration)."""
    applied: int = 0

    def in_use(self) -> dict[int, Person]:
        """Reserved, or held as far as ipam has been told."""
        used = {it.address: it.person for it in self.intents.values()}
        return used | {it.address: it.person for it in self.made.values() if not it.is_told_gone}

    def kept_from(self, person: Person) -> set[int]:
        return {each for of, who in self.pins.values() for each in of if who != person}


class Machine(RuleBasedStateMachine):
    """Four people and fourteen addresses, a registry with its log, and a feed that lags, repeats and breaks."""

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
        used, kept = model.in_use(), model.kept_from(person)
        free = {it for it in USABLE if it not in used and it not in kept}
        try:
            lease = self.run(self.world.reserve("", *person))
        except SubnetExhausted:
            assert all(self.rested(it, person) < HOUR + TOLERANCE for it in free)
            return
        address = lease.ipv4 & 0xF
        assert address in free
        assert self.rested(address, person) > HOUR - TOLERANCE
        pinned = [it.start for it, whose in model.pins.values() if whose == person]
        own = [it for it in free if model.last.get(it) == person]
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

    @rule(who=st.integers(-1, 3), address=st.integers(1, 14))
    def pin(self, who: int, address: int) -> None:
        person, model = (self.people[who] if who >= 0 else NOBODY), self.it
        wanted = range(address, address + 1) if who >= 0 else range(address // 4 * 4, address // 4 * 4 + 4)
        taken = any(
            set(of) & set(wanted) or (whose == person and person != NOBODY) for of, whose in model.pins.values()
        )
        network = ipaddress.ip_network(f"10.9.8.{wanted.start}/{32 if who >= 0 else 30}")
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
        taken = {row.ipv4 & 0xF: (row.device_id, row.holder_id) for row in rows if row.rest_time is None}
        assert taken == self.it.in_use()

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
