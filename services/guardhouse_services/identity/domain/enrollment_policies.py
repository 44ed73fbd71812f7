"""Who may enroll (decision 12), and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from guardhouse.errors import InvalidField
from guardhouse.rules import NOWHERE, Client, Conditions, Identity, Rule, RuleKind, matches

EXPLAINED_POLICIES = 20
SHOWN = 10
"""How many of the values that somebody has a finding names."""


class Decision(IntEnum):
    """Numbered as in the contract."""

    ALLOW = 1
    BLOCK = 2
    SERVICE_AUTH = 3


EVERYONE = Rule(RuleKind.EVERYONE)
_OF_MACHINES = {RuleKind.SERVICE_TOKEN, RuleKind.ANY_SERVICE_TOKEN}
_OF_ANYBODY = {RuleKind.EVERYONE, RuleKind.IP_RANGE, RuleKind.COUNTRY}
_OF_A_SIGN_IN = {RuleKind.IP_RANGE, RuleKind.COUNTRY, RuleKind.AUTH_METHOD}


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules under a name, which policies may name. It names no other."""

    rule_group_id: str
    display_name: str
    include: tuple[Rule, ...]
    require: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()
    create_time: int = 0
    update_time: int = 0

    def check(self) -> None:
        """Raises InvalidField for a rule that is not about people."""
        for name, place, rule in _rules(self):
            if rule.kind in _OF_MACHINES or rule.kind is RuleKind.RULE_GROUP:
                message = "a rule group is about people, and holds no other; name service tokens in the policies"
                raise InvalidField(f"rule_group.{name}[{place}]", message)


@dataclass(frozen=True, slots=True)
class EnrollmentPolicy:
    """`include` is an OR, `require` an AND, `exclude` a NOT."""

    enrollment_policy_id: str
    display_name: str
    decision: Decision
    precedence: int
    include: tuple[Rule, ...]
    require: tuple[Rule, ...]
    exclude: tuple[Rule, ...]
    create_time: int = 0
    update_time: int = 0

    def __str__(self) -> str:
        return f"{self.display_name!r} ({self.decision.name}, precedence {self.precedence})"

    @property
    def service_token_ids(self) -> set[str]:
        """The service tokens that it names."""
        return {rule.value for _, _, rule in _rules(self) if rule.kind is RuleKind.SERVICE_TOKEN}

    @property
    def rule_group_ids(self) -> set[str]:
        """The rule groups that it names."""
        return {rule.value for _, _, rule in _rules(self) if rule.kind is RuleKind.RULE_GROUP}

    @property
    def order(self) -> tuple[bool, int]:
        """SERVICE_AUTH policies come first, then ALLOW and BLOCK, each by ascending precedence."""
        return self.decision is not Decision.SERVICE_AUTH, self.precedence

    def check(self) -> None:
        """Raises InvalidField for a rule that could never match under the decision.

        People enroll under ALLOW and BLOCK and service tokens under SERVICE_AUTH, so a rule about the other kind would
        look as if it admitted, or kept out, somebody that it never meets.
        """
        for name, place, rule in _rules(self):
            if self.decision is not Decision.SERVICE_AUTH and rule.kind in _OF_MACHINES:
                reason = "service tokens enroll under SERVICE_AUTH policies only; make such a policy for them"
            elif self.decision is Decision.SERVICE_AUTH and rule.kind not in _OF_MACHINES | _OF_ANYBODY:
                reason = "people enroll under ALLOW policies only; a SERVICE_AUTH policy never meets one"
            else:
                continue
            message = f"{rule.kind} never matches under {self.decision.name}: {reason}"
            raise InvalidField(f"enrollment_policy.{name}[{place}]", message)

    def mismatch(self, who: Identity, client: Client = NOWHERE) -> str:
        """Why the policy does not match; empty: it does."""
        return self.other_kind(who) or _unmet(self, who, client)

    def other_kind(self, who: Identity) -> str:
        """Why the policy is not for somebody with this kind of credential; empty: it is."""
        if (self.decision is Decision.SERVICE_AUTH) == bool(who.service_token_id):
            return ""
        return "it is for people" if who.service_token_id else "it is for service tokens"


