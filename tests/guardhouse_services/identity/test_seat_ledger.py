"""Every seat can be explained (decision 7): who holds it, since when, by which event, and until when."""

import pytest

from guardhouse.durations import DAY, HOUR, SECOND
from guardhouse.errors import DurationInvalid, OrganizationNotFound, SeatLimitBelowUse, UserNotFound
from guardhouse.ids import ORGANIZATION, USER, new_id
from guardhouse_services.identity.domain.organizations import SeatUsage
from guardhouse_services.identity.domain.seats import FreeCause, SeatFilter, forecast, parse_expiration
from guardhouse_services.identity.domain.users import SeatEvent, User
from guardhouse_services.identity.store.seats import KEEP_FREED
from guardhouse_services.identity.usecases.seat_ledger import Explained
from guardhouse_services.paging import Page
from tests.guardhouse_services.identity.world import EVERYBODY, World, deleted

EVERY_SEAT = SeatFilter()
NOW = 1_800_000_000 * SECOND


async def seats(world: World, wanted: SeatFilter = EVERY_SEAT) -> list[User]:
    return list((await world.identity.seat_ledger.page(world.organization, EVERYBODY, wanted)).users)


async def explained(world: World, user_id: str) -> Explained:
    return await world.identity.seat_ledger.explain(world.organization, user_id)


async def report(world: World, seen: dict[str, int] | None = None, upto: int | None = None) -> int | None:
    return await world.identity.seat_ledger.report(world.organization, seen or {}, upto)


async def test_a_seat_is_taken_by_the_enrollment_that_became_a_registration(world: World) -> None:
    """Decisions 2 and 7: one that is only reserved is not listed yet."""
    intent = await world.authorize("ada")
    assert (await seats(world), await world.used()) == ([], 1)
    await world.cancel(intent)
    intent = await world.enroll("ada")
    (seat,) = await seats(world)
    assert (seat.user_id, seat.seat_time) == (intent.user_id, intent.create_time)
    assert (seat.seat_event, seat.seat_event_id) == (SeatEvent.GATEWAY, intent.intent_id)
    assert (seat.access_seat, seat.gateway_seat) == (False, True)
    said = (await explained(world, intent.user_id)).explanation
    assert f"by the enrollment of the registration {intent.intent_id}" in said
    assert "It does not expire." in said


async def test_a_seat_is_taken_by_a_log_in_and_stays_so(world: World) -> None:
    """Decisions 2 and 7: a device that is enrolled later is another use of the same seat."""
    user = (await world.log_in("ada", request_id="first")).user
    assert user is not None
    assert (user.seat_event, user.seat_event_id) == (SeatEvent.ACCESS, "first")
    assert (user.access_seat, user.gateway_seat) == (True, False)
    await world.log_in("ada", request_id="second")
    await world.enroll("ada")
    (seat,) = await seats(world)
    assert (seat.seat_time, seat.seat_event_id) == (user.seat_time, "first")
    assert (seat.access_seat, seat.gateway_seat) == (True, True)
    assert (
        "the log in to an application with the request_id first" in (await explained(world, seat.user_id)).explanation
    )


async def test_a_log_in_through_a_device_is_a_use_of_applications(world: World) -> None:
    """Decision 2: signing in again for the device itself is none."""
    intent = await world.enroll("ada")
    await world.authenticate(intent, world.sign_in("ada"))
    assert not (await world.user(intent)).access_seat
    await world.authenticate(intent, world.sign_in("ada"), application=True)
    assert (await world.user(intent)).access_seat


