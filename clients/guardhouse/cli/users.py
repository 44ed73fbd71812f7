"""Users and seats."""

import time
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from guardhouse.cli import output
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import Limit, Yes
from guardhouse.identity.v1 import identity_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="People who have authenticated at least once.")

UserId = Annotated[str, typer.Argument(metavar="USER")]


@app.command("list")
def list_users(
    ctx: Context,
    email: Annotated[str, typer.Option(help="Only those with this address.")] = "",
    seat: Annotated[Literal["active", "inactive"] | None, typer.Option(help="Only those with or without one.")] = None,
    limit: Limit = None,
) -> None:
    """List the users, removed ones included."""
    it = ctx.obj
    request = pb.ListUsersRequest(
        organization_id=it.organization_id,
        email=email,
        seat_status=output.value(pb.SeatStatus, seat or "unspecified"),
    )
    columns = "user_id email display_name seat_status seat_time authenticate_time"
    it.show_all(it.client.users.ListUsers, request, limit, columns)


@app.command("show")
def show_user(ctx: Context, user_id: UserId) -> None:
    """Show a user."""
    it = ctx.obj
    it.show(it.client.users.GetUser(pb.GetUserRequest(organization_id=it.organization_id, user_id=user_id)))


@app.command("revoke")
def revoke_user(
    ctx: Context,
    user_id: UserId,
    registrations: Annotated[bool, typer.Option("--registrations", help="Revoke their registrations, too.")] = False,
) -> None:
    """End a user's sessions: they have to sign in again. The seat stays."""
    it = ctx.obj
    request = pb.RevokeUserRequest(
        organization_id=it.organization_id, user_id=user_id, revoke_registrations=registrations
    )
    it.show(it.client.users.RevokeUser(request))


@app.command("remove")
def remove_users(
    ctx: Context,
    user_ids: Annotated[list[str] | None, typer.Argument(metavar="USER")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Remove every user of the organization.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until registrations and addresses are gone.")] = True,
    yes: Yes = False,
) -> None:
    """Remove users: their seats are freed at once, their registrations deleted, their addresses released."""
    it = ctx.obj
    if bool(user_ids) == everybody:
        raise typer.BadParameter("name users, or say --all", param_hint="USER")
    organization_id = it.organization_id
    who = f"every user of {organization_id}" if everybody else ", ".join(user_ids or ())
    it.confirm(f"Remove {who}? Their registrations are deleted for good.", yes)
    request = pb.RemoveUsersRequest(organization_id=organization_id, user_ids=user_ids, all=everybody)
    response = it.client.users.RemoveUsers(request)
    if wait:
        it.show(_follow(it, response.removal))
    else:
        it.show(response)
        output.note(f"Follow it with: guardhouse users removal {response.removal.removal_id}")


@app.command("removal")
def show_removal(ctx: Context, removal_id: Annotated[str, typer.Argument(metavar="REMOVAL")]) -> None:
    """Show how far a removal has come."""
    it = ctx.obj
    request = pb.GetRemovalRequest(organization_id=it.organization_id, removal_id=removal_id)
    it.show(it.client.users.GetRemoval(request))


def seats(ctx: Context) -> None:
    """Count the seats."""
    it = ctx.obj
    it.show(it.client.seats.GetSeatUsage(pb.GetSeatUsageRequest(organization_id=it.organization_id)))


def _follow(it: Invocation, removal: pb.Removal) -> pb.GetRemovalResponse:
    """Asks until the removal is done, with a bar where somebody looks."""
    request = pb.GetRemovalRequest(organization_id=it.organization_id, removal_id=removal.removal_id)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = output.stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        registrations = progress.add_task("registrations deleted", total=removal.registrations)
        addresses = progress.add_task("addresses released", total=removal.registrations)
        pause = 0.1
        while True:
            response = it.client.users.GetRemoval(request)
            now = response.removal
            progress.update(registrations, total=now.registrations, completed=now.registrations_deleted)
            progress.update(addresses, total=now.registrations, completed=now.addresses_released)
            if now.done:
                return response
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
