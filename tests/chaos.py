"""A daemon that is killed again and again while files land, and the questions to ask afterwards."""

import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import anyio

from freshet.engine.digests import digest
from freshet.engine.events import (
    CursorMoved,
    Demanded,
    EngineStarted,
    Recorded,
    RunAbandoned,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.socket import Request, ask
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import MAX_BATCH
from freshet.projections.cells import cells_of, version_hash
from freshet.projections.view import View
from tests.killable import Killable

PROJECT = """
import freshet as fr

flights = fr.source("flights", partitions=fr.daily("2024-01-01", opens="data"))
ticks = fr.source("ticks")


@fr.asset(partitions=fr.daily("2024-01-01", opens="data"))
def delays(flights: str) -> str:
    return flights.upper()


@fr.asset
def total(delays: dict[str, str]) -> str:
    return "".join(f"{day} {text}\\n" for day, text in sorted(delays.items()))


@fr.asset
async def report(total: str, ticks: str) -> str:
    return f"{total}as of {ticks}"


@fr.multi_asset(["lines", "letters"])
def counted(total: str) -> tuple[int, dict[str, int]]:
    return total.count("\\n"), {letter: total.count(letter) for letter in set(total)}


@fr.check("lines", blocking=True)
def is_not_negative(lines: int) -> bool:
    return lines >= 0


@fr.asset(executor="process")
def ratio(lines: int, letters: dict[str, int]) -> str:
    assert letters.get("\\n", 0) == lines, "of two runs"
    return f"{lines} of {sum(letters.values())}"


project = fr.Project(
    assets=[flights, ticks, delays, total, report, counted, ratio],
    checks=[is_not_negative],
    sensors=[fr.files("landing/{partition}.csv", source=flights)],
    store=fr.LocalStore("data"),
)
"""

PATIENCE_S = 60
"""Bound on waits for a daemon that take milliseconds when nothing is wrong."""

DAYS = 12
"""Partitions that files land for: few, so that most files overwrite one that is being worked on."""

MAX_EVENTS = 40
"""At most so many events are let through before a kill."""

MAX_DELAY_S = 0.05
"""Longest random wait by which a kill is moved off the events that lead to it."""

GONE = (OSError, anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError)
"""What asking a daemon ends in when it is not there, or is killed before it answers."""


class Chaos(Killable):
    """A project folder, its daemon, and all that was promised to those who asked the daemon."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, PROJECT, seed)
        self.acknowledged: dict[int, SourceChanged] = {}
        self.sent: list[str] = []
        self.released: set[AssetPartition] = set()
        self._written = 0
        self._unanswered: str | None = None
        (folder / "landing").mkdir()

    # --- what happens -------------------------------------------------------------------------

    def land(self) -> None:
        """Create or overwrite the file of a random day, with content never seen before."""
        day = date(2024, 1, 1) + timedelta(days=self.rng.randrange(DAYS))
        self._written += 1
        text = f"file {self._written} " + "x" * self.rng.randrange(2000)
        (self.folder / "landing" / f"{day}.csv").write_text(text)

    async def tick(self) -> None:
        """Ask the daemon to append a change; one that was not answered is asked for again."""
        if self._unanswered is None:
            self._unanswered = f"tick {len(self.sent)}"
            self.sent.append(self._unanswered)
        await self.say(self._unanswered)
        self._unanswered = None

    async def say(self, version: str) -> int:
        event = SourceChanged("ticks", "", version)
        (position,) = await ask(self.state, Request((event,), actor="chaos", key=version))
        self.acknowledged[position] = event
        return position

    async def round(self) -> None:
        """A daemon starts, files land, changes are asked for, and at some moment it is killed."""
        for _ in range(self.rng.randrange(3)):
            self.land()
        before = await self._head()
        daemon = self.start()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_landing)
                tasks.start_soon(self._keep_ticking, daemon)
                await self._wait_for_the_moment(before, daemon)
                assert daemon.poll() is None, self.log()
                daemon.kill()
        finally:
            daemon.kill()
            daemon.wait()
        assert daemon.returncode == -signal.SIGKILL, self.log()

    async def last(self, final: str) -> View:
        """A daemon that is not killed: it hears `final`, makes everything fresh and is stopped."""
        daemon = self.start()
        view = View()
        try:
            with anyio.move_on_after(PATIENCE_S) as patience:
                await self._wait_for_head(await self._head() + 1, daemon)
                position = None
                while position is None:
                    assert daemon.poll() is None, self.log()
                    try:
                        position = await self.say(final)
                    except GONE:
                        await anyio.sleep(0.01)
                async with SqliteReader.open(self.stream) as stream:
                    async for batch in stream.follow():
                        for recorded in batch:
                            view.apply(recorded)
                        if view.position >= position:
                            if not self.unfinished(view):
                                break
                            await self._release(view)
            assert not patience.cancelled_caught, (self.unfinished(view), self.log())
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0, self.log()
        finally:
            daemon.kill()
            daemon.wait()
        return view

    async def _release(self, view: View) -> None:
        """Ask for what was quarantined, as a person would: among so many kills the same run may
        have been there three times in a row.
        """
        for name, run in list(view.runs.failed.items()):
            if name not in self.released and "quarantined" in run.error:
                self.released.add(name)
                demanded = Demanded((name,), "released after the kills")
                await ask(self.state, Request((demanded,), actor="chaos", key=f"release {name}"))

    async def _keep_landing(self) -> None:
        for _ in range(self.rng.randrange(6)):
            await anyio.sleep(self.rng.uniform(0, MAX_DELAY_S))
            self.land()

    async def _keep_ticking(self, daemon: subprocess.Popen[bytes]) -> None:
        while daemon.poll() is None:
            with suppress(*GONE):
                await self.tick()
            await anyio.sleep(0.01)

    async def _wait_for_the_moment(self, before: int, daemon: subprocess.Popen[bytes]) -> None:
        if self.rng.random() < 0.9:  # else it is killed while it starts
            await self._wait_for_head(before + self.rng.randint(1, MAX_EVENTS), daemon)
        if self.rng.random() < 0.7:
            await anyio.sleep(self.rng.uniform(0, MAX_DELAY_S))

    async def _wait_for_head(self, goal: int, daemon: subprocess.Popen[bytes]) -> None:
        while not self.stream.exists() or not self.stream.stat().st_size:
            assert daemon.poll() is None, self.log()
            await anyio.sleep(0.005)
        async with SqliteReader.open(self.stream) as stream:
            while await stream.refresh() < goal:
                assert daemon.poll() is None, self.log()
                await anyio.sleep(0.002)

    async def _head(self) -> int:
        if not self.stream.exists() or not self.stream.stat().st_size:
            return 0
        async with SqliteReader.open(self.stream) as stream:
            return stream.head

    # --- what is there afterwards -------------------------------------------------------------

    def landed(self) -> dict[str, str]:
        """The data version of each file as it lies there, by day."""
        folder = self.folder / "landing"
        return {path.stem: digest([path.read_bytes()]) for path in folder.iterdir()}

    def unfinished(self, view: View) -> list[str]:
        """What a view lacks to be the whole truth about the files that lie there."""
        cells = [cell.key for s in view.staleness.states.values() for cell in cells_of(s)]
        found = [str(view.status(*key)) for key in cells]
        found = [text for text in found if "state='fresh'" not in text]
        for day, version in self.landed().items():
            cell = view.staleness.cell("flights", day)
            seen = cell.home.hash[cell.i] if cell is not None else 0
            if seen != version_hash("flights", day, version):
                found.append(f"file of {day} unseen")
        return found + [f"run {run} is alive" for run in view.runs.live]

    def outputs(self) -> dict[str, bytes]:
        """The current files of the store, by name."""
        root = self.folder / "data"
        files = [path for path in root.rglob("*") if path.is_file()]
        named = {path.relative_to(root): path for path in files}
        return {
            str(name): path.read_bytes()
            for name, path in named.items()
            if name.parts[0] not in (".versions", ".staged")
        }

    def staged(self) -> list[Path]:
        """Files that a run has written and neither published nor discarded."""
        return [path for path in (self.folder / "data" / ".staged").rglob("*") if path.is_file()]

    async def history(self) -> list[Recorded]:
        """The whole stream, after its hash chain, cursors and indexes were verified."""
        events: list[Recorded] = []
        async with SqliteReader.open(self.stream) as stream:
            head = await stream.verify()
            while batch := await stream.read(len(events), limit=MAX_BATCH):
                events.extend(batch)
        assert [r.position for r in events] == list(range(1, head + 1))
        return events

    async def twin(self, folder: Path, final: str) -> "Chaos":
        """The same files in another folder, and a daemon that is never killed."""
        other = Chaos(folder, 0)
        shutil.copytree(self.folder / "landing", folder / "landing", dirs_exist_ok=True)
        await other.last(final)
        return other


def repeated_runs(history: list[Recorded]) -> list[str]:
    """Runs of a target that had last succeeded with the same inputs and the same code."""
    started = {r.position: r.event for r in history if isinstance(r.event, RunStarted)}
    last: dict[tuple[str, str], tuple[str, str]] = {}
    found = []
    for recorded in history:
        if isinstance(recorded.event, RunStarted):
            same = [
                last.get((one.asset, one.partition)) == (one.fingerprint, one.code_version)
                for one in recorded.event.targets
            ]
            if all(same):
                found.append(f"run {recorded.position} of {recorded.event.targets}")
        elif isinstance(recorded.event, RunSucceeded):
            for one in started[recorded.event.run].targets:
                last[one.asset, one.partition] = (one.fingerprint, one.code_version)
    return found


def repeated_changes(history: list[Recorded]) -> list[str]:
    """Changes of a source to the version it had already: news that was told twice."""
    last: dict[tuple[str, str], str] = {}
    found = []
    for recorded in history:
        event = recorded.event
        if isinstance(event, SourceChanged):
            if last.get((event.asset, event.partition)) == event.data_version:
                found.append(f"{recorded.position}: {event}")
            last[event.asset, event.partition] = event.data_version
    return found


def torn_batches(history: list[Recorded]) -> list[int]:
    """Changes of files that were not recorded together with the cursor that passes them."""
    found = []
    for first, second in pairwise(history):
        event = first.event
        if isinstance(event, SourceChanged) and event.asset == "flights":
            whole = isinstance(second.event, SourceChanged | CursorMoved) and (
                (first.actor, first.recorded_at) == (second.actor, second.recorded_at)
            )
            if not whole:
                found.append(first.position)
    return found


def wrongly_ended_runs(history: list[Recorded]) -> list[int]:
    """Runs that did not end exactly once."""
    ends = Counter(
        r.event.run for r in history if isinstance(r.event, RunSucceeded | RunFailed | RunAbandoned)
    )
    return [
        r.position for r in history if isinstance(r.event, RunStarted) and ends[r.position] != 1
    ]


def starts(history: list[Recorded]) -> int:
    """How often a daemon got as far as to say that it started."""
    return sum(isinstance(r.event, EngineStarted) for r in history)


def abandoned(history: list[Recorded]) -> int:
    """How many runs a kill cut off."""
    return sum(isinstance(r.event, RunAbandoned) for r in history)
