"""Gateway policies, and the sessions that they limit."""

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
    PolicyId,
    RegistrationId,
    Yes,
    credential,
    current,
    required,
)
from guardhouse.durations import format_duration, parse_session_timeout
from guardhouse.errors import DurationInvalid, GuardhouseError
from guardhouse.session.v1 import session_pb2 as pb

app = typer.Typer(no_args_is_help=True)
sessions = typer.Typer(no_args_is_help=True)

Filter = Literal["l4", "http", "dns"]
Action = Literal["allow", "block"]

FILTER = "The kind of traffic."
ACTION = "What becomes of it."
TIMEOUT = "How old a session may be, such as 8h. On l4 and http policies that allow."
STALENESS = (
    "What it decides while the state cannot be proven fresh: closed refuses; open:1h decides by the last proven state"
    " for at most as long."
)


def staleness_of(text: str) -> pb.Staleness:
    """`closed`, or `open:` and a duration."""
    mode, _, max_open = text.partition(":")
    if text == "closed":
        return pb.Staleness(mode=pb.STALENESS_MODE_CLOSED)
    if mode == "open" and max_open:
        return pb.Staleness(mode=pb.STALENESS_MODE_OPEN_BOUNDED, max_open=max_open)
    raise typer.BadParameter(f"{text!r} is neither closed nor open: and a duration, such as open:1h")


NewStaleness = Annotated[
    pb.Staleness | None,
    typer.Option("--staleness", parser=staleness_of, metavar="closed|open:DURATION", help=STALENESS),
]


@app.command("list")
def list_policies(ctx: Context, limit: Limit = None) -> None:
    """List the policies."""
    it = ctx.obj
    request = pb.ListPoliciesRequest(organization_id=it.organization_id)
    columns = "policy_id display_name enabled filter action check_session staleness update_time"
    it.show_all(it.client.policies.ListPolicies, request, limit, columns)


@app.command("show")
def show_policy(ctx: Context, policy_id: PolicyId) -> None:
    """Show a policy."""
    it = ctx.obj
    it.show(it.client.policies.GetPolicy(pb.GetPolicyRequest(organization_id=it.organization_id, policy_id=policy_id)))


@app.command("create")
def create_policy(
    ctx: Context,
    name: Name,
    filter_: Annotated[Filter, typer.Option("--filter", help=FILTER)] = "l4",
    action: Annotated[Action, typer.Option(help=ACTION)] = "allow",
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help=f"{TIMEOUT} Default: unlimited.")] = None,
    staleness: NewStaleness = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    disabled: Annotated[bool, typer.Option("--disabled", help="Let it cover nothing yet.")] = False,
) -> None:
    """Create a policy."""
    it = ctx.obj
    policy = pb.Policy(
        display_name=name,
        description=description,
        enabled=not disabled,
        filter=output.value(pb.PolicyFilter, filter_),
        action=output.value(pb.PolicyAction, action),
        check_session=pb.CheckSession(enforce=True, duration=timeout) if timeout is not None else None,
        staleness=staleness,
    )
    request = pb.CreatePolicyRequest(organization_id=it.organization_id, policy=policy)
    it.show(it.client.policies.CreatePolicy(request))


