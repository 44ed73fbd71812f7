"""The hours of a week as a command line tells them: mon-fri=08:00-12:30,13:30-17:00, as often as wanted."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer

from guardhouse.session.v1 import session_pb2 as pb

DAYS: Final = tuple(field.name for field in pb.Schedule.DESCRIPTOR.fields if field.name != "time_zone")
SHORTEST: Final = 3
"""Letters of a day's name."""

Spans = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule",
        metavar="DAYS=HOURS",
        help="When it is in force, such as mon-fri=08:00-12:30,13:30-17:00; may be repeated. On dns policies.",
    ),
]
TimeZone = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Where the hours of --schedule are told, such as Europe/Berlin.")
]


def schedule_of(spans: Sequence[str] | None, time_zone: str | None) -> pb.Schedule | None:
    """None if nothing is said of one. Raises BadParameter."""
    if not spans:
        if time_zone is not None:
            raise typer.BadParameter("it is the place of a --schedule, and there is none", param_hint="--time-zone")
        return None
    if time_zone is None:
        raise typer.BadParameter("say where: --time-zone Europe/Berlin", param_hint="--schedule")
    schedule = pb.Schedule(time_zone=time_zone)
    for text in spans:
        days, _, hours = text.partition("=")
        if not hours:
            raise typer.BadParameter(f"{text!r} is no DAYS=HOURS, such as mon-fri=08:00-17:00", param_hint="--schedule")
        for day in _days(days):
            before = getattr(schedule, day)
            setattr(schedule, day, f"{before},{hours}" if before else hours)
    return schedule


def _days(text: str) -> Iterator[str]:
    """mon, monday, mon-fri, fri-mon, or several of these with commas."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        start = _day(first)
        for place in range(start, start + (_day(last or first) - start) % len(DAYS) + 1):
            yield DAYS[place % len(DAYS)]


def _day(text: str) -> int:
    for place, day in enumerate(DAYS):
        if len(text) >= SHORTEST and day.startswith(text.lower()):
            return place
    raise typer.BadParameter(f"{text!r} is no day, such as mon or monday", param_hint="--schedule")
