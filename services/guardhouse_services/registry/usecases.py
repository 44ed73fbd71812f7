"""What the registry does."""

import asyncio
import base64
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from guardhouse import keys
from guardhouse.common.v1 import credential_pb2
from guardhouse.errors import (
    BY_REASON,
    Aborted,
    ChallengeInvalid,
    Conflict,
    CredentialsInvalid,
    DeviceNotFound,
    EnrollmentAborted,
    GuardhouseError,
    Internal,
    KeyAlreadyRegistered,
    KeyInvalid,
    ProofInvalid,
    RegistrationNotFound,
    RequestIdReused,
    Unavailable,
)
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import DEVICE, REGISTRATION, new_id
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services import requests
from guardhouse_services.access import Call, Caller
from guardhouse_services.clock import MINUTE, SECOND, Clock
from guardhouse_services.credentials import (
    REGISTRATION_PREFIX,
    MasterKey,
    equal,
    format_secret,
    hash_secret,
    split_secret,
)
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.failpoint import failpoint
from guardhouse_services.paging import Page
from guardhouse_services.peers import reaching
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import (
    DEADLINE,
    LISTED,
    Claims,
    Device,
    Fence,
    Grant,
    Holder,
    Lease,
    Registration,
    State,
    held,
)
from guardhouse_services.registry.messages import to_event
from guardhouse_services.times import from_timestamp

if TYPE_CHECKING:
    from guardhouse.identity.v1.identity_pb2_grpc import AuthenticationServiceAsyncStub
    from guardhouse.ipam.v1.ipam_pb2_grpc import AddressServiceAsyncStub

log = logging.getLogger(__name__)

