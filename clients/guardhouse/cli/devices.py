"""Devices and registrations."""

from typing import Annotated, Literal

import typer

from guardhouse.cli import output
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import Limit, Yes
from guardhouse.registry.v1 import registry_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Machines, told apart by the hardware id that they claim.")
registrations = typer.Typer(no_args_is_help=True, help="A user or service token on a device, with key and addresses.")

DeviceId = Annotated[str, typer.Argument(metavar="DEVICE")]
RegistrationIds = Annotated[list[str], typer.Argument(metavar="REGISTRATION")]


@app.command("list")
def list_devices(
    ctx: Context,
    active_registrations: Annotated[
        Literal["only", "include", "exclude"],
        typer.Option(help="Devices with an active registration, all devices, or those without one."),
    ] = "only",
    limit: Limit = None,
) -> None:
    """List the devices; those with an active registration unless asked otherwise."""
    it = ctx.obj
    request = pb.ListDevicesRequest(
        organization_id=it.organization_id,
        active_registrations=output.value(pb.ActiveRegistrations, active_registrations),
    )
    columns = "device_id claims.display_name claims.platform active_registrations create_time claims.hardware_id"
    it.show_all(it.client.devices.ListDevices, request, limit, columns)


@app.command("show")
def show_device(ctx: Context, device_id: DeviceId) -> None:
    """Show a device."""
    it = ctx.obj
    it.show(it.client.devices.GetDevice(pb.GetDeviceRequest(organization_id=it.organization_id, device_id=device_id)))


@app.command("delete")
def delete_device(ctx: Context, device_id: DeviceId, yes: Yes = False) -> None:
    """Delete a device with all its registrations."""
    it = ctx.obj
    organization_id = it.organization_id
    it.confirm(f"Delete {device_id} and all its registrations for good?", yes)
    request = pb.DeleteDeviceRequest(organization_id=organization_id, device_id=device_id)
    response = it.client.devices.DeleteDevice(request)
    it.done(response, f"{device_id} deleted; registrations that went with it: {response.registrations_deleted}")


@registrations.command("list")
def list_registrations(
    ctx: Context,
    state: Annotated[Literal["active", "revoked", "all"], typer.Option(help="The states to show.")] = "active",
    user: Annotated[str, typer.Option(help="Only this user's.")] = "",
    device: Annotated[str, typer.Option(help="Only this device's.")] = "",
    limit: Limit = None,
) -> None:
    """List the registrations; the active ones unless asked otherwise."""
    it = ctx.obj
    request = pb.ListRegistrationsRequest(
        organization_id=it.organization_id,
        state=output.value(pb.RegistrationFilter, state),
        user_id=user,
        device_id=device,
    )
    columns = "registration_id state ipv4 ipv6 create_time holder device_id"
    it.show_all(it.client.registrations.ListRegistrations, request, limit, columns)


@registrations.command("show")
def show_registration(ctx: Context, registration_id: Annotated[str, typer.Argument(metavar="REGISTRATION")]) -> None:
    """Show a registration."""
    it = ctx.obj
    request = pb.GetRegistrationRequest(organization_id=it.organization_id, registration_id=registration_id)
    it.show(it.client.registrations.GetRegistration(request))


@registrations.command("revoke")
def revoke_registrations(ctx: Context, registration_ids: RegistrationIds) -> None:
    """Make registrations' keys invalid at once. They keep their addresses, and it can be undone."""
    it = ctx.obj
    request = pb.RevokeRegistrationsRequest(organization_id=it.organization_id, registration_ids=registration_ids)
    response = it.client.registrations.RevokeRegistrations(request)
    output.note(f"Addresses that stay held: {response.addresses_held}. Deleting the registrations would free them.")
    it.show_results(response, response.results, "revoked")


@registrations.command("unrevoke")
def unrevoke_registrations(ctx: Context, registration_ids: RegistrationIds) -> None:
    """Restore revoked registrations with the same keys and addresses."""
    it = ctx.obj
    request = pb.UnrevokeRegistrationsRequest(organization_id=it.organization_id, registration_ids=registration_ids)
    response = it.client.registrations.UnrevokeRegistrations(request)
    it.show_results(response, response.results, "active again")


@registrations.command("delete")
def delete_registrations(ctx: Context, registration_ids: RegistrationIds, yes: Yes = False) -> None:
    """Delete registrations for good and release their addresses."""
    it = ctx.obj
    organization_id = it.organization_id
    it.confirm(f"Delete {', '.join(registration_ids)} for good?", yes)
    request = pb.DeleteRegistrationsRequest(organization_id=organization_id, registration_ids=registration_ids)
    response = it.client.registrations.DeleteRegistrations(request)
    it.show_results(response, response.results, "deleted")
