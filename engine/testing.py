"""Simulate a project: the real engine in memory, on virtual time, so that days pass in
milliseconds.
"""

import asyncio
import random
import tempfile
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from freshet.engine.asking import possible, scope_in, wanted
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, FreshetError, RequestError
from freshet.engine.events import (
    AnyEvent,
    Demanded,
    EngineStarted,
    GraphDeployed,
    Paused,
    Recorded,
    Resumed,
    SourceChanged,
)
from freshet.engine.keys import AssetKey, AssetPartition, parse_asset_partition
from freshet.engine.landings import Landings
from freshet.engine.lending import Lender
from freshet.engine.loop import Loop
from freshet.engine.project import Project
from freshet.engine.recollection import Recollection
from freshet.engine.resources import Resource, replaced
from freshet.engine.simulated import Conduct, Duration, SimulatedRunner
from freshet.engine.stores.payloads import payload_of
from freshet.engine.valves import actor_of
from freshet.engine.virtual import LivelockError, VirtualLoop
from freshet.projections.pauses import EVERYTHING, sensor_scope
from freshet.projections.runs import Run
from freshet.projections.view import View

LONGEST_SETTLE_S = 31 * 86_400.0
"""Virtual time `settle` waits for live runs: a project that never rests ends in an error."""

LONGEST_END_S = 60.0
"""Virtual time that functions have to clean up after they were cancelled by `close`."""

START = "2026-01-01"
"""When a simulation begins, unless told otherwise: the same for every run of a test."""


