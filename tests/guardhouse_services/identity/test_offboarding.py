"""Off-boarding, reinstating and erasing users."""

from typing import Any

import pytest
import sqlalchemy as sa

from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse.errors import UserBlocked, UserNotFound, UserNotOffboarded, UserRemoved
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import USER, new_id
from guardhouse.registry.v1 import registry_pb2
from guardhouse_services import audit
from guardhouse_services.database import Transaction, change
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.enrollments import Intent
from guardhouse_services.identity.domain.users import Removal, User
from tests.guardhouse_services.identity.world import EVERYBODY, World, deleted, registered, released


async def offboard(world: World, user_id: str, request_id: str = "", *, dry: bool = False) -> tuple[User, Removal]:
    call = world.call(world.organization, request_id, method="OffboardUser")
    user, removal, _ = await world.identity.users.offboard(call, world.organization, user_id, validate_only=dry)
    return user, removal


async def reinstate(world: World, user_id: str, request_id: str = "") -> User:
    call = world.call(world.organization, request_id, method="ReinstateUser")
    return (await world.identity.users.reinstate(call, world.organization, user_id))[0]


async def erase(world: World, user_id: str, request_id: str = "", *, dry: bool = False) -> User:
    call = world.call(world.organization, request_id, method="EraseUser")
    return (await world.identity.users.erase(call, world.organization, user_id, validate_only=dry))[0]


async def gone(world: World, *intents: Intent) -> None:
    """The registry and ipam follow a removal to its end."""
    for intent in intents:
        await world.registry(deleted(intent))
        await world.ipam(released(intent))


async def test_offboarding_removes_the_user_and_blocks_the_person(world: World) -> None:
    """Decision 5, and an exclude that stands before every policy: the seat is free, the sessions have ended, and no
    policy admits the person again.
    """
    laptop = await world.enroll("ada")
    user, removal = await offboard(world, laptop.user_id)
    assert user.removed_revision == await world.revision()
    assert (removal.users, removal.seats_freed, removal.registrations) == (1, 1, 1)
    assert await world.used() == 0
    with pytest.raises(UserBlocked) as refusal:
        await world.authorize("ada")
    assert refusal.value.metadata["user_id"] == laptop.user_id
    with pytest.raises(UserBlocked):
        await world.log_in("ada")
    with pytest.raises(UserBlocked):
        await world.authenticate(laptop, world.sign_in("ada"))
    assert await world.used() == 0
    await world.enroll("bob")


async def test_trying_an_enrollment_says_that_somebody_is_blocked(world: World) -> None:
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    tested = await world.identity.enrollment_policies.test(world.organization, world.sign_in("ada"))
    assert not tested.verdict.admitted
    assert "off-boarded" in tested.verdict.explanation


async def test_the_feed_says_who_is_blocked(world: World) -> None:
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    record = (await world.events())[-1][-1].user
    assert record.user.blocked
    assert record.user.seat_status == pb.SEAT_STATUS_INACTIVE
    assert record.removed_revision == await world.revision()


async def test_the_receipt_of_an_offboarding_is_followed_to_its_end(world: World) -> None:
    """Decision 5: registrations and addresses are counted as they go."""
    laptop, phone = await world.enroll("ada"), await world.enroll("ada")
    _, removal = await offboard(world, laptop.user_id)
    assert not removal.done
    await gone(world, laptop)
    assert not (await world.removal(removal)).done
    await gone(world, phone)
    assert (await world.removal(removal)).done


async def test_an_enrollment_under_way_does_not_slip_past_an_offboarding(world: World) -> None:
    laptop = await world.enroll("ada")
    intent = await world.authorize("ada")
    _, removal = await offboard(world, laptop.user_id)
    # The registry had made a registration of it by then.
    await world.registry(registered(intent))
    assert (await world.removal(removal)).registrations == 2
    assert (await world.user(intent)).seat_time is None
    assert await world.used() == 0


async def test_offboarding_again_answers_the_same_receipt(world: World) -> None:
    """Invariant I-07: with the request_id or without, after a crash anywhere, it is one off-boarding."""
    laptop = await world.enroll("ada")
    _, first = await offboard(world, laptop.user_id, "one")
    revision = await world.revision()
    for request_id in ("one", "two"):
        user, again = await offboard(world, laptop.user_id, request_id)
        assert again.removal_id == first.removal_id
        assert user.block_time is not None
    assert await world.revision() == revision
    assert await world.count("removal") == 1


