"""Windows of time and what maps to what: calendars beside plain enumeration, lanes both ways."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

import freshet as fr
from freshet.engine import mappings as m
from freshet.engine.errors import DefinitionError
from freshet.engine.lanes import lane_between
from freshet.engine.mappings import default_mapping, is_many, mapping_problem
from freshet.engine.partitions import Partitions
from freshet.engine.spaces import DynamicSpace, ProductSpace, Space, contains, keys_of, space_of
from freshet.engine.windows import DAY_US, HOUR_US, Calendar, Windows

STARTS = {
    "UTC": "2023-12-20T05:00 2024-02-20",
    "Europe/Berlin": "2024-03-28 2024-10-24T06:00",
    "America/New_York": "2024-03-07 2024-10-31T00:30",
    "America/Sao_Paulo": "2018-02-14 2018-11-01",
    "Asia/Kolkata": "2024-01-01",
    "Australia/Lord_Howe": "2024-04-04 2024-10-03T01:30",
    "Pacific/Apia": "2011-12-27 2012-01-01",
}
"""Zones, and local times a few days before their clocks change."""

CRONS = {"0 6 * * mon-fri": 40, "*/15 9-17 * * 1-5": 90, "0 0 L * *": 14, "30 2 * * *": 40}
CRONS |= {"0 0 29 2 *": 3, "0 */6 * * *": 50, "0 12 1,15 * fri": 30, "0 0 * * mon#2": 9}
"""Cron expressions, and how many windows of each to look at."""

COUNTS = {"hour": 120, "day": 40, "week": 12, "month": 14, **CRONS}
OFFSETS = {"day": ["90m", "6h"], "week": ["1d", "36h", "4d"], "month": ["6h", "5d"]}
FORMATS = {"day": ["%Y%m%d", "%Y/%m/%d", "%Y-%j"], "week": ["%Y.%m.%d"], "month": ["%Y%m"]}
MAKE: dict[str, Any] = {"hour": fr.hourly, "day": fr.daily, "week": fr.weekly}
MAKE["month"] = fr.monthly


def fault(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, reason=reason)


def windows(every: str, start: str, **more: Any) -> Windows:
    made = MAKE[every](start, **more) if every in MAKE else fr.cron_windows(every, start, **more)
    assert isinstance(made, Windows)
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


def check_calendar(definition: Windows, plain: Windows, count: int) -> None:
    calendar, grid = Calendar(definition), Calendar(plain)
    numbers = first(calendar, count)
    keys = [calendar.key(n) for n in numbers]
    starts = [calendar.start_us(n) for n in numbers]
    assert [calendar.ordinal(key) for key in keys] == numbers
    assert keys == sorted(set(keys))
    assert starts == sorted(set(starts))
    form = plain.format or ("%Y-%m" if plain.every == "month" else "%Y-%m-%d")
    for key, us in zip(keys, starts, strict=True):
        day = moment(us, plain.tz)
        assert key.startswith(day.strftime(form)) or day.date() == date(2011, 12, 31)
    for here, following in pairwise(first(grid, count + 1)):
        begin, end = grid.start_us(here), grid.end_us(here)
        assert end == grid.start_us(following) > begin, (grid.key(here), grid.key(following))
        assert [calendar.at(us) for us in (begin, (begin + end) // 2, end - 1)] == [here] * 3
        assert calendar.at(end) == following
        assert calendar.valid(here) == (grid.key(here) not in definition.exclude)


UTC_WEEKS = fault("start_us of weeks in UTC counts from the year 1")


def zones(units: list[str]) -> list[Any]:
    """All pairs of one of these and a zone."""
    pairs = [(every, zone) for every in units for zone in STARTS]
    return [pytest.param(*p, marks=[UTC_WEEKS] if p == ("week", "UTC") else []) for p in pairs]


@pytest.mark.parametrize(("every", "zone"), zones(list(COUNTS)))
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_keys_numbers_and_moments_agree(every: str, zone: str, data: st.DataObject) -> None:
    """Keys are unique, ordered as time, and lead back; windows meet; a moment finds its window."""
    start = data.draw(st.sampled_from(STARTS[zone].split()))
    if zone == "Pacific/Apia" and every not in ("hour", "week", "month"):
        start = "2012-01-01"  # for the day that Apia skipped see below
    more: dict[str, Any] = {"tz": zone}
    if every in OFFSETS:
        more["offset"] = data.draw(st.sampled_from([0, *OFFSETS[every]]))
        more["format"] = data.draw(st.sampled_from(["", *FORMATS[every]]))
    plain = windows(every, start, **more)
    keys = [Calendar(plain).key(n) for n in first(Calendar(plain), 3)]
    exclude = sorted(data.draw(st.sets(st.sampled_from(keys))))
    check_calendar(windows(every, start, exclude=exclude, **more), plain, COUNTS[every])


EMPTY = "what the clock leaves out is a window without time: valid, yet at() never finds it"
LEFT_OUT = [("day", "2011-12-27", "Pacific/Apia"), ("0 0 * * *", "2011-12-27", "Pacific/Apia")]
LEFT_OUT += [("*/15 0-4 * * *", "2024-03-31", "Europe/Berlin")]


@fault(EMPTY)
@pytest.mark.parametrize(("every", "start", "zone"), LEFT_OUT)
def test_what_the_clock_leaves_out_is_no_window(every: str, start: str, zone: str) -> None:
    """The day Apia skipped; the four quarters that make one jump: windows have a length."""
    definition = windows(every, start, tz=zone)
    check_calendar(definition, definition, 30)


def naive_hours(start: str, zone: str, count: int) -> list[tuple[str, int]]:
    """Hour after hour, with the offset where the clock showed the same an hour or half before."""
    here = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = []
    for n in range(count):
        us = micros(here + timedelta(hours=n))
        local = moment(us, zone)
        before = [moment(us - half * HOUR_US // 2, zone) for half in (1, 2)]
        repeated = any(b.replace(tzinfo=None) == local.replace(tzinfo=None) for b in before)
        text = local.strftime("%Y-%m-%dT%H:%M" if local.minute else "%Y-%m-%dT%H")
        found.append((text + (local.isoformat()[-6:] if repeated else ""), us))
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


CHANGES = """
Europe/Berlin 2024-03-29 23,Europe/Berlin 2024-10-25 25,Asia/Kolkata 2024-01-01 24
America/New_York 2024-03-08 23,America/New_York 2024-11-01 25,UTC 2024-02-27 24
America/Sao_Paulo 2018-11-02 23,America/Sao_Paulo 2018-02-15 25
Australia/Lord_Howe 2024-04-05 24.5,Australia/Lord_Howe 2024-10-04 23.5"""


@pytest.mark.parametrize("change", re.split("[\n,]", CHANGES.strip()))
def test_days_and_hours_are_those_of_the_clock(change: str) -> None:
    """As listed by looking at the clock: keys and moments, also of the day it is changed."""
    zone, start, length = change.split()
    days, hours = Calendar(fr.daily(start, tz=zone)), Calendar(fr.hourly(start, tz=zone))
    assert [(days.key(n), days.start_us(n)) for n in range(8)] == naive_days(start, zone, 8)
    listed = naive_hours(start, zone, 96)
    assert [(hours.key(n), hours.start_us(n)) for n in range(96)] == listed
    assert {(days.end_us(n) - days.start_us(n)) / HOUR_US for n in range(8)} == {24, float(length)}


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


@fault("hour windows ignore offset=")
def test_an_offset_moves_hours_too() -> None:
    """With offset="15m" each hour begins at a quarter past."""
    hours = Calendar(fr.hourly("2024-01-01", offset="15m"))
    assert hours.start_us(0) % HOUR_US == HOUR_US // 4


@fault("Windows.grid leaves out where in the hour hours begin")
@pytest.mark.parametrize(
    "starts", ["UTC 2024-01-01T00:30 2024-01-01", "Australia/Lord_Howe 2024-04-08 2024-04-06"]
)
def test_hours_of_one_grid_are_the_same_hours(starts: str) -> None:
    """Only windows with equal keys are identical; half an hour apart they overlap."""
    zone, one, other = starts.split()
    up, down = fr.hourly(other, tz=zone), fr.hourly(one, tz=zone)
    assert default_mapping(up, down) == m.Overlap()


@pytest.mark.parametrize(("every", "zone"), zones(list(MAKE)))
@pytest.mark.parametrize("days", [1, 11, 40, 100])
def test_a_window_counts_when_it_is_over_by_the_end(every: str, zone: str, days: int) -> None:
    """keys_of() are the windows that end no later than the end, which is exclusive."""
    start = "2024-01-17"
    end = date.fromisoformat(start) + timedelta(days=days)
    open_ended = Calendar(windows(every, start, tz=zone))
    limit = micros(datetime(end.year, end.month, end.day, tzinfo=ZoneInfo(zone)))
    over = takewhile(lambda n: open_ended.end_us(n) <= limit, range(days * 24 + 2))
    expected = [open_ended.key(n) for n in over]
    if not expected:
        with pytest.raises(DefinitionError, match="contain no window"):
            windows(every, start, tz=zone, end=end)
        return
    bounded = windows(every, start, tz=zone, end=end)
    assert list(islice(keys_of(bounded), len(expected) + 1)) == expected
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


@fault("MAX_HOLES counts slots, not days: 4000 are 2.8 days here")
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
    fr.daily("2024-01-03"),
    fr.daily("2024-01-01", exclude=["2024-01-01"]),
    fr.daily("2024-01-02", exclude=["2024-01-04", "2024-01-05", "2024-01-09"]),
    fr.daily("2024-01-01", end="2024-01-12", exclude=["2024-01-11"]),
    fr.daily("2024-01-05"),
]
WORKDAYS = [
    fr.cron_windows("0 6 * * mon-fri", "2024-01-01"),
    fr.cron_windows("0 6 * * mon-fri", "2024-01-06", exclude=["2024-01-09"]),
    fr.cron_windows("0 6 * * mon-fri", "2024-01-03", exclude=["2024-01-05", "2024-01-15"]),
]
HERE: dict[str, Any] = {"tz": "Europe/Berlin"}
GRIDS = [
    fr.hourly("2024-03-30T05:00", **HERE),
    fr.hourly("2024-03-29", end="2024-04-01", exclude=["2024-03-30T23"], **HERE),
    fr.daily("2024-03-29", exclude=["2024-03-30"], **HERE),
    fr.daily("2024-03-29", offset="6h", **HERE),
    fr.weekly("2024-03-25", **HERE),
    fr.monthly("2024-03-01"),
    fr.cron_windows("0 6 * * mon-fri", "2024-03-28", **HERE),
    fr.daily("2024-03-28", tz="Australia/Lord_Howe"),
]
REGIONS = [fr.static(["eu", "us", "asia"]), fr.static(["us", "eu"])]
NAMES = st.lists(st.sampled_from(["eu", "us"]), unique=True).map(tuple)
TABLES = st.dictionaries(st.sampled_from(["eu", "us"]), NAMES).map(
    lambda d: m.Table(tuple(d.items()))
)
STEPS = st.one_of(
    st.sampled_from([m.Identity(), m.All()]),
    st.integers(-4, 4).map(m.Offset),
    st.integers(1, 5).map(m.Trailing),
)


@given(st.sampled_from(JANUARY + WORKDAYS), st.integers(0, 12), st.integers(-12, 12))
def test_steps_count_windows_and_pass_over_holes(shape: Windows, at: int, count: int) -> None:
    """step() is moving in the list of windows, whatever the end; before the first there is None."""
    calendar = Calendar(msgspec.structs.replace(shape, end=None))
    listed = first(calendar, 30)
    expected = listed[at + count] if at + count >= 0 else None
    assert Calendar(shape).step(listed[at], count) == expected


@st.composite
def edges(draw: st.DrawFn) -> tuple[m.PartitionMapping, Partitions, Partitions]:
    """A mapping of any kind, and two definitions between which it can be asked."""
    kind = draw(st.sampled_from(["steps", "overlap", "regions", "product", "to one", "from one"]))
    days = st.sampled_from(draw(st.sampled_from([JANUARY, WORKDAYS])))
    region = draw(st.one_of(st.just(m.Identity()), TABLES, st.just(m.All())))
    if kind == "overlap":
        return m.Overlap(), draw(st.sampled_from(GRIDS)), draw(st.sampled_from(GRIDS))
    if kind == "regions":
        return region, *(draw(st.sampled_from([*REGIONS, fr.dynamic()])) for _ in "12")
    if kind == "steps":
        return draw(STEPS), draw(days), draw(days)
    up, down = (fr.product(region=draw(st.sampled_from(REGIONS)), day=draw(days)) for _ in "12")
    day = m.Pair("day", "day", draw(STEPS))
    if kind == "to one":
        return m.Dimensions((m.Pair("", "day", day.mapping),)), up, draw(days)
    if kind == "from one":
        return m.Dimensions((m.Pair("day", "", day.mapping),)), draw(days), down
    pairs = [day, m.Pair("region", "region", region)]
    return m.Dimensions(tuple(draw(st.lists(st.sampled_from(pairs), unique=True)))), up, down


def numbered(partitions: Partitions) -> tuple[Space, list[int], int]:
    """A numbering, the partitions it has so far, and how many numbers these take."""
    space = space_of(partitions)
    if isinstance(space, DynamicSpace):
        assert [space.add(key) for key in ("us", "asia", "eu", "us")] == [0, 1, 2, 0]
    count = next(n for n in range(80, 0, -1) if space.size is None or n <= space.size)
    count -= count % max(space.stride) if isinstance(space, ProductSpace) else 0
    return space, [n for n in range(count) if space.valid(n)], count


@given(edges())
@settings(deadline=None, max_examples=400)
def test_lanes_say_the_same_in_both_directions(
    edge: tuple[m.PartitionMapping, Partitions, Partitions],
) -> None:
    """What i reads is read by i, for partitions that there are; each list ascends."""
    (up, theirs, above), (down, ours, below) = numbered(edge[1]), numbered(edge[2])
    lane = lane_between(edge[0], up, down, edge[1])
    reads = {i: lane.reads(i, above) for i in ours}
    readers = {j: lane.readers(j, below) for j in theirs}
    for found in (*reads.values(), *readers.values()):
        assert list(found) == sorted(set(found))
    forth = {(i, j) for i in ours for j in theirs if j in reads[i]}
    assert forth == {(i, j) for i in ours for j in theirs if i in readers[j]}


@given(st.integers(-4, 4), st.integers(0, 4), *[st.sampled_from(JANUARY)] * 2)
def test_offsets_count_the_windows_of_the_upstream(
    offset: int, before: int, upstream: Windows, downstream: Windows
) -> None:
    """Beside the list of the upstream's windows, for windows that both sides have."""
    up, down = Calendar(msgspec.structs.replace(upstream, end=None)), Calendar(downstream)
    listed = [up.key(n) for n in first(up, 30)]
    for mapping, steps in (
        (m.Offset(offset), range(offset, offset + 1)),
        (m.Trailing(before + 1), range(-before, 1)),
    ):
        lane = lane_between(mapping, Calendar(upstream), down, upstream)
        for i in first(down, 9):
            if down.key(i) in listed:
                at = listed.index(down.key(i))
                found = [up.key(j) for j in lane.reads(i, 0) if up.valid(j)]
                assert found == [listed[at + step] for step in steps if at + step >= 0]


