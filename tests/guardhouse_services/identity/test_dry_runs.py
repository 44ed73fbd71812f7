"""What destroys can be asked what it would do (AIP-163), and says the same when it does it."""

from collections.abc import Sequence
from typing import Any

import pytest

from guardhouse.errors import (
    ApiKeyNotFound,
    EnrollmentPolicyNotFound,
    EtagMismatch,
    GuardhouseError,
    IdentityProviderNotFound,
    IdTokenInvalid,
    OrganizationNotFound,
    SeatsExhausted,
    ServiceTokenInUse,
    ServiceTokenNotFound,
    UserNotFound,
    UserNotOffboarded,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.registry.v1 import registry_pb2
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.enrollment_policies import Decision
from guardhouse_services.identity.domain.held_actions import Effect
from guardhouse_services.identity.store import held_actions
from guardhouse_services.identity.usecases import breaker
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import EVERYBODY, World, deleted, registered

ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)
UNKNOWN = f"{'0' * 12}70008{'0' * 15}"


async def would(desk: Desk, request: Any) -> Any:
    """What it would do, by a call that changes nothing."""
    request.validate_only = True
    before = await desk.dump()
    answer = await desk.send(request)
    assert await desk.dump() == before
    assert answer.revision_token == ""
    request.validate_only = False
    return answer


async def does(desk: Desk, request: Any, unlike: Sequence[str] = ()) -> Any:
    """Asks, does it, and repeats it: what is said is the same, but for the token and for these fields."""
    request.request_id = "r"
    asked = await would(desk, request)
    done = await desk.send(request)
    before = await desk.dump()
    again = await desk.send(request)
    assert await desk.dump() == before
    assert again == done
    assert done.revision_token
    for answer in (asked, copy := type(done).FromString(done.SerializeToString())):
        answer.revision_token = ""
        for path in unlike:
            message, _, name = path.rpartition(".")
            (getattr(answer, message) if message else answer).ClearField(name)
    assert asked == copy
    return done


async def test_deleting_a_policy_says_whom_it_admitted(world: World, desk: Desk) -> None:
    """Decision 13: they live on, and the first hundred are named; who is gone does not count."""
    policy = await world.allow(Rule(RuleKind.GROUP, "ops"), precedence=1)
    admitted = [await world.enroll(f"user{number}", groups=("ops",)) for number in range(103)]
    await world.enroll("ada")
    gone = admitted.pop(1)
    await world.registry(deleted(gone))
    request = pb.DeleteEnrollmentPolicyRequest(
        organization_id=world.organization, enrollment_policy_id=policy.enrollment_policy_id
    )
    done = await does(desk, request)
    assert done.enrollment_policy.display_name == "Policy"
    assert done.registrations == 102
    assert list(done.registration_ids) == sorted(intent.intent_id for intent in admitted)[:100]


async def test_a_registration_is_counted_whatever_came_of_its_intent_first(world: World, desk: Desk) -> None:
    """Decision 13: the registry's answer before its feed, or the record again when the intent is forgotten."""
    intent = await world.authorize("ada")
    world.outcomes[intent.intent_id] = registry_pb2.INTENT_OUTCOME_ACTIVE
    world.clock.advance(61)
    assert await world.identity.resolver.resolve_once() == 1
    await world.registry(registered(intent))
    world.clock.advance(25 * 3600)
    await world.identity.resolver.forget_once()
    assert await world.count("intent") == 0
    await world.registry(registered(intent))
    (policy,) = await world.identity.enrollment_policies.page(world.organization, EVERYBODY)
    request = pb.DeleteEnrollmentPolicyRequest(
        organization_id=world.organization, enrollment_policy_id=policy.enrollment_policy_id
    )
    assert list((await would(desk, request)).registration_ids) == [intent.intent_id]


async def test_deleting_a_provider_says_who_cannot_sign_in_again(world: World, desk: Desk) -> None:
    ada = await world.enroll("ada")
    await world.enroll("ada")
    await world.enroll("bob")
    await world.registry(deleted(ada))
    await world.authorize("carol")
    (provider,) = await world.identity.identity_providers.page(world.organization, EVERYBODY)
    request = pb.DeleteIdentityProviderRequest(
        organization_id=world.organization, identity_provider_id=provider.identity_provider_id
    )
    done = await does(desk, request)
    assert (done.users, done.registrations) == (2, 2)
    assert done.identity_provider.display_name == "Issuer"


