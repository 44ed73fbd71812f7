"""Subnets, from which addresses are given out."""

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import DryRun, Etag, Limit, Name, NewName, Yes, current
from guardhouse.ipam.v1 import ipam_pb2 as pb

app = typer.Typer(no_args_is_help=True)

SubnetId = Annotated[str, typer.Argument(metavar="SUBNET", autocompletion=ids("subnets"))]
DEFAULT = "For those whom no IP profile matches; ends that of the present default."


@app.command("list")
def list_subnets(ctx: Context, limit: Limit = None) -> None:
    """List the subnets, and how full they are."""
    it = ctx.obj
    request = pb.ListSubnetsRequest(organization_id=it.organization_id)
    columns = "subnet_id display_name network is_default capacity"
    it.show_all(it.client.subnets.ListSubnets, request, limit, columns)


@app.command("show")
def show_subnet(ctx: Context, subnet_id: SubnetId) -> None:
    """Show a subnet, what its addresses are, and when they run out."""
    it = ctx.obj
    it.show(it.client.subnets.GetSubnet(pb.GetSubnetRequest(organization_id=it.organization_id, subnet_id=subnet_id)))


@app.command("create")
def create_subnet(
    ctx: Context,
    name: Name,
    network: Annotated[str, typer.Option(help="A private IPv4 network, a /24 or larger, such as 10.20.0.0/16.")],
    description: Annotated[str, typer.Option(help="For people.")] = "",
    default: Annotated[bool, typer.Option("--default", help=DEFAULT)] = False,
) -> None:
    """Create a subnet. Its network stays as it is."""
    it = ctx.obj
    made = pb.Subnet(display_name=name, description=description, network=network, is_default=default)
    it.show(it.client.subnets.CreateSubnet(pb.CreateSubnetRequest(organization_id=it.organization_id, subnet=made)))


@app.command("update")
def update_subnet(
    ctx: Context,
    subnet_id: SubnetId,
    name: NewName = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    default: Annotated[bool, typer.Option("--default", help=DEFAULT)] = False,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays. Whoever has an address keeps it."""
    it = ctx.obj
    given = {"display_name": name is not None, "description": description is not None, "is_default": default}
    paths = [field for field, is_given in given.items() if is_given]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse subnets update --help")
    changed = pb.Subnet(subnet_id=subnet_id, display_name=name or "", description=description or "", is_default=default)
    read = pb.GetSubnetRequest(organization_id=it.organization_id, subnet_id=subnet_id)
    changed.etag = current(etag, lambda: it.client.subnets.GetSubnet(read).subnet)
    request = pb.UpdateSubnetRequest(
        organization_id=it.organization_id, subnet=changed, update_mask=FieldMask(paths=paths)
    )
    it.show(it.client.subnets.UpdateSubnet(request))


@app.command("delete")
def delete_subnet(
    ctx: Context, subnet_id: SubnetId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete a subnet of which nobody has an address."""
    it = ctx.obj
    request = pb.DeleteSubnetRequest(organization_id=it.organization_id, subnet_id=subnet_id, etag=etag)

    def would(response: pb.DeleteSubnetResponse) -> str:
        gone = response.subnet
        return (
            f"This deletes {gone.display_name!r}, {gone.network} with {output.count(gone.capacity.total, 'address')}."
        )

    response = it.destroy(it.client.subnets.DeleteSubnet, request, would, yes, dry_run)
    it.done(response, f"{subnet_id} deleted")
