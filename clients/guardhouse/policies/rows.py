"""Rows: which policies a value of one field leaves over. One lookup answers for all policies at once.

A set of policies is an integer with a bit for each. A row starts from the policies that are content if the field is
missing: those that ask nothing of it, and those that ask that it is not something. A value turns the bits around of the
policies with a condition that it meets.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from operator import xor
from typing import Any, Final, NamedTuple, TypeVar

import re2

from guardhouse.expressions import (
    Field,
    InList,
    Is,
    Leaf,
    Matches,
    NamedList,
    OneOf,
    Pattern,
    Traffic,
    plain_email,
)
from guardhouse.policies.clauses import NUMBERS, ranges_of

Row = Callable[[Traffic], int]
"""The policies that may hold, judging by one field."""

_GROUP_PROGRAM: Final = 5_000
"""Instructions of RE2 that are searched for together. With more, a thousand patterns such as `[a-z]+\\.example$` make
its automaton so large that it is built anew for every other text."""
_GROUP_MEMORY: Final = 4 << 20
"""Bytes that a group may take. When they are full, RE2 starts its automaton anew; what would not fit into them at all
it refuses to compile."""

_T = TypeVar("_T")


class Entry(NamedTuple):
    """One policy's clause on the field of a row."""

    bit: int
    conditions: frozenset[Leaf]
    negated: bool


def make_row(
    field: Field, entries: Iterable[Entry], everyone: int, lists: Mapping[str, NamedList], *, plain_emails: bool = False
) -> tuple[int, Row]:
    """A row, with the policies from which it starts. `everyone` are those that it may leave over.

    With `plain_emails`, addresses are compared without what guardhouse.expressions.plain_email takes away, and patterns
    are looked for with and without it.
    """
    start = everyone
    turned: dict[frozenset[Leaf], int] = {}
    for bit, conditions, negated in entries:
        if not negated:
            start ^= bit
        _add(turned, conditions, bit)
    if field.type in NUMBERS:
        return start, _numbers(field, start, turned, lists)
    return start, _texts(field, start, turned, lists, plain_emails=plain_emails)


def _add(bits: dict[_T, int], key: _T, more: int) -> None:
    bits[key] = bits.get(key, 0) | more


def _numbers(field: Field, start: int, turned: Mapping[frozenset[Leaf], int], lists: Mapping[str, NamedList]) -> Row:
    """Between two neighbours of `bounds`, all numbers are alike to all policies."""
    turns: dict[int, int] = {}
    for conditions, bits in turned.items():
        for first, last in ranges_of(conditions, lists):
            turns[first] = turns.get(first, 0) ^ bits
            turns[last + 1] = turns.get(last + 1, 0) ^ bits
    bounds = sorted(bound for bound, bits in turns.items() if bits)
    name = field.name
    if field.many:
        hits = _shared(accumulate((turns[bound] for bound in bounds), xor, initial=0))
        return _several(name, start, lambda value: hits[bisect_right(bounds, value)])
    left = _shared(accumulate((turns[bound] for bound in bounds), xor, initial=start))
    # No field is negative, so a field that is missing is before all bounds.
    return lambda traffic: left[bisect_right(bounds, traffic.get(name, -1))]


def _shared(masks: Iterable[int]) -> list[int]:
    """The same, each distinct integer in memory once."""
    known: dict[int, int] = {}
    return [known.setdefault(mask, mask) for mask in masks]


def _texts(
    field: Field,
    start: int,
    turned: Mapping[frozenset[Leaf], int],
    lists: Mapping[str, NamedList],
    *,
    plain_emails: bool,
) -> Row:
    """Texts, and true or false."""
    by_condition: dict[Leaf, int] = {}
    for conditions, bits in turned.items():
        for condition in conditions:
            _add(by_condition, condition, bits)
    table: dict[Any, int] = {}
    patterns: dict[Pattern, int] = {}
    for condition, bits in by_condition.items():
        if isinstance(condition, Matches):
            _add(patterns, condition.pattern, bits)
        else:
            members = _members(condition, lists)
            for member in set(map(plain_email, members)) if plain_emails else members:
                _add(table, member, bits)
    table = dict(zip(table, _shared(table.values()), strict=True))
    name = field.name
    if not field.many and not patterns and not plain_emails:
        left = {value: start ^ bits for value, bits in table.items()}.get
        return lambda traffic: left(traffic.get(name), start)
    hits = _hits(table, patterns)
    if field.many:
        return _several(name, start, hits)
    if plain_emails:
        if not patterns:
            return lambda traffic: start ^ hits(plain_email(traffic[name])) if name in traffic else start
        # A pattern may be found in either form. What lists the form without its tag is met by no other one.
        return lambda traffic: (
            start ^ (hits(plain_email(traffic[name])) | hits(traffic[name])) if name in traffic else start
        )
    return lambda traffic: start ^ hits(traffic[name]) if name in traffic else start


def _several(name: str, start: int, hits: Callable[[Any], int]) -> Row:
    def row(traffic: Traffic) -> int:
        bits = 0
        for value in traffic.get(name, ()):
            bits |= hits(value)
        return start ^ bits

    return row


def _members(condition: Leaf, lists: Mapping[str, NamedList]) -> Iterable[Any]:
    """The values for which a condition holds, as the field compares them."""
    members: Iterable[str]
    match condition:
        case Is(value=value):
            return [value]
        case InList(field=field, name=name):
            members = lists[name].members_for(field)
        case OneOf(members=members):
            pass
        case _:
            raise AssertionError(f"{condition} lists no values")
    return members if condition.key is None else [f"{condition.key}={member}" for member in members]


def _hits(table: dict[Any, int], patterns: Mapping[Pattern, int]) -> Callable[[Any], int]:
    """The policies with a condition that a value meets."""
    if not patterns:
        return lambda value: table.get(value, 0)
    find = _finder(patterns)
    return lambda value: table.get(value, 0) | find(value)


def _finder(patterns: Mapping[Pattern, int]) -> Callable[[str], int]:
    """The policies of the patterns that are found in a text, all of one field."""
    ignores_case = next(iter(patterns)).ignores_case
    groups: list[tuple[Any, list[int]]] = []
    room = 0
    for pattern, bits in patterns.items():
        if pattern.program_size > room:
            options = re2.Options()
            options.log_errors = False
            options.max_mem = _GROUP_MEMORY
            options.never_capture = True
            options.case_sensitive = not ignores_case
            groups.append((re2.Set.SearchSet(options), []))
            room = _GROUP_PROGRAM
        searched, owners = groups[-1]
        searched.Add(_without_lead(pattern.text))
        owners.append(bits)
        room -= pattern.program_size
    for searched, _ in groups:
        searched.Compile()

    def find(text: str) -> int:
        if ignores_case and not text.isascii():
            # RE2 takes the long s and the Kelvin sign for letters of ASCII; guardhouse.expressions.patterns does not.
            text = text.replace("\u017f", "\ufffd").replace("\u212a", "\ufffd")
        bits = 0
        for searched, owners in groups:
            for place in searched.Match(text) or ():
                bits |= owners[place]
        return bits

    return find


def _without_lead(pattern: str) -> str:
    """A pattern that is found in the same texts: one is found anywhere, so what may come before it need not be said.

    Said by a thousand patterns, as in `.*@example.com`, it makes the automaton of all fifty times as slow.
    """
    return pattern if pattern.startswith(".*?") else pattern.removeprefix(".*")
