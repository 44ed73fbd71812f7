"""One registration of this machine, from enrolling it to its end: what the state machine wants is done here.

Whatever is about to be asked for is kept first, so that an agent that dies at any point goes on from what it finds.
"""

import asyncio
import importlib.metadata
import logging
import platform
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from guardhouse import aio
from guardhouse.agent import machine
from guardhouse.agent.folder import Folder, FolderUnusable, Kept
from guardhouse.agent.machine import Outcome, Plan, Standing, State, Task
from guardhouse.clock import Clock
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.durations import SECOND
from guardhouse.enrollment import TIMEOUT, make_request, make_rotation
from guardhouse.errors import (
    CredentialsInvalid,
    DeadlineTooShort,
    GuardhouseError,
    Internal,
    KeyNotCurrent,
    RateLimited,
    RegistrationNotFound,
    RegistrationRevoked,
    UserRemoved,
)
from guardhouse.keys import CURVE25519
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.status import is_transient

log = logging.getLogger(__name__)

TEXT_LIMIT: Final = 255
_ENDED: Final = (CredentialsInvalid, KeyNotCurrent, RegistrationNotFound, RegistrationRevoked, UserRemoved)
"""What the registry, when it is asked, tells apart."""
_LATER: Final = (DeadlineTooShort, Internal, RateLimited)


class SignsIn(Protocol):
    """A way to have a person sign in. Both raise NobodySignedIn, and GuardhouseError for what may pass."""

    async def enroll(self, info: registry.GetEnrollmentInfoResponse) -> Credential: ...

    async def again(self, begun: session.StartReauthenticationResponse, device_flow: bool) -> Credential: ...


class Refused(Exception):
    """What only people can change; the message says what. It comes of no service, so its reason is none of theirs."""

    reason = "REFUSED"


class NobodySignedIn(Refused):
    """A person has to sign in, and none has."""

    reason = "NOBODY_SIGNED_IN"


class KeyForeign(Refused):
    """The registration has a key that this machine does not have."""

    reason = "KEY_FOREIGN"


@dataclass(frozen=True, slots=True)
class Whose:
    """For whom on a machine a registration is."""

    os_user: str = ""
    """The account of the operating system, where the machine is shared."""
    pre_login: bool = False
    """For the login screen of one that is shared."""

    @property
    def multi_user(self) -> registry.MultiUser | None:
        if not self.os_user and not self.pre_login:
            return None
        return registry.MultiUser(os_user=self.os_user, pre_login=self.pre_login)

    @property
    def tag(self) -> str:
        """What its files are called while it has no registration."""
        if self.os_user:
            return f"account-{self.os_user.encode().hex()[:64]}"
        return "login-screen" if self.pre_login else "machine"


@dataclass(frozen=True, slots=True)
class Problem:
    """What last went wrong with a task."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Orders:
    """What an agent was told of its machine and its organization."""

    profile: Profile
    """Where the control plane answers; it names the organization, and has no key."""
    claims: registry.DeviceClaims
    heartbeat: int
    rotate: int | None
    """How old a key becomes, in microseconds. None: as old as it likes."""
    managed: bool = False


@dataclass(frozen=True, slots=True)
class Means:
    """How a registration's holder authenticates."""

    service_token: Credential | None = field(default=None, repr=False)
    person: SignsIn | None = None