@fault("a step from before the upstream's start ends in None")
def test_a_hole_elsewhere_changes_nothing() -> None:
    """Two days later than a day before the upstream's start may be its first."""
    down = space_of(fr.daily("2024-01-01"))
    for more in ({}, {"exclude": ["2024-01-20"]}):
        upstream = windows("day", "2024-01-03", **more)
        assert list(lane_between(m.Offset(2), space_of(upstream), down, upstream).reads(0, 0)) == [
            0
        ]


@fault("a table keeps what is listed twice")
def test_what_a_table_lists_twice_is_read_once() -> None:
    """One input, not two."""
    up, down = fr.static(["x"]), fr.static(["a"])
    lane = lane_between(m.Table((("a", ("x", "x")),)), space_of(up), space_of(down), up)
    assert (list(lane.reads(0, 1)), list(lane.readers(0, 1)), lane.needed(0)) == ([0], [0], 1)


@fault(EMPTY)
def test_lanes_agree_about_quarters_that_the_clock_leaves_out() -> None:
    """A day reads exactly those quarters whose reader it is."""
    upstream = fr.cron_windows("*/15 * * * *", "2024-03-31", **HERE)
    up, down = space_of(upstream), space_of(fr.daily("2024-03-31", **HERE))
    lane = lane_between(m.Overlap(), up, down, upstream)
    assert [j for j in lane.reads(0, 0) if up.valid(j) and 0 not in lane.readers(j, 0)] == []


