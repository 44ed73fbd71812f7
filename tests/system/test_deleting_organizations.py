"""Deleting an organization: nothing of it can be called, and no service keeps a row of it."""

import asyncio
import uuid
from collections.abc import Collection
from typing import Any

import pytest
import sqlalchemy as sa

from guardhouse import errors
from guardhouse.common.v1.access_pb2 import ROLE_ADMIN, ROLE_GATEWAY
from guardhouse.durations import SECOND
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.registry.v1 import registry_pb2
from guardhouse_services.audit import audit_record
from guardhouse_services.database import Transaction
from guardhouse_services.deletion import AGAIN, KEPT
from guardhouse_services.leases import LEASE
from tests.plane import Plane
from tests.system.contract import METHODS
from tests.system.people import World
from tests.system.seeds import Seeds
from tests.system.state import quiet
from tests.system.wire import Caller, send

SECONDS = 20.0
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)

pytestmark = pytest.mark.timeout(120)

Rows = dict[str, int]
"""How many there are of an organization, by service and table."""


async def rows(plane: Plane, organization_id: str, kept: Collection[str] = KEPT) -> Rows:
    """Of every table that there is, whoever made it, but for those that are kept."""
    found: Rows = {}
    for service, node in plane.nodes.items():
        there = sa.MetaData()
        there.reflect(node.database.engine)
        tables = [it for it in there.sorted_tables if "organization_id" in it.columns and it.name not in kept]

        def count(tx: Transaction, tables: list[sa.Table] = tables) -> list[int]:
            of = (sa.select(sa.func.count()).where(it.c.organization_id == organization_id) for it in tables)
            return [int(tx.execute(each).scalar_one()) for each in of]

        counts = await node.database.read(count)
        found |= {f"{service}.{table.name}": number for table, number in zip(tables, counts, strict=True)}
    return found


async def records(plane: Plane, organization_id: str) -> Rows:
    counted = sa.select(sa.func.count()).where(audit_record.c.organization_id == organization_id)
    return {
        service: int(await node.database.read(lambda tx: tx.execute(counted).scalar_one()))
        for service, node in plane.nodes.items()
    }


async def delete(plane: Plane, organization_id: str, **more: Any) -> identity_pb2.DeleteOrganizationResponse:
    request = identity_pb2.DeleteOrganizationRequest(
        organization_id=organization_id, confirmation=organization_id, **more
    )
    answer: identity_pb2.DeleteOrganizationResponse = await plane.stub(
        identity_pb2_grpc.OrganizationServiceStub
    ).DeleteOrganization(request)
    return answer


async def gone(plane: Plane, organization_id: str) -> None:
    """Waits until no service has a row of it."""
    async with asyncio.timeout(2 * SECONDS):
        while left := {name: number for name, number in (await rows(plane, organization_id)).items() if number}:
            await asyncio.sleep(0.1)
            plane.clock.advance(AGAIN / SECOND / 10)
    assert not left


async def key_of(plane: Plane, organization_id: str, role: Any) -> str:
    made = await plane.stub(identity_pb2_grpc.ApiKeyServiceStub).CreateApiKey(
        identity_pb2.CreateApiKeyRequest(
            organization_id=organization_id, api_key=identity_pb2.ApiKey(display_name="a key", role=role)
        )
    )
    return str(made.secret)


async def heard(plane: Plane) -> None:
    """Waits until every service knows of what identity did."""
    for node in plane.nodes.values():
        assert await node.directory.follower.fresh(plane.clock.steady(), timeout=30)


