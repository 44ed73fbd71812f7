"""What lists go by and what is found in them, on both engines alike, and how far a page looks for it (AIP-158)."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from guardhouse.decisions import Profile
from guardhouse.errors import InvalidField
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services.database import Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, SECOND, Device, LastSeen, State
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.store import lists, tables
from guardhouse_services.registry.usecases.enrollments import Enrolled
from tests.guardhouse_services.registry.world import World, machine, name, user

NAMES = ("Zoe's Mac", "ada", "Ada", "\u00c4da", "ada-2", "ada_2", "a%a", "\U0001f512", "ad/a", "z")
VERSIONS = ("2025.2", "2025.10", "10.0", "")
DEVICE_ORDERS = (
    *("create_time", "seen_time", "device_id", "claims.display_name", "claims.client_version"),
    "active_registrations",
)
REGISTRATION_ORDERS = ("create_time", "seen_time", "registration_id", "user_email", "user_display_name")
INCLUDE = pb.ACTIVE_REGISTRATIONS_INCLUDE
ALL = pb.REGISTRATION_FILTER_ALL


async def enroll(world: World, holder: str = "", **claims: Any) -> Enrolled:
    attempt = await world.attempt(holder, claims.get("hardware_id", ""))
    return await world.register(replace(attempt, claims=replace(attempt.claims, **claims)))


async def populate(world: World) -> list[Enrolled]:
    """Devices that share names, versions, tags and minutes; some were heard of, some are revoked."""
    chance, token, made = random.Random(7), machine(), []
    for number in range(24):
        holder = token if number % 4 == 0 else user()
        made.append(
            await enroll(
                world,
                holder,
                display_name=NAMES[number % len(NAMES)],
                # No text that another name has a part of, as a random one may.
                hardware_id=f"HW-{number:03}",
                client_version=chance.choice(VERSIONS),
                serial_number=f"SN-{number:03}",
                platform=1 + number % 3,
            )
        )
        if number % 3 == 0:
            world.clock.advance(60)
        tags = {"site": chance.choice(("Ulm", "Bonn")), "floor": str(number % 2)}
        await world.registry.devices.update(world.call(), world.organization, made[-1].device.device_id, tags)
    world.clock.advance(600)
    await world.beat(*made[::5])
    await world.revoke(*(name(it) for it in made[::6]))
    return made


async def devices(servicer: RegistryServicer, world: World, size: int = 0, **asked: Any) -> list[str]:
    """The ids of every page."""
    request = pb.ListDevicesRequest(organization_id=world.organization, page_size=size, **asked)
    found: list[str] = []
    while True:
        page = await servicer.ListDevices(request, world.call())
        assert len(page.devices) <= (size or 50)
        found += [it.device_id for it in page.devices]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


async def registrations(servicer: RegistryServicer, world: World, size: int = 0, **asked: Any) -> list[str]:
    request = pb.ListRegistrationsRequest(organization_id=world.organization, page_size=size, **asked)
    found: list[str] = []
    while True:
        page = await servicer.ListRegistrations(request, world.call())
        found += [it.registration_id for it in page.registrations]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


def in_order(rows: Sequence[Device], order_by: str) -> list[str]:
    """As a list must show them; text by its bytes."""
    by, _, desc = order_by.partition(" ")

    def key(it: Device) -> tuple[Any, str]:
        values: dict[str, Any] = {
            "create_time": it.create_time,
            "seen_time": it.activity,
            "device_id": it.device_id,
            "claims.display_name": it.claims.display_name.encode(),
            "claims.client_version": it.claims.client_version.encode(),
            "active_registrations": it.active_registrations,
        }
        return values[by], it.device_id

    return [it.device_id for it in sorted(rows, key=key, reverse=bool(desc))]


async def test_devices_come_in_every_order_on_both_engines_alike(world: World, servicer: RegistryServicer) -> None:
    await populate(world)
    rows = await world.listed_devices(None)
    for order_by in (*DEVICE_ORDERS, *(f"{order} desc" for order in DEVICE_ORDERS)):
        wanted = in_order(rows, order_by)
        for size in (0, 1, 5):
            found = await devices(servicer, world, size, order_by=order_by, active_registrations=INCLUDE)
            assert found == wanted, (order_by, size)


async def test_text_goes_by_its_bytes_whatever_the_language_of_the_database(world: World, engine: str) -> None:
    """In the index and in what asks for it: the order is SQLite's."""
    if engine == "sqlite":
        pytest.skip("SQLite knows no other")
    names = ("device_by_name", "device_by_version", "registration_by_user_email", "registration_by_user_name")
    query = sa.text(f"SELECT indexdef FROM pg_indexes WHERE indexname IN {names}")
    definitions = await world.database.read(lambda tx: tx.execute(query).scalars().all())
    assert [it.count('COLLATE "C"') for it in definitions] == [1, 1, 1, 1]
    ordered = (tables.device_name, tables.device_version, tables.registration_email, tables.registration_user)
    for text in (*ordered, lists.contains("x", tables.device.c.serial_number)):
        assert 'COLLATE "C"' in str(text.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


async def test_registrations_come_by_their_ids(world: World, servicer: RegistryServicer) -> None:
    """Whatever their state and their holder."""
    made = await populate(world)
    token = made[0].registration.holder.service_token_id
    rows = [row for row in await world.rows() if row.state in LISTED]
    for states, filters in (((State.ACTIVE,), {}), (LISTED, {"state": ALL}), (LISTED, {"state": ALL, "token": token})):
        of_token = {"service_token_id": filters.pop("token")} if "token" in filters else {}
        wanted = sorted(
            it.registration_id
            for it in rows
            if it.state in states and (not of_token or it.holder.service_token_id == token)
        )
        for size, descending in ((0, False), (4, False), (3, True)):
            order_by = "registration_id desc" if descending else "registration_id"
            found = await registrations(servicer, world, size, order_by=order_by, **filters, **of_token)
            assert found == (wanted[::-1] if descending else wanted)


async def rename(world: World, made: Sequence[Enrolled]) -> dict[str, tuple[str, str]]:
    """Some people have one address or one name; what each registration must show of its user."""
    chance = random.Random(3)
    users = [it.registration.holder.user_id for it in made if it.registration.holder.user_id]
    known = {
        it: Profile(f"{chance.choice(NAMES)}@example.com", chance.choice(NAMES), ()) for it in sorted(set(users))[::2]
    }
    await world.database.write(lambda tx: store.people.save(tx, world.organization, known))
    other = {it: Profile(f"{it}@example.com", it, ()) for it in users}
    shown = {name(it): (other | known).get(it.registration.holder.user_id, Profile("", "", ())) for it in made}
    return {key: (of.email, of.display_name) for key, of in shown.items()}


async def test_registrations_come_by_whose_they_are_on_both_engines_alike(
    world: World, servicer: RegistryServicer
) -> None:
    """As identity knows them by now; service tokens' come where there is no text."""
    made = await populate(world)
    shown = await rename(world, made)
    token = made[0].registration.holder.service_token_id
    rows = [row for row in await world.rows() if row.state in LISTED]
    for place, by in enumerate(("user_email", "user_display_name")):
        for states, filters in (
            ((State.ACTIVE,), {}),
            (LISTED, {"state": ALL}),
            (LISTED, {"state": ALL, "service_token_id": token}),
            ((State.REVOKED,), {"state": pb.REGISTRATION_FILTER_REVOKED, "search": "ada"}),
        ):
            everything = await registrations(servicer, world, **filters)
            wanted = sorted(everything, key=lambda it: (shown[it][place].encode(), it))
            if "search" not in filters and "service_token_id" not in filters:
                assert set(everything) == {it.registration_id for it in rows if it.state in states}
            for size, descending in ((0, False), (1, False), (5, False), (3, True)):
                order_by = f"{by} desc" if descending else by
                found = await registrations(servicer, world, size, order_by=order_by, **filters)
                assert found == (wanted[::-1] if descending else wanted), (order_by, filters)


async def test_a_registration_says_whose_it_is_and_on_what(world: World, servicer: RegistryServicer) -> None:
    """Also once identity says another name, a device another version; the feed says none of it."""
    of_user, of_token = (
        await enroll(world, user(), display_name="laptop", client_version="1.0"),
        await world.enroll(machine()),
    )
    user_id = of_user.registration.holder.user_id
    about: dict[str, Any] = {"organization_id": world.organization}

    async def said(registration_id: str) -> tuple[str, str, str, str]:
        request = pb.GetRegistrationRequest(**about, registration_id=registration_id)
        it = (await servicer.GetRegistration(request, world.call())).registration
        listed = await servicer.ListRegistrations(
            pb.ListRegistrationsRequest(**about, registration_ids=[registration_id], state=ALL), world.call()
        )
        assert list(listed.registrations) == [it]
        return it.user_email, it.user_display_name, it.device_display_name, it.device_client_version

    assert (of_user.registration.user_email, of_user.registration.user_display_name) == (
        f"{user_id}@example.com",
        user_id,
    )
    assert await said(name(of_user)) == (f"{user_id}@example.com", user_id, "laptop", "1.0")
    assert (await said(name(of_token)))[:2] == ("", "")
    known = {user_id: Profile("ada@example.com", "Ada " * 100, ())}
    await world.revoke(name(of_user))
    await world.database.write(lambda tx: store.people.save(tx, world.organization, known))
    await world.beat(of_token, client_version="2.0")
    assert await said(name(of_user)) == ("ada@example.com", ("Ada " * 100)[:255], "laptop", "1.0")
    assert (await said(name(of_token)))[3] == "2.0"
    for record in (await world.snapshot()).values():
        it = record.registration
        assert (it.user_email, it.user_display_name, it.device_display_name, it.device_client_version) == ("",) * 4


async def test_a_device_says_at_once_who_was_seen_on_it_last(world: World) -> None:
    """In the answer to the enrollment, before identity's feed says who that is."""
    made = await world.enroll(user())
    user_id = made.registration.holder.user_id
    assert made.device.last_seen == LastSeen(name(made), user_id, f"{user_id}@example.com", user_id)


async def test_the_database_counts_active_registrations_whoever_writes(world: World) -> None:
    """The servers of the release before, too, which do not know that they are counted."""
    device_id = (await world.enroll(machine(), "laptop")).device.device_id
    made = [await world.enroll(machine(), "laptop") for _ in range(3)]
    table = tables.registration

    async def count() -> int:
        (found,) = [it for it in await world.listed_devices(None) if it.device_id == device_id]
        return found.active_registrations

    assert [it.device.active_registrations for it in made] == [2, 3, 4]
    await world.revoke(name(made[0]))
    assert await count() == 3
    await world.unrevoke(name(made[0]))
    await world.delete(name(made[1]))
    assert await count() == 3

    def write(tx: Transaction, state: State) -> None:
        tx.execute(table.update().where(table.c.registration_id == name(made[2])).values(state=state))

    for state, number in ((State.REVOKED, 2), (State.REVOKED, 2), (State.DELETED, 2), (State.ACTIVE, 3)):
        await world.database.write(lambda tx: write(tx, state))  # noqa: B023
        assert await count() == number


@pytest.mark.parametrize("order_by", ["last_seen_user", "user.email", "user.name", "tags"])
async def test_an_order_that_no_index_has_is_refused(world: World, servicer: RegistryServicer, order_by: str) -> None:
    for call in (devices, registrations):
        with pytest.raises(InvalidField, match="order_by is one of") as caught:
            await call(servicer, world, order_by=order_by)
        assert caught.value.field == "order_by"


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ("ada", {"ada", "Ada", "ada-2", "ada_2"}),
        ("ADA_", {"ada_2"}),
        ("%", {"a%a"}),
        ("/", {"ad/a"}),
        ("\u00c4d", {"\u00c4da"}),
        ("\u00e4d", set()),
        ("\U0001f512", {"\U0001f512"}),
        ("'s m", {"Zoe's Mac"}),
        ("sn-01", {NAMES[number % len(NAMES)] for number in range(10, 20)}),
        ("nobody", set()),
    ],
)
async def test_a_search_finds_a_part_of_what_a_device_is_called(
    world: World, servicer: RegistryServicer, search: str, names: set[str]
) -> None:
    """Letters of ASCII are alike, others are not, and nothing in it is a pattern."""
    await populate(world)
    rows = {it.device_id: it.claims.display_name for it in await world.listed_devices(None)}
    found = await devices(servicer, world, search=search, active_registrations=INCLUDE)
    assert {rows[it] for it in found} == names
    of_devices = await registrations(servicer, world, search=search, state=ALL)
    device_of = {row.registration_id: row.device_id for row in await world.rows()}
    assert sorted(device_of[it] for it in of_devices) == sorted(found)


