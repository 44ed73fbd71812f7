"""Literals: from a token to the value that a field is compared with."""

import re
from typing import Final

from lark import Token

from guardhouse.expressions.errors import ExpressionInvalid
from guardhouse.expressions.fields import Field, Type, folded
from guardhouse.expressions.ranges import Range, address_range, integer_range

_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def column(token: Token) -> int:
    """Where it begins, counted from 1."""
    return (token.start_pos or 0) + 1


def unquoted(token: Token) -> str:
    """The text between double quotes. A backslash stands before a double quote or another backslash."""
    for escape in _ESCAPE.finditer(token):
        if escape[1] not in '\\"':
            raise ExpressionInvalid(
                f"{escape[0]} means nothing here: for a backslash write \\\\", column(token) + escape.start()
            )
    return _ESCAPE.sub(r"\1", token[1:-1])


def pattern(token: Token) -> str:
    """The pattern between double quotes. Every backslash is the pattern's own, but for one before a double quote."""
    return _ESCAPE.sub(lambda escape: '"' if escape[1] == '"' else escape[0], token[1:-1])


def text(token: Token, field: Field) -> str:
    """A text, as the field compares it."""
    if token.type != "STRING":
        raise ExpressionInvalid(f'{field.name} holds {field.type.value}: write "{token}"', column(token))
    return folded(unquoted(token), field.type)


def truth(token: Token, field: Field) -> bool:
    """True or false."""
    if token.type != "BARE" or token not in ("true", "false"):
        raise ExpressionInvalid(f"{field.name} is true or false, without quotes", column(token))
    return bool(token == "true")


def single(token: Token, field: Field) -> int:
    """One number, or the integer that stands for one address."""
    value, _ = span(token, field)
    if ".." in token or "/" in token:
        raise ExpressionInvalid(f"this compares with one value: write {field.name} in {{{token}}}", column(token))
    return value


def span(token: Token, field: Field) -> Range:
    """One number or address, a range of them, or a network."""
    if token.type == "STRING":
        raise ExpressionInvalid(
            f"{field.name} holds {field.type.value}: write {token[1:-1]} without quotes", column(token)
        )
    try:
        return address_range(token) if field.type is Type.ADDRESS else integer_range(token, field.maximum)
    except ValueError as wrong:
        raise ExpressionInvalid(str(wrong), column(token)) from None
