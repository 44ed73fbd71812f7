"""Gateways on the command line: what is waited for, and who is named."""

import asyncio
import os
import sys
from collections.abc import Awaitable
from pathlib import Path

import grpc
import httpx
import pytest

from guardhouse.cli import waiting
from guardhouse.common.v1 import feed_pb2
from guardhouse.errors import AccessDenied
from guardhouse.profile import KEY_VARIABLE, Profile
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.registry.v1 import registry_pb2_grpc
from tests.guardhouse.cli.commands import REGISTRATION, Run, RunPlane, words
from tests.guardhouse.scripted import ScriptedServer
from tests.plane import Plane
from tests.system.people import World
from tests.wireguard import FakeInterface, become, gateway_key, gateway_of, on, peer_of, running

HEAD = feed_pb2.Position(epoch="now", revision=7)


@pytest.mark.timeout(120)
async def test_a_revocation_waits_until_every_gateway_has_applied_it(
    plane: Plane, world: World, run_plane: RunPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feeds: `--wait` returns when all live gateways have it, and names the one that is stuck."""
    key = await gateway_key(plane)
    made = [await world.enroll(who) for who in ("alice", "bob", "carol", "dave")]
    alice, dave = made[0].registration.registration_id, made[3].registration.registration_id
    async with FakeInterface(tmp_path, "wg0") as quick, FakeInterface(tmp_path, "wg1") as slow:
        interfaces = {"quick": quick, "slow": slow}
        for it in interfaces.values():
            it.peers = {"ab" * 32: {"10.0.0.1/32"}}
        async with (
            running(gateway_of(plane, key, on(quick), name="quick")),
            running(gateway_of(plane, key, on(slow), name="slow")) as stuck,
        ):
            await become(lambda: quick.peers == slow.peers == dict(map(peer_of, made)))
            await heard_of(plane, "quick", "slow")
            await run_plane(f"registrations revoke {alice} --wait")
            for it in interfaces.values():
                assert peer_of(made[0])[0] not in it.peers
            # The removal is identity's; the registry answers when it has carried it out.
            await run_plane(f"users remove {made[1].registration.user_id} --yes")
            await run_plane(f"devices delete {made[2].registration.device_id} --yes --wait")
            for it in interfaces.values():
                assert it.peers == dict([peer_of(made[3])])
            shown = (await run_plane("gateway list")).stdout
            assert "quick" in shown
            assert "slow" in shown
            slow.stuck = True
            monkeypatch.setattr(waiting, "WAIT_SECONDS", 5.0)
            said = (await run_plane(f"registrations revoke {dave} --wait", exit_code=1)).stderr
            assert "error: slow has not applied it within 5 s" in said
            assert "quick" not in said
            assert not quick.peers
            assert slow.peers
            slow.stuck = False
            await become(lambda: not slow.peers)
            before = stuck.applied
            again = (await run_plane(f"registrations unrevoke {dave}")).stdout
            assert dave in again
            await become(lambda: stuck.applied != before)


async def test_a_gateway_that_was_stopped_is_waited_for_while_it_counts_as_live(
    plane: Plane, world: World, run_plane: RunPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its interface may still have the peer. After half a minute nobody waits, and it is named all the same."""
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 5.0)
    key = await gateway_key(plane)
    alice, bob = [(await world.enroll(who)).registration.registration_id for who in ("alice", "bob")]
    async with (
        FakeInterface(tmp_path, "wg0") as one,
        FakeInterface(tmp_path, "wg1") as other,
        running(gateway_of(plane, key, on(one), name="here")),
    ):
        async with running(gateway_of(plane, key, on(other), name="gone")):
            await become(lambda: len(one.peers) == len(other.peers) == 2)
            await heard_of(plane, "here", "gone")
        said = await run_plane(f"registrations revoke {alice} --wait", exit_code=1)
        assert "error: gone has not applied it within 5 s" in said.stderr
        assert "here" not in said.stderr
        assert f"{alice} revoked" in said.stdout
        plane.clock.advance(31)
        # The one that is there has to say so again, and to hear of the registry again.
        await heard_of(plane, "here")
        await become(lambda: len(one.peers) == 1)
        said = await run_plane(f"registrations revoke {bob} --wait")
        assert "gone is not heard of" in said.stderr
        assert not one.peers
        assert len(other.peers) == 2


async def heard_of(plane: Plane, *names: str) -> None:
    """Waits until these gateways are live, and no others."""
    gateways = plane.stub(registry_pb2_grpc.GatewayServiceStub)
    request = pb.ListGatewaysRequest(organization_id=plane.organization)
    async with asyncio.timeout(20):
        while {it.name for it in (await gateways.ListGateways(request)).gateways if it.live} != {*names}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_two_with_one_name_are_never_taken_for_one(
    plane: Plane, world: World, run_plane: RunPlane, tmp_path: Path
) -> None:
    """One may be behind the other; who has started again is alone."""
    key = await gateway_key(plane)
    alice = (await world.enroll("alice")).registration.registration_id
    async with FakeInterface(tmp_path, "wg0") as one, FakeInterface(tmp_path, "wg1") as other:
        for _ in range(2):
            async with running(gateway_of(plane, key, on(one), name="edge")):
                await become(lambda: len(one.peers) == 1)
                await run_plane(f"registrations revoke {alice} --wait")
                await run_plane(f"registrations unrevoke {alice}")
        async with (
            running(gateway_of(plane, key, on(one), name="edge")),
            running(gateway_of(plane, key, on(other), name="edge")),
        ):
            await become(lambda: len(one.peers) == len(other.peers) == 1)
            request = pb.ListGatewaysRequest(organization_id=world.organization_id)
            gateways = plane.stub(registry_pb2_grpc.GatewayServiceStub)
            async with asyncio.timeout(20):
                while not [it for it in (await gateways.ListGateways(request)).gateways if it.shared]:
                    await plane.advance(5)
                    await asyncio.sleep(0.2)
            said = await run_plane(f"registrations revoke {alice} --wait", exit_code=1)
            assert "several gateways have the name edge" in said.stderr


