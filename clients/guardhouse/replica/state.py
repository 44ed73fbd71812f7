"""The three views that decisions are made by, how fresh they are, and the decision on traffic by what they hold.

The session server and the checker that is built into a gateway have the same ones. Events become what a decision takes
when they are applied, never when a check is made. What is missing refuses.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from guardhouse import decisions
from guardhouse.clock import Clock
from guardhouse.decisions import (
    PolicyAction,
    PolicyFilter,
    Reason,
    Registration,
    User,
    Verdict,
    check_anywhere,
    check_traffic,
)
from guardhouse.durations import MINUTE, SECOND, parse_within
from guardhouse.following import Follower, View
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.policies import QUERY, PolicySet
from guardhouse.replica.coverage import Coverage, Covering
from guardhouse.replica.people import Authentication, IdentityState
from guardhouse.replica.policies import PolicyState
from guardhouse.replica.registrations import RegistryState, Subject

MAX_STALENESS: Final = (2 * SECOND, 5 * MINUTE)

_NO_IDENTITY: Final = IdentityState("")
_NO_REGISTRY: Final = RegistryState("")
_NO_POLICIES: Final = PolicyState("")

Known = tuple[dict[str, User], dict[str, Authentication], dict[str, Subject], dict[str, decisions.Policy]]
"""What is known of one organization at this moment, for who does not wait while holding it."""


class TrafficFacts(NamedTuple):
    """What decides on traffic of one organization at this moment, for who does not wait while holding it."""

    users: dict[str, User]
    authentications: dict[str, Authentication]
    registry: RegistryState
    policies: PolicySet
    coverage: Coverage
    default: PolicyAction
    """What becomes of traffic that no policy covers (decision 29)."""


def parse_max_staleness(text: str) -> int:
    """The setting of that name, in microseconds. Raises DurationInvalid for what nobody should run with."""
    return parse_within(text, "max_staleness", *MAX_STALENESS)


class State:
    """The three views and how fresh they are. The followers are set by whoever makes them."""

    identity: Follower
    registry: Follower
    own: Follower

    def __init__(self, clock: Clock, people: View, max_staleness: int, max_open: int) -> None:
        self.now = clock.now
        self._steady = clock.steady
        self._clock = clock
        self.max_staleness = max_staleness
        self.max_open = max_open
        self.people = people
        """Of IdentityState."""
        self.registrations = View(RegistryState)
        self.policies = View(partial(PolicyState, max_open=max_open))

    @property
    def followers(self) -> Sequence[Follower]:
        return self.identity, self.registry, self.own

    def is_deleted(self, organization_id: str) -> bool:
        """Whether identity has said that the organization is gone."""
        return organization_id in self.people.states.get("", _NO_IDENTITY).deleted

    def _parts(self, organization_id: str) -> tuple[IdentityState, RegistryState, PolicyState]:
        """Empty for an organization that is not known, or gone: what is still held of that counts for nothing."""
        if self.is_deleted(organization_id):
            return _NO_IDENTITY, _NO_REGISTRY, _NO_POLICIES
        return (
            self.people.states.get(organization_id, _NO_IDENTITY),
            self.registrations.states.get(organization_id, _NO_REGISTRY),
            self.policies.states.get(organization_id, _NO_POLICIES),
        )

    def of(self, organization_id: str) -> Known:
        """Empty for an organization that is not known."""
        from_identity, from_registry, own = self._parts(organization_id)
        return from_identity.users, from_identity.authentications, from_registry.registrations, own.policies

    def traffic_facts(self, organization_id: str) -> TrafficFacts:
        """Empty for an organization that is not known."""
        from_identity, from_registry, own = self._parts(organization_id)
        coverage = own.coverage(from_identity.sign_in_hosts)
        return TrafficFacts(
            from_identity.users,
            from_identity.authentications,
            from_registry,
            coverage.policies,
            coverage,
            self.default_action(organization_id),
        )

    def policy_state(self, organization_id: str) -> PolicyState:
        """Empty for an organization that is not known."""
        state: PolicyState = self.policies.states.get(organization_id, _NO_POLICIES)
        return state

    def sign_in_hosts(self, organization_id: str) -> frozenset[str]:
        """The hosts of the organization's identity providers."""
        hosts: frozenset[str] = self.people.states.get(organization_id, _NO_IDENTITY).sign_in_hosts
        return hosts

    def default_action(self, organization_id: str) -> PolicyAction:
        """What becomes of traffic that no policy covers (decision 29)."""
        installation = self.people.states.get("", _NO_IDENTITY)
        organization = installation.organizations.get(organization_id)
        blocks = organization is not None and organization.default_action == identity.DEFAULT_ACTION_BLOCK
        blocks |= organization_id in installation.deleted
        return PolicyAction.BLOCK if blocks else PolicyAction.ALLOW

    def find(self, organization_id: str, registration_id: str) -> tuple[Registration | None, User | None]:
        """A registration as it is now, with its newest authentication, and its user."""
        users, authentications, registrations, _ = self.of(organization_id)
        if (subject := registrations.get(registration_id)) is None:
            return None, None
        if (authentication := authentications.get(registration_id)) is not subject.authentication:
            subject.renew(authentication)
        return subject.copy(), subject.user if subject.users is users else subject.join(users)

    def staleness(self) -> int | None:
        """How long ago all three feeds were last proven to be applied; None while one has never been."""
        # Asked at every check, so without `min`, which would take twice as long.
        proven, registry, own = self.identity.fresh_as_of, self.registry.fresh_as_of, self.own.fresh_as_of
        if registry < proven:
            proven = registry
        if own < proven:
            proven = own
        return self._steady() - proven if proven else None

    def staleness_of(self, organization_id: str) -> int | None:
        """The same for one organization. State that is too old is not proven at all once it is of another history."""
        staleness = self.staleness()
        if staleness is not None and staleness > self.max_staleness:
            return staleness if all(each.is_current(organization_id) for each in self.followers) else None
        return staleness


