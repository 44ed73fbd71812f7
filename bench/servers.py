"""What the services are compared with, each a process of its own: `python -m bench.servers bare|stack|feed|population`.

They listen where GUARDHOUSE_HOST says, on the ports of the service that they stand for.
"""

import dataclasses
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from bench import population as people
from bench.contract import PACKAGE, EmptyServicer, contract, messages
from guardhouse.clock import Clock, SystemClock
from guardhouse.common.v1 import feed_pb2
from guardhouse.ids import ORGANIZATION, REGISTRATION, new_id
from guardhouse.registry.v1 import registry_pb2
from guardhouse_services import run
from guardhouse_services.config import Settings
from guardhouse_services.node import Node
from guardhouse_services.registry.domain import Holder, Lease, Registration, State
from guardhouse_services.registry.messages import to_event
from guardhouse_services.session.__main__ import build
from guardhouse_services.tls import public_credentials, service_credentials

FEED_EVENTS = 20_000


async def bare(settings: Settings) -> None:
    """The empty method on a server of grpc.aio as it comes, with the certificate and on the port of session."""
    request, response = messages()

    async def empty(_request: Any, _context: Any) -> Any:
        return response()

    handler = grpc.unary_unary_rpc_method_handler(empty, request.FromString, response.SerializeToString)
    server = grpc.aio.server()
    handlers = grpc.method_handlers_generic_handler(f"{PACKAGE}.EmptyService", {"Empty": handler})
    server.add_generic_rpc_handlers((handlers,))
    await _serve(server, settings.public_port("session"), settings, public_credentials(settings.tls_path, "session"))


def stack(settings: Settings, clock: Clock) -> Node:
    """The empty method as session would serve it: behind everything that is around session's own methods."""
    node = build(settings, clock)
    return dataclasses.replace(
        node,
        contract=contract(),
        servicer=EmptyServicer(),
        # Of its followers it needs the one that knows the callers.
        views=[node.directory.follower],
        ready=[node.directory.follower],
    )


async def feed(settings: Settings) -> None:
    """A registry's Watch whose changes are serialised already, so that its follower is what takes the time.

    The follower's name says how many changes wait for each message.
    """
    organization_id, now = new_id(ORGANIZATION, SystemClock().now()), SystemClock().now()
    changes = [_change(organization_id, number, now) for number in range(1, FEED_EVENTS + 1)]
    prepared: dict[int, list[bytes]] = {}

    async def watch(requests: AsyncIterator[registry_pb2.WatchRequest], context: Any) -> None:
        size = int((await anext(requests)).start.follower)
        if size not in prepared:
            prepared[size] = [
                registry_pb2.WatchResponse(
                    organization_id=organization_id,
                    changes=registry_pb2.Changes(changes=changes[start : start + size]),
                ).SerializeToString()
                for start in range(0, FEED_EVENTS, size)
            ]
        for content in ({"snapshot": registry_pb2.Snapshot()}, {"snapshot_end": _end()}):
            message = registry_pb2.WatchResponse(organization_id=organization_id, **content)
            await context.write(message.SerializeToString())
        for raw in prepared[size]:
            await context.write(raw)
        async for _ in requests:
            pass

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        watch, registry_pb2.WatchRequest.FromString
    )
    server = grpc.aio.server()
    name = registry_pb2.DESCRIPTOR.services_by_name["RegistryFeedService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Watch": handler}),))
    credentials = service_credentials(settings.tls_path, "registry")
    await _serve(server, settings.service_port("registry"), settings, credentials)


async def population(settings: Settings) -> None:
    """The three feeds as a gateway follows them, all on the port of session."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(tuple(people.handlers()))
    await _serve(server, settings.public_port("session"), settings, public_credentials(settings.tls_path, "session"))


def _end() -> feed_pb2.SnapshotEnd:
    return feed_pb2.SnapshotEnd(position=feed_pb2.Position(epoch="bench", revision=0))


def _change(organization_id: str, revision: int, now: int) -> registry_pb2.Change:
    registration = Registration(
        organization_id=organization_id,
        registration_id=new_id(REGISTRATION, now),
        device_id=new_id("dev", now),
        state=State.ACTIVE,
        key_type=registry_pb2.KEY_TYPE_CURVE25519,
        public_key=revision.to_bytes(32, "big"),
        request_id="",
        fingerprint=b"",
        deadline=0,
        holder=Holder(user_id=new_id("usr", now)),
        lease=Lease(new_id("lse", now), "100.96.0.1", "fd00::6460:1"),
        authenticate_time=now,
        authorize_revision=revision,
        token_hash=bytes(32),
        create_time=now,
    )
    return registry_pb2.Change(revision=revision, events=[to_event(registration)])


async def _serve(server: grpc.aio.Server, port: int, settings: Settings, credentials: grpc.ServerCredentials) -> None:
    server.add_secure_port(f"{settings.host}:{port}", credentials)
    await server.start()
    await server.wait_for_termination()


def main(kind: str) -> None:
    if kind == "stack":
        run.serve(stack)
    else:
        uvloop.run({"bare": bare, "feed": feed, "population": population}[kind](Settings()))


if __name__ == "__main__":
    main(sys.argv[1])
