"""Policies: what is kept, what is refused, what is published; on both engines, through the contract's methods."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from guardhouse import revisions
from guardhouse.durations import SECOND
from guardhouse.errors import (
    DurationInvalid,
    EtagMismatch,
    FieldRequired,
    InvalidField,
    OrganizationNotFound,
    PageTokenInvalid,
    PolicyNotFound,
    RequestIdReused,
)
from guardhouse.following import Follower, View
from guardhouse.replica import PolicyState
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import requests
from guardhouse_services.database import Database
from guardhouse_services.feed import Feed
from guardhouse_services.migrate import migrate
from guardhouse_services.session.domain.policies import Staleness, StalenessMode
from guardhouse_services.session.usecases import check_quarantine, snapshot
from tests.clock import FakeClock
from tests.guardhouse_services.session import world as facts
from tests.guardhouse_services.session.service import Service, wanted
from tests.guardhouse_services.session.world import NO_POLICY, ORGANIZATION, OTHER_ORGANIZATION, World


def opened(max_open: str) -> pb.Staleness:
    return pb.Staleness(mode=pb.STALENESS_MODE_OPEN_BOUNDED, max_open=max_open)


def hours(number: int) -> pb.CheckSession:
    return pb.CheckSession(enforce=True, duration=f"{number}h")


async def test_a_policy_is_kept_as_it_was_created(service: Service, clock: FakeClock) -> None:
    """Decisions 28 and 30: with its duration in Go's normal form."""
    clock.stop()
    fields: dict[str, Any] = {"description": "Behind the gateway", "filter": pb.POLICY_FILTER_HTTP}
    reply = await service.create(check_session=pb.CheckSession(enforce=True, duration="90m"), **fields)
    kept = await service.get(reply.policy.policy_id)
    assert kept == reply.policy
    assert kept.check_session == pb.CheckSession(enforce=True, duration="1h30m0s")
    assert (kept.display_name, kept.description, kept.enabled) == ("Intranet", "Behind the gateway", True)
    assert (kept.filter, kept.action) == (pb.POLICY_FILTER_HTTP, pb.POLICY_ACTION_ALLOW)
    assert kept.create_time == kept.update_time
    assert kept.create_time.ToMicroseconds() == clock.now()
    assert revisions.decode(reply.revision_token).position.revision == 1


@pytest.mark.parametrize("check", [None, pb.CheckSession(), pb.CheckSession(duration="1h0m0s")])
async def test_no_timeout_is_kept_as_it_was_said(service: Service, check: pb.CheckSession | None) -> None:
    """Decision 28: no check_session and one that is not enforced are both unlimited, and not the same thing."""
    reply = await service.create(check_session=check)
    kept = await service.get(reply.policy.policy_id)
    assert kept.HasField("check_session") == (check is not None)
    assert kept.check_session == (check or pb.CheckSession())


@pytest.mark.parametrize("enforce", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"filter": pb.POLICY_FILTER_DNS},
        {"action": pb.POLICY_ACTION_BLOCK},
        {"filter": pb.POLICY_FILTER_HTTP, "action": pb.POLICY_ACTION_BLOCK},
        {"filter": pb.POLICY_FILTER_DNS, "action": pb.POLICY_ACTION_BLOCK},
    ],
)
async def test_only_network_and_http_policies_that_allow_check_sessions(
    service: Service, fields: dict[str, Any], enforce: bool
) -> None:
    """Decision 28."""
    with pytest.raises(InvalidField) as caught:
        await service.create(check_session=pb.CheckSession(enforce=enforce, duration="1h"), **fields)
    assert caught.value.field == "policy.check_session"
    assert (await service.create(**fields)).policy.policy_id
    assert await service.revision() == 1


@pytest.mark.parametrize("enforce", [True, False])
@pytest.mark.parametrize("duration", ["0s", "0", "-1h", "87600h0m0.000001s", "1d", "1 h", "1h30", "forever", "1ns"])
async def test_a_duration_that_is_none_is_refused(service: Service, duration: str, enforce: bool) -> None:
    """Decision 30: Go's form, more than zero, at most ten years."""
    with pytest.raises(DurationInvalid) as caught:
        await service.create(check_session=pb.CheckSession(enforce=enforce, duration=duration))
    assert caught.value.field == "policy.check_session.duration"