def cover_traffic(
    facts: TrafficFacts,
    subject: Subject | None,
    filters: tuple[PolicyFilter, ...],
    fields: Mapping[str, str],
    lists: Mapping[str, tuple[str, ...]],
    now: int,
) -> Covering:
    """Find what decides on the traffic of a registration, None for one that is not known (decision 29).

    Who somebody is, and on which device, is matched once for as long as it is so, and of the traffic only what was not
    seen lately. Raises TrafficInvalid, whoever sends it.
    """
    who = 0
    if subject is not None:
        policies = facts.policies
        who = subject.who(policies, facts.users, now)
        if filters is QUERY:
            who &= policies.time_mask(now)
    return facts.coverage.find(filters, fields, lists, who)


def judge_traffic(
    facts: TrafficFacts,
    subject: Subject | None,
    covering: Covering,
    filters: tuple[PolicyFilter, ...],
    now: int,
    staleness: int | None,
    max_staleness: int,
) -> tuple[Verdict, decisions.Policy | None]:
    """Judge traffic by the policies that cover it, and say which one's verdict it is."""
    user = None
    if subject is not None:
        user = subject.user if subject.users is facts.users else subject.join(facts.users)
        if (authentication := facts.authentications.get(subject.registration_id)) is not subject.authentication:
            subject.renew(authentication)
    if covering is None:
        return check_anywhere(subject, user, Reason.SIGN_IN_HOST, now, staleness, max_staleness), None
    verdict, policy = check_traffic(subject, user, covering, facts.default, now, staleness, max_staleness)
    if filters is QUERY and (left := facts.policies.time_mask_until(now) - now) < verdict.valid_for:
        # By then another policy may be in force.
        verdict = verdict._replace(valid_for=left)
    if subject is not None and subject.unchanged[1] - now < verdict.valid_for:
        # By then the age of its device's posture may be too much for a policy, or enough.
        verdict = verdict._replace(valid_for=subject.unchanged[1] - now)
    return verdict, policy
