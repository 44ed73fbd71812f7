"""Trying policies on traffic: what is asked, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardhouse import decisions
from guardhouse.decisions import Decision, PolicyFilter, Profile, Registration, Verdict
from guardhouse.expressions import Traffic
from guardhouse.policies import GatewayPolicy, Step

NEW = "new"
"""What the id of a proposed policy that is not there yet begins with; its place follows."""


Posture = tuple[tuple[str, ...], tuple[str, ...], int | None] | None
"""The checks that a device passed and failed, and when it said so, if it did."""


@dataclass(frozen=True, slots=True)
class Somebody:
    """Who need not exist. `age` is how long ago they authenticated, and `posture_age` how long ago their device said
    what it passed and failed, if that is to be known; both are microseconds."""

    profile: Profile
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    age: int
    posture_age: int | None


@dataclass(frozen=True, slots=True)
class Trial:
    """Traffic, and whose it is: a registration's id, or somebody."""

    subject: str | Somebody
    filters: tuple[PolicyFilter, ...]
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Finding:
    """What is decided, by which policy, and what each makes of it. `by_itself` is the verdict of each that decides."""

    verdict: Verdict
    policy: decisions.Policy | None
    registration: Registration
    steps: Sequence[Step]
    by_itself: Mapping[str, Verdict]


@dataclass(frozen=True, slots=True)
class Outcome:
    """With the proposal and, if there is one, without it."""

    finding: Finding
    present: Finding | None

    @property
    def newly_refused(self) -> bool:
        """It is allowed now, and would not be."""
        if self.present is None:
            return False
        return self.present.verdict.decision is Decision.ALLOW and self.finding.verdict.decision is not Decision.ALLOW


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is to be tried before it is saved: policies by their ids, those that are new by NEW and their place."""

    policies: Mapping[str, GatewayPolicy]
    deleted: frozenset[str]
    names: Mapping[str, str]
