"""Devices and registrations."""

from typing import Annotated, Literal

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli import device_view, output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, batches, joined
from guardhouse.cli.options import (
    Descending,
    DeviceId,
    DryRun,
    Etag,
    Limit,
    RegistrationId,
    RegistrationIds,
    SeenAfter,
    SeenBefore,
    Wait,
    Yes,
    listed,
    moment,
    order,
)
from guardhouse.cli.output import count
from guardhouse.cli.waiting import everywhere
from guardhouse.registry.v1 import registry_pb2 as pb

app = typer.Typer(no_args_is_help=True)
registrations = typer.Typer(no_args_is_help=True)

_REGISTRATION_ORDERS = {"id": "registration_id", "user_name": "user_display_name"}
_ORDERS = {
    "id": "device_id",
    "name": "claims.display_name",
    "client_version": "claims.client_version",
    "last_seen_user": "last_seen_user.email",
}


@app.command("list")
def list_devices(
    ctx: Context,
    active_registrations: Annotated[
        Literal["only", "include", "exclude"],
        typer.Option(help="Devices with an active registration, all devices, or those without one."),
    ] = "only",
    platform: Annotated[
        Literal["windows", "mac", "linux", "ios", "android", "chromeos"] | None,
        typer.Option(help="Only those that run this."),
    ] = None,
    search: Annotated[
        str, typer.Option(help="Only those with this in their name, hardware id, serial number or MAC address.")
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY:VALUE", help="Only those with this tag; of several, with all.")
    ] = None,
    last_seen_user: Annotated[
        str,
        typer.Option(
            metavar="USER",
            help="Only those that this user, or an address, was last seen on.",
            autocompletion=ids("users", "email"),
        ),
    ] = "",
    device_profile: Annotated[
        str,
        typer.Option(
            help="Only those that were last seen with this device profile.",
            autocompletion=ids("device_profiles", "name"),
        ),
    ] = "",
    named: Annotated[list[str] | None, typer.Option("--id", metavar="DEVICE", help="Only these.")] = None,
    seen_after: SeenAfter = None,
    seen_before: SeenBefore = None,
    order_by: Annotated[
        Literal["create_time", "seen_time", "id", "name", "client_version", "active_registrations", "last_seen_user"],
        typer.Option(help="What the list is sorted by."),
    ] = "create_time",
    descending: Descending = False,
    limit: Limit = None,
) -> None:
    """List the devices; those with an active registration unless asked otherwise."""
    it = ctx.obj
    request = pb.ListDevicesRequest(
        organization_id=it.organization_id,
        active_registrations=output.value(pb.ActiveRegistrations, active_registrations),
        platform=output.value(pb.Platform, platform or "unspecified"),
        search=search,
        tags=tag,
        last_seen_user_id="" if "@" in last_seen_user else last_seen_user,
        last_seen_user_email=last_seen_user if "@" in last_seen_user else "",
        device_profile_id=device_profile,
        device_ids=named,
        seen_after=seen_after,
        seen_before=seen_before,
        order_by=order(_ORDERS.get(order_by, order_by), descending),
    )
    columns = "device_id claims.display_name claims.platform active_registrations create_time seen_time"
    it.show_all(it.client.devices.ListDevices, request, limit, f"{columns} claims.hardware_id")


@app.command("show")
def show_device(
    ctx: Context,
    device_id: DeviceId,
    limit: Annotated[int, typer.Option(min=1, help="Show at most as many registrations.")] = 50,
) -> None:
    """Show a device with its registrations: whose they are, their states, addresses and keys."""
    device_view.show(ctx.obj, device_id, limit)


@app.command("tag")
def tag_device(
    ctx: Context,
    device_id: DeviceId,
    tags: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="KEY", help="A tag that goes.")] = None,
    etag: Etag = "",
    dry_run: DryRun = False,
) -> None:
    """Give a device tags, at most 10; the others stay."""
    it = ctx.obj
    if not tags and not remove:
        raise typer.BadParameter("name tags to give or to --remove", param_hint="KEY=VALUE")
    given = dict(_pair(tag) for tag in tags or ())
    read = pb.GetDeviceRequest(organization_id=it.organization_id, device_id=device_id)
    found = it.client.devices.GetDevice(read).device
    kept = {key: value for key, value in found.tags.items() if key not in (remove or ())}
    request = pb.UpdateDeviceRequest(
        organization_id=it.organization_id,
        device=pb.Device(device_id=device_id, tags=kept | given, etag=etag or found.etag),
        update_mask=FieldMask(paths=["tags"]),
        validate_only=dry_run,
    )
    it.show(it.client.devices.UpdateDevice(request))


def _pair(tag: str) -> tuple[str, str]:
    key, equals, value = tag.partition("=")
    if not equals:
        raise typer.BadParameter(f"{tag!r} is no KEY=VALUE", param_hint="KEY=VALUE")
    return key, value


