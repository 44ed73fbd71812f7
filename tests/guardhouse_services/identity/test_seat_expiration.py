"""Seats of those who are inactive expire, once a day and only when it is certain that they are (decision 6)."""

import asyncio

import pytest
import sqlalchemy as sa

from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.durations import DAY, HOUR, SECOND
from guardhouse.errors import FieldRequired
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import USER, new_id
from guardhouse_services.audit import audit_record
from guardhouse_services.breaker.domain import MOST
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import metrics, store
from guardhouse_services.identity.domain.credentials import Person, Profile
from guardhouse_services.identity.domain.enrollments import Intent
from guardhouse_services.identity.domain.seats import FreeCause
from guardhouse_services.identity.domain.users import SeatEvent
from guardhouse_services.identity.store.tables import automatic_action, held_user, removal, users
from guardhouse_services.identity.usecases import seat_expiration, seats
from guardhouse_services.identity.usecases.seat_expiration import SeatExpiration
from guardhouse_services.identity.usecases.seat_ledger import Preview
from guardhouse_services.leases import Leases
from guardhouse_services.paging import Page
from tests.guardhouse_services.identity.world import EVERYBODY, ISSUER, World

WINDOW = 730 * HOUR
LATER = 731 * 3600.0
"""Seconds after which somebody is inactive."""


@pytest.fixture
async def world(world: World) -> World:
    """Whose organization lets seats expire."""
    call = world.call(world.organization)
    await world.identity.organizations.update(call, world.organization, {"seat_expiration": WINDOW})
    return world


async def report(world: World, *active: Intent, upto: float = 0) -> None:
    """The devices of these were heard of now, and all are reported up to so many seconds ago."""
    now = world.clock.now()
    seen = {intent.user_id: now for intent in active}
    await world.identity.seat_ledger.report(world.organization, seen, now - round(upto * SECOND))


async def preview(world: World, page: Page = EVERYBODY, expiration: int | None = None) -> Preview:
    return await world.identity.seat_ledger.preview(world.organization, page, expiration)


async def holders(world: World) -> set[str]:
    return {user.profile.email.partition("@")[0] for user in await world.users() if user.seat_time is not None}


async def test_only_who_neither_authenticates_nor_uses_a_device_is_removed(world: World) -> None:
    """Decision 6: both must be outside the window, and of the devices every one."""
    enrolled = [await world.enroll(name) for name in ("ada", "bob", "cyd", "dan")]
    world.clock.advance(LATER)
    await world.log_in("bob")
    await report(world, enrolled[2])
    assert [user.user_id for user in (await preview(world)).users] == [enrolled[0].user_id, enrolled[3].user_id]
    assert await world.identity.seat_expiration.sweep(world.organization) == 2
    assert await holders(world) == {"bob", "cyd"}
    assert await world.used() == 2


async def test_the_last_moment_of_the_window_is_inside(world: World) -> None:
    """Decision 6."""
    ada = await world.enroll("ada")
    world.clock.advance(LATER)
    world.clock.stop()
    now = world.clock.now()
    await world.identity.seat_ledger.report(world.organization, {ada.user_id: now - WINDOW}, now)
    assert await world.identity.seat_expiration.sweep(world.organization) == 0
    world.clock.advance(1 / SECOND)
    assert await world.identity.seat_expiration.sweep(world.organization) == 1


async def test_it_removes_as_remove_users_does_and_says_why(world: World) -> None:
    """Decisions 5 to 7, invariant I-33."""
    ada = await world.enroll("ada")
    world.clock.advance(LATER)
    await report(world)
    await world.identity.seat_expiration.sweep(world.organization)
    user = await world.user(ada)
    assert (user.seat_time, user.removed_revision) == (None, await world.revision())
    going = await world.identity.users.removal(world.organization, user.removal_id)
    assert (going.users, going.seats_freed, going.registrations) == (1, 1, 1)
    (freed,) = (await world.identity.seat_ledger.explain(world.organization, ada.user_id)).freed
    assert (freed.cause, freed.removal_id) == (FreeCause.EXPIRED, user.removal_id)
    newest = (await world.events())[-1][-1].user
    assert newest.user.seat_status == pb.SEAT_STATUS_INACTIVE
    record = await world.read(lambda tx: _newest_record(tx, world.organization))
    assert (record.actor, list(record.objects)) == ("job:expire seats", [user.removal_id, ada.user_id])
    again = await world.enroll("ada")
    assert again.user_id == ada.user_id
    assert await holders(world) == {"ada"}


