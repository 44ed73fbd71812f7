"""Virtual addresses."""

from typing import Annotated, Any, Literal

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from guardhouse.cli import output
from guardhouse.cli.address_map import draw
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import Limit, moment
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry

app = typer.Typer(no_args_is_help=True)

State = Literal["active", "revoked", "reserved", "quarantined"]
AT = "Who held it then: a time, or 24h for a day ago."


@app.command("list")
def list_addresses(
    ctx: Context,
    state: Annotated[State | None, typer.Option(help="Only these. Default: active and revoked.")] = None,
    subnet: Annotated[str, typer.Option(metavar="SUBNET", help="Only those of this subnet.")] = "",
    user: Annotated[str, typer.Option(metavar="USER", autocompletion=ids("users", "email"), help="Only theirs.")] = "",
    service_token: Annotated[
        str, typer.Option(metavar="TOKEN", autocompletion=ids("service_tokens"), help="Only those of this machine.")
    ] = "",
    device: Annotated[
        str, typer.Option(metavar="DEVICE", autocompletion=ids("devices", "claims.display_name"), help="Only its own.")
    ] = "",
    limit: Limit = None,
) -> None:
    """List the addresses that are held, or those in one state."""
    it = ctx.obj
    request = pb.ListAddressesRequest(
        organization_id=it.organization_id,
        state=output.value(pb.AddressState, state or "unspecified"),
        subnet_id=subnet,
        device_id=device,
        **_holder(user, service_token),
    )
    columns = "ipv4 ipv6 state registration_id hold_time holder device_id"
    it.show_all(it.client.addresses.ListAddresses, request, limit, columns)


@app.command("show")
def show_address(
    ctx: Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    at: Annotated[Timestamp | None, typer.Option(parser=moment, metavar="TIME", help=f"{AT} Default: now.")] = None,
) -> None:
    """Show who holds an address, or held it at a time."""
    it = ctx.obj
    request = pb.LookupAddressRequest(organization_id=it.organization_id, address=address, time=at)
    it.show(it.client.addresses.LookupAddress(request))


@app.command("who")
def show_who(
    ctx: Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    at: Annotated[Timestamp | None, typer.Option(parser=moment, metavar="TIME", help=f"{AT} Default: now.")] = None,
) -> None:
    """Say whose traffic from an address was: its holder's, and on a shared device who was at it."""
    it = ctx.obj
    asked = pb.LookupAddressRequest(organization_id=it.organization_id, address=address, time=at)
    lease = it.client.addresses.LookupAddress(asked).lease
    time = at
    if time is None:
        time = Timestamp()
        time.GetCurrentTime()
    wanted = registry.ListOsSessionsRequest(organization_id=it.organization_id, device_id=lease.device_id, time=time)
    session = next(iter(it.client.devices.ListOsSessions(wanted).os_sessions), None)
    is_current = session is None or session.registration_id == lease.registration_id
    if it.as_json:
        on_device = output.as_dict(session) if session is not None else None
        output.print_json({"lease": output.as_dict(lease), "os_session": on_device, "is_current": is_current})
        return
    pairs = [(output.heading(name), output.cell(lease, name)) for name in ("registration_id", "holder", "device_id")]
    if session is not None:
        shown = "at_login_screen", "os_user", "begin_time", "end_time"
        pairs += [(output.heading(name), output.cell(session, name)) for name in shown]
        pairs.append(("current", "yes" if is_current else output.cell(session, "registration_id")))
    output.print_pairs(pairs)


@app.command("history")
def show_history(
    ctx: Context,
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Such as 100.96.4.0/24, or an address.")],
    at: Annotated[Timestamp | None, typer.Option(parser=moment, metavar="TIME", help=f"{AT} Default: ever.")] = None,
    limit: Limit = None,
) -> None:
    """List who holds and who held the addresses of a network."""
    it = ctx.obj
    request = pb.ListAddressHistoryRequest(organization_id=it.organization_id, network=network, time=at)
    columns = "ipv4 ipv6 hold_time release_time registration_id holder device_id"
    it.show_all(it.client.addresses.ListAddressHistory, request, limit, columns)


@app.command("pins")
def list_pins(ctx: Context, limit: Limit = None) -> None:
    """List what is kept for somebody, and what nobody is given."""
    it = ctx.obj
    request = pb.ListPinsRequest(organization_id=it.organization_id)
    it.show_all(it.client.addresses.ListPins, request, limit, "pin_id network holder device_id description create_time")


@app.command("pin")
def pin_address(
    ctx: Context,
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="An address; to exclude many 100.96.4.0/24.")],
    user: Annotated[str, typer.Option(metavar="USER", autocompletion=ids("users", "email"), help="For whom.")] = "",
    service_token: Annotated[
        str, typer.Option(metavar="TOKEN", autocompletion=ids("service_tokens"), help="Or for which machine.")
    ] = "",
    device: Annotated[
        str,
        typer.Option(metavar="DEVICE", autocompletion=ids("devices", "claims.display_name"), help="On which device."),
    ] = "",
    description: Annotated[str, typer.Option(help="For people.")] = "",
) -> None:
    """Keep an address for somebody on a device; without anybody, from everybody."""
    it = ctx.obj
    request = pb.PinAddressRequest(
        organization_id=it.organization_id,
        network=network,
        device_id=device,
        description=description,
        **_holder(user, service_token),
    )
    it.show(it.client.addresses.PinAddress(request))


@app.command("unpin")
def unpin_address(
    ctx: Context, pin_id: Annotated[str, typer.Argument(metavar="PIN", autocompletion=ids("addresses", "network"))]
) -> None:
    """Let everybody have again what was pinned."""
    it = ctx.obj
    request = pb.UnpinAddressRequest(organization_id=it.organization_id, pin_id=pin_id)
    it.done(it.client.addresses.UnpinAddress(request), f"{pin_id} unpinned")


@app.command("map")
def show_map(
    ctx: Context,
    subnet: Annotated[str, typer.Option(metavar="SUBNET", help="Default: the default subnet.")] = "",
    cells: Annotated[int, typer.Option(min=1, max=4096, help="How many cells at most.")] = 1024,
) -> None:
    """Draw how full a subnet is."""
    it = ctx.obj
    request = pb.GetAddressMapRequest(organization_id=it.organization_id, subnet_id=subnet, block_count=cells)
    found = it.client.addresses.GetAddressMap(request)
    if it.as_json:
        output.print_json(found)
    else:
        draw(found, Console())


def _holder(user: str, service_token: str) -> dict[str, Any]:
    if user and service_token:
        raise typer.BadParameter("say one of --user and --service-token")
    return {"user_id": user} if user else {"service_token_id": service_token} if service_token else {}
