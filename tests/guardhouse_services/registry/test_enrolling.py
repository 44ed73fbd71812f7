"""One enrollment, however often it is asked for and however long it takes, on both engines (I-07, I-09, I-12)."""

import asyncio
from dataclasses import replace

import pytest

from guardhouse import keys
from guardhouse.durations import HOUR
from guardhouse.errors import (
    ChallengeInvalid,
    EnrollmentAborted,
    KeyAlreadyRegistered,
    KeyInvalid,
    OrganizationNotFound,
    ProofInvalid,
    RegistrationNotFound,
    RequestIdReused,
    ServiceUnavailable,
    SubnetExhausted,
)
from guardhouse.ids import REGISTRATION
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import from_timestamp
from guardhouse_services.registry.domain import State
from guardhouse_services.registry.servicer import RegistryServicer
from tests.guardhouse_services.registry.world import World, is_down, machine, name, new, refuses, user

FULL = SubnetExhausted("all are held")


async def test_an_enrollment_becomes_a_registration_with_all_that_belongs_to_it(world: World) -> None:
    """I-10."""
    holder = user()
    enrolled = await world.enroll(holder, "laptop")
    made = enrolled.registration
    lease = world.ipam.leases[name(enrolled)]
    assert (made.state, made.holder.user_id, made.authorize_revision) == (State.ACTIVE, holder, 8)
    assert (made.lease.lease_id, made.lease.ipv4, made.lease.ipv6) == (lease.lease_id, lease.ipv4, lease.ipv6)
    assert made.identity_token == f"identity token of {name(enrolled)}"
    assert (enrolled.device.claims.hardware_id, enrolled.device.active_registrations) == ("laptop", 1)
    assert world.calls == [("authorize", State.PENDING), ("reserve", State.PENDING)]
    assert await world.changes() == [[("active", name(enrolled))]]
    asked = world.ipam.asked[0]
    assert (asked.device_id, asked.user_id, asked.service_token_id) == (made.device_id, holder, "")


async def test_ipam_is_told_of_a_person_what_identity_said(world: World) -> None:
    """Decision 24: IP profiles match people by their sign-in."""
    holder = user()
    await world.enroll(holder)
    assert world.ipam.asked[0].identity == world.identity.person(holder)


async def test_a_service_token_is_the_holder_for_ipam_too(world: World) -> None:
    holder = machine()
    enrolled = await world.enroll(holder)
    assert (enrolled.registration.holder.service_token_id, enrolled.registration.holder.user_id) == (holder, "")
    assert (world.ipam.asked[0].service_token_id, world.ipam.asked[0].user_id) == (holder, "")
    assert not world.ipam.asked[0].HasField("identity")


async def test_what_is_not_decided_is_never_shown(world: World) -> None:
    """Decision 15."""
    attempt = await world.begin()
    (intent,) = await world.rows(attempt.request_id)
    with pytest.raises(RegistrationNotFound):
        await world.registry.registrations.get(world.organization, intent.registration_id)
    assert await world.snapshot() == {}
    assert await world.devices() == []
    assert await world.unrevoke(intent.registration_id) == {intent.registration_id: "REGISTRATION_NOT_FOUND"}
    assert await world.delete(intent.registration_id) == {intent.registration_id: "REGISTRATION_NOT_FOUND"}
    assert await world.state(intent.registration_id) == State.PENDING


# The same request again


async def test_a_repeated_enrollment_is_the_same_registration(world: World) -> None:
    attempt = await world.attempt()
    first = await world.register(attempt)
    again = await world.register(attempt)
    assert again == first
    assert len(world.calls) == 2
    assert len(await world.events()) == 1


async def test_a_repeated_enrollment_shows_the_registration_as_it_is(world: World) -> None:
    attempt = await world.attempt()
    first = await world.register(attempt)
    await world.revoke(name(first))
    again = await world.register(attempt)
    assert (name(again), again.registration.state, again.token) == (name(first), State.REVOKED, first.token)


async def test_the_same_enrollment_eight_times_at_once_is_one_registration(world: World) -> None:
    attempt = await world.attempt()
    got = await asyncio.gather(*(world.register(attempt) for _ in range(8)))
    assert {(name(it), it.token) for it in got} == {(name(got[0]), got[0].token)}
    assert len(await world.rows()) == 1
    assert len(await world.events()) == 1