CHALLENGE_LIFE = 5 * MINUTE
CHALLENGE_SKEW = 1 * MINUTE
# How often an activation starts over because the registration that it was to replace has changed meanwhile.
ACTIVATIONS = 5
SWEEP_SECONDS = 5.0


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


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a device gets."""

    registration: Registration
    device: Device
    token: str
    revision_token: str


Outcome = Registration | GuardhouseError
"""Of one item of a batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch did, in the order that was asked for."""

    outcomes: Sequence[tuple[str, Outcome]]
    revision_token: str


class Registry:
    """The use cases. `identity` and `ipam` are stubs of the other services."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        master_key: MasterKey,
        directory: Directory,
        identity: "AuthenticationServiceAsyncStub",
        ipam: "AddressServiceAsyncStub",
    ) -> None:
        self._clock = clock
        self._database = database
        self._master_key = master_key
        self._directory = directory
        self._identity = identity
        self._ipam = ipam
        self._proof_private = master_key.derive("proof of possession")
        self.proof_key = keys.public_key(self._proof_private)
        # Kept so that what cleans up behind an abort is not collected while it runs.
        self._cleanups: set[asyncio.Task[None]] = set()

    # Enrollment

    async def enrollment_info(self, organization_id: str) -> tuple[list[identity_pb2.IdentityProvider], str, int]:
        """Where to sign in, a challenge, and when that expires."""
        await self._directory.organization(organization_id)
        now = self._clock.now()
        challenge = f"{now // SECOND}.{self._challenge_mac(organization_id, now // SECOND)}"
        return self._directory.identity_providers(organization_id), challenge, now + CHALLENGE_LIFE

    async def register(self, enrollment: Enrollment) -> Enrolled:
        """The enrollment saga; the row of its intent decides it.

        A retry goes on where the first call stopped. Whatever fails aborts the intent durably first, and only then
        gives back what was reserved for it.
        """
        await self._directory.organization(enrollment.organization_id)
        self._check_proof(enrollment)
        intent = await self._database.write(lambda tx: self._begin(tx, enrollment))
        failpoint("registry.begun")
        if intent.state == State.PENDING:
            refused = False
            try:
                try:
                    grant = await self._authorize(intent, enrollment.credential)
                except (Unavailable, Aborted, Internal):
                    raise
                except GuardhouseError:
                    # identity has spoken, and reserved nothing.
                    refused = True
                    raise
                failpoint("registry.authorized")
                intent = await self._activate(intent, grant, enrollment.claims)
            except GuardhouseError as error:
                intent = await self._give_up(intent, error, refused=refused)
        return await self._enrolled(intent)

    def _check_proof(self, enrollment: Enrollment) -> None:
        self._check_challenge(enrollment.organization_id, enrollment.challenge)
        public_key = keys.canonical_x25519(enrollment.public_key, "public_key")
        if equal(public_key, self.proof_key):
            raise KeyInvalid("public_key", "the key is the server's own")
        transcript = keys.transcript(
            organization_id=enrollment.organization_id,
            challenge=enrollment.challenge,
            public_key=public_key,
            hardware_id=enrollment.claims.hardware_id,
            request_id=enrollment.request_id,
        )
        if not keys.verify(self._proof_private, public_key, transcript, enrollment.proof):
            raise ProofInvalid("proof", "the proof does not show possession of the private key of public_key")

    def _check_challenge(self, organization_id: str, challenge: str) -> None:
        issued, _, mac = challenge.partition(".")
        if not (issued.isascii() and issued.isdigit() and len(issued) <= 12):
            raise ChallengeInvalid("challenge", "not a challenge; ask for one with GetEnrollmentInfo")
        if not equal(mac.encode(), self._challenge_mac(organization_id, int(issued)).encode()):
            raise ChallengeInvalid("challenge", "the challenge is not of this organization; ask for a new one")

    def _challenge_mac(self, organization_id: str, issued: int) -> str:
        mac = self._master_key.derive("challenge", organization_id, str(issued))
        return base64.urlsafe_b64encode(mac[:18]).decode()

    def _begin(self, tx: Transaction, enrollment: Enrollment) -> Registration:
        """The intent to go on with, or the registration that the request has made already."""
        found, key_holder = store.earlier(tx, enrollment.organization_id, enrollment.request_id, enrollment.public_key)
        if found is not None:
            if not equal(found.fingerprint, enrollment.fingerprint):
                raise RequestIdReused("request_id", "this request_id was used with another body; use a new one")
            if found.state == State.DELETED:
                raise RegistrationNotFound(
                    found.registration_id, "the registration that this request made has been deleted; enroll anew"
                )
            if found.state in LISTED or (found.state == State.PENDING and tx.now < found.deadline):
                return found
            store.abort(tx, found.organization_id, found.registration_id)
        if key_holder is not None and key_holder != found:
            raise KeyAlreadyRegistered("a live registration holds this public key; make a fresh one")
        # A repeated request may be older than its challenge's life; only a new attempt needs a fresh one.
        age = tx.now - int(enrollment.challenge.partition(".")[0]) * SECOND
        if not -CHALLENGE_SKEW <= age <= CHALLENGE_LIFE:
            raise ChallengeInvalid("challenge", "the challenge has expired; ask for a new one")
        device_id = store.claim_device(tx, enrollment.organization_id, new_id(DEVICE, tx.now), enrollment.claims)
        intent = Registration(
            organization_id=enrollment.organization_id,
            registration_id=new_id(REGISTRATION, tx.now),
            device_id=device_id,
            state=State.PENDING,
            key_type=enrollment.key_type,
            public_key=enrollment.public_key,
            request_id=enrollment.request_id,
            fingerprint=enrollment.fingerprint,
            deadline=tx.now + DEADLINE,
        )
        store.insert_intent(tx, intent)
        failpoint("registry.begin")
        return intent

    async def _authorize(self, intent: Registration, credential: credential_pb2.Credential) -> Grant:
        request = identity_pb2.AuthorizeEnrollmentRequest(
            organization_id=intent.organization_id,
            intent_id=intent.registration_id,
            request_id=intent.request_id,
            credential=credential,
        )
        with reaching("identity"):
            granted = await self._identity.AuthorizeEnrollment(request)
        return Grant(
            holder=Holder(granted.user_id, granted.service_token_id),
            authenticate_time=from_timestamp(granted.authenticate_time),
            authorize_revision=granted.authorize_revision,
            identity_token=granted.revision_token,
        )

    async def _activate(self, intent: Registration, grant: Grant, claims: Claims) -> Registration:
        """Takes over the addresses of the user's active registration on the device, or reserves a pair, and commits."""
        for _ in range(ACTIVATIONS):
            predecessor = await self._database.read(lambda tx: self._predecessor(tx, intent, grant))
            lease = predecessor.lease if predecessor else await self._reserve(intent, grant)
            failpoint("registry.reserved")
            step = _Activation(intent, grant, claims, lease, predecessor, hash_secret(self._token(intent)))
            try:
                active = await self._database.write(step.run)
            except _StartOver:
                continue
            failpoint("registry.activated")
            return active
        raise Conflict("the user's registration on this device keeps changing; retry")

    @staticmethod
    def _predecessor(tx: Transaction, intent: Registration, grant: Grant) -> Registration | None:
        if not grant.holder.user_id:
            return None
        present = store.active_of_users(tx, intent.organization_id, [intent.device_id]).get(intent.device_id)
        if present is None or present.registration_id == intent.registration_id:
            return None
        if present.holder != grant.holder:
            raise held(present, grant.holder.user_id)
        return present

    async def _reserve(self, intent: Registration, grant: Grant) -> Lease:
        request = ipam_pb2.ReserveAddressesRequest(
            organization_id=intent.organization_id, intent_id=intent.registration_id, device_id=intent.device_id
        )
        if grant.holder.user_id:
            request.user_id = grant.holder.user_id
        else:
            request.service_token_id = grant.holder.service_token_id
        with reaching("ipam"):
            reserved = await self._ipam.ReserveAddresses(request)
        return Lease(reserved.lease_id, reserved.ipv4, reserved.ipv6)

    async def _give_up(self, intent: Registration, error: GuardhouseError, *, refused: bool) -> Registration:
        """Aborts the intent and raises the error, unless the enrollment has succeeded all the same.

        An intent that identity refused leaves no trace, so that who is not admitted cannot fill the tables.
        """
        organization_id, registration_id = intent.organization_id, intent.registration_id
        if refused and await self._database.write(lambda tx: store.drop_intent(tx, organization_id, registration_id)):
            raise error
        await self._database.write(lambda tx: store.abort(tx, organization_id, registration_id))
        failpoint("registry.aborted")
        present = await self._database.read(lambda tx: store.find_registration(tx, organization_id, registration_id))
        if present is not None and present.state in LISTED:
            return present
        if present is not None and present.state == State.ABORTED:
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

    async def _enrolled(self, registration: Registration) -> Enrolled:
        organization_id = registration.organization_id

        def read(tx: Transaction) -> tuple[Device | None, str]:
            token = tx.token(organization_id, tx.revision(organization_id))
            return store.find_device(tx, organization_id, registration.device_id), token

        device, token = await self._database.read(read)
        if device is None:
            raise RegistrationNotFound(registration.registration_id, "the device has been deleted; enroll anew")
        return Enrolled(registration, device, self._token(registration), token)

    def _token(self, registration: Registration) -> str:
        secret = self._master_key.derive("registration token", registration.registration_id)
        return format_secret(REGISTRATION_PREFIX, registration.registration_id, secret)

    async def resolve_intent(self, organization_id: str, intent_id: str) -> tuple[State, str]:
        """The outcome and the lease. What is past its deadline is aborted, and what was never seen remembered so."""

        def resolve(tx: Transaction) -> tuple[State, str]:
            found = store.find_registration(tx, organization_id, intent_id)
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
                store.insert_intent(tx, unknown)
                return State.ABORTED, ""
            if found.state == State.PENDING and found.deadline <= tx.now:
                if not store.abort(tx, organization_id, intent_id):
                    raise Conflict("the enrollment is being decided at this moment")
                return State.ABORTED, ""
            return found.state, found.lease.lease_id

        return await self._database.write(resolve)

    async def sweep(self) -> None:
        """Aborts enrollments past their deadline and forgets what ended long ago; for ever."""
        while True:
            await self.sweep_once()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep_once(self) -> None:
        await self._database.write(store.abort_overdue)
        await self._database.write(store.forget_ended)

    # Registrations

    async def registration(self, organization_id: str, registration_id: str) -> Registration:
        found = await self._database.read(lambda tx: store.find_registration(tx, organization_id, registration_id))
        if found is None or found.state not in LISTED:
            raise RegistrationNotFound(registration_id)
        return found

    async def registrations(
        self, organization_id: str, states: Sequence[State], user_id: str, device_id: str, page: Page
    ) -> list[Registration]:
        """One row more than the page shows, if there is one."""
        return await self._database.read(
            lambda tx: store.list_registrations(
                tx, organization_id, states, user_id, device_id, page.after, page.size + 1
            )
        )

    async def device_caller(self, bearer: str) -> Caller:
        """Recognises a device by its registration token (decision 22)."""
        _, registration_id = split_secret(bearer)
        found = await self._database.read(lambda tx: store.find_by_token(tx, registration_id))
        if found is None or not equal(found.token_hash, hash_secret(bearer)):
            raise CredentialsInvalid("the registration token is of no active registration")
        return Caller("device", registration_id, found.organization_id)

    async def revoke(self, call: Call, organization_id: str, ids: Sequence[str]) -> Batch:
        def work(tx: Transaction) -> tuple[dict[str, GuardhouseError], list[Registration]]:
            present = store.lock_registrations(tx, organization_id, ids)
            return _missing(ids, present), store.revoke(tx, organization_id, ids)

        return await self._batch(call, organization_id, ids, work)

    async def unrevoke(self, call: Call, organization_id: str, ids: Sequence[str]) -> Batch:
        return await self._batch(call, organization_id, ids, lambda tx: self._unrevoke(tx, organization_id, ids))

    async def delete(self, call: Call, organization_id: str, ids: Sequence[str]) -> Batch:
        def work(tx: Transaction) -> tuple[dict[str, GuardhouseError], list[Registration]]:
            present = store.lock_registrations(tx, organization_id, ids)
            return _missing(ids, present), store.delete(tx, organization_id, ids)

        return await self._batch(call, organization_id, ids, work)

    @staticmethod
    def _unrevoke(
        tx: Transaction, organization_id: str, ids: Sequence[str]
    ) -> tuple[dict[str, GuardhouseError], list[Registration]]:
        """Restores those whose place on the device is free, the first of several for one place (decision 18)."""
        device_ids = {it.device_id for it in store.registrations_by_id(tx, organization_id, ids).values()}
        store.lock_devices(tx, organization_id, device_ids)
        present = store.lock_registrations(tx, organization_id, ids)
        places = store.active_of_users(tx, organization_id, device_ids)
        failures, wanted = _missing(ids, present), []
        for registration in present.values():
            if registration.state != State.REVOKED:
                continue
            if registration.holder.user_id:
                occupant = places.setdefault(registration.device_id, registration)
                if occupant is not registration:
                    failures[registration.registration_id] = held(occupant, registration.holder.user_id)
                    continue
            wanted.append(registration.registration_id)
        return failures, store.unrevoke(tx, organization_id, wanted)

    async def _batch(
        self,
        call: Call,
        organization_id: str,
        ids: Sequence[str],
        work: Callable[[Transaction], tuple[dict[str, GuardhouseError], list[Registration]]],
    ) -> Batch:
        """Runs a change of many registrations once, and answers a repeated request with the same outcomes."""

        def write(tx: Transaction) -> Batch:
            done = requests.find(tx, call.key)
            if done is None:
                failures, changed = work(tx)
                reasons = {key: [failure.reason, failure.message] for key, failure in failures.items()}
                now = store.registrations_by_id(tx, organization_id, ids)
                requests.record(tx, call.key, failures=reasons)
                revision = (
                    tx.publish(organization_id, [to_event(it) for it in changed])
                    if changed
                    else tx.revision(organization_id)
                )
            else:
                failures = {key: _failure(*failure) for key, failure in done["failures"].items()}
                now = store.registrations_by_id(tx, organization_id, ids)
                revision = tx.revision(organization_id)
            outcomes: list[tuple[str, Outcome]] = [(key, failures.get(key) or now[key]) for key in ids]
            return Batch(outcomes, tx.token(organization_id, revision))

        return await self._database.write(write)

    # Devices

    async def device(self, organization_id: str, device_id: str) -> Device:
        found = await self._database.read(lambda tx: store.find_device(tx, organization_id, device_id))
        if found is None:
            raise DeviceNotFound(device_id)
        return found

    async def devices(self, organization_id: str, active: bool | None, page: Page) -> list[Device]:
        """One row more than the page shows, if there is one."""
        return await self._database.read(
            lambda tx: store.list_devices(tx, organization_id, active, page.after, page.size + 1)
        )

    async def delete_device(self, call: Call, organization_id: str, device_id: str) -> tuple[int, str]:
        """How many registrations went with it, and the revision token."""

        def write(tx: Transaction) -> tuple[int, str]:
            done = requests.find(tx, call.key)
            if done is not None:
                return int(done["deleted"]), tx.token(organization_id, tx.revision(organization_id))
            deleted = store.delete_device(tx, organization_id, device_id)
            if deleted is None:
                raise DeviceNotFound(device_id)
            requests.record(tx, call.key, deleted=len(deleted))
            revision = tx.publish(organization_id, [to_event(it) for it in deleted])
            return len(deleted), tx.token(organization_id, revision)

        return await self._database.write(write)


