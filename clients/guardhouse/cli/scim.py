"""SCIM: how an identity provider provisions, and what its client did."""

from typing import Annotated, Literal

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli import output
from guardhouse.cli.enrollment import ProviderId
from guardhouse.cli.invocation import Context, must_be_interactive
from guardhouse.cli.options import Etag, Limit, Yes
from guardhouse.identity.v1 import identity_pb2 as pb

app = typer.Typer(no_args_is_help=True)

Behavior = Literal["automatic", "reauth", "no-action"]
Attribute = Literal["external-id", "user-name"]
Claim = Literal["subject", "email"]

BEHAVIOR = "What a change of name, address or groups does: overwrites the profile, ends the sessions, or nothing."
ATTRIBUTE = "What of a SCIM user equals --claim."
CLAIM = "Which claim of the provider's ID tokens that is."


@app.command("update")
def update_scim(
    ctx: Context,
    provider_id: ProviderId,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Serve the provider's client.")] = None,
    user_deprovision: Annotated[
        bool | None,
        typer.Option(
            "--user-deprovision/--no-user-deprovision", help="End the sessions of whoever is deactivated or deleted."
        ),
    ] = None,
    seat_deprovision: Annotated[
        bool | None,
        typer.Option(
            "--seat-deprovision/--no-seat-deprovision", help="Free the seat as well; it needs --user-deprovision."
        ),
    ] = None,
    identity_update: Annotated[Behavior | None, typer.Option(help=BEHAVIOR)] = None,
    match: Annotated[Attribute | None, typer.Option(help=ATTRIBUTE)] = None,
    claim: Annotated[Claim | None, typer.Option(help=CLAIM)] = None,
    etag: Etag = "",
) -> None:
    """Set up how an identity provider provisions; what is not named stays."""
    it = ctx.obj
    given = {
        "enabled": enabled,
        "user_deprovision": user_deprovision,
        "seat_deprovision": seat_deprovision,
        "identity_update_behavior": _value(pb.IdentityUpdateBehavior, identity_update),
        "match_attribute": _value(pb.ScimMatchAttribute, match),
        "match_claim": _value(pb.ScimMatchClaim, claim),
    }
    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("name what to change; see guardhouse scim update --help")
    read = pb.GetIdentityProviderRequest(organization_id=it.organization_id, identity_provider_id=provider_id)
    found = it.client.identity_providers.GetIdentityProvider(read).identity_provider
    provider = pb.IdentityProvider(identity_provider_id=provider_id, scim=found.scim, etag=etag or found.etag)
    provider.scim.MergeFrom(pb.ScimSettings(**changes))  # type: ignore[arg-type]  # as its field's
    for field in ("enabled", "user_deprovision", "seat_deprovision"):
        # Merging leaves out what is false.
        if changes.get(field) is False:
            provider.scim.ClearField(field)
    request = pb.UpdateIdentityProviderRequest(
        organization_id=it.organization_id, identity_provider=provider, update_mask=FieldMask(paths=["scim"])
    )
    it.show(it.client.identity_providers.UpdateIdentityProvider(request))


def _value(enum: object, text: str | None) -> int | None:
    return None if text is None else output.value(enum, text)


@app.command("rotate")
def rotate_secret(ctx: Context, provider_id: ProviderId, yes: Yes = False) -> None:
    """Print a secret for the provider's SCIM client; one that there was is refused from now on."""
    it = ctx.obj
    if not yes:
        must_be_interactive()
        typer.confirm("This refuses the secret that is in use now, if there is one. Continue?", abort=True, err=True)
    request = pb.RefreshScimSecretRequest(organization_id=it.organization_id, identity_provider_id=provider_id)
    response = it.client.identity_providers.RefreshScimSecret(request)
    it.show_secret(response, secret=response.secret)


@app.command("log")
def list_events(ctx: Context, provider_id: ProviderId, limit: Limit = None) -> None:
    """List what the provider's SCIM client changed, and what was refused, of the last 30 days."""
    it = ctx.obj
    request = pb.ListScimEventsRequest(organization_id=it.organization_id, identity_provider_id=provider_id)
    columns = "event_time method resource_type resource_id external_id user_id status held error"
    it.show_all(it.client.identity_providers.ListScimEvents, request, limit, columns)
