"""Rules that enrollment policies share."""

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import DryRun, Etag, Limit, Name, NewName, Yes, current
from guardhouse.cli.rules import EXCLUDE, INCLUDE, REQUIRE, kinds, rules_of
from guardhouse.identity.v1 import identity_pb2 as pb

app = typer.Typer(no_args_is_help=True)

KINDS = kinds(pb.EnrollmentRule)

GroupId = Annotated[str, typer.Argument(metavar="GROUP", autocompletion=ids("rule_groups"))]


@app.command("list")
def list_groups(ctx: Context, limit: Limit = None) -> None:
    """List the rule groups by creation."""
    it = ctx.obj
    request = pb.ListRuleGroupsRequest(organization_id=it.organization_id)
    it.show_all(
        it.client.rule_groups.ListRuleGroups, request, limit, "rule_group_id display_name include require exclude"
    )


@app.command("show")
def show_group(ctx: Context, group_id: GroupId) -> None:
    """Show a rule group."""
    it = ctx.obj
    request = pb.GetRuleGroupRequest(organization_id=it.organization_id, rule_group_id=group_id)
    it.show(it.client.rule_groups.GetRuleGroup(request))


@app.command("create", epilog=f"A RULE is one of: {KINDS}; none of service tokens, none of groups.")
def create_group(
    ctx: Context,
    name: Name,
    include: Annotated[list[str], typer.Option(metavar="RULE", help=INCLUDE)],
    require: Annotated[list[str] | None, typer.Option(metavar="RULE", help=REQUIRE)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="RULE", help=EXCLUDE)] = None,
) -> None:
    """Create a rule group; a policy names it by a rule rule-group-id=GROUP."""
    it = ctx.obj
    group = pb.RuleGroup(
        display_name=name,
        include=rules_of(pb.EnrollmentRule, include, "--include"),
        require=rules_of(pb.EnrollmentRule, require or (), "--require"),
        exclude=rules_of(pb.EnrollmentRule, exclude or (), "--exclude"),
    )
    request = pb.CreateRuleGroupRequest(organization_id=it.organization_id, rule_group=group)
    it.show(it.client.rule_groups.CreateRuleGroup(request))


@app.command("update", epilog=f"A RULE is one of: {KINDS}; none of service tokens, none of groups.")
def update_group(
    ctx: Context,
    group_id: GroupId,
    name: NewName = None,
    include: Annotated[list[str] | None, typer.Option(metavar="RULE", help=INCLUDE)] = None,
    require: Annotated[list[str] | None, typer.Option(metavar="RULE", help=REQUIRE)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="RULE", help=EXCLUDE)] = None,
    no_require: Annotated[bool, typer.Option("--no-require", help="Require nothing any more.")] = False,
    no_exclude: Annotated[bool, typer.Option("--no-exclude", help="Exclude nobody any more.")] = False,
    etag: Etag = "",
) -> None:
    """Change what is named, for whoever enrolls next; the rest stays. Rules replace all of their kind."""
    it = ctx.obj
    for rules, none, option in ((require, no_require, "--require"), (exclude, no_exclude, "--exclude")):
        if rules and none:
            raise typer.BadParameter(f"it contradicts --no-{option[2:]}", param_hint=option)
    group = pb.RuleGroup(
        rule_group_id=group_id,
        display_name=name or "",
        include=rules_of(pb.EnrollmentRule, include or (), "--include"),
        require=rules_of(pb.EnrollmentRule, require or (), "--require"),
        exclude=rules_of(pb.EnrollmentRule, exclude or (), "--exclude"),
    )
    changed = {"display_name": name, "include": include, "require": require or no_require}
    paths = [field for field, given in {**changed, "exclude": exclude or no_exclude}.items() if given]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse rule-groups update --help")
    read = pb.GetRuleGroupRequest(organization_id=it.organization_id, rule_group_id=group_id)
    group.etag = current(etag, lambda: it.client.rule_groups.GetRuleGroup(read).rule_group)
    request = pb.UpdateRuleGroupRequest(
        organization_id=it.organization_id, rule_group=group, update_mask=FieldMask(paths=paths)
    )
    it.show(it.client.rule_groups.UpdateRuleGroup(request))


@app.command("delete")
def delete_group(ctx: Context, group_id: GroupId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False) -> None:
    """Delete a rule group that no policy names."""
    it = ctx.obj
    request = pb.DeleteRuleGroupRequest(organization_id=it.organization_id, rule_group_id=group_id, etag=etag)

    def would(response: pb.DeleteRuleGroupResponse) -> str:
        return f"This deletes {response.rule_group.display_name!r}, which no policy names."

    method = it.client.rule_groups.DeleteRuleGroup
    it.done(it.destroy(method, request, would, yes, dry_run), f"{group_id} deleted")
