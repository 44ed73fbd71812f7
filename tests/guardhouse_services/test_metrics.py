"""What Prometheus is told: that the page about it is true, and that figures are those of what happened."""

import re
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from guardhouse.ids import IDENTITY_PROVIDER, new_id
from guardhouse.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2
from guardhouse_services import journal
from guardhouse_services.access import ANONYMOUS
from guardhouse_services.config import SERVICES
from guardhouse_services.identity import metrics as identity
from guardhouse_services.ipam import metrics as ipam
from guardhouse_services.journal import Journal
from guardhouse_services.registry import metrics as registry
from tests.plane import Plane
from tests.system.people import World

PAGE = Path(__file__, "../../../docs/metrics.md").resolve()
LIBRARY = ("process_", "python_")


async def scim(plane: Plane) -> None:
    """A request with a secret that nobody has."""
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{plane.settings.http_port('identity')}/scim/v2/{new_id(IDENTITY_PROVIDER, 0)}/Users"
        assert (await client.get(url, headers={"Authorization": "Bearer x"})).status_code == 401


async def families(plane: Plane, service: str) -> dict[str, Metric]:
    """By the names of their samples, as the page has them."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{plane.settings.http_port(service)}/metrics")
    answer.raise_for_status()
    found = text_string_to_metric_families(answer.text)
    return {f"{it.name}_total" if it.type == "counter" else it.name: it for it in found}


def value(family: Metric, **labels: str) -> float:
    return sum(sample.value for sample in family.samples if labels.items() <= sample.labels.items())


def rows() -> Iterable[tuple[str, str, frozenset[str], frozenset[str]]]:
    """Name, type, labels and services of each row of the page's table."""
    for line in PAGE.read_text().splitlines():
        if match := re.match(r"\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) ?\| (.+?) \|", line):
            name, kind, labels, services = match.groups()
            yield (
                name,
                kind,
                frozenset(re.findall(r"`(\w+)`", labels)),
                frozenset(SERVICES if services == "all" else services.split(", ")),
            )


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_the_page_lists_what_there_is(plane: Plane) -> None:
    """Every metric of every service is on the page, with its type and its labels, and the other way around."""
    world = World(plane, plane.organization)
    await plane.create_organization(seat_limit=5)
    # One that runs out, as fast as it is used.
    lab = ipam_pb2.Subnet(display_name="Lab", network="10.1.0.0/24", is_default=True)
    made = ipam_pb2.CreateSubnetRequest(organization_id=plane.organization, subnet=lab)
    await plane.stub(ipam_pb2_grpc.SubnetServiceStub).CreateSubnet(made)
    await world.enroll("alice")
    await scim(plane)
    await world.policies.ListPolicies(session_pb2.ListPoliciesRequest(organization_id=plane.organization))
    listed = {(name, kind, labels, service) for name, kind, labels, services in rows() for service in services}
    served = set()
    for service in SERVICES:
        for name, family in (await families(plane, service)).items():
            if name.startswith(LIBRARY) or not family.samples:
                continue
            labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
            served.add((name, family.type, labels, service))
    assert served == listed


def test_the_page_watches_what_there_is() -> None:
    """Its expressions name metrics and labels that it lists, and none of ours is one that Prometheus adds, which it
    would rename."""
    added = {"job", "instance"}
    known = {name: labels | {"organization_id"} for name, _, labels, _ in rows()}
    assert all(labels.isdisjoint(added) for labels in known.values())
    section = PAGE.read_text().partition("## What to watch")[2].partition("\n## ")[0]
    expressions = [match[1] for match in re.finditer(r"^\| `(.*?)`", section, re.MULTILINE)]
    assert len(expressions) == 17
    for expression in expressions:
        names = set(re.findall(r"\b(?:guardhouse|grpc)_\w+", expression)) - {"grpc_code"}
        assert names
        assert names <= known.keys()
        wanted = set(re.findall(r"(\w+)!?=\"", expression))
        wanted |= {label.strip() for of in re.findall(r"by \((.*?)\)", expression) for label in of.split(",")}
        assert wanted <= added.union(*(known[name] for name in names)), expression
        # A series on each side for each replica could not be divided.
        assert " / " not in expression or len(re.findall(r"max by \(\w+\) \(", expression)) == 2


