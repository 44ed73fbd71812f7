"""Lists: filters, orders and pages, on both engines (decision 15, AIP-132 and AIP-158)."""

import asyncio
import random
from typing import Any

import pytest

from guardhouse.errors import InvalidField, PageTokenInvalid
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services.registry.domain import SECOND, Cursor, Order, Range, State
from guardhouse_services.registry.servicer import RegistryServicer
from tests.guardhouse_services.registry.world import World, machine, name, user

ORDERS = ("", "create_time", "create_time desc", "seen_time", "seen_time desc")


async def pages(world: World, servicer: RegistryServicer, request: Any, between: Any = None) -> list[str]:
    """The ids of every page."""
    method = servicer.ListDevices if isinstance(request, pb.ListDevicesRequest) else servicer.ListRegistrations
    ids: list[str] = []
    while True:
        page: Any = await method(request, world.call())
        if isinstance(request, pb.ListDevicesRequest):
            ids += [it.device_id for it in page.devices]
        else:
            ids += [it.registration_id for it in page.registrations]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return ids
        if between is not None:
            await between()


async def test_registrations_are_listed_by_service_token(world: World) -> None:
    token = machine()
    mine = [await world.enroll(token, it) for it in ("laptop", "phone")]
    await world.enroll(machine(), "laptop")
    await world.enroll(user(), "laptop")
    await world.revoke(name(mine[1]))
    assert await world.listed(token_id=token) == [name(it) for it in mine]
    assert await world.listed(State.ACTIVE, token_id=token) == [name(mine[0])]
    assert await world.listed(token_id=token, device_id=mine[1].device.device_id) == [name(mine[1])]
    assert await world.listed(token_id=token, user_id=user()) == []


async def test_devices_are_listed_by_platform(world: World) -> None:
    enrolled = await world.enroll()
    linux, windows = pb.PLATFORM_LINUX, pb.PLATFORM_WINDOWS
    assert [it.device_id for it in await world.listed_devices(True, platform=linux)] == [enrolled.device.device_id]
    assert await world.listed_devices(True, platform=windows) == []


async def test_lists_go_by_what_was_heard_of_last(world: World) -> None:
    """One never heard of counts from its activation, and a device from its newest enrollment."""
    first, second, third = [await world.enroll() for _ in range(3)]
    world.clock.advance(600)
    middle = world.clock.now()
    fourth = await world.enroll()
    world.clock.advance(600)
    await world.beat(first)
    again = await world.enroll(machine(), third.device.claims.hardware_id)

    by_activity = [second, third, fourth, first, again]
    assert await world.listed(page=Range(9, order=Order.SEEN)) == [name(it) for it in by_activity]
    assert await world.listed(page=Range(9, order=Order.SEEN, descending=True)) == [
        name(it) for it in reversed(by_activity)
    ]
    assert await world.listed(page=Range(9, seen_after=middle)) == [name(it) for it in (first, fourth, again)]
    assert await world.listed(page=Range(9, seen_before=middle)) == [name(it) for it in (second, third)]
    assert await world.listed(page=Range(9, seen_after=middle, seen_before=middle + 300 * SECOND)) == [name(fourth)]

    async def devices(page: Range) -> list[str]:
        return [it.device_id for it in await world.listed_devices(None, page)]

    in_order = [it.device.device_id for it in (second, fourth, first, third)]
    assert sorted((await devices(Range(9, order=Order.SEEN)))[2:]) == sorted(in_order[2:])
    assert (await devices(Range(9, order=Order.SEEN)))[:2] == in_order[:2]
    assert await devices(Range(9, seen_before=middle)) == in_order[:1]
    assert await devices(Range(9, seen_after=middle, seen_before=middle + 300 * SECOND)) == in_order[1:2]


@pytest.mark.parametrize("order_by", ORDERS)
async def test_pages_in_any_order_make_the_whole_list(world: World, servicer: RegistryServicer, order_by: str) -> None:
    """However many share a minute, and whatever the states."""
    token = machine()
    made = [await world.enroll(token if number % 2 else user()) for number in range(9)]
    world.clock.advance(600)
    await world.beat(*made[::2])
    await world.revoke(*(name(it) for it in made[::3]))
    about: dict[str, Any] = {"organization_id": world.organization, "order_by": order_by}
    every: dict[str, Any] = {"state": pb.REGISTRATION_FILTER_ALL}
    for filters in (
        {},
        every,
        {**every, "service_token_id": token},
        {**every, "user_id": made[0].registration.holder.user_id},
    ):
        request = pb.ListRegistrationsRequest(**about, **filters)
        whole = await pages(world, servicer, request)
        for size in (1, 2, 4):
            paged = pb.ListRegistrationsRequest(**about, **filters, page_size=size)
            assert await pages(world, servicer, paged) == whole
        rows = {row.registration_id: row for row in await world.rows()}
        by_activity = order_by.startswith("seen_time")
        values = {key: row.activity if by_activity else row.create_time or 0 for key, row in rows.items()}
        assert whole == sorted(whole, key=lambda it: (values[it], it), reverse=order_by.endswith("desc"))
    for which in (pb.ACTIVE_REGISTRATIONS_ONLY, pb.ACTIVE_REGISTRATIONS_INCLUDE, pb.ACTIVE_REGISTRATIONS_EXCLUDE):
        whole = await pages(world, servicer, pb.ListDevicesRequest(**about, active_registrations=which))
        by_two = pb.ListDevicesRequest(**about, active_registrations=which, page_size=2)
        assert await pages(world, servicer, by_two) == whole


