"""The registry on a database of its own; identity and ipam are small ones in memory that fail when they are told to."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa

from guardhouse import keys
from guardhouse.common.v1 import access_pb2, credential_pb2
from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.errors import EnrollmentAborted, IdTokenInvalid, ServiceUnavailable
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import DEVICE, LEASE, ORGANIZATION, REGISTRATION, SERVICE_TOKEN, USER, new_id
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.os_sessions import OsEvent
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services.access import ANONYMOUS, Call, Caller, RequestKey
from guardhouse_services.audit import audit_record
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database, Transaction, change, head, sqlite_engine
from guardhouse_services.directory import Directory
from guardhouse_services.migrate import migrate
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import (
    LISTED,
    Claims,
    Device,
    DeviceFilter,
    OsSession,
    PostureChecks,
    Range,
    Registration,
    RegistrationFilter,
    State,
)
from guardhouse_services.registry.messages import to_event
from guardhouse_services.registry.store import tables
from guardhouse_services.registry.usecases import Registry
from guardhouse_services.registry.usecases.effects import follow_identity, follow_people
from guardhouse_services.registry.usecases.enrollments import Enrolled, Enrollment
from guardhouse_services.registry.usecases.os_sessions import Report
from guardhouse_services.registry.usecases.proofs import Proofs
from guardhouse_services.registry.usecases.rotations import Rotation
from guardhouse_services.registry.usecases.snapshot import snapshot
from guardhouse_services.requests import request
from tests.clock import FakeClock

T = TypeVar("T")
Act = Callable[[], Any]
Behaviour = Callable[[Act], Awaitable[Any]]
Action = Callable[[], Awaitable[Any]]

EPOCH = "epoch"
MASTER_KEY = MasterKey(b"k" * 32)
EVERYTHING = Range(1001)


def new(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def user() -> str:
    return new(USER)


def machine() -> str:
    return new(SERVICE_TOKEN)


# What a peer can do instead of simply answering


async def is_down(_act: Act) -> Any:
    raise ServiceUnavailable("it is down", service="peer")


async def loses_the_answer(act: Act) -> Any:
    act()
    raise ServiceUnavailable("the connection broke", service="peer")


def refuses(error: Exception) -> Behaviour:
    async def refuse(_act: Act) -> Any:
        raise error

    return refuse


def acts_and_then(action: Action) -> Behaviour:
    """Answers when the action is done: an event, or whatever happens meanwhile."""

    async def behave(act: Act) -> Any:
        answer = act()
        await action()
        return answer

    return behave


class Peer:
    """Does what it is told once for each call, and else what it always does."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.next: dict[str, list[Behaviour]] = {}
        self.always: dict[str, Behaviour] = {}
        self.over: set[str] = set()
        """Intents that were given back; they are refused from then on."""

    def will(self, method: str, *behaviours: Behaviour) -> None:
        self.next.setdefault(method, []).extend(behaviours)

    async def _serve(self, method: str, intent_id: str, act: Callable[[], T]) -> T:
        self.world.calls.append((method, await self.world.state(intent_id)))
        waiting = self.next.get(method)
        behaviour = waiting.pop(0) if waiting else self.always.get(method)
        return await behaviour(act) if behaviour else act()


