"""The daemon: opens the state folder, recovers, deploys the project, and keeps it fresh until told
to stop.
"""

import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from freshet.engine.asking import StatusQuestion, status_of
from freshet.engine.checkpointing import Checkpointing
from freshet.engine.checkpoints import CHECKPOINT, position_of, save, view_of
from freshet.engine.clock import SteadyClock
from freshet.engine.events import EngineStopped
from freshet.engine.executors.pool import check_executors
from freshet.engine.executors.workshop import Workshop, open_workshop
from freshet.engine.intents import Intents
from freshet.engine.lending import borrowing
from freshet.engine.loop import Loop
from freshet.engine.orphans import Undertaker
from freshet.engine.project import Project
from freshet.engine.recovery import recover
from freshet.engine.rollback import Restorer, RollbackQuestion, RolledBackTo, roll_back
from freshet.engine.runner import Runner
from freshet.engine.socket import Answers, serve
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stores.payloads import Payloads
from freshet.engine.stores.store import Store
from freshet.engine.supervisor import supervise
from freshet.engine.sweep import keep_sweeping
from freshet.engine.valves import Valves
from freshet.projections.answers import StatusReport
from freshet.projections.sensors import Pulse
from freshet.projections.view import View

STREAM_FILE = "stream.db"
"""The stream, inside the state folder."""

PAYLOADS = "payloads"
"""The folder of large payloads of changes, inside the state folder."""

INTENTS = "publishing"
"""The folder of what live runs are about to publish, inside the state folder."""

WORTH_SAVING = 1000
"""Events since the last checkpoint for which a stopping daemon makes another one."""

GRACE_S = 30.0
"""How long a stopping daemon waits for live runs before it leaves them to be abandoned."""

SAME_SIGNAL_S = 0.3
"""Signals that come so close together are one wish."""

log = structlog.get_logger("freshet.daemon")


class Daemon:
    """A running engine: its stream, its loop, and the way to end it.

    `stop` drains: nothing new starts, live runs get `GRACE_S` to finish. A second `stop` does not
    wait.
    """

    def __init__(
        self, stream: SqliteStream, loop: Loop, tasks: TaskGroup, clock: Callable[[], int]
    ) -> None:
        self.stream = stream
        self.loop = loop
        self.clock = clock
        self.pulses: dict[str, Pulse] = {}
        """How the sensors are that are being read."""
        self._tasks = tasks
        self._stopping = anyio.Event()
        self._now = anyio.Event()
        self.stop_reason = ""

    @property
    def view(self) -> View:
        """Everything known at the newest folded position."""
        return self.loop.view

    async def status(self, question: StatusQuestion) -> StatusReport:
        """How things stand once everything recorded by now is folded."""
        head = self.stream.head
        while self.view.position < head:
            await anyio.sleep(0.001)
        return await status_of(self.view, self.stream.at, question, self.clock(), self.pulses)

    def stop(self, reason: str = "asked to stop") -> None:
        """Begin to stop, or, the second time, stop without waiting for live runs."""
        if self._stopping.is_set():
            self._now.set()
        self.stop_reason = self.stop_reason or reason
        self.loop.draining = True
        self._stopping.set()

    async def stopped(self) -> None:
        """Wait until someone calls `stop`, then until the live runs have ended or time is up."""
        await self._stopping.wait()
        live = len(self.view.runs.live)
        if live:
            log.info("waiting for live runs", runs=live, grace_s=GRACE_S)
        with anyio.move_on_after(GRACE_S):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(self._cancel_when_hurried, waiting)
                await self.loop.drained()
                waiting.cancel_scope.cancel()

    async def _cancel_when_hurried(self, waiting: TaskGroup) -> None:
        await self._now.wait()
        waiting.cancel_scope.cancel()


