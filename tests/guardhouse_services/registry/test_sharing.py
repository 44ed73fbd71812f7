"""Devices that several people share, on both engines (decision 19)."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.common.v1 import credential_pb2
from guardhouse.errors import (
    DeviceHeldByAnotherUser,
    DeviceNotShared,
    GuardhouseError,
    InvalidField,
    MultiUserNotAllowed,
    RequestIdReused,
)
from guardhouse.os_sessions import OsEvent
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.registry.domain import KEEP_SESSIONS, OsSession
from guardhouse_services.registry.gateways import show
from guardhouse_services.registry.messages import to_event
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.store import tables
from guardhouse_services.registry.usecases.enrollments import Enrolled
from guardhouse_services.registry.usecases.os_sessions import Report
from tests.guardhouse_services.registry.world import World, acts_and_then, machine, name, user

LOG_IN, LOG_OUT, SWITCH, LOCK = OsEvent.LOG_IN, OsEvent.LOG_OUT, OsEvent.SWITCH, OsEvent.LOCK
ANNA, BEN, CARA = "PC\\anna", "PC\\ben", "PC\\cara"


async def share(world: World, *accounts: str) -> list[Enrolled]:
    """A registration of each account on a shared device, in order; an empty one is that of the login screen."""
    return [await world.enroll("" if it else machine(), "pc", os_user=it) for it in accounts]


async def current(world: World, *enrolled: Enrolled) -> list[bool]:
    """Whether they are current, by their rows and by what followers have been told."""
    rows = [(await world.find(name(it))).is_current for it in enrolled]
    followed = await world.snapshot()
    told = [name(it) in followed and followed[name(it)].registration.current for it in enrolled]
    assert told == rows
    return rows


def shown(sessions: list[OsSession]) -> list[tuple[str, bool, str]]:
    return [(it.desk.os_user, it.desk.at_login_screen, it.registration_id) for it in sessions]


async def test_every_user_of_a_shared_device_has_a_registration(world: World) -> None:
    """Decision 19: each with addresses of its own; the one at the desk is current."""
    anna, ben = await share(world, ANNA, BEN)
    assert anna.registration.device_id == ben.registration.device_id
    assert anna.registration.lease != ben.registration.lease
    assert ben.device.active_registrations == 2
    assert await world.states(anna, ben) == ["ACTIVE", "ACTIVE"]
    assert anna.registration.is_current
    # Nobody has said that Ben has come to the desk.
    assert await current(world, anna, ben) == [True, False]
    await world.report(ben, SWITCH, BEN)
    assert await current(world, anna, ben) == [False, True]
    assert (await world.events())[-2:] == [("active", name(anna)), ("active", name(ben))]


async def test_enabling_it_deletes_the_users_registrations_from_before(world: World) -> None:
    """Decision 19: everybody registers again, in one transaction; machines stay, who enables keeps the addresses."""
    holder = user()
    revoked = await world.enroll(user(), "pc")
    await world.revoke(name(revoked))
    token = await world.enroll(machine(), "pc")
    old = await world.enroll(holder, "pc")
    new = await world.enroll(holder, "pc", os_user=ANNA)
    assert await world.states(revoked, token, old, new) == ["DELETED", "ACTIVE", "DELETED", "ACTIVE"]
    assert new.registration.lease == old.registration.lease
    assert new.device.active_registrations == 2
    assert len((await world.changes())[-1]) == 3
    assert set((await world.records())[-1].objects) >= {name(new), name(old), name(revoked)}
    another = await world.enroll(user(), "pc", os_user=BEN)
    assert await world.states(new, another) == ["ACTIVE", "ACTIVE"]


async def test_enabling_it_ends_what_another_user_had(world: World) -> None:
    """Decision 19: what would refuse outside multi-user mode (decision 18) is deleted, and its addresses released."""
    old = await world.enroll(user(), "pc")
    new = await world.enroll(user(), "pc", os_user=ANNA)
    assert await world.states(old, new) == ["DELETED", "ACTIVE"]
    assert new.registration.lease != old.registration.lease


async def test_a_user_who_enrolls_again_replaces_their_own_and_no_other(world: World) -> None:
    """Decisions 18 and 19."""
    (ben,) = await share(world, BEN)
    holder = user()
    old = await world.enroll(holder, "pc", os_user=ANNA)
    new = await world.enroll(holder, "pc", os_user=ANNA)
    assert await world.states(ben, old, new) == ["ACTIVE", "DELETED", "ACTIVE"]
    assert new.registration.lease == old.registration.lease


@pytest.mark.parametrize(
    ("platform", "version"),
    [
        (pb.PLATFORM_WINDOWS, "2025.2.460.0"),
        (pb.PLATFORM_WINDOWS, "2025.2.99.9"),
        (pb.PLATFORM_WINDOWS, "2025.2.460"),
        (pb.PLATFORM_WINDOWS, "newest"),
        (pb.PLATFORM_LINUX, "2025.2.460.1"),
        (pb.PLATFORM_MAC, "9999.1"),
    ],
)
async def test_other_platforms_and_older_clients_are_refused(world: World, platform: int, version: str) -> None:
    """Decision 19: Windows only by default, from the version on that knows it; nothing is begun."""
    with pytest.raises(MultiUserNotAllowed) as refused:
        await world.enroll(user(), "pc", os_user=ANNA, platform=platform, version=version)
    assert refused.value.metadata == {"least_windows_version": "2025.2.460.1"}
    assert await world.rows() == []
    assert not world.calls


@pytest.mark.parametrize("version", ["2025.2.460.1", "2025.2.1000.0", "2025.10.1", "2026.1"])
async def test_versions_are_compared_by_their_numbers(world: World, version: str) -> None:
    """Decision 19."""
    await world.enroll(user(), "pc", os_user=ANNA, version=version)


async def test_an_organization_says_where_devices_are_shared(world: World) -> None:
    """Decision 19. A retry of what was done before is answered all the same."""
    attempt = await world.attempt(user(), "pc", os_user=ANNA)
    made = await world.register(attempt)
    await world.let_share(pb.PLATFORM_LINUX)
    assert name(await world.register(attempt)) == name(made)
    with pytest.raises(MultiUserNotAllowed):
        await world.enroll(user(), "pc", os_user=BEN)
    await world.enroll(user(), "box", os_user=BEN, platform=pb.PLATFORM_LINUX, version="0.1")


async def test_outside_it_a_shared_device_is_held_by_its_users(world: World) -> None:
    """Decisions 18 and 19: it ends when the last of them enrolls without it."""
    holder = user()
    anna = await world.enroll(holder, "pc", os_user=ANNA)
    (ben,) = await share(world, BEN)
    with pytest.raises(DeviceHeldByAnotherUser):
        await world.enroll(holder, "pc")
    await world.delete(name(ben))
    alone = await world.enroll(holder, "pc")
    assert await world.states(anna, alone) == ["DELETED", "ACTIVE"]
    assert not alone.registration.is_current
    assert all(it.end_time is not None for it in await world.sessions(alone.device.device_id))
    with pytest.raises(DeviceNotShared):
        await world.report(alone, LOG_IN, ANNA)


async def test_a_working_day(world: World) -> None:
    """Decision 19: the flowchart of the model, with a fast switch and without a pre-login registration."""
    (anna,) = await share(world, ANNA)
    assert not (await world.report(anna, LOG_OUT, ANNA)).asks_to_register
    assert await current(world, anna) == [True]
    asked = await world.report(anna, LOG_IN, BEN)
    assert asked.asks_to_register
    assert (asked.registration_id, await current(world, anna)) == ("", [False])
    (ben,) = await share(world, BEN)
    assert await current(world, anna, ben) == [False, True]
    assert (await world.report(anna, SWITCH, ANNA)).registration_id == name(anna)
    assert (await world.report(anna, SWITCH, BEN)).registration_id == name(ben)
    assert (await world.report(ben, LOG_OUT, BEN)).registration_id == name(ben)
    assert (await world.report(ben, LOG_IN, ANNA)).registration_id == name(anna)
    sessions = await world.sessions(anna.device.device_id)
    assert shown(sessions) == [
        (ANNA, False, name(anna)),
        (BEN, True, name(ben)),
        (BEN, False, name(ben)),
        (ANNA, False, name(anna)),
        (BEN, False, name(ben)),
        (BEN, False, ""),
        (ANNA, True, name(anna)),
        (ANNA, False, name(anna)),
    ]
    assert [it.end_time for it in sessions[1:]] == [it.begin_time for it in sessions[:-1]]
    assert sessions[0].end_time is None


async def test_at_the_login_screen_the_pre_login_registration_is_current(world: World) -> None:
    """Decision 19: a service token's; without it nothing changes there."""
    screen, anna = await share(world, "", ANNA)
    assert await current(world, screen, anna) == [False, True]
    await world.report(anna, LOCK)
    assert await current(world, screen, anna) == [True, False]
    await world.delete(name(screen))
    assert await current(world, anna) == [True]
    await world.report(anna, LOG_IN, ANNA)
    (screen,) = await share(world, "")
    assert await current(world, screen, anna) == [False, True]
    assert (await world.report(screen, LOG_OUT, ANNA)).holder.service_token_id


