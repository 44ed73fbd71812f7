"""What an agent does next for one registration, as pure functions of values.

Times are microseconds of a clock that nobody sets and that goes on while the machine sleeps, so that a time of day that
jumps changes nothing. Chance is an argument, too: a number from 0 up to 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    failures: Mapping[Task, int] = field(default_factory=dict)
    """In a row, of each task."""
    asked: bool = False
    """Whether a person was asked to sign in again, and has not."""


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
            return State(Standing.NONE, {Task.ENROLL: now + max(_pause(0, chance), wait)} if plan.by_itself else {})
        case Outcome.UNKNOWN:
            return _due(state, {task: now + _spread(plan.heartbeat, chance), Task.LOOK: now})
        case Outcome.REFUSED if task in (Task.ENROLL, Task.REAUTHENTICATE) and not plan.by_itself:
            # To ask the person again and again would be a nuisance.
            return replace(_without(state, task), asked=True)
        case Outcome.REFUSED:
            return _due(state, {task: now + max(_spread(LATE, chance), wait)})
        case Outcome.AWAY:
            failures = state.failures.get(task, 0)
            paused = _due(state, {task: now + max(_pause(failures, chance), wait)})
            return replace(paused, failures={**state.failures, task: failures + 1})


def given(state: State, now: int) -> State:
    """A person's credential has come."""
    if state.standing is Standing.REVOKED:
        # To enroll again would be another registration, and it may be that nobody is to have one.
        return state
    task = Task.ENROLL if state.standing is Standing.NONE else Task.REAUTHENTICATE
    return _due(replace(state, asked=False), {task: now})


def _done(state: State, plan: Plan, task: Task, outcome: Outcome, now: int, chance: float) -> State:
    if task is Task.ENROLL or state.standing is not Standing.ACTIVE:
        return State(Standing.ACTIVE, _alive(plan, now, 0))
    done = replace(_without(state, task), failures={it: many for it, many in state.failures.items() if it is not task})
    match task:
        case Task.ROTATE if plan.rotate is not None:
            return _due(done, {task: now + plan.rotate})
        case Task.HEARTBEAT:
            news = {Task.LOOK: now} if outcome is Outcome.NEWS else {}
            return _due(done, {task: now + _spread(plan.heartbeat, chance), **news})
        case Task.SESSION:
            again = _due(done, {task: now + _spread(plan.heartbeat, chance)})
            if outcome is not Outcome.ASKED:
                # Somebody may have signed in elsewhere.
                return replace(_without(again, Task.REAUTHENTICATE), asked=False)
            wanted = (plan.by_itself or plan.asks) and not state.asked and Task.REAUTHENTICATE not in state.due
            return _due(again, {Task.REAUTHENTICATE: now}) if wanted else again
    return done


def _alive(plan: Plan, now: int, key_age: int) -> dict[Task, int]:
    """What an active registration has to do."""
    due = {Task.HEARTBEAT: now, Task.SESSION: now}
    return due if plan.rotate is None else due | {Task.ROTATE: now + max(0, plan.rotate - max(0, key_age))}


def _due(state: State, due: Mapping[Task, int]) -> State:
    return replace(state, due={**state.due, **due})


def _without(state: State, task: Task) -> State:
    return replace(state, due={it: at for it, at in state.due.items() if it is not task})


def _pause(failures: int, chance: float) -> int:
    """From half of it to one and a half, so that those who were cut off together do not come back together."""
    return round(min(SOON << min(failures, 20), LATE) * (0.5 + chance))


def _spread(interval: int, chance: float) -> int:
    """A tenth more or less."""
    return round(interval * (0.9 + 0.2 * chance))
