"""The daemon: opens the state folder, recovers, deploys the project, and keeps it fresh until told
to stop.
"""

import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from freshet.engine.checkpointing import Checkpointing
from freshet.engine.checkpoints import CHECKPOINT, position_of, save, view_of
from freshet.engine.clock import SteadyClock
from freshet.engine.events import EngineStopped
from freshet.engine.executors.pool import check_executors
from freshet.engine.executors.workshop import Workshop, open_workshop
from freshet.engine.intents import Intents
from freshet.engine.loop import Loop
from freshet.engine.notify import Notifier
from freshet.engine.orphans import Undertaker
from freshet.engine.project import Project
from freshet.engine.recovery import recover
from freshet.engine.rollback import Restorer
from freshet.engine.runner import Runner
from freshet.engine.running import Daemon, release
from freshet.engine.sensing import Sensing
from freshet.engine.socket import Answers, serve
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stores.payloads import Payloads
from freshet.engine.sweep import Sweeper

STREAM_FILE = "stream.db"
"""The stream, inside the state folder."""

PAYLOADS = "payloads"
"""The folder of large payloads of changes, inside the state folder."""

INTENTS = "publishing"
"""The folder of what live runs are about to publish, inside the state folder."""

WORTH_SAVING = 1000
"""Events since the last checkpoint for which a stopping daemon makes another one."""

SAME_SIGNAL_S = 0.3
"""Signals that come so close together are one wish."""

log = structlog.get_logger("freshet.daemon")


@asynccontextmanager
async def daemon(
    project: Project,
    state: Path,
    *,
    slots: int | None = None,
    sensors: bool = True,
    rng: random.Random | None = None,
    clock: Callable[[], int] | None = None,
    load: Callable[[], Project] | None = None,
    notifier: Notifier | None = None,
) -> AsyncIterator[Daemon]:
    """Run the project on the state folder for as long as the block lasts.

    On entry the stream is open and folded, runs cut off by an earlier end are abandoned and the
    definitions are deployed if they changed. On exit the stream is closed in order. `clock` gives
    microseconds since the epoch; if left out, a `SteadyClock` that goes on from what is recorded.
    `load` gives the project anew, for `Daemon.reload`; the `notifier` is told what happens.
    Raises InUseError, StreamError, and DefinitionError when an asset cannot run where it asks to.
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
        checkpointing = Checkpointing(state / STREAM_FILE)
        loop.listeners.append(checkpointing.heed)
        async with anyio.create_task_group() as tasks:
            sensing = Sensing(
                stream, view, tasks, rng=rng, payloads=payloads, clock=clock, lender=loop.lender
            )
            loop.listeners.append(sensing.valves.heed)
            running = Daemon(
                project,
                state,
                stream,
                loop,
                sensing,
                slots=slots,
                clock=clock,
                load=load,
                notifier=notifier,
            )
            await _listen(running, state, tasks)
            _attend(running, tasks)
            tasks.start_soon(loop.run, name="loop")
            tasks.start_soon(checkpointing.run, name="checkpoints")
            sensing.exchange(project.sensors if sensors else ())
            running.notifier.ready(running.describe())
            tasks.start_soon(running.keep_watchdog, name="watchdog")
            try:
                yield running
            finally:
                tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await _leave(running, state)


def _attend(running: Daemon, tasks: TaskGroup) -> None:
    """See to the store: what was rolled back, and what is not defined any more; with the
    definitions that are live at the time.
    """
    view, stream, loop = running.view, running.stream, running.loop
    restorer = Restorer(view, stream, lambda: running.project.store, loop.readers)
    undertaker = Undertaker(
        lambda: running.project.on_removed, view, stream, lambda: running.project.store
    )
    sweeper = Sweeper(loop, stream)
    running.restorer = restorer
    loop.in_vain, loop.missed = restorer.put_right, sweeper.missed
    tasks.start_soon(sweeper.run, name="sweep")
    for part in (restorer, undertaker):
        loop.listeners.append(part.heed)
        tasks.start_soon(part.run, name=type(part).__name__)


async def _listen(running: Daemon, state: Path, tasks: TaskGroup) -> None:
    """Answer on the socket; returns once it is there."""
    answers = Answers(running.status, running.health, running.reload, running.roll_back)
    listening = anyio.Event()
    tasks.start_soon(lambda: serve(state, running.stream, answers, ready=listening), name="socket")
    await listening.wait()


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
        try:
            await save(running.view, running.stream, state / CHECKPOINT)
        except Exception as error:  # recorded: in the log; it costs the next start some time
            log.warning("no checkpoint", error=f"{type(error).__name__}: {error}")


def signals_of_life() -> AbstractContextManager[AsyncIterator[signal.Signals]]:
    """The signals that `obey` understands, from now on; none is lost while the daemon starts."""
    return anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def obey(running: Daemon, signals: AsyncIterator[signal.Signals], tasks: TaskGroup) -> None:
    """SIGTERM and SIGINT drain; the second one stops at once, unless it comes with the first: some
    send it to the process and to its group. SIGHUP has the definitions loaded anew; if it comes
    because the terminal is gone, it drains too.
    """
    first: float | None = None
    in_terminal = sys.stderr.isatty()  # if it is gone, there is nobody left to work for
    async for received in signals:
        if received == signal.SIGHUP and not (in_terminal and not sys.stderr.isatty()):
            tasks.start_soon(running.heed_hangup)
            continue
        now = time.monotonic()
        if first is not None and now < first + SAME_SIGNAL_S:
            continue
        first = now if first is None else first
        log.info("stopping", signal=signal.Signals(received).name)
        running.stop(signal.Signals(received).name)