def _rules(on: Conditions) -> Iterable[tuple[str, int, Rule]]:
    """Every rule, with the list that it is in and its place there."""
    for name, rules in (("include", on.include), ("require", on.require), ("exclude", on.exclude)):
        for place, rule in enumerate(rules):
            yield name, place, rule


def _unmet(on: Conditions, who: Identity, client: Client) -> str:
    """Which condition is not met; empty: they all are."""
    if not any(rule.matches(who, client) for rule in on.include):
        return "none of its include rules matches"
    for rule in on.require:
        if not rule.matches(who, client):
            return f"it requires {rule}"
    for rule in on.exclude:
        if rule.matches(who, client):
            return f"it excludes {rule}"
    return ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides on the enrollments of an organization: its policies in their order, and the groups they name."""

    policies: tuple[EnrollmentPolicy, ...]
    groups: tuple[RuleGroup, ...] = ()

    @classmethod
    def of(cls, policies: Iterable[EnrollmentPolicy], groups: Iterable[RuleGroup] = ()) -> "Rules":
        return cls(tuple(sorted(policies, key=lambda it: it.order)), tuple(groups))

    def with_policy(self, changed: EnrollmentPolicy) -> "Rules":
        """The same with a policy as it is going to be."""
        others = (it for it in self.policies if it.enrollment_policy_id != changed.enrollment_policy_id)
        return Rules.of([*others, changed], self.groups)

    def placed(self, who: Identity, client: Client = NOWHERE) -> Identity:
        """Somebody, with the groups that they are in."""
        if not self.groups:
            return who
        found = (group.rule_group_id for group in self.groups if matches(group, who, client))
        return who._replace(rule_group_ids=frozenset(found))

    def at_best(self) -> "Rules":
        """As they are for somebody who signs in wherever and however it is most favourable.

        What is stored of people does not say that. Whoever these rules refuse is refused whatever the circumstances.
        """
        open_groups = {
            group.rule_group_id for group in self.groups if any(it.kind in _OF_A_SIGN_IN for _, _, it in _rules(group))
        }

        def is_open(rule: Rule) -> bool:
            return rule.kind in _OF_A_SIGN_IN or (rule.kind is RuleKind.RULE_GROUP and rule.value in open_groups)

        def decided(rules: Iterable[Rule]) -> tuple[Rule, ...]:
            return tuple(rule for rule in rules if not is_open(rule))

        best = []
        for policy in self.policies:
            require, exclude = decided(policy.require), decided(policy.exclude)
            if policy.decision is not Decision.BLOCK:
                include = tuple(EVERYONE if is_open(rule) else rule for rule in policy.include)
                best.append(replace(policy, include=include, require=require, exclude=exclude))
            elif (require, exclude) == (policy.require, policy.exclude) and (include := decided(policy.include)):
                best.append(replace(policy, include=include))
        return Rules(tuple(best), self.groups)


@dataclass(frozen=True, slots=True)
class Stranded:
    """Whom a policy admitted and no policy would admit now; their registrations live until deleted (decision 13)."""

    users: int = 0
    registrations: int = 0
    registration_ids: tuple[str, ...] = ()
    """The first of them."""


@dataclass(frozen=True, slots=True)
class PolicyWrite:
    """A policy as it was written, what was surely not meant, and whom it leaves behind."""

    enrollment_policy: EnrollmentPolicy
    warnings: tuple[str, ...] = ()
    stranded: Stranded = Stranded()


@dataclass(frozen=True, slots=True)
class PolicyDeletion:
    """What deleting a policy deletes, and the live registrations that it admitted and leaves behind (decision 13)."""

    enrollment_policy: EnrollmentPolicy | None = None
    registrations: int = 0
    registration_ids: tuple[str, ...] = ()
    """The first of them."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A live registration with its holder, as last known."""

    registration_id: str
    user_id: str
    who: Identity