async def test_one_that_is_not_current_is_not_refused(world: World) -> None:
    """Decision 19: its key and its token go on."""
    anna, ben = await share(world, ANNA, BEN)
    assert not (await world.find(name(ben))).is_current
    assert (await world.report(ben, LOCK)).registration_id == name(anna)
    call, rotation = world.rotation(ben)
    rotated, _ = await world.registry.rotations.rotate(call, rotation)
    assert rotated.public_key == rotation.public_key


async def test_events_that_come_late_or_again_change_nothing(world: World) -> None:
    """Decision 19: they are told apart by their sequence, and answered with what is so."""
    anna, ben = await share(world, ANNA, BEN)
    await world.report(anna, SWITCH, BEN, sequence=20, request_id="one")
    before, told = await world.sessions(anna.device.device_id), await world.changes()
    for sequence in (20, 19, 1):
        late = await world.report(anna, LOG_IN, ANNA, sequence=sequence)
        assert (late.registration_id, late.sequence) == (name(ben), 20)
    again = await world.report(anna, SWITCH, BEN, sequence=20, request_id="one")
    assert again.registration_id == name(ben)
    assert (await world.sessions(anna.device.device_id), await world.changes()) == (before, told)
    same = await world.report(anna, SWITCH, BEN, sequence=30)
    assert (same.sequence, same.begin_time) == (30, before[0].begin_time)
    assert (await world.report(anna, LOG_IN, ANNA, sequence=25)).registration_id == name(ben)


