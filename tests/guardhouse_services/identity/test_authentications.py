"""Signing in again for a registration (decision 27, invariant I-11)."""

import pytest

from guardhouse.durations import MINUTE, SECOND
from guardhouse.errors import (
    ChallengeInvalid,
    DifferentUser,
    FieldRequired,
    IdTokenInvalid,
    RegistrationNotFound,
    RequestIdReused,
    ServiceTokenInvalid,
    UserRemoved,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.rules import Rule, RuleKind
from guardhouse.times import from_timestamp
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import ServiceTokenSecret
from guardhouse_services.identity.domain.enrollment_policies import Decision
from guardhouse_services.identity.domain.enrollments import Registration
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import World, deleted, registered


async def newest(world: World) -> tuple[pb.Authentication, pb.UserRecord | None]:
    events = (await world.events())[-1]
    return events[0].authentication, events[1].user if len(events) > 1 else None


async def test_it_starts_the_timer_when_the_token_was_issued(world: World) -> None:
    """Decision 27: min(now, iat); the fact carries its revision, by which revocations are ordered (decision 35)."""
    world.clock.stop()
    intent = await world.enroll("ada")
    world.clock.advance(3600)
    time = await world.authenticate(intent, world.sign_in("ada", age=60, groups=("ops",)))
    assert time == world.clock.now() - 60 * SECOND
    fact, user = await newest(world)
    assert fact.registration_id == intent.intent_id
    assert from_timestamp(fact.authenticate_time) == time
    assert fact.revision == await world.revision()
    assert user is not None
    # Decision 9.
    assert list(user.user.groups) == ["ops"]
    now = await world.user(intent)
    assert (now.create_time, now.authenticate_time) == (intent.authenticate_time, time)
    assert now.seat_time == intent.create_time


async def test_it_never_goes_backwards(world: World) -> None:
    """Decision 27: neither behind the enrollment nor behind a later authentication. It counts as one all the same."""
    world.clock.stop()
    intent = await world.enroll("ada")
    assert await world.authenticate(intent, world.sign_in("ada", age=120)) == intent.authenticate_time
    world.clock.advance(3600)
    late = await world.authenticate(intent, world.sign_in("ada", age=10))
    before = await world.revision()
    assert await world.authenticate(intent, world.sign_in("ada", age=200)) == late
    fact, _ = await newest(world)
    assert fact.revision == before + 1


async def test_it_is_never_in_the_future(world: World) -> None:
    """Decision 27."""
    intent = await world.enroll("ada", age=60)
    world.clock.stop()
    assert await world.authenticate(intent, world.sign_in("ada", age=-30)) == world.clock.now()


async def test_it_resets_no_other_registration(world: World) -> None:
    """Decision 27."""
    laptop, phone = await world.enroll("ada"), await world.enroll("ada")
    await world.authenticate(laptop, world.sign_in("ada"))
    kinds = [event.WhichOneof("kind") for event in await world.snapshot(world.organization)]
    assert kinds.count("authentication") == 1
    of = store.registrations.authentication_of
    assert await world.read(lambda tx: of(tx, world.organization, phone.intent_id)) is None


async def test_another_person_leaves_the_timer_alone(world: World) -> None:
    """Invariant I-11: also one with the same address, and whoever session says it is."""
    ada, bob = await world.enroll("ada"), await world.enroll("bob")
    before = await world.revision()
    for other in (world.sign_in("bob"), world.sign_in("stranger"), world.sign_in("ADA", email="ada@example.com")):
        with pytest.raises(DifferentUser):
            await world.authenticate(ada, other)
    call = world.call(world.organization)
    wrong = Registration(ada.intent_id, user_id=bob.user_id)
    for name in ("ada", "bob"):
        with pytest.raises(DifferentUser):
            await world.identity.authentications.record(call, world.organization, wrong, world.sign_in(name))
    assert await world.revision() == before
    assert await world.count("authentication") == 0


async def test_a_person_is_no_machine(world: World) -> None:
    """Invariant I-11."""
    token_id, secret = await world.service_token()
    await world.allow(Rule(RuleKind.ANY_SERVICE_TOKEN), decision=Decision.SERVICE_AUTH, precedence=1)
    robot, ada = await world.enroll(secret), await world.enroll("ada")
    _, other = await world.service_token()
    for registration, credential in ((robot, world.sign_in("ada")), (ada, secret), (robot, other)):
        with pytest.raises(DifferentUser):
            await world.authenticate(registration, credential)
    with pytest.raises(ServiceTokenInvalid):
        await world.authenticate(robot, ServiceTokenSecret(secret.client_id, "wrong"))
    assert robot.service_token_id == token_id


async def test_a_service_token_authenticates_silently(world: World) -> None:
    """Decision 34."""
    _, secret = await world.service_token()
    await world.allow(Rule(RuleKind.ANY_SERVICE_TOKEN), decision=Decision.SERVICE_AUTH, precedence=1)
    world.clock.stop()
    robot = await world.enroll(secret)
    world.clock.advance(3600)
    assert await world.authenticate(robot, secret) == world.clock.now()
    fact, user = await newest(world)
    assert user is None
    assert fact.registration_id == robot.intent_id


async def test_an_old_sign_in_does_not_count_where_interaction_is_forced(world: World) -> None:
    """Decision 33: auth_time must be later than it was asked for. It is told in whole seconds, so one in the same
    second may be older and does not count; a refusal leaves the timer alone."""
    world.clock.stop()
    intent = await world.enroll("ada")
    await world.force_interaction()
    world.clock.advance(3600)
    asked = world.clock.now() // SECOND * SECOND + SECOND // 2
    world.clock.advance(5)
    before = await world.revision()
    for auth_time in (None, asked - MINUTE, asked // SECOND * SECOND, asked):
        with pytest.raises(IdTokenInvalid):
            await world.authenticate(intent, world.sign_in("ada", auth_time=auth_time), asked_time=asked)
    with pytest.raises(FieldRequired) as error:
        await world.authenticate(intent, world.sign_in("ada", auth_time=world.clock.now()))
    assert error.value.field == "asked_time"
    assert await world.revision() == before
    anew = world.sign_in("ada", auth_time=asked // SECOND * SECOND + SECOND)
    assert await world.authenticate(intent, anew, asked_time=asked) == world.clock.now()


async def test_a_silent_sign_in_counts_where_interaction_is_not_forced(world: World) -> None:
    """Decision 27, also when it was said when it was asked for; and decision 33 is about re-authentication only."""
    await world.force_interaction()
    intent = await world.enroll("ada", auth_time=0)
    await world.force_interaction(forced=False)
    asked = world.clock.now()
    for asked_time in (None, asked):
        await world.authenticate(intent, world.sign_in("ada", auth_time=asked - 3600 * SECOND), asked_time=asked_time)


async def test_what_was_asked_for_too_long_ago_is_asked_for_again(world: World) -> None:
    """Decision 33: within ten minutes; what was recorded then is answered all the same (invariant I-07)."""
    world.clock.stop()
    intent = await world.enroll("ada")
    asked = world.clock.now()
    world.clock.advance(600)
    token = world.sign_in("ada", auth_time=world.clock.now())
    first = await world.authenticate(intent, token, "r", asked)
    world.clock.advance(1)
    assert await world.authenticate(intent, token, "r", asked) == first
    for unfit in (asked, world.clock.now() + 61 * SECOND):
        with pytest.raises(ChallengeInvalid) as error:
            await world.authenticate(intent, world.sign_in("ada"), asked_time=unfit)
        assert error.value.field == "asked_time"


async def test_the_answer_says_who_the_provider_says_it_is(world: World, desk: Desk) -> None:
    """Decision 9: the newest e-mail, name and groups; and so for a repeated request. A machine is nobody."""
    intent = await world.enroll("ada", groups=("old",))
    request = pb.RecordAuthenticationRequest(
        organization_id=world.organization,
        registration_id=intent.intent_id,
        user_id=intent.user_id,
        request_id="r",
    )
    request.credential.id_token = world.sign_in("ada", email="lovelace@example.com", groups=("new",)).compact
    answer = await desk.send(request)
    assert (answer.user.email, list(answer.user.groups)) == ("lovelace@example.com", ["new"])
    assert await desk.send(request) == answer
    _, secret = await world.service_token()
    await world.allow(Rule(RuleKind.ANY_SERVICE_TOKEN), decision=Decision.SERVICE_AUTH, precedence=1)
    robot = await world.enroll(secret)
    request = pb.RecordAuthenticationRequest(
        organization_id=world.organization,
        registration_id=robot.intent_id,
        service_token_id=robot.service_token_id,
        request_id="s",
    )
    request.credential.service_token.client_id = secret.client_id
    request.credential.service_token.client_secret = secret.client_secret
    assert not (await desk.send(request)).HasField("user")


async def test_a_token_authenticates_one_registration_for_one_request(world: World) -> None:
    """Decision 27 and invariant I-08: neither the token of the enrollment nor one that reset another timer."""
    token = world.sign_in("ada")
    laptop = await world.authorize(token, request_id="r")
    await world.registry(registered(laptop))
    phone = await world.enroll("ada")
    with pytest.raises(IdTokenInvalid):
        await world.authenticate(laptop, token, "r")
    fresh = world.sign_in("ada")
    await world.authenticate(laptop, fresh, "one")
    for registration, request_id in ((phone, "two"), (laptop, "three")):
        with pytest.raises(IdTokenInvalid):
            await world.authenticate(registration, fresh, request_id)


async def test_a_repeated_request_is_one(world: World) -> None:
    """Invariant I-07: answered without the token, which has expired; another body is refused."""
    intent = await world.enroll("ada")
    token = world.sign_in("ada")
    first = await world.authenticate(intent, token, "again")
    verified, revision = world.verified, await world.revision()
    world.clock.advance(600)
    assert await world.authenticate(intent, token, "again") == first
    assert (world.verified, await world.revision()) == (verified, revision)
    call = world.call(world.organization, "again", b"other", "RecordAuthentication")
    holder = Registration(intent.intent_id, user_id=intent.user_id)
    with pytest.raises(RequestIdReused):
        await world.identity.authentications.record(call, world.organization, holder, token)


async def test_a_removed_user_enrolls_again_instead(world: World) -> None:
    """Decision 5: known of here or not, and also when another registration of the user's is newer than the removal."""
    intent = await world.enroll("ada")
    unheard_of = await world.authorize("ada")
    await world.remove(intent)
    for registration in (intent, unheard_of):
        with pytest.raises(UserRemoved):
            await world.authenticate(registration, world.sign_in("ada"))
    again = await world.enroll("ada")
    with pytest.raises(UserRemoved):
        await world.authenticate(intent, world.sign_in("ada"))
    await world.authenticate(again, world.sign_in("ada"))
    assert await world.used() == 1


async def test_it_makes_a_reserved_seat_one_for_good(world: World) -> None:
    """Decision 2: an authentication is what takes a seat, and the registry's word may come later."""
    intent = await world.authorize("ada")
    await world.authenticate(intent, world.sign_in("ada"))
    assert (await world.user(intent)).seat_time is not None
    await world.cancel(intent)
    assert await world.used() == 1


async def test_it_goes_with_its_registration(world: World) -> None:
    """What is deleted authenticates no more, and followers are told (invariant I-12)."""
    intent = await world.enroll("ada")
    await world.authenticate(intent, world.sign_in("ada"))
    await world.registry(deleted(intent))
    ((event,),) = (await world.events())[-1:]
    assert event.authentication_deleted == intent.intent_id
    revision = await world.revision()
    with pytest.raises(RegistrationNotFound):
        await world.authenticate(intent, world.sign_in("ada"))
    await world.registry(registered(intent), deleted(intent))
    assert await world.revision() == revision
    assert await world.count("authentication") == 0
