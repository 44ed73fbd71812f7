"""The checker by itself: what it keeps, and what it writes while things change. tests/system has it beside a plane."""

import gc
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from guardhouse.checker import Answer, Checker
from guardhouse.decisions import Reason
from guardhouse.durations import SECOND
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.replica import storing
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.times import from_timestamp, set_time
from tests.clock import FakeClock

ORGANIZATION = f"org_{'1' * 32}"
PEOPLE = 3
REQUESTS = ({"net.dst.ip": "10.0.0.7", "net.dst.port": "443"}, {"net.dst.ip": "10.0.0.8"})


def person(number: int) -> tuple[str, str, str]:
    return f"reg_{number:032x}", f"usr_{number:032x}", f"100.96.{number // 250}.{number % 250 + 1}"


class World:
    """A checker that hears of changes from nobody but the test, which also proves it fresh."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.clock.stop()
        profile = Profile("a:1", "a:1", session="a:1", organization_id=ORGANIZATION, key="key")
        self.checker = Checker.connect(profile, clock=self.clock)
        self.revision = 1

    async def load(self) -> None:
        for view in self.checker._views.values():
            await view.begin(ORGANIZATION)
            await view.end(ORGANIZATION, ("epoch", self.revision))
        for number in range(PEOPLE):
            await self.say("identity", self.user(number))
            await self.say("registry", self.registration(number))
        for number in range(3):
            await self.say("session", self.policy(number, "1h"))

    async def say(self, service: str, event: Any) -> None:
        self.revision += 1
        at = ("epoch", self.revision)
        await self.checker._views[service].change(ORGANIZATION, [event], at, at)

    async def reload(self, service: str) -> None:
        """A snapshot of what is there."""
        view, captured = self.checker._views[service], self.captured(service)
        await view.begin(ORGANIZATION)
        for _, _, events in captured:
            await view.page(ORGANIZATION, list(events))
        await view.end(ORGANIZATION, ("epoch", self.revision))

    def captured(self, *services: str) -> list[tuple[str, str, Iterator[Any]]]:
        """What a file would have in it."""
        views = self.checker._views
        return [part for each in services for part in storing.capture(each, views[each], [ORGANIZATION])]

    def prove(self) -> None:
        for follower in self.checker._state.followers:
            follower.restore({ORGANIZATION: ("epoch", self.revision)}, self.clock.steady())

    def user(self, number: int, revoked_revision: int = 0, removed_revision: int = 0, group: str = "") -> Any:
        of = identity.User(user_id=person(number)[1], email=f"person{number}@example.com", groups=[group])
        record = identity.UserRecord(user=of, revoked_revision=revoked_revision, removed_revision=removed_revision)
        return identity.Event(user=record)

    def authentication(self, number: int, revoked_revision: int = 0) -> Any:
        fact = identity.Authentication(
            registration_id=person(number)[0], revision=self.revision, revoked_revision=revoked_revision
        )
        set_time(fact.authenticate_time, self.clock.now())
        return identity.Event(authentication=fact)

    def registration(self, number: int, passed: str = "", active: bool = True) -> Any:
        registration_id, user_id, ipv4 = person(number)
        state = registry.REGISTRATION_STATE_ACTIVE if active else registry.REGISTRATION_STATE_REVOKED
        of = registry.Registration(registration_id=registration_id, user_id=user_id, ipv4=ipv4, state=state)
        record = registry.RegistrationRecord(registration=of, authorize_revision=self.revision)
        set_time(record.authenticate_time, self.clock.now())
        record.posture.passed.append(passed)
        set_time(record.posture.report_time, self.clock.now())
        return registry.Event(registration=record)

    def question(self, number: int, dice: random.Random) -> Callable[[], Answer]:
        registration_id, _, address = person(number)
        if dice.random() < 0.5:
            return partial(self.checker.check_session, registration_id, f"pol_{dice.randrange(3):032x}")
        return partial(self.checker.check_traffic, address=address, kind="connection", fields=dice.choice(REQUESTS))

    def policy(self, number: int, duration: str) -> Any:
        asks: list[dict[str, Any]] = [
            {"identity": 'any(identity.groups.name[*] == "blocked")'},
            {"device_posture": "device_posture.age >= 60", "traffic": "net.dst.port == 443"},
            {},
        ]
        policy = session.Policy(
            policy_id=f"pol_{number:032x}",
            enabled=True,
            precedence=number + 1,
            filter=session.POLICY_FILTER_L4,
            action=session.POLICY_ACTION_ALLOW if number else session.POLICY_ACTION_BLOCK,
            **asks[number],
        )
        if number:
            policy.check_session.enforce = True
            policy.check_session.duration = duration
        return session.Event(policy=policy)


async def test_an_answer_that_is_kept_is_the_one_that_would_be_made_anew() -> None:
    """I-19: whatever has happened since, to whomever, and however late it is."""
    it, dice = World(), random.Random(0)
    await it.load()
    events: list[Callable[[int], tuple[str, Any]]] = [
        lambda number: ("identity", it.user(number, revoked_revision=it.revision)),
        lambda number: ("identity", it.user(number, group=dice.choice(["", "blocked"]))),
        lambda number: ("identity", it.user(number, removed_revision=it.revision)),
        lambda number: ("identity", it.authentication(number)),
        lambda number: ("identity", it.authentication(number, it.revision)),
        lambda number: ("registry", it.registration(number, passed=dice.choice(["", "firewall"]))),
        lambda number: ("registry", it.registration(number, active=dice.random() < 0.7)),
        lambda number: ("session", it.policy(number, dice.choice(["5m", "1h"]))),
    ]
    reasons, kept = set(), 0
    # Each is asked the same for a while, because one answer is kept of each.
    questions = [it.question(number, dice) for number in range(PEOPLE)]
    for _ in range(2000):
        if dice.random() < 0.3:
            await it.say(*dice.choice(events)(dice.randrange(PEOPLE)))
        if dice.random() < 0.03:
            await it.reload(dice.choice(list(it.checker._views)))
        it.clock.advance(dice.choice([0, 0.001, 1, 4, 4, 4, 60]))
        it.prove()
        for number in range(PEOPLE):
            if dice.random() < 0.2:
                # As for a list of sessions, which puts it together with what is new.
                it.checker._state.find(ORGANIZATION, person(number)[0])
            if dice.random() < 0.05:
                questions[number] = it.question(number, dice)
            subject = it.checker._state.registrations.states[ORGANIZATION].registrations[person(number)[0]]
            before = subject.answer
            found = questions[number]()
            kept += found is before
            # Another checker would have to be told all of it.
            subject.asked, it.checker._known_version, it.checker._facts_version = None, 0, 0
            assert found == questions[number]()
            reasons.add(found.reason)
    assert reasons >= {Reason.SESSION_FRESH, Reason.SESSION_EXPIRED, Reason.SESSION_REVOKED, Reason.USER_REMOVED}
    assert kept > 500


async def test_an_answer_that_ends_with_a_postures_age_is_not_kept_behind_it() -> None:
    """Decision 32a: the bound is of other traffic's policy, so the same one decides, and for as long as ever."""
    it = World()
    await it.load()
    left = []
    for seconds in (0, 55, 5, 1):
        it.clock.advance(seconds)
        it.prove()
        answer = it.checker.check_traffic(address=person(0)[2], kind="connection", fields=REQUESTS[1])
        left.append((answer.policy_id, answer.valid_for // SECOND))
    last = f"pol_{2:032x}"
    assert left == [(last, 10), (last, 5), (last, 10), (last, 10)]


async def test_the_collector_has_nothing_to_look_at_of_what_a_replica_knows() -> None:
    """However many there are, whatever becomes of them, and whoever asks: so no pause grows with them."""
    it, dice = World(), random.Random(0)
    await it.load()
    it.prove()
    count = 1000
    gc.collect()
    before = len(gc.get_objects())
    for number in range(count):
        await it.say("identity", it.user(number, group=f"group{number}"))
        await it.say("registry", it.registration(number, passed="firewall"))
        await it.say("identity", it.authentication(number))
        it.question(number, dice)()
        registration_id, _, _ = person(number)
        it.checker.check_traffic(registration_id=registration_id, kind="connection", fields=dice.choice(REQUESTS))
    gc.collect()
    assert len(it.checker._state.registrations.states[ORGANIZATION].registrations) == count
    assert len(gc.get_objects()) - before < count / 10


async def test_what_is_written_is_never_older_than_the_file_says() -> None:
    """Everything is written as it has become when its turn is there, however long that takes: what refuses is in it."""
    it = World()
    await it.load()
    captured = it.captured("identity", "registry", "session")
    await it.say("identity", it.user(0, removed_revision=99))
    await it.say("registry", it.registration(0, active=False))
    events: dict[str, list[Any]] = {service: [] for service, _, _ in captured}
    for service, _, part in captured:
        events[service] += part
    users = [event.user for event in events["identity"] if event.HasField("user")]
    assert [user.removed_revision for user in users] == [99, 0, 0]
    states = [event.registration.registration.state for event in events["registry"]]
    assert states.count(registry.REGISTRATION_STATE_REVOKED) == 1
    assert len(events["session"]) == 3


async def test_nothing_that_stays_is_missing_from_the_file_however_much_comes_and_goes() -> None:
    """While it is written registrations go, and so many come that what is behind them moves."""
    it = World()
    await it.load()
    for number in range(200):
        await it.say("registry", it.registration(number))
    (captured,) = it.captured("registry")
    written: list[str] = []
    stays = [person(number)[0] for number in range(200)]
    for turn, event in enumerate(captured[2]):
        written.append(event.registration.registration.registration_id)
        if turn % 2 == 0:
            await it.say("registry", registry.Event(registration_deleted=stays.pop()))
        for number in range(8):
            await it.say("registry", it.registration(1000 + 8 * turn + number))
    # Whoever went behind its turn is in the file, and goes again when what happened since is sent.
    assert written[: len(stays)] == stays
    assert len(written) < 150


async def test_an_authentication_counts_for_as_long_as_it_is_there() -> None:
    """What a check puts together is neither written as the enrollment's nor kept when the authentication is gone."""
    it = World()
    await it.load()
    registration_id = person(0)[0]
    enrolled = it.clock.now()

    async def authenticated() -> int | None:
        it.prove()
        return it.checker.check_session(registration_id, f"pol_{1:032x}").authenticate_time

    assert await authenticated() == enrolled
    it.clock.advance(60)
    await it.say("identity", it.authentication(0))
    assert await authenticated() == enrolled + 60 * SECOND
    written = [event for _, _, part in it.captured("registry") for event in part]
    assert {from_timestamp(event.registration.authenticate_time) for event in written} == {enrolled}
    await it.say("identity", identity.Event(authentication_deleted=registration_id))
    assert await authenticated() == enrolled
    # The registry does not know of the newer one.
    await it.say("identity", it.authentication(0))
    await it.say("registry", it.registration(0))
    it.clock.advance(60)
    await it.say("identity", it.authentication(0))
    assert await authenticated() == enrolled + 120 * SECOND


async def test_what_many_have_is_one_object() -> None:
    """A registration costs what is its own: the ids, groups and checks that others have are not there again."""
    it = World()
    await it.load()
    for number in range(PEOPLE):
        await it.say("identity", it.user(number, group="everyone"))
        await it.say("registry", it.registration(number, passed="firewall"))
    it.prove()
    users, _, registrations, _ = it.checker._state.of(ORGANIZATION)
    for number in range(PEOPLE):
        it.checker.check_session(person(number)[0], f"pol_{1:032x}")
    assert len({id(user.profile.groups) for user in users.values() if user.profile is not None}) == 1
    assert len({id(texts) for subject in registrations.values() for texts in (subject.passed, subject.failed)}) == 2
    for known, user in users.items():
        assert user.user_id is known
    for known, subject in registrations.items():
        assert subject.registration_id is known
        assert subject.user is not None
        assert subject.user_id is subject.user.user_id
