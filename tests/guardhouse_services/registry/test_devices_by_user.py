"""Devices by the address of the user last seen there: as a plain sort of all of them has it, on both engines."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from guardhouse.decisions import Profile
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, SECOND, Device, Registration, State
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.store import lists
from tests.guardhouse_services.registry.profiles import Profiles
from tests.guardhouse_services.registry.test_finding import devices, enroll
from tests.guardhouse_services.registry.world import World, machine, name, user

ORDER = "last_seen_user.email"
INCLUDE, EXCLUDE = pb.ACTIVE_REGISTRATIONS_INCLUDE, pb.ACTIVE_REGISTRATIONS_EXCLUDE
ADDRESSES = ("ada@example.com", "Zoe@example.com", "\u00c4da@example.com", "a-da@example.com")
# Alike in as much of them as is kept to go by.
LONG = ("x" * 255 + "b", "x" * 255 + "a")
Shown = Callable[[Device, Registration | None], bool]


@dataclass
class Fleet:
    """Devices with the registration that was heard of last on each, and who has which address."""

    rows: dict[str, tuple[Device, Registration | None]]
    addresses: dict[str, str]
    device_profile_id: str

    def address(self, last: Registration) -> str:
        return self.addresses.get(last.holder.user_id, "")

    def in_order(self, shown: Sequence[Shown], *, descending: bool) -> list[str]:
        def key(device_id: str) -> tuple[bytes, str]:
            _, last = self.rows[device_id]
            return (b"", device_id) if last is None else (self.address(last)[:255].encode(), last.registration_id)

        wanted = (device_id for device_id, row in self.rows.items() if all(it(*row) for it in shown))
        return sorted(wanted, key=key, reverse=descending)


async def settle(world: World, profiles: Profiles, chance: random.Random) -> Fleet:
    """People and service tokens follow each other on devices; some people share an address, and some devices are left.

    What was heard of last on a device is not always what was made last there, and may be revoked.
    """
    people, tokens = [user() for _ in range(8)], [machine() for _ in range(3)]
    addresses = " ".join(f'"{it}@example.com"' for it in people[::2])
    profile = await profiles.create(match=f"identity.email in {{{addresses}}}")
    for number in range(18):
        hardware_id, made = f"HW-{number:03}", []
        for left in reversed(range(chance.randint(1, 4))):
            holder = chance.choice((chance.choice(people), chance.choice(tokens)))
            about: dict[str, Any] = {"display_name": f"machine {number % 4}", "platform": 1 + number % 3}
            made.append(await enroll(world, holder, hardware_id=hardware_id, **about))
            world.clock.advance(chance.choice((0, 60)))
            if chance.random() < 0.3:
                await world.beat(made[-1])
            fate = chance.choice((world.revoke, world.delete, None, None, None))
            # Another person is refused where one is.
            if fate is None and left and holder in people:
                fate = world.revoke
            if fate is not None:
                await fate(name(made[-1]))
        tags = {"site": chance.choice(("Ulm", "Bonn"))}
        await world.registry.devices.update(world.call(), world.organization, made[0].device.device_id, tags)
        if number % 6 == 5:
            await world.delete(*map(name, made))
        else:
            world.clock.advance(60)
            active = [it for it in made if (await world.find(name(it))).state == State.ACTIVE]
            await world.beat(*chance.sample(active, len(active) // 2))
    known = {it: chance.choice((*ADDRESSES, *LONG)) for it in people[1:]}
    saved = {it: Profile(address, "", ()) for it, address in known.items()}
    await world.database.write(lambda tx: store.people.save(tx, world.organization, saved))
    lasts: dict[str, Registration] = {}
    for row in sorted(await world.rows(), key=lambda it: (it.activity, it.registration_id)):
        if row.state in LISTED:
            lasts[row.device_id] = row
    rows = {it.device_id: (it, lasts.get(it.device_id)) for it in await world.listed_devices(None)}
    assert {last and last.state for _, last in rows.values()} == {None, *LISTED}
    return Fleet(rows, {people[0]: f"{people[0]}@example.com"} | known, profile.device_profile_id)


def question(fleet: Fleet, chance: random.Random, now: int) -> tuple[dict[str, Any], list[Shown]]:
    """Some of all the filters, and what they mean."""
    which = chance.choice((0, INCLUDE, INCLUDE, EXCLUDE))
    platform, site = 1 + chance.randrange(3), chance.choice(("Ulm", "Bonn"))
    part = chance.choice(("MACHINE 1", "hw-00", "nobody"))
    ids = chance.sample(sorted(fleet.rows), 7)
    user_id, address = chance.choice(sorted(fleet.addresses)), chance.choice(ADDRESSES)
    since, upto = now - 900 * SECOND, now - 300 * SECOND
    choices: list[tuple[float, dict[str, Any], Shown]] = [
        (0.3, {"platform": platform}, lambda it, _: it.claims.platform == platform),
        (
            0.2,
            {"search": part},
            lambda it, _: part.upper() in f"{it.claims.display_name} {it.claims.hardware_id}".upper(),
        ),
        (0.2, {"tags": [f"site:{site}"]}, lambda it, _: it.tags["site"] == site),
        (0.2, {"device_ids": ids}, lambda it, _: it.device_id in ids),
        (0.1, {"last_seen_user_id": user_id}, lambda _, last: last is not None and last.holder.user_id == user_id),
        (0.1, {"last_seen_user_email": address}, lambda _, last: last is not None and fleet.address(last) == address),
        (
            0.2,
            {"device_profile_id": fleet.device_profile_id},
            lambda _, last: last is not None and last.device_profile_id == fleet.device_profile_id,
        ),
        (0.2, {"seen_after": to_timestamp(since)}, lambda it, _: it.activity >= since),
        (0.2, {"seen_before": to_timestamp(upto)}, lambda it, _: it.activity < upto),
    ]
    asked: dict[str, Any] = {"active_registrations": which}
    shown: list[Shown] = [lambda it, _: which == INCLUDE or (it.active_registrations == 0) == (which == EXCLUDE)]
    for likely, filters, means in choices:
        if chance.random() < likely:
            asked |= filters
            shown.append(means)
    return asked, shown


@pytest.mark.parametrize("seed", range(3))
async def test_devices_come_by_who_was_seen_there_last_whatever_else_is_asked_for(
    world: World, servicer: RegistryServicer, profiles: Profiles, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those without a registration first, by their ids; those of one address by the registrations seen last."""
    chance = random.Random(seed)
    fleet = await settle(world, profiles, chance)
    for _ in range(10):
        asked, shown = question(fleet, chance, world.clock.now())
        descending = chance.random() < 0.5
        wanted = fleet.in_order(shown, descending=descending)
        order_by = f"{ORDER} desc" if descending else ORDER
        for size in (0, chance.choice((1, 2))):
            monkeypatch.setattr(lists, "LOOK", chance.choice((1, 7, 10**6)))
            found = await devices(servicer, world, size, order_by=order_by, **asked)
            assert found == wanted, (order_by, asked, size, lists.LOOK)


