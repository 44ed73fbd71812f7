"""What callers, people and machines prove themselves with."""

from dataclasses import dataclass, field, replace
from typing import Self

from guardhouse.durations import HOUR, MINUTE, SECOND, parse_duration
from guardhouse.errors import DurationInvalid, ServiceTokenInvalid
from guardhouse_services.identity.domain.scim import ScimSettings


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


GROUPS_CLAIM = "groups"
"""Where groups are unless a provider says otherwise."""


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
    groups_claim: str = GROUPS_CLAIM
    """Where its ID tokens name a person's groups: a claim, or a dotted path into objects."""
    allow_unverified_email: bool = False
    """Its addresses are taken without its word that it has verified them."""
    allow_private_addresses: bool = False
    """Its documents are fetched from wherever they are said to be, private addresses included."""
    jwks_host: str = ""
    """The host besides its own that its keys may be at; empty: none."""
    scim: ScimSettings | None = None
    """How it provisions; None: it was never set up."""


@dataclass(frozen=True, slots=True)
class ProviderDeletion:
    """What deleting a provider deletes, and whom it leaves behind."""

    identity_provider: IdentityProvider | None = None
    users: int = 0
    """Those who signed in with it."""
    registrations: int = 0
    """Their live ones."""


YEAR = 8760 * HOUR
SHORTEST_SILENCE = 10 * MINUTE
"""Of a registration that may expire: its device is heard of in whole minutes, and a restart takes some."""
_LAST_TIME = 253_402_300_799 * SECOND  # The end of the year 9999, the last that a Timestamp holds.


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """A machine's credential (decision 10)."""

    service_token_id: str
    display_name: str
    client_id: str
    secret_hash: bytes
    create_time: int
    expire_time: int
    disabled: bool = False
    last_seen_time: int | None = None
    """When it last authenticated, to an hour."""
    previous_secret_hash: bytes = b""
    """Of the secret before the present one. Empty: it is good no more."""
    previous_secret_expire_time: int | None = None
    update_time: int = 0
    """0: it is as it was created."""
    secret_version: int = 1
    expire_registrations_after: int | None = None
    """How long a registration that it makes may be silent. None: for ever."""

    def secret_hashes(self, now: int) -> tuple[bytes, ...]:
        """Of the secrets that are good now, or would be if it were enabled and had not expired."""
        if self.previous_secret_expire_time is not None and now < self.previous_secret_expire_time:
            return self.secret_hash, self.previous_secret_hash
        return (self.secret_hash,)

    def check(self, now: int) -> None:
        """Raises ServiceTokenInvalid, whichever of its secrets was sent."""
        if self.disabled:
            raise ServiceTokenInvalid("the service token is disabled")
        if self.expire_time <= now:
            raise ServiceTokenInvalid("the service token has expired")

    def rotated(self, secret_hash: bytes, grace: int, now: int) -> Self:
        """With a new secret. The one before it is good for `grace` microseconds more; any before that is not."""
        return replace(
            self,
            secret_hash=secret_hash,
            secret_version=self.secret_version + 1,
            previous_secret_hash=self.secret_hash if grace else b"",
            previous_secret_expire_time=now + grace if grace else None,
            update_time=now,
        )

    def refreshed(self, now: int) -> Self:
        """Good for a year longer; one that has expired, for a year from now."""
        expire_time = min(max(self.expire_time, now) + YEAR, _LAST_TIME)
        return replace(self, expire_time=expire_time, update_time=now)


def parse_silence(text: str, field: str) -> int | None:
    """How long a registration may be silent, in microseconds; None for an empty text: for ever.

    Raises DurationInvalid.
    """
    if not text:
        return None
    silence = parse_duration(text, field)
    if not SHORTEST_SILENCE <= silence <= YEAR:
        raise DurationInvalid(field, "registrations expire after 10m to 8760h of silence; empty is never")
    return silence


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
    """What a provider says about a person. `email` is empty unless the provider has verified it, or is trusted to.

    `claims` has the values of the claims that the provider's `oidc_claims` name, as `name=value`; `methods` how the
    person proved to the provider who it is (the `amr` of RFC 8176).
    """

    email: str = ""
    display_name: str = ""
    groups: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


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
