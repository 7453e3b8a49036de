"""Ticks beside CronSim and beside plain search by the minute; hours beside counting minutes."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from freshet.engine.errors import DefinitionError
from freshet.engine.ticks import (
    CHUNK_DAYS,
    CYCLE_DAYS,
    DAY_US,
    Hours,
    advance,
    cron_problem,
    hours_between,
    is_open,
    next_open,
    next_tick,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US

CHANGES = {
    "UTC": "2024-03-01",
    "Europe/Berlin": "2024-03-31 2024-10-27",
    "America/New_York": "2024-03-10 2024-11-03",
    "Australia/Lord_Howe": "2024-04-07 2024-10-06",
    "America/Santiago": "2024-04-07 2024-09-08",
    "America/Havana": "2024-03-10 2024-11-03",
    "Africa/Cairo": "2024-04-26 2024-11-01",
}
"""Zones and days on which their clocks change: at 02:00 or 03:00, by half an hour, at midnight."""

PLAIN = ("UTC", "Europe/Berlin", "America/New_York")
"""Where CronSim itself never depends on its start."""


def us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def at(text: str, tz: str = "UTC", fold: int = 0) -> int:
    return us(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold))


def local(moment_us: int, tz: str) -> str:
    moment = (EPOCH + timedelta(microseconds=moment_us)).astimezone(ZoneInfo(tz))
    return f"{moment:%m-%d %H:%M%z}"


def ticks(expression: str, tz: str, from_us: int) -> Iterator[int]:
    """Each tick, found from just after the one before."""
    while True:
        from_us = next_tick(expression, tz, from_us)
        yield from_us
        from_us += 1


def field(low: int, high: int, star: str = "*") -> st.SearchStrategy[str]:
    one = st.integers(low, high)
    lists = st.lists(one, min_size=1, max_size=3).map(lambda ns: ",".join(map(str, ns)))
    spans = st.tuples(one, one).map(lambda ns: f"{min(ns)}-{max(ns)}")
    steps = st.integers(2, 20).map(lambda n: f"*/{n}")
    return st.one_of(st.just(star), lists, spans, steps)


crons = st.tuples(
    field(0, 59, "0"), field(0, 4), field(1, 31), st.sampled_from(["*", "*", "3,4,10"]), field(0, 7)
).map(" ".join)
"""Mostly in the hours in which clocks change."""


@st.composite
def places(draw: st.DrawFn, zones: tuple[str, ...] = tuple(CHANGES)) -> tuple[str, int]:
    """A zone, and a moment within two days of a change of its clock."""
    tz = draw(st.sampled_from(zones))
    near = at(draw(st.sampled_from(CHANGES[tz].split())), tz)
    minute = draw(st.integers(-2 * 1440, 2 * 1440)) * MINUTE_US
    return tz, near + minute + draw(st.sampled_from([0, 0, -1, 1, 17_000_000]))


@st.composite
def some_hours(draw: st.DrawFn, tz: str | None = None) -> Hours:
    start, end = draw(st.integers(0, 1439)), draw(st.integers(1, 1440))
    if draw(st.booleans()):  # near where clocks change
        start, end = start % 240, end % 240 + 1
    assume(start != end)
    days = draw(st.sampled_from(["mon-sun", "mon-fri", "sun", "sat,sun", "fri-mon", "wed"]))
    return Hours(start, end, tz or draw(st.sampled_from(list(CHANGES))), days)


# --- cron -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(crons, places(PLAIN))
def test_iterating_is_what_cronsim_gives(expression: str, place: tuple[str, int]) -> None:
    """Going from tick to tick is the same sequence as one CronSim iterated over the period."""
    assume(cron_problem(expression, "UTC") is None)
    tz, start = place
    start -= start % MINUTE_US
    moment = (EPOCH + timedelta(microseconds=start)).astimezone(ZoneInfo(tz))
    expected = [us(tick) for tick in islice(CronSim(expression, moment), 12)]
    if moment.fold:  # CronSim goes back in time here
        expected = [tick for tick in expected if tick > start]
    assert list(islice(ticks(expression, tz, start + 1), len(expected))) == expected


@settings(deadline=None)
@given(crons, places(), st.integers(0, 3 * DAY_US))
def test_a_tick_is_the_same_from_wherever_one_looks(
    expression: str, place: tuple[str, int], later: int
) -> None:
    """From any moment up to the next tick it is the next one, itself included; after it another."""
    assume(cron_problem(expression, "UTC") is None)
    tz, start = place
    tick = next_tick(expression, tz, start)
    assert tick >= start
    for between in (tick, tick - 1, tick - MINUTE_US, start + later % (tick - start + 1)):
        assert between < start or next_tick(expression, tz, between) == tick
    assert next_tick(expression, tz, tick + 1) > tick


@settings(deadline=None)
@given(st.sampled_from(["*/15", "*", "5-59/25", "0"]), field(0, 3), places())
def test_wildcard_ticks_are_the_real_minutes_that_match(
    minute: str, hour: str, place: tuple[str, int]
) -> None:
    """With `*` as minute or hour, a tick is any real minute whose local time matches."""
    assume("*" in (minute[0], hour[0]))
    tz, start = place
    start -= start % MINUTE_US
    expression = f"{minute} {hour} * * *"
    plain = CronSim(expression, datetime(2000, 1, 1))
    matching = []
    for n in range(2 * 1440):
        moment = (EPOCH + timedelta(microseconds=start + n * MINUTE_US)).astimezone(ZoneInfo(tz))
        if moment.minute in plain.minutes and moment.hour in plain.hours:
            matching.append(us(moment))
    assert list(islice(ticks(expression, tz, start), len(matching))) == matching


@pytest.mark.parametrize(
    ("expression", "tz", "start", "expected"),
    [
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2024-03-30T12:00",
            "03-31 03:00+0200, 04-01 02:30+0200",
        ),
        (
            "0,20,40 2 * * *",
            "Europe/Berlin",
            "2024-03-31T00:00",
            "03-31 03:00+0200, 04-01 02:00+0200",
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2024-10-26T12:00",
            "10-27 02:30+0200, 10-28 02:30+0100",
        ),
        (
            "30 2 * * *",
            "America/New_York",
            "2024-03-09T12:00",
            "03-10 03:00-0400, 03-11 02:30-0400",
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2024-11-02T12:00",
            "11-03 01:30-0400, 11-04 01:30-0500",
        ),
        (
            "0 * * * *",
            "Europe/Berlin",
            "2024-03-31T01:00",
            "03-31 01:00+0100, 03-31 03:00+0200",
        ),
        (
            "0 * * * *",
            "America/New_York",
            "2024-11-03T01:00",
            "11-03 01:00-0400, 11-03 01:00-0500, 11-03 02:00-0500",
        ),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2024-10-27T02:30",
            "10-27 02:30+0200, 10-27 02:00+0100, 10-27 02:30+0100, 10-28 02:00+0100",
        ),
        ("*/30 2 * * *", "Europe/Berlin", "2024-03-31T00:00", "04-01 02:00+0200"),
        (
            "*/30 1 * * sun",
            "America/Santiago",
            "2024-09-07T12:00",
            "09-08 01:00-0300, 09-08 01:30-0300",
        ),
        ("0 5-6 * * *", "Australia/Lord_Howe", "2024-10-06T01:40", "10-06 05:00+1100"),
        ("*/30 5 * * *", "Australia/Lord_Howe", "2024-10-06T01:40", "10-06 05:00+1100"),
    ],
)
def test_ticks_when_the_clock_changes(expression: str, tz: str, start: str, expected: str) -> None:
    """A fixed time comes once whatever the clock does; a wildcard's times as often as they are."""
    wanted = expected.split(", ")
    found = islice(ticks(expression, tz, at(start, tz)), len(wanted))
    assert [local(tick, tz) for tick in found] == wanted