async def test_nobody_is_removed_while_the_watermark_is_older_than_a_day(world: World) -> None:
    """Decision 6: what was not reported may be activity. The preview says so."""
    await world.enroll("ada")
    world.clock.advance(LATER)
    assert (await preview(world)).held_up.startswith("the registry has not reported yet")
    assert await world.identity.seat_expiration.sweep(world.organization) == 0
    await report(world, upto=DAY / SECOND + 1)
    found = await preview(world)
    assert "more than 24h ago" in found.held_up
    assert len(found.users) == 1
    assert await world.identity.seat_expiration.sweep(world.organization) == 0
    await report(world, upto=DAY / SECOND - 60)
    assert (await preview(world)).held_up == ""
    assert await world.identity.seat_expiration.sweep(world.organization) == 1


async def test_seats_do_not_expire_unless_an_organization_wants_it(world: World) -> None:
    """Decision 6: it is off by default."""
    call = world.call(world.organization)
    await world.identity.organizations.update(call, world.organization, {"seat_expiration": None})
    await world.enroll("ada")
    world.clock.advance(20 * LATER)
    await report(world)
    assert await world.identity.seat_expiration.sweep_due() == 0
    assert await world.identity.seat_expiration.sweep(world.organization) == 0
    with pytest.raises(FieldRequired):
        await preview(world)
    assert len((await preview(world, expiration=WINDOW)).users) == 1
    assert await holders(world) == {"ada"}


async def test_it_is_looked_through_once_a_day_and_as_soon_as_it_can_be(world: World) -> None:
    """Decision 6: one that was held up does not wait for another day."""
    await world.enroll("ada")
    world.clock.advance(LATER)
    assert await world.identity.seat_expiration.sweep_due() == 0
    await report(world)
    assert await world.identity.seat_expiration.sweep_due() == 1
    await world.enroll("ada")
    world.clock.advance(LATER)
    await report(world)
    assert await world.identity.seat_expiration.sweep_due() == 1
    bob = await world.enroll("bob")
    # Inactive for long, as nobody was looked through since.
    await world.database.write(lambda tx: _age(tx, world.organization, bob.user_id, tx.now - WINDOW - HOUR))
    assert await world.identity.seat_expiration.sweep_due() == 0
    world.clock.advance(DAY / SECOND + 60)
    await report(world)
    assert await world.identity.seat_expiration.sweep_due() == 1


async def test_who_comes_back_in_the_last_moment_stays(world: World) -> None:
    """Decision 6: between being looked for and being removed."""
    ada, bob, cyd = [await world.enroll(name) for name in ("ada", "bob", "cyd")]
    world.clock.advance(LATER)
    await report(world)
    expired = await world.read(lambda tx: seat_expiration._expired(tx, world.organization, ""))
    assert set(expired) == {ada.user_id, bob.user_id, cyd.user_id}
    await world.log_in("ada")
    # An enrollment under way is no authentication yet.
    await world.authorize("bob")
    assert await world.database.write(lambda tx: seat_expiration._remove(tx, world.organization, expired)) == 1
    assert await holders(world) == {"ada", "bob"}
    assert await world.identity.seat_expiration.sweep(world.organization) == 0


async def test_the_preview_lists_in_pages_whom_a_sweep_would_remove_and_changes_nothing(world: World) -> None:
    """Decision 6."""
    names = ("ada", "bob", "cyd", "dan", "eve")
    everybody = [(await world.enroll(name)).user_id for name in names]
    world.clock.advance(LATER)
    await report(world)
    await world.log_in("cyd")
    used, revision = await world.used(), await world.revision()
    found, after = [], ""
    while page := (await preview(world, Page(after, 1))).users:
        found.append(after := page[0].user_id)
    assert (await world.used(), await world.revision()) == (used, revision)
    assert found == [*everybody[:2], *everybody[3:]]
    assert await world.identity.seat_expiration.sweep(world.organization) == len(found)
    assert await holders(world) == {"cyd"}


async def test_a_mass_of_expired_seats_waits_for_approval(world: World) -> None:
    """Decision 6, threat T-10: one breaker for every mass action."""
    await world.database.write(lambda tx: _crowd(tx, world.organization, MOST + 1))
    world.clock.advance(LATER)
    await report(world)
    assert await world.identity.seat_expiration.sweep(world.organization) == 0
    assert await world.used() == MOST + 1
    assert await world.count(held_user.name) == MOST + 1
    assert await world.count(automatic_action.name) == 0


