"""Ipam's contract: checks the syntax of requests, calls the use cases, and builds the answers."""

from collections.abc import AsyncIterator, Collection
from typing import Any

from guardhouse.clock import Clock
from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import (
    DEVICE,
    IP_PROFILE,
    ORGANIZATION,
    PIN,
    REGISTRATION,
    SERVICE_TOKEN,
    SUBNET,
    USER,
    check_id,
)
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.calls import Stream
from guardhouse_services.feed import Feed
from guardhouse_services.ipam import messages
from guardhouse_services.ipam.domain.address_map import DEFAULT, LIMIT
from guardhouse_services.ipam.domain.ip_profiles import MAX_PRECEDENCE, Holder, IpProfile, check_match
from guardhouse_services.ipam.domain.leases import FOREVER, Place
from guardhouse_services.ipam.domain.subnets import check_network
from guardhouse_services.ipam.messages import STATES, to_address, to_lease, to_map, to_pin, to_reservation
from guardhouse_services.ipam.usecases import Ipam
from guardhouse_services.paging import Page, Pages

NAME, DESCRIPTION = 100, 500
MANY, LONG = 1000, 8192
"""How many groups or claims a person has, and how long what is said of one is."""
SUBNET_PATHS = ("display_name", "description", "is_default")
PROFILE_PATHS = ("display_name", "description", "match", "precedence", "subnet_id", "enabled")


