"""The embedded checker beside a real plane: it decides as the server does, and goes on alone for as long as it may."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from msgspec.structs import astuple

from guardhouse import checker as checker_module
from guardhouse.checker import Answer, Checker
from guardhouse.common.v1 import feed_pb2
from guardhouse.common.v1.access_pb2 import ROLE_GATEWAY
from guardhouse.decisions import Decision, Reason
from guardhouse.durations import MINUTE, SECOND, format_duration
from guardhouse.errors import DurationInvalid, FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.profile import Profile, ProfileInvalid
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from guardhouse.snapshots import SnapshotFile, SnapshotRefused
from guardhouse.times import from_timestamp
from guardhouse_services.credentials import hash_secret
from tests.clock import FakeClock
from tests.plane import Plane
from tests.system.contract import METHODS
from tests.system.people import World
from tests.system.state import quiet
from tests.system.wire import Caller, Outcome, ended, send

FEEDS = {"identity": identity_pb2, "registry": registry_pb2, "session": session_pb2}
KINDS = {
    "connection": session_pb2.TRAFFIC_KIND_CONNECTION,
    "request": session_pb2.TRAFFIC_KIND_REQUEST,
    "query": session_pb2.TRAFFIC_KIND_QUERY,
}
NOBODY = "reg_" + "f" * 32

# Who decides is the same with any database, and what is in one comes by the feeds.
# It knows the services by their feeds alone, whatever they keep their data in.
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
async def key(plane: Plane) -> str:
    return await gateway_key(plane, plane.organization)


async def gateway_key(plane: Plane, organization_id: str) -> str:
    made = await plane.stub(identity_pb2_grpc.ApiKeyServiceStub).CreateApiKey(
        identity_pb2.CreateApiKeyRequest(
            organization_id=organization_id, api_key=identity_pb2.ApiKey(display_name="edge", role=ROLE_GATEWAY)
        )
    )
    return str(made.secret)


def checker_of(plane: Plane, key: str, path: Path | None = None, **more: Any) -> Checker:
    addresses = {service: f"127.0.0.1:{plane.settings.public_port(service)}" for service in FEEDS}
    profile = Profile(organization_id=plane.organization, ca=plane.settings.tls_path / "ca.crt", key=key)
    return Checker.connect(profile, **addresses, snapshot_path=path, clock=plane.clock, **more)


async def become(condition: Callable[[], bool], seconds: float = 20.0) -> float:
    """Waits until something is so, and answers how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < seconds
        await asyncio.sleep(0.01)
    return loop.time() - began


async def settle(checker: Checker, clock: FakeClock) -> None:
    """Waits until the checker knows all that there is."""
    now = clock.steady()
    for follower in checker._state.followers:
        assert await follower.fresh(now, timeout=30)


async def revoke(world: World, registration_id: str) -> None:
    await world.registrations.RevokeRegistrations(world.batch(registry_pb2.RevokeRegistrationsRequest, registration_id))


def seen(answer: Answer) -> tuple[Any, ...]:
    """Without how long it holds, which is another a moment later."""
    return (*astuple(answer)[:7], answer.degraded)


def of_message(answer: session_pb2.CheckAnswer, degraded: bool) -> tuple[Any, ...]:
    decided = Decision(int(answer.decision)), Reason(int(answer.reason))
    ids = answer.policy_id, answer.registration_id, answer.user_id
    authenticate_time = from_timestamp(answer.authenticate_time) if answer.HasField("authenticate_time") else None
    expire_time = from_timestamp(answer.session_expire_time) if answer.HasField("session_expire_time") else None
    return (*decided, *ids, authenticate_time, expire_time, degraded)


