"""Every method and every kind of caller, on both listeners; and what a caller may learn of another organization."""

import difflib
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.plane import Plane
from tests.system.access_matrix import PATH, Callers, matrix
from tests.system.contract import METHODS, Method
from tests.system.malformed import PREFIXES
from tests.system.people import World
from tests.system.seeds import Seeds
from tests.system.wire import Outcome, send

UNKNOWN = "0198c0de5a3c7f1e8a2b4c6d8e0f1234"

# Who may call what is in the contract, and no database has a part in it.
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
BOTH = pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)

pytestmark = [pytest.mark.plane(anonymous_rate=1e6, anonymous_burst=10**6), pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused for the hundredth time would be told no more than that."""
    monkeypatch.setattr("guardhouse_services.calls.REFUSALS_BURST", 10**6)


@ON_ONE
async def test_every_method_and_every_caller(plane: Plane) -> None:
    """I-27, I-28, I-29, decision 22. `python -m tests.system.access_matrix` writes what is wanted; people read it."""
    wanted, found = PATH.read_text().splitlines(), (await matrix(plane)).splitlines()
    changed = "\n".join(difflib.unified_diff(wanted, found, "reviewed", "found", n=0, lineterm=""))
    assert not changed, changed


@ON_ONE
async def test_another_organization_is_as_unknown_as_none(plane: Plane) -> None:
    """I-27: a key is told the same of an organization that exists and of one that does not."""
    callers = await Callers(plane).gather()
    told_apart = []
    for (group, mark), (caller, (organization_id, registration_id)) in callers.columns.items():
        if group != "foreign":
            continue
        # Before they enroll, people ask whether an organization exists, and are told.
        for method in [method for method in METHODS.values() if not method.rule.anonymous]:
            theirs = await callers.ask(method, caller, (organization_id, registration_id))
            nobodys = await callers.ask(method, caller, (f"org_{UNKNOWN}", registration_id))
            if seen(theirs) != seen(nobodys):
                told_apart.append(f"{method.name} by {mark}: {theirs} / {nobodys}")
    assert told_apart == []


@BOTH
async def test_what_another_organization_has_is_as_unknown_as_what_nobody_has(plane: Plane) -> None:
    """I-27: within one's own organization, an id of another one answers as an id of nothing does."""
    own = await Seeds(World(plane, plane.organization)).plant()
    foreign = await Seeds(World(plane, await plane.create_organization())).plant()
    told_apart, tried = [], 0
    for method in METHODS.values():
        for name, prefix in PREFIXES.items():
            if name == "organization_id" or not (method.takes(name) or method.takes(f"{name}s")):
                continue
            if name not in foreign.ids:
                continue
            theirs = await ask_about(own, method, name, foreign.ids[name])
            nobodys = await ask_about(own, method, name, f"{prefix}_{UNKNOWN}")
            tried += 1
            if seen(theirs, foreign.ids[name]) != seen(nobodys, f"{prefix}_{UNKNOWN}"):
                told_apart.append(f"{method.name}: {name}: {theirs} / {nobodys}")
    assert told_apart == []
    assert tried >= 30
    # Nothing of theirs has gone.
    assert foreign.ids["registration_id"] in {it.registration_id for it in await foreign.world.live()}


@ON_ONE
async def test_nobody_without_a_certificate_reaches_the_service_listeners(plane: Plane) -> None:
    """I-29: they are refused before they can say which method they want."""
    authorities = grpc.ssl_channel_credentials((plane.settings.tls_path / "ca.crt").read_bytes())
    for service in plane.nodes:
        options = [("grpc.ssl_target_name_override", "localhost")]
        target = f"127.0.0.1:{plane.settings.service_port(service)}"
        async with grpc.aio.secure_channel(target, authorities, options) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await check(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def ask_about(seeds: Seeds, method: Method, name: str, value: str) -> Outcome:
    """A request that is right but for one id."""
    caller, request = await seeds.valid(method)
    if method.takes(name):
        setattr(request, name, value)
    else:
        others = getattr(request, f"{name}s")[1:]
        getattr(request, f"{name}s")[:] = [value, *others]
    return await send(seeds.plane, method, caller, request.SerializeToString())


def seen(outcome: Outcome, asked: str = "") -> tuple[object, ...]:
    """What a caller sees of an outcome, without the id that it asked about."""
    metadata = sorted((key, value.replace(asked, "") if asked else value) for key, value in outcome.metadata.items())
    message = outcome.message.replace(asked, "") if asked else outcome.message
    return outcome.code, outcome.reason, message, metadata, outcome.details
