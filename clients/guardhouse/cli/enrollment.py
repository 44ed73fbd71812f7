"""What people and machines prove themselves with: identity providers and service tokens."""

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, must_be_interactive
from guardhouse.cli.options import (
    NEVER,
    DryRun,
    Etag,
    Limit,
    Name,
    NewName,
    Yes,
    current,
)
from guardhouse.cli.output import count
from guardhouse.identity.v1 import identity_pb2 as pb

identity_providers = typer.Typer(no_args_is_help=True)
service_tokens = typer.Typer(no_args_is_help=True)

ProviderId = Annotated[str, typer.Argument(metavar="PROVIDER", autocompletion=ids("identity_providers"))]
TokenId = Annotated[str, typer.Argument(metavar="TOKEN", autocompletion=ids("service_tokens"))]

AUDIENCE = "An audience to accept; may be repeated."
FORCED = "Whoever re-authenticates must sign in anew; an earlier sign-in does not count."
CLAIM = "A claim of its ID tokens to keep of a user, for policies; may be repeated."
GROUPS_CLAIM = "Where its ID tokens name groups: a claim, or a dotted path into objects."
UNVERIFIED = "Take e-mail addresses that it does not say it has verified."
PRIVATE = "Fetch its documents from wherever they are said to be, private addresses included."
JWKS_HOST = "The other host that it may keep its keys at, such as www.googleapis.com."
SILENCE = f"Delete registrations that it makes when they are silent for so long, 10m to 8760h; {NEVER}: none."
GRACE = "How long the secret before goes on being accepted, such as 24h; at most 720h. Default: not at all."


@identity_providers.command("list")
def list_identity_providers(ctx: Context, limit: Limit = None) -> None:
    """List the identity providers."""
    it = ctx.obj
    request = pb.ListIdentityProvidersRequest(organization_id=it.organization_id)
    columns = "identity_provider_id display_name issuer client_ids groups_claim force_interaction create_time"
    it.show_all(it.client.identity_providers.ListIdentityProviders, request, limit, columns)


@identity_providers.command("add")
def add_identity_provider(
    ctx: Context,
    name: Name,
    issuer: Annotated[str, typer.Option(help="Its issuer, to the letter: a URL.")],
    client_id: Annotated[list[str], typer.Option(help=AUDIENCE)],
    force_interaction: Annotated[bool, typer.Option("--force-interaction", help=FORCED)] = False,
    oidc_claim: Annotated[list[str] | None, typer.Option(help=CLAIM)] = None,
    groups_claim: Annotated[str, typer.Option(help=f"{GROUPS_CLAIM} Default: groups.")] = "",
    allow_unverified_email: Annotated[bool, typer.Option("--allow-unverified-email", help=UNVERIFIED)] = False,
    allow_private_addresses: Annotated[bool, typer.Option("--allow-private-addresses", help=PRIVATE)] = False,
    jwks_host: Annotated[str, typer.Option(help=JWKS_HOST)] = "",
) -> None:
    """Accept the ID tokens of an identity provider."""
    it = ctx.obj
    request = pb.CreateIdentityProviderRequest(
        organization_id=it.organization_id,
        identity_provider=pb.IdentityProvider(
            display_name=name,
            issuer=issuer,
            client_ids=client_id,
            force_interaction=force_interaction,
            oidc_claims=oidc_claim,
            groups_claim=groups_claim,
            allow_unverified_email=allow_unverified_email,
            allow_private_addresses=allow_private_addresses,
            jwks_host=jwks_host,
        ),
    )
    it.show(it.client.identity_providers.CreateIdentityProvider(request))


@identity_providers.command("show")
def show_identity_provider(ctx: Context, provider_id: ProviderId) -> None:
    """Show an identity provider."""
    it = ctx.obj
    request = pb.GetIdentityProviderRequest(organization_id=it.organization_id, identity_provider_id=provider_id)
    it.show(it.client.identity_providers.GetIdentityProvider(request))


