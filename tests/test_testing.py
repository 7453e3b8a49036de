"""The simulator: real engine, virtual time, one order for one seed."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import freshet as fr
from freshet.engine.events import RunStarted, SourceChanged, WindowsOpened
from freshet.testing import Duration, LivelockError, Simulation, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)

SCRIPT = """
import sys
from tests.test_testing import busy_week
print(busy_week(int(sys.argv[1])))
"""


def chain(*, retries: int = 0, retry_delay: str = "1s", timeout: str | None = None) -> fr.Project:
    """flights → core → report."""
    flights = fr.source("flights")

    @fr.asset
    def core(flights: str) -> str:
        return flights.upper()

    @fr.asset(retries=retries, retry_delay=retry_delay, timeout=timeout)
    async def report(core: str) -> str:
        return f"<{core}>"

    return fr.Project([flights, core, report])


def wide(count: int, sources: int) -> fr.Project:
    """Assets in layers as wide as there are sources, each made from two above it."""
    definitions: list[fr.Asset | fr.Source] = [fr.source(f"s{n}") for n in range(sources)]

    def made_from(number: int) -> fr.Asset:
        right = number + 1 if (number + 1) % sources else number + 1 - sources
        layer = "s" if number < sources else "a"
        offset = 0 if number < sources else sources

        @fr.asset(
            key=f"a{number}",
            code_version="1",
            inputs={
                "left": fr.Input(f"{layer}{number - offset}"),
                "right": fr.Input(f"{layer}{right - offset}"),
            },
        )
        def made(left: str, right: str) -> str:
            return f"{number}{left[-40:]}{right[-40:]}"

        return made

    return fr.Project([*definitions, *(made_from(number) for number in range(count))], slots=64)


def busy_week(seed: int) -> str:
    """The digest of a week with files, failures, retries, timeouts and slow runs."""
    flights = fr.source("flights", partitions=fr.daily("2025-12-30"))
    rates = fr.source("rates")

    @fr.asset(partitions=fr.daily("2025-12-30"), retries=3, retry_delay="1m")
    def core(flights: bytes, rates: str) -> bytes:
        return flights + rates.encode()

    @fr.asset(partitions=fr.daily("2025-12-30"), timeout="4s", retries=2)
    async def slow(core: bytes) -> int:
        await anyio.sleep(len(core) % 7)
        return len(core)

    @fr.asset
    def total(slow: dict[str, int]) -> int:
        return sum(slow.values())

    project = fr.Project(
        [flights, rates, core, slow, total],
        sensors=[fr.files("landing/{partition}.csv", source=flights)],
    )
    durations: dict[str, Duration] = {"core": lambda rng: rng.uniform(0.5, 3), "total": "250ms"}
    with simulate(project, seed=seed, durations=durations, slots=3) as sim:
        for day in range(7):
            date = (sim.now - timedelta(days=1)).date()
            sim.land(f"landing/{date}.csv", b"x" * (day + 1))
            sim.change("rates")
            if day == 3:
                sim.fail("core", times=2)
            sim.advance("1d")
        return sim.digest()


# --- determinism ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_history() -> None:
    """Twice in one process."""
    assert busy_week(7) == busy_week(7)


def test_another_seed_gives_another_history() -> None:
    """Durations, retries and the order of what is ready come from the seed."""
    assert len({busy_week(seed) for seed in range(4)}) == 4


def test_the_seed_decides_what_comes_first_at_one_moment() -> None:
    """Two functions wake at the same moment, in either order; with one seed always in the same."""

    def order(seed: int) -> str:
        called: list[str] = []

        @fr.asset
        async def left() -> None:
            await anyio.sleep(1)
            called.append("left")

        @fr.asset
        async def right() -> None:
            await anyio.sleep(1)
            called.append("right")

        with simulate(fr.Project([left, right]), seed=seed) as sim:
            sim.settle()
        return " ".join(called)

    assert {order(seed) for seed in range(20)} == {"left right", "right left"}
    assert len({order(5) for _ in range(5)}) == 1


def test_the_history_is_the_same_in_processes_with_other_hashes() -> None:
    """Sets of strings come in any order; what happens does not."""
    root = Path(__file__).resolve().parent.parent
    found = set()
    for hashes in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, "7"],
            cwd=root,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout.strip())
    assert found == {busy_week(7)}


# --- time -------------------------------------------------------------------------------------


def test_durations_are_virtual() -> None:
    """Runs follow each other at the times their durations say, and are recorded with them."""
    with simulate(chain(), durations={"core": "2s", "report": 1.5}) as sim:
        sim.change("flights")
        sim.advance("1m")
        core, report = sim.runs()
        assert (core.asset, core.started, core.ended) == ("core", START, after(2))
        assert (report.asset, report.started, report.ended) == ("report", after(2), after(3.5))
        assert sim.now == after(60)
        durations = [getattr(r.event, "duration_us", None) for r in sim.events()]
        assert [us for us in durations if us] == [2_000_000, 1_500_000]


def test_a_drawn_duration_comes_from_the_random_numbers_of_its_asset() -> None:
    """What one asset draws does not depend on what others draw."""

    def drawn(rng: random.Random) -> float:
        return rng.uniform(1, 3)

    def taken(others: dict[str, float]) -> timedelta | None:
        with simulate(chain(), durations={"report": drawn, **others}) as sim:
            sim.change("flights")
            sim.settle()
            run = sim.runs("report")[0]
            return run.ended - run.started if run.ended else None

    assert taken({}) == taken({"core": 5.0})


def test_settle_lets_time_pass_only_as_far_as_runs_need() -> None:
    """At its end nothing runs, and it is the moment the last run ended."""
    with simulate(chain(), durations={"core": "2s", "report": "3s"}) as sim:
        sim.settle()
        assert sim.now == START
        sim.change("flights")
        assert (sim.status("core").activity, sim.runs()) == ("ready", [])
        sim.settle()
        assert sim.now == after(5)
        assert sim.fresh


def test_what_is_due_at_the_end_of_an_advance_has_happened() -> None:
    """Also when tenths of seconds do not quite add up."""
    with simulate(chain(), durations={"core": "1s"}) as sim:
        sim.change("flights")
        for _ in range(10):
            sim.advance(0.1)
        assert sim.now == after(1)
        assert sim.fresh


def test_functions_that_sleep_take_virtual_time() -> None:
    """An async function that sleeps for a day is done in no time, a day later."""

    @fr.asset
    async def slow() -> str:
        await anyio.sleep(86_400)
        return "done"

    with simulate(fr.Project([slow])) as sim:
        sim.settle()
        assert (sim.now, sim.value("slow")) == (START + timedelta(days=1), "done")


def test_a_run_longer_than_its_timeout_fails_when_that_is_over() -> None:
    """Whether the function sleeps or its duration says so."""
    project = chain(timeout="10s")
    with simulate(project, durations={"report": "1m"}) as sim:
        sim.change("flights")
        sim.settle()
        (run,) = sim.runs("report")
        assert (run.outcome, run.ended) == ("failed", after(10))
        assert "timeout of 10 s" in run.error


def test_failed_runs_are_tried_again_after_a_growing_wait() -> None:
    """Within the bounds of full jitter, in virtual time; `settle` does not wait for it."""
    with simulate(chain(retries=4, retry_delay="1m"), seed=3) as sim:
        sim.fail("report", times=3)
        sim.change("flights")
        sim.settle()
        assert (len(sim.runs("report")), sim.now) == (1, START)
        sim.advance("1h")
        runs = sim.runs("report")
        assert [run.outcome for run in runs] == ["failed", "failed", "failed", "succeeded"]
        assert [run.attempt for run in runs] == [1, 2, 3, 4]
        waits = [b.started - a.started for a, b in pairwise(runs)]
        assert all(wait <= timedelta(minutes=2**n) for n, wait in enumerate(waits))
        assert sum(waits, timedelta()) > timedelta(seconds=10)


def test_partitions_open_as_days_pass() -> None:
    """At each midnight the day that is over exists, and is built."""

    @fr.asset(partitions=fr.daily("2026-01-01"))
    def day(context: fr.Context) -> str:
        return context.partition

    with simulate(fr.Project([day]), start="2026-01-01T12:00") as sim:
        assert sim.runs() == []
        sim.advance("3d")
        assert [(run.partitions, run.started) for run in sim.runs()] == [
            ((f"2026-01-0{n}",), START + timedelta(days=n)) for n in (1, 2, 3)
        ]
        opened = [r.event for r in sim.events() if isinstance(r.event, WindowsOpened)]
        assert len(opened) >= 3
        assert sim.value("day", "2026-01-02") == "2026-01-02"


def test_a_thousand_assets_run_once_a_day() -> None:
    """Each asset once for the changes of each day."""
    days, count = 2, 1000
    durations = {f"a{n}": "1s" for n in range(count)}
    with simulate(wide(count, 10), durations=durations) as sim:
        for _ in range(days):
            for n in range(10):
                sim.change(f"s{n}", partition="")
            sim.advance("1d")
        runs = sim.runs()
        assert sim.fresh
        assert len(runs) == days * count
        assert {run.asset for run in runs} == set(durations)


# --- what happens outside ---------------------------------------------------------------------


def landing(seen: list[object]) -> fr.Project:
    flights = fr.source("flights", partitions=fr.daily("2024-01-01", opens="data"))
    notes = fr.source("notes")

    @fr.asset(partitions=fr.daily("2024-01-01", opens="data"))
    def as_path(flights: Path) -> str:
        seen.append(flights)
        return flights.read_text()

    @fr.asset(partitions=fr.daily("2024-01-01", opens="data"))
    def as_bytes(flights: bytes) -> bytes:
        return flights

    @fr.asset
    async def all_days(flights: dict[str, str], notes: str) -> str:
        return " ".join(flights.values()) + notes

    sensors = [
        fr.files("landing/{partition}.csv", source=flights),
        fr.files("notes.txt", source=notes, on_removal="keep"),
    ]
    return fr.Project([flights, notes, as_path, as_bytes, all_days], sensors=sensors)


def test_a_landed_file_reaches_functions_in_every_form() -> None:
    """As a path, as bytes, as text, one or many; the stream has the path of the pattern."""
    seen: list[object] = []
    with simulate(landing(seen)) as sim:
        sim.land("landing/2024-01-01.csv", b"one")
        sim.land("landing/2024-01-02.csv", "two")
        sim.land("notes.txt", "!")
        sim.settle()
        assert sim.value("as_path@2024-01-01") == "one"
        assert sim.value("as_bytes", "2024-01-02") == b"two"
        assert sim.value("all_days") == "one two!"
        assert sim.value("flights", "2024-01-01") == b"one"
        changes = [r.event for r in sim.events() if isinstance(r.event, SourceChanged)]
        assert [event.metadata["path"] for event in changes] == [
            "landing/2024-01-01.csv",
            "landing/2024-01-02.csv",
            "notes.txt",
        ]
        assert all(path.exists() for path in seen if isinstance(path, Path))
    assert seen
    assert not any(path.exists() for path in seen if isinstance(path, Path))


def test_many_landed_files_are_looked_up_as_they_are_read() -> None:
    """More than are looked up before a run begins."""
    flights = fr.source("flights", partitions=fr.dynamic())

    @fr.asset
    def total(flights: dict[str, bytes]) -> int:
        return sum(len(content) for content in flights.values())

    project = fr.Project([flights, total], sensors=[fr.files("in/{partition}", source=flights)])
    with simulate(project) as sim:
        for n in range(100):
            sim.land(f"in/{n}", b"x" * n)
        sim.settle()
        assert sim.value("total") == sum(range(100))
        assert len(sim.runs()) == 1


def test_equal_content_is_no_change_and_removal_withdraws() -> None:
    """As a sensor has it; `on_removal="keep"` keeps what was there."""
    with simulate(landing([])) as sim:
        sim.land("landing/2024-01-01.csv", "one")
        sim.land("notes.txt", "!")
        head = len(sim.events())
        sim.land("landing/2024-01-01.csv", b"one")
        sim.land("notes.txt", None)
        assert len(sim.events()) == head
        sim.land("landing/2024-01-01.csv", None)
        gone = sim.events(after=head)[0].event
        assert gone == SourceChanged("flights", "2024-01-01", "")
        sim.land("landing/2024-01-01.csv", b"one")
        sim.settle()
        assert sim.value("as_path@2024-01-01") == "one"


def test_a_file_that_lands_while_its_sensor_is_paused_is_seen_afterwards() -> None:
    """Once, and as it is then."""
    with simulate(landing([])) as sim:
        sim.pause("sensor:files:notes.txt")
        sim.land("notes.txt", "first")
        sim.land("notes.txt", "second")
        assert [r for r in sim.events() if isinstance(r.event, SourceChanged)] == []
        sim.resume("sensor:files:notes.txt")
        assert sim.value("notes") == b"second"
        assert sum(isinstance(r.event, SourceChanged) for r in sim.events()) == 1


def test_a_file_overwritten_during_the_run_that_was_given_its_path_is_read_again() -> None:
    """The run is void, and the next one sees the new content."""

    with simulate(landing([]), durations={"as_path": "10s"}) as sim:
        sim.land("landing/2024-01-01.csv", "old")
        sim.advance("5s")
        sim.land("landing/2024-01-01.csv", "new")
        sim.advance("1m")
        runs = sim.runs("as_path")
        assert runs[0].outcome == "failed"
        assert sim.value("as_path@2024-01-01") == "new"


def test_a_fresh_version_each_time_unless_one_is_named() -> None:
    """Equal versions change nothing."""
    with simulate(chain()) as sim:
        sim.change("flights")
        sim.change("flights")
        sim.settle()
        sim.change("flights", "x")
        sim.settle()
        sim.change("flights", "x")
        sim.settle()
        assert len(sim.runs("core")) == 2
        assert sim.value("report") == "<X>"


def test_what_happens_at_the_same_moment_is_absorbed_in_one_run() -> None:
    """Runs start only when time may pass."""
    with simulate(chain()) as sim:
        for _ in range(3):
            sim.change("flights")
        sim.settle()
        assert [run.asset for run in sim.runs()] == ["core", "report"]
        assert sim.now == START


def test_a_partition_can_be_named_in_two_ways() -> None:
    """`change("flights@DAY")` and `change("flights", partition=DAY)`."""
    with simulate(landing([])) as sim:
        sim.change("flights@2024-01-01", "a")
        sim.change("flights", "b", "2024-01-02")
        assert sim.value("flights", "2024-01-01") == "a"
        assert sim.value("flights@2024-01-02") == "b"


# --- what is seen -----------------------------------------------------------------------------


def test_a_bug_in_a_function_is_visible() -> None:
    """In the run, in the status, and in why."""
    flights = fr.source("flights")

    @fr.asset
    def ratio(flights: str) -> float:
        return 1 / (len(flights) - 1)

    with simulate(fr.Project([flights, ratio])) as sim:
        sim.change("flights", "good")
        sim.settle()
        assert sim.fresh
        sim.change("flights", "?")
        sim.settle()
        (_, broken) = sim.runs("ratio")
        assert (broken.outcome, broken.error) == (
            "failed",
            "ZeroDivisionError: division by zero",
        )
        assert not sim.fresh
        assert sim.status("ratio").activity == "failed"
        assert any("division by zero" in step.text for step in sim.why("ratio").steps)


def test_people_may_ask_pause_and_resume() -> None:
    """As on the command line; what is owed is paid once."""
    with simulate(chain()) as sim:
        sim.change("flights")
        sim.settle()
        sim.materialize("core", reason="again")
        sim.settle()
        assert [run.reason for run in sim.runs("core")] == ["missing", "demanded"]
        sim.pause("report")
        sim.change("flights")
        sim.change("flights")
        sim.settle()
        assert len(sim.runs("report")) == 1
        assert sim.status("report").activity == "paused"
        sim.resume("report")
        sim.settle()
        assert len(sim.runs("report")) == 2
        assert sim.fresh


def test_exactly_these_runs_are_listed() -> None:
    """A run that is alive has no end; asking twice gives the same."""
    with simulate(chain(), durations={"core": "1h"}) as sim:
        sim.change("flights")
        sim.advance("1m")
        (alive,) = sim.runs()
        assert (alive.outcome, alive.ended, alive.reason) == ("running", None, "missing")
        sim.advance("2h")
        assert [(run.asset, run.outcome) for run in sim.runs()] == [
            ("core", "succeeded"),
            ("report", "succeeded"),
        ]
        assert sim.runs() == sim.runs()
        assert len(sim.runs()) == sum(isinstance(r.event, RunStarted) for r in sim.events())


def test_async_functions_may_use_threads() -> None:
    """They take no virtual time, and do not disturb the order."""

    @fr.asset
    async def first() -> int:
        return await anyio.to_thread.run_sync(lambda: 1)

    @fr.asset
    async def second(first: int) -> int:
        return first + await asyncio.to_thread(lambda: 1)

    def digest() -> str:
        with simulate(fr.Project([first, second])) as sim:
            sim.advance("1s")
            assert sim.value("second") == 2
            return sim.digest()

    assert digest() == digest()


# --- what cannot be ---------------------------------------------------------------------------


def test_a_spinning_function_is_a_livelock_with_its_name() -> None:
    """A loop over sleep(0) would stop time for ever; closing still works."""

    @fr.asset
    async def spinner() -> None:
        while True:
            await anyio.sleep(0)

    project = fr.Project([spinner], freshness=fr.manual())
    with simulate(project) as sim:
        sim.materialize("spinner")
        with pytest.raises(LivelockError, match=r"run \d+ spinner"):
            sim.settle()


def test_a_run_that_waits_for_ever_is_named() -> None:
    """`settle` would never return; `advance` may go on."""

    @fr.asset
    async def stuck() -> None:
        await anyio.Event().wait()

    with simulate(fr.Project([stuck])) as sim:
        with pytest.raises(LivelockError, match="run 3 of 'stuck' does not end"):
            sim.settle()
        sim.advance("1d")
        assert sim.status("stuck").activity == "running"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda sim: sim.change("flight"), "there is no asset 'flight'"),
        (lambda sim: sim.change("core"), "'core' is no source"),
        (lambda sim: sim.change("flights@x"), "has no partition 'x'"),
        (lambda sim: sim.advance("-1s"), "advance='-1s' is no length of time"),
        (lambda sim: sim.advance(-1), "advance=-1 is no length of time"),
        (lambda sim: sim.land("x.csv", b""), "no sensor of the project waits"),
        (lambda sim: sim.runs("cor"), "there is no asset 'cor'"),
        (lambda sim: sim.value("core"), "'core' has no value yet"),
        (lambda sim: sim.status("core@x"), "has no partition 'x'"),
        (lambda sim: sim.fail("flights"), "'flights' is a source"),
        (lambda sim: sim.fail("core", 0), "times=0"),
        (lambda sim: sim.pause("cor"), "'cor' is no asset and no group"),
        (lambda sim: sim.resume("core"), "'core' is not paused"),
        (lambda sim: sim.materialize("flights"), "'flights' is a source"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(
    ask: Callable[[Simulation], object], message: str
) -> None:
    """Nothing is recorded, and the simulation goes on."""
    with simulate(chain()) as sim:
        head = len(sim.events())
        with pytest.raises(fr.FreshetError, match=message) as caught:
            ask(sim)
        assert caught.value.hint or caught.value.cause or "source" in str(caught.value)
        assert len(sim.events()) == head
        sim.change("flights")
        sim.settle()
        assert sim.fresh


def test_what_exists_no_more_leads_to_its_history() -> None:
    """Asked about a partition that was removed, one learns where to find what it was."""
    keys = fr.source("keys", partitions=fr.dynamic())

    @fr.asset(partitions=fr.dynamic())
    def sizes(keys: str) -> int:
        return len(keys)

    with simulate(fr.Project([keys, sizes], sensors=[fr.files("{partition}", source=keys)])) as sim:
        sim.land("a", "x")
        sim.land("b", "y")
        sim.settle()
        sim.land("a", None)
        sim.settle()
        with pytest.raises(fr.FreshetError, match="has no partition 'a' any more") as caught:
            sim.why("sizes@a")
        assert caught.value.hint == "freshet history sizes@a"
        with pytest.raises(fr.FreshetError, match="'sizes' has no partition 'c'\n"):
            sim.why("sizes@c")


@pytest.mark.parametrize(
    ("durations", "message"),
    [
        ({"coer": 1.0}, "durations name 'coer', which is no asset\nhint: did you mean 'core'"),
        ({"flights": 1.0}, "durations name 'flights', a source"),
        ({"core": "soon"}, "is no length of time"),
    ],
)
def test_durations_are_checked(durations: dict[str, float | str], message: str) -> None:
    """Before anything is simulated."""
    with pytest.raises(fr.DefinitionError, match=message):
        simulate(chain(), durations=durations)


def test_a_drawn_duration_that_is_none_ends_the_simulation() -> None:
    """With the user's mistake, not with a failed run."""
    with simulate(chain(), durations={"core": lambda rng: -1.0}) as sim:
        sim.change("flights")
        with pytest.raises(fr.DefinitionError, match=r"durations\['core'\]=-1.0"):
            sim.advance("1s")
        with pytest.raises(fr.DefinitionError):
            sim.advance("1s")


def test_a_simulation_needs_a_place_of_its_own() -> None:
    """Not inside an event loop, not after it was closed, not at no time, not without slots."""

    async def inside() -> Simulation:
        return simulate(chain())

    with pytest.raises(fr.FreshetError, match="inside a running event loop"):
        asyncio.run(inside())
    sim = simulate(chain())
    sim.close()
    sim.close()
    with pytest.raises(fr.FreshetError, match="the simulation is closed"):
        sim.advance("1s")
    with pytest.raises(fr.FreshetError, match="'tomorrow' is no date"):
        simulate(chain(), start="tomorrow")
    with pytest.raises(fr.DefinitionError, match="slots=0"):
        simulate(chain(), slots=0)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)
