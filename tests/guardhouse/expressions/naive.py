"""Random expressions, with an evaluator so plain that it is right: it never sees the parser, the nodes or the compiler.

An expression here is nested tuples. `written` turns them into a text with as few or as many parentheses as it likes,
and `answer` says what the text means for values as they come with traffic.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from guardhouse.expressions import FIELDS, Field, NamedList, Scope, Type

ADDRESSES: Final = [
    "10.0.0.1",
    "10.0.0.2",
    "10.1.0.0",
    "10.255.255.255",
    "11.0.0.0",
    "::1",
    "::2",
    "2001:db8::5",
    "::ffff:10.0.0.2",
]
NETWORKS: Final = [
    "10.0.0.0/8",
    "10.0.0.0/31",
    "10.1.0.0/16",
    "0.0.0.0/0",
    "::/0",
    "2001:db8::/32",
    "::/127",
    "10.0.0.1/32",
]
TEXTS: Final = ["a", "A", "b", "a.b", "A.B.", "b.a.b", "a+x@b", "A@b", "a@B.c", "", 'q"', "\\", "é", "k\u212a"]
PATTERNS: Final = ["^a", "a$", "b", ".", "^$", "a.b", "[A-Z]", "(a|b)@", '"', r"\\", "^.*@b$"]
NUMBERS: Final = [0, 1, 80, 443, 999]
LISTS: Final[Mapping[str, tuple[Type, list[str]]]] = {
    "nets": (Type.ADDRESS, ["10.0.0.0/30", "::1", "10.1.0.0"]),
    "numbers": (Type.INTEGER, ["1", "80..443"]),
    "texts": (Type.TEXT, ["a", "A.B", "b.a.b", "a@B.c"]),
}
NAMED: Final = {name: NamedList.of(type_, values) for name, (type_, values) in LISTS.items()}

Tree = tuple[Any, ...]


def asked_for(node: Tree) -> set[str]:
    """The names of the fields in a tree."""
    if node[0] == "condition":
        return {node[1].name}
    return set[str]().union(*(asked_for(operand) for operand in node[1:]))


def values(chance: random.Random, names: Iterable[str]) -> dict[str, Any]:
    """Traffic: each of the fields is there or missing."""
    result: dict[str, Any] = {}
    for field in map(FIELDS.__getitem__, names):
        if chance.random() < 0.7:
            count = chance.randrange(4) if field.many else 1
            drawn = [_value(chance, field) for _ in range(count)]
            result[field.name] = drawn if field.many else drawn[0]
    return result


def tree(chance: random.Random, scope: Scope, depth: int = 3) -> Tree:
    kind = chance.random()
    if depth and kind < 0.25:
        return ("not", tree(chance, scope, depth - 1))
    if depth and kind < 0.75:
        return (chance.choice(["and", "or"]), *(tree(chance, scope, depth - 1) for _ in range(chance.randint(2, 3))))
    field = chance.choice(_fields(scope))
    some = field.many and chance.random() < 0.5
    key = chance.choice(["a", "k"]) if field.keyed and chance.random() < 0.5 else None
    return ("condition", field, some, key, *_comparison(chance, field))


def written(chance: random.Random, node: Tree, outer: int = 0) -> str:
    """The text of a tree, in one of its spellings. `outer` says how tightly what stands around it binds."""
    match node:
        case ("or" | "and" as kind, *operands):
            binding = 1 if kind == "or" else 2
            sign = chance.choice([" or ", "||", "\nor\t"] if kind == "or" else [" and ", "&&", " &&\r\n"])
            text = sign.join(written(chance, operand, binding + 1) for operand in operands)
        case ("not", operand):
            binding = 3
            text = chance.choice(["not ", "!", "! ", "not\t"]) + written(chance, operand, binding)
        case _:
            binding = 4
            text = _condition(chance, node)
    return f"({text})" if binding < outer or chance.random() < 0.1 else text


def answer(node: Tree, traffic: Mapping[str, Any]) -> bool:
    match node:
        case ("or", *operands):
            return any(answer(operand, traffic) for operand in operands)
        case ("and", *operands):
            return all(answer(operand, traffic) for operand in operands)
        case ("not", operand):
            return not answer(operand, traffic)
    _, field, some, key, operator, literal = node
    present = traffic.get(field.name, [])
    present = present if isinstance(present, list) else [present]
    if key is not None:
        present = [value.partition("=")[2] for value in present if value.startswith(f"{key}=")]
    if operator == "!=" and not some:
        return not any(_compared(field, value, "==", literal) for value in present)
    return any(_compared(field, value, operator, literal) for value in present)


def _fields(scope: Scope) -> list[Field]:
    return [field for field in FIELDS.values() if scope in field.scopes]


def _value(chance: random.Random, field: Field) -> Any:
    if field.keyed:
        return f"{chance.choice('ak')}={chance.choice(TEXTS)}"
    match field.type:
        case Type.ADDRESS:
            return chance.choice(ADDRESSES)
        case Type.INTEGER:
            return chance.choice(NUMBERS)
        case Type.BOOLEAN:
            return chance.random() < 0.5
        case _:
            return chance.choice(TEXTS)


def _comparison(chance: random.Random, field: Field) -> tuple[str, Any]:
    match field.type:
        case Type.BOOLEAN:
            return chance.choice(["==", "!="]), chance.random() < 0.5
        case Type.ADDRESS:
            operator = chance.choice(["==", "!=", "in", "in", "list"])
            several = [chance.choice([*ADDRESSES, *NETWORKS, "10.0.0.1..10.0.0.2", "::1..::5"]) for _ in range(3)]
            return operator, {"in": several, "list": "nets"}.get(operator, chance.choice(ADDRESSES))
        case Type.INTEGER:
            operator = chance.choice(["==", "!=", "in", "in", "list", "<", "<=", ">", ">="])
            ranges = [sorted(chance.choices(NUMBERS, k=2)) for _ in range(chance.randint(1, 3))]
            return operator, {"in": ranges, "list": "numbers"}.get(operator, chance.choice(NUMBERS))
        case _:
            operator = chance.choice(["==", "!=", "in", "in", "list", "matches"])
            texts = chance.choices(TEXTS, k=chance.randint(1, 4))
            other = chance.choice(PATTERNS if operator == "matches" else TEXTS)
            return operator, {"in": texts, "list": "texts"}.get(operator, other)


def _condition(chance: random.Random, node: Tree) -> str:
    _, field, some, key, operator, literal = node
    name = field.name
    if key is not None:
        name = f'{name}["{key}"]'
    elif some:
        name = f"{name}[*]"
        if name.startswith("identity.groups") and chance.random() < 0.5:
            name = f"identity.groups[*].{field.name.rpartition('.')[2]}"
    space = chance.choice([" ", "  ", "\n"])
    match operator, literal:
        case "list", _:
            text = f"{name}{space}in{space}${literal}"
        case "in", [[_, _], *_]:
            ranges = (str(low) if low == high else f"{low}..{high}" for low, high in literal)
            text = f"{name} in {{{' '.join(ranges)}}}"
        case "in", _:
            text = f"{name} in{{{space.join(_literal(field, value) for value in literal)}}}"
        case "matches", _:
            quoted = literal.replace('"', '\\"')
            text = f'{name} matches{space}"{quoted}"'
        case "==", True if chance.random() < 0.5:
            text = name
        case _:
            text = f"{name}{chance.choice(['', ' '])}{operator}{space}{_literal(field, literal)}"
    return f"any({text})" if some else text


def _literal(field: Field, value: Any) -> str:
    if not field.type.is_text:
        return str(value).lower()
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _compared(field: Field, value: Any, operator: str, literal: Any) -> bool:
    if operator == "list":
        return any(_equal(field, value, entry) for entry in LISTS[literal][1])
    if operator == "in":
        return any(_equal(field, value, member) for member in literal)
    if operator == "matches":
        return re.search(literal, value, re.ASCII | re.IGNORECASE if field.type.ignores_case else 0) is not None
    orders: dict[str, Callable[[Any, Any], bool]] = {
        "<": lambda left, right: left < right,
        "<=": lambda left, right: left <= right,
        ">": lambda left, right: left > right,
        ">=": lambda left, right: left >= right,
    }
    if operator in orders:
        return orders[operator](value, literal)
    return _equal(field, value, literal) is (operator == "==")


def _equal(field: Field, value: Any, member: Any) -> bool:
    """Whether a value is a member, or inside of it."""
    match field.type:
        case Type.ADDRESS:
            return _inside(value, member)
        case Type.INTEGER:
            low, _, high = member.partition("..") if isinstance(member, str) else _bounds(member)
            return bool(int(low) <= value <= int(high or low))
        case Type.HOST:
            return bool(_ascii_lower(value).removesuffix(".") == _ascii_lower(member).removesuffix("."))
        case Type.WORD | Type.EMAIL:
            return bool(_ascii_lower(value) == _ascii_lower(member))
        case _:
            return bool(value == member)


def _bounds(member: Any) -> tuple[int, str, int]:
    low, high = member if isinstance(member, list) else (member, member)
    return low, "", high


def _inside(value: str, member: str) -> bool:
    address = _address(value)
    if "/" in member:
        return address in ip_network(member)
    first, _, last = member.partition("..")
    low, high = _address(first), _address(last or first)
    return address.version == low.version and int(low) <= int(address) <= int(high)


def _address(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _ascii_lower(text: str) -> str:
    return "".join(character.lower() if character.isascii() else character for character in text)
