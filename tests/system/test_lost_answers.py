"""Three answers of ten are lost, and everybody repeats what they did not hear about; everything happens once.

On PostgreSQL a repetition goes to any replica of its service.
"""

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message_factory import GetMessageClass

from guardhouse import keys
from guardhouse.common.v1.access_pb2 import ROLE_AUDITOR
from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.enrollment import make_request, make_rotation
from guardhouse.errors import CredentialsInvalid
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from guardhouse_services.audit import audit_record
from guardhouse_services.config import SERVICES
from guardhouse_services.database import Transaction
from tests.plane import Plane
from tests.system.contract import METHODS
from tests.system.people import World
from tests.system.proxy import LossyProxy
from tests.system.state import quiet
from tests.system.wire import Caller, send

CLIENTS, ROUNDS = 64, 4
LOSS = 0.3
# What a client repeats although it has heard the answer, and what it sends twice at once.
REPEATED, TWICE = 0.1, 0.1
# What goes on by itself while a call is repeated: a removal, and what identity hears of an enrollment.
GOES_ON = {
    "identity.UserService.RemoveUsers": [
        f"removal.{name}" for name in ("registrations", "registrations_deleted", "addresses_released", "done")
    ],
    "identity.UserService.RevokeUser": ["user.authenticate_time"],
    # What is said of the person comes by identity's feed.
    "registry.EnrollmentService.Register": ["registration.update_time", "device.update_time", "device.last_seen_user"],
}

pytestmark = [pytest.mark.plane(anonymous_rate=1e6, anonymous_burst=10**6), pytest.mark.timeout(180)]


@pytest.fixture
async def proxy(engine: str, plane: Plane) -> AsyncIterator[LossyProxy]:
    hosts = ["127.0.0.1"]
    if engine == "postgresql":
        hosts.append("127.0.0.2")
        for service in SERVICES:
            await plane.start(service, hosts[1])
    async with LossyProxy(plane, dict.fromkeys(SERVICES, hosts), LOSS, seed=3) as proxy:
        yield proxy


