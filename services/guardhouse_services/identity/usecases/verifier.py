"""Who a credential proves somebody to be."""

from collections.abc import Awaitable, Callable

from guardhouse.clock import Clock
from guardhouse.errors import IdTokenInvalid, ServiceTokenInvalid
from guardhouse_services.credentials import equal, hash_secret
from guardhouse_services.database import Database, Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import (
    Credential,
    IdentityProvider,
    IdToken,
    Person,
    Profile,
    Proof,
    ServiceToken,
    ServiceTokenSecret,
)
from guardhouse_services.identity.oidc import IdentityClaims, claimed_issuer

VerifyIdToken = Callable[[IdentityProvider, str, int], Awaitable[IdentityClaims]]
"""What a token of this provider says, at this time. Raises IdTokenInvalid and IdentityProviderUnavailable."""


class Verifier:
    """Verifies credentials of an organization's people and machines."""

    def __init__(self, clock: Clock, database: Database, verify_id_token: VerifyIdToken) -> None:
        self._clock = clock
        self._database = database
        self._verify_id_token = verify_id_token

    async def prove(self, organization_id: str, credential: Credential) -> Proof:
        """Whom an ID token proves to have signed in; a service token's secret needs no call. Never in a transaction.

        The token's own claim only chooses among the organization's providers; that provider's keys then verify it.
        Raises OrganizationNotFound, IdTokenInvalid and IdentityProviderUnavailable.
        """
        provider = await self._database.read(lambda tx: self.provider(tx, organization_id, credential))
        return await self.verify(provider, credential)

    @staticmethod
    def provider(tx: Transaction, organization_id: str, credential: Credential) -> IdentityProvider | None:
        """Whose an ID token claims to be. Raises OrganizationNotFound and IdTokenInvalid."""
        if not isinstance(credential, IdToken):
            return None
        return store.identity_providers.find_in(tx, organization_id, claimed_issuer(credential.compact))

    async def verify(self, provider: IdentityProvider | None, credential: Credential) -> Proof:
        """The second half of `prove`, for who has read the provider with something else."""
        if not isinstance(credential, IdToken):
            return credential
        if provider is None:
            raise IdTokenInvalid(detail="the organization has no identity provider with the token's issuer")
        claims = await self._verify_id_token(provider, credential.compact, self._clock.now())
        failpoint("identity.verified")
        profile = Profile(claims.email, claims.name, claims.groups, claims.claims, claims.methods)
        return Person(claims.issuer, claims.subject, profile, claims.issue_time, claims.auth_time, claims.token_hash)


def actor(tx: Transaction, organization_id: str, proof: Proof) -> str:
    """Who it is, for the audit log. One whom nobody knows yet is a person of an issuer."""
    if isinstance(proof, Person):
        user = store.users.find(tx, organization_id, proof)
        return f"user:{user.user_id}" if user else f"person:{proof.issuer} {proof.subject}"
    found = store.service_tokens.find(tx, organization_id, proof.client_id)
    return f"service_token:{found.service_token_id}" if found else "anonymous"


def check_provider(tx: Transaction, organization_id: str, person: Person) -> IdentityProvider:
    """The person's. Raises IdTokenInvalid when it was removed while its token was being verified."""
    provider = store.identity_providers.find(tx, organization_id, person.issuer)
    if provider is None:
        raise IdTokenInvalid(detail="the token's identity provider was removed a moment ago")
    return provider


def service_token(tx: Transaction, organization_id: str, credential: ServiceTokenSecret) -> ServiceToken:
    """The token whose secret it is, compared in constant time (invariant I-31). Raises ServiceTokenInvalid."""
    found = store.service_tokens.find(tx, organization_id, credential.client_id)
    secret_hash = hash_secret(credential.client_secret)
    known = found.secret_hashes(tx.now) if found is not None else ()
    # Each is compared, whichever fits.
    fits = sum(equal(each, secret_hash) for each in known)
    if found is None or not fits:
        raise ServiceTokenInvalid("the service token is unknown, or its secret is wrong")
    found.check(tx.now)
    return found
