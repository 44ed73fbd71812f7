"""Checks: what a replica makes of its three feeds, whatever comes first, and when it refuses to judge."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse import decisions
from guardhouse.durations import SECOND, format_duration
from guardhouse.errors import DeadlineTooShort, DurationInvalid, FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.replica import PolicyState, parse_max_staleness
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import from_timestamp, to_duration, to_timestamp
from guardhouse_services.follower import Freshness
from guardhouse_services.session import checking, replica
from guardhouse_services.session import servicer as servicers
from guardhouse_services.session.domain.policies import StalenessMode
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.usecases import Session
from tests.clock import FakeClock
from tests.guardhouse_services.session.world import (
    ALICE,
    BOB,
    HOUR,
    HOURLY,
    LAPTOP,
    MACHINE,
    MAX_STALENESS,
    NO_POLICY,
    NO_REGISTRATION,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    PHONE,
    TABLET,
    UNLIMITED,
    World,
    authentication,
    call,
    policy,
    registration,
    user,
)

FRESH = (pb.DECISION_ALLOW, pb.DECISION_REASON_SESSION_FRESH)
NO_LIMIT = (pb.DECISION_ALLOW, pb.DECISION_REASON_NO_SESSION_LIMIT)
EXPIRED = (pb.DECISION_REAUTHENTICATE, pb.DECISION_REASON_SESSION_EXPIRED)
SESSION_REVOKED = (pb.DECISION_REAUTHENTICATE, pb.DECISION_REASON_SESSION_REVOKED)
REVOKED = (pb.DECISION_BLOCK, pb.DECISION_REASON_REGISTRATION_REVOKED)
UNKNOWN = (pb.DECISION_BLOCK, pb.DECISION_REASON_REGISTRATION_UNKNOWN)
POLICY_UNKNOWN = (pb.DECISION_BLOCK, pb.DECISION_REASON_POLICY_UNKNOWN)
REMOVED = (pb.DECISION_BLOCK, pb.DECISION_REASON_USER_REMOVED)
STALE = (pb.DECISION_BLOCK, pb.DECISION_REASON_STATE_STALE)


@pytest.fixture
def clock() -> FakeClock:
    """Stands still, so that a session ends at exactly its end."""
    clock = FakeClock()
    clock.stop()
    return clock


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    async with World(clock) as world:
        yield world


def servicer(world: World) -> SessionServicer:
    # A check touches no database, no feed of its own and no other service.
    nothing: Any = None
    session = Session(world.clock, nothing, world.directory, world.replica, nothing, nothing)
    return SessionServicer(world.clock, session, nothing, nothing, nothing)


async def ask(
    world: World, registration_id: str = LAPTOP, policy_id: str = HOURLY, organization_id: str = ORGANIZATION
) -> pb.CheckSessionResponse:
    about = {"organization_id": organization_id, "registration_id": registration_id, "policy_id": policy_id}
    request = pb.CheckSessionRequest(**about)
    return pb.CheckSessionResponse.FromString((await servicer(world).CheckSession(request, call())).SerializeToString())


async def check(world: World, registration_id: str = LAPTOP, policy_id: str = HOURLY) -> tuple[int, int]:
    answer = (await ask(world, registration_id, policy_id)).answer
    return answer.decision, answer.reason


async def batch(world: World, *items: tuple[str, str]) -> pb.BatchCheckSessionsResponse:
    asked = [pb.CheckSessionItem(registration_id=one, policy_id=other) for one, other in items]
    return await sent(world, pb.BatchCheckSessionsRequest(organization_id=ORGANIZATION, items=asked))


async def sent(world: World, request: pb.BatchCheckSessionsRequest) -> pb.BatchCheckSessionsResponse:
    reply = await servicer(world).BatchCheckSessions(request, call())
    return pb.BatchCheckSessionsResponse.FromString(reply.SerializeToString())


def reasons(response: pb.BatchCheckSessionsResponse | pb.StreamCheckSessionsResponse) -> list[tuple[int, int]]:
    return [(answer.decision, answer.reason) for answer in response.answers]


async def enrolled(world: World, **fields: Any) -> int:
    """Alice's laptop was enrolled now, and two policies cover it. Answers the time."""
    now = world.clock.now()
    world.identity.publish(user())
    world.registry.publish(registration(now, **fields))
    world.own.publish(policy(), policy(UNLIMITED, duration=""))
    await world.settle()
    return now