class IpamServicer:
    """Every method of guardhouse.ipam.v1."""

    def __init__(self, clock: Clock, ipam: Ipam, pages: Pages, feed: Feed, audit: Audit) -> None:
        self._clock = clock
        self.ipam = ipam
        self._pages = pages
        self._feed = feed
        self._audit = audit

    async def CreateSubnet(self, request: pb.CreateSubnetRequest, call: Call) -> pb.CreateSubnetResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if not request.HasField("subnet"):
            raise FieldRequired("subnet")
        wanted = _subnet_fields(request.subnet, SUBNET_PATHS)
        wanted["ipv4"] = check_network(request.subnet.network, "subnet.network")
        made, used, token = await self.ipam.subnets.create(
            call, request.organization_id, wanted, validate_only=request.validate_only
        )
        return pb.CreateSubnetResponse(subnet=messages.subnet(made, used), revision_token=token)

    async def GetSubnet(self, request: pb.GetSubnetRequest, _call: Call) -> pb.GetSubnetResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.subnet_id, SUBNET, "subnet_id")
        found = await self.ipam.subnets.get(request.organization_id, request.subnet_id)
        return pb.GetSubnetResponse(subnet=messages.subnet(*found))

    async def ListSubnets(self, request: pb.ListSubnetsRequest, _call: Call) -> pb.ListSubnetsResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.ipam.subnets.page(request.organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it[0].subnet_id, now)
        return pb.ListSubnetsResponse(subnets=[messages.subnet(*it) for it in shown], next_page_token=token)

    async def UpdateSubnet(self, request: pb.UpdateSubnetRequest, call: Call) -> pb.UpdateSubnetResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        sent = request.subnet
        check_id(sent.subnet_id, SUBNET, "subnet.subnet_id")
        changes = _subnet_fields(sent, checks.mask(request.update_mask, SUBNET_PATHS))
        network = str(checks.network(sent.network, "subnet.network")) if sent.network else ""
        changed, used, token = await self.ipam.subnets.update(
            call, request.organization_id, sent.subnet_id, changes, sent.etag, network
        )
        return pb.UpdateSubnetResponse(subnet=messages.subnet(changed, used), revision_token=token)

    async def DeleteSubnet(self, request: pb.DeleteSubnetRequest, call: Call) -> pb.DeleteSubnetResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.subnet_id, SUBNET, "subnet_id")
        gone, used, token = await self.ipam.subnets.delete(
            call, request.organization_id, request.subnet_id, request.etag, validate_only=request.validate_only
        )
        return pb.DeleteSubnetResponse(subnet=messages.subnet(gone, used), revision_token=token)

    async def CreateIpProfile(self, request: pb.CreateIpProfileRequest, call: Call) -> pb.CreateIpProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if not request.HasField("ip_profile"):
            raise FieldRequired("ip_profile")
        wanted = _profile_fields(request.ip_profile, PROFILE_PATHS)

        def draft(ip_profile_id: str, now: int) -> IpProfile:
            return IpProfile(ip_profile_id, **wanted, create_time=now, update_time=now)

        made, token = await self.ipam.ip_profiles.create(
            call, request.organization_id, draft, validate_only=request.validate_only
        )
        return pb.CreateIpProfileResponse(ip_profile=messages.ip_profile(made), revision_token=token)

    async def GetIpProfile(self, request: pb.GetIpProfileRequest, _call: Call) -> pb.GetIpProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.ip_profile_id, IP_PROFILE, "ip_profile_id")
        found = await self.ipam.ip_profiles.get(request.organization_id, request.ip_profile_id)
        return pb.GetIpProfileResponse(ip_profile=messages.ip_profile(found))

    async def ListIpProfiles(self, request: pb.ListIpProfilesRequest, _call: Call) -> pb.ListIpProfilesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.ipam.ip_profiles.page(request.organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.ip_profile_id, now)
        return pb.ListIpProfilesResponse(ip_profiles=map(messages.ip_profile, shown), next_page_token=token)

    async def UpdateIpProfile(self, request: pb.UpdateIpProfileRequest, call: Call) -> pb.UpdateIpProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        sent = request.ip_profile
        check_id(sent.ip_profile_id, IP_PROFILE, "ip_profile.ip_profile_id")
        changes = _profile_fields(sent, checks.mask(request.update_mask, PROFILE_PATHS))
        changed, token = await self.ipam.ip_profiles.update(
            call,
            request.organization_id,
            sent.ip_profile_id,
            changes,
            sent.etag,
            validate_only=request.validate_only,
        )
        return pb.UpdateIpProfileResponse(ip_profile=messages.ip_profile(changed), revision_token=token)

    async def DeleteIpProfile(self, request: pb.DeleteIpProfileRequest, call: Call) -> pb.DeleteIpProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.ip_profile_id, IP_PROFILE, "ip_profile_id")
        gone, token = await self.ipam.ip_profiles.delete(
            call, request.organization_id, request.ip_profile_id, request.etag, validate_only=request.validate_only
        )
        return pb.DeleteIpProfileResponse(ip_profile=messages.ip_profile(gone), revision_token=token)

    async def MatchIpProfile(self, request: pb.MatchIpProfileRequest, _call: Call) -> pb.MatchIpProfileResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        match request.WhichOneof("holder"):
            case "identity":
                holder = _person(request.identity)
            case "service_token_id":
                holder = Holder(check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id"))
            case _:
                raise FieldRequired("identity", "identity or service_token_id is required")
        found = await self.ipam.ip_profiles.match(request.organization_id, holder)
        return pb.MatchIpProfileResponse(
            ip_profile_id=found.ip_profile_id,
            subnet_id=found.subnet_id,
            traces=map(messages.ip_profile_trace, found.traces),
        )

    async def ReserveAddresses(self, request: pb.ReserveAddressesRequest, call: Call) -> pb.ReserveAddressesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        check_id(request.intent_id, REGISTRATION, "intent_id")
        check_id(request.device_id, DEVICE, "device_id")
        holder_id = _holder(request)
        holder = _person(request.identity) if request.user_id else Holder(holder_id)
        lease = await self.ipam.addresses.reserve_addresses(
            call, request.organization_id, request.intent_id, request.device_id, holder_id, holder
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
        end = _token(found.end) if found.end else ""
        shown, token = self._pages.cut(request, page, found.holdings, lambda each: _token(each.place), now, end=end)
        return pb.ListAddressHistoryResponse(leases=map(to_lease, shown), next_page_token=token)

    async def ListAddresses(self, request: pb.ListAddressesRequest, _call: Call) -> pb.ListAddressesResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        now = self._clock.now()
        page = self._pages.read(request, now)
        if request.state:
            checks.choice(request.state, list(STATES), "state")
        if request.subnet_id:
            check_id(request.subnet_id, SUBNET, "subnet_id")
        if request.device_id:
            check_id(request.device_id, DEVICE, "device_id")
        found, subnets = await self.ipam.view.list(
            request.organization_id,
            STATES.get(request.state),
            request.subnet_id,
            request.device_id,
            _holder(request) if request.WhichOneof("holder") else "",
            page,
        )
        shown, token = self._pages.cut(request, page, found, lambda each: each.lease_id, now)
        leases = [to_address(each, subnets.get(each.subnet, "")) for each in shown]
        return pb.ListAddressesResponse(leases=leases, next_page_token=token)

    async def GetAddressMap(self, request: pb.GetAddressMapRequest, _call: Call) -> pb.GetAddressMapResponse:
        check_id(request.organization_id, ORGANIZATION, "organization_id")
        if request.subnet_id:
            check_id(request.subnet_id, SUBNET, "subnet_id")
        if not 0 <= request.block_count <= LIMIT:
            raise InvalidField("block_count", f"block_count is from 1 to {LIMIT}; 0 means {DEFAULT}")
        found = await self.ipam.view.map(request.organization_id, request.subnet_id, request.block_count or DEFAULT)
        return to_map(found)

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


def _holder(request: pb.ReserveAddressesRequest | pb.PinAddressRequest | pb.ListAddressesRequest) -> str:
    match request.WhichOneof("holder"):
        case "user_id":
            return check_id(request.user_id, USER, "user_id")
        case "service_token_id":
            return check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
    raise FieldRequired("user_id", "user_id or service_token_id is required")


def _subnet_fields(sent: pb.Subnet, paths: Collection[str]) -> dict[str, Any]:
    """What people say of a subnet, of these fields."""
    fields: dict[str, Any] = {}
    if "display_name" in paths:
        fields["display_name"] = checks.text(sent.display_name, "subnet.display_name", NAME)
    if "description" in paths:
        fields["description"] = checks.text(sent.description, "subnet.description", DESCRIPTION, required=False)
    if "is_default" in paths:
        fields["is_default"] = sent.is_default
    return fields


def _profile_fields(sent: pb.IpProfile, paths: Collection[str]) -> dict[str, Any]:
    """What people say of an IP profile, of these fields."""
    fields: dict[str, Any] = {}
    if "display_name" in paths:
        fields["display_name"] = checks.text(sent.display_name, "ip_profile.display_name", NAME)
    if "description" in paths:
        fields["description"] = checks.text(sent.description, "ip_profile.description", DESCRIPTION, required=False)
    if "match" in paths:
        fields["expression"] = check_match(sent.match, "ip_profile.match")
    if "precedence" in paths:
        fields["precedence"] = _precedence(sent.precedence, "ip_profile.precedence")
    if "subnet_id" in paths:
        fields["subnet_id"] = check_id(sent.subnet_id, SUBNET, "ip_profile.subnet_id")
    if "enabled" in paths:
        fields["enabled"] = sent.enabled
    return fields


def _precedence(value: int, field: str) -> int:
    if value == 0:
        raise FieldRequired(field)
    if not 1 <= value <= MAX_PRECEDENCE:
        raise InvalidField(field, f"{field} is 1 to {MAX_PRECEDENCE}")
    return value


def _person(sent: identity_pb2.HolderIdentity) -> Holder:
    """A person as identity describes them; of one who is not described no profile knows anything."""
    for name in ("email", "display_name"):
        checks.text(getattr(sent, name), f"identity.{name}", LONG, required=False)
    for name in ("groups", "oidc_claims"):
        values = getattr(sent, name)
        checks.count(values, f"identity.{name}", MANY, least=0)
        for place, value in enumerate(values):
            checks.text(value, f"identity.{name}[{place}]", LONG, required=False)
    return Holder("", sent.email, sent.display_name, tuple(sent.groups), tuple(sent.oidc_claims))


def _token(place: Place) -> str:
    return f"{place.ipv4}:{place.hold_time}:{place.registration_id}"


def _place(page: Page) -> Place | None:
    """What the page stands behind."""
    if not page.after:
        return None
    ipv4, hold_time, registration_id = page.after.split(":")
    return Place(int(ipv4), int(hold_time), registration_id)
