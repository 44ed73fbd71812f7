"""Every reason of errors.proto, provoked by its real cause in a running plane; on both engines.

A case is a method with the reason's name in small letters. A reason without one fails, and so does a refusal whose code
or metadata are not those that the reason's comment in the contract names.
"""

import asyncio
import inspect
import itertools
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy.engine import make_url

from demo.issuer import Issuer, Person
from guardhouse import keys
from guardhouse.clock import SystemClock
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse.common.v1.feed_pb2 import OrganizationPosition, Position, Start
from guardhouse.common.v1.results_pb2 import ItemError
from guardhouse.enrollment import make_rotation
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.ids import default_profile_id
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from guardhouse_services.database import Database, change, new_epoch
from guardhouse_services.tls import internal_name, peer_credentials
from tests.system.contract import METHODS, REASONS, comments
from tests.system.people import World
from tests.system.seeds import Seeds
from tests.system.wire import Caller, Outcome, ended, send, send_to

UNKNOWN = "0198c0de5a3c7f1e8a2b4c6d8e0f1234"
# What else google.rpc has for a refusal of this code (decision 36).
DETAIL = {"RESOURCE_EXHAUSTED": "QuotaFailure", "FAILED_PRECONDITION": "PreconditionFailure"}

HOLD = """
import sys, time
from guardhouse_services.database import sqlite_driver
connection = sqlite_driver().connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(60)
"""

Refusal = Outcome | ItemError


