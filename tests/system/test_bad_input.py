"""Bad input: the documented code, an ErrorInfo reason, the field's name, and nothing changed; on both engines."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse import keys
from guardhouse.common.v1.access_pb2 import ROLE_ADMIN
from guardhouse.common.v1.credential_pb2 import Credential, ServiceTokenCredential
from guardhouse.errors import GuardhouseError
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.bad_keys import BAD_KEYS
from tests.plane import Plane
from tests.system.people import World

UNKNOWN = "0" * 32
Call = Callable[[], Awaitable[Any]]


async def state(world: World) -> dict[str, Any]:
    """Everything that callers can see of the organization."""
    about: dict[str, Any] = {"organization_id": world.organization_id}
    devices = await world.devices.ListDevices(
        registry.ListDevicesRequest(**about, active_registrations=registry.ACTIVE_REGISTRATIONS_INCLUDE)
    )
    return {
        "users": list((await world.users.ListUsers(identity.ListUsersRequest(**about))).users),
        "seats": await world.used_seats(),
        "registrations": await world.live(),
        "devices": list(devices.devices),
        "leases": await world.leases(),
        "policies": list((await world.policies.ListPolicies(session.ListPoliciesRequest(**about))).policies),
    }


class Table:
    """Calls that must be refused, with the refusal that is documented."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Call, str, str, str]] = []

    def add(self, name: str, call: Call, code: str, reason: str, field: str = "") -> None:
        self.rows.append((name, call, code, reason, field))

    async def run(self, world: World) -> None:
        before = await state(world)
        wrong = []
        for name, call, *wanted in self.rows:
            try:
                await call()
            except GuardhouseError as error:
                got = [error.code, error.reason, error.field]
            else:
                got = ["OK", "", ""]
            if got != wanted:
                wrong.append(f"{name}: wanted {wanted}, got {got}")
        assert wrong == []
        assert await state(world) == before


@pytest.fixture
async def table(world: World) -> Table:
    await world.enroll("alice")
    await world.policy("1h")
    return Table()


