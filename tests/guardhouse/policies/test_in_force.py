"""Policies that hold at some times only: with a schedule, until they expire, or while a posture is young."""

import random
from itertools import pairwise
from typing import Any

import pytest

from guardhouse.expressions import POSTURE_AGE, NamedList, Type
from guardhouse.policies import NEVER, QUERY, GatewayPolicy, PolicySet, Schedule
from tests.guardhouse.policies.writing import BLOCK, DNS, written

HOUR = 3_600 * 1_000_000
DAY = 24 * HOUR
WEEKDAYS = Schedule.read("UTC", *["08:00-17:00"] * 5, "", "")
# 1970 began on a Thursday.
FRIDAY = DAY
SATURDAY = 2 * DAY


def decides(policies: PolicySet, now: int) -> list[str]:
    who = policies.identity_mask({}) & policies.posture_mask({}) & policies.time_mask(now)
    return [policy.policy_id for policy in policies.match(QUERY, {}, who)]


def failed(policies: PolicySet, now: int) -> list[tuple[str, ...]]:
    return [step.failed for step in policies.trace(QUERY, {}, {}, {}, now)]


def test_a_policy_is_in_force_while_its_schedule_holds() -> None:
    office = PolicySet.compile([written("pol_office", filter_=DNS, schedule=WEEKDAYS)])
    start, end = FRIDAY + 8 * HOUR, FRIDAY + 17 * HOUR
    for now, holds in [(start - 1, False), (start, True), (end - 1, True), (end, False), (SATURDAY + 9 * HOUR, False)]:
        assert decides(office, now) == ["pol_office"] * holds
        assert failed(office, now) == [() if holds else ("schedule",)]
    assert office.time_mask_until(start - 1) == start
    assert office.time_mask_until(start) == end


def test_a_policy_covers_nothing_from_its_expiry_on() -> None:
    short = PolicySet.compile([written("pol_short", filter_=DNS, expire_time=DAY)])
    for now, holds in [(DAY - 1, True), (DAY, False), (DAY + 1, False), (DAY - 1, True)]:
        assert decides(short, now) == ["pol_short"] * holds
        assert failed(short, now) == [() if holds else ("expire_time",)]
    assert short.time_mask_until(DAY - 1) == DAY
    assert short.time_mask_until(DAY) == NEVER


def test_what_expires_within_its_hours_ends_then() -> None:
    noon = FRIDAY + 12 * HOUR
    both = PolicySet.compile([written("pol_1", filter_=DNS, schedule=WEEKDAYS, expire_time=noon)])
    assert both.time_mask_until(noon - 1) == noon
    assert [decides(both, now) for now in (noon - 1, noon)] == [["pol_1"], []]
    assert failed(both, SATURDAY) == [("schedule", "expire_time")]


def test_the_next_policy_decides_while_one_is_out_of_force() -> None:
    """Decision 29."""
    policies = PolicySet.compile(
        [
            written("pol_office", filter_=DNS, action=BLOCK, precedence=1, schedule=WEEKDAYS),
            written("pol_all", filter_=DNS, precedence=2),
        ]
    )
    assert decides(policies, FRIDAY + 9 * HOUR) == ["pol_office"]
    assert decides(policies, SATURDAY + 9 * HOUR) == ["pol_all"]


def test_a_posture_is_asked_for_again_when_its_age_passes_a_bound() -> None:
    """Decision 32a: then, and not between."""
    asked = ["< 60", "in {100..200}", "!= 300", "in $ages", ">= 60"]
    written_ = [
        written(f"pol_{place}", device_posture=f"device_posture.age {each}") for place, each in enumerate(asked)
    ]
    written_ += [written("pol_checks", device_posture='device_posture.checks.passed == "disk"')]
    off = written("pol_off", device_posture="device_posture.age < 7", enabled=False)
    policies = PolicySet.compile([*written_, off], {"ages": NamedList.of(Type.INTEGER, ["400..500", "1000"])})
    bounds = [0]
    while (following := policies.next_age(bounds[-1])) < 10_000:
        bounds.append(following)
    assert bounds == [0, 60, 100, 201, 300, 301, 400, 501, 1000, 1001]
    masks = [{policies.posture_mask({POSTURE_AGE: age}) for age in range(*span)} for span in pairwise(bounds)]
    assert all(len(each) == 1 for each in masks)
    assert all(first != second for first, second in pairwise(masks))
    assert policies.asks_for_age
    assert not PolicySet.compile([written_[-1], off]).asks_for_age


def test_of_a_disabled_policy_nothing_else_is_said_to_fail() -> None:
    off = PolicySet.compile(
        [written("pol_off", "x", filter_=DNS, enabled=False, schedule=WEEKDAYS, expire_time=SATURDAY + 1)]
    )
    assert failed(off, SATURDAY) == [("enabled",)]
    assert off.time_mask_until(SATURDAY) == NEVER


def test_without_schedules_and_expiry_everything_is_in_force_for_ever() -> None:
    policies = PolicySet.compile([written("pol_1"), written("pol_2", filter_=DNS)])
    assert (policies.time_mask(0), policies.time_mask_until(0)) == (0b11, NEVER)
    assert (PolicySet.compile([]).time_mask(5), PolicySet.compile([]).time_mask_until(5)) == (0, NEVER)


@pytest.mark.parametrize("seed", range(6))
def test_match_and_trace_agree_with_each_policy_asked_alone(seed: int) -> None:
    """At times that go forward and back, many of them on an edge or a microsecond beside it."""
    chance = random.Random(seed)
    policies = [drawn(chance, place) for place in range(12)]
    compiled = PolicySet.compile(policies)
    for _ in range(200):
        now = chance.randrange(7 * 24) * HOUR + chance.choice([-1, 0, 1, HOUR // 2])
        expected = [policy.policy.policy_id for policy in policies if in_force(policy, now)]
        steps = list(compiled.trace(QUERY, {}, {}, {}, now))
        assert [step.policy.policy_id for step in steps if step.matched] == expected
        assert decides(compiled, now) == expected[:1]
        until = compiled.time_mask_until(now)
        assert until > now
        assert compiled.time_mask(min(until, now + DAY) - 1) == compiled.time_mask(now)


def drawn(chance: random.Random, place: int) -> GatewayPolicy:
    timed: dict[str, Any] = {}
    if chance.random() < 0.7:
        days = [f"{start:02}:00-{start + chance.randint(1, 8):02}:00" for start in chance.choices(range(16), k=7)]
        timed["schedule"] = Schedule.read("UTC", *(day if chance.random() < 0.7 else "" for day in days))
    if chance.random() < 0.5:
        timed["expire_time"] = chance.randrange(7 * 24) * HOUR
    return written(f"pol_{place}", filter_=DNS, precedence=place, enabled=chance.random() < 0.9, **timed)


def in_force(policy: GatewayPolicy, now: int) -> bool:
    return (
        policy.policy.enabled
        and (policy.schedule is None or policy.schedule.holds(now))
        and (policy.expire_time is None or now < policy.expire_time)
    )
