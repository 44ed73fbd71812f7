"""What became of the calls: counted, timed, and a line of the log each.

A call that ends is one append. Counting it and writing its line is done for many at once, where it costs a tenth.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections import Counter

from guardhouse.clock import SystemClock
from guardhouse.errors import GuardhouseError, IdTokenInvalid
from guardhouse_services.log import CallLines

log = logging.getLogger(__name__)

FLUSH_CALLS = 500
FLUSH_SECONDS = 0.1
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the latencies that are told apart, in seconds."""


class Tally:
    """The figures of one method since the start."""

    def __init__(self, path: str, is_stream: bool) -> None:
        self.path = path
        self.is_stream = is_stream
        self.begun = 0
        self.codes: Counter[str] = Counter()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    @property
    def in_flight(self) -> int:
        """Exact right after a flush."""
        return self.begun - self.codes.total()


Ended = tuple[Tally, str, str, float, float, str, GuardhouseError | None]
"""A call that ended: of what, the caller's name, the code, when it began and ended by time.perf_counter, the request id
and why it failed."""


class Journal:
    """The calls of one replica."""

    def __init__(self, log_calls: bool) -> None:
        self.tallies: dict[str, Tally] = {}
        self._log_calls = log_calls
        self._clock = SystemClock()
        self._ended: list[Ended] = []

    def tally(self, path: str, is_stream: bool) -> Tally:
        return self.tallies.setdefault(path, Tally(path, is_stream))

    def add(
        self, tally: Tally, caller: str, code: str, began: float, trace: str, failure: GuardhouseError | None = None
    ) -> None:
        """Takes a call that ended now. A fault of ours is written at once."""
        ended = self._ended
        if not ended:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        ended.append((tally, caller, code, began, time.perf_counter(), trace, failure))
        if len(ended) >= FLUSH_CALLS or code == "INTERNAL":
            self.flush()

    def flush(self) -> None:
        """Counts and writes what has ended so far."""
        calls, self._ended = self._ended, []
        for tally, _, code, began, end, _, _ in calls:
            seconds = end - began
            tally.codes[code] += 1
            tally.buckets[bisect_left(BUCKETS, seconds)] += 1
            tally.seconds += seconds
        if self._log_calls and calls and log.isEnabledFor(logging.INFO):
            self._write(calls)

    def _write(self, calls: list[Ended]) -> None:
        # Where the log is for people, or for a test, a call is a record like any other.
        lines = CallLines.open()
        ahead = self._clock.now() / 1e6 - time.perf_counter()
        for tally, caller, code, began, end, trace, failure in calls:
            extra = _explained(failure) if failure is not None else {}
            if lines is not None:
                lines.add(end + ahead, tally.path, caller, code, end - began, trace, extra)
                continue
            extra |= {"method": tally.path, "caller": caller, "code": code, "request_id": trace}
            log.info("call", extra=extra | {"microseconds": int((end - began) * 1e6)})
        if lines is not None:
            lines.write()


def _explained(failure: GuardhouseError) -> dict[str, str]:
    detail = failure.detail if isinstance(failure, IdTokenInvalid) else failure.message
    return {"reason": failure.reason, "detail": detail}
