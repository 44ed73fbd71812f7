"""The ledger of seats: who holds one and by what, when it expires, and when they run out (decisions 2, 4, 6 and 7)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from guardhouse.durations import DAY, HOUR, SECOND, format_duration, parse_duration
from guardhouse.errors import DurationInvalid
from guardhouse_services.identity.domain.organizations import SeatUsage
from guardhouse_services.identity.domain.users import SeatEvent, User

SHORTEST, LONGEST = 730 * HOUR, 8760 * HOUR
"""What a seat expiration may be (decision 6)."""
WATERMARK_AGE = DAY
"""How old the watermark of the devices' activity may be for a sweep (decision 6)."""
FORECAST_FROM = 30 * DAY
FORECAST_TO = 3650 * DAY


class FreeCause(IntEnum):
    """Why a seat was freed."""

    REMOVED = 1
    """An administrator removed or offboarded the user."""
    EXPIRED = 2
    DEPROVISIONED = 3
    """The identity provider said so (decision 8)."""


@dataclass(frozen=True, slots=True)
class FreedSeat:
    """A seat that a user held before. Times are microseconds."""

    take_time: int
    seat_event: SeatEvent
    seat_event_id: str
    free_time: int
    cause: FreeCause
    removal_id: str


@dataclass(frozen=True, slots=True)
class SeatFilter:
    """Which seats are asked for; what is left out does not matter."""

    email: str = ""
    taken_by: SeatEvent = SeatEvent.UNKNOWN
    used_for: SeatEvent = SeatEvent.UNKNOWN
    active_before: int | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """How seats come to an end: at this rate at this time; None is never, or not in ten years."""

    seats_per_day: float
    exhaust_time: int | None


def forecast(usage: SeatUsage, growth: int, since: int, now: int) -> Forecast:
    """`growth` is how many more seats are held than at `since`.

    Of an organization that is younger than a day the rate is that of a day: one afternoon says little about a month.
    """
    rate = growth / (max(now - since, DAY) / DAY)
    if usage.available is None or rate <= 0 or usage.available > rate * (FORECAST_TO // DAY):
        return Forecast(rate, None)
    return Forecast(rate, now + round(usage.available / rate * DAY))


def parse_expiration(text: str, field: str) -> int | None:
    """Microseconds; None for an empty text: seats do not expire. Raises DurationInvalid."""
    if not text:
        return None
    duration = parse_duration(text, field)
    if not SHORTEST <= duration <= LONGEST:
        raise DurationInvalid(field, "seats expire after 730h to 8760h, a month to a year; empty is never")
    return duration


def expire_time(user: User, expiration: int | None) -> int | None:
    """When the user's seat expires unless there is activity until then; None is never."""
    if user.seat_time is None or expiration is None:
        return None
    return user.active_time + expiration


def has_expired(user: User, expiration: int, now: int) -> bool:
    """Whether the last authentication and every device's last sign of life are outside the window (decision 6)."""
    expires = expire_time(user, expiration)
    return expires is not None and expires < now


def held_up(watermark_time: int | None, now: int) -> str:
    """Why nobody may be removed now; empty: somebody may."""
    if watermark_time is None:
        return "the registry has not reported yet when devices were last heard of"
    if now - watermark_time > WATERMARK_AGE:
        return (
            f"the registry has reported only up to {_time(watermark_time)} when devices were last heard of,"
            " more than 24h ago"
        )
    return ""


def explanation(user: User, expiration: int | None) -> str:
    """Who holds the seat, since when, by what, until when (decision 7)."""
    if user.seat_time is None:
        return "The user holds no seat, and takes one by the next log in to an application or enrollment of a device."
    by = {
        SeatEvent.UNKNOWN: "by an event that was not noted then",
        SeatEvent.ACCESS: f"by the log in to an application with the request_id {user.seat_event_id}",
        SeatEvent.GATEWAY: f"by the enrollment of the registration {user.seat_event_id}",
    }
    taken = f"The user holds a seat since {_time(user.seat_time)}, taken {by[user.seat_event]}."
    return f"{taken} {_activity(user)} {_expiry(user, expiration)}"


def expiry_reason(user: User, expiration: int) -> str:
    """Why a sweep would free the seat of an inactive user."""
    return f"There was no activity for {format_duration(expiration)}. {_activity(user)}"


def _activity(user: User) -> str:
    authenticated = f"The last authentication was at {_time(user.authenticate_time or 0)}"
    if user.seen_time is None:
        return f"{authenticated}; no device has been heard of."
    return f"{authenticated}, and a device was last heard of at {_time(user.seen_time)}."


def _expiry(user: User, expiration: int | None) -> str:
    expires = expire_time(user, expiration)
    if expires is None or expiration is None:
        return "It does not expire."
    window = format_duration(expiration)
    return f"It expires at {_time(expires)}, {window} after the last activity, unless there is more until then."


def _time(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds // SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC"
