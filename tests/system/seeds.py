"""A valid request of every method, about things that exist in a plane."""

import ipaddress
import itertools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse import keys
from guardhouse.common.v1.access_pb2 import ROLE_ADMIN, ROLE_AUDITOR, ROLE_GATEWAY
from guardhouse.common.v1.feed_pb2 import Start
from guardhouse.enrollment import make_rotation
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.ids import DEVICE, REGISTRATION, USER, new_id
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.ipam.v1 import ipam_pb2_grpc as ipam_rpc
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.registry.v1 import registry_pb2_grpc as registry_rpc
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.session.v1 import session_pb2_grpc as session_rpc
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import NOBODY, Person
from guardhouse_services.identity.domain.held_actions import Effect
from guardhouse_services.identity.servicer import ORGANIZATION_PATHS
from guardhouse_services.identity.store import held_actions, users
from guardhouse_services.identity.usecases import breaker
from guardhouse_services.registry.domain import End
from guardhouse_services.registry.usecases import lifetimes
from tests.system.contract import METHODS, Method
from tests.system.people import World
from tests.system.wire import Caller
from tests.wireguard import gateway_key

Valid = tuple[Caller, Any]
"""Who may call, and the request."""

_numbers = itertools.count(1)


class Seeds:
    """One organization's things. `ids` has one of each kind by the name of the field that names it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plane = world.plane
        self.ids: dict[str, str] = {"organization_id": world.organization_id}
        self.address = ""
        self.token = ""
        """What its device calls with."""
        self.gateway_key = ""
        self._by_name: dict[str, Callable[[Any], Awaitable[Valid | None]]] = {
            name: getattr(self, f"_{METHODS[name].descriptor.name}")
            for name in METHODS
            if hasattr(self, f"_{METHODS[name].descriptor.name}")
        }

    async def plant(self) -> "Seeds":
        world, ids = self.world, self.ids
        made = await world.enroll("alice", "seed")
        self.token, self.address = made.token, made.registration.ipv4
        ids["user_id"], ids["device_id"] = made.registration.user_id, made.registration.device_id
        ids["registration_id"] = made.registration.registration_id
        leases = await world.leases()
        ids["lease_id"] = next(it.lease_id for it in leases if it.registration_id == ids["registration_id"])
        ids["policy_id"] = await world.policy("1h")
        ids["list_id"] = await self._new_list()
        ids["application_id"] = await self._new_application()
        ids["service_token_id"] = await self._new_service_token()
        ids["api_key_id"] = await self._new_api_key()
        # One of an organization would be refused before a request that names none is read.
        self.gateway_key = await gateway_key(self.plane, "")
        ids["enrollment_policy_id"] = await self._new_enrollment_policy()
        ids["identity_provider_id"] = await self._new_identity_provider()
        ids["pin_id"] = await self._new_pin(1)
        ids["rule_group_id"] = await self._new_rule_group()
        ids["device_profile_id"] = await self._new_device_profile()
        ids["subnet_id"] = await self._new_subnet()
        ids["ip_profile_id"] = await self._new_ip_profile()
        ids["held_action_id"] = await self._new_held_action()
        gone = (await world.enroll("gone", "gone")).registration
        ids["removal_id"] = (await world.remove(gone.user_id)).removal.removal_id
        return self

    def caller(self, method: Method) -> Caller:
        """One whom the method's rule admits."""
        rule = method.rule
        if rule.services:
            return Caller(min(rule.services), "service")
        if rule.anonymous:
            return Caller("")
        if ROLE_ADMIN in rule.roles:
            return Caller(self.plane.admin_key)
        return Caller(self.gateway_key if ROLE_GATEWAY in rule.roles else self.token)

    async def valid(self, method: Method) -> Valid:
        """A request that the method accepts now, and who may make it; new ones every time."""
        request: Any = self.bare(method.request)
        if (make := self._by_name.get(method.name)) and (made := await make(request)):
            return made
        return self.caller(method), request

    def bare(self, kind: type[Message]) -> Any:
        """A request whose fields are filled where their names say with what."""
        request: Any = kind()
        for name in kind.DESCRIPTOR.fields_by_name:
            if name in self.ids:
                setattr(request, name, self.ids[name])
            elif name.removesuffix("s") in self.ids:
                getattr(request, name).append(self.ids[name.removesuffix("s")])
        if "request_id" in kind.DESCRIPTOR.fields_by_name:
            request.request_id = uuid.uuid4().hex
        if "page_size" in kind.DESCRIPTOR.fields_by_name:
            request.page_size = 10
        return request

    # What a destructive call takes away is made for it.

    async def _new_service_token(self) -> str:
        tokens = self.plane.stub(identity_rpc.ServiceTokenServiceStub)
        made = await tokens.CreateServiceToken(
            identity.CreateServiceTokenRequest(organization_id=self.ids["organization_id"], display_name="a machine")
        )
        return str(made.service_token.service_token_id)

    async def _new_api_key(self) -> str:
        request = identity.CreateApiKeyRequest(organization_id=self.ids["organization_id"])
        await self._CreateApiKey(request)
        made = await self.plane.stub(identity_rpc.ApiKeyServiceStub).CreateApiKey(request)
        return str(made.api_key.api_key_id)

    async def _new_enrollment_policy(self) -> str:
        request = identity.CreateEnrollmentPolicyRequest(organization_id=self.ids["organization_id"])
        await self._CreateEnrollmentPolicy(request)
        made = await self.plane.stub(identity_rpc.EnrollmentPolicyServiceStub).CreateEnrollmentPolicy(request)
        return str(made.enrollment_policy.enrollment_policy_id)

    async def _new_rule_group(self) -> str:
        request = identity.CreateRuleGroupRequest(organization_id=self.ids["organization_id"])
        await self._CreateRuleGroup(request)
        made = await self.plane.stub(identity_rpc.RuleGroupServiceStub).CreateRuleGroup(request)
        return str(made.rule_group.rule_group_id)

    async def _new_identity_provider(self) -> str:
        request = identity.CreateIdentityProviderRequest(organization_id=self.ids["organization_id"])
        await self._CreateIdentityProvider(request)
        made = await self.plane.stub(identity_rpc.IdentityProviderServiceStub).CreateIdentityProvider(request)
        return str(made.identity_provider.identity_provider_id)

    async def _room_for_an_identity_provider(self) -> None:
        """Deletes those that earlier requests made, before they are as many as there may be."""
        providers = self.plane.stub(identity_rpc.IdentityProviderServiceStub)
        organization_id, kept = self.ids["organization_id"], self.ids.get("identity_provider_id")
        listing = identity.ListIdentityProvidersRequest(organization_id=organization_id)
        found = (await providers.ListIdentityProviders(listing)).identity_providers
        if len(found) < 40:
            return
        for provider in found:
            if provider.issuer != self.plane.issuer.url and provider.identity_provider_id != kept:
                await providers.DeleteIdentityProvider(
                    identity.DeleteIdentityProviderRequest(
                        organization_id=organization_id, identity_provider_id=provider.identity_provider_id
                    )
                )

    async def _new_device_profile(self) -> str:
        request = registry.CreateDeviceProfileRequest(organization_id=self.ids["organization_id"])
        await self._CreateDeviceProfile(request)
        made = await self.plane.stub(registry_rpc.DeviceProfileServiceStub).CreateDeviceProfile(request)
        return str(made.device_profile.device_profile_id)

    async def _room_for_a_device_profile(self) -> None:
        """Deletes those that earlier requests made, before they are as many as there may be."""
        profiles = self.plane.stub(registry_rpc.DeviceProfileServiceStub)
        organization_id, kept = self.ids["organization_id"], self.ids.get("device_profile_id")
        listing = registry.ListDeviceProfilesRequest(organization_id=organization_id, page_size=1000)
        found = (await profiles.ListDeviceProfiles(listing)).device_profiles
        if len(found) < 80:
            return
        for profile in found:
            if not profile.default and profile.device_profile_id != kept:
                await profiles.DeleteDeviceProfile(
                    registry.DeleteDeviceProfileRequest(
                        organization_id=organization_id, device_profile_id=profile.device_profile_id
                    )
                )

    async def _new_list(self) -> str:
        request = session.CreateListRequest(organization_id=self.ids["organization_id"])
        await self._CreateList(request)
        made = await self.plane.stub(session_rpc.ListServiceStub).CreateList(request)
        return str(made.list.list_id)

    async def _new_application(self) -> str:
        request = session.CreateApplicationRequest(organization_id=self.ids["organization_id"])
        await self._CreateApplication(request)
        made = await self.plane.stub(session_rpc.ApplicationServiceStub).CreateApplication(request)
        return str(made.application.application_id)

    async def _new_held_action(self) -> str:
        """About people whom nobody knows, so that approving it does no harm."""
        organization_id, source, now = self.ids["organization_id"], f"test {next(_numbers)}", self.plane.clock.now()

        def hold(tx: Transaction) -> str:
            assert not breaker.passes(tx, organization_id, source, [new_id(USER, now) for _ in range(51)])
            return held_actions.waiting(tx, organization_id, source, Effect.REMOVE)

        return await self.plane.nodes["identity"].database.write(hold)

    async def _new_held(self, request: Message) -> str:
        """Of identity or of the registry."""
        is_identitys = request.DESCRIPTOR.file is identity.DESCRIPTOR
        return await (self._new_held_action() if is_identitys else self._new_held_deletion())

    async def _new_held_deletion(self) -> str:
        """About registrations that nobody knows, so that approving it does no harm."""
        organization_id, now = self.ids["organization_id"], self.plane.clock.now()

        def hold(tx: Transaction) -> str:
            unknown = [new_id(REGISTRATION, now) for _ in range(51)]
            assert not lifetimes.BREAKER.passes(tx, organization_id, End.SILENT, unknown, lifetimes.DELETE)
            return lifetimes.BREAKER.store.waiting(tx, organization_id, End.SILENT, lifetimes.DELETE)

        return await self.plane.nodes["registry"].database.write(hold)

    async def _new_registration(self, os_user: str = "") -> registry.RegisterResponse:
        number = next(_numbers)
        return await self.world.enroll(f"person{number}", f"machine{number}", os_user)

    # identity

    async def _CreateOrganization(self, request: identity.CreateOrganizationRequest) -> None:
        request.organization.display_name = "Another"
        request.organization.seat_limit = 10
        request.organization.default_action = identity.DEFAULT_ACTION_ALLOW
        request.organization.seat_expiration = "2160h"
        request.organization.delete_revoked_after = "720h"
        request.organization.multi_user_platforms.append(registry.PLATFORM_WINDOWS)

    async def _UpdateOrganization(self, request: identity.UpdateOrganizationRequest) -> None:
        request.organization.display_name = "Example"
        request.organization.seat_limit = 10_000
        request.organization.default_action = identity.DEFAULT_ACTION_ALLOW
        request.organization.seat_expiration = "2160h"
        request.organization.delete_revoked_after = "720h"
        request.organization.multi_user_platforms.append(registry.PLATFORM_WINDOWS)
        request.update_mask.MergeFrom(FieldMask(paths=ORGANIZATION_PATHS))

    async def _DeleteOrganization(self, request: identity.DeleteOrganizationRequest) -> None:
        request.organization_id = await self.plane.create_organization()
        request.confirmation = "Example"

    async def _PreviewSeatExpiration(self, request: identity.PreviewSeatExpirationRequest) -> None:
        request.seat_expiration = "2160h"

    async def _CreateApiKey(self, request: identity.CreateApiKeyRequest) -> None:
        request.api_key.display_name = "a script"
        request.api_key.role = ROLE_AUDITOR
        request.api_key.expire_time.CopyFrom(self._later(86_400))

    async def _RevokeApiKey(self, request: identity.RevokeApiKeyRequest) -> None:
        request.api_key_id = await self._new_api_key()

    async def _CreateIdentityProvider(self, request: identity.CreateIdentityProviderRequest) -> None:
        await self._room_for_an_identity_provider()
        issuer = f"https://issuer{next(_numbers)}.example"
        provider = identity.IdentityProvider(display_name="Elsewhere", issuer=issuer, client_ids=["devices"])
        request.identity_provider.CopyFrom(provider)

    async def _UpdateIdentityProvider(self, request: identity.UpdateIdentityProviderRequest) -> None:
        provider = identity.IdentityProvider(
            identity_provider_id=self.ids["identity_provider_id"],
            display_name="Elsewhere",
            client_ids=["devices"],
            scim=identity.ScimSettings(enabled=True, user_deprovision=True),
        )
        request.identity_provider.CopyFrom(provider)
        request.update_mask.MergeFrom(
            FieldMask(
                paths=[
                    *("display_name", "client_ids", "force_interaction", "oidc_claims", "groups_claim"),
                    *("allow_unverified_email", "allow_private_addresses", "jwks_host", "scim"),
                ]
            )
        )

    async def _DeleteIdentityProvider(self, request: identity.DeleteIdentityProviderRequest) -> None:
        request.identity_provider_id = await self._new_identity_provider()

    async def _CreateServiceToken(self, request: identity.CreateServiceTokenRequest) -> None:
        request.display_name, request.duration = "a machine", "24h"
        request.expire_registrations_after = "2h"

    async def _UpdateServiceToken(self, request: identity.UpdateServiceTokenRequest) -> None:
        token = identity.ServiceToken(service_token_id=self.ids["service_token_id"], display_name="a machine")
        token.expire_registrations_after = "2h"
        request.service_token.CopyFrom(token)
        request.update_mask.MergeFrom(FieldMask(paths=["display_name", "disabled", "expire_registrations_after"]))

    async def _RotateServiceToken(self, request: identity.RotateServiceTokenRequest) -> None:
        request.grace = "1h"

    async def _DeleteServiceToken(self, request: identity.DeleteServiceTokenRequest) -> None:
        request.service_token_id = await self._new_service_token()

    async def _CreateEnrollmentPolicy(self, request: identity.CreateEnrollmentPolicyRequest) -> None:
        request.enrollment_policy.CopyFrom(_enrollment_policy(100 + next(_numbers)))

    async def _UpdateEnrollmentPolicy(self, request: identity.UpdateEnrollmentPolicyRequest) -> None:
        changed = _enrollment_policy(100 + next(_numbers))
        changed.enrollment_policy_id = self.ids["enrollment_policy_id"]
        request.enrollment_policy.CopyFrom(changed)
        paths = ["display_name", "decision", "precedence", "include", "require", "exclude"]
        request.update_mask.MergeFrom(FieldMask(paths=paths))

    async def _DeleteEnrollmentPolicy(self, request: identity.DeleteEnrollmentPolicyRequest) -> None:
        request.enrollment_policy_id = await self._new_enrollment_policy()

    async def _TestEnrollment(self, request: identity.TestEnrollmentRequest) -> None:
        person = identity.TestIdentity(email="alice@example.com", groups=["staff"], oidc_claims=["level=7"])
        person.auth_methods.append("mfa")
        person.identity_provider_id = self.ids["identity_provider_id"]
        request.identity.CopyFrom(person)
        request.ip, request.country = "192.0.2.7", "DE"

    async def _CreateRuleGroup(self, request: identity.CreateRuleGroupRequest) -> None:
        request.rule_group.CopyFrom(_rule_group())

    async def _UpdateRuleGroup(self, request: identity.UpdateRuleGroupRequest) -> None:
        changed = _rule_group()
        changed.rule_group_id = self.ids["rule_group_id"]
        request.rule_group.CopyFrom(changed)
        request.update_mask.MergeFrom(FieldMask(paths=["display_name", "include", "require", "exclude"]))

    async def _DeleteRuleGroup(self, request: identity.DeleteRuleGroupRequest) -> None:
        request.rule_group_id = await self._new_rule_group()

    async def _ListUsers(self, request: identity.ListUsersRequest) -> None:
        request.email = "alice@example.com"

    async def _RemoveUsers(self, request: identity.RemoveUsersRequest) -> None:
        request.user_ids[:] = [(await self._new_registration()).registration.user_id]

    async def _OffboardUser(self, request: identity.OffboardUserRequest) -> None:
        request.user_id = (await self._new_registration()).registration.user_id

    async def _ReinstateUser(self, request: identity.ReinstateUserRequest) -> None:
        request.user_id = (await self._new_registration()).registration.user_id
        await self.world.users.OffboardUser(
            identity.OffboardUserRequest(organization_id=self.ids["organization_id"], user_id=request.user_id)
        )

    async def _EraseUser(self, request: identity.EraseUserRequest) -> None:
        """Somebody who began to enroll and never did: there is nothing to wait for."""
        now, number = self.plane.clock.now(), next(_numbers)
        person = Person("https://issuer.example", f"person{number}", NOBODY, now, None, b"")

        def begin(tx: Transaction) -> str:
            user, _ = users.lock_or_create(tx, self.ids["organization_id"], person, new_id(USER, now))
            return user.user_id

        request.user_id = await self.plane.nodes["identity"].database.write(begin)

    async def _ApproveHeldAction(self, request: identity.ApproveHeldActionRequest) -> None:
        request.held_action_id = await self._new_held(request)

    async def _RejectHeldAction(self, request: identity.RejectHeldActionRequest) -> None:
        request.held_action_id = await self._new_held(request)

    async def _AuthorizeEnrollment(self, request: identity.AuthorizeEnrollmentRequest) -> None:
        request.intent_id = self._new_intent()
        request.credential.CopyFrom(self.world.id_token("alice"))
        request.ip, request.country = "192.0.2.7", "DE"

    async def _CancelEnrollment(self, request: identity.CancelEnrollmentRequest) -> None:
        request.intent_id = self._new_intent()

    async def _RecordAuthentication(self, request: identity.RecordAuthenticationRequest) -> None:
        request.ClearField("service_token_id")
        request.user_id = self.ids["user_id"]
        request.credential.CopyFrom(self.world.id_token("alice"))
        request.actor = "key:somebody"
        request.asked_time.CopyFrom(self._later(0))

    async def _ReportActivity(self, request: identity.ReportActivityRequest) -> None:
        now = self._later(0)
        request.activity.add(user_id=self.ids["user_id"], seen_time=now)
        request.watermark_time.CopyFrom(now)

    # registry

    async def _Register(self, request: registry.RegisterRequest) -> None:
        number = next(_numbers)
        credential = self.world.id_token(f"person{number}")
        request.CopyFrom(await self.world.request(credential, f"machine{number}", request.request_id))

    async def _ResolveIntent(self, request: registry.ResolveIntentRequest) -> None:
        request.intent_id = self.ids["registration_id"]

    async def _RevokeRegistrations(self, request: registry.RevokeRegistrationsRequest) -> None:
        request.registration_ids[:] = [(await self._new_registration()).registration.registration_id]

    async def _DeleteRegistrations(self, request: registry.DeleteRegistrationsRequest) -> None:
        request.registration_ids[:] = [(await self._new_registration()).registration.registration_id]

    async def _RotateKey(self, request: registry.RotateKeyRequest) -> Valid:
        made = await self._new_registration()
        info = await self.world.enrollment.GetEnrollmentInfo(
            registry.GetEnrollmentInfoRequest(organization_id=self.ids["organization_id"])
        )
        of, key = made.registration, keys.new_private_key()
        rotation = make_rotation(
            info, self.ids["organization_id"], of.registration_id, of.public_key, key, request.request_id
        )
        return Caller(made.token), rotation

    async def _Heartbeat(self, request: registry.HeartbeatRequest) -> None:
        request.posture.CopyFrom(registry.DevicePosture(passed=["disk"], failed=["firewall"]))

    async def _ReportHandshakes(self, request: registry.ReportHandshakesRequest) -> None:
        handshake = registry.Handshake(registration_id=self.ids["registration_id"], time=Timestamp(seconds=1))
        request.handshakes.append(handshake)

    async def _CheckOverrideCode(self, request: registry.CheckOverrideCodeRequest) -> Valid:
        """Of a device that has not tried as many yet as it may."""
        made = await self._new_registration()
        request.registration_id = made.registration.registration_id
        about = {"organization_id": request.organization_id, "registration_id": request.registration_id}
        registrations = self.plane.stub(registry_rpc.RegistrationServiceStub)
        shown = await registrations.GetOverrideCodes(registry.GetOverrideCodesRequest(**about))
        request.code = shown.override_codes[-1].code
        return Caller(made.token), request

    async def _PreviewRegistrationExpiration(self, request: registry.PreviewRegistrationExpirationRequest) -> None:
        request.delete_revoked_after = "720h"

    async def _ReportOsSession(self, request: registry.ReportOsSessionRequest) -> Valid:
        made = await self._new_registration("S-1-5-21")
        request.registration_id = made.registration.registration_id
        request.event, request.os_user, request.sequence = registry.OS_SESSION_EVENT_LOG_IN, "S-1-5-22", 1
        return Caller(made.token), request

    async def _Leave(self, request: registry.LeaveRequest) -> Valid:
        made = await self._new_registration()
        request.registration_id = made.registration.registration_id
        return Caller(made.token), request

    async def _UpdateDevice(self, request: registry.UpdateDeviceRequest) -> None:
        request.device.CopyFrom(registry.Device(device_id=self.ids["device_id"], tags={"site": "Ulm"}))
        request.update_mask.MergeFrom(FieldMask(paths=["tags"]))

    async def _RevokeDevice(self, request: registry.RevokeDeviceRequest) -> None:
        request.device_id = (await self._new_registration()).registration.device_id

    async def _DeleteDevice(self, request: registry.DeleteDeviceRequest) -> None:
        request.device_id = (await self._new_registration()).registration.device_id

    # ipam

    async def _CreateSubnet(self, request: ipam.CreateSubnetRequest) -> None:
        await self._room_for_a_subnet()
        number = next(_numbers)
        request.subnet.Clear()
        network = f"10.{number // 256 % 256}.{number % 256}.0/24"
        request.subnet.MergeFrom(ipam.Subnet(display_name="a subnet", description="for tests", network=network))

    async def _UpdateSubnet(self, request: ipam.UpdateSubnetRequest) -> None:
        changed = ipam.Subnet(subnet_id=self.ids["subnet_id"], display_name="another", description="for tests")
        request.subnet.CopyFrom(changed)
        request.update_mask.MergeFrom(FieldMask(paths=["display_name", "description"]))

    async def _DeleteSubnet(self, request: ipam.DeleteSubnetRequest) -> None:
        request.subnet_id = await self._new_subnet()

    async def _CreateIpProfile(self, request: ipam.CreateIpProfileRequest) -> None:
        await self._room_for_an_ip_profile()
        request.ip_profile.CopyFrom(self._ip_profile())

    async def _UpdateIpProfile(self, request: ipam.UpdateIpProfileRequest) -> None:
        changed = self._ip_profile()
        changed.ip_profile_id = self.ids["ip_profile_id"]
        request.ip_profile.CopyFrom(changed)
        paths = ["display_name", "description", "match", "precedence", "subnet_id", "enabled"]
        request.update_mask.MergeFrom(FieldMask(paths=paths))

    async def _DeleteIpProfile(self, request: ipam.DeleteIpProfileRequest) -> None:
        await self._room_for_an_ip_profile()
        request.ip_profile_id = await self._new_ip_profile()

    async def _MatchIpProfile(self, request: ipam.MatchIpProfileRequest) -> None:
        request.identity.CopyFrom(_HOLDER)

    def _ip_profile(self) -> ipam.IpProfile:
        return ipam.IpProfile(
            display_name="a profile",
            description="for tests",
            match='identity.email == "nobody@example.com"',
            precedence=next(_numbers),
            subnet_id=self.ids["subnet_id"],
            enabled=True,
        )

    async def _new_subnet(self) -> str:
        request = ipam.CreateSubnetRequest(organization_id=self.ids["organization_id"])
        await self._CreateSubnet(request)
        made = await self.plane.stub(ipam_rpc.SubnetServiceStub).CreateSubnet(request)
        return str(made.subnet.subnet_id)

    async def _new_ip_profile(self) -> str:
        request = ipam.CreateIpProfileRequest(organization_id=self.ids["organization_id"])
        await self._CreateIpProfile(request)
        made = await self.plane.stub(ipam_rpc.IpProfileServiceStub).CreateIpProfile(request)
        return str(made.ip_profile.ip_profile_id)

    async def _room_for_a_subnet(self) -> None:
        """Deletes those that earlier requests made, before they are as many as there may be."""
        stub, organization_id = self.plane.stub(ipam_rpc.SubnetServiceStub), self.ids["organization_id"]
        listed = await stub.ListSubnets(ipam.ListSubnetsRequest(organization_id=organization_id, page_size=100))
        if len(listed.subnets) > 90:
            for subnet in listed.subnets:
                is_empty = subnet.capacity.free == subnet.capacity.total
                if is_empty and not subnet.is_default and subnet.subnet_id != self.ids["subnet_id"]:
                    gone = ipam.DeleteSubnetRequest(organization_id=organization_id, subnet_id=subnet.subnet_id)
                    await stub.DeleteSubnet(gone)

    async def _room_for_an_ip_profile(self) -> None:
        """The same of profiles."""
        stub, organization_id = self.plane.stub(ipam_rpc.IpProfileServiceStub), self.ids["organization_id"]
        present = (await stub.ListIpProfiles(ipam.ListIpProfilesRequest(organization_id=organization_id))).ip_profiles
        if len(present) > 25:
            for profile in present:
                if profile.ip_profile_id != self.ids.get("ip_profile_id"):
                    gone = ipam.DeleteIpProfileRequest(
                        organization_id=organization_id, ip_profile_id=profile.ip_profile_id
                    )
                    await stub.DeleteIpProfile(gone)

    async def _ReserveAddresses(self, request: Any) -> None:
        request.intent_id = self._new_intent()
        request.ClearField("service_token_id")
        request.identity.CopyFrom(_HOLDER)
        request.user_id = self.ids["user_id"]

    async def _ReleaseAddresses(self, request: Any) -> None:
        request.intent_id = self._new_intent()

    async def _LookupAddress(self, request: Any) -> None:
        request.address = self.address
        request.time.CopyFrom(self._later(60))

    async def _ListAddresses(self, request: Any) -> None:
        request.ClearField("service_token_id")
        request.user_id = self.ids["user_id"]

    async def _PinAddress(self, request: Any) -> None:
        """For one more device each time."""
        await self._unpin_others()
        request.network = self._rarely_given_out(3)
        request.ClearField("service_token_id")
        request.user_id = self.ids["user_id"]
        request.device_id = new_id(DEVICE, self.plane.clock.now())

    async def _unpin_others(self) -> None:
        """Gives back what earlier requests pinned."""
        addresses, organization_id = self.world.addresses, self.ids["organization_id"]
        listing = ipam.ListPinsRequest(organization_id=organization_id, page_size=1000)
        for pin in (await addresses.ListPins(listing)).pins:
            if pin.pin_id != self.ids["pin_id"]:
                unpin = ipam.UnpinAddressRequest(organization_id=organization_id, pin_id=pin.pin_id)
                await addresses.UnpinAddress(unpin)

    def _rarely_given_out(self, place: int) -> str:
        """An address at the end of the subnet."""
        return str(ipaddress.ip_network(self.plane.settings.ipv4_subnet)[-1 - place])

    async def _new_pin(self, place: int) -> str:
        request = ipam.PinAddressRequest(organization_id=self.ids["organization_id"])
        request.network = self._rarely_given_out(place)
        return str((await self.world.addresses.PinAddress(request)).pin.pin_id)

    async def _UnpinAddress(self, request: Any) -> None:
        await self._unpin_others()
        request.pin_id = await self._new_pin(2)

    async def _ListAddressHistory(self, request: Any) -> None:
        request.network = self.address
        request.time.CopyFrom(self._later(60))

    # session

    async def _CreatePolicy(self, request: session.CreatePolicyRequest) -> None:
        request.policy.CopyFrom(_policy())

    async def _UpdatePolicy(self, request: session.UpdatePolicyRequest) -> None:
        request.policy.CopyFrom(_policy())
        request.policy.policy_id = self.ids["policy_id"]
        paths = ["display_name", "description", "enabled", "filter", "action", "check_session", "staleness"]
        paths += ["precedence", "traffic", "identity", "device_posture", "schedule", "expire_time"]
        request.update_mask.MergeFrom(FieldMask(paths=paths))

    async def _DeletePolicy(self, request: session.DeletePolicyRequest) -> None:
        request.policy_id = await self.world.policy()

    async def _ReorderPolicies(self, request: session.ReorderPoliciesRequest) -> None:
        request.policy_ids.append(await self.world.policy())

    async def _CreateDeviceProfile(self, request: registry.CreateDeviceProfileRequest) -> None:
        await self._room_for_a_device_profile()
        request.device_profile.CopyFrom(_device_profile(100 + next(_numbers)))

    async def _UpdateDeviceProfile(self, request: registry.UpdateDeviceProfileRequest) -> None:
        request.device_profile.CopyFrom(_device_profile(100 + next(_numbers)))
        request.device_profile.device_profile_id = self.ids["device_profile_id"]
        paths = ["name", "description", "enabled", "precedence", "match", "settings"]
        request.update_mask.MergeFrom(FieldMask(paths=paths))

    async def _DeleteDeviceProfile(self, request: registry.DeleteDeviceProfileRequest) -> None:
        request.device_profile_id = await self._new_device_profile()

    async def _MatchDeviceProfile(self, request: registry.MatchDeviceProfileRequest) -> None:
        request.test_subject.CopyFrom(
            registry.ProfileSubject(
                email="alice@example.com",
                groups=["staff"],
                oidc_claims=["level=7"],
                platform=registry.PLATFORM_MAC,
                os_version="15.1",
                network="office",
            )
        )

    async def _TestPolicies(self, request: session.TestPoliciesRequest) -> None:
        somebody = session.TestSubject(
            email="alice@example.com",
            display_name="Alice",
            groups=["staff"],
            passed_checks=["disk"],
            failed_checks=["firewall"],
            session_age="2h",
            posture_age="30m",
            oidc_claims=["department=engineering"],
        )
        request.tests.add(test_subject=somebody, kind=session.TRAFFIC_KIND_QUERY, traffic=_QUERY)
        request.time.CopyFrom(self._later(60))
        request.proposed_policies.append(
            session.Policy(
                display_name="Pages at work",
                enabled=True,
                filter=session.POLICY_FILTER_DNS,
                action=session.POLICY_ACTION_BLOCK,
                staleness=session.Staleness(mode=session.STALENESS_MODE_OPEN_BOUNDED, max_open="10m"),
                traffic='dns.fqdn == "wiki.example.com"',
                schedule=session.Schedule(
                    time_zone="Europe/Berlin", monday="08:00-12:30,13:30-17:00", friday="8:00-9:00"
                ),
                expire_time=self._later(86_400),
            )
        )

    async def _CreateList(self, request: session.CreateListRequest) -> None:
        request.list.CopyFrom(
            session.List(
                name=f"wiki-{next(_numbers)}",
                description="Where pages are",
                type=session.LIST_TYPE_IP,
                values=["10.0.0.0/8", "2001:db8::1"],
            )
        )

    async def _UpdateList(self, request: session.UpdateListRequest) -> None:
        request.list.CopyFrom(session.List(list_id=self.ids["list_id"], name=f"wiki-{next(_numbers)}"))
        request.list.values.append("10.0.0.1..10.0.0.9")
        request.update_mask.MergeFrom(FieldMask(paths=["name", "description", "values"]))

    async def _DeleteList(self, request: session.DeleteListRequest) -> None:
        request.list_id = await self._new_list()

    async def _CreateApplication(self, request: session.CreateApplicationRequest) -> None:
        request.application.CopyFrom(_application())

    async def _UpdateApplication(self, request: session.UpdateApplicationRequest) -> None:
        request.application.CopyFrom(_application())
        request.application.application_id = self.ids["application_id"]
        paths = ["display_name", "description", "session_duration", "policies", "identity_provider_ids"]
        request.update_mask.MergeFrom(FieldMask(paths=[*paths, "binding_cookie", "device_session"]))

    async def _DeleteApplication(self, request: session.DeleteApplicationRequest) -> None:
        request.application_id = await self._new_application()

    async def _UpdateDeviceSessionSettings(self, request: session.UpdateDeviceSessionSettingsRequest) -> None:
        request.settings.CopyFrom(session.DeviceSessionSettings(session_duration="24h", apply_by_default=True))
        request.update_mask.MergeFrom(FieldMask(paths=["session_duration", "apply_by_default"]))

    async def _LogIn(self, request: session.LogInRequest) -> None:
        request.credential.CopyFrom(self.world.id_token("alice"))
        request.challenge = await self._challenge()
        request.client.CopyFrom(_CLIENT)

    async def _CheckApplication(self, request: session.CheckApplicationRequest) -> None:
        login = self.bare(session.LogInRequest)
        login.ClearField("registration_id")
        login.credential.CopyFrom(self.world.id_token("alice"))
        begun = await self.plane.stub(session_rpc.SessionServiceStub).LogIn(login)
        request.session_token, request.binding = begun.session_token, begun.binding or "none"
        request.client.CopyFrom(_CLIENT)

    async def _Reauthenticate(self, request: session.ReauthenticateRequest) -> None:
        request.credential.CopyFrom(self.world.id_token("alice"))
        request.challenge = await self._challenge()

    async def _RefreshIdentity(self, request: session.RefreshIdentityRequest) -> None:
        request.credential.CopyFrom(self.world.id_token("alice"))
        request.challenge = await self._challenge()

    async def _challenge(self) -> str:
        request = self.bare(session.StartReauthenticationRequest)
        return str((await self.plane.stub(session_rpc.SessionServiceStub).StartReauthentication(request)).challenge)

    async def _BatchCheckSessions(self, request: session.BatchCheckSessionsRequest) -> None:
        request.items.add(registration_id=self.ids["registration_id"], policy_id=self.ids["policy_id"])

    async def _StreamCheckSessions(self, request: session.StreamCheckSessionsRequest) -> None:
        request.items.add(registration_id=self.ids["registration_id"], policy_id=self.ids["policy_id"])

    async def _CheckTraffic(self, request: session.CheckTrafficRequest) -> None:
        request.kind = session.TRAFFIC_KIND_REQUEST
        request.traffic.CopyFrom(_REQUEST)

    async def _BatchCheckTraffic(self, request: session.BatchCheckTrafficRequest) -> None:
        request.items.add(address=self.address, kind=session.TRAFFIC_KIND_REQUEST, traffic=_REQUEST)

    async def _Watch(self, request: Any) -> None:
        request.start.CopyFrom(Start(follower="a test", organization_ids=[self.ids["organization_id"]]))

    def _new_intent(self) -> str:
        return new_id(REGISTRATION, self.plane.clock.now())

    def _later(self, seconds: int) -> Timestamp:
        return Timestamp(seconds=self.plane.clock.now() // 1_000_000 + seconds)


def _device_profile(precedence: int) -> registry.DeviceProfile:
    settings = registry.DeviceProfileSettings(
        auto_connect="10m",
        captive_portal="3m",
        support_url="https://help.example.com",
        tunnel_protocol=registry.TUNNEL_TYPE_MASQUE,
        service_mode=registry.ServiceMode(mode=registry.ServiceMode.MODE_PROXY, port=8080),
        lan_allow="30m",
        lan_allow_subnet_size=24,
        dns_search_suffixes=registry.SearchSuffixes(suffixes=["corp.example.com"]),
        virtual_networks=registry.VirtualNetworks(allowed=["berlin"], default="berlin"),
        exclude=registry.Routes(routes=[registry.Route(address="10.0.0.0/8", description="The office")]),
    )
    settings.fallback_domains.domains.add(suffix="corp.example.com", description="Ours", dns_servers=["10.0.0.53"])
    return registry.DeviceProfile(
        name="Staff",
        description="On any machine",
        precedence=precedence,
        match='identity.email == "alice@example.com"',
        settings=settings,
    )


def _enrollment_policy(precedence: int) -> identity.EnrollmentPolicy:
    return identity.EnrollmentPolicy(
        display_name="Staff",
        decision=identity.ENROLLMENT_DECISION_ALLOW,
        precedence=precedence,
        include=[identity.EnrollmentRule(email="alice@example.com")],
        require=[identity.EnrollmentRule(group="staff")],
        exclude=[identity.EnrollmentRule(email_domain="example.org")],
    )


def _rule_group() -> identity.RuleGroup:
    return identity.RuleGroup(
        display_name="Staff",
        include=[identity.EnrollmentRule(ip_range="192.0.2.0/24")],
        require=[identity.EnrollmentRule(country="DE")],
        exclude=[identity.EnrollmentRule(auth_method="pwd")],
    )


def _policy() -> session.Policy:
    return session.Policy(
        display_name="Wiki",
        description="Pages",
        enabled=True,
        filter=session.POLICY_FILTER_HTTP,
        action=session.POLICY_ACTION_ALLOW,
        check_session=session.CheckSession(enforce=True, duration="1h"),
        staleness=session.Staleness(mode=session.STALENESS_MODE_OPEN_BOUNDED, max_open="10m"),
        precedence=500_000 + next(_numbers),
        traffic='http.request.host == "wiki.example.com" and http.request.method == "GET"',
        identity='identity.email matches "@example\\.com$"',
        device_posture='any(device_posture.checks.passed[*] in {"disk"})',
    )


def _application() -> session.Application:
    return session.Application(
        display_name="Wiki",
        description="Pages",
        session_duration="8h",
        policies=[
            session.ApplicationPolicy(
                display_name="Staff",
                decision=session.APPLICATION_DECISION_ALLOW,
                include=[session.ApplicationRule(email="alice@example.com"), session.ApplicationRule(group="staff")],
                require=[session.ApplicationRule(email_domain="example.com")],
                exclude=[session.ApplicationRule(country="FR")],
                session_duration="1h",
            )
        ],
    )


_HOLDER = identity.HolderIdentity(
    email="alice@example.com", display_name="Alice", groups=["staff"], oidc_claims=["department=research"]
)
_CLIENT = session.ClientFacts(ip="192.0.2.1", country="DE")
_REQUEST = session.Traffic(
    fields={"http.request.host": "wiki.example.com", "net.dst.ip": "10.0.0.1", "net.dst.port": "443"},
    lists={"app.ids": session.TrafficValues(values=["17", "18"])},
)
_QUERY = session.Traffic(
    fields={"dns.fqdn": "wiki.example.com"}, lists={"dns.resolved_ips": session.TrafficValues(values=["10.0.0.1"])}
)
