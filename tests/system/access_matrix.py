"""What becomes of a call by its method and its caller, tried on a plane. `python -m tests.system.access_matrix` writes
the table anew; what has changed in it is then read by somebody who knows what should have."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from guardhouse.common.v1.access_pb2 import ROLE_ADMIN, ROLE_AUDITOR, ROLE_GATEWAY, Role
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services import calls
from guardhouse_services.config import SERVICES
from tests.clock import FakeClock
from tests.plane import Plane
from tests.system.contract import ENVOY, METHODS, Method
from tests.system.people import World
from tests.system.wire import Caller, Outcome, send, send_to

PATH = Path(__file__).with_name("access_matrix.txt")
MARKS = {
    "ACCESS_DENIED": "-",
    "CREDENTIALS_MISSING": "?",
    "CREDENTIALS_INVALID": "!",
    "UNIMPLEMENTED": "0",
}
LEGEND = """\
# Who may call what. Written by `python -m tests.system.access_matrix`, read by people, checked by test_access.py.
#
# + admitted: what comes then is about the request    ! CREDENTIALS_INVALID
# - ACCESS_DENIED                                     ? CREDENTIALS_MISSING
# 0 not served there
#
# On the public listener, for an organization and a registration of it:
#   none     n nobody, j junk as a key, r a revoked key, e an expired key
#   inst     the installation's keys: A ADMIN, U AUDITOR, G GATEWAY
#   own      the organization's keys                  foreign  another organization's keys
#   empty    the organization's keys, when the request names no organization
#   device   s the registration's own, o another one of the organization, f one of another organization,
#            r a revoked one about itself, d a deleted one about itself
# On the service listener, by certificate: i identity, r registry, p ipam, s session
"""
GROUPS = {
    "none": "njre",
    "inst": "AUG",
    "own": "AUG",
    "foreign": "AUG",
    "empty": "AUG",
    "device": "sofrd",
    "service": "irps",
}
OTHERS = (health_pb2, reflection_pb2, channelz_pb2)
"""What gRPC itself serves."""

Subject = tuple[str, str]
"""The organization and the registration that a request names."""


class Callers:
    """Everybody who may try, and what each asks about; in the order of the table's columns."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.columns: dict[tuple[str, str], tuple[Caller, Subject]] = {}

    async def gather(self) -> "Callers":
        own, foreign = (
            World(self.plane, self.plane.organization),
            World(self.plane, await self.plane.create_organization()),
        )
        device, sibling, stranger = await own.enroll("alice"), await own.enroll("bob"), await foreign.enroll("alice")
        revoked, deleted = await own.enroll("carol"), await own.enroll("dave")
        about = (own.organization_id, device.registration.registration_id)
        await own.registrations.RevokeRegistrations(
            own.batch(registry.RevokeRegistrationsRequest, revoked.registration.registration_id)
        )
        await own.registrations.DeleteRegistrations(
            own.batch(registry.DeleteRegistrationsRequest, deleted.registration.registration_id)
        )
        expiring = await self._key(own.organization_id, ROLE_ADMIN, seconds=60)
        self.plane.clock.advance(61)
        for mark, who in zip("njre", ("", "junk", await self._revoked_key(own.organization_id), expiring), strict=True):
            self.columns["none", mark] = Caller(who), about
        organizations = {"inst": "", "own": own.organization_id, "foreign": foreign.organization_id}
        for group, organization_id in organizations.items():
            for mark, role in zip("AUG", (ROLE_ADMIN, ROLE_AUDITOR, ROLE_GATEWAY), strict=True):
                self.columns[group, mark] = Caller(await self._key(organization_id, role)), about
        for mark in "AUG":
            self.columns["empty", mark] = self.columns["own", mark][0], ("", about[1])
        for mark, made in zip("sof", (device, sibling, stranger), strict=True):
            self.columns["device", mark] = Caller(made.token), about
        for mark, made in zip("rd", (revoked, deleted), strict=True):
            self.columns["device", mark] = Caller(made.token), (about[0], made.registration.registration_id)
        for mark, service in zip("irps", SERVICES, strict=True):
            self.columns["service", mark] = Caller(service, "service"), about
        # Every service has heard of all of it.
        for node in self.plane.nodes.values():
            for follower in (node.directory.follower, *node.views, *node.effects.values()):
                assert await follower.fresh(self.plane.clock.steady(), timeout=30)
        return self

    async def _key(self, organization_id: str, role: "Role.ValueType", seconds: int = 0) -> str:
        key = identity.ApiKey(display_name="a key", role=role)
        if seconds:
            key.expire_time.CopyFrom(Timestamp(seconds=self.plane.clock.now() // 1_000_000 + seconds))
        made = await self._keys.CreateApiKey(identity.CreateApiKeyRequest(organization_id=organization_id, api_key=key))
        return str(made.secret)

    async def _revoked_key(self, organization_id: str) -> str:
        secret = await self._key(organization_id, ROLE_ADMIN)
        api_key_id = "_".join(secret.split("_")[1:3])
        await self._keys.RevokeApiKey(
            identity.RevokeApiKeyRequest(organization_id=organization_id, api_key_id=api_key_id)
        )
        return secret

    @property
    def _keys(self) -> Any:
        return self.plane.stub(identity_rpc.ApiKeyServiceStub)

    async def ask(self, method: Method, caller: Caller, subject: Subject) -> Outcome:
        """A call that names whom it is about and nothing else, so whoever is admitted changes nothing by it."""
        request: Any = method.request()
        for name, value in zip(("organization_id", "registration_id"), subject, strict=True):
            if method.takes(name):
                setattr(request, name, value)
        if method is ENVOY and subject[0]:
            request.attributes.context_extensions["guardhouse_organization_id"] = subject[0]
        return await send(self.plane, method, caller, request.SerializeToString())


async def matrix(plane: Plane) -> str:
    """The table."""
    callers = await Callers(plane).gather()
    rows = [
        _row("", {group: group for group in GROUPS}),
        _row("", {group: " ".join(it) for group, it in GROUPS.items()}),
    ]
    for method in (*METHODS.values(), ENVOY):
        marks = {column: _mark(await callers.ask(method, *asks)) for column, asks in callers.columns.items()}
        row = {group: " ".join(marks[group, column] for column in columns) for group, columns in GROUPS.items()}
        rows.append(_row(method.name, row))
    rows.append("")
    for contract in OTHERS:
        for service in contract.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                opened = {listener: await _opened(plane, method, listener) for listener in ("public", "service")}
                rows.append(
                    _row(
                        method.full_name.removeprefix("grpc."), {"none": opened["public"], "service": opened["service"]}
                    )
                )
    return LEGEND + "\n".join(rows) + "\n"


async def _opened(plane: Plane, method: MethodDescriptor, listener: str) -> str:
    """The mark of what gRPC itself serves, to a caller without a key or with a certificate, by all four services."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    who = SERVICES[0] if listener == "service" else ""
    is_stream = method.client_streaming or method.server_streaming
    channels = [plane.raw(service, listener, who) for service in SERVICES]
    # Some streams go on for as long as they are let.
    outcomes = await asyncio.gather(*(send_to(channel, path, is_stream, (), b"", seconds=3) for channel in channels))
    return "".join(sorted({_mark(outcome) for outcome in outcomes}))


def _mark(outcome: Outcome) -> str:
    return MARKS.get(outcome.reason or outcome.code, "#" if outcome.code == "INTERNAL" else "+")


def _row(name: str, cells: Mapping[str, str]) -> str:
    parts = [cells.get(group, "").ljust(2 * len(columns) - 1) for group, columns in GROUPS.items()]
    return "   ".join([name.ljust(58), *parts]).rstrip()


async def _write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"anonymous_rate": 1e6, "anonymous_burst": 10**6}
        async with Plane(Path(folder), FakeClock(), **settings) as plane:
            PATH.write_text(await matrix(plane))
    print(f"wrote {PATH}")  # noqa: T201


if __name__ == "__main__":
    calls.REFUSALS_BURST = 10**6
    asyncio.run(_write())
