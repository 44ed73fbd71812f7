"""The index: which of many expressions of one kind hold."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from guardhouse.expressions import FIELDS, Expression, InList, NamedList, Predicate, Traffic, compile_expression
from guardhouse.policies.clauses import read_clauses
from guardhouse.policies.rows import Entry, Row, make_row


class Asked(NamedTuple):
    """An expression, and whether e-mail addresses match it in their extended form."""

    expression: Expression
    extended_emails: bool = False


class _Made(NamedTuple):
    """A row, and what it was made from."""

    entries: list[Entry]
    everyone: int
    lists: dict[str, NamedList]
    start: int
    row: Row


class Index:
    """Expressions, each known by its bit.

    Rows sort most of them out, at the cost of a lookup for each field that is asked for, however many expressions there
    are. What rows cannot tell is asked of the expressions that are left, one by one. A row that would be as it was in
    `previous` is taken from there.
    """

    def __init__(
        self, asked: Mapping[int, Asked], lists: Mapping[str, NamedList], previous: "Index | None" = None
    ) -> None:
        self.everyone = sum(asked)
        self.unsure = 0
        self._tests: dict[int, Predicate] = {}
        entries: dict[tuple[str, bool, bool], list[Entry]] = {}
        for bit, (expression, extended_emails) in asked.items():
            clauses, exact = read_clauses(expression.root, lists)
            if not exact:
                self.unsure |= bit
                self._tests[bit] = compile_expression(expression, lists, extended_emails=extended_emails)
            fields: set[str] = set()
            for field, conditions, negated in clauses:
                # A row has one clause of each expression, so the second of a field goes into a row of its own.
                plain_emails = extended_emails and not negated and field.name == "identity.email"
                row = (field.name, field.name in fields, plain_emails)
                fields.add(field.name)
                entries.setdefault(row, []).append(Entry(bit, conditions, negated))
        before = previous._made if previous else {}
        self._made: dict[tuple[str, bool, bool], _Made] = {
            row: self._make(row, clauses, lists, before.get(row)) for row, clauses in entries.items()
        }
        # What leaves fewest over comes first, because once nothing is left the rest need not be asked.
        made = sorted(self._made.values(), key=lambda it: it.start.bit_count())
        self._rows: tuple[Row, ...] = tuple(it.row for it in made)
        asking = sum({entry.bit for clauses in entries.values() for entry in clauses})
        self._sure = self.everyone & ~(asking | self.unsure)
        """Those that ask for nothing, and hold whatever the facts are."""

    def _make(
        self, key: tuple[str, bool, bool], entries: list[Entry], lists: Mapping[str, NamedList], before: _Made | None
    ) -> _Made:
        conditions = (condition for entry in entries for condition in entry.conditions)
        named = {it.name: lists[it.name] for it in conditions if isinstance(it, InList)}
        if before is not None and before[:3] == (entries, self.everyone, named):
            return before
        name, _, plain_emails = key
        start, row = make_row(FIELDS[name], entries, self.everyone, named, plain_emails=plain_emails)
        return _Made(entries, self.everyone, named, start, row)

    @property
    def rows(self) -> Iterator[tuple[str, Row]]:
        """Each with the name of the field that it is about."""
        return ((name, made.row) for (name, *_), made in self._made.items())

    def holding(self, facts: Traffic) -> int:
        """The bits of all that hold."""
        left = self._left(facts, self.everyone)
        unsure = left & self.unsure
        while unsure:
            bit = unsure & -unsure
            unsure ^= bit
            if not self._tests[bit](facts):
                left ^= bit
        return left

    def first(self, facts: Traffic, among: int) -> int:
        """The lowest bit of those `among` that hold, or 0."""
        left = among & self.everyone
        if (lowest := left & -left) & self._sure:
            return lowest
        for row in self._rows:
            if not left:
                return 0
            left &= row(facts)
            if (lowest := left & -left) & self._sure:
                # No other row can take it away, and nothing comes before it.
                return lowest
        return self.first_of(left, lambda: facts)

    def first_of(self, left: int, facts: Callable[[], Traffic]) -> int:
        """The lowest bit of those that hold, once it is known which of this index every row leaves over."""
        while left:
            bit = left & -left
            if not bit & self.unsure or self._tests[bit](facts()):
                return bit
            left ^= bit
        return 0

    def _left(self, facts: Traffic, left: int) -> int:
        for row in self._rows:
            if not left:
                break
            left &= row(facts)
        return left
