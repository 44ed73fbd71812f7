"""Sessions: how old they are, and beginning them anew."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from guardhouse.clock import Clock
from guardhouse.common.v1 import credential_pb2
from guardhouse.decisions import Registration, RegistrationState, User
from guardhouse.errors import (
    ChallengeInvalid,
    FieldRequired,
    IdentityProviderNotFound,
    RegistrationNotFound,
    RegistrationRevoked,
    StateStale,
    UserRemoved,
)
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.times import to_timestamp
from guardhouse_services.access import Call
from guardhouse_services.directory import Directory
from guardhouse_services.failpoint import failpoint
from guardhouse_services.paging import Page
from guardhouse_services.peers import reaching
from guardhouse_services.session.domain.sessions import Session, is_expired, is_removed, is_revoked, limits
from guardhouse_services.session.replica import Replica
from guardhouse_services.session.usecases.challenges import Challenges

if TYPE_CHECKING:
    from guardhouse.identity.v1.identity_pb2_grpc import AuthenticationServiceAsyncStub

SLICE = 2_000
"""How many registrations are looked at before others have their turn, a few milliseconds."""


class Sessions:
    """Shows and renews them. Session keeps nothing of a renewal: identity records it, and tells it to everybody."""

    def __init__(
        self,
        clock: Clock,
        directory: Directory,
        replica: Replica,
        challenges: Challenges,
        authentication: "AuthenticationServiceAsyncStub",
    ) -> None:
        self._clock = clock
        self._directory = directory
        self._replica = replica
        self._challenges = challenges
        self._authentication = authentication

    async def get(self, organization_id: str, registration_id: str) -> Session:
        """Raises RegistrationNotFound, and StateStale when that cannot be told."""
        registration, user = await self._registration(organization_id, registration_id)
        asked_again = limits(self._replica.of(organization_id)[3].values())
        return Session(registration, is_revoked(registration, user), asked_again)

    async def page(self, organization_id: str, page: Page, user_id: str, only_expired: bool) -> Sequence[str]:
        """The ids of the registrations whose sessions are on the page, and of one more if there is one.

        With `user_id` only that user's, with `only_expired` only those that were revoked or are too old for a policy.
        Raises OrganizationNotFound and StateStale.
        """
        await self._directory.organization(organization_id)
        self._replica.require_fresh()
        _, _, registrations, policies = self._replica.of(organization_id)
        now, asked_again = self._clock.now(), limits(policies.values())

        def is_wanted(registration_id: str) -> bool:
            subject = registrations.get(registration_id)
            if subject is None or (user_id and subject.user_id != user_id):
                return False
            if not only_expired:
                return True
            registration, user = self._replica.find(organization_id, registration_id)
            return registration is not None and (
                is_revoked(registration, user) or is_expired(registration, asked_again, now)
            )

        ids, found = list(registrations), list[str]()
        for start in range(0, len(ids), SLICE):
            wanted: Iterable[str] = (it for it in ids[start : start + SLICE] if it > page.after)
            if len(found) > page.size:
                last = found[-1]
                wanted = (it for it in wanted if it < last)
            if user_id or only_expired:
                wanted = filter(is_wanted, wanted)
            # They are nearly in order already, so sorting costs little more than looking at them.
            found = sorted([*found, *wanted])[: page.size + 1]
            await asyncio.sleep(0)
        return found

    def show(self, organization_id: str, registration_ids: Iterable[str]) -> list[Session]:
        """Those of them that are there now."""
        asked_again = limits(self._replica.of(organization_id)[3].values())
        found = (self._replica.find(organization_id, registration_id) for registration_id in registration_ids)
        return [
            Session(registration, is_revoked(registration, user), asked_again)
            for registration, user in found
            if registration is not None
        ]

    async def revoke(
        self, call: Call, organization_id: str, registration_ids: Sequence[str], *, validate_only: bool
    ) -> tuple[list[Session | RegistrationNotFound], str]:
        """Ends the sessions of registrations: what became of each, in order, and identity's revision token.

        Raises OrganizationNotFound, ServiceUnavailable, and StateStale when it cannot be told which there are.
        """
        asked = self._clock.steady()
        await self._directory.organization(organization_id)
        self._replica.require_fresh()
        registrations = self._replica.of(organization_id)[2]
        if any(each not in registrations for each in registration_ids):
            # They may have been enrolled a moment ago.
            await self._replica.catch_up(asked)
        shown = {it.registration.registration_id: it for it in self.show(organization_id, registration_ids)}
        gone: Iterable[str] = ()
        token = ""
        if shown and not validate_only:
            request = identity.RevokeAuthenticationsRequest(
                organization_id=organization_id,
                registration_ids=registration_ids,
                request_id=_request_id(call.caller.name, "revoke", call.key.request_id),
                actor=call.caller.name,
            )
            with reaching("identity"):
                revoked = await self._authentication.RevokeAuthentications(request)
            gone, token = revoked.gone_registration_ids, revoked.revision_token
        for each in gone:
            shown.pop(each, None)
        return [
            replace(shown[each], revoked=True) if each in shown else RegistrationNotFound(each)
            for each in registration_ids
        ], token

    async def start(
        self, organization_id: str, registration_id: str
    ) -> tuple[identity.IdentityProvider | None, str, int]:
        """The provider that enrolled the user, None for a machine; a challenge, and when that expires (decision 33).

        Raises RegistrationNotFound, RegistrationRevoked, UserRemoved, IdentityProviderNotFound and StateStale.
        """
        _, user = await self._usable(organization_id, registration_id)
        provider = None
        if user is not None:
            providers = self._directory.identity_providers(organization_id)
            provider = next((it for it in providers if it.issuer == user.issuer), None)
            if provider is None:
                raise IdentityProviderNotFound("", "the identity provider that enrolled this user was removed")
        return provider, *self._challenges.new(organization_id, registration_id)

    async def reauthenticate(
        self,
        call: Call,
        organization_id: str,
        registration_id: str,
        credential: credential_pb2.Credential,
        challenge: str = "",
        purpose: str = "",
    ) -> identity.RecordAuthenticationResponse:
        """Where the timer starts now, who the person is, and the revision token.

        Identity records the fact once for a repeated request, of each `purpose`, and it comes back in its feed. Raises
        what `prepare` and `record` do.
        """
        request = await self.prepare(call, organization_id, registration_id, credential, challenge, purpose)
        return await self.record(request)

    async def prepare(
        self,
        call: Call,
        organization_id: str,
        registration_id: str,
        credential: credential_pb2.Credential,
        challenge: str,
        purpose: str,
    ) -> identity.RecordAuthenticationRequest:
        """What identity is asked, for a registration or, with an empty id, for whoever signs in without a device.

        Raises RegistrationNotFound, RegistrationRevoked, UserRemoved, ChallengeInvalid and StateStale.
        """
        request = identity.RecordAuthenticationRequest(
            organization_id=organization_id,
            registration_id=registration_id,
            credential=credential,
            request_id=_request_id(f"{purpose}{call.caller.name}", registration_id, call.key.request_id),
            actor=call.caller.name,
        )
        if not registration_id:
            return request
        registration, _ = await self._usable(organization_id, registration_id)
        if registration.user_id:
            request.user_id = registration.user_id
        else:
            request.service_token_id = registration.service_token_id
        if challenge:
            asked_time = self._challenges.asked_time(organization_id, registration_id, challenge)
            request.asked_time.CopyFrom(to_timestamp(asked_time))
        return request

    async def record(self, request: identity.RecordAuthenticationRequest) -> identity.RecordAuthenticationResponse:
        """Raises ServiceUnavailable and whatever identity says of the credential."""
        failpoint("session.record")
        with reaching("identity"):
            try:
                recorded = await self._authentication.RecordAuthentication(request)
            except (ChallengeInvalid, FieldRequired) as refusal:
                # When it was asked for is what our own caller calls the challenge.
                if refusal.field == "asked_time":
                    raise type(refusal)("challenge", _CHALLENGE[type(refusal)]) from None
                raise
        failpoint("session.recorded")
        return recorded

    async def _usable(self, organization_id: str, registration_id: str) -> tuple[Registration, User | None]:
        """One that can be authenticated for."""
        registration, user = await self._registration(organization_id, registration_id)
        if registration.state != RegistrationState.ACTIVE:
            raise RegistrationRevoked("the registration is revoked; an admin can restore it, or enroll again")
        if is_removed(registration, user):
            raise UserRemoved("the user of this registration was removed; enroll again")
        return registration, user

    async def _registration(self, organization_id: str, registration_id: str) -> tuple[Registration, User | None]:
        """With its user; a service token's has none."""
        asked = self._clock.steady()
        self._replica.require_fresh()
        registration, user = self._replica.find(organization_id, registration_id)
        if registration is None or _lacks_user(registration, user):
            # It may have been enrolled a moment ago.
            await self._replica.catch_up(asked)
            registration, user = self._replica.find(organization_id, registration_id)
        if registration is None:
            raise RegistrationNotFound(registration_id)
        if _lacks_user(registration, user):
            raise StateStale("the registration's user has not come from identity yet; try again")
        return registration, user


_CHALLENGE = {
    ChallengeInvalid: "the challenge has expired; ask for a new one with StartReauthentication",
    FieldRequired: "the identity provider has force_interaction: ask for a challenge with StartReauthentication, have"
    " the person sign in, and send both",
}


def _lacks_user(registration: Registration, user: User | None) -> bool:
    return user is None and not registration.service_token_id


def _request_id(caller: str, registration_id: str, request_id: str) -> str:
    """One for each caller, registration and request_id, in the 64 characters that a request_id may have."""
    return hashlib.sha256(f"{caller} {registration_id} {request_id}".encode()).hexdigest()