@identity_providers.command("update")
def update_identity_provider(
    ctx: Context,
    provider_id: ProviderId,
    name: NewName = None,
    client_id: Annotated[list[str] | None, typer.Option(help=f"{AUDIENCE} Replaces those that there are.")] = None,
    force_interaction: Annotated[
        bool | None, typer.Option("--force-interaction/--no-force-interaction", help=FORCED)
    ] = None,
    oidc_claim: Annotated[list[str] | None, typer.Option(help=f"{CLAIM} Replaces those that there are.")] = None,
    no_oidc_claims: Annotated[bool, typer.Option("--no-oidc-claims", help="Keep no claims.")] = False,
    groups_claim: Annotated[str | None, typer.Option(help=GROUPS_CLAIM)] = None,
    allow_unverified_email: Annotated[
        bool | None, typer.Option("--allow-unverified-email/--no-allow-unverified-email", help=UNVERIFIED)
    ] = None,
    allow_private_addresses: Annotated[
        bool | None, typer.Option("--allow-private-addresses/--no-allow-private-addresses", help=PRIVATE)
    ] = None,
    jwks_host: Annotated[str | None, typer.Option(help=JWKS_HOST)] = None,
    no_jwks_host: Annotated[bool, typer.Option("--no-jwks-host", help="Keys come from the issuer's host.")] = False,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays."""
    it = ctx.obj
    if oidc_claim and no_oidc_claims:
        raise typer.BadParameter("--oidc-claim and --no-oidc-claims contradict each other")
    if jwks_host and no_jwks_host:
        raise typer.BadParameter("--jwks-host and --no-jwks-host contradict each other")
    given = {
        "display_name": name,
        "client_ids": client_id or None,
        "force_interaction": force_interaction,
        "oidc_claims": [] if no_oidc_claims else oidc_claim or None,
        "groups_claim": groups_claim,
        "allow_unverified_email": allow_unverified_email,
        "allow_private_addresses": allow_private_addresses,
        "jwks_host": "" if no_jwks_host else jwks_host,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("name what to change; see guardhouse identity-providers update --help")
    provider = pb.IdentityProvider(identity_provider_id=provider_id, **changes)  # type: ignore[arg-type]  # as its field's
    read = pb.GetIdentityProviderRequest(organization_id=it.organization_id, identity_provider_id=provider_id)
    provider.etag = current(etag, lambda: it.client.identity_providers.GetIdentityProvider(read).identity_provider)
    request = pb.UpdateIdentityProviderRequest(
        organization_id=it.organization_id, identity_provider=provider, update_mask=FieldMask(paths=[*changes])
    )
    it.show(it.client.identity_providers.UpdateIdentityProvider(request))


@identity_providers.command("delete")
def delete_identity_provider(
    ctx: Context, provider_id: ProviderId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Refuse an identity provider's tokens from now on; users, seats and registrations stay."""
    it = ctx.obj
    request = pb.DeleteIdentityProviderRequest(
        organization_id=it.organization_id, identity_provider_id=provider_id, etag=etag
    )

    def would(response: pb.DeleteIdentityProviderResponse) -> str:
        return (
            f"This refuses the tokens of {response.identity_provider.display_name!r}: {count(response.users, 'user')}"
            f" cannot sign in again. Registrations of theirs stay: {response.registrations}."
        )

    method = it.client.identity_providers.DeleteIdentityProvider
    it.done(it.destroy(method, request, would, yes, dry_run), f"{provider_id} deleted")


@service_tokens.command("list")
def list_service_tokens(
    ctx: Context,
    name: Annotated[str, typer.Option(help="Only those with this name, to the letter.")] = "",
    limit: Limit = None,
) -> None:
    """List the service tokens."""
    it = ctx.obj
    request = pb.ListServiceTokensRequest(organization_id=it.organization_id, display_name=name)
    columns = "service_token_id display_name client_id disabled expire_time last_seen_time"
    it.show_all(it.client.service_tokens.ListServiceTokens, request, limit, columns)


@service_tokens.command("create")
def create_service_token(
    ctx: Context,
    name: Name,
    duration: Annotated[str, typer.Option(help="How long it is valid, such as 720h. Default: 8760h.")] = "",
    expire_registrations_after: Annotated[str, typer.Option(metavar="DURATION", help=SILENCE)] = NEVER,
) -> None:
    """Create a service token and print its secret."""
    it = ctx.obj
    request = pb.CreateServiceTokenRequest(
        organization_id=it.organization_id,
        display_name=name,
        duration=duration,
        expire_registrations_after=expire_registrations_after.replace(NEVER, ""),
    )
    response = it.client.service_tokens.CreateServiceToken(request)
    it.show_secret(response, client_secret=response.client_secret)


@service_tokens.command("show")
def show_service_token(ctx: Context, token_id: TokenId) -> None:
    """Show a service token, without its secret."""
    it = ctx.obj
    request = pb.GetServiceTokenRequest(organization_id=it.organization_id, service_token_id=token_id)
    it.show(it.client.service_tokens.GetServiceToken(request))


@service_tokens.command("update")
def update_service_token(
    ctx: Context,
    token_id: TokenId,
    name: NewName = None,
    disabled: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Refuse it, whichever of its secrets is sent.")
    ] = None,
    expire_registrations_after: Annotated[str | None, typer.Option(metavar="DURATION", help=SILENCE)] = None,
    etag: Etag = "",
) -> None:
    """Rename, disable or enable a service token, or have what it registers expire."""
    it = ctx.obj
    given = {"display_name": name, "disabled": disabled, "expire_registrations_after": expire_registrations_after}
    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("name what to change: --name, --disable, --enable or --expire-registrations-after")
    if expire_registrations_after == NEVER:
        changes["expire_registrations_after"] = ""
    token = pb.ServiceToken(service_token_id=token_id, **changes)  # type: ignore[arg-type]  # as its field's
    read = pb.GetServiceTokenRequest(organization_id=it.organization_id, service_token_id=token_id)
    token.etag = current(etag, lambda: it.client.service_tokens.GetServiceToken(read).service_token)
    request = pb.UpdateServiceTokenRequest(
        organization_id=it.organization_id, service_token=token, update_mask=FieldMask(paths=[*changes])
    )
    it.show(it.client.service_tokens.UpdateServiceToken(request))