CLOSED = pb.Staleness(mode=pb.STALENESS_MODE_CLOSED)


async def test_a_staleness_is_kept_as_it_was_said(service: Service) -> None:
    """Section 6.5: absent is closed, and not the same thing as CLOSED; and what the feed tells is what was written."""
    async with following(service) as (view, follower):
        for sent, kept, max_open in (
            (None, None, 0),
            (CLOSED, CLOSED, 0),
            (opened("31s"), opened("31s"), 31 * SECOND),
            (opened("60m"), opened("1h0m0s"), facts.HOUR),
        ):
            made = await service.create(staleness=sent)
            found = await service.get(made.policy.policy_id)
            assert found.HasField("staleness") == (kept is not None)
            assert found.staleness == (kept or pb.Staleness())
            position = revisions.decode(made.revision_token).position
            assert await follower.reached("session", ORGANIZATION, (position.epoch, position.revision), timeout=30)
            assert view.states[ORGANIZATION].policies[found.policy_id].max_open == max_open


async def test_a_staleness_that_cannot_be_is_refused(service: Service) -> None:
    """Decision 25, section 6.5: longer than max_staleness, and no longer than released addresses rest."""
    made = (await service.create()).policy
    refused: list[tuple[pb.Staleness, str, type[InvalidField]]] = [
        (pb.Staleness(), "mode", FieldRequired),
        (pb.Staleness(mode=3), "mode", InvalidField),  # type: ignore[arg-type]
        (pb.Staleness(mode=pb.STALENESS_MODE_CLOSED, max_open="1h"), "max_open", InvalidField),
        (opened(""), "max_open", FieldRequired),
        *((opened(text), "max_open", DurationInvalid) for text in ("an hour", "-1h", "0s")),
        # max_staleness, and the quarantine, are 30s and 1h.
        *((opened(text), "max_open", DurationInvalid) for text in ("30s", "1h0m0.001s")),
    ]
    for staleness, field, error in refused:
        for call in (
            service.create(staleness=staleness),
            service.update(made.policy_id, "staleness", staleness=staleness),
        ):
            with pytest.raises(error) as caught:
                await call
            assert (type(caught.value), caught.value.field) == (error, f"policy.staleness.{field}")
    assert await service.get(made.policy_id) == made
    assert await service.revision() == 1


def test_no_policy_stays_open_for_longer_than_a_day() -> None:
    """Section 6.5: however long addresses rest."""
    for hours_open, accepted in ((24, True), (24.0001, False)):
        staleness = Staleness(StalenessMode.OPEN_BOUNDED, round(hours_open * facts.HOUR))
        with contextlib.nullcontext() if accepted else pytest.raises(DurationInvalid, match="24h0m0s"):
            staleness.check(facts.MAX_STALENESS, 1000 * facts.HOUR)


async def test_a_staleness_is_changed_and_taken_away(service: Service) -> None:
    made = (await service.create(staleness=opened("1h"), check_session=hours(1))).policy
    shorter = await service.update(made.policy_id, "staleness", staleness=opened("1m"))
    assert shorter.policy.staleness.max_open == "1m0s"
    assert shorter.policy.check_session == made.check_session
    assert not (await service.update(made.policy_id, "staleness")).policy.HasField("staleness")


async def test_a_quarantine_that_is_shorter_than_a_policy_is_open_is_refused(service: Service) -> None:
    """Decision 25: also the other way round, when the service starts with another setting."""
    check_quarantine(service.database, 0)
    made = (await service.create(staleness=opened("20m"))).policy
    check_quarantine(service.database, 20 * 60 * SECOND)
    with pytest.raises(DurationInvalid, match="20m0s") as caught:
        check_quarantine(service.database, 20 * 60 * SECOND - 1)
    assert caught.value.field == "quarantine"
    await service.delete(made.policy_id)
    check_quarantine(service.database, 0)


def test_another_replicas_longer_quarantine_opens_nothing_here() -> None:
    """Decision 25: while replicas with two settings run side by side, each holds to its own."""
    state = PolicyState(ORGANIZATION, max_open=facts.HOUR)
    state.apply(facts.policy(staleness=opened("2h")))
    assert state.policies[facts.HOURLY].max_open == facts.HOUR


