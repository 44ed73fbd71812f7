"""A WireGuard gateway beside a real plane: whoever is not active is no peer, whatever happens meanwhile."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guardhouse import keys
from guardhouse.durations import MINUTE, SECOND
from guardhouse.enrollment import make_request, make_rotation
from guardhouse.gateway import wireguard
from guardhouse.gateway.claim import InterfaceTaken
from guardhouse.gateway.uapi import Interface
from guardhouse.gateway.wireguard import WhenStale
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.times import from_timestamp
from guardhouse_services.database import Database, new_epoch
from tests.plane import Plane
from tests.system.people import World
from tests.wireguard import FakeInterface, become, gateway_key, gateway_of, on, peer_of, running, wireguard_go

pytestmark = pytest.mark.timeout(120)

# Who follows a feed does not see what the service keeps its data in.
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
async def world(plane: Plane) -> World:
    return World(plane, plane.organization)


@pytest.fixture
async def key(plane: Plane) -> str:
    return await gateway_key(plane)


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeInterface]:
    (tmp_path / "wg").mkdir()
    async with FakeInterface(tmp_path / "wg") as fake:
        yield fake


async def test_the_peers_are_the_active_registrations(
    plane: Plane, world: World, key: str, fake: FakeInterface
) -> None:
    """Decisions 16, 17 and 21: whoever is revoked, deleted or removed is no peer any more, and nobody else notices."""
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    expected = dict([peer_of(alice), peer_of(bob)])
    # Another program's, and one of ours with somebody else's address.
    fake.peers = {"ab" * 32: {"10.0.0.1/32"}, peer_of(alice)[0]: {f"{bob.registration.ipv4}/32"}}
    async with running(gateway_of(plane, key, on(fake))) as gateway:
        await become(lambda: fake.peers == expected)
        carol = await world.enroll("carol")
        expected |= dict([peer_of(carol)])
        await become(lambda: fake.peers == expected)
        sets, looks = len(fake.sets), gateway.looks
        await world.registrations.RevokeRegistrations(
            world.batch(registry_pb2.RevokeRegistrationsRequest, alice.registration.registration_id)
        )
        without = {name: ips for name, ips in expected.items() if name != peer_of(alice)[0]}
        await become(lambda: fake.peers == without)
        assert fake.sets[sets:] == [["set=1", f"public_key={peer_of(alice)[0]}", "remove=true"]]
        await world.registrations.UnrevokeRegistrations(
            world.batch(registry_pb2.UnrevokeRegistrationsRequest, alice.registration.registration_id)
        )
        await become(lambda: fake.peers == expected)
        await world.registrations.DeleteRegistrations(
            world.batch(registry_pb2.DeleteRegistrationsRequest, alice.registration.registration_id)
        )
        await become(lambda: fake.peers == without)
        await world.remove(bob.registration.user_id)
        await become(lambda: fake.peers == dict([peer_of(carol)]))
        # None of it took a look at the whole.
        assert gateway.looks == looks


async def test_a_key_that_is_replaced_is_replaced_in_one_operation(
    plane: Plane, world: World, key: str, fake: FakeInterface
) -> None:
    """Decision 21, and decision 18: who enrolls again takes the addresses along. There is no moment with two keys."""
    first = await world.enroll("alice")
    async with running(gateway_of(plane, key, on(fake))):
        await become(lambda: fake.peers == dict([peer_of(first)]))
        sets = len(fake.sets)
        again = await world.enroll("alice")
        assert peer_of(again)[1] == peer_of(first)[1]
        await become(lambda: fake.peers == dict([peer_of(again)]))
        assert len(fake.sets) == sets + 1


async def test_a_rotated_key_is_the_same_peers_own(plane: Plane, world: World, key: str, fake: FakeInterface) -> None:
    """Decision 21: the old key goes and the new one comes at the same addresses, in one operation."""
    made = await world.enroll("alice")
    of, private = made.registration, keys.new_private_key()
    info = await world.enrollment.GetEnrollmentInfo(
        registry_pb2.GetEnrollmentInfoRequest(organization_id=plane.organization)
    )
    rotation = make_rotation(info, plane.organization, of.registration_id, of.public_key, private, "rotate")
    async with running(gateway_of(plane, key, on(fake))):
        await become(lambda: fake.peers == dict([peer_of(made)]))
        sets = len(fake.sets)
        await plane.stub(registry_pb2_grpc.RegistrationServiceStub, made.token).RotateKey(rotation)
        await become(lambda: fake.peers == {keys.public_key(private).hex(): peer_of(made)[1]})
        (lines,) = fake.sets[sets:]
        assert lines[1:3] == [f"public_key={of.public_key.hex()}", "remove=true"]


@ON_ONE
async def test_a_device_that_is_deleted_takes_all_its_peers_along(
    plane: Plane, world: World, key: str, fake: FakeInterface
) -> None:
    """Decision 16, of a device that people share: at once, and nobody else's."""
    shared = [await world.enroll(who, "shared", who) for who in ("alice", "bob", "carol")]
    dave = await world.enroll("dave")
    async with running(gateway_of(plane, key, on(fake))):
        await become(lambda: fake.peers == dict(map(peer_of, [*shared, dave])))
        sets = len(fake.sets)
        await world.devices.DeleteDevice(
            registry_pb2.DeleteDeviceRequest(
                organization_id=plane.organization, device_id=shared[0].registration.device_id
            )
        )
        await become(lambda: fake.peers == dict([peer_of(dave)]))
        assert len(fake.sets) == sets + 1


