"""Whatever is sent as an expression, it is read or refused with a column, soon (T-14)."""

import random
import re
import time
from collections.abc import Callable, Iterator

import pytest

from guardhouse.expressions import (
    FIELDS,
    OTHER_NAMES,
    ExpressionInvalid,
    Scope,
    compile_expression,
    parse_expression,
    read_traffic,
)
from tests.guardhouse.expressions.test_examples import EXAMPLES

Soup = Iterator[tuple[Scope, str]]

# fmt: off
WORDS = [
    "and", "or", "not", "any", "in", "matches", "&&", "||", "!", "(", ")", "{", "}", "[", "]", "[*]", "$", "$list",
    "==", "!=", ">=", "<=", ">", "<", "=", ",", ".", "..", "/", "\\", '"', "'", "true", "false", "eq", "contains",
    "443", "0", "65535", "99999999999999999999", "10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32", "1..5", "5..1", "::",
    '"tcp"',
    '""',
    '"\\""',
    '".*@example.com"',
    '"("',
    '"\\d{1,3}"',
    "\u00a0",
    "\u212a",
    "\x00",
    "\n",
    "\t",
    "\U0001f600",
    "identity.groups[*].name",
    *FIELDS,
    *OTHER_NAMES,
    *(f"{name}[*]" for name, field in FIELDS.items() if field.many),
]
# fmt: on
TRAFFIC = read_traffic(
    {"net.dst.ip": "10.0.0.1", "net.dst.port": 443, "app.ids": [1], "identity.email": "x@example.com"}
)


def token_soup(chance: random.Random) -> Soup:
    while True:
        text = chance.choice([" ", " ", " ", ""]).join(chance.choices(WORDS, k=chance.randint(1, 30)))
        yield chance.choice(list(Scope)), text


def bytes_soup(chance: random.Random) -> Soup:
    while True:
        raw = chance.randbytes(chance.randint(0, 60))
        codec, errors = chance.choice([("latin-1", "strict"), ("utf-8", "replace"), ("utf-8", "surrogateescape")])
        yield chance.choice(list(Scope)), raw.decode(codec, errors)


def mutants(chance: random.Random) -> Soup:
    """Valid expressions with characters or words lost, doubled, swapped or replaced."""
    while True:
        scope, text, _, _ = chance.choice(EXAMPLES)
        for _ in range(chance.randint(1, 3)):
            parts = list(text) if chance.random() < 0.5 else re.findall(r"\s+|[\w.]+|.", text, re.DOTALL)
            if not parts:
                break
            place = chance.randrange(len(parts))
            match chance.randrange(5):
                case 0:
                    del parts[place]
                case 1:
                    parts.insert(place, parts[place])
                case 2:
                    other = chance.randrange(len(parts))
                    parts[place], parts[other] = parts[other], parts[place]
                case 3:
                    parts[place] = chance.choice(WORDS)
                case _:
                    parts[place:place] = chance.choice(EXAMPLES)[1]
            text = "".join(parts)
        yield scope, text


@pytest.mark.parametrize("soup", [token_soup, bytes_soup, mutants])
@pytest.mark.parametrize("count", [2_000, pytest.param(50_000, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
def test_nothing_but_a_refusal_comes_of_it(soup: Callable[[random.Random], Soup], count: int) -> None:
    chance = random.Random(f"{soup.__name__} {count}")
    texts = soup(chance)
    answers = 0
    for _ in range(count):
        scope, text = next(texts)
        began = time.process_time()
        outcome = tried(text, scope)
        assert time.process_time() - began < 1, text
        if isinstance(outcome, ExpressionInvalid):
            assert 1 <= outcome.column <= len(text) + 1, text
            assert outcome.message, text
        else:
            answers += 1
    # Where nothing is an expression, what comes after the grammar is not tried.
    assert answers > count // 20 or soup is not mutants


def tried(text: str, scope: Scope) -> bool | ExpressionInvalid:
    """An answer, or what is wrong."""
    try:
        return compile_expression(parse_expression(text, scope))(TRAFFIC)
    except ExpressionInvalid as refused:
        return refused