class Client:
    """Somebody with a device, a machine, and an operator's key. It notes what there should be in the end."""

    def __init__(self, world: World, proxy: LossyProxy, number: int) -> None:
        self.world = world
        self.proxy = proxy
        self.number = number
        self.about: dict[str, Any] = {"organization_id": world.organization_id}
        self.random = random.Random(number)
        self.sent: Counter[str] = Counter()
        self.live: set[str] = set()
        self.kept: Counter[str] = Counter()
        self._calls: dict[tuple[str, str], Any] = {}

    async def do(self, name: str, request: Any, bearer: str | None = None) -> Any:
        """The answer to a call, which is repeated until there is one; more than one must be the same."""
        method = METHODS[name]
        bearer = self.world.plane.admin_key if bearer is None else bearer
        if (name, bearer) not in self._calls:
            answer_type = GetMessageClass(method.descriptor.output_type)
            self._calls[name, bearer] = self.proxy.channel(bearer).unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=answer_type.FromString,
            )
        call = self._calls[name, bearer]
        if not method.takes("request_id"):
            return await call(request)
        self.sent[name] += 1
        request.request_id = request.request_id or uuid.uuid4().hex
        chance = self.random.random()
        if chance < TWICE:
            return (await asyncio.gather(call(request), call(request)))[0]
        answer = await call(request)
        return await call(request) if chance < TWICE + REPEATED else answer

    async def enroll(self, credential: Credential, machine: str) -> registry.RegisterResponse:
        info = await self.info()
        device = registry.DeviceClaims(hardware_id=machine)
        private_key, request_id = keys.new_private_key(), uuid.uuid4().hex
        request = make_request(info, self.about["organization_id"], credential, device, private_key, request_id)
        made: registry.RegisterResponse = await self.do("registry.EnrollmentService.Register", request, bearer="")
        self.live.add(made.registration.registration_id)
        return made

    async def info(self) -> registry.GetEnrollmentInfoResponse:
        request = registry.GetEnrollmentInfoRequest(**self.about)
        answer: registry.GetEnrollmentInfoResponse = await self.do(
            "registry.EnrollmentService.GetEnrollmentInfo", request, bearer=""
        )
        return answer

    async def work(self) -> None:
        await (self.manage_a_device() if self.number % 2 else self.manage_machines())

    async def manage_a_device(self) -> None:
        """Enroll, rotate the key, sign in again, be revoked and restored, enroll anew, and go in one of four ways."""
        person, machine = f"person{self.number}", f"laptop{self.number}"
        first = await self.enroll(self.world.id_token(person), machine)
        device, of = first.token, first.registration
        rotation = make_rotation(
            *(await self.info(), self.about["organization_id"], of.registration_id, of.public_key),
            keys.new_private_key(),
            uuid.uuid4().hex,
        )
        await self.do("registry.RegistrationService.RotateKey", rotation, device)
        again = session.ReauthenticateRequest(
            **self.about, registration_id=of.registration_id, credential=self.world.id_token(person)
        )
        await self.do("session.SessionService.Reauthenticate", again, device)
        for change in ("Revoke", "Unrevoke"):
            batch = self.world.batch(getattr(registry, f"{change}RegistrationsRequest"), of.registration_id)
            await self.do(f"registry.RegistrationService.{change}Registrations", batch)
        second = await self.enroll(self.world.id_token(person), machine)
        self.live.discard(of.registration_id)
        self.kept["users"] += 1
        await self.go(second)

    async def go(self, made: registry.RegisterResponse) -> None:
        of = made.registration
        match self.number // 2 % 5:
            case 0:
                batch = self.world.batch(registry.DeleteRegistrationsRequest, of.registration_id)
                await self.do("registry.RegistrationService.DeleteRegistrations", batch)
            case 1:
                leave = registry.LeaveRequest(**self.about, registration_id=of.registration_id)
                await self.do("registry.RegistrationService.Leave", leave, made.token)
            case 2:
                delete = registry.DeleteDeviceRequest(**self.about, device_id=of.device_id)
                await self.do("registry.DeviceService.DeleteDevice", delete)
            case 3:
                remove = identity.RemoveUsersRequest(**self.about, user_ids=[of.user_id])
                await self.do("identity.UserService.RemoveUsers", remove)
                self.kept["users"] -= 1
            case 4:
                revoke = registry.RevokeDeviceRequest(**self.about, device_id=of.device_id)
                await self.do("registry.DeviceService.RevokeDevice", revoke)
                user = identity.RevokeUserRequest(**self.about, user_id=of.user_id)
                await self.do("identity.UserService.RevokeUser", user)
                return
        self.live.discard(of.registration_id)

    async def manage_machines(self) -> None:
        """Make a service token, let a machine enroll with it, and take away what it does not need any longer."""
        token = identity.CreateServiceTokenRequest(**self.about, display_name=f"machine {self.number}")
        made = await self.do("identity.ServiceTokenService.CreateServiceToken", token)
        policy = identity.EnrollmentPolicy(
            display_name=f"machine {self.number}",
            decision=identity.ENROLLMENT_DECISION_SERVICE_AUTH,
            precedence=100 + self.number,
            include=[identity.EnrollmentRule(service_token_id=made.service_token.service_token_id)],
        )
        create = identity.CreateEnrollmentPolicyRequest(**self.about, enrollment_policy=policy)
        admits = await self.do("identity.EnrollmentPolicyService.CreateEnrollmentPolicy", create)
        secret = ServiceTokenCredential(client_id=made.service_token.client_id, client_secret=made.client_secret)
        await self.enroll(Credential(service_token=secret), f"machine{self.number}")
        if self.number % 4:
            gone = identity.DeleteEnrollmentPolicyRequest(
                **self.about, enrollment_policy_id=admits.enrollment_policy.enrollment_policy_id
            )
            await self.do("identity.EnrollmentPolicyService.DeleteEnrollmentPolicy", gone)
            unused = identity.DeleteServiceTokenRequest(
                **self.about, service_token_id=made.service_token.service_token_id
            )
            await self.do("identity.ServiceTokenService.DeleteServiceToken", unused)
        else:
            self.kept["enrollment_policy"] += 1
            self.kept["service_token"] += 1
        key = identity.ApiKey(display_name=f"key {self.number}", role=ROLE_AUDITOR)
        api_key = await self.do(
            "identity.ApiKeyService.CreateApiKey", identity.CreateApiKeyRequest(**self.about, api_key=key)
        )
        # The secret is the real one, whichever of the answers it was that came through.
        await self.use(api_key.secret)
        revoke = identity.RevokeApiKeyRequest(**self.about, api_key_id=api_key.api_key.api_key_id)
        await self.do("identity.ApiKeyService.RevokeApiKey", revoke)
        await self.keep_a_policy()

    async def use(self, bearer: str) -> None:
        """A replica that lags behind for longer than a call waits does not know a new key yet."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(CredentialsInvalid):
                    request = identity.ListUsersRequest(**self.about)
                    await self.do("identity.UserService.ListUsers", request, bearer)
                    return

    async def keep_a_policy(self) -> None:
        policy = session.Policy(
            display_name=f"policy {self.number}",
            filter=session.POLICY_FILTER_HTTP,
            action=session.POLICY_ACTION_ALLOW,
        )
        made = await self.do(
            "session.PolicyService.CreatePolicy", session.CreatePolicyRequest(**self.about, policy=policy)
        )
        made.policy.enabled = True
        update = session.UpdatePolicyRequest(**self.about, policy=made.policy, update_mask=FieldMask(paths=["enabled"]))
        await self.do("session.PolicyService.UpdatePolicy", update)
        if self.number % 4:
            gone = session.DeletePolicyRequest(**self.about, policy_id=made.policy.policy_id)
            await self.do("session.PolicyService.DeletePolicy", gone)
        else:
            self.kept["policy"] += 1


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_three_answers_of_ten_are_lost(plane: Plane, proxy: LossyProxy) -> None:
    """I-07, I-33, decision 22: one effect for each request id, and the same answer however often it is asked for."""
    world = World(plane, plane.organization)
    clients = []
    for number in range(ROUNDS):
        some = [Client(world, proxy, CLIENTS * number + each) for each in range(CLIENTS)]
        await asyncio.gather(*(client.work() for client in some))
        clients += some
    # A run in which little was lost proves nothing.
    assert proxy.lost > 0.25 * proxy.calls > CLIENTS * ROUNDS
    assert not (different := different_answers(proxy)), "\n".join(different)
    assert await not_refused_with_another_body(plane, proxy) == []
    await quiet(plane)
    await adds_up(plane, world, proxy, clients)


def different_answers(proxy: LossyProxy) -> list[str]:
    """The requests that were answered in more than one way."""
    found = []
    for (name, request_id), raws in proxy.answers.items():
        answers = set()
        for raw in raws:
            answer: Any = GetMessageClass(METHODS[name].descriptor.output_type).FromString(raw)
            for token in ("revision_token", "identity_revision_token"):
                if token in answer.DESCRIPTOR.fields_by_name:
                    # A repetition may be told of a later state, in which the change stands all the same.
                    assert getattr(answer, token)
                    answer.ClearField(token)
            for field in GOES_ON.get(name, ()):
                message, _, last = field.partition(".")
                getattr(answer, message).ClearField(last)
            answers.add(str(answer))
        if len(answers) > 1:
            found.append(f"{name} {request_id}:\n" + "\n".join(answers))
    return found


async def not_refused_with_another_body(plane: Plane, proxy: LossyProxy) -> list[str]:
    """What became of one request of each method under the same request_id with a field more."""
    wrong = []
    for name in sorted({name for name, _ in proxy.requests}):
        request_id = next(key for of, key in proxy.requests if of == name)
        bearer, raw = proxy.requests[name, request_id]
        outcome = await send(plane, METHODS[name], Caller(bearer), raw + b"\xa2\x06\x05hello")
        # The key of who asked may be gone, and that is said first.
        if outcome.reason not in ("REQUEST_ID_REUSED", "CREDENTIALS_INVALID"):
            wrong.append(f"{name}: {outcome}")
    return wrong


async def adds_up(plane: Plane, world: World, proxy: LossyProxy, clients: list[Client]) -> None:
    """What is in the databases is what the distinct requests make."""
    sent = sum((client.sent for client in clients), Counter[str]())
    assert Counter(name for name, _ in proxy.answers) == sent
    recorded = Counter[tuple[str, str]]()
    for service in SERVICES:
        recorded += await plane.nodes[service].database.read(on_record)
    by_path = {METHODS[name].path: name for name in sent}
    once = {(by_path[path], request_id): times for (path, request_id), times in recorded.items() if path in by_path}
    made = {key: times for key, times in once.items() if key in proxy.answers}
    # Reauthenticate is identity's to write down, under an id of session's own.
    expected = {key for key in proxy.answers if key[0] != "session.SessionService.Reauthenticate"}
    assert set(made) == expected
    assert set(made.values()) == {1}
    record = METHODS["identity.AuthenticationService.RecordAuthentication"].path
    assert (
        sum(times for (path, _), times in recorded.items() if path == record)
        == sent["session.SessionService.Reauthenticate"]
    )

    live = set().union(*(client.live for client in clients))
    registrations = await rows(plane, "registry", "SELECT request_id, state FROM registration")
    requests = Counter(request_id for request_id, state in registrations if state not in ("ABORTED", "PENDING"))
    assert requests == Counter(key for name, key in proxy.answers if name == "registry.EnrollmentService.Register")
    assert {it.registration_id for it in await world.live()} == live
    leases = await world.leases()
    assert {it.registration_id for it in leases} == live
    assert len({it.ipv4 for it in leases}) == len({it.ipv6 for it in leases}) == len(live)

    kept = sum((client.kept for client in clients), Counter[str]())
    assert await world.used_seats() == kept["users"]
    assert await count(plane, "identity", "service_token") == kept["service_token"]
    # One lets everybody at example.com in.
    assert await count(plane, "identity", "enrollment_policy") == kept["enrollment_policy"] + 1
    assert await count(plane, "session", "policy") == kept["policy"]
    assert await count(plane, "identity", "removal") == sent["identity.UserService.RemoveUsers"]
    # The installation's first key is nobody's.
    assert await count(plane, "identity", "api_key") == sent["identity.ApiKeyService.CreateApiKey"] + 1


def on_record(tx: Transaction) -> Counter[tuple[str, str]]:
    """How often each call that succeeded is in the audit log: by its path and its request id."""
    records = [AuditRecord.FromString(payload) for payload in tx.execute(sa.select(audit_record.c.payload)).scalars()]
    return Counter((record.method, record.request_id) for record in records if not record.reason)


async def rows(plane: Plane, service: str, query: str) -> list[Any]:
    return await plane.nodes[service].database.read(lambda tx: list(tx.execute(sa.text(query))))


async def count(plane: Plane, service: str, table: str) -> int:
    return int((await rows(plane, service, f'SELECT count(*) FROM "{table}"'))[0][0])
