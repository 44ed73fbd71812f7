"""Whatever fails, the intent is aborted first and given back then, on both engines (invariants.md, section 5; I-13)."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from guardhouse.errors import (
    EnrollmentAborted,
    EnrollmentRefused,
    GuardhouseError,
    IdTokenInvalid,
    SeatsExhausted,
    ServiceUnavailable,
    SubnetExhausted,
)
from guardhouse_services.registry.domain import State
from tests.guardhouse_services.registry.world import (
    Act,
    Behaviour,
    World,
    acts_and_then,
    is_down,
    loses_the_answer,
    name,
    refuses,
    user,
)

FAILURES = {
    "identity is down": ("authorize", is_down, ServiceUnavailable),
    "identity's answer is lost": ("authorize", loses_the_answer, ServiceUnavailable),
    "the subnet is exhausted": ("reserve", refuses(SubnetExhausted("all are held")), SubnetExhausted),
    "ipam is down": ("reserve", is_down, ServiceUnavailable),
    "ipam's answer is lost": ("reserve", loses_the_answer, ServiceUnavailable),
}


@pytest.mark.parametrize(("method", "behaviour", "error"), FAILURES.values(), ids=FAILURES)
async def test_a_failed_enrollment_is_aborted_first_and_given_back_then(
    world: World, method: str, behaviour: Behaviour, error: type[GuardhouseError]
) -> None:
    """The failure table's rows 3, 4 and 12."""
    (world.identity if method == "authorize" else world.ipam).will(method, behaviour)
    attempt = await world.attempt()
    with pytest.raises(error):
        await world.register(attempt)
    asked = [("authorize", State.PENDING), ("reserve", State.PENDING)][: 1 if method == "authorize" else 2]
    assert world.calls[: len(asked)] == asked
    assert sorted(world.calls[len(asked) :]) == [("cancel", State.ABORTED), ("release", State.ABORTED)]
    assert (world.identity.seats, world.ipam.leases) == ({}, {})
    assert await world.events() == []
    assert await world.devices() == []
    enrolled = await world.register(attempt)
    assert list(world.identity.seats) == list(world.ipam.leases) == [name(enrolled)]


@pytest.mark.parametrize(
    "error", [EnrollmentRefused("no policy admits it"), SeatsExhausted("all are taken"), IdTokenInvalid()]
)
async def test_an_enrollment_that_identity_refuses_has_reserved_nothing(world: World, error: GuardhouseError) -> None:
    """Decision 3: and it leaves nothing that could become active."""
    world.identity.will("authorize", refuses(error))
    attempt = await world.attempt()
    with pytest.raises(type(error)):
        await world.register(attempt)
    assert ("reserve", State.PENDING) not in world.calls
    assert (world.identity.seats, world.ipam.leases) == ({}, {})
    assert {row.state for row in await world.rows()} <= {State.ABORTED}
    assert await world.events() == []
    assert await world.devices() == []
    enrolled = await world.register(attempt)
    assert list(world.identity.seats) == list(world.ipam.leases) == [name(enrolled)]


@pytest.mark.parametrize("method", ["cancel", "release"])
@pytest.mark.parametrize("behaviour", [is_down, loses_the_answer])
async def test_one_peer_that_cannot_be_told_does_not_keep_the_other_from_being_told(
    world: World, method: str, behaviour: Behaviour
) -> None:
    async def fails() -> None:
        raise SubnetExhausted("all are held")

    world.ipam.will("reserve", acts_and_then(fails))
    (world.identity if method == "cancel" else world.ipam).will(method, behaviour)
    attempt = await world.attempt()
    with pytest.raises(SubnetExhausted):
        await world.register(attempt)
    (intent,) = await world.rows()
    assert intent.state == State.ABORTED
    kept = {"cancel": world.identity.seats, "release": world.ipam.leases}
    is_kept = behaviour is is_down
    assert {it: bool(held) for it, held in kept.items()} == {"cancel": False, "release": False, method: is_kept}
    assert await world.resolve(intent.registration_id) == (State.ABORTED, "")
    await world.register(attempt)


async def test_a_slow_peer_does_not_let_an_overdue_enrollment_through(world: World) -> None:
    async def takes_a_minute() -> None:
        world.clock.advance(60)
        await world.registry.enrollments.sweep_once()

    world.ipam.will("reserve", acts_and_then(takes_a_minute))
    with pytest.raises(EnrollmentAborted):
        await world.enroll()
    assert [row.state for row in await world.rows()] == [State.ABORTED]
    assert await world.snapshot() == {}


async def test_a_slow_enrollment_that_nobody_has_aborted_succeeds(world: World) -> None:
    """The state decides and no clock does."""

    async def takes_a_minute() -> None:
        world.clock.advance(60)

    world.identity.will("authorize", acts_and_then(takes_a_minute))
    assert (await world.enroll()).registration.state == State.ACTIVE


async def test_a_failure_after_the_same_enrollment_succeeded_is_a_success(world: World) -> None:
    """The failure table's row 6: the retry overtook the first call."""
    attempt = await world.attempt()
    got: list[str] = []

    async def retry() -> None:
        got.append(name(await world.register(attempt)))
        raise ServiceUnavailable("the connection broke", service="ipam")

    world.ipam.will("reserve", acts_and_then(retry))
    enrolled = await world.register(attempt)
    assert got == [name(enrolled)]
    assert [method for method, _ in world.calls] == ["authorize", "reserve", "authorize", "reserve"]
    assert list(world.identity.seats) == list(world.ipam.leases) == [name(enrolled)]


async def test_a_caller_that_goes_away_does_not_stop_what_is_given_back(world: World) -> None:
    """I-13: background work never runs on a request's cancellation."""
    gate, begun, ended = asyncio.Event(), asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def waits_and_acts(act: Act) -> Any:
        begun.release()
        await gate.wait()
        ended.release()
        return act()

    world.ipam.will("reserve", loses_the_answer)
    world.ipam.will("release", waits_and_acts)
    world.identity.will("cancel", waits_and_acts)
    task = asyncio.create_task(world.enroll())
    await begun.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.ipam.leases) == len(world.identity.seats) == 1
    gate.set()
    async with asyncio.timeout(30):
        await ended.acquire()
        await ended.acquire()
    assert (world.identity.seats, world.ipam.leases) == ({}, {})


async def test_what_somebody_else_aborted_is_given_back_all_the_same(world: World) -> None:
    """I-13: the device may try again at once, and wants to find its seat and addresses free."""

    async def takes_a_minute() -> None:
        world.clock.advance(60)
        await world.registry.enrollments.sweep_once()

    world.ipam.will("reserve", acts_and_then(takes_a_minute))
    with pytest.raises(EnrollmentAborted):
        await world.enroll()
    assert (world.identity.seats, world.ipam.leases) == ({}, {})


async def test_an_aborted_enrollment_leaves_the_users_other_one_alone(world: World) -> None:
    """The failure table's row 18, I-05."""
    holder = user()
    first = await world.enroll(holder)
    world.ipam.will("reserve", refuses(SubnetExhausted("all are held")))
    with pytest.raises(SubnetExhausted):
        await world.enroll(holder)
    assert world.identity.seats == {name(first): holder}
    assert list(world.ipam.leases) == [name(first)]
    assert await world.states(first) == ["ACTIVE"]


async def test_an_id_token_is_good_for_the_retries_of_its_request_only(world: World) -> None:
    attempt = await world.attempt()
    await world.register(attempt)
    other = await world.attempt()
    with pytest.raises(IdTokenInvalid):
        await world.register(replace(other, credential=attempt.credential))
