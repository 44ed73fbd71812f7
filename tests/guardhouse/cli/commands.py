"""What the tests of the command line share: ids, and the commands that there are."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import Result

from guardhouse.cli.app import Commands, Deferred, app

ORGANIZATION = "org_" + "1" * 32
USER = "usr_" + "2" * 32
REGISTRATION = "reg_" + "3" * 32
POLICY = "pol_" + "4" * 32
NOON = Timestamp(seconds=1_790_000_000)

Run = Callable[..., Result]
RunPlane = Callable[..., Awaitable[Result]]


def words(text: str) -> str:
    """The words of a usage error, which is drawn in a box."""
    return " ".join(word for word in text.split() if word.strip("│╭╮╰╯─"))


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by the words that call it."""
    root = get_command(app)
    assert isinstance(root, Commands)
    for name, deferred in root.commands.items():
        assert isinstance(deferred, Deferred)
        command = deferred.load()
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {verb}", inner) for verb, inner in command.commands.items())
        else:
            yield name, command