async def test_an_enforced_duration_is_required(service: Service) -> None:
    with pytest.raises(InvalidField) as caught:
        await service.create(check_session=pb.CheckSession(enforce=True))
    assert caught.value.field == "policy.check_session.duration"
    assert (await service.create(check_session=pb.CheckSession(enforce=True, duration="87600h"))).policy.policy_id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("display_name", ""),
        ("display_name", " "),
        ("display_name", "x" * 101),
        ("display_name", "a\nb"),
        ("description", "x" * 501),
        ("filter", 0),
        ("filter", 4),
        ("action", 0),
        ("action", 3),
    ],
)
async def test_a_field_at_fault_is_named(service: Service, field: str, value: Any) -> None:
    """I-34, and proto3's open enums: a value that nobody knows is never stored."""
    with pytest.raises(InvalidField) as caught:
        await service.create(**{field: value})
    assert caught.value.field == f"policy.{field}"
    made = (await service.create()).policy
    with pytest.raises(InvalidField) as caught:
        await service.update(made.policy_id, field, **{field: value})
    assert caught.value.field == f"policy.{field}"
    assert await service.get(made.policy_id) == made


async def test_what_is_required_is_named(service: Service) -> None:
    for request, field in (
        (pb.CreatePolicyRequest(policy=wanted()), "organization_id"),
        (pb.CreatePolicyRequest(organization_id=ORGANIZATION), "policy"),
        (pb.GetPolicyRequest(organization_id=ORGANIZATION), "policy_id"),
        (pb.ListPoliciesRequest(), "organization_id"),
        (pb.DeletePolicyRequest(organization_id=ORGANIZATION), "policy_id"),
        (pb.UpdatePolicyRequest(organization_id=ORGANIZATION), "policy.policy_id"),
        (pb.UpdatePolicyRequest(organization_id=ORGANIZATION, policy=pb.Policy(policy_id=NO_POLICY)), "update_mask"),
    ):
        with pytest.raises(FieldRequired) as caught:
            await service(request)
        assert caught.value.field == field


async def test_an_organization_must_exist(service: Service) -> None:
    with pytest.raises(OrganizationNotFound):
        await service.create(organization_id="org_" + "9" * 32)


async def test_an_update_changes_what_the_mask_names(service: Service, clock: FakeClock) -> None:
    clock.stop()
    made = (await service.create(description="Old", check_session=hours(1))).policy
    clock.advance(5)
    reply = await service.update(made.policy_id, "display_name", "description", display_name="Wiki", enabled=False)
    assert (reply.policy.display_name, reply.policy.description, reply.policy.enabled) == ("Wiki", "", True)
    assert reply.policy.check_session == made.check_session
    assert reply.policy.create_time == made.create_time
    assert reply.policy.update_time.ToMicroseconds() == clock.now()
    assert await service.get(made.policy_id) == reply.policy
    assert revisions.decode(reply.revision_token).position.revision == 2


async def test_an_update_is_judged_as_a_whole(service: Service) -> None:
    """Decision 28: by what the policy would be, whichever of its fields the mask names."""
    made = (await service.create(check_session=hours(1))).policy
    for fields in ({"filter": pb.POLICY_FILTER_DNS}, {"action": pb.POLICY_ACTION_BLOCK}):
        with pytest.raises(InvalidField) as caught:
            await service.update(made.policy_id, *fields, **fields)
        assert caught.value.field == "policy.check_session"
    assert await service.get(made.policy_id) == made
    # Together with taking check_session away it is sound; and then check_session cannot come back alone.
    blocking = await service.update(made.policy_id, "action", "check_session", action=pb.POLICY_ACTION_BLOCK)
    assert not blocking.policy.HasField("check_session")
    with pytest.raises(InvalidField):
        await service.update(made.policy_id, "check_session", check_session=hours(1))
    reply = await service.update(
        made.policy_id, "check_session", "action", check_session=hours(2), action=pb.POLICY_ACTION_ALLOW
    )
    assert reply.policy.check_session.duration == "2h0m0s"


