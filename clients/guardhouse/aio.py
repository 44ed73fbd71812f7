"""The client for asyncio: what guardhouse.client is, to be awaited."""

from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import grpc.aio

from guardhouse.channel import DEADLINE, AioChannel
from guardhouse.client import OPTIONS, Connections, Stub, resolve
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.ipam.v1 import ipam_pb2_grpc as ipam_rpc
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2_grpc as registry_rpc
from guardhouse.session.v1 import session_pb2_grpc as session_rpc

S = TypeVar("S")


def _stub(service: str, make: Callable[[grpc.aio.Channel], S]) -> Stub[S]:
    """A stub whose calls are awaited; the argument's type picks that one of its two."""
    return Stub(service, make)


class Client(Connections[AioChannel]):
    """As guardhouse.Client, with calls to await. It belongs to the event loop in which it makes its first call."""

    organizations = _stub("identity", identity_rpc.OrganizationServiceStub)
    api_keys = _stub("identity", identity_rpc.ApiKeyServiceStub)
    identity_providers = _stub("identity", identity_rpc.IdentityProviderServiceStub)
    service_tokens = _stub("identity", identity_rpc.ServiceTokenServiceStub)
    enrollment_policies = _stub("identity", identity_rpc.EnrollmentPolicyServiceStub)
    rule_groups = _stub("identity", identity_rpc.RuleGroupServiceStub)
    users = _stub("identity", identity_rpc.UserServiceStub)
    held_actions = _stub("identity", identity_rpc.HeldActionServiceStub)
    seats = _stub("identity", identity_rpc.SeatServiceStub)
    identity_audit = _stub("identity", identity_rpc.AuditServiceStub)
    enrollment = _stub("registry", registry_rpc.EnrollmentServiceStub)
    registrations = _stub("registry", registry_rpc.RegistrationServiceStub)
    devices = _stub("registry", registry_rpc.DeviceServiceStub)
    gateways = _stub("registry", registry_rpc.GatewayServiceStub)
    held_deletions = _stub("registry", registry_rpc.HeldActionServiceStub)
    device_profiles = _stub("registry", registry_rpc.DeviceProfileServiceStub)
    registry_audit = _stub("registry", registry_rpc.AuditServiceStub)
    subnets = _stub("ipam", ipam_rpc.SubnetServiceStub)
    ip_profiles = _stub("ipam", ipam_rpc.IpProfileServiceStub)
    addresses = _stub("ipam", ipam_rpc.AddressServiceStub)
    ipam_audit = _stub("ipam", ipam_rpc.AuditServiceStub)
    policies = _stub("session", session_rpc.PolicyServiceStub)
    lists = _stub("session", session_rpc.ListServiceStub)
    applications = _stub("session", session_rpc.ApplicationServiceStub)
    sessions = _stub("session", session_rpc.SessionServiceStub)
    checks = _stub("session", session_rpc.CheckServiceStub)
    session_audit = _stub("session", session_rpc.AuditServiceStub)

    def _open(self, address: str, peer: str) -> AioChannel:
        return AioChannel(grpc.aio.secure_channel(address, self._credentials, OPTIONS), self._policy, peer)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def connect(
    profile: str | Path | Profile | None = None,
    *,
    identity: str | None = None,
    registry: str | None = None,
    ipam: str | None = None,
    session: str | None = None,
    ca: str | Path | None = None,
    key: str | None = None,
    deadline: float = DEADLINE,
) -> Client:
    """As guardhouse.connect; not awaited itself: `async with guardhouse.aio.connect() as client`."""
    return Client(resolve(profile, (identity, registry, ipam, session), ca, key), deadline)
