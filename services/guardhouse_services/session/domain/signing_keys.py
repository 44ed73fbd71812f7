"""When the next key for application tokens takes over (decision 31)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from guardhouse.applications import SigningKey
from guardhouse.durations import DAY, HOUR

EVERY = 42 * DAY
"""How often the next key is made, in microseconds."""
AHEAD = HOUR
"""How long a key is published before it signs: by then whoever keeps the key set for a while has it."""
OVERLAP = 7 * DAY
"""How long a key stays published once the next one signs: far beyond the tokens that it signed."""
LIMIT = 10
"""How many an organization may have published by asking for more."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What becomes of an organization's keys: those that are new or changed, the new one first, and those that go."""

    written: Sequence[SigningKey]
    withdrawn: Sequence[SigningKey]

    @property
    def key_ids(self) -> list[str]:
        return [key.key_id for key in (*self.written, *self.withdrawn)]


def is_published(key: SigningKey, now: int) -> bool:
    return key.expire_time is None or now < key.expire_time


def rotate(keys: Sequence[SigningKey], key_id: str, now: int, *, revoke_previous: bool = False) -> Rotation:
    """Makes the next key. With `revoke_previous` no other one stays, so it signs at once, as the very first does."""
    others = [key for key in keys if is_published(key, now) and not revoke_previous]
    withdrawn = [key for key in keys if key not in others]
    made = SigningKey(key_id, now, sign_time=now + AHEAD if others else now)
    changed = [replace(key, expire_time=made.sign_time + OVERLAP) for key in others if key.expire_time is None]
    return Rotation([made, *changed], withdrawn)


def keep(keys: Sequence[SigningKey], key_id: str, now: int) -> Rotation:
    """What is due: the next key, once the newest is old enough, and the end of those that have expired."""
    if keys and max(key.create_time for key in keys) + EVERY <= now:
        return rotate(keys, key_id, now)
    return Rotation([], [key for key in keys if not is_published(key, now)])