def test_what_is_expected_of_a_pair_and_what_a_parameter_receives() -> None:
    """Equal grids: the same window; others: overlap; one value where it can be but one."""
    hours, days, weeks = fr.hourly("2024-01-01"), fr.daily("2024-01-01"), fr.weekly("2024-01-01")
    assert default_mapping(days, fr.daily("2024-02-01")) == m.Identity()
    assert default_mapping(hours, days) == default_mapping(days, hours) == m.Overlap()
    assert default_mapping(days, fr.daily("2024-01-01", tz="Asia/Kolkata")) == m.Overlap()
    assert default_mapping(days, None) == default_mapping(None, days) == m.All()
    assert default_mapping(REGIONS[0], days) is None
    both = fr.product(day=days, region=REGIONS[0])
    assert default_mapping(days, both) == m.Dimensions((m.Pair("day", "", m.Identity()),))
    many = [(hours, days), (days, weeks), (days, fr.daily("2024-01-01", tz="Asia/Kolkata"))]
    assert all(
        is_many(m.Overlap(), up, down) and not is_many(m.Last(), up, down) for up, down in many
    )
    assert not any(is_many(m.Overlap(), up, down) for up, down in [(days, hours), (weeks, days)])
    assert is_many(m.Trailing(1), days, days)
    assert not is_many(m.Dimensions((m.Pair("day", "", m.Identity()),)), days, both)
    assert is_many(m.Dimensions((m.Pair("", "day", m.Identity()),)), both, days)
    bounded = fr.product(region=REGIONS[1], day=fr.daily("2024-01-01", end="2024-01-03"))
    keys = [f"{region}|2024-01-0{n}" for region in ("us", "eu") for n in (1, 2)]
    assert list(keys_of(bounded)) == keys
    assert all(contains(bounded, key) for key in keys)
    assert not any(contains(bounded, key) for key in ("us", "2024-01-01|us", "us|2024-01-03"))


