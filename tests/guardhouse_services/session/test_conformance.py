"""The conformance files (docs/conformance.md), against the server and the checker that is built into a gateway.

They are decisions 27 to 31 and 34 to 36, case by case. The checker does not serve applications: their cases are the
server's.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import pytest
from msgspec.structs import asdict

from guardhouse.checker import Answer, Checker, Kind
from guardhouse.expressions import NamedList
from guardhouse.following import Follower
from guardhouse.identity.v1 import identity_pb2
from guardhouse.policies import ListType
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.credentials import MasterKey
from guardhouse_services.session import application_reading, reading
from guardhouse_services.session.domain.applications import check as check_application
from guardhouse_services.session.domain.policies import check_lists
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.session_tokens import SessionToken, SessionTokens
from guardhouse_services.session.usecases import Session
from tests.conformance.loader import ApplicationCheck, Check, Scenario, Step, scenarios
from tests.guardhouse_services.session.world import EPOCH, HOUR, Link, World, call

CASES = [
    pytest.param(
        scenario,
        check.name,
        id=f"{scenario.file}: {scenario.name}: {check.name}",
    )
    for scenario in scenarios()
    for step in scenario.steps
    for check in step.checks
]
SCENARIOS = [pytest.param(scenario, id=f"{scenario.file}: {scenario.name}") for scenario in scenarios()]
WITHOUT_APPLICATIONS = [scenario for scenario in SCENARIOS if not str(scenario.id).startswith("applications:")]
DAY = 24 * HOUR
MASTER_KEY = MasterKey(b"a key of nothing that anybody has")
SESSION_TOKENS = SessionTokens(MASTER_KEY)
KINDS: Mapping[int, Kind] = {
    pb.TRAFFIC_KIND_CONNECTION: "connection",
    pb.TRAFFIC_KIND_REQUEST: "request",
    pb.TRAFFIC_KIND_QUERY: "query",
}


class SetClock:
    """Says what it is told to say."""

    def __init__(self, time: int) -> None:
        self.time = time

    def now(self) -> int:
        return self.time

    def steady(self) -> int:
        return self.time


@pytest.mark.parametrize(("scenario", "name"), CASES)
def test_the_server_answers(scenario: Scenario, name: str) -> None:
    expected, said = answers(scenario.file, scenario.name)[name]
    assert {part: said.server[part] for part in expected} == expected


@pytest.mark.parametrize("scenario", WITHOUT_APPLICATIONS)
def test_the_embedded_checker_answers_the_same(scenario: Scenario) -> None:
    for name, (_, said) in answers(scenario.file, scenario.name).items():
        assert said.checker == said.server, name


@pytest.mark.parametrize("scenario", WITHOUT_APPLICATIONS)
def test_a_batch_answers_as_each_check_alone(scenario: Scenario) -> None:
    """Decision 36: but for the ids that its items hold."""
    for name, (_, said) in answers(scenario.file, scenario.name).items():
        assert said.in_a_batch is not None
        held = {part for part in ("policy", "registration") if said.in_a_batch[part] is None}
        assert said.in_a_batch == {**said.server, **dict.fromkeys(held)}, name


def test_there_are_enough_cases() -> None:
    """Issue 4 promises 150; and decision 31 alone has many."""
    assert len(CASES) >= 150
    assert len([case for case in CASES if str(case.id).startswith("applications:")]) >= 100


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_would_take_what_the_files_give(scenario: Scenario) -> None:
    """Whoever runs the cases may make the policies and lists through the contract's own methods."""
    lists: dict[str, Any] = {}
    for step in scenario.steps:
        for event in step.session:
            if event.HasField("list"):
                assert reading.list_name(event.list.name)
                type_ = ListType(event.list.type)
                lists[event.list.name] = NamedList.of(type_.type, reading.list_values(event.list.values, type_))
            elif event.HasField("policy"):
                terms = reading.terms(event.policy, "policy")
                terms.check("policy")
                check_lists(terms.expressions("policy"), lists, "policy")
                if terms.staleness is not None:
                    terms.staleness.check(scenario.max_staleness, HOUR, "staleness")
            elif event.HasField("application"):
                check_application(application_reading.application(event.application))
            elif event.HasField("device_session_settings"):
                application_reading.settings(event.device_session_settings)


class FedChecker(Checker):
    """A gateway's checker that follows the test's feeds."""

    def __init__(self, scenario: Scenario, clock: SetClock) -> None:
        profile = Profile(organization_id=scenario.organization_id, key="a key that nobody asks for")
        super().__init__(profile, scenario.max_staleness, clock=clock)
        self.links = Link("identity", identity_pb2), Link("registry", registry_pb2), Link("session", pb)

    @property
    def followers(self) -> Sequence[Follower]:
        return self._state.followers

    async def settle(self) -> None:
        """Waits until everything published has been applied, and is proven to be."""
        since = self._clock.steady()
        for link, follower in zip(self.links, self.followers, strict=True):
            for organization_id, revision in link.revisions.items():
                assert await follower.reached(follower.name, organization_id, (EPOCH, revision), timeout=30)
            assert await follower.fresh(since, timeout=30)

    def ask(self, check: Check) -> Answer:
        question = check.question
        if isinstance(question, pb.CheckSessionRequest):
            return self.check_session(question.registration_id, question.policy_id)
        assert isinstance(question, pb.CheckTrafficRequest)
        return self.check_traffic(
            kind=KINDS[question.kind],
            address=question.address,
            registration_id=question.registration_id,
            fields=question.traffic.fields,
            lists={name: several.values for name, several in question.traffic.lists.items()},
        )

    def _watch_identity(self, requests: AsyncIterator[Any]) -> Any:
        return self.links[0].watch(requests)

    def _watch_registry(self, requests: AsyncIterator[Any]) -> Any:
        return self.links[1].watch(requests)

    def _watch_session(self, requests: AsyncIterator[Any]) -> Any:
        return self.links[2].watch(requests)