@pytest.mark.parametrize("path", ["policy_id", "create_time", "check_session.duration", "policy", "nonsense"])
async def test_a_mask_names_what_can_be_updated(service: Service, path: str) -> None:
    made = (await service.create()).policy
    with pytest.raises(InvalidField) as caught:
        await service.update(made.policy_id, path)
    assert caught.value.field == "update_mask"


async def test_updates_of_two_fields_at_once_lose_neither(service: Service) -> None:
    made = (await service.create(check_session=hours(1))).policy
    for number in range(2, 8):
        await asyncio.gather(
            service.update(made.policy_id, "display_name", display_name=f"Name {number}"),
            service.update(made.policy_id, "check_session", check_session=hours(number)),
        )
        found = await service.get(made.policy_id)
        assert (found.display_name, found.check_session.duration) == (f"Name {number}", f"{number}h0m0s")


async def test_a_deleted_policy_is_gone_and_a_second_delete_finds_none(service: Service) -> None:
    made = (await service.create()).policy
    await service.delete(made.policy_id)
    for call in (
        service.get(made.policy_id),
        service.delete(made.policy_id),
        service.update(made.policy_id, "enabled", enabled=True),
    ):
        with pytest.raises(PolicyNotFound):
            await call
    assert await service.names() == []
    assert await service.revision() == 2


async def test_policies_of_another_organization_do_not_exist(service: Service) -> None:
    """I-27: in no call, and the foreign one answers as the unknown one does."""
    foreign = (await service.create(organization_id=OTHER_ORGANIZATION)).policy.policy_id
    for policy_id in (foreign, NO_POLICY):
        for call in (
            service.get(policy_id),
            service.update(policy_id, "enabled", enabled=False),
            service.delete(policy_id),
        ):
            with pytest.raises(PolicyNotFound):
                await call
    assert await service.names() == []
    assert (await service.get(foreign, OTHER_ORGANIZATION)).enabled


async def test_a_policy_is_changed_as_it_was_read(service: Service, clock: FakeClock) -> None:
    """AIP-154: an etag is of one state, the same in every answer; without one the last change wins."""
    made = (await service.create()).policy
    assert made.etag
    assert (await service.get(made.policy_id)).etag == made.etag
    (listed,) = (await service(pb.ListPoliciesRequest(organization_id=ORGANIZATION))).policies
    assert listed.etag == made.etag
    clock.advance(1)
    changed = (await service.update(made.policy_id, "enabled", enabled=False, etag=made.etag)).policy
    assert changed.etag != made.etag
    for call in (
        service.update(made.policy_id, "enabled", enabled=True, etag=made.etag),
        service.delete(made.policy_id, etag=made.etag),
        service.delete(made.policy_id, etag=made.etag, validate_only=True),
    ):
        with pytest.raises(EtagMismatch):
            await call
    assert await service.get(made.policy_id) == changed
    assert (await service.update(made.policy_id, "enabled", enabled=True)).policy.enabled
    assert len(await service.records()) == 3
    last = await service.get(made.policy_id)
    assert (await service.delete(made.policy_id, etag=last.etag)).policy == last


async def test_of_two_changes_to_the_same_state_one_wins(service: Service) -> None:
    """AIP-154: at once, ten times over."""
    made = (await service.create(display_name="0")).policy
    for number in range(1, 11):
        etag = (await service.get(made.policy_id)).etag
        results = await asyncio.gather(
            *(service.update(made.policy_id, "display_name", display_name=f"{number}{who}", etag=etag) for who in "ab"),
            return_exceptions=True,
        )
        (lost,) = (each for each in results if isinstance(each, BaseException))
        assert isinstance(lost, EtagMismatch)
    assert await service.revision() == 11


async def test_a_repeated_change_is_answered_as_the_first_time(service: Service) -> None:
    """I-07 before AIP-154: its own change is no reason to refuse it."""
    made = (await service.create()).policy
    fields = {"display_name": "Wiki", "etag": made.etag, "request_id": "r1"}
    first = await service.update(made.policy_id, "display_name", **fields)
    assert await service.update(made.policy_id, "display_name", **fields) == first
    gone = await service.delete(made.policy_id, "r2", etag=first.policy.etag)
    assert gone.policy == first.policy
    assert await service.delete(made.policy_id, "r2", etag=first.policy.etag) == gone
    assert await service.update(made.policy_id, "display_name", **fields) == first