class Cases:
    """What provokes each reason. The later ones leave less and less of the plane."""

    def __init__(self, seeds: Seeds) -> None:
        self.seeds = seeds
        self.world = seeds.world
        self.plane = seeds.plane
        self.organization_id = seeds.world.organization_id

    async def call(self, name: str, *, by: str | None = None, **changes: Any) -> Outcome:
        """A call that would succeed if it were not for these fields, or for who makes it."""
        method = METHODS[name]
        caller, request = await self.seeds.valid(method)
        return await self.send(name, _changed(request, changes), caller if by is None else Caller(by))

    async def send(self, name: str, request: Any, caller: Caller | None = None) -> Outcome:
        method = METHODS[name]
        return await send(self.plane, method, caller or self.seeds.caller(method), request.SerializeToString())

    async def register(self, credential: Credential, machine: str, **changes: Any) -> Outcome:
        request = await self.world.request(credential, machine)
        return await self.send("registry.EnrollmentService.Register", _changed(request, changes))

    async def another(self, seat_limit: int | None = None) -> World:
        return World(self.plane, await self.plane.create_organization(seat_limit))

    # The request is wrong

    async def message_invalid(self) -> Outcome:
        method = METHODS["identity.UserService.GetUser"]
        return await send(self.plane, method, self.seeds.caller(method), b"\xff")

    async def field_required(self) -> Outcome:
        return await self.call("identity.UserService.GetUser", user_id="")

    async def field_invalid(self) -> Outcome:
        return await self.call("identity.UserService.GetUser", user_id=self.seeds.ids["device_id"])

    async def duration_invalid(self) -> Outcome:
        return await self.call("identity.ServiceTokenService.CreateServiceToken", duration="1d")

    async def key_invalid(self) -> Outcome:
        return await self.call("registry.EnrollmentService.Register", public_key=bytes(32))

    async def proof_invalid(self) -> Outcome:
        return await self.call("registry.EnrollmentService.Register", proof=bytes(32))

    async def challenge_invalid(self) -> Outcome:
        return await self.call("registry.EnrollmentService.Register", challenge="1.made-up")

    async def override_code_invalid(self) -> Outcome:
        method = METHODS["registry.RegistrationService.CheckOverrideCode"]
        caller, request = await self.seeds.valid(method)
        request.code = f"{(int(request.code) + 1) % 10**7:07}"
        return await self.send(method.name, request, caller)

    async def page_token_invalid(self) -> Outcome:
        return await self.call("identity.UserService.ListUsers", page_token="x")

    async def revision_token_invalid(self) -> Outcome:
        return await self.call("session.PolicyService.GetPolicy", at_least=["x"])

    async def request_id_reused(self) -> Outcome:
        _, request = await self.seeds.valid(METHODS["session.PolicyService.CreatePolicy"])
        await self.send("session.PolicyService.CreatePolicy", request)
        request.policy.display_name = "Another"
        return await self.send("session.PolicyService.CreatePolicy", request)

    # The caller is

    async def credentials_missing(self) -> Outcome:
        return await self.call("identity.UserService.GetUser", by="")

    async def credentials_invalid(self) -> Outcome:
        return await self.call("identity.UserService.GetUser", by=f"{self.plane.admin_key[:-4]}AAAA")

    async def access_denied(self) -> Outcome:
        return await self.call("registry.DeviceService.ListDevices", by=self.seeds.token)

    async def rate_limited(self) -> Outcome:
        for _ in range(1000):
            outcome = await self.access_denied()
            if outcome.reason != "ACCESS_DENIED":
                assert "RetryInfo" in outcome.details
                return outcome
        raise AssertionError("a device may be refused without end")

    async def id_token_invalid(self) -> Outcome:
        return await self.register(Credential(id_token="made up"), "laptop")

    async def service_token_invalid(self) -> Outcome:
        secret = ServiceTokenCredential(client_id=f"{'0' * 32}.access", client_secret="0" * 64)
        return await self.register(Credential(service_token=secret), "builder")

    async def enrollment_refused(self) -> Outcome:
        return await self.register(self.world.id_token("eve@elsewhere.test"), "laptop")

    async def user_blocked(self) -> Outcome:
        gone = (await self.world.enroll("oscar")).registration
        offboard = identity.OffboardUserRequest(organization_id=self.organization_id, user_id=gone.user_id)
        await self.world.users.OffboardUser(offboard)
        return await self.register(self.world.id_token("oscar"), "laptop")

    async def different_user(self) -> Outcome:
        await self.world.enroll("bob")
        return await self.call("session.SessionService.Reauthenticate", credential=self.world.id_token("bob"))

    # There is no such thing

    async def organization_not_found(self) -> Outcome:
        return await self.call(
            "identity.OrganizationService.GetOrganization", organization_id=f"org_{UNKNOWN}", at_least=[]
        )

    async def user_not_found(self) -> Outcome:
        return await self.call("identity.UserService.GetUser", user_id=f"usr_{UNKNOWN}")

    async def removal_not_found(self) -> Outcome:
        return await self.call("identity.UserService.GetRemoval", removal_id=f"rmv_{UNKNOWN}")

    async def held_action_not_found(self) -> Outcome:
        return await self.call("identity.HeldActionService.RejectHeldAction", held_action_id=f"hld_{UNKNOWN}")

    async def api_key_not_found(self) -> Outcome:
        return await self.call("identity.ApiKeyService.RevokeApiKey", api_key_id=f"key_{UNKNOWN}")

    async def identity_provider_not_found(self) -> Outcome:
        name = "identity.IdentityProviderService.GetIdentityProvider"
        return await self.call(name, identity_provider_id=f"idp_{UNKNOWN}")

    async def service_token_not_found(self) -> Outcome:
        return await self.call("identity.ServiceTokenService.GetServiceToken", service_token_id=f"svt_{UNKNOWN}")

    async def enrollment_policy_not_found(self) -> Outcome:
        name = "identity.EnrollmentPolicyService.GetEnrollmentPolicy"
        return await self.call(name, enrollment_policy_id=f"enp_{UNKNOWN}")

    async def device_not_found(self) -> Outcome:
        return await self.call("registry.DeviceService.GetDevice", device_id=f"dev_{UNKNOWN}")

    async def registration_not_found(self) -> Outcome:
        name = "registry.RegistrationService.GetRegistration"
        return await self.call(name, by=self.plane.admin_key, registration_id=f"reg_{UNKNOWN}")

    async def device_profile_not_found(self) -> Outcome:
        name = "registry.DeviceProfileService.GetDeviceProfile"
        return await self.call(name, device_profile_id=f"dpr_{UNKNOWN}")

    async def address_not_found(self) -> Outcome:
        return await self.call("ipam.AddressService.LookupAddress", address="192.0.2.1")

    async def pin_not_found(self) -> Outcome:
        return await self.call("ipam.AddressService.UnpinAddress", pin_id=f"pin_{UNKNOWN}")

    async def subnet_not_found(self) -> Outcome:
        return await self.call("ipam.SubnetService.GetSubnet", subnet_id=f"sub_{UNKNOWN}")

    async def ip_profile_not_found(self) -> Outcome:
        return await self.call("ipam.IpProfileService.GetIpProfile", ip_profile_id=f"ipp_{UNKNOWN}")

    async def policy_not_found(self) -> Outcome:
        return await self.call("session.PolicyService.GetPolicy", policy_id=f"pol_{UNKNOWN}")

    async def list_not_found(self) -> Outcome:
        return await self.call("session.ListService.GetList", list_id=f"lst_{UNKNOWN}")

    async def rule_group_not_found(self) -> Outcome:
        return await self.call("identity.RuleGroupService.GetRuleGroup", rule_group_id=f"rgp_{UNKNOWN}")

    async def application_not_found(self) -> Outcome:
        return await self.call("session.ApplicationService.GetApplication", application_id=f"app_{UNKNOWN}")

    # There is one already, or too many

    async def key_already_registered(self) -> Outcome:
        world, private_key = await self.another(), keys.new_private_key()
        first = await world.request(world.id_token("alice"), "laptop", private_key=private_key)
        await world.enrollment.Register(first)
        second = await world.request(world.id_token("alice"), "phone", private_key=private_key)
        return await self.send("registry.EnrollmentService.Register", second)

    async def identity_provider_exists(self) -> Outcome:
        provider = identity.IdentityProvider(display_name="again", issuer=self.plane.issuer.url, client_ids=["x"])
        return await self.call("identity.IdentityProviderService.CreateIdentityProvider", identity_provider=provider)

    async def precedence_taken(self) -> Outcome:
        name = "identity.EnrollmentPolicyService.CreateEnrollmentPolicy"
        _, request = await self.seeds.valid(METHODS[name])
        request.enrollment_policy.precedence = 10
        outcome = await self.send(name, request)
        assert outcome.reason == "PRECEDENCE_TAKEN"
        name = "session.PolicyService.CreatePolicy"
        _, again = await self.seeds.valid(METHODS[name])
        assert (await self.send(name, again)).code == "OK"
        again.request_id += "2"
        return await self.send(name, again)

    async def pin_exists(self) -> Outcome:
        name = "ipam.AddressService.PinAddress"
        _, request = await self.seeds.valid(METHODS[name])
        assert (await self.send(name, request)).code == "OK"
        request.request_id = "another"
        return await self.send(name, request)

    async def list_exists(self) -> Outcome:
        name = "session.ListService.CreateList"
        _, request = await self.seeds.valid(METHODS[name])
        assert (await self.send(name, request)).code == "OK"
        request.request_id += "2"
        return await self.send(name, request)

    async def limit_reached(self) -> Outcome:
        name = "identity.IdentityProviderService.CreateIdentityProvider"
        _, request = await self.seeds.valid(METHODS[name])
        numbers = itertools.count()
        while True:
            number = next(numbers)
            request.request_id = f"limit-{number}"
            request.identity_provider.issuer = f"https://{number}.limit.example"
            outcome = await self.send(name, request)
            if outcome.code != "OK":
                return outcome

    async def seats_exhausted(self) -> Outcome:
        world = await self.another(seat_limit=0)
        request = await world.request(world.id_token("alice"), "laptop")
        return await self.send("registry.EnrollmentService.Register", request)

    async def subnet_exhausted(self) -> Outcome:
        """A /28 has fourteen addresses."""
        world = await self.another()
        for number in range(14):
            await world.enroll(f"person{number}")
        request = await world.request(world.id_token("one too many"), "laptop")
        return await self.send("registry.EnrollmentService.Register", request)

    # The state forbids it

    async def seat_limit_below_use(self) -> Outcome:
        organization = identity.Organization(seat_limit=0)
        mask = FieldMask(paths=["seat_limit"])
        name = "identity.OrganizationService.UpdateOrganization"
        return await self.call(name, organization=organization, update_mask=mask)

    async def user_not_offboarded(self) -> Outcome:
        return await self.call("identity.UserService.EraseUser", user_id=self.seeds.ids["user_id"])

    async def held_action_decided(self) -> Outcome:
        name = "identity.HeldActionService.RejectHeldAction"
        _, request = await self.seeds.valid(METHODS[name])
        await self.send(name, request)
        return await self.call("identity.HeldActionService.ApproveHeldAction", held_action_id=request.held_action_id)

    async def service_token_in_use(self) -> Outcome:
        name = "identity.EnrollmentPolicyService.CreateEnrollmentPolicy"
        _, request = await self.seeds.valid(METHODS[name])
        rule = identity.EnrollmentRule(service_token_id=self.seeds.ids["service_token_id"])
        request.enrollment_policy.CopyFrom(
            identity.EnrollmentPolicy(
                display_name="machines",
                decision=identity.ENROLLMENT_DECISION_SERVICE_AUTH,
                precedence=1000,
                include=[rule],
            )
        )
        assert (await self.send(name, request)).code == "OK"
        return await self.call(
            "identity.ServiceTokenService.DeleteServiceToken", service_token_id=self.seeds.ids["service_token_id"]
        )

    async def subnet_overlaps(self) -> Outcome:
        _, request = await self.seeds.valid(METHODS["ipam.SubnetService.CreateSubnet"])
        assert (await self.send("ipam.SubnetService.CreateSubnet", request)).code == "OK"
        again = ipam.Subnet(display_name="again", network=request.subnet.network)
        return await self.call("ipam.SubnetService.CreateSubnet", subnet=again)

    async def subnet_in_use(self) -> Outcome:
        return await self.call("ipam.SubnetService.DeleteSubnet", subnet_id=self.seeds.ids["subnet_id"])

    async def rule_group_in_use(self) -> Outcome:
        name = "identity.EnrollmentPolicyService.CreateEnrollmentPolicy"
        _, request = await self.seeds.valid(METHODS[name])
        request.enrollment_policy.include.add(rule_group_id=self.seeds.ids["rule_group_id"])
        assert (await self.send(name, request)).code == "OK"
        name = "identity.RuleGroupService.DeleteRuleGroup"
        return await self.call(name, rule_group_id=self.seeds.ids["rule_group_id"])

    async def address_held(self) -> Outcome:
        made = (await self.world.enroll("erin")).registration
        return await self.call("ipam.AddressService.PinAddress", network=made.ipv4)

    async def list_in_use(self) -> Outcome:
        ids = self.seeds.ids
        name = "session.ListService.UpdateList"
        changed = session.List(list_id=ids["list_id"], name="in-use")
        assert (await self.call(name, list=changed)).code == "OK"
        policy = session.Policy(
            display_name="In use",
            filter=session.POLICY_FILTER_L4,
            action=session.POLICY_ACTION_BLOCK,
            traffic="net.dst.ip in $in-use",
        )
        assert (await self.call("session.PolicyService.CreatePolicy", policy=policy)).code == "OK"
        return await self.call("session.ListService.DeleteList", list_id=ids["list_id"])

    async def device_session_duration_required(self) -> Outcome:
        settings = "session.ApplicationService.UpdateDeviceSessionSettings"
        assert (await self.call(settings)).code == "OK"
        application = session.Application(display_name="Wiki", device_session=True)
        assert (await self.call("session.ApplicationService.CreateApplication", application=application)).code == "OK"
        return await self.call(settings, settings=session.DeviceSessionSettings())

    async def device_held_by_another_user(self) -> Outcome:
        return await self.register(self.world.id_token("bob"), "seed")

    async def device_profile_is_default(self) -> Outcome:
        name = "registry.DeviceProfileService.DeleteDeviceProfile"
        return await self.call(name, device_profile_id=default_profile_id(self.seeds.ids["organization_id"]))

    async def leave_not_allowed(self) -> Outcome:
        world = await self.another()
        made = await world.enroll("alice")
        organization_id = world.organization_id
        change = registry.UpdateDeviceProfileRequest(
            organization_id=organization_id,
            device_profile=registry.DeviceProfile(
                device_profile_id=default_profile_id(organization_id),
                settings=registry.DeviceProfileSettings(allowed_to_leave=False),
            ),
            update_mask=FieldMask(paths=["settings.allowed_to_leave"]),
        )
        assert (await self.send("registry.DeviceProfileService.UpdateDeviceProfile", change)).code == "OK"
        leave = registry.LeaveRequest(
            organization_id=organization_id, registration_id=made.registration.registration_id, request_id="1"
        )
        return await self.send("registry.RegistrationService.Leave", leave, Caller(made.token))

    async def multi_user_not_allowed(self) -> Outcome:
        # The other devices run Linux.
        shared = registry.MultiUser(os_user="anna")
        return await self.register(self.world.id_token("carol"), "shared", multi_user=shared)

    async def device_not_shared(self) -> Outcome:
        made = await self.world.enroll("carol", "not-shared")
        request = registry.ReportOsSessionRequest(
            organization_id=self.organization_id,
            registration_id=made.registration.registration_id,
            event=registry.OS_SESSION_EVENT_LOCK,
            sequence=1,
        )
        return await self.send("registry.DeviceService.ReportOsSession", request, Caller(made.token))

    async def device_held_by_another_registration(self) -> ItemError:
        world = await self.another()
        first = (await world.enroll("alice", "laptop")).registration.registration_id
        await world.registrations.RevokeRegistrations(world.batch(registry.RevokeRegistrationsRequest, first))
        await world.enroll("alice", "laptop")
        answer = await world.registrations.UnrevokeRegistrations(
            world.batch(registry.UnrevokeRegistrationsRequest, first)
        )
        error: ItemError = answer.results[0].error
        return error

    async def user_removed(self) -> Outcome:
        """The registration is one of whose enrollment identity has not heard yet."""
        world = await self.another()
        gone = (await world.enroll("zoe")).registration
        await world.remove(gone.user_id)
        request = identity.RecordAuthenticationRequest(
            organization_id=world.organization_id,
            registration_id=f"reg_{UNKNOWN}",
            user_id=gone.user_id,
            credential=world.id_token("zoe"),
            request_id="1",
        )
        return await self.send("identity.AuthenticationService.RecordAuthentication", request)

    async def registration_revoked(self) -> Outcome:
        made = (await self.world.enroll("carol")).registration
        batch = self.world.batch(registry.RevokeRegistrationsRequest, made.registration_id)
        token = (await self.world.registrations.RevokeRegistrations(batch)).revision_token
        name = "session.SessionService.Reauthenticate"
        return await self.call(name, registration_id=made.registration_id, at_least=[token])

    async def key_not_current(self) -> Outcome:
        world = await self.another()
        made = await world.enroll("alice")
        info = await world.enrollment.GetEnrollmentInfo(
            registry.GetEnrollmentInfoRequest(organization_id=world.organization_id)
        )

        async def rotate(request_id: str) -> Outcome:
            of, key = made.registration, keys.new_private_key()
            about = world.organization_id, of.registration_id, of.public_key
            request = make_rotation(info, *about, key, request_id)
            return await self.send("registry.RegistrationService.RotateKey", request, Caller(made.token))

        assert (await rotate("1")).code == "OK"
        return await rotate("2")

    async def etag_mismatch(self) -> Outcome:
        return await self.call("session.PolicyService.DeletePolicy", etag="0" * 16)

    async def enrollment_aborted(self) -> Outcome:
        name = "identity.AuthenticationService.AuthorizeEnrollment"
        _, request = await self.seeds.valid(METHODS[name])
        cancel = identity.CancelEnrollmentRequest(organization_id=self.organization_id, intent_id=request.intent_id)
        assert (await self.send("identity.AuthenticationService.CancelEnrollment", cancel)).code == "OK"
        return await self.send(name, request)

    async def conflict(self) -> Outcome:
        """One user, one device, many at once, and no patience."""
        world = await self.another()
        await world.enroll("alice", "laptop")
        for _ in range(20):
            requests = [await world.request(world.id_token("alice"), "laptop") for _ in range(8)]
            outcomes = await asyncio.gather(*(self.send("registry.EnrollmentService.Register", it) for it in requests))
            # They may have come one after the other.
            if refused := [it for it in outcomes if it.code != "OK"]:
                return refused[0]
        raise AssertionError("nobody was in anybody's way")

    # Something is not there

    async def deadline_too_short(self) -> Outcome:
        method = METHODS["session.PolicyService.CreatePolicy"]
        caller, request = await self.seeds.valid(method)
        channel = self.plane.raw("session", "public", "")
        for _ in range(100):
            raw = request.SerializeToString()
            outcome = await send_to(channel, method.path, False, caller.metadata, raw, seconds=0.09)
            # On a slow machine the client has given up before the server has said so.
            if outcome.reason:
                return outcome
        raise AssertionError("no answer came in 90 ms")

    async def identity_provider_unavailable(self) -> Outcome:
        with Issuer([Person("alice@example.com", "alice")]) as issuer:
            provider = identity.IdentityProvider(display_name="Gone", issuer=issuer.url, client_ids=[issuer.client_id])
            providers = self.plane.stub(identity_rpc.IdentityProviderServiceStub)
            world = await self.another()
            await providers.CreateIdentityProvider(
                identity.CreateIdentityProviderRequest(
                    organization_id=world.organization_id, identity_provider=provider
                )
            )
            token = issuer.sign(issuer.claims("alice@example.com"))
        request = await world.request(Credential(id_token=token), "laptop")
        return await self.send("registry.EnrollmentService.Register", request)

    async def service_unavailable(self) -> Outcome:
        await self.plane.stop("ipam")
        try:
            return await self.register(self.world.id_token("dave"), "laptop")
        finally:
            await self.plane.start("ipam")

    async def state_stale(self) -> Outcome:
        """Session has heard nothing from the registry for longer than max_staleness."""
        await self.plane.stop("registry")
        try:
            self.plane.clock.advance(60)
            return await self.call("session.SessionService.GetSession", by=self.plane.admin_key)
        finally:
            await self.plane.start("registry")

    async def epoch_changed(self) -> Outcome:
        """What `guardhouse-server new-epoch` does after a restore."""
        made = await self.send_policy()
        await self.plane.stop("session")
        restored = Database(self.plane.settings.database("session"), SystemClock(), "session", session.Change)
        await restored.write(new_epoch)
        restored.close()
        await self.plane.start("session")
        return await self.call("session.PolicyService.GetPolicy", at_least=[made.revision_token])

    async def send_policy(self) -> session.CreatePolicyResponse:
        outcome = await self.call("session.PolicyService.CreatePolicy")
        return session.CreatePolicyResponse.FromString(outcome.answers[0])

    async def follower_too_slow(self) -> Outcome:
        """A follower that asks for everything and reads nothing."""
        policy = session.Policy(
            display_name="Wiki",
            description="\N{SNOWMAN}" * 500,
            filter=session.POLICY_FILTER_HTTP,
            action=session.POLICY_ACTION_ALLOW,
        )
        for _ in range(150):
            await self.call("session.PolicyService.CreatePolicy", policy=policy)
        raw = session.WatchRequest(start=Start(follower="idle", all=True)).SerializeToString()
        method = METHODS["session.SessionFeedService.Watch"]
        settings = self.plane.settings
        # gRPC would read ahead for it, as far as it thinks that the link can take.
        options = [("grpc.ssl_target_name_override", internal_name("session")), ("grpc.http2.bdp_probe", 0)]
        credentials = peer_credentials(settings.tls_path, "registry")
        async with grpc.aio.secure_channel(settings.peer("session"), credentials, options) as channel:
            call: Any = channel.stream_stream(method.path)(timeout=20)
            await call.write(raw)
            await asyncio.sleep(3)
            return await ended(call)

    async def internal(self) -> Outcome:
        """The history has a hole, which nothing but a fault can make."""
        for _ in range(3):
            await self.send_policy()
        database = self.plane.nodes["session"].database
        heads = sa.select(sa.func.max(change.c.revision)).where(change.c.organization_id == self.organization_id)
        newest = await database.read(lambda tx: tx.execute(heads).scalar_one())
        epoch = await database.read(lambda tx: tx.epoch())
        await database.write(
            lambda tx: tx.execute(
                change.delete().where(change.c.organization_id == self.organization_id, change.c.revision == newest - 1)
            )
        )
        at = OrganizationPosition(
            organization_id=self.organization_id, position=Position(epoch=epoch, revision=newest - 2)
        )
        start = Start(organization_ids=[self.organization_id], positions=[at])
        return await self.send("session.SessionFeedService.Watch", session.WatchRequest(start=start))

    async def database_unavailable(self) -> Outcome:
        """PostgreSQL lets nobody in any more; a SQLite file is held by somebody else."""
        url = make_url(self.plane.settings.database("session"))
        if url.get_backend_name() == "sqlite":
            assert url.database
            command = [sys.executable, "-c", HOLD, url.database]
            holder = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert holder.stdout
            await holder.stdout.readline()
            try:
                return await self.call("session.PolicyService.CreatePolicy")
            finally:
                holder.kill()
                await holder.wait()
        engine = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false')
            connection.exec_driver_sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
            )
        engine.dispose()
        return await self.call("session.PolicyService.CreatePolicy")


