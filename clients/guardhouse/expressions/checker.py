"""The checker: from what is written to what it means, under the rules of one place."""

from typing import Any, Final

from lark import Token, Tree

from guardhouse.expressions import literals, ranges
from guardhouse.expressions.errors import ExpressionInvalid
from guardhouse.expressions.fields import FIELDS, Field, Scope, Type, find, find_each, nearest
from guardhouse.expressions.grammar import tree
from guardhouse.expressions.limits import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_MATCH_LENGTH,
    MAX_MEMBERS,
    MAX_PATTERN,
    MAX_PROGRAM,
)
from guardhouse.expressions.nodes import And, Expression, InList, Is, Leaf, Matches, Node, Not, OneOf, Or, Within
from guardhouse.expressions.patterns import Pattern, PatternInvalid

_OPERATORS: Final = {
    Type.ADDRESS: ("==", "!=", "in"),
    Type.INTEGER: ("==", "!=", "in", ">", ">=", "<", "<="),
    Type.BOOLEAN: ("==", "!="),
}
_TEXT_OPERATORS: Final = ("==", "!=", "in", "matches")


def parse_expression(text: str, scope: Scope) -> Expression:
    """Read an expression and check it against the fields of its place. A blank text is always true.

    A list that it names need not exist yet: that is looked at when the expression is compiled. Raises ExpressionInvalid
    for everything else that would keep it from being compiled.
    """
    longest = MAX_MATCH_LENGTH.get(scope, MAX_LENGTH)
    if len(text) > longest:
        raise ExpressionInvalid(f"{scope.value} has at most {longest} characters: use a named list", longest + 1)
    try:
        text.encode()
    except UnicodeEncodeError as half:
        raise ExpressionInvalid("half of a surrogate pair is no character", half.start + 1) from None
    if not text.strip(" \t\r\n"):
        return Expression(text, scope, And(()))
    return Expression(text, scope, _Checker(scope).node(tree(text), 1))


