"""Registrations that end by themselves, and the breaker in front of that, on both engines (decisions 15 and 17)."""

import asyncio

import pytest

from guardhouse.durations import HOUR, MINUTE, SECOND
from guardhouse.errors import DurationInvalid, HeldActionDecided, HeldActionNotFound, OrganizationNotFound
from guardhouse.ids import HELD_ACTION, ORGANIZATION, new_id
from guardhouse.os_sessions import OsEvent
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import from_timestamp
from guardhouse_services.breaker.domain import HeldAction, HeldState
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import End, State
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.usecases import lifetimes
from guardhouse_services.registry.usecases.enrollments import Enrolled
from tests.guardhouse_services.registry.world import World, insert_many, machine, name, new, user

EVERYTHING = Page("", 1000)
ONE_HOUR = HOUR // SECOND


@pytest.fixture(autouse=True)
def stand_still(world: World) -> None:
    world.clock.stop()


async def runner(world: World, silence: str = "1h0m0s") -> Enrolled:
    """A registration of a service token that may be silent for so long."""
    world.identity.silence = silence
    return await world.enroll(machine())


async def sweep(world: World) -> int:
    return await world.registry.lifetimes.sweep_one(world.organization)


async def held(world: World) -> list[HeldAction]:
    return list(await world.registry.held_actions.page(world.organization, EVERYTHING))


async def decide(world: World, action: HeldAction, decision: HeldState, *, dry: bool = False) -> HeldAction:
    decided, _ = await world.registry.held_actions.decide(
        world.call(), world.organization, action.held_action_id, decision, validate_only=dry
    )
    return decided


async def many(world: World, count: int) -> list[str]:
    """So many registrations that have been revoked for two hours."""
    ids = await insert_many(world, count)
    await world.revoke(*ids)
    world.clock.advance(2 * ONE_HOUR)
    return ids


# What ends


async def test_what_was_revoked_for_longer_than_it_may_be_is_deleted(world: World) -> None:
    """Decision 17: its addresses are released, and siblings, active ones and those revoked a moment ago stay."""
    first, second, active = await world.enroll(), await world.enroll(), await world.enroll()
    await world.revoke(name(first))
    await world.keep_revoked("1h")
    world.clock.advance(ONE_HOUR - 1)
    await world.revoke(name(second))
    assert await sweep(world) == 0
    world.clock.advance(1)
    assert await sweep(world) == 1
    assert await world.states(first, second, active) == ["DELETED", "REVOKED", "ACTIVE"]
    assert (await world.events())[-1] == ("deleted", name(first))
    record = (await world.records())[-1]
    assert (record.actor, list(record.objects)) == ("job:delete revoked registrations", [name(first)])
    assert await sweep(world) == 0


async def test_nothing_ends_unless_somebody_has_said_so(world: World) -> None:
    """Decision 15: a registration never expires by itself."""
    person, robot = await world.enroll(), await world.enroll(machine())
    await world.revoke(name(person))
    world.clock.advance(20 * 365 * 24 * ONE_HOUR)
    assert await sweep(world) == 0
    assert await world.states(person, robot) == ["REVOKED", "ACTIVE"]


async def test_what_was_silent_for_longer_than_it_may_be_is_deleted(world: World) -> None:
    """Decision 15: since its last heartbeat, or its activation where there was none."""
    never, heard, other = await runner(world), await runner(world), await runner(world, "")
    world.clock.advance(ONE_HOUR - 60)
    await world.beat(heard)
    world.clock.advance(60)
    assert await sweep(world) == 1
    assert await world.states(never, heard, other) == ["DELETED", "ACTIVE", "ACTIVE"]
    assert (await world.records())[-1].actor == "job:delete silent registrations"
    world.clock.advance(ONE_HOUR)
    assert await sweep(world) == 1
    assert await world.states(heard, other) == ["DELETED", "ACTIVE"]


