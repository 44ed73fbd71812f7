"""Ipam over its two listeners, beside the other three services."""

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.common.v1 import access_pb2
from guardhouse.errors import (
    AccessDenied,
    AddressNotFound,
    EnrollmentAborted,
    FieldRequired,
    GuardhouseError,
    InvalidField,
    OrganizationNotFound,
    PageTokenInvalid,
)
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.ids import DEVICE, ORGANIZATION, REGISTRATION, SERVICE_TOKEN, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.ipam.v1 import ipam_pb2_grpc as rpc
from guardhouse_services.config import Settings
from guardhouse_services.failpoint import arm
from guardhouse_services.ipam.__main__ import build
from tests.clock import FakeClock
from tests.guardhouse_services.ipam.world import new
from tests.plane import Plane
from tests.system.people import World


async def fails(kind: type[GuardhouseError], call: Awaitable[Any], field: str = "") -> None:
    with pytest.raises(kind) as error:
        await call
    assert error.value.field == field


def reservation(plane: Plane, **fields: Any) -> pb.ReserveAddressesRequest:
    given: dict[str, Any] = {"intent_id": new(REGISTRATION), "device_id": new(DEVICE), "user_id": new(USER)}
    return pb.ReserveAddressesRequest(**{"organization_id": plane.organization, **given, **fields})


async def test_the_registry_reserves_and_releases(plane: Plane) -> None:
    registry = plane.service_stub(rpc.AddressServiceStub, "registry")
    request = reservation(plane)
    made = await registry.ReserveAddresses(request)
    assert await registry.ReserveAddresses(request) == made
    assert made.lease_id.startswith("lse_")
    release = pb.ReleaseAddressesRequest(organization_id=plane.organization, intent_id=request.intent_id)
    for _ in range(2):
        assert await registry.ReleaseAddresses(release) == pb.ReleaseAddressesResponse()
    await fails(EnrollmentAborted, registry.ReserveAddresses(request))
    machine = await registry.ReserveAddresses(reservation(plane, service_token_id=new(SERVICE_TOKEN)))
    assert machine.lease_id != made.lease_id


async def test_a_malformed_reservation_is_refused(plane: Plane) -> None:
    registry = plane.service_stub(rpc.AddressServiceStub, "registry")
    for field in ("organization_id", "intent_id", "device_id", "user_id"):
        await fails(FieldRequired, registry.ReserveAddresses(reservation(plane, **{field: ""})), field)
        await fails(InvalidField, registry.ReserveAddresses(reservation(plane, **{field: "x"})), field)
    request = reservation(plane)
    request.ClearField("user_id")
    await fails(FieldRequired, registry.ReserveAddresses(request), "user_id")
    await fails(OrganizationNotFound, registry.ReserveAddresses(reservation(plane, organization_id=new(ORGANIZATION))))
    for field in ("organization_id", "intent_id"):
        release = {"organization_id": plane.organization, "intent_id": new(REGISTRATION), field: ""}
        await fails(FieldRequired, registry.ReleaseAddresses(pb.ReleaseAddressesRequest(**release)), field)


async def test_only_the_registry_reserves(plane: Plane) -> None:
    for stub in (plane.service_stub(rpc.AddressServiceStub, "session"), plane.stub(rpc.AddressServiceStub)):
        await fails(AccessDenied, stub.ReserveAddresses(reservation(plane)))


async def test_a_gateway_looks_an_address_up_and_lists_none(plane: Plane) -> None:
    made = (await World(plane, plane.organization).enroll("alice")).registration
    keys = plane.stub(identity_pb2_grpc.ApiKeyServiceStub)
    key = identity_pb2.ApiKey(organization_id=plane.organization, display_name="gateway", role=access_pb2.ROLE_GATEWAY)
    secret = (
        await keys.CreateApiKey(identity_pb2.CreateApiKeyRequest(organization_id=plane.organization, api_key=key))
    ).secret
    gateway = plane.stub(rpc.AddressServiceStub, secret)
    await listed(plane, 1)
    for address in (made.ipv4, made.ipv6, made.ipv6.upper()):
        request = pb.LookupAddressRequest(organization_id=plane.organization, address=address)
        lease = (await gateway.LookupAddress(request)).lease
        assert (lease.registration_id, lease.user_id) == (made.registration_id, made.user_id)
        assert (lease.ipv4, lease.ipv6) == (made.ipv4, made.ipv6)
        assert not lease.HasField("release_time")
    await fails(AccessDenied, gateway.ListAddresses(pb.ListAddressesRequest(organization_id=plane.organization)))