def test_from_within_the_repeated_hour() -> None:
    """What a fixed time was in the first pass does not come again in the second."""
    second = at("2024-10-27T02:15", "Europe/Berlin", fold=1)
    tick = next_tick("0,30 2 * * *", "Europe/Berlin", second)
    assert local(tick, "Europe/Berlin") == "10-28 02:00+0100"


def test_a_tick_on_the_moment_asked_for_is_the_answer() -> None:
    """At a tick the answer is that moment, a microsecond later the next one, before 1970 too."""
    for day in ("2024-05-01", "1960-05-01"):
        noon = at(f"{day}T12:00")
        assert next_tick("0 12 * * *", "UTC", noon) == noon
        assert next_tick("0 12 * * *", "UTC", noon - 1) == noon
        assert next_tick("0 12 * * *", "UTC", noon + 1) == noon + DAY_US
        assert next_tick("0 12 * * *", "UTC", noon + 59_000_000) == noon + DAY_US


def test_29_february() -> None:
    """The leap day is found years ahead, and 2100 has none."""
    found = islice(ticks("0 0 29 2 *", "Europe/Berlin", at("2091-01-01")), 3)
    years = [local(tick, "Europe/Berlin") for tick in found]
    assert years == ["02-29 00:00+0100"] * 3
    assert next_tick("0 0 29 2 *", "UTC", at("2096-03-01")) == at("2104-02-29")


