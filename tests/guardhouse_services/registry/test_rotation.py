"""Replacing a key, on both engines (decision 21, I-07, I-09 and I-12)."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from guardhouse import keys
from guardhouse.errors import (
    ChallengeInvalid,
    KeyAlreadyRegistered,
    KeyInvalid,
    KeyNotCurrent,
    ProofInvalid,
    RegistrationNotFound,
    RegistrationRevoked,
    RequestIdReused,
)
from guardhouse.ids import REGISTRATION
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import from_timestamp
from guardhouse_services.registry.domain import State
from guardhouse_services.registry.servicer import RegistryServicer
from tests.guardhouse_services.registry.world import World, machine, name, new, user

TYPES = (keys.CURVE25519, keys.SECP256R1)


@pytest.mark.parametrize("after", TYPES, ids=lambda it: it.name)
@pytest.mark.parametrize("before", TYPES, ids=lambda it: it.name)
async def test_a_rotation_changes_the_key_and_nothing_else(
    world: World, before: keys.KeyType, after: keys.KeyType
) -> None:
    """Decision 21: the new key is live at the commit, and who follows the feed is told of it."""
    enrolled = await world.enroll(key_type=before)
    made, private = enrolled.registration, after.new_private_key()
    rotated = await world.rotate(enrolled, private=private, key_type=after)
    assert rotated == replace(made, key_type=after.number, public_key=after.public_key(private))
    assert await world.find(name(enrolled)) == rotated
    record = (await world.snapshot())[name(enrolled)]
    assert (record.registration.key_type, record.registration.public_key) == (after.number, rotated.public_key)
    assert (record.lease_id, record.token_hash) == (made.lease.lease_id, made.token_hash)
    assert await world.events() == [("active", name(enrolled))] * 2
    assert (await world.registry.callers.device(enrolled.token)).id == name(enrolled)


@pytest.mark.parametrize("after", TYPES, ids=lambda it: it.name)
@pytest.mark.parametrize("before", TYPES, ids=lambda it: it.name)
async def test_a_replaced_key_is_nobodys_any_more(world: World, before: keys.KeyType, after: keys.KeyType) -> None:
    """Decision 21, I-09: it may have leaked, so nobody gets it again, in whichever organization."""
    old, new_key = before.new_private_key(), after.new_private_key()
    enrolled, other = await world.enroll(private=old, key_type=before), await world.enroll()
    await world.rotate(enrolled, private=new_key, key_type=after)
    elsewhere = await world.add_organization()
    for private, key_type in ((old, before), (new_key, after)):
        with pytest.raises(KeyAlreadyRegistered):
            await world.enroll(private=private, key_type=key_type)
        with pytest.raises(KeyAlreadyRegistered):
            await world.enroll(private=private, key_type=key_type, organization_id=elsewhere)
        with pytest.raises(KeyAlreadyRegistered):
            await world.rotate(other, private=private, key_type=key_type)
    with pytest.raises(KeyAlreadyRegistered):
        await world.rotate(enrolled, current=after.public_key(new_key), private=old, key_type=before)
    assert (await world.find(name(enrolled))).public_key == after.public_key(new_key)
    assert len(await world.rows()) == 2


async def test_the_keys_of_a_registration_are_listed(world: World, servicer: RegistryServicer) -> None:
    """Decision 21: of either kind, since when and until when, page by page; the present one comes last."""
    world.clock.stop()
    enrolled, before = await world.enroll(), world.clock.now()
    had = [(pb.KEY_TYPE_CURVE25519, enrolled.registration.public_key, before)]
    for key_type in (keys.SECP256R1, keys.SECP256R1, keys.CURVE25519):
        world.clock.advance(60)
        rotated = await world.rotate(enrolled, current=had[-1][1], key_type=key_type)
        had.append((key_type.number, rotated.public_key, world.clock.now()))
    request = pb.ListRegistrationKeysRequest(
        organization_id=world.organization, registration_id=name(enrolled), page_size=2
    )
    shown: list[pb.RegistrationKey] = []
    while True:
        answer = await servicer.ListRegistrationKeys(request, world.call())
        shown += answer.registration_keys
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    assert [(it.key_type, it.public_key, from_timestamp(it.begin_time)) for it in shown] == had
    assert [from_timestamp(it.end_time) for it in shown[:-1]] == [begin for _, _, begin in had[1:]]
    assert not shown[-1].HasField("end_time")
    for page_size in (3, 4):
        request.page_size, request.page_token = page_size, ""
        answer = await servicer.ListRegistrationKeys(request, world.call())
        assert (list(answer.registration_keys), bool(answer.next_page_token)) == (shown[:page_size], page_size == 3)
    request.registration_id = new(REGISTRATION)
    with pytest.raises(RegistrationNotFound):
        await servicer.ListRegistrationKeys(request, world.call())


async def test_so_many_former_keys_are_kept_and_go_with_their_registration(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is unbounded: the oldest is forgotten, and all are when the registration is."""
    monkeypatch.setattr("guardhouse_services.registry.store.former_keys.KEPT", 2)
    private = [keys.CURVE25519.new_private_key() for _ in range(4)]
    public = [keys.CURVE25519.public_key(it) for it in private]
    enrolled = await world.enroll(private=private[0])
    for before, after in pairwise(range(4)):
        await world.rotate(enrolled, current=public[before], private=private[after])
    _, former, _ = await world.registry.registrations.keys(world.organization, name(enrolled), 0, 10)
    assert [it.public_key for it in former] == public[1:3]
    await world.enroll(private=private[0])
    with pytest.raises(KeyAlreadyRegistered):
        await world.enroll(private=private[1])
    await world.delete(name(enrolled))
    with pytest.raises(KeyAlreadyRegistered):
        await world.enroll(private=private[1])
    world.clock.advance(26 * 3600)
    await world.registry.enrollments.sweep_once()
    await world.enroll(private=private[1])


