"""The rules of those who may enroll or use an application: include, require and exclude (decisions 12 and 31)."""

import string
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, Protocol


class RuleKind(StrEnum):
    """Named as the fields of the contracts' rules."""

    EVERYONE = "everyone"
    EMAIL = "email"
    EMAIL_DOMAIN = "email_domain"
    GROUP = "group"
    SERVICE_TOKEN = "service_token_id"
    ANY_SERVICE_TOKEN = "any_valid_service_token"
    LOGIN_METHOD = "login_method"
    IP_RANGE = "ip_range"
    COUNTRY = "country"
    OIDC_CLAIM = "oidc_claim"
    AUTH_METHOD = "auth_method"
    POSTURE_CHECK = "posture_check"
    RULE_GROUP = "rule_group_id"


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Identity(NamedTuple):
    """Who asks: a machine, or else a person with a verified address or none.

    Claims are `name=value`, and methods those of RFC 8176 by which the person signed in. `rule_group_ids` are the rule
    groups that the person is in.
    """

    service_token_id: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    identity_provider_id: str = ""
    methods: tuple[str, ...] = ()
    rule_group_ids: frozenset[str] = frozenset()


class Client(NamedTuple):
    """What is known of where a client is; a country is two capital letters."""

    address: Address | None = None
    country: str = ""

    @classmethod
    def of(cls, ip: str, country: str) -> "Client":
        """Raises ValueError for what is no address."""
        address = ip_address(ip) if ip else None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            # As a socket that listens to both families says IPv4 (RFC 4291, section 2.5.5.2).
            address = address.ipv4_mapped
        return cls(address, country.upper())


NOWHERE: Final = Client()
"""Of whose client nothing is known."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition. Raises ValueError for an ip_range that is neither a network nor an address."""

    kind: RuleKind
    value: str = ""
    network: Network | None = field(init=False, repr=False, compare=False, default=None)
    """Of an ip_range."""

    def __post_init__(self) -> None:
        if self.kind is RuleKind.IP_RANGE:
            object.__setattr__(self, "network", ip_network(self.value))

    def __str__(self) -> str:
        return f"{self.kind} {self.value}".rstrip()

    def matches(self, who: Identity, client: Client = NOWHERE, passed: tuple[str, ...] = ()) -> bool:
        """Whether it holds. `passed` are the posture checks of the device; what is not known does not match."""
        match self.kind:
            case RuleKind.EVERYONE:
                return True
            case RuleKind.EMAIL:
                return folded(who.email) == folded(self.value)
            case RuleKind.EMAIL_DOMAIN:
                _, at, domain = folded(who.email).rpartition("@")
                return bool(at) and domain == folded(self.value).removeprefix("@")
            case RuleKind.GROUP:
                return self.value in who.groups
            case RuleKind.SERVICE_TOKEN:
                return who.service_token_id == self.value
            case RuleKind.ANY_SERVICE_TOKEN:
                return bool(who.service_token_id)
            case RuleKind.LOGIN_METHOD:
                return who.identity_provider_id == self.value
            case RuleKind.IP_RANGE:
                return client.address is not None and self.network is not None and client.address in self.network
            case RuleKind.COUNTRY:
                return client.country == self.value.upper()
            case RuleKind.OIDC_CLAIM:
                return self.value in who.claims
            case RuleKind.AUTH_METHOD:
                return self.value in who.methods
            case RuleKind.POSTURE_CHECK:
                return self.value in passed
            case RuleKind.RULE_GROUP:
                return self.value in who.rule_group_ids


class Conditions(Protocol):
    """`include` is an OR, `require` an AND, `exclude` a NOT."""

    @property
    def include(self) -> tuple[Rule, ...]: ...

    @property
    def require(self) -> tuple[Rule, ...]: ...

    @property
    def exclude(self) -> tuple[Rule, ...]: ...


def matches(on: Conditions, who: Identity, client: Client = NOWHERE, passed: tuple[str, ...] = ()) -> bool:
    """Whether somebody meets them."""
    return (
        any(rule.matches(who, client, passed) for rule in on.include)
        and all(rule.matches(who, client, passed) for rule in on.require)
        and not any(rule.matches(who, client, passed) for rule in on.exclude)
    )


_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(email: str) -> str:
    """The address for comparing. Only ASCII letters lose their case: Unicode would make the Kelvin sign a k."""
    # Of ASCII alone this is the same, in a fifth of the time.
    return email.lower() if email.isascii() else email.translate(_LOWER)
