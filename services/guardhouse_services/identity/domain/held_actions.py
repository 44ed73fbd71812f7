"""What waits for approval when it would be done to many users at once."""

from enum import IntEnum


class Effect(IntEnum):
    """What would be done to each user."""

    REMOVE = 1
    """As RemoveUsers does it."""
    REVOKE = 2
    """As RevokeUser does it: the seat stays."""
