"""What a replica knows and decides by: registrations, users, authentications and policies, from three feeds.

Events become what a decision takes when they are applied, never when a check is made. What is missing refuses.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from guardhouse import decisions
from guardhouse.common.v1 import access_pb2
from guardhouse.decisions import PolicyAction, PolicyFilter, Registration, RegistrationState, User
from guardhouse.durations import format_duration, parse_duration, parse_session_timeout
from guardhouse.errors import CredentialsInvalid, DurationInvalid, StateStale
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.access import Caller
from guardhouse_services.clock import MINUTE, SECOND, Clock
from guardhouse_services.credentials import REGISTRATION_PREFIX, equal, hash_secret, split_secret
from guardhouse_services.directory import Directory, DirectoryState
from guardhouse_services.follower import Follower, View
from guardhouse_services.times import from_timestamp

log = logging.getLogger(__name__)

MAX_STALENESS: Final = (2 * SECOND, 5 * MINUTE)
# How often it is said that answers are degraded.
SAY_EVERY: Final = MINUTE


def parse_max_staleness(text: str) -> int:
    """The setting of that name, in microseconds. Raises DurationInvalid for what nobody should run with."""
    staleness = parse_duration(text, "max_staleness")
    least, most = MAX_STALENESS
    if not least <= staleness <= most:
        bounds = f"{format_duration(least)} to {format_duration(most)}"
        raise DurationInvalid("max_staleness", f"max_staleness is {bounds}, not {text}")
    return staleness


class Authentication:
    """A registration's newest authentication after its enrollment."""

    __slots__ = ("_of", "_renewed", "revision", "time")

    def __init__(self, time: int, revision: int) -> None:
        self.time = time
        self.revision = revision
        self._of: Registration | None = None
        self._renewed: Registration | None = None

    def renew(self, registration: Registration) -> Registration:
        """The registration with this authentication, if it is the newer one by identity's revision.

        They come by two feeds, in either order, so only a check finds both. The first one after either has changed
        puts them together for all that follow.
        """
        if self._renewed is None or self._of is not registration:
            self._of = self._renewed = registration
            if self.revision >= registration.authenticate_revision:
                self._renewed = registration._replace(authenticate_time=self.time, authenticate_revision=self.revision)
        return self._renewed


class IdentityState(DirectoryState):
    """One organization's part of identity's feed."""

    def __init__(self, organization_id: str) -> None:
        super().__init__(organization_id)
        self.users: dict[str, User] = {}
        self.authentications: dict[str, Authentication] = {}

    def apply(self, event: identity.Event) -> None:
        match event.WhichOneof("kind"):
            case "user":
                record = event.user
                user = self.users.setdefault(record.user.user_id, User(record.user.user_id))
                user.removed_revision, user.revoked_revision = record.removed_revision, record.revoked_revision
            case "authentication":
                fact = event.authentication
                time = from_timestamp(fact.authenticate_time)
                self.authentications[fact.registration_id] = Authentication(time, fact.revision)
            case "authentication_deleted":
                self.authentications.pop(event.authentication_deleted, None)
            case _:
                super().apply(event)


Kept = tuple[int, int, tuple[Any, ...], bytes]
"""An answer that is serialised already, and holds from a time up to another, both included, as long as what it follows
from is the same."""


class Subject:
    """A registration, and its user once a check has put the two together.

    Finding a user among a million costs as much as all the rest of a decision.
    """

    __slots__ = ("kept", "registration", "user", "users")

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        self.kept: Kept | None = None
        """The newest answer that allows it something."""
        self.user: User | None = None
        self.users: dict[str, User] | None = None
        """Among whom the user was found. A snapshot of identity replaces them all."""

    def join(self, users: dict[str, User]) -> User | None:
        """The user, if there is one and it has come."""
        if self.users is not users:
            self.user = users.get(self.registration.user_id)
            self.users = users if self.user is not None else None
        return self.user


