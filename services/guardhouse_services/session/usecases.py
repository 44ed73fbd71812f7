"""What session does: keeps policies, renews sessions, decides."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guardhouse.common.v1 import credential_pb2
from guardhouse.decisions import Registration, RegistrationState, User
from guardhouse.durations import format_duration
from guardhouse.errors import DurationInvalid, RegistrationNotFound, RegistrationRevoked, StateStale, UserRemoved
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ids import POLICY, new_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.clock import Clock
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.failpoint import failpoint
from guardhouse_services.paging import Page
from guardhouse_services.peers import reaching
from guardhouse_services.session import messages, store
from guardhouse_services.session.domain import Policy, Terms, is_removed, is_revoked
from guardhouse_services.session.replica import Replica
from guardhouse_services.times import from_timestamp

RecordAuthentication = Callable[
    [identity.RecordAuthenticationRequest], Awaitable[identity.RecordAuthenticationResponse]
]
"""identity.AuthenticationService.RecordAuthentication, as its stub has it."""


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[Sequence[pb.Event], str]:
    """A page of the present state for the feed."""
    found = store.page(tx, organization_id, after, limit)
    events = [pb.Event(policy=messages.policy(policy)) for policy in found]
    return events, found[-1].policy_id if len(found) == limit else ""


def check_quarantine(database: Database, quarantine: int) -> None:
    """Raises DurationInvalid for one that is shorter than a policy stays open (decision 25)."""
    with database.engine.connect() as connection:
        longest = store.longest_open(connection)
    if longest > quarantine:
        raise DurationInvalid(
            "quarantine",
            f"quarantine is {format_duration(quarantine)}, and a policy has a max_open of {format_duration(longest)}: "
            "make it at least as long, or shorten the policy's first",
        )


class Session:
    """The use cases."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        directory: Directory,
        replica: Replica,
        record_authentication: RecordAuthentication,
    ) -> None:
        self._clock = clock
        self._database = database
        self._directory = directory
        self.replica = replica
        self._record_authentication = record_authentication

    async def create_policy(self, call: Call, organization_id: str, terms: Terms) -> tuple[Policy, str]:
        """The policy and the revision token.

        Raises OrganizationNotFound, InvalidField by decision 28, and DurationInvalid for a staleness that cannot be.
        """
        self._check(terms)
        await self._directory.organization(organization_id)

        def create(tx: Transaction) -> tuple[Policy, str]:
            if (done := requests.find(tx, call.key)) is not None:
                policy = _remembered(done) or store.get(tx, organization_id, done["policy_id"])
                return policy, tx.token(organization_id, done["revision"])
            policy = Policy(new_id(POLICY, tx.now), terms, create_time=tx.now, update_time=tx.now)
            store.insert(tx, organization_id, policy)
            return policy, _publish(tx, call, organization_id, policy, pb.Event(policy=messages.policy(policy)))

        return await self._database.write(create)

    async def get_policy(self, organization_id: str, policy_id: str) -> Policy:
        """Raises PolicyNotFound."""
        return await self._database.read(lambda tx: store.get(tx, organization_id, policy_id))

    async def list_policies(self, organization_id: str, page: Page) -> Sequence[Policy]:
        """The page's policies, and one more if there is one."""
        return await self._database.read(lambda tx: store.page(tx, organization_id, page.after, page.size + 1))

    async def update_policy(
        self, call: Call, organization_id: str, policy_id: str, etag: str, change: Callable[[Policy], Terms]
    ) -> tuple[Policy, str]:
        """The policy and the revision token.

        Raises PolicyNotFound, EtagMismatch, and as create_policy for a whole that cannot be.
        """

        def update(tx: Transaction) -> tuple[Policy, str]:
            if (done := requests.find(tx, call.key)) is not None:
                policy = _remembered(done) or store.get(tx, organization_id, policy_id)
                return policy, tx.token(organization_id, done["revision"])
            policy = store.get(tx, organization_id, policy_id, lock=True)
            etags.check(messages.policy(policy).etag, etag)
            policy = replace(policy, terms=change(policy), update_time=tx.now)
            self._check(policy.terms)
            store.update(tx, organization_id, policy)
            return policy, _publish(tx, call, organization_id, policy, pb.Event(policy=messages.policy(policy)))

        return await self._database.write(update)

    async def delete_policy(
        self, call: Call, organization_id: str, policy_id: str, etag: str, *, validate_only: bool
    ) -> tuple[Policy | None, str]:
        """The policy as it was, and the revision token. Raises PolicyNotFound and EtagMismatch."""

        def delete(tx: Transaction) -> tuple[Policy | None, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _remembered(done), tx.token(organization_id, done["revision"])
            policy = store.get(tx, organization_id, policy_id, lock=True)
            etags.check(messages.policy(policy).etag, etag)
            store.delete(tx, organization_id, policy_id)
            return policy, _publish(tx, call, organization_id, policy, pb.Event(policy_deleted=policy_id))

        return await self._database.write(delete, validate_only=validate_only)

    def _check(self, terms: Terms) -> None:
        terms.check()
        if terms.staleness is not None:
            terms.staleness.check(self.replica.max_staleness, self.replica.max_open)

    async def get_session(self, organization_id: str, registration_id: str) -> tuple[Registration, bool]:
        """The registration with its timer, and whether its session was revoked.

        Raises RegistrationNotFound, and StateStale when that cannot be told.
        """
        registration, user = await self._registration(organization_id, registration_id)
        return registration, is_revoked(registration, user)

    async def reauthenticate(
        self, call: Call, organization_id: str, registration_id: str, credential: credential_pb2.Credential
    ) -> tuple[int, str]:
        """Where the timer starts now, and identity's revision token.

        Session keeps nothing of it: identity records the fact, once for a repeated request, and it comes back in
        identity's feed. Raises RegistrationNotFound, RegistrationRevoked, UserRemoved, StateStale, ServiceUnavailable
        and whatever identity says of the credential.
        """
        registration, user = await self._registration(organization_id, registration_id)
        if registration.state != RegistrationState.ACTIVE:
            raise RegistrationRevoked("the registration is revoked; an admin can restore it, or enroll again")
        if is_removed(registration, user):
            raise UserRemoved("the user of this registration was removed; enroll again")
        request = identity.RecordAuthenticationRequest(
            organization_id=organization_id,
            registration_id=registration_id,
            credential=credential,
            request_id=_request_id(call.caller.name, registration_id, call.key.request_id),
            actor=call.caller.name,
        )
        if registration.user_id:
            request.user_id = registration.user_id
        else:
            request.service_token_id = registration.service_token_id
        failpoint("session.record")
        with reaching("identity"):
            recorded = await self._record_authentication(request)
        failpoint("session.recorded")
        return from_timestamp(recorded.authenticate_time), recorded.revision_token

    async def _registration(self, organization_id: str, registration_id: str) -> tuple[Registration, User | None]:
        """With its user; a service token's has none."""
        asked = self._clock.steady()
        self.replica.require_fresh()
        registration, user = self.replica.find(organization_id, registration_id)
        if registration is None or _lacks_user(registration, user):
            # It may have been enrolled a moment ago.
            await self.replica.catch_up(asked)
            registration, user = self.replica.find(organization_id, registration_id)
        if registration is None:
            raise RegistrationNotFound(registration_id)
        if _lacks_user(registration, user):
            raise StateStale("the registration's user has not come from identity yet; try again")
        return registration, user


def _publish(tx: Transaction, call: Call, organization_id: str, policy: Policy, event: pb.Event) -> str:
    """The revision token. The policy is remembered as it is now, because by the time of a repetition it may be gone."""
    revision = tx.advance(organization_id)
    policy_id = policy.policy_id
    requests.record(tx, call, policy_id, policy_id=policy_id, policy=store.to_row(policy), revision=revision)
    tx.publish(organization_id, [event], revision)
    return tx.token(organization_id, revision)


def _remembered(done: Mapping[str, Any]) -> Policy | None:
    """What a repeated request was answered. The release before this one remembered no policy."""
    return store.from_row(done["policy"]) if "policy" in done else None


def _lacks_user(registration: Registration, user: User | None) -> bool:
    return user is None and not registration.service_token_id


def _request_id(caller: str, registration_id: str, request_id: str) -> str:
    """One for each caller, registration and request_id, in the 64 characters that a request_id may have."""
    return hashlib.sha256(f"{caller} {registration_id} {request_id}".encode()).hexdigest()