class _StartOver(Exception):
    """The registration that an activation was to replace has changed meanwhile."""


@dataclass(frozen=True, slots=True)
class _Activation:
    """The transaction that decides an enrollment."""

    intent: Registration
    grant: Grant
    claims: Claims
    lease: Lease
    predecessor: Registration | None
    token_hash: bytes

    def run(self, tx: Transaction) -> Registration:
        """The active registration. Raises _StartOver when the one that it was to replace has changed."""
        intent, grant = self.intent, self.grant
        organization_id, registration_id = intent.organization_id, intent.registration_id
        user_id = grant.holder.user_id
        if user_id:
            store.lock_fence(tx, organization_id, user_id).check(grant.authorize_revision)
        on_device = store.enroll_device(tx, organization_id, intent.device_id, self.claims)
        present = store.lock_intent(tx, organization_id, registration_id)
        if present is not None and present.state in LISTED:
            # Another call of the same request was faster.
            return present
        if present is None or present.state != State.PENDING:
            raise EnrollmentAborted("the enrollment took too long and was aborted; try again")
        if not on_device:
            raise EnrollmentAborted("the device was deleted while enrolling; try again")
        replaced: list[Registration] = []
        if user_id:
            occupants = store.active_of_users(tx, organization_id, [intent.device_id], lock=True)
            occupant = occupants.get(intent.device_id)
            if occupant is not None and occupant.holder != grant.holder:
                raise held(occupant, user_id)
            if occupant != self.predecessor:
                raise _StartOver
            if occupant is not None:
                replaced = store.delete(tx, organization_id, [occupant.registration_id])
        active = store.activate(tx, organization_id, registration_id, grant, self.lease, self.token_hash)
        # The new holder of the lease comes first, so that the deletion behind it does not release it.
        tx.publish(organization_id, [to_event(active), *(to_event(it) for it in replaced)])
        failpoint("registry.activate")
        return active