class Identity(Peer):
    """Seats by intent; an ID token is its user's id and a nonce, and good for one request."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.revision = 7
        self.seats: dict[str, str] = {}
        self.silence = ""
        """How long what a service token registers from now on may be silent."""
        self._granted: dict[str, identity_pb2.AuthorizeEnrollmentResponse] = {}
        self._used: dict[str, str] = {}

    async def AuthorizeEnrollment(
        self, request: identity_pb2.AuthorizeEnrollmentRequest
    ) -> identity_pb2.AuthorizeEnrollmentResponse:
        def act() -> identity_pb2.AuthorizeEnrollmentResponse:
            if request.intent_id in self.over:
                raise EnrollmentAborted("the intent was cancelled")
            if request.intent_id not in self._granted:
                self._granted[request.intent_id] = self._authorize(request)
            return self._granted[request.intent_id]

        return await self._serve("authorize", request.intent_id, act)

    def _authorize(self, request: identity_pb2.AuthorizeEnrollmentRequest) -> identity_pb2.AuthorizeEnrollmentResponse:
        answer = identity_pb2.AuthorizeEnrollmentResponse(
            authenticate_time=to_timestamp(self.world.clock.now()),
            authorize_revision=self.revision + 1,
            revision_token=f"identity token of {request.intent_id}",
        )
        if request.credential.WhichOneof("kind") == "id_token":
            compact = request.credential.id_token
            if self._used.setdefault(compact, request.request_id) != request.request_id:
                raise IdTokenInvalid(detail="it was used")
            answer.user_id = compact.split(".")[0]
            answer.identity.CopyFrom(self.person(answer.user_id))
            self.seats[request.intent_id] = answer.user_id
        else:
            answer.service_token_id = request.credential.service_token.client_id
            answer.expire_after = self.silence
        return answer

    @staticmethod
    def person(user_id: str) -> identity_pb2.HolderIdentity:
        """What a sign-in of the user says."""
        return identity_pb2.HolderIdentity(
            email=f"{user_id}@example.com",
            display_name=user_id,
            groups=["engineering", "berlin"],
            oidc_claims=["department=research"],
        )

    async def CancelEnrollment(
        self, request: identity_pb2.CancelEnrollmentRequest
    ) -> identity_pb2.CancelEnrollmentResponse:
        def act() -> identity_pb2.CancelEnrollmentResponse:
            self.over.add(request.intent_id)
            self.seats.pop(request.intent_id, None)
            return identity_pb2.CancelEnrollmentResponse()

        return await self._serve("cancel", request.intent_id, act)

    # What its admins do

    def removal(self, user_id: str) -> identity_pb2.Event:
        """The event of a removal that is made now."""
        self.revision += 1
        return self.fact(user_id, removed=self.revision)

    def revocation(self, user_id: str) -> identity_pb2.Event:
        """The event of a revocation, with registrations, that is made now."""
        self.revision += 1
        return self.fact(user_id, revoked=self.revision)

    def says(self, user_id: str, email: str = "", groups: Sequence[str] = ()) -> identity_pb2.Event:
        """The event of a user who is somebody else, or in other groups, by now."""
        return identity_pb2.Event(
            user=identity_pb2.UserRecord(user=identity_pb2.User(user_id=user_id, email=email, groups=groups))
        )

    def fact(self, user_id: str, removed: int = 0, revoked: int = 0) -> identity_pb2.Event:
        record = identity_pb2.UserRecord(
            user=identity_pb2.User(user_id=user_id),
            removed_revision=removed,
            revoked_revision=revoked,
            registrations_revoked_revision=revoked,
        )
        return identity_pb2.Event(user=record)


class Ipam(Peer):
    """Leases by intent, and for whom they were reserved."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.leases: dict[str, ipam_pb2.ReserveAddressesResponse] = {}
        self.asked: list[ipam_pb2.ReserveAddressesRequest] = []
        self._count = 0

    async def ReserveAddresses(self, request: ipam_pb2.ReserveAddressesRequest) -> ipam_pb2.ReserveAddressesResponse:
        def act() -> ipam_pb2.ReserveAddressesResponse:
            if request.intent_id in self.over:
                raise EnrollmentAborted("the intent was released")
            if request.intent_id not in self.leases:
                self._count += 1
                self.leases[request.intent_id] = ipam_pb2.ReserveAddressesResponse(
                    lease_id=new(LEASE), ipv4=f"100.96.0.{self._count}", ipv6=f"fd00::{self._count:x}"
                )
            return self.leases[request.intent_id]

        self.asked.append(request)
        return await self._serve("reserve", request.intent_id, act)

    async def ReleaseAddresses(self, request: ipam_pb2.ReleaseAddressesRequest) -> ipam_pb2.ReleaseAddressesResponse:
        def act() -> ipam_pb2.ReleaseAddressesResponse:
            self.over.add(request.intent_id)
            self.leases.pop(request.intent_id, None)
            return ipam_pb2.ReleaseAddressesResponse()

        return await self._serve("release", request.intent_id, act)


