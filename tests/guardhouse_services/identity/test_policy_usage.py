"""Whom policies admitted, whom narrowing one leaves behind, and the rule groups that they name; on both engines."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.errors import (
    EnrollmentPolicyNotFound,
    EnrollmentRefused,
    InvalidField,
    RuleGroupInUse,
    RuleGroupNotFound,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.rules import Client, Rule, RuleKind
from guardhouse_services.identity.domain.enrollment_policies import Decision, EnrollmentPolicy
from guardhouse_services.identity.usecases import enrollment_policies, rule_groups
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.test_dry_runs import does, would
from tests.guardhouse_services.identity.world import EVERYBODY, World, deleted

OPS, DEV = Rule(RuleKind.GROUP, "ops"), Rule(RuleKind.GROUP, "dev")
ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)
AS_WRITTEN = ("enrollment_policy.update_time", "enrollment_policy.etag")
"""When it is written, which it was not when it was asked."""


def group(value: str) -> pb.EnrollmentRule:
    return pb.EnrollmentRule(group=value)


def narrowing(world: World, policy: EnrollmentPolicy, *include: pb.EnrollmentRule) -> pb.UpdateEnrollmentPolicyRequest:
    return pb.UpdateEnrollmentPolicyRequest(
        organization_id=world.organization,
        enrollment_policy=pb.EnrollmentPolicy(enrollment_policy_id=policy.enrollment_policy_id, include=include),
        update_mask=FieldMask(paths=["include"]),
    )


async def stranded(world: World, desk: Desk, policy: EnrollmentPolicy, page_size: int = 0) -> list[Any]:
    found: list[Any] = []
    request = pb.ListStrandedRegistrationsRequest(
        organization_id=world.organization, enrollment_policy_id=policy.enrollment_policy_id, page_size=page_size
    )
    while True:
        answer = await desk.send(request)
        assert len(answer.registrations) <= (page_size or 50)
        found += answer.registrations
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found


async def test_a_policy_counts_whom_it_admitted(world: World, desk: Desk) -> None:
    """Decision 13: users and registrations that are alive; those of machines have no user."""
    people = await world.allow(OPS, precedence=1)
    machines = await world.allow(ANY_TOKEN, precedence=2, decision=Decision.SERVICE_AUTH)
    await world.enroll("ada", groups=("ops",))
    await world.enroll("ada", groups=("ops",))
    await world.registry(deleted(await world.enroll("bob", groups=("ops",))))
    await world.enroll("carol")
    _, secret = await world.service_token()
    await world.enroll(secret)

    async def usage(policy_id: str) -> tuple[int, int]:
        request = pb.GetEnrollmentPolicyUsageRequest(organization_id=world.organization, enrollment_policy_id=policy_id)
        answer = await desk.send(request)
        return answer.admitted_users, answer.live_registrations

    assert await usage(people.enrollment_policy_id) == (1, 2)
    assert await usage(machines.enrollment_policy_id) == (0, 1)
    with pytest.raises(EnrollmentPolicyNotFound):
        await usage(f"enp_{'0' * 12}70008{'0' * 15}")


async def test_narrowing_a_policy_says_who_stays_connected(
    world: World, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 13: whom no policy would admit again, asked and done alike, however many parts they are looked at in;
    whoever another policy admits, or has gone, is not counted."""
    monkeypatch.setattr(enrollment_policies, "PART", 2)
    policy = await world.allow(OPS, DEV, precedence=1)
    left = [await world.enroll(name, groups=("dev",), email=f"{name}@x.org") for name in ("ada", "bob", "carol", "ada")]
    await world.enroll("dave", groups=("ops",), email="dave@x.org")
    await world.enroll("erin", groups=("dev",))
    await world.registry(deleted(await world.enroll("frank", groups=("dev",), email="frank@x.org")))
    assert await stranded(world, desk, policy) == []
    done = await does(desk, narrowing(world, policy, group("ops")), AS_WRITTEN)
    ids = [intent.intent_id for intent in left]
    assert (done.stranded_users, done.stranded_registrations) == (3, 4)
    assert list(done.stranded_registration_ids) == ids
    for page_size in (1, 3, 0):
        assert [it.registration_id for it in await stranded(world, desk, policy, page_size)] == ids
    first = (await stranded(world, desk, policy))[0]
    assert (first.user_id, first.email) == (left[0].user_id, "ada@x.org")
    # Nobody can be called back by this: who has been admitted stays until deleted.
    assert (await world.seats()).used == 6
    await world.registry(deleted(left[1]))
    assert [it.registration_id for it in await stranded(world, desk, policy)] == [ids[0], *ids[2:]]