def gateway(name: str, revision: int = 7, live: bool = True, epoch: str = "now") -> pb.Gateway:
    return pb.Gateway(name=name, live=live, applied=feed_pb2.Position(epoch=epoch, revision=revision))


def revoked() -> pb.RevokeRegistrationsResponse:
    result = pb.RegistrationResult(registration_id=REGISTRATION, registration=pb.Registration())
    return pb.RevokeRegistrationsResponse(results=[result])


def test_one_that_is_not_heard_of_is_named_and_not_waited_for(
    run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its interface may still be there; nobody can tell."""
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0.5)
    installation.answers["RevokeRegistrations"] = revoked()
    found = [gateway("dead", 3, live=False), gateway("edge")]
    installation.answers["ListGateways"] = pb.ListGatewaysResponse(gateways=found, head=HEAD)
    assert "dead is not heard of" in run(f"registrations revoke {REGISTRATION} --wait").stderr
    # Of another history, so nothing is known of it.
    found = [gateway("edge", 9, epoch="before")]
    installation.answers["ListGateways"] = pb.ListGatewaysResponse(gateways=found, head=HEAD)
    said = run(f"registrations revoke {REGISTRATION} --wait", exit_code=1)
    assert "edge has not applied it" in said.stderr
    assert "revoked" in said.stdout


def test_a_registry_that_does_not_know_its_gateways_is_not_waited_for(run: Run, installation: ScriptedServer) -> None:
    """Upgrades: a registry of the release before answers UNIMPLEMENTED, and what was changed is changed."""
    installation.answers["RevokeRegistrations"] = revoked()
    said = run(f"registrations revoke {REGISTRATION} --wait")
    assert said.stdout == f"{REGISTRATION} revoked\n"
    assert "The registry is older than this command" in said.stderr
    # While it is upgraded, one replica knows them and the next does not.
    found = pb.ListGatewaysResponse(gateways=[gateway("edge", 3)], head=HEAD)
    installation.answers["ListGateways"] = [found, grpc.StatusCode.UNIMPLEMENTED]
    assert "The registry is older" in run(f"registrations revoke {REGISTRATION} --wait").stderr
    installation.answers["ListGateways"] = AccessDenied("the key was revoked")
    assert "ACCESS_DENIED" in run(f"registrations revoke {REGISTRATION} --wait", exit_code=1).stderr


def test_without_wait_and_in_a_rehearsal_no_gateway_is_asked(run: Run, installation: ScriptedServer) -> None:
    installation.answers["RevokeRegistrations"] = revoked()
    run(f"registrations revoke {REGISTRATION}")
    run(f"registrations revoke {REGISTRATION} --wait --dry-run")
    assert not installation.requests("ListGateways")


@pytest.mark.timeout(120)
async def test_the_command_runs_until_it_is_stopped(plane: Plane, world: World, tmp_path: Path) -> None:
    """As a process, as systemd runs it, which can be watched; what it leaves behind stays as it is. A second one says
    who keeps the interface."""
    made = await world.enroll("alice")
    ca = plane.settings.tls_path / "ca.crt"
    registry = f"127.0.0.1:{plane.settings.public_port('registry')}"
    profile = Profile(registry=registry, ca=ca, organization_id=plane.organization)
    profile.write(tmp_path / "gateway.toml")
    # A hundred ports are the plane's, and nobody else's.
    address = f"127.0.0.1:{plane.settings.port_base + 90}"
    line = f"--profile {tmp_path}/gateway.toml gateway wireguard --interface wg0 --sockets {tmp_path}"
    program = [sys.executable, "-c", "import sys; from guardhouse.cli import main; sys.exit(main())", *line.split()]
    environment = {**os.environ, KEY_VARIABLE: await gateway_key(plane)}
    snapshot = tmp_path / "wg0.snapshot"

    def start(*options: str) -> Awaitable[asyncio.subprocess.Process]:
        return asyncio.create_subprocess_exec(
            *program, *options, env=environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )

    async with FakeInterface(tmp_path) as fake:
        process = await start("--snapshot", str(snapshot), "--http", address)
        try:
            await become(lambda: fake.peers == dict([peer_of(made)]), 40)
            async with httpx.AsyncClient(base_url=f"http://{address}") as client, asyncio.timeout(20):
                while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # nobody says when
                    await asyncio.sleep(0.05)
                assert "guardhouse_gateway_peers 1.0" in (await client.get("/metrics")).text
            second = await start()
            _, refused = await asyncio.wait_for(second.communicate(), 40)
            assert second.returncode == 1
            assert f"error: process {process.pid} keeps the peers of wg0 already" in refused.decode()
            process.terminate()
            _, said = await asyncio.wait_for(process.communicate(), 20)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, said
        assert b"wg0: 1 peers set right; it has 1" in said
        assert environment[KEY_VARIABLE].encode() not in said
        assert fake.peers == dict([peer_of(made)])
        assert snapshot.stat().st_size


def test_where_it_is_watched_is_an_address(run: Run) -> None:
    for text in ("7431", "localhost:", ":7431", "localhost:99999", "localhost:http"):
        said = run(f"gateway wireguard --interface wg0 --http {text}", exit_code=2).stderr
        assert "it is HOST:PORT, such as 127.0.0.1:7431" in words(said)
