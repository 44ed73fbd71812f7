"""Policies: what is kept, what is refused, what is published; on both engines, through the contract's methods."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from guardhouse import revisions
from guardhouse.errors import (
    DurationInvalid,
    FieldRequired,
    InvalidField,
    OrganizationNotFound,
    PageTokenInvalid,
    PolicyNotFound,
    RequestIdReused,
)
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.access import Call
from guardhouse_services.clock import SECOND
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.feed import Feed
from guardhouse_services.follower import Follower, View
from guardhouse_services.migrate import migrate
from guardhouse_services.paging import Pages
from guardhouse_services.session.replica import PolicyState
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.usecases import Session, snapshot
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.session import world as facts
from tests.guardhouse_services.session.world import NO_POLICY, ORGANIZATION, OTHER_ORGANIZATION, World

Reply = Any


class Service:
    """The policy methods of one replica, called as the listener would."""

    def __init__(self, clock: FakeClock, database: Database, world: World) -> None:
        nothing: Any = None
        session = Session(clock, database, world.directory, world.replica, nothing)
        self.feed = Feed(database, pb, snapshot)
        self.servicer = SessionServicer(clock, session, Pages(MasterKey(bytes(32))), self.feed)
        self.database = database
        self.world = world

    async def __call__(self, request: Message, request_id: str = "") -> Reply:
        body = request.SerializeToString(deterministic=True)
        method = type(request).__name__.removesuffix("Request")
        organization_id: str = request.organization_id  # type: ignore[attr-defined]
        made: Call = facts.call(method, request_id, hashlib.sha256(body).digest(), organization_id)
        return await getattr(self.servicer, method)(request, made)

    async def create(self, request_id: str = "", organization_id: str = ORGANIZATION, **fields: Any) -> Reply:
        request = pb.CreatePolicyRequest(organization_id=organization_id, policy=wanted(**fields))
        return await self(request, request_id)

    async def update(self, policy_id: str, *paths: str, request_id: str = "", **fields: Any) -> Reply:
        request = pb.UpdatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=pb.Policy(policy_id=policy_id, **fields),
            update_mask=FieldMask(paths=paths),
        )
        return await self(request, request_id)

    async def delete(self, policy_id: str, request_id: str = "", organization_id: str = ORGANIZATION) -> Reply:
        return await self(pb.DeletePolicyRequest(organization_id=organization_id, policy_id=policy_id), request_id)

    async def get(self, policy_id: str, organization_id: str = ORGANIZATION) -> pb.Policy:
        reply = await self(pb.GetPolicyRequest(organization_id=organization_id, policy_id=policy_id))
        found: pb.Policy = reply.policy
        return found

    async def names(self) -> list[str]:
        reply = await self(pb.ListPoliciesRequest(organization_id=ORGANIZATION))
        return [policy.display_name for policy in reply.policies]

    async def revision(self) -> int:
        return await self.database.read(lambda tx: tx.revision(ORGANIZATION))


def wanted(**fields: Any) -> pb.Policy:
    values = {
        "display_name": "Intranet",
        "enabled": True,
        "filter": pb.POLICY_FILTER_L4,
        "action": pb.POLICY_ACTION_ALLOW,
    }
    return pb.Policy(**{**values, **fields})


def hours(number: int) -> pb.CheckSession:
    return pb.CheckSession(enforce=True, duration=f"{number}h")


@pytest.fixture
async def service(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[Service]:
    database = Database(database_url("session"), clock, "session", pb.Change)
    migrate(database.engine, "session")
    async with World(clock) as world:
        yield Service(clock, database, world)
    database.close()


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


async def test_a_repeated_request_has_one_effect(service: Service) -> None:
    """I-07: the answer is the present state, its token at least as new as the effect."""
    first, again = await service.create("r1"), await service.create("r1")
    assert again == first
    policy_id = first.policy.policy_id
    update = {"display_name": "Wiki", "request_id": "r2"}
    changed = await service.update(policy_id, "display_name", **update)
    assert await service.update(policy_id, "display_name", **update) == changed
    assert (await service.create("r1")).policy == changed.policy
    gone = await service.delete(policy_id, "r3")
    assert await service.delete(policy_id, "r3") == gone
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
    view = View(PolicyState)
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
            assert await follower.reached("session", ORGANIZATION, (position.epoch, position.revision))
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
