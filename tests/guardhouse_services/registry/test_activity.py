"""What the registry tells identity of devices, which keeps their users' seats (decision 6). Both services are real."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from guardhouse.errors import ServiceUnavailable
from guardhouse.identity.v1 import identity_pb2
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.feed import Feed
from guardhouse_services.identity.domain.users import User
from guardhouse_services.identity.servicer import IdentityServicer
from guardhouse_services.paging import Pages
from guardhouse_services.registry.domain import HOUR, MINUTE, SECOND
from guardhouse_services.registry.usecases import activity
from guardhouse_services.registry.usecases.activity import MARGIN, OVERLAP, Activity
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.identity import world as identity_world
from tests.guardhouse_services.registry.world import MASTER_KEY, World, machine, name

METHOD = "/guardhouse.identity.v1.AuthenticationService/ReportActivity"


class Identity:
    """Identity as the registry calls it; it can be made to break down."""

    def __init__(self, world: identity_world.World) -> None:
        self.world = world
        self.requests: list[identity_pb2.ReportActivityRequest] = []
        self.answers = 1000
        """How many more."""
        feed = Feed(world.database, identity_pb2, lambda *_: ((), ""))
        audit = Audit(world.clock, world.database, "identity", identity_pb2, MASTER_KEY, Settings())
        self._servicer = IdentityServicer(world.clock, world.identity, Pages(MASTER_KEY), feed, audit)

    async def ReportActivity(self, request: identity_pb2.ReportActivityRequest) -> identity_pb2.ReportActivityResponse:
        if not self.answers:
            raise ServiceUnavailable("it is down", service="identity")
        self.answers -= 1
        self.requests.append(request)
        caller = Caller("service", "registry")
        key = RequestKey(request.organization_id, caller.name, METHOD, "", b"")
        return await self._servicer.ReportActivity(request, Call(caller, METHOD, "", key))

    async def user(self, user_id: str) -> User:
        return await self.world.identity.users.get(self.world.organization, user_id)

    async def watermark(self) -> int | None:
        return await self.world.identity.seat_ledger.report(self.world.organization, {}, None)


@pytest.fixture
async def identity(world: World, database_url: DatabaseUrl) -> AsyncIterator[Identity]:
    """With the organization of the registry."""
    found = identity_world.World(database_url("identity"), world.clock)
    await found.start()
    organization = identity_pb2.Organization(organization_id=found.organization)
    position = ("epoch", 0)
    await world.directory.view.change("", [identity_pb2.Event(organization=organization)], position, position)
    world.organization = found.organization
    yield Identity(found)
    found.close()


@pytest.fixture
def reporting(world: World, identity: Identity) -> Activity:
    return Activity(world.clock, world.database, world.directory, cast("Any", identity))


async def holder(identity: Identity, who: str) -> str:
    return (await identity.world.enroll(who)).user_id


async def test_identity_hears_of_each_users_newest_device(
    world: World, identity: Identity, reporting: Activity
) -> None:
    """Decision 6: of a device that was never heard of since it was enrolled, and of a machine's nothing."""
    ada, bob = await holder(identity, "ada"), await holder(identity, "bob")
    laptop, phone = await world.enroll(ada), await world.enroll(ada)
    silent = await world.enroll(bob)
    await world.enroll(machine())
    world.clock.advance(600)
    await world.beat(laptop)
    world.clock.advance(600)
    await world.beat(phone)
    await reporting.report(world.organization)
    seen = (await world.find(name(phone))).seen_time
    assert seen is not None
    assert seen > (await world.find(name(laptop))).activity
    assert (await identity.user(ada)).seen_time == seen
    assert (await identity.user(bob)).seen_time == (await world.find(name(silent))).create_time


async def test_the_watermark_comes_with_the_last_page_and_leaves_room_for_what_is_not_written_yet(
    world: World, identity: Identity, reporting: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 6: whoever stops in the middle has reported nothing for sure."""
    monkeypatch.setattr(activity, "BATCH", 2)
    people = [await holder(identity, who) for who in ("ada", "bob", "cyd", "dan", "eve")]
    for user_id in people:
        # Two each in the same minute.
        await world.beat(await world.enroll(user_id))
        await world.beat(await world.enroll(user_id))
    identity.answers = 4
    with pytest.raises(ServiceUnavailable):
        await reporting.report(world.organization)
    assert await identity.watermark() is None
    identity.answers, began = 1000, world.clock.now()
    await reporting.report(world.organization)
    assert began - MARGIN <= (await identity.watermark() or 0) <= world.clock.now() - MARGIN
    assert all([(await identity.user(user_id)).seen_time for user_id in people])
    assert all(len(request.activity) <= 2 for request in identity.requests)
    assert [request.HasField("watermark_time") for request in identity.requests[-2:]] == [False, True]


async def test_a_report_goes_on_where_the_last_one_ended(world: World, identity: Identity, reporting: Activity) -> None:
    """Memory and traffic do not grow with devices that nobody uses; what was written late is reported once more."""
    quiet, late, lively = [await holder(identity, who) for who in ("ada", "bob", "cyd")]
    await world.enroll(quiet)
    world.clock.advance(3 * HOUR / SECOND)
    await world.enroll(late)
    world.clock.advance((OVERLAP - 10 * MINUTE) / SECOND)
    await reporting.report(world.organization)
    assert {it.user_id for it in identity.requests[-1].activity} == {quiet, late}
    await world.enroll(lively)
    await reporting.report(world.organization)
    assert {it.user_id for it in identity.requests[-1].activity} == {late, lively}


async def test_a_revoked_device_was_heard_of_and_one_that_is_gone_is_none(
    world: World, identity: Identity, reporting: Activity
) -> None:
    """Decision 6."""
    revoked, gone = await holder(identity, "ada"), await holder(identity, "bob")
    await world.revoke(name(await world.enroll(revoked)))
    await world.delete(name(await world.enroll(gone)))
    await reporting.report(world.organization)
    assert [it.user_id for it in identity.requests[-1].activity] == [revoked]
