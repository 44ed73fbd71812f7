"""What a decision on traffic costs: among few policies and many, as a call, and as a share of a batch."""

import random
import time
from collections.abc import Sequence
from typing import Any

from bench import rules
from bench.calls import (
    BARE_AT_A_TIME,
    BARE_HOST,
    BATCH,
    BATCH_CLIENTS,
    STACK_HOST,
    UNARY_CLIENTS,
    Side,
    cost_ratio,
)
from bench.contract import PATH, messages
from bench.figure import Figure, Sample, Take, Target, take_rounds
from bench.plane import SQLITE, Plane
from bench.population import Population, organization_of, registration_of
from bench.run import Bench
from guardhouse.clock import SystemClock
from guardhouse.expressions import read_texts
from guardhouse.policies import REQUEST, PolicySet
from guardhouse.replica import Coverage
from guardhouse.replica.policies import decided_policy, gateway_policy, named_list
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.session.v1 import session_pb2_grpc as rpc
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.config import Settings
from guardhouse_services.run import prepare
from guardhouse_services.session.__main__ import build
from guardhouse_services.session.replica import Replica

FEW, MANY = 10, 1000
CHECK, BATCH_CHECK = (f"/guardhouse.session.v1.CheckService/{name}" for name in ("CheckTraffic", "BatchCheckTraffic"))
KIND = pb.TRAFFIC_KIND_REQUEST

NAMES = ("traffic_policies_flatness", "traffic_whole_flatness", "traffic_vs_stack", "traffic_batch_vs_bare")


async def measure(bench: Bench) -> list[Figure]:
    flatness = [await _flatness(bench), await _whole_flatness(bench)]
    plane, registrations = await bench.loaded(SQLITE, bench.large)
    async with plane:
        await write_policies(bench, plane)
        plane.spawn("session", BARE_HOST, "bare")
        url = f"sqlite:///{plane.folder}/{{service}}-stack.db"
        plane.spawn("session", STACK_HOST, "stack", database_url=url)
        await plane.serving("session", STACK_HOST)
        bench.say("traffic", bench.pairs(15))
        sides = {name: side.take for name, side in _sides(bench, plane, registrations).items()}
        for warm_up in sides.values():
            await warm_up()
        rounds = await take_rounds(sides, bench.pairs(15), bench.tick)
    return [
        *flatness,
        cost_ratio(rounds, "traffic_vs_stack", "stack", "traffic", Target("≥", 0.85)),
        cost_ratio(rounds, "traffic_batch_vs_bare", "batch", BARE_AT_A_TIME, Target("≤", 1 / 25), "1/"),
    ]


async def _flatness(bench: Bench) -> Figure:
    """Finding the policies for the values of an HTTP request, among many and among few."""
    bench.say("matches", bench.pairs(21))
    dice = random.Random(0)
    requests = [rules.fields(dice) for _ in range(2000)]

    def side(count: int) -> Take:
        compiled = _compiled(count)
        coverage = Coverage(compiled, frozenset())
        who = compiled.identity_mask(read_texts({"identity.email": "ada@example.com"})) & compiled.posture_mask({})

        async def take() -> Sample:
            began, cpu = time.perf_counter(), time.process_time()
            for _ in range(bench.size(10)):
                for request in requests:
                    coverage.find(REQUEST, request, {}, who)
            return Sample(bench.size(10) * len(requests), time.perf_counter() - began, time.process_time() - cpu)

        return take

    many, few = f"{MANY} policies", f"{FEW} policies"
    rounds = await take_rounds({many: side(MANY), few: side(FEW)}, bench.pairs(21), bench.tick)
    return cost_ratio(rounds, "traffic_policies_flatness", many, few, Target("≤", 2))


async def _whole_flatness(bench: Bench) -> Figure:
    """The whole of CheckTraffic, from the bytes of the request to those of the answer, in process: in a replica that
    knows as many people as the loaded plane, what they ask about in random requests."""
    bench.say("decisions", bench.pairs(21))
    many, few = f"{MANY} policies", f"{FEW} policies"
    sides = {many: await _whole(bench, MANY), few: await _whole(bench, FEW)}
    for warm_up in sides.values():
        await warm_up()
    rounds = await take_rounds(sides, bench.pairs(21), bench.tick)
    return cost_ratio(rounds, "traffic_whole_flatness", many, few, Target("≤", 1.5))


