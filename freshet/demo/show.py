"""The show: lands the files, watches the real daemon react, measures, and checks what happened."""

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import anyio
from rich.console import Console

from freshet.demo import month
from freshet.engine.daemon import daemon
from freshet.engine.events import Materialized, Recorded, RunStarted, SourceChanged
from freshet.engine.keys import AssetPartition
from freshet.engine.running import Daemon
from freshet.engine.stream import wall_clock
from freshet.engine.target import load_project
from freshet.projections.cells import cells_of
from freshet.projections.marks import NOTHING
from freshet.projections.runs import Outcome
from freshet.projections.view import View
from freshet.projections.why import explain

STATE = ".freshet"
LATE_DAY = "2013-01-09"
LATE_ROWS = 120
"""Flights of the late day that are missing from its first file."""

PATIENCE_S = 60
"""Longest wait for one reaction before the demo says that something is wrong."""

BREATH_S = 0.3
"""Pause before each correction: longer than a wave (0.25 s), so that each is one of its own."""

PER_DAY = ["clean", "delays", "routes", "weather_delays", "carriers", "worst_routes"]


class Reaction:
    """What one landed file set in motion, with times in ms since the file was closed."""

    def __init__(self) -> None:
        self.closed = 0.0
        self.started: dict[AssetPartition, float] = {}
        self.finished: dict[AssetPartition, float] = {}
        self.owed: set[AssetPartition] = set()

    @property
    def runs(self) -> int:
        return len(self.started)

    @property
    def spared(self) -> int:
        """Asset partitions that owed the change, and turned out to have nothing new to consume."""
        return len(self.owed - set(self.started))


class Show:
    """Lands files one after the other and keeps what the daemon did about each."""

    def __init__(self, running: Daemon, folder: Path, out: Console) -> None:
        self._running = running
        self._landing = folder / "landing"
        self._out = out
        self._now = Reaction()
        self.reactions: list[Reaction] = []
        running.loop.listeners.append(self._heard)

    async def land(self, what: str, path: str, text: str, *, quiet: bool = False) -> Reaction:
        """Write the file, close it, and wait until all that follows from it is done."""
        changes = self._changes()
        self._now = Reaction()
        part = self._landing / ".incoming"
        part.write_text(text)
        part.replace(self._landing / path)
        self._now.closed = perf_counter()
        return await self._reacted(what, lambda: self._changes() > changes, quiet)

    async def untouched(self, what: str, act: Callable[[], object]) -> Reaction:
        """Do something that must not be a change, and wait until the sensor has noticed it."""
        moves = self._moves()
        self._now = Reaction()
        act()
        self._now.closed = perf_counter()
        return await self._reacted(what, lambda: self._moves() > moves, False)

    async def _reacted(self, what: str, noticed: Callable[[], bool], quiet: bool) -> Reaction:
        with anyio.fail_after(PATIENCE_S):
            while not noticed():
                await anyio.sleep(0.002)
            await self._running.loop.quiet()
        self.reactions.append(self._now)
        if not quiet:
            self._tell(what, self._now)
        return self._now

    def _heard(self, recorded: Recorded, view: View) -> None:
        since = (perf_counter() - self._now.closed) * 1000
        match recorded.event:
            case SourceChanged():
                self._now.owed |= {
                    cell.key
                    for state in view.staleness.states.values()
                    for cell in cells_of(state)
                    if cell.owed < NOTHING and cell.there
                }
            case RunStarted(targets=targets):
                key = AssetPartition(targets[0].asset, targets[0].partition)
                self._now.started[key] = since
            case Materialized(asset=asset, partition=partition):
                self._now.finished[AssetPartition(asset, partition)] = since
            case _:
                pass

    def _tell(self, what: str, reaction: Reaction) -> None:
        done = sorted(reaction.finished.items(), key=lambda item: item[1])
        steps = " · ".join(f"{key.asset} {ms:.0f}" for key, ms in done)
        spared = f"; {reaction.spared} cut off, nothing new for them" if reaction.spared else ""
        self._out.print(f"  {what} → {steps + ' ms' if steps else 'nothing to do'}{spared}")

    def _changes(self) -> int:
        return self._running.view.catalog.changes

    def _moves(self) -> int:
        return sum(health.moves for health in self._running.view.sensors.health.values())


def run(folder: Path | None = None, *, keep: bool = False) -> int:
    """Run the demo in `folder` (none: a temporary one, removed unless `keep`);
    0 if all went right.
    """
    temporary = folder is None
    place = Path(tempfile.mkdtemp(prefix="freshet-demo-")) if folder is None else folder
    before = Path.cwd()
    try:
        _prepare(place)
        os.chdir(place)
        options = {"use_uvloop": find_spec("uvloop") is not None}
        return anyio.run(_perform, place, temporary and not keep, backend_options=options)
    finally:
        os.chdir(before)
        if temporary and not keep:
            shutil.rmtree(place, ignore_errors=True)


def _prepare(place: Path) -> None:
    for name in ("flights", "weather"):
        (place / "landing" / name).mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("flights.py")
    shutil.copyfile(source, place / "project.py")