async def test_a_deletion_can_be_tried_out(service: Service) -> None:
    """AIP-163: it answers what would go, and nothing goes, is on record or is remembered."""
    made = (await service.create("r1", check_session=hours(1))).policy
    reply = await service.delete(made.policy_id, "r2", validate_only=True)
    assert reply == pb.DeletePolicyResponse(policy=made)
    assert await service.get(made.policy_id) == made
    assert (len(await service.records()), await service.revision()) == (1, 1)
    assert (await service.delete(made.policy_id, "r2")).revision_token
    with pytest.raises(PolicyNotFound):
        await service.delete(made.policy_id, validate_only=True)


async def test_every_change_is_on_record_once(service: Service) -> None:
    """I-33: with the policy's id and the revisions around it, also when nothing changed; and a repetition is not."""
    policy_id = (await service.create("r1")).policy.policy_id
    await service.create("r1")
    for _ in range(2):
        await service.update(policy_id, "enabled", enabled=True)
    with pytest.raises(InvalidField):
        await service.update(policy_id, "display_name")
    await service.delete(policy_id, "r2")
    await service.delete(policy_id, "r2")
    with pytest.raises(PolicyNotFound):
        await service.delete(policy_id)
    records = await service.records()
    assert [record.method for record in records] == ["/CreatePolicy", "/UpdatePolicy", "/UpdatePolicy", "/DeletePolicy"]
    assert [record.request_id for record in records] == ["r1", "", "", "r2"]
    assert {tuple(record.objects) for record in records} == {(policy_id,)}
    assert {record.actor for record in records} == {facts.call().caller.name}
    assert [(record.before_revision, record.after_revision) for record in records] == [(0, 1), (1, 2), (2, 3), (3, 4)]


async def test_what_the_release_before_recorded_is_still_answered(service: Service) -> None:
    """I-07: it remembered ids only, and a day of its requests may be repeated here."""
    made = (await service.create()).policy

    async def recorded(method: str, **result: Any) -> None:
        request = getattr(pb, f"{method}Request")(organization_id=ORGANIZATION, **fields[method])
        call = facts.call(method, "r1", hashlib.sha256(request.SerializeToString(deterministic=True)).digest())
        await service.database.write(lambda tx: requests.record(tx, call, **result))

    fields: dict[str, dict[str, Any]] = {
        "CreatePolicy": {"policy": wanted()},
        "DeletePolicy": {"policy_id": made.policy_id},
    }
    await recorded("CreatePolicy", policy_id=made.policy_id, revision=1)
    assert (await service.create("r1")).policy == made
    await recorded("DeletePolicy", revision=1)
    reply = await service.delete(made.policy_id, "r1")
    assert reply.revision_token
    assert not reply.HasField("policy")


async def test_a_repeated_request_has_one_effect(service: Service) -> None:
    """I-07: and the answer of the first time, whatever has become of the policy since."""
    first, again = await service.create("r1"), await service.create("r1")
    assert again == first
    policy_id = first.policy.policy_id
    update = {"display_name": "Wiki", "request_id": "r2"}
    changed = await service.update(policy_id, "display_name", **update)
    assert await service.update(policy_id, "display_name", **update) == changed
    assert await service.create("r1") == first
    gone = await service.delete(policy_id, "r3")
    assert await service.delete(policy_id, "r3") == gone
    assert gone.policy == changed.policy
    assert await service.create("r1") == first
    assert await service.update(policy_id, "display_name", **update) == changed
    assert await service.revision() == 3
    with pytest.raises(RequestIdReused):
        await service.create("r1", display_name="Another")
    assert await service.names() == []


async def test_the_same_request_eight_times_at_once_makes_one_policy(service: Service) -> None:
    """I-07."""
    replies = await asyncio.gather(*(service.create("r1") for _ in range(8)))
    assert len({reply.policy.policy_id for reply in replies}) == 1
    assert await service.names() == ["Intranet"]
    assert await service.revision() == 1


