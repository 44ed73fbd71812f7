"""Enrollments: the saga, and what becomes of those that nobody finishes."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from guardhouse.common.v1 import credential_pb2
from guardhouse.durations import parse_duration
from guardhouse.errors import (
    Aborted,
    Conflict,
    DeviceHeldByAnotherUser,
    EnrollmentAborted,
    GuardhouseError,
    Internal,
    KeyAlreadyRegistered,
    RegistrationNotFound,
    RequestIdReused,
    Unavailable,
)
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import DEVICE, REGISTRATION, new_id
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.keys import KEY_TYPES, enrollment_transcript
from guardhouse.rules import NOWHERE, Client
from guardhouse.times import from_timestamp
from guardhouse_services import audit
from guardhouse_services.access import Call
from guardhouse_services.credentials import REGISTRATION_PREFIX, MasterKey, equal, format_secret, hash_secret
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.failpoint import failpoint
from guardhouse_services.peers import reaching
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import (
    DEADLINE,
    LISTED,
    NOBODY,
    Claims,
    Device,
    Grant,
    Holder,
    LastSeen,
    Lease,
    Registration,
    State,
    check_shared,
    displaced,
)
from guardhouse_services.registry.messages import from_identity, to_event, to_identity
from guardhouse_services.registry.usecases import os_sessions
from guardhouse_services.registry.usecases.profile_matching import STEP, assign
from guardhouse_services.registry.usecases.proofs import Proofs
from guardhouse_services.registry.usecases.rotations import check_never_held

if TYPE_CHECKING:
    from guardhouse.identity.v1.identity_pb2_grpc import AuthenticationServiceAsyncStub
    from guardhouse.ipam.v1.ipam_pb2_grpc import AddressServiceAsyncStub

log = logging.getLogger(__name__)

# How often an activation starts over because the registration that it was to replace has changed meanwhile.
ACTIVATIONS = 5
SWEEP_SECONDS = 5.0
AT_A_TIME = 16
"""How many enrollments of one organization a replica has under way.

More would wait for each other at identity and ipam, in the end for longer than a call to those may take, so they wait
here, where nothing is reserved for them yet.
"""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What a device asks for. The fingerprint is of the whole request."""

    organization_id: str
    request_id: str
    fingerprint: bytes
    credential: credential_pb2.Credential
    claims: Claims
    key_type: int
    public_key: bytes
    challenge: str
    proof: bytes
    client: Client = NOWHERE
    """Where the device is."""
    managed: bool = False
    """Whether an administrator's file has it enroll, as it says."""
    os_user: str | None = None
    """The account of a shared device that it is for; empty is the login screen. None: outside multi-user mode."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a device gets."""

    registration: Registration
    device: Device
    token: str
    revision_token: str


@dataclass(frozen=True, slots=True)
class Begun:
    """An intent to go on with, and the users' registrations that were active on its device then."""

    intent: Registration
    occupants: Sequence[Registration] = ()


