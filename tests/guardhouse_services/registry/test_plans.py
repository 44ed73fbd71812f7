"""What the hot statements read, on both engines: with many registrations no more than with few."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import (
    LISTED,
    Claims,
    Cursor,
    DeviceFilter,
    Order,
    Range,
    RegistrationFilter,
    State,
)
from guardhouse_services.registry.store import lists, tables
from tests.guardhouse_services.plans import cost_of, most_of
from tests.guardhouse_services.registry.world import World, machine

MANY = 3000
PAGE = 20
TOKEN = machine()
PROFILE = "dpr_" + "0" * 32
USER_ID = "usr_" + "1" * 32

STATES: Sequence[tuple[State, ...]] = ((State.ACTIVE,), (State.REVOKED,), LISTED)
FILTERS: Sequence[dict[str, str]] = (
    {},
    {"service_token_id": TOKEN},
    {"device_profile_id": PROFILE},
    {"user_id": USER_ID},
    {"device_id": f"dev_{MANY // 2:032x}"},
)


REGISTRATION_ORDERS = (Order.CREATE, Order.SEEN, Order.ID, Order.USER_EMAIL, Order.USER_NAME)
DEVICE_ORDERS = (Order.CREATE, Order.SEEN, Order.ID, Order.NAME, Order.VERSION, Order.ACTIVE, Order.USER_EMAIL)


def email(number: int) -> str:
    return f"person{number:04}@example.com"


class Crowd:
    """An organization with many registrations of a service token and of users, and every tenth of them revoked.

    A third of the devices was never heard of, and all others in the same minute.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.organization = world.organization
        self.now = world.clock.now()
        self.seen = self.now + MANY // 2

    def cursor(self, kind: str, order: Order) -> Cursor:
        """In the middle of everything."""
        row_id = f"{kind}_{MANY // 2:032x}"
        values: dict[Order, int | str] = {
            Order.CREATE: self.now + MANY // 2,
            Order.SEEN: self.seen,
            Order.ID: row_id,
            Order.NAME: "laptop 25",
            Order.VERSION: "2025.10",
            Order.ACTIVE: 1,
            Order.USER_EMAIL: email(MANY // 2),
            Order.USER_NAME: "Ada",
        }
        return Cursor(values[order], row_id)

    async def load(self) -> None:
        devices: list[dict[str, Any]] = []
        registrations: list[dict[str, Any]] = []
        text = dict.fromkeys(("os_version", "serial_number", "model", "manufacturer"), "") | {
            "client_version": "2025.10"
        }
        for number in range(MANY):
            device_id, time = f"dev_{number:032x}", self.now + number
            of = {"organization_id": self.organization, "device_id": device_id}
            seen = {"create_time": time, "seen_time": self.seen if number % 3 else None}
            devices.append(
                of
                | text
                | seen
                | {"hardware_id": device_id, "display_name": f"laptop {number % 50}", "platform": 1 + number % 4}
                | {"active_registrations": 1 if number % 10 else 0}
            )
            registrations.append(
                of
                | seen
                | {
                    "registration_id": f"reg_{number:032x}",
                    "state": State.ACTIVE if number % 10 else State.REVOKED,
                    "key_type": 1,
                    "public_key": secrets.token_bytes(32),
                    "request_id": secrets.token_hex(8),
                    "fingerprint": b"",
                    "deadline": time,
                    "user_id": None if number % 2 else USER_ID if number % 100 == 0 else f"usr_{number:032x}",
                    "service_token_id": TOKEN if number % 2 else None,
                    "lease_id": f"lea_{number:032x}",
                    "ipv4": "100.96.0.1",
                    "ipv6": "fd00::1",
                    "authenticate_time": time,
                    "authorize_revision": 1,
                    "identity_token": "",
                    "token_hash": b"",
                    "device_profile_id": PROFILE if number % 2 else "",
                    "user_email": "" if number % 2 else email(number),
                    "user_display_name": "" if number % 2 else "Ada",
                }
            )

        def write(tx: Transaction) -> None:
            tx.execute(tables.device.insert(), devices)
            tx.execute(tables.registration.insert(), registrations)

        await self.world.database.write(write)
        with self.world.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("ANALYZE")

    async def most(self, function: Callable[..., Any], *arguments: Any) -> int:
        """The most rows that a part of a plan of PostgreSQL handles; 0 for SQLite, which counts otherwise."""
        with self.world.database.engine.connect() as connection:
            tx = Transaction(connection, self.now, "registry", pb.Change, False)
            return most_of(connection, lambda: function(tx, *arguments))

    async def cost(self, function: Callable[..., Any], *arguments: Any) -> int:
        """What the function's statements read: blocks of PostgreSQL, or thousands of instructions of SQLite."""
        with self.world.database.engine.connect() as connection:
            tx = Transaction(connection, self.now, "registry", pb.Change, False)
            return cost_of(connection, lambda: function(tx, *arguments))


@pytest.fixture
async def crowd(world: World) -> AsyncIterator[Crowd]:
    made = Crowd(world)
    await made.load()
    yield made
    # No feed told of them.
    await world.clear()


async def test_the_last_page_of_registrations_costs_what_the_first_does(
    crowd: Crowd, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sorts or skips what others have seen, whatever is asked for and however many share a minute.

    By their ids lie all, whatever their states, so that a page looks as far as it may.
    """
    monkeypatch.setattr(lists, "LOOK", 2 * PAGE)
    for states, filters, order, descending in product(STATES, FILTERS, REGISTRATION_ORDERS, (False, True)):
        wanted = RegistrationFilter(states, **filters)
        for after in (None, crowd.cursor("reg", order)):
            page = Range(PAGE, order, descending, after)
            cost = await crowd.cost(store.registrations.page, crowd.organization, wanted, page)
            assert cost <= {"sqlite": 8, "postgresql": 100}[engine], (wanted, page)
            most = await crowd.most(store.registrations.page, crowd.organization, wanted, page)
            assert most <= 5 * PAGE, (wanted, page)


async def test_the_last_page_of_devices_costs_what_the_first_does(
    crowd: Crowd, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those without an active registration ten have to be looked at to find one. By their names they lie apart.

    By addresses it is registrations that are looked at, and before them all devices without an active one, which here
    have revoked ones.
    """
    monkeypatch.setattr(lists, "LOOK", 10 * PAGE)
    for active, order, descending in product((True, False, None), DEVICE_ORDERS, (False, True)):
        wanted = DeviceFilter(active)
        # In the order of addresses a device stands where a registration does.
        kind = "reg" if order is Order.USER_EMAIL else "dev"
        for after in (None, crowd.cursor(kind, order)):
            page = Range(PAGE, order, descending, after)
            cost = await crowd.cost(store.devices.page, crowd.organization, wanted, page)
            lie_apart = order in (Order.NAME, Order.VERSION, Order.USER_EMAIL)
            bound = {"sqlite": 8, "postgresql": 300}[engine] * (5 if active is False else 1) * (4 if lie_apart else 1)
            assert cost <= bound, (wanted, page)
            most = await crowd.most(store.devices.page, crowd.organization, wanted, page)
            assert most <= (35 if order is Order.USER_EMAIL else 15) * PAGE, (wanted, page)


async def test_a_search_for_what_is_not_there_looks_only_so_far(
    crowd: Crowd, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order: without the bound it goes through all of them."""
    page = Range(PAGE, Order.NAME)
    for function, wanted in (
        (store.devices.page, DeviceFilter(None, search="nobody")),
        (store.devices.page, DeviceFilter(None, tags=[("site", "Ulm")])),
        (store.registrations.page, RegistrationFilter(LISTED, search="nobody")),
    ):
        costs = []
        for look in (10 * PAGE, 10**6):
            monkeypatch.setattr(lists, "LOOK", look)
            of = replace(page, order=Order.CREATE) if function is store.registrations.page else page
            costs.append(await crowd.cost(function, crowd.organization, wanted, of))
        assert costs[0] * 3 < costs[1], (wanted, costs)


async def test_an_enrollment_reads_no_more_among_many(crowd: Crowd, engine: str) -> None:
    """The statements of enrollments, revocations and sweeps, each by an index on both engines."""
    of, registration_id, device_id = crowd.organization, f"reg_{7:032x}", f"dev_{7:032x}"
    made = await crowd.world.find(registration_id)
    for function, *arguments in (
        (store.enrollments.earlier, of, "request", b"key"),
        (store.enrollments.enroll_device, of, device_id, Claims("laptop", "", 1, "", "", "", "", "")),
        (store.enrollments.lock_places, made),
        (store.enrollments.abort_overdue,),
        (store.enrollments.forget_ended,),
        (store.devices.find, of, device_id),
        (store.os_sessions.lock_devices, of, [registration_id]),
        (store.os_sessions.present, of, device_id),
        (store.os_sessions.seats, of, device_id),
        (store.os_sessions.set_current, of, device_id, ""),
        (store.os_sessions.end, of, device_id, 1),
        (store.os_sessions.page, of, device_id, None, None, 5),
        (store.os_sessions.forget_ended,),
        (store.registrations.active_of_users, of, [device_id]),
        (store.registrations.after, of, Page(registration_id, 5)),
        (store.registrations.key_is_held, b"key"),
        (store.registrations.lock, of, [registration_id]),
        (store.registrations.lock_on_device, of, device_id),
        (store.registrations.of_tokens, [registration_id]),
        (store.registrations.of_user, of, f"usr_{8:032x}", 1, LISTED),
        (store.registrations.revoke, of, [registration_id]),
    ):
        cost = await crowd.cost(function, *arguments)
        # A device is in the index of each order of lists, which all are written when it changes.
        most = 40 if function is store.enrollments.enroll_device else 20
        assert cost <= (1 if engine == "sqlite" else most), function


async def test_a_look_for_what_has_ended_reads_no_more_among_many(crowd: Crowd, engine: str) -> None:
    """Each of the two reasons has an index of its own; with many that have not ended it reads hardly anything."""
    wanted = (store.lifetimes.ended, crowd.organization, 0, "", 500)
    assert await crowd.most(*wanted) <= PAGE
    assert await crowd.cost(*wanted) <= (2 if engine == "sqlite" else 40)
