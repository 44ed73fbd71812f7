"""The harness of `make bench`: its arithmetic, its meters, and that what it loads is a control plane like any other."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from bench import wireguard
from bench.__main__ import NAMES
from bench.contract import contract
from bench.crowd import Newcomer
from bench.direct import Direct, Recorded, Script, script
from bench.figure import (
    Figure,
    Sample,
    Target,
    Unsteady,
    percentile,
    ratios,
    resampled,
    shown,
    steady,
    summary,
    take_rounds,
)
from bench.loaders import Place, load
from bench.machine import children, cpu_of, cpu_of_tree
from bench.postgresql import PostgreSQL
from demo.namespaces import missing
from guardhouse.common.v1 import credential_pb2
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2
from guardhouse_services.access import Rule
from guardhouse_services.config import SERVICES
from guardhouse_services.identity.store import tables as identity
from guardhouse_services.ipam.store import tables as ipam
from guardhouse_services.registry.store import tables as registry
from tests.plane import Plane
from tests.system.people import World

ROOT = Path(__file__).parents[1]
TABLES = {"identity": identity.metadata, "registry": registry.metadata, "ipam": ipam.metadata}
SAID = ("os_version", "client_version", "seen_time", "identity_token", "enrollment_policy_id")
"""What a device says or not, when it was heard of, a place in a history that is not kept, and who admitted it."""
BUSY = "sum(range(3_000_000))"


class Side:
    """Answers prepared samples, and notes when it was asked."""

    def __init__(self, name: str, asked: list[str], *seconds: float) -> None:
        self.name = name
        self.asked = asked
        self.seconds = list(seconds)

    async def take(self) -> Sample:
        self.asked.append(self.name)
        return Sample(10, self.seconds.pop(0) if self.seconds else 1.0, cpu=2.0)


async def test_rounds_alternate_who_begins() -> None:
    asked: list[str] = []
    sides = {name: Side(name, asked).take for name in "ab"}
    rounds = await take_rounds(sides, 3, lambda: None)
    assert "".join(asked) == "abbaab"
    assert [list(each) for each in rounds] == [["a", "b"], ["b", "a"], ["a", "b"]]


async def test_a_round_that_another_process_slowed_down_is_thrown_away_and_made_again() -> None:
    ticks: list[None] = []
    sides = {"a": Side("a", [], 1, 1, 9).take, "b": Side("b", []).take}
    rounds = await take_rounds(sides, 4, lambda: ticks.append(None))
    assert [each["a"].seconds for each in rounds] == [1, 1, 1, 1]
    assert len(ticks) == 5


async def test_a_machine_without_a_quiet_moment_tells_nothing() -> None:
    sides = {"a": Side("a", [], *3 * (1, 9, 1)).take, "b": Side("b", [], *3 * (9, 1, 1)).take}
    with pytest.raises(Unsteady):
        await take_rounds(sides, 4, lambda: None)


def test_a_ratio_is_made_within_each_round() -> None:
    """The machine may be twice as slow in one round as in another; a ratio of medians would mix them."""
    rounds = [{"a": Sample(1, 1, 1.0), "b": Sample(1, 1, 2.0)}, {"a": Sample(1, 1, 3.0), "b": Sample(1, 1, 6.0)}]
    assert ratios(rounds, "a", "b", lambda sample: sample.cost) == [0.5, 0.5]
    assert steady([]) == []


def test_medians_quartiles_and_percentiles() -> None:
    assert summary([5, 1, 2, 3, 4]) == (3, (2, 4))
    assert summary([7]) == (7, (7, 7))
    values = list(range(1, 1001))
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [500, 990, 1000]
    assert percentile([8], 0.5) == 8
    low, high = resampled(lambda of: percentile(of, 0.5), values)
    assert 450 < low < 500 < high < 550


def test_a_figure_says_whether_its_target_is_met() -> None:
    def verdict(value: float, *target: Any) -> str:
        return Figure("x", value, (value, value), Target(*target) if target else None).verdict

    assert [verdict(0.85, "≥", 0.85), verdict(0.84, "≥", 0.85)] == ["met", "missed"]
    assert [verdict(1 / 41, "≤", 1 / 40), verdict(1 / 39, "≤", 1 / 40)] == ["met", "missed"]
    assert verdict(1) == ""


def test_figures_are_shown_as_people_read_them() -> None:
    assert [shown(0.8549), shown(1 / 44, "1/"), shown(1.234, "ms"), shown(249.6, "ms")] == [
        "0.85",
        "1/44",
        "1.23 ms",
        "250 ms",
    ]
    assert shown(123456.7, "/s") == "123,457 /s"


def test_cpu_of_other_processes_is_counted_and_that_of_their_ended_children() -> None:
    child = f"subprocess.run([sys.executable, '-c', '{BUSY}'])"
    code = f"import subprocess, sys, time; {BUSY}; {child}; print(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            own, tree = cpu_of([process.pid]), cpu_of_tree(process.pid)
            assert own > 0.02
            # The child did the same work; what ended is told in hundredths of a second.
            assert tree > own * 1.3
            assert children(process.pid) == []
        finally:
            process.kill()
    assert cpu_of([process.pid]) == 0


def test_the_empty_method_has_the_rule_of_a_check() -> None:
    """Else `stack_vs_bare` would measure another stack."""
    empty = contract().services_by_name["EmptyService"].methods_by_name["Empty"]
    check = session_pb2.DESCRIPTOR.services_by_name["CheckService"].methods_by_name["CheckSession"]
    assert (Rule.of(empty).roles, Rule.of(empty).is_mutation) == (Rule.of(check).roles, False)


def test_a_script_keeps_enrollments_apart_from_what_follows_them() -> None:
    one, two = (Newcomer(label, credential_pb2.Credential(), b"") for label in ("one", "two"))
    read: Any = ("SELECT 1", {}, False)
    write: Any = ("UPDATE head", {}, False)
    committed = [
        Recorded("registry", "one", [read, write]),
        Recorded("identity", "two", [write]),
        Recorded("identity", "", [write]),
        Recorded("identity", "", [read]),
        Recorded("ipam", "", [("INSERT INTO job_lease", {}, False)]),
        Recorded("identity", "one", [read]),
    ]
    made = script([one, two], committed)
    assert made.enrollments == [[committed[0], committed[5]], [committed[1]]]
    assert made.effects == [committed[2]]
    assert made.counts["commits"] == "1 and 0.50 behind it"


def test_recorded_statements_run_again(postgresql: PostgreSQL) -> None:
    url = make_url(postgresql.create("bench_direct", "session"))
    text = "INSERT INTO head (organization_id, revision, compacted) VALUES (%(id)s, 1, 0)"
    transactions = [[Recorded("session", "", [(text, {"id": f"org_{number}"}, False)])] for number in range(50)]
    look = Recorded("session", "", [("SELECT count(*) FROM head", None, False)])
    with Direct({"session": f"host={url.query['host']} user=postgres dbname={url.database}"}) as direct:
        assert direct.take(Script(transactions, [look])).count == 50
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM head")).scalar() == 50
    engine.dispose()
    postgresql.drop("bench_direct")


async def test_a_loaded_plane_is_like_one_in_which_everybody_enrolled(plane: Plane) -> None:
    world = World(plane, plane.organization)
    policy_id = await world.policy("720h")
    for service in SERVICES:
        await plane.stop(service)
    ids = load(plane.settings, Place(plane.organization, plane.issuer.url), 20)
    for service in SERVICES:
        await plane.start(service)
    for service in SERVICES:
        await plane.reachable(service)
    made = await world.enroll("alice")
    await expect_alike(plane, 21)
    assert await world.used_seats() == 21
    assert len(await world.live()) == 21
    assert len({lease.ipv4 for lease in await world.leases()}) == 20 + 1
    assert await world.check(ids[7], policy_id) == "SESSION_FRESH"
    assert await world.check(made.registration.registration_id, policy_id) == "SESSION_FRESH"
    live = {it.registration_id: it for it in await world.live()}
    first, seventh = live[ids[0]], live[ids[7]]
    holder = await world.addresses.LookupAddress(
        ipam_pb2.LookupAddressRequest(organization_id=plane.organization, address=seventh.ipv6)
    )
    assert holder.lease.registration_id == ids[7]
    await world.registrations.RevokeRegistrations(world.batch(registry_pb2.RevokeRegistrationsRequest, ids[7]))
    assert await world.check(ids[7], policy_id) == "REGISTRATION_REVOKED"
    removal = (await world.remove(first.user_id, seventh.user_id)).removal
    assert (removal.seats_freed, removal.registrations) == (2, 2)
    async with asyncio.timeout(30):
        while not removal.done:
            request = identity_pb2.GetRemovalRequest(organization_id=plane.organization, removal_id=removal.removal_id)
            removal = (await world.users.GetRemoval(request)).removal
    # Nobody had to load anything a second time, or to ask what became of something.
    for node in plane.nodes.values():
        assert all(follower.resyncs == 0 for follower in (*node.views, *node.effects.values()))


async def expect_alike(plane: Plane, count: int) -> None:
    """As many rows as have enrolled, or were loaded, and in each of them the same columns say something."""
    tables = (
        *(registry.device, registry.registration, registry.fence, registry.person),
        *(identity.registration, identity.users, ipam.holding, ipam.lease),
    )
    for table in tables:
        end = time.monotonic() + 20
        while True:
            rows = await rows_of(plane, table)
            shapes = {frozenset(name for name, value in row.items() if value and name not in SAID) for row in rows}
            if (len(rows), len(shapes)) == (count, 1):
                break
            # The others learn of it from the registry's feed.
            assert time.monotonic() < end, f"{table.name}: {len(rows)} rows with {shapes}"
            await asyncio.sleep(0.05)


async def rows_of(plane: Plane, table: sa.Table) -> list[dict[str, Any]]:
    """Of the plane's organization, without attempts that failed and were made again."""
    service = next(each for each, metadata in TABLES.items() if metadata is table.metadata)
    wanted = sa.select(table).where(table.c.organization_id == plane.organization)
    database = plane.nodes[service].database
    rows = [dict(row._mapping) for row in await database.read(lambda tx: tx.execute(wanted).all())]
    return [row for row in rows if not row.get("end_time")]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_make_bench_measures_every_figure(tmp_path: Path) -> None:
    """A quick run: its figures mean nothing, but it has all of them, those of gateways where there can be one."""
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--quick", "--output", str(output)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(output.read_text())
    assert {figure["name"] for figure in found["figures"]} == set(NAMES) - set(wireguard.NAMES if missing() else ())
    assert all(figure["value"] > 0 for figure in found["figures"])
    assert found["seconds"] <= time.monotonic() - began
    assert "stack_vs_bare" in done.stdout