async def test_a_revoked_registration_goes_on_being_silent(world: World) -> None:
    """Its device cannot be heard of; to keep it, its token must not let it expire."""
    revoked = await runner(world)
    await world.revoke(name(revoked))
    world.clock.advance(ONE_HOUR)
    assert await sweep(world) == 1
    assert await world.states(revoked) == ["DELETED"]


async def test_what_is_restored_or_heard_of_in_time_stays(world: World) -> None:
    """I-12: between the look and the deletion; the rule is judged again under the lock."""
    restored, heard = await world.enroll(), await runner(world)
    await world.revoke(name(restored))
    await world.keep_revoked("1h")
    world.clock.advance(ONE_HOUR)

    async def meanwhile() -> None:
        await world.unrevoke(name(restored))
        await world.beat(heard)

    async with world.before_write(1, meanwhile):
        assert await sweep(world) == 0
    assert await world.states(restored, heard) == ["ACTIVE", "ACTIVE"]


@pytest.mark.parametrize("by", ["the sweep", "an approval"])
async def test_what_ends_by_itself_on_a_shared_device_is_not_current_any_more(
    world: World, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions 15, 17 and 19: another one is current from then on, which followers hear of in the same change."""
    if by == "an approval":
        monkeypatch.setattr("guardhouse_services.breaker.domain.ALWAYS_PASS", 0)
    anna = await world.enroll(user(), "pc", os_user="anna")
    ben = await world.enroll(user(), "pc", os_user="ben")
    world.identity.silence = "1h0m0s"
    screen = await world.enroll(machine(), "pc", os_user="")
    await world.report(anna, OsEvent.LOG_IN, "anna")
    await world.report(anna, OsEvent.LOCK)

    async def current() -> list[str]:
        (session,) = [it for it in await world.sessions(anna.device.device_id) if it.end_time is None]
        found = [row.registration_id for row in await world.rows() if row.is_current]
        assert found == ([session.registration_id] if session.registration_id else [])
        return found

    assert await current() == [name(screen)]
    await world.revoke(name(ben))
    await world.keep_revoked("1h")
    world.clock.advance(ONE_HOUR)
    await world.beat(anna)
    before = len(await world.changes())
    assert await sweep(world) == (2 if by == "the sweep" else 0)
    for action in await held(world):
        await decide(world, action, HeldState.APPROVED)
        await world.registry.held_actions.carry_out_once()
    assert await world.states(anna, ben, screen) == ["ACTIVE", "DELETED", "DELETED"]
    assert await current() == [name(anna)]
    told = (await world.changes())[before:]
    assert [("deleted", name(ben))] in told
    assert sorted(next(each for each in told if ("deleted", name(screen)) in each)) == [
        ("active", name(anna)),
        ("deleted", name(screen)),
    ]
    # Nobody's, when the last one has gone too.
    await world.revoke(name(anna))
    world.clock.advance(ONE_HOUR)
    await sweep(world)
    for action in await held(world):
        if action.state is HeldState.WAITING:
            await decide(world, action, HeldState.APPROVED)
            await world.registry.held_actions.carry_out_once()
    assert await world.states(anna) == ["DELETED"]
    assert await current() == []


async def test_a_client_whose_silent_registration_went_comes_back_by_itself(world: World) -> None:
    """Decision 20: as after any deletion, with a new registration, and addresses of its own."""
    token = machine()
    world.identity.silence = "1h0m0s"
    first = await world.enroll(token, "runner")
    world.clock.advance(ONE_HOUR)
    assert await sweep(world) == 1
    second = await world.enroll(token, "runner")
    assert second.registration.lease != first.registration.lease
    assert await world.listed() == [name(second)]


async def test_every_organization_has_its_own_word(world: World) -> None:
    """I-27: and one that is gone has none."""
    mine = await world.enroll()
    await world.revoke(name(mine))
    first, world.organization = world.organization, await world.add_organization()
    await world.keep_revoked("1h")
    other = await world.enroll()
    await world.revoke(name(other))
    world.clock.advance(ONE_HOUR)
    await world.registry.lifetimes.sweep()
    assert await world.states(mine, other) == ["REVOKED", "DELETED"]
    assert await world.registry.lifetimes.sweep_one(new(ORGANIZATION)) == 0
    world.organization = first


async def test_the_sweep_counts_what_it_deletes(world: World) -> None:
    await world.keep_revoked("1h")
    await runner(world)
    person = await world.enroll()
    await world.revoke(name(person))
    world.clock.advance(ONE_HOUR)
    assert await sweep(world) == 2
    assert world.registry.lifetimes.deleted == {End.REVOKED: 1, End.SILENT: 1}


# What would end


async def test_what_would_end_is_shown_with_the_reason_and_nothing_changes(
    world: World, servicer: RegistryServicer
) -> None:
    """The dry run, also of a duration that is only tried, page by page."""
    silent, revoked, both = await runner(world), await world.enroll(), await runner(world)
    await world.revoke(name(revoked), name(both))
    await world.enroll()
    world.clock.advance(ONE_HOUR)
    request = pb.PreviewRegistrationExpirationRequest(organization_id=world.organization, page_size=2)
    answer = await servicer.PreviewRegistrationExpiration(request, world.call())
    assert not answer.next_page_token
    ends = {it.registration.registration_id: it.end for it in answer.expired_registrations}
    assert ends == {name(silent): pb.REGISTRATION_END_SILENT, name(both): pb.REGISTRATION_END_SILENT}
    request.delete_revoked_after = "1h"
    found: dict[str, int] = {}
    while True:
        answer = await servicer.PreviewRegistrationExpiration(request, world.call())
        assert len(answer.expired_registrations) <= 2
        found |= {it.registration.registration_id: it.end for it in answer.expired_registrations}
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    assert found == {
        name(silent): pb.REGISTRATION_END_SILENT,
        name(revoked): pb.REGISTRATION_END_REVOKED,
        name(both): pb.REGISTRATION_END_REVOKED,
    }
    assert await world.states(silent, revoked, both) == ["ACTIVE", "REVOKED", "REVOKED"]
    await world.keep_revoked("1h")
    assert await sweep(world) == 3


async def test_a_duration_that_is_too_short_is_not_tried(world: World, servicer: RegistryServicer) -> None:
    for text in ("59m", "-1h", "soon"):
        request = pb.PreviewRegistrationExpirationRequest(organization_id=world.organization, delete_revoked_after=text)
        with pytest.raises(DurationInvalid) as raised:
            await servicer.PreviewRegistrationExpiration(request, world.call())
        assert raised.value.metadata["field"] == "delete_revoked_after"


async def test_the_usage_says_how_many_addresses_revoked_registrations_hold(
    world: World, servicer: RegistryServicer
) -> None:
    """Decision 17: enrolling again while revoked holds a second pair, until the revoked one is deleted."""
    holder = user()
    request = pb.GetRegistrationUsageRequest(organization_id=world.organization)
    assert await servicer.GetRegistrationUsage(request, world.call()) == pb.GetRegistrationUsageResponse()
    first = await world.enroll(holder, "laptop")
    await world.revoke(name(first))
    revoked_at = world.clock.now()
    world.clock.advance(60)
    second = await world.enroll(holder, "laptop")
    assert second.registration.lease != first.registration.lease
    await world.keep_revoked("720h")
    usage = await servicer.GetRegistrationUsage(request, world.call())
    assert (usage.active_registrations, usage.revoked_registrations) == (1, 1)
    assert (usage.active_addresses, usage.revoked_addresses) == (2, 2)
    assert from_timestamp(usage.oldest_revoke_time) == revoked_at
    assert usage.delete_revoked_after == "720h0m0s"
    await world.delete(name(first))
    usage = await servicer.GetRegistrationUsage(request, world.call())
    assert (usage.active_addresses, usage.revoked_addresses) == (2, 0)
    assert not usage.HasField("oldest_revoke_time")
    request.organization_id = new(ORGANIZATION)
    with pytest.raises(OrganizationNotFound):
        await servicer.GetRegistrationUsage(request, world.call())


# The breaker


async def test_more_than_fifty_at_once_wait_for_approval(world: World) -> None:
    """All of them; and what ends for the same reason meanwhile waits with them."""
    await world.keep_revoked("1h")
    ids = await many(world, 51)
    assert await sweep(world) == 0
    assert sorted(await world.listed(State.REVOKED)) == sorted(ids)
    (action,) = await held(world)
    assert (action.source, action.state, action.subjects) == ("revoked registrations", HeldState.WAITING, 51)
    assert (await world.records())[-1].actor == "job:hold revoked registrations"
    late = await world.enroll()
    await world.revoke(name(late))
    world.clock.advance(2 * ONE_HOUR)
    assert await sweep(world) == 0
    (action,) = await held(world)
    assert action.subjects == 52


async def test_a_tenth_of_many_passes_and_more_waits(world: World) -> None:
    """At least ten, and more than 10 % of what there was before the ten minutes began."""
    await world.keep_revoked("1h")
    ids = await insert_many(world, 99)
    await world.revoke(*ids[:10])
    world.clock.advance(9 * 60)
    await world.revoke(ids[10])
    world.clock.advance(ONE_HOUR - 9 * 60)
    # insert_many makes one more by enrolling, so these are ten of a hundred.
    assert await sweep(world) == 10
    world.clock.advance(9 * 60)
    assert await sweep(world) == 0
    (action,) = await held(world)
    assert action.subjects == 1
    await decide(world, action, HeldState.REJECTED)
    # Then they are ten of ninety, by themselves in the ten minutes.
    world.clock.advance(60)
    await world.revoke(*ids[11:20])
    world.clock.advance(ONE_HOUR)
    assert await sweep(world) == 0
    assert (await held(world))[-1].subjects == 10


async def test_an_approved_deletion_is_carried_out_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeleteRegistrations does it; what was restored since it is held is left out."""
    monkeypatch.setattr("guardhouse_services.breaker.usecases.PART", 20)
    await world.keep_revoked("1h")
    ids = await many(world, 51)
    assert await sweep(world) == 0
    (action,) = await held(world)
    assert await world.registry.held_actions.carry_out_once() == 0
    await world.unrevoke(ids[7])
    await world.unrevoke(ids[8])
    world.clock.advance(1)
    await world.revoke(ids[8])
    assert (await decide(world, action, HeldState.APPROVED, dry=True)).state is HeldState.APPROVED
    assert (await decide(world, action, HeldState.APPROVED)).state is HeldState.APPROVED
    assert await world.registry.held_actions.carry_out_once() == 20
    # The sweep leaves alone what is being carried out, rather than hold it once more.
    await world.registry.lifetimes.sweep()
    assert len(await held(world)) == 1
    while await world.registry.held_actions.carry_out_once():
        pass
    (done,) = await held(world)
    assert (done.state, done.subjects, done.subjects_done) == (HeldState.DONE, 51, 51)
    states = {key: await world.state(key) for key in ids}
    assert (states.pop(ids[7]), states.pop(ids[8])) == (State.ACTIVE, State.REVOKED)
    assert set(states.values()) == {State.DELETED}
    assert world.registry.lifetimes.deleted[End.REVOKED] == 49
    record = (await world.records())[-1]
    assert record.actor == "job:delete revoked registrations"
    assert record.objects[0] == action.held_action_id


async def test_what_was_heard_of_since_it_is_held_is_left_out(world: World) -> None:
    world.identity.silence = "1h0m0s"
    made = [await world.enroll(machine()) for _ in range(10)]
    world.clock.advance(ONE_HOUR)
    assert await sweep(world) == 0
    world.clock.advance(60)
    await world.beat(made[3])
    (action,) = await held(world)
    assert action.source == "silent registrations"
    await decide(world, action, HeldState.APPROVED)
    await world.registry.held_actions.carry_out_once()
    assert await world.listed() == [name(made[3])]


async def test_a_rejected_deletion_is_not_done_and_asked_for_again(world: World) -> None:
    await world.keep_revoked("1h")
    ids = await many(world, 51)
    assert await sweep(world) == 0
    (action,) = await held(world)
    await decide(world, action, HeldState.REJECTED)
    with pytest.raises(HeldActionDecided):
        await decide(world, action, HeldState.APPROVED)
    assert await world.registry.held_actions.carry_out_once() == 0
    assert len(await world.listed(State.REVOKED)) == len(ids)
    world.clock.advance(1)
    assert await sweep(world) == 0
    assert [it.state for it in await held(world)] == [HeldState.REJECTED, HeldState.WAITING]


async def test_two_sweeps_at_once_do_not_slip_past_together(world: World) -> None:
    """The window is counted under a lock, and each registration is deleted once."""
    await world.keep_revoked("1h")
    await many(world, 9)
    answers = await asyncio.gather(*(sweep(world) for _ in range(4)))
    assert sum(answers) == 9
    assert not await held(world)


async def test_nobody_decides_for_another_organization(world: World) -> None:
    """I-27."""
    await world.keep_revoked("1h")
    await many(world, 51)
    assert await sweep(world) == 0
    (action,) = await held(world)
    other = await world.add_organization()
    for held_action_id in (action.held_action_id, new_id(HELD_ACTION, world.clock.now())):
        with pytest.raises(HeldActionNotFound):
            await world.registry.held_actions.decide(world.call(), other, held_action_id, HeldState.APPROVED)
    assert not await world.registry.held_actions.page(other, EVERYTHING)


async def test_more_than_500_held_deletions_are_changes_of_at_most_500_events(world: World) -> None:
    await world.keep_revoked("1h")
    await many(world, 1101)
    assert await sweep(world) == 0
    (action,) = await held(world)
    assert action.subjects == 1101
    await decide(world, action, HeldState.APPROVED)
    while await world.registry.held_actions.carry_out_once():
        pass
    deleted = [sum(kind == "deleted" for kind, _ in each) for each in await world.changes()]
    assert sum(deleted) == 1101
    assert max(deleted) == 500


async def test_what_was_decided_is_forgotten_after_thirty_days(world: World) -> None:
    """Nothing is unbounded; what waits stays."""
    await world.keep_revoked("1h")
    await many(world, 51)
    assert await sweep(world) == 0

    def forget(tx: Transaction) -> int:
        return store.lifetimes.held_actions.forget(tx, tx.now, tx.now - lifetimes.KEEP_DECIDED, 1000)

    world.clock.advance(40 * 24 * ONE_HOUR)
    await world.database.write(forget)
    (action,) = await held(world)
    await decide(world, action, HeldState.REJECTED)
    world.clock.advance(31 * 24 * ONE_HOUR)
    while await world.database.write(forget):
        pass
    assert not await held(world)


async def test_deciding_is_on_record_and_has_a_revision(world: World, servicer: RegistryServicer) -> None:
    """I-33."""
    await world.keep_revoked("1h")
    await many(world, 51)
    assert await sweep(world) == 0
    (action,) = await held(world)
    request = pb.ApproveHeldActionRequest(organization_id=world.organization, held_action_id=action.held_action_id)
    answer = await servicer.ApproveHeldAction(request, world.call("once", method="ApproveHeldAction"))
    assert (answer.held_action.state, answer.held_action.registrations) == (pb.HELD_ACTION_STATE_APPROVED, 51)
    again = await servicer.ApproveHeldAction(request, world.call("once", method="ApproveHeldAction"))
    assert again.held_action == answer.held_action
    assert [it.objects[0] for it in await world.records() if it.method == "ApproveHeldAction"] == [
        action.held_action_id
    ]
    listing = pb.ListHeldActionsRequest(organization_id=world.organization)
    (shown,) = (await servicer.ListHeldActions(listing, world.call())).held_actions
    assert shown == answer.held_action
    assert len(shown.registration_ids) == 51
    assert from_timestamp(shown.decide_time) - from_timestamp(shown.create_time) < MINUTE