async def test_a_freed_seat_is_remembered_and_one_taken_again_is_another(world: World) -> None:
    """Decisions 5 and 7."""
    first = await world.enroll("ada")
    world.clock.advance(60)
    removal = await world.remove(first)
    assert await seats(world) == []
    gone = await explained(world, first.user_id)
    assert gone.explanation.startswith("The user holds no seat")
    assert (gone.user.access_seat, gone.user.gateway_seat) == (False, False)
    (freed,) = gone.freed
    assert (freed.take_time, freed.seat_event, freed.seat_event_id) == (
        first.create_time,
        SeatEvent.GATEWAY,
        first.intent_id,
    )
    assert (freed.cause, freed.removal_id, freed.free_time) == (
        FreeCause.REMOVED,
        removal.removal_id,
        removal.create_time,
    )
    await world.log_in("ada", request_id="again")
    again = await explained(world, first.user_id)
    assert (again.user.seat_event, again.user.seat_event_id) == (SeatEvent.ACCESS, "again")
    assert (again.user.access_seat, again.user.gateway_seat) == (True, False)
    assert again.freed == [freed]


async def test_what_was_freed_long_ago_is_forgotten(world: World) -> None:
    """The history of a seat is bounded."""
    first = await world.enroll("ada")
    await world.remove(first)
    world.clock.advance(KEEP_FREED / SECOND + 1)
    await world.remove(await world.enroll("bob"))
    assert (await explained(world, first.user_id)).freed == []
    assert await world.count("freed_seat") == 1


async def test_a_user_who_never_had_a_seat_is_not_known(world: World) -> None:
    intent = await world.authorize("ada")
    for user_id in (intent.user_id, new_id(USER, world.clock.now())):
        with pytest.raises(UserNotFound):
            await explained(world, user_id)


async def test_the_ledger_is_read_by_page_and_by_what_is_asked_for(world: World) -> None:
    """Decision 7."""
    device, both = await world.enroll("ada"), await world.enroll("bob")
    await world.log_in("bob")
    app = (await world.log_in("cyd")).user
    await world.remove(await world.enroll("dan"))
    assert app is not None
    everybody = [device.user_id, both.user_id, app.user_id]
    found, after = [], ""
    for _ in everybody:
        page = (await world.identity.seat_ledger.page(world.organization, Page(after, 1), EVERY_SEAT)).users
        found.append(after := page[0].user_id)
    assert found == everybody
    for wanted, users in (
        (SeatFilter(email="BOB@example.com"), everybody[1:2]),
        (SeatFilter(taken_by=SeatEvent.GATEWAY), everybody[:2]),
        (SeatFilter(taken_by=SeatEvent.ACCESS), everybody[2:]),
        (SeatFilter(used_for=SeatEvent.ACCESS), everybody[1:]),
        (SeatFilter(used_for=SeatEvent.GATEWAY), everybody[:2]),
    ):
        assert [user.user_id for user in await seats(world, wanted)] == users, wanted
    world.clock.advance(3600)
    moment = world.clock.now()
    await world.log_in("cyd")
    await report(world, {device.user_id: moment})
    assert [user.user_id for user in await seats(world, SeatFilter(active_before=moment))] == everybody[1:2]


async def test_a_seat_expires_after_the_later_of_two_activities(world: World) -> None:
    """Decisions 6 and 7."""
    call = world.call(world.organization)
    await world.identity.organizations.update(call, world.organization, {"seat_expiration": 730 * HOUR})
    intent = await world.enroll("ada")
    assert "It expires at " in (await explained(world, intent.user_id)).explanation
    world.clock.advance(7200)
    seen = world.clock.now() - HOUR
    await report(world, {intent.user_id: seen})
    (seat,) = await seats(world)
    assert seat.active_time == seen > (seat.authenticate_time or 0)


async def test_reported_activity_never_goes_back(world: World) -> None:
    """Invariant I-07: it may come twice, or late; one that is ahead of the clock counts as now (decision 6)."""
    ada, now = await world.enroll("ada"), world.clock.now()
    stranger = new_id(USER, now)
    assert await report(world) is None
    assert await report(world, {ada.user_id: now - HOUR, stranger: now}, now - 2 * HOUR) == now - 2 * HOUR
    assert await report(world, {ada.user_id: now - 2 * HOUR}, now - 3 * HOUR) == now - 2 * HOUR
    assert (await world.user(ada)).seen_time == now - HOUR
    await report(world, {ada.user_id: now + DAY}, now + DAY)
    assert now <= (await world.user(ada)).seen_time <= world.clock.now()  # type: ignore[operator]
    assert await report(world) <= world.clock.now()  # type: ignore[operator]
    with pytest.raises(OrganizationNotFound):
        await world.identity.seat_ledger.report(new_id(ORGANIZATION, now), {}, None)


