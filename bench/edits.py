"""How soon an edited policy is obeyed, and what the edit costs: with 100,000 people, 1,000 policies, lists of 5,000.

Each edit blocks a host that nobody asked about before. Who asks from the answer of UpdatePolicy on, again as soon as it
is answered, is a registration drawn at random.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from bench import rules
from bench.calls import BATCH
from bench.figure import Figure, percentile, resampled
from bench.plane import SQLITE, Plane
from bench.run import Bench
from bench.traffic import KIND, write_policies
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.session.v1 import session_pb2_grpc as rpc

COUNT = 100
QUIET = 20
"""Edits with nothing beside them, for what they cost."""
QUIET_SECONDS = 0.25
PEOPLE = 5000
NAMES = ("policy_edit_p50", "policy_edit_p99")


async def measure(bench: Bench) -> list[Figure]:
    plane, registrations = await bench.loaded(SQLITE, bench.large)
    async with plane:
        await write_policies(bench, plane)
        editor = Editor(plane, registrations)
        await editor.choose()
        count = bench.size(COUNT)
        bench.say("edits of a policy", count)
        # The first one compiles everything.
        await editor.edit()
        delays = []
        for _ in range(count):
            delays.append(1e3 * await editor.edit())
            bench.tick()
        cost = await editor.cost(bench.size(QUIET))
        people = await editor.people(bench.size(PEOPLE) // BATCH * BATCH or BATCH)
    absolute = {
        "an edit": f"{1e3 * cost:.0f} ms CPU",
        "and of each person who is asked about": f"{1e6 * people:.0f} µs CPU",
        f"so of all {len(registrations):,}": f"{people * len(registrations):.1f} s CPU",
    }
    return [
        Figure(f"policy_edit_{name}", percentile(delays, share), _spread(delays, share), None, "ms", absolute)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def _spread(delays: Sequence[float], share: float) -> tuple[float, float]:
    return resampled(lambda of: percentile(of, share), delays)


class Editor:
    """Somebody who edits one policy again and again."""

    def __init__(self, plane: Plane, registrations: Sequence[str]) -> None:
        self._plane = plane
        self._registrations = registrations
        self._about: dict[str, Any] = {"organization_id": plane.organization_id}
        self._policies = plane.stub(rpc.PolicyServiceStub)
        self._checks: Any = rpc.CheckServiceStub(plane.channel("session"))
        self._dice = random.Random(0)
        self._policy_id = ""
        self._edits = 0

    async def choose(self) -> None:
        """Among those of the middle: one that blocks requests, whoever makes them."""
        found: list[pb.Policy] = []
        page_token = ""
        while True:
            page = await self._policies.ListPolicies(pb.ListPoliciesRequest(page_token=page_token, **self._about))
            found += page.policies
            if not (page_token := page.next_page_token):
                break
        blocking = [
            policy.policy_id
            for policy in found
            if (policy.filter, policy.action) == (pb.POLICY_FILTER_HTTP, pb.POLICY_ACTION_BLOCK) and not policy.identity
        ]
        self._policy_id = blocking[len(blocking) // 2]

    async def edit(self) -> float:
        """Seconds from the answer to the first decision that obeys it."""
        host = await self._update()
        answered = time.perf_counter()
        while await self._decision(host) != pb.DECISION_BLOCK:
            pass
        return time.perf_counter() - answered

    async def cost(self, count: int) -> float:
        """Seconds of CPU of an edit, with the one check after it that finds it, in all services."""
        before = self._plane.cpu()
        await asyncio.sleep(count * QUIET_SECONDS)
        idle, before = self._plane.cpu() - before, self._plane.cpu()
        began = time.perf_counter()
        for _ in range(count):
            host = await self._update()
            await asyncio.sleep(QUIET_SECONDS)
            if await self._decision(host) != pb.DECISION_BLOCK:
                raise RuntimeError("an edit was not obeyed in time")
        seconds = time.perf_counter() - began
        return (self._plane.cpu() - before - idle * seconds / (count * QUIET_SECONDS)) / count

    async def people(self, count: int) -> float:
        """Seconds of CPU to find once more, for each person, which policies are about them at all."""
        asked = self._dice.sample(self._registrations, count)
        await self._ask_all(asked)
        await self.edit()
        anew = await self._ask_all(asked)
        return (anew - await self._ask_all(asked)) / count

    async def _ask_all(self, registrations: Sequence[str]) -> float:
        """Seconds of CPU of session."""
        traffic = pb.Traffic(fields=rules.fields(self._dice))
        before = self._plane.cpu()
        for start in range(0, len(registrations), BATCH):
            items = [
                pb.CheckTrafficItem(registration_id=each, kind=KIND, traffic=traffic)
                for each in registrations[start : start + BATCH]
            ]
            request = pb.BatchCheckTrafficRequest(items=items, **self._about)
            await self._checks.BatchCheckTraffic(request, timeout=30, metadata=self._plane.metadata)
        return self._plane.cpu() - before

    async def _update(self) -> str:
        """The host that is blocked now."""
        self._edits += 1
        host = f"edit{self._edits}.example"
        policy = pb.Policy(policy_id=self._policy_id, traffic=f'http.request.host == "{host}"')
        request = pb.UpdatePolicyRequest(policy=policy, **self._about)
        request.update_mask.paths.append("traffic")
        await self._policies.UpdatePolicy(request)
        return host

    async def _decision(self, host: str) -> int:
        fields = rules.fields(self._dice) | {"http.request.host": host, "net.sni.host": host}
        request = pb.CheckTrafficRequest(
            registration_id=self._dice.choice(self._registrations),
            kind=KIND,
            traffic=pb.Traffic(fields=fields),
            **self._about,
        )
        answer = await self._checks.CheckTraffic(request, timeout=10, metadata=self._plane.metadata)
        return int(answer.answer.decision)
