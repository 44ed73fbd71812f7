"""How far gateways have come, and whom they heard of, on both engines."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services.registry import domain, store
from guardhouse_services.registry.domain import HOUR, LIVE_FOR, MINUTE, NOWHERE, SECOND, Gateway, Position
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.usecases import gateways
from guardhouse_services.registry.usecases.gateways import FORGOTTEN, SEEN, Gateways
from tests.clock import FakeClock
from tests.guardhouse_services.registry.world import World, name

NO_CALL: Any = None


@pytest.fixture(autouse=True)
def within_a_minute(clock: FakeClock) -> None:
    clock.stop()


async def until_listed(world: World, wanted: Callable[[list[Gateway]], bool]) -> None:
    async with asyncio.timeout(30):
        while not wanted((await listed(world))[0]):  # noqa: ASYNC110  # nobody says when
            await asyncio.sleep(0.01)


async def listed(world: World, of: Gateways | None = None) -> tuple[list[Gateway], Position]:
    return await (of or world.registry.gateways).page(world.organization)


async def test_a_gateway_is_as_far_as_it_said_last(world: World) -> None:
    """Feeds: pings carry what was applied. Every replica is answered by the same rows."""
    mine, others = world.registry.gateways, Gateways(world.clock, world.database)
    await world.enroll()
    _, (epoch, revision) = await listed(world)
    assert revision > 0
    mine.acknowledge(world.organization, "edge", "key_1", (epoch, revision - 1))
    mine.acknowledge(world.organization, "edge", "key_1", (epoch, revision))
    others.acknowledge(world.organization, "attic", "key_2", None)
    await mine.close()
    await others.close()
    for each in (mine, others):
        found, head = await listed(world, each)
        now = world.clock.now()
        assert found == [
            Gateway(world.organization, "attic", "key_2", NOWHERE, now),
            Gateway(world.organization, "edge", "key_1", (epoch, revision), now),
        ]
        assert [it.lag(head) for it in found] == [revision, 0]


async def test_who_ends_while_it_writes_loses_nothing(world: World) -> None:
    """Wherever it is, a new gateway's first word is written before the replica is gone."""
    for turns in range(12):
        replica = Gateways(world.clock, world.database)
        replica.acknowledge(world.organization, f"gateway{turns:02}", "key_1", None)
        for _ in range(turns):
            await asyncio.sleep(0)
        await replica.close()
    found, _ = await listed(world)
    assert [it.name for it in found] == [f"gateway{turns:02}" for turns in range(12)]


async def test_what_it_applied_of_another_history_counts_as_nothing(world: World) -> None:
    """Revisions of two epochs cannot be compared, and an epoch of its own making is stored nowhere."""
    world.registry.gateways.acknowledge(world.organization, "edge", "key_1", ("x\x00" * 99, 1 << 40))
    await world.registry.gateways.close()
    (found,), head = await listed(world)
    assert (found.applied, found.lag(head)) == (NOWHERE, head[1])


async def test_a_gateway_that_says_the_same_again_is_written_every_ten_seconds(world: World) -> None:
    """Last-seen makes no load: a ping comes every second."""
    mine = world.registry.gateways
    began = world.clock.now()
    for _ in range(9):
        mine.acknowledge(world.organization, "edge", "key_1", None)
        await mine.flush()
        world.clock.advance(1)
    (found,), _ = await listed(world)
    assert found.seen_time == began
    world.clock.advance(SEEN / SECOND)
    mine.acknowledge(world.organization, "edge", "key_1", None)
    await mine.close()
    (found,), _ = await listed(world)
    assert found.seen_time == world.clock.now()


