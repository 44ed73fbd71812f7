"""Codes by which a client may be switched off for a while although its switch is locked, on both engines."""

import asyncio
from itertools import cycle

import pytest
import sqlalchemy as sa

from guardhouse.durations import HOUR, SECOND
from guardhouse.errors import (
    FieldRequired,
    GuardhouseError,
    InvalidField,
    OverrideCodeInvalid,
    RateLimited,
    RegistrationNotFound,
    RegistrationRevoked,
)
from guardhouse.ids import REGISTRATION
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import from_timestamp
from guardhouse_services.registry.domain import OVERRIDE_HOURS, OverrideCode
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.store import tables
from guardhouse_services.registry.usecases.enrollments import Enrolled
from guardhouse_services.registry.usecases.override_codes import READ_BURST, TRY_BURST, OverrideCodes
from tests.guardhouse_services.registry.profiles import Profiles
from tests.guardhouse_services.registry.world import MASTER_KEY, World, name, new


@pytest.fixture(autouse=True)
def in_the_middle_of_an_hour(world: World) -> None:
    world.clock.stop()
    world.clock.advance((HOUR - world.clock.now() % HOUR) / SECOND + 1800)


async def codes(world: World, enrolled: Enrolled) -> list[OverrideCode]:
    return (await world.registry.override_codes.get(world.call(), world.organization, name(enrolled))).codes


async def check(world: World, enrolled: Enrolled, code: str) -> OverrideCode:
    call = world.device_call(enrolled, "CheckOverrideCode")
    found, _ = await world.registry.override_codes.check(call, world.organization, name(enrolled), code)
    return found


async def rates(world: World) -> int:
    """How many are counted."""
    query = sa.select(sa.func.count()).select_from(tables.override_rate)
    return int(await world.database.read(lambda tx: tx.execute(query).scalar_one()))


