"""Organizations and API keys."""

from enum import StrEnum
from typing import Annotated, Literal

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import NEVER, DryRun, Etag, Installation, Limit, Name, NewName, Yes, current, time_in
from guardhouse.cli.output import count
from guardhouse.common.v1 import access_pb2 as access
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry

app = typer.Typer(no_args_is_help=True)
keys = typer.Typer(no_args_is_help=True)

UNLIMITED = "unlimited"
Action = Literal["allow", "block"]

Shared = StrEnum("Shared", ["windows", "mac", "linux", "ios", "android", "chromeos"])
"""Of lists Typer takes enums only."""

DEFAULT_ACTION = "What becomes of traffic that no policy covers."
DEVICE_FLOW = "Let people sign in with a code that they enter on another device; phishers like it, too."
EXPIRATION = f"Remove users who were inactive for so long, 730h to 8760h; {NEVER}: nobody."
REVOKED = f"Delete registrations that were revoked so long ago, 1h or more; {NEVER}: none."
PLATFORMS = "A platform on which people may share devices; again for more."
SEATS = f"The seats purchased: a number, or {UNLIMITED}."
MAX_SEATS = 2**63 - 1


@app.command("list")
def list_organizations(ctx: Context, limit: Limit = None) -> None:
    """List the organizations."""
    it = ctx.obj
    columns = "organization_id display_name seat_limit default_action create_time"
    it.show_all(it.client.organizations.ListOrganizations, pb.ListOrganizationsRequest(), limit, columns)


@app.command("create")
def create_organization(
    ctx: Context,
    name: Name,
    seat_limit: Annotated[str, typer.Option(help=SEATS)] = UNLIMITED,
    default_action: Annotated[Action, typer.Option(help=DEFAULT_ACTION)] = "allow",
    device_flow: Annotated[bool, typer.Option("--device-flow", help=DEVICE_FLOW)] = False,
    seat_expiration: Annotated[str, typer.Option(metavar="DURATION", help=EXPIRATION)] = NEVER,
    delete_revoked_after: Annotated[str, typer.Option(metavar="DURATION", help=REVOKED)] = NEVER,
    multi_user_platform: Annotated[list[Shared] | None, typer.Option(help=f"{PLATFORMS} Default: windows.")] = None,
) -> None:
    """Create an organization."""
    it = ctx.obj
    organization = pb.Organization(
        display_name=name,
        seat_limit=_seats(seat_limit),
        default_action=output.value(pb.DefaultAction, default_action),
        device_flow=device_flow,
        seat_expiration=seat_expiration.replace(NEVER, ""),
        delete_revoked_after=delete_revoked_after.replace(NEVER, ""),
        multi_user_platforms=[output.value(registry.Platform, name) for name in multi_user_platform or []],
    )
    it.show(it.client.organizations.CreateOrganization(pb.CreateOrganizationRequest(organization=organization)))


@app.command("show")
def show_organization(ctx: Context) -> None:
    """Show the organization that -o names."""
    it = ctx.obj
    it.show(it.client.organizations.GetOrganization(pb.GetOrganizationRequest(organization_id=it.organization_id)))


@app.command("update")
def update_organization(
    ctx: Context,
    name: NewName = None,
    seat_limit: Annotated[str | None, typer.Option(help=SEATS)] = None,
    default_action: Annotated[Action | None, typer.Option(help=DEFAULT_ACTION)] = None,
    device_flow: Annotated[bool | None, typer.Option("--device-flow/--no-device-flow", help=DEVICE_FLOW)] = None,
    seat_expiration: Annotated[str | None, typer.Option(metavar="DURATION", help=EXPIRATION)] = None,
    delete_revoked_after: Annotated[str | None, typer.Option(metavar="DURATION", help=REVOKED)] = None,
    multi_user_platform: Annotated[list[Shared] | None, typer.Option(help=PLATFORMS)] = None,
    no_multi_user_platform: Annotated[
        bool, typer.Option("--no-multi-user-platform", help="Let people share devices nowhere.")
    ] = False,
    etag: Etag = "",
    dry_run: DryRun = False,
) -> None:
    """Change what is named of the organization that -o names; the rest stays."""
    it = ctx.obj
    if multi_user_platform and no_multi_user_platform:
        raise typer.BadParameter("no platform, or these", param_hint="--no-multi-user-platform")
    organization = pb.Organization(
        display_name=name or "",
        seat_limit=_seats(seat_limit) if seat_limit is not None else None,
        default_action=output.value(pb.DefaultAction, default_action or "unspecified"),
        device_flow=bool(device_flow),
        seat_expiration=(seat_expiration or "").replace(NEVER, ""),
        delete_revoked_after=(delete_revoked_after or "").replace(NEVER, ""),
        multi_user_platforms=[output.value(registry.Platform, name) for name in multi_user_platform or []],
    )
    given = {
        "display_name": name,
        "seat_limit": seat_limit,
        "default_action": default_action,
        "device_flow": device_flow,
        "seat_expiration": seat_expiration,
        "delete_revoked_after": delete_revoked_after,
        "multi_user_platforms": multi_user_platform or no_multi_user_platform or None,
    }
    paths = [path for path, value in given.items() if value is not None]
    if not paths:
        options = "--name, --seat-limit, --default-action, --device-flow, --seat-expiration, --delete-revoked-after"
        raise typer.BadParameter(f"name what to change: {options} or --[no-]multi-user-platform")
    read = pb.GetOrganizationRequest(organization_id=it.organization_id)
    organization.etag = current(etag, lambda: it.client.organizations.GetOrganization(read).organization)
    request = pb.UpdateOrganizationRequest(
        organization_id=it.organization_id, organization=organization, update_mask=FieldMask(paths=paths)
    )

    def would(response: pb.UpdateOrganizationResponse) -> str:
        limit = output.cell(response.organization, "seat_limit")
        return f"This would do. The seat limit is {limit} then, and {count(response.seats_used, 'seat')} are in use."

    if dry_run:
        it.rehearse(it.client.organizations.UpdateOrganization, request, would)
    it.show(it.client.organizations.UpdateOrganization(request))


