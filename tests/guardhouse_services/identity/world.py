"""Identity on a database of its own; a provider, the registry and ipam are played by the test."""

import base64
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from guardhouse.common.v1 import access_pb2
from guardhouse.durations import HOUR, SECOND
from guardhouse.errors import IdTokenInvalid
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import LEASE, ORGANIZATION, REGISTRATION, new_id
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.rules import Rule, RuleKind
from guardhouse.times import to_timestamp
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database, Transaction, change
from guardhouse_services.follower import Effects
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import IdentityProvider, IdToken, ServiceTokenSecret
from guardhouse_services.identity.domain.enrollment_policies import Decision, EnrollmentPolicy
from guardhouse_services.identity.domain.enrollments import Intent, Registration
from guardhouse_services.identity.domain.organizations import SeatUsage
from guardhouse_services.identity.domain.users import Removal, User
from guardhouse_services.identity.oidc import IdentityClaims
from guardhouse_services.identity.usecases import Identity, effects
from guardhouse_services.identity.usecases.authentications import Recorded
from guardhouse_services.identity.usecases.snapshot import snapshot
from guardhouse_services.migrate import migrate
from guardhouse_services.paging import Page
from tests.clock import FakeClock

T = TypeVar("T")

ISSUER = "https://idp.example.com"
YEAR = 8760 * HOUR
EPOCH = "epoch"
EVERYBODY = Page("", 1000)
ANYONE_AT_EXAMPLE = Rule(RuleKind.EMAIL_DOMAIN, "example.com")


