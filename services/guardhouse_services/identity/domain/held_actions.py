"""The breaker: what the system would do of its own accord to many users at once waits for a person's approval."""

from dataclasses import dataclass
from enum import IntEnum

from guardhouse.durations import MINUTE

WINDOW = 10 * MINUTE
MOST_USERS = 50
MOST_PERCENT = 10
ALWAYS_PASS = 9
"""Users of whom it may always be as many in a window: a small organization loses a tenth of its users in a day."""


class Effect(IntEnum):
    """What would be done to each user."""

    REMOVE = 1
    """As RemoveUsers does it."""
    REVOKE = 2
    """As RevokeUser does it: the seat stays."""


class HeldState(IntEnum):
    """What became of it."""

    WAITING = 1
    APPROVED = 2
    """It is being carried out."""
    REJECTED = 3
    DONE = 4


@dataclass(frozen=True, slots=True)
class HeldAction:
    """An automatic action that waits, and the users whom it would be done to. Times are microseconds."""

    held_action_id: str
    source: str
    effect: Effect
    state: HeldState
    create_time: int
    decide_time: int | None = None
    """When somebody approved or rejected it."""
    users: int = 0
    users_done: int = 0
    user_ids: tuple[str, ...] = ()
    """The first of them."""
    removal_ids: tuple[str, ...] = ()


def is_mass(users: int, seats: int) -> bool:
    """Whether so many users in a window, of an organization with so many seats at its beginning, are too many."""
    return users > MOST_USERS or (users > ALWAYS_PASS and users * 100 > seats * MOST_PERCENT)
