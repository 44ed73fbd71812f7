"""Addresses that are kept for somebody, or from everybody, on both engines (decision 25)."""

import asyncio
import ipaddress
import random
import secrets

import hypothesis.strategies as st
import pytest
from hypothesis import given

from guardhouse.errors import (
    AddressHeld,
    GuardhouseError,
    InvalidField,
    LimitReached,
    PinExists,
    PinNotFound,
    SubnetExhausted,
)
from guardhouse.ids import DEVICE, PIN, USER
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.ipam.domain import pins as domain
from guardhouse_services.ipam.domain.leases import Lease, State
from guardhouse_services.ipam.domain.pins import Pin, Pins
from guardhouse_services.ipam.usecases import pins as usecases
from guardhouse_services.paging import Page
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, machine, name, new


async def pin(world: World, network: str, device: str = "", holder: str = "", request_id: str = "") -> Pin:
    caller = Caller("key", "key_1")
    key = RequestKey(world.organization, caller.name, "PinAddress", request_id or secrets.token_hex(8), b"")
    call = Call(caller, "PinAddress", "trace", key)
    return await world.ipam.pins.pin(call, world.organization, ipaddress.ip_network(network), device, holder, "")


async def unpin(world: World, pin_id: str) -> None:
    caller = Caller("key", "key_1")
    key = RequestKey(world.organization, caller.name, "UnpinAddress", secrets.token_hex(8), b"")
    await world.ipam.pins.unpin(Call(caller, "UnpinAddress", "trace", key), world.organization, pin_id)


def shown(lease: Lease) -> str:
    return str(ipaddress.IPv4Address(lease.ipv4))


async def fill(world: World) -> list[str]:
    """The addresses that are given out until there is none."""
    given_out = []
    while True:
        try:
            given_out.append(shown(await world.hold()))
        except SubnetExhausted:
            return given_out


async def test_a_pinned_address_is_its_holders_and_nobody_elses(small: World) -> None:
    """Decision 25: nobody else ever gets it, however full the subnet is; its holder does, and again."""
    device, user = new(DEVICE), new(USER)
    await pin(small, "10.9.8.3", device, user)
    others = await fill(small)
    assert len(others) == 13
    assert "10.9.8.3" not in others
    for _ in range(2):
        lease = await small.hold(device, user)
        assert shown(lease) == "10.9.8.3"
        await small.change(deleted(name(lease)))
        small.advance(2 * HOUR)
        with pytest.raises(SubnetExhausted):
            await small.reserve()


async def test_a_pin_is_for_that_user_on_that_device_only(world: World) -> None:
    """Decision 25: another device of the user, and another user of the device, get others."""
    device, user = new(DEVICE), new(USER)
    await pin(world, "100.96.0.1", device, user)
    assert shown(await world.reserve(device=new(DEVICE), holder=user)) == "100.96.0.2"
    assert shown(await world.reserve(device=device, holder=machine())) == "100.96.0.3"
    assert shown(await world.reserve(device=device, holder=user)) == "100.96.0.1"


async def test_a_pin_may_be_named_by_either_address_of_the_pair(world: World) -> None:
    """Decision 23: both are kept."""
    lease = await world.reserve()
    prefix = lease.ipv6.rpartition("::")[0]
    device, token = new(DEVICE), machine()
    made = await pin(world, f"{prefix}::6460:9", device, token)
    assert (made.first_ipv4, made.holder_id) == (int(ipaddress.IPv4Address("100.96.0.9")), token)
    pinned = await world.reserve(device=device, holder=token)
    assert ipaddress.IPv6Address(pinned.ipv6) == ipaddress.IPv6Address(f"{prefix}::6460:9")


async def test_what_somebody_holds_is_pinned_to_them_alone(world: World) -> None:
    device, user = new(DEVICE), new(USER)
    lease = await world.hold(device, user)
    with pytest.raises(AddressHeld) as error:
        await pin(world, shown(lease), new(DEVICE), user)
    assert error.value.metadata == {"registration_id": name(lease)}
    await pin(world, shown(lease), device, user)
    await world.change(deleted(name(lease)))
    world.advance(2 * HOUR)
    assert shown(await world.reserve()) != shown(lease)
    assert shown(await world.reserve(device=device, holder=user)) == shown(lease)


