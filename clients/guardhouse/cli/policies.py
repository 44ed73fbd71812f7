"""Gateway policies."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli import output, terraform, trials
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import (
    DryRun,
    Etag,
    Limit,
    Name,
    NewName,
    PolicyId,
    PolicyIds,
    Yes,
    current,
    later,
    listed,
)
from guardhouse.cli.schedule import Spans, TimeZone, schedule_of
from guardhouse.durations import format_duration, parse_session_timeout
from guardhouse.errors import DurationInvalid, GuardhouseError
from guardhouse.session.v1 import session_pb2 as pb

app = typer.Typer(no_args_is_help=True)

Filter = Literal["l4", "http", "dns"]
Action = Literal["allow", "block"]

FILTER = "The kind of traffic."
ACTION = "What becomes of it."
PRECEDENCE = "Of a filter's policies the lowest is tried first."
TRAFFIC = "Which traffic it covers, such as 'net.dst.ip in {10.0.0.0/8}'."
IDENTITY = "Whose, such as 'identity.email == \"alice@example.com\"'."
DEVICE_POSTURE = "From which devices, such as 'any(device_posture.checks.passed[*] in {\"disk\"})'."
MAX_PRECEDENCE = 1_000_000
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


ExpireTime = Annotated[
    Timestamp | None,
    typer.Option(
        parser=later,
        metavar="TIME",
        help="When it covers nothing any more: a time, or 24h for in a day. On dns policies.",
    ),
]
NewStaleness = Annotated[
    pb.Staleness | None,
    typer.Option("--staleness", parser=staleness_of, metavar="closed|open:DURATION", help=STALENESS),
]


@app.command("list")
def list_policies(ctx: Context, limit: Limit = None) -> None:
    """List the policies in the order of evaluation: l4 before http, by precedence."""
    it = ctx.obj
    request = pb.ListPoliciesRequest(organization_id=it.organization_id)
    # The server lists them by creation, so all are read before the first is shown.
    found = output.items(it.listed(it.client.policies.ListPolicies, request))
    ordered = sorted(found, key=_place)
    _show_all(it, pb.ListPoliciesResponse(policies=ordered[:limit]))


def _place(policy: pb.Policy) -> tuple[int, bool, int, str]:
    """In the order of evaluation. One without a precedence comes behind those that have one."""
    return policy.filter, not policy.HasField("precedence"), policy.precedence, policy.policy_id


def _show_all(it: Invocation, response: pb.ListPoliciesResponse | pb.ReorderPoliciesResponse) -> None:
    if it.as_json:
        output.print_json(response)
    else:
        columns = "policy_id display_name enabled filter precedence action check_session staleness"
        output.print_table(response.policies, f"{columns} traffic identity device_posture")


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
    precedence: Annotated[
        int | None, typer.Option(min=1, max=MAX_PRECEDENCE, help=f"{PRECEDENCE} Default: behind all others.")
    ] = None,
    traffic: Annotated[str, typer.Option(metavar="EXPRESSION", help=f"{TRAFFIC} Default: all.")] = "",
    identity: Annotated[str, typer.Option(metavar="EXPRESSION", help=f"{IDENTITY} Default: everybody's.")] = "",
    device_posture: Annotated[str, typer.Option(metavar="EXPRESSION", help=f"{DEVICE_POSTURE} Default: all.")] = "",
    schedule: Spans = None,
    time_zone: TimeZone = None,
    expire_time: ExpireTime = None,
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
        precedence=precedence,
        traffic=traffic,
        identity=identity,
        device_posture=device_posture,
        schedule=schedule_of(schedule, time_zone),
        expire_time=expire_time,
    )
    request = pb.CreatePolicyRequest(organization_id=it.organization_id, policy=policy)
    response = it.client.policies.CreatePolicy(request)
    it.show(response)
    _warn(response.warnings)


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
    precedence: Annotated[int | None, typer.Option(min=1, max=MAX_PRECEDENCE, help=PRECEDENCE)] = None,
    traffic: Annotated[str | None, typer.Option(metavar="EXPRESSION", help=TRAFFIC)] = None,
    no_traffic: Annotated[bool, typer.Option("--no-traffic", help="Cover all traffic.")] = False,
    identity: Annotated[str | None, typer.Option(metavar="EXPRESSION", help=IDENTITY)] = None,
    no_identity: Annotated[bool, typer.Option("--no-identity", help="Cover everybody's.")] = False,
    device_posture: Annotated[str | None, typer.Option(metavar="EXPRESSION", help=DEVICE_POSTURE)] = None,
    no_device_posture: Annotated[bool, typer.Option("--no-device-posture", help="Cover all devices.")] = False,
    schedule: Spans = None,
    time_zone: TimeZone = None,
    no_schedule: Annotated[bool, typer.Option("--no-schedule", help="Let it be in force always.")] = False,
    expire_time: ExpireTime = None,
    no_expire_time: Annotated[bool, typer.Option("--no-expire-time", help="Let it be in force for good.")] = False,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it covers anything.")] = None,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays. A shorter timeout acts on existing sessions."""
    it = ctx.obj
    changes = {
        "display_name": name,
        "description": description,
        "enabled": enabled,
        "filter": output.value(pb.PolicyFilter, filter_) if filter_ else None,
        "action": output.value(pb.PolicyAction, action) if action else None,
        "check_session": pb.CheckSession(enforce=True, duration=timeout) if timeout is not None else None,
        "staleness": staleness,
        "precedence": precedence,
        "traffic": traffic,
        "identity": identity,
        "device_posture": device_posture,
        "schedule": schedule_of(schedule, time_zone),
        "expire_time": expire_time,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    emptied = {
        "check_session": no_timeout,
        "traffic": no_traffic,
        "identity": no_identity,
        "device_posture": no_device_posture,
        "schedule": no_schedule,
        "expire_time": no_expire_time,
    }
    for field in (field for field, empty in emptied.items() if empty and field in changes):
        option = "timeout" if field == "check_session" else field.replace("_", "-")
        raise typer.BadParameter(f"it contradicts --no-{option}", param_hint=f"--{option}")
    paths = [*changes, *(field for field, empty in emptied.items() if empty)]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse policies update --help")
    policy = pb.Policy(policy_id=policy_id, **changes)  # type: ignore[arg-type]  # each has its field's type
    read = pb.GetPolicyRequest(organization_id=it.organization_id, policy_id=policy_id)
    policy.etag = current(etag, lambda: it.client.policies.GetPolicy(read).policy)
    request = pb.UpdatePolicyRequest(
        organization_id=it.organization_id, policy=policy, update_mask=FieldMask(paths=paths)
    )
    response = it.client.policies.UpdatePolicy(request)
    it.show(response)
    _warn(response.warnings)


def _warn(warnings: Sequence[pb.PolicyWarning]) -> None:
    """Says what is done all the same, but probably not meant."""
    for warning in warnings:
        column = f", column {warning.column}" if warning.column else ""
        output.note(f"warning: {warning.field}{column}: {warning.message}")


@app.command("reorder")
def reorder_policies(ctx: Context, policy_ids: PolicyIds) -> None:
    """Put policies into an order: those that are named share out the precedences that they have."""
    it = ctx.obj
    request = pb.ReorderPoliciesRequest(organization_id=it.organization_id, policy_ids=listed(policy_ids))
    _show_all(it, it.client.policies.ReorderPolicies(request))


app.command("test")(trials.try_policies)


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


app.command("import")(terraform.import_policies)
app.command("export")(terraform.export_policies)