@dataclass(frozen=True, slots=True)
class PolicyUsage:
    """The users with a live registration that a policy admitted, and those registrations, of service tokens too."""

    users: int
    registrations: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies say. `enrollment_policy_id` is the one that decided, or empty."""

    admitted: bool
    enrollment_policy_id: str
    explanation: str


def evaluate(rules: Rules, who: Identity, client: Client = NOWHERE) -> Verdict:
    """The first policy that matches decides, and no match refuses."""
    who = rules.placed(who, client)
    misses = []
    for policy in rules.policies:
        if why := policy.mismatch(who, client):
            misses.append((policy, why))
            continue
        rule = next(rule for rule in policy.include if rule.matches(who, client))
        admitted = policy.decision is not Decision.BLOCK
        outcome = "admitted" if admitted else "refused"
        return Verdict(admitted, policy.enrollment_policy_id, f"{outcome} by policy {policy}: {rule} matches")
    return Verdict(False, "", _refusal(misses))


def _refusal(misses: Sequence[tuple[EnrollmentPolicy, str]]) -> str:
    if not misses:
        return "refused: there is no enrollment policy, and nobody enrolls without one"
    more = len(misses) - EXPLAINED_POLICIES
    shown = "; ".join(f"{policy}: {why}" for policy, why in misses[:EXPLAINED_POLICIES])
    return f"refused: no policy matches; {shown}" + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """What a rule makes of somebody. `place` is as in `include[0]`."""

    place: str
    rule: Rule
    matched: bool
    finding: str


@dataclass(frozen=True, slots=True)
class PolicyTrace:
    """What a policy makes of somebody, and its rules unless it is for the other kind of credential."""

    policy: EnrollmentPolicy
    mismatch: str
    decides: bool
    rules: tuple[RuleTrace, ...]


def trace(rules: Rules, who: Identity, client: Client = NOWHERE) -> list[PolicyTrace]:
    """What every policy makes of somebody, those behind the one that decides as well."""
    who = rules.placed(who, client)
    groups = {group.rule_group_id: group for group in rules.groups}
    found, decided = [], False
    for policy in rules.policies:
        mismatch = policy.mismatch(who, client)
        steps = () if policy.other_kind(who) else tuple(_steps(policy, who, client, groups))
        found.append(PolicyTrace(policy, mismatch, not mismatch and not decided, steps))
        decided = decided or not mismatch
    return found


def _steps(
    policy: EnrollmentPolicy, who: Identity, client: Client, groups: Mapping[str, RuleGroup]
) -> Iterable[RuleTrace]:
    for name, place, rule in _rules(policy):
        yield RuleTrace(f"{name}[{place}]", rule, rule.matches(who, client), _finding(rule, who, client, groups))


def _finding(rule: Rule, who: Identity, client: Client, groups: Mapping[str, RuleGroup]) -> str:
    """What somebody has of what the rule is about."""
    match rule.kind:
        case RuleKind.EMAIL | RuleKind.EMAIL_DOMAIN:
            return f"the verified address is {who.email}" if who.email else "there is no verified address"
        case RuleKind.GROUP:
            return _among("groups", who.groups)
        case RuleKind.SERVICE_TOKEN | RuleKind.ANY_SERVICE_TOKEN:
            return f"the service token is {who.service_token_id}"
        case RuleKind.LOGIN_METHOD:
            known = who.identity_provider_id
            return f"the identity provider is {known}" if known else "the identity provider is not known"
        case RuleKind.IP_RANGE:
            return f"the address is {client.address}" if client.address else "the address is not known"
        case RuleKind.COUNTRY:
            return f"the country is {client.country}" if client.country else "the country is not known"
        case RuleKind.OIDC_CLAIM:
            name = rule.value.partition("=")[0]
            return _among("claims of this name", [it for it in who.claims if it.partition("=")[0] == name])
        case RuleKind.AUTH_METHOD:
            return _among("ways of signing in", who.methods)
        case RuleKind.RULE_GROUP:
            group = groups.get(rule.value)
            if group is None:
                return "there is no such rule group"
            unmet = _unmet(group, who, client)
            return f"not in {group.display_name!r}: {unmet}" if unmet else f"in {group.display_name!r}"
    return "it is for everyone"


def _among(what: str, values: Sequence[str]) -> str:
    if not values:
        return f"there are no {what}"
    more = len(values) - SHOWN
    return f"the {what} are {', '.join(values[:SHOWN])}" + (f" and {more} more" if more > 0 else "")
