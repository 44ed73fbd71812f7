"""A replica of session whose three feeds are the test's own: what it publishes arrives, in any order it likes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

from guardhouse import revisions
from guardhouse.clock import Clock
from guardhouse.common.v1 import access_pb2, feed_pb2
from guardhouse.durations import SECOND
from guardhouse.following import Follower
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.directory import Directory
from guardhouse_services.session.replica import IdentityState, Replica

HOUR = 3600 * SECOND
MAX_STALENESS = 30 * SECOND
ORGANIZATION = "org_" + "0" * 32
OTHER_ORGANIZATION = "org_" + "1" * 32
ALICE, BOB = "usr_" + "a" * 32, "usr_" + "b" * 32
MACHINE = "svt_" + "c" * 32
LAPTOP, PHONE, TABLET = "reg_" + "1" * 32, "reg_" + "2" * 32, "reg_" + "3" * 32
HOURLY, UNLIMITED = "pol_" + "1" * 32, "pol_" + "2" * 32
NO_REGISTRATION, NO_POLICY = "reg_" + "f" * 32, "pol_" + "f" * 32
EPOCH = "epoch"


class Link:
    """A feed without a service behind it. While `up` is false it loses pings, as a cut link does; while `slow` is true
    its messages come one by one, and not all that there are at once."""

    def __init__(self, service: str, contract: Any) -> None:
        self.up = True
        self.slow = False
        self._service = service
        self._contract = contract
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self.revisions: dict[str, int] = {}
        self._reader: asyncio.Task[None] | None = None
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Nothing arrives any more, until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def publish(self, *events: Any, organization_id: str = ORGANIZATION) -> str:
        """Sends the events as one change, and answers its revision token."""
        revision = self.revisions[organization_id] = self.revisions.get(organization_id, 0) + 1
        if revision == 1:
            self.snapshot(*events, organization_id=organization_id)
        else:
            change = self._contract.Change(revision=revision, events=events)
            self._send(organization_id, changes=self._contract.Changes(changes=[change]))
        return revisions.encode(self._service, organization_id, EPOCH, revision)

    def snapshot(self, *events: Any, organization_id: str = ORGANIZATION) -> None:
        """Sends the events as the whole state."""
        revision = self.revisions.setdefault(organization_id, 1)
        self._send(organization_id, snapshot=self._contract.Snapshot(events=events))
        position = feed_pb2.Position(epoch=EPOCH, revision=revision)
        self._send(organization_id, snapshot_end=feed_pb2.SnapshotEnd(position=position))

    def change_epoch(self, organization_id: str = ORGANIZATION) -> None:
        """Says that the service's database was restored; no snapshot follows."""
        self._send(organization_id, epoch_changed=feed_pb2.EpochChanged(epoch="another"))

    def watch(self, requests: AsyncIterator[Any]) -> Self:
        self._reader = asyncio.create_task(self._answer(requests))
        return self

    def cancel(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = await self._messages.get()
        if self.slow:
            await asyncio.sleep(0)
        await self._open.wait()
        return message

    async def _answer(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            if self.up and request.HasField("ping"):
                self._send("", pong=feed_pb2.Pong(nonce=request.ping.nonce))

    def _send(self, organization_id: str, **content: Any) -> None:
        self._messages.put_nowait(self._contract.WatchResponse(organization_id=organization_id, **content))


class World:
    """Started with `async with`; then every feed has answered once."""

    def __init__(self, clock: Clock, max_staleness: int = MAX_STALENESS, max_open: int = HOUR) -> None:
        self.clock = clock
        self.identity, self.registry = Link("identity", identity), Link("registry", registry)
        self.own = Link("session", pb)
        self.directory = Directory(clock, IdentityState)
        self.replica = Replica(clock, self.directory, max_staleness, max_open)
        self.replica.identity = self.directory.follower = Follower(
            "identity", self.identity.watch, identity.WatchRequest, self.directory.view, clock
        )
        self.replica.registry = Follower(
            "registry", self.registry.watch, registry.WatchRequest, self.replica.registrations, clock
        )
        self.replica.own = Follower("session", self.own.watch, pb.WatchRequest, self.replica.policies, clock)
        self._tasks: list[asyncio.Task[None]] = []
        self.identity.publish(organization(ORGANIZATION), organization(OTHER_ORGANIZATION), organization_id="")

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(follower.run()) for follower in self.replica.followers]
        for follower in self.replica.followers:
            await follower.loaded()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Waits until everything published has been applied, and is proven to be."""
        since = self.clock.steady()
        await self.applied()
        for follower in self.replica.followers:
            assert await follower.fresh(since, timeout=30)

    async def applied(self) -> None:
        """Waits until everything published has been applied, whether that can be proven or not."""
        for link, follower in zip((self.identity, self.registry, self.own), self.replica.followers, strict=True):
            for organization_id, revision in link.revisions.items():
                assert await follower.reached(follower.name, organization_id, (EPOCH, revision), timeout=30)


def organization(organization_id: str) -> identity.Event:
    return identity.Event(organization=identity.Organization(organization_id=organization_id))


def user(user_id: str = ALICE, removed: int = 0, revoked: int = 0) -> identity.Event:
    record = identity.UserRecord(
        user=identity.User(user_id=user_id), removed_revision=removed, revoked_revision=revoked
    )
    return identity.Event(user=record)


def authentication(time: int, revision: int, registration_id: str = LAPTOP) -> identity.Event:
    fact = identity.Authentication(
        registration_id=registration_id, authenticate_time=to_timestamp(time), revision=revision
    )
    return identity.Event(authentication=fact)


def registration(
    time: int,
    registration_id: str = LAPTOP,
    user_id: str = ALICE,
    service_token_id: str = "",
    revoked: bool = False,
    authorized: int = 10,
    token_hash: bytes = b"",
) -> registry.Event:
    """Enrolled at `time`, at identity's revision `authorized`."""
    state = registry.REGISTRATION_STATE_REVOKED if revoked else registry.REGISTRATION_STATE_ACTIVE
    made = registry.Registration(registration_id=registration_id, state=state)
    if service_token_id:
        made.service_token_id = service_token_id
    else:
        made.user_id = user_id
    record = registry.RegistrationRecord(
        registration=made,
        authenticate_time=to_timestamp(time),
        authorize_revision=authorized,
        token_hash=token_hash,
    )
    return registry.Event(registration=record)


def policy(policy_id: str = HOURLY, duration: str = "1h0m0s", **fields: Any) -> pb.Event:
    values: dict[str, Any] = {"enabled": True, "filter": pb.POLICY_FILTER_L4, "action": pb.POLICY_ACTION_ALLOW}
    made = pb.Policy(policy_id=policy_id, **{**values, **fields})
    if duration:
        made.check_session.enforce = True
        made.check_session.duration = duration
    return pb.Event(policy=made)


def call(method: str = "", request_id: str = "", body: bytes = b"", organization_id: str = ORGANIZATION) -> Call:
    """As an admin's key makes it."""
    caller = Caller("key", "key_" + "d" * 32, organization_id, access_pb2.ROLE_ADMIN)
    return Call(caller, f"/{method}", "trace", RequestKey(organization_id, caller.name, method, request_id, body))
