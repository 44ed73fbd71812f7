"""Authenticate, policy, seat, in this order (decision 3), and what becomes of the seat."""

import pytest

from guardhouse.durations import HOUR, SECOND
from guardhouse.errors import (
    EnrollmentAborted,
    EnrollmentRefused,
    IdTokenInvalid,
    OrganizationNotFound,
    SeatsExhausted,
    ServiceTokenInvalid,
    UserNotFound,
)
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import IdentityProvider, ServiceTokenSecret
from guardhouse_services.identity.domain.enrollment_policies import Decision
from guardhouse_services.identity.domain.enrollments import IntentState
from tests.guardhouse_services.identity.world import (
    EVERYBODY,
    ISSUER,
    World,
    deleted,
    registered,
    unknown_organization,
)

EVERYTHING = ("users", "intent", "used_token")
ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)


async def written(world: World) -> list[int]:
    return [await world.count(table) for table in EVERYTHING]


async def test_an_enrollment_takes_a_seat_when_it_becomes_active(world: World) -> None:
    """Decision 2."""
    intent = await world.authorize("ada", display_name="Ada", groups=("ops",), age=60)
    assert await world.used() == 1
    assert await world.users() == []
    await world.registry(registered(intent))
    assert await world.used() == 1
    user = await world.user(intent)
    assert (user.user_id, user.issuer, user.subject) == (intent.user_id, "https://idp.example.com", "ada")
    assert user.profile.groups == ("ops",)
    assert user.create_time == user.authenticate_time == intent.authenticate_time
    assert user.seat_time == intent.create_time


async def test_a_refused_person_takes_no_seat_and_leaves_no_trace(world: World) -> None:
    """Decision 3: policy comes before the seat."""
    await world.limit(0)
    token = world.sign_in("eve", email="eve@elsewhere.com")
    before = await world.revision()
    with pytest.raises(EnrollmentRefused):
        await world.authorize(token)
    assert await written(world) == [0, 0, 0]
    assert await world.used() == 0
    assert await world.revision() == before
    # The token was not used up either.
    await world.limit(None)
    await world.allow(Rule(RuleKind.EMAIL, "eve@elsewhere.com"), precedence=5)
    assert (await world.authorize(token)).user_id


async def test_without_a_seat_nothing_is_created(world: World) -> None:
    """Decision 3: users who hold a seat go on as before."""
    await world.limit(1)
    ada = await world.enroll("ada")
    before = await written(world)
    with pytest.raises(SeatsExhausted):
        await world.authorize("bob")
    assert await written(world) == before
    again = await world.authorize("ada")
    assert again.user_id == ada.user_id
    assert await world.used() == 1


async def test_the_policy_is_asked_before_the_seats_are_counted(world: World) -> None:
    """Decision 3: whoever is refused learns nothing of the seats."""
    await world.limit(0)
    with pytest.raises(EnrollmentRefused):
        await world.authorize("eve", email="eve@elsewhere.com")


async def test_an_unverified_address_admits_nobody(world: World) -> None:
    """Decision 1: the verifier leaves such an address out."""
    with pytest.raises(EnrollmentRefused):
        await world.authorize("mallory", email="")


async def test_a_repeated_intent_answers_the_same_after_its_token_expired(world: World) -> None:
    """Invariant I-07."""
    token = world.sign_in("ada")
    first = await world.authorize(token, request_id="r")
    verified = world.verified
    world.clock.advance(600)
    again = await world.authorize(token, intent_id=first.intent_id, request_id="r")
    assert again == first
    assert world.verified == verified
    await world.registry(registered(first))
    late = await world.authorize(token, intent_id=first.intent_id, request_id="r")
    assert (late.user_id, late.authorize_revision) == (first.user_id, first.authorize_revision)
    assert await world.used() == 1


async def test_an_id_token_is_accepted_for_one_register(world: World) -> None:
    """Decision 27 and invariant I-08; a new attempt of the same Register may bring it again."""
    token = world.sign_in("ada")
    first = await world.authorize(token, request_id="one")
    await world.cancel(first)
    again = await world.authorize(token, request_id="one")
    assert again.intent_id != first.intent_id
    with pytest.raises(IdTokenInvalid) as refused:
        await world.authorize(token, request_id="two")
    assert "replayed" in refused.value.detail
    assert await world.used() == 1


async def test_a_token_of_an_unknown_issuer_is_refused(world: World) -> None:
    """Invariant I-30: a token chooses among the organization's providers, and no further."""
    with pytest.raises(IdTokenInvalid):
        await world.authorize("ada", issuer="https://evil.example.com")
    assert world.verified == 0


