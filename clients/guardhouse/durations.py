"""Durations as people write them: Go's grammar on the way in, Go's normal form on the way out (decision 30).

The grammar is that of time.ParseDuration and the form that of Duration.String, both at https://pkg.go.dev/time. Inside
the system a duration is a whole number of microseconds.
"""

import re
from typing import Final

from guardhouse.errors import DurationInvalid

MAX_LENGTH: Final = 100
"""The longest text that is read, in characters. Go has no such limit; its own longest form has 26."""

SECOND: Final = 1_000_000
"""Microseconds: every time and duration inside Guardhouse is an integer of them."""
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

MAX_SESSION_TIMEOUT: Final = 87_600 * HOUR
"""Ten years of 365 days, in microseconds (decision 30)."""

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # MICRO SIGN
    "\u03bcs": 1_000,  # GREEK SMALL LETTER MU
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_HOURS: Final = {"d": 24, "day": 24, "days": 24, "w": 168, "week": 168, "weeks": 168}
_TERM: Final = re.compile(r"(?=.)([0-9]*)\.?([0-9]*)([^0-9.]*)", re.DOTALL)


def parse_duration(text: str, field: str) -> int:
    """Read a duration such as "1h30m", "-1.5s" or "0", and return its microseconds, which may be zero or negative.

    Raises DurationInvalid where Go refuses the text, for what is not a whole number of microseconds, and for a text
    longer than MAX_LENGTH.
    """
    if len(text) > MAX_LENGTH:
        raise DurationInvalid(field, f"a duration has at most {MAX_LENGTH} characters")
    microseconds, finer = divmod(_nanoseconds(text, field), 1_000)
    if finer:
        raise DurationInvalid(field, f"{text!r} is not a whole number of microseconds")
    return microseconds


def parse_session_timeout(text: str, field: str) -> int:
    """Read the duration of a policy's check_session and return its microseconds.

    Raises DurationInvalid for what is not a duration, for zero and less, and for more than ten years (decision 30).
    """
    timeout = parse_duration(text, field)
    if timeout <= 0:
        raise DurationInvalid(field, "a session timeout is longer than zero; for no timeout leave check_session out")
    if timeout > MAX_SESSION_TIMEOUT:
        raise DurationInvalid(field, "a session timeout is at most ten years, 87600h")
    return timeout


def parse_within(text: str, field: str, least: int, most: int) -> int:
    """A duration in microseconds, not below one and not above another. Raises DurationInvalid."""
    duration = parse_duration(text, field)
    if not least <= duration <= most:
        bounds = f"{format_duration(least)} to {format_duration(most)}"
        raise DurationInvalid(field, f"{field} is {bounds}, not {text}")
    return duration


def format_duration(microseconds: int) -> str:
    """Write microseconds the way Go does: "1h30m0s", "1.5s", "300ms", "7\u00b5s", "0s"."""
    sign, rest = ("-", -microseconds) if microseconds < 0 else ("", microseconds)
    if rest == 0:
        return "0s"
    if rest < 1_000:
        return f"{sign}{rest}\u00b5s"
    if rest < 1_000_000:
        return f"{sign}{_decimal(rest, 3)}ms"
    minutes, rest = divmod(rest, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_decimal(rest, 6)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def optional_duration(microseconds: int | None) -> str:
    """As `format_duration`; empty for None, which is no bound."""
    return "" if microseconds is None else format_duration(microseconds)


def _nanoseconds(text: str, field: str) -> int:
    rest = text[1:] if text.startswith(("-", "+")) else text
    if rest == "0":
        return 0
    if not rest:
        raise DurationInvalid(field, "a duration is a number and a unit, such as 1h30m or 300s")
    total = 0
    for whole, fraction, unit in _TERM.findall(rest):
        if not whole and not fraction:
            raise DurationInvalid(field, f"{text!r} lacks a number: a duration is written like 1h30m or 300s")
        if unit not in _NANOSECONDS:
            raise DurationInvalid(field, _unit_message(text, unit))
        total += int(whole or "0") * _NANOSECONDS[unit] + _fraction(fraction, _NANOSECONDS[unit])
    negative = text.startswith("-")
    if total > 2**63 - (not negative):
        raise DurationInvalid(field, f"{text!r} is longer than a duration can be, about 292 years")
    return -total if negative else total


def _fraction(digits: str, unit: int) -> int:
    """The nanoseconds of a decimal fraction of a unit, by Go's floating-point steps, so that both round alike."""
    value, scale = 0, 1.0
    for digit in digits:
        longer = value * 10 + int(digit)
        if value > (2**63 - 1) // 10 or longer > 2**63:
            break
        value, scale = longer, scale * 10
    return int(value * (unit / scale))


def _unit_message(text: str, unit: str) -> str:
    if not unit:
        return f"{text!r} lacks a unit: ns, us, ms, s, m or h"
    message = f"{text!r} has an unknown unit {unit!r}: the units are ns, us, ms, s, m and h"
    hours = _HOURS.get(unit.strip().lower())
    return f"{message}, so 1{unit} is written {hours}h" if hours else message


def _decimal(value: int, places: int) -> str:
    """A value in units of 10 to the power of -places, without trailing zeros."""
    whole, fraction = divmod(value, 10**places)
    return f"{whole}.{fraction:0{places}d}".rstrip("0").rstrip(".")
