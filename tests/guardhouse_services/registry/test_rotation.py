"""Replacing a key, on both engines (decision 21, I-07, I-09 and I-12)."""

import asyncio
from dataclasses import replace
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
from guardhouse_services.registry.domain import State
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


async def test_a_replaced_key_is_nobodys(world: World) -> None:
    """I-09: it may be registered anew, and the new one may not."""
    old, new_key = keys.CURVE25519.new_private_key(), keys.CURVE25519.new_private_key()
    enrolled = await world.enroll(private=old)
    await world.rotate(enrolled, private=new_key)
    with pytest.raises(KeyAlreadyRegistered):
        await world.enroll(private=new_key)
    await world.enroll(private=old)


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
