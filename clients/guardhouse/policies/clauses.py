"""What an expression asks of one field at a time: the part of it that an index can answer."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from guardhouse.expressions import And, Field, InList, Leaf, Matches, NamedList, Node, Not, OneOf, Or, Type, Within
from guardhouse.expressions.ranges import END_OF_ADDRESSES, Range, complement, merged

NUMBERS = (Type.ADDRESS, Type.INTEGER)


class Clause(NamedTuple):
    """Of these conditions, all on one field, at least one holds; negated, none does."""

    field: Field
    conditions: frozenset[Leaf]
    negated: bool


class Clauses(NamedTuple):
    """They hold wherever an expression holds; `exact`, it also holds wherever they do.

    A field has at most one that is negated and one that is not.
    """

    clauses: tuple[Clause, ...]
    exact: bool


def read_clauses(root: Node, lists: Mapping[str, NamedList]) -> Clauses:
    """Take an expression apart. Every list that it names exists and fits.

    A clause that is negated is about an e-mail address as it is, even where addresses match in their extended form.
    """
    needs = _Reader(lists).needs(root, negated=False)
    clauses = (
        Clause(next(iter(conditions)).field, conditions, negated)
        for (_, negated), conditions in sorted(needs.clauses.items(), key=lambda item: item[0])
    )
    return Clauses(tuple(clauses), needs.exact)


def ranges_of(conditions: Iterable[Leaf], lists: Mapping[str, NamedList]) -> tuple[Range, ...]:
    """The numbers or addresses for which one of the conditions holds, merged."""
    every = [
        lists[condition.name].ranges if isinstance(condition, InList) else condition.ranges
        for condition in conditions
        if isinstance(condition, InList | Within)
    ]
    return every[0] if len(every) == 1 else merged(range_ for ranges in every for range_ in ranges)


class _Needs(NamedTuple):
    """As Clauses, by the name of the field and whether they are negated."""

    clauses: dict[tuple[str, bool], frozenset[Leaf]]
    exact: bool


class _Reader:
    def __init__(self, lists: Mapping[str, NamedList]) -> None:
        self._lists = lists

    def needs(self, node: Node, *, negated: bool) -> _Needs:
        """What a node needs to hold, or, negated, not to hold."""
        match node:
            case Not(operand):
                return self.needs(operand, negated=not negated)
            case And(operands) | Or(operands):
                parts = [self.needs(operand, negated=negated) for operand in operands]
                # Not all is some not, and not any is all not.
                return self._all(parts) if isinstance(node, And) is not negated else _any(parts)
            case _:
                if self._leaves_out(node):
                    return _Needs({}, exact=False)
                return _Needs({(node.field.name, negated): frozenset({node})}, exact=True)

    def _leaves_out(self, leaf: Leaf) -> bool:
        """Whether it asks more than which values a field has."""
        if isinstance(leaf, Matches):
            return leaf.key is not None
        return isinstance(leaf, OneOf) and leaf.excluded

    def _all(self, parts: Iterable[_Needs]) -> _Needs:
        clauses: dict[tuple[str, bool], frozenset[Leaf]] = {}
        exact = True
        for part in parts:
            exact = exact and part.exact
            for (name, negated), conditions in part.clauses.items():
                present = clauses.setdefault((name, negated), conditions)
                if present == conditions:
                    continue
                field = next(iter(present)).field
                if negated:
                    clauses[name, negated] = present | conditions
                elif field.type in NUMBERS and not field.many:
                    clauses[name, negated] = self._both(field, present, conditions)
                else:
                    # The first narrows it down.
                    exact = False
        return _Needs(clauses, exact)

    def _both(self, field: Field, first: Iterable[Leaf], second: Iterable[Leaf]) -> frozenset[Leaf]:
        end = END_OF_ADDRESSES if field.type is Type.ADDRESS else field.maximum + 1
        outside = merged(
            gap for conditions in (first, second) for gap in complement(ranges_of(conditions, self._lists), end)
        )
        return frozenset({Within(field=field, ranges=complement(outside, end), column=0, end=0)})


def _any(parts: list[_Needs]) -> _Needs:
    """What all have in common, if it can be said of one field."""
    common = set.intersection(*(set(part.clauses) for part in parts))
    clauses = {
        key: frozenset[Leaf]().union(*(part.clauses[key] for part in parts))
        for key in common
        # That some of several conditions fail is no question about a set of values.
        if not key[1]
    }
    exact = len(clauses) == 1 and all(part.exact and part.clauses.keys() == clauses.keys() for part in parts)
    return _Needs(clauses, exact)
