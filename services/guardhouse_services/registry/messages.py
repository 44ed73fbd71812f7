"""The registry's values as messages of its contract."""

from guardhouse.common.v1 import feed_pb2
from guardhouse.decisions import Profile
from guardhouse.device_profiles import DeviceProfile, Route, Settings, Step
from guardhouse.durations import format_duration, optional_duration
from guardhouse.errors import GuardhouseError
from guardhouse.identity.v1 import identity_pb2
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import optional_timestamp, to_timestamp
from guardhouse_services import etags
from guardhouse_services.breaker.domain import HeldAction
from guardhouse_services.registry.domain import (
    Claims,
    Device,
    FormerKey,
    Gateway,
    LastSeen,
    Matching,
    OsSession,
    Position,
    Posture,
    PostureChecks,
    Registration,
    State,
)
from guardhouse_services.results import item_error

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


def to_position(value: Position) -> feed_pb2.Position:
    return feed_pb2.Position(epoch=value[0], revision=value[1])


def to_gateway(value: Gateway, head: Position, now: int) -> pb.Gateway:
    return pb.Gateway(
        name=value.name,
        api_key_id=value.api_key_id,
        applied=to_position(value.applied) if value.applied[0] == head[0] else None,
        lag=value.lag(head),
        seen_time=to_timestamp(value.seen_time),
        live=value.is_live(now),
        shared=value.is_shared(now),
    )


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
        device_profile_id=value.device_profile_id,
        device_profile_time=optional_timestamp(value.device_profile_time),
        network=value.network,
        managed=value.managed,
        tunnel_type=_TUNNELS[value.key_type],
        update_time=to_timestamp(value.change_time),
        expire_after=optional_duration(value.expire_after),
        expire_time=optional_timestamp(value.expire_time),
        multi_user=pb.MultiUser(os_user=value.os_user, pre_login=not value.os_user)
        if value.os_user is not None
        else None,
        current=value.is_current,
        user_email=value.user_email,
        user_display_name=value.user_display_name,
        device_display_name=value.device_display_name,
        device_client_version=value.device_client_version,
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
        last_seen_user=_user(last) if last.user_id else None,
        etag=device_etag(value),
    )


def _user(last: LastSeen) -> pb.LastSeenUser:
    return pb.LastSeenUser(user_id=last.user_id, email=last.email, display_name=last.display_name)


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


def from_multi_user(message: pb.MultiUser) -> str:
    """The account; the login screen has none."""
    return "" if message.pre_login else message.os_user


def to_os_session(value: OsSession) -> pb.OsSession:
    message = pb.OsSession(
        device_id=value.device_id,
        os_user=value.desk.os_user,
        at_login_screen=value.desk.at_login_screen,
        registration_id=value.registration_id,
        asks_to_register=value.asks_to_register,
        begin_time=to_timestamp(value.begin_time),
        end_time=optional_timestamp(value.end_time),
    )
    if value.holder.user_id:
        message.user_id = value.holder.user_id
    elif value.holder.service_token_id:
        message.service_token_id = value.holder.service_token_id
    return message


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
    return pb.RegistrationResult(registration_id=registration_id, error=item_error(outcome))


def to_key(value: FormerKey) -> pb.RegistrationKey:
    return pb.RegistrationKey(
        key_type=value.key_type,  # type: ignore[arg-type]  # stored as the enum's number
        public_key=value.public_key,
        begin_time=to_timestamp(value.begin_time),
        end_time=to_timestamp(value.end_time),
    )


