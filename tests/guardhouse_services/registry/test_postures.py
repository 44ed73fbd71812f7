"""What heartbeats say of posture checks, on both engines (decision 32a): the newest counts, and changes are told."""

import asyncio
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from guardhouse.errors import DatabaseUnavailable, FieldRequired, InvalidField
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import from_timestamp
from guardhouse_services.database import Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import HOUR, SECOND, Heartbeat, Posture, PostureChecks
from guardhouse_services.registry.messages import to_event
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.store import tables
from guardhouse_services.registry.usecases.enrollments import Enrolled
from tests.clock import FakeClock
from tests.guardhouse_services.registry.world import World, name

SOUND = PostureChecks(("disk", "firewall"))
UNSAFE = PostureChecks(("disk",), ("firewall",))


@pytest.fixture(autouse=True)
def as_told(clock: FakeClock) -> None:
    clock.stop()


async def known(world: World, enrolled: Enrolled) -> PostureChecks | None:
    """What followers are told in a snapshot. The world's audit compares that with the changes after each test."""
    record = (await world.snapshot())[name(enrolled)]
    if not record.HasField("posture"):
        return None
    return PostureChecks(tuple(record.posture.passed), tuple(record.posture.failed))


async def since(world: World, enrolled: Enrolled) -> int:
    return from_timestamp((await world.snapshot())[name(enrolled)].posture.change_time)


def said(enrolled: Enrolled, checks: PostureChecks, time: int) -> list[Heartbeat]:
    """What another replica was told at a time."""
    made = enrolled.registration
    return [Heartbeat(made.organization_id, made.registration_id, 0, posture=Posture(checks, time, time))]


async def test_followers_are_told_of_another_posture_once(world: World) -> None:
    """And of nothing else: not of a heartbeat that says the same again, nor of one that says nothing of it."""
    enrolled, silent = await world.enroll(), await world.enroll()
    began = world.clock.now()
    changes = len(await world.changes())
    for checks, told in ((SOUND, 1), (SOUND, 1), (None, 1), (UNSAFE, 2), (UNSAFE, 2), (PostureChecks(), 3)):
        await world.beat(enrolled, checks=checks)
        assert len(await world.changes()) == changes + told
        world.clock.advance(90)
    assert await since(world, enrolled) == began + 450 * SECOND
    assert (await world.changes())[-1] == [("active", name(enrolled))]
    assert (await known(world, enrolled), await known(world, silent)) == (PostureChecks(), None)


async def test_a_posture_is_as_old_as_the_first_heartbeat_that_said_it(world: World) -> None:
    """Also of several that are written together."""
    enrolled, began = await world.enroll(), world.clock.now()
    for checks in (UNSAFE, SOUND, SOUND):
        world.take(enrolled, checks=checks)
        world.clock.advance(1)
    await world.beat(enrolled)
    assert (await known(world, enrolled), await since(world, enrolled)) == (SOUND, began + SECOND)
    await world.beat(enrolled, checks=SOUND)
    assert await since(world, enrolled) == began + SECOND


async def reported(world: World, enrolled: Enrolled) -> int:
    return from_timestamp((await world.snapshot())[name(enrolled)].posture.report_time)


async def test_followers_are_told_once_an_hour_that_a_posture_is_as_it_was(world: World) -> None:
    """Decision 32a: so its age, as they know it, is right to the hour, and never less than it is."""
    enrolled, told = await world.enroll(), []
    changes, records = len(await world.changes()), len(await world.records())
    for _ in range(40):
        await world.beat(enrolled, checks=SOUND)
        told.append(len(await world.changes()) - changes)
        age = world.clock.now() - await reported(world, enrolled)
        assert 0 <= age < HOUR
        world.clock.advance(7 * 60)
    # At 0:00, then at 1:03, 2:06, 3:02 and 4:05, the first heartbeats of their hours.
    assert [told.index(count) * 7 for count in range(1, 6)] == [0, 63, 126, 182, 245]
    assert (told[-1], len(await world.records()) - records) == (5, 1), "only the first is a change"
    world.clock.advance(5 * 3600)
    assert world.clock.now() - await reported(world, enrolled) > 5 * HOUR, "a device that is silent"
    await world.beat(enrolled, checks=UNSAFE)
    assert await reported(world, enrolled) == world.clock.now()


