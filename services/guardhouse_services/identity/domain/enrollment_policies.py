"""Who may enroll (decision 12), and why."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from guardhouse.errors import InvalidField

EXPLAINED_POLICIES = 20


class Decision(IntEnum):
    """Numbered as in the contract."""

    ALLOW = 1
    BLOCK = 2
    SERVICE_AUTH = 3


class RuleKind(StrEnum):
    """Named as in the contract."""

    EVERYONE = "everyone"
    EMAIL = "email"
    EMAIL_DOMAIN = "email_domain"
    GROUP = "group"
    SERVICE_TOKEN = "service_token_id"
    ANY_SERVICE_TOKEN = "any_valid_service_token"


_OF_MACHINES = (RuleKind.SERVICE_TOKEN, RuleKind.ANY_SERVICE_TOKEN)
_OF_PEOPLE = (RuleKind.EMAIL, RuleKind.EMAIL_DOMAIN, RuleKind.GROUP)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(email: str) -> str:
    """The address for comparing. Only ASCII letters lose their case: Unicode would make the Kelvin sign a k."""
    return email.translate(_LOWER)


@dataclass(frozen=True, slots=True)
class Subject:
    """Who wants to enroll: a service token, or a person with a verified e-mail address (or none) and groups."""

    service_token_id: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition."""

    kind: RuleKind
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.value}".rstrip()

    def matches(self, subject: Subject) -> bool:
        """Whether it holds for a subject of the policy's kind."""
        match self.kind:
            case RuleKind.EVERYONE:
                return True
            case RuleKind.EMAIL:
                return folded(subject.email) == folded(self.value)
            case RuleKind.EMAIL_DOMAIN:
                _, at, domain = folded(subject.email).rpartition("@")
                return bool(at) and domain == folded(self.value).removeprefix("@")
            case RuleKind.GROUP:
                return self.value in subject.groups
            case RuleKind.SERVICE_TOKEN:
                return subject.service_token_id == self.value
            case RuleKind.ANY_SERVICE_TOKEN:
                return bool(subject.service_token_id)


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
        rules = (*self.include, *self.require, *self.exclude)
        return {rule.value for rule in rules if rule.kind is RuleKind.SERVICE_TOKEN}

    def check(self) -> None:
        """Raises InvalidField for a rule that could never match under the decision.

        People enroll under ALLOW and BLOCK and service tokens under SERVICE_AUTH, so a rule about the other kind would
        look as if it admitted, or kept out, somebody that it never meets.
        """
        for name in ("include", "require", "exclude"):
            for place, rule in enumerate(getattr(self, name)):
                if self.decision is not Decision.SERVICE_AUTH and rule.kind in _OF_MACHINES:
                    reason = "service tokens enroll under SERVICE_AUTH policies only; make such a policy for them"
                elif self.decision is Decision.SERVICE_AUTH and rule.kind in _OF_PEOPLE:
                    reason = "people enroll under ALLOW policies only; a SERVICE_AUTH policy never meets one"
                else:
                    continue
                message = f"{rule.kind} never matches under {self.decision.name}: {reason}"
                raise InvalidField(f"enrollment_policy.{name}[{place}]", message)

    def mismatch(self, subject: Subject) -> str:
        """Why the policy does not match; empty: it does."""
        if (self.decision is Decision.SERVICE_AUTH) != bool(subject.service_token_id):
            return "it is for people" if subject.service_token_id else "it is for service tokens"
        if not any(rule.matches(subject) for rule in self.include):
            return "none of its include rules matches"
        for rule in self.require:
            if not rule.matches(subject):
                return f"it requires {rule}"
        for rule in self.exclude:
            if rule.matches(subject):
                return f"it excludes {rule}"
        return ""


@dataclass(frozen=True, slots=True)
class PolicyDeletion:
    """What deleting a policy deletes, and the live registrations that it admitted and leaves behind (decision 13)."""

    enrollment_policy: EnrollmentPolicy | None = None
    registrations: int = 0
    registration_ids: tuple[str, ...] = ()
    """The first of them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies say. `enrollment_policy_id` is the one that decided, or empty."""

    admitted: bool
    enrollment_policy_id: str
    explanation: str


def evaluate(policies: Iterable[EnrollmentPolicy], subject: Subject) -> Verdict:
    """SERVICE_AUTH policies first, then ALLOW and BLOCK, each by ascending precedence; the first match decides, and no
    match refuses."""
    misses = []
    for policy in sorted(policies, key=lambda it: (it.decision is not Decision.SERVICE_AUTH, it.precedence)):
        if why := policy.mismatch(subject):
            misses.append(f"{policy}: {why}")
            continue
        rule = next(rule for rule in policy.include if rule.matches(subject))
        admitted = policy.decision is not Decision.BLOCK
        outcome = "admitted" if admitted else "refused"
        return Verdict(admitted, policy.enrollment_policy_id, f"{outcome} by policy {policy}: {rule} matches")
    return Verdict(False, "", _refusal(misses))


def _refusal(misses: Sequence[str]) -> str:
    if not misses:
        return "refused: there is no enrollment policy, and nobody enrolls without one"
    more = len(misses) - EXPLAINED_POLICIES
    shown = "; ".join(misses[:EXPLAINED_POLICIES]) + (f"; and {more} more" if more > 0 else "")
    return f"refused: no policy matches; {shown}"