class Keeper:
    """One registration. `step` does what is due; `changed` is told whenever something is not what it was."""

    def __init__(
        self,
        orders: Orders,
        folder: Folder,
        clock: Clock,
        whose: Whose,
        means: Means,
        kept: Kept | None,
        changed: Callable[[], None],
    ) -> None:
        self.whose = whose
        self.kept = kept
        self.heard_time = 0
        """When the control plane last answered, in microseconds since 1970."""
        self.asked = False
        """Whether the holder is wanted to sign in again."""
        self.problems: dict[Task, Problem] = {}
        self._orders = orders
        self._folder = folder
        self._clock = clock
        self._means = means
        self._changed = changed
        self._plan = Plan(
            orders.heartbeat, orders.rotate, means.service_token is not None, asks=means.person is not None
        )
        self._given: Credential | None = None
        self._wake = asyncio.Event()
        self._anybody = aio.Client(replace(orders.profile, key=""))
        self._own = aio.Client(replace(orders.profile, key=kept.token)) if kept else None
        age = clock.now() - kept.key_time if kept else 0
        if kept is not None:
            folder.settle(whose.tag)
            if kept.new_private_key is not None and orders.rotate is not None:
                age = orders.rotate
        self.state: State = machine.begin(self._plan, kept is not None, age, clock.steady())
        if folder.intent(whose.tag) is not None:
            self.state = machine.given(self.state, clock.steady())

    @property
    def waits_for_person(self) -> bool:
        """Whether nothing is done about its session before somebody has signed in."""
        return self.asked and Task.REAUTHENTICATE not in self.state.due

    @property
    def is_active(self) -> bool:
        return self.state.standing is Standing.ACTIVE and self.kept is not None

    async def run(self) -> None:
        """Goes on for ever."""
        while True:
            if await self.step():
                continue
            self._wake.clear()
            # What was given in between has set it.
            when = machine.following(self.state)
            pause = None if when is None else max(0.0, (when[1] - self._clock.steady()) / SECOND)
            try:
                async with asyncio.timeout(None if pause is None else min(pause, 60.0)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def settle(self) -> None:
        """Does what is due until nothing is."""
        while await self.step():
            pass

    async def step(self) -> bool:
        """Does what is due first; whether something was."""
        task = machine.choose(self.state, self._clock.steady())
        if task is None:
            return False
        wait = 0
        try:
            outcome = await self._do(task)
            self.problems.pop(task, None)
            self.heard_time = self._clock.now()
        except (GuardhouseError, Refused, FolderUnusable, OSError) as error:
            outcome = _outcome(error, task)
            problem = _problem(error)
            wait = round((getattr(error, "retry_after", None) or 0) * SECOND)
            if outcome is Outcome.UNKNOWN:
                self.problems.pop(task, None)
            elif self.problems.get(task) != problem:
                self.problems[task] = problem
                log.warning("%s: %s [%s]", task, problem.message, problem.reason)
        before = self.state.standing
        self.state = machine.after(self.state, self._plan, task, outcome, self._clock.steady(), random.random(), wait)
        if self.state.standing is not before:
            log.info("the registration was %s and is %s", before, self.state.standing)
            self.problems = {it: found for it, found in self.problems.items() if it in (task, *self.state.due)}
        self._changed()
        return True

    def give(self, credential: Credential) -> None:
        """A person has signed in elsewhere."""
        self._given = credential
        self.state = machine.given(self.state, self._clock.steady())
        self._wake.set()

    async def close(self) -> None:
        await self._anybody.close()
        if self._own is not None:
            await self._own.close()

    async def leave(self) -> None:
        """Deletes the registration and what is kept of it. Raises GuardhouseError."""
        kept = self._kept
        request = registry.LeaveRequest(
            organization_id=self._organization_id,
            registration_id=kept.registration_id,
            # The same at every attempt, whichever process makes it.
            request_id=uuid.uuid5(uuid.NAMESPACE_OID, f"leave {kept.registration_id}").hex,
        )
        try:
            await self._client.registrations.Leave(request)
        except (CredentialsInvalid, RegistrationNotFound):
            if await self._look() is not Outcome.GONE:
                raise
        self._folder.forget(kept.registration_id)
        self.kept = None

    async def report(self, event: registry.ReportOsSessionRequest) -> int:
        """Tells the registry what happened at the desk; the newest event that it knows. Raises GuardhouseError."""
        event.registration_id = self._kept.registration_id
        return (await self._client.devices.ReportOsSession(event)).sequence

    # What there is to do

    async def _do(self, task: Task) -> Outcome:
        match task:
            case Task.ENROLL:
                return await self._enroll()
            case Task.LOOK:
                return await self._look()
            case Task.ROTATE:
                return await self._rotate()
            case Task.HEARTBEAT:
                return await self._heartbeat()
            case Task.SESSION:
                return await self._session()
            case Task.REAUTHENTICATE:
                return await self._reauthenticate()

    async def _enroll(self) -> Outcome:
        found = self._folder.intent(self.whose.tag)
        if found is None:
            found = await self._intend()
            made = await self._register(*found)
        else:
            try:
                made = await self._register(*found)
            except GuardhouseError as error:
                if _outcome(error, Task.ENROLL) is Outcome.AWAY:
                    raise
                # What was cut short cannot go on: its challenge or its ID token are too old by now.
                made = await self._register(*await self._intend())
        private_key, request = self._folder.intent(self.whose.tag) or found
        await self._take(
            Kept(
                registration=made.registration,
                configuration=made.configuration,
                token=made.token,
                private_key=private_key,
                request=request,
                key_time=self._clock.now(),
            )
        )
        log.info("enrolled as %s", made.registration.registration_id)
        return _standing(made.registration)

    async def _intend(self) -> tuple[bytes, registry.RegisterRequest]:
        info = await self._info()
        credential = await self._credential(info)
        private_key = CURVE25519.new_private_key()
        request = make_request(
            info,
            self._organization_id,
            credential,
            self._orders.claims,
            private_key,
            uuid.uuid4().hex,
            multi_user=self.whose.multi_user,
            managed=self._orders.managed,
        )
        self._folder.intend(self.whose.tag, private_key, request)
        return private_key, request

    async def _register(self, _private_key: bytes, request: registry.RegisterRequest) -> registry.RegisterResponse:
        try:
            return await self._anybody.enrollment.Register(request, timeout=TIMEOUT)
        except GuardhouseError as error:
            if _outcome(error, Task.ENROLL) is not Outcome.AWAY:
                self._folder.settle(self.whose.tag)
            raise

    async def _take(self, kept: Kept) -> None:
        self._folder.keep(kept, self._orders.profile)
        self._folder.settle(self.whose.tag)
        self.kept = kept
        if self._own is not None:
            await self._own.close()
        self._own = aio.Client(replace(self._orders.profile, key=kept.token))
        self.asked = False

    async def _look(self) -> Outcome:
        """Asks with the token, and where that is not accepted with the request that has made the registration: whoever
        repeats it is told what has become of it."""
        kept = self._kept
        request = registry.GetRegistrationRequest(
            organization_id=self._organization_id, registration_id=kept.registration_id
        )
        answer: registry.GetRegistrationResponse | registry.RegisterResponse
        try:
            answer = await self._client.registrations.GetRegistration(request)
        except (CredentialsInvalid, RegistrationNotFound):
            try:
                answer = await self._anybody.enrollment.Register(kept.request, timeout=TIMEOUT)
            except GuardhouseError as error:
                if _passes(error):
                    raise
                log.warning("%s was deleted", kept.registration_id)
                self._folder.forget(kept.registration_id)
                self.kept = None
                return Outcome.GONE
        present = answer.registration
        kept = replace(kept, registration=present, configuration=answer.configuration)
        if present.public_key != CURVE25519.public_key(kept.private_key):
            kept = self._converge(kept)
        elif kept.key_time > self._clock.now():
            # Somebody has set the clock back: the key's age counts from now.
            kept = replace(kept, key_time=self._clock.now())
        if kept != self.kept:
            self._folder.note(kept)
        self.kept = kept
        return _standing(present)

    def _converge(self, kept: Kept) -> Kept:
        """With the new key, whose rotation has succeeded although nobody heard so."""
        new = kept.new_private_key
        if new is None or CURVE25519.public_key(new) != kept.registration.public_key:
            raise KeyForeign(
                f"the key of {kept.registration_id} is not the one that is kept here: somebody else has replaced it",
            )
        return self._swapped(kept, new)

    def _swapped(self, kept: Kept, private_key: bytes) -> Kept:
        kept = replace(kept, private_key=private_key, new_private_key=None, key_time=self._clock.now())
        self._folder.note(kept)
        self._folder.swap(kept)
        return kept

    async def _rotate(self) -> Outcome:
        kept = self._kept
        private_key = kept.new_private_key
        if private_key is None:
            private_key = CURVE25519.new_private_key()
            self._folder.prepare(kept, private_key)
            self.kept = kept = replace(kept, new_private_key=private_key)
        public_key = CURVE25519.public_key(kept.private_key)
        request = make_rotation(
            await self._info(),
            self._organization_id,
            kept.registration_id,
            public_key,
            private_key,
            uuid.uuid4().hex,
        )
        rotated = await self._client.registrations.RotateKey(request)
        self.kept = self._swapped(replace(kept, registration=rotated.registration), private_key)
        log.info("the key was replaced")
        return Outcome.DONE

    async def _heartbeat(self) -> Outcome:
        kept = self._kept
        request = registry.HeartbeatRequest(
            organization_id=self._organization_id,
            registration_id=kept.registration_id,
            os_version=platform.release()[:TEXT_LIMIT],
            client_version=self._orders.claims.client_version or importlib.metadata.version("guardhouse"),
        )
        answer = await self._client.registrations.Heartbeat(request)
        return Outcome.DONE if answer.configuration_etag == kept.configuration.etag else Outcome.NEWS

    async def _session(self) -> Outcome:
        if not self._orders.profile.session:
            return Outcome.DONE
        request = session.GetSessionRequest(
            organization_id=self._organization_id, registration_id=self._kept.registration_id
        )
        found = (await self._client.sessions.GetSession(request)).session
        soonest = min((it.time.ToMicroseconds() for it in found.next_reauthentications), default=None)
        # A machine authenticates before anybody asks; a person is not bothered before it counts.
        ahead = 2 * self._orders.heartbeat if self._plan.by_itself else 0
        self.asked = found.revoked or (soonest is not None and soonest <= self._clock.now() + ahead)
        return Outcome.ASKED if self.asked else Outcome.DONE

    async def _reauthenticate(self) -> Outcome:
        registration_id = self._kept.registration_id
        credential, challenge = self._means.service_token or self._taken(), ""
        if credential is None:
            if self._means.person is None:
                raise NobodySignedIn("the person who enrolled this machine has to sign in again")
            begun = await self._client.sessions.StartReauthentication(
                session.StartReauthenticationRequest(
                    organization_id=self._organization_id, registration_id=registration_id
                )
            )
            device_flow = (await self._info()).device_flow
            credential, challenge = await self._means.person.again(begun, device_flow), begun.challenge
        await self._client.sessions.Reauthenticate(
            session.ReauthenticateRequest(
                organization_id=self._organization_id,
                registration_id=registration_id,
                credential=credential,
                challenge=challenge,
            )
        )
        self.asked = False
        log.info("authenticated anew")
        return Outcome.DONE

    # What it asks with

    async def _info(self) -> registry.GetEnrollmentInfoResponse:
        request = registry.GetEnrollmentInfoRequest(organization_id=self._organization_id)
        return await self._anybody.enrollment.GetEnrollmentInfo(request)

    async def _credential(self, info: registry.GetEnrollmentInfoResponse) -> Credential:
        found = self._means.service_token or self._taken()
        if found is None and self._means.person is not None:
            found = await self._means.person.enroll(info)
        if found is None:
            raise NobodySignedIn("a person has to sign in to enroll this machine")
        return found

    def _taken(self) -> Credential | None:
        """What was given. It is good for one call."""
        found, self._given = self._given, None
        return found

    @property
    def _organization_id(self) -> str:
        return self._orders.profile.organization_id

    @property
    def _kept(self) -> Kept:
        if self.kept is None:
            raise RuntimeError("there is no registration")
        return self.kept

    @property
    def _client(self) -> aio.Client:
        if self._own is None:
            raise RuntimeError("there is no registration")
        return self._own


def _standing(of: registry.Registration) -> Outcome:
    return Outcome.REVOKED if of.state == registry.REGISTRATION_STATE_REVOKED else Outcome.DONE


def _problem(error: Exception) -> Problem:
    if isinstance(error, OSError):
        return Problem("FOLDER_UNUSABLE", f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return Problem(getattr(error, "reason", "FOLDER_UNUSABLE"), str(error))


def _outcome(error: Exception, task: Task) -> Outcome:
    if isinstance(error, OSError):
        # A disk is full, say: what has not been kept is not asked for.
        return Outcome.AWAY
    if isinstance(error, _ENDED) and task is not Task.ENROLL:
        return Outcome.UNKNOWN
    return Outcome.AWAY if _passes(error) else Outcome.REFUSED


def _passes(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, _LATER) or (isinstance(error, GuardhouseError) and is_transient(error))