@ON_ONE
async def test_a_gateway_goes_on_from_its_file_with_what_has_changed(
    plane: Plane, world: World, key: str, fake: FakeInterface, tmp_path: Path
) -> None:
    """And while the registry is away, with the file alone. Nobody else keeps the interface meanwhile."""
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    path = tmp_path / "wg0.snapshot"
    async with running(gateway_of(plane, key, on(fake), snapshot_path=path)):
        await become(lambda: fake.peers == dict(map(peer_of, (alice, bob))))
        with pytest.raises(InterfaceTaken, match=f"process {os.getpid()} keeps the peers of wg0 already"):
            await gateway_of(plane, key, on(fake)).run()
    request = world.batch(registry_pb2.RevokeRegistrationsRequest, alice.registration.registration_id)
    await world.registrations.RevokeRegistrations(request)
    carol = await world.enroll("carol")
    fake.peers = {}
    await plane.stop("registry")
    async with running(gateway_of(plane, key, on(fake), snapshot_path=path)) as gateway:
        await become(lambda: fake.peers == dict(map(peer_of, (alice, bob))))
        await plane.start("registry")
        await become(lambda: fake.peers == dict(map(peer_of, (bob, carol))))
        assert (gateway._follower.snapshots, gateway.resyncs) == (0, 0)


@ON_ONE
async def test_a_registry_of_another_epoch_is_believed(
    plane: Plane, world: World, key: str, fake: FakeInterface, tmp_path: Path
) -> None:
    """I-25: after a restore, to the gateway that runs and to the one that starts from a file of before."""
    made = [await world.enroll("alice")]
    path = tmp_path / "wg0.snapshot"

    async def restore() -> None:
        await plane.stop("registry")
        restored = Database(plane.settings.database("registry"), plane.clock, "registry", registry_pb2.Change)
        await restored.write(new_epoch)
        restored.close()
        await plane.start("registry")
        await plane.reachable("registry")
        made.append(await world.enroll(f"person{len(made)}"))

    async with running(gateway_of(plane, key, on(fake), snapshot_path=path)) as gateway:
        await become(lambda: gateway.applied is not None)
        before = gateway.applied
        await restore()
        await become(lambda: fake.peers == dict(map(peer_of, made)))
        await become(lambda: gateway.applied == gateway.known)
        assert gateway.applied is not None
        assert before is not None
        assert gateway.applied[0] != before[0]
    await restore()
    async with running(gateway_of(plane, key, on(fake), snapshot_path=path)) as gateway:
        await become(lambda: fake.peers == dict(map(peer_of, made)))
        await become(lambda: gateway.applied == gateway.known)
        assert gateway.resyncs == 1


