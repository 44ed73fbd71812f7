"""What the system would have done to many users at once, and waits for somebody to decide."""

from typing import Annotated

import typer

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import DryRun, Limit, Yes
from guardhouse.cli.output import count
from guardhouse.identity.v1 import identity_pb2 as pb

app = typer.Typer(no_args_is_help=True)

HeldActionId = Annotated[
    str, typer.Argument(metavar="HELD-ACTION", autocompletion=ids("held_actions", "source"), show_default=False)
]


@app.command("list")
def list_held_actions(ctx: Context, limit: Limit = None) -> None:
    """List what waits, and what was decided in the last 30 days."""
    it = ctx.obj
    request = pb.ListHeldActionsRequest(organization_id=it.organization_id)
    columns = "held_action_id source effect state users users_done create_time"
    it.show_all(it.client.held_actions.ListHeldActions, request, limit, columns)


@app.command("approve")
def approve_held_action(ctx: Context, held_action_id: HeldActionId, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Have it done. Users who have signed in meanwhile are left out."""
    it = ctx.obj
    request = pb.ApproveHeldActionRequest(organization_id=it.organization_id, held_action_id=held_action_id)

    def would(response: pb.ApproveHeldActionResponse) -> str:
        held = response.held_action
        if held.effect == pb.HELD_EFFECT_REVOKE:
            return f"This ends the sessions of {count(held.users, 'user')}, as {held.source} asked."
        return (
            f"This removes {count(held.users, 'user')}, as {held.source} asked: their seats are freed, their"
            " registrations deleted and their addresses released for good."
        )

    it.show(it.destroy(it.client.held_actions.ApproveHeldAction, request, would, yes, dry_run))
    output.note("It is carried out in parts; guardhouse held-actions list says how far it has come.")


@app.command("reject")
def reject_held_action(ctx: Context, held_action_id: HeldActionId) -> None:
    """Drop it: nothing is done. Its source may ask for it again."""
    it = ctx.obj
    request = pb.RejectHeldActionRequest(organization_id=it.organization_id, held_action_id=held_action_id)
    it.show(it.client.held_actions.RejectHeldAction(request))
