"""What the system would have done to many users or registrations at once, and waits for somebody to decide."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import DryRun, Limit, Yes
from guardhouse.cli.output import count
from guardhouse.errors import HeldActionNotFound
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry

app = typer.Typer(no_args_is_help=True)

HeldActionId = Annotated[
    str, typer.Argument(metavar="HELD-ACTION", autocompletion=ids("held_actions", "source"), show_default=False)
]
COLUMNS = "held_action_id source effect state subjects done create_time"
_EFFECTS = {identity.HELD_EFFECT_REMOVE: "remove", identity.HELD_EFFECT_REVOKE: "revoke"}


@app.command("list")
def list_held_actions(ctx: Context, limit: Limit = None) -> None:
    """List what waits, and what was decided in the last 30 days: of users, then of registrations."""
    it = ctx.obj
    of_users: Any = it.listed(
        it.client.held_actions.ListHeldActions,
        identity.ListHeldActionsRequest(organization_id=it.organization_id),
        limit,
    )
    of_registrations: Any = it.listed(
        it.client.held_deletions.ListHeldActions,
        registry.ListHeldActionsRequest(organization_id=it.organization_id),
        limit,
    )
    if it.as_json:
        held_deletions = output.as_dict(of_registrations)["held_actions"]
        output.print_json({**output.as_dict(of_users), "held_deletions": held_deletions})
        return
    rows = [_row(held, _EFFECTS.get(held.effect, ""), held.users, held.users_done) for held in of_users.held_actions]
    rows += [
        _row(held, "delete", held.registrations, held.registrations_done) for held in of_registrations.held_actions
    ]
    output.print_rows([output.heading(name) for name in COLUMNS.split()], rows)
    if not rows:
        output.note("There is none.")


@app.command("approve")
def approve_held_action(ctx: Context, held_action_id: HeldActionId, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Have it done. Users and registrations that have been heard of meanwhile are left out."""
    it = ctx.obj
    organization_id = it.organization_id

    def of_users() -> None:
        request = identity.ApproveHeldActionRequest(organization_id=organization_id, held_action_id=held_action_id)
        it.show(it.destroy(it.client.held_actions.ApproveHeldAction, request, _would_remove, yes, dry_run))

    def of_registrations() -> None:
        request = registry.ApproveHeldActionRequest(organization_id=organization_id, held_action_id=held_action_id)
        it.show(it.destroy(it.client.held_deletions.ApproveHeldAction, request, _would_delete, yes, dry_run))

    _whichever(of_users, of_registrations)
    output.note("It is carried out in parts; guardhouse held-actions list says how far it has come.")


@app.command("reject")
def reject_held_action(ctx: Context, held_action_id: HeldActionId) -> None:
    """Drop it: nothing is done. Its source may ask for it again."""
    it = ctx.obj
    organization_id = it.organization_id

    def of_users() -> None:
        request = identity.RejectHeldActionRequest(organization_id=organization_id, held_action_id=held_action_id)
        it.show(it.client.held_actions.RejectHeldAction(request))

    def of_registrations() -> None:
        request = registry.RejectHeldActionRequest(organization_id=organization_id, held_action_id=held_action_id)
        it.show(it.client.held_deletions.RejectHeldAction(request))

    _whichever(of_users, of_registrations)


def _whichever(of_users: Callable[[], None], of_registrations: Callable[[], None]) -> None:
    """An id does not say which service holds the action; both are asked before it is said that there is none."""
    try:
        of_users()
    except HeldActionNotFound:
        of_registrations()


def _row(held: identity.HeldAction | registry.HeldAction, effect: str, subjects: int, done: int) -> list[str]:
    shown = {"effect": effect, "subjects": str(subjects), "done": str(done)}
    return [shown[name] if name in shown else output.cell(held, name) for name in COLUMNS.split()]


def _would_remove(response: identity.ApproveHeldActionResponse) -> str:
    held = response.held_action
    if held.effect == identity.HELD_EFFECT_REVOKE:
        return f"This ends the sessions of {count(held.users, 'user')}, as {held.source} asked."
    return (
        f"This removes {count(held.users, 'user')}, as {held.source} asked: their seats are freed, their"
        " registrations deleted and their addresses released for good."
    )


def _would_delete(response: registry.ApproveHeldActionResponse) -> str:
    held = response.held_action
    return (
        f"This deletes {count(held.registrations, 'registration')} for good, as they are {held.source}, and releases"
        " their addresses."
    )
