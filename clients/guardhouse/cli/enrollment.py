"""Who may enroll: identity providers, service tokens and enrollment policies."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import (
    ClientId,
    ClientSecret,
    ClientSecretFile,
    DryRun,
    Etag,
    IdToken,
    IdTokenFile,
    Limit,
    Name,
    NewName,
    Yes,
    credential,
    current,
)
from guardhouse.cli.output import count
from guardhouse.cli.rules import kinds, rules_of
from guardhouse.identity.v1 import identity_pb2 as pb

identity_providers = typer.Typer(no_args_is_help=True)
service_tokens = typer.Typer(no_args_is_help=True)
policies = typer.Typer(no_args_is_help=True)

KINDS = kinds(pb.EnrollmentRule)

ProviderId = Annotated[str, typer.Argument(metavar="PROVIDER", autocompletion=ids("identity_providers"))]
TokenId = Annotated[str, typer.Argument(metavar="TOKEN", autocompletion=ids("service_tokens"))]
PolicyId = Annotated[str, typer.Argument(metavar="POLICY", autocompletion=ids("enrollment_policies"))]
Decision = Literal["allow", "block", "service-auth"]

AUDIENCE = "An audience to accept; may be repeated."
FORCED = "Whoever re-authenticates must sign in anew; an earlier sign-in does not count."
CLAIM = "A claim of its ID tokens to keep of a user, for policies; may be repeated."
INCLUDE = "One of these must match; may be repeated."
REQUIRE = "All of these must match."
EXCLUDE = "None of these may match."
DECISION = "What becomes of those it matches."
PRECEDENCE = "Lower is tried first."
MAX_PRECEDENCE = 2**31 - 1


@identity_providers.command("list")
def list_identity_providers(ctx: Context, limit: Limit = None) -> None:
    """List the identity providers."""
    it = ctx.obj
    request = pb.ListIdentityProvidersRequest(organization_id=it.organization_id)
    columns = "identity_provider_id display_name issuer client_ids force_interaction create_time"
    it.show_all(it.client.identity_providers.ListIdentityProviders, request, limit, columns)


@identity_providers.command("add")
def add_identity_provider(
    ctx: Context,
    name: Name,
    issuer: Annotated[str, typer.Option(help="Its issuer, to the letter: a URL.")],
    client_id: Annotated[list[str], typer.Option(help=AUDIENCE)],
    force_interaction: Annotated[bool, typer.Option("--force-interaction", help=FORCED)] = False,
    oidc_claim: Annotated[list[str] | None, typer.Option(help=CLAIM)] = None,
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
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays."""
    it = ctx.obj
    if oidc_claim and no_oidc_claims:
        raise typer.BadParameter("--oidc-claim and --no-oidc-claims contradict each other")
    given = {
        "display_name": name,
        "client_ids": client_id or None,
        "force_interaction": force_interaction,
        "oidc_claims": [] if no_oidc_claims else oidc_claim or None,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("name what to change: --name, --client-id, --force-interaction or --oidc-claim")
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
def list_service_tokens(ctx: Context, limit: Limit = None) -> None:
    """List the service tokens."""
    it = ctx.obj
    request = pb.ListServiceTokensRequest(organization_id=it.organization_id)
    columns = "service_token_id display_name client_id create_time expire_time"
    it.show_all(it.client.service_tokens.ListServiceTokens, request, limit, columns)


@service_tokens.command("create")
def create_service_token(
    ctx: Context,
    name: Name,
    duration: Annotated[str, typer.Option(help="How long it is valid, such as 720h. Default: 8760h.")] = "",
) -> None:
    """Create a service token and print its secret."""
    it = ctx.obj
    request = pb.CreateServiceTokenRequest(organization_id=it.organization_id, display_name=name, duration=duration)
    response = it.client.service_tokens.CreateServiceToken(request)
    it.show_secret(response, client_secret=response.client_secret)


@service_tokens.command("show")
def show_service_token(ctx: Context, token_id: TokenId) -> None:
    """Show a service token, without its secret."""
    it = ctx.obj
    request = pb.GetServiceTokenRequest(organization_id=it.organization_id, service_token_id=token_id)
    it.show(it.client.service_tokens.GetServiceToken(request))


@service_tokens.command("delete")
def delete_service_token(ctx: Context, token_id: TokenId, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Delete a service token for good; registrations made with it live on."""
    it = ctx.obj
    request = pb.DeleteServiceTokenRequest(organization_id=it.organization_id, service_token_id=token_id)

    def would(response: pb.DeleteServiceTokenResponse) -> str:
        return (
            f"This deletes {response.service_token.display_name!r} for good."
            f" Registrations made with it stay, and cannot re-authenticate: {response.registrations}."
        )

    method = it.client.service_tokens.DeleteServiceToken
    it.done(it.destroy(method, request, would, yes, dry_run), f"{token_id} deleted")


@policies.command("list")
def list_policies(ctx: Context, limit: Limit = None) -> None:
    """List the enrollment policies by creation."""
    it = ctx.obj
    request = pb.ListEnrollmentPoliciesRequest(organization_id=it.organization_id)
    columns = "enrollment_policy_id display_name decision precedence include require exclude"
    it.show_all(it.client.enrollment_policies.ListEnrollmentPolicies, request, limit, columns)


@policies.command("show")
def show_policy(ctx: Context, policy_id: PolicyId) -> None:
    """Show an enrollment policy."""
    it = ctx.obj
    request = pb.GetEnrollmentPolicyRequest(organization_id=it.organization_id, enrollment_policy_id=policy_id)
    it.show(it.client.enrollment_policies.GetEnrollmentPolicy(request))


@policies.command("create", epilog=f"A RULE is one of: {KINDS}")
def create_policy(
    ctx: Context,
    name: Name,
    include: Annotated[list[str], typer.Option(metavar="RULE", help=INCLUDE)],
    require: Annotated[list[str] | None, typer.Option(metavar="RULE", help=REQUIRE)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="RULE", help=EXCLUDE)] = None,
    decision: Annotated[Decision, typer.Option(help=DECISION)] = "allow",
    precedence: Annotated[
        int | None, typer.Option(min=1, max=MAX_PRECEDENCE, help=f"{PRECEDENCE} Default: behind all others.")
    ] = None,
) -> None:
    """Create an enrollment policy."""
    it = ctx.obj
    policy = pb.EnrollmentPolicy(
        display_name=name,
        decision=output.value(pb.EnrollmentDecision, decision),
        include=_rules(include, "--include"),
        require=_rules(require or (), "--require"),
        exclude=_rules(exclude or (), "--exclude"),
        precedence=precedence or min(_last_precedence(it) + 10, MAX_PRECEDENCE),
    )
    request = pb.CreateEnrollmentPolicyRequest(organization_id=it.organization_id, enrollment_policy=policy)
    it.show(it.client.enrollment_policies.CreateEnrollmentPolicy(request))


@policies.command("update", epilog=f"A RULE is one of: {KINDS}")
def update_policy(
    ctx: Context,
    policy_id: PolicyId,
    name: NewName = None,
    include: Annotated[list[str] | None, typer.Option(metavar="RULE", help=INCLUDE)] = None,
    require: Annotated[list[str] | None, typer.Option(metavar="RULE", help=REQUIRE)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="RULE", help=EXCLUDE)] = None,
    no_require: Annotated[bool, typer.Option("--no-require", help="Require nothing any more.")] = False,
    no_exclude: Annotated[bool, typer.Option("--no-exclude", help="Exclude nobody any more.")] = False,
    decision: Annotated[Decision | None, typer.Option(help=DECISION)] = None,
    precedence: Annotated[int | None, typer.Option(min=1, max=MAX_PRECEDENCE, help=PRECEDENCE)] = None,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays. Rules replace all of their kind. Existing registrations live on."""
    it = ctx.obj
    for rules, none, option in ((require, no_require, "--require"), (exclude, no_exclude, "--exclude")):
        if rules and none:
            raise typer.BadParameter(f"it contradicts --no-{option[2:]}", param_hint=option)
    changes = {
        "display_name": name,
        "include": _rules(include or (), "--include"),
        "require": _rules(require or (), "--require"),
        "exclude": _rules(exclude or (), "--exclude"),
        "decision": output.value(pb.EnrollmentDecision, decision) if decision else None,
        "precedence": precedence,
    }
    changes = {field: value for field, value in changes.items() if value}
    emptied = [field for field, none in (("require", no_require), ("exclude", no_exclude)) if none]
    paths = [*changes, *emptied]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse enrollment-policies update --help")
    policy = pb.EnrollmentPolicy(enrollment_policy_id=policy_id, **changes)  # type: ignore[arg-type]  # as its field's
    read = pb.GetEnrollmentPolicyRequest(organization_id=it.organization_id, enrollment_policy_id=policy_id)
    policy.etag = current(etag, lambda: it.client.enrollment_policies.GetEnrollmentPolicy(read).enrollment_policy)
    request = pb.UpdateEnrollmentPolicyRequest(
        organization_id=it.organization_id, enrollment_policy=policy, update_mask=FieldMask(paths=paths)
    )
    it.show(it.client.enrollment_policies.UpdateEnrollmentPolicy(request))


@policies.command("delete")
def delete_policy(
    ctx: Context, policy_id: PolicyId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete an enrollment policy; existing registrations live on."""
    it = ctx.obj
    request = pb.DeleteEnrollmentPolicyRequest(
        organization_id=it.organization_id, enrollment_policy_id=policy_id, etag=etag
    )

    def would(response: pb.DeleteEnrollmentPolicyResponse) -> str:
        return (
            f"This deletes {response.enrollment_policy.display_name!r}."
            f" Registrations that it admitted stay: {response.registrations}."
        )

    method = it.client.enrollment_policies.DeleteEnrollmentPolicy
    it.done(it.destroy(method, request, would, yes, dry_run), f"{policy_id} deleted")


@policies.command("test")
def try_enrollment(
    ctx: Context,
    email: Annotated[str, typer.Option(help="Of a made-up person.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="Of a made-up person; may be repeated.")] = None,
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
) -> None:
    """Say what would become of an enrollment, and why. Changes nothing."""
    it = ctx.obj
    if email or group:
        request = pb.TestEnrollmentRequest(identity=pb.TestIdentity(email=email, groups=group))
    elif found := credential(id_token, id_token_file, client_id, client_secret, client_secret_file):
        request = pb.TestEnrollmentRequest(credential=found)
    else:
        raise typer.BadParameter("say whom to test: --email and --group, or a credential")
    request.organization_id = it.organization_id
    it.show(it.client.enrollment_policies.TestEnrollment(request))


def _rules(texts: Sequence[str], option: str) -> list[pb.EnrollmentRule]:
    return rules_of(pb.EnrollmentRule, texts, option)


def _last_precedence(it: Invocation) -> int:
    request = pb.ListEnrollmentPoliciesRequest(organization_id=it.organization_id)
    found = output.items(it.listed(it.client.enrollment_policies.ListEnrollmentPolicies, request))
    return max((policy.precedence for policy in found), default=0)