async def test_enrollments(world: World, plane: Plane, table: Table) -> None:
    """I-09, I-30, decisions 21 and 27."""
    good = await world.request(world.id_token("bob"), "laptop")

    def with_field(**values: Any) -> Call:
        request = registry.RegisterRequest()
        request.CopyFrom(good)
        request.MergeFrom(registry.RegisterRequest(**values))
        return lambda: world.enrollment.Register(request)

    def without(field: Any) -> Call:
        request = registry.RegisterRequest()
        request.CopyFrom(good)
        request.ClearField(field)
        return lambda: world.enrollment.Register(request)

    for name, key in BAD_KEYS.items():
        if not key:
            # An empty one is missing, as below.
            continue
        table.add(f"key: {name}", with_field(public_key=key), "INVALID_ARGUMENT", "KEY_INVALID", "public_key")
    for field in ("organization_id", "credential", "key_type", "public_key", "challenge", "proof"):
        table.add(f"no {field}", without(field), "INVALID_ARGUMENT", "FIELD_REQUIRED", field)
    table.add("no device", without("device"), "INVALID_ARGUMENT", "FIELD_REQUIRED", "device.hardware_id")
    table.add("an unknown kind of key", with_field(key_type=99), "INVALID_ARGUMENT", "FIELD_INVALID", "key_type")
    server = (
        await world.enrollment.GetEnrollmentInfo(
            registry.GetEnrollmentInfoRequest(organization_id=world.organization_id)
        )
    ).proof_key
    table.add("the server's key", with_field(public_key=server), "INVALID_ARGUMENT", "KEY_INVALID", "public_key")
    other = keys.public_key(keys.new_private_key())
    table.add("somebody's key", with_field(public_key=other), "INVALID_ARGUMENT", "PROOF_INVALID", "proof")
    table.add("a short proof", with_field(proof=b"1"), "INVALID_ARGUMENT", "PROOF_INVALID", "proof")
    for challenge in ("x", "1.x", f"{2**70}.x", good.challenge[:-1], "9" + good.challenge):
        call = with_field(challenge=challenge)
        table.add(f"challenge {challenge}", call, "INVALID_ARGUMENT", "CHALLENGE_INVALID", "challenge")
    elsewhere = World(plane, await plane.create_organization())
    foreign = await elsewhere.request(world.id_token("bob"), "laptop")
    call = with_field(challenge=foreign.challenge)
    table.add("another organization's challenge", call, "INVALID_ARGUMENT", "CHALLENGE_INVALID", "challenge")
    for request_id in ("a b", "x" * 65, "ü"):
        call = with_field(request_id=request_id)
        table.add(f"request id {request_id!r}", call, "INVALID_ARGUMENT", "FIELD_INVALID", "request_id")
    for hardware_id, field in (("x" * 256, "FIELD_INVALID"), ("a\0b", "FIELD_INVALID"), (" ", "FIELD_REQUIRED")):
        device = registry.DeviceClaims(hardware_id=hardware_id)
        call = with_field(device=device)
        table.add(f"hardware id {hardware_id!r}", call, "INVALID_ARGUMENT", field, "device.hardware_id")
    unknown = f"org_{UNKNOWN}"
    table.add("no organization", with_field(organization_id=unknown), "NOT_FOUND", "ORGANIZATION_NOT_FOUND")

    issuer, now = plane.issuer, plane.clock.now() // 1_000_000
    claims = issuer.claims("bob@example.com")
    tokens = {
        "garbage": "garbage",
        "expired": issuer.sign({**claims, "exp": now - 120}),
        "old": issuer.sign({**claims, "iat": now - 400}),
        "from the future": issuer.sign({**claims, "iat": now + 400}),
        "another audience": issuer.sign({**claims, "aud": "somebody"}),
        "another issuer": issuer.sign({**claims, "iss": "https://elsewhere.test"}),
        "without expiry": issuer.sign({key: value for key, value in claims.items() if key != "exp"}),
        "forged": issuer.sign(claims)[:-8] + "AAAAAAAA",
    }
    for name, token in tokens.items():
        request = await world.request(Credential(id_token=token), f"laptop {name}")
        call = partial(world.enrollment.Register, request)
        table.add(f"ID token {name}", call, "UNAUTHENTICATED", "ID_TOKEN_INVALID")
    secret = ServiceTokenCredential(client_id=f"{UNKNOWN}.access", client_secret="0" * 64)
    request = await world.request(Credential(service_token=secret), "builder")
    call = partial(world.enrollment.Register, request)
    table.add("an unknown service token", call, "UNAUTHENTICATED", "SERVICE_TOKEN_INVALID")
    await table.run(world)


async def test_lists(world: World, table: Table) -> None:
    """AIP-158: negative sizes, and page tokens that are not this list's or are too old."""
    for name in ("bob", "carol"):
        await world.enroll(name)
    about: dict[str, Any] = {"organization_id": world.organization_id}
    lists: dict[str, tuple[Any, Any]] = {
        "registrations": (world.registrations.ListRegistrations, registry.ListRegistrationsRequest),
        "devices": (world.devices.ListDevices, registry.ListDevicesRequest),
        "users": (world.users.ListUsers, identity.ListUsersRequest),
        "leases": (world.addresses.ListAddresses, ipam.ListAddressesRequest),
    }
    stale: dict[str, str] = {}
    for name, (method, kind) in lists.items():
        stale[name] = (await method(kind(**about, page_size=1))).next_page_token
        assert stale[name], name
        await method(kind(**about, page_size=1, page_token=stale[name]))

        def call(method: Any = method, kind: Any = kind, **values: Any) -> Call:
            return lambda: method(kind(**about, **values))

        table.add(f"{name}: size", call(page_size=-1), "INVALID_ARGUMENT", "FIELD_INVALID", "page_size")
        for token in ("x", "AAAA", stale[name][:-2], stale["registrations"] if name != "registrations" else "e30"):
            refusal = ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token")
            table.add(f"{name}: token {token}", call(page_token=token), *refusal)
    await table.run(world)
    world.plane.clock.advance(86_401)
    for name, (method, kind) in lists.items():
        with pytest.raises(GuardhouseError) as raised:
            await method(kind(**about, page_token=stale[name]))
        assert raised.value.reason == "PAGE_TOKEN_INVALID"


