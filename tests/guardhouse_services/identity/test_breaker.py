"""The breaker of mass actions: what no person asked for waits for a person when it is too much at once."""

import asyncio
from dataclasses import replace

import pytest

from guardhouse.durations import DAY, SECOND
from guardhouse.errors import HeldActionDecided, HeldActionNotFound
from guardhouse.ids import HELD_ACTION, USER, new_id
from guardhouse_services.breaker import usecases
from guardhouse_services.breaker.domain import WINDOW, HeldAction, HeldState, is_mass
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import Person, Profile
from guardhouse_services.identity.domain.held_actions import Effect
from guardhouse_services.identity.domain.users import User
from guardhouse_services.identity.usecases import breaker, removing, seats
from guardhouse_services.identity.usecases.seat_expiration import SOURCE
from tests.guardhouse_services.identity.world import EVERYBODY, ISSUER, World

SCIM = "scim idp_1"
TEN_MINUTES = WINDOW // SECOND
A_DAY = DAY // SECOND


@pytest.mark.parametrize(
    ("users", "seats", "mass"),
    [
        (9, 9, False),
        (10, 100, False),
        (10, 99, True),
        (11, 100, True),
        (50, 500, False),
        (50, 499, True),
        (50, 1_000_000, False),
        (51, 1_000_000, True),
    ],
)
def test_too_many_is_more_than_50_or_more_than_a_tenth_and_at_least_10(users: int, seats: int, mass: bool) -> None:
    assert is_mass(users, lambda: seats) is mass


async def people(world: World, count: int) -> list[str]:
    """The ids of so many users who hold a seat from now on."""

    def seat(tx: Transaction, number: int) -> User:
        person = Person(ISSUER, f"person{number}", Profile(f"person{number}@example.com"), tx.now, None, b"")
        user, _ = store.users.lock_or_create(tx, world.organization, person, new_id(USER, tx.now))
        seats.take(tx, world.organization, user)
        return replace(user.authenticated(person.profile, tx.now), seat_time=tx.now)

    def work(tx: Transaction) -> list[str]:
        users = [seat(tx, number) for number in range(count)]
        store.users.save(tx, world.organization, users)
        return [user.user_id for user in users]

    return await world.database.write(work)


async def passes(world: World, user_ids: list[str], source: str = SCIM, effect: Effect = Effect.REMOVE) -> bool:
    """As a source asks; what passes is done."""

    def work(tx: Transaction) -> bool:
        if not breaker.passes(tx, world.organization, source, user_ids, effect):
            return False
        users = store.users.lock(tx, world.organization, user_ids)
        if effect is Effect.REMOVE:
            removing.finish(tx, world.organization, users, removing.begin(tx, world.organization, users).removal_id)
        else:
            removing.revoke(tx, world.organization, users)
        return True

    return await world.database.write(work)


async def held(world: World) -> list[HeldAction]:
    return list(await world.identity.held_actions.page(world.organization, EVERYBODY))


async def decide(world: World, held_action_id: str, decision: HeldState, *, dry: bool = False) -> HeldAction:
    call = world.call(world.organization)
    return (
        await world.identity.held_actions.decide(call, world.organization, held_action_id, decision, validate_only=dry)
    )[0]


async def test_what_is_less_passes_and_the_first_that_is_more_waits(world: World) -> None:
    """The window counts what came one by one, as SCIM clients send it."""
    ids = await people(world, 20)
    for user_id in ids[:9]:
        assert await passes(world, [user_id])
    assert not await passes(world, [ids[9]])
    assert await world.used() == 11
    (action,) = await held(world)
    assert (action.source, action.effect, action.state) == (SCIM, Effect.REMOVE, HeldState.WAITING)
    assert (action.subjects, action.subjects_done, action.subject_ids) == (1, 0, (ids[9],))


async def test_one_user_counts_once_however_often_a_client_asks(world: World) -> None:
    ids = await people(world, 12)
    for _ in range(12):
        assert await passes(world, ids[:1])


async def test_a_batch_passes_as_a_whole_or_not_at_all(world: World) -> None:
    ids = await people(world, 12)
    assert not await passes(world, ids[:10], SOURCE)
    assert await world.used() == 12
    (action,) = await held(world)
    assert action.subjects == 10


async def test_after_ten_minutes_as_many_pass_again(world: World) -> None:
    ids = await people(world, 20)
    assert await passes(world, ids[:9])
    # The clock runs on while the test does.
    world.clock.advance(TEN_MINUTES - 60)
    assert not await passes(world, ids[9:10], SOURCE)
    world.clock.advance(60)
    assert await passes(world, ids[10:19])


async def test_what_a_source_asks_for_while_it_waits_waits_as_well(world: World) -> None:
    """Otherwise nine every ten minutes would go on passing while nobody has looked yet."""
    ids = await people(world, 14)
    assert not await passes(world, ids[:10])
    world.clock.advance(A_DAY)
    assert not await passes(world, ids[10:12])
    assert not await passes(world, ids[:10])
    (action,) = await held(world)
    assert action.subjects == 12
    # Another source, and another effect, is judged for itself.
    assert await passes(world, ids[12:13], SOURCE)
    assert await passes(world, ids[13:14], effect=Effect.REVOKE)


async def test_revocations_are_counted_with_removals(world: World) -> None:
    ids = await people(world, 20)
    assert await passes(world, ids[:5], effect=Effect.REVOKE)
    assert not await passes(world, ids[5:10])


