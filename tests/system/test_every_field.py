"""Every field of every method, wrong in every way, and messages at random.

A refusal has a code and a reason that the contract documents for its method, names the field that is wrong, and has
changed nothing. INTERNAL is never one.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from google.protobuf.message import Message

from tests.system.contract import METHODS, Method
from tests.system.malformed import HUGE, Bad, Place, malformed, places
from tests.system.people import World
from tests.system.randoms import mutated, random_request
from tests.system.seeds import Seeds
from tests.system.state import difference, quiet, state
from tests.system.wire import Caller, Outcome, send

SECONDS = 2.0
BATCH = 100
# What no database has a part in.
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
# Everything that the services need is there, so these would be hiding something else.
NEVER = {"INTERNAL", "DATABASE_UNAVAILABLE", "SERVICE_UNAVAILABLE", "IDENTITY_PROVIDER_UNAVAILABLE", "STATE_STALE"}

pytestmark = [pytest.mark.plane(anonymous_rate=1e6, anonymous_burst=10**6), pytest.mark.timeout(300)]


@pytest.fixture
async def seeds(world: World) -> Seeds:
    return await Seeds(world).plant()


def undocumented(method: Method, outcome: Outcome) -> str:
    """What is wrong with a refusal whatever the request was; empty when it is as the contract says."""
    if outcome.seconds > SECONDS:
        return f"took {outcome.seconds:.1f} s"
    if outcome.code == "OK":
        return ""
    if outcome.reason not in method.reasons - NEVER:
        return "this reason is not documented for the method"
    if outcome.domain != "guardhouse" or not {"ErrorInfo", "RequestInfo"} <= outcome.details:
        return f"details are missing: {sorted(outcome.details)} of {outcome.domain!r}"
    names_field = outcome.code != "INVALID_ARGUMENT" or outcome.reason == "MESSAGE_INVALID" or outcome.field
    if not names_field or outcome.violations != ((outcome.field,) if outcome.field else ()):
        return f"the field is not named: {outcome.metadata} {outcome.violations}"
    return ""


def unexpected(method: Method, bad: Bad, outcome: Outcome) -> str:
    """As undocumented, and whether it is the refusal that this request must meet."""
    if (fault := undocumented(method, outcome)) or bad.field is None:
        return fault
    if bad.field == "":
        return "" if outcome.reason == "MESSAGE_INVALID" else "it is no message"
    if outcome.reason == "ACCESS_DENIED" and bad.field in ("organization_id", "registration_id") and method.rule.device:
        # A device names its own, and whatever else it names is not looked at.
        return ""
    if outcome.code != "INVALID_ARGUMENT" or (bad.reason and outcome.reason != bad.reason):
        return f"wanted {bad.reason or 'INVALID_ARGUMENT'}"
    return "" if _agrees(bad.field, outcome.field) else f"wanted the field {bad.field}"


def _agrees(wanted: str, named: str) -> bool:
    """Whether the field that is named is the wrong one, the list it stands in, or one of its own."""
    return named == wanted or wanted.startswith(f"{named}[") or named.startswith((f"{wanted}.", f"{wanted}["))


class Walk:
    """Sends what is wrong with a method's request, and notes what comes of it that should not."""

    def __init__(self, seeds: Seeds, every: int = 1) -> None:
        self.seeds = seeds
        self.plane = seeds.plane
        self.faults: list[str] = []
        self._every = every

    async def walk(self, method: Method) -> None:
        caller, request = await self.seeds.valid(method)
        good = await self.send(method, caller, request.SerializeToString())
        if good.code != "OK":
            self.faults.append(f"{method.name}: the valid request: {good}")
        accepted = await self._try(method) if method.rule.is_mutation else set()
        caller, request = await self.seeds.valid(method)
        if method.rule.is_mutation:
            await quiet(self.plane)
        bads = [bad for bad in self._bad(method, request) if bad.name not in accepted]
        if not await self._refused(method, caller, bads):
            return
        # What time alone brought about meanwhile, such as the end of an intent, does not come about twice.
        await quiet(self.plane)
        if changed := await self._refused(method, caller, bads):
            self.faults.append(f"{method.name}: what was refused changed {changed}")

    async def _refused(self, method: Method, caller: Caller, bads: Sequence[Bad]) -> str:
        """What is different after these requests."""
        before = await state(self.plane)
        for bad in bads:
            outcome = await self.send(method, caller, bad.raw)
            self.note(method, bad.name, unexpected(method, bad, outcome), outcome)
        return difference(before, await state(self.plane))

    async def _try(self, method: Method) -> set[str]:
        """The names of those changes that need not be refused and are not."""
        accepted: set[str] = set()
        caller, request = await self.seeds.valid(method)
        bads = self._bad(method, request)
        for place in [place for place, bad in enumerate(bads) if bad.field is None]:
            outcome = await self.send(method, caller, bads[place].raw)
            self.note(method, bads[place].name, undocumented(method, outcome), outcome)
            if outcome.code == "OK":
                accepted.add(bads[place].name)
                # The next one is another request, and about something that is there.
                caller, request = await self.seeds.valid(method)
                bads = self._bad(method, request)
        return accepted

    def _bad(self, method: Method, request: Message) -> list[Bad]:
        return list(malformed(method, request))[:: self._every]

    async def send(self, method: Method, caller: Caller, raw: bytes) -> Outcome:
        outcome = await send(self.plane, method, caller, raw)
        if outcome.seconds > SECONDS:
            # The machine may have stood still; a message that is slow by itself is slow again.
            again = await send(self.plane, method, caller, raw)
            outcome = replace(outcome, seconds=min(outcome.seconds, again.seconds))
        return outcome

    def note(self, method: Method, name: str, fault: str, outcome: Outcome) -> None:
        if fault:
            self.faults.append(f"{method.name}: {name}: {outcome}: {fault}")