async def test_no_service_keeps_a_row_of_it(plane: Plane) -> None:
    """Decision 5 and invariant I-33: what is personal goes, and the audit logs stay whole."""
    doomed = World(plane, await plane.create_organization())
    other = World(plane, plane.organization)
    seeds = await Seeds(doomed).plant()
    await doomed.enroll("bob")
    await other.enroll("carol")
    await quiet(plane)
    before, others = await rows(plane, doomed.organization_id), await rows(plane, other.organization_id)
    for service in plane.nodes:
        assert sum(number for name, number in before.items() if name.startswith(service)) > 0
    assert sum(map(bool, before.values())) > 20, before
    logs, logs_of_other = await records(plane, doomed.organization_id), await records(plane, other.organization_id)
    assert all(logs.values())

    said = await delete(plane, doomed.organization_id, validate_only=True)
    assert (said.users, said.seats, said.registrations, said.addresses) == (3, 2, 2, 4)
    assert await rows(plane, doomed.organization_id) == before
    done = await delete(plane, doomed.organization_id)
    assert (done.organization.display_name, done.users) == ("Example", 3)
    await gone(plane, doomed.organization_id)
    await quiet(plane)
    assert not any((await rows(plane, doomed.organization_id)).values())
    # Whoever holds it in memory has loaded that there is nothing.
    for follower in plane.nodes["session"].views:
        assert await follower.fresh(plane.clock.steady(), timeout=30)
    views: Any = [follower._sink for follower in plane.nodes["session"].views]
    people, registrations, policies = (view.states[doomed.organization_id] for view in views)
    assert (people.users, people.api_keys, registrations.registrations, policies.policies) == ({}, {}, {}, {})
    # The deletion itself is on record with the installation.
    after = await records(plane, doomed.organization_id)
    assert all(after[service] >= number for service, number in logs.items())
    changes = {"registry.job_lease"}
    kept = {name: number for name, number in (await rows(plane, other.organization_id)).items() if name not in changes}
    assert kept == others
    assert await records(plane, other.organization_id) == logs_of_other
    request = identity_pb2.ListAuditRecordsRequest(organization_id=doomed.organization_id, page_size=1000)
    log = await plane.stub(identity_pb2_grpc.AuditServiceStub).ListAuditRecords(request)
    assert len(log.records) == after["identity"]
    assert seeds.address.encode() not in b"".join(record.SerializeToString() for record in log.records)
    request = identity_pb2.ListAuditRecordsRequest(page_size=1000)
    log = await plane.stub(identity_pb2_grpc.AuditServiceStub).ListAuditRecords(request)
    assert [list(it.objects) for it in log.records if it.method.endswith("/DeleteOrganization")] == [
        [doomed.organization_id]
    ]


@ON_ONE
@pytest.mark.plane(anonymous_rate=1e6, anonymous_burst=10**6)
async def test_nothing_of_it_can_be_called(plane: Plane) -> None:
    """Every method, with everything that opened it before."""
    doomed = World(plane, await plane.create_organization())
    seeds = await Seeds(doomed).plant()
    keys = [await key_of(plane, doomed.organization_id, role) for role in (ROLE_ADMIN, ROLE_GATEWAY)]
    calls = []
    for method in METHODS.values():
        if method.takes("organization_id"):
            caller, request = await seeds.valid(method)
            if request.organization_id == doomed.organization_id and not method.rule.deleted_organization:
                calls.append((method, caller, request.SerializeToString()))
    assert len(calls) > 80
    await delete(plane, doomed.organization_id)
    await heard(plane)
    for method, caller, raw in calls:
        # What only gateways may call is tried with their key.
        who = Caller(plane.admin_key) if caller.who == seeds.token and not method.rule.device else caller
        outcome = await send(plane, method, who, raw)
        # A registration token is looked up in what the purge takes away, so it may be none by now.
        wanted = {"ORGANIZATION_NOT_FOUND"} | ({"CREDENTIALS_INVALID"} if method.rule.device else set())
        wanted |= {"ACCESS_DENIED"} if who is not caller else set()
        assert outcome.reason in wanted, (method.name, outcome)
        for key in keys:
            outcome = await send(plane, method, Caller(key), raw)
            refusal = "ORGANIZATION_NOT_FOUND" if method.rule.anonymous else "CREDENTIALS_INVALID"
            assert outcome.reason == refusal, (method.name, outcome)
    watch = METHODS["identity.IdentityFeedService.Watch"]
    await gone(plane, doomed.organization_id)
    await quiet(plane)
    start = identity_pb2.WatchRequest()
    start.start.organization_ids.append(doomed.organization_id)
    assert (await send(plane, watch, Caller(keys[1]), start.SerializeToString())).reason == "CREDENTIALS_INVALID"


