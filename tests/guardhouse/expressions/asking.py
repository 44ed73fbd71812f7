"""How tests ask: is this so, and what is wrong with that?"""

from collections.abc import Mapping

import pytest

from guardhouse.expressions import (
    ExpressionInvalid,
    NamedList,
    Scope,
    compile_expression,
    parse_expression,
    read_traffic,
)


def holds(
    text: str,
    scope: Scope = Scope.L4_TRAFFIC,
    lists: Mapping[str, NamedList] | None = None,
    *,
    extended_emails: bool = False,
    **values: object,
) -> bool:
    """Whether an expression holds; `net_dst_ip` is the field net.dst.ip, and names that need it come in `fields`."""
    fields = values.pop("fields", {})
    assert isinstance(fields, Mapping)
    traffic = read_traffic({**fields, **{name.replace("_", "."): value for name, value in values.items()}})
    answer = compile_expression(parse_expression(text, scope), lists or {}, extended_emails=extended_emails)(traffic)
    assert isinstance(answer, bool)
    return answer


def refusal(text: str, scope: Scope = Scope.L4_TRAFFIC) -> ExpressionInvalid:
    """What is wrong with an expression."""
    with pytest.raises(ExpressionInvalid) as caught:
        parse_expression(text, scope)
    assert caught.value.message
    assert caught.value.message[-1] != "."
    assert 1 <= caught.value.column <= len(text) + 1
    return caught.value
