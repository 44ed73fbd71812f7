"""What an agent does next for one registration, as pure functions of values.

Times are microseconds of a clock that nobody sets and that goes on while the machine sleeps, so that a time of day that
jumps changes nothing. Chance is an argument, too: a number from 0 up to 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from guardhouse.durations import MINUTE, SECOND

SOON: Final = SECOND
"""After the first failure in a row; each further one doubles it."""
LATE: Final = 5 * MINUTE
"""The longest pause after a failure, but where the server says another."""


class Task(StrEnum):
    """What there is to do. Of several that are due the first is done."""

    LOOK = "look"
    """Ask what has become of the registration, and what its device is to do."""
    ENROLL = "enroll"
    ROTATE = "rotate"
    HEARTBEAT = "heartbeat"
    SESSION = "session"
    """Ask whether anybody wants a new authentication."""
    REAUTHENTICATE = "reauthenticate"


class Standing(StrEnum):
    """What is known of the registration."""

    NONE = "none"
    """There is none, or none any more."""
    ACTIVE = "active"
    REVOKED = "revoked"


class Outcome(StrEnum):
    """What came of a task."""

    DONE = "done"
    NEWS = "news"
    """Done; and what the device is to do has changed."""
    ASKED = "asked"
    """Done; and a new authentication is wanted."""
    AWAY = "away"
    """Not done; it may succeed a moment later."""
    UNKNOWN = "unknown"
    """The token is not accepted: the registration is revoked, or gone."""
    REVOKED = "revoked"
    GONE = "gone"
    REFUSED = "refused"
    """Not done, and only people can change that."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the agent was told. Durations are microseconds."""

    heartbeat: int
    rotate: int | None
    """How old a key becomes. None: as old as it likes."""
    by_itself: bool
    """Whether it holds a service token, with which it enrolls and authenticates whenever that is called for."""
    asks: bool = False
    """Whether it can ask a person to sign in, which it does once each time."""


@dataclass(frozen=True, slots=True)
class State:
    """Where an agent is. What is not due waits for something to happen."""

    standing: Standing
    due: Mapping[Task, int]
    failures: int = 0
    """In a row, of whatever task."""


def begin(plan: Plan, registered: bool, key_age: int, now: int) -> State:
    """At its start. A key whose age is negative, because somebody has set the clock back, is taken for new."""
    if registered:
        return State(Standing.ACTIVE, _alive(plan, now, key_age) | {Task.LOOK: now})
    return State(Standing.NONE, {Task.ENROLL: now} if plan.by_itself or plan.asks else {})


def following(state: State) -> tuple[Task, int] | None:
    """The next task, and from when on. None: nothing until something happens."""
    if not state.due:
        return None
    # Among those that are due the order of the tasks decides, and so it does among equals.
    when = min(state.due.values())
    return next((task, when) for task in Task if state.due.get(task) == when)


def choose(state: State, now: int) -> Task | None:
    """What is to be done now."""
    return next((task for task in Task if task in state.due and state.due[task] <= now), None)


def after(state: State, plan: Plan, task: Task, outcome: Outcome, now: int, chance: float, wait: int = 0) -> State:
    """Where it is once a task has come out so. `wait` is what the server asked for."""
    match outcome:
        case Outcome.DONE | Outcome.NEWS | Outcome.ASKED:
            return _done(state, plan, task, outcome, now, chance)
        case Outcome.REVOKED:
            # Somebody may restore it, and nobody says so.
            return State(Standing.REVOKED, {Task.LOOK: now + _spread(plan.heartbeat, chance)})
        case Outcome.GONE:
            # Many devices may have been deleted at once, so they do not come back at once.
            due = {Task.ENROLL: now + _pause(state.failures, chance, wait)} if plan.by_itself else {}
            return State(Standing.NONE, due, state.failures + 1)
        case Outcome.UNKNOWN:
            return _with(state, {task: now + _spread(plan.heartbeat, chance), Task.LOOK: now}, state.failures)
        case Outcome.REFUSED if task in (Task.ENROLL, Task.REAUTHENTICATE) and not plan.by_itself:
            # The person was asked; to ask again and again would be a nuisance.
            return _without(state, task)
        case Outcome.REFUSED:
            return _with(state, {task: now + max(_spread(LATE, chance), wait)}, state.failures + 1)
        case Outcome.AWAY:
            return _with(state, {task: now + _pause(state.failures, chance, wait)}, state.failures + 1)


def given(state: State, now: int) -> State:
    """A person's credential has come."""
    task = Task.ENROLL if state.standing is Standing.NONE else Task.REAUTHENTICATE
    # Who is revoked stays so: enrolling again would be another registration, which is an administrator's to allow.
    return state if state.standing is Standing.REVOKED else _with(state, {task: now}, state.failures)


def _done(state: State, plan: Plan, task: Task, outcome: Outcome, now: int, chance: float) -> State:
    match task:
        case Task.ENROLL:
            return State(Standing.ACTIVE, _alive(plan, now, 0))
        case Task.LOOK if state.standing is not Standing.ACTIVE:
            return State(Standing.ACTIVE, _alive(plan, now, 0))
        case Task.LOOK | Task.REAUTHENTICATE:
            return replace(_without(state, task), failures=0)
        case Task.ROTATE:
            rest = replace(_without(state, task), failures=0)
            return rest if plan.rotate is None else _with(rest, {task: now + plan.rotate}, 0)
        case Task.HEARTBEAT | Task.SESSION:
            due: dict[Task, int] = {task: now + _spread(plan.heartbeat, chance)}
            if outcome is Outcome.NEWS:
                due[Task.LOOK] = now
            if outcome is Outcome.ASKED and Task.REAUTHENTICATE not in state.due and (plan.by_itself or plan.asks):
                due[Task.REAUTHENTICATE] = now
            return _with(state, due, 0)


def _alive(plan: Plan, now: int, key_age: int) -> dict[Task, int]:
    """What an active registration has to do."""
    due = {Task.HEARTBEAT: now, Task.SESSION: now}
    return due if plan.rotate is None else due | {Task.ROTATE: now + max(0, plan.rotate - max(0, key_age))}


def _with(state: State, due: Mapping[Task, int], failures: int) -> State:
    return State(state.standing, {**state.due, **due}, failures)


def _without(state: State, task: Task) -> State:
    return State(state.standing, {it: at for it, at in state.due.items() if it is not task}, state.failures)


def _pause(failures: int, chance: float, wait: int) -> int:
    """From half of it to one and a half, so that those who were cut off together do not come back together."""
    pause = min(SOON << min(failures, 20), LATE)
    return max(round(pause * (0.5 + chance)), wait)


def _spread(interval: int, chance: float) -> int:
    """A tenth more or less."""
    return round(interval * (0.9 + 0.2 * chance))