async def test_an_answer_says_who_until_when_and_how_fresh(world: World, clock: FakeClock) -> None:
    """Decision 27: the timer runs from the enrollment's own authentication."""
    began = await enrolled(world)
    response = await ask(world)
    assert response.answer == pb.CheckAnswer(
        decision=pb.DECISION_ALLOW,
        reason=pb.DECISION_REASON_SESSION_FRESH,
        policy_id=HOURLY,
        registration_id=LAPTOP,
        user_id=ALICE,
        authenticate_time=to_timestamp(began),
        session_expire_time=to_timestamp(began + HOUR),
        valid_for=to_duration(decisions.MAX_VALID_FOR),
    )
    assert 0 <= clock.now() - from_timestamp(response.fresh_as_of) < 10 * SECOND
    assert not response.degraded


async def test_a_session_ends_at_exactly_its_end(world: World, clock: FakeClock) -> None:
    """Decision 27, I-17: the last microsecond is fresh and the next is not, and no answer outlives it."""
    await enrolled(world)
    clock.advance(3600 - 0.000001)
    await world.settle()
    assert await check(world) == FRESH
    assert (await ask(world)).answer.valid_for == to_duration(1)
    clock.advance(0.000001)
    assert await check(world) == EXPIRED
    assert await check(world, policy_id=UNLIMITED) == NO_LIMIT


async def test_an_authentication_from_the_future_proves_nothing(world: World, clock: FakeClock) -> None:
    """I-17: 0 <= now - last authentication."""
    await enrolled(world)
    world.identity.publish(authentication(clock.now() + 1, revision=20))
    await world.settle()
    assert await check(world) == EXPIRED