async def test_trying_an_offboarding_changes_nothing(world: World) -> None:
    """AIP-163."""
    laptop = await world.enroll("ada")
    user, removal = await offboard(world, laptop.user_id, dry=True)
    assert user.block_time is not None
    assert removal.registrations == 1
    assert (await world.user(laptop)).block_time is None
    assert await world.used() == 1
    await world.authorize("ada")


async def test_a_refused_person_is_on_record(world: World) -> None:
    """Invariant I-33."""
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    with pytest.raises(UserBlocked):
        await world.authorize("ada")
    newest = sa.select(audit.audit_record.c.payload).order_by(audit.audit_record.c.sequence.desc()).limit(1)
    newest = newest.where(audit.audit_record.c.organization_id == world.organization)
    record = AuditRecord.FromString(await world.read(lambda tx: tx.execute(newest).scalar_one()))
    assert record.actor == f"user:{laptop.user_id}"
    assert ErrorReason.Name(record.reason) == "ERROR_REASON_USER_BLOCKED"


async def test_a_reinstated_user_enrolls_again_with_the_same_id(world: World) -> None:
    """Decision 5: and takes a seat again; what was removed stays gone."""
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    user = await reinstate(world, laptop.user_id)
    assert user.block_time is None
    assert not (await world.events())[-1][-1].user.user.blocked
    with pytest.raises(UserRemoved):
        await world.authenticate(laptop, world.sign_in("ada"))
    again = await world.enroll("ada")
    assert again.user_id == laptop.user_id
    assert await world.used() == 1


async def test_a_late_repetition_of_a_reinstatement_does_not_lift_a_newer_block(world: World) -> None:
    """Invariant I-07."""
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id, "out")
    await reinstate(world, laptop.user_id, "back")
    await offboard(world, laptop.user_id, "out again")
    assert (await reinstate(world, laptop.user_id, "back")).block_time is not None


async def test_erasing_waits_until_nothing_is_the_users_any_more(world: World) -> None:
    laptop = await world.enroll("ada")
    with pytest.raises(UserNotOffboarded, match="holds a seat"):
        await erase(world, laptop.user_id)
    await offboard(world, laptop.user_id)
    with pytest.raises(UserNotOffboarded, match="1 of the user's registrations are not gone yet"):
        await erase(world, laptop.user_id)
    await gone(world, laptop)
    await erase(world, laptop.user_id)


async def test_erasing_waits_for_an_enrollment_under_way(world: World) -> None:
    intent = await world.authorize("ada")
    with pytest.raises(UserNotOffboarded, match="under way"):
        await erase(world, intent.user_id)
    await world.cancel(intent)
    await erase(world, intent.user_id)
    with pytest.raises(UserNotFound):
        await world.user(intent)


async def test_nothing_that_says_who_it_was_is_left_in_any_table(world: World) -> None:
    """Whatever the table, now and later: every value of every table is looked at, the history of the feed included."""
    (provider,) = await world.identity.identity_providers.page(world.organization, EVERYBODY)
    call = world.call(world.organization)
    changes = {"oidc_claims": ("office",)}
    await world.identity.identity_providers.update(call, world.organization, provider.identity_provider_id, changes, "")
    personal: dict[str, Any] = {
        "email": "lovelace@example.com",
        "display_name": "Augusta King",
        "groups": ("analytical-engines",),
        "office": "ockham-park",
    }
    laptop = await world.enroll("subject-of-ada", **personal)
    await world.authenticate(laptop, world.sign_in("subject-of-ada", **personal))
    await world.log_in("subject-of-ada", **personal)
    await world.enroll("bob")
    words = ["lovelace", "augusta", "analytical-engines", "ockham-park", "subject-of-ada"]
    assert set(words) == await said(world, words)
    await offboard(world, laptop.user_id)
    await gone(world, laptop)
    assert set(words) == await said(world, words)

    erased = await erase(world, laptop.user_id)

    assert (erased.user_id, erased.issuer, erased.subject) == (laptop.user_id, "", laptop.user_id)
    assert await said(world, words) == set()
    assert await said(world, ["bob@example.com", laptop.user_id]) == {"bob@example.com", laptop.user_id}


