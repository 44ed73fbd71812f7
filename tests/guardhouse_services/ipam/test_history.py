"""Who held what, and for how long that stays known, on both engines (decision 26)."""

import ipaddress
from itertools import pairwise

import pytest

from guardhouse.durations import SECOND
from guardhouse.errors import AddressNotFound, DurationInvalid
from guardhouse.ids import REGISTRATION
from guardhouse_services.ipam.domain.leases import Holding, Lease, parse_history
from guardhouse_services.ipam.domain.subnets import Network, pairs_of
from guardhouse_services.ipam.store import leases
from guardhouse_services.ipam.usecases import addresses
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, name, new

IPV6 = "fd12:3456:789a:1::/64"


async def history(world: World, network: str, at: int | None = None, size: int = 1000) -> list[Holding]:
    """All of it, by pages of that size."""
    found: list[Holding] = []
    wanted, place = ipaddress.ip_network(network), None
    while True:
        page = await world.ipam.addresses.list_history(world.organization, wanted, at, place, size)
        found += page.holdings
        if len(page.holdings) < size and page.end is None:
            return found
        place = page.holdings[-1].place if len(page.holdings) == size else page.end


async def lives(world: World, count: int) -> list[Lease]:
    """One address that so many hold one after the other."""
    found = []
    for _ in range(count):
        found.append(await world.hold())
        world.advance(HOUR)
        await world.change(deleted(name(found[-1])))
        world.advance(2 * HOUR)
    assert len({lease.ipv4 for lease in found}) == 1
    return found


async def test_everybody_who_held_an_address_is_listed_by_time(world: World) -> None:
    """Decision 26: who, on which device, since and until when."""
    world.clock.stop()
    leases = await lives(world, 3)
    found = await history(world, "100.96.0.1")
    assert [(it.registration_id, it.device_id, it.holder_id) for it in found] == [
        (name(lease), lease.device_id, lease.holder_id) for lease in leases
    ]
    assert [(it.release_time or 0) - it.hold_time for it in found] == [HOUR * SECOND] * 3
    assert all((before.release_time or 0) < after.hold_time for before, after in pairwise(found))


async def test_who_took_an_address_over_follows_whom_it_was_taken_from(world: World) -> None:
    first, second = await world.hold(), new(REGISTRATION)
    world.advance(60)
    await world.change(world.record(second, first), deleted(name(first)))
    found = await history(world, "100.96.0.1")
    assert [it.registration_id for it in found] == [name(first), second]
    assert found[0].release_time == found[1].hold_time
    assert found[1].release_time is None


async def test_a_network_is_asked_at_a_time_as_each_of_its_addresses_is(world: World) -> None:
    """Decision 26: the list and the lookup say the same."""
    gone = [await world.hold() for _ in range(6)]
    world.advance(60)
    then = world.clock.now()
    world.advance(60)
    for lease in gone[:3]:
        await world.change(deleted(name(lease)))
    later = [await world.hold() for _ in range(2)]
    expected: dict[int, list[str]] = {
        then - 120 * SECOND: [],
        then: [name(lease) for lease in gone],
        world.clock.now(): [name(lease) for lease in (*gone[3:], *later)],
    }
    for at, names in expected.items():
        found = await history(world, "100.96.0.0/28", at, size=2)
        assert [it.registration_id for it in found] == names
        for it in found:
            assert await world.ipam.addresses.lookup_address(world.organization, it.ipv6, at) == it


async def test_a_hold_is_from_its_first_microsecond_to_the_one_before_its_end(world: World) -> None:
    """Decision 26: at the moment of a hand-over it is the successor's, and at that of a deletion nobody's."""
    first, second = await world.hold(), new(REGISTRATION)
    world.advance(60)
    await world.change(world.record(second, first), deleted(name(first)))
    world.advance(60)
    await world.change(deleted(second))
    (one, other) = await history(world, "100.96.0.1")
    handed_over, given_back = one.release_time or 0, other.release_time or 0
    expected = {
        one.hold_time - 1: "",
        one.hold_time: name(first),
        handed_over - 1: name(first),
        handed_over: second,
        given_back - 1: second,
        given_back: "",
    }
    for at, holder in expected.items():
        assert [it.registration_id for it in await history(world, "100.96.0.1", at)] == [holder] * bool(holder)
        asking = world.ipam.addresses.lookup_address(world.organization, "100.96.0.1", at)
        if holder:
            assert (await asking).registration_id == holder
        else:
            with pytest.raises(AddressNotFound):
                await asking