async def test_a_device_that_goes_takes_no_activity_with_it(world: World) -> None:
    """Decision 6."""
    ada, now = await world.enroll("ada"), world.clock.now()
    await report(world, {ada.user_id: now})
    await world.registry(deleted(ada))
    assert (await world.user(ada)).seen_time == now


async def test_the_forecast_counts_what_was_taken_and_not_given_back_in_thirty_days(world: World) -> None:
    """Decision 7: a seat that was freed and taken again is no growth."""
    await world.limit(10)
    old = [await world.enroll(name) for name in ("ada", "bob")]
    world.clock.advance(60 * 86400)
    usage, said = await world.identity.seat_ledger.usage(world.organization)
    assert (usage.used, said.seats_per_day, said.exhaust_time) == (2, 0, None)
    for name in ("cyd", "dan", "eve", "fay"):
        await world.enroll(name)
    await world.remove(old[0])
    await world.enroll("ada")
    usage, said = await world.identity.seat_ledger.usage(world.organization)
    assert usage.used == 6
    assert said.seats_per_day == pytest.approx(4 / 30)
    # Four are left, and it took thirty days for as many.
    assert said.exhaust_time == pytest.approx(world.clock.now() + 30 * DAY, abs=HOUR)
    await world.remove(old[1])
    _, said = await world.identity.seat_ledger.usage(world.organization)
    assert said.seats_per_day == pytest.approx(3 / 30)
    await world.limit(None)
    assert (await world.identity.seat_ledger.usage(world.organization))[1].exhaust_time is None


@pytest.mark.parametrize(
    ("purchased", "used", "growth", "days", "exhausted_in"),
    [
        (100, 90, 10, 30, 30 * DAY),
        (100, 90, 10, 10, 10 * DAY),
        (100, 90, 10, 0, DAY),
        (100, 100, 10, 30, 0),
        (100, 90, 0, 30, None),
        (100, 90, -5, 30, None),
        (None, 90, 10, 30, None),
        (10**18, 90, 1, 30, None),
    ],
)
def test_seats_run_out_when_they_grow(
    purchased: int | None, used: int, growth: int, days: int, exhausted_in: int | None
) -> None:
    """Decision 7: of a young organization by its age, but at least a day; and not in the far future."""
    said = forecast(SeatUsage(purchased, used), growth, NOW - days * DAY, NOW)
    assert said.exhaust_time == (None if exhausted_in is None else NOW + exhausted_in)


async def test_a_new_limit_can_be_tried(world: World) -> None:
    """Decision 4."""
    await world.enroll("ada")
    await world.enroll("bob")
    before, organizations = await world.seats(), world.identity.organizations
    call = world.call(world.organization)
    tried, used, token = await organizations.update(call, world.organization, {"seat_limit": 5}, validate_only=True)
    assert (tried.seat_limit, used, token) == (5, 2, "")
    assert await world.seats() == before
    with pytest.raises(SeatLimitBelowUse) as refusal:
        await organizations.update(call, world.organization, {"seat_limit": 1}, validate_only=True)
    assert refusal.value.metadata["used"] == "2"


def test_seats_expire_after_a_month_to_a_year() -> None:
    """Decision 6."""
    assert parse_expiration("", "x") is None
    assert [parse_expiration(text, "x") for text in ("730h", "8760h")] == [730 * HOUR, 8760 * HOUR]
    for text in ("729h59m59s", "8760h0m1s", "-730h", "30d", "0s"):
        with pytest.raises(DurationInvalid):
            parse_expiration(text, "x")