class Enrollments:
    """The row of its intent decides an enrollment. `identity` and `ipam` are stubs of the other services."""

    def __init__(
        self,
        database: Database,
        master_key: MasterKey,
        directory: Directory,
        proofs: Proofs,
        identity: "AuthenticationServiceAsyncStub",
        ipam: "AddressServiceAsyncStub",
    ) -> None:
        self._database = database
        self._master_key = master_key
        self._directory = directory
        self._proofs = proofs
        self._identity = identity
        self._ipam = ipam
        # Kept so that what cleans up behind an abort is not collected while it runs.
        self._cleanups: set[asyncio.Task[None]] = set()
        self._under_way: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def info(self, organization_id: str) -> tuple[list[identity_pb2.IdentityProvider], bool, str, int]:
        """Where to sign in, whether with a code as well, a challenge, and when that expires."""
        organization = await self._directory.organization(organization_id)
        providers = self._directory.identity_providers(organization_id)
        return providers, organization.device_flow, *self._proofs.challenge(organization_id)

    async def register(self, call: Call, enrollment: Enrollment) -> Enrolled:
        """The enrollment saga.

        A retry goes on where the first call stopped. Whatever fails aborts the intent durably first, and only then
        gives back what was reserved for it.
        """
        organization_id = enrollment.organization_id
        organization = await self._directory.organization(organization_id)
        self._check_proof(enrollment)
        async with self._under_way.setdefault(organization_id, asyncio.Semaphore(AT_A_TIME)):
            return await self._enroll(call, enrollment, organization.multi_user_platforms)

    async def _enroll(self, call: Call, enrollment: Enrollment, shared_platforms: Collection[int]) -> Enrolled:
        begun = await self._database.write(
            lambda tx: self._begin(tx, enrollment, shared_platforms), turn=enrollment.organization_id
        )
        failpoint("registry.begun")
        if isinstance(begun, Enrolled):
            return begun
        refused, grant = False, None
        try:
            try:
                grant = await self._authorize(begun.intent, enrollment)
            except (Unavailable, Aborted, Internal):
                raise
            except GuardhouseError:
                # identity has spoken, and reserved nothing.
                refused = True
                raise
            failpoint("registry.authorized")
            return await self._activate(call, begun, grant, enrollment)
        except GuardhouseError as error:
            return await self._give_up(call, begun.intent, grant, error, refused=refused)

    def _check_proof(self, enrollment: Enrollment) -> None:
        key_type = KEY_TYPES[enrollment.key_type]
        self._proofs.check_key(enrollment.organization_id, enrollment.challenge, key_type, enrollment.public_key)
        transcript = enrollment_transcript(
            organization_id=enrollment.organization_id,
            challenge=enrollment.challenge,
            key_type=key_type,
            public_key=enrollment.public_key,
            hardware_id=enrollment.claims.hardware_id,
            request_id=enrollment.request_id,
        )
        self._proofs.check_proof(key_type, enrollment.public_key, transcript, enrollment.proof)

    def _begin(self, tx: Transaction, enrollment: Enrollment, shared_platforms: Collection[int]) -> Begun | Enrolled:
        """The intent to go on with, or the registration that the request has made already."""
        organization_id = enrollment.organization_id
        found, key_holder = store.enrollments.earlier(tx, organization_id, enrollment.request_id, enrollment.public_key)
        if found is not None:
            if not equal(found.fingerprint, enrollment.fingerprint):
                raise RequestIdReused("request_id", "this request_id was used with another body; use a new one")
            if found.state == State.DELETED:
                raise RegistrationNotFound(
                    found.registration_id, "the registration that this request made has been deleted; enroll anew"
                )
            if found.state in LISTED:
                return self._made(tx, found)
            if found.state == State.PENDING and tx.now < found.deadline:
                return Begun(found, self._occupants(tx, found))
            store.enrollments.abort(tx, found.organization_id, found.registration_id)
        if key_holder is not None and key_holder != found:
            raise KeyAlreadyRegistered("a live registration holds this public key; make a fresh one")
        self._proofs.check_fresh(enrollment.challenge, tx.now)
        if enrollment.os_user is not None:
            check_shared(shared_platforms, enrollment.claims)
        new_device_id = new_id(DEVICE, tx.now)
        device_id = store.enrollments.claim_device(tx, organization_id, new_device_id, enrollment.claims)
        intent = Registration(
            organization_id=organization_id,
            registration_id=new_id(REGISTRATION, tx.now),
            device_id=device_id,
            state=State.PENDING,
            key_type=enrollment.key_type,
            public_key=enrollment.public_key,
            request_id=enrollment.request_id,
            fingerprint=enrollment.fingerprint,
            deadline=tx.now + DEADLINE,
            managed=enrollment.managed,
        )
        store.enrollments.insert_intent(tx, intent)
        check_never_held(tx, intent.public_key)
        failpoint("registry.begin")
        return Begun(intent, () if device_id == new_device_id else self._occupants(tx, intent))

    async def _authorize(self, intent: Registration, enrollment: Enrollment) -> Grant:
        request = identity_pb2.AuthorizeEnrollmentRequest(
            organization_id=intent.organization_id,
            intent_id=intent.registration_id,
            request_id=intent.request_id,
            credential=enrollment.credential,
            ip=str(enrollment.client.address or ""),
            country=enrollment.client.country,
        )
        with reaching("identity"):
            granted = await self._identity.AuthorizeEnrollment(request)
        return Grant(
            holder=Holder(granted.user_id, granted.service_token_id),
            authenticate_time=from_timestamp(granted.authenticate_time),
            authorize_revision=granted.authorize_revision,
            identity_token=granted.revision_token,
            person=from_identity(granted.identity) if granted.HasField("identity") else None,
            expire_after=parse_duration(granted.expire_after, "expire_after") if granted.expire_after else None,
        )

    async def _activate(self, call: Call, begun: Begun, grant: Grant, enrollment: Enrollment) -> Enrolled:
        """Takes over the addresses of the user's active registration on the device, or reserves a pair, and commits."""
        intent, os_user = begun.intent, enrollment.os_user
        try:
            predecessor = _own(displaced(begun.occupants, grant.holder, os_user), grant.holder)
        except DeviceHeldByAnotherUser:
            # They may have left meanwhile.
            predecessor = await self._predecessor(intent, grant, os_user)
        for _ in range(ACTIVATIONS):
            lease = predecessor.lease if predecessor else await self._reserve(intent, grant)
            failpoint("registry.reserved")
            token = self._token(intent)
            step = _Activation(call, intent, grant, enrollment, lease, predecessor, hash_secret(token))
            try:
                registration, device, revision_token = await self._database.write(step.run, turn=intent.organization_id)
            except _StartOver:
                predecessor = await self._predecessor(intent, grant, os_user)
                continue
            failpoint("registry.activated")
            return Enrolled(registration, device, token, revision_token)
        raise Conflict("the user's registration on this device keeps changing; retry")

    async def _predecessor(self, intent: Registration, grant: Grant, os_user: str | None) -> Registration | None:
        """The user's own active registration on the device, as it is now. Raises DeviceHeldByAnotherUser."""
        present = await self._database.read(lambda tx: self._occupants(tx, intent))
        return _own(displaced(present, grant.holder, os_user), grant.holder)

    @staticmethod
    def _occupants(tx: Transaction, intent: Registration) -> Sequence[Registration]:
        present = store.registrations.active_of_users(tx, intent.organization_id, [intent.device_id])
        # Another call of the same request may have been faster.
        return [it for it in present if it.registration_id != intent.registration_id]

    async def _reserve(self, intent: Registration, grant: Grant) -> Lease:
        request = ipam_pb2.ReserveAddressesRequest(
            organization_id=intent.organization_id, intent_id=intent.registration_id, device_id=intent.device_id
        )
        if grant.holder.user_id:
            request.user_id = grant.holder.user_id
        else:
            request.service_token_id = grant.holder.service_token_id
        if grant.person is not None:
            request.identity.CopyFrom(to_identity(grant.person))
        with reaching("ipam"):
            reserved = await self._ipam.ReserveAddresses(request)
        return Lease(reserved.lease_id, reserved.ipv4, reserved.ipv6)

    async def _give_up(
        self, call: Call, intent: Registration, grant: Grant | None, error: GuardhouseError, *, refused: bool
    ) -> Enrolled:
        """Aborts the intent and raises the error, unless the enrollment has succeeded all the same.

        An intent that identity refused leaves no trace, so that who is not admitted cannot fill the tables.
        """
        organization_id, registration_id = intent.organization_id, intent.registration_id

        def end(tx: Transaction) -> Enrolled | State | None:
            if refused and store.enrollments.drop_intent(tx, organization_id, registration_id):
                return None
            if store.enrollments.abort(tx, organization_id, registration_id):
                if grant is not None and isinstance(error, DeviceHeldByAnotherUser):
                    audit.note(tx, call, intent.device_id, actor=grant.holder.actor, reason=error.reason)
                return State.ABORTED
            present = store.registrations.find(tx, organization_id, registration_id)
            if present is not None and present.state in LISTED:
                return self._made(tx, present)
            return present.state if present is not None else None

        outcome = await self._database.write(end, turn=organization_id)
        failpoint("registry.aborted")
        if isinstance(outcome, Enrolled):
            return outcome
        if outcome == State.ABORTED:
            cleanup = asyncio.create_task(self._release(organization_id, registration_id))
            self._cleanups.add(cleanup)
            cleanup.add_done_callback(self._cleanups.discard)
            # The device may try again at once, and wants to find its seat and addresses free.
            await asyncio.shield(cleanup)
            failpoint("registry.released")
        raise error

    async def _release(self, organization_id: str, intent_id: str) -> None:
        """Gives back what was reserved. What this does not reach, the owners find out by ResolveIntent."""
        calls = (
            self._identity.CancelEnrollment(
                identity_pb2.CancelEnrollmentRequest(organization_id=organization_id, intent_id=intent_id)
            ),
            self._ipam.ReleaseAddresses(
                ipam_pb2.ReleaseAddressesRequest(organization_id=organization_id, intent_id=intent_id)
            ),
        )
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException):
                log.info("an aborted enrollment is not released yet: %s", result)

    def _made(self, tx: Transaction, registration: Registration) -> Enrolled:
        """What an enrollment has made before. Raises RegistrationNotFound."""
        organization_id = registration.organization_id
        device = store.devices.find(tx, organization_id, registration.device_id)
        if device is None:
            raise RegistrationNotFound(registration.registration_id, "the device has been deleted; enroll anew")
        revision_token = tx.token(organization_id, tx.revision(organization_id))
        return Enrolled(registration, device, self._token(registration), revision_token)

    def _token(self, registration: Registration) -> str:
        secret = self._master_key.derive("registration token", registration.registration_id)
        return format_secret(REGISTRATION_PREFIX, registration.registration_id, secret)

    async def resolve(self, call: Call, organization_id: str, intent_id: str) -> tuple[State, str]:
        """The outcome and the lease. What is past its deadline is aborted, and what was never seen remembered so."""

        def resolve(tx: Transaction) -> tuple[State, str]:
            found = store.registrations.find(tx, organization_id, intent_id)
            if found is None:
                unknown = Registration(
                    organization_id=organization_id,
                    registration_id=intent_id,
                    device_id="",
                    state=State.ABORTED,
                    key_type=0,
                    public_key=b"",
                    request_id="",
                    fingerprint=b"",
                    deadline=0,
                )
                store.enrollments.insert_intent(tx, unknown)
            elif found.state == State.PENDING and found.deadline <= tx.now:
                if not store.enrollments.abort(tx, organization_id, intent_id):
                    raise Conflict("the enrollment is being decided at this moment")
            else:
                return found.state, found.lease.lease_id
            audit.note(tx, call, intent_id)
            return State.ABORTED, ""

        return await self._database.write(resolve)

    async def sweep(self) -> None:
        """Aborts enrollments past their deadline and forgets what ended long ago; for ever."""
        while True:
            await self.sweep_once()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep_once(self) -> None:
        await self._database.write(_abort_overdue)
        await self._database.write(store.os_sessions.forget_ended)
        await self._database.write(store.override_rates.forget)
        await self._database.write(store.enrollments.forget_ended)


