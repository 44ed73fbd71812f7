"""IP profiles: who gets an address from which subnet (decision 24)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from guardhouse.errors import FieldRequired, InvalidField, LimitReached, PrecedenceTaken
from guardhouse.expressions import (
    ExpressionInvalid,
    Predicate,
    Scope,
    Traffic,
    compile_expression,
    parse_expression,
    read_traffic,
)

LIMIT = 30
"""How many an organization may have (the public account limits)."""
MAX_PRECEDENCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Holder:
    """Who enrolls: a machine, or a person as the sign-in described them. Claims are `name=value`."""

    service_token_id: str = ""
    email: str = ""
    display_name: str = ""
    groups: tuple[str, ...] = ()
    oidc_claims: tuple[str, ...] = ()

    def facts(self) -> Traffic:
        """What expressions ask about. What a provider calls a group may be its name, its id or its address."""
        return read_traffic(
            {
                "identity.service_token_uuid": self.service_token_id or None,
                "identity.email": self.email or None,
                "identity.name": self.display_name or None,
                "identity.groups.name": self.groups,
                "identity.groups.id": self.groups,
                "identity.groups.email": [group for group in self.groups if "@" in group],
                "identity.oidc_claims": self.oidc_claims,
            }
        )


NOBODY = Holder()
"""Of whom nothing is known."""


@dataclass(frozen=True, slots=True)
class IpProfile:
    """Gives addresses of a subnet to whom its expression matches. Of those that match the lowest precedence decides."""

    ip_profile_id: str
    display_name: str
    description: str
    expression: str
    precedence: int
    subnet_id: str
    enabled: bool
    create_time: int
    update_time: int

    def matches(self, facts: Traffic) -> bool:
        """Whether it is about whoever has these facts, enabled or not."""
        return _compiled(self.expression)(facts)


def first_match(profiles: Iterable[IpProfile], holder: Holder) -> IpProfile | None:
    """The one that decides; None leaves it to the default subnet."""
    facts = holder.facts()
    asked = sorted((it for it in profiles if it.enabled), key=lambda it: it.precedence)
    return next((it for it in asked if it.matches(facts)), None)


@dataclass(frozen=True, slots=True)
class Trace:
    """What a profile makes of somebody."""

    profile: IpProfile
    matched: bool
    decides: bool


def trace(profiles: Iterable[IpProfile], holder: Holder) -> Sequence[Trace]:
    """Of each profile, as they are asked."""
    ordered = sorted(profiles, key=lambda it: it.precedence)
    facts, decider = holder.facts(), first_match(ordered, holder)
    return [Trace(it, it.matches(facts), it is decider) for it in ordered]


def check_room(profiles: Sequence[IpProfile]) -> None:
    """Raises LimitReached when the organization, whose profiles these are, has as many as it may have."""
    if len(profiles) >= LIMIT:
        raise LimitReached(f"the organization has {LIMIT} IP profiles already; delete one first", limit=str(LIMIT))


def check_precedence(profiles: Sequence[IpProfile], wanted: IpProfile) -> None:
    """Raises PrecedenceTaken when another one of these has it."""
    for each in profiles:
        if each.precedence == wanted.precedence and each.ip_profile_id != wanted.ip_profile_id:
            message = f"IP profile {each.ip_profile_id} has precedence {wanted.precedence}; take another"
            raise PrecedenceTaken(message, precedence=str(wanted.precedence))


def check_match(text: str, field: str) -> str:
    """Raises FieldRequired, and InvalidField, which names the column."""
    if not text.strip():
        raise FieldRequired(field)
    try:
        _compiled(text)
    except ExpressionInvalid as refusal:
        raise InvalidField(field, f"{field}: {refusal}") from None
    return text


@lru_cache(1000)
def _compiled(text: str) -> Predicate:
    # There are no named lists here: those are session's.
    return compile_expression(parse_expression(text, Scope.IP_PROFILE), {})