async def test_deleting_a_service_token_says_what_was_made_with_it(world: World, desk: Desk) -> None:
    """Decision 11: and is refused while a policy names it, asked or done."""
    token_id, secret = await world.service_token()
    _, other = await world.service_token()
    policy = await world.allow(Rule(RuleKind.SERVICE_TOKEN, token_id), decision=Decision.SERVICE_AUTH, precedence=1)
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=2)
    await world.enroll(secret)
    await world.enroll(secret)
    await world.enroll(other)
    request = pb.DeleteServiceTokenRequest(organization_id=world.organization, service_token_id=token_id)
    await refused_alike(desk, ServiceTokenInUse, request)
    call = world.call(world.organization)
    await world.identity.enrollment_policies.delete(call, world.organization, policy.enrollment_policy_id)
    done = await does(desk, request)
    assert done.registrations == 2
    assert done.service_token.service_token_id == token_id


async def test_revoking_a_user_says_how_many_registrations_it_hits(world: World, desk: Desk) -> None:
    """Decision 35."""
    ada = await world.enroll("ada")
    await world.enroll("ada")
    await world.enroll("bob")
    request = pb.RevokeUserRequest(organization_id=world.organization, user_id=ada.user_id, revoke_registrations=True)
    done = await does(desk, request)
    assert done.registrations == 2
    # A repetition says the same when they are gone.
    await world.registry(deleted(ada))
    assert (await desk.send(request)).registrations == 2


async def test_removing_users_says_what_goes_with_them(world: World, desk: Desk) -> None:
    """Decision 5: seats and registrations; there is no removal to follow yet."""
    await world.enroll("ada")
    await world.enroll("ada")
    await world.authorize("bob")
    request = pb.RemoveUsersRequest(organization_id=world.organization, all=True)
    done = await does(desk, request, unlike=["removal.removal_id", "removal.create_time"])
    assert done.removal.removal_id
    assert (done.removal.users, done.removal.seats_freed, done.removal.registrations) == (2, 2, 2)
    request.request_id = "another"
    assert (await would(desk, request)).removal.removal_id == ""


async def test_offboarding_says_what_goes_with_the_user(world: World, desk: Desk) -> None:
    """Decision 5; and so do undoing and erasing it."""
    world.clock.stop()
    ada = await world.enroll("ada")
    of: dict[str, Any] = {"organization_id": world.organization, "user_id": ada.user_id}
    done = await does(desk, pb.OffboardUserRequest(**of), unlike=["removal.removal_id"])
    assert done.user.blocked
    assert (done.removal.seats_freed, done.removal.registrations) == (1, 1)
    await refused_alike(desk, UserNotOffboarded, pb.EraseUserRequest(**of))
    await world.registry(deleted(ada))
    assert not (await does(desk, pb.ReinstateUserRequest(**of))).user.blocked
    assert (await does(desk, pb.EraseUserRequest(**of))).user.subject == ada.user_id


async def test_a_decision_about_what_is_held_is_shown_before_it_is_made(world: World, desk: Desk) -> None:
    world.clock.stop()
    for kind in (pb.ApproveHeldActionRequest, pb.RejectHeldActionRequest):
        nobody = [f"usr_{number:032}" for number in range(51)]

        def hold(tx: Transaction, nobody: list[str] = nobody) -> str:
            assert not breaker.passes(tx, world.organization, "test", nobody)
            return held_actions.waiting(tx, world.organization, "test", Effect.REMOVE)

        held_action_id = await world.database.write(hold)
        request = kind(organization_id=world.organization, held_action_id=held_action_id)
        assert (await does(desk, request)).held_action.users == 51


async def test_revoking_a_key_says_which(world: World, desk: Desk) -> None:
    world.clock.stop()
    call = world.call(world.organization)
    key, _, _ = await world.identity.api_keys.create(call, world.organization, "Key", 1, None)
    request = pb.RevokeApiKeyRequest(organization_id=world.organization, api_key_id=key.api_key_id)
    assert (await does(desk, request)).api_key.HasField("revoke_time")


async def refused_alike(desk: Desk, kind: type[GuardhouseError], request: Any) -> None:
    """Asking is refused as doing is, and nothing changes."""
    before = await desk.dump()
    raised = []
    for asks in (True, False):
        request.validate_only = asks
        with pytest.raises(kind) as error:
            await desk.send(request)
        raised.append((error.value.reason, error.value.message, error.value.metadata))
    assert raised[0] == raised[1]
    assert await desk.dump() == before