def _abort_overdue(tx: Transaction) -> None:
    aborted = store.enrollments.abort_overdue(tx)
    for organization_id, items in groupby(aborted, key=lambda it: it[0]):
        ids = [registration_id for _, registration_id in items]
        audit.note_entry(tx, audit.Entry(organization_id, "job:sweep", "", ids))


def _own(present: Sequence[Registration], holder: Holder) -> Registration | None:
    """The user's own active registration, whose addresses go to the next one. A service token has none."""
    return next((it for it in present if it.state == State.ACTIVE and it.holder == holder), None)


class _StartOver(Exception):
    """The registration that an activation was to replace has changed meanwhile."""


@dataclass(frozen=True, slots=True)
class _Activation:
    """The transaction that decides an enrollment."""

    call: Call
    intent: Registration
    grant: Grant
    enrollment: Enrollment
    lease: Lease
    predecessor: Registration | None
    token_hash: bytes

    def run(self, tx: Transaction) -> tuple[Registration, Device, str]:
        """The active registration, its device, and the revision token.

        Raises _StartOver when the one that it was to replace has changed.
        """
        intent, grant, os_user = self.intent, self.grant, self.enrollment.os_user
        organization_id, registration_id = intent.organization_id, intent.registration_id
        user_id = grant.holder.user_id
        if user_id:
            store.fences.lock(tx, organization_id, user_id).check(grant.authorize_revision)
            if grant.person is not None:
                # Identity's feed says so, too; it may come later.
                store.people.save(tx, organization_id, {user_id: grant.person})
        device = store.enrollments.enroll_device(tx, organization_id, intent.device_id, self.enrollment.claims)
        places = store.enrollments.lock_places(tx, intent)
        present = places.pop(registration_id, None)
        if device is not None and present is not None and present.state in LISTED:
            # Another call of the same request was faster, and its registration was not counted while we waited for it.
            device = store.devices.find(tx, organization_id, intent.device_id) or device
            return present, device, tx.token(organization_id, tx.revision(organization_id))
        if present is None or present.state != State.PENDING:
            raise EnrollmentAborted("the enrollment took too long and was aborted; try again")
        if device is None:
            raise EnrollmentAborted("the device was deleted while enrolling; try again")
        going = displaced(places.values(), grant.holder, os_user)
        if _own(going, grant.holder) != self.predecessor:
            raise _StartOver
        replaced = store.registrations.delete(tx, organization_id, [it.registration_id for it in going])
        active = store.enrollments.activate(
            tx, organization_id, registration_id, grant, self.lease, self.token_hash, os_user
        )
        moved = self._match(tx)
        person = grant.person or NOBODY
        active = replace(
            moved.pop(registration_id, active), user_email=person.email, user_display_name=person.display_name
        )
        objects = (registration_id, intent.device_id, *(it.registration_id for it in replaced))
        audit.note(tx, self.call, *objects, actor=grant.holder.actor)
        # The new holder of the lease comes first, so that the deletion behind it does not release it.
        active, *others = os_sessions.enrolled(tx, active, [active, *replaced, *moved.values()])
        revision = tx.publish(organization_id, [to_event(it) for it in (active, *others)])
        failpoint("registry.activate")
        device = replace(
            device,
            active_registrations=device.active_registrations + 1 - sum(it.state == State.ACTIVE for it in going),
            last_seen=LastSeen(registration_id, user_id, person.email, person.display_name),
        )
        return active, device, tx.token(organization_id, revision)

    def _match(self, tx: Transaction) -> dict[str, Registration]:
        """Gives the registrations of the device their profiles, for it may say something else of itself now."""
        organization_id = self.intent.organization_id
        if not store.device_profiles.rules(tx, organization_id):
            return {}
        present = store.registrations.lock_on_device(tx, organization_id, self.intent.device_id)
        if len(present) > STEP:
            # More than a transaction should tell of: all are looked at in steps.
            store.matchings.begin(tx, organization_id)
            present = {self.intent.registration_id: present[self.intent.registration_id]}
        return {it.registration_id: it for it in assign(tx, organization_id, list(present.values()))}
