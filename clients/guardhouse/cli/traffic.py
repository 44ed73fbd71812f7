"""Traffic as a command line tells it: NAME=VALUE for each field that is known of it."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import typer

from guardhouse.cli.complete import ids
from guardhouse.session.v1 import session_pb2 as pb

EACH: Final = "[*]"
"""Behind the name of a field with several values, as expressions have it."""

Subject = Annotated[
    str,
    typer.Argument(
        metavar="REGISTRATION|ADDRESS",
        help="Whose traffic it is, by the virtual address if it is none of the other.",
        autocompletion=ids("registrations", "ipv4"),
    ),
]
Kind = Annotated[
    Literal["connection", "request", "query"],
    typer.Option(help="A connection passes l4 policies, an HTTP request l4 and then http policies, a DNS query dns."),
]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=VALUE]...",
        help="What is known of the traffic, such as net.dst.ip=10.0.0.1. A field with several values is repeated, or"
        " written app.ids[*]=17.",
        show_default=False,
    ),
]


def traffic_of(fields: Sequence[str] | None) -> pb.Traffic:
    """Raises BadParameter for a word that is no NAME=VALUE."""
    values: dict[str, list[str]] = {}
    several: set[str] = set()
    for text in fields or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is no NAME=VALUE, such as net.dst.ip=10.0.0.1", param_hint="NAME=VALUE")
        if name.endswith(EACH):
            several.add(name.removesuffix(EACH))
        values.setdefault(name.removesuffix(EACH), []).append(value)
    traffic = pb.Traffic()
    for name, found in values.items():
        if name in several or len(found) > 1:
            traffic.lists[name].values.extend(found)
        else:
            traffic.fields[name] = found[0]
    return traffic
