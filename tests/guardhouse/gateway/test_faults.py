"""A gateway beside a registry of ours that is cut off, restored and compacted, an interface that ends and begins anew,
and clocks that jump: once all is well, the peers are the active registrations.

Time is an argument, and nothing waits: the test says when the gateway has a turn.
"""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from guardhouse.durations import HOUR, MINUTE, SECOND
from guardhouse.following import Position
from guardhouse.gateway.uapi import Interface, InterfaceUnavailable
from guardhouse.gateway.wireguard import Gateway, WhenStale
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as pb
from tests.wireguard import FakeInterface

T = TypeVar("T")

ORGANIZATION = "org_" + "0" * 32
PROFILE = Profile(registry="127.0.0.1:1", organization_id=ORGANIZATION, key="ghk_key")
MAX_STALENESS = 30 * SECOND
NAMES = [f"reg_{number:032x}" for number in range(6)]
Allowed = dict[str, set[str]]


class StandingClock:
    """Time goes on when a test says so."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * SECOND
        self.since_start = 1000 * SECOND

    def now(self) -> int:
        return self.wall

    def steady(self) -> int:
        return self.since_start

    def pass_by(self, time: int) -> None:
        self.wall += time
        self.since_start += time


class InMemory(Interface):
    """An interface without a socket: what would be written to it is carried out at once."""

    def __init__(self, fake: FakeInterface, folder: Path) -> None:
        super().__init__("wg0", folder)
        self.fake = fake
        self.is_there = True

    async def exchange(self, request: bytes) -> bytes:
        if not self.is_there:
            raise InterfaceUnavailable("there is no interface wg0")
        if self.fake.errno:
            raise InterfaceUnavailable("wg0 refuses what it was asked")
        return self.fake.answer(request.decode().rstrip("\n").split("\n")).encode()


class Registry:
    """What a registry knows and says to one gateway at a time."""

    def __init__(self) -> None:
        self.epoch = 1
        self.active: dict[str, pb.Registration] = {}
        self.revoked: dict[str, pb.Registration] = {}
        self.history: list[list[pb.Event]] = []
        self.compacted = 0
        """Before this revision nothing can be resumed."""
        self._keys = 0

    @property
    def position(self) -> Position:
        return f"epoch {self.epoch}", len(self.history)

    @property
    def expected(self) -> Allowed:
        return {it.public_key.hex(): {f"{it.ipv4}/32", f"{it.ipv6}/128"} for it in self.active.values()}

    def say(self, *events: pb.Event) -> None:
        self.history.append(list(events))

    def key(self) -> bytes:
        self._keys += 1
        return hashlib.sha256(str(self._keys).encode()).digest()

    def put(self, name: str, place: int) -> pb.Event:
        """Active with a new key, at the addresses of this place."""
        of = pb.Registration(
            registration_id=name,
            state=pb.REGISTRATION_STATE_ACTIVE,
            key_type=pb.KEY_TYPE_CURVE25519,
            public_key=self.key(),
            ipv4=str(IPv4Address("100.96.0.0") + place),
            ipv6=f"fd00::{place:x}",
        )
        self.active[name] = of
        return _event(of)

    def end(self, name: str) -> pb.Event:
        self.active.pop(name, None)
        self.revoked.pop(name, None)
        return pb.Event(registration_deleted=name)

    def revoke(self, name: str) -> pb.Event:
        of = self.revoked[name] = self.active.pop(name)
        of.state = pb.REGISTRATION_STATE_REVOKED
        return _event(of)

    def unrevoke(self, name: str) -> pb.Event:
        of = self.active[name] = self.revoked.pop(name)
        of.state = pb.REGISTRATION_STATE_ACTIVE
        return _event(of)

    def rotate(self, name: str) -> pb.Event:
        self.active[name].public_key = self.key()
        return _event(self.active[name])

    def restore(self) -> None:
        """A backup of a while ago, in a new epoch: who has enrolled since is not known, who was revoked is active."""
        for name in list(self.revoked):
            self.unrevoke(name)
        for name in list(self.active)[2:]:
            del self.active[name]
        self.history = self.history[: len(self.history) // 2]
        self.compacted = len(self.history)
        self.epoch += 1

    async def serve(self, gateway: Gateway) -> None:
        """What a follower is sent: the changes since, or the whole, and the proof that this is all."""
        await self.send(gateway)
        gateway._follower.restore({ORGANIZATION: self.position}, gateway._clock.steady())

    async def send(self, gateway: Gateway) -> None:
        at = gateway.known
        if at is None or at[0] != self.position[0] or not self.compacted <= at[1] <= len(self.history):
            await gateway.begin(ORGANIZATION)
            rows = [*self.active.values(), *self.revoked.values()]
            await gateway.page(ORGANIZATION, [_event(of) for of in rows])
            await gateway.end(ORGANIZATION, self.position)
        else:
            for revision in range(at[1], len(self.history)):
                before, after = (at[0], revision), (at[0], revision + 1)
                await gateway.change(ORGANIZATION, self.history[revision], before, after)


def _event(of: pb.Registration) -> pb.Event:
    return pb.Event(registration=pb.RegistrationRecord(registration=of))


class Site:
    """A gateway with its interface, its file and its clock."""

    def __init__(self, folder: Path, when_stale: WhenStale = "remove") -> None:
        self.clock = StandingClock()
        self.fake = FakeInterface(folder)
        self.interface = InMemory(self.fake, folder)
        self.when_stale: WhenStale = when_stale
        self.path = folder / "wg0.snapshot"
        self.gateway = self._new()

    def _new(self) -> Gateway:
        return Gateway(PROFILE, self.interface, self.clock, "edge", MAX_STALENESS, self.when_stale, self.path)

    async def store(self) -> None:
        assert self.gateway._file is not None
        await self.gateway._store(self.gateway._file)

    async def restart(self) -> None:
        """As after a kill: the file is as old as it is."""
        self.gateway = self._new()
        assert self.gateway._file is not None
        await self.gateway._restore(self.gateway._file)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.say(*(made.put(name, place) for place, name in enumerate(NAMES, 1)))
    return made


# Starting from disk


async def test_a_start_from_disk_loads_the_whole_and_goes_on_with_what_has_changed(
    site: Site, registry: Registry
) -> None:
    """Architecture, feeds: a file names where it goes on, so nothing is sent again that it has."""
    await registry.serve(site.gateway)
    await site.gateway.turn()
    await site.store()
    before = registry.expected
    registry.say(registry.revoke(NAMES[0]), registry.rotate(NAMES[1]))
    site.fake.peers = {}
    site.clock.pass_by(10 * SECOND)
    await site.restart()
    # The registry is away, and what it knows is young enough.
    await site.gateway.turn()
    assert site.fake.peers == before
    sets = len(site.fake.sets)
    await registry.serve(site.gateway)
    assert site.fake.peers == registry.expected
    assert len(site.fake.sets) == sets + 1
    assert site.gateway._follower.resyncs == 0
    assert site.gateway.applied == registry.position


@pytest.mark.parametrize("when_stale", ["remove", "keep"])
@pytest.mark.parametrize("wall", [40 * SECOND, -HOUR])
async def test_what_a_file_says_too_long_ago_admits_nobody(
    tmp_path: Path, registry: Registry, when_stale: WhenStale, wall: int
) -> None:
    """I-16: nor what a clock that was set back cannot tell the age of. What an older process has left goes on
    meanwhile, no longer than what is known. Whoever is to keep goes on with the file."""
    site = Site(tmp_path, when_stale)
    await registry.serve(site.gateway)
    await site.gateway.turn()
    await site.store()
    left = {"ab" * 32: {"100.96.0.9/32"}}
    site.fake.peers = dict(left)
    site.clock.wall += wall
    site.clock.since_start += 40 * SECOND
    await site.restart()
    await site.gateway.turn()
    if when_stale == "keep":
        assert site.fake.peers == registry.expected
        return
    assert site.fake.peers == left
    registry.say(registry.revoke(NAMES[0]))
    site.clock.pass_by(MAX_STALENESS)
    await site.gateway.turn()
    assert site.fake.peers == left
    site.clock.pass_by(1)
    await site.gateway.turn()
    assert not site.fake.peers
    await registry.serve(site.gateway)
    assert not site.fake.peers
    await site.gateway.turn()
    assert site.fake.peers == registry.expected
    # It was sent the one change alone, all the same.
    assert site.gateway._follower.snapshots == 0


async def test_what_comes_before_the_proof_waits_for_it(site: Site, registry: Registry) -> None:
    """More may come behind it, so the interface stays as it was found."""
    await registry.serve(site.gateway)
    await site.gateway.turn()
    await site.store()
    left = registry.expected
    site.clock.pass_by(40 * SECOND)
    await site.restart()
    registry.say(registry.rotate(NAMES[0]))
    await registry.send(site.gateway)
    await site.gateway.turn()
    assert site.fake.peers == left
    assert site.gateway.applied is None
    await registry.serve(site.gateway)
    await site.gateway.turn()
    assert site.fake.peers == registry.expected
    assert site.gateway.applied == registry.position


async def test_it_admits_by_a_file_until_what_is_in_it_is_too_old(site: Site, registry: Registry) -> None:
    """I-16: counted from when it was proven, not from the start."""
    await registry.serve(site.gateway)
    await site.store()
    site.clock.pass_by(20 * SECOND)
    await site.restart()
    await site.gateway.turn()
    assert site.fake.peers == registry.expected
    site.clock.pass_by(10 * SECOND)
    await site.gateway.turn()
    assert site.fake.peers == registry.expected
    site.clock.pass_by(1)
    await site.gateway.turn()
    assert not site.fake.peers


async def test_a_file_is_the_gateways_own_and_has_no_key(site: Site, registry: Registry) -> None:
    """I-16: what cannot be read is no reason to admit."""
    await registry.serve(site.gateway)
    await site.store()
    whole = site.path.read_bytes()
    assert site.path.stat().st_mode & 0o777 == 0o600
    assert PROFILE.key.encode() not in whole
    for content in (whole[:-1], whole.replace(b"gateway 1", b"checker 1"), b"", whole[:99] + b"\0" + whole[100:]):
        site.path.write_bytes(content)
        await site.restart()
        assert site.gateway.known is None
    site.path.write_bytes(whole)
    await site.restart()
    assert site.gateway.known == registry.position


async def test_nothing_is_written_that_nobody_has_proven(site: Site, registry: Registry) -> None:
    await site.store()
    assert not site.path.exists()
    await registry.serve(site.gateway)
    await site.store()
    written = site.path.stat().st_mtime_ns
    site.clock.pass_by(MINUTE)
    await site.store()
    assert site.path.stat().st_mtime_ns == written


# What a change costs


class Untouched(dict[Any, Any]):
    """It may be asked about a key, and nobody may go through it."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("a pass over the whole state")

    keys = values = items = __iter__  # type: ignore[assignment]


