"""What a policy covers and when it comes: precedence, expressions, hours, and what is warned about; on both engines."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.errors import (
    FieldRequired,
    InvalidField,
    LimitReached,
    PolicyNotFound,
    PrecedenceTaken,
    RequestIdReused,
)
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.policies import REQUEST
from guardhouse.replica import PolicyState
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.session.usecases import snapshot
from tests.clock import FakeClock
from tests.guardhouse_services.session.service import Service
from tests.guardhouse_services.session.world import NO_POLICY, ORGANIZATION, OTHER_ORGANIZATION

L4, HTTP, DNS = pb.POLICY_FILTER_L4, pb.POLICY_FILTER_HTTP, pb.POLICY_FILTER_DNS
BLOCK = pb.POLICY_ACTION_BLOCK
LIMITED = pb.CheckSession(enforce=True, duration="1h")
WORKDAYS = pb.Schedule(time_zone="Europe/Berlin", monday="8:00-12:30, 13:30-17:00", sunday="00:00-24:00")


async def precedences(service: Service) -> dict[str, int]:
    """By name."""
    listed = await service(pb.ListPoliciesRequest(organization_id=ORGANIZATION))
    return {policy.display_name: policy.precedence for policy in listed.policies}


async def reorder(service: Service, policy_ids: Sequence[str], request_id: str = "") -> Any:
    return await service(pb.ReorderPoliciesRequest(organization_id=ORGANIZATION, policy_ids=policy_ids), request_id)


async def several(service: Service, count: int = 3) -> list[str]:
    """Policies called 0, 1 and so on, in order."""
    return [(await service.create(display_name=f"{number}")).policy.policy_id for number in range(count)]


# Precedence


async def test_a_new_policy_comes_behind_all_others_with_room_between(service: Service) -> None:
    """Decision 29: whichever filter they have; and another organization's are none of its business."""
    await service.create(organization_id=OTHER_ORGANIZATION, precedence=7000)
    await service.create(display_name="first")
    await service.create(display_name="second", filter=HTTP)
    await service.create(display_name="between", precedence=1050)
    await service.create(display_name="last", precedence=2001)
    await service.create(display_name="behind")
    assert await precedences(service) == {"first": 1000, "second": 1100, "between": 1050, "last": 2001, "behind": 2101}


async def test_a_precedence_is_of_one_policy(service: Service) -> None:
    """Decision 29: its own is no other's, and one that was given up is free."""
    first, second, _ = await several(service)
    for call in (service.create(precedence=1100), service.update(first, "precedence", precedence=1100)):
        with pytest.raises(PrecedenceTaken) as caught:
            await call
        assert caught.value.metadata == {"precedence": "1100"}
        assert second in caught.value.message
    assert (await service.update(second, "precedence", precedence=1100)).policy.precedence == 1100
    await service.delete(second)
    assert (await service.update(first, "precedence", precedence=1100)).policy.precedence == 1100
    # Without one in the request the update puts it behind all others.
    assert (await service.update(first, "precedence")).policy.precedence == 1300
    assert (await service.update(first, "display_name", display_name="still")).policy.precedence == 1300


async def test_a_precedence_that_is_none_is_refused(service: Service) -> None:
    for precedence in (0, -1, 1_000_001):
        with pytest.raises(InvalidField) as caught:
            await service.create(precedence=precedence)
        assert caught.value.field == "policy.precedence"


async def test_behind_the_last_precedence_there_is_none(service: Service) -> None:
    await service.create(precedence=1_000_000)
    with pytest.raises(LimitReached) as caught:
        await service.create()
    assert caught.value.metadata == {"limit": "1000000"}
    assert (await service.create(precedence=999_999)).policy.precedence == 999_999