@app.command("revoke")
def revoke_device(ctx: Context, device_id: DeviceId, wait: Wait = False, dry_run: DryRun = False) -> None:
    """Revoke all of a device's active registrations. They keep their addresses, and it can be undone."""
    it = ctx.obj
    request = pb.RevokeDeviceRequest(organization_id=it.organization_id, device_id=device_id)

    def would(response: pb.RevokeDeviceResponse) -> str:
        revoked = count(response.registrations_revoked, "registration")
        return f"This revokes {revoked}. {_held(response.addresses_held)}"

    if dry_run:
        it.rehearse(it.client.devices.RevokeDevice, request, would)
    response = it.client.devices.RevokeDevice(request)
    output.note(_held(response.addresses_held))
    with everywhere(it, wait):
        it.done(response, f"{device_id}: {count(response.registrations_revoked, 'registration')} revoked")


@app.command("sessions")
def list_sessions(
    ctx: Context,
    device_id: DeviceId,
    at: Annotated[
        Timestamp | None,
        typer.Option(
            parser=moment, metavar="TIME", help="Who had it then: a time, or 24h for a day ago. Default: ever."
        ),
    ] = None,
    limit: Limit = None,
) -> None:
    """List who had a shared device, and which registration was current, the newest first."""
    it = ctx.obj
    request = pb.ListOsSessionsRequest(organization_id=it.organization_id, device_id=device_id, time=at)
    columns = "begin_time end_time os_user at_login_screen asks_to_register registration_id holder"
    it.show_all(it.client.devices.ListOsSessions, request, limit, columns)