async def test_a_change_touches_what_has_changed_and_nothing_else(site: Site, registry: Registry) -> None:
    """Issue: never more than one pass over its state for a change, and here none: one operation, of the peers that it
    is about."""
    await registry.serve(site.gateway)
    await site.gateway.turn()
    state = site.gateway._view.states[ORGANIZATION]
    for name in ("wanted", "_keys", "_holders"):
        setattr(state, name, Untouched(getattr(state, name)))
    gets, sets = site.fake.gets, len(site.fake.sets)
    old = registry.active[NAMES[1]].public_key.hex()
    registry.say(registry.revoke(NAMES[0]), registry.rotate(NAMES[1]))
    await registry.serve(site.gateway)
    assert site.fake.peers == registry.expected
    (lines,) = site.fake.sets[sets:]
    assert sum(line.startswith("public_key=") for line in lines) == 3
    assert lines.index(f"public_key={old}") < lines.index(f"public_key={registry.active[NAMES[1]].public_key.hex()}")
    assert site.fake.gets == gets


async def test_a_look_reads_the_interface_once_and_goes_over_what_is_wanted_once(
    site: Site, registry: Registry
) -> None:
    await registry.serve(site.gateway)
    passes = []

    class Counted(dict[Any, Any]):
        def items(self) -> Any:
            passes.append("items")
            return super().items()

        def __iter__(self) -> Iterator[Any]:
            passes.append("iter")
            return super().__iter__()

    state = site.gateway._view.states[ORGANIZATION]
    state.wanted = Counted(state.wanted)
    await site.gateway.turn()
    assert (site.fake.gets, len(site.fake.sets), passes) == (1, 1, ["items"])


