"""Clocks that are set, summer time, leap days and sleep: no tick twice, none lost, time never back.

A machine whose clock can be set by hand drives the daemon's own clock, and that drives `decide`.
"""

from datetime import UTC, datetime
from heapq import heappop
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import freshet as fr
from freshet.engine import events as e
from freshet.engine.clock import SteadyClock
from freshet.engine.partitions import daily
from freshet.engine.policies import Policy
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.ticks import next_tick
from freshet.projections.marks import NOTHING
from tests.virtual import START_US, World

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR

SHORTEST_NAP = 1000
"""µs: as long as a loop sleeps at least, so that a slowed clock is met in few steps."""


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


class Machine(World):
    """A world on a machine: `work` lets time pass, `wall` can be set, and it can be suspended."""

    def __init__(self, policy: Policy, *, start: int = START_US, takes: float = 1.0) -> None:
        self.wall, self.monotonic = start, 5 * HOUR
        specs = [
            AssetSpec("s", "source"),
            AssetSpec("a", deps=(Dependency("s"),), policy=policy),
        ]
        super().__init__(specs, {"a": takes}, start=start)
        self.clock = SteadyClock(lambda: self.wall, lambda: self.monotonic, start)
        self.versions = 0

    def touch(self) -> int:
        """The source changes now; returns when that is."""
        self.look()
        self.versions += 1
        self.say(e.SourceChanged("s", "", f"v{self.versions}"))
        self.look()
        return self.now

    def look(self) -> None:
        """What the daemon does when it wakes up."""
        now = self.clock()
        assert now >= self.now
        self.now = now
        while self._agenda and self._agenda[0][0] <= now:
            heappop(self._agenda)[2]()
        self._act()

    def work(self, us: int) -> None:
        """So much time really passes; the daemon sleeps until its next moment, again and again."""
        end = self.monotonic + us
        while True:
            self.look()
            if self.monotonic >= end:
                return
            moments = [self._wake_at, self._agenda[0][0] if self._agenda else None]
            nap = min((m - self.now for m in moments if m is not None), default=us)
            nap = min(max(nap, SHORTEST_NAP), end - self.monotonic)
            self.wall += nap
            self.monotonic += nap

    def suspend(self, us: int) -> None:
        self.wall += us

    @property
    def ran(self) -> list[int]:
        """When runs started, to the second."""
        return [r.recorded_at // SECOND * SECOND for r in self.of(e.RunStarted)]

    def is_in_order(self) -> bool:
        return all(a.recorded_at <= b.recorded_at for a, b in pairwise(self.recorded))


HOURLY = fr.cron("0 * * * *")


def test_set_back_an_hour_no_tick_comes_twice_and_none_is_lost() -> None:
    """At 01:30 it is 00:30 again: the ticks at 2, 3 and 4 come once each, that at 1 not again."""
    machine = Machine(HOURLY)
    for _ in range(9):
        machine.touch()
        machine.work(10 * MINUTE)
    machine.wall -= HOUR
    for _ in range(18):
        machine.touch()
        machine.work(10 * MINUTE)
    assert machine.ran == [START_US + n * HOUR for n in (1, 2, 3, 4)]
    assert machine.is_in_order()


def test_set_ahead_a_day_what_was_missed_is_caught_up_once() -> None:
    """At 01:30 it is 01:30 tomorrow: one run for 24 ticks, then the hour's again."""
    machine = Machine(HOURLY)
    for _ in range(9):
        machine.touch()
        machine.work(10 * MINUTE)
    machine.wall += DAY
    machine.work(SECOND)
    assert machine.ran == [START_US + HOUR, START_US + DAY + 90 * MINUTE]
    machine.touch()
    machine.work(HOUR)
    assert machine.ran[2:] == [START_US + DAY + 2 * HOUR]
    machine.wall -= DAY  # it was a mistake: that day is not lived through again
    for _ in range(12):
        machine.touch()
        machine.work(10 * MINUTE)
    assert machine.ran[3:] == [START_US + DAY + n * HOUR for n in (3, 4)]
    assert machine.is_in_order()


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2026-03-28T00:00", ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]),
        ("2026-10-24T00:00", ["2026-10-24T00:30", "2026-10-25T00:30", "2026-10-26T01:30"]),
    ],
    ids=["gap", "fold"],
)
def test_half_past_two_comes_once_when_the_clocks_change(start: str, expected: list[str]) -> None:
    """In Berlin 02:30 does not exist on one day: then at 03:00; and twice on another: the first."""
    machine = Machine(fr.cron("30 2 * * *", tz="Europe/Berlin"), start=at(start))
    for _ in range(3 * 24 * 4):
        machine.touch()
        machine.work(15 * MINUTE)
    assert machine.ran == [at(text) for text in expected]


@pytest.mark.parametrize(
    ("day", "hours", "begin"),
    [
        ("2026-03-29", ("02:00", "04:00"), "2026-03-29T01:00"),
        ("2026-10-25", ("02:30", "04:00"), "2026-10-25T00:30"),
    ],
    ids=["gap", "fold"],
)
def test_hours_that_begin_in_a_gap_or_a_fold_begin_once(
    day: str, hours: tuple[str, str], begin: str
) -> None:
    """What changed the day before is built when they begin, and not again in the second 02:30."""
    policy = fr.eager().between(*hours, tz="Europe/Berlin")
    machine = Machine(policy, start=at(day) - 6 * HOUR)
    machine.touch()
    machine.work(20 * HOUR)
    assert machine.ran == [at(begin)]