async def test_a_retry_goes_on_where_the_first_call_stopped(world: World) -> None:
    """The failure table's rows 2 and 5."""
    world.clock.stop()
    attempt = await world.begin()
    (intent,) = await world.rows()
    world.clock.advance(29)
    enrolled = await world.register(attempt)
    assert name(enrolled) == intent.registration_id


async def test_a_retry_after_an_abort_is_a_new_attempt(world: World) -> None:
    """A failure is driven again, not replayed; what is aborted stays so."""
    attempt = await world.attempt()
    world.ipam.will("reserve", refuses(FULL))
    with pytest.raises(SubnetExhausted):
        await world.register(attempt)
    enrolled = await world.register(attempt)
    first, second = await world.rows(attempt.request_id)
    assert (first.state, second.state) == (State.ABORTED, State.ACTIVE)
    assert name(enrolled) == second.registration_id != first.registration_id
    assert await world.register(attempt) == enrolled


async def test_a_request_whose_registration_was_deleted_makes_no_other(world: World) -> None:
    attempt = await world.attempt()
    enrolled = await world.register(attempt)
    await world.delete(name(enrolled))
    with pytest.raises(RegistrationNotFound) as caught:
        await world.register(attempt)
    assert caught.value.metadata == {"registration_id": name(enrolled)}
    assert [row.state for row in await world.rows()] == [State.DELETED]


@pytest.mark.parametrize("state", [State.PENDING, State.ACTIVE, State.ABORTED, State.DELETED])
async def test_a_request_id_with_another_body_is_refused(world: World, state: State) -> None:
    attempt = await world.attempt()
    if state is State.PENDING:
        attempt = await world.begin()
    elif state is State.ABORTED:
        world.ipam.will("reserve", refuses(FULL))
        with pytest.raises(SubnetExhausted):
            await world.register(attempt)
    else:
        enrolled = await world.register(attempt)
        if state is State.DELETED:
            await world.delete(name(enrolled))
    other = await world.attempt(request_id=attempt.request_id)
    with pytest.raises(RequestIdReused):
        await world.register(other)
    assert [row.state for row in await world.rows()] == [state]


async def test_two_organizations_may_use_one_request_id(world: World) -> None:
    first = await world.enroll(request_id="same")
    second = await world.enroll(request_id="same", organization_id=await world.add_organization())
    assert name(first) != name(second)


# Keys and proofs


@pytest.mark.parametrize("state", [State.PENDING, State.ACTIVE, State.REVOKED])
async def test_a_live_key_belongs_to_nobody_else(world: World, state: State) -> None:
    """I-09: of the whole installation."""
    private = keys.new_private_key()
    if state is State.PENDING:
        await world.begin(private=private)
    else:
        enrolled = await world.enroll(private=private)
        if state is State.REVOKED:
            await world.revoke(name(enrolled))
    for organization_id in (world.organization, await world.add_organization()):
        with pytest.raises(KeyAlreadyRegistered):
            await world.enroll(private=private, organization_id=organization_id)
    assert [row.state for row in await world.rows()] == [state]


@pytest.mark.parametrize("state", [State.ABORTED, State.DELETED])
async def test_a_key_that_nobody_holds_any_more_may_be_used_again(world: World, state: State) -> None:
    private = keys.new_private_key()
    if state is State.ABORTED:
        world.ipam.will("reserve", refuses(FULL))
        with pytest.raises(SubnetExhausted):
            await world.enroll(private=private)
    else:
        await world.delete(name(await world.enroll(private=private)))
    await world.enroll(private=private)


async def test_one_key_in_eight_enrollments_at_once_is_one_registration(world: World) -> None:
    private = keys.new_private_key()
    attempts = [await world.attempt(private=private) for _ in range(8)]
    got = await asyncio.gather(*map(world.register, attempts), return_exceptions=True)
    assert sum(isinstance(it, KeyAlreadyRegistered) for it in got) == 7
    assert len(await world.snapshot()) == 1