async def test_a_thousand_keys_that_change_at_once_are_one_operation(site: Site, registry: Registry) -> None:
    """Decision 21: no address is without its peer, or with two, in the middle of it."""
    names = [f"reg_{number:032x}" for number in range(700)]
    registry.say(*(registry.put(name, place) for place, name in enumerate(names, 1)))
    registry.compacted = len(registry.history)
    await registry.serve(site.gateway)
    await site.gateway.turn()
    sets = len(site.fake.sets)
    registry.say(*(registry.rotate(name) for name in names))
    await registry.serve(site.gateway)
    assert len(site.fake.sets) == sets + 1
    assert site.fake.peers == registry.expected


async def test_a_device_with_many_registrations_goes_in_one_operation(site: Site, registry: Registry) -> None:
    """Decision 16: deleting a device deletes them all."""
    await registry.serve(site.gateway)
    await site.gateway.turn()
    sets = len(site.fake.sets)
    registry.say(*(registry.end(name) for name in NAMES[:5]))
    await registry.serve(site.gateway)
    assert len(site.fake.sets) == sets + 1
    assert site.fake.peers == registry.expected


async def test_other_addresses_are_the_same_peers_own(site: Site, registry: Registry) -> None:
    """Whoever had them before has them no more, in the same operation."""
    await registry.serve(site.gateway)
    await site.gateway.turn()
    sets = len(site.fake.sets)
    first, second = registry.active[NAMES[0]], registry.active[NAMES[1]]
    first.ipv4, second.ipv4 = second.ipv4, first.ipv4
    registry.say(_event(first), _event(second))
    await registry.serve(site.gateway)
    assert len(site.fake.sets) == sets + 1
    assert site.fake.peers == registry.expected