@pytest.mark.parametrize("order_by", ORDERS[1:])
async def test_pages_are_stable_while_others_write(world: World, servicer: RegistryServicer, order_by: str) -> None:
    """Whatever exists throughout is seen once, amid insertions, revocations, restorations, deletions and rotations."""
    chance = random.Random(order_by)
    made = [await world.enroll() for _ in range(16)]
    await world.beat(*made[::2])
    doomed, changing, steady = made[::4], made[1::4], made[2::4] + made[3::4]
    lives = list(doomed)

    async def write() -> None:
        """Every kind of change, among them of what the next page shows."""
        it = chance.choice(changing)
        work = [world.revoke(name(it)), world.unrevoke(name(chance.choice(changing))), world.enroll()]
        if lives:
            work.append(world.delete(name(lives.pop(chance.randrange(len(lives))))))
        work.append(world.rotate(chance.choice(steady)))
        await asyncio.gather(*work, return_exceptions=True)

    about: dict[str, Any] = {"organization_id": world.organization, "order_by": order_by, "page_size": 3}
    request = pb.ListRegistrationsRequest(**about, state=pb.REGISTRATION_FILTER_ALL)
    seen = await pages(world, servicer, request, write)
    assert len(seen) == len(set(seen))
    throughout = [name(it) for it in (*steady, *changing)]
    assert set(throughout) <= set(seen)
    lives[:] = [it for it in doomed if await world.state(name(it)) != State.DELETED]
    active = await pages(world, servicer, pb.ListRegistrationsRequest(**about), write)
    assert len(active) == len(set(active))
    assert {name(it) for it in steady} <= set(active)
    devices = pb.ListDevicesRequest(**about, active_registrations=pb.ACTIVE_REGISTRATIONS_INCLUDE)
    found = await pages(world, servicer, devices, write)
    assert len(found) == len(set(found))
    assert {it.device.device_id for it in made} <= set(found)


async def test_what_a_list_cannot_be_asked_for_names_the_field(world: World, servicer: RegistryServicer) -> None:
    about: dict[str, Any] = {"organization_id": world.organization}
    now = world.clock.now()
    bad: list[tuple[str, dict[str, Any]]] = [
        ("order_by", {"order_by": "create_time asc"}),
        ("order_by", {"order_by": "seen_time,create_time"}),
        ("order_by", {"order_by": "Create_time"}),
        ("seen_before", {"seen_after": to_timestamp(now), "seen_before": to_timestamp(now)}),
        ("seen_after", {"seen_after": to_timestamp(-1)}),
        ("seen_before", {"seen_before": {"nanos": -1}}),
        ("page_size", {"page_size": -1}),
    ]
    for field, filters in bad:
        for method, request in (
            (servicer.ListRegistrations, pb.ListRegistrationsRequest),
            (servicer.ListDevices, pb.ListDevicesRequest),
        ):
            with pytest.raises(InvalidField) as caught:
                await method(request(**about, **filters), world.call())  # type: ignore[arg-type]
            assert caught.value.field == field
    for field, filters in (
        ("service_token_id", {"service_token_id": user()}),
        ("user_id", {"user_id": machine()}),
        ("device_id", {"device_id": "x"}),
        ("state", {"state": 9}),
    ):
        with pytest.raises(InvalidField) as caught:
            await servicer.ListRegistrations(pb.ListRegistrationsRequest(**about, **filters), world.call())
        assert caught.value.field == field
    with pytest.raises(InvalidField) as caught:
        await servicer.ListDevices(pb.ListDevicesRequest(**about, platform=99), world.call())  # type: ignore[arg-type]
    assert caught.value.field == "platform"


async def test_a_page_token_is_for_its_order(world: World, servicer: RegistryServicer) -> None:
    for _ in range(2):
        await world.enroll()
    request = pb.ListRegistrationsRequest(organization_id=world.organization, page_size=1)
    token = (await servicer.ListRegistrations(request, world.call())).next_page_token
    other = pb.ListRegistrationsRequest(organization_id=world.organization, order_by="seen_time", page_token=token)
    with pytest.raises(PageTokenInvalid):
        await servicer.ListRegistrations(other, world.call())


async def test_a_page_shows_so_many_rows_and_goes_on_behind_the_last(world: World) -> None:
    made = [await world.enroll() for _ in range(4)]
    after = Cursor(made[1].registration.create_time or 0, name(made[1]))
    assert await world.listed(page=Range(2)) == [name(it) for it in made[:2]]
    assert await world.listed(page=Range(9, after=after)) == [name(it) for it in made[2:]]
    assert await world.listed(page=Range(9, descending=True, after=after)) == [name(made[0])]
