"""Recovery: what a daemon does on start, before anything else, with what the last one left."""

import os
import socket
from contextlib import suppress
from functools import partial

import anyio.to_thread
import structlog

from freshet.engine.errors import StoreError
from freshet.engine.events import (
    AnyEvent,
    EngineStarted,
    RunAbandoned,
    RunFailed,
    RunSucceeded,
)
from freshet.engine.intents import Intent, Intents, finish
from freshet.engine.profiles import check_state
from freshet.engine.project import Project
from freshet.engine.running import graph_of, sensors_of
from freshet.engine.stores.store import Store
from freshet.engine.stream import MAX_BATCH, EventStream
from freshet.projections.catalog import Version
from freshet.projections.runs import Run
from freshet.projections.view import View

KILLS_UNTIL_QUARANTINE = 3
"""A run during which the engine was killed so often in a row is not started again by itself: one
kill is an accident, and two may be.
"""

log = structlog.get_logger("freshet.daemon")


async def recover(
    stream: EventStream, view: View, project: Project, slots: int, release: str, intents: Intents
) -> None:
    """Bring stream and project together: end the runs that were cut off, start, deploy what
    changed. Harmless however often it is itself cut off: nothing is decided but by what is recorded
    and what is published.

    A run that had begun to publish is finished; any other is abandoned, and its debt stands. One
    that was running for the third time in a row when the engine was killed is quarantined: it
    failed, and is not tried again with the same inputs and code until a person asks for it. Raises
    RequestError for a state folder of another profile.
    """
    check_state(view.profile, project.profile, project.profiles)
    killed = view.engine is not None and isinstance(view.engine.event, EngineStarted)
    events: list[AnyEvent] = []
    for run in view.runs.live.values():
        adopted = await anyio.to_thread.run_sync(_adopted, run.run, project, intents)
        events += adopted or [_ended(view, run, killed)]
    sensors, fixed = sensors_of(project)
    host = socket.gethostname()
    events.append(EngineStarted(release, os.getpid(), host, slots, sensors, fixed, project.profile))
    if project.graph.digest != view.catalog.digest:
        events.append(graph_of(project))
    for start in range(0, len(events), MAX_BATCH):
        await stream.append(events[start : start + MAX_BATCH])
    while view.position < stream.head:
        for recorded in await stream.read(view.position):
            view.apply(recorded)
    await anyio.to_thread.run_sync(_discard_left, project.store)
    for left in intents.left():
        await _put_right(stream, view, project, intents.read(left))
        intents.drop(left)


def _adopted(run: int, project: Project, intents: Intents) -> list[AnyEvent]:
    """The events of a run that had begun to publish, once that is finished; else none, and nothing
    is left of it.
    """
    intent = intents.read(run)
    if intent is None or not finish(project.store, intent):
        with suppress(StoreError, OSError):  # what is staged is seen by nobody
            project.store.discard(run)
        return []
    return [*intent.events, RunSucceeded(run, adopted=True)]


def _discard_left(store: Store) -> None:
    """No run is alive now: what is staged is what runs have left behind."""
    with suppress(StoreError, OSError, AttributeError):  # a user's own store may not tell
        for run in store.staged_runs():
            store.discard(run)


async def _put_right(
    stream: EventStream, view: View, project: Project, intent: Intent | None
) -> None:
    """Of a run that was cancelled while it published, or could not be finished: what people look at
    is the version that the stream has stayed with.
    """
    for staged in intent.staged if intent is not None else ():
        position = view.staleness.made_at(*staged.target)
        version = Version.of(await stream.at(position)) if position else None
        if version is None or version.run == staged.run or "bytes" not in version.metadata:
            continue
        restore = partial(project.store.restore, staged.target, version.data_version)
        try:
            await anyio.to_thread.run_sync(restore)
        except (StoreError, OSError) as error:
            log.error(
                "what people look at was not put right", asset=str(staged.target), why=str(error)
            )


def _ended(view: View, run: Run, killed: bool) -> AnyEvent:
    kills = view.staleness.kills_during(run.run) + 1
    if not killed or kills < KILLS_UNTIL_QUARANTINE:
        said = "cut off: the daemon ended before the run did"
        return RunAbandoned(run.run, said, killed=killed)
    names = ", ".join(f"{t.asset}@{t.partition}".rstrip("@") for t in run.event.targets)
    log.error("quarantined", run=run.run, of=names, kills=kills)
    return RunFailed(
        run.run,
        "killed",
        f"quarantined: the daemon was killed {kills} times in a row while this ran; other inputs"
        " or code release it, or `freshet materialize`",
    )
