"""A control plane for tests: the four services in this process, on loopback ports, with real TLS."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from demo.issuer import Issuer, Person
from demo.plane import free_port_base
from guardhouse.channel import AioChannel, Policy
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse_services.config import SERVICES, Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.identity.__main__ import build as build_identity
from guardhouse_services.ipam.__main__ import build as build_ipam
from guardhouse_services.node import Node
from guardhouse_services.registry.__main__ import build as build_registry
from guardhouse_services.run import prepare
from guardhouse_services.session.__main__ import build as build_session
from guardhouse_services.tls import internal_name, peer_credentials
from tests.clock import FakeClock

BUILDS = dict(zip(SERVICES, (build_identity, build_registry, build_ipam, build_session), strict=True))


class Plane:
    """Started with `async with`. `settings` may be changed before that."""

    def __init__(self, folder: Path, clock: FakeClock, database_url: str = "", **settings: Any) -> None:
        self.clock = clock
        given = {"log_calls": False, **settings}
        self.settings = Settings(var=folder / "var", port_base=free_port_base(), database_url=database_url, **given)
        self.nodes: dict[str, Node] = {}
        self.issuer = Issuer([Person(f"{name}@example.com", name) for name in ("alice", "bob", "carol", "dave")])
        self.organization = ""
        self.admin_key = ""
        self._stack = contextlib.AsyncExitStack()
        self._channels: dict[tuple[str, str, str, str], AioChannel] = {}
        # One client's channels share the revision tokens that it has seen.
        self._policies: dict[str, Policy] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _open(self) -> None:
        prepare(self.settings, self.clock)
        self._stack.enter_context(self.issuer)
        for service in SERVICES:
            self.nodes[service] = await BUILDS[service](self.settings, self.clock).__aenter__()
        self.admin_key = await self.nodes["identity"].servicer.identity.ensure_admin_key()  # type: ignore[attr-defined]
        for node in self.nodes.values():
            await node.loaded()
        self.organization = await self.create_organization()

    async def __aexit__(self, *exc: object) -> None:
        for channel in self._channels.values():
            await channel.close()
        for service in list(self.nodes):
            await self.stop(service)
        await self._stack.aclose()

    async def start(self, service: str, host: str = "127.0.0.1") -> None:
        """Starts a service, or with another host one more replica of it, which goes when the plane does."""
        there = dict.fromkeys(("host", "service_host", "http_host"), host)
        node = BUILDS[service](self.settings.model_copy(update=there), self.clock)
        if host == self.settings.host:
            self.nodes[service] = await node.__aenter__()
        else:
            await self._stack.enter_async_context(node)
        await node.loaded()

    async def stop(self, service: str) -> None:
        await self.nodes.pop(service).__aexit__(None, None, None)

    async def spawn(self, service: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Starts a service of this plane as a process of its own, and waits until it answers."""
        settings = {
            "GUARDHOUSE_VAR": str(self.settings.var),
            "GUARDHOUSE_PORT_BASE": str(self.settings.port_base),
            "GUARDHOUSE_DATABASE_URL": self.settings.database_url,
            "GUARDHOUSE_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", f"guardhouse_services.{service}"]
        process = subprocess.Popen(command, env={**os.environ, **settings, **environment})  # noqa: ASYNC220
        self._stack.callback(process.kill)
        await self.reachable(service)
        return process

    async def reachable(self, service: str) -> None:
        """Waits until the public listener of a service that was started anew answers every client of this plane."""
        for (name, listener, *_), channel in list(self._channels.items()):
            if name == service and listener == "public":
                channel._channel.get_state(try_to_connect=True)
                await channel._channel.channel_ready()

    async def create_organization(self, seat_limit: int | None = None) -> str:
        """An organization with the plane's issuer, whose people of example.com may enroll."""
        organizations = self.stub(identity_pb2_grpc.OrganizationServiceStub)
        organization = identity_pb2.Organization(display_name="Example", seat_limit=seat_limit)
        made = await organizations.CreateOrganization(identity_pb2.CreateOrganizationRequest(organization=organization))
        organization_id: str = made.organization.organization_id
        await self.stub(identity_pb2_grpc.IdentityProviderServiceStub).CreateIdentityProvider(
            identity_pb2.CreateIdentityProviderRequest(
                organization_id=organization_id,
                identity_provider=identity_pb2.IdentityProvider(
                    display_name="Issuer", issuer=self.issuer.url, client_ids=[self.issuer.client_id]
                ),
            )
        )
        await self.stub(identity_pb2_grpc.EnrollmentPolicyServiceStub).CreateEnrollmentPolicy(
            identity_pb2.CreateEnrollmentPolicyRequest(
                organization_id=organization_id,
                enrollment_policy=identity_pb2.EnrollmentPolicy(
                    display_name="Everyone at example.com",
                    decision=identity_pb2.ENROLLMENT_DECISION_ALLOW,
                    precedence=10,
                    include=[identity_pb2.EnrollmentRule(email_domain="example.com")],
                ),
            )
        )
        return organization_id

    async def advance(self, seconds: float) -> None:
        """Moves the clock, and waits until the checks know that their state is as fresh as that."""
        self.clock.advance(seconds)
        for follower in self.nodes["session"].views:
            assert await follower.fresh(self.clock.steady(), timeout=30)

    def stub(self, stub: Callable[[Any], Any], key: str | None = None, host: str = "127.0.0.1") -> Any:
        """A stub of the public listener, as the installation's admin or with another bearer value ("" for none)."""
        bearer = self.admin_key if key is None else key
        service = stub.__module__.split(".")[1]
        return stub(self._channel(service, "public", bearer, host))

    def service_stub(self, stub: Callable[[Any], Any], caller: str) -> Any:
        """A stub of the service listener, as another service."""
        return stub(self._channel(stub.__module__.split(".")[1], "service", caller))

    def raw(self, service: str, listener: str, caller: str, host: str = "127.0.0.1") -> grpc.aio.Channel:
        """The channel beneath such a stub: it adds no credential, no request_id and no retry."""
        return self._channel(service, listener, caller, host)._channel

    def _channel(self, service: str, listener: str, caller: str, host: str = "127.0.0.1") -> AioChannel:
        key = (service, listener, caller, host)
        if key not in self._channels:
            tls = self.settings.tls_path
            if listener == "public":
                credentials = grpc.ssl_channel_credentials((tls / "ca.crt").read_bytes())
                port = self.settings.public_port(service)
                # Replicas share the certificate of the first, which names its address only.
                options: list[tuple[str, Any]] = [("grpc.ssl_target_name_override", "localhost")]
                metadata = (("authorization", f"Bearer {caller}"),) if caller else ()
            else:
                credentials = peer_credentials(tls, caller)
                port, metadata = self.settings.service_port(service), ()
                options = [("grpc.ssl_target_name_override", internal_name(service))]
            # A test that stops a service does not wait for those who called it meanwhile.
            options += [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
            channel = grpc.aio.secure_channel(f"{host}:{port}", credentials, options)
            self._channels[key] = AioChannel(channel, self._policies.setdefault(caller, Policy(lambda: metadata)))
        return self._channels[key]

    @property
    def master_key(self) -> MasterKey:
        return MasterKey.read(self.settings.key_path)
