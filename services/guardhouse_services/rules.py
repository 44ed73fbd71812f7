"""Rules from requests: the syntax of their values, for enrollment policies, rule groups and applications alike."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, ip_network
from typing import Any

from google.protobuf.message import Message

from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.ids import IDENTITY_PROVIDER, RULE_GROUP, SERVICE_TOKEN, check_id
from guardhouse.rules import Rule, RuleKind
from guardhouse_services import checks

MAX_RULES = 1000
"""In each of include, require and exclude."""
GROUP = 256
CLAIM_NAME = 100
CLAIM = 1000
METHOD = 64
CHECK = 100
COUNTRY = re.compile(r"[A-Za-z]{2}")


def read(sent: Sequence[Message], field: str, least: int = 0) -> tuple[Rule, ...]:
    """Rules in their normal form. Raises FieldRequired and InvalidField."""
    checks.count(sent, field, MAX_RULES, least=least)
    return tuple(_rule(rule, f"{field}[{place}]") for place, rule in enumerate(sent))


def country(value: str, field: str) -> str:
    """In capital letters. Raises InvalidField."""
    if not COUNTRY.fullmatch(value):
        raise InvalidField(field, f"{field} is two letters of ISO 3166-1, such as DE")
    return value.upper()


def claim(value: str, field: str) -> str:
    """`name=value`. Raises InvalidField."""
    checks.text(value, field, CLAIM)
    name, equals, _ = value.partition("=")
    if not equals or not 0 < len(name) <= CLAIM_NAME:
        raise InvalidField(field, f"{field} is a claim's name, of at most {CLAIM_NAME} characters, = and its value")
    return value


def _rule(sent: Any, field: str) -> Rule:
    if not (name := sent.WhichOneof("kind")):
        raise FieldRequired(field, f"{field} needs a kind of rule")
    kind, field = RuleKind(name), f"{field}.{name}"
    if kind in (RuleKind.EVERYONE, RuleKind.ANY_SERVICE_TOKEN):
        return Rule(kind)
    return Rule(kind, _value(kind, getattr(sent, name), field))


def _value(kind: RuleKind, value: str, field: str) -> str:
    match kind:
        case RuleKind.EMAIL:
            return checks.email(value, field)
        case RuleKind.EMAIL_DOMAIN:
            return checks.email_domain(value, field)
        case RuleKind.GROUP:
            return checks.text(value, field, GROUP)
        case RuleKind.SERVICE_TOKEN:
            return check_id(value, SERVICE_TOKEN, field)
        case RuleKind.LOGIN_METHOD:
            return check_id(value, IDENTITY_PROVIDER, field)
        case RuleKind.RULE_GROUP:
            return check_id(value, RULE_GROUP, field)
        case RuleKind.IP_RANGE:
            return _network(value, field)
        case RuleKind.COUNTRY:
            if not value:
                raise FieldRequired(field)
            return country(value, field)
        case RuleKind.OIDC_CLAIM:
            return claim(value, field)
        case RuleKind.AUTH_METHOD:
            return checks.text(value, field, METHOD)
    return checks.text(value, field, CHECK)


def _network(value: str, field: str) -> str:
    if not value:
        raise FieldRequired(field)
    try:
        # A zone (RFC 4007) is a machine's own name for a link, and no part of a network.
        network = ip_network(value.replace("%", " "))
    except ValueError:
        message = f"{field} is an address or a network without host bits, such as 192.0.2.0/24"
        raise InvalidField(field, message) from None
    # Clients whose IPv4 address comes in the form of IPv6 (RFC 4291, section 2.5.5.2) are compared by their IPv4 one.
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return str(IPv4Network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network)
