"""The registry's values as messages of its contract."""

from guardhouse.common.v1 import errors_pb2, results_pb2
from guardhouse.durations import optional_duration
from guardhouse.errors import GuardhouseError
from guardhouse.identity.v1 import identity_pb2
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import optional_timestamp, to_timestamp
from guardhouse_services import etags
from guardhouse_services.breaker.domain import HeldAction
from guardhouse_services.registry.domain import Claims, Device, Person, Posture, PostureChecks, Registration, State

_STATES = {
    State.ACTIVE: pb.REGISTRATION_STATE_ACTIVE,
    State.REVOKED: pb.REGISTRATION_STATE_REVOKED,
    # Shown in the answer to a deletion only: as it was.
    State.DELETED: pb.REGISTRATION_STATE_UNSPECIFIED,
}

_TUNNELS: "dict[int, pb.TunnelType.ValueType]" = {
    pb.KEY_TYPE_CURVE25519: pb.TUNNEL_TYPE_WIREGUARD,
    pb.KEY_TYPE_SECP256R1: pb.TUNNEL_TYPE_MASQUE,
}


def to_registration(value: Registration) -> pb.Registration:
    message = pb.Registration(
        registration_id=value.registration_id,
        device_id=value.device_id,
        state=_STATES[value.state],
        key_type=value.key_type,  # type: ignore[arg-type]  # stored as the enum's number
        public_key=value.public_key,
        ipv4=value.lease.ipv4,
        ipv6=value.lease.ipv6,
        create_time=optional_timestamp(value.create_time),
        revoke_time=optional_timestamp(value.revoke_time),
        seen_time=optional_timestamp(value.seen_time),
        tunnel_type=_TUNNELS[value.key_type],
        update_time=to_timestamp(value.change_time),
        expire_after=optional_duration(value.expire_after),
        expire_time=optional_timestamp(value.expire_time),
    )
    if value.holder.user_id:
        message.user_id = value.holder.user_id
    else:
        message.service_token_id = value.holder.service_token_id
    return message


def to_device(value: Device) -> pb.Device:
    claims, last = value.claims, value.last_seen
    return pb.Device(
        device_id=value.device_id,
        claims=pb.DeviceClaims(
            hardware_id=claims.hardware_id,
            display_name=claims.display_name,
            platform=claims.platform,  # type: ignore[arg-type]  # stored as the enum's number
            os_version=claims.os_version,
            client_version=claims.client_version,
            serial_number=claims.serial_number,
            model=claims.model,
            manufacturer=claims.manufacturer,
            mac_address=claims.mac_address,
            os_version_extra=claims.os_version_extra,
        ),
        create_time=optional_timestamp(value.create_time),
        active_registrations=value.active_registrations,
        seen_time=optional_timestamp(value.seen_time),
        tags=value.tags,
        update_time=to_timestamp(value.change_time),
        last_seen_registration_id=last.registration_id,
        last_seen_user=pb.LastSeenUser(user_id=last.user_id) if last.user_id else None,
        etag=device_etag(value),
    )


def device_etag(value: Device) -> str:
    """Of what admins change: a device is heard of every minute."""
    tagged = pb.Device(device_id=value.device_id, tags=value.tags)
    etags.tag(tagged)
    return tagged.etag


def from_claims(message: pb.DeviceClaims) -> Claims:
    return Claims(
        hardware_id=message.hardware_id,
        display_name=message.display_name or message.hardware_id,
        platform=message.platform,
        os_version=message.os_version,
        client_version=message.client_version,
        serial_number=message.serial_number,
        model=message.model,
        manufacturer=message.manufacturer,
        mac_address=message.mac_address,
        os_version_extra=message.os_version_extra,
    )


def to_posture(value: Posture) -> pb.DevicePosture:
    return pb.DevicePosture(
        passed=value.checks.passed,
        failed=value.checks.failed,
        change_time=to_timestamp(value.change_time),
        report_time=to_timestamp(value.report_time),
    )


def from_posture(message: pb.DevicePosture) -> PostureChecks:
    """In order, and each once."""
    return PostureChecks(tuple(sorted(set(message.passed))), tuple(sorted(set(message.failed))))


def to_result(registration_id: str, outcome: Registration | GuardhouseError) -> pb.RegistrationResult:
    if isinstance(outcome, Registration):
        return pb.RegistrationResult(registration_id=registration_id, registration=to_registration(outcome))
    reason = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{outcome.reason}")
    error = results_pb2.ItemError(reason=reason, message=outcome.message)
    return pb.RegistrationResult(registration_id=registration_id, error=error)


def to_held_action(value: HeldAction) -> pb.HeldAction:
    return pb.HeldAction(
        held_action_id=value.held_action_id,
        source=value.source,
        state=value.state.value,  # type: ignore[arg-type]  # numbered alike
        create_time=to_timestamp(value.create_time),
        decide_time=optional_timestamp(value.decide_time),
        registrations=value.subjects,
        registrations_done=value.subjects_done,
        registration_ids=value.subject_ids,
    )


def to_event(value: Registration) -> pb.Event:
    """What the feed says of a registration that is active or revoked, or is deleted.

    It leaves out what no follower acts on. It never says when a device was heard of, for nobody is told of a heartbeat
    that brings no other posture; of one that is as it was, no more than once an hour.
    """
    if value.state == State.DELETED:
        return pb.Event(registration_deleted=value.registration_id)
    shown = to_registration(value)
    for name in ("seen_time", "tunnel_type", "update_time", "expire_after", "expire_time"):
        shown.ClearField(name)
    return pb.Event(
        registration=pb.RegistrationRecord(
            registration=shown,
            lease_id=value.lease.lease_id,
            authenticate_time=to_timestamp(value.authenticate_time),
            authorize_revision=value.authorize_revision,
            token_hash=value.token_hash,
            posture=to_posture(value.posture) if value.posture is not None else None,
        )
    )


def from_identity(message: identity_pb2.HolderIdentity) -> Person:
    return Person(message.email, message.display_name, tuple(message.groups), tuple(message.oidc_claims))


def to_identity(value: Person) -> identity_pb2.HolderIdentity:
    return identity_pb2.HolderIdentity(
        email=value.email,
        display_name=value.display_name,
        groups=value.groups,
        oidc_claims=value.oidc_claims,
    )
