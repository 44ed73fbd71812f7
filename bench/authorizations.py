"""What it costs identity to authorize an enrollment, over what nobody can spare: a call, and the check of a signature.

The call is the empty one on a bare server, and the check that of the same ID token by the library that identity uses.
On SQLite the database's work is the process's own, so nothing is left out. Everybody who enrolls is new and takes a
seat.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from joserfc import jwt

from bench.calls import BARE_HOST, Side
from bench.contract import PATH, messages
from bench.crowd import Crowd, Newcomer
from bench.figure import Figure, Round, Sample, Target, summary, take_rounds
from bench.machine import cpu_of
from bench.plane import SQLITE, START_SECONDS, Plane
from bench.run import Bench
from guardhouse.clock import SystemClock
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import REGISTRATION, new_id

CALLS, BARE_CALLS, CHECKS = 200, 1500, 500
CLIENTS = 16
METHOD = "/guardhouse.identity.v1.AuthenticationService/AuthorizeEnrollment"
PARTS = ("bare", "signature")
NAMES = ("authorize_vs_verify",)


async def measure(bench: Bench) -> list[Figure]:
    plane, _ = await bench.loaded(SQLITE, bench.small)
    bench.say("authorizations", bench.pairs(15))
    async with plane:
        plane.spawn("session", BARE_HOST, "bare")
        async with asyncio.timeout(START_SECONDS):
            await plane.channel("session", host=BARE_HOST).channel_ready()
        request, _ = messages()
        empty = [request(organization_id=plane.organization_id).SerializeToString()]
        sides = {
            "authorize": Authorizations(plane, bench.size(CALLS)).take,
            "bare": Side(plane, BARE_HOST, PATH, empty, bench.size(BARE_CALLS), CLIENTS).take,
            "signature": Signatures(plane, bench.size(CHECKS)).take,
        }
        for warm_up in sides.values():
            await warm_up()
        rounds = await take_rounds(sides, bench.pairs(15), bench.tick)
    return [_figure(rounds)]


class Authorizations:
    """Asks as the registry does, for people who have just signed in."""

    def __init__(self, plane: Plane, count: int) -> None:
        self._plane = plane
        self._crowd = Crowd(plane)
        self._count = count
        self._pid = plane.pid("identity")
        self._call: Callable[..., Any] = plane.channel("identity", "service", "registry").unary_unary(METHOD)

    async def take(self) -> Sample:
        requests = iter([self._request(one) for one in self._crowd.newcomers(self._count)])
        cpu, began = cpu_of([self._pid]), time.perf_counter()
        await asyncio.gather(*(self._client(requests) for _ in range(CLIENTS)))
        return Sample(self._count, time.perf_counter() - began, cpu_of([self._pid]) - cpu)

    def _request(self, one: Newcomer) -> bytes:
        return pb.AuthorizeEnrollmentRequest(
            organization_id=self._plane.organization_id,
            intent_id=new_id(REGISTRATION, SystemClock().now()),
            request_id=uuid.uuid4().hex,
            credential=one.credential,
        ).SerializeToString()

    async def _client(self, requests: Iterator[bytes]) -> None:
        for request in requests:
            await self._call(request, timeout=30)


class Signatures:
    """Checks one token's, again and again, in this process."""

    def __init__(self, plane: Plane, count: int) -> None:
        self._key = plane.issuer.key
        self._token = Crowd(plane).newcomers(1)[0].credential.id_token
        self._count = count

    async def take(self) -> Sample:
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(self._count):
            jwt.decode(self._token, self._key, algorithms=["RS256"])
        return Sample(self._count, time.perf_counter() - began, time.process_time() - cpu)


def _figure(rounds: list[Round]) -> Figure:
    median, quartiles = summary([each["authorize"].cost / sum(each[part].cost for part in PARTS) for each in rounds])
    costs = {side: summary([each[side].cost for each in rounds])[0] for side in ("authorize", *PARTS)}
    absolute = {side: f"{cost * 1e6:.1f} µs CPU" for side, cost in costs.items()}
    return Figure("authorize_vs_verify", median, quartiles, Target("≤", 4.0), "", absolute)
