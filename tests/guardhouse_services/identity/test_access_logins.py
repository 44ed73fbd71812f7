"""Signing in to an application, with no device (decision 2)."""

from dataclasses import replace

import pytest

from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.durations import MINUTE, SECOND
from guardhouse.errors import IdTokenInvalid, InvalidField, SeatsExhausted, ServiceTokenInvalid, UserRemoved
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services import requests
from guardhouse_services.identity.domain.credentials import ServiceTokenSecret
from guardhouse_services.identity.domain.enrollments import Registration
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import EVERYBODY, World


async def test_somebody_unknown_becomes_a_user_with_a_seat(world: World) -> None:
    """Decision 2: one seat, however often; the timer starts at min(now, iat); the newest sign-in says who it is."""
    world.clock.stop()
    (provider,) = await world.identity.identity_providers.page(world.organization, EVERYBODY)
    first = await world.log_in("ada", age=60)
    assert first.authenticate_time == world.clock.now() - 60 * SECOND
    assert (first.identity_provider_id, first.service_token_id) == (provider.identity_provider_id, "")
    assert first.user is not None
    assert first.user.seat_time == world.clock.now()
    ((event,),) = (await world.events())[-1:]
    assert first.revision == await world.revision()
    assert (event.user.user.user_id, event.user.user.seat_status) == (first.user.user_id, pb.SEAT_STATUS_ACTIVE)
    world.clock.advance(3600)
    again = await world.log_in("ada", age=-30, groups=("ops",))
    assert again.authenticate_time == world.clock.now()
    assert again.revision > first.revision
    (user,) = await world.users()
    assert (user.user_id, user.profile.groups, user.seat_time) == (first.user.user_id, ("ops",), first.user.seat_time)
    assert await world.used() == 1


async def test_without_a_seat_left_nobody_new_signs_in(world: World, desk: Desk) -> None:
    """Decisions 2 and 3: nothing is made of them but a record of the refusal, and their token serves later."""
    await world.limit(1)
    await world.log_in("ada")
    bob = world.sign_in("bob")
    with pytest.raises(SeatsExhausted):
        await world.log_in(bob)
    await world.log_in("ada")
    assert await world.count("users") == 1
    assert await world.used() == 1
    refused = [record for record in await desk.records(world.organization) if record.reason]
    assert [(record.actor, list(record.objects)) for record in refused] == [("person:https://idp.example.com bob", [])]
    await world.limit(2)
    await world.log_in(bob)
    assert await world.used() == 2


async def test_a_removal_comes_before_or_behind_a_login(world: World) -> None:
    """Decision 5: what signed in at or before its revision is over; signing in again takes a seat anew, as the same
    user, and brings no registration back."""
    intent = await world.enroll("ada")
    before = await world.log_in("ada")
    await world.remove(intent)
    removed = await world.user(intent)
    assert (removed.seat_time, await world.used()) == (None, 0)
    assert removed.removed_revision >= before.revision
    behind = await world.log_in("ada")
    assert behind.revision > removed.removed_revision
    assert behind.user is not None
    assert behind.user.user_id == intent.user_id
    assert await world.used() == 1
    with pytest.raises(UserRemoved):
        await world.authenticate(intent, world.sign_in("ada"))


async def test_it_makes_the_reserved_seat_of_an_enrollment_one_for_good(world: World) -> None:
    """Decision 2 and I-05: whatever becomes of the enrollment."""
    await world.limit(1)
    intent = await world.authorize("ada")
    await world.log_in("ada")
    assert await world.used() == 1
    await world.cancel(intent)
    assert await world.used() == 1


async def test_a_token_is_good_for_one_login(world: World) -> None:
    """Decision 27, I-08 and I-07: neither for another one nor for a device; the same request is answered later, too."""
    token = world.sign_in("ada")
    first = await world.log_in(token, "r")
    with pytest.raises(IdTokenInvalid):
        await world.log_in(token, "another")
    with pytest.raises(IdTokenInvalid):
        await world.authorize(token, request_id="r")
    intent = await world.enroll("ada")
    with pytest.raises(IdTokenInvalid):
        await world.authenticate(intent, token, "r2")
    newer = await world.log_in("ada", display_name="Countess")
    world.clock.advance(600)
    again = await world.log_in(token, "r")
    # The person is told as of now.
    assert newer.user is not None
    assert again == replace(first, user=newer.user, revision_token=again.revision_token)


async def test_a_machine_takes_no_seat(world: World) -> None:
    """Decision 2."""
    await world.limit(0)
    token_id, secret = await world.service_token()
    world.clock.stop()
    done = await world.log_in(secret, "r")
    assert (done.service_token_id, done.user, done.identity_provider_id) == (token_id, None, "")
    assert (done.authenticate_time, done.revision) == (world.clock.now(), await world.revision())
    assert await world.log_in(secret, "r") == done
    assert await world.used() == 0
    with pytest.raises(ServiceTokenInvalid):
        await world.log_in(ServiceTokenSecret(secret.client_id, "wrong"))


async def test_a_silent_sign_in_opens_an_application(world: World) -> None:
    """Decision 33 is about re-authentication; where somebody says when it was asked for, that counts here, too."""
    await world.force_interaction()
    asked = world.clock.now()
    await world.log_in("ada", auth_time=asked - MINUTE)
    with pytest.raises(IdTokenInvalid):
        await world.identity.authentications.record(
            world.call(world.organization),
            world.organization,
            None,
            world.sign_in("ada", auth_time=asked - MINUTE),
            asked_time=asked,
        )


async def test_a_holder_is_one_of_a_registration(world: World, desk: Desk) -> None:
    intent = await world.enroll("ada")
    request = pb.RecordAuthenticationRequest(
        organization_id=world.organization,
        user_id=intent.user_id,
        credential=Credential(id_token=world.sign_in("ada").compact),
        request_id="r",
    )
    with pytest.raises(InvalidField) as error:
        await desk.send(request)
    assert error.value.field == "user_id"
    request.ClearField("user_id")
    assert (await desk.send(request)).user.user_id == intent.user_id


async def test_what_a_release_before_has_recorded_is_answered_in_full(world: World) -> None:
    """I-07: it remembered the time alone, and one before that nothing."""
    intent = await world.enroll("ada")
    holder = Registration(intent.intent_id, user_id=intent.user_id)
    call = world.call(world.organization, "r", method="RecordAuthentication")
    record = world.identity.authentications.record
    first = await record(call, world.organization, holder, world.sign_in("ada"))
    of_r = requests.request.c.request_id == "r"
    for remembered in ({"authenticate_time": first.authenticate_time}, {}):
        older = requests.request.update().where(of_r).values(result=remembered)
        changed = await world.database.write(lambda tx, older=older: tx.execute(older).rowcount)  # type: ignore[misc]
        assert changed == 1
        assert await record(call, world.organization, holder, world.sign_in("ada")) == first
