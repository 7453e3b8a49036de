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
    return datetime.fromtimestamp(us // 1_000_000, ZoneInfo(zone))


def micros(when: datetime) -> int:
    return int(when.timestamp()) * 1_000_000


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


def zones(units: list[str]) -> list[Any]:
    """All pairs of one of these and a zone."""
    pairs = [(every, zone) for every in units for zone in STARTS]
    return [pytest.param(*p) for p in pairs]


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


EMPTY = "what the clock leaves out"
LEFT_OUT = [("day", "2011-12-27", "Pacific/Apia"), ("0 0 * * *", "2011-12-27", "Pacific/Apia")]
LEFT_OUT += [("*/15 0-4 * * *", "2024-03-31", "Europe/Berlin")]


@pytest.mark.parametrize(("every", "start", "zone"), LEFT_OUT)
def test_what_the_clock_leaves_out_is_no_window(every: str, start: str, zone: str) -> None:
    """The day Apia skipped; the four quarters that make one jump: windows have a length."""
    definition = windows(every, start, tz=zone)
    check_calendar(definition, definition, 30)


def naive(start: str, zone: str) -> tuple[list[tuple[str, int]], ...]:
    """Days from the first moment the clock shows them, and hours, looking every quarter hour."""
    here = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    days: dict[str, int] = {}
    hours, seen = [], set()
    for n in range(4 * 24 * 8):
        us = micros(here) + n * HOUR_US // 4
        local = moment(us, zone)
        days.setdefault(local.strftime("%Y-%m-%d"), us)
        text = local.strftime("%Y-%m-%dT%H:%M")
        if n % 4 == 0:
            offset = local.isoformat()[-6:] if text in seen else ""
            hours.append((text.removesuffix(":00") + offset, us))
        seen.add(text)
    return list(days.items())[:7], hours


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
    listed_days, listed_hours = naive(start, zone)
    assert [(days.key(n), days.start_us(n)) for n in range(7)] == listed_days
    assert [(hours.key(n), hours.start_us(n)) for n in range(8 * 24)] == listed_hours
    assert {(days.end_us(n) - days.start_us(n)) / HOUR_US for n in range(7)} == {24, float(length)}


def test_the_repeated_hour_is_two_and_a_missing_midnight_is_one_oclock() -> None:
    """Berlin's 02:00 twice, no 02:00 in spring; Sao Paulo's 4 November begins at 01:00."""
    autumn = fr.hourly("2024-10-27", end="2024-10-27T04:00", tz="Europe/Berlin")
    assert [key[11:] for key in keys_of(autumn)] == ["00", "01", "02", "02+01:00", "03"]
    assert not contains(autumn, "2024-10-27T02+02:00")
    assert not contains(fr.hourly("2024-03-31", tz="Europe/Berlin"), "2024-03-31T02")
    november = Calendar(fr.daily("2018-11-04", tz="America/Sao_Paulo"))
    begins = moment(november.start_us(0), "America/Sao_Paulo")
    assert (november.key(0), begins.hour, begins.day) == ("2018-11-04", 1, 4)


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


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("start", ["2024-02-29", "2024-03-28T12:07", "2024-10-25"])
@pytest.mark.parametrize("expression", CRONS)
def test_cron_windows_begin_at_the_ticks(expression: str, start: str, zone: str) -> None:
    """From each tick to the next, as cronsim lists them one by one; half past two is at three when
    the clock leaves it out, and once when it repeats it.
    """
    listed = ticks(expression, start, CRONS[expression] + 1, zone)
    calendar = Calendar(fr.cron_windows(expression, start, tz=zone))
    numbers = first(calendar, CRONS[expression])
    assert [calendar.start_us(n) for n in numbers] == listed[:-1]
    assert [calendar.end_us(n) for n in numbers] == listed[1:]
    form = "%Y-%m-%dT%H:%M" if "*/" in expression else "%Y-%m-%d"
    assert [calendar.key(n) for n in numbers] == [moment(u, zone).strftime(form) for u in listed][
        :-1
    ]


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


def days(start: int, end: int | None = None, **more: Any) -> Windows:
    return fr.daily(date(2024, 1, start), end=date(2024, 1, end) if end else None, **more)


def workdays(start: int, **more: Any) -> Windows:
    return fr.cron_windows("0 6 * * mon-fri", date(2024, 1, start), **more)


def berlin(every: str, day: str, **more: Any) -> Windows:
    return windows(every, f"2024-03-{day}", tz="Europe/Berlin", **more)


JANUARY = [days(3), days(1, exclude=["2024-01-01"]), days(1, 12, exclude=["2024-01-11"]), days(5)]
JANUARY += [days(2, exclude=["2024-01-04", "2024-01-05", "2024-01-09"])]
WORKDAYS = [workdays(1), workdays(6, exclude=["2024-01-09"])]
WORKDAYS += [workdays(3, exclude=["2024-01-05", "2024-01-15"])]
GRIDS = [berlin("week", "25"), berlin("day", "29", offset="6h"), berlin("hour", "30T05:00")]
GRIDS += [
    berlin("hour", "29", end="2024-04-01", exclude=["2024-03-30T23"]),
    fr.monthly("2024-03-01"),
]
GRIDS += [berlin("day", "29", exclude=["2024-03-30"]), berlin("0 6 * * mon-fri", "28")]
GRIDS += [fr.daily("2024-03-28", tz="Australia/Lord_Howe")]
REGIONS = [fr.static(["eu", "us", "asia"]), fr.static(["us", "eu"])]
NAMES = st.lists(st.sampled_from(["eu", "us"]), unique=True).map(tuple)
TABLES = st.dictionaries(st.sampled_from(["eu", "us"]), NAMES).map(lambda d: m.Table((*d.items(),)))
DAY, BOTH = days(1), fr.product(day=days(1), region=REGIONS[0])
HOURS = fr.hourly("2024-01-01")
One = m.Identity | m.All | m.Offset | m.Trailing | m.Table
SAME: st.SearchStrategy[One] = st.sampled_from([m.Identity(), m.All()])
Edge = tuple[m.PartitionMapping, Partitions, Partitions]


@given(st.sampled_from(JANUARY + WORKDAYS), st.integers(0, 12), st.integers(-12, 12))
def test_steps_count_windows_and_pass_over_holes(shape: Windows, at: int, count: int) -> None:
    """step() is moving in the list of windows, whatever the end; before the first there is None."""
    calendar = Calendar(msgspec.structs.replace(shape, end=None))
    listed = first(calendar, 30)
    expected = listed[at + count] if at + count >= 0 else None
    assert Calendar(shape).step(listed[at], count) == expected


@st.composite
def edges(draw: st.DrawFn) -> Edge:
    """A mapping of any kind, and two definitions between which it can be asked."""
    kind = draw(st.sampled_from(["steps", "overlap", "regions", "product", "to one", "from one"]))
    either = st.sampled_from(draw(st.sampled_from([JANUARY, WORKDAYS])))
    above, below = draw(either), draw(either)
    ahead = 0 if below.start < above.start else 4  # further ahead: see below
    step: One = draw(
        SAME | st.integers(-4, ahead).map(m.Offset) | st.integers(1, 5).map(m.Trailing)
    )
    region: One = draw(SAME | TABLES)
    if kind == "overlap":
        return m.Overlap(), draw(st.sampled_from(GRIDS)), draw(st.sampled_from(GRIDS))
    if kind == "regions":
        names: st.SearchStrategy[Partitions] = st.sampled_from([*REGIONS, fr.dynamic()])
        return region, draw(names), draw(names)
    if kind == "steps":
        return step, above, below
    up = fr.product(region=draw(st.sampled_from(REGIONS)), day=above)
    down = fr.product(region=draw(st.sampled_from(REGIONS)), day=below)
    if kind == "to one":
        return m.Dimensions((m.Pair("", "day", step),)), up, below
    if kind == "from one":
        return m.Dimensions((m.Pair("day", "", step),)), above, down
    pairs = st.sampled_from([m.Pair("day", "day", step), m.Pair("region", "region", region)])
    return m.Dimensions(tuple(draw(st.lists(pairs, unique=True)))), up, down


def numbered(partitions: Partitions) -> tuple[Space, list[int], int]:
    """A numbering, the partitions it has so far, and how many numbers these take."""
    space = space_of(partitions)
    count = 80 if space.size is None else min(80, space.size)
    if isinstance(space, DynamicSpace):
        assert [space.add(key) for key in ("us", "asia", "eu", "us")] == [0, 1, 2, 0]
        count = 3
    count -= count % max(space.stride) if isinstance(space, ProductSpace) else 0
    return space, [n for n in range(count) if space.valid(n)], count


def agree(edge: Edge) -> bool:
    """Do both directions say the same, and do all lists ascend?"""
    (up, theirs, above), (down, ours, below) = numbered(edge[1]), numbered(edge[2])
    lane = lane_between(edge[0], up, down, edge[1])
    reads = {i: lane.reads(i, above) for i in ours}
    readers = {j: lane.readers(j, below) for j in theirs}
    forth = {(i, j) for i in ours for j in theirs if j in reads[i]}
    back = {(i, j) for i in ours for j in theirs if i in readers[j]}
    lists = [list(found) for found in (*reads.values(), *readers.values())]
    return forth == back and all(found == sorted(set(found)) for found in lists)


@given(edges())
@settings(deadline=None, max_examples=400)
def test_lanes_say_the_same_in_both_directions(edge: Edge) -> None:
    """What i reads is read by i, for partitions that there are; each list ascends."""
    assert agree(edge)


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


def test_what_is_expected_of_a_pair_and_what_a_parameter_receives() -> None:
    """Equal grids: the same window; others: overlap; one value where it can be but one."""
    hours, weeks = fr.hourly("2024-01-01"), fr.weekly("2024-01-01")
    for up, down, many in ((hours, DAY, True), (DAY, hours, False), (weeks, DAY, False)):
        assert default_mapping(up, down) == m.Overlap()
        assert is_many(m.Overlap(), up, down) == many
    assert is_many(m.Overlap(), days(1, tz="Asia/Kolkata"), DAY)
    assert default_mapping(DAY, days(5)) == m.Identity()
    assert default_mapping(REGIONS[0], DAY) is None
    by_day = m.Dimensions((m.Pair("day", "", m.Identity()),))
    assert default_mapping(DAY, BOTH) == by_day
    assert not is_many(by_day, DAY, BOTH)
    assert is_many(m.Dimensions((m.Pair("", "day", m.Identity()),)), BOTH, DAY)


def project(up: Partitions, down: Partitions, mapping: Any, key: str = "up") -> fr.Project:
    """A source `up` and an asset `down` that reads it, or itself."""

    def made(x: Any) -> int:
        return 1

    below = fr.asset(key="down", partitions=down, inputs={"x": fr.Input(key, mapping)})(made)
    return fr.Project([fr.source("up", partitions=up), below])


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


def refused(make: Callable[[], object]) -> bool:
    try:
        make()
    except DefinitionError:
        return True
    return False


def reads(mapping: m.PartitionMapping, up: Windows, down: Windows) -> list[int]:
    """What the first window of `down` reads."""
    return list(lane_between(mapping, space_of(up), space_of(down), up).reads(0, 0))


QUARTERS, TWICE = berlin("*/15 * * * *", "31"), m.Table((("us", ("eu", "eu")),))
EARLY = "steps ahead over holes from before the start of the upstream"
GRID = "the minute at which hours begin"
KEYS = "formatted keys are partition keys"
BOUNDS = "what has all its inputs is accepted"
LORD: dict[str, Any] = {"tz": "Australia/Lord_Howe"}
EDGES: list[tuple[str, Callable[[], object]]] = [
    (
        "hours with an offset",
        lambda: (
            Calendar(fr.hourly("2024-01-01", offset="15m")).start_us(0) % HOUR_US == HOUR_US // 4
        ),
    ),
    (GRID, lambda: default_mapping(HOURS, fr.hourly("2024-01-01T00:30")) == m.Overlap()),
    (
        GRID,
        lambda: (
            default_mapping(fr.hourly("2024-04-06", **LORD), fr.hourly("2024-04-08", **LORD))
            == m.Overlap()
        ),
    ),
    (EARLY, lambda: agree((m.Offset(1), days(3), JANUARY[1]))),
    (EARLY, lambda: reads(m.Offset(2), days(3, exclude=["2024-01-20"]), days(1)) == [0]),
    ("double entries of a table", lambda: agree((TWICE, REGIONS[0], REGIONS[1]))),
    (EMPTY, lambda: agree((m.Overlap(), QUARTERS, berlin("day", "31")))),
    (KEYS, lambda: refused(lambda: days(1, format=" %Y%m%d"))),
    (KEYS, lambda: refused(lambda: fr.product(a=days(1, format="%Y|%m|%d"), b=REGIONS[0]))),
    (BOUNDS, lambda: mapping_problem(m.Offset(-1), days(1, 10), days(1, 11)) is None),
    (BOUNDS, lambda: mapping_problem(m.Offset(2), days(3), days(1)) is None),
    (BOUNDS, lambda: mapping_problem(m.Identity(), days(2), JANUARY[1]) is None),
    (
        BOUNDS,
        lambda: mapping_problem(m.Overlap(), days(9), workdays(6, exclude=["2024-01-08"])) is None,
    ),
]


@pytest.mark.parametrize("holds", [pytest.param(holds, id=why) for why, holds in EDGES])
def test_what_holds_holds_at_the_edges_too(holds: Callable[[], object]) -> None:
    """Offsets of hours, half hours, windows before the upstream's start, double entries, windows
    without time, odd formats; and what has all its inputs is accepted.
    """
    assert holds()