async def test_a_proof_is_for_its_own_request_only(world: World) -> None:
    attempt = await world.attempt()
    for other in (
        replace(attempt, request_id="other"),
        replace(attempt, claims=replace(attempt.claims, hardware_id="other")),
        replace(attempt, public_key=keys.public_key(keys.new_private_key())),
        replace(attempt, proof=bytes(32)),
    ):
        with pytest.raises(ProofInvalid):
            await world.register(other)
    assert await world.rows() == []


async def test_a_challenge_is_good_for_five_minutes_in_its_organization(world: World) -> None:
    world.clock.stop()
    attempt = await world.attempt()
    with pytest.raises(ChallengeInvalid):
        await world.register(replace(attempt, organization_id=await world.add_organization()))
    for challenge in ("", "1", "x." + attempt.challenge.split(".")[1], "1." + attempt.challenge.split(".")[1], "²."):
        with pytest.raises(ChallengeInvalid):
            await world.register(replace(attempt, challenge=challenge))
    world.clock.advance(301)
    with pytest.raises(ChallengeInvalid):
        await world.register(attempt)
    world.clock.advance(-5)
    await world.register(attempt)
    late = await world.attempt()
    world.clock.advance(-62)
    with pytest.raises(ChallengeInvalid):
        await world.register(late)


async def test_the_servers_own_key_is_no_devices(world: World) -> None:
    """I-09."""
    attempt = await world.attempt()
    with pytest.raises(KeyInvalid):
        await world.register(replace(attempt, public_key=world.registry.proof_key))


async def test_an_unknown_organization_enrolls_nobody(world: World) -> None:
    attempt = await world.attempt()
    with pytest.raises(OrganizationNotFound):
        await world.register(replace(attempt, organization_id="org_" + "0" * 32))
    with pytest.raises(OrganizationNotFound):
        await world.registry.enrollments.info("org_" + "0" * 32)


# Deadlines


async def test_an_intent_past_its_deadline_is_aborted_by_a_retry(world: World) -> None:
    attempt = await world.begin()
    (old,) = await world.rows()
    world.clock.advance(31)
    enrolled = await world.register(attempt)
    assert name(enrolled) != old.registration_id
    assert [row.state for row in await world.rows()] == [State.ABORTED, State.ACTIVE]


async def test_an_intent_past_its_deadline_is_aborted_by_the_sweep(world: World) -> None:
    """The failure table's row 12."""
    world.clock.stop()
    await world.begin()
    world.clock.advance(29)
    await world.registry.enrollments.sweep_once()
    assert [row.state for row in await world.rows()] == [State.PENDING]
    world.clock.advance(2)
    await world.registry.enrollments.sweep_once()
    assert [row.state for row in await world.rows()] == [State.ABORTED]


async def test_an_intent_past_its_deadline_is_aborted_by_the_question(world: World) -> None:
    await world.begin()
    (intent,) = await world.rows()
    ask = intent.registration_id
    assert await world.resolve(ask) == (State.PENDING, "")
    world.clock.advance(31)
    assert await world.resolve(ask) == (State.ABORTED, "")
    assert await world.state(intent.registration_id) == State.ABORTED


@pytest.mark.parametrize("by", ["sweep", "question"])
async def test_an_enrollment_that_was_aborted_meanwhile_does_not_become_active(world: World, by: str) -> None:
    """The failure table's row 8, I-12."""
    attempt = await world.attempt()

    async def abort() -> None:
        world.clock.advance(31)
        if by == "sweep":
            await world.registry.enrollments.sweep_once()
        else:
            (intent,) = await world.rows()
            await world.resolve(intent.registration_id)

    async with world.before_write(2, abort):
        with pytest.raises(EnrollmentAborted):
            await world.register(attempt)
    assert [row.state for row in await world.rows()] == [State.ABORTED]
    assert await world.events() == []
    assert await world.devices() == []


async def test_a_sweep_decides_nothing_that_is_decided(world: World) -> None:
    active, revoked, deleted = [await world.enroll() for _ in range(3)]
    await world.revoke(name(revoked))
    await world.delete(name(deleted))
    world.clock.advance(3600)
    await world.registry.enrollments.sweep_once()
    assert await world.states(active, revoked, deleted) == ["ACTIVE", "REVOKED", "DELETED"]


# What has become of an intent


