"""Windows of time and what maps to what: calendars beside plain enumeration, lanes both ways."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.lanes import lane_between
from freshet.engine.mappings import (
    All,
    Dimensions,
    Identity,
    Last,
    Offset,
    Overlap,
    Pair,
    PartitionMapping,
    Table,
    Trailing,
    default_mapping,
    is_many,
    mapping_problem,
)
from freshet.engine.partitions import Partitions
from freshet.engine.spaces import DynamicSpace, ProductSpace, Space, contains, keys_of, space_of
from freshet.engine.windows import DAY_US, HOUR_US, Calendar, Windows

STARTS = {
    "UTC": ["2023-12-20T05:00", "2024-02-20"],
    "Europe/Berlin": ["2024-03-28", "2024-10-24T06:00"],
    "America/New_York": ["2024-03-07", "2024-10-31T00:30"],
    "America/Sao_Paulo": ["2018-02-14", "2018-11-01"],
    "Asia/Kolkata": ["2024-01-01"],
    "Australia/Lord_Howe": ["2024-04-04", "2024-10-03T01:30"],
    "Pacific/Apia": ["2011-12-27", "2012-01-01"],
}
"""Zones, and local times a few days before their clocks change."""

CRONS = {"0 6 * * mon-fri": 40, "*/15 9-17 * * 1-5": 90, "0 0 L * *": 14, "30 2 * * *": 40}
CRONS |= {"0 0 29 2 *": 3, "0 */6 * * *": 50, "0 12 1,15 * fri": 30, "0 0 * 2 mon#5": 2}
"""Cron expressions, and how many windows of each to look at."""

COUNTS = {"hour": 120, "day": 40, "week": 12, "month": 14, **CRONS}
OFFSETS = {"day": ["90m", "6h"], "week": ["1d", "36h", "4d"], "month": ["6h", "5d"]}
FORMATS = {"day": ["%Y%m%d", "%Y/%m/%d", "%Y-%j"], "week": ["%Y.%m.%d"], "month": ["%Y%m"]}
MAKE: dict[str, Callable[..., Windows]] = {
    "hour": fr.hourly,
    "day": fr.daily,
    "week": fr.weekly,
    "month": fr.monthly,
}


def windows(every: str, start: str, **more: Any) -> Windows:
    made = MAKE[every](start, **more) if every in MAKE else fr.cron_windows(every, start, **more)
    return made


def first(calendar: Calendar, count: int) -> list[int]:
    """The first windows, found one by one."""
    found: list[int] = []
    n = 0
    while len(found) < count and (calendar.size is None or n < calendar.size):
        found += [n] if calendar.valid(n) else []
        n += 1
    return found


def moment(us: int, zone: str = "UTC") -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).astimezone(
        ZoneInfo(zone)
    )


def micros(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@st.composite
def definitions(draw: st.DrawFn) -> tuple[Windows, Windows]:
    """A definition, and the same one without exclusions."""
    every = draw(st.sampled_from(sorted(COUNTS)))
    zone = draw(st.sampled_from(sorted(STARTS)))
    start = draw(st.sampled_from(STARTS[zone]))
    if zone == "Pacific/Apia" and every not in ("hour", "week", "month"):
        start = "2012-01-01"  # for the day that Apia skipped see below
    more: dict[str, Any] = {"tz": zone}
    if every in OFFSETS:
        more["offset"] = draw(st.sampled_from([0, *OFFSETS[every]]))
        more["format"] = draw(st.sampled_from(["", *FORMATS[every]]))
    plain = windows(every, start, **more)
    keys = [Calendar(plain).key(n) for n in first(Calendar(plain), 3)]
    return windows(every, start, exclude=draw(st.sets(st.sampled_from(keys))), **more), plain


def check_calendar(definition: Windows, plain: Windows) -> None:
    calendar, grid = Calendar(definition), Calendar(plain)
    numbers = first(calendar, COUNTS[definition.every])
    keys = [calendar.key(n) for n in numbers]
    starts = [calendar.start_us(n) for n in numbers]
    assert [calendar.ordinal(key) for key in keys] == numbers
    assert keys == sorted(set(keys))
    assert starts == sorted(set(starts))
    everything = first(grid, numbers.index(numbers[-1]) + 4)
    for here, following in pairwise(everything):
        begin, end = grid.start_us(here), grid.end_us(here)
        assert end == grid.start_us(following) > begin, (grid.key(here), grid.key(following))
        assert [calendar.at(us) for us in (begin, (begin + end) // 2, end - 1)] == [here] * 3
        assert calendar.at(end) == following
        assert grid.key(here) in definition.exclude or calendar.valid(here)
    assert set(definition.exclude).isdisjoint(keys)


@given(definitions())
@settings(deadline=None)
def test_keys_numbers_and_moments_agree(definition: tuple[Windows, Windows]) -> None:
    """Keys are unique, ordered as time, and lead back; windows meet; a moment finds its window."""
    check_calendar(*definition)


EMPTY = "a window that the clock leaves out is a window without time: valid, yet at() never finds it"


@pytest.mark.xfail(strict=True, reason=EMPTY)
@pytest.mark.parametrize(
    ("every", "start", "zone"),
    [
        ("day", "2011-12-27", "Pacific/Apia"),
        ("30 2 * * *", "2011-12-27", "Pacific/Apia"),
        ("*/15 0-4 * * *", "2024-03-31", "Europe/Berlin"),
    ],
)
def test_what_the_clock_leaves_out_is_no_window(
    every: str, start: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day Apia skipped; the four quarters that make one jump: windows have a length."""
    monkeypatch.setitem(COUNTS, every, 30)
    definition = windows(every, start, tz=zone)
    check_calendar(definition, definition)