async def test_figures_are_those_of_what_happened(plane: Plane) -> None:
    world = World(plane, plane.organization)
    alice = (await world.enroll("alice")).registration
    await world.enroll("bob")
    await world.registrations.RevokeRegistrations(
        registry_pb2.RevokeRegistrationsRequest(
            organization_id=plane.organization, registration_ids=[alice.registration_id]
        )
    )
    # Session hears of it by its feeds.
    await plane.advance(0)
    of_identity, of_registry, of_ipam, of_session = [await families(plane, service) for service in SERVICES]
    assert value(of_identity["guardhouse_seats_used"]) == 2
    assert value(of_identity["guardhouse_seats_unlimited_organizations"]) == 1
    registrations = of_registry["guardhouse_registrations"]
    assert {sample.labels["state"]: sample.value for sample in registrations.samples} == {
        "pending": 0,
        "active": 1,
        "revoked": 1,
        "aborted": 0,
        "deleted": 0,
    }
    capacity, addresses = value(of_ipam["guardhouse_addresses_capacity"]), of_ipam["guardhouse_addresses"]
    assert capacity == 2**20 - 2
    assert sum(value(addresses, state=state) for state in ("active", "revoked", "reserved")) == 2
    assert value(addresses, state="free") == capacity - 2
    states = {"active", "revoked", "reserved", "quarantined", "pinned", "free"}
    assert {sample.labels["state"] for sample in addresses.samples} == states
    assert value(of_session["guardhouse_session_registrations"]) == 2
    assert value(of_session["guardhouse_session_staleness_seconds"]) < 5
    handled = of_registry["grpc_server_handled_total"]
    assert value(handled, grpc_method="Register", grpc_code="OK") == 2
    seconds = of_registry["grpc_server_handling_seconds"]
    register = [sample for sample in seconds.samples if sample.labels["grpc_method"] == "Register"]
    assert [sample.value for sample in register if sample.labels.get("le") == "+Inf"] == [2]
    assert 0 < next(sample.value for sample in register if sample.name.endswith("_sum")) < 60
    # Session and ipam and registry follow identity, and it follows itself.
    assert value(of_identity["guardhouse_feed_followers"]) >= 4
    assert value(of_registry["guardhouse_job_held"], task="sweep") == 1
    assert value(of_registry["guardhouse_database_transaction_seconds"], kind="write") > 0
    assert all(sample.value < 5 for sample in of_registry["guardhouse_follower_lag_seconds"].samples)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_requests_of_scim_clients_are_counted_by_how_they_end(plane: Plane) -> None:
    for _ in range(3):
        await scim(plane)
    found = await families(plane, "identity")
    requests, seconds = found["guardhouse_scim_requests_total"], found["guardhouse_scim_request_seconds_total"]
    assert {tuple(it.labels.values()): it.value for it in requests.samples} == {("GET", "401"): 3}
    assert 0 < value(seconds, method="GET") < 60


async def test_organizations_are_told_apart_where_it_is_asked_for(plane: Plane) -> None:
    await World(plane, plane.organization).enroll("alice")
    other = await plane.create_organization(seat_limit=7)
    of_identity = await plane.nodes["identity"].database.read(lambda tx: identity.figures(tx, True))
    used, purchased, *_ = of_identity
    assert used.labels == ("organization_id",)
    assert used.samples == {(plane.organization,): 1, (other,): 0}
    # One without a limit has none to compare with: 0 would always be used up.
    assert purchased.samples == {(other,): 7}
    registrations, *_ = await plane.nodes["registry"].database.read(lambda tx: registry.figures(tx, True))
    assert registrations.samples[(plane.organization, "active")] == 1
    addresses, capacity, *_ = await plane.nodes["ipam"].database.read(lambda tx: ipam.figures(3600)(tx, True))
    assert addresses.labels == ("organization_id", "state")
    assert capacity.samples == {(plane.organization,): 2**20 - 2}


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_figures_are_not_read_at_every_scrape(plane: Plane) -> None:
    """Whoever scrapes often costs the database nothing."""
    await families(plane, "identity")
    await World(plane, plane.organization).enroll("alice")
    assert value((await families(plane, "identity"))["guardhouse_seats_used"]) == 0


async def test_calls_are_counted_when_they_end() -> None:
    calls = Journal(log_calls=False)
    tally = calls.tally("/a.B/C", is_stream=False)
    for code, began in (("OK", 0.0), ("OK", 0.0), ("INTERNAL", 0.0)):
        tally.begun += 1
        calls.add(tally, ANONYMOUS.name, code, began, "trace")
    tally.begun += 1
    calls.flush()
    assert tally.codes == {"OK": 2, "INTERNAL": 1}
    assert tally.in_flight == 1
    # They began when the machine did, longer ago than any bucket has.
    assert tally.buckets == [0] * len(journal.BUCKETS) + [3]