async def test_what_is_new_is_written_at_once_and_then_every_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a revocation does not wait for a timer, and many changes are one write a second."""
    monkeypatch.setattr(gateways, "WRITE_SECONDS", 2)
    mine = world.registry.gateways
    _, (epoch, _) = await listed(world)
    mine.acknowledge(world.organization, "edge", "key_1", (epoch, 1))
    await until_listed(world, lambda found: [it.applied for it in found] == [(epoch, 1)])
    writes = world.database.writes
    for revision in range(2, 100):
        mine.acknowledge(world.organization, "edge", "key_1", (epoch, revision))
        await asyncio.sleep(0)
    await until_listed(world, lambda found: [it.applied for it in found] == [(epoch, 99)])
    assert world.database.writes == writes + 1
    await mine.close()


async def test_one_that_is_new_waits_for_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeds: `--wait` waits for all that live, the one that has just begun included."""
    monkeypatch.setattr(gateways, "WRITE_SECONDS", 60)
    mine = world.registry.gateways
    for each in ("edge", "attic", "cellar"):
        mine.acknowledge(world.organization, each, "key_1", None)
        await until_listed(world, lambda found: each in {it.name for it in found})  # noqa: B023
    await mine.close()


async def test_what_another_replica_heard_since_stays(world: World) -> None:
    """A gateway changes replicas; the one that it left may write last."""
    older, newer = world.registry.gateways, Gateways(world.clock, world.database)
    _, (epoch, _) = await listed(world)
    older.acknowledge(world.organization, "edge", "key_1", (epoch, 1))
    held, older._waiting = older._waiting, {}
    world.clock.advance(1)
    newer.acknowledge(world.organization, "edge", "key_1", (epoch, 2))
    await newer.close()
    older._waiting = held
    await older.close()
    (found,), _ = await listed(world)
    assert found.applied == (epoch, 2)


async def test_two_that_share_a_name_are_told_from_one_that_started_again(world: World) -> None:
    """Feeds: whoever waits for a name would wait for one of them only."""
    mine, others = world.registry.gateways, Gateways(world.clock, world.database)

    async def shared(of: Gateways, instance: str) -> bool:
        world.clock.advance(1)
        of.acknowledge(world.organization, "edge", "key_1", None, instance)
        await of.flush()
        return await is_shared()

    async def is_shared() -> bool:
        (found,), _ = await listed(world)
        return found.is_shared(world.clock.now())

    # One after another on any replica, the release before that says nothing among them.
    for turn, instance in enumerate(("", "first", "second", "third", "")):
        assert not await shared(mine if turn % 2 else others, instance)
    # What it has said before comes late, and is nothing that it says again.
    assert not await shared(mine, "fourth")
    world.clock.advance(-3)
    others.acknowledge(world.organization, "edge", "key_1", None, "third")
    world.clock.advance(3)
    await others.flush()
    assert not await is_shared()
    # Three that take turns, on two replicas.
    said = [await shared(mine if turn % 2 else others, "abc"[turn % 3]) for turn in range(6)]
    assert said == [False, False, False, True, True, True]
    world.clock.advance(LIVE_FOR / SECOND)
    assert not await shared(mine, "c")
    await others.close()


