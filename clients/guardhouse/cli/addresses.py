"""Virtual addresses."""

from datetime import datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli.invocation import Context
from guardhouse.cli.options import Limit
from guardhouse.ipam.v1 import ipam_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Who holds which virtual address.")

TIME_FORMATS = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"]


@app.command("list")
def list_addresses(ctx: Context, limit: Limit = None) -> None:
    """List the addresses that are held."""
    it = ctx.obj
    request = pb.ListAddressesRequest(organization_id=it.organization_id)
    columns = "ipv4 ipv6 registration_id hold_time holder device_id"
    it.show_all(it.client.addresses.ListAddresses, request, limit, columns)


@app.command("show")
def show_address(
    ctx: Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    at: Annotated[
        datetime | None, typer.Option(formats=TIME_FORMATS, help="Who held it then, in local time. Default: now.")
    ] = None,
) -> None:
    """Show who holds an address, or held it at a time."""
    it = ctx.obj
    request = pb.LookupAddressRequest(organization_id=it.organization_id, address=address)
    if at is not None:
        time = Timestamp()
        time.FromDatetime(at.astimezone())
        request.time.CopyFrom(time)
    it.show(it.client.addresses.LookupAddress(request))
