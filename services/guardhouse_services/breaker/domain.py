"""What is too much at once, and what waits."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from guardhouse.durations import MINUTE

WINDOW = 10 * MINUTE
MOST = 50
MOST_PERCENT = 10
ENOUGH = MOST * 100 // MOST_PERCENT
"""Of so many or more, as many as may pass at all may pass."""
ALWAYS_PASS = 9
"""Of so few it may always be as many in a window: a small organization loses a tenth of what it has in a day."""


class HeldState(IntEnum):
    """What became of a held action."""

    WAITING = 1
    APPROVED = 2
    """It is being carried out."""
    REJECTED = 3
    DONE = 4


@dataclass(frozen=True, slots=True)
class HeldAction:
    """An automatic action that waits, and the subjects that it would be done to. Times are microseconds."""

    held_action_id: str
    source: str
    effect: int
    """A number that the service gives it."""
    state: HeldState
    create_time: int
    decide_time: int | None = None
    """When somebody approved or rejected it."""
    subjects: int = 0
    subjects_done: int = 0
    subject_ids: tuple[str, ...] = ()
    """The first of them."""
    receipts: tuple[str, ...] = ()
    """The first of what carried it out, where that has names."""


def is_mass(subjects: int, population: Callable[[], int]) -> bool:
    """Whether so many in a window, of so many that there were at its beginning, are too many.

    The population is counted only where it matters, and need not be counted further than to ENOUGH.
    """
    return subjects > MOST or (subjects > ALWAYS_PASS and subjects * 100 > population() * MOST_PERCENT)