async def write_policies(plane: Plane, world: World) -> list[str]:
    """Some of each kind; the first ask about people, and the last cover all that is left of their kind."""
    lists = plane.stub(session_pb2_grpc.ListServiceStub)
    wiki = session_pb2.List(name="wiki", type=session_pb2.LIST_TYPE_IP, values=["10.1.0.0/16"])
    await lists.CreateList(session_pb2.CreateListRequest(organization_id=world.organization_id, list=wiki))
    allow, block = session_pb2.POLICY_ACTION_ALLOW, session_pb2.POLICY_ACTION_BLOCK
    l4, http, dns = (session_pb2.PolicyFilter.Value(f"POLICY_FILTER_{kind}") for kind in ("L4", "HTTP", "DNS"))
    written: list[tuple[Any, Any, str, str, str]] = [
        (l4, allow, "net.dst.ip in $wiki", 'identity.email == "alice@example.com"', "45m"),
        (l4, block, "net.dst.ip in $wiki", "", ""),
        (l4, allow, "net.dst.port in {80 443}", "", "1h"),
        (http, block, 'http.request.host matches ".*evil[.]example$"', "", ""),
        (http, allow, "", 'identity.email matches "bob@.*"', "30m"),
        (http, allow, 'http.request.host == "wiki.example"', "", ""),
        (dns, block, 'dns.fqdn == "evil.example"', 'identity.name == "carol"', ""),
    ]
    made = []
    for number, (filter_, action, traffic, identity, duration) in enumerate(written):
        check = session_pb2.CheckSession(enforce=True, duration=duration) if duration else None
        policy = session_pb2.Policy(
            display_name=f"policy {number}",
            enabled=True,
            filter=filter_,
            action=action,
            traffic=traffic,
            identity=identity,
            check_session=check,
        )
        request = session_pb2.CreatePolicyRequest(organization_id=world.organization_id, policy=policy)
        made.append((await world.policies.CreatePolicy(request)).policy.policy_id)
    return made


def random_traffic(rng: random.Random, plane: Plane) -> tuple[str, dict[str, str]]:
    kind = rng.choice(list(KINDS))
    hosts = ["evil.example", "very.evil.example", "wiki.example", plane.issuer.url.split("//")[1].split(":")[0]]
    fields = {"net.dst.ip": rng.choice(["10.1.2.3", "10.2.0.1", "fd00::5"]), "net.dst.port": rng.choice(["22", "443"])}
    if kind == "request":
        fields["http.request.host"] = rng.choice(hosts)
    if kind == "query":
        fields = {"dns.fqdn": rng.choice(hosts)}
    return kind, fields


