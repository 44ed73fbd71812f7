"""What an agent does next, whatever comes out of what it does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.agent.machine import (
    LATE,
    Outcome,
    Plan,
    Standing,
    State,
    Task,
    after,
    begin,
    choose,
    following,
)
from guardhouse.agent.machine import given as credential_given
from guardhouse.durations import DAY, HOUR, MINUTE, SECOND

PLANS = st.builds(
    Plan,
    heartbeat=st.sampled_from([SECOND, MINUTE, HOUR]),
    rotate=st.sampled_from([None, MINUTE, DAY]),
    by_itself=st.booleans(),
    asks=st.booleans(),
)
OUTCOMES = {
    Task.LOOK: [Outcome.DONE, Outcome.AWAY, Outcome.REVOKED, Outcome.GONE, Outcome.REFUSED],
    Task.ENROLL: [Outcome.DONE, Outcome.AWAY, Outcome.REVOKED, Outcome.REFUSED],
    Task.ROTATE: [Outcome.DONE, Outcome.AWAY, Outcome.UNKNOWN, Outcome.REFUSED],
    Task.HEARTBEAT: [Outcome.DONE, Outcome.NEWS, Outcome.AWAY, Outcome.UNKNOWN, Outcome.REFUSED],
    Task.SESSION: [Outcome.DONE, Outcome.ASKED, Outcome.AWAY, Outcome.UNKNOWN, Outcome.REFUSED],
    Task.REAUTHENTICATE: [Outcome.DONE, Outcome.AWAY, Outcome.UNKNOWN, Outcome.REFUSED],
}
MACHINE = Plan(MINUTE, DAY, by_itself=True)
PERSON = Plan(MINUTE, DAY, by_itself=False, asks=True)
CHANCE = 0.5


def all_of(state: State, plan: Plan, now: int, **outcomes: Outcome) -> State:
    """What is due is done; whatever is not named succeeds."""
    while (task := choose(state, now)) is not None:
        state = after(state, plan, task, outcomes.get(task.value, Outcome.DONE), now, CHANCE)
    return state


@settings(deadline=None)
@given(PLANS, st.booleans(), st.integers(-DAY, 2 * DAY), st.data())
def test_whatever_comes_out_it_goes_on(plan: Plan, registered: bool, key_age: int, data: st.DataObject) -> None:
    """It never spins, never waits for ever but for people, and does nothing without a registration but enroll."""
    now = 0
    state = begin(plan, registered, key_age, now)
    at_once = 0
    for _ in range(40):
        if (found := following(state)) is None:
            assert not plan.by_itself
            assert state.standing is Standing.NONE
            # However often a person comes, that is not the agent's doing.
            state, at_once = credential_given(state, now), 0
            continue
        when = found[1]
        at_once = at_once + 1 if when <= now else 0
        # Every task at most once, and a look that each of them has called for.
        assert at_once <= 2 * len(Task)
        now = max(now, when)
        task = choose(state, now)
        assert task is not None
        match state.standing:
            case Standing.NONE:
                assert task is Task.ENROLL
            case Standing.REVOKED:
                assert task is Task.LOOK
            case Standing.ACTIVE:
                assert task is not Task.ENROLL
        outcome = data.draw(st.sampled_from(OUTCOMES[task]))
        state = after(state, plan, task, outcome, now, data.draw(st.floats(0, 1, exclude_max=True)))
        if state.standing is Standing.NONE and outcome is Outcome.GONE:
            # A person is never enrolled again without being asked for it.
            assert (Task.ENROLL in state.due) == plan.by_itself
        longest = max(LATE * 1.5, plan.heartbeat * 1.1, plan.rotate or 0)
        assert all(at <= now + longest for at in state.due.values())


@given(PLANS, st.integers(-DAY, 2 * DAY), st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18))
def test_only_distances_in_time_count(plan: Plan, key_age: int, first: int, second: int) -> None:
    one, other = begin(plan, True, key_age, first), begin(plan, True, key_age, second)
    assert {task: at - first for task, at in one.due.items()} == {task: at - second for task, at in other.due.items()}


def test_a_key_is_replaced_when_it_is_old_enough() -> None:
    """A clock that was set back leaves a key that is younger than nothing: its age counts from now."""
    for age, due in ((0, DAY), (HOUR, DAY - HOUR), (2 * DAY, 0), (-HOUR, DAY)):
        assert begin(MACHINE, True, age, 7).due[Task.ROTATE] == 7 + due
    state = all_of(begin(MACHINE, True, 2 * DAY, 0), MACHINE, 0)
    assert state.due[Task.ROTATE] == DAY
    assert Task.ROTATE not in begin(Plan(MINUTE, None, by_itself=True), True, DAY, 0).due


def test_failures_in_a_row_are_farther_and_farther_apart() -> None:
    state, pauses = begin(MACHINE, False, 0, 0), []
    now = 0
    for _ in range(12):
        task, now = following(state) or pytest.fail("nothing is due")
        state = after(state, MACHINE, task, Outcome.AWAY, now, CHANCE)
        pauses.append(state.due[task] - now)
    assert pauses[:4] == [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND]
    assert pauses[-1] == LATE
    # The server may want it later, and never sooner.
    assert after(state, MACHINE, Task.ENROLL, Outcome.AWAY, now, CHANCE, wait=HOUR).due[Task.ENROLL] == now + HOUR


def test_one_service_that_is_away_does_not_hide_behind_another() -> None:
    """The session service is away while the registry answers."""
    state, now = begin(MACHINE, True, 0, 0), 0
    asked = 0
    while now < HOUR:
        task, now = following(state) or pytest.fail("nothing is due")
        asked += task is Task.SESSION
        state = after(state, MACHINE, task, Outcome.AWAY if task is Task.SESSION else Outcome.DONE, now, CHANCE)
    assert asked < 25


def test_a_token_that_is_not_accepted_is_not_tried_again_at_once() -> None:
    state = after(begin(MACHINE, True, 0, 0), MACHINE, Task.HEARTBEAT, Outcome.UNKNOWN, 0, CHANCE)
    assert (state.due[Task.HEARTBEAT], state.due[Task.LOOK]) == (MINUTE, 0)


def test_a_revoked_registration_is_looked_at_and_nothing_else() -> None:
    state = all_of(begin(MACHINE, True, 0, 0), MACHINE, 0, heartbeat=Outcome.UNKNOWN, look=Outcome.REVOKED)
    assert state == State(Standing.REVOKED, {Task.LOOK: MINUTE})
    # Nobody comes back from that by signing in.
    assert credential_given(state, 5) == state
    restored = after(state, MACHINE, Task.LOOK, Outcome.DONE, MINUTE, CHANCE)
    assert restored.standing is Standing.ACTIVE
    assert restored.due[Task.HEARTBEAT] == MINUTE


def test_who_was_deleted_comes_back_only_by_a_service_token() -> None:
    for plan, due in ((MACHINE, {Task.ENROLL: SECOND}), (PERSON, {})):
        state = all_of(begin(plan, True, 0, 0), plan, 0, look=Outcome.GONE)
        assert state == State(Standing.NONE, due)
    assert credential_given(State(Standing.NONE, {}), 5).due == {Task.ENROLL: 5}


def test_a_person_is_asked_once() -> None:
    state = all_of(begin(PERSON, True, 0, 0), PERSON, 0, session=Outcome.ASKED, reauthenticate=Outcome.REFUSED)
    assert state.asked
    state = after(state, PERSON, Task.SESSION, Outcome.ASKED, 2 * MINUTE, CHANCE)
    assert Task.REAUTHENTICATE not in state.due
    # They sign in elsewhere, and may be asked again when it is too long ago once more.
    state = all_of(state, PERSON, 4 * MINUTE)
    assert not state.asked
    state = after(state, PERSON, Task.SESSION, Outcome.ASKED, 6 * MINUTE, CHANCE)
    assert Task.REAUTHENTICATE in state.due
    # What was signed in with elsewhere is taken at once.
    assert credential_given(State(Standing.ACTIVE, {}, asked=True), 9).due == {Task.REAUTHENTICATE: 9}