class World:
    """The service under test and its surroundings."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        self.clock = clock
        self.database = Database(url, clock, "identity", pb.Change)
        migrate(self.database.engine, "identity")
        self.outcomes: dict[str, int | Exception] = {}
        self.asked: list[str] = []
        self.verified = 0
        self.identity = Identity(clock, self.database, MasterKey(b"k" * 32), self._verify, self._resolve)
        self.organization = ""
        self._registry = Effects(
            self.database,
            "registry",
            effects.follow_registry,
            effects.seen_in_registry,
            effects.missing_in_registry,
        )
        self._ipam = Effects(self.database, "ipam", effects.follow_ipam, effects.held_in_ipam, effects.missing_in_ipam)
        self._positions = {self._registry: 0, self._ipam: 0}

    async def start(self) -> None:
        self.organization = await self.add_organization()
        for sink in self._positions:
            await sink.begin(self.organization)
            await sink.end(self.organization, (EPOCH, 0))

    async def add_organization(self, seat_limit: int | None = None) -> str:
        """With a provider and a policy that admits whoever is of example.com."""
        made, _ = await self.identity.organizations.create(self.call(), "Example", seat_limit)
        organization_id = made.organization_id
        provider = IdentityProvider("", "Issuer", ISSUER, ("guardhouse",), 0)
        await self.identity.identity_providers.create(self.call(organization_id), organization_id, provider)
        await self.allow(ANYONE_AT_EXAMPLE, organization_id=organization_id)
        return organization_id

    async def limit(self, seats: int | None) -> None:
        call = self.call(self.organization)
        await self.identity.organizations.update(call, self.organization, {"seat_limit": seats})

    async def force_interaction(self, forced: bool = True) -> None:
        (provider,) = await self.identity.identity_providers.page(self.organization, EVERYBODY)
        await self.identity.identity_providers.update(
            self.call(self.organization),
            self.organization,
            provider.identity_provider_id,
            {"force_interaction": forced},
        )

    async def allow(
        self,
        *include: Rule,
        decision: Decision = Decision.ALLOW,
        precedence: int = 100,
        require: Sequence[Rule] = (),
        exclude: Sequence[Rule] = (),
        organization_id: str = "",
    ) -> EnrollmentPolicy:
        organization_id = organization_id or self.organization
        draft = EnrollmentPolicy("", "Policy", decision, precedence, include, tuple(require), tuple(exclude))
        written, _ = await self.identity.enrollment_policies.create(self.call(organization_id), organization_id, draft)
        return written.enrollment_policy

    def call(self, organization_id: str = "", request_id: str = "", body: bytes = b"", method: str = "Method") -> Call:
        caller = Caller("key", "key_" + "0" * 32, organization_id, access_pb2.ROLE_ADMIN)
        key = RequestKey(organization_id, caller.name, method, request_id or secrets.token_hex(8), body)
        return Call(caller, method, "trace", key)

    # What a provider does

    def sign_in(
        self,
        name: str,
        *,
        email: str | None = None,
        groups: Sequence[str] = (),
        age: float = 0,
        issuer: str = ISSUER,
        display_name: str = "",
        auth_time: int | None = None,
        **more: Any,
    ) -> IdToken:
        """A new ID token, issued `age` seconds ago."""
        claims = {
            "iss": issuer,
            "sub": name,
            "email": f"{name}@example.com" if email is None else email,
            "name": display_name or name.title(),
            "groups": list(groups),
            "iat": self.clock.now() - round(age * SECOND),
            "auth_time": auth_time,
            "jti": secrets.token_hex(8),
            **more,
        }
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        return IdToken(f"e30.{payload}.signature")

    async def _verify(self, provider: IdentityProvider, compact: str, now: int) -> IdentityClaims:
        self.verified += 1
        part = compact.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        if claims["iss"] != provider.issuer or claims["iat"] < now - 300 * SECOND:
            raise IdTokenInvalid(detail="not of this provider, or too old")
        return IdentityClaims(
            issuer=claims["iss"],
            subject=claims["sub"],
            email=claims["email"],
            name=claims["name"],
            groups=tuple(claims["groups"]),
            issue_time=claims["iat"],
            auth_time=claims["auth_time"],
            token_hash=hashlib.sha256(compact.encode()).digest(),
            claims=tuple(f"{name}={claims[name]}" for name in provider.oidc_claims if name in claims),
        )

    # What the registry does

    def new_intent(self) -> str:
        return new_id(REGISTRATION, self.clock.now())

    async def authorize(
        self,
        who: str | IdToken | ServiceTokenSecret,
        intent_id: str = "",
        request_id: str = "",
        organization_id: str = "",
        **sign_in: Any,
    ) -> Intent:
        credential = self.sign_in(who, **sign_in) if isinstance(who, str) else who
        organization_id = organization_id or self.organization
        call = self.call(organization_id, request_id, method="AuthorizeEnrollment")
        intent, _ = await self.identity.enrollments.authorize(
            call, organization_id, intent_id or self.new_intent(), credential
        )
        return intent

    async def cancel(self, intent: Intent) -> None:
        await self.identity.enrollments.cancel(self.call(self.organization), self.organization, intent.intent_id)

    async def enroll(self, who: str | ServiceTokenSecret, **sign_in: Any) -> Intent:
        """An enrollment that became a registration."""
        intent = await self.authorize(who, **sign_in)
        await self.registry(registered(intent))
        return intent

    async def registry(self, *events: registry_pb2.Event) -> None:
        """The next change of the registry's feed."""
        await self._change(self._registry, events)

    async def ipam(self, *events: ipam_pb2.Event) -> None:
        """The next change of ipam's feed."""
        await self._change(self._ipam, events)

    async def registry_snapshot(self, *events: registry_pb2.Event) -> None:
        await self._snapshot(self._registry, events)

    async def ipam_snapshot(self, *events: ipam_pb2.Event) -> None:
        await self._snapshot(self._ipam, events)

    async def _change(self, sink: Effects, events: Sequence[Any]) -> None:
        before = self._positions[sink]
        self._positions[sink] += 1
        await sink.change(self.organization, events, (EPOCH, before), (EPOCH, before + 1))

    async def _snapshot(self, sink: Effects, events: Sequence[Any]) -> None:
        await sink.begin(self.organization)
        await sink.page(self.organization, events)
        await sink.end(self.organization, (EPOCH, self._positions[sink]))

    async def _resolve(self, _organization_id: str, intent_id: str) -> int:
        self.asked.append(intent_id)
        answer = self.outcomes.get(intent_id, registry_pb2.INTENT_OUTCOME_PENDING)
        if isinstance(answer, Exception):
            raise answer
        return answer

    # What session does

    async def authenticate(
        self,
        intent: Intent,
        credential: IdToken | ServiceTokenSecret,
        request_id: str = "",
        asked_time: int | None = None,
        *,
        application: bool = False,
    ) -> int:
        call = self.call(self.organization, request_id, method="RecordAuthentication")
        holder = Registration(intent.intent_id, intent.user_id, intent.service_token_id)
        done = await self.identity.authentications.record(
            call, self.organization, holder, credential, asked_time=asked_time, application=application
        )
        return done.authenticate_time

    async def log_in(
        self, who: str | IdToken | ServiceTokenSecret, request_id: str = "", *, dry: bool = False, **sign_in: Any
    ) -> Recorded:
        """Somebody signs in to an application, without a device."""
        credential = self.sign_in(who, **sign_in) if isinstance(who, str) else who
        call = self.call(self.organization, request_id, method="RecordAuthentication")
        return await self.identity.authentications.record(call, self.organization, None, credential, validate_only=dry)

    # What administrators do

    async def remove(self, *intents: Intent) -> Removal:
        ids = [intent.user_id for intent in intents]
        call = self.call(self.organization)
        removal, _ = await self.identity.users.remove(call, self.organization, ids, not ids)
        return removal

    async def removal(self, removal: Removal) -> Removal:
        return await self.identity.users.removal(self.organization, removal.removal_id)

    async def service_token(self, duration: int = YEAR) -> tuple[str, ServiceTokenSecret]:
        """Its id, and what its holder sends."""
        call = self.call(self.organization)
        made, secret, _ = await self.identity.service_tokens.create(call, self.organization, "Robot", duration)
        return made.service_token_id, ServiceTokenSecret(made.client_id, secret)

    # What is so

    async def seats(self) -> SeatUsage:
        return await self.identity.organizations.seats(self.organization)

    async def used(self) -> int:
        return (await self.seats()).used

    async def users(self) -> Sequence[User]:
        """Those that are listed."""
        return await self.identity.users.page(self.organization, EVERYBODY, "", None)

    async def user(self, intent: Intent) -> User:
        return await self.identity.users.get(self.organization, intent.user_id)

    async def intent(self, intent: Intent) -> Intent:
        """As it is now."""
        found = await self.read(lambda tx: store.intents.get(tx, self.organization, intent.intent_id))
        assert found is not None
        return found

    async def count(self, table: str) -> int:
        query = sa.select(sa.func.count()).select_from(store.metadata.tables[table])
        return int(await self.read(lambda tx: tx.execute(query).scalar_one()))

    async def read(self, function: Callable[[Transaction], T]) -> T:
        return await self.database.read(function)

    async def revision(self, organization_id: str | None = None) -> int:
        of = self.organization if organization_id is None else organization_id
        return await self.read(lambda tx: tx.revision(of))

    async def events(self, organization_id: str | None = None) -> list[list[pb.Event]]:
        """The feed so far: the events of each revision."""
        of = self.organization if organization_id is None else organization_id
        query = sa.select(change).where(change.c.organization_id == of).order_by(change.c.revision)
        rows = await self.read(lambda tx: tx.execute(query).all())
        assert [row.revision for row in rows] == list(range(1, len(rows) + 1))
        return [list(pb.Change.FromString(row.payload).events) for row in rows]

    async def snapshot(self, organization_id: str, limit: int = 1000) -> list[pb.Event]:
        """The whole of the feed's snapshot, read in pages."""
        found: list[pb.Event] = []
        after = ""
        while True:
            page: Callable[[Transaction], tuple[Sequence[pb.Event], str]]
            page = lambda tx, after=after: snapshot(tx, organization_id, after, limit)  # type: ignore[misc]  # noqa: E731
            events, after = await self.read(page)
            assert len(events) <= limit
            found += events
            if not after:
                return found

    def close(self) -> None:
        self.database.close()