@ON_ONE
async def test_it_answers_as_the_server_does(plane: Plane, world: World, key: str) -> None:
    """One function decides in both (I-19): over random registrations, policies, traffic and ages."""
    plane.clock.stop()
    limited, *rest = await write_policies(plane, world)
    policies = ["pol_" + "f" * 32, *rest, limited]
    enrolled = [(await world.enroll(name)).registration for name in ("alice", "bob", "carol", "dave", "erin")]
    machine = await world.enrollment.Register(await world.request(await world.service_token(), "machine"))
    enrolled.append(machine.registration)
    await revoke(world, enrolled[2].registration_id)
    await world.users.RevokeUser(
        identity_pb2.RevokeUserRequest(organization_id=world.organization_id, user_id=enrolled[3].user_id)
    )
    await world.remove(enrolled[4].user_id)
    somebody = [(it.registration_id, (it.ipv4, it.ipv6)) for it in enrolled]
    somebody.append((NOBODY, ("100.96.200.200", "fd00::200")))
    rng, reasons = random.Random(4), set()
    # The registry hears of the removal by and by, and session of that.
    gone = session_pb2.CheckSessionRequest(
        organization_id=world.organization_id, registration_id=enrolled[4].registration_id, policy_id=limited
    )
    for _ in range(200):
        if (await world.checks.CheckSession(gone)).answer.reason == Reason.REGISTRATION_UNKNOWN:
            break
        await asyncio.sleep(0.05)
    async with checker_of(plane, key) as checker:
        for minutes in (0, 70, 30, 40):
            await plane.advance(minutes * 60)
            await settle(checker, plane.clock)
            asked: list[tuple[Mapping[str, Any], Answer]] = []
            for _ in range(100):
                registration_id, addresses = rng.choice(somebody)
                kind, fields = random_traffic(rng, plane)
                who = rng.choice([{"registration_id": registration_id}, {"address": rng.choice(addresses)}])
                answer = checker.check_traffic(kind=kind, fields=fields, **who)  # type: ignore[arg-type]
                asked.append(({"kind": KINDS[kind], "traffic": {"fields": fields}, **who}, answer))
            batch = await world.checks.BatchCheckTraffic(
                session_pb2.BatchCheckTrafficRequest(
                    organization_id=world.organization_id,
                    items=[item for item, _ in asked],  # type: ignore[misc]
                    read_mask=FieldMask(paths=[field.name for field in session_pb2.CheckAnswer.DESCRIPTOR.fields]),
                )
            )
            for (item, answer), theirs in zip(asked, batch.answers, strict=True):
                assert seen(answer) == of_message(theirs, degraded=False), item
                reasons.add(answer.reason)
            # What was answered last is asked first when that is long ago.
            policies.reverse()
            for registration_id, _ in somebody:
                for policy_id in policies:
                    request = session_pb2.CheckSessionRequest(
                        organization_id=world.organization_id, registration_id=registration_id, policy_id=policy_id
                    )
                    theirs = (await world.checks.CheckSession(request)).answer
                    ours = checker.check_session(registration_id, policy_id)
                    assert seen(ours) == of_message(theirs, degraded=False)
                    reasons.add(ours.reason)
    assert reasons >= {
        *(Reason.SESSION_FRESH, Reason.SESSION_EXPIRED, Reason.NO_POLICY_MATCHED, Reason.NO_SESSION_LIMIT),
        *(Reason.POLICY_BLOCK, Reason.POLICY_UNKNOWN, Reason.SIGN_IN_HOST),
        *(Reason.REGISTRATION_REVOKED, Reason.REGISTRATION_UNKNOWN, Reason.SESSION_REVOKED),
    }


@ON_ONE
async def test_a_revocation_reaches_it_within_a_second(plane: Plane, world: World, key: str) -> None:
    """I-15, at a gateway that asks nobody; and so does everything else on which an answer depends (I-19)."""
    policy_id = await world.policy("1h")
    alice, bob, carol, dave = [(await world.enroll(name)).registration for name in ("alice", "bob", "carol", "dave")]
    took: list[float] = []
    async with checker_of(plane, key) as checker:
        await settle(checker, plane.clock)
        answer = checker.check_session
        for of in (alice, bob, carol, dave):
            assert answer(of.registration_id, policy_id).reason is Reason.SESSION_FRESH
        await revoke(world, alice.registration_id)
        took.append(
            await become(lambda: answer(alice.registration_id, policy_id).reason is Reason.REGISTRATION_REVOKED)
        )
        await world.users.RevokeUser(
            identity_pb2.RevokeUserRequest(organization_id=world.organization_id, user_id=bob.user_id)
        )
        took.append(await become(lambda: answer(bob.registration_id, policy_id).reason is Reason.SESSION_REVOKED))
        await world.sessions.Reauthenticate(
            session_pb2.ReauthenticateRequest(
                organization_id=world.organization_id,
                registration_id=bob.registration_id,
                credential=world.id_token("bob"),
            )
        )
        took.append(await become(lambda: answer(bob.registration_id, policy_id).reason is Reason.SESSION_FRESH))
        enrolled = answer(dave.registration_id, policy_id).authenticate_time or 0
        plane.clock.advance(5)
        await world.sessions.Reauthenticate(
            session_pb2.ReauthenticateRequest(
                organization_id=world.organization_id,
                registration_id=dave.registration_id,
                credential=world.id_token("dave"),
            )
        )
        took.append(await become(lambda: (answer(dave.registration_id, policy_id).authenticate_time or 0) > enrolled))
        await world.remove(carol.user_id)
        took.append(await become(lambda: answer(carol.registration_id, policy_id).decision is Decision.BLOCK))
        policy = session_pb2.Policy(policy_id=policy_id, enabled=False)
        await world.policies.UpdatePolicy(
            session_pb2.UpdatePolicyRequest(
                organization_id=world.organization_id, policy=policy, update_mask=FieldMask(paths=["enabled"])
            )
        )
        took.append(await become(lambda: answer(dave.registration_id, policy_id).reason is Reason.POLICY_DISABLED))
        # One of them may have met a machine that was busy elsewhere.
        assert median(took) < 1.0


