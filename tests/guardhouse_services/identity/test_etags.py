"""A change may be made to the state that was read, and to no other (AIP-154)."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.errors import EnrollmentPolicyNotFound, EtagMismatch
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.identity import store
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import World, outcome


def update(resource: Any, name: str, etag: str = "", request_id: str = "") -> Any:
    """A request that renames the organization, provider or policy."""
    mask = FieldMask(paths=["display_name"])
    if isinstance(resource, pb.Organization):
        draft = pb.Organization(display_name=name, etag=etag)
        return pb.UpdateOrganizationRequest(
            organization_id=resource.organization_id, organization=draft, update_mask=mask, request_id=request_id
        )
    if isinstance(resource, pb.IdentityProvider):
        provider = pb.IdentityProvider(identity_provider_id=resource.identity_provider_id, display_name=name, etag=etag)
        return pb.UpdateIdentityProviderRequest(identity_provider=provider, update_mask=mask, request_id=request_id)
    policy = pb.EnrollmentPolicy(enrollment_policy_id=resource.enrollment_policy_id, display_name=name, etag=etag)
    return pb.UpdateEnrollmentPolicyRequest(enrollment_policy=policy, update_mask=mask, request_id=request_id)


@pytest.fixture(params=["organization", "identity provider", "enrollment policy"])
async def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Resource:
    """An organization, its provider or its policy, behind the desk."""

    def __init__(self, world: World, desk: Desk, kind: str) -> None:
        self._world = world
        self._desk = desk
        self._kind = kind

    async def get(self) -> Any:
        organization_id = self._world.organization
        if self._kind == "organization":
            return (await self._desk.send(pb.GetOrganizationRequest(organization_id=organization_id))).organization
        if self._kind == "identity provider":
            providers = pb.ListIdentityProvidersRequest(organization_id=organization_id)
            (provider,) = (await self._desk.send(providers)).identity_providers
            return provider
        listing = pb.ListEnrollmentPoliciesRequest(organization_id=organization_id)
        (policy,) = (await self._desk.send(listing)).enrollment_policies
        return policy

    async def rename(self, name: str, etag: str = "", request_id: str = "") -> Any:
        request = update(await self.get(), name, etag, request_id)
        request.organization_id = self._world.organization
        answer = await self._desk.send(request)
        return getattr(answer, self._kind.replace(" ", "_"))


@pytest.fixture
def resource(world: World, desk: Desk, kind: str) -> Resource:
    return Resource(world, desk, kind)


async def test_a_change_to_another_state_than_was_read_is_refused(resource: Resource, desk: Desk) -> None:
    """With the present etag; without one the last change wins."""
    read = await resource.get()
    assert read.etag == (await resource.get()).etag != ""
    first = await resource.rename("First", read.etag)
    assert first.etag not in ("", read.etag)
    before = await desk.dump()
    with pytest.raises(EtagMismatch) as error:
        await resource.rename("Second", read.etag)
    assert error.value.metadata == {"etag": first.etag}
    assert await desk.dump() == before
    last = await resource.rename("Last")
    assert (last.display_name, last.etag) == ("Last", (await resource.get()).etag)


async def test_of_two_changes_to_one_state_one_wins(resource: Resource) -> None:
    for _ in range(5):
        etag = (await resource.get()).etag
        names = [f"{etag} {number}" for number in range(4)]
        results = await asyncio.gather(*(outcome(resource.rename(name, etag)) for name in names))
        (won,) = (result for result in results if not isinstance(result, Exception))
        assert [type(result) for result in results].count(EtagMismatch) == 3
        assert (await resource.get()).display_name == won.display_name


async def test_a_repeated_change_is_answered_before_its_etag_is_looked_at(resource: Resource) -> None:
    """I-07: the state that it names is gone because of itself."""
    etag = (await resource.get()).etag
    first = await resource.rename("Renamed", etag, "r")
    assert await resource.rename("Renamed", etag, "r") == first
    await resource.rename("Later")
    assert await resource.rename("Renamed", etag, "r") == first


async def test_a_policy_is_deleted_as_it_was_read(world: World, desk: Desk) -> None:
    made = await world.allow(Rule(RuleKind.EVERYONE), precedence=3)
    key: dict[str, Any] = {
        "organization_id": world.organization,
        "enrollment_policy_id": made.enrollment_policy_id,
    }
    read = (await desk.send(pb.GetEnrollmentPolicyRequest(**key))).enrollment_policy
    call, policies = world.call(world.organization), world.identity.enrollment_policies
    await policies.update(call, world.organization, made.enrollment_policy_id, {"precedence": 4})
    with pytest.raises(EtagMismatch) as error:
        await desk.send(pb.DeleteEnrollmentPolicyRequest(**key, etag=read.etag))
    delete = pb.DeleteEnrollmentPolicyRequest(**key, etag=error.value.metadata["etag"], request_id="r")
    first = await desk.send(delete)
    assert await desk.send(delete) == first
    with pytest.raises(EnrollmentPolicyNotFound):
        await policies.get(world.organization, made.enrollment_policy_id)


async def test_the_etag_is_of_the_whole_organization(world: World, desk: Desk) -> None:
    """Seats that were bought are a part of it, and the feed says the same."""
    get = pb.GetOrganizationRequest(organization_id=world.organization)
    before = (await desk.send(get)).organization
    await world.limit(3)
    after = (await desk.send(get)).organization
    assert after.etag != before.etag
    assert (await world.events(""))[-1][0].organization == after


async def test_a_change_that_waited_for_another_keeps_all_of_it(world: World, engine: str) -> None:
    """The seat limit stands in another row than the name: who waits for the one must not have read the other before."""
    if engine == "sqlite":
        pytest.skip("it has one writer, so nobody waits with something read")
    organizations, call = world.identity.organizations, world.call(world.organization)
    with world.database.engine.begin() as other:
        of = store.metadata.tables["organization"].c.organization_id == world.organization
        other.execute(sa.update(store.metadata.tables["organization"]).where(of).values(update_time=1))
        pool = store.metadata.tables["seat_pool"]
        other.execute(sa.update(pool).where(pool.c.organization_id == world.organization).values(purchased=7))
        renaming = asyncio.ensure_future(organizations.update(call, world.organization, {"display_name": "Renamed"}))
        await asyncio.sleep(0.3)
        assert not renaming.done()
    changed, *_ = await renaming
    assert (changed.display_name, changed.seat_limit) == ("Renamed", 7)