def naive_hours(start: str, zone: str, count: int) -> list[tuple[str, int]]:
    here = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found: list[tuple[str, int]] = []
    said: set[str] = set()
    for n in range(count):
        local = (here + timedelta(hours=n)).astimezone(ZoneInfo(zone))
        probe = local.astimezone(UTC)
        earlier = [probe - timedelta(minutes=m) for m in (30, 60)]
        repeated = any(
            e.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local.replace(tzinfo=None)
            for e in earlier
        )
        text = local.strftime("%Y-%m-%dT%H:%M" if local.minute else "%Y-%m-%dT%H")
        text += local.isoformat()[-6:] if repeated else ""
        assert text not in said
        said.add(text)
        found.append((text, micros(probe)))
    return found


def naive_days(start: str, zone: str, count: int) -> list[tuple[str, int]]:
    """Each local date at the first moment the clock shows it, looking every quarter of an hour."""
    here = datetime.fromisoformat(start).replace(tzinfo=UTC) - timedelta(days=1)
    found: dict[date, int] = {}
    while len(found) <= count:
        local = here.astimezone(ZoneInfo(zone)).date()
        if local.isoformat() >= start:
            found.setdefault(local, micros(here))
        here += timedelta(minutes=15)
    return [(day.isoformat(), us) for day, us in found.items()][:count]


CHANGES = [
    ("Europe/Berlin", "2024-03-29", 23),
    ("Europe/Berlin", "2024-10-25", 25),
    ("America/New_York", "2024-03-08", 23),
    ("America/New_York", "2024-11-01", 25),
    ("America/Sao_Paulo", "2018-11-02", 23),
    ("America/Sao_Paulo", "2018-02-15", 25),
    ("Australia/Lord_Howe", "2024-04-05", 24.5),
    ("Australia/Lord_Howe", "2024-10-04", 23.5),
    ("Asia/Kolkata", "2024-01-01", 24),
    ("UTC", "2024-02-27", 24),
]


@pytest.mark.parametrize(("zone", "start", "length"), CHANGES)
def test_days_and_hours_are_those_of_the_clock(zone: str, start: str, length: float) -> None:
    """As listed by looking at the clock: keys and moments, also of the day it is changed."""
    days, hours = Calendar(fr.daily(start, tz=zone)), Calendar(fr.hourly(start, tz=zone))
    assert [(days.key(n), days.start_us(n)) for n in range(8)] == naive_days(start, zone, 8)
    listed = naive_hours(start, zone, 96)
    assert [(hours.key(n), hours.start_us(n)) for n in range(96)] == listed
    assert {(days.end_us(n) - days.start_us(n)) / HOUR_US for n in range(8)} == {24, length}