def project(up: Partitions, down: Partitions, mapping: Any, key: str = "up") -> fr.Project:
    """A source `up` and an asset `down` that reads it, or itself."""

    def made(x: Any) -> int:
        return 1

    below = fr.asset(key="down", partitions=down, inputs={"x": fr.Input(key, mapping)})(made)
    return fr.Project([fr.source("up", partitions=up), below])


def days(start: int, end: int | None = None, **more: Any) -> Windows:
    return fr.daily(date(2024, 1, start), end=date(2024, 1, end) if end else None, **more)


DAY, BOTH = days(1), fr.product(day=days(1), region=REGIONS[0])
REFUSED: list[tuple[Callable[[], object], str]] = [
    *((lambda z=z: days(1, tz=z), f"no time zone '{z}'") for z in ("Mars/X", "Europe", "", "../x")),
    (lambda: fr.cron_windows("0 6 * *", "2024-01-01"), r"'0 6 \* \*' has 4 fields"),
    (lambda: fr.cron_windows("0 0 6 * * *", "2024-01-01"), "has 6 fields"),
    (lambda: fr.cron_windows("0 0 30 2 *", "2024-01-01"), "'0 0 30 2 .*day-of-month"),
    (lambda: fr.cron_windows("61 * * * *", "2024-01-01"), "'61 .*minute"),
    (lambda: fr.cron_windows("0 0 * * fun", "2024-01-01"), "fun'.*day-of-week"),
    (lambda: days(9, 5), "2024-01-09 to 2024-01-05"),
    (lambda: fr.monthly("2024-01-10", end="2024-02-20"), "2024-01-10 to 2024-02-20"),
    (lambda: days(1, exclude=["2024-01-32"]), "'2024-01-32'.*'2024-01-01'"),
    (lambda: days(1, exclude=["2024-1-5"]), "'2024-1-5'"),
    (lambda: fr.weekly("2024-01-01", exclude=["2024-01-02"]), "'2024-01-02'.*'2024-01-01'"),
    *((lambda f=f: days(1, format=f), f"'{f}'") for f in ("%d", "%Y-%m", "day", "%Y-%W")),
    (lambda: fr.monthly("2024-01-01", format="%m"), "'%m'"),
    *((lambda o=o: days(1, offset=o), f"offset='{o}'") for o in ("24h", "90s", "-1h", "soon")),
    (lambda: fr.hourly("2024-01-01", offset="60m"), "offset='60m'"),
    (lambda: fr.weekly("2024-01-01", offset="7d"), "offset='7d'"),
    (lambda: fr.product(a=days(1), b=fr.dynamic()), r"\(a, b\)"),
    (lambda: fr.product(a=days(1), b=fr.static(["x|y"])), r"'x\|y' of dimension 'b'"),
    (lambda: project(days(3), days(2), None), "2024-01-03, later than 2024-01-02"),
    (lambda: project(days(1, 8), days(1), None), "2024-01-08, earlier than never"),
    (lambda: project(days(1, 8), days(1, 9), None), "2024-01-08, earlier than 2024-01-09"),
    (lambda: project(days(1, 8), days(1, 8), fr.offset(1)), "earlier than 2024-01-08"),
    (lambda: project(days(1, exclude=["2024-01-05"]), DAY, None), "excludes 2024-01-05"),
    (lambda: project(BOTH, DAY, fr.dimensions(_="hour")), "dimension 'hour'.*'day', 'region'"),
    (lambda: project(DAY, BOTH, fr.dimensions(hour="_")), "dimension 'hour'.*'day', 'region'"),
    (lambda: project(DAY, DAY, fr.by_function(lambda key: [key])), "partitions are all known"),
    *(
        (lambda own=own: project(DAY, DAY, own, "down"), "own earlier partitions")
        for own in (fr.same_partition(), fr.trailing(2), fr.offset(1), fr.last(), fr.overlapping())
    ),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_cannot_be_is_refused_with_what_was_seen(
    make: Callable[[], object], words: str
) -> None:
    """A DefinitionError that says what was seen, and why or what to do."""
    with pytest.raises(DefinitionError) as caught:
        make()
    assert re.search(words, str(caught.value).replace("\n", " ")), str(caught.value)
    assert caught.value.hint or caught.value.cause


def test_an_asset_may_depend_on_its_own_earlier_windows() -> None:
    """previous() and offset(-2) are earlier."""
    for mapping in (fr.previous(), fr.offset(-2)):
        (dep,) = project(DAY, DAY, mapping, "down").graph.specs["down"].deps
        assert dep.mapping == mapping


@fault("formatted keys are not checked as partition keys are")
@pytest.mark.parametrize("form", [" %Y%m%d", "%Y|%m|%d", "\t%Y%m%d"])
def test_a_format_makes_keys_that_a_product_can_have(form: str) -> None:
    """No white space around, and not what separates the dimensions: the key would not be found."""
    with pytest.raises(DefinitionError):
        fr.product(day=days(1, format=form), region=REGIONS[0])


COMPLETE = [
    (m.Offset(-1), days(1, 10), days(1, 11)),
    (m.Offset(2), days(3), days(1)),
    (m.Identity(), days(2), days(1, exclude=["2024-01-01"])),
    (m.Overlap(), days(8), fr.cron_windows("0 0 * * mon-fri", "2024-01-06")),
]


@fault("_incomplete looks at the bounds, not at the inputs")
@pytest.mark.parametrize(("mapping", "up", "down"), COMPLETE)
def test_windows_that_have_all_inputs_are_accepted(
    mapping: m.PartitionMapping, up: Windows, down: Windows
) -> None:
    """Every input of every downstream window is a window of the upstream."""
    assert mapping_problem(mapping, up, down) is None
