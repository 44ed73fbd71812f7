"""Durations are Go's (decision 30). The expectations are what Go 1.26 answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.durations import MAX_SESSION_TIMEOUT, format_duration, parse_duration, parse_session_timeout
from guardhouse.errors import DurationInvalid

SECOND = 1_000_000
HOUR = 3_600 * SECOND


@pytest.mark.parametrize(
    ("text", "microseconds", "normal_form"),
    [
        ("0", 0, "0s"),
        ("-0", 0, "0s"),
        ("+0", 0, "0s"),
        ("0h", 0, "0s"),
        ("300s", 300 * SECOND, "5m0s"),
        ("1h30m", 90 * 60 * SECOND, "1h30m0s"),
        ("60m0s", HOUR, "1h0m0s"),
        ("30m1h", 90 * 60 * SECOND, "1h30m0s"),
        ("1m1m", 120 * SECOND, "2m0s"),
        ("1.5s", 1_500_000, "1.5s"),
        ("2m0.5s", 120_500_000, "2m0.5s"),
        ("300ms", 300_000, "300ms"),
        ("999999us", 999_999, "999.999ms"),
        ("1000ms", SECOND, "1s"),
        ("60s", 60 * SECOND, "1m0s"),
        ("1500us", 1_500, "1.5ms"),
        ("1000us", 1_000, "1ms"),
        ("999us", 999, "999\u00b5s"),
        ("7us", 7, "7\u00b5s"),
        ("7\u00b5s", 7, "7\u00b5s"),
        ("7\u03bcs", 7, "7\u00b5s"),
        ("1000ns", 1, "1\u00b5s"),
        (".5h", 1_800 * SECOND, "30m0s"),
        ("1.h", HOUR, "1h0m0s"),
        ("+5s", 5 * SECOND, "5s"),
        ("-1.5s", -1_500_000, "-1.5s"),
        ("-1h1us", -HOUR - 1, "-1h0m0.000001s"),
        ("100h10m10.000001s", 360_610_000_001, "100h10m10.000001s"),
        ("0.3333333333333333333h", 1_200 * SECOND, "20m0s"),
        ("0.100000000000000000000h", 360 * SECOND, "6m0s"),
        ("2562047h47m16.854775s", 9_223_372_036_854_775, "2562047h47m16.854775s"),
        ("-2562047h47m16.854775s", -9_223_372_036_854_775, "-2562047h47m16.854775s"),
    ],
)
def test_go_reads_and_writes_the_same(text: str, microseconds: int, normal_form: str) -> None:
    """Decision 30: Go's grammar, stored in Go's normal form."""
    assert parse_duration(text, "duration") == microseconds
    assert format_duration(microseconds) == normal_form
    assert parse_duration(normal_form, "duration") == microseconds


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "1h30m"),
        ("-", "1h30m"),
        ("3", "lacks a unit"),
        ("00", "lacks a unit"),
        ("0.", "lacks a unit"),
        ("1.2.3s", "lacks a unit"),
        ("s", "lacks a number"),
        (".s", "lacks a number"),
        ("--5s", "lacks a number"),
        ("1d", "24h"),
        ("7days", "24h"),
        ("1w", "168h"),
        ("1S", "unknown unit"),
        ("1h 30m", "unknown unit"),
        ("1s\n", "unknown unit"),
        (" 1s", "lacks a number"),
        ("1e3s", "unknown unit"),
        ("1,5s", "unknown unit"),
        ("\u0661s", "lacks a number"),
        ("1us1ns", "microseconds"),
        ("-1ns", "microseconds"),
        ("0.0000001s", "microseconds"),
        ("9223372036854775808000ns", "292 years"),
        ("2562047h47m16.854776s", "292 years"),
        ("2562048h", "292 years"),
        ("-2562048h", "292 years"),
        ("0" * 100 + "s", "100 characters"),
    ],
)
def test_what_is_refused_says_what_to_write(text: str, hint: str) -> None:
    """Decision 30: what Go refuses is refused, and so is what is finer than a microsecond."""
    with pytest.raises(DurationInvalid, match=hint) as caught:
        parse_duration(text, "check_session.duration")
    assert caught.value.field == "check_session.duration"


@given(st.integers(-(2**63) // 1_000 + 1, (2**63 - 1) // 1_000))
def test_normal_form_keeps_every_microsecond(microseconds: int) -> None:
    """Decision 30: storing the normal form changes no duration."""
    assert parse_duration(format_duration(microseconds), "duration") == microseconds


@given(
    st.from_regex(r"[-+]?([0-9]{0,20}\.?[0-9]{0,20}(ns|us|ms|s|m|h|d)?){1,3}", fullmatch=True) | st.text(max_size=20)
)
def test_every_text_is_read_or_refused(text: str) -> None:
    """Decision 30: no text makes the reader fail in another way, and what it reads has a normal form."""
    try:
        microseconds = parse_duration(text, "duration")
    except DurationInvalid:
        return
    assert parse_duration(format_duration(microseconds), "duration") == microseconds


@pytest.mark.parametrize("text", ["0", "0s", "-0", "-1us", "-24h", "87600h0m0.000001s", "87601h"])
def test_session_timeout_refuses(text: str) -> None:
    """Decision 30: for check_session zero, negative and anything over ten years are refused."""
    with pytest.raises(DurationInvalid):
        parse_session_timeout(text, "check_session.duration")


@pytest.mark.parametrize(("text", "microseconds"), [("1us", 1), ("24h", 24 * HOUR), ("87600h", MAX_SESSION_TIMEOUT)])
def test_session_timeout_accepts_up_to_ten_years(text: str, microseconds: int) -> None:
    """Decision 30: ten years are not over ten years."""
    assert parse_session_timeout(text, "check_session.duration") == microseconds
