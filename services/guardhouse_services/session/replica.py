"""What a replica of session knows, of all organizations, and whom it recognises by it."""

import asyncio
import logging
from functools import partial
from typing import Final

from guardhouse import replica
from guardhouse.applications import Application, DeviceSessionSettings, SigningKey
from guardhouse.clock import Clock
from guardhouse.common.v1 import access_pb2
from guardhouse.decisions import RegistrationState
from guardhouse.durations import MINUTE, format_duration
from guardhouse.errors import CredentialsInvalid, InvalidField, StateStale
from guardhouse.following import View
from guardhouse.replica import Posture, State, Subject
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.access import Caller
from guardhouse_services.credentials import REGISTRATION_PREFIX, equal, hash_secret, split_secret
from guardhouse_services.directory import Directory, DirectoryState
from guardhouse_services.session import application_reading as reading

log = logging.getLogger(__name__)

# How often it is said that answers are degraded.
SAY_EVERY: Final = MINUTE


class IdentityState(DirectoryState, replica.IdentityState):
    """One organization's part of identity's feed: its people, and the API keys that callers are recognised by."""


class OwnState(replica.PolicyState):
    """One organization's part of session's own feed: beside the policies what gateways do not see."""

    def __init__(self, organization_id: str, max_open: int = 0) -> None:
        super().__init__(organization_id, max_open)
        self.applications: dict[str, Application] = {}
        self.settings = DeviceSessionSettings()
        self.signing_keys: dict[str, SigningKey] = {}

    def apply(self, event: pb.Event) -> None:
        match event.WhichOneof("kind"):
            case "application":
                self.applications[event.application.application_id] = _application(event.application)
            case "application_deleted":
                self.applications.pop(event.application_deleted, None)
            case "device_session_settings":
                self.settings = reading.settings(event.device_session_settings)
            case "signing_key":
                self.signing_keys[event.signing_key.key_id] = reading.signing_key(event.signing_key)
            case "signing_key_deleted":
                self.signing_keys.pop(event.signing_key_deleted, None)
            case _:
                super().apply(event)


def _application(of: pb.Application) -> Application:
    """One that a newer replica wrote and this one does not understand has no policies, so it lets nobody in."""
    try:
        return reading.application(of)
    except InvalidField as refusal:
        log.error("an application that this replica cannot read refuses everybody: %s: %s", of.application_id, refusal)
        return Application(of.application_id)


_NO_STATE: Final = OwnState("")


class Replica(State):
    """The three views, one of which the directory has as well, and what only a server does with them."""

    def __init__(self, clock: Clock, directory: Directory, max_staleness: int, max_open: int) -> None:
        super().__init__(clock, directory.view, max_staleness, max_open)
        self.policies = View(partial(OwnState, max_open=max_open))
        self.degraded_answers = 0
        self._say_again = 0

    def applications_of(self, organization_id: str) -> OwnState:
        """An organization's applications, with their settings and signing keys. Empty for one that is not known."""
        state: OwnState = self.policies.states.get(organization_id, _NO_STATE)
        return state

    def posture(self, organization_id: str, registration_id: str) -> Posture:
        """What the device of a registration that is known said of itself."""
        subject: Subject = self.registrations.states[organization_id].registrations[registration_id]
        return subject.posture

    def trust(self, caller: Caller) -> int:
        """How long the key of a gateway is trusted where identity is not heard of: while a policy that it may ask for
        may stay open, which nobody could ask for otherwise."""
        if caller.role != access_pb2.ROLE_GATEWAY:
            return 0
        states = self.policies.states
        # A key without an organization is the installation's.
        asked = states.keys() & {caller.organization_id} if caller.organization_id else states.keys()
        return max((policy.max_open for each in asked for policy in states[each].policies.values()), default=0)

    def note_degraded(self, answers: int, staleness: int) -> None:
        """Counts answers that a policy allowed to be made by state that is too old, and says so once a minute."""
        self.degraded_answers += answers
        if (now := self._clock.steady()) >= self._say_again:
            self._say_again = now + SAY_EVERY
            age = format_duration(staleness)
            log.warning("decided by state that is %s old, as policies let it: %d answers", age, self.degraded_answers)

    def require_fresh(self) -> None:
        """Raises StateStale when the state is too old to judge by."""
        staleness = self.staleness()
        if staleness is None or staleness > self.max_staleness:
            raise StateStale("this replica has lost touch with the other services; try again, or another replica")

    async def catch_up(self, since: int) -> None:
        """Waits until registrations and users are known as of a steady time. Raises StateStale after 3 seconds."""
        if not all(await asyncio.gather(self.identity.fresh(since), self.registry.fresh(since))):
            raise StateStale("this replica has not caught up with registry and identity; try again")

    async def device(self, bearer: str) -> Caller:
        """The device that a registration token belongs to.

        Raises CredentialsInvalid, when it is certain that it was so at the time of the call. A revoked registration is
        refused here, so its device learns from the refusal that it is revoked, and nothing else.
        """
        asked = self._clock.steady()
        try:
            return self._device(bearer)
        except CredentialsInvalid:
            # It may have been enrolled or restored a moment ago.
            if not await self.registry.fresh(asked, timeout=1.0):
                raise
            return self._device(bearer)

    def _device(self, bearer: str) -> Caller:
        prefix, registration_id = split_secret(bearer)
        for organization_id, state in self.registrations.states.items() if prefix == REGISTRATION_PREFIX else ():
            subject = state.registrations.get(registration_id)
            if subject is None or not equal(subject.token_hash, hash_secret(bearer)):
                continue
            if subject.state != RegistrationState.ACTIVE:
                raise CredentialsInvalid("the registration is revoked")
            return Caller("device", registration_id, organization_id)
        raise CredentialsInvalid("no such registration token")