# Faults, one by one


async def test_an_interface_that_begins_anew_gets_the_whole(site: Site, registry: Registry) -> None:
    await registry.serve(site.gateway)
    await site.gateway.turn()
    site.interface.is_there = False
    applied = site.gateway.applied
    registry.say(registry.revoke(NAMES[0]))
    await registry.serve(site.gateway)
    assert site.gateway.applied == applied
    assert site.gateway.reasons() == ["the interface cannot be asked"]
    site.fake.peers = {}
    site.interface.is_there = True
    await site.gateway.turn()
    assert site.fake.peers == registry.expected
    assert site.gateway.applied == registry.position
    assert site.gateway.reasons() == []


@pytest.mark.parametrize("hours", [5, -5])
async def test_a_clock_that_is_set_changes_nothing(site: Site, registry: Registry, hours: int) -> None:
    """I-18: how old what is known is tells a clock that nobody sets."""
    await registry.serve(site.gateway)
    await site.gateway.turn()
    site.clock.wall += hours * HOUR
    site.clock.since_start += MAX_STALENESS
    await site.gateway.turn()
    assert site.fake.peers == registry.expected
    site.clock.since_start += 1
    await site.gateway.turn()
    assert not site.fake.peers


async def test_a_registry_that_was_restored_is_believed(site: Site, registry: Registry) -> None:
    """I-25: a revision of another epoch says nothing, though it is a greater one; a snapshot is authoritative."""
    await registry.serve(site.gateway)
    await site.gateway.turn()
    registry.say(registry.revoke(NAMES[5]))
    await registry.serve(site.gateway)
    assert site.gateway.applied == registry.position
    registry.restore()
    await registry.serve(site.gateway)
    await site.gateway.turn()
    assert NAMES[5] not in registry.active
    assert site.fake.peers == registry.expected
    assert site.gateway.applied == registry.position


# And all together


@settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
class Faults(RuleBasedStateMachine):
    """Whatever happens in whatever order: nobody is admitted by what is too old, and at rest the peers are right."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = TemporaryDirectory()
        self._cut = False
        self._heard = 0
        """The steady time at which the gateway was last served."""

    def teardown(self) -> None:
        if hasattr(self, "site"):
            self._settle()
        self._runner.close()
        self._folder.cleanup()

    @initialize(when_stale=st.sampled_from(["remove", "keep"]))
    def begin(self, when_stale: WhenStale) -> None:
        async def make() -> Site:
            return Site(Path(self._folder.name), when_stale)

        self.site, self.registry = self._run(make()), Registry()
        self._began = self.site.clock.steady()

    # What the registry does

    @rule(name=st.sampled_from(NAMES))
    def enroll(self, name: str) -> None:
        """Anew, or once more: then the key is another, and the addresses are the same."""
        self.registry.revoked.pop(name, None)
        self._say(self.registry.put(name, NAMES.index(name) + 1))

    @rule(name=st.sampled_from(NAMES))
    def revoke(self, name: str) -> None:
        if name in self.registry.active:
            self._say(self.registry.revoke(name))

    @rule(name=st.sampled_from(NAMES))
    def unrevoke(self, name: str) -> None:
        if name in self.registry.revoked:
            self._say(self.registry.unrevoke(name))

    @rule(name=st.sampled_from(NAMES))
    def rotate(self, name: str) -> None:
        if name in self.registry.active:
            self._say(self.registry.rotate(name))

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def delete(self, names: set[str]) -> None:
        self._say(*(self.registry.end(name) for name in sorted(names)))

    @rule(give=st.sampled_from(NAMES), take=st.sampled_from(NAMES))
    def hand_over(self, give: str, take: str) -> None:
        """Decision 18: who enrolls again takes the addresses along, in one change."""
        if give != take and give in self.registry.active and take not in self.registry.active:
            gone = self.registry.end(give)
            self.registry.revoked.pop(take, None)
            self._say(gone, self.registry.put(take, NAMES.index(give) + 1))
            self._say(self.registry.end(take))

    @rule()
    def restore(self) -> None:
        self.registry.restore()

    @rule()
    def compact(self) -> None:
        self.registry.compacted = len(self.registry.history)

    # What happens to the gateway

    @rule(cut=st.booleans())
    def cut(self, cut: bool) -> None:
        self._cut = cut

    @precondition(lambda self: not self._cut)
    @rule()
    def hear(self) -> None:
        self._run(self.registry.serve(self.site.gateway))
        self._heard = self.site.clock.steady()

    @rule()
    def turn(self) -> None:
        self._run(self.site.gateway.turn())
        self._judge()

    @rule(seconds=st.sampled_from([1, 10, 29, 31, 70]))
    def wait(self, seconds: int) -> None:
        self.site.clock.pass_by(seconds * SECOND)

    @rule(hours=st.sampled_from([-1, 1]))
    def set_the_clock(self, hours: int) -> None:
        self.site.clock.wall += hours * HOUR

    @rule()
    def store(self) -> None:
        self._run(self.site.store())

    @rule()
    def restart(self) -> None:
        self._run(self.site.restart())
        self._began = self.site.clock.steady()

    # What happens to the interface

    @rule(there=st.booleans())
    def come_and_go(self, there: bool) -> None:
        if not there:
            self.site.fake.peers = {}
        self.site.interface.is_there = there

    @rule(errno=st.sampled_from([0, -5]))
    def refuse(self, errno: int) -> None:
        self.site.fake.errno = errno

    @rule()
    def meddle(self) -> None:
        self.site.fake.peers["ab" * 32] = {"0.0.0.0/0"}

    @invariant()
    def no_address_has_two_peers(self) -> None:
        if hasattr(self, "site"):
            given = [ip for ips in self.site.fake.peers.values() for ip in ips]
            assert len(given) == len(set(given))

    def _judge(self) -> None:
        """I-16, where the interface does what it is told."""
        it = self.site
        if it.when_stale == "remove" and it.interface.is_there and not it.fake.errno:
            known = max(self._heard, self._began)
            if it.clock.steady() - known > MAX_STALENESS:
                assert not it.fake.peers

    def _settle(self) -> None:
        it = self.site
        it.interface.is_there, it.fake.errno = True, 0
        self._run(self.registry.serve(it.gateway))
        it.clock.pass_by(MINUTE)
        self._run(self.registry.serve(it.gateway))
        self._run(it.gateway.turn())
        assert it.fake.peers == self.registry.expected
        assert it.gateway.applied == self.registry.position
        assert it.gateway.reasons() == []

    def _say(self, *events: pb.Event) -> None:
        self.registry.say(*events)

    def _run(self, it: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(it)


TestFaults = Faults.TestCase
