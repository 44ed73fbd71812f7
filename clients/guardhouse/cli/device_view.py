"""A device as administrators look at it: on one screen, with its registrations and whose they are."""

from collections.abc import Sequence

from google.protobuf.message import Message

from guardhouse.cli import output
from guardhouse.cli.invocation import Invocation
from guardhouse.errors import GuardhouseError
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as pb

STATES = "holder state registration_id seen_time create_time revoke_time"
CONNECTIONS = "registration_id ipv4 ipv6 tunnel_type public_key"
KEY_LENGTH = 44
"""An X25519 key is as long; of a longer one that is the beginning."""


def show(it: Invocation, device_id: str, limit: int) -> None:
    """The device, then its registrations by when they were heard of last, revoked ones too."""
    read = pb.GetDeviceRequest(organization_id=it.organization_id, device_id=device_id)
    response = it.client.devices.GetDevice(read)
    request = pb.ListRegistrationsRequest(
        organization_id=it.organization_id,
        device_id=device_id,
        state=pb.REGISTRATION_FILTER_ALL,
        order_by="seen_time desc",
    )
    listed = it.listed(it.client.registrations.ListRegistrations, request, limit + 1)
    registrations = output.items(listed)
    shown, holders = registrations[:limit], _holders(it, registrations[:limit])
    if it.as_json:
        parts = {"registrations": shown, "users": _of(holders, identity.User)}
        parts["service_tokens"] = _of(holders, identity.ServiceToken)
        lists = {name: [output.as_dict(each) for each in part] for name, part in parts.items()}
        output.print_json({**output.as_dict(response), **lists})
        return
    output.print_record(response.device, {})
    if shown:
        print()
        states = [_state(registration, holders) for registration in shown]
        output.print_rows([output.heading(name) for name in STATES.split()], states)
        print()
        connections = [_connection(registration) for registration in shown]
        output.print_rows([output.heading(name) for name in CONNECTIONS.split()], connections)
    if len(registrations) > limit:
        output.note(f"There are more: guardhouse registrations list --state all --device {device_id}")


def _holders(it: Invocation, registrations: Sequence[pb.Registration]) -> dict[str, Message]:
    """The users and service tokens by their ids, as far as identity tells this key of them."""
    found: dict[str, Message] = {}
    about = {"organization_id": it.organization_id}
    for registration in registrations:
        kind = registration.WhichOneof("holder") or "user_id"
        holder_id = getattr(registration, kind)
        if holder_id in found:
            continue
        try:
            if kind == "user_id":
                found[holder_id] = it.client.users.GetUser(identity.GetUserRequest(**about, user_id=holder_id)).user
            else:
                read = identity.GetServiceTokenRequest(**about, service_token_id=holder_id)
                found[holder_id] = it.client.service_tokens.GetServiceToken(read).service_token
        except GuardhouseError as error:
            output.note(f"{holder_id}: {error.message}")
            found[holder_id] = identity.User()
    return found


def _of(holders: dict[str, Message], kind: type[Message]) -> list[Message]:
    return [holder for holder in holders.values() if isinstance(holder, kind) and holder.ByteSize()]


def _state(registration: pb.Registration, holders: dict[str, Message]) -> list[str]:
    holder_id = registration.user_id or registration.service_token_id
    holder = holders[holder_id]
    known_by = holder.email if isinstance(holder, identity.User) else output.cell(holder, "display_name")
    return [known_by or holder_id, *(output.cell(registration, name) for name in STATES.split()[1:])]


def _connection(registration: pb.Registration) -> list[str]:
    *cells, key = (output.cell(registration, name) for name in CONNECTIONS.split())
    return [*cells, key if len(key) <= KEY_LENGTH else f"{key[:KEY_LENGTH]}\u2026"]
