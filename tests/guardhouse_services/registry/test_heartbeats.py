"""Heartbeats, on both engines (decision 32a): written together, to the minute, and told to nobody."""

import asyncio
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from guardhouse.errors import DatabaseUnavailable
from guardhouse_services.log import trace_id
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import MINUTE, SECOND, Heartbeat
from guardhouse_services.registry.store import tables
from guardhouse_services.registry.usecases import heartbeats
from guardhouse_services.registry.usecases.enrollments import Enrolled
from tests.clock import FakeClock
from tests.guardhouse_services.registry.world import World, insert_many, machine, name, user


@pytest.fixture(autouse=True)
def within_a_minute(clock: FakeClock) -> None:
    clock.stop()


def minute(world: World) -> int:
    now = world.clock.now()
    return now - now % MINUTE


async def test_a_heartbeat_says_when_a_device_was_heard_of(world: World) -> None:
    enrolled, silent = await world.enroll(), await world.enroll()
    assert (await world.find(name(enrolled))).seen_time is None
    world.clock.advance(90)
    await world.beat(enrolled)
    assert (await world.find(name(enrolled))).seen_time == minute(world)
    device = await world.registry.devices.get(world.organization, enrolled.device.device_id)
    assert device.seen_time == minute(world)
    assert (await world.find(name(silent))).seen_time is None


async def test_a_heartbeat_is_told_nobody(world: World) -> None:
    """Nor is it on record, and a later change does not tell when it was."""
    enrolled = await world.enroll()
    records, changes = len(await world.records()), len(await world.changes())
    await world.beat(enrolled, client_version="2.0")
    assert (len(await world.records()), len(await world.changes())) == (records, changes)
    await world.revoke(name(enrolled))
    assert not (await world.snapshot())[name(enrolled)].registration.HasField("seen_time")


async def test_a_heartbeat_brings_the_versions(world: World) -> None:
    """Decision 32a: what it does not say stays as it was."""
    enrolled = await world.enroll()
    await world.beat(enrolled, os_version="7.0")
    await world.beat(enrolled, client_version="2.0")
    claims = (await world.registry.devices.get(world.organization, enrolled.device.device_id)).claims
    assert (claims.os_version, claims.client_version) == ("7.0", "2.0")
    # The last of several that wait together counts, and what only the first said.
    beats = world.registry.heartbeats
    beats.take(world.organization, name(enrolled), "8.0", "3.0")
    beats.take(world.organization, name(enrolled), "", "4.0")
    await beats.flush()
    claims = (await world.registry.devices.get(world.organization, enrolled.device.device_id)).claims
    assert (claims.os_version, claims.client_version) == ("8.0", "4.0")
    assert claims.model == enrolled.device.claims.model


async def test_a_device_was_heard_of_when_any_of_its_registrations_was(world: World) -> None:
    first, second = await world.enroll(user(), "laptop"), await world.enroll(machine(), "laptop")
    await world.beat(first)
    world.clock.advance(600)
    await world.beat(second)
    device = await world.registry.devices.get(world.organization, first.device.device_id)
    assert device.seen_time == minute(world)
    assert (await world.find(name(first))).seen_time == minute(world) - 600 * SECOND


async def test_a_heartbeat_that_comes_late_takes_nothing_back(world: World) -> None:
    """Another replica wrote a newer one meanwhile."""
    enrolled = await world.enroll()
    world.clock.advance(600)
    await world.beat(enrolled, client_version="2.0")
    late = [Heartbeat(world.organization, name(enrolled), minute(world) - MINUTE, client_version="1.5")]
    assert await world.database.write(lambda tx: store.heartbeats.write(tx, world.organization, late)) == (
        [],
        set(),
    )
    device = await world.registry.devices.get(world.organization, enrolled.device.device_id)
    assert (await world.find(name(enrolled))).seen_time == device.seen_time == minute(world)
    assert device.claims.client_version == "2.0"


