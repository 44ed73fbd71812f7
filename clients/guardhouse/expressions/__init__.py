"""The expression language of policies, device profiles and IP profiles.

    expression = parse_expression('net.dst.ip in $wiki and net.dst.port == 443', Scope.L4_TRAFFIC)
    holds = compile_expression(expression, {"wiki": NamedList.of(Type.ADDRESS, ["10.1.0.0/16"])})
    holds(read_traffic({"net.dst.ip": "10.1.2.3", "net.dst.port": 443}))

It is pure: no clock, no network, no database. It needs the libraries of the extra `checker`.
"""

from guardhouse.expressions.advice import Advice, advise
from guardhouse.expressions.checker import parse_expression
from guardhouse.expressions.compiler import Predicate, compile_expression, plain_email
from guardhouse.expressions.errors import ExpressionInvalid, ListInvalid, TrafficInvalid
from guardhouse.expressions.fields import FIELDS, OTHER_NAMES, POSTURE_AGE, Field, Scope, Type
from guardhouse.expressions.lists import NamedList
from guardhouse.expressions.nodes import (
    And,
    Condition,
    Expression,
    InList,
    Is,
    Leaf,
    Matches,
    Node,
    Not,
    OneOf,
    Or,
    Within,
    conditions,
)
from guardhouse.expressions.patterns import Pattern
from guardhouse.expressions.people import identity_facts
from guardhouse.expressions.traffic import DOMAINS, Traffic, read_texts, read_traffic

__all__ = [
    "DOMAINS",
    "FIELDS",
    "OTHER_NAMES",
    "POSTURE_AGE",
    "Advice",
    "And",
    "Condition",
    "Expression",
    "ExpressionInvalid",
    "Field",
    "InList",
    "Is",
    "Leaf",
    "ListInvalid",
    "Matches",
    "NamedList",
    "Node",
    "Not",
    "OneOf",
    "Or",
    "Pattern",
    "Predicate",
    "Scope",
    "Traffic",
    "TrafficInvalid",
    "Type",
    "Within",
    "advise",
    "compile_expression",
    "conditions",
    "identity_facts",
    "parse_expression",
    "plain_email",
    "read_texts",
    "read_traffic",
]