def lease_of(intent: Intent) -> str:
    """The lease that the registration has unless it took over another."""
    return intent.intent_id.replace(REGISTRATION, LEASE)


def registered(intent: Intent, lease_id: str = "", authorize_revision: int = 0) -> registry_pb2.Event:
    """The registry's event of the registration that came of an intent."""
    made = registry_pb2.Registration(registration_id=intent.intent_id, state=registry_pb2.REGISTRATION_STATE_ACTIVE)
    if intent.user_id:
        made.user_id = intent.user_id
    else:
        made.service_token_id = intent.service_token_id
    record = registry_pb2.RegistrationRecord(
        registration=made,
        lease_id=lease_id or lease_of(intent),
        authenticate_time=to_timestamp(intent.authenticate_time),
        authorize_revision=authorize_revision or intent.authorize_revision,
    )
    return registry_pb2.Event(registration=record)


def deleted(intent: Intent) -> registry_pb2.Event:
    return registry_pb2.Event(registration_deleted=intent.intent_id)


def released(intent: Intent, lease_id: str = "") -> ipam_pb2.Event:
    lease = ipam_pb2.Lease(lease_id=lease_id or lease_of(intent), registration_id=intent.intent_id)
    return ipam_pb2.Event(lease_released=lease)


def held(intent: Intent, lease_id: str = "") -> ipam_pb2.Event:
    return ipam_pb2.Event(lease=ipam_pb2.Lease(lease_id=lease_id or lease_of(intent), registration_id=intent.intent_id))


async def outcome(work: Awaitable[T]) -> T | Exception:
    """What it answers or raises."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001  # the test looks at it
        return error


def unknown_organization(clock: FakeClock) -> str:
    return new_id(ORGANIZATION, clock.now())
