"""A control plane to measure: four services, each a process of its own, on databases that outlive them."""

import asyncio
import contextlib
import itertools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.machine import cpu_of, resident_bytes
from bench.postgresql import PostgreSQL
from demo.issuer import Issuer
from demo.plane import free_port_base
from guardhouse import revisions
from guardhouse.channel import AioChannel, Policy
from guardhouse.clock import SystemClock
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from guardhouse_services.config import PREFIX, SERVICES, Settings
from guardhouse_services.identity.__main__ import build as build_identity
from guardhouse_services.run import prepare
from guardhouse_services.tls import internal_name, peer_credentials

SQLITE, POSTGRESQL = "sqlite", "postgresql"
START_SECONDS, STOP_SECONDS = 300.0, 30.0
CALM, LOOK_SECONDS = 0.3, 3.0
"""The share of a core that a plane uses at most while nobody calls, and over how long that is looked at."""
POPULATION_HOST, WEB_HOST = "127.0.0.6", "wiki.example.com"
_numbers = itertools.count()


class Plane:
    """`async with plane:` starts the services, and stops them; what they know stays."""

    def __init__(self, folder: Path, issuer: Issuer, server: PostgreSQL | None = None) -> None:
        self.issuer = issuer
        self.server = server
        self.folder = folder
        self.databases: dict[str, str] = {}
        """The name of each service's PostgreSQL database."""
        template = ""
        if server is not None:
            prefix = f"plane{next(_numbers)}"
            self.databases = {service: f"{prefix}_{service}" for service in SERVICES}
            for service, name in self.databases.items():
                server.create(name, service)
            template = server.url(f"{prefix}_{{service}}")
        self.settings = Settings(
            var=folder / "var",
            database_url=template,
            # Where clients that look at names find a stand-in, and an application behind Envoy.
            names=f"{POPULATION_HOST}, {WEB_HOST}",
            # A whole burst of devices calls from one address.
            anonymous_rate=1e6,
            anonymous_burst=1_000_000,
        )
        self.organization_id = ""
        self.policy_id = ""
        self.admin_key = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._channels: dict[tuple[str, str, str], grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        # Chosen at each start: two planes that run side by side want different ones.
        self.settings = self.settings.model_copy(update={"port_base": free_port_base()})
        try:
            if not self.admin_key:
                self.admin_key = await self._prepare()
            for service in SERVICES:
                self.spawn(service)
            for service in SERVICES:
                await self.serving(service)
            if not self.organization_id:
                await self._create_organization()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.hang_up()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    # Processes

    def spawn(self, service: str, host: str = "127.0.0.1", stand_in: str = "", **settings: object) -> None:
        """Starts a replica of a service, or a stand-in of bench.servers for it, on that address."""
        given = {name: getattr(self.settings, name) for name in self.settings.model_fields_set} | settings
        if host != self.settings.host:
            # It shares the first replica's certificates, which are there by now.
            given |= {"host": host, "service_host": host, "http_host": host, "key_file": self.settings.key_path}
            given |= {"tls_folder": self.settings.tls_path}
        environment = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items()}
        module = ["bench.servers", stand_in] if stand_in else [f"guardhouse_services.{service}"]
        with (self.folder / f"{stand_in or service}.log").open("ab") as log:
            self._processes[f"{service} {host}"] = subprocess.Popen(
                [sys.executable, "-m", *module], env={**os.environ, **environment}, stdout=log, stderr=log
            )

    async def serving(self, service: str, host: str = "127.0.0.1") -> None:
        """Waits until the service says so."""
        stub = health_pb2_grpc.HealthStub(self.channel(service, host=host))
        process = self._processes[f"{service} {host}"]
        async with asyncio.timeout(START_SECONDS):
            while True:
                if process.poll() is not None:
                    log = "".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                    raise RuntimeError(f"{service} did not start:\n{log}")
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(0.05)

    async def calm(self) -> None:
        """Waits until the jobs that look at everything when the services have begun are through, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                used = math.inf
                while used > CALM * LOOK_SECONDS:
                    before = self.cpu()
                    await asyncio.sleep(LOOK_SECONDS)
                    used = self.cpu() - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the services from doing anything, for what is to have the machine for itself. A few seconds at most."""
        for process in self._processes.values():
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self._processes.values():
                process.send_signal(signal.SIGCONT)

    def pid(self, service: str, host: str = "127.0.0.1") -> int:
        return self._processes[f"{service} {host}"].pid

    def cpu(self) -> float:
        """Seconds of CPU that the services and their database have used."""
        used = cpu_of(process.pid for process in self._processes.values())
        return used + (self.server.cpu() if self.server is not None else 0.0)

    def cpu_of(self, service: str) -> float:
        """Seconds of CPU that one service has used."""
        return cpu_of([self.pid(service)])

    def memory(self, service: str) -> int:
        return resident_bytes(self.pid(service))

    # Calls

    async def hang_up(self) -> None:
        """Closes every channel."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def channel(self, service: str, listener: str = "public", caller: str = "", host: str = "") -> grpc.aio.Channel:
        """A bare channel: what sends a load must cost little itself. On the service listener, as that caller."""
        host = host or self.settings.host
        key = (service, f"{listener} {caller}", host)
        if key not in self._channels:
            tls = self.settings.tls_path
            if listener == "public":
                credentials = grpc.ssl_channel_credentials((tls / "ca.crt").read_bytes())
                port, name = self.settings.public_port(service), "localhost"
            else:
                credentials = peer_credentials(tls, caller)
                port, name = self.settings.service_port(service), internal_name(service)
            options = [
                ("grpc.ssl_target_name_override", name),
                ("grpc.max_receive_message_length", 16 << 20),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 100),
            ]
            self._channels[key] = grpc.aio.secure_channel(f"{host}:{port}", credentials, options)
        return self._channels[key]

    def stub(self, stub: Callable[[Any], Any], host: str = "") -> Any:
        """A stub of the public listener with the admin's key and no memory of tokens."""
        service = stub.__module__.split(".")[1]
        return stub(AioChannel(self.channel(service, host=host), Policy(lambda: self.metadata, 30, keep_tokens=False)))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.admin_key}"),)

    async def settle(self, tokens: Sequence[str]) -> None:
        """Waits until identity, ipam and session have followed the registry to the newest of its tokens."""
        newest = max(tokens, key=lambda token: revisions.decode(token).position.revision)
        about: dict[str, Any] = {"organization_id": self.organization_id, "at_least": [newest]}
        await asyncio.gather(
            self.stub(identity_pb2_grpc.SeatServiceStub).GetSeatUsage(identity_pb2.GetSeatUsageRequest(**about)),
            self.stub(ipam_pb2_grpc.AddressServiceStub).ListAddresses(
                ipam_pb2.ListAddressesRequest(page_size=1, **about)
            ),
            self.stub(session_pb2_grpc.PolicyServiceStub).ListPolicies(session_pb2.ListPoliciesRequest(**about)),
        )

    # The first start

    async def _prepare(self) -> str:
        """Keys, certificates and schemas; answers the first admin key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clock = SystemClock()
        prepare(self.settings, clock)
        node = build_identity(self.settings, clock)
        key: str = await node.servicer.identity.ensure_admin_key()  # type: ignore[attr-defined]
        await node.peers.close()
        for close in node.close:
            await close()
        node.database.close()
        return key

    async def _create_organization(self) -> None:
        """An organization with the issuer, whose people of example.com may enroll, and one policy."""
        made = await self.stub(identity_pb2_grpc.OrganizationServiceStub).CreateOrganization(
            identity_pb2.CreateOrganizationRequest(organization=identity_pb2.Organization(display_name="Example"))
        )
        self.organization_id = made.organization.organization_id
        await self.stub(identity_pb2_grpc.IdentityProviderServiceStub).CreateIdentityProvider(
            identity_pb2.CreateIdentityProviderRequest(
                organization_id=self.organization_id,
                identity_provider=identity_pb2.IdentityProvider(
                    display_name="Issuer", issuer=self.issuer.url, client_ids=[self.issuer.client_id]
                ),
            )
        )
        await self.stub(identity_pb2_grpc.EnrollmentPolicyServiceStub).CreateEnrollmentPolicy(
            identity_pb2.CreateEnrollmentPolicyRequest(
                organization_id=self.organization_id,
                enrollment_policy=identity_pb2.EnrollmentPolicy(
                    display_name="Everyone at example.com",
                    decision=identity_pb2.ENROLLMENT_DECISION_ALLOW,
                    precedence=10,
                    include=[identity_pb2.EnrollmentRule(email_domain="example.com")],
                ),
            )
        )
        policy = await self.stub(session_pb2_grpc.PolicyServiceStub).CreatePolicy(
            session_pb2.CreatePolicyRequest(
                organization_id=self.organization_id,
                policy=session_pb2.Policy(
                    display_name="a policy",
                    enabled=True,
                    filter=session_pb2.POLICY_FILTER_HTTP,
                    action=session_pb2.POLICY_ACTION_ALLOW,
                    check_session=session_pb2.CheckSession(enforce=True, duration="720h"),
                ),
            )
        )
        self.policy_id = policy.policy.policy_id
