"""An expression after it was checked: what it means, in few kinds of nodes.

Every comparison has become a question about a set, so whoever indexes policies meets the same node for the same
meaning: `net.dst.port >= 1024` and `net.dst.port in {1024..65535}` are equal, and `!=` is the negation of `==`. How it
was written stays in `Expression.text`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import assert_never

from guardhouse.expressions.fields import Field, Scope
from guardhouse.expressions.patterns import Pattern
from guardhouse.expressions.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A question about one field. Where the field is missing, the answer is no (decision 30a).

    Of a field with several values it is enough that one fits. With a key, only its values "key=value" count, without
    the key. `column` is where the condition begins in the text, counted from 1, and `end` the first column behind it.
    """

    field: Field
    key: str | None = None
    column: int = attribute(compare=False)
    end: int = attribute(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf(Condition):
    """A text is one of these, folded as the field folds. Excluded: one of several values is none of these."""

    members: frozenset[str]
    excluded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Within(Condition):
    """A number or an address (see guardhouse.expressions.ranges) is in one of these ascending, disjoint ranges."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InList(Condition):
    """It is in the named list."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches(Condition):
    """The pattern is found in a text."""

    pattern: Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Is(Condition):
    """It has this truth value."""

    value: bool


@dataclass(frozen=True, slots=True)
class Not:
    operand: "Node"


@dataclass(frozen=True, slots=True)
class And:
    """All hold; of no operands, that is so."""

    operands: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one holds."""

    operands: tuple["Node", ...]


Leaf = OneOf | Within | InList | Matches | Is
Node = Leaf | Not | And | Or


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. An empty text is `And(())`, which is always true."""

    text: str
    scope: Scope
    root: Node

    def excerpt(self, condition: Condition) -> str:
        """The condition as it was written."""
        return self.text[condition.column - 1 : condition.end - 1]


def conditions(node: Node) -> Iterator[Leaf]:
    """Every condition in the order of the text."""
    match node:
        case And(operands) | Or(operands):
            for operand in operands:
                yield from conditions(operand)
        case Not(operand):
            yield from conditions(operand)
        case OneOf() | Within() | InList() | Matches() | Is():
            yield node
        case _:
            assert_never(node)