@pytest.mark.parametrize(
    ("expression", "tz", "words"),
    [
        ("", "UTC", "it has 0 fields and needs five"),
        ("@daily", "UTC", "it has 1 field and needs five"),
        ("0 * * * * *", "UTC", "it has 6 fields and needs five"),
        (7, "UTC", "the expression is 7, which is no text"),
        (None, "UTC", "the expression is None, which is no text"),
        ("61 * * * *", "UTC", "'61' is no minute"),
        ("0 24 * * *", "UTC", "'24' is no hour"),
        ("0 0 0 * *", "UTC", "'0' is no day-of-month"),
        ("0 0 * foo *", "UTC", "'FOO' is no month"),
        ("0 0 * * fri-mon", "UTC", "'FRI-MON' is no day-of-week"),
        ("*/0 * * * *", "UTC", "'*/0' is no minute"),
        ("0 0 31 2 *", "UTC", "it never ticks: no month has such a day"),
        ("0 0 */31 * mon#5", "UTC", "it never ticks: no month has such a day"),
        ("0 0 * * *", "Europe/Bärlin", "there is no time zone 'Europe/Bärlin'"),
        ("0 0 * * *", "America", "there is no time zone 'America'"),
        ("0 0 * * *", "../UTC", "there is no time zone '../UTC'"),
        ("0 0 * * *", "", "there is no time zone ''"),
        ("0 0 * * *", None, "the time zone is None, which is no text"),
    ],
)
def test_what_is_wrong_with_a_cron_expression(expression: object, tz: object, words: str) -> None:
    """Each thing that is wrong is said in words that show what was seen."""
    assert cron_problem(expression, tz) == words


def test_a_number_beyond_reading_is_a_problem() -> None:
    """A field of thousands of digits is a problem like another, not a ValueError."""
    assert "is no minute" in str(cron_problem("9" * 5000 + " * * * *", "UTC"))


@pytest.mark.parametrize("expression", ["0 0 29 2 *", "*/5 9-17 * * MON-fri", "0 0 LW * *"])
def test_nothing_wrong(expression: str) -> None:
    """A sound expression has no problem: leap days, names of days, last weekdays."""
    assert cron_problem(expression, "Europe/Berlin") is None


# --- hours ------------------------------------------------------------------------------------


def open_by_the_clock(hours: Hours, moment_us: int) -> bool:
    """By the local time alone, which says the same wherever a clock does not change."""
    moment = (EPOCH + timedelta(microseconds=moment_us)).astimezone(ZoneInfo(hours.tz))
    minute, day = moment.hour * 60 + moment.minute, moment.weekday()
    names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    if hours.end_min <= hours.start_min and minute < hours.end_min:  # began yesterday
        day, minute = (day - 1) % 7, minute + 1440
    overnight = 1440 if hours.end_min <= hours.start_min else 0
    among = {
        "mon-sun": names,
        "mon-fri": names[:5],
        "sun": ["sun"],
        "sat,sun": ["sat", "sun"],
        "fri-mon": ["fri", "sat", "sun", "mon"],
        "wed": ["wed"],
    }[hours.days]
    return hours.start_min <= minute < hours.end_min + overnight and names[day] in among


