"""A clock that moves when a test says so."""

import time

from guardhouse.durations import SECOND


class FakeClock:
    """Begins at the real time, so that real certificates and tokens are valid, and runs on with it.

    `advance` moves it ahead, `jump` sets only what can be set; a test that needs it to stand still calls `stop`.
    """

    def __init__(self) -> None:
        self._ahead = 0
        self._jumped = 0
        self._stopped: int | None = None

    def now(self) -> int:
        return (time.time_ns() // 1000 if self._stopped is None else self._stopped) + self._ahead + self._jumped

    def steady(self) -> int:
        return time.monotonic_ns() // 1000 + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += round(seconds * SECOND)

    def jump(self, seconds: float) -> None:
        """What the time of day does when somebody sets it; what is steady goes on."""
        self._jumped += round(seconds * SECOND)

    def stop(self) -> None:
        self._stopped = self.now() - self._ahead - self._jumped