@app.command("delete")
def delete_device(
    ctx: Context, device_id: DeviceId, wait: Wait = False, yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete a device with all its registrations."""
    it = ctx.obj
    request = pb.DeleteDeviceRequest(organization_id=it.organization_id, device_id=device_id)

    def would(response: pb.DeleteDeviceResponse) -> str:
        return f"This deletes the device with {_gone(response.registrations_deleted, response)}"

    response = it.destroy(it.client.devices.DeleteDevice, request, would, yes, dry_run)
    with everywhere(it, wait):
        it.done(response, f"{device_id} deleted; registrations that went with it: {response.registrations_deleted}")


@registrations.command("list")
def list_registrations(
    ctx: Context,
    state: Annotated[Literal["active", "revoked", "all"], typer.Option(help="The states to show.")] = "active",
    user: Annotated[
        list[str] | None,
        typer.Option(help="Only this user's; of several, theirs.", autocompletion=ids("users", "email")),
    ] = None,
    service_token: Annotated[
        str, typer.Option(help="Only this service token's.", autocompletion=ids("service_tokens"))
    ] = "",
    device: Annotated[
        str, typer.Option(help="Only this device's.", autocompletion=ids("devices", "claims.display_name"))
    ] = "",
    device_profile: Annotated[
        str, typer.Option(help="Only those with this device profile.", autocompletion=ids("device_profiles", "name"))
    ] = "",
    search: Annotated[
        str, typer.Option(help="Only those with this in an address, or in what their device is called.")
    ] = "",
    named: Annotated[list[str] | None, typer.Option("--id", metavar="REGISTRATION", help="Only these.")] = None,
    seen_after: SeenAfter = None,
    seen_before: SeenBefore = None,
    order_by: Annotated[
        Literal["create_time", "seen_time", "id", "user_email", "user_name"],
        typer.Option(help="What the list is sorted by."),
    ] = "create_time",
    descending: Descending = False,
    limit: Limit = None,
) -> None:
    """List the registrations; the active ones unless asked otherwise."""
    it = ctx.obj
    request = pb.ListRegistrationsRequest(
        organization_id=it.organization_id,
        state=output.value(pb.RegistrationFilter, state),
        user_ids=user,
        service_token_id=service_token,
        device_id=device,
        device_profile_id=device_profile,
        search=search,
        registration_ids=named,
        seen_after=seen_after,
        seen_before=seen_before,
        order_by=order(_REGISTRATION_ORDERS.get(order_by, order_by), descending),
    )
    columns = "registration_id state ipv4 ipv6 create_time seen_time holder device_id user_email device_display_name"
    it.show_all(it.client.registrations.ListRegistrations, request, limit, columns)


@registrations.command("show")
def show_registration(ctx: Context, registration_id: RegistrationId) -> None:
    """Show a registration."""
    it = ctx.obj
    request = pb.GetRegistrationRequest(organization_id=it.organization_id, registration_id=registration_id)
    it.show(it.client.registrations.GetRegistration(request))


@registrations.command("keys")
def list_registration_keys(ctx: Context, registration_id: RegistrationId, limit: Limit = None) -> None:
    """List the keys that a registration has had; the last one is the present one."""
    it = ctx.obj
    request = pb.ListRegistrationKeysRequest(organization_id=it.organization_id, registration_id=registration_id)
    it.show_all(it.client.registrations.ListRegistrationKeys, request, limit, "key_type public_key begin_time end_time")


@registrations.command("override-codes")
def show_override_codes(ctx: Context, registration_id: RegistrationId) -> None:
    """Show the codes that switch a device's client off for a while, for whoever sits at it. It is on record."""
    it = ctx.obj
    request = pb.GetOverrideCodesRequest(organization_id=it.organization_id, registration_id=registration_id)
    response = it.client.registrations.GetOverrideCodes(request)
    if it.as_json:
        output.print_json(response)
    else:
        output.print_table(response.override_codes, "hours code expire_time")


@registrations.command("usage")
def show_registration_usage(ctx: Context) -> None:
    """Count the registrations, and the addresses that active and revoked ones hold."""
    it = ctx.obj
    it.show(
        it.client.registrations.GetRegistrationUsage(pb.GetRegistrationUsageRequest(organization_id=it.organization_id))
    )


@registrations.command("expiring")
def list_expiring_registrations(
    ctx: Context,
    delete_revoked_after: Annotated[
        str, typer.Option(metavar="DURATION", help="Try another one than the organization's, such as 720h.")
    ] = "",
    limit: Limit = None,
) -> None:
    """List the registrations that would be deleted now, because they were revoked or silent for too long."""
    it = ctx.obj
    request = pb.PreviewRegistrationExpirationRequest(
        organization_id=it.organization_id, delete_revoked_after=delete_revoked_after
    )
    columns = "end registration.registration_id registration.state registration.revoke_time registration.seen_time"
    it.show_all(
        it.client.registrations.PreviewRegistrationExpiration,
        request,
        limit,
        f"{columns} registration.expire_time registration.holder",
    )


@registrations.command("revoke")
def revoke_registrations(
    ctx: Context, registration_ids: RegistrationIds, wait: Wait = False, dry_run: DryRun = False
) -> None:
    """Make registrations' keys invalid at once. They keep their addresses, and it can be undone."""
    it = ctx.obj
    request = pb.RevokeRegistrationsRequest(
        organization_id=it.organization_id, registration_ids=listed(registration_ids), validate_only=dry_run
    )
    response = joined(batches(it.client.registrations.RevokeRegistrations, request, "registration_ids", "revoked"))
    output.note(_held(response.addresses_held))
    with everywhere(it, wait and not dry_run):
        it.show_results(response, response.results, "would be revoked" if dry_run else "revoked")


@registrations.command("unrevoke")
def unrevoke_registrations(ctx: Context, registration_ids: RegistrationIds, dry_run: DryRun = False) -> None:
    """Restore revoked registrations with the same keys and addresses."""
    it = ctx.obj
    request = pb.UnrevokeRegistrationsRequest(
        organization_id=it.organization_id, registration_ids=listed(registration_ids), validate_only=dry_run
    )
    response = joined(batches(it.client.registrations.UnrevokeRegistrations, request, "registration_ids", "restored"))
    it.show_results(response, response.results, "would be active again" if dry_run else "active again")


@registrations.command("delete")
def delete_registrations(
    ctx: Context, registration_ids: RegistrationIds, wait: Wait = False, yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete registrations for good and release their addresses."""
    it = ctx.obj
    request = pb.DeleteRegistrationsRequest(
        organization_id=it.organization_id, registration_ids=listed(registration_ids), validate_only=dry_run
    )

    def delete(request: pb.DeleteRegistrationsRequest) -> pb.DeleteRegistrationsResponse:
        label = "would be deleted" if request.validate_only else "deleted"
        return joined(batches(it.client.registrations.DeleteRegistrations, request, "registration_ids", label))

    if dry_run:
        response = delete(request)
        output.note(_would_delete(response))
        it.show_results(response, response.results, "would be deleted")
    else:
        response = it.destroy(delete, request, _would_delete, yes, dry_run=False)
        with everywhere(it, wait):
            it.show_results(response, response.results, "deleted")


def _would_delete(response: pb.DeleteRegistrationsResponse) -> str:
    found = sum(result.HasField("registration") for result in response.results)
    missing = len(response.results) - found
    rest = f" {missing} of those that are named cannot be deleted." if missing else ""
    return f"This deletes {_gone(found, response)}{rest}"


def _gone(registrations: int, response: pb.DeleteDeviceResponse | pb.DeleteRegistrationsResponse) -> str:
    addresses = count(response.addresses_released, "address")
    seats = f" The seats of {count(response.users, 'user')} stay." if response.users else ""
    return f"{count(registrations, 'registration')} for good and releases {addresses}.{seats}"


def _held(addresses: int) -> str:
    return f"Addresses that stay held: {addresses}. Deleting the registrations would free them."
