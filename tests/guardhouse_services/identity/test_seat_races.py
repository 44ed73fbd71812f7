"""Seats under concurrency (invariants I-04, I-05, I-06): everything at once, on both engines."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from guardhouse.errors import IdTokenInvalid, SeatLimitBelowUse, SeatsExhausted, ServiceTokenInUse, ServiceTokenNotFound
from guardhouse.registry.v1 import registry_pb2
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.enrollment_policies import Decision
from guardhouse_services.identity.domain.enrollments import Intent, IntentState
from guardhouse_services.identity.domain.users import Removal
from guardhouse_services.identity.store.tables import intent, users
from guardhouse_services.identity.usecases import effects, seats
from guardhouse_services.identity.usecases.authentications import Recorded
from tests.guardhouse_services.identity.world import World, deleted, outcome, registered


async def counted(world: World) -> int:
    """The seats by the rule: whoever holds one for good, or has one reserved."""
    reserved = sa.select(intent.c.user_id).where(intent.c.organization_id == world.organization, intent.c.state == 1)
    query = sa.select(sa.func.count()).where(
        users.c.organization_id == world.organization,
        sa.or_(users.c.seat_time.is_not(None), users.c.user_id.in_(reserved)),
    )
    return int(await world.read(lambda tx: tx.execute(query).scalar_one()))


async def test_sixty_four_first_enrollments_share_ten_seats(world: World) -> None:
    """Decisions 3 and 4: exactly ten, and nothing but the refusal reaches the others."""
    await world.limit(10)
    results = await asyncio.gather(*(outcome(world.authorize(f"user{number}")) for number in range(64)))
    kinds = Counter(type(result) for result in results)
    assert kinds == {Intent: 10, SeatsExhausted: 54}
    assert await world.used() == await counted(world) == 10
    assert await world.count("users") == 10


async def test_one_user_enrolling_many_devices_at_once_takes_one_seat(world: World) -> None:
    """Decision 2."""
    await world.limit(1)
    intents = await asyncio.gather(*(world.authorize("ada") for _ in range(16)))
    assert len({intent.user_id for intent in intents}) == 1
    assert await world.used() == 1
    await asyncio.gather(*(world.cancel(intent) for intent in intents[1:]))
    assert await world.used() == 1
    await world.cancel(intents[0])
    assert await world.used() == 0


async def test_sixteen_logins_at_once_share_the_last_seat(world: World) -> None:
    """Decision 2: exactly one signs in, and nothing but the refusal reaches the others."""
    await world.limit(2)
    await world.enroll("ada")
    results = await asyncio.gather(*(outcome(world.log_in(f"user{number}")) for number in range(16)))
    assert Counter(type(result) for result in results) == {Recorded: 1, SeatsExhausted: 15}
    assert await world.used() == await counted(world) == 2
    assert await world.count("users") == 2


async def test_one_user_signing_in_eight_times_at_once_takes_one_seat(world: World) -> None:
    """Decision 2, also when a device is enrolled meanwhile; each login has a revision of its own."""
    await world.limit(1)
    *logins, intent = await asyncio.gather(*(world.log_in("ada") for _ in range(8)), world.authorize("ada"))
    assert isinstance(intent, Intent)
    recorded = [login for login in logins if isinstance(login, Recorded)]
    assert len({login.revision for login in recorded}) == 8
    assert {login.user.user_id for login in recorded if login.user} == {intent.user_id}
    assert await world.used() == await counted(world) == 1


async def test_a_removal_amid_logins_hits_those_before_it(world: World) -> None:
    """Decision 5: the seat is there if somebody signed in behind the removal, and only then."""
    first = await world.log_in("ada")
    for _ in range(4):
        *logins, _ = await asyncio.gather(*(world.log_in("ada") for _ in range(4)), world.remove())
        assert await world.used() == await counted(world)
        (user,) = await world.users()
        newest = max(login.revision for login in logins if isinstance(login, Recorded))
        assert user.removed_revision > first.revision
        assert user.removed_revision != newest
        assert (user.seat_time is not None) == (newest > user.removed_revision)


async def test_one_intent_asked_for_many_times_at_once_is_one(world: World) -> None:
    """Invariant I-07: every attempt gets the same answer."""
    await world.limit(1)
    token, intent_id = world.sign_in("ada"), world.new_intent()
    intents = await asyncio.gather(*(world.authorize(token, intent_id, "r") for _ in range(8)))
    assert len(set(intents)) == 1
    assert await world.used() == 1


async def test_one_token_for_many_requests_at_once_admits_one(world: World) -> None:
    """Invariant I-08."""
    token = world.sign_in("ada")
    results = await asyncio.gather(*(outcome(world.authorize(token, request_id=f"r{n}")) for n in range(16)))
    assert Counter(type(result) for result in results) == {Intent: 1, IdTokenInvalid: 15}


async def test_the_limit_is_never_below_the_seats_in_use(world: World) -> None:
    """Decision 4, while the limit is lowered and raised and people come."""
    await world.limit(20)

    async def lower(limit: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.1))
        result = await outcome(world.limit(limit))
        assert result is None or isinstance(result, SeatLimitBelowUse)
        seats = await world.seats()
        assert seats.purchased is not None
        assert seats.used <= seats.purchased

    results = await asyncio.gather(
        *(outcome(world.authorize(f"user{number}")) for number in range(40)),
        *(lower(limit) for limit in (5, 12, 18, 3, 25, 8)),
    )
    admitted = [result for result in results if isinstance(result, Intent)]
    assert all(result is None or isinstance(result, Intent | SeatsExhausted) for result in results)
    assert await world.used() == await counted(world) == len(admitted)


async def test_removing_everybody_while_people_enroll_frees_what_it_counts(world: World) -> None:
    """Decision 5: who was authorized before the removal is hit by it, and who comes behind it is not."""
    await world.enroll("ada")
    results = await asyncio.gather(
        *(world.authorize("ada") for _ in range(4)),
        *(world.authorize(f"user{number}") for number in range(12)),
        world.remove(),
        *(world.authorize(f"late{number}") for number in range(8)),
    )
    assert await world.used() == await counted(world)
    intents = [result for result in results if isinstance(result, Intent)]
    rows = await world.read(lambda tx: store.users.lock(tx, world.organization, [it.user_id for it in intents]))
    removed = {user.user_id: user.removed_revision for user in rows}
    for it in intents:
        found = await world.intent(it)
        assert found.refused == (it.authorize_revision <= removed[it.user_id])


async def while_removing(world: World, work: Callable[[Transaction], None]) -> Removal:
    """Everybody is removed while the work is done and not yet committed."""
    done, go_on = threading.Event(), threading.Event()

    def slowly(tx: Transaction) -> None:
        work(tx)
        done.set()
        go_on.wait(5)

    working = asyncio.create_task(world.database.write(slowly))
    await asyncio.to_thread(done.wait, 5)
    removing = asyncio.create_task(world.remove())
    await asyncio.sleep(0.2)
    go_on.set()
    await working
    return await removing


async def test_a_removal_waits_for_an_enrollment_that_is_being_authorized(world: World) -> None:
    """Decision 5: it would overlook its seat."""
    ada = await world.enroll("ada")
    intent = replace(ada, intent_id=world.new_intent(), state=IntentState.RESERVED, ask_time=ada.create_time)

    def authorize(tx: Transaction) -> None:
        (user,) = store.users.lock(tx, world.organization, [ada.user_id])
        seats.take(tx, world.organization, user)
        store.intents.insert(tx, world.organization, intent)

    removal = await while_removing(world, authorize)
    assert removal.seats_freed == 1
    assert (await world.intent(intent)).refused
    assert await world.used() == await counted(world) == 0


async def test_a_removal_waits_for_a_registration_that_is_being_noted(world: World) -> None:
    """Decision 5: it would not count it."""
    intent = await world.authorize("ada")
    world.outcomes[intent.intent_id] = registry_pb2.INTENT_OUTCOME_ACTIVE
    world.clock.advance(61)
    await world.identity.resolver.resolve_once()
    removal = await while_removing(
        world, lambda tx: effects.follow_registry(tx, world.organization, [registered(intent)])
    )
    assert removal.registrations == 1


async def test_a_token_is_not_deleted_under_a_policy_that_comes_to_name_it(world: World) -> None:
    """Decision 11."""
    for precedence in range(1, 9):
        token_id, _ = await world.service_token()
        rule = Rule(RuleKind.SERVICE_TOKEN, token_id)
        call = world.call(world.organization)
        named, gone = await asyncio.gather(
            outcome(world.allow(rule, decision=Decision.SERVICE_AUTH, precedence=precedence)),
            outcome(world.identity.service_tokens.delete(call, world.organization, token_id)),
        )
        assert isinstance(named, ServiceTokenNotFound) != isinstance(gone, ServiceTokenInUse)


async def test_any_history_counts_each_user_once(world: World) -> None:
    """Invariant I-05: three users, many devices, aborts and removals anywhere."""
    chance = random.Random(7)
    await world.limit(2)
    open_intents: list[Intent] = []
    active: list[Intent] = []
    for _ in range(120):
        match chance.choice(("enroll", "enroll", "activate", "cancel", "delete", "remove", "retry")):
            case "enroll":
                result = await outcome(world.authorize(chance.choice(("ada", "bob", "cyd"))))
                assert isinstance(result, Intent | SeatsExhausted)
                open_intents += [result] if isinstance(result, Intent) else []
            case "activate" if open_intents:
                active.append(open_intents.pop(chance.randrange(len(open_intents))))
                await world.registry(registered(active[-1]))
            case "cancel" if open_intents:
                await world.cancel(open_intents.pop(chance.randrange(len(open_intents))))
            case "delete" if active:
                await world.registry(deleted(active.pop(chance.randrange(len(active)))))
            case "remove" if active:
                victim = chance.choice(active)
                await world.remove(victim)
            case "retry" if active:
                await world.registry(registered(chance.choice(active)))
        used = await world.used()
        assert used == await counted(world)
        assert used <= 2