async def test_what_would_be_refused_is_refused_when_asked(world: World, desk: Desk) -> None:
    organization_id = world.organization
    policy = await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1)
    for kind, request in (
        (ApiKeyNotFound, pb.RevokeApiKeyRequest(api_key_id=f"key_{UNKNOWN}")),
        (IdentityProviderNotFound, pb.DeleteIdentityProviderRequest(identity_provider_id=f"idp_{UNKNOWN}")),
        (ServiceTokenNotFound, pb.DeleteServiceTokenRequest(service_token_id=f"svt_{UNKNOWN}")),
        (EnrollmentPolicyNotFound, pb.DeleteEnrollmentPolicyRequest(enrollment_policy_id=f"enp_{UNKNOWN}")),
        (EtagMismatch, pb.DeleteEnrollmentPolicyRequest(enrollment_policy_id=policy.enrollment_policy_id, etag="x")),
        (UserNotFound, pb.RevokeUserRequest(user_id=f"usr_{UNKNOWN}")),
        (UserNotFound, pb.RemoveUsersRequest(user_ids=[f"usr_{UNKNOWN}"])),
    ):
        request.organization_id = organization_id
        await refused_alike(desk, kind, request)


async def test_signing_in_takes_no_seat_when_it_is_only_asked_for(world: World, desk: Desk) -> None:
    """Decision 2: the ID token can still be used, and the request be repeated."""
    world.clock.stop()
    await world.limit(1)
    request = pb.RecordAuthenticationRequest(organization_id=world.organization)
    request.credential.id_token = world.sign_in("ada").compact
    request.request_id = "q"
    assert not (await would(desk, request)).user.user_id
    done = await does(desk, request, ["user.user_id"])
    assert done.user.user_id
    # And once more when it is long done, as whoever asks first does who repeats both.
    world.clock.advance(600)
    asked = await would(desk, request)
    done.revision_token = ""
    assert asked == done
    intent = await world.enroll("ada")
    renewal = pb.RecordAuthenticationRequest(
        organization_id=world.organization, registration_id=intent.intent_id, user_id=intent.user_id
    )
    renewal.credential.id_token = world.sign_in("ada").compact
    renewal.request_id = "s"
    assert (await would(desk, renewal)).authenticate_revision == await world.revision() + 1
    await desk.send(renewal)
    request.request_id, request.validate_only = "t", True
    before = await desk.dump()
    request.credential.id_token = renewal.credential.id_token
    with pytest.raises(IdTokenInvalid):
        await desk.send(request)
    # Whoever asks may still refuse the person, so the seat comes last (decision 3): that there is none is said then.
    request.credential.id_token = world.sign_in("bob").compact
    assert (await desk.send(request)).user.email == "bob@example.com"
    assert await desk.dump() == before
    request.validate_only = False
    with pytest.raises(SeatsExhausted):
        await desk.send(request)


async def test_deleting_an_organization_says_what_goes_with_it(world: World, desk: Desk) -> None:
    """A user who was removed is a user all the same, and a registration that is gone may still hold its addresses."""
    for name in ("ada", "bob"):
        await world.enroll(name)
    zoe = await world.enroll("zoe")
    await world.registry(deleted(zoe))
    await world.remove(zoe)
    await world.authorize("eve")
    found = (await desk.send(pb.GetOrganizationRequest(organization_id=world.organization))).organization
    request = pb.DeleteOrganizationRequest(organization_id=world.organization, confirmation="Example", etag="another")
    with pytest.raises(EtagMismatch):
        await would(desk, request)
    request.etag = found.etag
    done = await does(desk, request)
    assert done.organization == found
    # A seat that an enrollment under way reserves is in use.
    assert (done.users, done.seats, done.registrations, done.addresses) == (3, 3, 2, 6)
    for again in (request, pb.GetOrganizationRequest(organization_id=world.organization)):
        if isinstance(again, pb.DeleteOrganizationRequest):
            again.request_id = "another"
        with pytest.raises(OrganizationNotFound):
            await desk.send(again)


def test_every_method_that_can_be_asked_is_tried_here() -> None:
    asked = {
        method.name
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if "validate_only" in method.input_type.fields_by_name
    }
    assert asked == {
        "UpdateOrganization",
        "DeleteOrganization",
        "RevokeApiKey",
        "DeleteIdentityProvider",
        "DeleteServiceToken",
        "DeleteEnrollmentPolicy",
        "DeleteRuleGroup",
        "UpdateEnrollmentPolicy",
        "RevokeUser",
        "RemoveUsers",
        "OffboardUser",
        "ReinstateUser",
        "EraseUser",
        "ApproveHeldAction",
        "RejectHeldAction",
        "RecordAuthentication",
    }
