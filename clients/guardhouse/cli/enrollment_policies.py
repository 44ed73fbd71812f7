"""Who may enroll: enrollment policies."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

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
from guardhouse.cli.rules import EXCLUDE, INCLUDE, REQUIRE, kinds, rules_of
from guardhouse.identity.v1 import identity_pb2 as pb

app = typer.Typer(no_args_is_help=True)

KINDS = kinds(pb.EnrollmentRule)

PolicyId = Annotated[str, typer.Argument(metavar="POLICY", autocompletion=ids("enrollment_policies"))]
Decision = Literal["allow", "block", "service-auth"]

DECISION = "What becomes of those it matches."
PRECEDENCE = "Lower is tried first."
MAX_PRECEDENCE = 2**31 - 1
STEPS: Final = ("precedence", "policy", "decision", "rule", "matched", "because")


@app.command("list")
def list_policies(ctx: Context, limit: Limit = None) -> None:
    """List the enrollment policies by creation."""
    it = ctx.obj
    request = pb.ListEnrollmentPoliciesRequest(organization_id=it.organization_id)
    columns = "enrollment_policy_id display_name decision precedence include require exclude"
    it.show_all(it.client.enrollment_policies.ListEnrollmentPolicies, request, limit, columns)


@app.command("show")
def show_policy(ctx: Context, policy_id: PolicyId) -> None:
    """Show an enrollment policy."""
    it = ctx.obj
    request = pb.GetEnrollmentPolicyRequest(organization_id=it.organization_id, enrollment_policy_id=policy_id)
    it.show(it.client.enrollment_policies.GetEnrollmentPolicy(request))


@app.command("create", epilog=f"A RULE is one of: {KINDS}")
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
    response = it.client.enrollment_policies.CreateEnrollmentPolicy(request)
    it.show(response)
    _warn(response.warnings)


@app.command("update", epilog=f"A RULE is one of: {KINDS}")
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
    dry_run: DryRun = False,
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
        organization_id=it.organization_id,
        enrollment_policy=policy,
        update_mask=FieldMask(paths=paths),
        validate_only=dry_run,
    )
    response = it.client.enrollment_policies.UpdateEnrollmentPolicy(request)
    it.show(response)
    _warn(response.warnings)
    if response.stranded_registrations:
        stay = count(response.stranded_registrations, "registration")
        would = "would stay" if dry_run else "stay"
        output.note(
            f"{stay} of {count(response.stranded_users, 'user')} whom no policy would admit again {would} connected"
            f" until deleted; see guardhouse enrollment-policies stranded {policy_id}"
        )


@app.command("delete")
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


@app.command("usage")
def show_usage(ctx: Context, policy_id: PolicyId) -> None:
    """Count whom a policy admitted, as far as they still have a registration."""
    it = ctx.obj
    request = pb.GetEnrollmentPolicyUsageRequest(organization_id=it.organization_id, enrollment_policy_id=policy_id)
    it.show(it.client.enrollment_policies.GetEnrollmentPolicyUsage(request))


@app.command("stranded")
def list_stranded(ctx: Context, policy_id: PolicyId, limit: Limit = None) -> None:
    """List registrations that a policy admitted and no policy would admit again; they stay until they are deleted."""
    it = ctx.obj
    request = pb.ListStrandedRegistrationsRequest(organization_id=it.organization_id, enrollment_policy_id=policy_id)
    columns = "registration_id holder email"
    it.show_all(it.client.enrollment_policies.ListStrandedRegistrations, request, limit, columns)


@app.command("test")
def try_enrollment(
    ctx: Context,
    email: Annotated[str, typer.Option(help="Of a made-up person.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="Of a made-up person; may be repeated.")] = None,
    oidc_claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim of their ID token; may be repeated.")
    ] = None,
    auth_method: Annotated[
        list[str] | None, typer.Option(help="How they signed in, such as mfa (RFC 8176); may be repeated.")
    ] = None,
    provider: Annotated[str, typer.Option(help="Where they signed in.", autocompletion=ids("identity_providers"))] = "",
    ip: Annotated[str, typer.Option(help="The device's address.")] = "",
    country: Annotated[str, typer.Option(help="Where the device is: two letters.")] = "",
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
) -> None:
    """Say what would become of an enrollment, and what every rule makes of it. Changes nothing."""
    it = ctx.obj
    person = pb.TestIdentity(
        email=email, groups=group, oidc_claims=oidc_claim, auth_methods=auth_method, identity_provider_id=provider
    )
    if person.ByteSize():
        request = pb.TestEnrollmentRequest(identity=person)
    elif found := credential(id_token, id_token_file, client_id, client_secret, client_secret_file):
        request = pb.TestEnrollmentRequest(credential=found)
    else:
        raise typer.BadParameter("say whom to test: --email and --group, or a credential")
    request.organization_id, request.ip, request.country = it.organization_id, ip, country
    response = it.client.enrollment_policies.TestEnrollment(request)
    if it.as_json:
        output.print_json(response)
        return
    shown = ("admitted", "enrollment_policy_id", "explanation", "seat_available")
    output.print_pairs([(output.heading(name), output.cell(response, name)) for name in shown])
    output.print_line("")
    output.print_rows(STEPS, [row for step in response.trace for row in _steps(step)])


def _steps(of: pb.EnrollmentPolicyTrace) -> list[list[str]]:
    """A row for the policy, and one for each of its rules."""
    because = of.mismatch or ("it decides" if of.decides else "an earlier one decides")
    name = [str(of.precedence), of.display_name, output.cell(of, "decision")]
    rows = [[*name, output.NOTHING, output.cell(of, "matched"), because]]
    for step in of.rules:
        rule = f"{step.place} {output.cell(step, 'rule')}"
        rows.append([*[output.NOTHING] * 3, rule, output.cell(step, "matched"), step.finding])
    if of.rules_omitted:
        rows.append([*[output.NOTHING] * 5, f"and {count(of.rules_omitted, 'more rule')}"])
    return rows


def _warn(warnings: Sequence[str]) -> None:
    """Says what is done all the same, but surely not meant."""
    for warning in warnings:
        output.note(f"warning: {warning}")


def _rules(texts: Sequence[str], option: str) -> list[pb.EnrollmentRule]:
    return rules_of(pb.EnrollmentRule, texts, option)


def _last_precedence(it: Invocation) -> int:
    request = pb.ListEnrollmentPoliciesRequest(organization_id=it.organization_id)
    found = output.items(it.listed(it.client.enrollment_policies.ListEnrollmentPolicies, request))
    return max((policy.precedence for policy in found), default=0)
