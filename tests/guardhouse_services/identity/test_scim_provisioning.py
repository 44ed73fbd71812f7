"""What SCIM does to users and their seats (decisions 8 and 9, invariant I-32)."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse_services.audit import audit_record
from guardhouse_services.breaker.domain import HeldState
from guardhouse_services.identity.domain.scim import MatchAttribute, MatchClaim, UpdateBehavior
from guardhouse_services.identity.domain.users import User
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.scim_client import USER, ScimClient, serve
from tests.guardhouse_services.identity.world import EVERYBODY, World, deleted, registered

OFF = {"op": "Replace", "path": "active", "value": "False"}
ON = {"op": "replace", "value": {"active": True}}
BY_EMAIL = {"match_attribute": MatchAttribute.USER_NAME, "match_claim": MatchClaim.EMAIL}


@pytest.fixture
async def client(world: World) -> AsyncIterator[ScimClient]:
    async with serve(world) as url:
        client = ScimClient(world, url)
        await client.start(user_deprovision=True, seat_deprovision=True)
        yield client
        await client.http.aclose()


async def user_of(world: World, subject: str) -> User:
    return next(it for it in await world.users() if it.subject == subject)


async def test_scim_makes_no_users_and_takes_no_seats(world: World, client: ScimClient) -> None:
    """Decision 8."""
    await client.group("Builders", await client.user("ada"))
    assert (await world.used(), list(await world.users())) == (0, [])


@pytest.mark.parametrize("by", ["active", "delete"])
async def test_deprovisioning_ends_the_sessions_and_frees_the_seat(world: World, client: ScimClient, by: str) -> None:
    """Decision 8: active=false, and DELETE; and only for the one whom it is about."""
    made = await client.user("ada")
    ada, bob = await world.enroll("ada"), await world.enroll("bob")
    await client.user("bob")
    assert await world.used() == 2
    if by == "active":
        assert (await client.patch(made, OFF)).json()["active"] is False
    else:
        await client.ask("DELETE", f"/Users/{made['id']}")
    gone, stays = await world.user(ada), await world.user(bob)
    assert gone.seat_time is None
    assert gone.removed_revision > stays.removed_revision == 0
    assert stays.seat_time is not None
    assert await world.used() == 1
    removal = await world.identity.users.removal(world.organization, gone.removal_id)
    assert (removal.users, removal.seats_freed, removal.registrations) == (1, 1, 1)
    assert (await client.events())[-1].user_id == ada.user_id


async def test_without_seat_deprovision_the_seat_stays(world: World, client: ScimClient) -> None:
    """Decision 8: user_deprovision alone revokes; without it nothing follows."""
    await client.set(user_deprovision=True)
    made = await client.user("ada")
    ada = await world.enroll("ada")
    await client.patch(made, OFF)
    revoked = await world.user(ada)
    assert revoked.revoked_revision > revoked.removed_revision == 0
    assert revoked.seat_time is not None
    await client.set()
    await client.patch(made, ON)
    await client.patch(made, OFF)
    assert await world.user(ada) == revoked


async def test_it_happens_once(world: World, client: ScimClient) -> None:
    """Whoever is inactive already, and authenticates again, is not removed again by a change of something else."""
    made = await client.user("ada")
    ada = await world.enroll("ada")
    await client.patch(made, OFF)
    before = await world.user(ada)
    await client.patch(made, OFF, {"op": "add", "path": "title", "value": "T"})
    await client.ask("DELETE", f"/Users/{made['id']}")
    assert await world.user(ada) == before


async def test_an_inactive_user_made_after_the_first_login_is_deprovisioned(world: World, client: ScimClient) -> None:
    await world.enroll("ada")
    await client.user("ada", active=False)
    assert await world.used() == 0


async def test_a_put_that_does_not_say_so_activates_nobody(world: World, client: ScimClient) -> None:
    made = await client.user("ada", active=False)
    changed = await client.ask(
        "PUT", f"/Users/{made['id']}", {"schemas": [USER], "userName": "ada", "externalId": "ada"}
    )
    assert changed["active"] is False


async def test_the_match_is_to_the_letter(world: World, client: ScimClient) -> None:
    """Decision 8 and invariant I-32: bytewise, and of this provider only."""
    await world.enroll("ada")
    for external_id in ("Ada", "ada ", "ad\u0430", "1"):
        await client.user(f"user {external_id}", externalId=external_id, active=False)
    assert await world.used() == 1
    await client.set(user_deprovision=True, seat_deprovision=True, **BY_EMAIL)
    await client.user("ADA@example.com", active=False)
    assert await world.used() == 1


async def test_an_email_may_be_what_is_matched(world: World, client: ScimClient) -> None:
    """Decision 8: userName and email, as Entra ID needs it."""
    await client.set(user_deprovision=True, seat_deprovision=True, **BY_EMAIL)
    made = await client.user("ada@example.com", externalId="5d2c")
    await world.enroll("ada")
    await client.patch(made, OFF)
    assert await world.used() == 0


async def test_an_ambiguous_match_is_refused(world: World, client: ScimClient) -> None:
    """Decision 8, invariant I-32: two users of one address, and two SCIM users for one user; nothing happens."""
    await client.set(user_deprovision=True, seat_deprovision=True, **BY_EMAIL)
    for subject in ("ada", "eve"):
        await world.enroll(subject, email="ada@example.com")
    answer = await client.send("POST", "/Users", {"schemas": [USER], "userName": "ada@example.com", "active": False})
    assert (answer.status_code, answer.json()["scimType"]) == (409, "uniqueness")
    assert (await client.events())[-1].status == 409
    other = await client.user("other")
    assert (
        await client.patch(other, {"op": "replace", "path": "userName", "value": "ada@example.com"})
    ).status_code == 409
    assert await world.used() == 2


async def test_an_address_that_passes_to_somebody_else_takes_nobody_along(world: World, client: ScimClient) -> None:
    """Invariant I-32: an e-mail swap. Who is linked stays linked, until the matched attribute changes."""
    await client.set(user_deprovision=True, seat_deprovision=True, **BY_EMAIL)
    await world.enroll("ada", email="ada@example.com")
    made = await client.user("ada@example.com")
    await world.enroll("ada", email="ada.new@example.com")
    await world.enroll("eve", email="ada@example.com")
    await client.patch(made, OFF)
    assert (await user_of(world, "ada")).seat_time is None
    assert (await user_of(world, "eve")).seat_time is not None


async def test_another_match_finds_out_anew(world: World, client: ScimClient) -> None:
    await world.enroll("ada", email="bob@example.com")
    await world.enroll("bob", email="ada@example.com")
    made = await client.user("ada@example.com", externalId="ada")
    await client.set(user_deprovision=True, seat_deprovision=True, **BY_EMAIL)
    await client.patch(made, OFF)
    assert (await user_of(world, "ada")).seat_time is not None
    assert (await user_of(world, "bob")).seat_time is None


async def test_automatic_overwrites_the_profile_at_once(world: World, client: ScimClient) -> None:
    """Decision 9: the newest of authentication and SCIM update says who somebody is, and the feed tells it."""
    await client.set(identity_update_behavior=UpdateBehavior.AUTOMATIC)
    ada = await world.enroll("ada", groups=["old"])
    made = await client.user("ada", displayName="Ada L", emails=[{"value": "ada.l@example.com", "primary": True}])
    profile = (await world.user(ada)).profile
    assert (profile.display_name, profile.email, profile.groups) == ("Ada L", "ada.l@example.com", ("old",))
    group = await client.group("Builders", made)
    await client.group("Artists", made)
    assert (await world.user(ada)).profile.groups == ("Artists", "Builders")
    (event,) = (await world.events())[-1]
    assert list(event.user.user.groups) == ["Artists", "Builders"]
    await client.patch(group, {"op": "replace", "path": "displayName", "value": "Zoo"})
    assert (await world.user(ada)).profile.groups == ("Artists", "Zoo")
    await client.ask("DELETE", f"/Groups/{group['id']}")
    assert (await world.user(ada)).profile.groups == ("Artists",)
    world.clock.advance(1)
    await world.enroll("ada", groups=["token"])
    assert (await world.user(ada)).profile.groups == ("token",)


async def test_a_sign_in_from_before_does_not_bring_back_the_groups(world: World, client: ScimClient) -> None:
    """Decision 9: neither an enrollment that was under way when SCIM said so, nor an ID token of some minutes ago."""
    await client.set(identity_update_behavior=UpdateBehavior.AUTOMATIC)
    ada = await world.enroll("ada", groups=["Builders"], age=240)
    under_way = await world.authorize("ada", groups=["admins"], age=120)
    # It is what is known already, and counts from now on as well.
    await client.group("Builders", await client.user("ada"))
    await world.registry(registered(under_way))
    assert (await world.user(ada)).profile.groups == ("Builders",)
    await world.log_in("ada", groups=["admins"], age=60, display_name="Ada L")
    profile = (await world.user(ada)).profile
    assert (profile.groups, profile.display_name) == (("Builders",), "Ada L")
    world.clock.advance(1)
    await world.log_in("ada", groups=["admins"])
    assert (await world.user(ada)).profile.groups == ("admins",)


async def test_reauth_ends_sessions_when_a_group_is_joined_or_left(world: World, client: ScimClient) -> None:
    """Decision 8: of those only who did, and not for another name."""
    await client.set(identity_update_behavior=UpdateBehavior.REAUTH)
    ada, bob = await world.enroll("ada"), await world.enroll("bob")
    people = [await client.user(name, displayName="X") for name in ("ada", "bob")]
    group = await client.group("Builders", people[0])
    joined = (await world.user(ada)).revoked_revision
    assert joined > 0 == (await world.user(bob)).revoked_revision
    await client.patch(group, {"op": "replace", "path": "displayName", "value": "Zoo"})
    assert (await world.user(ada)).revoked_revision == joined
    await client.patch(group, {"op": "remove", "path": "members"})
    left = await world.user(ada)
    assert left.revoked_revision > joined
    assert (left.profile.groups, left.profile.display_name) == ((), "Ada")
    assert left.seat_time is not None


async def test_no_action_waits_for_the_next_login(world: World, client: ScimClient) -> None:
    """Decision 8."""
    ada = await world.enroll("ada", groups=["old"])
    before = await world.user(ada)
    await client.group("Builders", await client.user("ada", displayName="New"))
    assert await world.user(ada) == before


async def test_a_mass_deprovisioning_waits_for_approval(world: World, client: ScimClient) -> None:
    """The breaker (threat T-10): ten of eleven is too many; whoever is activated again is no longer waiting."""
    made = []
    for number in range(11):
        await world.log_in(f"user{number}")
        made.append(await client.user(f"user{number}"))
    for one in made[:10]:
        assert (await client.patch(one, OFF)).status_code == 200
    assert await world.used() == 2
    assert [it.held for it in await client.events()][-10:] == [False] * 9 + [True]
    (held,) = await world.identity.held_actions.page(world.organization, EVERYBODY)
    assert (held.state, held.source, held.subjects) == (HeldState.WAITING, client_name(client), 1)
    await client.patch(made[9], ON)
    (held,) = await world.identity.held_actions.page(world.organization, EVERYBODY)
    assert held.subjects == 0
    await client.patch(made[9], OFF)
    call = world.call(world.organization)
    await world.identity.held_actions.decide(call, world.organization, held.held_action_id, HeldState.APPROVED)
    while await world.identity.held_actions.carry_out_once():
        pass
    assert await world.used() == 1


def client_name(client: ScimClient) -> str:
    return f"scim:{client.provider_id}"


async def test_every_change_is_on_record(world: World, client: ScimClient) -> None:
    """Invariant I-33: one audit record for each, by the client, with whom it was about."""
    ada = await world.enroll("ada")
    before = len(await records(world))
    made = await client.user("ada")
    await client.patch(made, OFF)
    await client.send("POST", "/Users", {"schemas": [USER], "userName": "ada"})
    await client.ask("DELETE", f"/Users/{made['id']}")
    found = (await records(world))[before:]
    assert [(it.actor, it.method, list(it.objects)) for it in found] == [
        (client_name(client), f"SCIM {method} User", [made["id"], ada.user_id])
        for method in ("POST", "PATCH", "DELETE")
    ]
    assert found[1].after_revision > found[1].before_revision
    assert all(it.reason == ErrorReason.ERROR_REASON_UNSPECIFIED for it in found)


async def records(world: World) -> list[AuditRecord]:
    query = audit_record.select().where(audit_record.c.organization_id == world.organization)
    rows: Any = await world.read(lambda tx: tx.execute(query.order_by(audit_record.c.sequence)).all())
    return [AuditRecord.FromString(row.payload) for row in rows]


@pytest.mark.parametrize("before", ["stands", "deleted"])
async def test_whoever_is_erased_is_forgotten_by_scim_as_well(
    world: World, client: ScimClient, desk: Desk, before: str
) -> None:
    """Decision 5 and invariant I-32: the SCIM user goes, for it is the person's name and address and nothing else; so
    does what the log says of it, also of one that the client has deleted before. Others stay."""
    made = await client.user("ada", emails=[{"value": "ada@example.com"}], displayName="Ada Lovelace")
    bob = await client.user("bob")
    ada = await world.enroll("ada")
    await client.patch(made, {"op": "replace", "path": "title", "value": "Countess"})
    if before == "deleted":
        await client.ask("DELETE", f"/Users/{made['id']}")
    call = world.call(world.organization, method="OffboardUser")
    await world.identity.users.offboard(call, world.organization, ada.user_id)
    await world.registry(deleted(ada))
    call = world.call(world.organization, method="EraseUser")
    await world.identity.users.erase(call, world.organization, ada.user_id)
    assert {event.resource_id for event in await client.events()} == {bob["id"]}
    assert [it["id"] for it in (await client.ask("GET", "/Users"))["Resources"]] == [bob["id"]]
    kept = str(await desk.dump())
    assert "bob" in kept
    for said in ("Lovelace", "ada@example.com", "Countess", "'ada'"):
        assert said not in kept