async def test_a_search_finds_a_part_of_anything_else_that_names_it(world: World, servicer: RegistryServicer) -> None:
    """A hardware id, a MAC address; and of a registration an address."""
    it = await enroll(world, hardware_id="4C4C4544", mac_address="02:42:AC:11:00:02", display_name="x")
    await enroll(world, hardware_id="other", display_name="y")
    for search in ("4c4544", "02:42:ac:11"):
        assert await devices(servicer, world, search=search) == [it.device.device_id]
        assert await registrations(servicer, world, search=search) == [name(it)]
    for search in (it.registration.lease.ipv4, it.registration.lease.ipv6):
        assert await registrations(servicer, world, search=search) == [name(it)]
        assert await devices(servicer, world, search=search) == []


async def test_devices_are_found_by_all_of_their_tags(world: World, servicer: RegistryServicer) -> None:
    await populate(world)
    rows = await world.listed_devices(None)
    tagged = rows[0].device_id
    await world.registry.devices.update(world.call(), world.organization, tagged, {"a.b/c": 'say "x": \u00fc'})
    assert await devices(servicer, world, tags=['a.b/c:say "x": \u00fc'], active_registrations=INCLUDE) == [tagged]
    for tags in (["site:Ulm"], ["site:Ulm", "floor:1"], ["site:Ulm", "site:Bonn"], ["site:ulm"], ["none:"]):
        wanted = [
            it.device_id
            for it in await world.listed_devices(None)
            if all(it.tags.get(tag.partition(":")[0]) == tag.partition(":")[2] for tag in tags)
        ]
        assert await devices(servicer, world, tags=tags, active_registrations=INCLUDE) == wanted, tags


