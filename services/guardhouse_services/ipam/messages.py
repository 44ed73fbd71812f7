"""Ipam's values as messages of its contract."""

import ipaddress

from guardhouse.ids import USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.times import from_timestamp, optional_timestamp, to_timestamp
from guardhouse_services import etags
from guardhouse_services.ipam.domain.address_map import AddressMap
from guardhouse_services.ipam.domain.addresses import AddressState
from guardhouse_services.ipam.domain.ip_profiles import IpProfile, Trace
from guardhouse_services.ipam.domain.leases import Exists, Gone, Holding, Lease, State
from guardhouse_services.ipam.domain.pins import Pin
from guardhouse_services.ipam.domain.subnets import Capacity, Subnet


def subnet(of: Subnet, used: Capacity | None = None) -> pb.Subnet:
    made = pb.Subnet(
        subnet_id=of.subnet_id,
        display_name=of.display_name,
        description=of.description,
        network=of.ipv4,
        is_default=of.is_default,
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )
    etags.tag(made)
    # Its use changes nothing that somebody would decide anew for.
    if used is not None:
        made.capacity.CopyFrom(_capacity(used))
    return made


def _capacity(of: Capacity) -> pb.SubnetCapacity:
    return pb.SubnetCapacity(
        total=of.total,
        active=of.active,
        revoked=of.revoked,
        reserved=of.reserved,
        quarantined=of.quarantined,
        pinned=of.pinned,
        free=of.free,
        growth_per_day=of.growth_per_day,
        exhaust_time=optional_timestamp(of.exhaust_time),
    )


def ip_profile(of: IpProfile) -> pb.IpProfile:
    made = pb.IpProfile(
        ip_profile_id=of.ip_profile_id,
        display_name=of.display_name,
        description=of.description,
        match=of.expression,
        precedence=of.precedence,
        subnet_id=of.subnet_id,
        enabled=of.enabled,
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )
    etags.tag(made)
    return made


def ip_profile_trace(of: Trace) -> pb.IpProfileTrace:
    return pb.IpProfileTrace(
        ip_profile_id=of.profile.ip_profile_id,
        display_name=of.profile.display_name,
        precedence=of.profile.precedence,
        enabled=of.profile.enabled,
        matched=of.matched,
        decides=of.decides,
    )


def to_lease(value: Holding) -> pb.Lease:
    message = pb.Lease(
        lease_id=value.lease_id,
        registration_id=value.registration_id,
        device_id=value.device_id,
        ipv4=str(ipaddress.IPv4Address(value.ipv4)),
        ipv6=value.ipv6,
        hold_time=optional_timestamp(value.hold_time),
        release_time=optional_timestamp(value.release_time),
    )
    _set_holder(message, value.holder_id)
    return message


def _set_holder(message: pb.Lease | pb.Pin, holder_id: str) -> None:
    if holder_id.startswith(f"{USER}_"):
        message.user_id = holder_id
    else:
        message.service_token_id = holder_id


STATES = {
    pb.ADDRESS_STATE_ACTIVE: AddressState.ACTIVE,
    pb.ADDRESS_STATE_REVOKED: AddressState.REVOKED,
    pb.ADDRESS_STATE_RESERVED: AddressState.RESERVED,
    pb.ADDRESS_STATE_QUARANTINED: AddressState.QUARANTINED,
}


def to_address(value: Lease, subnet_id: str) -> pb.Lease:
    """A lease as a list shows it."""
    message = pb.Lease(
        lease_id=value.lease_id,
        registration_id=value.registration_id or "",
        device_id=value.device_id,
        ipv4=str(ipaddress.IPv4Address(value.ipv4)),
        ipv6=value.ipv6,
        hold_time=optional_timestamp(value.hold_time),
        release_time=optional_timestamp(value.release_time if value.state is State.RESTING else None),
        state=_state(value),
        subnet_id=subnet_id,
    )
    _set_holder(message, value.holder_id)
    return message


def _state(value: Lease) -> pb.AddressState.ValueType:
    match value.state:
        case State.RESERVED:
            return pb.ADDRESS_STATE_RESERVED
        case State.RESTING:
            return pb.ADDRESS_STATE_QUARANTINED
    return pb.ADDRESS_STATE_ACTIVE if value.revoke_time is None else pb.ADDRESS_STATE_REVOKED


def to_map(value: AddressMap) -> pb.GetAddressMapResponse:
    return pb.GetAddressMapResponse(
        subnet_id=value.subnet.subnet_id,
        network=value.subnet.ipv4,
        block_size=value.size,
        blocks=[
            pb.AddressBlock(
                active=each.counts.active,
                revoked=each.counts.revoked,
                reserved=each.counts.reserved,
                quarantined=each.counts.quarantined,
                pinned=each.counts.pinned,
                free=each.free,
            )
            for each in value.blocks
        ],
    )


def to_pin(value: Pin) -> pb.Pin:
    first, last = (ipaddress.IPv4Address(each) for each in (value.first_ipv4, value.last_ipv4))
    (network,) = ipaddress.summarize_address_range(first, last)
    message = pb.Pin(
        pin_id=value.pin_id,
        network=str(first) if first == last else str(network),
        device_id=value.device_id or "",
        description=value.description,
        create_time=optional_timestamp(value.create_time),
    )
    if value.holder_id is not None:
        _set_holder(message, value.holder_id)
    return message


def to_event(value: Holding) -> pb.Event:
    if value.release_time is None:
        return pb.Event(lease=to_lease(value))
    return pb.Event(lease_released=to_lease(value))


def to_reservation(value: Lease) -> pb.ReserveAddressesResponse:
    ipv4 = str(ipaddress.IPv4Address(value.ipv4))
    return pb.ReserveAddressesResponse(lease_id=value.lease_id, ipv4=ipv4, ipv6=value.ipv6)


def from_event(event: registry.Event) -> Exists | Gone | None:
    """What matters here of an event of the registry. A revoked registration keeps its lease (decision 16)."""
    match event.WhichOneof("kind"):
        case "registration":
            made = event.registration.registration
            return Exists(
                made.registration_id,
                event.registration.lease_id,
                from_timestamp(made.create_time),
                from_timestamp(made.revoke_time) if made.state == registry.REGISTRATION_STATE_REVOKED else None,
            )
        case "registration_deleted":
            return Gone(event.registration_deleted)
    return None