def _missing(ids: Sequence[str], present: dict[str, Registration]) -> dict[str, GuardhouseError]:
    return {key: RegistrationNotFound(key) for key in ids if key not in present}


def _failure(reason: str, message: str) -> GuardhouseError:
    error = BY_REASON[reason].__new__(BY_REASON[reason])
    GuardhouseError.__init__(error, message)
    return error


# The feeds


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[list[pb.Event], str]:
    """A page of the feed's present state."""
    rows = store.list_registrations(tx, organization_id, LISTED, "", "", after, limit)
    return [to_event(row) for row in rows], rows[-1].registration_id if len(rows) == limit else ""


def follow_identity(tx: Transaction, organization_id: str, events: Sequence[identity_pb2.Event]) -> None:
    """A removed user's registrations go, and so do the keys of one who was revoked together with them (decision 5).

    A removal or revocation acts once, when it is newer than what the fence knows, and only on what was authorized
    before it: one that arrives late leaves a newer enrollment alone.
    """
    changed: list[Registration] = []
    newest: dict[str, Fence] = {}
    for event in events:
        if event.WhichOneof("kind") == "user":
            record = event.user
            told = newest.get(record.user.user_id, Fence())
            newest[record.user.user_id] = Fence(
                max(told.removed_revision, record.removed_revision),
                max(told.revoked_revision, record.registrations_revoked_revision),
            )
    news_of = sorted((user_id, news) for user_id, news in newest.items() if news != Fence())
    # Every fence before any registration, in one order: see the store.
    fences = {user_id: store.lock_fence(tx, organization_id, user_id) for user_id, _ in news_of}
    for user_id, news in news_of:
        known = fences[user_id]
        if news.removed_revision > known.removed_revision:
            known = replace(known, removed_revision=news.removed_revision)
            gone = store.of_user(tx, organization_id, user_id, news.removed_revision, LISTED)
            store.raise_fence(tx, organization_id, user_id, known)
            changed += store.delete(tx, organization_id, gone)
        if news.revoked_revision > known.revoked_revision:
            known = replace(known, revoked_revision=news.revoked_revision)
            active = store.of_user(tx, organization_id, user_id, news.revoked_revision, (State.ACTIVE,))
            store.raise_fence(tx, organization_id, user_id, known)
            changed += store.revoke(tx, organization_id, active)
    if changed:
        tx.publish(organization_id, [to_event(it) for it in changed])