class _Checker:
    """Checks one expression, and counts what it may have only so many of."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._conditions = 0
        self._members = 0
        self._program = 0

    def node(self, tree: Tree[Token], depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ExpressionInvalid(f"more than {MAX_DEPTH} levels inside each other: split the rule", _column(tree))
        match tree.data:
            case "disjunction":
                return Or(tuple(self.node(operand, depth + 1) for operand in _trees(tree)))
            case "conjunction":
                return And(tuple(self.node(operand, depth + 1) for operand in _trees(tree)))
            case "complement":
                return Not(self.node(_trees(tree)[0], depth + 1))
            case "some":
                return self._condition(_trees(tree)[0], tree, some=True)
            case _:
                return self._condition(tree, tree, some=False)

    def _condition(self, tree: Tree[Token], whole: Tree[Token], *, some: bool) -> Node:
        """`whole` is the condition with the any() around it, if there is one."""
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise ExpressionInvalid(f"more than {MAX_CONDITIONS} conditions: split the rule", _column(whole))
        field, key = self._operand(_trees(tree)[0], some)
        place: dict[str, Any] = {"field": field, "key": key, "column": _column(whole), "end": whole.meta.end_pos + 1}
        match tree.data, tree.children[1:]:
            case "truth", []:
                if field.type is not Type.BOOLEAN:
                    raise ExpressionInvalid(
                        f"{field.name} holds {field.type.value}, which is no condition by itself: "
                        f"compare it with {' '.join(_operators(field))}",
                        _column(tree),
                    )
                return Is(**place, value=True)
            case "comparison", [Token() as operator, Token() as value]:
                return self._comparison(place, _checked(operator, field), value, some)
            case "membership", [Token() as operator, Tree() as members]:
                _checked(operator, field)
                return self._membership(place, [token for token in members.children if isinstance(token, Token)])
            case "listing", [Token() as operator, Token() as name]:
                _checked(operator, field)
                return InList(**place, name=name[1:])
            case "search", [Token() as operator, Token() as text]:
                _checked(operator, field)
                return Matches(**place, pattern=self._pattern(text, field))
        raise AssertionError(f"the grammar has no {tree.data}")

    def _operand(self, tree: Tree[Token], some: bool) -> tuple[Field, str | None]:
        spelling, key = (child for child in tree.children if not isinstance(child, Tree))
        column = literals.column(spelling)
        each = "[*]" in spelling
        field = find_each(spelling) if each else find(spelling)
        if field is None:
            raise self._unknown(spelling, column)
        if self._scope not in field.scopes:
            raise self._out_of_place(field, spelling, column)
        if key is not None:
            if not field.keyed:
                raise ExpressionInvalid(f"{field.name} has no keys: leave [{key}] out", literals.column(key))
            return field, literals.unquoted(key)
        if each and not some:
            raise ExpressionInvalid(f"{spelling} is several values: write any({spelling} ...)", column)
        if some and not each:
            hint = f"write {spelling}[*]" if field.many else f"{spelling} is one value, so leave any() out"
            raise ExpressionInvalid(f"any() looks at several values: {hint}", column)
        return field, None

    def _unknown(self, spelling: str, column: int) -> ExpressionInvalid:
        alike = find(spelling.replace("[*]", ""))
        if alike is not None:
            return ExpressionInvalid(f"write {alike.name}{'[*]' if alike.many else ''} for {spelling}", column)
        name = nearest(spelling, self._scope) or nearest(spelling)
        begins = ", ".join(
            sorted({field.name.partition(".")[0] for field in FIELDS.values() if self._scope in field.scopes})
        )
        hint = f"did you mean {name}?" if name else f"in {self._scope.value} names begin with {begins}"
        return ExpressionInvalid(f"there is no field {spelling}: {hint}", column)

    def _out_of_place(self, field: Field, spelling: str, column: int) -> ExpressionInvalid:
        places = " or ".join(scope.value for scope in Scope if scope in field.scopes)
        name = nearest(field.name, self._scope)
        hint = f": did you mean {name}?" if name else ""
        return ExpressionInvalid(f"{spelling} belongs in {places}, not in {self._scope.value}{hint}", column)

    def _comparison(self, place: dict[str, Any], operator: str, value: Token, some: bool) -> Node:
        field: Field = place["field"]
        differs = operator == "!="
        leaf: Leaf
        if field.type is Type.BOOLEAN:
            leaf = Is(**place, value=literals.truth(value, field))
        elif field.type.is_text:
            leaf = OneOf(**place, members=frozenset({literals.text(value, field)}), excluded=differs and some)
        else:
            covered = ranges.merged([_range(operator, literals.single(value, field), field)])
            if differs and some:
                covered = ranges.complement(covered, _end(field))
            leaf = Within(**place, ranges=covered)
        return Not(leaf) if differs and not some else leaf

    def _membership(self, place: dict[str, Any], members: list[Token]) -> Leaf:
        field: Field = place["field"]
        self._members += len(members)
        if self._members > MAX_MEMBERS:
            first_too_many = members[MAX_MEMBERS - self._members]
            raise ExpressionInvalid(
                f"more than {MAX_MEMBERS} values in sets: use a named list", literals.column(first_too_many)
            )
        if field.type.is_text:
            return OneOf(**place, members=frozenset(literals.text(member, field) for member in members))
        return Within(**place, ranges=ranges.merged(literals.span(member, field) for member in members))

    def _pattern(self, token: Token, field: Field) -> Pattern:
        column = literals.column(token)
        text = literals.pattern(token)
        if len(text.encode()) > MAX_PATTERN:
            raise ExpressionInvalid(f"a pattern has at most {MAX_PATTERN} bytes: use a set or a named list", column)
        try:
            pattern = Pattern.compile(text, field.type.ignores_case)
        except PatternInvalid as refused:
            raise ExpressionInvalid(f"the pattern is not RE2: {refused}", column) from None
        self._program += pattern.program_size
        if self._program > MAX_PROGRAM:
            raise ExpressionInvalid(
                "the patterns cost too much: repeat less than in x{1000}, or use a set or a named list", column
            )
        return pattern


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    return [child for child in tree.children if isinstance(child, Tree)]


def _column(tree: Tree[Token]) -> int:
    return int(tree.meta.start_pos) + 1


def _operators(field: Field) -> tuple[str, ...]:
    return _OPERATORS.get(field.type, _TEXT_OPERATORS)


def _checked(operator: Token, field: Field) -> str:
    """The operator, if the field's type has it."""
    if operator not in _operators(field):
        raise ExpressionInvalid(
            f"{field.name} holds {field.type.value}, which is compared with {' '.join(_operators(field))}, "
            f"not with {operator}",
            literals.column(operator),
        )
    return str(operator)


def _end(field: Field) -> int:
    return ranges.END_OF_ADDRESSES if field.type is Type.ADDRESS else field.maximum + 1


def _range(operator: str, number: int, field: Field) -> ranges.Range:
    """The numbers that the operator lets through; for != the one that it does not."""
    match operator:
        case ">":
            return number + 1, field.maximum
        case ">=":
            return number, field.maximum
        case "<":
            return 0, number - 1
        case "<=":
            return 0, number
        case _:
            return number, number
