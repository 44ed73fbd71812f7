"""Ipam's contract: checks the syntax of requests, calls the use cases, and builds the answers."""

from collections.abc import AsyncIterator
from typing import Any

from guardhouse.clock import Clock
from guardhouse.errors import FieldRequired
from guardhouse.ids import DEVICE, ORGANIZATION, PIN, REGISTRATION, SERVICE_TOKEN, USER, check_id
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.calls import Stream
from guardhouse_services.feed import Feed
from guardhouse_services.ipam.domain.leases import FOREVER, Holding, Place
from guardhouse_services.ipam.messages import to_lease, to_pin, to_reservation
from guardhouse_services.ipam.usecases import Ipam
from guardhouse_services.paging import Page, Pages

DESCRIPTION = 500


class IpamServicer:
    """Every method of guardhouse.ipam.v1."""

    def __init__(self, clock: Clock, ipam: Ipam, pages: Pages, feed: Feed, audit: Audit) -> None:
        self._clock = clock
        self.ipam = ipam
        self._pages = pages
        self._feed = feed
        self._audit = audit

    async def ReserveAddresses(self, request: pb.ReserveAddressesRequest, call: Call) -> pb.ReserveAddressesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.intent_id, REGISTRATION, "intent_id")
        check_id(request.device_id, DEVICE, "device_id")
        holder_id = _holder(request)
        lease = await self.ipam.addresses.reserve_addresses(
            call, request.organization_id, request.intent_id, request.device_id, holder_id
        )
        return to_reservation(lease)

    async def ReleaseAddresses(self, request: pb.ReleaseAddressesRequest, call: Call) -> pb.ReleaseAddressesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.intent_id, REGISTRATION, "intent_id")
        await self.ipam.addresses.release_addresses(call, request.organization_id, request.intent_id)
        return pb.ReleaseAddressesResponse()

    async def LookupAddress(self, request: pb.LookupAddressRequest, _call: Call) -> pb.LookupAddressResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        address = checks.address(request.address, "address")
        at = FOREVER
        if request.HasField("time"):
            at = checks.timestamp(request.time, "time")
        found = await self.ipam.addresses.lookup_address(request.organization_id, address, at)
        return pb.LookupAddressResponse(lease=to_lease(found))

    async def ListAddressHistory(
        self, request: pb.ListAddressHistoryRequest, _call: Call
    ) -> pb.ListAddressHistoryResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        network = checks.network(request.network, "network")
        at = checks.timestamp(request.time, "time") if request.HasField("time") else None
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.ipam.addresses.list_history(
            request.organization_id, network, at, _place(page), page.size + 1
        )
        shown, token = self._pages.cut(request, page, found, _after, now)
        return pb.ListAddressHistoryResponse(leases=map(to_lease, shown), next_page_token=token)

    async def ListAddresses(self, request: pb.ListAddressesRequest, _call: Call) -> pb.ListAddressesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.ipam.addresses.list_addresses(request.organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda each: each.lease_id, now)
        return pb.ListAddressesResponse(leases=map(to_lease, shown), next_page_token=token)

    async def PinAddress(self, request: pb.PinAddressRequest, call: Call) -> pb.PinAddressResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.request_id(request.request_id)
        network = checks.network(request.network, "network")
        description = checks.text(request.description, "description", DESCRIPTION, required=False)
        device_id, holder_id = "", ""
        if request.WhichOneof("holder") is not None:
            device_id, holder_id = check_id(request.device_id, DEVICE, "device_id"), _holder(request)
        elif request.device_id:
            raise FieldRequired(
                "user_id", "a pin for a device is for somebody: user_id or service_token_id is required"
            )
        made = await self.ipam.pins.pin(call, request.organization_id, network, device_id, holder_id, description)
        return pb.PinAddressResponse(pin=to_pin(made))

    async def UnpinAddress(self, request: pb.UnpinAddressRequest, call: Call) -> pb.UnpinAddressResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        checks.request_id(request.request_id)
        check_id(request.pin_id, PIN, "pin_id")
        await self.ipam.pins.unpin(call, request.organization_id, request.pin_id)
        return pb.UnpinAddressResponse()

    async def ListPins(self, request: pb.ListPinsRequest, _call: Call) -> pb.ListPinsResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.ipam.pins.list(request.organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda each: each.pin_id, now)
        return pb.ListPinsResponse(pins=map(to_pin, shown), next_page_token=token)

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, call: Call) -> pb.ListAuditRecordsResponse:
        answer: pb.ListAuditRecordsResponse = await self._audit.list_records(request)
        return answer

    async def GetAuditCheckpoint(
        self, request: pb.GetAuditCheckpointRequest, call: Call
    ) -> pb.GetAuditCheckpointResponse:
        answer: pb.GetAuditCheckpointResponse = await self._audit.get_checkpoint(request)
        return answer

    async def Watch(self, requests: AsyncIterator[Any], stream: Stream) -> None:
        await self._feed.serve(requests, stream)


def _holder(request: pb.ReserveAddressesRequest | pb.PinAddressRequest) -> str:
    match request.WhichOneof("holder"):
        case "user_id":
            return check_id(request.user_id, USER, "user_id")
        case "service_token_id":
            return check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
    raise FieldRequired("user_id", "user_id or service_token_id is required")


def _after(shown: Holding) -> str:
    return f"{shown.ipv4}:{shown.hold_time}:{shown.registration_id}"


def _place(page: Page) -> Place | None:
    """What the page stands behind."""
    if not page.after:
        return None
    ipv4, hold_time, registration_id = page.after.split(":")
    return Place(int(ipv4), int(hold_time), registration_id)