async def test_an_organization_has_room_for_so_many_policies_of_each_filter(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public account limits, in small; also for one that changes over to a filter."""
    monkeypatch.setattr("guardhouse_services.session.store.policies.LIMIT", 2)
    first, _ = await several(service, 2)
    other = (await service.create(filter=HTTP)).policy.policy_id
    await service.create(organization_id=OTHER_ORGANIZATION)
    for call in (service.create(), service.update(other, "filter", filter=L4)):
        with pytest.raises(LimitReached) as caught:
            await call
        assert caught.value.metadata == {"limit": "2"}
    await service.update(first, "display_name", display_name="as many as may be")
    await service.delete(first)
    await service.update(other, "filter", filter=L4)


async def test_of_many_who_come_at_once_each_gets_a_precedence_of_its_own(service: Service) -> None:
    """Decision 29: behind the last as well as by number."""
    made = await asyncio.gather(*(service.create() for _ in range(6)))
    assert sorted(each.policy.precedence for each in made) == [1000, 1100, 1200, 1300, 1400, 1500]
    results = await asyncio.gather(*(service.create(precedence=5) for _ in range(6)), return_exceptions=True)
    refused = [each for each in results if isinstance(each, BaseException)]
    assert {type(each) for each in refused} == {PrecedenceTaken}
    assert len(refused) == 5


# Reordering


async def test_policies_share_out_their_precedences_in_the_order_of_the_request(
    service: Service, clock: FakeClock
) -> None:
    """I-07: once, in one change; those that are not named stay where they are."""
    first, second, third, fourth = await several(service, 4)
    clock.advance(5)
    reply = await reorder(service, [fourth, first, third], "r1")
    assert [policy.policy_id for policy in reply.policies] == [fourth, first, third]
    assert [policy.precedence for policy in reply.policies] == [1000, 1200, 1300]
    for policy in reply.policies:
        assert await service.get(policy.policy_id) == policy
        assert policy.update_time.ToMicroseconds() > policy.create_time.ToMicroseconds()
    assert await precedences(service) == {"3": 1000, "1": 1100, "0": 1200, "2": 1300}
    assert await service.revision() == 5
    await service.delete(fourth)
    assert await reorder(service, [fourth, first, third], "r1") == reply
    with pytest.raises(RequestIdReused):
        await reorder(service, [third, first], "r1")
    assert await service.revision() == 6
    last = (await service.records())[-2]
    assert (last.method, list(last.objects)) == ("/ReorderPolicies", [fourth, first, third])
    assert (await service.get(second)).precedence == 1100


async def test_an_order_is_changed_as_a_whole_or_not_at_all(service: Service) -> None:
    made = await several(service)
    foreign = (await service.create(organization_id=OTHER_ORGANIZATION)).policy.policy_id
    for policy_id in (NO_POLICY, foreign):
        with pytest.raises(PolicyNotFound):
            await reorder(service, [*reversed(made), policy_id])
    for wrong, field in (([made[0]], "policy_ids"), ([*made, made[0]], "policy_ids[3]"), (["x"] * 2, "policy_ids[0]")):
        with pytest.raises(InvalidField) as caught:
            await reorder(service, wrong)
        assert caught.value.field == field
    assert await precedences(service) == {"0": 1000, "1": 1100, "2": 1200}
    assert await service.revision() == 3


# What the release before wrote


async def test_a_policy_of_the_release_before_covers_everything_behind_all_others(service: Service) -> None:
    """Its row has none of the new columns; whoever changes it or puts it into an order gives it a precedence."""
    old = [f"pol_{number:032x}" for number in range(3)]

    def write(tx: Any) -> None:
        columns = "organization_id, policy_id, display_name, description, enabled, filter, action"
        values = ":organization_id, :policy_id, :policy_id, '', true, 2, 1"
        for policy_id in old:
            tx.execute(
                sa.text(f"INSERT INTO policy ({columns}, create_time, update_time) VALUES ({values}, 1, 1)"),
                {"organization_id": ORGANIZATION, "policy_id": policy_id},
            )
        tx.advance(ORGANIZATION)

    await service.database.write(write)
    found = await service.get(old[0])
    assert not found.HasField("precedence")
    assert (found.traffic, found.identity, found.device_posture) == ("", "", "")
    assert not found.HasField("schedule")
    new = (await service.create(filter=HTTP)).policy
    assert new.precedence == 1000
    state = PolicyState(ORGANIZATION)
    for event in (await service.database.read(lambda tx: snapshot(tx, ORGANIZATION, "", 10)))[0]:
        state.apply(event)
    policies = state.compiled()
    (decides,) = policies.match(REQUEST, {}, policies.identity_mask({}) & policies.posture_mask({}))
    assert decides.policy_id == new.policy_id
    assert (await service.update(old[0], "display_name", display_name="touched")).policy.precedence == 1100
    ordered = (await reorder(service, [old[1], new.policy_id, old[2]])).policies
    assert [policy.precedence for policy in ordered] == [1000, 1200, 1300]


# Expressions


async def test_expressions_are_kept_to_the_letter(service: Service) -> None:
    """Decision 29: whitespace and all; an empty one is true."""
    fields = {
        "traffic": " net.dst.ip  in {10.0.0.0/8} and not net.dst.port == 22",
        "identity": 'identity.email == "Alice@Example.com" || any(identity.groups.name[*] in {"Staff"})',
        "device_posture": 'any(device_posture.checks.passed[*] in {"disk"})',
    }
    made = (await service.create(**fields)).policy
    kept = await service.get(made.policy_id)
    assert {name: getattr(kept, name) for name in fields} == fields
    emptied = (await service.update(made.policy_id, "traffic", "identity")).policy
    assert (emptied.traffic, emptied.identity, emptied.device_posture) == ("", "", fields["device_posture"])


REFUSED = [
    ("traffic", "net.dst.ip = 10.0.0.1", "column 12"),
    ("traffic", "net.dst.port == 443 and http.request.host == 1", "column 25"),
    ("traffic", "net.dst.port == 1 or net.dst.port in $nothing", "column 22"),
    ("identity", 'identity.email matches "("', "column 24"),
    ("identity", "net.dst.port == 443", "column 1"),
    ("device_posture", "any(device_posture.checks.passed[*] in {1})", "column 41"),
]


async def test_an_expression_that_cannot_be_used_is_refused_with_its_column(service: Service) -> None:
    """Contracts: also when the policy is not enabled, and in an update."""
    made = (await service.create()).policy
    for field, text, column in REFUSED:
        for call in (
            service.create(enabled=False, **{field: text}),
            service.update(made.policy_id, field, **{field: text}),
        ):
            with pytest.raises(InvalidField) as caught:
                await call
            assert caught.value.field == f"policy.{field}"
            assert f"{column}:" in caught.value.message
    assert await service.get(made.policy_id) == made


async def test_an_expression_is_judged_by_the_filter_that_the_policy_would_have(service: Service) -> None:
    made = (await service.create(traffic="net.dst.port == 443")).policy
    with pytest.raises(InvalidField) as caught:
        await service.update(made.policy_id, "filter", filter=HTTP)
    assert caught.value.field == "policy.traffic"
    await service.update(made.policy_id, "filter", "traffic", filter=HTTP, traffic='http.request.host == "a.example"')


# Hours


async def test_only_dns_policies_have_hours_and_an_end(service: Service, clock: FakeClock) -> None:
    """The source has them there only; hours are answered in their normal form."""
    expire_time = Timestamp(seconds=clock.now() // 1_000_000 + 60)
    made = (await service.create(filter=DNS, schedule=WORKDAYS, expire_time=expire_time)).policy
    kept = await service.get(made.policy_id)
    assert kept.expire_time == expire_time
    assert kept.schedule == pb.Schedule(
        time_zone="Europe/Berlin", monday="08:00-12:30,13:30-17:00", sunday="00:00-24:00"
    )
    for fields in ({"schedule": WORKDAYS}, {"expire_time": expire_time}):
        (name,) = fields
        for filter_ in (L4, HTTP):
            with pytest.raises(InvalidField) as caught:
                await service.create(filter=filter_, **fields)
            assert caught.value.field == f"policy.{name}"
    with pytest.raises(InvalidField) as caught:
        await service.update(made.policy_id, "filter", filter=L4)
    assert caught.value.field == "policy.schedule"
    without = (await service.update(made.policy_id, "filter", "schedule", "expire_time", filter=L4)).policy
    assert not without.HasField("schedule")
    assert not without.HasField("expire_time")


async def test_hours_that_are_none_are_refused(service: Service) -> None:
    wrong: list[tuple[pb.Schedule, str, type[InvalidField]]] = [
        (pb.Schedule(), "time_zone", FieldRequired),
        (pb.Schedule(time_zone="Nowhere"), "time_zone", InvalidField),
        (pb.Schedule(time_zone="UTC", friday="17:00-08:00"), "friday", InvalidField),
    ]
    for schedule, field, error in wrong:
        with pytest.raises(error) as caught:
            await service.create(filter=DNS, schedule=schedule)
        assert (type(caught.value), caught.value.field) == (error, f"policy.schedule.{field}")


# Warnings


async def test_a_pattern_that_does_not_say_where_it_ends_is_warned_about(service: Service) -> None:
    """Decision 30a: on an address or a host; and it is created all the same."""
    loose = await service.create("r1", identity='identity.email matches ".*@example.com"')
    (warning,) = loose.warnings
    assert (warning.field, warning.column) == ("identity", 1)
    assert "end it with $" in warning.message
    assert await service.create("r1", identity='identity.email matches ".*@example.com"') == loose
    policy_id = loose.policy.policy_id
    host = await service.update(policy_id, "traffic", traffic='net.dst.port == 1 or net.sni.host matches "example"')
    assert [(each.field, each.column) for each in host.warnings] == [("traffic", 22), ("identity", 1)]
    anchored = {"identity": 'identity.email matches "@example[.]com$"', "traffic": ""}
    assert not (await service.update(policy_id, *anchored, **anchored)).warnings
    assert not (await service.create(identity='identity.name matches "Eve"')).warnings


async def test_a_policy_that_covers_a_sign_in_host_is_warned_about(service: Service) -> None:
    """Decision 29: if it blocks, or may ask for a sign-in; by name in its traffic, or by covering everything."""
    provider = identity.IdentityProvider(identity_provider_id="idp_1", issuer="https://IdP.example:8443/tenant")
    service.world.identity.publish(identity.Event(identity_provider=provider))
    await service.world.settle()
    covers: list[dict[str, Any]] = [
        {"action": BLOCK},
        {"action": BLOCK, "filter": HTTP, "traffic": 'http.request.host == "idp.example"'},
        {"check_session": LIMITED, "traffic": 'any(net.sni.domains[*] == "example")'},
        {"action": BLOCK, "traffic": 'net.sni.host != "wiki.example"'},
    ]
    for fields in covers:
        (warning,) = (await service.create(**fields)).warnings
        assert (warning.field, warning.column) == ("traffic", 0)
        assert "idp.example" in warning.message
    does_not: list[dict[str, Any]] = [
        {},
        {"check_session": pb.CheckSession(duration="1h")},
        {"action": BLOCK, "traffic": 'net.sni.host == "wiki.example"'},
        {"action": BLOCK, "filter": HTTP, "traffic": 'http.request.host == "not-idp.example"'},
        {"action": BLOCK, "organization_id": OTHER_ORGANIZATION},
    ]
    for fields in does_not:
        assert not (await service.create(**fields)).warnings