@ON_ONE
async def test_it_fails_closed_unless_the_policy_is_open_for_a_while(plane: Plane, world: World, key: str) -> None:
    """I-16: past max_staleness nothing is allowed, but by a policy that says so, and what that policy last saw."""
    closed, opened = await world.policy("5h"), await world.policy("5h", max_open="10m")
    made = (await world.enroll("alice")).registration.registration_id
    revoked = (await world.enroll("bob")).registration.registration_id
    await revoke(world, revoked)
    async with checker_of(plane, key, max_staleness="60s") as checker:
        await settle(checker, plane.clock)
        for service in FEEDS:
            await plane.stop(service)
        await asyncio.sleep(0.1)
        assert checker.ready()
        assert checker.check_session(made, closed).reason is Reason.SESSION_FRESH
        plane.clock.advance(60)
        assert not checker.ready()
        assert (checker.staleness() or 0) > 60 * SECOND
        assert seen(checker.check_session(made, closed))[:2] == (Decision.BLOCK, Reason.STATE_STALE)
        answer = checker.check_session(made, opened)
        assert (answer.decision, answer.degraded) == (Decision.ALLOW, True)
        assert checker.check_session(revoked, opened).reason is Reason.REGISTRATION_REVOKED
        assert checker.check_session(NOBODY, opened).reason is Reason.REGISTRATION_UNKNOWN
        plane.clock.advance(10 * 60)
        assert checker.check_session(made, opened).reason is Reason.STATE_STALE