CASES: dict[str, Callable[[Cases], Awaitable[Refusal]]] = {
    name.upper(): case
    for name, case in vars(Cases).items()
    if inspect.iscoroutinefunction(case) and name not in ("call", "send", "register", "another", "send_policy")
}


@pytest.fixture
async def cases(world: World) -> Cases:
    return Cases(await Seeds(world).plant())


def test_every_reason_has_a_case() -> None:
    """A new reason is not in the contract before something raises it."""
    assert set(CASES) == REASONS


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
@pytest.mark.timeout(180)
@pytest.mark.plane(ipv4_subnet="100.96.0.0/28")
async def test_every_reason_is_raised(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decision 36."""
    # Patience is what these two are about, and ours is short.
    monkeypatch.setattr("guardhouse_services.registry.usecases.enrollments.ACTIVATIONS", 1)
    monkeypatch.setattr("guardhouse_services.feed.SEND_SECONDS", 0.3)
    wrong = []
    for reason, case in CASES.items():
        if fault := _fault(reason, await case(cases)):
            wrong.append(f"{reason}: {fault}")
    assert wrong == [], "\n".join(wrong)


def _fault(reason: str, refusal: Refusal) -> str:
    """What is not as the reason's comment says."""
    if isinstance(refusal, ItemError):
        return "" if ErrorReason.Name(refusal.reason) == f"ERROR_REASON_{reason}" and refusal.message else str(refusal)
    comment = comments("common")[f"ErrorReason.ERROR_REASON_{reason}"]
    code = comment.partition(":")[0]
    if (refusal.code, refusal.reason, refusal.domain) != (code, reason, "guardhouse"):
        return f"{refusal}: {refusal.message}"
    wanted = set(re.findall(r"Metadata: (\w+)", comment))
    if set(refusal.metadata) != wanted or not all(refusal.metadata.values()):
        return f"the metadata are {refusal.metadata}, and not {wanted}"
    details = {"ErrorInfo", "RequestInfo"} | ({"BadRequest"} if "field" in wanted else set())
    if code in DETAIL:
        details.add(DETAIL[code])
    if not details <= refusal.details:
        return f"the details are {sorted(refusal.details)}"
    return "" if refusal.message else "it says nothing to people"


def _changed(request: Any, changes: dict[str, Any]) -> Any:
    for name, value in changes.items():
        request.ClearField(name)
        request.MergeFrom(type(request)(**{name: value}))
    return request