async def test_a_posture_stays_with_its_registration(world: World) -> None:
    """Whatever else is told of that afterwards; a new one begins without."""
    enrolled = await world.enroll()
    await world.beat(enrolled, checks=UNSAFE)
    await world.rotate(enrolled)
    await world.revoke(name(enrolled))
    await world.beat(enrolled, checks=SOUND)
    assert await known(world, enrolled) == UNSAFE
    await world.unrevoke(name(enrolled))
    assert await known(world, enrolled) == UNSAFE
    again = await world.enroll(enrolled.registration.holder.user_id, enrolled.device.claims.hardware_id)
    assert await known(world, again) is None


async def test_another_posture_is_on_record(world: World) -> None:
    """I-33: a change that a decision may rest on."""
    made = [await world.enroll() for _ in range(2)]
    records = len(await world.records())
    for _ in range(2):
        await world.beat(*made, checks=SOUND)
    (record,) = (await world.records())[records:]
    assert (record.actor, sorted(record.objects)) == ("job:write heartbeats", sorted(map(name, made)))
    assert (record.before_revision, record.after_revision) == (2, 3)


async def test_a_posture_that_comes_late_takes_nothing_back(world: World) -> None:
    """I-12: another replica wrote a newer one meanwhile, were it only by saying the same again."""
    enrolled = await world.enroll()
    await world.beat(enrolled, checks=UNSAFE)
    late = said(enrolled, SOUND, world.clock.now() + 1)
    world.clock.advance(1)
    await world.beat(enrolled, checks=UNSAFE)
    written = await world.database.write(lambda tx: store.postures.write(tx, world.organization, late))
    assert written == ([], [], set())
    assert await known(world, enrolled) == UNSAFE


async def test_a_replica_that_is_overtaken_takes_no_posture_back(world: World, engine: str) -> None:
    """I-12: between its look at what is so and its write, were the one not made under the lock of the other."""
    if engine == "sqlite":
        pytest.skip("SQLite has one writer at a time: nobody is overtaken")
    enrolled = await world.enroll()
    wrote, go = threading.Event(), threading.Event()

    def overtake(tx: Transaction) -> None:
        changed, _, _ = store.postures.write(tx, world.organization, said(enrolled, UNSAFE, world.clock.now()))
        tx.publish(world.organization, [to_event(it) for it in changed])
        wrote.set()
        go.wait(5)

    world.take(enrolled, checks=SOUND)
    world.clock.advance(1)
    overtaking = asyncio.create_task(world.database.write(overtake))
    await asyncio.to_thread(wrote.wait, 5)
    async with asyncio.timeout(4):
        await world.registry.heartbeats.flush()
    go.set()
    await overtaking
    await world.registry.heartbeats.flush()
    assert await known(world, enrolled) == UNSAFE


async def test_a_posture_waits_for_nobody_and_is_not_lost(world: World, engine: str) -> None:
    if engine == "sqlite":
        pytest.skip("SQLite has one writer at a time: there is nobody to wait for")
    free, busy = await world.enroll(), await world.enroll()
    # Nothing else of the next ones is news.
    await world.beat(free, busy)
    with world.database.engine.begin() as connection:
        table = tables.registration
        connection.execute(sa.select(table.c.state).where(table.c.registration_id == name(busy)).with_for_update())
        async with asyncio.timeout(30):
            await world.beat(free, busy, checks=SOUND)
    assert [await known(world, it) for it in (free, busy)] == [SOUND, None]
    # A newer heartbeat that does not say it does not take its place.
    await world.beat(busy, client_version="2.0")
    assert await known(world, busy) == SOUND