async def test_a_code_holds_for_so_many_hours_from_the_hour_in_which_it_was_made(world: World) -> None:
    """And not from when it was entered, nor from when it was read."""
    enrolled = await world.enroll()
    made = await codes(world, enrolled)
    began = world.clock.now() - world.clock.now() % HOUR
    assert [it.hours for it in made] == list(OVERRIDE_HOURS)
    assert [it.expire_time for it in made] == [began + hours * HOUR for hours in OVERRIDE_HOURS]
    assert all(len(it.code) == 7 and it.code.isdigit() for it in made)
    for it in made:
        world.clock.advance((it.expire_time - world.clock.now()) // SECOND - 1)
        assert await check(world, enrolled, it.code) == it
        world.clock.advance(1)
        with pytest.raises(OverrideCodeInvalid):
            await check(world, enrolled, it.code)


async def test_a_code_may_be_used_again_while_it_holds(world: World) -> None:
    enrolled = await world.enroll()
    day = (await codes(world, enrolled))[-1]
    for _ in range(3):
        assert await check(world, enrolled, day.code) == day


async def test_codes_are_new_each_hour_and_the_same_within_it(world: World) -> None:
    """On whichever replica, as nothing but the key of the installation makes them."""
    enrolled = await world.enroll()
    first = await codes(world, enrolled)
    world.clock.advance(1799)
    other = OverrideCodes(world.database, MASTER_KEY)
    assert (await other.get(world.call(), world.organization, name(enrolled))).codes == first
    world.clock.advance(1)
    second = await codes(world, enrolled)
    assert not {it.code for it in first} & {it.code for it in second}
    # Those for three hours or more of the hour before are still good.
    for it in first[1:]:
        assert await check(world, enrolled, it.code) == it


async def test_a_code_is_for_its_own_registration(world: World) -> None:
    enrolled, other = await world.enroll(), await world.enroll()
    assert await codes(world, enrolled) != await codes(world, other)
    with pytest.raises(OverrideCodeInvalid):
        await check(world, other, (await codes(world, enrolled))[-1].code)


async def test_a_registration_that_is_revoked_or_gone_has_no_codes(world: World) -> None:
    enrolled = await world.enroll()
    code = (await codes(world, enrolled))[-1].code
    await world.revoke(name(enrolled))
    reasons: list[type[GuardhouseError]] = [RegistrationRevoked, RegistrationNotFound]
    for reason in reasons:
        with pytest.raises(reason):
            await codes(world, enrolled)
        with pytest.raises(reason):
            await check(world, enrolled, code)
        await world.delete(name(enrolled))


async def test_who_is_shown_codes_and_who_tries_one_is_on_record(world: World) -> None:
    """I-33: a wrong one with its reason; the codes themselves are nowhere (I-31)."""
    enrolled = await world.enroll()
    day = (await codes(world, enrolled))[-1]
    shown = (await world.records())[-1]
    assert (shown.actor, list(shown.objects)) == (world.call().caller.name, [name(enrolled)])
    await check(world, enrolled, day.code)
    wrong = f"{(int(day.code) + 1) % 10**7:07}"
    with pytest.raises(OverrideCodeInvalid):
        await check(world, enrolled, wrong)
    good, bad = (await world.records())[-2:]
    assert [pb.DESCRIPTOR.package in it.method and it.objects[0] for it in (good, bad)] == [name(enrolled)] * 2
    assert (good.reason, bad.reason) == (0, 11)
    assert not any(day.code in str(it) or wrong in str(it) for it in await world.records())


async def test_codes_cannot_be_tried_one_after_the_other(world: World) -> None:
    """Ten an hour for each registration, whichever replica it asks; what is refused for that is not compared."""
    enrolled, other = await world.enroll(), await world.enroll()
    day = (await codes(world, enrolled))[-1]
    replicas = cycle([world.registry.override_codes, OverrideCodes(world.database, MASTER_KEY)])

    async def attempt(of: Enrolled, code: str) -> str:
        call, desk = world.device_call(of, "CheckOverrideCode"), next(replicas)
        try:
            await desk.check(call, world.organization, name(of), code)
        except GuardhouseError as error:
            return error.reason
        return "good"

    wrong = [f"{(int(day.code) + it) % 10**7:07}" for it in range(1, TRY_BURST + 1)]
    said = await asyncio.gather(*(attempt(enrolled, code) for code in wrong))
    assert said == ["OVERRIDE_CODE_INVALID"] * TRY_BURST
    for _ in range(3):
        assert await attempt(enrolled, day.code) == "RATE_LIMITED"
    assert await attempt(other, (await codes(world, other))[-1].code) == "good"
    # One comes back after six minutes, and what was refused took none.
    world.clock.advance(359)
    assert await attempt(enrolled, day.code) == "RATE_LIMITED"
    world.clock.advance(1)
    assert [await attempt(enrolled, day.code) for _ in range(2)] == ["good", "RATE_LIMITED"]
    assert await rates(world) == 3
    world.clock.advance(3600)
    await world.registry.enrollments.sweep_once()
    assert await rates(world) == 0


async def test_codes_cannot_be_read_in_a_row_of_all_devices(world: World) -> None:
    enrolled = await world.enroll()
    for _ in range(READ_BURST):
        await codes(world, enrolled)
    with pytest.raises(RateLimited) as raised:
        await codes(world, enrolled)
    assert raised.value.retry_after == 2
    world.clock.advance(2)
    await codes(world, enrolled)
    with pytest.raises(RateLimited):
        await codes(world, enrolled)


async def test_who_asks_hears_whether_the_switch_is_locked(
    world: World, servicer: RegistryServicer, profiles: Profiles
) -> None:
    """Where it is not, no code is needed; one that is good is so all the same."""
    enrolled = await world.enroll()
    about = {"organization_id": world.organization, "registration_id": name(enrolled)}
    for locked in (False, True, False):
        await profiles.set(profiles.default_id, switch_locked=locked)
        shown = await servicer.GetOverrideCodes(pb.GetOverrideCodesRequest(**about), world.call())
        call = world.device_call(enrolled, "CheckOverrideCode")
        request = pb.CheckOverrideCodeRequest(**about, code=shown.override_codes[0].code)
        answer = await servicer.CheckOverrideCode(request, call)
        assert (shown.switch_locked, answer.switch_locked) == (locked, locked)


async def test_the_contract_shows_codes_and_checks_them(world: World, servicer: RegistryServicer) -> None:
    enrolled = await world.enroll()
    about = {"organization_id": world.organization, "registration_id": name(enrolled)}
    shown = (await servicer.GetOverrideCodes(pb.GetOverrideCodesRequest(**about), world.call())).override_codes
    assert [it.hours for it in shown] == list(OVERRIDE_HOURS)
    call = world.device_call(enrolled, "CheckOverrideCode")
    request = pb.CheckOverrideCodeRequest(**about, code=shown[2].code)
    found = await servicer.CheckOverrideCode(request, call)
    assert (found.hours, found.expire_time) == (shown[2].hours, shown[2].expire_time)
    assert from_timestamp(found.expire_time) % HOUR == 0
    for code, kind in (
        ("", FieldRequired),
        ("123456", InvalidField),
        ("12345678", InvalidField),
        ("\u0661" * 7, InvalidField),
    ):
        with pytest.raises(kind) as raised:
            await servicer.CheckOverrideCode(pb.CheckOverrideCodeRequest(**about, code=code), call)
        assert raised.value.metadata["field"] == "code"
    unknown = pb.GetOverrideCodesRequest(organization_id=world.organization, registration_id=new(REGISTRATION))
    with pytest.raises(RegistrationNotFound):
        await servicer.GetOverrideCodes(unknown, world.call())
