"""What a replica knows of users and their authentications, from identity's feed."""

import sys
from urllib.parse import urlsplit

from guardhouse.decisions import Profile, Registration, User
from guardhouse.expressions import Traffic, Type, read_traffic
from guardhouse.expressions.fields import folded
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.organizations import OrganizationState
from guardhouse.times import from_timestamp


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


class IdentityState(OrganizationState):
    """One organization's part of identity's feed."""

    def __init__(self, organization_id: str) -> None:
        super().__init__(organization_id)
        self.users: dict[str, User] = {}
        self.authentications: dict[str, Authentication] = {}
        self.sign_in_hosts: frozenset[str] = frozenset()
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}

    def apply(self, event: identity.Event) -> None:
        match event.WhichOneof("kind"):
            case "user":
                record = event.user
                user = self.users.setdefault(record.user.user_id, User(record.user.user_id))
                user.removed_revision, user.revoked_revision = record.removed_revision, record.revoked_revision
                self._describe(user, record.user)
            case "authentication":
                fact = event.authentication
                time = from_timestamp(fact.authenticate_time)
                self.authentications[fact.registration_id] = Authentication(time, fact.revision)
            case "authentication_deleted":
                self.authentications.pop(event.authentication_deleted, None)
            case _:
                super().apply(event)
                if event.HasField("identity_provider") or event.HasField("identity_provider_deleted"):
                    issuers = (urlsplit(it.issuer).hostname or "" for it in self.identity_providers.values())
                    # As traffic has them.
                    self.sign_in_hosts = frozenset(filter(None, (folded(host, Type.HOST) for host in issuers)))

    def _describe(self, user: User, of: identity.User) -> None:
        """A profile that is as it was stays the same object, by which others know that nothing has changed."""
        groups, claims = tuple(of.groups), tuple(of.oidc_claims)
        shared = self._shared
        profile = Profile(
            of.email, of.display_name, shared.setdefault(groups, groups), shared.setdefault(claims, claims)
        )
        if user.profile != profile:
            user.profile = profile
        # One text for all who have it.
        user.issuer = sys.intern(of.issuer)


def identity_facts(profile: Profile | None) -> Traffic:
    """What `identity` asks about. What a provider calls a group may be its name, its id or its address."""
    if profile is None:
        return {}
    return read_traffic(
        {
            "identity.email": profile.email or None,
            "identity.name": profile.display_name or None,
            "identity.groups.name": profile.groups,
            "identity.groups.id": profile.groups,
            "identity.groups.email": [group for group in profile.groups if "@" in group],
            "identity.oidc_claims": profile.claims,
        }
    )