async def listed(plane: Plane, count: int) -> list[pb.Lease]:
    """The leases, when ipam has seen so many."""
    database = plane.nodes["registry"].database
    token = await database.read(lambda tx: tx.token(plane.organization, tx.revision(plane.organization)))
    request = pb.ListAddressesRequest(organization_id=plane.organization, at_least=[token], page_size=2)
    addresses = plane.stub(rpc.AddressServiceStub)
    leases: list[pb.Lease] = []
    while True:
        page = await addresses.ListAddresses(request)
        assert len(page.leases) <= 2
        leases += page.leases
        assert len(leases) <= count
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert [lease.lease_id for lease in leases] == sorted(lease.lease_id for lease in leases)
    assert len(leases) == count
    return leases


async def test_leases_are_listed_by_page_as_soon_as_they_are_held(plane: Plane) -> None:
    world = World(plane, plane.organization)
    made = [(await world.enroll(name)).registration for name in ("alice", "bob", "carol", "dave", "erin")]
    leases = await listed(plane, 5)
    assert {lease.registration_id for lease in leases} == {each.registration_id for each in made}
    spoiled = pb.ListAddressesRequest(organization_id=plane.organization, page_token="x")
    await fails(PageTokenInvalid, plane.stub(rpc.AddressServiceStub).ListAddresses(spoiled), "page_token")


async def test_a_list_waits_for_what_the_registry_said_before(plane: Plane) -> None:
    arm("ipam.follow=delay:0.5")
    try:
        await World(plane, plane.organization).enroll("alice")
        await listed(plane, 1)
    finally:
        arm("")


async def test_a_lookup_names_what_is_wrong_with_it(plane: Plane) -> None:
    addresses = plane.stub(rpc.AddressServiceStub)

    def lookup(address: str, **fields: Any) -> Any:
        request = pb.LookupAddressRequest(organization_id=plane.organization, address=address, **fields)
        return addresses.LookupAddress(request)

    await fails(FieldRequired, lookup(""), "address")
    await fails(InvalidField, lookup("100.96.0.0/12"), "address")
    await fails(InvalidField, lookup("100.96.0.1", time=Timestamp(seconds=2**62)), "time")
    await fails(InvalidField, lookup("100.96.0.1", time=Timestamp(seconds=-1)), "time")
    await fails(AddressNotFound, lookup("100.96.0.1"))
    await fails(AddressNotFound, lookup("fd00::1", time=Timestamp(seconds=1)))
    await fails(FieldRequired, addresses.LookupAddress(pb.LookupAddressRequest(address="10.0.0.1")), "organization_id")


async def test_the_history_of_a_network_is_listed_by_page(plane: Plane) -> None:
    """Decision 26."""
    world = World(plane, plane.organization)
    made = [(await world.enroll(name)).registration for name in ("alice", "bob", "carol")]
    await listed(plane, 3)
    addresses = plane.stub(rpc.AddressServiceStub)
    request = pb.ListAddressHistoryRequest(organization_id=plane.organization, network="100.96.0.0/12", page_size=2)
    first = await addresses.ListAddressHistory(request)
    assert len(first.leases) == 2
    request.page_token = first.next_page_token
    second = await addresses.ListAddressHistory(request)
    assert [it.registration_id for it in (*first.leases, *second.leases)] == [it.registration_id for it in made]
    assert not second.next_page_token
    one = pb.ListAddressHistoryRequest(organization_id=plane.organization, network=made[1].ipv6)
    (lease,) = (await addresses.ListAddressHistory(one)).leases
    assert (lease.user_id, lease.ipv4) == (made[1].user_id, made[1].ipv4)
    one.network = "100.96.0.1/12"
    await fails(InvalidField, addresses.ListAddressHistory(one), "network")


@pytest.mark.parametrize(
    ("setting", "value"), [("quarantine", "9m"), ("ipv4_subnet", "8.8.8.0/24"), ("address_history", "1h")]
)
def test_a_setting_that_nobody_should_run_with_stops_the_start(
    tmp_path: Path, clock: FakeClock, setting: str, value: str
) -> None:
    """Decisions 24 and 25."""
    with pytest.raises(InvalidField) as error:
        build(Settings(var=tmp_path).model_copy(update={setting: value}), clock)
    assert error.value.field == setting
