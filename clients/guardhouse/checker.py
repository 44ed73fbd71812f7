"""The embedded checker: a gateway decides by itself, in microseconds, with the session server's own function.

    async with Checker.connect() as checker:
        answer = checker.check_traffic(address="100.96.0.7", kind="connection", fields={"net.dst.ip": "10.0.0.5"})
        if answer.decision is Decision.ALLOW: ...

It follows the feeds of identity, registry and session for one organization, with a GATEWAY key of that organization,
and keeps what decisions are made by. It says how fresh that is, and refuses by itself when it is too old: longer than
`max_staleness` ago, or than a policy's own `max_open`. Times and durations are microseconds, times since 1970.

It belongs to the event loop in which it was entered, and is asked in that loop's thread. It needs the extra `checker`.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self

from msgspec import Struct

from guardhouse import aio
from guardhouse.client import resolve
from guardhouse.clock import Clock, SystemClock
from guardhouse.decisions import (
    MAX_VALID_FOR,
    Decision,
    Policy,
    PolicyFilter,
    Reason,
    Registration,
    Verdict,
    check_session,
)
from guardhouse.durations import DAY, format_duration
from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.expressions import TrafficInvalid
from guardhouse.following import Follower, Position, View
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.ids import ORGANIZATION, check_id
from guardhouse.policies import CONNECTION, QUERY, REQUEST
from guardhouse.profile import Profile, ProfileInvalid
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.replica import storing
from guardhouse.replica.coverage import refusal
from guardhouse.replica.people import IdentityState
from guardhouse.replica.registrations import Subject
from guardhouse.replica.state import State, TrafficFacts, cover_traffic, judge_traffic, parse_max_staleness
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from guardhouse.snapshots import SnapshotFile

__all__ = ["Answer", "Checker", "Decision", "Kind", "Reason"]

log = logging.getLogger(__name__)

Kind = Literal["connection", "request", "query"]
"""What the traffic is: a connection, an HTTP request (which is a connection, too), or a DNS query."""

START_SECONDS: Final = 5.0
"""How long a start waits for the services before it goes on without them."""
SNAPSHOT_SECONDS: Final = 60.0
MAX_OPEN: Final = DAY
"""No policy stays open for longer."""

_KINDS: Final[dict[str, tuple[PolicyFilter, ...]]] = {"connection": CONNECTION, "request": REQUEST, "query": QUERY}
_NO_FIELDS: Final[Mapping[str, str]] = {}
_NO_LISTS: Final[Mapping[str, Iterable[str]]] = {}
_NO_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {}
_ALLOW, _STALE = Decision.ALLOW, Reason.STATE_STALE


class Answer(Struct, frozen=True, gc=False):
    """What to do, and why; the fields of guardhouse.session.v1.CheckAnswer.

    Ids are empty where there is none. `session_expire_time` is None where no timeout was judged. The answer may be used
    again for `valid_for`. `degraded` says that the facts were too old to count as fresh, and the policy let them decide
    all the same.
    """

    decision: Decision
    reason: Reason
    policy_id: str
    registration_id: str
    user_id: str
    authenticate_time: int | None
    session_expire_time: int | None
    valid_for: int
    degraded: bool


class Checker:
    """Made by `connect`, and started by `async with`."""

    def __init__(
        self,
        profile: Profile,
        max_staleness: int,
        snapshot_path: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.organization_id = profile.organization_id
        self._clock = clock or SystemClock()
        self._client = aio.Client(profile)
        self._snapshot: SnapshotFile | None = None
        if snapshot_path is not None:
            self._snapshot = SnapshotFile(snapshot_path, "checker", profile.key, self.organization_id)
        self._stored = 0
        """The steady time as of which the file is proven."""
        self._tasks: list[asyncio.Task[None]] = []
        self._state = state = State(self._clock, View(IdentityState), max_staleness, MAX_OPEN)
        state.policies = View(partial(storing.StoredPolicyState, max_open=MAX_OPEN))
        self._people, self._registrations, self._policies = state.people, state.registrations, state.policies
        self._views = {"identity": state.people, "registry": state.registrations, "session": state.policies}
        self._known_version = self._facts_version = 0
        """Of the three views together."""
        self._known, self._facts = state.of(self.organization_id), state.traffic_facts(self.organization_id)
        own = (self.organization_id,)
        # A channel belongs to the event loop, so it is opened by the first who follows.
        state.identity = Follower(
            "checker identity", self._watch_identity, identity_pb2.WatchRequest, state.people, self._clock, ("", *own)
        )
        state.registry = Follower(
            "checker registry", self._watch_registry, registry_pb2.WatchRequest, state.registrations, self._clock, own
        )
        state.own = Follower(
            "checker session", self._watch_session, session_pb2.WatchRequest, state.policies, self._clock, own
        )

    @classmethod
    def connect(
        cls,
        profile: str | Path | Profile | None = None,
        *,
        identity: str | None = None,
        registry: str | None = None,
        session: str | None = None,
        ca: str | Path | None = None,
        key: str | None = None,
        organization_id: str | None = None,
        max_staleness: str = "30s",
        snapshot_path: str | Path | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """A checker of the organization that the profile names; what is given beside it wins. See guardhouse.connect.

        `max_staleness` is a duration from 2s to 5m. At `snapshot_path` the checker keeps a file that it starts from
        while the services are down. Raises ProfileInvalid and DurationInvalid, and InvalidField for an organization_id
        that is none.
        """
        found = resolve(profile, (identity, registry, None, session), ca, key)
        if organization_id is not None:
            found = dataclasses.replace(found, organization_id=organization_id)
        if not found.organization_id:
            raise ProfileInvalid("a checker follows one organization: name its organization_id in the profile")
        if not found.key:
            raise ProfileInvalid("a checker needs a GATEWAY key of its organization: name its key_file in the profile")
        check_id(found.organization_id, ORGANIZATION, "organization_id")
        path = Path(snapshot_path) if snapshot_path is not None else None
        return cls(found, parse_max_staleness(max_staleness), path, clock)

    async def __aenter__(self) -> Self:
        """Waits until it is ready, but no longer than 5 s: who comes while everything is down is answered all the same,
        and refused unless what was stored on disk may still decide."""
        began = self._clock.steady()
        if self._snapshot is not None:
            await self._restore(self._snapshot)
        followers = self._state.followers
        self._tasks = [asyncio.create_task(follower.run()) for follower in followers]
        if self._snapshot is not None:
            self._tasks.append(asyncio.create_task(self._keep_storing(self._snapshot)))
        try:
            if not all(await asyncio.gather(*(follower.fresh(began, START_SECONDS) for follower in followers))):
                log.warning("not every service answers; this checker decides by what it has, where that is allowed")
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()
        if self._snapshot is not None:
            await self._store(self._snapshot)

    # Asking

    def check_session(self, registration_id: str, policy_id: str) -> Answer:
        """Whether a registration's session is fresh enough for one policy: what CheckSession answers."""
        state = self._state
        # What changes is in them; only a snapshot replaces them, and counts as a change.
        version = self._people.version + self._registrations.version + self._policies.version
        if version != self._known_version:
            self._known, self._known_version = state.of(self.organization_id), version
        users, authentications, registrations, policies = self._known
        now, staleness, max_staleness = state.now(), self._staleness(), state.max_staleness
        subject, policy = registrations.get(registration_id), policies.get(policy_id)
        if subject is None:
            return _answer(check_session(None, None, policy, now, staleness, max_staleness), None, policy)
        authentication = authentications.get(registration_id)
        user = subject.user if subject.users is users else subject.join(users)
        removed, revoked = (user.removed_revision, user.revoked_revision) if user is not None else (-1, -1)
        is_fresh = staleness is not None and max_staleness - staleness >= MAX_VALID_FOR
        if (
            policy is not None
            and subject.asked is policy
            and subject.authentication is authentication
            and subject.removed == removed
            and subject.revoked == revoked
            and is_fresh
        ):
            # It was allowed, and nothing that this follows from has changed but the time.
            since, timeout = subject.authenticate_time, policy.timeout
            if since <= now and (timeout is None or now <= since + timeout - MAX_VALID_FOR):
                return subject.answer  # type: ignore[no-any-return]  # `cast` would cost a tenth of all this
        if authentication is not subject.authentication:
            subject.renew(authentication)
        verdict = check_session(subject, user, policy, now, staleness, max_staleness)
        answer = _answer(verdict, subject, policy)
        if is_fresh and verdict.decision is _ALLOW and policy is not None:
            subject.keep(policy, verdict, policy, removed, revoked, answer)
        return answer

    def check_traffic(
        self,
        *,
        kind: Kind,
        address: str = "",
        registration_id: str = "",
        fields: Mapping[str, str] = _NO_FIELDS,
        lists: Mapping[str, Iterable[str]] = _NO_LISTS,
    ) -> Answer:
        """Whether traffic may pass: what CheckTraffic answers. Whose it is says its virtual address, or the id.

        `fields` are what the traffic is, by the names that policies use, and `lists` the fields with several values.
        Raises FieldRequired and InvalidField for what is no question.
        """
        state, facts = self._state, self._traffic_facts()
        if (filters := _KINDS.get(kind)) is None:
            raise InvalidField("kind", f"kind is one of {', '.join(_KINDS)}, not {kind!r}")
        subject: Subject | None
        if registration_id:
            subject = facts.registry.registrations.get(registration_id)
        elif address:
            try:
                subject = facts.registry.holder(address)
            except (OSError, ValueError):
                raise InvalidField("address", f"{address[:64]!r} is no IPv4 or IPv6 address") from None
        else:
            raise FieldRequired("registration_id", "registration_id or address is required")
        now, staleness, max_staleness = state.now(), self._staleness(), state.max_staleness
        several = {name: tuple(texts) for name, texts in lists.items()} if lists else _NO_TEXTS
        try:
            covering = cover_traffic(facts, subject, filters, fields, several, now)
        except TrafficInvalid as invalid:
            raise refusal(fields, invalid) from None
        may_keep, authentication, removed, revoked = False, None, -1, -1
        # As in check_session. What answers a query may change with the hour, and where no policy decides there is none
        # to compare.
        if covering and subject is not None and filters is not QUERY:
            users, authentications = facts.users, facts.authentications
            user = subject.user if subject.users is users else subject.join(users)
            if user is not None:
                removed, revoked = user.removed_revision, user.revoked_revision
            if staleness is not None and max_staleness - staleness >= MAX_VALID_FOR:
                may_keep, authentication = True, authentications.get(subject.registration_id)
                if (
                    subject.asked == covering
                    and subject.authentication is authentication
                    and subject.removed == removed
                    and subject.revoked == revoked
                    and (kept := subject.allowed_by) is not None
                    and (since := subject.authenticate_time) <= now
                    and ((timeout := kept.timeout) is None or now <= since + timeout - MAX_VALID_FOR)
                    and now + MAX_VALID_FOR <= subject.unchanged[1]
                ):
                    return subject.answer  # type: ignore[no-any-return]
        verdict, policy = judge_traffic(facts, subject, covering, filters, now, staleness, max_staleness)
        answer = _answer(verdict, subject, policy)
        if may_keep and covering and policy is not None and verdict.decision is _ALLOW and subject is not None:
            subject.keep(covering, verdict, policy, removed, revoked, answer)
        return answer

    def _traffic_facts(self) -> TrafficFacts:
        version = self._people.version + self._registrations.version + self._policies.version
        if version != self._facts_version:
            self._facts, self._facts_version = self._state.traffic_facts(self.organization_id), version
        return self._facts

    def _staleness(self) -> int | None:
        state = self._state
        staleness = state.staleness()
        if staleness is None or staleness <= state.max_staleness:
            return staleness
        return state.staleness_of(self.organization_id)

    # How fresh

    @property
    def fresh_as_of(self) -> int | None:
        """The time as of which everything is known; None when that was never proven."""
        staleness = self._state.staleness()
        return None if staleness is None else self._state.now() - staleness

    def staleness(self) -> int | None:
        """How long ago that was."""
        return self._state.staleness()

    def ready(self) -> bool:
        """Whether it knows enough to decide on everything, and not by facts that are too old."""
        staleness = self._state.staleness()
        return staleness is not None and staleness <= self._state.max_staleness

    # Following

    def _watch_identity(self, requests: AsyncIterator[Any]) -> Any:
        return identity_pb2_grpc.IdentityFeedServiceStub(self._client.channel("identity")).Watch(requests)

    def _watch_registry(self, requests: AsyncIterator[Any]) -> Any:
        return registry_pb2_grpc.RegistryFeedServiceStub(self._client.channel("registry")).Watch(requests)

    def _watch_session(self, requests: AsyncIterator[Any]) -> Any:
        return session_pb2_grpc.SessionFeedServiceStub(self._client.channel("session")).Watch(requests)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._client.close()

    # Storing

    async def _restore(self, file: SnapshotFile) -> None:
        """Begins with what is in the file, as old as it is."""
        if (found := await file.found()) is None:
            return
        header, pages = found
        for service, positions in header.positions.items():
            for organization_id in positions:
                await self._views[service].begin(organization_id)
        with _no_collection():
            for service, organization_id, events in pages:
                await self._views[service].page(organization_id, events)
        proven = header.proven(self._clock)
        for (service, positions), follower in zip(header.positions.items(), self._state.followers, strict=True):
            for organization_id, position in positions.items():
                await self._views[service].end(organization_id, position)
            follower.restore(positions, proven)
        self._stored = proven
        log.info("started from %s, which is %s old", file.path, format_duration(self._state.now() - header.fresh_as_of))

    async def _keep_storing(self, file: SnapshotFile) -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_SECONDS)
            await self._store(file)

    async def _store(self, file: SnapshotFile) -> None:
        """Writes what is known, unless nothing has been heard since it was written last."""
        if self._state.is_deleted(self.organization_id):
            await asyncio.to_thread(file.path.unlink, missing_ok=True)
            return
        fresh_as_of = self.fresh_as_of
        proven = min(follower.fresh_as_of for follower in self._state.followers)
        if fresh_as_of is None or proven == self._stored:
            return
        positions: dict[str, dict[str, Position]] = {}
        captured: list[tuple[str, str, Iterator[Any]]] = []
        for service, view in self._views.items():
            positions[service] = at = await view.positions()
            captured += storing.capture(service, view, sorted(at))
        try:
            await asyncio.to_thread(file.write, fresh_as_of, positions, captured)
        except OSError as error:
            log.error("cannot write %s: %s", file.path, error)
        else:
            self._stored = proven


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """All that is made stays, so to look for garbage meanwhile would only take a third longer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _answer(verdict: Verdict, registration: Registration | None, policy: Policy | None) -> Answer:
    decision, reason, expire_time, valid_for, degraded = verdict
    policy_id = policy.policy_id if policy is not None else ""
    if registration is None:
        return Answer(decision, reason, policy_id, "", "", None, expire_time, valid_for, degraded)
    user_id, authenticate_time = "", None
    if reason is not _STALE:
        user_id, authenticate_time = registration.user_id, registration.authenticate_time or None
    registration_id = registration.registration_id
    return Answer(
        decision, reason, policy_id, registration_id, user_id, authenticate_time, expire_time, valid_for, degraded
    )