class RegistryState:
    """One organization's part of the registry's feed."""

    def __init__(self, organization_id: str) -> None:
        self.organization_id = organization_id
        self.registrations: dict[str, Subject] = {}
        self.token_hashes: dict[str, bytes] = {}

    def apply(self, event: registry.Event) -> None:
        match event.WhichOneof("kind"):
            case "registration":
                record = event.registration
                registration = _registration(record)
                registration_id = registration.registration_id
                self.registrations[registration_id] = Subject(registration)
                self.token_hashes[registration_id] = record.token_hash
            case "registration_deleted":
                self.registrations.pop(event.registration_deleted, None)
                self.token_hashes.pop(event.registration_deleted, None)


class PolicyState:
    """One organization's part of session's own feed. No policy stays open for longer than `max_open`."""

    def __init__(self, organization_id: str, max_open: int = 0) -> None:
        self.organization_id = organization_id
        self.policies: dict[str, decisions.Policy] = {}
        self._max_open = max_open

    def apply(self, event: pb.Event) -> None:
        match event.WhichOneof("kind"):
            case "policy":
                self.policies[event.policy.policy_id] = _policy(event.policy, self._max_open)
            case "policy_deleted":
                self.policies.pop(event.policy_deleted, None)


def _registration(record: registry.RegistrationRecord) -> Registration:
    """Its timer is that of the enrollment. A state that a newer registry may know refuses, as REVOKED does."""
    of, revision = record.registration, record.authorize_revision
    active = of.state == registry.REGISTRATION_STATE_ACTIVE
    state = RegistrationState.ACTIVE if active else RegistrationState.REVOKED
    # By position, which takes half the time: a follower makes one for every event.
    return Registration(
        of.registration_id,
        state,
        of.user_id,
        of.service_token_id,
        from_timestamp(record.authenticate_time),
        revision,
        revision,
    )


def _policy(of: pb.Policy, max_open: int) -> decisions.Policy:
    """What a newer replica may have written and this one does not know is no DNS, does not allow and is not open."""
    check, staleness = of.check_session, of.staleness
    opens = staleness.mode == pb.STALENESS_MODE_OPEN_BOUNDED
    return decisions.Policy(
        policy_id=of.policy_id,
        enabled=of.enabled,
        filter=_FILTERS.get(of.filter, PolicyFilter.L4),
        action=PolicyAction.ALLOW if of.action == pb.POLICY_ACTION_ALLOW else PolicyAction.BLOCK,
        timeout=parse_session_timeout(check.duration, "duration") if check.enforce else None,
        max_open=min(parse_duration(staleness.max_open, "max_open"), max_open) if opens else 0,
    )


_FILTERS: Final = {int(known): known for known in PolicyFilter}
_NO_IDENTITY: Final = IdentityState("")
_NO_REGISTRY: Final = RegistryState("")
_NO_POLICIES: Final = PolicyState("")


Known = tuple[dict[str, User], dict[str, Authentication], dict[str, Subject], dict[str, decisions.Policy]]
"""What is known of one organization at this moment, for who does not wait while holding it."""


