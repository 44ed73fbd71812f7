"""Users."""

import time
from typing import Annotated, Literal

import typer

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context, Invocation, must_be_interactive
from guardhouse.cli.options import DryRun, Limit, UserId, Wait, Yes
from guardhouse.cli.output import count
from guardhouse.cli.waiting import everywhere
from guardhouse.identity.v1 import identity_pb2 as pb

app = typer.Typer(no_args_is_help=True)


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
    wait: Wait = False,
    dry_run: DryRun = False,
) -> None:
    """End a user's sessions: they have to sign in again. The seat stays."""
    it = ctx.obj
    request = pb.RevokeUserRequest(
        organization_id=it.organization_id, user_id=user_id, revoke_registrations=registrations
    )

    def would(response: pb.RevokeUserResponse) -> str:
        ended = (
            f"This ends the sessions of {count(response.registrations, 'registration')} until the user signs in again"
        )
        return f"{ended}, and revokes the registrations." if registrations else f"{ended}."

    if dry_run:
        it.rehearse(it.client.users.RevokeUser, request, would)
    response = it.client.users.RevokeUser(request)
    with everywhere(it, wait):
        it.show(response)


@app.command("remove")
def remove_users(
    ctx: Context,
    user_ids: Annotated[
        list[str] | None, typer.Argument(metavar="USER...", autocompletion=ids("users", "email"))
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Remove every user of the organization.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until all of it is gone, at the gateways, too.")] = True,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove users: their seats are freed at once, their registrations deleted, their addresses released."""
    it = ctx.obj
    if bool(user_ids) == everybody:
        raise typer.BadParameter("name users, or say --all", param_hint="USER")
    request = pb.RemoveUsersRequest(organization_id=it.organization_id, user_ids=user_ids, all=everybody)
    method = it.client.users.RemoveUsers

    def would(response: pb.RemoveUsersResponse) -> str:
        removal = response.removal
        return (
            f"This removes {count(removal.users, 'user')}, frees {count(removal.seats_freed, 'seat')} and deletes"
            f" {count(removal.registrations, 'registration')} with their addresses for good."
        )

    if everybody and not yes and not dry_run:
        _type_name(it)
    response = it.destroy(method, request, would, yes, dry_run)
    # Before the wait, which may be interrupted: the removal goes on.
    output.note(f"Follow it with: guardhouse users removal {response.removal.removal_id}")
    with everywhere(it, wait):
        it.show(_follow(it, response.removal) if wait else response)


@app.command("offboard")
def offboard_user(
    ctx: Context,
    user_id: UserId,
    wait: Annotated[bool, typer.Option(help="Wait until all of it is gone, at the gateways, too.")] = True,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove a user and refuse the person from now on, whatever the policies say, until reinstated."""
    it = ctx.obj
    request = pb.OffboardUserRequest(organization_id=it.organization_id, user_id=user_id)

    def would(response: pb.OffboardUserResponse) -> str:
        removal = response.removal
        return (
            f"This blocks the person, frees {count(removal.seats_freed, 'seat')} and deletes"
            f" {count(removal.registrations, 'registration')} with their addresses for good."
        )

    response = it.destroy(it.client.users.OffboardUser, request, would, yes, dry_run)
    output.note(f"Follow it with: guardhouse users removal {response.removal.removal_id}")
    with everywhere(it, wait):
        it.show(_follow(it, response.removal) if wait else response)


@app.command("reinstate")
def reinstate_user(ctx: Context, user_id: UserId) -> None:
    """Let the policies decide about an off-boarded user again. What was deleted stays so."""
    it = ctx.obj
    request = pb.ReinstateUserRequest(organization_id=it.organization_id, user_id=user_id)
    it.show(it.client.users.ReinstateUser(request))


@app.command("erase")
def erase_user(ctx: Context, user_id: UserId, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Erase what is known of an off-boarded person. The user id stays, for the audit log, and stands for nobody."""
    it = ctx.obj
    request = pb.EraseUserRequest(organization_id=it.organization_id, user_id=user_id)

    def would(response: pb.EraseUserResponse) -> str:
        return (
            f"This erases the name, address, groups and claims of {response.user.user_id} for good."
            " The same person may come back as somebody new, and is not blocked any more."
        )

    it.show(it.destroy(it.client.users.EraseUser, request, would, yes, dry_run))


@app.command("removal")
def show_removal(ctx: Context, removal_id: Annotated[str, typer.Argument(metavar="REMOVAL")]) -> None:
    """Show how far a removal has come."""
    it = ctx.obj
    request = pb.GetRemovalRequest(organization_id=it.organization_id, removal_id=removal_id)
    it.show(it.client.users.GetRemoval(request))


def _type_name(it: Invocation) -> None:
    """A word that nobody types by habit, before everybody goes."""
    must_be_interactive()
    read = pb.GetOrganizationRequest(organization_id=it.organization_id)
    name = it.client.organizations.GetOrganization(read).organization.display_name
    typed = typer.prompt(f"This removes every user of {output.printable(name)}. Type its name to go on", err=True)
    if typed.strip() != name:
        output.error("that is another name; nothing was removed")
        raise typer.Exit(1)


def _follow(it: Invocation, removal: pb.Removal) -> pb.GetRemovalResponse:
    """Asks until the removal is done, with a bar where somebody looks."""
    request = pb.GetRemovalRequest(organization_id=it.organization_id, removal_id=removal.removal_id)
    with output.progress() as bars:
        registrations = bars.add_task("registrations deleted", total=removal.registrations)
        addresses = bars.add_task("addresses released", total=removal.registrations)
        pause = 0.1
        while True:
            response = it.client.users.GetRemoval(request)
            now = response.removal
            bars.update(registrations, total=now.registrations, completed=now.registrations_deleted)
            bars.update(addresses, total=now.registrations, completed=now.addresses_released)
            if now.done:
                return response
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
