"""What session does: keeps policies, renews sessions, decides."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from guardhouse.common.v1 import credential_pb2
from guardhouse.decisions import Registration, RegistrationState, User, Verdict, state_stale
from guardhouse.errors import RegistrationNotFound, RegistrationRevoked, StateStale, UserRemoved
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ids import POLICY, new_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import requests
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
        self._replica = replica
        self._record_authentication = record_authentication

    async def create_policy(self, call: Call, organization_id: str, terms: Terms) -> tuple[Policy, str]:
        """The policy and the revision token. Raises OrganizationNotFound, and InvalidField by decision 28."""
        terms.check()
        await self._directory.organization(organization_id)

        def create(tx: Transaction) -> tuple[Policy, str]:
            if (done := requests.find(tx, call.key)) is not None:
                policy = store.get(tx, organization_id, done["policy_id"])
                return policy, tx.token(organization_id, done["revision"])
            policy = Policy(new_id(POLICY, tx.now), terms, create_time=tx.now, update_time=tx.now)
            store.insert(tx, organization_id, policy)
            return policy, self._publish(tx, call, organization_id, policy)

        return await self._database.write(create)

    async def get_policy(self, organization_id: str, policy_id: str) -> Policy:
        """Raises PolicyNotFound."""
        return await self._database.read(lambda tx: store.get(tx, organization_id, policy_id))

    async def list_policies(self, organization_id: str, page: Page) -> Sequence[Policy]:
        """The page's policies, and one more if there is one."""
        return await self._database.read(lambda tx: store.page(tx, organization_id, page.after, page.size + 1))

    async def update_policy(
        self, call: Call, organization_id: str, policy_id: str, change: Callable[[Policy], Terms]
    ) -> tuple[Policy, str]:
        """The policy and the revision token. Raises PolicyNotFound, and InvalidField for a whole that cannot be."""

        def update(tx: Transaction) -> tuple[Policy, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return store.get(tx, organization_id, policy_id), tx.token(organization_id, done["revision"])
            policy = store.get(tx, organization_id, policy_id, lock=True)
            policy = replace(policy, terms=change(policy), update_time=tx.now)
            policy.terms.check()
            store.update(tx, organization_id, policy)
            return policy, self._publish(tx, call, organization_id, policy)

        return await self._database.write(update)

    async def delete_policy(self, call: Call, organization_id: str, policy_id: str) -> str:
        """The revision token. Raises PolicyNotFound."""

        def delete(tx: Transaction) -> str:
            if (done := requests.find(tx, call.key)) is not None:
                return tx.token(organization_id, done["revision"])
            store.delete(tx, organization_id, policy_id)
            revision = tx.advance(organization_id)
            requests.record(tx, call.key, revision=revision)
            tx.publish(organization_id, [pb.Event(policy_deleted=policy_id)], revision)
            return tx.token(organization_id, revision)

        return await self._database.write(delete)

    @staticmethod
    def _publish(tx: Transaction, call: Call, organization_id: str, policy: Policy) -> str:
        revision = tx.advance(organization_id)
        requests.record(tx, call.key, policy_id=policy.policy_id, revision=revision)
        tx.publish(organization_id, [pb.Event(policy=messages.policy(policy))], revision)
        return tx.token(organization_id, revision)

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
        self._replica.require_fresh()
        known = self._replica.of(organization_id)
        registration = known.registration(registration_id)
        if registration is None or _lacks_user(registration, known.user(registration)):
            # It may have been enrolled a moment ago.
            await self._replica.catch_up(asked)
            known = self._replica.of(organization_id)
            registration = known.registration(registration_id)
        if registration is None:
            raise RegistrationNotFound(registration_id)
        user = known.user(registration)
        if _lacks_user(registration, user):
            raise StateStale("the registration's user has not come from identity yet; try again")
        return registration, user

    def check(self, organization_id: str, checks: Iterable[tuple[str, str]]) -> tuple[list[Verdict], int | None]:
        """A verdict for each (registration_id, policy_id), all at one state, and the time as of which it is fresh.

        It waits for nothing, so what it finds holds until it answers. State that is too old, or never was, refuses.
        """
        now, staleness = self._clock.now(), self._replica.staleness()
        if staleness is None:
            return [state_stale(*ids) for ids in checks], None
        left = self._replica.max_staleness - staleness
        if left < 0:
            return [state_stale(*ids) for ids in checks], now - staleness
        decide = self._replica.of(organization_id).check
        return [decide(registration_id, policy_id, now, left) for registration_id, policy_id in checks], now - staleness


def _lacks_user(registration: Registration, user: User | None) -> bool:
    return user is None and not registration.service_token_id


def _request_id(caller: str, registration_id: str, request_id: str) -> str:
    """One for each caller, registration and request_id, in the 64 characters that a request_id may have."""
    return hashlib.sha256(f"{caller} {registration_id} {request_id}".encode()).hexdigest()
