"""Every mutation of identity's contract: one effect for a repeated request (I-07), and one record of it (I-33)."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.common.v1 import access_pb2
from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse.durations import MINUTE, SECOND
from guardhouse.errors import (
    ApiKeyNotFound,
    DifferentUser,
    EnrollmentPolicyNotFound,
    EnrollmentRefused,
    EtagMismatch,
    GuardhouseError,
    PrecedenceTaken,
    SeatsExhausted,
    UserNotFound,
    UserRemoved,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import API_KEY, ENROLLMENT_POLICY, USER, new_id
from guardhouse.registry.v1 import registry_pb2
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import IdToken, ServiceTokenSecret
from guardhouse_services.identity.domain.enrollment_policies import Decision
from guardhouse_services.identity.domain.held_actions import Effect
from guardhouse_services.identity.usecases import breaker
from tests.guardhouse_services.desk import Desk, Expected, Story, only
from tests.guardhouse_services.identity.world import EVERYBODY, ISSUER, World, deleted, registered

EVERYONE = pb.EnrollmentRule(everyone=pb.Everyone())
UNKNOWN = f"{'0' * 12}70008{'0' * 15}"


def named(*path: str) -> Callable[[Any, Any], list[str]]:
    """The id at a path of the answer, or else of the request."""

    def objects(request: Any, answer: Any) -> list[str]:
        value = answer if path[0] in answer.DESCRIPTOR.fields_by_name else request
        for name in path:
            value = getattr(value, name)
        return [value]

    return objects


def renamed(*path: str) -> Callable[[Any], None]:
    """Has another text at a path of the request: an id of something else, or another name."""

    def change(request: Any) -> None:
        *parents, name = path
        for parent in parents:
            request = getattr(request, parent)
        setattr(request, name, f"{name}" if name == "display_name" else getattr(request, name)[:4] + UNKNOWN)

    return change


def bodies(request: Any) -> None:
    request.user_ids.append(f"usr_{UNKNOWN}")


MUTATIONS = {
    "CreateOrganization": Expected(
        named("organization", "organization_id"), change=renamed("organization", "display_name")
    ),
    "UpdateOrganization": Expected(named("organization_id"), change=renamed("organization", "display_name")),
    "DeleteOrganization": Expected(named("organization_id"), change=renamed("confirmation"), of_installation=True),
    "CreateApiKey": Expected(named("api_key", "api_key_id"), change=renamed("api_key", "display_name")),
    "RevokeApiKey": Expected(named("api_key_id"), change=renamed("api_key_id")),
    "CreateIdentityProvider": Expected(
        named("identity_provider", "identity_provider_id"), change=renamed("identity_provider", "display_name")
    ),
    "UpdateIdentityProvider": Expected(
        named("identity_provider", "identity_provider_id"), change=renamed("identity_provider", "display_name")
    ),
    "DeleteIdentityProvider": Expected(named("identity_provider_id"), change=renamed("identity_provider_id")),
    "RefreshScimSecret": Expected(named("identity_provider_id"), change=renamed("identity_provider_id")),
    "CreateServiceToken": Expected(named("service_token", "service_token_id"), change=renamed("display_name")),
    "UpdateServiceToken": Expected(
        named("service_token", "service_token_id"), change=renamed("service_token", "display_name")
    ),
    "RotateServiceToken": Expected(named("service_token_id"), change=renamed("service_token_id")),
    "RefreshServiceToken": Expected(named("service_token_id"), change=renamed("service_token_id")),
    "DeleteServiceToken": Expected(named("service_token_id"), change=renamed("service_token_id")),
    "CreateEnrollmentPolicy": Expected(
        named("enrollment_policy", "enrollment_policy_id"), change=renamed("enrollment_policy", "display_name")
    ),
    "UpdateEnrollmentPolicy": Expected(
        named("enrollment_policy", "enrollment_policy_id"), change=renamed("enrollment_policy", "display_name")
    ),
    "DeleteEnrollmentPolicy": Expected(named("enrollment_policy_id"), change=renamed("enrollment_policy_id")),
    "CreateRuleGroup": Expected(named("rule_group", "rule_group_id"), change=renamed("rule_group", "display_name")),
    "UpdateRuleGroup": Expected(named("rule_group", "rule_group_id"), change=renamed("rule_group", "display_name")),
    "DeleteRuleGroup": Expected(named("rule_group_id"), change=renamed("rule_group_id")),
    "AuthorizeEnrollment": Expected(
        lambda request, answer: [request.intent_id, answer.user_id],
        actor=lambda _request, answer: f"user:{answer.user_id}",
    ),
    "CancelEnrollment": Expected(named("intent_id"), actor=lambda _request, _answer: "service:registry"),
    "RecordAuthentication": Expected(
        lambda request, answer: [request.registration_id or answer.user.user_id],
        actor=lambda request, _answer: request.actor,
        change=renamed("actor"),
    ),
    "RevokeAuthentications": Expected(
        lambda request, _answer: list(request.registration_ids),
        actor=lambda request, _answer: request.actor,
        change=renamed("actor"),
    ),
    "RevokeUser": Expected(named("user", "user_id"), change=renamed("user_id")),
    "OffboardUser": Expected(
        lambda request, answer: [answer.removal.removal_id, request.user_id], change=renamed("user_id")
    ),
    "ReinstateUser": Expected(named("user", "user_id"), change=renamed("user_id")),
    "EraseUser": Expected(named("user", "user_id"), change=renamed("user_id")),
    "ApproveHeldAction": Expected(named("held_action", "held_action_id"), change=renamed("held_action_id")),
    "RejectHeldAction": Expected(named("held_action", "held_action_id"), change=renamed("held_action_id")),
    "RemoveUsers": Expected(lambda request, answer: [answer.removal.removal_id, *request.user_ids], change=bodies),
}


async def story(world: World) -> Story:
    organization_id = world.organization
    made = yield pb.CreateOrganizationRequest(organization=pb.Organization(display_name="New", seat_limit=3))
    yield pb.UpdateOrganizationRequest(
        organization_id=made.organization.organization_id,
        organization=pb.Organization(display_name="Renamed", etag=made.organization.etag),
        update_mask=FieldMask(paths=["display_name"]),
    )
    yield pb.DeleteOrganizationRequest(
        organization_id=made.organization.organization_id, confirmation=made.organization.organization_id
    )
    draft = pb.ApiKey(display_name="Key", role=access_pb2.ROLE_AUDITOR)
    made = yield pb.CreateApiKeyRequest(organization_id=organization_id, api_key=draft)
    assert made.secret
    yield pb.RevokeApiKeyRequest(organization_id=organization_id, api_key_id=made.api_key.api_key_id)
    # One that is revoked already is answered, and on record, like any other call.
    yield pb.RevokeApiKeyRequest(organization_id=organization_id, api_key_id=made.api_key.api_key_id)
    provider = pb.IdentityProvider(display_name="SSO", issuer="https://sso.example.com", client_ids=["a", "b"])
    made = yield pb.CreateIdentityProviderRequest(organization_id=organization_id, identity_provider=provider)
    provider.MergeFrom(pb.IdentityProvider(identity_provider_id=made.identity_provider.identity_provider_id))
    changed = yield pb.UpdateIdentityProviderRequest(
        organization_id=organization_id,
        identity_provider=provider,
        update_mask=FieldMask(paths=["display_name", "force_interaction"]),
    )
    refreshed = yield pb.RefreshScimSecretRequest(
        organization_id=organization_id, identity_provider_id=changed.identity_provider.identity_provider_id
    )
    assert refreshed.secret
    gone = yield pb.DeleteIdentityProviderRequest(
        organization_id=organization_id,
        identity_provider_id=changed.identity_provider.identity_provider_id,
        etag=changed.identity_provider.etag,
    )
    assert gone.identity_provider == changed.identity_provider
    made = yield pb.CreateServiceTokenRequest(organization_id=organization_id, display_name="Robot")
    assert made.client_secret
    service_token_id = made.service_token.service_token_id
    changed = yield pb.UpdateServiceTokenRequest(
        organization_id=organization_id,
        service_token=pb.ServiceToken(
            service_token_id=service_token_id, display_name="Builder", etag=made.service_token.etag
        ),
        update_mask=FieldMask(paths=["display_name"]),
    )
    rotated = yield pb.RotateServiceTokenRequest(
        organization_id=organization_id,
        service_token_id=service_token_id,
        grace="24h",
        etag=changed.service_token.etag,
    )
    assert rotated.client_secret != made.client_secret
    refreshed = yield pb.RefreshServiceTokenRequest(organization_id=organization_id, service_token_id=service_token_id)
    gone = yield pb.DeleteServiceTokenRequest(
        organization_id=organization_id, service_token_id=service_token_id, etag=refreshed.service_token.etag
    )
    assert gone.service_token == refreshed.service_token
    policy = pb.EnrollmentPolicy(
        display_name="Everyone", decision=pb.ENROLLMENT_DECISION_ALLOW, precedence=7, include=[EVERYONE]
    )
    made = yield pb.CreateEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy=policy)
    policy.MergeFrom(
        pb.EnrollmentPolicy(
            enrollment_policy_id=made.enrollment_policy.enrollment_policy_id,
            display_name="Renamed",
            etag=made.enrollment_policy.etag,
        )
    )
    changed = yield pb.UpdateEnrollmentPolicyRequest(
        organization_id=organization_id,
        enrollment_policy=policy,
        update_mask=FieldMask(paths=["display_name"]),
    )
    gone = yield pb.DeleteEnrollmentPolicyRequest(
        organization_id=organization_id,
        enrollment_policy_id=changed.enrollment_policy.enrollment_policy_id,
        etag=changed.enrollment_policy.etag,
    )
    assert gone.enrollment_policy == changed.enrollment_policy
    group = pb.RuleGroup(display_name="Everyone", include=[EVERYONE])
    made = yield pb.CreateRuleGroupRequest(organization_id=organization_id, rule_group=group)
    group.MergeFrom(pb.RuleGroup(rule_group_id=made.rule_group.rule_group_id, etag=made.rule_group.etag))
    group.display_name = "Renamed"
    changed = yield pb.UpdateRuleGroupRequest(
        organization_id=organization_id, rule_group=group, update_mask=FieldMask(paths=["display_name"])
    )
    gone = yield pb.DeleteRuleGroupRequest(
        organization_id=organization_id,
        rule_group_id=changed.rule_group.rule_group_id,
        etag=changed.rule_group.etag,
    )
    assert gone.rule_group == changed.rule_group
    intent_id = world.new_intent()
    authorized = yield pb.AuthorizeEnrollmentRequest(
        organization_id=organization_id,
        intent_id=intent_id,
        request_id="of-the-device",
        credential=Credential(id_token=world.sign_in("ada").compact),
    )
    user_id = authorized.user_id
    intent = await world.read(lambda tx: store.intents.get(tx, organization_id, intent_id))
    assert intent is not None
    await world.registry(registered(intent))
    yield pb.CancelEnrollmentRequest(organization_id=organization_id, intent_id=world.new_intent())
    yield pb.RecordAuthenticationRequest(
        organization_id=organization_id,
        registration_id=intent_id,
        user_id=user_id,
        credential=Credential(id_token=world.sign_in("ada").compact),
        actor=f"device:{intent_id}",
    )
    yield pb.RecordAuthenticationRequest(
        organization_id=organization_id,
        credential=Credential(id_token=world.sign_in("ada").compact),
        actor="key:of-a-gateway",
    )
    yield pb.RevokeAuthenticationsRequest(
        organization_id=organization_id, registration_ids=[intent_id], actor="key:of-an-administrator"
    )
    revoked = yield pb.RevokeUserRequest(organization_id=organization_id, user_id=user_id)
    assert revoked.registrations == 1
    removed = yield pb.RemoveUsersRequest(organization_id=organization_id, user_ids=[user_id])
    assert (removed.removal.users, removed.removal.seats_freed, removed.removal.registrations) == (1, 1, 1)
    zoe = (await world.log_in("zoe")).user
    assert zoe is not None
    offboarded = yield pb.OffboardUserRequest(organization_id=organization_id, user_id=zoe.user_id)
    assert offboarded.user.blocked
    reinstated = yield pb.ReinstateUserRequest(organization_id=organization_id, user_id=zoe.user_id)
    assert not reinstated.user.blocked
    erased = yield pb.EraseUserRequest(organization_id=organization_id, user_id=zoe.user_id)
    assert not erased.user.email
    for request in (pb.ApproveHeldActionRequest, pb.RejectHeldActionRequest):
        held_action_id = await world.database.write(partial(hold, organization_id=organization_id))
        yield request(organization_id=organization_id, held_action_id=held_action_id)


def hold(tx: Transaction, organization_id: str) -> str:
    """Something that waits, about people whom nobody knows."""
    nobody = [new_id(USER, tx.now) for _ in range(51)]
    assert not breaker.passes(tx, organization_id, "test", nobody)
    return store.held_actions.waiting(tx, organization_id, "test", Effect.REMOVE)


async def test_every_mutation_has_one_effect_one_answer_and_one_record(world: World, desk: Desk) -> None:
    """I-07 and I-33: at once, again, and when what was created is long gone; secrets and counts included."""
    await desk.tell(story(world), MUTATIONS)


async def fails(desk: Desk, kind: type[GuardhouseError], request: Any) -> None:
    with pytest.raises(kind):
        await desk.send(request)


async def test_what_is_refused_leaves_nothing_behind(world: World, desk: Desk) -> None:
    """I-33: a record is of what was done, and in its transaction."""
    organization_id = world.organization
    policy = await world.allow(Rule(RuleKind.EVERYONE), precedence=3)
    taken = pb.EnrollmentPolicy(
        display_name="Again", decision=pb.ENROLLMENT_DECISION_ALLOW, precedence=3, include=[EVERYONE]
    )
    key_id, user_id, policy_id = (new_id(kind, world.clock.now()) for kind in (API_KEY, USER, ENROLLMENT_POLICY))
    before = await desk.dump()
    await fails(desk, ApiKeyNotFound, pb.RevokeApiKeyRequest(organization_id=organization_id, api_key_id=key_id))
    await fails(desk, UserNotFound, pb.RemoveUsersRequest(organization_id=organization_id, user_ids=[user_id]))
    await fails(
        desk,
        EnrollmentPolicyNotFound,
        pb.DeleteEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy_id=policy_id),
    )
    create = pb.CreateEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy=taken, request_id="r")
    await fails(desk, PrecedenceTaken, create)
    delete = pb.DeleteEnrollmentPolicyRequest(
        organization_id=organization_id, enrollment_policy_id=policy.enrollment_policy_id, etag="other"
    )
    await fails(desk, EtagMismatch, delete)
    assert await desk.dump() == before


def reason(record: AuditRecord) -> str:
    return ErrorReason.Name(record.reason).removeprefix("ERROR_REASON_")


async def enroll(world: World, desk: Desk, credential: IdToken | ServiceTokenSecret) -> str:
    """Has the registry ask for it. The intent."""
    sent = Credential()
    if isinstance(credential, IdToken):
        sent.id_token = credential.compact
    else:
        sent.service_token.client_id = credential.client_id
        sent.service_token.client_secret = credential.client_secret
    intent_id = world.new_intent()
    request = pb.AuthorizeEnrollmentRequest(
        organization_id=world.organization, intent_id=intent_id, request_id="device", credential=sent
    )
    with contextlib.suppress(EnrollmentRefused, SeatsExhausted):
        await desk.send(request)
    return intent_id


async def test_who_is_refused_is_on_record_with_the_reason(world: World, desk: Desk) -> None:
    """Decision 3 and I-33: a user by the id, and somebody who is none by issuer and subject; nobody is made for it."""
    ada = await world.enroll("ada")
    _, secret = await world.service_token()
    token_id = (await world.identity.service_tokens.page(world.organization, EVERYBODY))[0].service_token_id
    users = await world.count("users")
    await world.limit(1)
    since = len(await desk.records(world.organization))
    refused = [
        await enroll(world, desk, world.sign_in("eve", email="eve@elsewhere.com")),
        await enroll(world, desk, world.sign_in("ada", email="ada@elsewhere.com")),
        await enroll(world, desk, world.sign_in("bob")),
        await enroll(world, desk, secret),
    ]
    records = (await desk.records(world.organization))[since:]
    assert [(list(record.objects), record.actor, reason(record)) for record in records] == [
        ([refused[0]], f"person:{ISSUER} eve", "ENROLLMENT_REFUSED"),
        ([refused[1]], f"user:{ada.user_id}", "ENROLLMENT_REFUSED"),
        ([refused[2]], f"person:{ISSUER} bob", "SEATS_EXHAUSTED"),
        ([refused[3]], f"service_token:{token_id}", "ENROLLMENT_REFUSED"),
    ]
    assert {record.request_id for record in records} == {"device"}
    assert all(record.before_revision == record.after_revision for record in records)
    assert await world.count("users") == users


async def test_a_machine_enrolls_in_its_own_name(world: World, desk: Desk) -> None:
    await world.allow(Rule(RuleKind.ANY_SERVICE_TOKEN), decision=Decision.SERVICE_AUTH, precedence=1)
    token_id, secret = await world.service_token()
    intent_id = await enroll(world, desk, secret)
    record = only(await desk.records(world.organization), "AuthorizeEnrollment")
    assert (record.actor, list(record.objects)) == (f"service_token:{token_id}", [intent_id])


async def test_signing_in_for_another_is_on_record_as_theirs_who_tried(world: World, desk: Desk) -> None:
    """I-11 and I-33; without a word on who asked session, session did."""
    ada, bob = await world.enroll("ada"), await world.enroll("bob")
    request = pb.RecordAuthenticationRequest(
        organization_id=world.organization,
        registration_id=ada.intent_id,
        user_id=ada.user_id,
        credential=Credential(id_token=world.sign_in("bob").compact),
        request_id="r",
        actor="device:x",
    )
    await fails(desk, DifferentUser, request)
    refused = (await desk.records(world.organization))[-1]
    assert (refused.actor, reason(refused)) == (f"user:{bob.user_id}", "DIFFERENT_USER")
    request.credential.id_token = world.sign_in("ada").compact
    request.actor = ""
    await desk.send(request)
    assert (await desk.records(world.organization))[-1].actor == "service:session"
    await world.remove(ada)
    request.request_id = "later"
    request.credential.id_token = world.sign_in("ada").compact
    await fails(desk, UserRemoved, request)
    refused = (await desk.records(world.organization))[-1]
    assert (refused.actor, reason(refused)) == (f"user:{ada.user_id}", "USER_REMOVED")


async def test_what_no_call_asked_for_is_on_record_too(world: World, desk: Desk) -> None:
    """I-33: the first key, seats that an outcome frees, and authentications that go with their registrations."""
    for _ in range(2):
        await world.identity.ensure_admin_key()
    assert next(iter(only(await desk.records(), "job:bootstrap").objects)).startswith("key_")
    intent = await world.authorize("ada")
    world.outcomes[intent.intent_id] = registry_pb2.INTENT_OUTCOME_ABORTED
    world.clock.advance(MINUTE / SECOND + 1)
    for _ in range(2):
        await world.identity.resolver.resolve_once()
    assert list(only(await desk.records(world.organization), "job:resolve intents").objects) == [intent.intent_id]
    bob, carol = await world.enroll("bob"), await world.enroll("carol")
    await world.authenticate(bob, world.sign_in("bob"))
    await world.registry(deleted(bob), deleted(carol))
    record = only(await desk.records(world.organization), "job:follow registry")
    assert list(record.objects) == [bob.intent_id]
    assert record.after_revision == record.before_revision + 1


async def test_a_repeated_authentication_is_answered_when_its_registration_is_gone(world: World, desk: Desk) -> None:
    """I-07: from what is remembered."""
    intent = await world.enroll("ada")
    request = pb.RecordAuthenticationRequest(
        organization_id=world.organization,
        registration_id=intent.intent_id,
        user_id=intent.user_id,
        credential=Credential(id_token=world.sign_in("ada").compact),
        request_id="r",
    )
    first = await desk.send(request)
    await world.registry(deleted(intent))
    assert (await desk.send(request)).authenticate_time == first.authenticate_time