async def test_a_posture_waits_for_a_database_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And comes after none that is newer."""
    told, older = await world.enroll(), await world.enroll()
    changes = len(await world.changes())

    async def is_away(*_: object, **__: object) -> None:
        world.clock.advance(1)
        world.take(told, checks=UNSAFE)
        world.take(older)
        raise DatabaseUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.database, "write", is_away)
        await world.beat(told, older, checks=SOUND)
    await world.registry.heartbeats.flush()
    assert [await known(world, it) for it in (told, older)] == [UNSAFE, SOUND]
    assert len(await world.changes()) == changes + 1


# The contract's side


async def test_checks_are_kept_in_order_and_each_once(world: World, servicer: RegistryServicer) -> None:
    enrolled = await world.enroll()
    about: dict[str, Any] = {"organization_id": world.organization, "registration_id": name(enrolled)}
    call = world.device_call(enrolled, "Heartbeat")
    changes = len(await world.changes())
    for passed in (["firewall", "disk", "firewall"], ["disk", "firewall"]):
        request = pb.HeartbeatRequest(**about, posture=pb.DevicePosture(passed=passed, failed=["ü", "a b"]))
        # When that is so is not for devices to say.
        request.posture.change_time.seconds = 1
        await servicer.Heartbeat(request, call)
        await world.registry.heartbeats.flush()
    assert await known(world, enrolled) == PostureChecks(("disk", "firewall"), ("a b", "ü"))
    assert await since(world, enrolled) == world.clock.now()
    assert len(await world.changes()) == changes + 1
    await servicer.Heartbeat(pb.HeartbeatRequest(**about), call)
    await world.registry.heartbeats.flush()
    assert len(await world.changes()) == changes + 1
    await servicer.Heartbeat(pb.HeartbeatRequest(**about, posture=pb.DevicePosture()), call)
    await world.registry.heartbeats.flush()
    assert await known(world, enrolled) == PostureChecks()


@pytest.mark.parametrize(
    ("passed", "failed", "field"),
    [
        (["x"] * 101, [], "posture.passed"),
        ([], ["x"] * 101, "posture.failed"),
        (["a", "b", "c", ""], [], "posture.passed[3]"),
        ([], ["x" * 101], "posture.failed[0]"),
        (["a", "b\n"], [], "posture.passed[1]"),
        (["a", "b"], ["c", "b"], "posture.failed[1]"),
    ],
)
async def test_a_posture_that_is_none_is_refused(
    world: World, servicer: RegistryServicer, passed: list[str], failed: list[str], field: str
) -> None:
    """Decision 36: the refusal names the field, and nothing of the heartbeat is kept."""
    enrolled = await world.enroll()
    request = pb.HeartbeatRequest(
        organization_id=world.organization,
        registration_id=name(enrolled),
        posture=pb.DevicePosture(passed=passed, failed=failed),
    )
    with pytest.raises((InvalidField, FieldRequired)) as caught:
        await servicer.Heartbeat(request, world.device_call(enrolled, "Heartbeat"))
    assert caught.value.metadata["field"] == field
    await world.registry.heartbeats.flush()
    assert (await world.find(name(enrolled))).seen_time is None


async def test_as_much_as_is_allowed_is_kept(world: World, servicer: RegistryServicer) -> None:
    enrolled = await world.enroll()
    passed, failed = ([f"{kind}{number:03}".ljust(100, "\N{GRINNING FACE}") for number in range(100)] for kind in "pf")
    request = pb.HeartbeatRequest(
        organization_id=world.organization,
        registration_id=name(enrolled),
        posture=pb.DevicePosture(passed=passed, failed=failed),
    )
    await servicer.Heartbeat(request, world.device_call(enrolled, "Heartbeat"))
    await world.registry.heartbeats.flush()
    assert await known(world, enrolled) == PostureChecks(tuple(passed), tuple(failed))