async def test_a_request_that_comes_again_says_what_is_so_now(world: World) -> None:
    """AIP-155: one effect, whatever has happened since."""
    anna, ben = await share(world, ANNA, BEN)
    await world.report(anna, SWITCH, BEN, sequence=1, request_id="one")
    await world.report(anna, SWITCH, ANNA, sequence=2)
    assert (await world.report(anna, SWITCH, BEN, sequence=1, request_id="one")).registration_id == name(anna)
    assert await current(world, anna, ben) == [True, False]
    call = world.device_call(anna, "ReportOsSession", "one", "another body")
    with pytest.raises(RequestIdReused):
        await world.registry.os_sessions.report(call, Report(world.organization, name(anna), LOCK, "", 9))


async def test_what_ends_is_not_current_any_more(world: World) -> None:
    """Decisions 16 and 19: nobody's then, until the same account has another; revoked and restored it is as before."""
    anna, ben = await share(world, ANNA, BEN)
    await world.revoke(name(anna), name(ben))
    assert await current(world, anna, ben) == [False, False]
    device_id = anna.device.device_id
    assert (await world.sessions(device_id))[0].asks_to_register
    await world.unrevoke(name(ben), name(anna))
    assert await current(world, anna, ben) == [True, False]
    await world.revoke_device(device_id)
    assert await current(world, anna, ben) == [False, False]
    await world.unrevoke(name(anna))
    await world.delete(name(anna))
    assert (await world.sessions(device_id))[0].registration_id == ""
    assert len((await world.changes())[-1]) == 1
    (anna,) = await share(world, ANNA)
    assert await current(world, anna) == [True]
    await world.registry.registrations.leave(world.device_call(anna, "Leave"), world.organization, name(anna))
    assert (await world.sessions(device_id))[0].registration_id == ""


async def test_who_is_removed_or_revoked_is_not_current(world: World) -> None:
    """Decisions 5 and 19."""
    holder = user()
    (ben,) = await share(world, BEN)
    anna = await world.enroll(holder, "pc", os_user=ANNA)
    await world.report(ben, SWITCH, ANNA)
    await world.follow(world.identity.revocation(holder))
    assert await world.states(anna, ben) == ["REVOKED", "ACTIVE"]
    assert await current(world, anna, ben) == [False, False]
    assert shown(await world.sessions(ben.device.device_id))[0] == (ANNA, False, "")
    await world.follow(world.identity.removal(holder))
    await world.report(ben, SWITCH, BEN)
    assert await current(world, ben) == [True]