class WatchedDatabase(Database):
    """Lets something happen before one of the transactions that write."""

    before: dict[int, Action]
    writes = 0

    async def write(self, function: Callable[[Transaction], T], *, validate_only: bool = False, turn: str = "") -> T:
        self.writes += 1
        action = self.before.pop(self.writes, None)
        if action is not None:
            await action()
        return await super().write(function, validate_only=validate_only, turn=turn)


class Fresh:
    """Stands in for the follower's proof that the feed is applied."""

    async def fresh(self, _since: int) -> bool:
        return True


def prepare(url: str) -> None:
    """Makes the tables of a new SQLite database."""
    engine = sqlite_engine(url, "BEGIN IMMEDIATE", pool_size=1)
    migrate(engine, "registry")
    engine.dispose()


class World:
    """The service under test and its surroundings."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        self.clock = clock
        self.database = WatchedDatabase(url, clock, "registry", pb.Change)
        self.database.before = {}
        self.directory = Directory(clock)
        self.directory.follower = Fresh()  # type: ignore[assignment]
        self.calls: list[tuple[str, State | None]] = []
        """Which methods of the peers were called, and what the intent was then."""
        self.identity, self.ipam = Identity(self), Ipam(self)
        self.registry = Registry(
            clock,
            self.database,
            MASTER_KEY,
            self.directory,
            self.identity,  # type: ignore[arg-type]
            self.ipam,  # type: ignore[arg-type]
        )
        self.proofs = Proofs(clock, MASTER_KEY)
        self.organization = ""
        self.reported = 0

    async def start(self) -> None:
        await self.directory.view.begin("")
        await self.directory.view.end("", (EPOCH, 0))
        self.organization = await self.add_organization()

    async def add_organization(self) -> str:
        organization_id = new(ORGANIZATION)
        await self._say(self._organization(organization_id))
        return organization_id

    async def let_share(self, *platforms: "pb.Platform.ValueType") -> None:
        """The organization says on which platforms people may share devices; a new one says Windows."""
        await self._say(self._organization(self.organization, *platforms))

    @staticmethod
    def _organization(organization_id: str, *platforms: "pb.Platform.ValueType") -> identity_pb2.Organization:
        return identity_pb2.Organization(
            organization_id=organization_id, multi_user_platforms=platforms or [pb.PLATFORM_WINDOWS]
        )

    async def keep_revoked(self, duration: str) -> None:
        """The organization says how long its revoked registrations stay."""
        organization = self._organization(self.organization)
        organization.delete_revoked_after = duration
        await self._say(organization)

    async def _say(self, organization: identity_pb2.Organization) -> None:
        event = identity_pb2.Event(organization=organization)
        await self.directory.view.change("", [event], (EPOCH, 0), (EPOCH, 0))

    def call(self, request_id: str = "", body: str = "", method: str = "Method") -> Call:
        caller = Caller("key", "key_" + "0" * 32, self.organization, access_pb2.ROLE_ADMIN)
        key = RequestKey(self.organization, caller.name, method, request_id, hashlib.sha256(body.encode()).digest())
        return Call(caller, method, "trace", key)

    # What a device does

    async def attempt(
        self,
        holder: str = "",
        hardware: str = "",
        *,
        name: str = "",
        request_id: str = "",
        private: bytes = b"",
        organization_id: str = "",
        key_type: keys.KeyType = keys.CURVE25519,
        managed: bool = False,
        os_user: str | None = None,
        platform: int = 0,
        version: str = "",
    ) -> Enrollment:
        """An enrollment that can be asked for as often as one likes; everything that is not said is new."""
        organization_id, holder = organization_id or self.organization, holder or user()
        platform = platform or (pb.PLATFORM_LINUX if os_user is None else pb.PLATFORM_WINDOWS)
        version = version or ("1.0" if os_user is None else "2025.2.460.1")
        hardware, request_id = hardware or secrets.token_hex(8), request_id or secrets.token_hex(8)
        private = private or key_type.new_private_key()
        _, _, challenge, _ = await self.registry.enrollments.info(organization_id)
        if holder.startswith(USER):
            credential = credential_pb2.Credential(id_token=f"{holder}.{secrets.token_hex(8)}")
        else:
            secret = credential_pb2.ServiceTokenCredential(client_id=holder, client_secret="secret")
            credential = credential_pb2.Credential(service_token=secret)
        public = key_type.public_key(private)
        transcript = keys.enrollment_transcript(
            organization_id=organization_id,
            challenge=challenge,
            key_type=key_type,
            public_key=public,
            hardware_id=hardware,
            request_id=request_id,
        )
        return Enrollment(
            organization_id=organization_id,
            request_id=request_id,
            fingerprint=hashlib.sha256(transcript.data + credential.SerializeToString(deterministic=True)).digest(),
            credential=credential,
            claims=Claims(hardware, name or hardware, platform, "6.1", version, "", "", ""),
            key_type=key_type.number,
            public_key=public,
            challenge=challenge,
            proof=key_type.prove(private, self.registry.proof_key, transcript),
            managed=managed,
            os_user=os_user,
        )

    async def enroll(self, holder: str = "", hardware: str = "", **kwargs: Any) -> Enrolled:
        return await self.register(await self.attempt(holder, hardware, **kwargs))

    async def register(self, attempt: Enrollment) -> Enrolled:
        method = f"/{pb.DESCRIPTOR.package}.EnrollmentService/Register"
        key = RequestKey(attempt.organization_id, ANONYMOUS.name, "Register", attempt.request_id, attempt.fingerprint)
        return await self.registry.enrollments.register(Call(ANONYMOUS, method, "trace", key), attempt)

    def device_call(self, enrolled: Enrolled, method: str, request_id: str = "", body: str = "") -> Call:
        """A call of a method of RegistrationService by the device."""
        caller = Caller("device", name(enrolled), self.organization)
        fingerprint = hashlib.sha256(body.encode()).digest()
        key = RequestKey(self.organization, caller.name, method, request_id or secrets.token_hex(8), fingerprint)
        return Call(caller, f"/{pb.DESCRIPTOR.package}.RegistrationService/{method}", "trace", key)

    def rotation(
        self,
        enrolled: Enrolled,
        *,
        current: bytes = b"",
        private: bytes = b"",
        key_type: keys.KeyType = keys.CURVE25519,
        request_id: str = "",
    ) -> tuple[Call, Rotation]:
        """A rotation that can be asked for as often as one likes; everything that is not said is new."""
        request_id = request_id or secrets.token_hex(8)
        current = current or enrolled.registration.public_key
        private = private or key_type.new_private_key()
        challenge, _ = self.proofs.challenge(self.organization)
        public = key_type.public_key(private)
        transcript = keys.rotation_transcript(
            organization_id=self.organization,
            challenge=challenge,
            key_type=key_type,
            public_key=public,
            registration_id=name(enrolled),
            current_public_key=current,
            request_id=request_id,
        )
        wanted = Rotation(
            organization_id=self.organization,
            registration_id=name(enrolled),
            current_public_key=current,
            key_type=key_type.number,
            public_key=public,
            challenge=challenge,
            proof=key_type.prove(private, self.registry.proof_key, transcript),
        )
        return self.device_call(enrolled, "RotateKey", request_id, str(wanted)), wanted

    async def rotate(self, enrolled: Enrolled, **kwargs: Any) -> Registration:
        rotated, _ = await self.registry.rotations.rotate(*self.rotation(enrolled, **kwargs))
        return rotated

    async def leave(self, enrolled: Enrolled, request_id: str = "", body: str = "") -> str:
        call = self.device_call(enrolled, "Leave", request_id, body)
        return await self.registry.registrations.leave(call, self.organization, name(enrolled))

    def take(
        self,
        *enrolled: Enrolled,
        os_version: str = "",
        client_version: str = "",
        checks: PostureChecks | None = None,
        network: str | None = None,
    ) -> None:
        """Heartbeats of these, which wait to be written."""
        for it in enrolled:
            self.registry.heartbeats.take(self.organization, name(it), os_version, client_version, checks, network)

    async def beat(self, *enrolled: Enrolled, **said: Any) -> None:
        """Heartbeats of these, written at once."""
        self.take(*enrolled, **said)
        await self.registry.heartbeats.flush()

    async def begin(self, holder: str = "", hardware: str = "", **kwargs: Any) -> Enrollment:
        """An enrollment whose registry died when the intent was written."""

        async def dies(_act: Act) -> Any:
            raise RuntimeError("killed")

        attempt = await self.attempt(holder, hardware, **kwargs)
        self.identity.will("authorize", dies)
        try:
            await self.register(attempt)
        except RuntimeError:
            return attempt
        raise AssertionError("identity was not asked")

    @asynccontextmanager
    async def before_write(self, number: int, action: Action) -> AsyncIterator[None]:
        """Does something just before the registry's next write but so many: 2 is an enrollment's activation."""
        self.database.before = {self.database.writes + number: action}
        yield
        assert not self.database.before, "the registry wrote less than the test thinks"

    async def report(
        self, enrolled: Enrolled, event: OsEvent, os_user: str = "", *, sequence: int = 0, request_id: str = ""
    ) -> OsSession:
        """What the device says has happened on it; of events without a sequence each is newer than the one before."""
        self.reported += 1
        call = self.device_call(enrolled, "ReportOsSession", request_id)
        said = Report(self.organization, name(enrolled), event, os_user, sequence or self.reported)
        session, _ = await self.registry.os_sessions.report(call, said)
        return session

    async def sessions(self, device_id: str, time: int | None = None) -> list[OsSession]:
        return list(await self.registry.os_sessions.page(self.organization, device_id, time, None, 1000))

    # What an admin does

    async def revoke(self, *ids: str, call: Call | None = None) -> dict[str, str]:
        batch = await self.registry.registrations.revoke(call or self.call(), self.organization, ids)
        return dict(map(told, batch.outcomes))

    async def unrevoke(self, *ids: str, call: Call | None = None) -> dict[str, str]:
        batch = await self.registry.registrations.unrevoke(call or self.call(), self.organization, ids)
        return dict(map(told, batch.outcomes))

    async def delete(self, *ids: str, call: Call | None = None) -> dict[str, str]:
        batch = await self.registry.registrations.delete(call or self.call(), self.organization, ids)
        return dict(map(told, batch.outcomes))

    async def revoke_device(self, device_id: str, call: Call | None = None) -> tuple[int, int]:
        """How many were active, and how many it has now that are revoked."""
        done = await self.registry.devices.revoke(call or self.call(), self.organization, device_id)
        return done.revoked, done.held

    async def delete_device(self, device_id: str, call: Call | None = None) -> int:
        done = await self.registry.devices.delete(call or self.call(), self.organization, device_id)
        return done.deleted

    async def follow(self, *events: identity_pb2.Event) -> None:
        await self.database.write(lambda tx: follow_identity(tx, self.organization, events))
        await self.database.write(lambda tx: follow_people(tx, self.organization, events))

    async def resolve(self, intent_id: str, organization_id: str = "") -> tuple[State, str]:
        return await self.registry.enrollments.resolve(self.call(), organization_id or self.organization, intent_id)

    # What is so

    async def listed(
        self, *states: State, page: Range = EVERYTHING, user_id: str = "", token_id: str = "", device_id: str = ""
    ) -> list[str]:
        wanted = RegistrationFilter(states or LISTED, user_id, token_id, device_id)
        found = await self.registry.registrations.page(self.organization, wanted, page)
        return [row.registration_id for row in found.rows]

    async def listed_devices(self, active: bool | None, page: Range = EVERYTHING, platform: int = 0) -> list[Device]:
        found = await self.registry.devices.page(self.organization, DeviceFilter(active, platform), page)
        return list(found.rows)

    async def rows(self, request_id: str = "") -> list[Registration]:
        """Registrations and intents in any state, of one request or all, by creation."""
        table = tables.registration
        query = sa.select(table.c.organization_id, table.c.registration_id).order_by(table.c.registration_id)
        if request_id:
            query = query.where(table.c.request_id == request_id)

        def read(tx: Transaction) -> list[Registration]:
            found = [store.registrations.find(tx, *row) for row in tx.execute(query).all()]
            return [row for row in found if row is not None]

        return await self.database.read(read)

    async def live_keys(self) -> list[bytes]:
        """Those that registrations and enrollments under way hold."""
        table = tables.registration
        query = sa.select(table.c.public_key).where(table.c.organization_id == self.organization, tables.is_live)
        return list(await self.database.read(lambda tx: tx.execute(query).scalars().all()))

    async def find(self, registration_id: str) -> Registration:
        return next(row for row in await self.rows() if row.registration_id == registration_id)

    async def state(self, registration_id: str) -> State | None:
        table = tables.registration
        query = sa.select(table.c.state).where(table.c.registration_id == registration_id).limit(1)
        found = await self.database.read(lambda tx: tx.execute(query).scalar_one_or_none())
        return State(found) if found else None

    async def states(self, *registrations: Enrolled) -> list[str]:
        return [str(await self.state(name(it))) for it in registrations]

    async def devices(self) -> list[Device]:
        query = sa.select(tables.device.c.device_id).where(tables.device.c.organization_id == self.organization)
        ids = await self.database.read(lambda tx: tx.execute(query).scalars().all())
        found = await self.database.read(lambda tx: [store.devices.find(tx, self.organization, it) for it in ids])
        return [device for device in found if device is not None]

    async def device_rows(self) -> int:
        query = sa.select(sa.func.count()).select_from(tables.device)
        return int(await self.database.read(lambda tx: tx.execute(query).scalar_one()))

    async def changes(self) -> list[list[tuple[str, str]]]:
        """The feed so far: the kind and the registration of each event of each change."""
        return [[brief(event) for event in each.events] for each in await self.all_changes()]

    async def events(self) -> list[tuple[str, str]]:
        return [event for each in await self.changes() for event in each]

    async def all_changes(self) -> Sequence[pb.Change]:
        query = sa.select(change.c.payload).where(change.c.organization_id == self.organization)
        payloads = await self.database.read(lambda tx: tx.execute(query.order_by(change.c.revision)).scalars().all())
        return [pb.Change.FromString(payload) for payload in payloads]

    async def records(self) -> list[AuditRecord]:
        """The audit log of the organization."""
        query = sa.select(audit_record.c.payload).where(audit_record.c.organization_id == self.organization)
        query = query.order_by(audit_record.c.sequence)
        payloads = await self.database.read(lambda tx: tx.execute(query).scalars().all())
        return [AuditRecord.FromString(payload) for payload in payloads]

    async def snapshot(self, limit: int = 2) -> dict[str, pb.RegistrationRecord]:
        """The registrations of the feed's snapshot, read in pages."""
        return replayed(await self._snapshot(limit))[0]

    async def _snapshot(self, limit: int) -> list[pb.Event]:
        def read(tx: Transaction) -> list[pb.Event]:
            found: list[pb.Event] = []
            after = ""
            while True:
                events, after = snapshot(tx, self.organization, after, limit)
                found += events
                if not after:
                    return found

        return await self.database.read(read)

    async def audit(self) -> None:
        """What is so after every test: the feed tells the state, and nobody is where somebody else is."""
        changes = await self.all_changes()
        assert [each.revision for each in changes] == list(range(1, len(changes) + 1))
        told = replayed(event for each in changes for event in each.events)
        assert replayed(await self._snapshot(50)) == told
        registrations, _ = told
        leases = [record.lease_id for record in registrations.values()]
        assert len(leases) == len(set(leases)), "I-01: two registrations with one lease"
        active = [it.registration for it in registrations.values()]
        of_users = [it for it in active if it.user_id and it.state == pb.REGISTRATION_STATE_ACTIVE]
        places = [(it.device_id, it.user_id if it.HasField("multi_user") else "") for it in of_users]
        assert len(places) == len(set(places)), "decisions 18 and 19: two active registrations in one place"
        for one in active:
            on_device = [it for it in active if it.device_id == one.device_id and it.current]
            assert len(on_device) <= 1, "decision 19: two are current"
            assert not one.current or (one.HasField("multi_user") and one.state == pb.REGISTRATION_STATE_ACTIVE)
        for device_id in {it.device_id for it in active}:
            on = [it.registration_id for it in await self.sessions(device_id) if it.end_time is None]
            current = [it.registration_id for it in active if it.device_id == device_id and it.current]
            assert current == [it for it in on if it]
        for record in registrations.values():
            made = record.registration
            assert made.ipv4, "I-10"
            assert made.ipv6, "I-10"
            assert made.user_id or made.service_token_id, "I-10"

    async def clear(self) -> None:
        """Empties the database for the next world."""

        def delete(tx: Transaction) -> None:
            for table in (*store.metadata.sorted_tables, change, head, request, audit_record):
                tx.execute(table.delete())

        await self.database.write(delete)

    def close(self) -> None:
        self.database.close()