@ON_ONE
async def test_a_key_that_wireguard_cannot_use_makes_no_peer(
    plane: Plane, world: World, key: str, fake: FakeInterface
) -> None:
    """Decision 21: P-256 keys are of other tunnels."""
    info = await world.enrollment.GetEnrollmentInfo(
        registry_pb2.GetEnrollmentInfoRequest(organization_id=plane.organization)
    )
    device = registry_pb2.DeviceClaims(hardware_id="phone", platform=registry_pb2.PLATFORM_IOS)
    kind = keys.SECP256R1
    request = make_request(
        info,
        plane.organization,
        world.id_token("alice"),
        device,
        kind.new_private_key(),
        "r1",
        key_type=kind,
    )
    await world.enrollment.Register(request)
    bob = await world.enroll("bob")
    async with running(gateway_of(plane, key, on(fake))):
        await become(lambda: bool(fake.peers))
        assert fake.peers == dict([peer_of(bob)])


@ON_ONE
async def test_an_interface_that_was_away_gets_the_whole(
    plane: Plane, world: World, key: str, fake: FakeInterface, caplog: pytest.LogCaptureFixture
) -> None:
    """Its process may end and another begin with nothing; what happened meanwhile is in what it is given."""
    alice = await world.enroll("alice")
    async with running(gateway_of(plane, key, on(fake))) as gateway:
        await become(lambda: bool(fake.peers) and gateway.applied is not None)
        await fake.__aexit__()
        before = gateway.applied
        bob = await world.enroll("bob")
        await become(lambda: "there is no interface wg0" in caplog.text)
        # It has not applied what it could not send.
        assert gateway.applied == before
        fake.peers = {}
        async with fake:
            await become(lambda: fake.peers == dict([peer_of(alice), peer_of(bob)]))
            await become(lambda: gateway.applied != before)
        assert caplog.text.count("there is no interface wg0") == 1