def test_the_repeated_hour_is_two_and_a_missing_midnight_is_one_oclock() -> None:
    """Berlin's 02:00 twice, no 02:00 in spring; Sao Paulo's 4 November begins at 01:00."""
    autumn = fr.hourly("2024-10-27", tz="Europe/Berlin")
    keys = [Calendar(autumn).key(n) for n in range(1, 5)]
    assert [key[11:] for key in keys] == ["01", "02", "02+01:00", "03"]
    assert not contains(autumn, "2024-10-27T02+02:00")
    assert not contains(fr.hourly("2024-03-31", tz="Europe/Berlin"), "2024-03-31T02")
    november = Calendar(fr.daily("2018-11-03", tz="America/Sao_Paulo"))
    begins = moment(november.start_us(1), "America/Sao_Paulo")
    assert (november.key(1), begins.hour, begins.day) == ("2018-11-04", 1, 4)
    apia = Calendar(fr.hourly("2011-12-29T23:00", tz="Pacific/Apia"))
    assert [apia.key(0), apia.key(1)] == ["2011-12-29T23", "2011-12-31T00"]


@pytest.mark.xfail(strict=True, reason="hour windows ignore offset=")
def test_an_offset_moves_hours_too() -> None:
    """With offset="15m" each hour begins at a quarter past."""
    hours = Calendar(fr.hourly("2024-01-01", offset="15m"))
    assert hours.start_us(0) % HOUR_US == HOUR_US // 4


@pytest.mark.xfail(strict=True, reason="Windows.grid leaves out where in the hour hours begin")
@pytest.mark.parametrize(
    ("one", "other", "zone"),
    [
        ("2024-01-01T00:30", "2024-01-01", "UTC"),
        ("2024-04-08", "2024-04-06", "Australia/Lord_Howe"),
    ],
)
def test_hours_of_one_grid_are_the_same_hours(one: str, other: str, zone: str) -> None:
    """Only windows with equal keys are identical; half an hour apart they overlap."""
    up, down = fr.hourly(other, tz=zone), fr.hourly(one, tz=zone)
    assert default_mapping(up, down) == Overlap()


@given(st.sampled_from(sorted(MAKE)), st.sampled_from(sorted(STARTS)), st.integers(1, 100))
@settings(deadline=None)
def test_a_window_counts_when_it_is_over_by_the_end(every: str, zone: str, days: int) -> None:
    """keys_of() are the windows that end no later than the end, which is exclusive."""
    start = "2024-01-17"
    end = date.fromisoformat(start) + timedelta(days=days)
    open_ended = Calendar(windows(every, start, tz=zone))
    limit = micros(datetime(end.year, end.month, end.day, tzinfo=ZoneInfo(zone)))
    numbers = range(days * 24 + 2)
    expected = [open_ended.key(n) for n in numbers if open_ended.end_us(n) <= limit]
    if not expected:
        with pytest.raises(DefinitionError, match="contain no window"):
            windows(every, start, tz=zone, end=end)
        return
    bounded = windows(every, start, tz=zone, end=end)
    assert list(keys_of(bounded)) == expected
    assert all(contains(bounded, key) for key in expected)
    assert not contains(bounded, open_ended.key(len(expected)))


def ticks(expression: str, start: str, count: int, zone: str = "UTC") -> list[int]:
    begin = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)) - timedelta(seconds=1)
    found = CronSim(expression, begin if zone != "UTC" else begin.replace(tzinfo=UTC))
    return [micros(next(found)) for _ in range(count)]


