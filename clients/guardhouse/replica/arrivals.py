"""The keys of a mapping that changes while another thread goes through all of them.

To copy a million keys takes some hundredths of a second, in which nothing else is done. Here only a part is ever
copied.
"""

from collections.abc import Container, Iterator
from typing import Final

PART: Final = 4_096


class Arrivals:
    """Notes each key when it comes; who has gone since is told from the mapping, by whoever goes through."""

    def __init__(self) -> None:
        # Tuples of texts, which the collector looks at once, where it would look at a list again and again.
        self._parts: list[tuple[str, ...]] = []
        self._newest: list[str] = []

    def note(self, key: str) -> None:
        self._newest.append(key)
        if len(self._newest) == PART:
            self._parts.append(tuple(self._newest))
            self._newest = []

    def those_in(self, of: Container[str]) -> Iterator[str]:
        """The keys that have come before and are in the mapping when their part's turn comes; in any thread, but in one
        at a time."""
        # The newest first: what becomes a part in between is there twice, and not left out.
        newest, count = tuple(self._newest), len(self._parts)
        for place in range(count):
            part = self._parts[place]
            here = tuple(key for key in part if key in of)
            if len(here) < len(part):
                self._parts[place] = here
            yield from here
        yield from (key for key in newest if key in of)