async def test_an_intent_that_was_never_seen_is_aborted_for_good(world: World) -> None:
    """The failure table: a late create cannot revive it."""
    unknown = new(REGISTRATION)
    for _ in range(2):
        assert await world.resolve(unknown) == (State.ABORTED, "")
    assert [(row.registration_id, row.state) for row in await world.rows()] == [(unknown, State.ABORTED)]
    assert await world.listed() == []
    assert await world.events() == []
    world.clock.advance(3600)
    await world.registry.enrollments.sweep_once()
    assert await world.state(unknown) == State.ABORTED


async def test_an_unknown_intent_asked_for_eight_times_at_once_has_one_answer(world: World) -> None:
    unknown = new(REGISTRATION)
    got = await asyncio.gather(*(world.resolve(unknown) for _ in range(8)))
    assert set(got) == {(State.ABORTED, "")}


async def test_an_intent_of_another_organization_says_nothing_of_this_one(world: World) -> None:
    enrolled = await world.enroll()
    other = await world.add_organization()
    assert await world.resolve(name(enrolled), other) == (State.ABORTED, "")
    lease = enrolled.registration.lease.lease_id
    assert await world.resolve(name(enrolled)) == (State.ACTIVE, lease)
    assert (await world.registry.callers.device(enrolled.token)).organization_id == world.organization


async def test_the_question_tells_the_lease_and_the_end(world: World) -> None:
    enrolled = await world.enroll()
    ask, lease = name(enrolled), enrolled.registration.lease.lease_id
    assert await world.resolve(ask) == (State.ACTIVE, lease)
    await world.revoke(name(enrolled))
    assert await world.resolve(ask) == (State.REVOKED, lease)
    await world.delete(name(enrolled))
    assert (await world.resolve(ask))[0] == State.DELETED


async def test_both_peers_down_leave_an_intent_that_is_aborted(world: World) -> None:
    for peer, methods in ((world.identity, ("authorize", "cancel")), (world.ipam, ("reserve", "release"))):
        peer.always = dict.fromkeys(methods, is_down)
    attempt = await world.attempt()
    with pytest.raises(ServiceUnavailable):
        await world.register(attempt)
    assert [row.state for row in await world.rows()] == [State.ABORTED]
    world.identity.always.clear()
    world.ipam.always.clear()
    await world.register(attempt)


async def test_a_new_attempt_counts_although_the_clock_went_back(world: World) -> None:
    """I-07, I-18: replicas disagree on the time, and ids are made of it."""
    world.ipam.will("reserve", refuses(FULL))
    attempt = await world.attempt()
    with pytest.raises(SubnetExhausted):
        await world.register(attempt)
    world.clock.advance(-2)
    enrolled = await world.register(attempt)
    assert await world.register(attempt) == enrolled
    await world.delete(name(enrolled))
    with pytest.raises(RegistrationNotFound):
        await world.register(attempt)


async def test_a_repeated_enrollment_is_answered_after_its_challenge_has_expired(world: World) -> None:
    """I-07: for 24 hours, as the contract promises."""
    attempt = await world.attempt()
    enrolled = await world.register(attempt)
    world.clock.advance(3600)
    assert await world.register(attempt) == enrolled


async def test_a_registration_may_be_silent_as_long_as_its_service_token_said(
    world: World, servicer: RegistryServicer
) -> None:
    """Decision 15: it shows when it expires, by when its device was last heard of; followers are not told of that."""
    world.clock.stop()
    world.identity.silence = "2h0m0s"
    enrolled, person = await world.enroll(machine()), await world.enroll()
    assert (person.registration.expire_after, person.registration.expire_time) == (None, None)
    request = pb.GetRegistrationRequest(organization_id=world.organization, registration_id=name(enrolled))
    shown = (await servicer.GetRegistration(request, world.call())).registration
    assert shown.expire_after == "2h0m0s"
    assert from_timestamp(shown.expire_time) == from_timestamp(shown.create_time) + 2 * HOUR
    world.clock.advance(3600)
    await world.beat(enrolled)
    shown = (await servicer.GetRegistration(request, world.call())).registration
    assert from_timestamp(shown.expire_time) == from_timestamp(shown.seen_time) + 2 * HOUR
    told = (await world.snapshot())[name(enrolled)].registration
    assert (told.expire_after, told.HasField("expire_time")) == ("", False)