async def test_a_pin_does_not_cut_somebody_elses_quarantine_short(world: World) -> None:
    """Decision 25, I-02: whoever knows the address as another's has to forget it first."""
    lease = await world.hold()
    await world.change(deleted(name(lease)))
    device, user = new(DEVICE), new(USER)
    await pin(world, shown(lease), device, user)
    early = await world.hold(device, user)
    assert shown(early) != shown(lease)
    await world.change(deleted(name(early)))
    world.advance(HOUR + 1)
    assert shown(await world.reserve(device=device, holder=user)) == shown(lease)


async def test_an_excluded_network_is_given_to_nobody(small: World) -> None:
    """Decision 25: neither what was never given out, nor what rests; what is held stays so."""
    first, second = await small.hold(), await small.hold()
    await small.change(deleted(name(first)))
    made = await pin(small, "10.9.8.0/29")
    assert await small.state(second) is State.HELD
    small.advance(2 * HOUR)
    assert await fill(small) == [f"10.9.8.{last}" for last in range(8, 15)]
    await small.change(deleted(name(second)))
    small.advance(2 * HOUR)
    with pytest.raises(SubnetExhausted):
        await small.reserve(device=first.device_id, holder=first.holder_id)
    await unpin(small, made.pin_id)
    assert sorted(await fill(small)) == [f"10.9.8.{last}" for last in range(1, 8)]


async def test_what_was_excluded_beyond_the_mark_comes_back_in_its_order(small: World) -> None:
    """I-01: no address is lost, and none is given out twice, wherever the mark was."""
    far, near = await pin(small, "10.9.8.12/30"), await pin(small, "10.9.8.2")
    given_out = [shown(await small.hold()) for _ in range(4)]
    assert given_out == ["10.9.8.1", "10.9.8.3", "10.9.8.4", "10.9.8.5"]
    await unpin(small, far.pin_id)
    await unpin(small, near.pin_id)
    rest = await fill(small)
    assert rest[0] == "10.9.8.2"
    assert sorted(given_out + rest) == sorted(f"10.9.8.{last}" for last in range(1, 15))


async def test_an_address_that_was_given_out_beyond_the_mark_is_passed_by(small: World) -> None:
    """I-01: whoever had it pinned to them holds it on when it is unpinned."""
    device, user = new(DEVICE), new(USER)
    made = await pin(small, "10.9.8.6", device, user)
    kept = await small.hold(device, user)
    await unpin(small, made.pin_id)
    assert "10.9.8.6" not in await fill(small)
    await small.change(deleted(name(kept)))
    small.advance(2 * HOUR)
    assert shown(await small.reserve()) == "10.9.8.6"


async def test_a_pin_overlaps_no_other_and_a_holder_has_one_on_a_device(world: World) -> None:
    device, user = new(DEVICE), new(USER)
    made = await pin(world, "100.96.4.0/24")
    for network in ("100.96.4.0/25", "100.96.4.255", "100.96.0.0/20"):
        with pytest.raises(PinExists) as error:
            await pin(world, network)
        assert error.value.metadata == {"pin_id": made.pin_id}
    one = await pin(world, "100.96.5.1", device, user)
    with pytest.raises(PinExists) as error:
        await pin(world, "100.96.5.2", device, user)
    assert error.value.metadata == {"pin_id": one.pin_id}


@pytest.mark.parametrize("network", ["100.112.0.1", "10.0.0.0/24", "fd00::/64", "2001:db8::1", "100.96.0.0/19"])
async def test_what_is_in_no_subnet_or_too_much_is_not_pinned(world: World, network: str) -> None:
    with pytest.raises(InvalidField) as error:
        await pin(world, network)
    assert error.value.field == "network"


@pytest.mark.parametrize("network", ["100.96.0.0", "100.111.255.255", "100.96.4.0/31"])
async def test_nobody_is_kept_what_nobody_can_have(world: World, network: str) -> None:
    with pytest.raises(InvalidField) as error:
        await pin(world, network, new(DEVICE), new(USER))
    assert error.value.field == "network"


