"""The compiler: from a checked expression to one function that answers for a request."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final, assert_never

from guardhouse.expressions.errors import ExpressionInvalid
from guardhouse.expressions.lists import NamedList
from guardhouse.expressions.nodes import And, Expression, InList, Is, Leaf, Matches, Node, Not, OneOf, Or, Within
from guardhouse.expressions.ranges import Range
from guardhouse.expressions.traffic import Traffic

Predicate = Callable[[Traffic], bool]
"""Whether an expression holds for a request."""

_NO_LISTS: Final[Mapping[str, NamedList]] = MappingProxyType({})


def compile_expression(
    expression: Expression, lists: Mapping[str, NamedList] = _NO_LISTS, *, extended_emails: bool = False
) -> Predicate:
    """Put an expression together with the lists that it names.

    With `extended_emails`, an address that only differs by a +tag or by full stops before the @ is the same address:
    the rule of policies that block (the public documentation of identity-based policies). It is there so that no
    variant escapes, so it does not apply under a negation, where it would let variants escape: `!=` spares the one
    address that it names. Raises ExpressionInvalid for a list that does not exist, or holds what the field does not.
    """
    return _Compiler(lists, extended_emails).node(expression.root)


def plain_email(address: str) -> str:
    """The address without its +tag and without the full stops before the @."""
    local, at, domain = address.rpartition("@")
    return local.partition("+")[0].replace(".", "") + at + domain


class _Compiler:
    def __init__(self, lists: Mapping[str, NamedList], extended_emails: bool, *, negated: bool = False) -> None:
        self._lists = lists
        self._extended_emails = extended_emails
        self._negated = negated

    def node(self, node: Node) -> Predicate:
        match node:
            case Not(operand):
                holds = _Compiler(self._lists, self._extended_emails, negated=not self._negated).node(operand)
                return lambda traffic: not holds(traffic)
            case And(operands):
                return _all([self.node(operand) for operand in operands])
            case Or(operands):
                return _any([self.node(operand) for operand in operands])
            case OneOf(members=members, excluded=excluded):
                return self._one_of(node, members, excluded=excluded)
            case Within(ranges=ranges):
                return _within(node, ranges)
            case InList():
                return self._in_list(node)
            case Matches():
                return self._matches(node)
            case Is(field=field, value=value):
                name = field.name
                return lambda traffic: traffic.get(name) is value
            case _:
                assert_never(node)

    def _in_list(self, node: InList) -> Predicate:
        named = self._lists.get(node.name)
        if named is None:
            alike = get_close_matches(node.name, self._lists, n=1)
            hint = f"did you mean ${alike[0]}?" if alike else "make it first"
            raise ExpressionInvalid(f"there is no list ${node.name}: {hint}", node.column)
        if not named.fits(node.field):
            raise ExpressionInvalid(
                f"{node.field.name} is {node.field.type.value}, but a value of ${node.name} is {named.type.value}",
                node.column,
            )
        if node.field.type.is_text:
            return self._one_of(node, named.members_for(node.field), excluded=False)
        return _within(node, named.ranges)

    def _one_of(self, node: Leaf, members: frozenset[str], *, excluded: bool) -> Predicate:
        name = node.field.name
        if node.key is not None:
            prefix = f"{node.key}="
            members = frozenset(prefix + member for member in members)
            if excluded:
                return lambda traffic: any(
                    value.startswith(prefix) and value not in members for value in traffic.get(name, ())
                )
        if excluded:
            return lambda traffic: not members.issuperset(traffic.get(name, ()))
        if node.field.many:
            return lambda traffic: not members.isdisjoint(traffic.get(name, ()))
        if self._extends(node):
            plain = frozenset(map(plain_email, members))
            return lambda traffic: name in traffic and plain_email(traffic[name]) in plain
        if len(members) == 1:
            (member,) = members
            return lambda traffic: bool(traffic.get(name) == member)
        return lambda traffic: traffic.get(name) in members

    def _matches(self, node: Matches) -> Predicate:
        name, found_in = node.field.name, node.pattern.found_in
        if node.key is not None:
            prefix = f"{node.key}="
            start = len(prefix)
            return lambda traffic: any(
                value.startswith(prefix) and found_in(value[start:]) for value in traffic.get(name, ())
            )
        if node.field.many:
            return lambda traffic: any(map(found_in, traffic.get(name, ())))
        if self._extends(node):
            return lambda traffic: name in traffic and (found_in(traffic[name]) or found_in(plain_email(traffic[name])))
        return lambda traffic: name in traffic and found_in(traffic[name])

    def _extends(self, node: Leaf) -> bool:
        return self._extended_emails and not self._negated and node.field.name == "identity.email"


def _within(node: Leaf, ranges: Iterable[Range]) -> Predicate:
    # A value is inside if it has passed an odd number of bounds.
    bounds = [bound for first, last in ranges for bound in (first, last + 1)]
    name = node.field.name
    if node.field.many:
        return lambda traffic: any(bisect_right(bounds, value) & 1 for value in traffic.get(name, ()))
    if len(bounds) == 2 and bounds[0] + 1 == bounds[1]:
        only = bounds[0]
        return lambda traffic: bool(traffic.get(name) == only)
    # No field is negative, so -1 is outside of all ranges.
    return lambda traffic: bisect_right(bounds, traffic.get(name, -1)) & 1 == 1


# Here a generator would cost more than a condition does.


def _all(tests: list[Predicate]) -> Predicate:
    if len(tests) == 2:
        first, second = tests
        return lambda traffic: first(traffic) and second(traffic)

    def holds(traffic: Traffic) -> bool:
        for test in tests:  # noqa: SIM110
            if not test(traffic):
                return False
        return True

    return holds


def _any(tests: list[Predicate]) -> Predicate:
    if len(tests) == 2:
        first, second = tests
        return lambda traffic: first(traffic) or second(traffic)

    def holds(traffic: Traffic) -> bool:
        for test in tests:  # noqa: SIM110
            if test(traffic):
                return True
        return False

    return holds