def name(enrolled: Enrolled) -> str:
    return enrolled.registration.registration_id


def told(outcome: tuple[str, Any]) -> tuple[str, str]:
    """What a batch says of a registration: its state, or the reason of the error."""
    key, value = outcome
    return key, value.state.value if isinstance(value, Registration) else value.reason


def replayed(events: Iterable[pb.Event]) -> tuple[dict[str, pb.RegistrationRecord], dict[str, pb.DeviceProfile]]:
    """What a follower knows after these events: registrations and device profiles by their ids."""
    registrations: dict[str, pb.RegistrationRecord] = {}
    profiles: dict[str, pb.DeviceProfile] = {}
    for event in events:
        match event.WhichOneof("kind"):
            case "registration":
                registrations[event.registration.registration.registration_id] = event.registration
            case "registration_deleted":
                registrations.pop(event.registration_deleted, None)
            case "device_profile":
                profiles[event.device_profile.device_profile_id] = event.device_profile
            case "device_profile_deleted":
                profiles.pop(event.device_profile_deleted, None)
    return registrations, profiles


def brief(event: pb.Event) -> tuple[str, str]:
    match event.WhichOneof("kind"):
        case "registration_deleted":
            return "deleted", event.registration_deleted
        case "device_profile":
            return "profile", event.device_profile.device_profile_id
        case "device_profile_deleted":
            return "profile deleted", event.device_profile_deleted
    made = event.registration.registration
    return pb.RegistrationState.Name(made.state).removeprefix("REGISTRATION_STATE_").lower(), made.registration_id


async def insert_many(world: World, count: int, device_id: str = "") -> list[str]:
    """Registrations of service tokens on a device, all at once; the feed has them too."""
    now = world.clock.now()
    device_id = device_id or new_id(DEVICE, now)
    first = (await world.enroll(machine())).registration
    made = [
        replace(
            first,
            registration_id=new_id(REGISTRATION, now + at),
            device_id=device_id,
            public_key=secrets.token_bytes(32),
            request_id=secrets.token_hex(8),
            lease=replace(first.lease, lease_id=new(LEASE)),
        )
        for at in range(count)
    ]

    def write(tx: Transaction) -> None:
        rows = []
        for it in made:
            row = {column.name: getattr(it, column.name, None) for column in tables.registration.columns}
            lease = {"lease_id": it.lease.lease_id, "ipv4": it.lease.ipv4, "ipv6": it.lease.ipv6}
            profile = {"device_profile_id": tables.profile_column(it.organization_id, it.device_profile_id)}
            rows.append(row | {"service_token_id": it.holder.service_token_id} | lease | profile)
        tx.execute(tables.registration.insert(), rows)
        tx.publish(world.organization, [to_event(it) for it in made])

    await world.database.write(write)
    return [it.registration_id for it in made]