@pytest.mark.parametrize("start", ["2023-12-30", "2024-02-29", "2024-01-15T12:07"])
@pytest.mark.parametrize("expression", CRONS)
def test_cron_windows_begin_at_the_ticks(expression: str, start: str) -> None:
    """From each tick to the next, as cronsim lists them one by one."""
    listed = ticks(expression, start, CRONS[expression] + 1)
    calendar = Calendar(fr.cron_windows(expression, start))
    numbers = first(calendar, CRONS[expression])
    assert [calendar.start_us(n) for n in numbers] == listed[:-1]
    assert [calendar.end_us(n) for n in numbers] == listed[1:]
    once = len({us % DAY_US for us in listed}) == 1
    keys = [moment(us).strftime("%Y-%m-%d" if once else "%Y-%m-%dT%H:%M") for us in listed]
    assert [calendar.key(n) for n in numbers] == keys[:-1]


@pytest.mark.parametrize("start", ["2024-03-29", "2024-10-25"])
def test_a_nightly_cron_follows_the_clock(start: str) -> None:
    """At half past two, at three when that is left out, and once when it is repeated."""
    calendar = Calendar(fr.cron_windows("30 2 * * *", start, tz="Europe/Berlin"))
    listed = ticks("30 2 * * *", start, 6, "Europe/Berlin")
    assert [calendar.start_us(n) for n in range(6)] == listed


@pytest.mark.xfail(strict=True, reason="MAX_HOLES counts slots, not days: 4000 are 2.8 days here")
@pytest.mark.parametrize("expression", ["* * * * mon", "*/15 9-17 29 2 *", "*/5 * 1 1 *"])
def test_a_cron_of_many_ticks_and_few_days_has_a_next_window(expression: str) -> None:
    """The last window of a day lasts until the next day with ticks, however far that is."""
    listed = ticks(expression, "2024-01-01", 1500)
    last = next(n for n, (us, after) in enumerate(pairwise(listed)) if after - us > DAY_US)
    calendar = Calendar(fr.cron_windows(expression, "2024-01-01"))
    here = calendar.at(listed[last])
    assert calendar.start_us(here) == listed[last]
    assert calendar.end_us(here) == listed[last + 1]
    assert calendar.step(here, 1) == calendar.at(listed[last + 1])
    assert calendar.at(listed[last + 1] - 1) == here


JANUARY = [
    windows("day", "2024-01-03"),
    windows("day", "2024-01-01", exclude=["2024-01-01"]),
    windows("day", "2024-01-02", exclude=["2024-01-04", "2024-01-05", "2024-01-09"]),
    windows("day", "2024-01-01", end="2024-01-12", exclude=["2024-01-11"]),
    windows("day", "2024-01-05"),
]
WORKDAYS = [
    windows("0 6 * * mon-fri", "2024-01-01"),
    windows("0 6 * * mon-fri", "2024-01-06", exclude=["2024-01-09"]),
    windows("0 6 * * mon-fri", "2024-01-03", exclude=["2024-01-05", "2024-01-15"]),
]
HOURS = [
    windows("hour", "2024-03-30T05:00", tz="Europe/Berlin"),
    windows("hour", "2024-03-29", tz="Europe/Berlin", exclude=["2024-03-30T23"]),
    windows("hour", "2024-03-30", tz="Europe/Berlin", end="2024-04-01"),
]
GRIDS = [
    *HOURS,
    windows("day", "2024-03-29", tz="Europe/Berlin", exclude=["2024-03-30"]),
    windows("day", "2024-03-29", tz="Europe/Berlin", offset="6h"),
    windows("week", "2024-03-25", tz="Europe/Berlin"),
    windows("month", "2024-03-01"),
    windows("0 6 * * mon-fri", "2024-03-28", tz="Europe/Berlin"),
    windows("day", "2024-03-28", tz="Australia/Lord_Howe"),
]
REGION = fr.static(["eu", "us", "asia"])
FEW = fr.static(["us", "eu"])


@given(st.sampled_from(JANUARY + WORKDAYS), st.integers(0, 12), st.integers(-12, 12))
def test_steps_count_windows_and_pass_over_holes(shape: Windows, at: int, count: int) -> None:
    """step() is moving in the list of windows; before the first there is None."""
    calendar = Calendar(shape)
    listed = [n for n in range(60) if not (calendar.has_holes and calendar._is_hole(n))]
    expected = listed[at + count] if at + count >= 0 else None
    assert calendar.step(listed[at], count) == expected
