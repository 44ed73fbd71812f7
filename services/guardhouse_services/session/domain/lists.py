"""Named lists."""

from dataclasses import dataclass

from guardhouse.policies import ListType

LIMIT = 100
"""How many an organization may have (the public account limits)."""
MAX_VALUES = 5000
MAX_VALUE = 320
"""Characters; an e-mail address may have as many (RFC 5321)."""


@dataclass(frozen=True, slots=True)
class ValueList:
    """A list. `values` are empty where they were not asked for; `value_count` is how many there are."""

    list_id: str
    name: str
    description: str
    type: ListType
    values: tuple[str, ...]
    value_count: int
    create_time: int
    update_time: int
