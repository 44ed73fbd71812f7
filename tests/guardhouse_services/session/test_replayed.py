"""Every answer of a replica, recomputed afterwards from what the feeds said up to the revisions that it was given at.

The three feeds run, stall and catch up each for itself while answers are given, so the replica is behind most of the
time, and seldom by as much in one feed as in another. An answer names `fresh_as_of`; up to where the feeds are applied
is read from the replica. The judge is the plain reading of the decisions, which shares nothing with the server.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from guardhouse.durations import SECOND
from guardhouse.identity.v1 import identity_pb2 as identity
from tests.guardhouse_services.session import test_traffic_differential as plain
from tests.guardhouse_services.session.test_traffic_differential import BEGAN, FILTERS, Answer, Asked, Known, Written
from tests.guardhouse_services.session.world import HOUR, MAX_STALENESS, ORGANIZATION, Link, World

Place = tuple[str, str]
"""A service, and an organization or none: whose revisions they are."""


class TwoClocks:
    """The wall's stays near the moment at which everything ends, and the steady one goes on."""

    def __init__(self) -> None:
        self.wall = BEGAN
        self.ticks = SECOND

    def now(self) -> int:
        return self.wall

    def steady(self) -> int:
        return self.ticks


@dataclass(frozen=True, slots=True)
class Change:
    """What one revision of a feed says, and when it came to be, by the steady clock."""

    time: int
    events: Sequence[Any]
    written: Mapping[str, Written]
    """Of which trees its policies were written."""


@dataclass(frozen=True, slots=True)
class Given:
    """An answer, when it was given, as of when its state is said to be proven, and by which revisions it was given."""

    asked: Asked
    answer: Answer
    now: int
    staleness: int
    proven: int
    revisions: Mapping[Place, int]
    heads: Mapping[Place, int]
    """To where the feeds had come by then."""


class Services:
    """Whatever publishes, and the record of it."""

    def __init__(self, clock: TwoClocks, world: World, known: Known) -> None:
        self._clock = clock
        self._links = {"identity": world.identity, "registry": world.registry, "session": world.own}
        self._known = known
        self.changes: dict[Place, list[Change]] = {}

    def publish(self, said: Iterable[tuple[Link, Any]]) -> None:
        """What is of one feed and one organization is one change."""
        together: dict[Place, list[Any]] = {}
        for said_by, event in said:
            (name,) = (name for name, link in self._links.items() if link is said_by)
            organization_id = "" if event.WhichOneof("kind") == "organization" else ORGANIZATION
            together.setdefault((name, organization_id), []).append(event)
        for place, events in together.items():
            self._clock.ticks += 1
            ids = [event.policy.policy_id for event in events if event.WhichOneof("kind") == "policy"]
            written = {policy_id: self._known.policies[policy_id] for policy_id in ids}
            self.changes.setdefault(place, []).append(Change(self._clock.ticks, events, written))
            self._links[place[0]].publish(*events, organization_id=place[1])

    def heads(self) -> dict[Place, int]:
        return {place: len(changes) for place, changes in self.changes.items()}


@pytest.mark.parametrize("steps", [150, pytest.param(4_000, marks=[pytest.mark.long, pytest.mark.timeout(1_200)])])
async def test_an_answer_is_what_follows_from_the_feeds_at_its_revisions(steps: int) -> None:
    """I-15 to I-19: nothing of a change is missing, none is there in parts or before its time, and whatever there was
    as of `fresh_as_of` is there."""
    chance, clock, known = random.Random(steps), TwoClocks(), Known()
    given: list[Given] = []
    async with World(clock, MAX_STALENESS, max_open=24 * HOUR) as world:
        services = Services(clock, world, known)
        services.publish([(world.identity, plain._provider()), *((world.own, event) for event in plain._lists())])
        services.publish(plain._first(chance, world, known))
        await world.settle()
        links = (world.identity, world.registry, world.own)
        for link in links:
            link.slow = True
        for _ in range(steps):
            services.publish(it for _ in range(chance.randint(1, 3)) for it in plain._happening(chance, world, known))
            catches_up = chance.random() < 0.1
            for link in links:
                (link.release if catches_up or chance.random() < 0.5 else link.hold)()
            if catches_up:
                await world.settle()
            for follower in world.replica.followers:
                # It asks whether it has everything, and does not wait for the answer.
                await follower.fresh(clock.ticks, timeout=0)
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            clock.wall = BEGAN + chance.choice((0, 0, 0, HOUR)) + chance.choice((-1, 0, 1))
            clock.ticks += chance.choice((0, 0, 0, 0, SECOND, 20 * SECOND))
            given += await _ask(chance, clock, world, known, services.heads())
    _recompute(services.changes, given)
    behind = [each for each in given if each.revisions != each.heads]
    assert len(given) // 4 < len(behind) < len(given) * 19 // 20, "where nothing is behind, nothing is compared"
    assert len({each.answer[:2] for each in given}) >= 10


async def _ask(
    chance: random.Random, clock: TwoClocks, world: World, known: Known, heads: Mapping[Place, int]
) -> list[Given]:
    names = {kind: plain._names(known, kind) for kind in FILTERS}
    asked = [plain._asked(chance, names) for _ in range(5)]
    revisions, staleness = await _revisions(world), world.replica.staleness()
    assert staleness is not None
    said = await plain._said(chance, world, [it.item for it in asked])
    assert await _revisions(world) == revisions, "nothing is waited for while answers are given"
    as_of = clock.ticks - staleness
    return [
        Given(one, answer, clock.wall, staleness, as_of, revisions, heads)
        for one, answer in zip(asked, said, strict=True)
    ]


async def _revisions(world: World) -> dict[Place, int]:
    replica = world.replica
    views = {"identity": replica.people, "registry": replica.registrations, "session": replica.policies}
    return {
        # The installation's first revision is the world's own.
        (name, organization_id): revision if organization_id else revision - 1
        for name, view in views.items()
        for organization_id, (_, revision) in (await view.positions()).items()
        if organization_id or revision > 1
    }


def _recompute(changes: Mapping[Place, Sequence[Change]], given: Iterable[Given]) -> None:
    """In the order in which they were given, so that no revision goes back."""
    known = Known()
    at = dict.fromkeys(changes, 0)
    for each in given:
        for place, revision in each.revisions.items():
            assert revision >= at[place], "a replica forgets nothing"
            for change in changes[place][at[place] : revision]:
                _apply(known, change)
            at[place] = revision
            behind = changes[place][revision : revision + 1]
            assert not behind or behind[0].time > each.proven, f"{place} is not as fresh as it is said to be"
        expected = plain._decided(known, each.asked, each.now, each.staleness)
        assert each.answer[:-2] == expected[:-2], (each, known)


def _apply(known: Known, change: Change) -> None:
    for event in change.events:
        match event.WhichOneof("kind"):
            case "user":
                known.users[event.user.user.user_id] = event.user
            case "authentication":
                known.authentications[event.authentication.registration_id] = event.authentication
            case "registration":
                known.registrations[event.registration.registration.registration_id] = event.registration
            case "registration_deleted":
                known.registrations.pop(event.registration_deleted, None)
            case "policy":
                known.policies[event.policy.policy_id] = change.written[event.policy.policy_id]
            case "organization":
                known.blocks_by_default = event.organization.default_action == identity.DEFAULT_ACTION_BLOCK