async def test_pins_are_bounded_and_unpinning_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I-34."""
    assert domain.LIMIT == 500
    monkeypatch.setattr(usecases, "LIMIT", 3)
    made = [await pin(world, f"100.96.0.{number}") for number in range(1, 4)]
    with pytest.raises(LimitReached):
        await pin(world, "100.96.0.9")
    await unpin(world, made[0].pin_id)
    await pin(world, "100.96.0.9")
    found = await world.ipam.pins.list(world.organization, Page(made[1].pin_id, 10))
    assert [each.first_ipv4 & 0xFF for each in found] == [3, 9]


async def test_a_pin_of_another_organization_is_unknown(world: World) -> None:
    """I-27."""
    made = await pin(world, "100.96.0.1")
    ours, world.organization = world.organization, new("org")
    await world.add_organization(world.organization)
    with pytest.raises(PinNotFound):
        await unpin(world, made.pin_id)
    assert shown(await world.reserve()) == "100.96.0.1"
    world.organization = ours
    with pytest.raises(PinNotFound):
        await unpin(world, new(PIN))


async def test_one_address_pinned_by_many_at_once_is_one_holders(world: World) -> None:
    people = [(new(DEVICE), new(USER)) for _ in range(8)]
    got = await asyncio.gather(*(pin(world, "100.96.0.7", *each) for each in people), return_exceptions=True)
    assert sum(isinstance(each, Pin) for each in got) == 1
    assert all(isinstance(each, Pin | PinExists) for each in got)


async def test_no_walk_of_pins_loses_an_address_or_gives_one_twice(small: World) -> None:
    """I-01, I-02, decision 25: pinning, unpinning, reserving, deleting and waiting in any order."""
    chance = random.Random(11)
    people = [(new(DEVICE), new(USER)) for _ in range(12)]
    held: dict[str, Lease] = {}
    pins: dict[str, tuple[Pin, tuple[str, str]]] = {}

    def kept(address: str, person: tuple[str, str]) -> bool:
        number = int(ipaddress.IPv4Address(address))
        return any(it.first_ipv4 <= number <= it.last_ipv4 and who != person for it, who in pins.values())

    for _ in range(300):
        person = chance.choice(people)
        match chance.choices(["hold", "delete", "pin", "exclude", "unpin", "wait"], [6, 4, 2, 1, 3, 2])[0]:
            case "hold":
                try:
                    lease = await small.hold(*person)
                except SubnetExhausted:
                    continue
                assert shown(lease) not in held
                assert not kept(shown(lease), person)
                held[shown(lease)] = lease
            case "delete" if held:
                lease = held.pop(chance.choice(sorted(held)))
                await small.change(deleted(name(lease)))
            case "pin" | "exclude" as kind:
                who = person if kind == "pin" else ("", "")
                network = (
                    f"10.9.8.{chance.randrange(1, 15)}" if kind == "pin" else f"10.9.8.{chance.choice([0, 4, 12])}/30"
                )
                try:
                    made = await pin(small, network, *who)
                except GuardhouseError as error:
                    assert isinstance(error, PinExists | AddressHeld)  # noqa: PT017
                else:
                    pins[made.pin_id] = (made, who)
            case "unpin" if pins:
                pin_id = chance.choice(sorted(pins))
                await unpin(small, pin_id)
                del pins[pin_id]
            case "wait":
                small.advance(chance.choice([60, HOUR / 3, HOUR]))
    for pin_id in pins:
        await unpin(small, pin_id)
    small.advance(2 * HOUR)
    assert sorted([*held, *await fill(small)]) == sorted(f"10.9.8.{last}" for last in range(1, 15))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=8), st.integers(0, 70), st.integers(0, 9))
def test_pins_are_found_as_a_scan_finds_them(ranges: list[tuple[int, int]], first: int, more: int) -> None:
    made: list[Pin] = []
    for start, length in ranges:
        if not any(it.first_ipv4 <= start + length and it.last_ipv4 >= start for it in made):
            made.append(Pin(f"pin_{start}", start, start + length, None, None, "", 0))
    pins = Pins(made)
    covered = {ipv4 for it in made for ipv4 in range(it.first_ipv4, it.last_ipv4 + 1)}
    assert (pins.overlapping(first, first + more) is not None) == bool(covered & set(range(first, first + more + 1)))
    assert pins.behind(first) == next(ipv4 for ipv4 in range(first, 200) if ipv4 not in covered)