async def test_whoever_a_deleted_policy_admitted_can_still_be_listed(world: World, desk: Desk) -> None:
    """Decision 13."""
    policy = await world.allow(ANY_TOKEN, precedence=1, decision=Decision.SERVICE_AUTH)
    token_id, secret = await world.service_token()
    intent = await world.enroll(secret)
    call = world.call(world.organization)
    await world.identity.enrollment_policies.delete(call, world.organization, policy.enrollment_policy_id)
    (listed,) = await stranded(world, desk, policy)
    assert (listed.registration_id, listed.service_token_id) == (intent.intent_id, token_id)


async def test_renaming_a_policy_looks_at_nobody(world: World, desk: Desk) -> None:
    """Whom an earlier change left behind is not said again of one that decides about nothing."""
    policy = await world.allow(OPS, precedence=1)
    await world.enroll("ada", groups=("ops",), email="ada@x.org")
    request = narrowing(world, policy, group("dev"))
    assert (await desk.send(request)).stranded_registrations == 1
    request.update_mask.paths[:] = ["display_name"]
    request.enrollment_policy.display_name = "Renamed"
    assert (await would(desk, request)).stranded_registrations == 0


async def test_a_policy_that_never_decides_is_written_with_a_warning(world: World, desk: Desk) -> None:
    """Decision 12: repeated, the answer is the same."""
    await world.allow(Rule(RuleKind.EVERYONE), precedence=1)
    draft = pb.EnrollmentPolicy(
        display_name="Ops", decision=pb.ENROLLMENT_DECISION_ALLOW, precedence=2, include=[group("ops")]
    )
    request = pb.CreateEnrollmentPolicyRequest(
        organization_id=world.organization, enrollment_policy=draft, request_id="again"
    )
    made = await desk.send(request)
    assert list(made.warnings) == [
        "it never decides: 'Policy' (ALLOW, precedence 1) is tried before it and matches everyone"
    ]
    assert await desk.send(request) == made


async def test_how_and_where_somebody_signs_in_decides(world: World) -> None:
    """Decision 12: each of what the token and the registry say."""
    (provider,) = await world.identity.identity_providers.page(world.organization, EVERYBODY)
    call = world.call(world.organization)
    changes = {"oidc_claims": ("level",)}
    await world.identity.identity_providers.update(call, world.organization, provider.identity_provider_id, changes)
    first = await world.allow(OPS, precedence=1, require=(Rule(RuleKind.LOGIN_METHOD, provider.identity_provider_id),))
    for number, (kind, value) in enumerate(
        [
            (RuleKind.OIDC_CLAIM, "level=7"),
            (RuleKind.IP_RANGE, "192.0.2.0/24"),
            (RuleKind.COUNTRY, "DE"),
        ],
        start=2,
    ):
        await world.allow(OPS, precedence=number, require=(Rule(kind, value),))
    ops: dict[str, Any] = {"groups": ("ops",), "email": "ada@x.org"}

    async def deciding(client: Client, **claims: Any) -> RuleKind:
        intent, _ = await world.identity.enrollments.authorize(
            world.call(world.organization),
            world.organization,
            world.new_intent(),
            world.sign_in("ada", **ops, **claims),
            client,
        )
        policy = await world.identity.enrollment_policies.get(world.organization, intent.enrollment_policy_id)
        return policy.require[0].kind

    assert await deciding(Client.of("192.0.2.7", "de"), level=7) == RuleKind.LOGIN_METHOD
    await world.identity.enrollment_policies.delete(
        world.call(world.organization), world.organization, first.enrollment_policy_id
    )
    assert await deciding(Client(), level=7) == RuleKind.OIDC_CLAIM
    assert await deciding(Client.of("192.0.2.7", "")) == RuleKind.IP_RANGE
    assert await deciding(Client.of("", "de")) == RuleKind.COUNTRY
    with pytest.raises(EnrollmentRefused):
        await deciding(Client.of("198.51.100.7", "fr"), level=8)