async def test_what_is_named_is_found_in_any_order(world: World, servicer: RegistryServicer) -> None:
    """Ids, users, and the user of whom a device was heard last, each with the other filters."""
    made = await populate(world)
    rows = await world.listed_devices(None)
    ids = [it.device.device_id for it in made[3:9]]
    users = [it.registration.holder.user_id for it in made if it.registration.holder.user_id][:7]
    for order_by in (*DEVICE_ORDERS, "claims.display_name desc"):
        wanted = in_order([it for it in rows if it.device_id in ids], order_by)
        asked: dict[str, Any] = {"device_ids": [*ids, ids[0]], "order_by": order_by, "active_registrations": INCLUDE}
        assert await devices(servicer, world, 2, **asked) == wanted
    of_users = [it for it in made if it.registration.holder.user_id in users]
    for order_by in ("create_time", "seen_time", "registration_id"):
        found = await registrations(servicer, world, 3, user_ids=users, state=ALL, order_by=order_by)
        assert sorted(found) == sorted(map(name, of_users))
    active = [name(it) for it in of_users if (await world.find(name(it))).state == State.ACTIVE]
    assert await registrations(servicer, world, registration_ids=[name(it) for it in of_users]) == active
    one = of_users[0]
    assert await registrations(servicer, world, user_ids=users, user_id=users[-1], state=ALL) == [name(of_users[-1])]
    (seen,) = await devices(servicer, world, last_seen_user_id=users[0], active_registrations=INCLUDE)
    assert seen == one.device.device_id
    later = await world.enroll(machine(), one.device.claims.hardware_id)
    assert later.device.device_id == one.device.device_id
    assert await devices(servicer, world, last_seen_user_id=users[0], active_registrations=INCLUDE) == []
    assert await devices(servicer, world, last_seen_user_id=user(), active_registrations=INCLUDE) == []


