"""Rules of those who may enroll or use an application, as a command line tells them: email=alice@example.com."""

from collections.abc import Sequence
from typing import Final, TypeVar

import typer
from google.protobuf.message import Message

R = TypeVar("R", bound=Message)

INCLUDE: Final = "One of these must match; may be repeated."
REQUIRE: Final = "All of these must match."
EXCLUDE: Final = "None of these may match."


def kinds(rule: type[Message]) -> str:
    """What a rule may be, for people."""
    return ", ".join(
        name.replace("_", "-") + ("=..." if field.message_type is None else "")
        for name, field in rule.DESCRIPTOR.fields_by_name.items()
    )


def rules_of(rule: type[R], texts: Sequence[str], option: str) -> list[R]:
    """Raises BadParameter for what is no rule."""
    return [_rule(rule, text, option) for text in texts]


def _rule(rule: type[R], text: str, option: str) -> R:
    """A rule as `email=alice@example.com` or `everyone`: a field of the message, with dashes."""
    name, _, value = text.partition("=")
    field = rule.DESCRIPTOR.fields_by_name.get(name.replace("-", "_"))
    if field is None or (field.message_type is None) != bool(value):
        raise typer.BadParameter(f"{text!r} is no rule; a rule is one of {kinds(rule)}", param_hint=option)
    made = rule()
    if field.message_type is None:
        setattr(made, field.name, value)
    else:
        getattr(made, field.name).SetInParent()
    return made