async def test_of_eight_who_want_a_key_that_is_being_replaced_nobody_gets_it(world: World) -> None:
    """I-09: whether they come before or behind the rotation."""
    private = keys.CURVE25519.new_private_key()
    enrolled = await world.enroll(private=private)
    wanted = [await world.attempt(private=private) for _ in range(8)]
    rotation = world.registry.rotations.rotate(*world.rotation(enrolled))
    results = await asyncio.gather(rotation, *map(world.register, wanted), return_exceptions=True)
    assert [type(it) for it in results[1:]] == [KeyAlreadyRegistered] * 8
    assert len(await world.listed()) == 1


@pytest.mark.parametrize("state", [State.PENDING, State.ACTIVE, State.REVOKED])
@pytest.mark.parametrize("key_type", TYPES, ids=lambda it: it.name)
async def test_a_key_that_somebody_holds_is_not_taken(world: World, state: State, key_type: keys.KeyType) -> None:
    """I-09: not even from an enrollment under way."""
    private, enrolled = key_type.new_private_key(), await world.enroll()
    if state is State.PENDING:
        await world.begin(private=private, key_type=key_type)
    else:
        other = await world.enroll(private=private, key_type=key_type)
        if state is State.REVOKED:
            await world.revoke(name(other))
    with pytest.raises(KeyAlreadyRegistered):
        await world.rotate(enrolled, private=private, key_type=key_type)
    with pytest.raises(KeyAlreadyRegistered):
        await world.enroll(private=private, key_type=key_type)
    assert (await world.find(name(enrolled))).public_key == enrolled.registration.public_key


async def test_the_present_key_is_no_fresh_one(world: World) -> None:
    private = keys.CURVE25519.new_private_key()
    enrolled = await world.enroll(private=private)
    with pytest.raises(KeyAlreadyRegistered):
        await world.rotate(enrolled, private=private)


async def test_a_repeated_rotation_has_one_effect(world: World) -> None:
    """I-07: and a challenge that has expired since does not matter."""
    enrolled = await world.enroll()
    call, wanted = world.rotation(enrolled)
    first = await world.registry.rotations.rotate(call, wanted)
    world.clock.advance(3600)
    assert await world.registry.rotations.rotate(call, wanted) == first
    assert len(await world.changes()) == 2
    with pytest.raises(RequestIdReused):
        await world.rotate(enrolled, current=wanted.public_key, request_id=call.key.request_id)


async def test_a_late_repetition_is_answered_and_changes_nothing(world: World) -> None:
    """I-12: the answer is what is so now."""
    enrolled = await world.enroll()
    call, wanted = world.rotation(enrolled)
    await world.registry.rotations.rotate(call, wanted)
    second = await world.rotate(enrolled, current=wanted.public_key)
    again, _ = await world.registry.rotations.rotate(call, wanted)
    assert again == second == await world.find(name(enrolled))
    await world.delete(name(enrolled))
    with pytest.raises(RegistrationNotFound):
        await world.registry.rotations.rotate(call, wanted)


async def test_a_late_rotation_of_a_replaced_key_is_refused(world: World) -> None:
    """I-12: it was made before the other and reaches the registry after it."""
    enrolled = await world.enroll()
    late = world.rotation(enrolled)
    now = await world.rotate(enrolled)
    with pytest.raises(KeyNotCurrent):
        await world.registry.rotations.rotate(*late)
    assert await world.find(name(enrolled)) == now


async def test_of_eight_rotations_at_once_one_is_made(world: World) -> None:
    """Decision 21, under the row's lock."""
    enrolled = await world.enroll()
    got = await asyncio.gather(*(world.rotate(enrolled) for _ in range(8)), return_exceptions=True)
    won = [it for it in got if not isinstance(it, BaseException)]
    assert len(won) == 1
    assert sum(isinstance(it, KeyNotCurrent) for it in got) == 7
    assert await world.find(name(enrolled)) == won[0]
    assert len(await world.changes()) == 2