async def test_a_device_moves_in_the_list_when_another_is_heard_of_there(
    world: World, servicer: RegistryServicer
) -> None:
    """At once, and so it does with another address, or when the registration goes."""
    ada, zoe = user(), user()
    of_ada, of_zoe, of_kiosk = [await enroll(world, it, hardware_id=it) for it in (ada, zoe, machine())]
    beside = await enroll(world, machine(), hardware_id=zoe)
    laptop, desktop, kiosk = (it.device.device_id for it in (of_ada, of_zoe, of_kiosk))
    world.clock.advance(60)

    async def call(user_id: str, address: str) -> None:
        known = {user_id: Profile(address, "", ())}
        await world.database.write(lambda tx: store.people.save(tx, world.organization, known))

    async def shown() -> list[tuple[str, str]]:
        request = pb.ListDevicesRequest(
            organization_id=world.organization, order_by=ORDER, active_registrations=INCLUDE
        )
        found = (await servicer.ListDevices(request, world.call())).devices
        return [(it.device_id, it.last_seen_user.email) for it in found]

    await call(ada, "m")
    await call(zoe, "a")
    assert await shown() == [(kiosk, ""), (desktop, ""), (laptop, "m")]
    await world.beat(of_zoe)
    assert await shown() == [(kiosk, ""), (desktop, "a"), (laptop, "m")]
    await call(zoe, "z")
    assert await shown() == [(kiosk, ""), (laptop, "m"), (desktop, "z")]
    await world.revoke(name(of_zoe))
    assert await shown() == [(kiosk, ""), (laptop, "m"), (desktop, "z")]
    await world.delete(name(of_zoe))
    assert await shown() == [(kiosk, ""), (desktop, ""), (laptop, "m")]
    await world.delete(name(beside))
    assert await shown() == [(desktop, ""), (kiosk, ""), (laptop, "m")]


async def test_a_page_that_looked_over_many_old_registrations_names_the_next(
    world: World, servicer: RegistryServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine may have been given many, as long as those before are kept."""
    made = [await enroll(world, machine(), hardware_id="kiosk") for _ in range(9)]
    monkeypatch.setattr(lists, "LOOK", 4)
    request = pb.ListDevicesRequest(organization_id=world.organization, order_by=ORDER, page_size=1)
    first = await servicer.ListDevices(request, world.call())
    assert (list(first.devices), bool(first.next_page_token)) == ([], True)
    assert await devices(servicer, world, 1, order_by=ORDER) == [made[0].device.device_id]