@app.command("update")
def update_policy(
    ctx: Context,
    policy_id: PolicyId,
    name: NewName = None,
    filter_: Annotated[Filter | None, typer.Option("--filter", help=FILTER)] = None,
    action: Annotated[Action | None, typer.Option(help=ACTION)] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help=TIMEOUT)] = None,
    no_timeout: Annotated[bool, typer.Option("--no-timeout", help="Limit sessions no longer.")] = False,
    staleness: NewStaleness = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it covers anything.")] = None,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays. A shorter timeout acts on existing sessions."""
    it = ctx.obj
    if timeout is not None and no_timeout:
        raise typer.BadParameter("it contradicts --no-timeout", param_hint="--timeout")
    changes = {
        "display_name": name,
        "description": description,
        "enabled": enabled,
        "filter": output.value(pb.PolicyFilter, filter_) if filter_ else None,
        "action": output.value(pb.PolicyAction, action) if action else None,
        "check_session": pb.CheckSession(enforce=True, duration=timeout) if timeout is not None else None,
        "staleness": staleness,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    paths = [*changes, "check_session"] if no_timeout else [*changes]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse policies update --help")
    policy = pb.Policy(policy_id=policy_id, **changes)  # type: ignore[arg-type]  # each has its field's type
    read = pb.GetPolicyRequest(organization_id=it.organization_id, policy_id=policy_id)
    policy.etag = current(etag, lambda: it.client.policies.GetPolicy(read).policy)
    request = pb.UpdatePolicyRequest(
        organization_id=it.organization_id, policy=policy, update_mask=FieldMask(paths=paths)
    )
    it.show(it.client.policies.UpdatePolicy(request))


@app.command("set-timeout")
def set_timeout(
    ctx: Context,
    duration: Annotated[str, typer.Argument(metavar="DURATION", help="How old a session may be, such as 12h.")],
    policy_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[POLICY]...", autocompletion=ids("policies"), show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Of every l4 and http policy that allows.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Set the timeout of some policies, or of all that may have one. A shorter one acts on existing sessions."""
    it = ctx.obj
    if every == bool(policy_ids):
        raise typer.BadParameter("name the policies, or say --all for every one that may have a timeout")
    try:
        timeout = format_duration(parse_session_timeout(duration, "DURATION"))
    except DurationInvalid as error:
        raise typer.BadParameter(str(error), param_hint="DURATION") from None
    found = _all_that_allow(it) if every else [_read(it, policy_id) for policy_id in policy_ids or ()]
    wanted = pb.CheckSession(enforce=True, duration=timeout)
    others = [policy for policy in found if policy.check_session != wanted]
    changed = others if dry_run else _set(it, others, wanted)
    if it.as_json:
        output.print_json(pb.ListPoliciesResponse(policies=changed))
    elif dry_run:
        output.print_table(others, "policy_id display_name enabled filter check_session")
        output.note(f"This would set {timeout} on {output.count(len(others), 'policy')}.")
    else:
        output.print_line(f"{output.count(len(changed), 'policy')} changed to {timeout}")


def _all_that_allow(it: Invocation) -> list[pb.Policy]:
    """The policies that may have a timeout (decision 28)."""
    request = pb.ListPoliciesRequest(organization_id=it.organization_id)
    listed = it.listed(it.client.policies.ListPolicies, request)
    filters = (pb.POLICY_FILTER_L4, pb.POLICY_FILTER_HTTP)
    return [
        policy
        for policy in listed.policies  # type: ignore[attr-defined]
        if policy.filter in filters and policy.action == pb.POLICY_ACTION_ALLOW
    ]


def _read(it: Invocation, policy_id: str) -> pb.Policy:
    request = pb.GetPolicyRequest(organization_id=it.organization_id, policy_id=policy_id)
    return it.client.policies.GetPolicy(request).policy


def _set(it: Invocation, policies: Sequence[pb.Policy], wanted: pb.CheckSession) -> list[pb.Policy]:
    """Each as long as nobody has changed it since it was read; whoever is told of one that was begins again."""
    changed: list[pb.Policy] = []
    with output.progress() as bars:
        task = bars.add_task("Setting timeouts", total=len(policies))
        for policy in policies:
            request = pb.UpdatePolicyRequest(
                organization_id=it.organization_id,
                policy=pb.Policy(policy_id=policy.policy_id, check_session=wanted, etag=policy.etag),
                update_mask=FieldMask(paths=["check_session"]),
            )
            try:
                changed.append(it.client.policies.UpdatePolicy(request).policy)
            except GuardhouseError:
                output.error(
                    f"{len(changed)} of {len(policies)} were changed, and {policy.policy_id} was not, because of what"
                    " follows; the same command goes on with the rest"
                )
                raise
            bars.update(task, completed=len(changed))
    return changed


@app.command("delete")
def delete_policy(
    ctx: Context, policy_id: PolicyId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Delete a policy; checks that name it are refused from now on."""
    it = ctx.obj
    request = pb.DeletePolicyRequest(organization_id=it.organization_id, policy_id=policy_id, etag=etag)

    def would(response: pb.DeletePolicyResponse) -> str:
        return f"This deletes {response.policy.display_name!r}: checks that name it are refused from then on."

    response = it.destroy(it.client.policies.DeletePolicy, request, would, yes, dry_run)
    it.done(response, f"{policy_id} deleted")


@sessions.command("show")
def show_session(ctx: Context, registration_id: RegistrationId) -> None:
    """Show a registration's session."""
    it = ctx.obj
    request = pb.GetSessionRequest(organization_id=it.organization_id, registration_id=registration_id)
    it.show(it.client.sessions.GetSession(request))


@sessions.command("reauthenticate")
def reauthenticate(
    ctx: Context,
    registration_id: RegistrationId,
    id_token: IdToken = None,
    id_token_file: IdTokenFile = None,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    client_secret_file: ClientSecretFile = None,
) -> None:
    """Start a registration's timer anew, with a credential of whoever holds it."""
    it = ctx.obj
    found = required(credential(id_token, id_token_file, client_id, client_secret, client_secret_file))
    request = pb.ReauthenticateRequest(
        organization_id=it.organization_id, registration_id=registration_id, credential=found
    )
    response = it.client.sessions.Reauthenticate(request)
    it.done(response, f"{registration_id} authenticated at {output.local_time(response.authenticate_time)}")