async def test_policies_and_checks(world: World, table: Table) -> None:
    """Decisions 28, 30 and 36."""
    about: dict[str, Any] = {"organization_id": world.organization_id}
    policy = session.Policy(
        display_name="p", filter=session.POLICY_FILTER_HTTP, action=session.POLICY_ACTION_ALLOW, enabled=True
    )

    def create(**values: Any) -> Call:
        changed = session.Policy()
        changed.CopyFrom(policy)
        changed.MergeFrom(session.Policy(**values))
        return lambda: world.policies.CreatePolicy(session.CreatePolicyRequest(**about, policy=changed))

    for duration in ("1d", "90", "-1h", "0s", "87601h", "1h30", "h", "1e3s", "9" * 60 + "h"):
        limit = session.CheckSession(enforce=True, duration=duration)
        refusal = ("INVALID_ARGUMENT", "DURATION_INVALID", "policy.check_session.duration")
        table.add(f"duration {duration}", create(check_session=limit), *refusal)
    limit = session.CheckSession(enforce=True, duration="1h")
    refusal = ("INVALID_ARGUMENT", "FIELD_INVALID", "policy.check_session")
    table.add("DNS", create(check_session=limit, filter=session.POLICY_FILTER_DNS), *refusal)
    table.add("block", create(check_session=limit, action=session.POLICY_ACTION_BLOCK), *refusal)
    table.add("an unknown action", create(action=9), "INVALID_ARGUMENT", "FIELD_INVALID", "policy.action")
    for field, expression in (
        ("traffic", "net.dst.ip == 10.0.0.1"),
        ("traffic", "http.request.host in $nothing"),
        ("identity", 'identity.email matches "("'),
        ("device_posture", "(" * 1000),
    ):
        refusal = ("INVALID_ARGUMENT", "FIELD_INVALID", f"policy.{field}")
        table.add(f"{field} {expression}", create(**{field: expression}), *refusal)
    call = create(schedule=session.Schedule(time_zone="UTC"))
    table.add("hours", call, "INVALID_ARGUMENT", "FIELD_INVALID", "policy.schedule")
    call = create(display_name="x" * 101)
    table.add("a long name", call, "INVALID_ARGUMENT", "FIELD_INVALID", "policy.display_name")
    missing = session.GetPolicyRequest(**about, policy_id=f"pol_{UNKNOWN}")
    table.add("no policy", lambda: world.policies.GetPolicy(missing), "NOT_FOUND", "POLICY_NOT_FOUND")
    wrong = session.GetPolicyRequest(**about, policy_id=f"reg_{UNKNOWN}")
    refusal = ("INVALID_ARGUMENT", "FIELD_INVALID", "policy_id")
    table.add("another kind of id", lambda: world.policies.GetPolicy(wrong), *refusal)
    check = session.CheckSessionRequest(**about, registration_id=f"reg_{UNKNOWN}", policy_id=f"pol_{UNKNOWN}")
    answer = await world.checks.CheckSession(check)
    assert answer.answer.reason == session.DECISION_REASON_REGISTRATION_UNKNOWN
    check.at_least.append("nonsense")
    refusal = ("INVALID_ARGUMENT", "REVISION_TOKEN_INVALID", "at_least")
    table.add("a token that is none", lambda: world.checks.CheckSession(check), *refusal)
    empty = session.BatchCheckSessionsRequest(**about)
    table.add(
        "an empty batch", lambda: world.checks.BatchCheckSessions(empty), "INVALID_ARGUMENT", "FIELD_REQUIRED", "items"
    )
    await table.run(world)