def simulate(
    project: Project,
    *,
    seed: int | str = 0,
    start: str | datetime = START,
    durations: Mapping[AssetKey, Duration] | None = None,
    slots: int | None = None,
    resources: Mapping[str, object] | None = None,
) -> "Simulation":
    """A simulation of the project: its real functions under the real engine, in memory.

    `durations` says how long runs of an asset take at least, in seconds, as text such as `"2s"`, or
    drawn by a function from the random numbers it is given; others take no time but what their
    async functions sleep. `start` is UTC unless it names a zone. Sensors do not run and the
    project's store is not used. `resources` stand in for those of the project, by name, and may be
    of any type; others are opened, and take no time. The same seed and the same calls give the same
    events at the same times. Raises DefinitionError for durations of what is no asset, and for what
    is no resource.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        slots = project.slots if slots is None else slots
        lent = replaced(project.resources, resources or {})
        return Simulation(project, seed, _moment(start), durations or {}, slots, lent)
    raise RequestError(
        "a simulation cannot be made inside a running event loop",
        cause="it has an event loop of its own, and its methods return when that has come to rest",
        hint="use it in a plain `def`, not in an `async def`",
    )


class Simulation(Recollection):
    """A project at work in virtual time; see `simulate`. Made once, closed once.

    Time passes, and runs start, only in `advance` and `settle`. What happens outside in between is
    recorded and seen at once, so that several things can happen at the same moment.
    """

    def __init__(
        self,
        project: Project,
        seed: int | str,
        start: datetime,
        durations: Mapping[AssetKey, Duration],
        slots: int,
        resources: Mapping[str, Resource],
    ) -> None:
        if slots < 1:
            raise DefinitionError(f"slots={slots}: nothing could ever run", hint="use 1 or more")
        self._conduct = Conduct(project.graph, durations, seed)
        self._start_us = int(start.timestamp() * 1_000_000)
        self._time = VirtualLoop(seed)
        self._landed = tempfile.TemporaryDirectory(prefix="freshet-")
        super().__init__(project.assets, Path(self._landed.name), self._wall_us)
        self._landings = Landings(project.sensors, self._folder)
        self._changes = 0
        self._resources = resources
        self._engine = self._time.create_task(self._run(project, seed, slots), name="engine")
        try:
            self._run_to(0.0)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Simulation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- time ---------------------------------------------------------------------------------

    def advance(self, duration: float | str) -> None:
        """Let time pass: everything that happens within it, and at its end, has happened.

        Seconds, or text such as `"250ms"` or `"2h"`. Raises RequestError for what is no length of
        time, LivelockError when time cannot pass, and whatever broke the engine itself.
        """
        try:
            seconds = parse_duration_ms(duration, "advance") / 1000
        except DefinitionError as error:
            raise RequestError(
                error.message, cause="time never goes back", hint=error.hint
            ) from None
        with self._working():
            self._run_to(self._time.time() + seconds)

    def settle(self) -> None:
        """Let everything finish that can start now; time passes only as far as live runs need.

        What waits for a moment (a retry, a window, a deadline) goes on waiting. Raises
        LivelockError when runs wait for what never comes, or when there are new ones for a month.
        """
        latest = self._time.time() + LONGEST_SETTLE_S
        with self._working():
            self._run_to(self._time.time())
            while self._view.runs.live:
                following = self._time.next_timer()
                if following is None or following > latest:
                    raise _endless(next(iter(self._view.runs.live.values())), following)
                self._run_to(following)

    # --- what happens outside -----------------------------------------------------------------

    def land(self, path: str, content: bytes | str | None) -> None:
        """A file lands (with None: it is removed), as the project's file sensor would record it.

        `path` is as in the sensor's pattern, for example `landing/2024-01-01.csv`. Assets read the
        content in any form that they could read the file in; it lies in a folder that is gone when
        the simulation is closed. The same content again is no change. What lands while its sensor
        is paused is seen when that is over. Raises RequestError when no sensor waits for such a
        file.
        """
        self._check_alive()
        self._landings.land(path, content, self._clock())
        self._do(self._read_landed())

    def change(
        self,
        source: str,
        version: str | None = None,
        partition: str = "",
        *,
        payload: object = None,
    ) -> None:
        """A source has a new version: the given one, or one never seen before; "" says it is gone.

        `change("flights@2024-01-01")` is `change("flights", partition="2024-01-01")`. `payload` is
        what comes with it for who reads changes: bytes, or anything that can be JSON. Raises
        RequestError for what is no source, or for a partition it cannot have.
        """
        name = f"{source}@{partition}" if partition else source
        target = possible(self._view, name, self._clock())
        if not self._view.staleness.graph.specs[target.asset].is_source:
            raise RequestError(
                f"'{target.asset}' is no source",
                cause="the versions of an asset come from its runs",
                hint=f"sim.materialize('{target}')",
            )
        self._changes += 1
        seen = f"version {self._changes}" if version is None else version
        carried = None
        if isinstance(payload, bytes):
            carried = payload_of(payload)
        elif payload is not None:
            carried = payload_of(msgspec.json.encode(payload), "json")
        self._record(SourceChanged(target.asset, target.partition, seen, payload=carried))

    # --- what people ask for ------------------------------------------------------------------

    def materialize(self, *targets: str, reason: str = "") -> None:
        """Ask for assets or partitions to be built, fresh or not, as `freshet materialize` does."""
        found: dict[AssetPartition, None] = {}
        for text in targets:
            found.update(dict.fromkeys(wanted(self._view, text, self._clock())))
        self._record(Demanded(tuple(found), reason))

    def pause(self, scope: str = EVERYTHING, reason: str = "") -> None:
        """Start nothing in a scope: an asset, `group:NAME`, `sensor:NAME`, or all assets."""
        self._record(Paused(scope_in(self._view, scope), reason))

    def resume(self, scope: str = EVERYTHING, reason: str = "") -> None:
        """End a pause; what is owed is paid once. Raises RequestError when there is none."""
        if scope not in self._view.pauses.scopes:
            paused = ", ".join(self._view.pauses.scopes) or "nothing"
            raise RequestError(f"'{scope}' is not paused", cause=f"paused now: {paused}")
        self._record(Resumed(scope, reason))

    def fail(self, target: str, times: int = 1) -> None:
        """Let the next runs of an asset, or of one partition, fail once their time is over."""
        name = parse_asset_partition(target)
        if self._view.staleness.graph.require(name.asset).is_source:
            raise RequestError(f"'{name.asset}' is a source: it has no runs that could fail")
        if times < 1:
            raise RequestError(f"times={times}: that is no number of runs", hint="use 1 or more")
        self._conduct.fail(name, times)

    def close(self) -> None:
        """End the simulation: live runs are cancelled, landed files removed. Safe to call again."""
        if self._time.is_closed():
            return
        try:
            self._engine.cancel()
            self._time.run_to(self._time.time())
            latest = self._time.time() + LONGEST_END_S
            while not self._engine.done() and (self._time.next_timer() or latest) < latest:
                self._time.run_to(self._time.next_timer() or latest)
            self._time.run_until_complete(self._time.shutdown_asyncgens())
        finally:
            self._time.close()
            self._landed.cleanup()

    # --- inside -------------------------------------------------------------------------------

    async def _run(self, project: Project, seed: int | str, slots: int) -> None:
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        self._time.threads = limiter
        specs = tuple(project.graph.specs.values())
        sensors = {sensor.name: sensor.sources for sensor in project.sensors}
        await self._stream.append(
            [
                EngineStarted("simulation", slots=slots, sensors=sensors),
                GraphDeployed(project.graph.digest, specs),
            ]
        )
        self._loop = loop = Loop(
            self._view,
            self._stream,
            msgspec.structs.replace(
                project.definitions, store=self._store, resources=self._resources
            ),
            slots=slots,
            clock=self._clock,
            rng=random.Random(f"retries {seed}"),
            make_runner=partial(
                SimulatedRunner,
                conduct=self._conduct,
                folder=self._folder,
                timer=self._time.time,
            ),
            lender=Lender(self._resources, inline=True),
        )
        loop.draining = True
        loop.longest_sleep_s = inf  # nothing suspends a machine that is not there
        loop.listeners.append(self._noticed)
        async with anyio.create_task_group() as self._tasks:
            await loop.run()

    async def _read_landed(self) -> None:
        """What the sensors do that are not paused."""
        scopes = self._view.pauses.scopes
        for sensor, change in self._landings.news(lambda name: sensor_scope(name) in scopes):
            await self._stream.append([change], actor=actor_of(sensor))

    def _wall_us(self) -> int:
        return self._start_us + round(self._time.time() * 1_000_000)

    def _noticed(self, recorded: Recorded, view: View) -> None:
        self._time.progressed()
        if isinstance(recorded.event, Resumed):
            self._tasks.start_soon(self._read_landed)

    def _record(self, event: AnyEvent) -> None:
        self._check_alive()
        self._do(self._stream.append([event]))

    def _do(self, work: Coroutine[Any, Any, object]) -> None:
        """Do it at this moment; the engine takes note, and starts nothing yet."""
        task = self._time.create_task(work, name="outside")
        self._run_to(self._time.time())
        task.result()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Runs may start."""
        self._check_alive()
        self._loop.draining = False
        self._time.create_task(self._loop.act(), name="act")
        try:
            yield
        finally:
            self._loop.draining = True

    def _run_to(self, when: float) -> None:
        self._check_alive()
        self._time.run_to(when)
        self._check_alive()

    def _check_alive(self) -> None:
        """Raise what ended the engine, if anything did."""
        if self._time.is_closed():
            raise RequestError("the simulation is closed", hint="use it inside its `with` block")
        if self._engine.done():
            raise _cause(self._engine.exception() or FreshetError("the engine ended by itself"))


def _endless(live: Run, following: float | None) -> LivelockError:
    waits = "it waits, and nothing will happen by itself that could wake it"
    return LivelockError(
        f"run {live.run} of '{live.event.targets[0].asset}' does not end",
        cause=waits if following is None else f"there were runs for {LONGEST_SETTLE_S:g} s",
        hint="use sim.advance(...) to let a certain time pass",
    )


def _cause(error: BaseException) -> BaseException:
    """The one error inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _moment(start: str | datetime) -> datetime:
    try:
        found = datetime.fromisoformat(start) if isinstance(start, str) else start
    except ValueError:
        raise RequestError(
            f"start={start!r} is no date", hint='for example "2026-01-01" or "2026-01-01T06:00"'
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