async def said(world: World, words: list[str]) -> set[str]:
    """Which of these words stand anywhere in the database."""

    def read(tx: Transaction) -> set[str]:
        tables = [*store.metadata.tables.values(), *change.metadata.tables.values()]
        text = " ".join(
            value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for table in tables
            for row in tx.execute(sa.select(table))
            for value in row
        ).lower()
        return {word for word in words if word.lower() in text}

    return await world.read(read)


async def test_followers_hear_that_somebody_is_erased_and_history_stays_dense(world: World) -> None:
    """Invariant I-20: the revisions stay, so nobody has to begin anew; what others hold is overwritten."""
    laptop = await world.enroll("ada")
    await world.enroll("bob")
    await offboard(world, laptop.user_id)
    await gone(world, laptop)
    before = await world.events()
    await erase(world, laptop.user_id)
    after = await world.events()
    assert len(after) == len(before) + 1
    for old, new in zip(before, after, strict=False):
        assert [event.WhichOneof("kind") for event in old] == [event.WhichOneof("kind") for event in new]
        for was, event in zip(old, new, strict=True):
            if was.user.user.user_id == laptop.user_id:
                assert event.user.removed_revision == was.user.removed_revision
                assert not event.user.user.email
            else:
                assert event == was
    user = after[-1][-1].user
    assert (user.user.user_id, user.user.email, user.user.display_name) == (laptop.user_id, "", "")
    assert user.removed_revision


async def test_the_same_person_is_somebody_new_after_erasing(world: World) -> None:
    """Decision 1: a user is (issuer, subject), and nothing remembers that of the erased one; nor does the block."""
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    await gone(world, laptop)
    erased = await erase(world, laptop.user_id)
    assert erased.block_time is None
    again = await world.enroll("ada")
    assert again.user_id != laptop.user_id
    assert (await world.user(laptop)).profile.email == ""


async def test_erasing_again_changes_nothing(world: World) -> None:
    """Invariant I-07."""
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    await gone(world, laptop)
    first = await erase(world, laptop.user_id, "one")
    revision = await world.revision()
    assert await erase(world, laptop.user_id, "one") == first
    assert await erase(world, laptop.user_id, "two") == first
    assert await world.revision() == revision


async def test_trying_to_erase_says_what_would_be_left_and_erases_nothing(world: World) -> None:
    """AIP-163."""
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    await gone(world, laptop)
    assert (await erase(world, laptop.user_id, dry=True)).is_erased
    assert (await world.user(laptop)).profile.email == "ada@example.com"


async def test_nobody_of_another_organization_is_offboarded_or_erased(world: World) -> None:
    """Invariant I-27."""
    laptop = await world.enroll("ada")
    other = await world.add_organization()
    call = world.call(other)
    with pytest.raises(UserNotFound):
        await world.identity.users.offboard(call, other, laptop.user_id)
    with pytest.raises(UserNotFound):
        await world.identity.users.erase(call, other, laptop.user_id)
    with pytest.raises(UserNotFound):
        await world.identity.users.reinstate(call, other, laptop.user_id)
    with pytest.raises(UserNotFound):
        await offboard(world, new_id(USER, world.clock.now()))


async def test_a_deleted_outcome_after_erasing_names_nobody(world: World) -> None:
    """What is late speaks of registrations, by their ids, and brings no name back."""
    laptop = await world.enroll("ada")
    await offboard(world, laptop.user_id)
    await gone(world, laptop)
    await erase(world, laptop.user_id)
    await world.registry(registered(laptop))
    world.outcomes[laptop.intent_id] = registry_pb2.INTENT_OUTCOME_DELETED
    await world.identity.resolver.resolve_once()
    assert await said(world, ["ada@example.com"]) == set()


async def test_who_was_off_boarded_in_the_middle_of_enrolling_is_reinstated(world: World) -> None:
    """Before the registry's feed has told what became of the enrollment."""
    intent = await world.authorize("ada")
    await offboard(world, intent.user_id)
    assert (await reinstate(world, intent.user_id)).block_time is None