@ON_ONE
async def test_nobody_deletes_another_one_by_mistake(plane: Plane, world: World) -> None:
    """Rule 4 of the house: a repeated request is answered as the first was, also once there is nothing left."""
    organizations = plane.stub(identity_pb2_grpc.OrganizationServiceStub)
    request = identity_pb2.DeleteOrganizationRequest(organization_id=world.organization_id, request_id=uuid.uuid4().hex)
    for wrong, kind in (("", errors.FieldRequired), ("example", errors.InvalidField)):
        request.confirmation = wrong
        with pytest.raises(kind) as error:
            await organizations.DeleteOrganization(request)
        assert error.value.field == "confirmation"
    own = plane.stub(identity_pb2_grpc.OrganizationServiceStub, await key_of(plane, world.organization_id, ROLE_ADMIN))
    request.confirmation = "Example"
    with pytest.raises(errors.AccessDenied):
        await own.DeleteOrganization(request)
    request.etag = "another"
    with pytest.raises(errors.EtagMismatch):
        await organizations.DeleteOrganization(request)
    request.etag = ""
    first = await organizations.DeleteOrganization(request)
    await gone(plane, world.organization_id)
    again = await organizations.DeleteOrganization(request)
    assert (again.organization, again.users, again.seats) == (first.organization, first.users, first.seats)
    request.request_id = uuid.uuid4().hex
    with pytest.raises(errors.OrganizationNotFound):
        await organizations.DeleteOrganization(request)


async def test_who_enrolls_meanwhile_leaves_nothing_behind(plane: Plane) -> None:
    """Invariant I-04 with an organization that goes: no enrollment ends in one that is not there."""
    doomed = World(plane, await plane.create_organization())
    await doomed.enroll("alice", "first")
    requests = [await doomed.request(doomed.id_token(f"person{number}"), f"machine{number}") for number in range(16)]

    async def enroll(request: registry_pb2.RegisterRequest) -> str:
        try:
            await doomed.enrollment.Register(request, timeout=SECONDS)
        except errors.GuardhouseError as refusal:
            return refusal.reason
        return "OK"

    enrolling = [asyncio.create_task(enroll(request)) for request in requests]
    await asyncio.wait(enrolling, return_when=asyncio.FIRST_COMPLETED)
    await delete(plane, doomed.organization_id)
    outcomes = await asyncio.gather(*enrolling)
    await heard(plane)
    assert await enroll(requests[0]) == "ORGANIZATION_NOT_FOUND"
    assert set(outcomes) <= {"OK", "ORGANIZATION_NOT_FOUND", "ID_TOKEN_INVALID", "ENROLLMENT_ABORTED"}, outcomes
    await gone(plane, doomed.organization_id)
    # What the services still tell each other about it changes nothing.
    await quiet(plane)
    plane.clock.advance(AGAIN / SECOND)
    await gone(plane, doomed.organization_id)


@pytest.mark.long
async def test_a_death_in_the_middle_of_it_only_delays_it(plane: Plane) -> None:
    """The process that deletes is killed after a step; the next one goes on."""
    for service in ("identity", "registry", "ipam", "session"):
        doomed = World(plane, await plane.create_organization())
        await Seeds(doomed).plant()
        await plane.stop(service)
        process = await plane.spawn(service, GUARDHOUSE_FAILPOINTS="deletion.step=2*kill")
        await delete(plane, doomed.organization_id)
        assert await asyncio.to_thread(process.wait, 20) == -9, f"{service} deleted nothing"
        await plane.start(service)
        plane.clock.advance(LEASE / SECOND)
        await plane.reachable(service)
        await gone(plane, doomed.organization_id)