async def _perform(place: Path, passing: bool) -> int:
    out = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    project = load_project("project.py")
    flights, weather = month.flights_by_day(), month.weather_by_day()
    out.print(f"{len(flights)} days of flights from New York will land in {place}/landing;")
    out.print(f"{len(project.assets)} assets react. Times are ms since the file was closed.\n")
    began = perf_counter()
    with redirect_stdout(sys.stderr):
        async with daemon(project, place / STATE) as running:
            show = Show(running, place, out)
            problems = await _land_all(show, place, flights, weather)
            problems += _miscounted(running.view, len(flights))
            await _summary(running, show, out, perf_counter() - began)
            running.stop("the demo is over")
            await running.stopped()
    for problem in problems:
        out.print(f"[bold red]unexpected:[/] {problem}")
    if not passing:
        out.print(f"\nLook further:  cd {place}; freshet status; freshet events")
    return 1 if problems else 0


async def _land_all(
    show: Show, place: Path, flights: dict[str, str], weather: dict[str, str]
) -> list[str]:
    """Land everything in its order; what did not go as it must is returned."""
    problems: list[str] = []

    def expect(what: str, reaction: Reaction, runs: list[str], spared: int = 0) -> None:
        seen = sorted(key.asset for key in reaction.started)
        if seen != sorted(runs) or reaction.spared != spared:
            problems.append(f"{what}: ran {seen}, cut off {reaction.spared}; expected {runs}")

    await show.land("airlines", "airlines.csv", month.airlines(), quiet=True)
    for day, text in flights.items():
        await show.land("weather", f"weather/{day}.csv", weather[day], quiet=True)
        text = month.without_last(text, LATE_ROWS) if day == LATE_DAY else text
        label = f"landed [bold]{day}[/]"
        expect(day, await show.land(label, f"flights/{day}.csv", text), PER_DAY)
    await anyio.sleep(BREATH_S)
    late = flights[LATE_DAY]
    label = f"[bold]{LATE_DAY}[/] corrected: {LATE_ROWS} flights came late"
    expect("late file", await show.land(label, f"flights/{LATE_DAY}.csv", late), PER_DAY)
    label = f"[bold]{LATE_DAY}[/] corrected: one tail number"
    text = month.with_tail_number(late, "N000NY")
    await anyio.sleep(BREATH_S)
    reaction = await show.land(label, f"flights/{LATE_DAY}.csv", text)
    expect("tail number", reaction, ["clean"], spared=len(PER_DAY) - 1)
    file = place / "landing" / "flights" / "2013-01-15.csv"
    reaction = await show.untouched("2013-01-15 touched", lambda: os.utime(file))
    expect("touched", reaction, [])
    label = "2013-01-16 written anew, every byte the same"
    reaction = await show.untouched(label, lambda: _rewrite(file.with_name("2013-01-16.csv")))
    expect("written anew", reaction, [])
    return problems


def _rewrite(file: Path) -> None:
    """Overwrite a file with its own content, as a sender does that sends everything again."""
    part = file.with_name(".incoming")
    part.write_bytes(file.read_bytes())
    part.replace(file)


def _miscounted(view: View, days: int) -> list[str]:
    """The totals that are not what they must be: no run more, none less, none failed."""
    runs = days * len(PER_DAY) + len(PER_DAY) + 1
    expected: dict[Outcome, int] = {"succeeded": runs, "failed": 0, "abandoned": 0}
    return [
        f"{view.runs.counts[how]} runs {how}, not {count}"
        for how, count in expected.items()
        if view.runs.counts[how] != count
    ]


async def _summary(running: Daemon, show: Show, out: Console, seconds: float) -> None:
    view = running.view
    first = sorted(min(r.started.values()) for r in show.reactions if r.started)
    last = sorted(max(r.finished.values()) for r in show.reactions if r.finished)
    spared = sum(reaction.spared for reaction in show.reactions)
    out.print(
        f"\n{view.catalog.changes} changes, {view.runs.counts['succeeded']} runs, "
        f"{spared} cut off, {view.runs.counts['failed']} failed, "
        f"{view.position} events, in {seconds:.1f} s"
    )
    out.print(
        f"file closed → first asset started: p50 {_percentile(first, 50):.1f} ms, "
        f"p99 {_percentile(first, 99):.1f} ms;  → last asset of the chain finished: "
        f"p50 {_percentile(last, 50):.1f} ms\n"
    )
    question = explain(view, AssetPartition("carriers"), wall_clock())
    out.print("$ freshet why carriers")
    try:
        position = next(question)
        while True:
            position = question.send(await running.stream.at(position))
    except StopIteration as done:
        for step in done.value.steps:
            out.print(f"{'  ' * (step.depth + 1)}{step.text}  [{step.position}]", markup=False)


def _percentile(ordered: list[float], percent: int) -> float:
    if len(ordered) < 2:
        return ordered[0] if ordered else 0.0
    return statistics.quantiles(ordered, n=100, method="inclusive")[percent - 1]