async def test_two_that_share_a_name_are_told_on_one_replica(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its say, although one write a second is for both; it is logged once."""
    mine = world.registry.gateways
    for _ in range(3):
        for instance in "ab":
            world.clock.advance(SEEN / SECOND / 2)
            mine.acknowledge(world.organization, "edge", "key_1", None, instance)
        await mine.flush()
    (found,), _ = await listed(world)
    assert found.is_shared(world.clock.now())
    assert caplog.text.count("several gateways with the name 'edge'") == 1
    await mine.close()


async def test_there_is_room_for_so_many_gateways(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is unbounded: whoever has a key may make names up. Those that are known go on."""
    monkeypatch.setattr(store.gateways, "MAX_GATEWAYS", 2)
    mine = world.registry.gateways
    for each in ("a", "b", "c"):
        mine.acknowledge(world.organization, each, "key_1", None)
        await mine.flush()
    world.clock.advance(60)
    mine.acknowledge(world.organization, "b", "key_1", None)
    await mine.close()
    found, _ = await listed(world)
    assert [(it.name, it.is_live(world.clock.now())) for it in found] == [("a", False), ("b", True)]


async def test_a_gateway_is_forgotten_after_a_day(world: World) -> None:
    mine = world.registry.gateways
    mine.acknowledge(world.organization, "old", "key_1", None)
    await mine.flush()
    world.clock.advance(FORGOTTEN / SECOND)
    mine.acknowledge(world.organization, "new", "key_1", None)
    await mine.close()
    job = asyncio.create_task(mine.forget())
    await asyncio.sleep(0.3)
    assert len((await listed(world))[0]) == 2
    job.cancel()
    world.clock.advance(1)
    job = asyncio.create_task(mine.forget())
    await until_listed(world, lambda found: [it.name for it in found] == ["new"])
    job.cancel()


def test_a_gateway_is_live_for_half_a_minute() -> None:
    it = Gateway("org", "edge", "key_1", NOWHERE, 1000 * SECOND)
    assert it.is_live(1000 * SECOND + LIVE_FOR)
    assert not it.is_live(1000 * SECOND + LIVE_FOR + 1)
    # The clocks of replicas differ.
    assert it.is_live(999 * SECOND)
    assert domain.LIVE_FOR >= 2 * SEEN


# Handshakes


async def report(world: World, servicer: RegistryServicer, *handshakes: tuple[str, int]) -> None:
    message = pb.ReportHandshakesRequest(
        organization_id=world.organization,
        handshakes=[pb.Handshake(registration_id=it, time=to_timestamp(time)) for it, time in handshakes],
    )
    await servicer.ReportHandshakes(message, NO_CALL)


async def test_a_handshake_says_when_a_device_was_heard_of(world: World, servicer: RegistryServicer) -> None:
    """As a heartbeat does: in minutes, for the device too, told to nobody; never later than now, and never back."""
    first, second = await world.enroll(), await world.enroll()
    changes = len(await world.changes())
    now = world.clock.now()
    minute = now - now % MINUTE
    await report(world, servicer, (name(first), now - HOUR), (name(second), now + HOUR), ("reg_" + "f" * 32, now))
    assert (await world.find(name(first))).seen_time == minute - HOUR
    assert (await world.find(name(second))).seen_time == minute
    device = await world.registry.devices.get(world.organization, second.device.device_id)
    assert device.seen_time == minute
    await report(world, servicer, (name(first), now), (name(first), now - HOUR))
    await report(world, servicer, (name(first), now - 2 * HOUR))
    assert (await world.find(name(first))).seen_time == minute
    assert len(await world.changes()) == changes


async def test_a_handshake_of_what_is_revoked_is_none(world: World, servicer: RegistryServicer) -> None:
    """Decision 16: its key is invalid, whatever a gateway that is behind still lets in."""
    enrolled = await world.enroll()
    await world.revoke(name(enrolled))
    await report(world, servicer, (name(enrolled), world.clock.now()))
    assert (await world.find(name(enrolled))).seen_time is None


async def test_a_report_names_what_is_wrong_with_it(world: World, servicer: RegistryServicer) -> None:
    """Bad input names the field, and nothing of it is noted."""
    enrolled = await world.enroll()
    good = pb.Handshake(registration_id=name(enrolled), time=to_timestamp(world.clock.now()))
    for handshakes, field, error in (
        ([], "handshakes", FieldRequired),
        ([good] * 1001, "handshakes", InvalidField),
        ([good, pb.Handshake(time=good.time)], "handshakes[1].registration_id", FieldRequired),
        ([good, pb.Handshake(registration_id=name(enrolled))], "handshakes[1].time", FieldRequired),
    ):
        request = pb.ReportHandshakesRequest(organization_id=world.organization, handshakes=handshakes)
        with pytest.raises(error) as caught:
            await servicer.ReportHandshakes(request, NO_CALL)
        assert caught.value.field == field
    assert (await world.find(name(enrolled))).seen_time is None