async def test_a_removed_provider_admits_nobody(world: World) -> None:
    token = world.sign_in("ada")
    (provider,) = await world.identity.identity_providers.page(world.organization, EVERYBODY)
    call = world.call(world.organization)
    await world.identity.identity_providers.delete(call, world.organization, provider.identity_provider_id)
    with pytest.raises(IdTokenInvalid):
        await world.authorize(token)


async def test_an_unknown_organization_is_not_found(world: World) -> None:
    with pytest.raises(OrganizationNotFound):
        await world.authorize("ada", organization_id=unknown_organization(world.clock))


async def test_the_session_starts_when_the_token_was_issued_but_not_in_the_future(world: World) -> None:
    """Decision 27: min(now, iat)."""
    world.clock.stop()
    assert (await world.authorize("ada", age=120)).authenticate_time == world.clock.now() - 120 * SECOND
    assert (await world.authorize("bob", age=-30)).authenticate_time == world.clock.now()


async def test_the_same_subject_of_another_issuer_is_another_user(world: World) -> None:
    """Decision 1 and invariant I-32: nor is that of another organization; the address joins no accounts."""
    ours, theirs = world.organization, await world.add_organization()
    other = IdentityProvider("", "Other", "https://other.example.com", ("guardhouse",), 0)
    await world.identity.identity_providers.create(world.call(ours), ours, other)
    known: dict[tuple[str, str], str] = {}
    for issuer, organization_id in ((ISSUER, ours), (other.issuer, ours), (ISSUER, theirs)) * 2:
        signing_in = await world.authorize("ada", issuer=issuer, organization_id=organization_id)
        assert known.setdefault((issuer, organization_id), signing_in.user_id) == signing_in.user_id
    assert len(set(known.values())) == 3
    assert await world.used() == 2


async def test_a_subject_of_another_case_is_another_user(world: World) -> None:
    """Decision 1 and invariant I-32: bytewise; the address joins no accounts."""
    ada = await world.enroll("ada")
    other = await world.enroll("Ada", email="ada@example.com")
    assert other.user_id != ada.user_id
    assert await world.used() == 2


async def test_a_new_user_is_published_before_the_registration_can_be(world: World) -> None:
    """Followers know the user when the registration arrives; an enrollment of a known one is no event."""
    before = await world.revision()
    intent = await world.authorize("ada")
    (event,) = (await world.events())[-1]
    assert event.user.user.user_id == intent.user_id
    assert await world.revision() == before + 1
    # A removal is at this revision or behind it.
    assert intent.authorize_revision == before + 2
    again = await world.authorize("ada")
    assert await world.revision() == before + 1
    assert again.authorize_revision == before + 2


async def test_a_cancelled_enrollment_leaves_no_user_and_no_seat(world: World) -> None:
    intent = await world.authorize("ada")
    await world.cancel(intent)
    assert await world.used() == 0
    assert await world.users() == []
    with pytest.raises(UserNotFound):
        await world.user(intent)
    await world.cancel(intent)
    assert await world.used() == 0


async def test_a_cancelled_intent_is_refused_from_then_on(world: World) -> None:
    """Invariant I-12: also when the cancellation came first."""
    intent = await world.authorize("ada")
    await world.cancel(intent)
    with pytest.raises(EnrollmentAborted):
        await world.authorize("ada", intent_id=intent.intent_id)
    unseen = world.new_intent()
    await world.identity.enrollments.cancel(world.call(world.organization), world.organization, unseen)
    with pytest.raises(EnrollmentAborted):
        await world.authorize("ada", intent_id=unseen)
    assert await world.used() == 0


async def test_cancelling_one_of_two_enrollments_keeps_the_seat(world: World) -> None:
    """Invariant I-05, failure table row 18."""
    await world.limit(1)
    first, second = await world.authorize("ada"), await world.authorize("ada")
    await world.cancel(first)
    assert await world.used() == 1
    await world.cancel(second)
    assert await world.used() == 0


async def test_cancelling_never_frees_a_seat_that_is_held(world: World) -> None:
    """Invariant I-05."""
    first = await world.enroll("ada")
    second = await world.authorize("ada")
    await world.cancel(second)
    await world.cancel(first)
    assert await world.used() == 1
    assert (await world.user(first)).seat_time is not None


async def test_a_late_registration_does_not_revive_a_cancelled_intent(world: World) -> None:
    """Invariant I-12."""
    intent = await world.authorize("ada")
    await world.cancel(intent)
    await world.registry(registered(intent))
    assert await world.used() == 0
    assert await world.users() == []