async def test_another_organizations_objects_do_not_exist(world: World, plane: Plane, table: Table) -> None:
    """I-27: an id of another organization answers as an unknown one does, and its keys open nothing here."""
    elsewhere = World(plane, await plane.create_organization())
    theirs = (await elsewhere.enroll("alice")).registration
    their_policy = await elsewhere.policy()
    about: dict[str, Any] = {"organization_id": world.organization_id}
    get = registry.GetRegistrationRequest(**about, registration_id=theirs.registration_id)
    table.add("registration", lambda: world.registrations.GetRegistration(get), "NOT_FOUND", "REGISTRATION_NOT_FOUND")
    device = registry.GetDeviceRequest(**about, device_id=theirs.device_id)
    table.add("device", lambda: world.devices.GetDevice(device), "NOT_FOUND", "DEVICE_NOT_FOUND")
    gone = registry.DeleteDeviceRequest(**about, device_id=theirs.device_id)
    table.add("delete device", lambda: world.devices.DeleteDevice(gone), "NOT_FOUND", "DEVICE_NOT_FOUND")
    user = identity.GetUserRequest(**about, user_id=theirs.user_id)
    table.add("user", lambda: world.users.GetUser(user), "NOT_FOUND", "USER_NOT_FOUND")
    remove = identity.RemoveUsersRequest(**about, user_ids=[theirs.user_id])
    table.add("remove user", lambda: world.users.RemoveUsers(remove), "NOT_FOUND", "USER_NOT_FOUND")
    lookup = ipam.LookupAddressRequest(**about, address=theirs.ipv6)
    table.add("address", lambda: world.addresses.LookupAddress(lookup), "NOT_FOUND", "ADDRESS_NOT_FOUND")
    policy = session.DeletePolicyRequest(**about, policy_id=their_policy)
    table.add("policy", lambda: world.policies.DeletePolicy(policy), "NOT_FOUND", "POLICY_NOT_FOUND")
    made = await plane.stub(identity_rpc.ApiKeyServiceStub).CreateApiKey(
        identity.CreateApiKeyRequest(
            organization_id=elsewhere.organization_id,
            api_key=identity.ApiKey(display_name="theirs", role=ROLE_ADMIN),
        )
    )
    theirs_here = plane.stub(identity_rpc.UserServiceStub, key=made.secret)
    for organization_id in (world.organization_id, f"org_{UNKNOWN}"):
        request = identity.ListUsersRequest(organization_id=organization_id)
        call = partial(theirs_here.ListUsers, request)
        table.add(f"their key and {organization_id}", call, "PERMISSION_DENIED", "ACCESS_DENIED")
    batch = world.batch(registry.DeleteRegistrationsRequest, theirs.registration_id)
    results = (await world.registrations.DeleteRegistrations(batch)).results
    assert "no registration" in results[0].error.message
    await table.run(world)
    assert len(await elsewhere.live()) == 1


async def test_an_expired_or_revoked_key_opens_nothing(world: World, plane: Plane) -> None:
    api_keys = plane.stub(identity_rpc.ApiKeyServiceStub)
    expire_time = Timestamp(seconds=plane.clock.now() // 1_000_000 + 60)
    key = identity.ApiKey(display_name="short", role=ROLE_ADMIN, expire_time=expire_time)
    made = await api_keys.CreateApiKey(identity.CreateApiKeyRequest(organization_id=world.organization_id, api_key=key))
    users = plane.stub(identity_rpc.UserServiceStub, key=made.secret)
    request = identity.ListUsersRequest(organization_id=world.organization_id)
    await users.ListUsers(request)
    plane.clock.advance(61)
    with pytest.raises(GuardhouseError) as raised:
        await users.ListUsers(request)
    assert raised.value.reason == "CREDENTIALS_INVALID"


@pytest.mark.plane(log_calls=True)
async def test_no_secret_is_in_a_log_or_a_database(
    world: World, plane: Plane, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """I-31: what callers proved themselves with stands nowhere."""
    caplog.set_level("DEBUG")
    token = world.id_token("bob").id_token
    request = await world.request(Credential(id_token=token), "laptop")
    made = await world.enrollment.Register(request)
    machine = await world.service_token()
    await world.enrollment.Register(await world.request(machine, "builder"))
    with pytest.raises(GuardhouseError):
        await world.enrollment.Register(await world.request(Credential(id_token=token), "phone"))
    secrets = [token, made.token, machine.service_token.client_secret, plane.admin_key]
    # 32 bytes in base64url, which may have a _ of their own.
    secrets += [each[-43:] for each in (made.token, plane.admin_key)]
    out = capfd.readouterr()
    texts = [caplog.text, out.out, out.err]
    for node in plane.nodes.values():
        texts += [path.read_bytes().decode("latin-1") for path in plane.settings.var.glob("*.db*")]
        with node.database.engine.connect() as connection:
            names = sa.inspect(connection).get_table_names()
            texts += [str(connection.exec_driver_sql(f'SELECT * FROM "{name}"').all()) for name in names]
    for secret in secrets:
        assert secret
        assert not any(secret in text for text in texts)
