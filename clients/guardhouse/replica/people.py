"""What a replica knows of users and their authentications, from identity's feed."""

import sys
from urllib.parse import urlsplit

from msgspec import Struct

from guardhouse.decisions import Profile, User
from guardhouse.expressions import Type
from guardhouse.expressions.fields import folded
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.organizations import OrganizationState
from guardhouse.replica.arrivals import Arrivals
from guardhouse.replica.sharing import shared
from guardhouse.times import from_timestamp


class Authentication(Struct, frozen=True, eq=False, gc=False):
    """A registration's newest authentication after its enrollment."""

    time: int
    """Where the timer starts."""
    revision: int
    revoked_revision: int = 0
    """What was authenticated at or before this revision of identity counts no more."""


class IdentityState(OrganizationState):
    """One organization's part of identity's feed."""

    def __init__(self, organization_id: str) -> None:
        super().__init__(organization_id)
        self.users: dict[str, User] = {}
        self.user_arrivals = Arrivals()
        self.authentications: dict[str, Authentication] = {}
        self.authentication_arrivals = Arrivals()
        self.sign_in_hosts: frozenset[str] = frozenset()

    def apply(self, event: identity.Event) -> None:
        match event.WhichOneof("kind"):
            case "user":
                record = event.user
                # Each time that it is read, a message makes another text.
                user_id = record.user.user_id
                if (user := self.users.get(user_id)) is None:
                    user = self.users[user_id] = User(user_id)
                    self.user_arrivals.note(user_id)
                user.removed_revision, user.revoked_revision = record.removed_revision, record.revoked_revision
                self._describe(user, record.user)
            case "authentication":
                fact = event.authentication
                time = from_timestamp(fact.authenticate_time)
                registration_id = fact.registration_id
                if registration_id not in self.authentications:
                    self.authentication_arrivals.note(registration_id)
                self.authentications[registration_id] = Authentication(time, fact.revision, fact.revoked_revision)
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
        profile = Profile(of.email, of.display_name, shared(tuple(of.groups)), shared(tuple(of.oidc_claims)))
        if user.profile != profile:
            user.profile = profile
        # One text for all who have it.
        user.issuer = sys.intern(of.issuer)
