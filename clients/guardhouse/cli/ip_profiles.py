"""IP profiles: who gets an address from which subnet."""

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import DryRun, Etag, Limit, Name, NewName, Yes, current
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as pb

app = typer.Typer(no_args_is_help=True)

ProfileId = Annotated[str, typer.Argument(metavar="PROFILE", autocompletion=ids("ip_profiles"))]
MATCH = "Whom it is for, such as 'identity.email matches \".*@example[.]com$\"'."
PRECEDENCE = "Of those that match the lowest decides."
MAX_PRECEDENCE = 1_000_000
SUBNET = "The id of the subnet that the addresses come from."


@app.command("list")
def list_profiles(ctx: Context, limit: Limit = None) -> None:
    """List the IP profiles by creation."""
    it = ctx.obj
    request = pb.ListIpProfilesRequest(organization_id=it.organization_id)
    columns = "ip_profile_id display_name precedence enabled subnet_id match"
    it.show_all(it.client.ip_profiles.ListIpProfiles, request, limit, columns)


@app.command("show")
def show_profile(ctx: Context, profile_id: ProfileId) -> None:
    """Show an IP profile."""
    it = ctx.obj
    request = pb.GetIpProfileRequest(organization_id=it.organization_id, ip_profile_id=profile_id)
    it.show(it.client.ip_profiles.GetIpProfile(request))


@app.command("create")
def create_profile(
    ctx: Context,
    name: Name,
    match: Annotated[str, typer.Option(help=MATCH)],
    precedence: Annotated[int, typer.Option(min=1, max=MAX_PRECEDENCE, help=PRECEDENCE)],
    subnet: Annotated[str, typer.Option(help=SUBNET)],
    description: Annotated[str, typer.Option(help="For people.")] = "",
    disabled: Annotated[bool, typer.Option("--disabled", help="It matches nobody yet.")] = False,
) -> None:
    """Create an IP profile. It counts for whoever enrolls next."""
    it = ctx.obj
    made = pb.IpProfile(
        display_name=name,
        description=description,
        match=match,
        precedence=precedence,
        subnet_id=subnet,
        enabled=not disabled,
    )
    request = pb.CreateIpProfileRequest(organization_id=it.organization_id, ip_profile=made)
    it.show(it.client.ip_profiles.CreateIpProfile(request))


@app.command("update")
def update_profile(
    ctx: Context,
    profile_id: ProfileId,
    name: NewName = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    match: Annotated[str | None, typer.Option(help=MATCH)] = None,
    precedence: Annotated[int | None, typer.Option(min=1, max=MAX_PRECEDENCE, help=PRECEDENCE)] = None,
    subnet: Annotated[str | None, typer.Option(help=SUBNET)] = None,
    enabled: Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it matches anybody.")] = None,
    etag: Etag = "",
) -> None:
    """Change what is named, for whoever enrolls next; the rest stays. Whoever has an address keeps it."""
    it = ctx.obj
    given = {
        "display_name": name,
        "description": description,
        "match": match,
        "precedence": precedence,
        "subnet_id": subnet,
        "enabled": enabled,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("name what to change; see guardhouse ip-profiles update --help")
    changed = pb.IpProfile(ip_profile_id=profile_id, **changes)  # type: ignore[arg-type]
    read = pb.GetIpProfileRequest(organization_id=it.organization_id, ip_profile_id=profile_id)
    changed.etag = current(etag, lambda: it.client.ip_profiles.GetIpProfile(read).ip_profile)
    request = pb.UpdateIpProfileRequest(
        organization_id=it.organization_id, ip_profile=changed, update_mask=FieldMask(paths=list(changes))
    )
    it.show(it.client.ip_profiles.UpdateIpProfile(request))


@app.command("delete")
def delete_profile(
    ctx: Context, profile_id: ProfileId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete an IP profile. Whoever has an address keeps it."""
    it = ctx.obj
    request = pb.DeleteIpProfileRequest(organization_id=it.organization_id, ip_profile_id=profile_id, etag=etag)

    def would(response: pb.DeleteIpProfileResponse) -> str:
        return f"This deletes {response.ip_profile.display_name!r}; addresses that it gave stay as they are."

    response = it.destroy(it.client.ip_profiles.DeleteIpProfile, request, would, yes, dry_run)
    it.done(response, f"{profile_id} deleted")


@app.command("match")
def match_profile(
    ctx: Context,
    email: Annotated[str, typer.Option(help="Of somebody with this address.")] = "",
    name: Annotated[str, typer.Option(help="Of somebody with this name.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="Of a member of this group; may be repeated.")] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="With this claim; may be repeated.")
    ] = None,
    service_token: Annotated[str, typer.Option(help="Of a machine with this service token, by its id.")] = "",
) -> None:
    """Say from which subnet somebody who enrolls now would get an address, and what each profile makes of them."""
    it = ctx.obj
    person = bool(email or name or group or claim)
    if person == bool(service_token):
        raise typer.BadParameter("describe a person, or name a --service-token")
    request = pb.MatchIpProfileRequest(organization_id=it.organization_id)
    if service_token:
        request.service_token_id = service_token
    else:
        who = identity.HolderIdentity(email=email, display_name=name, groups=group or (), oidc_claims=claim or ())
        request.identity.CopyFrom(who)
    it.show(it.client.ip_profiles.MatchIpProfile(request))
