"""What callers, people and machines prove themselves with."""

from dataclasses import dataclass, field

from guardhouse.errors import ServiceTokenInvalid


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of an organization, or with an empty organization_id of the installation."""

    api_key_id: str
    organization_id: str
    display_name: str
    role: int
    """A guardhouse.common.v1.Role."""
    create_time: int
    expire_time: int | None
    revoke_time: int | None
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """An OpenID Connect provider whose ID tokens an organization accepts."""

    identity_provider_id: str
    display_name: str
    issuer: str
    client_ids: tuple[str, ...]
    create_time: int
    force_interaction: bool = False
    """A sign-in that was made before it was asked for re-authenticates nobody (decision 33)."""
    update_time: int = 0
    """0: it is as it was created."""
    oidc_claims: tuple[str, ...] = ()
    """The claims of its ID tokens that are kept of a user."""


@dataclass(frozen=True, slots=True)
class ProviderDeletion:
    """What deleting a provider deletes, and whom it leaves behind."""

    identity_provider: IdentityProvider | None = None
    users: int = 0
    """Those who signed in with it."""
    registrations: int = 0
    """Their live ones."""


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """A machine's credential."""

    service_token_id: str
    display_name: str
    client_id: str
    secret_hash: bytes
    create_time: int
    expire_time: int

    def check_time(self, now: int) -> None:
        """Raises ServiceTokenInvalid."""
        if self.expire_time <= now:
            raise ServiceTokenInvalid("the service token has expired")


@dataclass(frozen=True, slots=True)
class TokenDeletion:
    """What deleting a service token deletes, and how many live registrations it leaves behind."""

    service_token: ServiceToken | None = None
    registrations: int = 0


@dataclass(frozen=True, slots=True)
class IdToken:
    """A person's credential, as it was sent."""

    compact: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServiceTokenSecret:
    """A machine's credential, as it was sent."""

    client_id: str
    client_secret: str = field(repr=False)


Credential = IdToken | ServiceTokenSecret


@dataclass(frozen=True, slots=True)
class Profile:
    """What a provider says about a person. `email` is empty unless the provider has verified it.

    `claims` has the values of the claims that the provider's `oidc_claims` name, as `name=value`.
    """

    email: str = ""
    display_name: str = ""
    groups: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


NOBODY = Profile()
"""Of a machine."""


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a verified ID token proves to have signed in: (issuer, subject) within the organization (decision 1)."""

    issuer: str
    subject: str
    profile: Profile
    issue_time: int
    auth_time: int | None
    """When the person proved to the provider who it is, which may be long ago. None: the token does not say."""
    token_hash: bytes


Proof = Person | ServiceTokenSecret
"""A credential as a transaction takes it: what needed another server is verified, a secret is compared there."""