async def _whole(bench: Bench, count: int) -> Take:
    clock, organization_id = SystemClock(), organization_of(bench.large)
    settings = Settings(var=bench.folder() / "var")
    prepare(settings, clock)
    servicer: Any = build(settings, clock).servicer
    replica: Replica = servicer.session.replica
    population = Population(organization_id, count)
    views = {"identity": replica.people, "registry": replica.registrations, "session": replica.policies}
    for service, view in views.items():
        await view.begin(organization_id)
        await view.page(organization_id, list(population.events(service)))
        await view.end(organization_id, ("bench", 1))
    dice = random.Random(0)
    asked = [
        pb.CheckTrafficRequest(
            organization_id=organization_id,
            registration_id=registration_of(dice.randrange(population.count)),
            kind=KIND,
            traffic=pb.Traffic(fields=rules.fields(dice)),
        ).SerializeToString()
        for _ in range(2000)
    ]
    call = Call(Caller("key", "bench"), CHECK, "", RequestKey("", "", "", "", b""))
    allowed = pb.CheckTrafficResponse.FromString

    async def take() -> Sample:
        for follower in replica.followers:
            follower.restore({organization_id: ("bench", 1)}, clock.steady())
        answer = b""
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(bench.size(10)):
            for raw in asked:
                reply = await servicer.CheckTraffic(pb.CheckTrafficRequest.FromString(raw), call)
                answer = reply.SerializeToString()
        sample = Sample(bench.size(10) * len(asked), time.perf_counter() - began, time.process_time() - cpu)
        if allowed(answer).answer.decision != pb.DECISION_ALLOW:
            raise RuntimeError("a check was not allowed")
        return sample

    return take


def _compiled(count: int) -> PolicySet:
    lists = {each.name: named_list(each) for each in rules.lists()}
    return PolicySet.compile([gateway_policy(each, decided_policy(each, 0)) for each in _named(count)], lists)


def _named(count: int) -> list[pb.Policy]:
    made = list(rules.policies(count))
    for place, policy in enumerate(made):
        policy.policy_id = f"pol_{place:032x}"
    return made


async def write_policies(bench: Bench, plane: Plane) -> None:
    """Saves the lists and the policies, as an administrator does, unless they are there."""
    about: dict[str, Any] = {"organization_id": plane.organization_id}
    if (await plane.stub(rpc.ListServiceStub).ListLists(pb.ListListsRequest(**about))).lists:
        return
    for each in rules.lists():
        await plane.stub(rpc.ListServiceStub).CreateList(pb.CreateListRequest(**about, list=each))
    stub = plane.stub(rpc.PolicyServiceStub)
    count = bench.size(MANY) - 2
    bench.say("policies", count)
    # The plane has a policy already, which counts and has a precedence.
    for policy in rules.policies(count):
        await stub.CreatePolicy(pb.CreatePolicyRequest(**about, policy=policy))
        bench.tick()


def _sides(bench: Bench, plane: Plane, registrations: Sequence[str]) -> dict[str, Side]:
    request, _ = messages()
    empty = [request(organization_id=plane.organization_id).SerializeToString()]
    dice = random.Random(0)
    unary, batches = bench.size(1500), bench.size(20)
    about: dict[str, Any] = {"organization_id": plane.organization_id}

    def asked() -> dict[str, Any]:
        traffic = pb.Traffic(fields=rules.fields(dice))
        return {"registration_id": dice.choice(registrations), "kind": KIND, "traffic": traffic}

    checks = [pb.CheckTrafficRequest(**about, **asked()).SerializeToString() for _ in range(2000)]
    full = [
        pb.BatchCheckTrafficRequest(items=[pb.CheckTrafficItem(**asked()) for _ in range(BATCH)], **about)
        for _ in range(20)
    ]
    batch = [each.SerializeToString() for each in full]
    return {
        "bare": Side(plane, BARE_HOST, PATH, empty, unary, UNARY_CLIENTS),
        "stack": Side(plane, STACK_HOST, PATH, empty, unary, UNARY_CLIENTS),
        "traffic": Side(plane, "127.0.0.1", CHECK, checks, unary, UNARY_CLIENTS),
        BARE_AT_A_TIME: Side(plane, BARE_HOST, PATH, empty, unary, BATCH_CLIENTS),
        "batch": Side(plane, "127.0.0.1", BATCH_CHECK, batch, batches, BATCH_CLIENTS, BATCH),
    }
