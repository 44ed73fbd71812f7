"""Seats: how many, who holds them, and whose expire."""

from typing import Annotated, Literal

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli import output
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import Limit, UserId, moment
from guardhouse.identity.v1 import identity_pb2 as pb

app = typer.Typer(invoke_without_command=True)

Event = Literal["access", "gateway"]


@app.callback()
def seats(ctx: Context) -> None:
    """Without a command: show."""
    if ctx.invoked_subcommand is None:
        show_usage(ctx)


@app.command("show")
def show_usage(ctx: Context) -> None:
    """Count the seats, and say when they run out."""
    it = ctx.obj
    usage = it.client.seats.GetSeatUsage(pb.GetSeatUsageRequest(organization_id=it.organization_id))
    it.show(usage, forecast=_forecast(usage))


@app.command("list")
def list_seats(
    ctx: Context,
    email: Annotated[str, typer.Option(help="Only that of the user with this address.")] = "",
    taken_by: Annotated[
        Event | None, typer.Option(help="Only those that a log in to an application took, or a device.")
    ] = None,
    used_for: Annotated[
        Event | None, typer.Option(help="Only those of users who have logged in to an application, or have a device.")
    ] = None,
    active_before: Annotated[
        Timestamp | None,
        typer.Option(parser=moment, metavar="TIME", help="Last active before then: a time, or 720h for a month ago."),
    ] = None,
    limit: Limit = None,
) -> None:
    """List the seats that are held: by whom, since when, by which event, and until when."""
    it = ctx.obj
    request = pb.ListSeatsRequest(
        organization_id=it.organization_id,
        email=email,
        taken_by=output.value(pb.SeatEvent, taken_by or "unspecified"),
        used_for=output.value(pb.SeatEvent, used_for or "unspecified"),
        active_before=active_before,
    )
    columns = "user_id email take_time taken_by event_id access_seat gateway_seat active_time expire_time"
    it.show_all(it.client.seats.ListSeats, request, limit, columns)


@app.command("explain")
def explain_seat(ctx: Context, user_id: UserId) -> None:
    """Say who holds a seat, since when, by which event, and which seats the user held before."""
    it = ctx.obj
    request = pb.ExplainSeatRequest(organization_id=it.organization_id, user_id=user_id)
    response = it.client.seats.ExplainSeat(request)
    if it.as_json:
        output.print_json(response)
        return
    output.print_line(response.explanation)
    if response.freed:
        output.print_table(response.freed, "take_time free_time taken_by event_id cause removal_id")


@app.command("expiring")
def list_expiring(
    ctx: Context,
    expiration: Annotated[
        str, typer.Option(metavar="DURATION", help="Such as 2160h. Default: that of the organization.")
    ] = "",
    limit: Limit = None,
) -> None:
    """List whose seats the daily sweep would free now, and why; nothing is freed."""
    it = ctx.obj
    request = pb.PreviewSeatExpirationRequest(organization_id=it.organization_id, seat_expiration=expiration)
    whole = it.listed(it.client.seats.PreviewSeatExpiration, request, limit)
    if it.as_json:
        output.print_json(whole)
        return
    output.print_table(output.items(whole), "seat.user_id seat.email seat.active_time reason")
    if why := whole.held_up:  # type: ignore[attr-defined]
        output.note(f"Nobody is removed at the moment: {why}.")


def _forecast(usage: pb.GetSeatUsageResponse) -> str:
    rate = usage.seats_per_day
    if not usage.HasField("purchased"):
        return "They are unlimited."
    if not usage.available:
        return "None is left."
    if not usage.HasField("exhaust_time"):
        return "At the rate of the last 30 days they do not run out."
    day = output.local_time(usage.exhaust_time).partition(" ")[0]
    return f"At the rate of the last 30 days, {rate:.2g} a day, they run out on {day}."
