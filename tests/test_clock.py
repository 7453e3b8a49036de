"""The daemon's clock: never back, ahead with the machine's clock, slowed while that is behind."""

from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import freshet as fr
from freshet.engine import loop as loop_module
from freshet.engine.clock import SteadyClock
from freshet.engine.daemon import STREAM_FILE, daemon
from freshet.engine.events import EngineStopped
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stream import wall_clock
from tests.engine import engine

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
START = 1_700_000_000 * SECOND

PATIENCE_S = 30
"""Bound on waits that take milliseconds when nothing is wrong."""


class Machine:
    """A machine whose clock can be set, and which can be suspended."""

    def __init__(self) -> None:
        self.wall = START
        self.monotonic = 5 * HOUR

    def clock(self, not_before: int = 0) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.monotonic, not_before)

    def work(self, us: int) -> None:
        self.wall += us
        self.monotonic += us

    def suspend(self, us: int) -> None:
        self.wall += us


def test_while_nothing_is_set_it_is_the_clock_of_the_machine() -> None:
    """To the microsecond, however long and often it is asked."""
    machine = Machine()
    clock = machine.clock()
    for us in (0, 1, 999, SECOND, 3 * DAY):
        machine.work(us)
        assert clock() == machine.wall


def test_set_back_an_hour_it_goes_on_slowed_until_the_hour_is_made_up() -> None:
    """9 seconds in 10, without a jump where the two meet ten hours later."""
    machine = Machine()
    clock = machine.clock()
    assert clock() == START
    machine.wall -= HOUR
    assert clock() == START
    machine.work(10 * SECOND)
    assert clock() == START + 9 * SECOND
    machine.work(90 * SECOND)
    assert clock() == START + 90 * SECOND
    machine.work(10 * HOUR - 101 * SECOND)
    assert clock() == machine.wall + SECOND // 10
    machine.work(SECOND)
    assert clock() == machine.wall
    machine.work(SECOND)
    assert clock() == machine.wall


def test_slowed_time_is_the_same_however_often_it_is_asked() -> None:
    """A call each microsecond loses nothing to rounding."""
    machine = Machine()
    clock = machine.clock()
    clock()
    machine.wall -= HOUR
    for _ in range(1000):
        machine.work(1)
        clock()
    assert clock() == START + 900


def test_the_time_between_two_calls_counts_when_the_clock_is_set_back() -> None:
    """What has passed since the last call has passed, whatever the clock says afterwards."""
    machine = Machine()
    clock = machine.clock()
    clock()
    machine.work(100 * SECOND)
    machine.wall -= HOUR
    assert clock() == START + 90 * SECOND


def test_set_ahead_a_day_it_goes_along_at_once() -> None:
    """A clock that was wrong is put right; what is due then is due."""
    machine = Machine()
    clock = machine.clock()
    clock()
    machine.wall += DAY
    assert clock() == START + DAY


def test_set_ahead_a_day_and_back_no_moment_comes_twice() -> None:
    """It stays a day ahead, and slowed, so that a daily timer fires once; then the two meet."""
    machine = Machine()
    clock = machine.clock()
    clock()
    machine.wall += DAY
    clock()
    machine.wall -= DAY
    machine.work(10 * SECOND)
    assert clock() == START + DAY + 9 * SECOND
    machine.work(11 * DAY)
    assert clock() == machine.wall


def test_set_back_twice_it_goes_on_from_where_it_is() -> None:
    """A second step back while time is slowed changes nothing now, only when they meet."""
    machine = Machine()
    clock = machine.clock()
    clock()
    for expected in (9, 18, 27):
        machine.wall -= HOUR
        machine.work(10 * SECOND)
        assert clock() == START + expected * SECOND


def test_a_suspended_laptop_wakes_up_in_the_present() -> None:
    """The monotonic clock stood still; the clock of the machine tells how late it is."""
    machine = Machine()
    clock = machine.clock()
    clock()
    machine.suspend(8 * HOUR)
    assert clock() == START + 8 * HOUR
    machine.wall -= HOUR  # slowed, and asleep: the night makes up the hour
    clock()
    machine.suspend(2 * HOUR)
    assert clock() == machine.wall


def test_time_does_not_begin_before_what_is_recorded() -> None:
    """An hour behind the newest event it starts there, slowed; ahead of it, it is the machine's."""
    machine = Machine()
    late, early = machine.clock(START + HOUR), machine.clock(START - HOUR)
    assert (late(), early()) == (START + HOUR, START)
    machine.work(10 * SECOND)
    assert (late(), early()) == (START + HOUR + 9 * SECOND, START + 10 * SECOND)
    early.begin(START)
    assert early() == START + 10 * SECOND
    early.begin(START + HOUR)
    machine.work(10 * SECOND)
    assert early() == START + HOUR + 9 * SECOND


@given(
    st.lists(
        st.tuples(st.sampled_from(["work", "suspend", "set"]), st.integers(-2 * DAY, 2 * DAY)),
        max_size=30,
    )
)
def test_whatever_happens_time_never_goes_back_nor_stands_still(
    happenings: list[tuple[str, int]],
) -> None:
    """At least 9 seconds in 10 of those the machine was awake; never behind its clock."""
    machine = Machine()
    clock = machine.clock()
    before = clock()
    for what, us in happenings:
        passed = 0
        if what == "work":
            passed = abs(us)
            machine.work(passed)
        elif what == "suspend":
            machine.suspend(abs(us))
        else:
            machine.wall += us
        now = clock()
        assert now >= before + passed * 9 // 10 - 1 or now == machine.wall >= before
        assert now >= machine.wall
        before = now


@pytest.mark.anyio
async def test_a_daemon_goes_on_from_the_newest_event_of_its_stream(tmp_path: Path) -> None:
    """The machine's clock was set back an hour between two daemons: recorded time still moves."""
    ahead = wall_clock() + HOUR
    async with SqliteStream.open(tmp_path / STREAM_FILE, clock=lambda: ahead) as stream:
        await stream.append([EngineStopped()])
    project = fr.Project([fr.source("s")], store=fr.MemoryStore())
    async with daemon(project, tmp_path) as running:
        assert ahead < running.clock() < ahead + HOUR
        with anyio.fail_after(PATIENCE_S):
            times = {ahead}
            while len(times) < 3:
                (position,) = await running.stream.append([EngineStopped()])
                newest = await running.stream.at(position)
                assert newest is not None
                assert newest.recorded_at >= max(times)
                times.add(newest.recorded_at)
        running.stop()
    # A clock that is given is used as it is.
    async with daemon(project, tmp_path, clock=lambda: 7) as running:
        assert running.clock() == 7


@pytest.mark.anyio
async def test_a_timer_notices_that_the_clock_has_jumped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that is minutes away is made soon after the clock says that they are over."""
    monkeypatch.setattr(loop_module, "LONGEST_SLEEP_S", 0.01)
    tries = []

    @fr.asset(retries=1, retry_delay="5m")
    async def a() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        return "made"

    async with engine(a) as e:
        with anyio.fail_after(PATIENCE_S):
            await e.settled()
            await anyio.wait_all_tasks_blocked()  # the loop sleeps until the retry
            assert len(tries) == 1
            e.advance(301)
            while len(tries) == 1:
                await anyio.sleep(0.001)
            await e.quiet()
        assert e.status("a").state == "fresh"
