"""The grammar: from text to a tree of what is written, without a look at what it means."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from lark import Lark, Token, Tree, UnexpectedInput, UnexpectedToken

from guardhouse.expressions.errors import ExpressionInvalid
from guardhouse.expressions.limits import MAX_TEXT, MAX_TOKENS

_GRAMMAR: Final = r"""
?start: disjunction
?disjunction: conjunction (_OR conjunction)*
?conjunction: negation (_AND negation)*
?negation: _NOT negation -> complement
         | atom
?atom: "(" disjunction ")"
     | condition
     | _ANY "(" condition ")" -> some
condition: operand -> truth
         | operand COMPARE value -> comparison
         | operand IN set -> membership
         | operand IN LIST -> listing
         | operand MATCHES STRING -> search
operand: FIELD ["[" STRING "]"]
?value: STRING | BARE
set: "{" value+ "}"

// A word of the language ends where a name could not go on, so that android and in_use are names.
_OR.2: /or(?![\w.\[])|\|\|/
_AND.2: /and(?![\w.\[])|&&/
_NOT.2: /not(?![\w.\[])|!(?!=)/
_ANY.2: /any(?=\s*\()/
IN.2: /in(?![\w.\[])/
MATCHES.2: /matches(?![\w.\[])/
COMPARE: /==|!=|>=|<=|>|</
FIELD: _NAME _PART* ("[*]" _PART*)?
_NAME: /(?!(?:and|or|not|any|in|matches)(?![\w.\[]))[A-Za-z_][A-Za-z0-9_]*/
_PART: /\.[A-Za-z0-9_]+/
LIST: /\$[A-Za-z0-9_.-]+/
STRING: /"(?:\\.|[^"\\])*"/s
// Numbers, addresses, networks, ranges, true and false. What it is worth, the field's type decides.
BARE: /[A-Za-z0-9_:][A-Za-z0-9_:.\/-]*/
%ignore /[ \t\r\n]+/
"""

_OTHER_WORDS: Final[Mapping[str, str]] = {
    "=": "write ==",
    "eq": "write ==",
    "is": "write ==",
    "ne": "write !=",
    "gt": "write >",
    "ge": "write >=",
    "lt": "write <",
    "le": "write <=",
    "~": "write matches",
    "contains": "write matches",
    "not": "write not(field in {...})",
    "any": "write any(field[*] ...)",
    "AND": "write and",
    "OR": "write or",
    "NOT": "write not",
    "IN": "write in",
    "ANY": "write any",
    "&": "write and",
    "|": "write or",
    ",": "values are separated by spaces",
    "'": "text stands in double quotes",
    "{": "a set stands behind in",
    "$": "a list's name has letters, digits, dots, - and _",
}
"""What people write who know another language, and what to write here."""


def tree(text: str) -> Tree[Token]:
    """Parse a text that is not blank.

    It takes a stack of its own and no recursion, so nesting costs memory in proportion and nothing more. Raises
    ExpressionInvalid for what is not in the language, and past MAX_TOKENS and MAX_TEXT.
    """
    text = text.rstrip(" \t\r\n")
    parser = _parser().parse_interactive(text)
    token = None
    try:
        for count, token in enumerate(parser.iter_parse(), start=1):
            _check_size(token, count)
        result: Tree[Token] = parser.feed_eof(token)  # type: ignore[no-untyped-call]
    except UnexpectedInput as unexpected:
        at_end = isinstance(unexpected, UnexpectedToken) and unexpected.token.type == "$END"
        position: int = len(text) if at_end else unexpected.pos_in_stream  # type: ignore[assignment]
        accepted: set[str] = parser.accepts()  # type: ignore[no-untyped-call]
        raise ExpressionInvalid(_message(text, position, accepted), position + 1) from None
    return result


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer="contextual", propagate_positions=True)


def _check_size(token: Token, count: int) -> None:
    column = (token.start_pos or 0) + 1
    if count > MAX_TOKENS:
        raise ExpressionInvalid(f"more than {MAX_TOKENS} words and signs: split the rule, or use a named list", column)
    if len(token) > MAX_TEXT:
        raise ExpressionInvalid(f"a name or a text has at most {MAX_TEXT} characters", column)


def _message(text: str, position: int, accepted: set[str]) -> str:
    if position >= len(text):
        return f"here the expression ends, but {_wanted(accepted)} is missing"
    if text[position] == '"' and "STRING" in accepted:
        return 'this text has no closing double quote: write ", and \\" for a double quote inside'
    (found,) = re.findall(r"\w[\w.]{0,40}|.", text[position : position + 42], re.DOTALL)[:1]
    hint = _OTHER_WORDS.get(found)
    return f"{_wanted(accepted)} belongs here instead of {found!r}" + (f": {hint}" if hint else "")


def _wanted(accepted: set[str]) -> str:
    if "COMPARE" in accepted:
        return "an operator (== != in matches > >= < <=)"
    if "_NOT" in accepted:
        return "a condition such as net.dst.port == 443"
    if "FIELD" in accepted:
        return "a field such as app.ids[*]"
    if "BARE" in accepted:
        return "a value or }" if "RBRACE" in accepted else 'a value (443, 10.0.0.1, "text")'
    if "LIST" in accepted:
        return "a set such as {80 443} or a list such as $offices"
    if "STRING" in accepted:
        return "text in double quotes"
    if "RSQB" in accepted:
        return "a closing ]"
    if "$END" in accepted:
        return "and, or, or the end"
    return "and, or, or )" if "_OR" in accepted else "a closing )"