@service_tokens.command("rotate")
def rotate_service_token(
    ctx: Context,
    token_id: TokenId,
    grace: Annotated[str, typer.Option(help=GRACE)] = "",
    etag: Etag = "",
    yes: Yes = False,
) -> None:
    """Give a service token a new secret and print it; the one before goes, at once or after a grace period."""
    it = ctx.obj
    if not grace and not yes:
        must_be_interactive()
        refused = "This refuses the secret that is in use now, at once; --grace leaves time to change it everywhere."
        typer.confirm(f"{refused} Continue?", abort=True, err=True)
    request = pb.RotateServiceTokenRequest(
        organization_id=it.organization_id, service_token_id=token_id, grace=grace, etag=etag
    )
    response = it.client.service_tokens.RotateServiceToken(request)
    it.show_secret(response, client_secret=response.client_secret)


@service_tokens.command("refresh")
def refresh_service_token(ctx: Context, token_id: TokenId, etag: Etag = "") -> None:
    """Have a service token expire a year later; its secret stays."""
    it = ctx.obj
    request = pb.RefreshServiceTokenRequest(organization_id=it.organization_id, service_token_id=token_id, etag=etag)
    it.show(it.client.service_tokens.RefreshServiceToken(request))


@service_tokens.command("delete")
def delete_service_token(
    ctx: Context, token_id: TokenId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete a service token for good; registrations made with it live on."""
    it = ctx.obj
    request = pb.DeleteServiceTokenRequest(organization_id=it.organization_id, service_token_id=token_id, etag=etag)

    def would(response: pb.DeleteServiceTokenResponse) -> str:
        return (
            f"This deletes {response.service_token.display_name!r} for good."
            f" Registrations made with it stay, and cannot re-authenticate: {response.registrations}."
        )

    method = it.client.service_tokens.DeleteServiceToken
    it.done(it.destroy(method, request, would, yes, dry_run), f"{token_id} deleted")