def to_present_key(value: Registration, since: int) -> pb.RegistrationKey:
    return pb.RegistrationKey(
        key_type=value.key_type,  # type: ignore[arg-type]  # stored as the enum's number
        public_key=value.public_key,
        begin_time=to_timestamp(since),
    )


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

    It leaves out what no follower acts on, and what people and devices are called. It never says when a device was
    heard of, for nobody is told of a heartbeat that brings no other posture; of one that is as it was, no more than
    once an hour.
    """
    if value.state == State.DELETED:
        return pb.Event(registration_deleted=value.registration_id)
    shown = to_registration(value)
    for name in ("seen_time", "tunnel_type", "update_time", "expire_after", "expire_time"):
        shown.ClearField(name)
    for called in ("user_email", "user_display_name", "device_display_name", "device_client_version"):
        shown.ClearField(called)
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


def from_identity(message: identity_pb2.HolderIdentity | identity_pb2.User) -> Profile:
    return Profile(message.email, message.display_name, tuple(message.groups), tuple(message.oidc_claims))


def to_identity(value: Profile) -> identity_pb2.HolderIdentity:
    return identity_pb2.HolderIdentity(
        email=value.email,
        display_name=value.display_name,
        groups=value.groups,
        oidc_claims=value.claims,
    )


def to_device_profile(value: DeviceProfile) -> pb.DeviceProfile:
    message = pb.DeviceProfile(
        device_profile_id=value.device_profile_id,
        name=value.name,
        description=value.description,
        enabled=value.enabled,
        precedence=value.precedence,
        match=value.match,
        settings=to_settings(value.settings),
        default=value.is_default,
        create_time=optional_timestamp(value.create_time),
        update_time=optional_timestamp(value.update_time),
    )
    etags.tag(message)
    return message


def to_configuration(value: DeviceProfile) -> pb.DeviceConfiguration:
    """What a device is told. The etag is the one that was stored with the settings: another release may make another
    one of the same."""
    message = pb.DeviceConfiguration(device_profile_id=value.device_profile_id, settings=to_settings(value.settings))
    etags.tag(message)
    message.etag = value.settings_etag or message.etag
    return message


def to_settings(value: Settings) -> pb.DeviceProfileSettings:
    """All of them; those that are absent are not set."""
    split, networks = value.split_tunnel, value.virtual_networks
    routes = pb.Routes(routes=map(_route, split.routes))
    return pb.DeviceProfileSettings(
        allow_mode_switch=value.allow_mode_switch,
        allow_updates=value.allow_updates,
        allowed_to_leave=value.allowed_to_leave,
        auto_connect=format_duration(value.auto_connect),
        captive_portal=format_duration(value.captive_portal),
        disable_auto_fallback=value.disable_auto_fallback,
        exclude_office_ips=value.exclude_office_ips,
        register_interface_ip_with_dns=value.register_interface_ip_with_dns,
        sccm_vpn_boundary_support=value.sccm_vpn_boundary_support,
        support_url=value.support_url,
        switch_locked=value.switch_locked,
        uninstall_protection=value.uninstall_protection,
        tunnel_protocol=pb.TunnelType.ValueType(value.tunnel_protocol),
        service_mode=pb.ServiceMode(
            mode=pb.ServiceMode.Mode.ValueType(value.service_mode.mode), port=value.service_mode.port
        ),
        lan_allow=format_duration(value.lan_allow) if value.lan_allow is not None else None,
        lan_allow_subnet_size=value.lan_allow_subnet_size,
        dns_search_suffixes=pb.SearchSuffixes(suffixes=value.dns_search_suffixes),
        virtual_networks=(
            pb.VirtualNetworks(allowed=networks.allowed, default=networks.default) if networks is not None else None
        ),
        fallback_domains=pb.FallbackDomains(
            domains=(
                pb.FallbackDomain(suffix=it.suffix, description=it.description, dns_servers=it.dns_servers)
                for it in value.fallback_domains
            )
        ),
        exclude=None if split.includes else routes,
        include=routes if split.includes else None,
    )


def _route(value: Route) -> pb.Route:
    if value.host:
        return pb.Route(host=value.host, description=value.description)
    return pb.Route(address=value.address, description=value.description)


def to_profile_event(value: DeviceProfile) -> pb.Event:
    return pb.Event(device_profile=to_device_profile(value))


def to_profile_deleted_event(device_profile_id: str) -> pb.Event:
    return pb.Event(device_profile_deleted=device_profile_id)


def to_step(value: Step, name: str) -> pb.ProfileStep:
    rule = value.rule
    return pb.ProfileStep(
        device_profile_id=rule.device_profile_id,
        name=name,
        precedence=rule.precedence,
        enabled=rule.enabled,
        matched=value.matched,
        decides=value.decides,
        missing=value.missing,
    )


def to_matching(value: Matching | None) -> pb.ProfileMatching | None:
    if value is None:
        return None
    return pb.ProfileMatching(
        request_time=to_timestamp(value.request_time),
        end_time=optional_timestamp(value.end_time),
        registrations_checked=value.checked,
        registrations_moved=value.moved,
    )