async def test_a_replica_that_was_overtaken_takes_nothing_back(
    world: World, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at what is so and its write."""
    if engine == "sqlite":
        pytest.skip("SQLite has one writer at a time: nobody is overtaken")
    enrolled, present = await world.enroll(), store.heartbeats._present
    looked, go = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Any:
        found = present(*arguments)
        if not looked.is_set():
            looked.set()
            go.wait(5)
        return found

    def write(time: int) -> Any:
        beats = [Heartbeat(world.organization, name(enrolled), time)]
        return world.database.write(lambda tx: store.heartbeats.write(tx, world.organization, beats))

    monkeypatch.setattr(store.heartbeats, "_present", slowly)
    older = asyncio.create_task(write(minute(world)))
    await asyncio.to_thread(looked.wait, 5)
    await write(minute(world) + MINUTE)
    go.set()
    await older
    device = await world.registry.devices.get(world.organization, enrolled.device.device_id)
    assert (await world.find(name(enrolled))).seen_time == device.seen_time == minute(world) + MINUTE


async def test_a_heartbeat_that_is_no_news_writes_nothing(world: World) -> None:
    enrolled = await world.enroll()
    await world.beat(enrolled, client_version="2.0")
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    sa.event.listen(world.database.engine, "before_cursor_execute", note)
    world.clock.advance(59 - world.clock.now() // SECOND % 60)
    await world.beat(enrolled, client_version="2.0")
    sa.event.remove(world.database.engine, "before_cursor_execute", note)
    assert [it for it in statements if it != "BEGIN"] == ["SELECT"]


@pytest.mark.parametrize("change", ["revoke", "delete", "leave", "delete_device"])
async def test_what_is_revoked_or_gone_meanwhile_is_not_heard_of(world: World, change: str) -> None:
    enrolled, other = await world.enroll(), await world.enroll()
    for it in (enrolled, other):
        world.registry.heartbeats.take(world.organization, name(it), "", "2.0")
    about = {"leave": enrolled, "delete_device": enrolled.device.device_id}.get(change, name(enrolled))
    await getattr(world, change)(about)
    await world.registry.heartbeats.flush()
    assert (await world.find(name(enrolled))).seen_time is None
    assert (await world.find(name(other))).seen_time == minute(world)


async def test_a_heartbeat_reaches_no_other_organization(world: World) -> None:
    """I-27."""
    elsewhere = await world.enroll(organization_id=await world.add_organization())
    await world.beat(elsewhere)
    assert (await world.find(name(elsewhere))).seen_time is None


async def test_many_heartbeats_are_a_few_statements(world: World) -> None:
    ids = await insert_many(world, 1200)
    writes = world.database.writes
    for registration_id in ids:
        world.registry.heartbeats.take(world.organization, registration_id, "", "")
    await world.registry.heartbeats.flush()
    assert world.database.writes - writes == 3
    seen = sa.select(sa.func.count()).where(tables.registration.c.seen_time == minute(world))
    # insert_many makes them on a device that has no row.
    assert await world.database.read(lambda tx: tx.execute(seen).scalar_one()) == 0
    enrolled = [await world.enroll() for _ in range(5)]
    await world.beat(*enrolled)
    assert await world.database.read(lambda tx: tx.execute(seen).scalar_one()) == 5


async def test_enough_heartbeats_are_written_at_once_and_few_soon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody calls for it."""
    monkeypatch.setattr(heartbeats, "BATCH", 2)
    made, beats = [await world.enroll() for _ in range(3)], world.registry.heartbeats

    async def seen(*enrolled: Enrolled) -> bool:
        for it in enrolled:
            beats.take(world.organization, name(it), "", "")
        assert beats._task is not None
        async with asyncio.timeout(30):
            await beats._task
        return all([(await world.find(name(it))).seen_time == minute(world) for it in enrolled])

    assert await seen(*made[:2])
    monkeypatch.setattr(heartbeats, "FLUSH_SECONDS", 0.05)
    assert await seen(made[2])


async def test_the_last_heartbeats_are_written_when_the_server_stops(world: World) -> None:
    enrolled = await world.enroll()
    world.registry.heartbeats.take(world.organization, name(enrolled), "", "")
    async with asyncio.timeout(30):
        await world.registry.heartbeats.close()
    assert (await world.find(name(enrolled))).seen_time == minute(world)


async def test_heartbeats_wait_for_a_database_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there is room for; the rest is counted, and newer ones are kept before older ones."""
    made = [await world.enroll() for _ in range(3)]
    beats, write = world.registry.heartbeats, world.database.write

    async def is_away(*_: object, **__: object) -> None:
        monkeypatch.setattr(heartbeats, "CAPACITY", 3)
        beats.take(world.organization, name(made[0]), "", "new")
        raise DatabaseUnavailable("it is away")

    monkeypatch.setattr(heartbeats, "CAPACITY", 2)
    monkeypatch.setattr(world.database, "write", is_away)
    for it in made:
        beats.take(world.organization, name(it), "", "old")
    assert beats.dropped == 1
    await beats.flush()
    monkeypatch.setattr(world.database, "write", write)
    await beats.flush()
    devices = [await world.registry.devices.get(world.organization, it.device.device_id) for it in made]
    assert [it.claims.client_version for it in devices] == ["new", "old", "1.0"]
    assert (await world.find(name(made[2]))).seen_time is None


async def test_a_heartbeat_waits_for_nobody(world: World, engine: str) -> None:
    """What somebody is changing is written the next time."""
    if engine == "sqlite":
        pytest.skip("SQLite has one writer at a time: there is nobody to wait for")
    free, busy = await world.enroll(), await world.enroll()
    with world.database.engine.begin() as connection:
        table = tables.registration
        connection.execute(sa.select(table.c.state).where(table.c.registration_id == name(busy)).with_for_update())
        await world.beat(free, busy)
    assert (await world.find(name(free))).seen_time == minute(world)
    assert (await world.find(name(busy))).seen_time is None
    await world.registry.heartbeats.flush()
    assert (await world.find(name(busy))).seen_time == minute(world)


async def test_heartbeats_hold_nobody_up_while_one_is_not_written(world: World, engine: str) -> None:
    """Also where a device that somebody is changing has news of its version only."""
    if engine == "sqlite":
        pytest.skip("SQLite has one writer at a time: there is nobody to wait for")
    free, busy = await world.enroll(), await world.enroll()
    await world.beat(busy)
    with world.database.engine.begin() as connection:
        table = tables.device
        mine = table.c.device_id == busy.device.device_id
        connection.execute(sa.select(table.c.device_id).where(mine).with_for_update())
        async with asyncio.timeout(30):
            await world.beat(free, busy, client_version="2.0")

    async def version(it: Enrolled) -> str:
        return (await world.registry.devices.get(world.organization, it.device.device_id)).claims.client_version

    assert [await version(it) for it in (free, busy)] == ["2.0", "1.0"]
    await world.registry.heartbeats.flush()
    assert await version(busy) == "2.0"


async def test_a_version_is_kept_when_a_newer_heartbeat_does_not_say_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 32a: the newer one came while the older one could not be written."""
    enrolled = await world.enroll()
    beats, write = world.registry.heartbeats, world.database.write

    async def is_away(*_: object, **__: object) -> None:
        beats.take(world.organization, name(enrolled), "", "3.0")
        raise DatabaseUnavailable("it is away")

    monkeypatch.setattr(world.database, "write", is_away)
    await world.beat(enrolled, os_version="7.0", client_version="2.0")
    monkeypatch.setattr(world.database, "write", write)
    await beats.flush()
    claims = (await world.registry.devices.get(world.organization, enrolled.device.device_id)).claims
    assert (claims.os_version, claims.client_version) == ("7.0", "3.0")


async def test_what_is_done_for_many_calls_is_part_of_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their log lines and spans would name the call that happened to be the first."""
    monkeypatch.setattr(heartbeats, "FLUSH_SECONDS", 0.01)
    enrolled, run = await world.enroll(), world.database.run
    traces: list[str] = []

    async def note(*arguments: Any, **named: Any) -> Any:
        traces.append(trace_id.get())
        return await run(*arguments, **named)

    monkeypatch.setattr(world.database, "run", note)
    mine = trace_id.set("the-first-call")
    beats = world.registry.heartbeats
    beats.take(world.organization, name(enrolled), "", "")
    assert beats._task is not None
    await beats._task
    await world.registry.callers.device(enrolled.token)
    trace_id.reset(mine)
    assert traces == ["", ""]


async def test_heartbeats_and_changes_at_once_disturb_nobody(world: World) -> None:
    made = [await world.enroll() for _ in range(8)]
    beats = (world.beat(*made, client_version=str(number)) for number in range(4))
    changes = [world.rotate(it) for it in made[4:]] + [world.revoke(name(it)) for it in made[:4]]
    await asyncio.gather(*beats, *changes)
    await world.registry.heartbeats.flush()
    seen = [(await world.find(name(it))).seen_time for it in made[4:]]
    assert seen == [minute(world)] * 4
