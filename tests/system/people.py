"""People and machines that enroll in a test plane, as a device does it."""

import uuid
from dataclasses import dataclass
from typing import Any

from guardhouse import keys
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.enrollment import make_request
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from tests.plane import Plane

PATIENCE = 30.0
"""Seconds. Sixty-four who come at once to two busy cores take longer than a client waits unless it is told to."""


@dataclass
class World:
    """The plane's public services, as an operator and as devices."""

    plane: Plane
    organization_id: str

    def __post_init__(self) -> None:
        plane = self.plane
        self.enrollment = plane.stub(registry_pb2_grpc.EnrollmentServiceStub)
        self.registrations = plane.stub(registry_pb2_grpc.RegistrationServiceStub)
        self.devices = plane.stub(registry_pb2_grpc.DeviceServiceStub)
        self.users = plane.stub(identity_pb2_grpc.UserServiceStub)
        self.seats = plane.stub(identity_pb2_grpc.SeatServiceStub)
        self.addresses = plane.stub(ipam_pb2_grpc.AddressServiceStub)
        self.policies = plane.stub(session_pb2_grpc.PolicyServiceStub)
        self.sessions = plane.stub(session_pb2_grpc.SessionServiceStub)
        self.checks = plane.stub(session_pb2_grpc.CheckServiceStub)

    # Enrolling

    def id_token(self, name: str, **more: Any) -> Credential:
        """A fresh ID token of somebody at example.com, without the round trips of a browser; with more claims."""
        issuer = self.plane.issuer
        email = name if "@" in name else f"{name}@example.com"
        claims = {**issuer.claims("alice@example.com"), "sub": email, "email": email, "name": name}
        claims |= {"iat": self.plane.clock.now() // 1_000_000, "jti": uuid.uuid4().hex}
        claims |= {"exp": claims["iat"] + 600} | more
        return Credential(id_token=issuer.sign(claims))

    async def request(
        self, credential: Credential, machine: str, request_id: str = "", private_key: bytes = b""
    ) -> registry_pb2.RegisterRequest:
        info = await self.enrollment.GetEnrollmentInfo(
            registry_pb2.GetEnrollmentInfoRequest(organization_id=self.organization_id)
        )
        device = registry_pb2.DeviceClaims(hardware_id=machine, platform=registry_pb2.PLATFORM_LINUX)
        private_key = private_key or keys.new_private_key()
        request_id = request_id or uuid.uuid4().hex
        return make_request(info, self.organization_id, credential, device, private_key, request_id)

    async def enroll(self, name: str, machine: str = "", os_user: str = "") -> registry_pb2.RegisterResponse:
        """With an account the machine is a Windows device that is shared (decision 19)."""
        request = await self.request(self.id_token(name), machine or f"machine-of-{name}")
        if os_user:
            request.multi_user.os_user = os_user
            request.device.platform = registry_pb2.PLATFORM_WINDOWS
            request.device.client_version = "2025.2.460.1"
        answer: registry_pb2.RegisterResponse = await self.enrollment.Register(request, timeout=PATIENCE)
        return answer

    async def service_token(self) -> Credential:
        """A service token that may enroll."""
        tokens = self.plane.stub(identity_pb2_grpc.ServiceTokenServiceStub)
        made = await tokens.CreateServiceToken(
            identity_pb2.CreateServiceTokenRequest(organization_id=self.organization_id, display_name="machines")
        )
        policies = self.plane.stub(identity_pb2_grpc.EnrollmentPolicyServiceStub)
        await policies.CreateEnrollmentPolicy(
            identity_pb2.CreateEnrollmentPolicyRequest(
                organization_id=self.organization_id,
                enrollment_policy=identity_pb2.EnrollmentPolicy(
                    display_name="machines",
                    decision=identity_pb2.ENROLLMENT_DECISION_SERVICE_AUTH,
                    precedence=20,
                    include=[
                        identity_pb2.EnrollmentRule(service_token_id=made.service_token.service_token_id),
                    ],
                ),
            )
        )
        secret = ServiceTokenCredential(client_id=made.service_token.client_id, client_secret=made.client_secret)
        return Credential(service_token=secret)

    # Looking

    async def live(self, **filters: Any) -> list[registry_pb2.Registration]:
        answer = await self.registrations.ListRegistrations(
            registry_pb2.ListRegistrationsRequest(
                organization_id=self.organization_id,
                state=registry_pb2.REGISTRATION_FILTER_ALL,
                page_size=1000,
                **filters,
            )
        )
        return list(answer.registrations)

    async def leases(self) -> list[ipam_pb2.Lease]:
        answer = await self.addresses.ListAddresses(
            ipam_pb2.ListAddressesRequest(organization_id=self.organization_id, page_size=1000)
        )
        return list(answer.leases)

    async def used_seats(self) -> int:
        request = identity_pb2.GetSeatUsageRequest(organization_id=self.organization_id)
        return int((await self.seats.GetSeatUsage(request)).used)

    async def policy(self, duration: str = "", max_open: str = "") -> str:
        """A policy that allows; with `max_open` it stays open for that long while a replica is cut off."""
        mode = session_pb2.STALENESS_MODE_OPEN_BOUNDED
        staleness = session_pb2.Staleness(mode=mode, max_open=max_open) if max_open else None
        limit = session_pb2.CheckSession(enforce=True, duration=duration) if duration else None
        made = await self.policies.CreatePolicy(
            session_pb2.CreatePolicyRequest(
                organization_id=self.organization_id,
                policy=session_pb2.Policy(
                    display_name="a policy",
                    enabled=True,
                    filter=session_pb2.POLICY_FILTER_HTTP,
                    action=session_pb2.POLICY_ACTION_ALLOW,
                    check_session=limit,
                    staleness=staleness,
                ),
            )
        )
        return str(made.policy.policy_id)

    async def check(self, registration_id: str, policy_id: str, at_least: list[str] | None = None) -> str:
        """The decision's reason. Without `at_least` the tokens that this client has seen are sent."""
        answer = await self.checks.CheckSession(
            session_pb2.CheckSessionRequest(
                organization_id=self.organization_id,
                registration_id=registration_id,
                policy_id=policy_id,
                at_least=at_least,
            )
        )
        return session_pb2.DecisionReason.Name(answer.answer.reason).removeprefix("DECISION_REASON_")

    # Changing

    async def remove(self, *user_ids: str) -> identity_pb2.RemoveUsersResponse:
        answer: identity_pb2.RemoveUsersResponse = await self.users.RemoveUsers(
            identity_pb2.RemoveUsersRequest(organization_id=self.organization_id, user_ids=user_ids)
        )
        return answer

    def batch(self, request: Any, *registration_ids: str) -> Any:
        """A batch request of the registry about these registrations."""
        return request(organization_id=self.organization_id, registration_ids=registration_ids)
