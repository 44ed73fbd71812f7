"""How soon those who stand at the gate refuse: a checker that is built into a gateway, and a real Envoy.

From the answer of RevokeRegistrations or RevokeUser, in turns, to the first refusal. Both ask again and again; the
registrations are revoked at both replicas of the registry, and people enroll and other checks are made beside, as for
`revocation` at session.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from bench.figure import Figure, Target, percentile, resampled
from bench.gateway import Gateway
from bench.plane import POSTGRESQL, WEB_HOST, Plane
from bench.revocation import REPLICA, Revoker, load
from bench.run import Bench
from demo.envoy_proxy import Envoy, Places, configuration, connection
from demo.envoy_upstream import Upstream
from guardhouse.common.v1.access_pb2 import ROLE_GATEWAY
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.session.v1 import session_pb2, session_pb2_grpc

COUNT = 300
TARGET = Target("≤", 250.0)
GATES = ("checker", "envoy")
NAMES = tuple(f"revocation_{gate}_{name}" for gate in GATES for name in ("p50", "p99"))

Watch = Callable[[str, Callable[[], object]], Coroutine[Any, Any, float]]
"""Asks about a registration, says once that it is let through, and answers the steady time of the first refusal."""


async def measure(bench: Bench) -> list[Figure]:
    plane, registrations = await bench.loaded(POSTGRESQL, bench.large)
    drawn = iter(random.Random(2).sample(registrations, len(registrations)))
    figures: list[Figure] = []
    async with plane:
        plane.spawn("registry", REPLICA)
        await plane.serving("registry", REPLICA)
        revoker = Revoker(plane)
        await revoker.ready()
        key = await gateway_key(plane)
        folder = bench.folder()
        identity, registry, session = (
            f"127.0.0.1:{plane.settings.public_port(service)}" for service in ("identity", "registry", "session")
        )
        ca = plane.settings.tls_path / "ca.crt"
        profile = Profile(identity, registry, session=session, ca=ca, organization_id=plane.organization_id)
        async with Gateway(folder, profile, key) as gateway, load(plane, registrations, bench):

            async def at_checker(registration_id: str, begun: Callable[[], object]) -> float:
                if not (await gateway.ask("look", registration_id))["allowed"]:
                    raise RuntimeError("the checker refuses before anything is revoked")
                begun()
                return float((await gateway.ask("refused", registration_id))["at"])

            figures += await _gate(bench, "checker", plane, revoker, drawn, at_checker)
        with Upstream() as upstream:
            session_port = plane.settings.public_port("session")
            places = Places(plane.settings.tls_path, session_port, upstream.web_port, upstream.echo_port)
            envoy = Envoy(folder / "envoy", configuration(places, passed_on=True), key)
            try:
                await asyncio.to_thread(envoy.__enter__)
                addresses = _Addresses(plane)

                async def at_envoy(registration_id: str, begun: Callable[[], object]) -> float:
                    address = await addresses.of(registration_id)
                    return await asyncio.to_thread(_until_refused, envoy.ports["web"], ca, address, begun)

                async with load(plane, registrations, bench):
                    figures += await _gate(bench, "envoy", plane, revoker, drawn, at_envoy)
            finally:
                await asyncio.to_thread(envoy.stop)
    return figures


async def gateway_key(plane: Plane) -> str:
    """A new one of the organization, with the role GATEWAY."""
    made = await plane.stub(identity_pb2_grpc.ApiKeyServiceStub).CreateApiKey(
        identity_pb2.CreateApiKeyRequest(
            organization_id=plane.organization_id,
            api_key=identity_pb2.ApiKey(display_name="gate", role=ROLE_GATEWAY),
        )
    )
    return str(made.secret)


class _Addresses:
    def __init__(self, plane: Plane) -> None:
        self._organization_id = plane.organization_id
        self._stub = plane.stub(registry_pb2_grpc.RegistrationServiceStub)

    async def of(self, registration_id: str) -> str:
        found = await self._stub.GetRegistration(
            registry_pb2.GetRegistrationRequest(organization_id=self._organization_id, registration_id=registration_id)
        )
        return str(found.registration.ipv4)


async def _gate(
    bench: Bench, gate: str, plane: Plane, revoker: Revoker, drawn: Iterator[str], watch: Watch
) -> list[Figure]:
    count = bench.size(COUNT)
    bench.say(f"revocations under load, at {gate}", count)
    users = plane.stub(identity_pb2_grpc.UserServiceStub)
    checks = plane.stub(session_pb2_grpc.CheckServiceStub)
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    for registration_id in drawn:
        if (number := len(delays)) == count:
            break
        about = {"organization_id": plane.organization_id, "registration_id": registration_id}
        asked = session_pb2.CheckSessionRequest(policy_id=plane.policy_id, **about)
        found = (await checks.CheckSession(asked)).answer
        if found.decision != session_pb2.DECISION_ALLOW:
            continue  # another measurement has revoked it
        begun = asyncio.Event()
        watching = asyncio.create_task(watch(registration_id, partial(loop.call_soon_threadsafe, begun.set)))
        seen = asyncio.create_task(begun.wait())
        await asyncio.wait({watching, seen}, return_when=asyncio.FIRST_COMPLETED)
        seen.cancel()
        if number % 2:
            request = identity_pb2.RevokeUserRequest(organization_id=plane.organization_id, user_id=found.user_id)
            await users.RevokeUser(request)
        else:
            await revoker.revoke_at(registration_id, REPLICA if number % 4 else "")
        answered = time.monotonic()
        # It may hear of it before the answer has come.
        delays.append(1e3 * max(await watching - answered, 0.0))
        bench.tick()
    return list(_figures(gate, delays))


def _until_refused(port: int, ca: Path, address: str, begun: Callable[[], object]) -> float:
    """Requests one after the other over one connection."""
    tls = ssl.create_default_context(cafile=str(ca))
    with connection(port, address, ("10.0.0.7", 443)) as made:
        client = HTTPSConnection(WEB_HOST)
        client.sock = tls.wrap_socket(made, server_hostname=WEB_HOST)
        status, at = 0, 0.0
        while status in (0, 200):
            client.request("GET", "/")
            answer = client.getresponse()
            at = time.monotonic()
            answer.read()
            if not status:
                if answer.status != 200:
                    raise RuntimeError(f"Envoy answers {answer.status} before anything is revoked")
                begun()
            status = answer.status
        client.close()
        return at


def _figures(gate: str, delays: Sequence[float]) -> Iterator[Figure]:
    absolute = {
        "max": f"{max(delays):.0f} ms",
        "of registrations, p99": f"{percentile(delays[::2], 0.99):.0f} ms",
        "of users, p99": f"{percentile(delays[1::2], 0.99):.0f} ms",
    }
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        quartiles = resampled(lambda of, share=share: percentile(of, share), delays)
        target = TARGET if name == "p99" else None
        yield Figure(f"revocation_{gate}_{name}", percentile(delays, share), quartiles, target, "ms", absolute)