def test_29_february_ticks_in_leap_years() -> None:
    """From 2026 on: 2028 and 2032, with a change each month."""
    machine = Machine(fr.cron("0 0 29 2 *"))
    for _ in range(12 * 7):
        machine.touch()
        machine.work(30 * DAY + 10 * HOUR)
    assert machine.ran == [at("2028-02-29"), at("2032-02-29")]


def test_29_february_is_a_day_like_any_other() -> None:
    """It opens as a partition when it is over, and a promise over it counts 24 hours."""
    days = daily("2028-02-27")
    policy = fr.max_lag("24h")
    specs = [AssetSpec("s", "source", partitions=days)]
    specs += [AssetSpec("a", deps=(Dependency("s"),), partitions=days, policy=policy)]
    world = World(specs, start=at("2028-02-28T12:00"))
    world.at(1.5 * 86400, lambda: world.say(e.SourceChanged("s", "2028-02-29", "v")))
    world.run(3.5 * 86400)
    opened = [r.recorded_at for r in world.of(e.WindowsOpened)]
    assert opened == [at(f"2028-{day}") for day in ("02-29", "03-01", "03-02", "03-03")]
    (run,) = world.of(e.RunStarted)
    assert isinstance(run.event, e.RunStarted)
    assert run.event.targets[0].partition == "2028-02-29"
    assert at("2028-03-01T23:00") < run.recorded_at < at("2028-03-02T00:00")
    late = [r.event.partition for r in world.of(e.FreshnessBreached)]  # type: ignore[union-attr]  # it has one
    assert "2028-02-29" not in late  # (of the other days there are no data)


@pytest.mark.parametrize(
    ("policy", "breaches"),
    [
        (HOURLY, 0),
        (fr.cron("*/5 * * * *"), 0),
        (fr.max_lag("1h"), 1),
        (fr.eager(debounce="10m"), 0),
        (fr.eager().between("08:10", "09:00"), 0),
    ],
)
def test_a_laptop_that_slept_a_day_catches_up_once(policy: Policy, breaches: int) -> None:
    """No decision is made in its sleep; then one run, whatever was missed, and one breach."""
    machine = Machine(policy)
    machine.touch()
    machine.work(32 * HOUR)
    assert machine.of(e.FreshnessBreached) == []
    before, known = len(machine.ran), len(machine.recorded)
    machine.touch()
    machine.work(MINUTE)
    machine.suspend(24 * HOUR + 30 * MINUTE)  # it is 08:31
    machine.work(2 * MINUTE)
    assert len(machine.ran) == before + 1
    assert machine.ran[-1] == machine.start + 56 * HOUR + 31 * MINUTE
    machine.work(3 * DAY)
    assert len(machine.ran) == before + 1
    assert len(machine.of(e.FreshnessBreached)) == breaches
    assert len(machine.of(e.FreshnessRestored)) == breaches
    assert machine.is_in_order()
    assert len(machine.recorded) - known <= 8


def test_a_promise_that_is_open_when_the_clock_is_set_back_is_kept_by_time_that_passes() -> None:
    """Slowed by a tenth, not stopped for an hour; one run, no breach."""
    machine = Machine(fr.max_lag("10m"))
    machine.touch()
    machine.work(HOUR)
    before = len(machine.ran)
    machine.touch()
    machine.work(MINUTE)
    machine.wall -= HOUR
    really = machine.monotonic
    while len(machine.ran) == before:
        machine.work(SECOND)
    assert 9 * MINUTE <= machine.monotonic - really <= 10 * MINUTE + MINUTE
    machine.work(DAY)
    assert len(machine.ran) == before + 1
    assert machine.of(e.FreshnessBreached) == []
    assert machine.is_in_order()


def test_a_pause_with_an_end_ends_once_although_the_clock_is_set_back_before_it() -> None:
    """It was to last an hour: it lasts one and a ninth, and is over once."""
    machine = Machine(fr.eager())
    machine.touch()
    machine.work(MINUTE)
    machine.say(e.Paused("a", until=machine.now + HOUR))
    machine.touch()
    machine.wall -= 3 * HOUR
    machine.work(66 * MINUTE)
    assert len(machine.ran) == 1
    machine.work(MINUTE)
    assert len(machine.ran) == 2
    machine.wall -= HOUR
    machine.work(DAY)
    assert len(machine.of(e.Resumed)) == 1
    assert len(machine.ran) == 2


steps = st.tuples(
    st.integers(1, 3 * HOUR),
    st.sampled_from([0, 0, 0, -HOUR, HOUR, -DAY, DAY, -17 * MINUTE, 40 * MINUTE]),
    st.sampled_from([0, 0, 0, 10 * MINUTE, 10 * HOUR]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=1, max_size=20), st.sampled_from(["0 * * * *", "*/10 * * * *"]))
def test_whatever_is_done_to_the_clock_each_tick_counts_once(
    history: list[tuple[int, int, int]], expression: str
) -> None:
    """After each look nothing is owed from before a tick that was; between two runs there was
    one.
    """
    machine = Machine(fr.cron(expression), takes=0.5)
    for worked, jump, slept in history:
        machine.touch()
        machine.work(worked)
        machine.wall += jump
        machine.suspend(slept)
        machine.look()
        machine.work(SECOND)
        cell = machine.view.staleness.cell("a", "")
        assert cell is not None
        if cell.owed < NOTHING and not cell.running:
            since = machine.view.staleness.marks.at[cell.owed]
            assert next_tick(expression, "UTC", since + 1) > machine.now
    assert machine.is_in_order()
    fell_due = [r.recorded_at for r in machine.of(e.FellDue)]
    assert len(machine.ran) == len(fell_due)
    for one, two in pairwise(fell_due):
        assert next_tick(expression, "UTC", one + 1) <= two