@asynccontextmanager
async def daemon(
    project: Project,
    state: Path,
    *,
    slots: int | None = None,
    sensors: bool = True,
    rng: random.Random | None = None,
    clock: Callable[[], int] | None = None,
) -> AsyncIterator[Daemon]:
    """Run the project on the state folder for as long as the block lasts.

    On entry the stream is open and folded, runs cut off by an earlier end are abandoned and the
    definitions are deployed if they changed. On exit the stream is closed in order. `clock` gives
    microseconds since the epoch; if left out, a `SteadyClock` that goes on from what is recorded.
    Raises InUseError when another process is the writer, StreamError when the stream cannot be
    used, DefinitionError when an asset cannot run where it asks to.
    """
    steady = SteadyClock()
    clock = clock or steady
    async with _opened(project, state, clock) as (stream, workshop):
        view = await view_of(stream, state / CHECKPOINT)
        steady.begin(view.recorded_at)
        payloads, intents = Payloads(state / PAYLOADS), Intents(state / INTENTS)
        await recover(stream, view, project, slots or project.slots, release(), intents)
        rng = rng or random.Random()
        loop = Loop(
            view,
            stream,
            project.definitions,
            slots=slots or project.slots,
            clock=clock,
            rng=rng,
            payloads=payloads,
            intents=intents,
            make_runner=partial(_runner, workshop),
        )
        valves = Valves((sensor.name for sensor in project.sensors), view.pauses)
        checkpointing = Checkpointing(state / STREAM_FILE)
        restorer = Restorer(view, stream, project.store, loop.readers)
        undertaker = Undertaker(project.on_removed, view, stream, project.store)
        loop.listeners += [valves.heed, checkpointing.heed, restorer.heed, undertaker.heed]
        async with anyio.create_task_group() as tasks:
            running = Daemon(stream, loop, tasks, clock)
            listening = anyio.Event()
            answers = Answers(running.status, partial(_roll_back, running, project.store))
            tasks.start_soon(lambda: serve(state, stream, answers, ready=listening), name="socket")
            await listening.wait()
            for part in (loop.run, checkpointing.run, restorer.run, undertaker.run):
                tasks.start_soon(part, name=part.__qualname__)
            tasks.start_soon(keep_sweeping, loop, stream, name="sweep")
            for sensor in project.sensors if sensors else ():
                pulse = running.pulses[sensor.name] = Pulse()
                watched = partial(
                    supervise,
                    borrowing(sensor, loop.lender),
                    stream,
                    rng,
                    valves.of[sensor.name],
                    health=view.sensors.health.get(sensor.name),
                    pulse=pulse,
                    payloads=payloads,
                    clock=clock,
                )
                tasks.start_soon(watched, name=f"sensor {sensor.name}")
            try:
                yield running
            finally:
                tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await _leave(running, state)


def _runner(workshop: Workshop, *args: Any, **options: Any) -> Runner:
    made = Runner(*args, **options)
    made.workshop = workshop
    return made


@asynccontextmanager
async def _opened(
    project: Project, state: Path, clock: Callable[[], int]
) -> AsyncIterator[tuple[SqliteStream, Workshop]]:
    """The stream, for writing, and what surrounds its runs."""
    check_executors(project)
    async with (
        SqliteStream.open(state / STREAM_FILE, clock=clock) as stream,
        open_workshop(state, project.processes) as workshop,
    ):
        yield stream, workshop


async def _leave(running: Daemon, state: Path) -> None:
    """The last that is recorded, and what makes the next start quick."""
    await running.stream.append([EngineStopped(running.stop_reason)])
    if running.view.position > position_of(state / CHECKPOINT) + WORTH_SAVING:
        with suppress(OSError):
            await save(running.view, running.stream, state / CHECKPOINT)


async def _roll_back(
    running: Daemon, store: Store, question: RollbackQuestion, actor: str | None, key: str | None
) -> RolledBackTo:
    return await roll_back(
        running.stream, lambda: running.view, store, question, actor=actor, key=key
    )


async def obey_signals(running: Daemon) -> None:
    """SIGTERM and SIGINT drain; the second one stops at once, unless it comes with the first: some
    send it to the process and to its group.
    """
    first: float | None = None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            now = time.monotonic()
            if first is not None and now < first + SAME_SIGNAL_S:
                continue
            first = now if first is None else first
            log.info("stopping", signal=signal.Signals(received).name)
            running.stop(signal.Signals(received).name)


def release() -> str:
    """The installed version of Freshet."""
    try:
        return version("freshet")
    except PackageNotFoundError:
        return "unknown"
