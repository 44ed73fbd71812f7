"""Threat T-14 and invariant I-34: an expression has a size, and what is too big is refused early and in little time."""

import time

import pytest

from guardhouse.expressions import Scope, compile_expression, parse_expression, read_traffic
from guardhouse.expressions.limits import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_MEMBERS,
    MAX_PATTERN,
    MAX_PROGRAM,
    MAX_TEXT,
    MAX_TOKENS,
)
from tests.guardhouse.expressions.asking import holds, refusal

L4 = Scope.L4_TRAFFIC
ONE = "net.dst.port == 1"
TRAFFIC = read_traffic({"net.dst.port": 1, "net.vnet_id": "x"})


def nested(levels: int) -> str:
    """An expression of that many levels: `and` and `or` inside each other, around one condition."""
    text = ONE
    for level in range(levels - 1):
        text = f"{ONE} {'and' if level % 2 else 'or'} ({text})"
    return text


def test_at_its_limits_an_expression_serves() -> None:
    members = " ".join(f'"{"m" * 80}{number}"' for number in range(MAX_MEMBERS - 1))
    largest = [
        " or ".join([ONE] * MAX_CONDITIONS),
        nested(MAX_DEPTH),
        "not " * (MAX_DEPTH - 2) + ONE,
        f'net.vnet_id in {{{members} "x"}}',
        f'net.vnet_id matches "x|{"y" * (MAX_PATTERN - 2)}"',
        "(" * 4_000 + ONE + ")" * 4_000,
        ONE + " " * (MAX_LENGTH - len(ONE)),
    ]
    for text in largest:
        assert compile_expression(parse_expression(text, L4))(TRAFFIC), text[:80]


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        (" or ".join([ONE] * (MAX_CONDITIONS + 1)), MAX_CONDITIONS * (len(ONE) + 4) + 1, "conditions"),
        (nested(MAX_DEPTH + 1), None, "levels"),
        ("not " * MAX_DEPTH + ONE, None, "levels"),
        ("!" * 9_990 + ONE, None, "levels"),
        ("(not " * 2_000 + ONE + ")" * 2_000, None, "levels"),
        (f"net.dst.port in {{{'1 ' * (MAX_MEMBERS + 1)}}}", 18 + 2 * MAX_MEMBERS, "values in sets"),
        (f"net.dst.port in {{{'1 ' * MAX_MEMBERS}}} or net.dst.port in {{2}}", None, "values in sets"),
        (f'net.vnet_id matches "{"x" * (MAX_PATTERN + 1)}"', 21, "1024 bytes"),
        (f'net.vnet_id matches "{"é" * (MAX_PATTERN // 2 + 1)}"', 21, "1024 bytes"),
        (f'net.vnet_id == "{"x" * MAX_TEXT}"', 16, "2048 characters"),
        ("x" * 50_000 + " == 1", 1, "2048 characters"),
        ("net.dst.port == " + "1" * 50_000, 17, "2048 characters"),
        ("(" * MAX_TOKENS + ONE, None, "words and signs"),
        ("!" * 50_000, None, "words and signs"),
        (ONE + " " * (MAX_LENGTH - len(ONE) + 1), MAX_LENGTH + 1, "100000 characters"),
        ("x" * 10_000_000, MAX_LENGTH + 1, "100000 characters"),
        ('"' + "\\" * 90_000, 1, "condition"),
        ('net.vnet_id == "' + "\\" * 90_000, 16, "closing double quote"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_past_its_limits_an_expression_is_refused_in_no_time(text: str, column: int | None, words: str) -> None:
    began = time.process_time()
    refused = refusal(text)
    assert time.process_time() - began < 2
    assert words in refused.message
    assert len(refused.message) < 5_000
    assert column in (None, refused.column)


@pytest.mark.parametrize(("scope", "longest"), [(Scope.DEVICE_PROFILE, 500), (Scope.IP_PROFILE, 10_000)])
def test_a_match_is_as_long_as_the_public_api_allows(scope: Scope, longest: int) -> None:
    text = 'identity.email == "x"'.ljust(longest)
    parse_expression(text, scope)
    assert f"at most {longest} characters" in refusal(text + " ", scope).message


@pytest.mark.parametrize(
    "pattern",
    [
        "x{1000}" * 2,
        r"\pL{50}",
        ".{1,1000}x",
        "((a{1,10}){1,10}){1,10}",
        r"(\pL\pN){30}|" * 20,
        "(?i)" + "[^a]{400}",
    ],
)
def test_a_pattern_that_compiles_into_much_is_refused(pattern: str) -> None:
    """Threat T-14: the program has a cap, and so has the time until it is found too large."""
    began = time.process_time()
    message = refusal(f'net.vnet_id matches "{pattern}"').message
    assert "cost too much" in message or "pattern too large" in message
    assert time.process_time() - began < 2


def test_the_patterns_of_an_expression_share_one_budget() -> None:
    one = 'net.vnet_id matches "x{700}"'
    parse_expression(f"{one} or {one}", L4)
    refused = refusal(f"{one} or {one} or {one}")
    assert "cost too much" in refused.message
    assert refused.column == 2 * (len(one) + 4) + 21
    assert 2 * 700 < MAX_PROGRAM < 3 * 700


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^(a+)+$", "a" * 8_000 + "!"),
        ("(.*)*@x$", "a" * 8_000),
        ("(a|aa)+$", "a" * 8_000 + "!"),
        ("^(a|a?)+$", "a" * 8_000 + "!"),
        ("^([a-zA-Z]+)*$", "a" * 8_000 + "!"),
        ("(x+x+)+y", "x" * 8_000),
        ("(.*a){20}", "b" * 8_000),
        ("^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 8_000),
        ("(?:a?){300}a{300}", "a" * 299),
        ("[ac]*a[ac]{1,100}b", "ac" * 4_000),
        (".*.*.*.*.*.*=.*", "x" * 8_000),
    ],
)
def test_no_pattern_takes_long(pattern: str, text: str) -> None:
    """M11: six seconds with the `re` module for 26 characters of one of these."""
    traffic = read_traffic({"net.vnet_id": text})
    asked = compile_expression(parse_expression(f'net.vnet_id matches "{pattern}"', L4))
    began = time.process_time()
    assert not asked(traffic)
    assert time.process_time() - began < 1


def test_the_documented_pattern_is_far_from_the_limits() -> None:
    many = " or ".join(['identity.email matches ".*@example.com"'] * 40)
    assert holds(many, Scope.IDENTITY, identity_email="x@example.com")