async def test_an_approved_removal_is_carried_out_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As RemoveUsers does it (decision 5): the seats are free, and each part has a removal to follow."""
    monkeypatch.setattr(usecases, "PART", 4)
    ids = await people(world, 11)
    assert not await passes(world, ids[:10])
    (waiting,) = await held(world)
    await world.identity.held_actions.carry_out_once()
    assert await world.used() == 11
    approved = await decide(world, waiting.held_action_id, HeldState.APPROVED)
    assert approved.state is HeldState.APPROVED
    assert await world.identity.held_actions.carry_out_once() == 4
    # A replica that ends here leaves the rest to the next one.
    assert await world.used() == 7
    while await world.identity.held_actions.carry_out_once():
        pass
    assert await world.used() == 1
    (done,) = await held(world)
    assert (done.state, done.subjects, done.subjects_done, len(done.receipts)) == (HeldState.DONE, 10, 10, 3)
    for removal_id in done.receipts:
        assert (await world.identity.users.removal(world.organization, removal_id)).seats_freed


async def test_an_approved_revocation_ends_sessions_and_keeps_seats(world: World) -> None:
    """Decision 35."""
    ids = await people(world, 10)
    assert not await passes(world, ids, effect=Effect.REVOKE)
    (waiting,) = await held(world)
    await decide(world, waiting.held_action_id, HeldState.APPROVED)
    await world.identity.held_actions.carry_out_once()
    assert await world.used() == 10
    assert all(user.revoked_revision for user in await world.users())


async def test_who_has_been_here_since_is_left_out(world: World) -> None:
    """An approval that comes late does not throw out who has come back meanwhile."""
    ids = await people(world, 10)
    assert not await passes(world, ids, SOURCE)
    world.clock.advance(A_DAY)
    await world.log_in("person3")
    (waiting,) = await held(world)
    await decide(world, waiting.held_action_id, HeldState.APPROVED)
    await world.identity.held_actions.carry_out_once()
    assert await world.used() == 1
    (done,) = await held(world)
    assert done.subjects_done == 10


async def test_whose_device_was_heard_of_since_keeps_the_seat(world: World) -> None:
    """Decision 6: a seat does not expire while a device is used. To SCIM it is all the same."""
    for source, left in ((SOURCE, 1), (SCIM, 0)):
        ids = await people(world, 10)
        assert not await passes(world, ids, source)
        world.clock.advance(A_DAY)

        def hear(tx: Transaction, user_id: str = ids[3]) -> None:
            (user,) = store.users.lock(tx, world.organization, [user_id])
            store.users.save(tx, world.organization, [replace(user, seen_time=tx.now)])

        await world.database.write(hear)
        waiting = (await held(world))[-1]
        await decide(world, waiting.held_action_id, HeldState.APPROVED)
        await world.identity.held_actions.carry_out_once()
        assert await world.used() == left


async def test_a_source_may_take_somebody_back(world: World) -> None:
    """As when SCIM activates a user again."""
    ids = await people(world, 10)
    assert not await passes(world, ids)
    await world.database.write(lambda tx: breaker.forgo(tx, world.organization, SCIM, ids[:4]))
    (action,) = await held(world)
    assert action.subjects == 6


async def test_what_is_rejected_is_not_done_and_may_be_asked_for_again(world: World) -> None:
    ids = await people(world, 10)
    assert not await passes(world, ids)
    (waiting,) = await held(world)
    await decide(world, waiting.held_action_id, HeldState.REJECTED)
    await world.identity.held_actions.carry_out_once()
    assert await world.used() == 10
    assert not await passes(world, ids)
    assert [action.state for action in await held(world)] == [HeldState.REJECTED, HeldState.WAITING]


async def test_a_decision_is_final(world: World) -> None:
    ids = await people(world, 10)
    assert not await passes(world, ids)
    (waiting,) = await held(world)
    assert (await decide(world, waiting.held_action_id, HeldState.APPROVED, dry=True)).state is HeldState.APPROVED
    await decide(world, waiting.held_action_id, HeldState.REJECTED)
    assert (await decide(world, waiting.held_action_id, HeldState.REJECTED)).state is HeldState.REJECTED
    with pytest.raises(HeldActionDecided):
        await decide(world, waiting.held_action_id, HeldState.APPROVED)


async def test_nobody_decides_for_another_organization(world: World) -> None:
    """Invariant I-27."""
    assert not await passes(world, await people(world, 10))
    (waiting,) = await held(world)
    other = await world.add_organization()
    for held_action_id in (waiting.held_action_id, new_id(HELD_ACTION, world.clock.now())):
        with pytest.raises(HeldActionNotFound):
            await world.identity.held_actions.decide(world.call(other), other, held_action_id, HeldState.APPROVED)
    assert not await world.identity.held_actions.page(other, EVERYBODY)


async def test_many_at_once_do_not_slip_past_together(world: World) -> None:
    """The window is counted under a lock: of 12 calls at the same moment nine pass."""
    ids = await people(world, 20)
    answers = await asyncio.gather(*(passes(world, [user_id]) for user_id in ids[:12]))
    assert sum(answers) == 9
    assert await world.used() == 11
    assert len(await held(world)) == 1


async def test_what_was_decided_is_forgotten_after_thirty_days(world: World) -> None:
    """Nothing is unbounded; what waits stays."""
    ids = await people(world, 20)
    assert not await passes(world, ids[:10])
    assert await passes(world, ids[10:11], SOURCE)
    (waiting,) = await held(world)
    world.clock.advance(40 * A_DAY)
    await forget(world)
    assert len(await held(world)) == 1
    assert await world.count("automatic_action") == 0
    await decide(world, waiting.held_action_id, HeldState.REJECTED)
    world.clock.advance(29 * A_DAY)
    await forget(world)
    assert len(await held(world)) == 1
    world.clock.advance(2 * A_DAY)
    await forget(world)
    assert await held(world) == []
    assert await world.count("held_user") == 0


async def forget(world: World) -> None:
    while await world.identity.resolver.forget_once():
        pass