@pytest.mark.parametrize("look", [1, 2, 3, 7, 8, 9])
async def test_a_page_of_a_time_looks_only_so_far(world: World, monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    """And the next one goes on there, though it had nothing to show."""
    monkeypatch.setattr(leases, "LOOK", look)
    gone = await lives(world, 5)
    held = [await world.hold() for _ in range(3)]
    now = world.clock.now()
    network = ipaddress.ip_network("100.96.0.0/12")
    first = await world.ipam.addresses.list_history(world.organization, network, now, None, 1000)
    assert (first.end is None) == (look > len(gone) + len(held))
    assert len(first.holdings) <= look
    for size in (1, 2, 1000):
        found = await history(world, "100.96.0.0/12", now, size)
        assert [it.registration_id for it in found] == [name(lease) for lease in held]


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_pages_leave_nothing_out_and_show_nothing_twice(world: World, size: int) -> None:
    await lives(world, 3)
    leases = [await world.hold() for _ in range(4)]
    await world.change(*(deleted(name(lease)) for lease in leases[:2]))
    world.advance(60)
    whole = await history(world, "100.96.0.0/12")
    assert len(whole) == 7
    assert await history(world, "100.96.0.0/12", size=size) == whole


async def test_a_network_shows_nothing_beyond_its_ends(world: World) -> None:
    for _ in range(9):
        await world.hold()
    assert [it.ipv4 & 0xF for it in await history(world, "100.96.0.4/30")] == [4, 5, 6, 7]
    assert [it.ipv4 & 0xF for it in await history(world, "100.96.0.9")] == [9]
    assert await history(world, "100.96.1.0/24") == []


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("100.96.4.0/24", ("100.96.4.0", "100.96.4.255")),
        ("0.0.0.0/0", ("0.0.0.0", "255.255.255.255")),
        (IPV6, ("0.0.0.0", "255.255.255.255")),
        ("::/0", ("0.0.0.0", "255.255.255.255")),
        ("fd12:3456:789a:1::6460:400/120", ("100.96.4.0", "100.96.4.255")),
        ("::ffff:100.96.4.0/120", ("100.96.4.0", "100.96.4.255")),
        ("fd12:3456:789a:1::6460:401", ("100.96.4.1", "100.96.4.1")),
        ("fd12:3456:789a:1:1::/80", None),
        ("fd12:3456:789a:2::/64", None),
        ("2001:db8::/32", None),
    ],
)
def test_a_network_of_either_family_is_a_stretch_of_pairs(network: str, expected: tuple[str, str] | None) -> None:
    """Decision 23: both addresses of a pair end alike."""
    wanted: Network = ipaddress.ip_network(network)
    found = pairs_of(wanted, IPV6)
    assert found == (expected and tuple(int(ipaddress.IPv4Address(each)) for each in expected))


async def test_what_ended_longer_ago_than_the_history_is_forgotten_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 26: in steps, and never what is still held, however old it is."""
    monkeypatch.setattr(addresses, "FORGET_BATCH", 2)
    kept = await world.hold()
    gone = [await world.hold() for _ in range(5)]
    await world.change(*(deleted(name(lease)) for lease in gone))
    world.restart("100.96.0.0/12", history="24h")
    world.advance(23 * HOUR)
    recent = await world.hold()
    await world.change(deleted(name(recent)))
    await world.ipam.addresses.forget_once()
    assert len(await world.history()) == 7
    world.advance(2 * HOUR)
    await world.ipam.addresses.forget_once()
    assert {row.registration_id for row in await world.history()} == {name(kept), name(recent)}
    assert (await world.ipam.addresses.lookup_address(world.organization, kept.ipv6)).registration_id == name(kept)


async def test_a_time_before_the_history_is_told_from_one_at_which_nobody_held_it(world: World) -> None:
    """Decision 26: that nobody is found does not always mean that nobody held it."""
    world.restart("100.96.0.0/12", history="24h")
    await world.hold()
    now = world.clock.now()
    with pytest.raises(AddressNotFound, match="is kept for 24h"):
        await world.ipam.addresses.lookup_address(world.organization, "100.96.0.1", now - 25 * HOUR * SECOND)
    with pytest.raises(AddressNotFound, match="no holder"):
        await world.ipam.addresses.lookup_address(world.organization, "100.96.0.1", now - 23 * HOUR * SECOND)


@pytest.mark.parametrize("text", ["23h59m", "0", "-24h", "", "1y"])
def test_a_history_of_less_than_a_day_is_refused(text: str) -> None:
    with pytest.raises(DurationInvalid):
        parse_history(text)