def _publish(scenario: Scenario, step: Step, identity: Link, registry: Link, session: Link) -> None:
    """The first step to each feed, and the later ones to those of which something has changed."""
    first = step is scenario.steps[0]
    if step.installation or first:
        identity.publish(*step.installation, organization_id="")
    for link, events in ((identity, step.identity), (registry, step.registry), (session, step.session)):
        if events or first:
            link.publish(*events, organization_id=scenario.organization_id)


class Said(NamedTuple):
    """The answers to one check, as the files have them."""

    server: dict[str, Any]
    in_a_batch: dict[str, Any] | None = None
    checker: dict[str, Any] | None = None


@cache
def answers(file: str, name: str) -> dict[str, tuple[Mapping[str, Any], Said]]:
    """What is expected and what is said, by the name of the check. A scenario is run once for all of its tests."""
    (scenario,) = (it for it in scenarios() if (it.file, it.name) == (file, name))
    return asyncio.run(_run(scenario))


async def _run(scenario: Scenario) -> dict[str, tuple[Mapping[str, Any], Said]]:
    result: dict[str, tuple[Mapping[str, Any], Said]] = {}
    clock = SetClock(scenario.now)
    world = World(clock, scenario.max_staleness, max_open=DAY)
    checker = FedChecker(scenario, clock)
    links = [(world.identity, world.registry, world.own), checker.links]
    for feeds in links:
        _publish(scenario, scenario.steps[0], *feeds)
    async with world, checker:
        nothing: Any = None
        session = Session(clock, nothing, world.directory, world.replica, nothing, MASTER_KEY)
        asked = SessionServicer(clock, session, nothing, nothing, nothing)
        ways = [_alone, _in_a_batch]
        for step in scenario.steps:
            clock.time = scenario.now
            for feeds in links:
                if step is not scenario.steps[0]:
                    _publish(scenario, step, *feeds)
                for link in feeds:
                    link.up = True
            await world.settle()
            await checker.settle()
            # What is proven from here on is what the check says.
            for link in (link for feeds in links for link in feeds):
                link.up = False
            for check in step.checks:
                clock.time = check.time
                for follower in (*world.replica.followers, *checker.followers):
                    follower.fresh_as_of = check.time - check.staleness if check.staleness is not None else 0
                if isinstance(check.question, ApplicationCheck):
                    answer = await _application(asked, check.question)
                    result[check.name] = check.expected, Said(scenario.said_by(answer, degraded=False))
                    continue
                said = {way: scenario.said_by(*await way(asked, check)) for way in ways}
                embedded = scenario.said(**asdict(checker.ask(check)))
                result[check.name] = check.expected, Said(said[_alone], said[_in_a_batch], embedded)
            # The newest answer is kept, so the last way before things change is the first to hear of it.
            ways.reverse()
    return result


async def _application(servicer: SessionServicer, check: ApplicationCheck) -> pb.CheckAnswer:
    """With the session that LogIn would have begun."""
    request = pb.CheckApplicationRequest()
    request.CopyFrom(check.request)
    if (of := check.sign_in) is not None:
        token = SESSION_TOKENS.write(
            SessionToken(
                request.organization_id,
                of.user_id or of.service_token_id,
                of.identity_provider_id,
                of.authenticate_time,
                of.revision,
            )
        )
        request.session_token, request.binding = token, SESSION_TOKENS.binding(token) if of.bound else ""
    return (await servicer.CheckApplication(request, call())).answer


async def _alone(servicer: SessionServicer, check: Check) -> tuple[pb.CheckAnswer, bool]:
    if isinstance(check.question, pb.CheckSessionRequest):
        reply = await servicer.CheckSession(check.question, call())
        session = pb.CheckSessionResponse.FromString(reply.SerializeToString())
        return session.answer, session.degraded
    assert isinstance(check.question, pb.CheckTrafficRequest)
    reply = await servicer.CheckTraffic(check.question, call())
    traffic = pb.CheckTrafficResponse.FromString(reply.SerializeToString())
    return traffic.answer, traffic.degraded


async def _in_a_batch(servicer: SessionServicer, check: Check) -> tuple[pb.CheckAnswer, bool]:
    """As the second of two, behind itself."""
    question = check.question
    if isinstance(question, pb.CheckSessionRequest):
        item = pb.CheckSessionItem(registration_id=question.registration_id, policy_id=question.policy_id)
        request = pb.BatchCheckSessionsRequest(organization_id=question.organization_id, items=[item, item])
        reply = await servicer.BatchCheckSessions(request, call())
        sessions = pb.BatchCheckSessionsResponse.FromString(reply.SerializeToString())
        return _second(sessions.answers), sessions.degraded
    assert isinstance(question, pb.CheckTrafficRequest)
    fields: dict[str, Any] = {"kind": question.kind, "traffic": question.traffic}
    fields[question.WhichOneof("subject") or ""] = question.registration_id or question.address
    asked = pb.CheckTrafficItem(**fields)
    several = pb.BatchCheckTrafficRequest(organization_id=question.organization_id, items=[asked, asked])
    reply = await servicer.BatchCheckTraffic(several, call())
    responses = pb.BatchCheckTrafficResponse.FromString(reply.SerializeToString())
    return _second(responses.answers), responses.degraded


def _second(answers: Iterable[pb.CheckAnswer]) -> pb.CheckAnswer:
    first, second = answers
    assert first == second
    return second
