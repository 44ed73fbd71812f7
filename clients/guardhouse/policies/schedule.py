"""The hours of the week in which a DNS policy is in force.

They are hours of a wall clock in a place. When clocks go forward, the hours that are skipped do not come that day, and
a span within them is never in force; when they go back, the hours that come twice count twice. A span that begins or
ends in hours that are skipped begins or ends when the clock jumps over them.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""The names of the days, as the fields are called."""
MAX_SPANS: Final = 10
"""In one day."""
MAX_LENGTH: Final = 200
"""Characters of a day: room for all spans, with spaces."""

_ZONE: Final = re.compile(r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
"""Names of the IANA database. Beside its zones lie `localtime`, which is of the machine, and `right/...`, which counts
leap seconds; they begin with a small letter."""
_MAX_ZONE: Final = 100
"""Characters; the longest of the database has 32."""
_SPAN: Final = re.compile(r" *([0-9]{1,2}):([0-9]{2}) *- *([0-9]{1,2}):([0-9]{2}) *")

_SECOND: Final = 1_000_000
_MINUTE: Final = 60 * _SECOND
_DAY: Final = 24 * 60 * _MINUTE
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = DAYS.index("thursday")
_LAST_SECOND: Final = (datetime(9999, 12, 30, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
"""No place is more than a day ahead, so its clock can still be told."""


class ScheduleInvalid(Exception):
    """A schedule that cannot be used: `field` is a day such as "monday", or "time_zone".

    `message` is lower case, without a full stop, and says what to write instead.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Schedule:
    """Spans of each day of the week, on the clock of a place.

    `edges` are, for each day from Monday, the minutes since midnight at which its spans begin and end in turn.
    """

    zone: ZoneInfo
    edges: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, time_zone: str, *days: str) -> "Schedule":
        """Read the name of a time zone, and a text such as `08:00-12:30,13:30-17:00` for each of DAYS.

        Raises ScheduleInvalid for what is not written like that, for spans out of order, overlapping or more than
        MAX_SPANS, and for a zone that the IANA database of this machine does not have.
        """
        zone = _read_zone(time_zone)
        return cls(zone, tuple(_read_day(day, text) for day, text in zip(DAYS, days, strict=True)))

    def texts(self) -> tuple[str, ...]:
        """What `read` takes, in its normal form: two digits for an hour, and no spaces."""
        days = (zip(day[::2], day[1::2], strict=True) for day in self.edges)
        return self.zone.key, *(",".join(f"{_clock(start)}-{_clock(end)}" for start, end in day) for day in days)

    def holds(self, time: int) -> bool:
        """Whether a time, in microseconds since 1970, is in a span: from its start, up to but without its end."""
        day, of_day = divmod(time + self._ahead(time // _SECOND), _DAY)
        return bisect_right(self._edges_of(day), of_day // _MINUTE) % 2 == 1

    def until(self, time: int) -> int:
        """The next time at which `holds` may change: an edge of a span, midnight, or a change of the clock."""
        second = time // _SECOND
        ahead = self._ahead(second)
        day, of_day = divmod(time + ahead, _DAY)
        edges = self._edges_of(day)
        passed = bisect_right(edges, of_day // _MINUTE)
        following = time - of_day + (edges[passed] * _MINUTE if passed < len(edges) else _DAY)
        left = range(second + 1, following // _SECOND)
        if not left or self._ahead(left[-1]) == ahead:
            return following
        # No clock has ever changed twice within a day, nor between two seconds.
        return left[bisect_left(left, True, key=lambda at: self._ahead(at) != ahead)] * _SECOND

    def _edges_of(self, day: int) -> tuple[int, ...]:
        """Of a day, counted from 1970."""
        return self.edges[(day + _EPOCH_DAY) % 7]

    def _ahead(self, second: int) -> int:
        """How many microseconds the clock of the place is ahead of UTC."""
        at = _EPOCH + timedelta(seconds=min(second, _LAST_SECOND))
        return (at.astimezone(self.zone).replace(tzinfo=UTC) - at) // _MICROSECOND


def _read_zone(name: str) -> ZoneInfo:
    if not name:
        raise ScheduleInvalid("time_zone", "a schedule needs a time zone, such as Europe/Berlin")
    if len(name) <= _MAX_ZONE and _ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (LookupError, OSError, ValueError):
            # Not found; a folder of zones; a file that holds no zone.
            pass
    raise ScheduleInvalid(
        "time_zone", f"{name[:_MAX_ZONE]!r} is not in the IANA database, whose names are like Europe/Berlin"
    )


def _read_day(day: str, text: str) -> tuple[int, ...]:
    if len(text) > MAX_LENGTH:
        raise ScheduleInvalid(day, f"a day has at most {MAX_LENGTH} characters")
    spans = text.split(",") if text.strip(" ") else []
    if len(spans) > MAX_SPANS:
        raise ScheduleInvalid(day, f"a day has at most {MAX_SPANS} spans, not {len(spans)}")
    edges: list[int] = []
    for span in spans:
        start, end = _read_span(day, span)
        if edges and start < edges[-1]:
            raise ScheduleInvalid(day, f"{span.strip()} starts before the one ahead of it ends; spans are in order")
        edges += start, end
    return tuple(edges)


def _read_span(day: str, text: str) -> tuple[int, int]:
    """The minutes since midnight at which a span starts and ends."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ScheduleInvalid(day, f"{text!r} is no span of hours, which is written like 08:00-12:30")
    hour, minute, last_hour, last_minute = map(int, found.groups())
    start, end = hour * 60 + minute, last_hour * 60 + last_minute
    if max(minute, last_minute) > 59 or max(start, end) > 24 * 60:
        raise ScheduleInvalid(day, f"{text.strip()} is no span of a day, which has hours from 00:00 to 24:00")
    if end <= start:
        raise ScheduleInvalid(
            day, f"{text.strip()} ends before it has started; past midnight, go on from 00:00 on the next day"
        )
    return start, end


def _clock(minutes: int) -> str:
    return "{:02}:{:02}".format(*divmod(minutes, 60))
