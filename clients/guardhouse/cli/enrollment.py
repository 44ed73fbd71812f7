"""Who may enroll: identity providers, service tokens and enrollment policies."""

from typing import Annotated, Literal

import typer

from guardhouse.cli import output
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import (
    ClientId,
    ClientSecret,
    ClientSecretFile,
    IdToken,
    IdTokenFile,
    Limit,
    Name,
    Yes,
    credential,
)
from guardhouse.identity.v1 import identity_pb2 as pb

identity_providers = typer.Typer(no_args_is_help=True, help="Where people sign in (OpenID Connect).")
service_tokens = typer.Typer(no_args_is_help=True, help="Credentials of machines.")
policies = typer.Typer(no_args_is_help=True, help="Who may enroll a device.")

KINDS = ", ".join(
    name.replace("_", "-") + ("=..." if field.message_type is None else "")
    for name, field in pb.EnrollmentRule.DESCRIPTOR.fields_by_name.items()
)

ProviderId = Annotated[str, typer.Argument(metavar="PROVIDER")]
TokenId = Annotated[str, typer.Argument(metavar="TOKEN")]
PolicyId = Annotated[str, typer.Argument(metavar="POLICY")]


@identity_providers.command("list")
def list_identity_providers(ctx: Context, limit: Limit = None) -> None:
    """List the identity providers."""
    it = ctx.obj
    request = pb.ListIdentityProvidersRequest(organization_id=it.organization_id)
    columns = "identity_provider_id display_name issuer client_ids create_time"
    it.show_all(it.client.identity_providers.ListIdentityProviders, request, limit, columns)


@identity_providers.command("add")
def add_identity_provider(
    ctx: Context,
    name: Name,
    issuer: Annotated[str, typer.Option(help="Its issuer, to the letter: a URL.")],
    client_id: Annotated[list[str], typer.Option(help="An audience to accept; may be repeated.")],
) -> None:
    """Accept the ID tokens of an identity provider."""
    it = ctx.obj
    request = pb.CreateIdentityProviderRequest(
        organization_id=it.organization_id,
        identity_provider=pb.IdentityProvider(display_name=name, issuer=issuer, client_ids=client_id),
    )
    it.show(it.client.identity_providers.CreateIdentityProvider(request))


@identity_providers.command("delete")
def delete_identity_provider(ctx: Context, provider_id: ProviderId, yes: Yes = False) -> None:
    """Refuse an identity provider's tokens from now on; users, seats and registrations stay."""
    it = ctx.obj
    organization_id = it.organization_id
    it.confirm(f"Delete {provider_id}? Its people can no longer enroll or re-authenticate.", yes)
    request = pb.DeleteIdentityProviderRequest(organization_id=organization_id, identity_provider_id=provider_id)
    it.done(it.client.identity_providers.DeleteIdentityProvider(request), f"{provider_id} deleted")


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


@service_tokens.command("delete")
def delete_service_token(ctx: Context, token_id: TokenId, yes: Yes = False) -> None:
    """Delete a service token for good; registrations made with it live on."""
    it = ctx.obj
    organization_id = it.organization_id
    it.confirm(f"Delete {token_id} for good?", yes)
    request = pb.DeleteServiceTokenRequest(organization_id=organization_id, service_token_id=token_id)
    it.done(it.client.service_tokens.DeleteServiceToken(request), f"{token_id} deleted")


@policies.command("list")
def list_policies(ctx: Context, limit: Limit = None) -> None:
    """List the enrollment policies by creation."""
    it = ctx.obj
    request = pb.ListEnrollmentPoliciesRequest(organization_id=it.organization_id)
    columns = "enrollment_policy_id display_name decision precedence include require exclude"
    it.show_all(it.client.enrollment_policies.ListEnrollmentPolicies, request, limit, columns)


@policies.command("create", epilog=f"A RULE is one of: {KINDS}")
def create_policy(
    ctx: Context,
    name: Name,
    include: Annotated[list[str], typer.Option(metavar="RULE", help="One of these must match; may be repeated.")],
    require: Annotated[list[str] | None, typer.Option(metavar="RULE", help="All of these must match.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="RULE", help="None of these may match.")] = None,
    decision: Annotated[
        Literal["allow", "block", "service-auth"], typer.Option(help="What becomes of those it matches.")
    ] = "allow",
    precedence: Annotated[
        int | None, typer.Option(min=1, help="Lower is tried first. Default: behind all others.")
    ] = None,
) -> None:
    """Create an enrollment policy."""
    it = ctx.obj
    policy = pb.EnrollmentPolicy(
        display_name=name,
        decision=output.value(pb.EnrollmentDecision, decision),
        include=[_rule(text, "--include") for text in include],
        require=[_rule(text, "--require") for text in require or ()],
        exclude=[_rule(text, "--exclude") for text in exclude or ()],
        precedence=precedence or _last_precedence(it) + 10,
    )
    request = pb.CreateEnrollmentPolicyRequest(organization_id=it.organization_id, enrollment_policy=policy)
    it.show(it.client.enrollment_policies.CreateEnrollmentPolicy(request))


@policies.command("delete")
def delete_policy(ctx: Context, policy_id: PolicyId, yes: Yes = False) -> None:
    """Delete an enrollment policy; existing registrations live on."""
    it = ctx.obj
    organization_id = it.organization_id
    it.confirm(f"Delete {policy_id}?", yes)
    request = pb.DeleteEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy_id=policy_id)
    it.done(it.client.enrollment_policies.DeleteEnrollmentPolicy(request), f"{policy_id} deleted")


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


def _rule(text: str, option: str) -> pb.EnrollmentRule:
    """A rule as `email=alice@example.com` or `everyone`: a field of EnrollmentRule, with dashes."""
    name, _, value = text.partition("=")
    field = pb.EnrollmentRule.DESCRIPTOR.fields_by_name.get(name.replace("-", "_"))
    if field is None or (field.message_type is None) != bool(value):
        raise typer.BadParameter(f"{text!r} is no rule; a rule is one of {KINDS}", param_hint=option)
    rule = pb.EnrollmentRule()
    if field.message_type is None:
        setattr(rule, field.name, value)
    else:
        getattr(rule, field.name).SetInParent()
    return rule


def _last_precedence(it: Invocation) -> int:
    request = pb.ListEnrollmentPoliciesRequest(organization_id=it.organization_id)
    found = output.items(it.pages(it.client.enrollment_policies.ListEnrollmentPolicies, request))
    return max((policy.precedence for policy in found), default=0)
