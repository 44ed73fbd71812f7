"""What is allowed but probably not meant."""

from typing import NamedTuple

from guardhouse.expressions.fields import Type
from guardhouse.expressions.nodes import Expression, Matches, conditions


class Advice(NamedTuple):
    """`message` is lower case, without a full stop, and says what to write instead; `column` counts from 1."""

    message: str
    column: int


def advise(expression: Expression) -> list[Advice]:
    """Patterns on an e-mail address or a host that do not say where it ends (decision 30a)."""
    return [
        Advice(
            "the pattern also matches where more follows, as in example.com.evil.org: end it with $", condition.column
        )
        for condition in conditions(expression.root)
        if isinstance(condition, Matches)
        and condition.field.type in (Type.EMAIL, Type.HOST)
        and not condition.pattern.anchored_at_end
    ]