@settings(deadline=None)
@given(some_hours("Asia/Kolkata"), st.integers(0, 20_000), st.integers(1, 3000))
def test_open_time_is_what_counting_minutes_gives(hours: Hours, begin: int, span: int) -> None:
    """Open, next open and the end of a span agree with a look at each minute's local time."""
    start = at("2024-05-06") + begin * MINUTE_US
    minutes = [start + n * MINUTE_US for n in range(8 * 1440)]
    is_counted = [minute for minute in minutes if open_by_the_clock(hours, minute)]
    assert [minute for minute in minutes[:3000:7] if is_open(hours, minute)] == [
        minute for minute in minutes[:3000:7] if open_by_the_clock(hours, minute)
    ]
    assert next_open(hours, start) == is_counted[0]
    if span <= len(is_counted):
        assert advance(hours, start, span * MINUTE_US) == is_counted[span - 1] + MINUTE_US


@settings(deadline=None)
@given(some_hours(), st.data())
def test_open_time_adds_up(hours: Hours, data: st.DataObject) -> None:
    """A span of open time is the same taken at once or in two parts, over any clock change."""
    _, start = data.draw(places((hours.tz,)))
    parts = st.one_of(
        st.integers(1, 3 * DAY_US), st.integers(1, 72).map(lambda n: n * HOUR_US // 2)
    )
    a, b = data.draw(parts), data.draw(parts)
    assert advance(hours, start, a + b) == advance(hours, advance(hours, start, a), b)


@settings(deadline=None)
@given(some_hours(), st.data())
def test_open_and_closed_follow_each_other(hours: Hours, data: st.DataObject) -> None:
    """The next opening is open and not before; what lies before it is closed."""
    _, start = data.draw(places((hours.tz,)))
    opening = next_open(hours, start)
    assert opening >= start
    assert is_open(hours, opening)
    assert is_open(hours, start) == (opening == start)
    if opening > start:
        assert not is_open(hours, opening - 1)
        assert not is_open(hours, (start + opening) // 2) or opening - start == 1
    assert advance(hours, start, 0) == advance(hours, start, -5) == opening
    assert advance(hours, start, 1) == opening + 1


@pytest.mark.parametrize(
    ("start", "end", "tz", "day", "opens", "closes"),
    [
        ("02:30", "06:00", "Europe/Berlin", "2024-03-31", "03-31 03:00+0200", "03-31 06:00+0200"),
        ("01:00", "02:30", "Europe/Berlin", "2024-03-31", "03-31 01:00+0100", "03-31 03:00+0200"),
        ("02:30", "06:00", "Europe/Berlin", "2024-10-27", "10-27 02:30+0200", "10-27 06:00+0100"),
        ("01:00", "02:30", "Europe/Berlin", "2024-10-27", "10-27 01:00+0200", "10-27 02:30+0200"),
        ("02:10", "02:50", "Europe/Berlin", "2024-03-31", "04-01 02:10+0200", "04-01 02:50+0200"),
        (
            "02:30",
            "04:00",
            "America/New_York",
            "2024-03-10",
            "03-10 03:00-0400",
            "03-10 04:00-0400",
        ),
        (
            "01:30",
            "02:30",
            "America/New_York",
            "2024-11-03",
            "11-03 01:30-0400",
            "11-03 02:30-0500",
        ),
        (
            "00:00",
            "24:00",
            "America/Santiago",
            "2024-09-08",
            "09-08 01:00-0300",
            "09-09 00:00-0300",
        ),
        (
            "02:10",
            "03:00",
            "Australia/Lord_Howe",
            "2024-10-06",
            "10-06 02:30+1100",
            "10-06 03:00+1100",
        ),
    ],
)
def test_hours_when_the_clock_changes(
    start: str, end: str, tz: str, day: str, opens: str, closes: str
) -> None:
    """A boundary that is skipped is when the clock jumps; one that is repeated is the first."""
    weekday = "sun" if opens.startswith(day[5:]) else "sun,mon"
    hours = hours_between(start, end, tz, weekday)
    opening = next_open(hours, at(day, tz))
    assert local(opening, tz) == opens
    closing = next(
        t for t in range(opening, opening + 2 * DAY_US, MINUTE_US) if not is_open(hours, t)
    )
    assert local(closing, tz) == closes
    assert is_open(hours, closing - 1)
    assert advance(hours, opening, closing - opening) == closing


def test_hours_over_midnight_belong_to_the_day_they_begin_on() -> None:
    """From 22:00 to 06:00 on Fridays is open on Saturday morning and not on Friday morning."""
    hours = hours_between("22:00", "06:00", "UTC", "fri")
    assert not is_open(hours, at("2024-05-03T05:00"))
    assert is_open(hours, at("2024-05-03T22:00"))
    assert is_open(hours, at("2024-05-04T05:59"))
    assert not is_open(hours, at("2024-05-04T06:00"))
    assert next_open(hours, at("2024-05-04T06:00")) == at("2024-05-10T22:00")


def test_a_span_over_a_weekend() -> None:
    """Open time stands still from Friday's end to Monday's start, and stops at an exact end."""
    hours = hours_between("08:00", "18:00", "Europe/Berlin", "mon-fri")
    friday = at("2024-05-03T17:00", "Europe/Berlin")
    assert advance(hours, friday, HOUR_US) == friday + HOUR_US
    assert advance(hours, friday, HOUR_US + 1) == at("2024-05-06T08:00", "Europe/Berlin") + 1
    assert advance(hours, friday + 5 * HOUR_US, 0) == at("2024-05-06T08:00", "Europe/Berlin")
    assert advance(None, friday, -7) == friday - 7


@pytest.mark.parametrize("tz", ["Europe/Berlin", "America/New_York", "UTC"])
@pytest.mark.parametrize(
    "clock", ["01:00 02:30 sun", "22:00 06:00 mon,wed-fri", "00:00 24:00 mon-sun"]
)
def test_years_at_once_are_the_sum_of_their_months(clock: str, tz: str) -> None:
    """Ten years of open time in one span end where they do when taken in small spans."""
    begin, end, days = clock.split()
    hours = hours_between(begin, end, tz, days)
    start = at("2024-02-02T12:34:56")
    total = 10 * 365 * DAY_US // (40 if hours.days == "sun" else 1)
    small = total // 500
    moment = start
    for _ in range(500):
        moment = advance(hours, moment, small)
    assert advance(hours, start, 500 * small) == moment


@pytest.mark.parametrize("late", range(-2, 3))
def test_a_long_span_from_within_open_hours(late: int) -> None:
    """Where days are skipped in chunks, what was open before the start is not counted."""
    hours = hours_between("08:00", "18:00", "UTC", "mon-sun")
    first = -(-EPOCH.toordinal() // CHUNK_DAYS) * CHUNK_DAYS - EPOCH.toordinal()
    start = (first + late) * DAY_US + 12 * HOUR_US
    assert advance(hours, start, 20_000 * HOUR_US) == start + 2000 * DAY_US
    assert advance(hours, start, 50_006 * HOUR_US) == start + 5000 * DAY_US + 6 * HOUR_US


def test_ten_years_of_a_minute_a_week() -> None:
    """A span that ends beyond all dates ends: a hundred thousand years on, at the right minute."""
    hours = hours_between("08:00", "08:01", "UTC", "mon")
    weeks = 10 * 365 * 1440
    start = at("2024-01-01T08:00")
    end = advance(hours, start, weeks * MINUTE_US)
    assert end == start + (weeks - 1) * 7 * DAY_US + MINUTE_US
    assert next_open(hours, end) == end - MINUTE_US + 7 * DAY_US


@settings(deadline=None)
@given(some_hours(), st.integers(0, 10_000), st.integers(1, DAY_US))
def test_hours_repeat_after_400_years(hours: Hours, days: int, span: int) -> None:
    """What is open centuries on is what is open a cycle of the calendar earlier."""
    start = at("2380-01-01") + days * DAY_US
    cycle = CYCLE_DAYS * DAY_US
    assert advance(hours, start + cycle, span) == advance(hours, start, span) + cycle


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (("08:00", "18:00", "Europe/Berlin", "mon-fri"), "08:00-18:00 mon-fri Europe/Berlin"),
        (("00:00", "24:00", "UTC", "mon-sun"), "00:00-24:00"),
        (("22:00", "06:05", "UTC", " Sat, SUN"), "22:00-06:05 sat,sun"),
        (("22:00", "00:00", "America/New_York", "mon-sun"), "22:00-00:00 America/New_York"),
    ],
)
def test_hours_as_text(text: tuple[str, str, str, str], shown: str) -> None:
    """Hours show as people write them, without what goes without saying; they survive JSON."""
    hours = hours_between(*text)
    assert str(hours) == shown
    assert msgspec.json.decode(msgspec.json.encode(hours), type=Hours) == hours


@pytest.mark.parametrize(
    ("start", "end", "tz", "days", "words"),
    [
        ("8:00", "18:00", "UTC", "mon", "hours: the start '8:00' is no time of day"),
        ("24:00", "18:00", "UTC", "mon", "hours: the start '24:00' is no time of day"),
        ("08:00", "24:01", "UTC", "mon", "hours: the end '24:01' is no time of day"),
        ("08:00", "18:60", "UTC", "mon", "hours: the end '18:60' is no time of day"),
        ("08:00", "18:00\n", "UTC", "mon", "hours: the end '18:00\\n' is no time of day"),
        ("08:00", "٠٩:٠٠", "UTC", "mon", "hours: the end '٠٩:٠٠' is no time of day"),
        (8, "18:00", "UTC", "mon", "hours: the start 8 is no time of day"),
        ("08:00", "08:00", "UTC", "mon", "hours from '08:00' to '08:00' are none"),
        ("08:00", "18:00", "Mars", "mon", "hours: there is no time zone 'Mars'"),
        ("08:00", "18:00", None, "mon", "hours: the time zone is None, which is no text"),
        ("08:00", "18:00", "UTC", "", "hours: '' are no days of the week"),
        ("08:00", "18:00", "UTC", "mon-", "hours: 'mon-' are no days of the week"),
        ("08:00", "18:00", "UTC", "mon,,tue", "hours: 'mon,,tue' are no days of the week"),
        ("08:00", "18:00", "UTC", "monday", "hours: 'monday' are no days of the week"),
        ("08:00", "18:00", "UTC", "mon-wed-fri", "hours: 'mon-wed-fri' are no days of the week"),
        ("08:00", "18:00", "UTC", ["mon"], "hours: ['mon'] are no days of the week"),
    ],
)
def test_hours_that_are_none(start: str, end: str, tz: str, days: str, words: str) -> None:
    """What cannot be read as hours is an error that shows what was seen and says what to write."""
    with pytest.raises(DefinitionError) as caught:
        hours_between(start, end, tz, days)
    assert caught.value.message == words
    assert caught.value.hint


def test_a_week_of_days_by_name() -> None:
    """Ranges, lists and ranges over the weekend name the days they begin on."""
    monday = at("2024-05-06T12:00")
    for days, seven in {"mon,wed-fri": "1011100", "sat-mon": "1000011", "sun": "0000001"}.items():
        hours = hours_between("08:00", "18:00", "UTC", days)
        opened = [is_open(hours, monday + n * DAY_US) for n in range(7)]
        assert "".join(str(int(day)) for day in opened) == seven


def test_ticks_are_in_order_through_a_year() -> None:
    """Through every change of a year, ticks only ever come later, and every day has its one."""
    for tz in CHANGES:
        found = list(islice(ticks("30 2 * * *", tz, at("2024-01-01", tz)), 366))
        assert all(a < b for a, b in pairwise(found))
        assert len({local(tick, tz)[:5] for tick in found}) == 366
