"""The hours of the week in which a DNS policy is in force: how they are written, and when they hold."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from guardhouse.policies import DAYS, Schedule, ScheduleInvalid

SECOND = 1_000_000
MINUTE = 60 * SECOND
OFFICE = "08:00-12:30,13:30-17:00"
TEN = ",".join(f"{hour:02}:00-{hour:02}:30" for hour in range(10))


def schedule(zone: str = "UTC", **days: str) -> Schedule:
    return Schedule.read(zone, *(days.get(day, "") for day in DAYS))


def utc(text: str) -> int:
    """Microseconds since 1970 of a time such as 2026-11-23 08:00."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("text", "normal_form"),
    [
        ("", ""),
        ("  ", ""),
        (OFFICE, OFFICE),
        (" 8:00 - 12:30 , 13:30-17:00 ", OFFICE),
        ("00:00-24:00", "00:00-24:00"),
        ("08:00-12:00,12:00-13:00", "08:00-12:00,12:00-13:00"),
        ("23:59-24:00", "23:59-24:00"),
        (TEN, TEN),
    ],
)
def test_a_day_is_read_and_written_in_its_normal_form(text: str, normal_form: str) -> None:
    read = schedule("Asia/Kathmandu", tuesday=text)
    assert read.texts() == ("Asia/Kathmandu", "", normal_form, "", "", "", "", "")
    assert Schedule.read(*read.texts()) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8-12", "'8-12' is no span of hours, which is written like 08:00-12:30"),
        ("08:00", "'08:00' is no span of hours"),
        ("08:00-12:30,", "'' is no span of hours"),
        ("08:00-12:30;13:00-14:00", "is no span of hours"),
        ("08:00-12:30\n", "is no span of hours"),
        ("\u0660\u0668:00-12:30", "is no span of hours"),
        ("08:00-12:60", "08:00-12:60 is no span of a day, which has hours from 00:00 to 24:00"),
        ("23:00-24:01", "is no span of a day"),
        ("24:00-25:00", "is no span of a day"),
        ("22:00-06:00", "22:00-06:00 ends before it has started; past midnight, go on from 00:00 on the next day"),
        ("08:00-08:00", "ends before it has started"),
        ("24:00-24:00", "ends before it has started"),
        ("13:00-14:00,08:00-09:00", "08:00-09:00 starts before the one ahead of it ends; spans are in order"),
        ("08:00-12:30,12:29-13:00", "12:29-13:00 starts before the one ahead of it ends"),
        (TEN + ",10:00-11:00", "a day has at most 10 spans, not 11"),
        (" " * 201, "a day has at most 200 characters"),
    ],
)
def test_what_is_wrong_names_the_day(text: str, message: str) -> None:
    with pytest.raises(ScheduleInvalid) as caught:
        schedule(wednesday=text)
    assert caught.value.field == "wednesday"
    assert message in caught.value.message


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Europe",
        "Europe/Nowhere",
        "europe/Berlin",
        "localtime",
        "right/UTC",
        "../UTC",
        "/UTC",
        "+01:00",
        "A" * 101,
    ],
)
def test_a_time_zone_is_one_of_the_iana_database(zone: str) -> None:
    with pytest.raises(ScheduleInvalid) as caught:
        schedule(zone, monday=OFFICE)
    assert caught.value.field == "time_zone"
    assert "such as Europe/Berlin" in caught.value.message or "like Europe/Berlin" in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+5", "America/Argentina/Buenos_Aires", "America/Port-au-Prince"])
def test_every_kind_of_zone_name_is_read(zone: str) -> None:
    assert schedule(zone).texts()[0] == zone