async def test_several_users_of_a_device_are_restored_together(world: World) -> None:
    """Decision 19: DEVICE_HELD_BY_ANOTHER_USER is of decision 18; two of one user are two, on a shared device, too."""
    holder = user()
    (ben,) = await share(world, BEN)
    old = await world.enroll(holder, "pc", os_user=ANNA)
    await world.revoke(name(old), name(ben))
    new = await world.enroll(holder, "pc", os_user=ANNA)
    outcomes = await world.unrevoke(name(old), name(ben))
    assert outcomes == {name(old): "DEVICE_HELD_BY_ANOTHER_REGISTRATION", name(ben): "ACTIVE"}
    assert await world.states(old, new, ben) == ["REVOKED", "ACTIVE", "ACTIVE"]


async def test_an_account_that_two_people_used_has_the_last_ones(world: World) -> None:
    """Decision 19: both registrations stay; without the last one the account has the other again."""
    first, last = await share(world, ANNA, ANNA)
    assert await current(world, first, last) == [False, True]
    await world.revoke(name(last))
    assert await current(world, first, last) == [True, False]


async def test_a_deleted_device_is_nobodys(world: World) -> None:
    """Decisions 16 and 19: who had it is still known."""
    anna, ben = await share(world, ANNA, BEN)
    assert await world.delete_device(anna.device.device_id) == 2
    (session,) = await world.sessions(anna.device.device_id)
    assert (session.registration_id, session.holder) == (name(anna), anna.registration.holder)
    assert session.end_time is not None
    (again,) = await share(world, BEN)
    assert again.device.device_id != ben.device.device_id


async def test_who_it_was_is_known_at_any_time(world: World) -> None:
    """Decisions 19 and 26: at any time a device has at most one current registration."""
    anna, ben = await share(world, ANNA, BEN)
    device_id, times = anna.device.device_id, []
    for who, whose in ((BEN, ben), (ANNA, anna), (BEN, ben)):
        world.clock.advance(60)
        times.append(((await world.report(anna, SWITCH, who)).begin_time, name(whose)))
    begin = (await world.sessions(device_id))[-1].begin_time
    for time, expected in ((begin, name(anna)), *times, (times[1][0] - 1, name(ben)), (times[2][0] + 9, name(ben))):
        assert [it.registration_id for it in await world.sessions(device_id, time)] == [expected]
    assert await world.sessions(device_id, begin - 1) == []
    assert await world.sessions("dev_" + "0" * 32) == []


async def test_sessions_are_paged_from_the_newest_on(world: World, servicer: RegistryServicer) -> None:
    """AIP-158: each once, while more come."""
    (anna,) = await share(world, ANNA)
    request = pb.ListOsSessionsRequest(organization_id=world.organization, device_id=anna.device.device_id, page_size=2)
    for who in (BEN, CARA, ANNA, BEN):
        await world.report(anna, SWITCH, who)
    found: list[str] = []
    while True:
        answer = await servicer.ListOsSessions(request, world.call())
        found += [it.os_user for it in answer.os_sessions]
        await world.report(anna, LOCK)
        if not (token := answer.next_page_token):
            break
        request.page_token = token
    assert found == [BEN, ANNA, CARA, BEN, ANNA]


@pytest.mark.parametrize(
    ("shared", "field"),
    [
        (pb.MultiUser(), "multi_user.os_user"),
        (pb.MultiUser(os_user="a" * 256), "multi_user.os_user"),
        (pb.MultiUser(os_user=ANNA, pre_login=True), "multi_user.os_user"),
        (pb.MultiUser(pre_login=True), "multi_user.pre_login"),
    ],
)
async def test_it_is_said_for_whom_a_registration_is(
    world: World, servicer: RegistryServicer, shared: pb.MultiUser, field: str
) -> None:
    """Decision 19: for an account, or for the login screen, which a person does not enroll for."""
    request = pb.RegisterRequest(
        organization_id=world.organization,
        request_id="one",
        credential=credential_pb2.Credential(id_token="token"),
        device=pb.DeviceClaims(hardware_id="pc"),
        multi_user=shared,
    )
    with pytest.raises(InvalidField) as refused:
        await servicer.Register(request, world.call())
    assert refused.value.field == field


async def test_gateways_are_told_which_is_current(world: World) -> None:
    """Decision 19: so that they name the right one; not the account, which they do not act on."""
    anna, ben = await share(world, ANNA, BEN)
    for enrolled, expected in ((anna, True), (ben, False)):
        seen = show(to_event(await world.find(name(enrolled))), world.organization)
        assert seen is not None
        assert seen.registration.registration.current is expected
        assert not seen.registration.registration.HasField("multi_user")


