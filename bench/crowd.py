"""People who enroll: new users on new machines, as their clients do it."""

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.plane import Plane
from guardhouse import keys
from guardhouse.channel import AioChannel, Policy
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.enrollment import make_request
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse_services.calls import TRACE_ID_KEY

TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody who has just signed in. The label crosses the services as the request id of the logs."""

    label: str
    credential: Credential
    private_key: bytes


class Crowd:
    """Enrolls with a plane. A call that fails for the moment is repeated, as clients do."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        channel = AioChannel(plane.channel("registry"), Policy(lambda: (), TIMEOUT, keep_tokens=False))
        # A stub's types are those of gRPC's own channels.
        self._stub: Any = registry_pb2_grpc.EnrollmentServiceStub(channel)
        self._numbers = itertools.count()
        self._name = uuid.uuid4().hex

    def newcomers(self, count: int) -> list[Newcomer]:
        """So many people with real ID tokens, which are accepted for five minutes. A millisecond each, so ahead."""
        return [self._newcomer(f"{self._name}-{next(self._numbers)}") for _ in range(count)]

    def _newcomer(self, label: str) -> Newcomer:
        issuer = self._plane.issuer
        email = f"{label}@example.com"
        claims = issuer.claims("alice@example.com") | {"sub": email, "email": email, "name": label}
        return Newcomer(label, Credential(id_token=issuer.sign(claims)), keys.new_private_key())

    async def enroll(self, one: Newcomer) -> registry_pb2.RegisterResponse:
        """A complete enrollment: a challenge, and the registration with the proof."""
        organization_id = self._plane.organization_id
        metadata = ((TRACE_ID_KEY, one.label),)
        info = await self._stub.GetEnrollmentInfo(
            registry_pb2.GetEnrollmentInfoRequest(organization_id=organization_id), metadata=metadata
        )
        device = registry_pb2.DeviceClaims(hardware_id=f"m-{one.label}", platform=registry_pb2.PLATFORM_LINUX)
        request = make_request(info, organization_id, one.credential, device, one.private_key, one.label)
        answer: registry_pb2.RegisterResponse = await self._stub.Register(request, metadata=metadata)
        return answer

    async def enroll_all(self, people: Sequence[Newcomer], clients: int) -> None:
        """So many at a time, until every service has followed the last of them."""
        waiting = iter(people)
        tokens: list[str] = []

        async def client() -> None:
            for one in waiting:
                answer = await self.enroll(one)
                tokens.append(answer.revision_token)

        await asyncio.gather(*(client() for _ in range(clients)))
        await self._plane.settle(tokens)