def publications(world: World, began: int) -> list[tuple[Any, Sequence[Any]]]:
    return [
        (world.identity, [user()]),
        (world.identity, [authentication(began + HOUR, revision=20)]),
        (world.registry, [registration(began)]),
        (world.own, [policy()]),
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_the_order_in_which_facts_arrive_changes_nothing(
    world: World, clock: FakeClock, order: Sequence[int]
) -> None:
    """Decision 27: the timer is that of the newest authentication, whether it came before the registration or after.

    A check between any two of them allows only what it has proof of, and spoils none that follows.
    """
    began = clock.now()
    clock.advance(3600 + 1800)
    allowed = []
    for number in order:
        link, events = publications(world, began)[number]
        link.publish(*events)
        await world.settle()
        allowed.append(await check(world) == FRESH)
    assert allowed == [False, False, False, True]
    answer = (await ask(world)).answer
    assert answer.authenticate_time == to_timestamp(began + HOUR)
    assert answer.session_expire_time == to_timestamp(began + 2 * HOUR)


async def test_an_authentication_renews_its_own_registration_and_no_other(world: World, clock: FakeClock) -> None:
    """Decision 27."""
    began = await enrolled(world)
    world.registry.publish(registration(began, PHONE))
    clock.advance(3600)
    world.identity.publish(authentication(clock.now(), revision=20, registration_id=LAPTOP))
    await world.settle()
    assert await check(world, LAPTOP) == FRESH
    assert await check(world, PHONE) == EXPIRED


async def test_a_later_authentication_replaces_the_one_that_checks_have_seen(world: World, clock: FakeClock) -> None:
    """Decision 27: what a check put together is not kept past the event that changes it."""
    await enrolled(world)
    for revision in (20, 21):
        clock.advance(3600)
        await world.settle()
        assert await check(world) == EXPIRED
        world.identity.publish(authentication(clock.now(), revision=revision))
        await world.settle()
        assert await check(world) == FRESH


async def test_a_registration_keeps_its_authentication_when_it_changes(world: World, clock: FakeClock) -> None:
    """Decision 16: unrevoked, it is as it was, and its timer has run on."""
    began = await enrolled(world)
    clock.advance(3600)
    renewed = clock.now()
    world.identity.publish(authentication(renewed, revision=20))
    await world.settle()
    assert await check(world) == FRESH
    world.registry.publish(registration(began, revoked=True))
    await world.settle()
    assert await check(world) == REVOKED
    world.registry.publish(registration(began))
    await world.settle()
    assert (await ask(world)).answer.authenticate_time == to_timestamp(renewed)


async def test_the_newer_authentication_is_the_one_of_the_higher_revision(world: World, clock: FakeClock) -> None:
    """Revisions of identity order authentications, never clocks: an enrollment at a higher one has the say."""
    began = await enrolled(world, authorized=20)
    world.identity.publish(authentication(began - HOUR, revision=19))
    await world.settle()
    assert await check(world) == FRESH
    world.identity.publish(authentication(began - HOUR, revision=20))
    await world.settle()
    assert await check(world) == EXPIRED


async def test_a_registration_without_its_user_is_refused_until_the_user_arrives(
    world: World, clock: FakeClock
) -> None:
    """Decision 5: whether the user was removed cannot be told yet."""
    world.registry.publish(registration(clock.now()))
    world.own.publish(policy(UNLIMITED, duration=""))
    await world.settle()
    assert await check(world, policy_id=UNLIMITED) == UNKNOWN
    world.identity.publish(user(BOB))
    await world.settle()
    assert await check(world, policy_id=UNLIMITED) == UNKNOWN
    world.identity.publish(user(ALICE))
    await world.settle()
    assert await check(world, policy_id=UNLIMITED) == NO_LIMIT


async def test_a_removed_user_is_refused_whatever_the_registry_shows(world: World, clock: FakeClock) -> None:
    """Decision 5: and one who enrolled again after the removal is not."""
    await enrolled(world, authorized=10)
    world.identity.publish(user(removed=10))
    await world.settle()
    assert await check(world, policy_id=UNLIMITED) == REMOVED
    world.registry.publish(registration(clock.now(), PHONE, authorized=11))
    await world.settle()
    assert await check(world, PHONE, UNLIMITED) == NO_LIMIT


async def test_a_revoked_user_reauthenticates_for_every_enforced_policy(world: World, clock: FakeClock) -> None:
    """Decision 35: until the next authentication, whose revision is behind the revocation's."""
    began = await enrolled(world)
    world.identity.publish(user(revoked=30))
    await world.settle()
    assert await check(world) == SESSION_REVOKED
    assert await check(world, policy_id=UNLIMITED) == NO_LIMIT
    world.identity.publish(authentication(began, revision=30))
    await world.settle()
    assert await check(world) == SESSION_REVOKED
    world.identity.publish(authentication(began, revision=31))
    await world.settle()
    assert await check(world) == FRESH


async def test_a_service_token_has_a_timer_and_needs_no_user(world: World, clock: FakeClock) -> None:
    """Decision 34."""
    await enrolled(world, service_token_id=MACHINE)
    answer = (await ask(world)).answer
    assert (answer.decision, answer.reason, answer.user_id) == (*FRESH, "")
    clock.advance(3600)
    await world.settle()
    assert await check(world) == EXPIRED


async def test_a_shorter_timeout_acts_on_sessions_that_exist(world: World, clock: FakeClock) -> None:
    """Decision 28: a timeout is judged at check time."""
    await enrolled(world)
    clock.advance(600)
    await world.settle()
    assert await check(world) == FRESH
    world.own.publish(policy(duration="10m0s"))
    await world.settle()
    assert await check(world) == EXPIRED


async def test_a_policy_that_does_not_enforce_its_duration_is_unlimited(world: World, clock: FakeClock) -> None:
    """Decision 28."""
    await enrolled(world)
    world.own.publish(policy(duration="", check_session=pb.CheckSession(enforce=False, duration="1s")))
    clock.advance(3600)
    await world.settle()
    assert await check(world) == NO_LIMIT


async def test_what_is_deleted_is_unknown(world: World) -> None:
    """Decision 36: an answer, no error."""
    await enrolled(world)
    world.own.publish(pb.Event(policy_deleted=HOURLY))
    await world.settle()
    assert await check(world) == POLICY_UNKNOWN
    world.registry.publish(registry.Event(registration_deleted=LAPTOP))
    await world.settle()
    assert await check(world, policy_id=UNLIMITED) == UNKNOWN


async def test_a_deleted_authentication_leaves_the_enrollments(world: World, clock: FakeClock) -> None:
    began = await enrolled(world)
    world.identity.publish(authentication(began + 1, revision=20))
    world.identity.publish(identity.Event(authentication_deleted=LAPTOP))
    await world.settle()
    assert (await ask(world)).answer.authenticate_time == to_timestamp(began)


async def test_what_a_snapshot_omits_is_gone(world: World, clock: FakeClock) -> None:
    """I-22: after a resync nothing of the old state allows."""
    began = await enrolled(world)
    world.registry.snapshot(registration(began, PHONE))
    await world.settle()
    assert await check(world, LAPTOP) == UNKNOWN
    assert await check(world, PHONE) == FRESH


async def test_what_a_newer_service_may_say_allows_nothing(world: World, clock: FakeClock) -> None:
    """Services are upgraded in any order: an unknown state or action refuses, and stops no feed."""
    began = await enrolled(world)
    stranger = registration(began, PHONE)
    stranger.registration.registration.state = 9  # type: ignore[assignment]
    world.registry.publish(stranger)
    world.own.publish(policy(UNLIMITED, duration="", action=9))
    await world.settle()
    assert await check(world, PHONE) == REVOKED
    assert await check(world, LAPTOP, UNLIMITED) == (pb.DECISION_BLOCK, pb.DECISION_REASON_POLICY_BLOCK)
    world.own.publish(policy(filter=9))
    await world.settle()
    clock.advance(3600)
    await world.settle()
    assert await check(world) == EXPIRED


async def test_a_batch_answers_each_item_in_order(world: World) -> None:
    """Decision 36: unknown things are answers of their items; ids are not echoed, and freshness comes once."""
    began = await enrolled(world)
    world.registry.publish(registration(began, PHONE, revoked=True))
    await world.settle()
    response = await batch(
        world,
        (LAPTOP, HOURLY),
        (NO_REGISTRATION, HOURLY),
        (LAPTOP, NO_POLICY),
        (PHONE, UNLIMITED),
        (LAPTOP, UNLIMITED),
    )
    assert reasons(response) == [FRESH, UNKNOWN, POLICY_UNKNOWN, REVOKED, NO_LIMIT]
    assert {(a.policy_id, a.registration_id) for a in response.answers} == {("", "")}
    assert [bool(a.user_id) for a in response.answers] == [True, False, True, True, True]
    assert response.answers[0].session_expire_time == to_timestamp(began + HOUR)
    assert not response.answers[1].HasField("authenticate_time")
    assert response.HasField("fresh_as_of")


async def test_a_malformed_id_is_named(world: World) -> None:
    with pytest.raises(InvalidField) as caught:
        await batch(world, *[(LAPTOP, HOURLY)] * 3, ("pol_" + "1" * 32, HOURLY))
    assert caught.value.field == "items[3].registration_id"
    with pytest.raises(FieldRequired) as caught:
        await batch(world, (LAPTOP, HOURLY), (LAPTOP, ""))
    assert caught.value.field == "items[1].policy_id"
    with pytest.raises(InvalidField) as caught:
        await ask(world, registration_id=LAPTOP.upper())
    assert caught.value.field == "registration_id"


async def test_a_batch_is_bounded(world: World) -> None:
    """I-34."""
    with pytest.raises(FieldRequired):
        await batch(world)
    with pytest.raises(InvalidField) as caught:
        await batch(world, *[(LAPTOP, HOURLY)] * 1001)
    assert caught.value.field == "items"
    assert len((await batch(world, *[(LAPTOP, HOURLY)] * 1000)).answers) == 1000


async def test_an_organization_knows_nothing_of_another(world: World) -> None:
    """I-27: foreign and unknown ids answer the same."""
    await enrolled(world)
    world.own.publish(policy(), organization_id=OTHER_ORGANIZATION)
    await world.settle()
    for organization_id in (OTHER_ORGANIZATION, "org_" + "9" * 32):
        answer = (await ask(world, organization_id=organization_id)).answer
        assert (answer.decision, answer.reason, answer.user_id) == (*UNKNOWN, "")


def full_batch(*items: tuple[str, str], mask: Sequence[str] = (), **fields: Any) -> pb.BatchCheckSessionsRequest:
    asked = [pb.CheckSessionItem(registration_id=one, policy_id=other) for one, other in items]
    read_mask = FieldMask(paths=mask) if mask else None
    return pb.BatchCheckSessionsRequest(organization_id=ORGANIZATION, items=asked, read_mask=read_mask, **fields)


async def test_a_batch_has_the_fields_that_are_wanted(world: World) -> None:
    """AIP-157: those and no others, of every kind of answer; ids that the items hold when the mask names them."""
    began = await enrolled(world)
    items = [(LAPTOP, HOURLY), (NO_REGISTRATION, HOURLY), (LAPTOP, NO_POLICY), (LAPTOP, UNLIMITED)]
    alone = [(await ask(world, *item)).answer for item in items]
    assert alone[0].session_expire_time == to_timestamp(began + HOUR)
    names = [field.name for field in pb.CheckAnswer.DESCRIPTOR.fields]
    for mask in (*([name] for name in names), ["decision", "reason", "session_expire_time"], names, names[::-1]):
        response = await sent(world, full_batch(*items, mask=mask))
        for answer, whole in zip(response.answers, alone, strict=True):
            wanted = pb.CheckAnswer()
            FieldMask(paths=mask).MergeMessage(whole, wanted)
            assert answer == wanted
    default = [name for name in names if name not in ("policy_id", "registration_id")]
    asked = [await sent(world, full_batch(*items, mask=mask)) for mask in ((), default)]
    assert asked[0].answers == asked[1].answers


@pytest.mark.parametrize("path", ["answer", "decisions", "valid_for.seconds", "*", "", "Decision"])
async def test_a_mask_that_names_no_field_is_refused(world: World, path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        await sent(world, full_batch((LAPTOP, HOURLY), mask=["decision", path]))
    assert caught.value.field == "read_mask"


class Caller:
    """Who streams checks: sends what it is told to, and takes an answer when it is told to."""

    def __init__(self, world: World) -> None:
        self.asked: asyncio.Queue[pb.StreamCheckSessionsRequest | None] = asyncio.Queue()
        self.taken = 0
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.served = asyncio.create_task(servicer(world).StreamCheckSessions(self._requests(), self._send))

    def ask(self, nonce: int, *items: tuple[str, str], **fields: Any) -> None:
        batched = full_batch(*items or ((LAPTOP, HOURLY),), **fields)
        request = pb.StreamCheckSessionsRequest.FromString(batched.SerializeToString())
        request.nonce = nonce
        self.asked.put_nowait(request)

    async def answer(self) -> pb.StreamCheckSessionsResponse:
        return pb.StreamCheckSessionsResponse.FromString(await self.answers.get())

    async def _requests(self) -> AsyncIterator[pb.StreamCheckSessionsRequest]:
        while (request := await self.asked.get()) is not None:
            self.taken += 1
            yield request

    async def _send(self, message: bytes) -> None:
        await self.reads.wait()
        self.answers.put_nowait(message)


async def test_a_stream_answers_each_batch_in_order_by_the_state_of_then(world: World) -> None:
    """Decision 36: as a batch is answered, nonce and all; a change between two shows in the second."""
    await enrolled(world)
    caller = Caller(world)
    caller.ask(7, (LAPTOP, HOURLY), (NO_REGISTRATION, HOURLY))
    first = await caller.answer()
    assert (first.nonce, reasons(first)) == (7, [FRESH, UNKNOWN])
    alone = await batch(world, (LAPTOP, HOURLY), (NO_REGISTRATION, HOURLY))
    assert (first.answers, first.degraded) == (alone.answers, False)
    assert first.HasField("fresh_as_of")
    world.identity.publish(user(revoked=30))
    await world.settle()
    for nonce in (-1, 0, 3):
        caller.ask(nonce, (LAPTOP, UNLIMITED), (LAPTOP, HOURLY), mask=["reason"])
    for nonce in (-1, 0, 3):
        answer = await caller.answer()
        assert (answer.nonce, [each.decision for each in answer.answers]) == (nonce, [0, 0])
        assert [each.reason for each in answer.answers] == [NO_LIMIT[1], SESSION_REVOKED[1]]
    caller.asked.put_nowait(None)
    await caller.served


async def test_an_error_ends_the_stream(world: World) -> None:
    await enrolled(world)
    caller = Caller(world)
    caller.ask(1)
    caller.ask(2, (LAPTOP, HOURLY), (ALICE, HOURLY))
    caller.ask(3)
    assert (await caller.answer()).nonce == 1
    with pytest.raises(InvalidField) as caught:
        await caller.served
    assert caught.value.field == "items[1].registration_id"
    assert (caller.taken, caller.answers.qsize()) == (2, 0)


async def test_who_does_not_read_is_not_read_from(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I-26, I-34: one request and one answer are held for a caller, however much it sends; and not for ever, because an
    answer holds for ten seconds at most."""
    await enrolled(world)
    caller = Caller(world)
    caller.reads.clear()
    for nonce in range(100):
        caller.ask(nonce)
    while not caller.taken:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    assert caller.taken == 1
    caller.reads.set()
    assert [(await caller.answer()).nonce for _ in range(100)] == list(range(100))
    caller.reads.clear()
    monkeypatch.setattr(servicers, "SEND_SECONDS", 0.3)
    caller.ask(100)
    with pytest.raises(DeadlineTooShort):
        await caller.served


@pytest.mark.parametrize("cut", ["identity", "registry", "own"])
async def test_nothing_is_allowed_once_one_feed_is_no_longer_fresh(world: World, clock: FakeClock, cut: str) -> None:
    """I-16: with any one link cut there is no ALLOW later than max_staleness after the last proof, under any policy."""
    await enrolled(world)
    getattr(world, cut).up = False
    clock.advance(MAX_STALENESS / SECOND)
    since = clock.steady()
    for link, follower in zip((world.identity, world.registry, world.own), world.replica.followers, strict=True):
        assert await follower.fresh(since, timeout=30 if link.up else 0.05) == link.up
    assert await check(world) == STALE
    assert (
        reasons(await batch(world, (LAPTOP, HOURLY), (LAPTOP, UNLIMITED), (NO_REGISTRATION, NO_POLICY))) == [STALE] * 3
    )
    getattr(world, cut).up = True
    await world.settle()
    assert await check(world) == FRESH


class StillClock(FakeClock):
    """Whose steady time stands still as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stop()
        self._began = super().steady()

    def steady(self) -> int:
        return self._began + self._ahead


async def test_the_state_is_stale_from_exactly_max_staleness_on() -> None:
    """I-16: the bound is of the oldest of the three proofs, and an answer may be kept only for what is left of it."""
    clock = StillClock()
    async with World(clock) as world:
        began, steady = await enrolled(world), clock.steady()
        world.identity.up = world.registry.up = world.own.up = False
        for follower, age in zip(world.replica.followers, (1, 29, 5), strict=True):
            follower.fresh_as_of = steady - age * SECOND
        response = await ask(world)
        assert (response.answer.decision, response.answer.reason) == FRESH
        assert response.answer.valid_for == to_duration(SECOND)
        assert response.fresh_as_of == to_timestamp(began - 29 * SECOND)
        clock.advance(1)
        response = await ask(world)
        assert (response.answer.decision, response.answer.reason) == FRESH
        assert response.answer.valid_for == to_duration(0)
        clock.advance(0.000001)
        response = await ask(world)
        assert (response.answer.decision, response.answer.reason) == STALE
        assert response.answer.valid_for == to_duration(0)
        assert response.fresh_as_of == to_timestamp(began - 29 * SECOND)


def opened(max_open: str = "1h") -> pb.Staleness:
    return pb.Staleness(mode=pb.STALENESS_MODE_OPEN_BOUNDED, max_open=max_open)


@contextlib.asynccontextmanager
async def cut_off(clock: StillClock, seconds: float, **fields: Any) -> AsyncIterator[World]:
    """A replica that last heard of anything so long ago. Its hourly policy, which allows three hours, is open."""
    async with World(clock) as world:
        await enrolled(world, **fields)
        world.own.publish(policy(duration="3h0m0s", staleness=opened()), policy(UNLIMITED, duration=""))
        await world.settle()
        world.identity.up = world.registry.up = world.own.up = False
        steady = clock.steady()
        for follower in world.replica.followers:
            follower.fresh_as_of = steady
        clock.advance(seconds)
        yield world


@pytest.mark.parametrize("off", [-0.001, -0.000001, 0, 0.000001, 0.001])
async def test_an_open_policy_decides_by_what_was_last_proven_until_max_open(off: float) -> None:
    """Section 6.5: one that is not open refuses meanwhile, and after max_open both do."""
    clock = StillClock()
    async with cut_off(clock, MAX_STALENESS / SECOND + off) as world:
        response = await ask(world)
        assert ((response.answer.decision, response.answer.reason), response.degraded) == (FRESH, off > 0)
        assert await check(world, policy_id=UNLIMITED) == (STALE if off > 0 else NO_LIMIT)
        clock.advance(3600 - MAX_STALENESS / SECOND)
        response = await ask(world)
        assert ((response.answer.decision, response.answer.reason), response.degraded) == (
            (STALE, False) if off > 0 else (FRESH, True)
        )
        assert response.fresh_as_of == to_timestamp(clock.now() - HOUR - round(off * SECOND))
        assert response.answer.valid_for == to_duration(max(0, -round(off * SECOND)))
        assert bool(response.answer.user_id) == (off <= 0)


async def test_an_open_policy_refuses_what_was_refused_or_not_known(caplog: pytest.LogCaptureFixture) -> None:
    """Section 6.5: a revoked or unknown registration, a revoked or removed user, and a session that has ended."""
    clock = StillClock()
    async with cut_off(clock, 600) as world:
        assert await check(world) == FRESH
        assert await check(world, NO_REGISTRATION) == UNKNOWN
        assert await check(world, policy_id=NO_POLICY) == STALE
        for event, refusal in ((user(revoked=30), SESSION_REVOKED), (user(removed=30), REMOVED)):
            world.identity.publish(event)
            await world.applied()
            assert await check(world) == refusal
        world.registry.publish(registration(clock.now(), PHONE, user_id=BOB))
        await world.applied()
        assert await check(world, PHONE) == UNKNOWN
    async with cut_off(clock, 600, revoked=True) as world:
        assert await check(world) == REVOKED
    async with cut_off(clock, 600, service_token_id=MACHINE) as world:
        world.identity.publish(authentication(clock.now() - 3 * HOUR, revision=20))
        await world.applied()
        assert await check(world) == EXPIRED


@pytest.mark.parametrize("restored", ["identity", "registry", "own"])
async def test_an_open_policy_decides_nothing_by_another_history(restored: str) -> None:
    """I-25, section 6.5: once a service has said that its database was restored, until its snapshot is whole."""
    clock = StillClock()
    async with cut_off(clock, 600) as world:
        assert await check(world) == FRESH
        getattr(world, restored).change_epoch()
        while not any(it.resyncs for it in world.replica.followers):  # noqa: ASYNC110  # they tell nobody
            await asyncio.sleep(0)
        response = await ask(world)
        assert (response.answer.decision, response.answer.reason) == STALE
        assert not response.HasField("fresh_as_of")


async def test_degraded_answers_are_counted_and_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Section 6.5: and a batch says that one of its answers is."""

    def said() -> list[str]:
        return [it.getMessage() for it in caplog.records if it.name == replica.__name__]

    clock = StillClock()
    async with cut_off(clock, 29) as world:
        assert not (await batch(world, (LAPTOP, HOURLY))).degraded
        clock.advance(2)
        assert not (await batch(world, (LAPTOP, UNLIMITED))).degraded
        assert (world.replica.degraded_answers, said()) == (0, [])
        for _ in range(3):
            assert (await batch(world, (LAPTOP, HOURLY), (LAPTOP, UNLIMITED), (NO_REGISTRATION, HOURLY))).degraded
            clock.advance(29)
        assert world.replica.degraded_answers == 6
        (message,) = said()
        assert "31s old" in message
        await ask(world)
        clock.advance(2)
        await ask(world)
        assert (world.replica.degraded_answers, len(said())) == (8, 2)


async def test_a_user_that_a_snapshot_replaces_is_the_one_that_decides(world: World) -> None:
    """I-22, decision 5: what a check put together is not kept past a snapshot of identity, nor past an event."""
    await enrolled(world)
    assert await check(world) == FRESH
    world.identity.snapshot(user(BOB))
    await world.settle()
    assert await check(world) == UNKNOWN
    world.identity.publish(user(removed=10))
    await world.settle()
    assert await check(world) == REMOVED
    world.identity.snapshot(user())
    await world.settle()
    assert await check(world) == FRESH


@pytest.mark.parametrize("missing", [0, 1, 2])
async def test_a_feed_that_never_loaded_is_not_fresh_on_a_machine_that_just_started(missing: int) -> None:
    """I-16: no proof is no proof, however small the steady time still is."""
    clock = StillClock()
    clock._began = SECOND
    world = World(clock)
    for follower in world.replica.followers:
        follower.fresh_as_of = SECOND
    assert await check(world) == UNKNOWN
    world.replica.policies.states[ORGANIZATION] = state = PolicyState(ORGANIZATION, max_open=HOUR)
    state.apply(policy(staleness=opened()))
    world.replica.followers[missing].fresh_as_of = 0
    assert await check(world) == STALE
    assert not (await ask(world)).HasField("fresh_as_of")


async def test_a_token_makes_the_next_check_know(world: World, clock: FakeClock) -> None:
    """I-35: of any of the three feeds; the change is on its way when the check comes."""
    began = await enrolled(world)
    views = zip(("identity", "registry", "session"), world.replica.followers, strict=True)
    nothing: Any = None
    freshness = Freshness(nothing, "", views=views, effects=())
    token = world.registry.publish(registration(began, revoked=True))
    assert await check(world) == FRESH
    await freshness.wait([token], ORGANIZATION)
    assert await check(world) == REVOKED
    token = world.registry.publish(registration(began))
    await freshness.wait([token], ORGANIZATION)
    await freshness.wait([world.identity.publish(user(revoked=30))], ORGANIZATION)
    assert await check(world) == SESSION_REVOKED
    await freshness.wait([world.own.publish(policy(duration=""))], ORGANIZATION)
    assert await check(world) == NO_LIMIT


@pytest.mark.parametrize("text", ["2s", "30s", "5m", "1m30s"])
def test_max_staleness_has_bounds(text: str) -> None:
    assert 2 * SECOND <= parse_max_staleness(text) <= 300 * SECOND


@pytest.mark.parametrize("text", ["", "0s", "1.999999s", "5m0.000001s", "24h", "-30s", "30", "thirty seconds"])
def test_nobody_runs_with_another_max_staleness(text: str) -> None:
    """I-16: a bound that is no bound is refused when the service starts."""
    with pytest.raises(DurationInvalid):
        parse_max_staleness(text)


def test_the_contract_and_the_decisions_have_the_same_numbers() -> None:
    """Answers are filled with the decisions' numbers."""
    for ours, prefix, theirs in (
        (decisions.Decision, "DECISION_", pb.Decision),
        (decisions.Reason, "DECISION_REASON_", pb.DecisionReason),
        (decisions.PolicyFilter, "POLICY_FILTER_", pb.PolicyFilter),
        (decisions.PolicyAction, "POLICY_ACTION_", pb.PolicyAction),
        (StalenessMode, "STALENESS_MODE_", pb.StalenessMode),
    ):
        assert {f"{prefix}{each.name}": each.value for each in ours} == {
            name: value for name, value in theirs.items() if value
        }
    assert format_duration(MAX_STALENESS) == "30s"


async def test_an_answer_that_was_kept_is_the_one_that_would_be_decided(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between two checks, the second says what it would say if nobody had asked before."""
    # Two answers at one time are to be compared.
    monkeypatch.setattr(clock, "steady", clock.now)
    monkeypatch.setattr(world.replica, "_steady", clock.now)
    dice = random.Random(0)
    began = await enrolled(world)
    world.registry.publish(registration(began, PHONE, user_id=BOB), registration(began, TABLET, "", MACHINE))
    world.identity.publish(user(BOB))
    policies = [HOURLY, UNLIMITED]
    masks = [(), ("decision", "reason", "session_expire_time"), checking.FIELDS]
    kept = changed = 0
    for revision in range(20, 1520):
        items = [(dice.choice((LAPTOP, PHONE, TABLET)), dice.choice(policies)) for _ in range(4)]
        mask = dice.choice(masks)
        first, again = await sent(world, full_batch(*items, mask=mask)), await ask(world, *items[0])
        happening(dice, world, clock, revision)
        await world.settle()
        if dice.random() < 0.1:
            # Nothing is heard for a while.
            clock.advance(dice.choice((21, 29, 40)))
        subjects = world.replica.registrations.states[ORGANIZATION].registrations.values()
        kept += sum(subject.asked is not None for subject in subjects)
        now = [await sent(world, full_batch(*items, mask=mask)), await ask(world, *items[0])]
        for subject in subjects:
            subject.asked = None
        assert now == [await sent(world, full_batch(*items, mask=mask)), await ask(world, *items[0])]
        changed += now != [first, again]
        await world.settle()
    assert kept > 500
    assert changed > 500


def happening(dice: random.Random, world: World, clock: FakeClock, revision: int) -> None:
    """One thing that an answer may depend on, or nothing."""
    device, whose = dice.choice(((LAPTOP, ALICE), (PHONE, BOB), (TABLET, "")))
    enrollment: dict[str, Any] = {"service_token_id": MACHINE} if not whose else {}
    match dice.randrange(14):
        case 0 if whose:
            world.identity.publish(user(whose, revoked=revision))
        case 1 if whose:
            world.identity.publish(user(whose, removed=dice.choice((0, revision))))
        case 2 | 8:
            world.identity.publish(authentication(clock.now() + dice.choice((-1, 0, 5)) * SECOND, revision, device))
        case 3 | 9 | 10:
            revoked = dice.random() < 0.3
            enrolled_now = registration(clock.now(), device, whose, revoked=revoked, authorized=revision, **enrollment)
            world.registry.publish(enrolled_now)
        case 4:
            world.own.publish(policy(duration=dice.choice(("", "1s", "15s", "1h0m0s")), enabled=dice.random() < 0.9))
        case 5:
            action = dice.choice((pb.POLICY_ACTION_ALLOW, pb.POLICY_ACTION_BLOCK))
            world.own.publish(policy(UNLIMITED, duration="", action=action))
        case 6 | 11 | 12:
            # A clock may also be set back.
            clock.advance(dice.choice((-2, 0.000001, 1, 5, 6, 10, 3590)))
        case 7:
            world.registry.publish(registry.Event(registration_deleted=device))


async def test_a_refusal_is_not_kept(world: World, clock: FakeClock) -> None:
    """A clock that was ahead made an authentication that counts once its time has come."""
    began = await enrolled(world)
    world.identity.publish(authentication(began + 5 * SECOND, 20))
    await world.settle()
    assert await check(world) == EXPIRED
    clock.advance(6)
    await world.settle()
    assert await check(world) == FRESH