async def test_devices_are_found_by_the_address_of_who_was_seen_there(world: World, servicer: RegistryServicer) -> None:
    """As identity knows it; two people may have one address (decision 1)."""
    ada, twin, eve = user(), user(), user()
    made = {it: await enroll(world, it) for it in (ada, twin, eve, user())}
    known = {
        ada: Profile("ada@example.com", "Ada", ()),
        twin: Profile("ada@example.com", "Other", ()),
        eve: Profile("eve@example.com", "Eve", ()),
    }
    await world.database.write(lambda tx: store.people.save(tx, world.organization, known))
    found = await devices(servicer, world, last_seen_user_email="ada@example.com")
    assert found == [made[ada].device.device_id, made[twin].device.device_id]
    assert await devices(servicer, world, last_seen_user_email="ada") == []
    assert await devices(servicer, world, last_seen_user_email="ada@example.com", last_seen_user_id=twin) == found[1:]
    request = pb.GetDeviceRequest(organization_id=world.organization, device_id=found[0])
    shown = (await servicer.GetDevice(request, world.call())).device.last_seen_user
    assert (shown.user_id, shown.email, shown.display_name) == (ada, "ada@example.com", "Ada")


@pytest.mark.parametrize("seed", range(3))
async def test_a_page_looks_only_so_far_and_the_list_is_whole_all_the_same(
    world: World, servicer: RegistryServicer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages may be short or empty, and together they are what an unbounded one shows, whatever is asked for.

    Within one look, too, which may go far beyond where the page found its first rows.
    """
    await populate(world)
    chance = random.Random(seed)
    now = world.clock.now()
    for _ in range(12):
        by, direction = chance.choice(DEVICE_ORDERS), chance.choice(("", " desc"))
        asked: dict[str, Any] = {"order_by": f"{by}{direction}"}
        for filters in (
            {"search": chance.choice(("ada", "SN-0", "x"))},
            {"tags": ["site:Ulm"]},
            {"platform": chance.choice((pb.PLATFORM_WINDOWS, pb.PLATFORM_MAC))},
            {"seen_after": to_timestamp(now - 600 * SECOND)},
        ):
            asked |= chance.choice((filters, {}))
        asked["active_registrations"] = chance.choice((0, INCLUDE, pb.ACTIVE_REGISTRATIONS_EXCLUDE))
        size = chance.choice((1, 2, 5))
        of_registrations: dict[str, Any] = {key: asked[key] for key in ("search", "seen_after") if key in asked}
        of_registrations["order_by"] = f"{chance.choice(REGISTRATION_ORDERS)}{direction}"
        of_registrations["state"] = chance.choice((ALL, pb.REGISTRATION_FILTER_REVOKED))
        for function, filters in ((devices, asked), (registrations, of_registrations)):
            monkeypatch.setattr(lists, "LOOK", 10**6)
            whole = await function(servicer, world, **filters)
            for look in (1, 7, 20):
                monkeypatch.setattr(lists, "LOOK", look)
                assert await function(servicer, world, size, **filters) == whole, (filters, size, look)


async def test_a_page_that_looked_far_enough_is_short_and_names_the_next(
    world: World, servicer: RegistryServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LOOK", 4)
    made = await populate(world)
    last = made[-1].device
    request = pb.ListDevicesRequest(
        organization_id=world.organization, page_size=1, device_ids=[], search=last.claims.serial_number
    )
    first = await servicer.ListDevices(request, world.call())
    assert (list(first.devices), bool(first.next_page_token)) == ([], True)
    assert await devices(servicer, world, 1, search=last.claims.serial_number) == [last.device_id]


async def test_what_cannot_be_looked_for_names_the_field(world: World, servicer: RegistryServicer) -> None:
    for call, field, asked in (
        (devices, "search", {"search": "x" * 101}),
        (registrations, "search", {"search": "a\nb"}),
        (devices, "tags[1]", {"tags": ["a:b", "c"]}),
        (devices, "tags[0]", {"tags": ["a b:c"]}),
        (devices, "tags", {"tags": ["a:b"] * 11}),
        (devices, "device_ids[0]", {"device_ids": [user()]}),
        (devices, "last_seen_user_id", {"last_seen_user_id": machine()}),
        (registrations, "registration_ids[0]", {"registration_ids": [user()]}),
        (registrations, "user_ids[1]", {"user_ids": [user(), machine()]}),
        (registrations, "user_ids", {"user_ids": [user()] * 101}),
    ):
        with pytest.raises(InvalidField) as caught:
            await call(servicer, world, **asked)
        assert caught.value.field == field