@app.command("delete")
def delete_organization(
    ctx: Context,
    confirmation: Annotated[str, typer.Argument(metavar="NAME", help="Its display name, or its id once more.")],
    etag: Etag = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Delete the organization that -o names, with all that is its own, for good."""
    it = ctx.obj
    request = pb.DeleteOrganizationRequest(organization_id=it.organization_id, confirmation=confirmation, etag=etag)

    def would(response: pb.DeleteOrganizationResponse) -> str:
        what = f"{count(response.users, 'user')}, {count(response.seats, 'seat')} in use"
        held = f"{count(response.registrations, 'registration')} and {count(response.addresses, 'address')}"
        return f"This deletes {response.organization.display_name!r} with {what}, {held}, for good."

    it.show(it.destroy(it.client.organizations.DeleteOrganization, request, would, yes, dry_run))


@keys.command("list")
def list_keys(ctx: Context, installation: Installation = False, limit: Limit = None) -> None:
    """List the API keys, revoked ones included."""
    it = ctx.obj
    request = pb.ListApiKeysRequest(organization_id="" if installation else it.organization_id)
    columns = "api_key_id display_name role create_time expire_time revoke_time"
    it.show_all(it.client.api_keys.ListApiKeys, request, limit, columns)


@keys.command("create")
def create_key(
    ctx: Context,
    name: Name,
    role: Annotated[Literal["admin", "auditor", "gateway"], typer.Option(help="What the key may do.")],
    installation: Installation = False,
    expires_in: Annotated[str | None, typer.Option(metavar="DURATION", help="Such as 720h. Default: never.")] = None,
) -> None:
    """Create an API key and print its secret."""
    it = ctx.obj
    request = pb.CreateApiKeyRequest(
        organization_id="" if installation else it.organization_id,
        api_key=pb.ApiKey(
            display_name=name,
            role=output.value(access.Role, role),
            expire_time=time_in(expires_in, "--expires-in"),
        ),
    )
    response = it.client.api_keys.CreateApiKey(request)
    it.show_secret(response, secret=response.secret)


@keys.command("revoke")
def revoke_key(
    ctx: Context,
    api_key_id: Annotated[str, typer.Argument(metavar="KEY", autocompletion=ids("api_keys"))],
    installation: Installation = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Revoke an API key for good."""
    it = ctx.obj
    organization_id = "" if installation else it.organization_id
    request = pb.RevokeApiKeyRequest(organization_id=organization_id, api_key_id=api_key_id)

    def would(response: pb.RevokeApiKeyResponse) -> str:
        key = response.api_key
        return f"This revokes {key.display_name!r}, a key with the role {output.cell(key, 'role')}, for good."

    it.show(it.destroy(it.client.api_keys.RevokeApiKey, request, would, yes, dry_run))


def _seats(text: str) -> int | None:
    if text == UNLIMITED:
        return None
    # Python converts no number of thousands of digits.
    if not text.isdecimal() or len(text) > len(str(MAX_SEATS)) or int(text) > MAX_SEATS:
        what = f"{text!r} is neither a number of at most {MAX_SEATS} nor {UNLIMITED}"
        raise typer.BadParameter(what, param_hint="--seat-limit")
    return int(text)