@ON_ONE
async def test_what_another_program_changes_is_put_right(
    plane: Plane, world: World, key: str, fake: FakeInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next look at the whole, which comes every minute whether anything happens or not."""
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    expected = dict([peer_of(alice), peer_of(bob)])
    monkeypatch.setattr(wireguard, "LOOK", MINUTE // 200)
    async with running(gateway_of(plane, key, on(fake))) as gateway:
        await become(lambda: fake.peers == expected)
        fake.peers = {"ab" * 32: {"0.0.0.0/0"}, peer_of(bob)[0]: {peer_of(alice)[1].pop()}}
        await become(lambda: fake.peers == expected)
        sets, looks = len(fake.sets), gateway.looks
        await become(lambda: gateway.looks > looks + 1)
        assert len(fake.sets) == sets


@ON_ONE
@pytest.mark.parametrize("when_stale", ["remove", "keep"])
async def test_a_gateway_that_is_cut_off_admits_for_as_long_as_it_may(
    plane: Plane, world: World, key: str, fake: FakeInterface, when_stale: WhenStale
) -> None:
    """I-16: past its staleness bound it admits nobody, unless it is told to go on; then it follows again."""
    alice = await world.enroll("alice")
    async with running(gateway_of(plane, key, on(fake), when_stale=when_stale)):
        await become(lambda: bool(fake.peers))
        await plane.stop("registry")
        plane.clock.advance(10)
        await asyncio.sleep(2.5)
        assert fake.peers == dict([peer_of(alice)])
        plane.clock.advance(30)
        if when_stale == "remove":
            await become(lambda: not fake.peers)
        else:
            await asyncio.sleep(2.5)
            assert fake.peers == dict([peer_of(alice)])
        await plane.start("registry")
        await plane.reachable("registry")
        bob = await world.enroll("bob")
        await become(lambda: fake.peers == dict([peer_of(alice), peer_of(bob)]))


@ON_ONE
async def test_a_gateway_that_never_heard_of_the_registry_admits_nobody(
    plane: Plane, key: str, fake: FakeInterface
) -> None:
    """I-16: what an older process has left in the interface may go on for as long as it may, and no longer."""
    await plane.stop("registry")
    fake.peers = {"ab" * 32: {"100.96.0.1/32"}}
    async with running(gateway_of(plane, key, on(fake))):
        await become(lambda: fake.gets > 1)
        assert fake.peers
        plane.clock.advance(31)
        await become(lambda: not fake.peers)


@ON_ONE
async def test_a_device_without_an_agent_is_heard_of_by_its_handshakes(
    plane: Plane, world: World, key: str, fake: FakeInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gateway sees of a device counts as a heartbeat; who has never proved who it is has no seen_time."""
    monkeypatch.setattr(wireguard, "LOOK", SECOND // 10)
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    seen = from_timestamp(alice.registration.create_time) // MINUTE * MINUTE - 5 * MINUTE
    fake.handshakes = {peer_of(alice)[0]: seen // SECOND + 7, "ab" * 32: 1}

    async def times() -> dict[str, int | None]:
        return {
            it.registration_id: from_timestamp(it.seen_time) if it.HasField("seen_time") else None
            for it in await world.live()
        }

    async with running(gateway_of(plane, key, on(fake))):
        for later in (0, 3 * MINUTE):
            fake.handshakes[peer_of(alice)[0]] += later // SECOND
            expected = {alice.registration.registration_id: seen + later, bob.registration.registration_id: None}
            async with asyncio.timeout(20):
                while await times() != expected:  # noqa: ASYNC110  # nobody says when
                    await asyncio.sleep(0.05)


async def test_a_real_interface_has_the_active_registrations(plane: Plane, world: World, key: str) -> None:
    """Decision 16, with wireguard-go; and when that was started anew, the next one has them as well."""
    name = f"ghg{os.getpid() % 100000}"
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    with contextlib.ExitStack() as process:
        interface = Interface(name, process.enter_context(wireguard_go(name)))

        async def has(*enrolled: registry_pb2.RegisterResponse) -> None:
            expected = dict(map(peer_of, enrolled))
            async with asyncio.timeout(20):
                while {it.hex(): set(at.allowed_ips) for it, at in (await interface.get()).items()} != expected:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        async with running(gateway_of(plane, key, interface)) as gateway:
            await has(alice, bob)
            request = world.batch(registry_pb2.RevokeRegistrationsRequest, alice.registration.registration_id)
            await world.registrations.RevokeRegistrations(request)
            await has(bob)
            process.close()
            request = world.batch(registry_pb2.UnrevokeRegistrationsRequest, alice.registration.registration_id)
            await world.registrations.UnrevokeRegistrations(request)
            await become(lambda: gateway.known != gateway.applied)
            process.enter_context(wireguard_go(name))
            await has(alice, bob)
            await become(lambda: gateway.known == gateway.applied)


async def test_a_real_handshake_is_when_a_device_was_last_seen(
    plane: Plane, world: World, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With wireguard-go at both ends: who talks to the gateway was seen, and nobody else."""
    monkeypatch.setattr(wireguard, "LOOK", SECOND // 10)
    private, own = keys.new_private_key(), keys.new_private_key()
    request = await world.request(world.id_token("alice"), "laptop", private_key=private)
    alice = await world.enrollment.Register(request)
    await world.enroll("bob")

    async def times() -> dict[str, int]:
        return {it.user_id: from_timestamp(it.seen_time) for it in await world.live() if it.HasField("seen_time")}

    number = os.getpid() % 100000
    with wireguard_go(f"ghs{number}") as folder, wireguard_go(f"ghd{number}"):
        at_gateway, at_device = Interface(f"ghs{number}", folder), Interface(f"ghd{number}", folder)
        # A hundred ports are the plane's, and nobody else's.
        port = plane.settings.port_base + 90
        await at_gateway.exchange(f"set=1\nprivate_key={own.hex()}\nlisten_port={port}\n\n".encode())
        async with running(gateway_of(plane, key, at_gateway)) as gateway:
            await become(lambda: gateway.applied is not None)
            peer = f"public_key={keys.public_key(own).hex()}\nendpoint=127.0.0.1:{port}"
            more = "persistent_keepalive_interval=1\nallowed_ip=100.96.0.0/12"
            await at_device.exchange(f"set=1\nprivate_key={private.hex()}\n{peer}\n{more}\n\n".encode())
            began = plane.clock.now()
            for name in (at_gateway.name, at_device.name):
                process = await asyncio.create_subprocess_exec("ip", "link", "set", name, "up")
                assert await process.wait() == 0
            async with asyncio.timeout(40):
                while not (seen := await times()):  # noqa: ASYNC110  # nobody says when
                    await asyncio.sleep(0.1)
            assert gateway.handshakes.heard >= 1
        assert seen.keys() == {alice.registration.user_id}
        assert seen[alice.registration.user_id] >= began - MINUTE