@pytest.mark.parametrize(
    ("zone", "day", "text", "starts", "ends"),
    [
        # 2026-11-23 is a Monday.
        ("UTC", "monday", "08:00-12:30", "2026-11-23 08:00", "2026-11-23 12:30"),
        ("Europe/Berlin", "monday", "08:00-12:30", "2026-11-23 07:00", "2026-11-23 11:30"),
        ("Asia/Kathmandu", "monday", "00:00-24:00", "2026-11-22 18:15", "2026-11-23 18:15"),
        ("America/New_York", "sunday", "23:00-24:00", "2026-11-23 04:00", "2026-11-23 05:00"),
        # Clocks go forward, from 02:00 to 03:00 at 01:00 UTC: what is skipped is cut off.
        ("Europe/Berlin", "sunday", "01:30-02:30", "2026-03-29 00:30", "2026-03-29 01:00"),
        ("Europe/Berlin", "sunday", "02:30-03:30", "2026-03-29 01:00", "2026-03-29 01:30"),
        ("Europe/Berlin", "sunday", "01:00-04:00", "2026-03-29 00:00", "2026-03-29 02:00"),
        # And back, from 03:00 to 02:00: what comes twice counts twice.
        ("Europe/Berlin", "sunday", "02:00-03:00", "2026-10-25 00:00", "2026-10-25 02:00"),
        ("Europe/Berlin", "sunday", "02:15-02:45", "2026-10-25 00:15", "2026-10-25 00:45"),
        ("Europe/Berlin", "sunday", "02:15-02:45", "2026-10-25 01:15", "2026-10-25 01:45"),
        ("Europe/Berlin", "sunday", "02:45-03:00", "2026-10-25 00:45", "2026-10-25 01:00"),
        # By half an hour only.
        ("Australia/Lord_Howe", "sunday", "01:45-02:15", "2026-10-03 15:15", "2026-10-03 15:30"),
    ],
)
def test_a_span_holds_from_its_start_up_to_its_end(zone: str, day: str, text: str, starts: str, ends: str) -> None:
    """To the microsecond: the start belongs to it, the end does not."""
    read, start, end = schedule(zone, **{day: text}), utc(starts), utc(ends)
    times = [start - 1, start, start + 1, (start + end) // 2, end - 1, end, end + 1]
    assert [read.holds(time) for time in times] == [False, True, True, True, True, False, False]
    assert read.until(start - 1) == start
    assert read.until(end - 1) == end


def test_a_span_that_is_skipped_does_not_come_that_day() -> None:
    read = schedule("Europe/Berlin", sunday="02:15-02:45")
    sunday = range(utc("2026-03-28 23:00"), utc("2026-03-29 22:00"), MINUTE)
    assert not any(map(read.holds, sunday))
    assert read.holds(utc("2026-04-05 00:30"))


def test_a_clock_is_told_as_long_as_a_timestamp_can_be_written() -> None:
    last = utc("9999-12-31 23:59:59")
    for zone in ("Etc/GMT-14", "America/New_York"):
        always = Schedule.read(zone, *["00:00-24:00"] * 7)
        assert always.holds(last)
        assert always.until(last) > last


@pytest.mark.parametrize(
    ("zone", "eve"),
    [
        ("Europe/Berlin", "2026-03-28"),
        ("Europe/Berlin", "2026-10-24"),
        ("America/New_York", "2026-03-07"),
        ("America/New_York", "2026-10-31"),
        ("Australia/Lord_Howe", "2026-04-04"),
        ("Australia/Lord_Howe", "2026-10-03"),
        # Its last change, from 05:30 to 05:45 ahead.
        ("Asia/Kathmandu", "1985-12-31"),
        # On the next day there was none.
        ("Pacific/Apia", "2011-12-29"),
    ],
)
def test_every_minute_is_as_the_clock_on_the_wall_says(zone: str, eve: str) -> None:
    """From the evening before a change of the clock on, and from one edge to the next in no more steps than needed."""
    chance = random.Random(zone + eve)
    texts = [random_day(chance) for _ in DAYS]
    read = Schedule.read(zone, *texts)
    begins = datetime.fromisoformat(f"{eve}T20:00").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    change, held, steps = 0, False, 0
    for minute in range(30 * 60):
        at = begins + timedelta(minutes=minute)
        time = int(at.timestamp()) * SECOND
        expected = holds_on_the_wall(texts, at.astimezone(ZoneInfo(zone)))
        if time >= change:
            assert time == change or not minute
            change, held, steps = read.until(time), read.holds(time), steps + 1
            before = (at - timedelta(microseconds=1)).astimezone(ZoneInfo(zone))
            assert read.holds(time - 1) == holds_on_the_wall(texts, before)
            assert read.until(change - 1) == change
        assert (read.holds(time), held) == (expected, expected), (at, texts)
    assert 3 <= steps <= sum(text.count("-") * 2 for text in texts) + 4


def random_day(chance: random.Random) -> str:
    """Many of its edges are in the hours that change."""
    pool = [*range(0, 240, 15), 90, 105, 121, 1440, *chance.sample(range(1440), 6)]
    edges = sorted(set(chance.sample(pool, 2 * chance.randint(0, 6))))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return ",".join(f"{a // 60:02}:{a % 60:02}-{b // 60:02}:{b % 60:02}" for a, b in pairs)


def holds_on_the_wall(texts: list[str], at: datetime) -> bool:
    """What is between two texts in the order of the alphabet."""
    spans = [span.split("-") for span in texts[at.weekday()].split(",") if span]
    return any(start <= f"{at:%H:%M}" < end for start, end in spans)