async def test_one_key_for_eight_registrations_at_once_goes_to_one(world: World) -> None:
    """I-09, also against enrollments."""
    private = keys.SECP256R1.new_private_key()
    key: dict[str, Any] = {"private": private, "key_type": keys.SECP256R1}
    made = [await world.enroll() for _ in range(4)]
    work = [world.rotate(it, **key) for it in made] + [world.enroll(**key) for _ in range(4)]
    got = await asyncio.gather(*work, return_exceptions=True)
    assert sum(isinstance(it, KeyAlreadyRegistered) for it in got) == 7
    holders = [row for row in await world.rows() if row.public_key == keys.SECP256R1.public_key(private)]
    assert len(holders) == 1


async def test_what_is_revoked_or_gone_keeps_its_key(world: World) -> None:
    revoked, gone = await world.enroll(), await world.enroll(machine())
    rotations = [world.rotation(it) for it in (revoked, gone)]
    await world.revoke(name(revoked))
    await world.delete(name(gone))
    with pytest.raises(RegistrationRevoked):
        await world.registry.rotations.rotate(*rotations[0])
    with pytest.raises(RegistrationNotFound):
        await world.registry.rotations.rotate(*rotations[1])
    await world.unrevoke(name(revoked))
    assert await world.find(name(revoked)) == revoked.registration


@pytest.mark.parametrize("other", ["revoke", "delete", "enroll"])
async def test_a_rotation_and_another_change_at_once_leave_one_truth(world: World, other: str) -> None:
    """I-12: whichever comes first; the feed and the table agree in the end, and no key is held twice."""
    for _ in range(4):
        holder = user()
        enrolled = await world.enroll(holder, hardware := new("machine"))
        change = world.enroll(holder, hardware) if other == "enroll" else getattr(world, other)(name(enrolled))
        rotated, _ = await asyncio.gather(world.rotate(enrolled), change, return_exceptions=True)
        found = await world.find(name(enrolled))
        assert found.state == {"revoke": "REVOKED", "delete": "DELETED", "enroll": "DELETED"}[other]
        if isinstance(rotated, BaseException):
            assert isinstance(rotated, RegistrationRevoked | RegistrationNotFound)
            assert found.public_key == enrolled.registration.public_key
        else:
            assert found.public_key == rotated.public_key
    await world.audit()


async def test_a_rotation_while_the_user_enrolls_again_hands_the_addresses_over(world: World) -> None:
    """Decision 18: between the look at the predecessor and the activation."""
    holder = user()
    old = await world.enroll(holder, "laptop")
    attempt = await world.attempt(holder, "laptop")

    async def rotate() -> None:
        await world.rotate(old)

    async with world.before_write(2, rotate):
        made = await world.register(attempt)
    assert made.registration.lease == old.registration.lease
    assert await world.states(old, made) == ["DELETED", "ACTIVE"]


async def test_a_rotation_proves_the_new_key_for_itself(world: World) -> None:
    """Decision 21: a proof for another registration, request, key or purpose is none."""
    enrolled, other = await world.enroll(), await world.enroll()
    call, wanted = world.rotation(enrolled)
    attempt = await world.attempt()
    another = keys.CURVE25519.public_key(keys.CURVE25519.new_private_key())
    for bad_call, bad in (
        (call, replace(wanted, proof=attempt.proof)),
        (call, replace(wanted, proof=bytes(32))),
        (call, replace(wanted, public_key=another)),
        (call, replace(wanted, current_public_key=other.registration.public_key)),
        (call, replace(wanted, registration_id=name(other))),
        (world.device_call(enrolled, "RotateKey"), wanted),
    ):
        with pytest.raises(ProofInvalid):
            await world.registry.rotations.rotate(bad_call, bad)
    with pytest.raises(KeyInvalid):
        await world.registry.rotations.rotate(call, replace(wanted, public_key=wanted.public_key + b"\0"))
    with pytest.raises(KeyInvalid):
        await world.registry.rotations.rotate(call, replace(wanted, public_key=world.registry.proof_key))
    with pytest.raises(ProofInvalid):
        await world.register(replace(attempt, proof=wanted.proof))
    assert await world.find(name(enrolled)) == enrolled.registration


async def test_a_rotation_takes_a_fresh_challenge_of_its_organization(world: World) -> None:
    enrolled = await world.enroll()
    call, wanted = world.rotation(enrolled)
    elsewhere, _ = world.proofs.challenge(await world.add_organization())
    with pytest.raises(ChallengeInvalid):
        await world.registry.rotations.rotate(call, replace(wanted, challenge=elsewhere))
    world.clock.advance(301)
    with pytest.raises(ChallengeInvalid):
        await world.registry.rotations.rotate(call, wanted)
