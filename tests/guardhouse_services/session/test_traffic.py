"""Checks of traffic: which policy decides for whom, from the three feeds to the answer."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.durations import SECOND
from guardhouse.errors import InvalidField
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import to_timestamp
from tests.clock import FakeClock
from tests.guardhouse_services.session import world as facts
from tests.guardhouse_services.session.test_checks import servicer
from tests.guardhouse_services.session.world import (
    ALICE,
    BOB,
    HOUR,
    LAPTOP,
    NO_REGISTRATION,
    ORGANIZATION,
    PHONE,
    World,
    call,
)

FIRST, SECOND_POLICY, THIRD = (f"pol_{digit * 32}" for digit in "123")
WIKI = "lst_" + "a" * 32
ADDRESSES = {LAPTOP: ("100.96.0.1", "fd00::1"), PHONE: ("100.96.0.2", "fd00::2")}
HTTPS = {"net.dst.ip": "10.1.2.3", "net.dst.port": "443"}

ALLOWED = (pb.DECISION_ALLOW, pb.DECISION_REASON_NO_SESSION_LIMIT)
FRESH = (pb.DECISION_ALLOW, pb.DECISION_REASON_SESSION_FRESH)
EXPIRED = (pb.DECISION_REAUTHENTICATE, pb.DECISION_REASON_SESSION_EXPIRED)
BLOCKED = (pb.DECISION_BLOCK, pb.DECISION_REASON_POLICY_BLOCK)
DEFAULT = (pb.DECISION_ALLOW, pb.DECISION_REASON_NO_POLICY_MATCHED)
UNKNOWN = (pb.DECISION_BLOCK, pb.DECISION_REASON_REGISTRATION_UNKNOWN)


@pytest.fixture
def clock() -> FakeClock:
    clock = FakeClock()
    clock.stop()
    return clock


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    """Alice has a laptop and Bob a phone."""
    async with World(clock) as world:
        world.identity.publish(user(ALICE, "alice@example.com", "staff"), user(BOB, "bob@example.com"))
        world.registry.publish(device(clock.now(), LAPTOP, ALICE), device(clock.now(), PHONE, BOB))
        world.own.publish()
        yield world


def user(user_id: str, email: str, *groups: str) -> identity.Event:
    event = facts.user(user_id)
    event.user.user.email = email
    event.user.user.groups.extend(groups)
    return event


def device(time: int, registration_id: str, user_id: str, passed: Sequence[str] | None = None) -> registry.Event:
    event = facts.registration(time, registration_id, user_id)
    of = event.registration.registration
    of.ipv4, of.ipv6 = ADDRESSES[registration_id]
    if passed is not None:
        event.registration.posture.passed.extend(passed)
    return event


def policy(policy_id: str, precedence: int, duration: str = "", **fields: Any) -> pb.Event:
    return facts.policy(policy_id, duration, precedence=precedence, **fields)


def block(policy_id: str, precedence: int, **fields: Any) -> pb.Event:
    return policy(policy_id, precedence, action=pb.POLICY_ACTION_BLOCK, **fields)


async def ask(
    world: World,
    fields: Mapping[str, str] = HTTPS,
    registration_id: str = LAPTOP,
    kind: pb.TrafficKind.ValueType = pb.TRAFFIC_KIND_CONNECTION,
    address: str = "",
    organization_id: str = ORGANIZATION,
    **lists: Sequence[str],
) -> pb.CheckTrafficResponse:
    await world.settle()
    subject = {"address": address} if address else {"registration_id": registration_id}
    several = {name.replace("_", "."): pb.TrafficValues(values=values) for name, values in lists.items()}
    traffic = pb.Traffic(fields=fields, lists=several)
    request = pb.CheckTrafficRequest(organization_id=organization_id, kind=kind, traffic=traffic, **subject)
    return await check(world, request)


async def check(world: World, request: pb.CheckTrafficRequest) -> pb.CheckTrafficResponse:
    reply = await servicer(world).CheckTraffic(request, call())
    return pb.CheckTrafficResponse.FromString(reply.SerializeToString())


async def check_batch(world: World, request: pb.BatchCheckTrafficRequest) -> pb.BatchCheckTrafficResponse:
    reply = await servicer(world).BatchCheckTraffic(request, call())
    return pb.BatchCheckTrafficResponse.FromString(reply.SerializeToString())


async def decide(world: World, *args: Any, **more: Any) -> tuple[int, int]:
    answer = (await ask(world, *args, **more)).answer
    return answer.decision, answer.reason


async def test_an_answer_says_which_policy_decided_for_whom(world: World, clock: FakeClock) -> None:
    world.own.publish(policy(FIRST, 10, "1h0m0s", traffic="net.dst.port == 443"))
    answer = (await ask(world, address="100.96.0.1")).answer
    assert (answer.decision, answer.reason) == FRESH
    assert (answer.policy_id, answer.registration_id, answer.user_id) == (FIRST, LAPTOP, ALICE)
    assert answer.session_expire_time.ToMicroseconds() == answer.authenticate_time.ToMicroseconds() + HOUR


async def test_the_lowest_precedence_that_matches_decides(world: World) -> None:
    """Decision 29, whatever order they were written in."""
    world.own.publish(block(SECOND_POLICY, 20), policy(FIRST, 10, traffic="net.dst.port == 443"))
    assert await decide(world) == ALLOWED
    assert await decide(world, {"net.dst.port": "80"}) == BLOCKED


async def test_a_new_order_decides_at_once(world: World) -> None:
    world.own.publish(block(SECOND_POLICY, 20), policy(FIRST, 10))
    assert await decide(world) == ALLOWED
    world.own.publish(policy(FIRST, 20), block(SECOND_POLICY, 10))
    assert await decide(world) == BLOCKED


async def test_network_policies_come_before_http_policies_and_do_not_replace_them(world: World) -> None:
    """Decision 29: both judge the session, each by its own timeout."""
    web = {"net.dst.port": "443", "http.request.host": "wiki.example"}
    world.own.publish(
        policy(FIRST, 10, "2h0m0s"),
        policy(
            SECOND_POLICY, 20, "1h0m0s", filter=pb.POLICY_FILTER_HTTP, traffic='http.request.host == "wiki.example"'
        ),
        block(THIRD, 30, filter=pb.POLICY_FILTER_HTTP),
    )
    answer = (await ask(world, web, kind=pb.TRAFFIC_KIND_REQUEST)).answer
    assert answer.policy_id == SECOND_POLICY, "the session that ends first"
    web["http.request.host"] = "other.example"
    assert await decide(world, web, kind=pb.TRAFFIC_KIND_REQUEST) == BLOCKED
    assert await decide(world, web) == FRESH, "a connection passes network policies only"


async def test_an_expired_session_blocks_only_what_the_policy_covers(world: World, clock: FakeClock) -> None:
    """Decision 29, and to the microsecond."""
    world.own.publish(policy(FIRST, 10, "1h0m0s", traffic="net.dst.port == 443"))
    clock.advance(3600 - 1e-6)
    assert await decide(world) == FRESH
    clock.advance(1e-6)
    assert await decide(world) == EXPIRED
    assert await decide(world, {"net.dst.port": "80"}) == DEFAULT


async def test_dns_is_never_affected_by_a_session(world: World, clock: FakeClock) -> None:
    """Decision 28."""
    world.own.publish(
        policy(FIRST, 10, "1h0m0s"),
        block(SECOND_POLICY, 10, filter=pb.POLICY_FILTER_DNS, traffic='dns.fqdn == "bad.example"'),
    )
    clock.advance(7200)
    query = pb.TRAFFIC_KIND_QUERY
    assert await decide(world, {"dns.fqdn": "good.example"}, kind=query) == DEFAULT
    assert await decide(world, {"dns.fqdn": "bad.example"}, kind=query) == BLOCKED


async def test_a_dns_policy_expires_and_no_answer_outlives_it(world: World, clock: FakeClock) -> None:
    expire_time = to_timestamp(clock.now() + 3 * SECOND)
    world.own.publish(block(FIRST, 10, filter=pb.POLICY_FILTER_DNS, expire_time=expire_time))
    query = pb.TRAFFIC_KIND_QUERY
    answer = (await ask(world, kind=query)).answer
    assert (answer.reason, answer.valid_for.ToSeconds()) == (pb.DECISION_REASON_POLICY_BLOCK, 3)
    clock.advance(3)
    assert await decide(world, kind=query) == DEFAULT


async def test_the_organizations_default_decides_where_no_policy_matches(world: World) -> None:
    """Decision 29: ALLOW unless set to BLOCK; a registration that may pass nowhere is refused all the same."""
    assert await decide(world) == DEFAULT
    blocking = identity.Organization(organization_id=ORGANIZATION, default_action=identity.DEFAULT_ACTION_BLOCK)
    world.identity.publish(identity.Event(organization=blocking), organization_id="")
    assert await decide(world) == (pb.DECISION_BLOCK, pb.DECISION_REASON_NO_POLICY_MATCHED)
    assert await decide(world, registration_id=NO_REGISTRATION) == UNKNOWN


async def test_who_somebody_is_decides(world: World) -> None:
    world.own.publish(
        policy(FIRST, 10, identity='any(identity.groups.name[*] in {"staff"})'),
        block(SECOND_POLICY, 20, identity='identity.email == "bob@example.com"'),
    )
    assert await decide(world) == ALLOWED
    assert await decide(world, registration_id=PHONE) == BLOCKED
    world.identity.publish(user(BOB, "bob@example.com", "staff"))
    assert await decide(world, registration_id=PHONE) == ALLOWED, "Bob has joined the staff"
    world.identity.publish(user(ALICE, "alice@example.com"))
    assert await decide(world) == DEFAULT, "Alice has left it"


async def test_no_variant_of_an_address_gets_around_a_policy_that_blocks(world: World) -> None:
    world.own.publish(block(FIRST, 10, identity='identity.email == "bob@example.com"'))
    world.identity.publish(user(BOB, "Bo.b+shopping@example.com"))
    assert await decide(world, registration_id=PHONE) == BLOCKED


async def test_the_device_decides(world: World, clock: FakeClock) -> None:
    world.own.publish(block(FIRST, 10, device_posture='not any(device_posture.checks.passed[*] in {"disk"})'))
    assert await decide(world) == BLOCKED, "it has said nothing yet"
    world.registry.publish(device(clock.now(), LAPTOP, ALICE, passed=["disk"]))
    assert await decide(world) == DEFAULT
    world.registry.publish(device(clock.now(), LAPTOP, ALICE, passed=["firewall"]))
    assert await decide(world) == BLOCKED


async def test_the_age_of_what_the_device_said_decides(world: World, clock: FakeClock) -> None:
    """Decision 32a, by the present, and no answer outlives the bound: not one that is kept, nor its valid_for."""
    asked = 'any(device_posture.checks.passed[*] in {"disk"}) and device_posture.age < 7200'
    world.own.publish(policy(FIRST, 10, device_posture=asked), block(SECOND_POLICY, 20))
    assert await decide(world) == BLOCKED, "it has said nothing yet"
    event = device(clock.now(), LAPTOP, ALICE, passed=["disk"])
    event.registration.posture.report_time.CopyFrom(to_timestamp(clock.now()))
    world.registry.publish(event)
    left = []
    for seconds in (0, 7185, 5, 4, 5, 0.999999, 0.000001):
        clock.advance(seconds)
        answer = (await ask(world)).answer
        left.append((answer.policy_id == FIRST, answer.valid_for.ToMicroseconds()))
    assert left == [*((True, each * SECOND) for each in (10, 10, 10, 6, 1)), (True, 1), (False, 10 * SECOND)]
    event.registration.posture.report_time.CopyFrom(to_timestamp(clock.now()))
    world.registry.publish(event)
    assert await decide(world) == ALLOWED, "it has said so again"


async def test_a_bound_that_is_new_ends_what_was_kept(world: World, clock: FakeClock) -> None:
    """Decision 32a: the answer is as it was, and holds for less time."""
    clock.stop()
    world.own.publish(policy(SECOND_POLICY, 20))
    event = device(clock.now(), LAPTOP, ALICE, passed=["disk"])
    event.registration.posture.report_time.CopyFrom(to_timestamp(clock.now()))
    world.registry.publish(event)
    assert (await ask(world)).answer.valid_for.ToMicroseconds() == 10 * SECOND
    world.own.publish(block(FIRST, 10, device_posture="device_posture.age >= 4"))
    answer = (await ask(world)).answer
    assert (answer.policy_id, answer.valid_for.ToMicroseconds()) == (SECOND_POLICY, 4 * SECOND)


async def test_an_answer_that_ends_with_a_bound_is_not_kept_behind_it(world: World, clock: FakeClock) -> None:
    """Decision 32a: behind a bound that has no say in this traffic the same policy decides, and for as long as ever."""
    world.own.publish(
        block(FIRST, 10, traffic="net.dst.port == 80", device_posture="device_posture.age >= 4"),
        policy(SECOND_POLICY, 20),
    )
    event = device(clock.now(), LAPTOP, ALICE, passed=["disk"])
    event.registration.posture.report_time.CopyFrom(to_timestamp(clock.now()))
    world.registry.publish(event)
    left = []
    for seconds in (0, 4, 1):
        clock.advance(seconds)
        answer = (await ask(world)).answer
        left.append((answer.policy_id, answer.valid_for.ToMicroseconds() // SECOND))
    assert left == [(SECOND_POLICY, 4), (SECOND_POLICY, 10), (SECOND_POLICY, 10)]


async def test_a_trial_is_by_the_age_that_it_is_given(world: World, clock: FakeClock) -> None:
    """Decisions 30a and 32a: what nobody gave shows as missing; a device that exists is as old as it is then."""
    world.own.publish(block(FIRST, 10, device_posture="device_posture.age >= 3600"))
    event = device(clock.now(), LAPTOP, ALICE, passed=["disk"])
    event.registration.posture.report_time.CopyFrom(to_timestamp(clock.now()))
    world.registry.publish(event)
    await world.settle()
    given: list[dict[str, Any]] = [{"test_subject": pb.TestSubject(posture_age=age)} for age in ("", "59m59s", "1h")]
    given += [{"registration_id": each} for each in (LAPTOP, PHONE)]
    kind = pb.TRAFFIC_KIND_CONNECTION
    request = pb.TestPoliciesRequest(
        organization_id=ORGANIZATION, tests=[pb.TrafficTest(kind=kind, **each) for each in given]
    )
    request.time.CopyFrom(to_timestamp(clock.now() + HOUR))
    response = await servicer(world).TestPolicies(request, call())
    steps = [step for result in response.results for step in result.steps]
    missing = ["device_posture.age"]
    assert [(step.matched, list(step.missing)) for step in steps] == [
        *((False, missing), (False, []), (True, [])),
        *((True, []), (False, missing)),
    ]


async def test_a_trial_is_by_the_claims_that_it_is_given(world: World) -> None:
    world.own.publish(block(FIRST, 10, identity='any(identity.oidc_claims[*] in {"team=x"})'))
    await world.settle()
    kind = pb.TRAFFIC_KIND_CONNECTION
    given = [pb.TestSubject(oidc_claims=claims) for claims in (["team=y"], ["team=y", "team=x"])]
    tests = [pb.TrafficTest(kind=kind, test_subject=each) for each in given]
    request = pb.TestPoliciesRequest(organization_id=ORGANIZATION, tests=tests)
    response = await servicer(world).TestPolicies(request, call())
    assert [step.matched for result in response.results for step in result.steps] == [False, True]


async def test_a_posture_without_a_time_is_as_old_as_what_it_says(world: World, clock: FakeClock) -> None:
    """Decision 32a: from a registry of the release before, which says only since when it is so."""
    world.own.publish(block(FIRST, 10, device_posture="device_posture.age == 60"))
    event = device(clock.now(), LAPTOP, ALICE, passed=["disk"])
    event.registration.posture.change_time.CopyFrom(to_timestamp(clock.now() - 60 * SECOND))
    world.registry.publish(event)
    assert await decide(world) == BLOCKED


async def test_a_list_is_what_it_is_now(world: World) -> None:
    world.own.publish(block(FIRST, 10, traffic="net.dst.ip in $wiki-hosts"))
    values = pb.List(list_id=WIKI, name="wiki-hosts", type=pb.LIST_TYPE_IP, values=["10.1.0.0/16"])
    world.own.publish(pb.Event(list=values))
    assert await decide(world) == BLOCKED
    values.values[:] = ["10.2.0.0/16"]
    world.own.publish(pb.Event(list=values))
    assert await decide(world) == DEFAULT


async def test_a_policy_that_cannot_be_read_blocks_whatever_it_may_cover(world: World) -> None:
    """As one that a newer replica wrote, or whose list has not come: missing state refuses."""
    world.own.publish(
        policy(FIRST, 10, traffic="net.dst.ip in $nothing"), policy(SECOND_POLICY, 5, traffic="new.field == 1")
    )
    assert await decide(world) == BLOCKED
    world.own.publish(pb.Event(policy_deleted=FIRST), pb.Event(policy_deleted=SECOND_POLICY))
    assert await decide(world) == DEFAULT
    unheard_of = pb.Schedule(time_zone="Moon/Tranquility")
    world.own.publish(policy(FIRST, 10, filter=pb.POLICY_FILTER_DNS, schedule=unheard_of))
    assert await decide(world, kind=pb.TRAFFIC_KIND_QUERY) == BLOCKED
    unread = pb.List(list_id=WIKI, name="wiki", type=9, values=["10.1.0.0/16"])  # type: ignore[arg-type]
    world.own.publish(pb.Event(list=unread), policy(SECOND_POLICY, 10, traffic="not(net.dst.ip in $wiki)"))
    assert await decide(world) == BLOCKED


async def test_a_host_where_people_sign_in_stays_reachable(world: World, clock: FakeClock) -> None:
    """Decision 29: by any policy, but not for a registration that may pass nowhere."""
    provider = identity.IdentityProvider(identity_provider_id="idp_" + "1" * 32, issuer="https://login.example/tenant")
    world.identity.publish(identity.Event(identity_provider=provider))
    world.own.publish(block(FIRST, 10), block(SECOND_POLICY, 10, filter=pb.POLICY_FILTER_DNS))
    exempt = (pb.DECISION_ALLOW, pb.DECISION_REASON_SIGN_IN_HOST)
    assert await decide(world, {"net.sni.host": "LOGIN.example."}) == exempt
    assert await decide(world, {"http.request.host": "login.example"}, kind=pb.TRAFFIC_KIND_REQUEST) == exempt
    assert await decide(world, {"dns.fqdn": "login.example"}, kind=pb.TRAFFIC_KIND_QUERY) == exempt
    assert await decide(world, {"net.sni.host": "evil.login.example"}) == BLOCKED
    assert await decide(world, {"net.sni.host": "login.example"}, registration_id=NO_REGISTRATION) == UNKNOWN
    world.identity.publish(identity.Event(identity_provider_deleted=provider.identity_provider_id))
    assert await decide(world, {"net.sni.host": "login.example"}) == BLOCKED


@pytest.mark.parametrize("address", ["100.96.0.2", "fd00::2", "FD00:0:0::2", "::ffff:100.96.0.2"])
async def test_an_address_is_known_in_all_its_forms(world: World, address: str) -> None:
    assert (await ask(world, address=address)).answer.registration_id == PHONE


async def test_an_address_belongs_to_whoever_holds_it_now(world: World, clock: FakeClock) -> None:
    """Also when the new holder is heard of before the old one is gone."""
    again = "reg_" + "e" * 32
    event = facts.registration(clock.now(), again, ALICE)
    event.registration.registration.ipv4, event.registration.registration.ipv6 = ADDRESSES[PHONE]
    world.registry.publish(event)
    world.registry.publish(registry.Event(registration_deleted=PHONE))
    assert (await ask(world, address="100.96.0.2")).answer.registration_id == again
    world.registry.publish(registry.Event(registration_deleted=again))
    assert await decide(world, address="100.96.0.2") == UNKNOWN


async def test_fields_with_several_values_are_lists(world: World) -> None:
    world.own.publish(block(FIRST, 10, traffic="any(app.ids[*] in {7 9})"))
    assert await decide(world, app_ids=["8", "9"]) == BLOCKED
    assert await decide(world, app_ids=["8"]) == DEFAULT


async def test_what_is_missing_compares_as_false_and_unequal_as_true(world: World) -> None:
    """Decision 30a."""
    world.own.publish(
        block(FIRST, 10, traffic="net.dst.port < 1024"), block(SECOND_POLICY, 20, traffic="net.dst.port != 80")
    )
    assert (await ask(world, {})).answer.policy_id == SECOND_POLICY


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"net.dst.prot": "443"}, "traffic.fields"),
        ({"net.dst.port": "65536"}, "traffic.fields"),
        ({"net.dst.port": "-1"}, "traffic.fields"),
        ({"net.dst.port": "٣"}, "traffic.fields"),
        ({"net.dst.port": ""}, "traffic.fields"),
        ({"net.dst.ip": "10.0.0"}, "traffic.fields"),
        ({"access.target": "yes"}, "traffic.fields"),
        ({"http.request.uri": "x" * 8193}, "traffic.fields"),
        ({"app.ids": "7"}, "traffic.fields"),
    ],
)
async def test_traffic_that_cannot_be_is_refused(world: World, fields: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        await ask(world, fields)
    assert caught.value.field == field
    assert next(iter(fields)) in caught.value.message


async def test_a_field_in_the_wrong_place_or_too_many_are_refused(world: World) -> None:
    with pytest.raises(InvalidField) as caught:
        await ask(world, net_dst_port=["443"])
    assert caught.value.field == "traffic.lists"
    with pytest.raises(InvalidField) as caught:
        await ask(world, app_ids=["1"] * 1001)
    assert caught.value.field == "traffic.lists"
    with pytest.raises(InvalidField) as caught:
        await ask(world, {f"net.{number}": "x" for number in range(101)})
    assert caught.value.field == "traffic.fields"


async def test_whose_and_what_traffic_it_is_must_be_said(world: World) -> None:
    async def refused(field: str, **more: Any) -> None:
        request = pb.CheckTrafficRequest(
            **{"organization_id": ORGANIZATION, "registration_id": LAPTOP, "kind": 1, **more}
        )
        with pytest.raises(InvalidField) as caught:
            await check(world, request)
        assert caught.value.field == field
        item = pb.CheckTrafficItem(kind=request.kind, traffic=request.traffic)
        if request.registration_id:
            item.registration_id = request.registration_id
        elif request.address:
            item.address = request.address
        batch = pb.BatchCheckTrafficRequest(organization_id=request.organization_id, items=[item])
        with pytest.raises(InvalidField) as caught:
            await check_batch(world, batch)
        assert caught.value.field == (field if field == "organization_id" else f"items[0].{field}")

    await refused("registration_id", registration_id="")
    await refused("registration_id", registration_id="x")
    await refused("address", registration_id=None, address="100.96.0")
    await refused("kind", kind=0)
    await refused("kind", kind=9)
    await refused("organization_id", organization_id="org_1")


async def test_a_batch_is_answered_in_order_at_one_state(world: World) -> None:
    world.own.publish(block(FIRST, 10, traffic="net.dst.port == 80"))
    await world.settle()
    ports = ["80", "443", "80"]
    items = [
        pb.CheckTrafficItem(
            registration_id=LAPTOP, kind=pb.TRAFFIC_KIND_CONNECTION, traffic=pb.Traffic(fields={"net.dst.port": port})
        )
        for port in ports
    ]
    request = pb.BatchCheckTrafficRequest(organization_id=ORGANIZATION, items=items)
    response = await check_batch(world, request)
    assert [it.policy_id for it in response.answers] == [FIRST, "", FIRST]
    assert not any(it.registration_id for it in response.answers)
    assert response.HasField("fresh_as_of")
    request.read_mask.CopyFrom(FieldMask(paths=["decision"]))
    lean = await check_batch(world, request)
    assert list(lean.answers) == [pb.CheckAnswer(decision=it.decision) for it in response.answers]


async def test_state_that_is_too_old_refuses_unless_the_policy_is_open(world: World, clock: FakeClock) -> None:
    """I-15: where no policy decides nothing is open."""
    opened = pb.Staleness(mode=pb.STALENESS_MODE_OPEN_BOUNDED, max_open="10m0s")
    world.own.publish(policy(FIRST, 10, traffic="net.dst.port == 443", staleness=opened))
    await world.settle()
    for link in (world.identity, world.registry, world.own):
        link.hold()
    clock.advance(facts.MAX_STALENESS // SECOND + 60)

    async def now(port: str) -> pb.CheckTrafficResponse:
        traffic = pb.Traffic(fields={"net.dst.port": port})
        request = pb.CheckTrafficRequest(
            organization_id=ORGANIZATION, registration_id=LAPTOP, kind=pb.TRAFFIC_KIND_CONNECTION, traffic=traffic
        )
        return await check(world, request)

    open_, shut = await now("443"), await now("80")
    assert (open_.answer.decision, open_.degraded) == (pb.DECISION_ALLOW, True)
    assert (shut.answer.reason, shut.degraded) == (pb.DECISION_REASON_STATE_STALE, False)
    for link in (world.identity, world.registry, world.own):
        link.release()
