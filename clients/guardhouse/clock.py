"""Time as an argument. The one place that reads a clock."""

import time
from typing import Protocol

# A machine that slept must not take its old state for fresh, and Linux stops CLOCK_MONOTONIC in a suspend.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What everything that needs the time is given."""

    def now(self) -> int:
        """Microseconds since the Unix epoch."""

    def steady(self) -> int:
        """Microseconds that only ever grow and go on while the machine sleeps; for measuring freshness."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def steady(self) -> int:
        return time.clock_gettime_ns(_STEADY) // 1000
