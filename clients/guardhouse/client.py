"""The blocking client: every public service of an installation behind one object."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar, overload

import grpc

from guardhouse.channel import DEADLINE, BlockingChannel, Metadata, Policy
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.ipam.v1 import ipam_pb2_grpc as ipam_rpc
from guardhouse.profile import SERVICES, Profile, ProfileInvalid, find
from guardhouse.registry.v1 import registry_pb2_grpc as registry_rpc
from guardhouse.session.v1 import session_pb2_grpc as session_rpc

OPTIONS: Final = [
    # Only identity: a small compressed message can grow without bound in memory.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]

S = TypeVar("S")
C = TypeVar("C")


class Stub(Generic[S]):
    """A generated stub as an attribute of a client, made when it is first used."""

    def __init__(self, service: str, make: Callable[[Any], S]) -> None:
        self._service = service
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Connections[Any]", owner: type) -> S: ...
    def __get__(self, client: "Connections[Any] | None", owner: type) -> Self | S:
        if client is None:
            return self
        # What stands in the instance hides this from the next look.
        stub = client.__dict__[self._name] = self._make(client.channel(self._service))
        return stub


class Connections(ABC, Generic[C]):
    """One channel to each service, of either kind; all share the credential and the revision tokens seen so far."""

    def __init__(self, profile: Profile, deadline: float = DEADLINE) -> None:
        self.profile = profile
        metadata: Metadata = (("authorization", f"Bearer {profile.key}"),) if profile.key else ()
        self._policy = Policy(lambda: metadata, deadline)
        self._credentials = grpc.ssl_channel_credentials(profile.certificates())
        self._channels: dict[str, C] = {}

    def channel(self, service: str) -> C:
        """The channel to identity, registry, ipam or session. Raises ProfileInvalid when its address is not known."""
        if service not in self._channels:
            address = self.profile.address(service)
            self._channels[service] = self._open(address, f"{service} at {address}")
        return self._channels[service]

    @abstractmethod
    def _open(self, address: str, peer: str) -> C: ...

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} of {self.profile}>"


class Client(Connections[BlockingChannel]):
    """The services of an installation as their generated stubs; threads may share one.

    A call answers the response or raises GuardhouseError. It has a deadline (`timeout=` sets another), repeats what may
    be repeated up to three times, gives mutations a request_id, and is answered at least as fresh as every change that
    this client has made.
    """

    organizations = Stub("identity", identity_rpc.OrganizationServiceStub)
    api_keys = Stub("identity", identity_rpc.ApiKeyServiceStub)
    identity_providers = Stub("identity", identity_rpc.IdentityProviderServiceStub)
    service_tokens = Stub("identity", identity_rpc.ServiceTokenServiceStub)
    enrollment_policies = Stub("identity", identity_rpc.EnrollmentPolicyServiceStub)
    rule_groups = Stub("identity", identity_rpc.RuleGroupServiceStub)
    users = Stub("identity", identity_rpc.UserServiceStub)
    held_actions = Stub("identity", identity_rpc.HeldActionServiceStub)
    seats = Stub("identity", identity_rpc.SeatServiceStub)
    identity_audit = Stub("identity", identity_rpc.AuditServiceStub)
    enrollment = Stub("registry", registry_rpc.EnrollmentServiceStub)
    registrations = Stub("registry", registry_rpc.RegistrationServiceStub)
    devices = Stub("registry", registry_rpc.DeviceServiceStub)
    gateways = Stub("registry", registry_rpc.GatewayServiceStub)
    held_deletions = Stub("registry", registry_rpc.HeldActionServiceStub)
    device_profiles = Stub("registry", registry_rpc.DeviceProfileServiceStub)
    registry_audit = Stub("registry", registry_rpc.AuditServiceStub)
    subnets = Stub("ipam", ipam_rpc.SubnetServiceStub)
    ip_profiles = Stub("ipam", ipam_rpc.IpProfileServiceStub)
    addresses = Stub("ipam", ipam_rpc.AddressServiceStub)
    ipam_audit = Stub("ipam", ipam_rpc.AuditServiceStub)
    policies = Stub("session", session_rpc.PolicyServiceStub)
    lists = Stub("session", session_rpc.ListServiceStub)
    applications = Stub("session", session_rpc.ApplicationServiceStub)
    sessions = Stub("session", session_rpc.SessionServiceStub)
    checks = Stub("session", session_rpc.CheckServiceStub)
    session_audit = Stub("session", session_rpc.AuditServiceStub)

    def _open(self, address: str, peer: str) -> BlockingChannel:
        return BlockingChannel(grpc.secure_channel(address, self._credentials, OPTIONS), self._policy, peer)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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
    """A client of the installation that the profile describes; what is given beside it wins.

    The profile is a path, else the file that GUARDHOUSE_PROFILE names, else ./var/client.toml as `make run` writes it
    (see guardhouse.profile). Addresses are `host:port`, `ca` is a PEM file, `key` an API key or a registration token,
    `deadline` the seconds of a call. Nothing is connected before the first call. Raises ProfileInvalid.
    """
    return Client(resolve(profile, (identity, registry, ipam, session), ca, key), deadline)


def resolve(
    profile: str | Path | Profile | None,
    addresses: tuple[str | None, ...],
    ca: str | Path | None,
    key: str | None,
) -> Profile:
    """The profile with the rest in it; the addresses are in the order of SERVICES. Raises ProfileInvalid."""
    if isinstance(profile, Profile):
        found = profile if key is None else dataclasses.replace(profile, key=key)
    else:
        found = find(profile, key)
    given: dict[str, Any] = {name: at for name, at in zip(SERVICES, addresses, strict=True) if at is not None}
    if ca is not None:
        given["ca"] = Path(ca)
    found = dataclasses.replace(found, **given)
    if not any(getattr(found, service) for service in SERVICES):
        raise ProfileInvalid(
            "no address is known: start with `make run`, which writes var/client.toml, or name a profile"
        )
    return found