class Stumbling(SeatExpiration):
    """Fails for one organization."""

    bad = ""

    async def sweep(self, organization_id: str) -> int:
        if organization_id == self.bad:
            raise RuntimeError("broken")
        return await super().sweep(organization_id)


async def test_an_organization_whose_sweep_fails_holds_up_no_other(world: World) -> None:
    """Decision 6: of every organization; what failed is due still."""
    ours = world.organization
    theirs = world.organization = await world.add_organization()
    await world.identity.organizations.update(world.call(theirs), theirs, {"seat_expiration": WINDOW})
    for world.organization in (ours, theirs):
        await world.log_in("ada")
    world.clock.advance(LATER)
    for world.organization in (ours, theirs):
        await report(world)
    expiration = Stumbling(world.database)
    for expiration.bad, removed in ((ours, 1), (ours, 0), ("", 1)):
        assert await expiration.sweep_due() == removed
    for world.organization in (ours, theirs):
        assert await world.used() == 0


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_three_replicas_sweep_once(world: World) -> None:
    """Decision 6: whoever has the lease; and without it each user is still removed once."""
    everybody = [await world.enroll(name) for name in ("ada", "bob", "cyd")]
    world.clock.advance(LATER)
    await report(world)
    url = world.database.engine.url.render_as_string(hide_password=False)
    replicas = [Database(url, world.clock, "identity", pb.Change) for _ in range(3)]
    jobs = [Leases(database) for database in replicas]
    running = [
        asyncio.create_task(leases.run("expire seats", SeatExpiration(database).run))
        for leases, database in zip(jobs, replicas, strict=True)
    ]
    try:
        async with asyncio.timeout(20):
            while await world.used():  # noqa: ASYNC110  # the replicas do not tell
                await asyncio.sleep(0.05)
        assert sum(leases.jobs["expire seats"].held for leases in jobs) == 1
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert await world.count(removal.name) == 1
    for name in ("ada", "bob", "cyd"):
        await world.enroll(name)
    world.clock.advance(LATER)
    await report(world)
    # What a lease that has expired under its holder comes to.
    sweeps = [SeatExpiration(database).sweep(world.organization) for database in replicas]
    assert sum(await asyncio.gather(*sweeps)) == len(everybody)
    assert await world.used() == 0
    for database in replicas:
        database.close()


def _age(tx: Transaction, organization_id: str, user_id: str, time: int) -> None:
    where = users.c.organization_id == organization_id, users.c.user_id == user_id
    tx.execute(users.update().where(*where).values(authenticate_time=time))


def _crowd(tx: Transaction, organization_id: str, count: int) -> None:
    """Has so many people log in to an application."""
    for number in range(count):
        person = Person(ISSUER, f"person{number}", Profile(), tx.now, None, b"")
        user, _ = store.users.lock_or_create(tx, organization_id, person, new_id(USER, tx.now))
        seats.take(tx, organization_id, user)
        user = user.authenticated(person.profile, tx.now).seated(tx.now, SeatEvent.ACCESS, "request")
        store.users.save(tx, organization_id, [user])


def _newest_record(tx: Transaction, organization_id: str) -> AuditRecord:
    query = sa.select(audit_record.c.payload).where(audit_record.c.organization_id == organization_id)
    return AuditRecord.FromString(tx.execute(query.order_by(audit_record.c.sequence.desc()).limit(1)).scalar_one())


async def test_seats_that_expire_within_a_week_are_told(world: World) -> None:
    """Decision 6: of the installation, or of each organization; who is active again, and who never expires, is none."""
    other = await world.add_organization()
    enrolled = [await world.enroll(name) for name in ("ada", "bob", "cyd")]
    world.clock.advance(LATER - 8 * 86400)
    await world.enroll("dan")

    async def told() -> dict[tuple[str, ...], float]:
        samples: dict[tuple[str, ...], float] = {}
        for each in (False, True):
            gauges = await world.read(lambda tx, each=each: metrics.figures(tx, each))  # type: ignore[misc]
            samples |= next(it.samples for it in gauges if it.name == "guardhouse_seats_expiring")
        return samples

    assert await told() == {(): 0, (world.organization,): 0, (other,): 0}
    world.clock.advance(2 * 86400)
    assert await told() == {(): 3, (world.organization,): 3, (other,): 0}
    await report(world, enrolled[0])
    await world.log_in("bob")
    assert await told() == {(): 1, (world.organization,): 1, (other,): 0}