async def test_a_list_comes_in_pages_by_creation(service: Service, clock: FakeClock) -> None:
    """AIP-158: a token is good for its own list only."""
    for number in range(5):
        clock.advance(1)
        await service.create(display_name=f"{number}")
    names, token = [], ""
    for size in (2, 2, 1):
        page = await service(pb.ListPoliciesRequest(organization_id=ORGANIZATION, page_size=2, page_token=token))
        assert len(page.policies) == size
        names += [policy.display_name for policy in page.policies]
        token = page.next_page_token
    assert (names, token) == (["0", "1", "2", "3", "4"], "")
    page = await service(pb.ListPoliciesRequest(organization_id=ORGANIZATION, page_size=2))
    with pytest.raises(PageTokenInvalid):
        await service(pb.ListPoliciesRequest(organization_id=OTHER_ORGANIZATION, page_token=page.next_page_token))


class Loop:
    """The replica's own feed, followed within the process."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def watch(self, requests: AsyncIterator[Any]) -> "Loop":
        self._task = asyncio.create_task(self._feed.watch(requests, self._messages.put))
        return self

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def __aiter__(self) -> "Loop":
        return self

    async def __anext__(self) -> pb.WatchResponse:
        return pb.WatchResponse.FromString(await self._messages.get())


@contextlib.asynccontextmanager
async def following(service: Service) -> AsyncIterator[tuple[View, Follower]]:
    view = View(partial(PolicyState, max_open=facts.HOUR))
    follower = Follower("own", Loop(service.feed).watch, pb.WatchRequest, view, service.world.clock)
    task = asyncio.create_task(follower.run())
    yield view, follower
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_a_replica_writes_it_learns_from_its_own_feed(service: Service) -> None:
    """I-20, I-22: a snapshot and then every change; what was there before counts, and what is deleted goes."""
    first = (await service.create(check_session=hours(1))).policy.policy_id
    async with following(service) as (view, follower):
        await follower.loaded()
        assert view.states[ORGANIZATION].policies[first].timeout == facts.HOUR

        async def reach(token: str) -> dict[str, Any]:
            position = revisions.decode(token).position
            assert await follower.reached("session", ORGANIZATION, (position.epoch, position.revision), timeout=30)
            policies: dict[str, Any] = view.states[ORGANIZATION].policies
            return policies

        shorter = await service.update(
            first, "check_session", check_session=pb.CheckSession(enforce=True, duration="1s")
        )
        assert (await reach(shorter.revision_token))[first].timeout == SECOND
        second = await service.create(enabled=False)
        policies = await reach(second.revision_token)
        assert policies.keys() == {first, second.policy.policy_id}
        assert not policies[second.policy.policy_id].enabled
        gone = await service.delete(first)
        assert (await reach(gone.revision_token)).keys() == {second.policy.policy_id}


async def test_a_snapshot_comes_in_pages(service: Service) -> None:
    """I-22: each policy once, whatever the size of a page."""
    made = {(await service.create()).policy.policy_id for _ in range(5)}
    await service.create(organization_id=OTHER_ORGANIZATION)
    for size in (1, 2, 4, 5, 6):
        seen: list[str] = []
        after, more = "", True
        while more:
            events, after = await service.database.read(lambda tx: snapshot(tx, ORGANIZATION, after, size))  # noqa: B023
            seen += [event.policy.policy_id for event in events]
            more = bool(after)
        assert seen == sorted(made)
    assert await service.database.read(lambda tx: snapshot(tx, "", "", 10)) == ([], "")


def test_a_policy_written_by_a_replica_is_what_another_one_reads(tmp_path: Path) -> None:
    """Nothing of the running state is shared: a new process finds what the old one committed."""
    clock = FakeClock()
    url = f"sqlite:///{tmp_path}/session.db"

    async def run(work: Any) -> Any:
        database = Database(url, clock, "session", pb.Change)
        migrate(database.engine, "session")
        async with World(clock) as world:
            result = await work(Service(clock, database, world))
        database.close()
        return result

    made = asyncio.run(run(lambda service: service.create("r1")))
    assert asyncio.run(run(lambda service: service.create("r1"))) == made