async def test_what_is_long_over_is_forgotten(world: World) -> None:
    """A session that ended 400 days ago; the one that is on stays."""
    (anna,) = await share(world, ANNA)
    await world.report(anna, LOCK)
    world.clock.advance(KEEP_SESSIONS // 1_000_000 - 1)
    await world.registry.enrollments.sweep_once()
    assert len(await world.sessions(anna.device.device_id)) == 2
    world.clock.advance(2)
    await world.registry.enrollments.sweep_once()
    assert shown(await world.sessions(anna.device.device_id)) == [(ANNA, True, name(anna))]


async def test_the_database_keeps_a_device_from_having_two_current_registrations(world: World) -> None:
    """Decision 19, and decision 18's place: whatever the code does."""
    anna, ben = await share(world, ANNA, BEN)
    alone = await world.enroll(user(), "laptop")
    table = tables.registration

    def of(it: Enrolled) -> sa.ColumnElement[bool]:
        return table.c.registration_id == name(it)

    for change in (
        table.update().where(of(ben)).values(is_current=True),
        table.update().where(of(ben)).values(user_id=anna.registration.holder.user_id),
        table.update().where(of(ben)).values(device_id=alone.device.device_id, os_user=None),
    ):
        with pytest.raises(IntegrityError):
            await world.database.write(lambda tx, change=change: tx.execute(change))  # type: ignore[misc]
    session = tables.os_session.insert().values(
        organization_id=world.organization,
        device_id=anna.device.device_id,
        begin_time=1,
        sequence=1,
        os_user="",
        at_login_screen=True,
    )
    with pytest.raises(IntegrityError):
        await world.database.write(lambda tx: tx.execute(session))


async def test_users_who_register_at_once_all_get_their_own(world: World) -> None:
    """Decision 19 and I-06: on a device that is shared since one of them."""
    before = await world.enroll(user(), "pc")
    attempts = [await world.attempt(user(), "pc", os_user=f"PC\\{number}") for number in range(6)]
    made = await asyncio.gather(*map(world.register, attempts))
    assert await world.states(before, *made) == ["DELETED", *["ACTIVE"] * 6]
    assert sum(await current(world, *made)) == 1


async def test_reports_and_deletions_at_once_leave_at_most_one_current(world: World) -> None:
    """Decision 19: whichever comes first; nothing that was deleted is current, and nobody is refused by a lock."""
    accounts = [f"PC\\{number}" for number in range(5)]
    made = await share(world, *accounts)

    async def quietly(work: object) -> object:
        try:
            return await work  # type: ignore[misc]
        except GuardhouseError as error:
            return error.reason

    for turn in range(4):
        gone = made.pop()
        outcomes = await asyncio.gather(
            *(quietly(world.report(it, SWITCH, who)) for it, who in zip(made, accounts, strict=False)),
            quietly(world.report(gone, SWITCH, accounts[len(made)])),
            quietly(world.delete(name(gone)) if turn % 2 else world.revoke(name(gone))),
        )
        assert {it for it in outcomes if isinstance(it, str)} <= {"REGISTRATION_NOT_FOUND"}
        assert sum(await current(world, *made)) <= 1
        assert not (await world.find(name(gone))).is_current


async def test_a_report_while_the_device_is_deleted_finds_nothing(world: World) -> None:
    anna, ben = await share(world, ANNA, BEN)
    outcomes = await asyncio.gather(
        world.delete_device(anna.device.device_id),
        *(world.report(ben, SWITCH, BEN) for _ in range(3)),
        return_exceptions=True,
    )
    assert outcomes[0] == 2
    (newest, *_) = await world.sessions(anna.device.device_id)
    assert newest.end_time is not None


async def test_a_user_who_goes_while_another_shares_the_device_stays_gone(world: World) -> None:
    """Decisions 5 and 19, I-12: a removal that is heard while enrolling is under way."""
    holder = user()
    (ben,) = await share(world, BEN)
    removal = acts_and_then(lambda: world.follow(world.identity.removal(holder)))
    world.identity.will("authorize", removal)
    with pytest.raises(GuardhouseError):
        await world.enroll(holder, "pc", os_user=ANNA)
    assert await world.states(ben) == ["ACTIVE"]
    assert await current(world, ben) == [True]