class Replica:
    """The three views and how fresh they are. The followers are set by whoever makes them, as the directory's is."""

    registry: Follower
    own: Follower

    def __init__(self, clock: Clock, directory: Directory, max_staleness: int, max_open: int) -> None:
        self.now = clock.now
        self._clock = clock
        self._directory = directory
        self.max_staleness = max_staleness
        self.max_open = max_open
        self.registrations = View(RegistryState)
        self.policies = View(partial(PolicyState, max_open=max_open))
        self.degraded_answers = 0
        self._say_again = 0

    @property
    def followers(self) -> Sequence[Follower]:
        return self._directory.follower, self.registry, self.own

    def of(self, organization_id: str) -> Known:
        """Empty for an organization that is not known."""
        from_identity = self._directory.view.states.get(organization_id, _NO_IDENTITY)
        from_registry = self.registrations.states.get(organization_id, _NO_REGISTRY)
        own = self.policies.states.get(organization_id, _NO_POLICIES)
        return from_identity.users, from_identity.authentications, from_registry.registrations, own.policies

    def find(self, organization_id: str, registration_id: str) -> tuple[Registration | None, User | None]:
        """A registration with its newest authentication, and its user."""
        users, authentications, registrations, _ = self.of(organization_id)
        if (subject := registrations.get(registration_id)) is None:
            return None, None
        registration = subject.registration
        if (authentication := authentications.get(registration_id)) is not None:
            registration = authentication.renew(registration)
        return registration, subject.join(users)

    def trust(self, caller: Caller) -> int:
        """How long the key of a gateway is trusted where identity is not heard of: while a policy that it may ask for
        may stay open, which nobody could ask for otherwise."""
        if caller.role != access_pb2.ROLE_GATEWAY:
            return 0
        states = self.policies.states
        # A key without an organization is the installation's.
        asked = states.keys() & {caller.organization_id} if caller.organization_id else states.keys()
        return max((policy.max_open for each in asked for policy in states[each].policies.values()), default=0)

    def staleness(self) -> int | None:
        """How long ago all three feeds were last proven to be applied; None while one has never been."""
        proven = min(self._directory.follower.fresh_as_of, self.registry.fresh_as_of, self.own.fresh_as_of)
        return self._clock.steady() - proven if proven else None

    def staleness_of(self, organization_id: str) -> int | None:
        """The same for one organization. State that is too old is not proven at all once it is of another history."""
        staleness = self.staleness()
        if staleness is not None and staleness > self.max_staleness:
            return staleness if all(each.is_current(organization_id) for each in self.followers) else None
        return staleness

    def note_degraded(self, answers: int, staleness: int) -> None:
        """Counts answers that a policy allowed to be made by state that is too old, and says so once a minute."""
        self.degraded_answers += answers
        if (now := self._clock.steady()) >= self._say_again:
            self._say_again = now + SAY_EVERY
            age = format_duration(staleness)
            log.warning("decided by state that is %s old, as policies let it: %d answers", age, self.degraded_answers)

    def require_fresh(self) -> None:
        """Raises StateStale when the state is too old to judge by."""
        staleness = self.staleness()
        if staleness is None or staleness > self.max_staleness:
            raise StateStale("this replica has lost touch with the other services; try again, or another replica")

    async def catch_up(self, since: int) -> None:
        """Waits until registrations and users are known as of a steady time. Raises StateStale after 3 seconds."""
        if not all(await asyncio.gather(self._directory.follower.fresh(since), self.registry.fresh(since))):
            raise StateStale("this replica has not caught up with registry and identity; try again")

    async def device(self, bearer: str) -> Caller:
        """The device that a registration token belongs to.

        Raises CredentialsInvalid, when it is certain that it was so at the time of the call. A revoked registration is
        refused here, so its device learns from the refusal that it is revoked, and nothing else.
        """
        asked = self._clock.steady()
        try:
            return self._device(bearer)
        except CredentialsInvalid:
            # It may have been enrolled or restored a moment ago.
            if not await self.registry.fresh(asked, timeout=1.0):
                raise
            return self._device(bearer)

    def _device(self, bearer: str) -> Caller:
        prefix, registration_id = split_secret(bearer)
        for organization_id, state in self.registrations.states.items() if prefix == REGISTRATION_PREFIX else ():
            token_hash = state.token_hashes.get(registration_id)
            if token_hash is None or not equal(token_hash, hash_secret(bearer)):
                continue
            if state.registrations[registration_id].registration.state != RegistrationState.ACTIVE:
                raise CredentialsInvalid("the registration is revoked")
            return Caller("device", registration_id, organization_id)
        raise CredentialsInvalid("no such registration token")