@ON_ONE
async def test_fields_wrong_in_every_way(seeds: Seeds) -> None:
    """Decision 36. Every field in every way is below."""
    walk = Walk(seeds, every=29)
    for method in METHODS.values():
        await walk.walk(method)
    assert walk.faults == [], "\n".join(walk.faults)


@ON_ONE
@pytest.mark.long
@pytest.mark.timeout(900)
async def test_every_field_wrong_in_every_way(seeds: Seeds) -> None:
    """Decision 36. Whether a field is well-formed does not depend on the engine."""
    walk = Walk(seeds)
    for method in METHODS.values():
        await walk.walk(method)
    assert walk.faults == [], "\n".join(walk.faults)


@ON_ONE
async def test_a_megabyte_is_too_much(seeds: Seeds) -> None:
    """I-34: on the public listener gRPC refuses it unread; a service may send as much, and no field may hold it."""

    async def check(method: Method, place: Place) -> str:
        caller, request = seeds.caller(method), seeds.bare(method.request)
        outcome = await send(seeds.plane, method, caller, place.changed(request, HUGE).SerializeToString())
        wanted = "RESOURCE_EXHAUSTED" if caller.listener == "public" else "INVALID_ARGUMENT"
        return "" if outcome.code == wanted else f"{method.name}: {place.name}: {outcome}"

    checks = []
    for method in METHODS.values():
        texts = [it for it in places(method.descriptor.input_type) if it.field.type == it.field.TYPE_STRING]
        texts = [it for it in texts if not it.ignored]
        # What is refused unread is the same in every field.
        checks += [check(method, place) for place in (texts if method.rule.services else texts[:1])]
    faults = await asyncio.gather(*checks)
    assert not any(faults), "\n".join(filter(None, faults))


@ON_ONE
async def test_a_stream_ends_with_the_first_message_that_is_wrong(seeds: Seeds) -> None:
    streams = [method for method in METHODS.values() if method.is_stream]
    assert len(streams) == 5
    for method in streams:
        caller, request = await seeds.valid(method)
        outcome = await send(seeds.plane, method, caller, request.SerializeToString(), b"\xff")
        assert outcome.reason == "MESSAGE_INVALID", (method.name, outcome)


@ON_ONE
async def test_messages_at_random(seeds: Seeds) -> None:
    """Section 7 of the plan: random messages and mutated ones, and no answer but a documented one."""
    await bombard(seeds, calls=700)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_many_messages_at_random(seeds: Seeds) -> None:
    await bombard(seeds, calls=25_000)


async def changes(walk: Walk, refused: Sequence[tuple[Method, Caller, bytes]]) -> object:
    """What is different after these calls were made, unless one of them was accepted. Who finds something asks again:
    a service may have decided meanwhile on an intent whose time was over, and that it does once."""
    await quiet(walk.plane)
    before = await state(walk.plane)
    again = {(await walk.send(*each)).code for each in refused}
    return None if "OK" in again else difference(before, await state(walk.plane))


async def bombard(seeds: Seeds, calls: int) -> None:
    rng = random.Random(calls)
    walk = Walk(seeds)
    methods = list(METHODS.values())
    codes: Counter[str] = Counter()
    for _ in range(0, calls, BATCH):
        refused = []
        for _ in range(BATCH):
            method = rng.choice(methods)
            caller = seeds.caller(method)
            raw = random_request(rng, seeds.bare(method.request), seeds.ids).SerializeToString()
            if rng.random() < 0.5:
                raw = mutated(rng, raw)
            outcome = await walk.send(method, caller, raw)
            codes[outcome.code] += 1
            walk.note(method, raw.hex(), undocumented(method, outcome), outcome)
            if outcome.code != "OK":
                refused.append((method, caller, raw))
        # Once more, and nothing may change; unless what came in between has made one of them right.
        if await changes(walk, refused) and (changed := await changes(walk, refused)):
            walk.faults.append(f"what was refused changed {changed}")
    assert walk.faults == [], "\n".join(walk.faults)
    # A run in which everything is refused for the same reason proves little.
    assert codes["OK"] > calls / 20, codes
    assert len(codes) >= 5, codes