@ON_ONE
async def test_it_starts_from_disk_while_everything_is_down(
    plane: Plane, world: World, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It decides by what it stored, no longer than that may, and goes on from there by the changes alone."""
    monkeypatch.setattr(checker_module, "START_SECONDS", 0.3)
    path = tmp_path / "checker.snapshot"
    closed, opened = await world.policy("5h"), await world.policy("5h", max_open="10m")
    policies = await write_policies(plane, world)
    enrolled = [(await world.enroll(name)).registration for name in ("alice", "bob", "carol")]
    alice, bob, carol = (it.registration_id for it in enrolled)
    await revoke(world, bob)
    questions = [(who, policy) for who in (alice, bob, carol, NOBODY) for policy in (closed, opened, *policies)]
    wiki = {"net.dst.ip": "10.1.2.3", "net.dst.port": "22"}

    def ask(checker: Checker) -> list[tuple[Any, ...]]:
        answers = [checker.check_session(*question) for question in questions]
        for of in enrolled:
            for address in (of.ipv4, of.ipv6):
                answers.append(checker.check_traffic(address=address, kind="connection", fields=wiki))  # noqa: PERF401
        return [seen(answer) for answer in answers]

    async with checker_of(plane, key, path) as checker:
        await settle(checker, plane.clock)
        before = ask(checker)
        stored_as_of = checker.fresh_as_of or 0
    assert path.stat().st_mode & 0o777 == 0o600
    # What happens next is not in the file.
    await revoke(world, carol)
    for service in FEEDS:
        await plane.stop(service)

    checker = checker_of(plane, key, path)
    async with checker:
        assert checker.ready()
        assert abs((checker.fresh_as_of or 0) - stored_as_of) < 2 * SECOND
        assert ask(checker) == before
        plane.clock.advance(31)
        assert checker.check_session(alice, closed).reason is Reason.STATE_STALE
        assert checker.check_session(alice, opened).degraded
        for service in ("identity", "registry", "session"):
            await plane.start(service)
        await become(checker.ready, 40)
        assert checker.check_session(alice, closed).reason is Reason.SESSION_FRESH
        assert checker.check_session(carol, closed).reason is Reason.REGISTRATION_REVOKED
        # It was sent the changes since, and nothing else.
        assert [(follower.snapshots, follower.resyncs) for follower in checker._state.followers] == [(0, 0)] * 3
        written = path.read_bytes()
    assert path.read_bytes() != written

    # Two days later, or by a clock that is behind, nothing of it is fresh; the file's age is what counts.
    for service in FEEDS:
        await plane.stop(service)
    for hours, staleness in ((48, 48 * 60 * MINUTE), (-96, None)):
        plane.clock.advance(hours * 3600)
        async with checker_of(plane, key, path) as late:
            assert (late.staleness() is None) == (staleness is None)
            assert (late.staleness() or 0) >= (staleness or 0)
            assert late.check_session(alice, opened).reason is Reason.STATE_STALE


@ON_ONE
async def test_it_forgets_an_organization_that_is_deleted(plane: Plane, world: World, key: str, tmp_path: Path) -> None:
    """Invariant I-32: what was known of it opens nothing, not even where a policy stays open, nor from disk."""
    made = (await world.enroll("alice")).registration
    policy_id = await world.policy("1h", max_open="10m")
    path = tmp_path / "checker"

    def decision() -> Decision:
        return checker.check_session(made.registration_id, policy_id).decision

    async with checker_of(plane, key, path) as checker:
        await settle(checker, plane.clock)
        assert decision() is Decision.ALLOW
        await checker._store(SnapshotFile(path, "checker", key, plane.organization))
        assert path.exists()
        request = identity_pb2.DeleteOrganizationRequest(organization_id=plane.organization, confirmation="Example")
        await plane.stub(identity_pb2_grpc.OrganizationServiceStub).DeleteOrganization(request)
        await become(lambda: decision() is not Decision.ALLOW)
        assert checker.check_session(made.registration_id, policy_id).reason is not Reason.STATE_STALE
        answer = checker.check_traffic(kind="connection", address=made.ipv4, fields={"net.dst.ip": "10.0.0.5"})
        assert answer.decision is Decision.BLOCK
    assert not path.exists()


@ON_ONE
async def test_a_file_that_is_not_its_own_is_refused(
    plane: Plane,
    world: World,
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """I-16: missing or unreadable state denies."""
    monkeypatch.setattr(checker_module, "START_SECONDS", 0.05)
    policy_id = await world.policy("5h", max_open="10m")
    alice = (await world.enroll("alice")).registration.registration_id
    path = tmp_path / "checker.snapshot"
    async with checker_of(plane, key, path) as checker:
        await settle(checker, plane.clock)
    whole, another = path.read_bytes(), await gateway_key(plane, plane.organization)
    for service in FEEDS:
        await plane.stop(service)
    place = whole.index(alice.encode())
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    younger = whole.replace(b'"fresh_as_of": 1', b'"fresh_as_of": 2')
    assert younger != whole
    files = {
        "whole": (key, whole),
        "flipped": (key, flipped),
        "younger": (key, younger),
        "cut": (key, whole[: len(whole) // 2]),
        "longer": (key, whole + b"\0"),
        "empty": (key, b""),
        "in another form": (key, whole.replace(b"checker 1", b"checker 2", 1)),
        "of another key": (another, whole),
    }
    decided = {}
    for name, (of, content) in files.items():
        path.write_bytes(content)
        caplog.clear()
        async with checker_of(plane, of, path) as checker:
            decided[name] = checker.check_session(alice, policy_id).decision is Decision.ALLOW
            assert (checker.staleness() is None) == (name != "whole")
        refusals = [message for message in caplog.messages if "does not start from" in message]
        assert bool(refusals) == (name != "whole"), name
        assert not any(of in message for message in caplog.messages)
    assert decided == {name: name == "whole" for name in files}
    # A key may be of one organization only, but whoever says another would not be told of this one.
    path.write_bytes(whole)
    SnapshotFile(path, "checker", key, plane.organization).read()
    for program, organization_id in (("checker", "org_" + "0" * 32), ("gateway", plane.organization)):
        with pytest.raises(SnapshotRefused):
            SnapshotFile(path, program, key, organization_id).read()


class Watching:
    """A Watch as a gateway or a service makes it, message by message."""

    def __init__(self, plane: Plane, service: str, caller: Caller) -> None:
        self.contract: Any = FEEDS[service]
        method = METHODS[f"{service}.{service.capitalize()}FeedService.Watch"]
        peer = caller.who if caller.listener == "service" else ""
        channel: Any = plane.raw(service, caller.listener, peer)
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.call = channel.stream_stream(method.path)(self._sent(), metadata=caller.metadata)

    async def _sent(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._requests.get()

    def send(self, **content: Any) -> None:
        self._requests.put_nowait(self.contract.WatchRequest(**content).SerializeToString())

    async def until_pong(self) -> list[Any]:
        """Everything up to the answer to a ping that is sent now."""
        self.send(ping=feed_pb2.Ping(nonce=7))
        messages = []
        async for raw in self.call:
            messages.append(self.contract.WatchResponse.FromString(raw))
            if messages[-1].HasField("pong"):
                break
        return messages


@ON_ONE
async def test_a_gateway_is_shown_no_secret_and_no_other_organization(plane: Plane, world: World, key: str) -> None:
    """I-27, I-31: neither in a snapshot nor in what changes, and no revision is left out."""
    other = World(plane, await plane.create_organization())
    await gateway_key(plane, other.organization_id)
    await other.enroll("mallory")
    await other.policy("1h")
    made = await world.enroll("alice")
    own = plane.organization
    secrets = {
        "registry": [hash_secret(made.token)],
        "identity": [hash_secret(key), "_".join(key.split("_")[:3]).removeprefix("ghk_").encode()],
        "session": [],
    }
    for service in FEEDS:
        watched = {}
        for caller in (Caller(key), Caller("session", "service")):
            watching = watched[caller.listener] = Watching(plane, service, caller)
            watching.send(start=feed_pb2.Start(organization_ids=["", own]))
        await quiet(plane)
        before = {listener: await watching.until_pong() for listener, watching in watched.items()}
        if service == "identity":
            late = await gateway_key(plane, own)
            secrets[service].append(hash_secret(late))
            await plane.create_organization()
        elif service == "registry":
            made = await world.enroll("bob")
            secrets[service].append(hash_secret(made.token))
        else:
            await world.policy("2h")
        await quiet(plane)
        after = {listener: await watching.until_pong() for listener, watching in watched.items()}
        raw = {
            listener: b"".join(it.SerializeToString() for it in (*before[listener], *after[listener]))
            for listener in watched
        }
        for secret in secrets[service]:
            assert secret in raw["service"]
            assert secret not in raw["public"]
        assert own.encode() in raw["public"]
        assert other.organization_id.encode() not in raw["public"]
        assert b"mallory" not in raw["public"]
        revisions = {
            listener: [
                (message.organization_id, change.revision) for message in messages for change in message.changes.changes
            ]
            for listener, messages in after.items()
        }
        # Either may have heard before its pong what came of an enrollment, which goes on when it has been answered.
        both = min(map(len, revisions.values()))
        assert both > 0
        assert revisions["public"][-both:] == revisions["service"][-both:]
        assert revisions["public"]
        for watching in watched.values():
            watching.call.cancel()

    async def refused(start: feed_pb2.Start, who: str) -> list[Outcome]:
        outcomes = []
        for service, contract in FEEDS.items():
            method = METHODS[f"{service}.{service.capitalize()}FeedService.Watch"]
            raw = contract.WatchRequest(start=start).SerializeToString()
            outcomes.append(await send(plane, method, Caller(who), raw))
        return outcomes

    foreign, everything = feed_pb2.Start(organization_ids=[other.organization_id]), feed_pb2.Start(all=True)
    nowhere = feed_pb2.Start(organization_ids=["org_" + "0" * 32])
    installation = await gateway_key(plane, "")
    of_nobody = feed_pb2.Start(organization_ids=[""])
    asked = [(foreign, key), (nowhere, key), (everything, key)]
    asked += [(start, installation) for start in (foreign, everything, of_nobody)]
    for start, who in asked:
        assert {outcome.reason for outcome in await refused(start, who)} == {"ACCESS_DENIED"}


@ON_ONE
async def test_a_watch_ends_with_its_key(plane: Plane) -> None:
    """I-15: also of a gateway that sends nothing any more."""
    keys = plane.stub(identity_pb2_grpc.ApiKeyServiceStub)
    api_key = identity_pb2.ApiKey(display_name="edge", role=ROLE_GATEWAY)
    api_key.expire_time.FromNanoseconds((plane.clock.now() + MINUTE) * 1000)
    request = identity_pb2.CreateApiKeyRequest(organization_id=plane.organization, api_key=api_key)
    revoked, expiring = await keys.CreateApiKey(request), await keys.CreateApiKey(request)
    watching = {}
    for made in (revoked, expiring):
        watching[made.secret] = [Watching(plane, service, Caller(made.secret)) for service in FEEDS]
        for each in watching[made.secret]:
            each.send(start=feed_pb2.Start(organization_ids=[plane.organization]))
            await each.until_pong()
    await keys.RevokeApiKey(
        identity_pb2.RevokeApiKeyRequest(organization_id=plane.organization, api_key_id=revoked.api_key.api_key_id)
    )
    for made, seconds in ((revoked, 0), (expiring, 61)):
        plane.clock.advance(seconds)
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*(ended(each.call) for each in watching[made.secret]))
        assert {outcome.code for outcome in outcomes} == {"UNAUTHENTICATED"}


def test_what_is_no_question_is_refused() -> None:
    """As the server refuses it; and so is a checker that nobody could run."""
    organization_id = "org_" + "0" * 32
    profile = Profile(identity="127.0.0.1:1", organization_id=organization_id, key="ghk_secret")
    checker = Checker.connect(profile)
    questions: list[tuple[type[Exception], dict[str, Any]]] = [
        (InvalidField, {"kind": "smoke", "address": "100.96.0.1"}),
        (InvalidField, {"kind": "connection", "address": "100.96.0"}),
        (InvalidField, {"kind": "connection", "address": "100.96.0.1", "fields": {"net.dst.prot": "1"}}),
        (InvalidField, {"kind": "connection", "address": "100.96.0.1", "lists": {"net.dst.port": ["1"]}}),
        (FieldRequired, {"kind": "connection"}),
    ]
    for raises, question in questions:
        with pytest.raises(raises):
            checker.check_traffic(**question)
    # Before it has heard anything, nothing is known and nobody may pass.
    assert checker.check_traffic(kind="connection", address="100.96.0.1").reason is Reason.STATE_STALE
    assert checker.check_session(NOBODY, "pol_" + "f" * 32).reason is Reason.STATE_STALE
    assert (checker.ready(), checker.staleness(), checker.fresh_as_of) == (False, None, None)
    for staleness in (SECOND, 6 * MINUTE):
        with pytest.raises(DurationInvalid):
            Checker.connect(profile, max_staleness=format_duration(staleness))
    for lacking in (dataclasses.replace(profile, organization_id=""), dataclasses.replace(profile, key="")):
        with pytest.raises(ProfileInvalid):
            Checker.connect(lacking)
    with pytest.raises(InvalidField):
        Checker.connect(profile, organization_id="example")
    assert "ghk_secret" not in repr(checker)