# Rule groups


async def new_group(world: World, desk: Desk, *include: pb.EnrollmentRule) -> pb.RuleGroup:
    draft = pb.RuleGroup(display_name="Staff", include=include)
    request = pb.CreateRuleGroupRequest(organization_id=world.organization, rule_group=draft)
    made: pb.RuleGroup = (await desk.send(request)).rule_group
    return made


async def test_a_rule_group_counts_for_every_policy_that_names_it(world: World, desk: Desk) -> None:
    """Decision 12: changed once, for whoever enrolls next; a policy keeps it from being deleted."""
    made = await new_group(world, desk, group("ops"))
    policy = await world.allow(Rule(RuleKind.RULE_GROUP, made.rule_group_id), precedence=1)
    intent = await world.authorize("ada", groups=("ops",), email="ada@x.org")
    assert intent.enrollment_policy_id == policy.enrollment_policy_id
    made.include.append(group("dev"))
    update = pb.UpdateRuleGroupRequest(
        organization_id=world.organization, rule_group=made, update_mask=FieldMask(paths=["include"])
    )
    changed = (await desk.send(update)).rule_group
    intent = await world.authorize("bob", groups=("dev",), email="bob@x.org")
    assert intent.enrollment_policy_id == policy.enrollment_policy_id
    read = pb.GetRuleGroupRequest(organization_id=world.organization, rule_group_id=made.rule_group_id)
    assert (await desk.send(read)).rule_group == changed
    listing = pb.ListRuleGroupsRequest(organization_id=world.organization)
    assert list((await desk.send(listing)).rule_groups) == [changed]
    delete = pb.DeleteRuleGroupRequest(organization_id=world.organization, rule_group_id=made.rule_group_id)
    with pytest.raises(RuleGroupInUse) as error:
        await desk.send(delete)
    assert error.value.metadata == {"enrollment_policy_ids": policy.enrollment_policy_id}
    await desk.send(narrowing(world, policy, group("ops")))
    await does(desk, delete)
    with pytest.raises(RuleGroupNotFound):
        await desk.send(read)


async def test_a_deleted_policy_lets_go_of_its_rule_group(world: World, desk: Desk) -> None:
    made = await new_group(world, desk, group("ops"))
    policy = await world.allow(Rule(RuleKind.RULE_GROUP, made.rule_group_id), precedence=1)
    call = world.call(world.organization)
    await world.identity.enrollment_policies.delete(call, world.organization, policy.enrollment_policy_id)
    delete = pb.DeleteRuleGroupRequest(organization_id=world.organization, rule_group_id=made.rule_group_id)
    assert (await desk.send(delete)).rule_group == made


async def test_a_policy_names_a_rule_group_of_its_own_organization(world: World, desk: Desk) -> None:
    """I-27."""
    made = await new_group(world, desk, group("ops"))
    rule, other = Rule(RuleKind.RULE_GROUP, made.rule_group_id), await world.add_organization()
    with pytest.raises(RuleGroupNotFound):
        await world.allow(rule, precedence=1, organization_id=other)


async def test_a_rule_group_is_about_people_and_holds_no_other(world: World, desk: Desk) -> None:
    """Decision 11: a token that enrolls is named by policies, which keep it from being deleted."""
    made = await new_group(world, desk, group("ops"))
    nested = pb.EnrollmentRule(rule_group_id=made.rule_group_id)
    for rule in (nested, pb.EnrollmentRule(any_valid_service_token=pb.AnyValidServiceToken())):
        with pytest.raises(InvalidField) as error:
            await new_group(world, desk, group("ops"), rule)
        assert error.value.field == "rule_group.include[1]"
    with pytest.raises(InvalidField, match="people enroll under ALLOW"):
        rules = Rule(RuleKind.RULE_GROUP, made.rule_group_id)
        await world.allow(rules, precedence=1, decision=Decision.SERVICE_AUTH)


async def test_the_number_of_rule_groups_is_bounded(world: World, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """I-34."""
    monkeypatch.setattr(rule_groups, "LIMIT", 1)
    await new_group(world, desk, group("ops"))
    with pytest.raises(Exception, match="has 1 of these"):
        await new_group(world, desk, group("ops"))