async def test_what_has_ended_stays_as_it_is(world: World) -> None:
    """Invariant I-12: in one conditional statement, so that no race can revive it."""
    held, cancelled = await world.enroll("ada"), await world.authorize("bob")
    await world.cancel(cancelled)

    def move(tx: Transaction) -> list[str]:
        ids = [held.intent_id, cancelled.intent_id]
        return [moved for to in IntentState for moved in store.intents.move(tx, world.organization, ids, to)]

    assert await world.database.write(move) == []
    assert (await world.intent(held)).state is IntentState.HELD
    assert (await world.intent(cancelled)).state is IntentState.CANCELLED


async def test_events_that_come_twice_change_nothing(world: World) -> None:
    """Invariant I-21."""
    intent = await world.enroll("ada")
    before = await world.revision(), await world.user(intent)
    await world.registry(registered(intent))
    await world.registry_snapshot(registered(intent))
    assert (await world.revision(), await world.user(intent)) == before


async def test_a_registration_that_was_deleted_in_the_same_breath_counts(world: World) -> None:
    """Decision 2: it did become ACTIVE; decision 16: deleting it leaves the seat."""
    intent = await world.authorize("ada")
    await world.registry(registered(intent), deleted(intent))
    assert await world.used() == 1
    assert (await world.user(intent)).seat_time is not None


async def test_deleting_registrations_leaves_the_seat(world: World) -> None:
    """Decision 16."""
    intent = await world.enroll("ada")
    await world.registry(deleted(intent))
    await world.registry_snapshot()
    assert await world.used() == 1


async def test_the_newest_authentication_says_who_somebody_is(world: World) -> None:
    """Decision 9; an enrollment that is older than what is known changes nothing."""
    late = await world.authorize("ada", groups=("old",), age=200)
    await world.enroll("ada", email="lovelace@example.com", groups=("new",), age=10)
    await world.registry(registered(late))
    user = await world.user(late)
    assert (user.profile.email, user.profile.groups) == ("lovelace@example.com", ("new",))


async def test_the_newest_of_several_that_become_active_together_counts(world: World) -> None:
    """Decision 9: whatever the order of their registrations."""
    newer, older = await world.authorize("ada", groups=("new",)), await world.authorize("ada", age=60)
    await world.registry(registered(older), registered(newer))
    user = await world.user(newer)
    assert user.profile.groups == ("new",)
    assert await world.used() == 1
    (event,) = (await world.events())[-1]
    assert list(event.user.user.groups) == ["new"]


async def test_an_enrollment_changes_nothing_before_it_is_active(world: World) -> None:
    """Decision 9: the newest authentication counts, and one that came to nothing is none."""
    intent = await world.enroll("ada", groups=("ops",))
    await world.cancel(await world.authorize("ada", groups=("admins",)))
    assert (await world.user(intent)).profile.groups == ("ops",)


async def test_a_service_token_takes_no_seat(world: World) -> None:
    """Decision 2."""
    await world.limit(0)
    token_id, secret = await world.service_token()
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1)
    world.clock.stop()
    intent = await world.authorize(secret)
    assert (intent.user_id, intent.service_token_id) == ("", token_id)
    assert intent.authenticate_time == world.clock.now()
    await world.registry(registered(intent))
    assert await world.used() == 0
    assert await world.users() == []
    assert await world.authorize(secret, intent_id=intent.intent_id) is not None
    await world.cancel(await world.authorize(secret))


async def test_a_service_token_with_a_wrong_secret_is_refused(world: World) -> None:
    _, secret = await world.service_token()
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1)
    for wrong in (ServiceTokenSecret(secret.client_id, "0" * 64), ServiceTokenSecret("0" * 32 + ".access", "0" * 64)):
        with pytest.raises(ServiceTokenInvalid):
            await world.authorize(wrong)


async def test_an_expired_service_token_is_refused(world: World) -> None:
    """Decision 10."""
    _, secret = await world.service_token(duration=HOUR)
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1)
    await world.authorize(secret)
    world.clock.advance(3600)
    with pytest.raises(ServiceTokenInvalid):
        await world.authorize(secret)


async def test_a_service_token_of_another_organization_is_unknown(world: World) -> None:
    """Invariant I-27."""
    _, secret = await world.service_token()
    other = await world.add_organization()
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1, organization_id=other)
    with pytest.raises(ServiceTokenInvalid):
        await world.authorize(secret, organization_id=other)
