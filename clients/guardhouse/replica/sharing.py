"""One object for texts that many have, as the groups of people and the checks of devices."""

import sys
from functools import lru_cache
from typing import Final

REMEMBERED: Final = 1 << 14


@lru_cache(REMEMBERED)
def shared(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Equal ones are the same object for as long as they are among those that were met last. Each text is one object
    for all who have it, and goes with the last of them."""
    return tuple(map(sys.intern, texts))
