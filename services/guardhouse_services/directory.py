"""What every service knows of identity: organizations, identity providers and the hashes of API keys.

It is replicated from identity's feed, so that no service calls another to recognise a caller.
"""

from collections.abc import Callable
from typing import Any

from guardhouse.clock import Clock
from guardhouse.durations import MINUTE
from guardhouse.errors import CredentialsInvalid, OrganizationNotFound, StateStale
from guardhouse.following import Follower, View
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.organizations import OrganizationState
from guardhouse.times import from_timestamp
from guardhouse_services.access import Caller
from guardhouse_services.credentials import API_KEY_PREFIX, equal, hash_secret, split_secret

CACHED_CALLERS = 10_000
# A caller waits this long for what identity may have said a moment ago.
WAIT_SECONDS = 1.0
# Longer than a restart of identity takes; a key that is revoked behind a cut feed works no longer than this.
MAX_STALENESS = 5 * MINUTE
WATCH = "/guardhouse.identity.v1.IdentityFeedService/Watch"
"""What the key of an organization that is gone is still recognised for, so that its gateways hear of it."""


class DirectoryState(OrganizationState):
    """One organization's part; an empty id is the installation's."""

    def __init__(self, organization_id: str) -> None:
        super().__init__(organization_id)
        self.api_keys: dict[str, identity.ApiKeyRecord] = {}

    def apply(self, event: identity.Event) -> None:
        if event.HasField("api_key"):
            self.api_keys[event.api_key.api_key.api_key_id] = event.api_key
        else:
            super().apply(event)


class Directory:
    """The states, kept fresh by a follower of identity. `follower` is set by whoever makes both."""

    follower: Follower
    trust: Callable[[Caller], int] = staticmethod(lambda _caller: MAX_STALENESS)
    """How long a key is trusted without a word from identity, where that is longer than MAX_STALENESS."""

    def __init__(self, clock: Clock, new_state: Any = DirectoryState) -> None:
        self._clock = clock
        self._callers: dict[str, Caller] = {}
        self._callers_as_of = 0
        self.view = View(new_state)

    def state(self, organization_id: str) -> Any:
        """Raises OrganizationNotFound."""
        if (found := self.view.states.get(organization_id)) is None:
            raise OrganizationNotFound(organization_id)
        return found

    async def organization(self, organization_id: str) -> identity.Organization:
        """Raises OrganizationNotFound, when it is certain that there was none at the time of the call."""
        asked = self._clock.steady()
        if (found := self._organization(organization_id)) is not None:
            return found
        if not await self.follower.fresh(asked):
            raise StateStale("this replica has not caught up with identity; try again")
        if (found := self._organization(organization_id)) is None:
            raise OrganizationNotFound(organization_id)
        return found

    def organization_ids(self) -> list[str]:
        """Of all that there are."""
        installation = self.view.states.get("")
        return sorted(installation.organizations) if installation else []

    def deleted(self) -> list[str]:
        """The ids of the organizations that are gone."""
        installation = self.view.states.get("")
        return sorted(installation.deleted) if installation else []

    def is_deleted(self, organization_id: str) -> bool:
        installation = self.view.states.get("")
        return installation is not None and organization_id in installation.deleted

    def identity_providers(self, organization_id: str) -> list[identity.IdentityProvider]:
        state = self.view.states.get(organization_id)
        return sorted(state.identity_providers.values(), key=lambda it: it.identity_provider_id) if state else []

    async def caller(self, bearer: str) -> Caller:
        """The key's caller. Raises CredentialsInvalid, when it is certain that it was so at the time of the call, and
        StateStale when that cannot be told."""
        asked = self._clock.steady()
        if (caller := self.known(bearer)) is not None:
            return caller
        # It may have been made a moment ago.
        is_fresh = await self.follower.fresh(asked, WAIT_SECONDS)
        if not is_fresh and self._age() > MAX_STALENESS:
            raise StateStale("this replica has heard nothing from identity for too long to trust a key; try again")
        try:
            return self._caller(bearer)
        except CredentialsInvalid:
            if is_fresh:
                raise
            raise StateStale("this replica does not know this key and cannot ask identity now; try again") from None

    @property
    def version(self) -> int:
        """Grows with every change of what callers are recognised by."""
        return self.view.version

    def known(self, bearer: str) -> Caller | None:
        """The key's caller, if that can be told at once."""
        try:
            caller = self._caller(bearer)
        except CredentialsInvalid:
            return None
        return caller if self._trusts(caller) else None

    def holds(self, caller: Caller, version: int) -> bool:
        """Whether a caller that was recognised as of that version would be recognised now. It asks no more than this,
        for it is asked at every call."""
        return (
            version == self.view.version
            and self._trusts(caller)
            and (not caller.expire_time or caller.expire_time > self._clock.now())
        )

    def _trusts(self, caller: Caller) -> bool:
        return (age := self._age()) <= MAX_STALENESS or age <= self.trust(caller)

    def _age(self) -> int:
        return self._clock.steady() - self.follower.fresh_as_of

    def _organization(self, organization_id: str) -> identity.Organization | None:
        installation = self.view.states.get("")
        return installation.organizations.get(organization_id) if installation else None

    def _caller(self, bearer: str) -> Caller:
        if self._callers_as_of != self.view.version:
            self._callers.clear()
            self._callers_as_of = self.view.version
        if (caller := self._callers.get(bearer)) is None:
            caller = self._recognise(bearer)
            if len(self._callers) < CACHED_CALLERS:
                self._callers[bearer] = caller
        if caller.expire_time and caller.expire_time <= self._clock.now():
            raise CredentialsInvalid("the API key has expired")
        return caller

    def _recognise(self, bearer: str) -> Caller:
        prefix, api_key_id = split_secret(bearer)
        for state in self.view.states.values() if prefix == API_KEY_PREFIX else ():
            record = state.api_keys.get(api_key_id)
            if record is None or not equal(record.secret_hash, hash_secret(bearer)):
                continue
            key = record.api_key
            if key.HasField("revoke_time"):
                raise CredentialsInvalid("the API key has been revoked")
            expire_time = from_timestamp(key.expire_time) if key.HasField("expire_time") else 0
            only = WATCH if self.is_deleted(key.organization_id) else ""
            return Caller("key", key.api_key_id, key.organization_id, key.role, expire_time, only)
        raise CredentialsInvalid("no such API key")
