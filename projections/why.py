"""Why: the chain of causes from an asset partition back to the event that began it.

A generator that asks for events by position and is sent them, so that it works over a live stream,
a file, or a list, and does no I/O of its own.
"""

from collections.abc import Generator, Mapping

import msgspec

from freshet.engine.codec import type_of
from freshet.engine.counts import counted
from freshet.engine.events import (
    CursorMoved,
    DemandCancelled,
    Demanded,
    EngineReloaded,
    EngineStarted,
    EngineStopped,
    FellDue,
    FreshnessAtRisk,
    FreshnessBreached,
    FreshnessRestored,
    GraphDeployed,
    Invalidated,
    JobSubmitted,
    Materialized,
    MessageRejected,
    MessageSettled,
    Observed,
    OrphanHandled,
    PartitionsAdded,
    PartitionsRemoved,
    Paused,
    Recorded,
    ResultRefused,
    Resumed,
    RolledBack,
    RunCancelled,
    RunDelayed,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
    WindowsOpened,
)
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.origins import subject_of
from freshet.projections.causes import Status, blocker_text
from freshet.projections.circuits import attempts, circuit_text
from freshet.projections.delays import delay_text
from freshet.projections.outlook import outlook, utc
from freshet.projections.pauses import EVERYTHING, sensor_scope
from freshet.projections.pools import full_text, room_kept
from freshet.projections.view import View

MAX_DEPTH = 32
"""Materializations followed one behind another: deeper graphs are cut off with a word."""

MAX_BREADTH = 3
"""Changed inputs followed of each run; the others are counted."""

Asking = Generator[int, Recorded | None, None]


WAITING_FOR = ("failed", "retrying", "ready", "unwanted", "deferred", "held", "paused", "tripped")
"""Activities of what does not run although it owes: each waits for something."""


class Step(msgspec.Struct, frozen=True):
    """One line of an explanation: how deep below the question, which event, and what it says."""

    depth: int
    position: int
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """The answer to "why": how things stand, how far behind (µs), and the chain of causes."""

    target: AssetPartition
    status: Status
    lag_us: int
    position: int
    steps: tuple[Step, ...]
    hint: str = ""


def explain(
    view: View, target: AssetPartition, now_us: int
) -> Generator[int, Recorded | None, Explanation]:
    """Ask for the events needed, then return the explanation of an asset partition that exists."""
    status = view.status(*target)
    if status is None:
        raise KeyError(str(target))
    steps: list[Step] = []
    hint = ""
    if status.owed is not None:
        yield from _owed(view, target, status, steps)
    for cause in status.causes:
        if cause.what == "code":
            steps.append(
                Step(0, cause.position, "its code version is not the one it was built with")
            )
    if status.blocker is not None or status.activity in WAITING_FOR:
        hint = yield from _held(view, status, steps, now_us)
    cell = view.staleness.cell(*target)
    delayed = view.delays.found.get(cell.run) if cell is not None else None
    if delayed is not None:
        steps.append(Step(0, delayed.run, delay_text(delayed)))
    made_at = view.staleness.made_at(*target)
    if cell is not None and cell.failure is not None and not cell.running:
        yield from _event(cell.failure.position, 0, steps)
        if attempts(cell):
            steps.append(Step(1, cell.failure.position, outlook(cell.failure)))
    if cell is not None and cell.cut is not None and cell.cut[1] > made_at:
        ending = yield cell.cut[1]
        text = f"the change at position {cell.cut[0]} was cut off: its inputs turned out equal"
        if ending is not None and isinstance(ending.event, DemandCancelled):
            text = f"the demand at position {cell.cut[0]} was cancelled"
        steps.append(Step(0, cell.cut[1], text))
        yield from _event(cell.cut[0], 1, steps)
    if made_at:
        yield from _made(made_at, 0, steps)
    lag_us = view.lag_us(*target, now_us)
    return Explanation(target, status, lag_us, view.position, tuple(steps), hint)


def describe(recorded: Recorded) -> str:
    """One event in a line, without its position and time."""
    event = recorded.event
    subject = subject_of(event)
    match event:
        case SourceChanged(data_version="") | Observed(data_version=""):
            return f"{subject} is gone"
        case SourceChanged() | Observed():
            path = event.metadata.get("path")
            return f"{subject} changed to {short(event.data_version)}" + (
                f" ({path})" if path else ""
            )
        case Materialized():
            read = event.absorbed
            of = f" from {read.count} change{'s' * (read.count != 1)}" if read is not None else ""
            return f"{subject} materialized as {short(event.data_version)}{of} by run {event.run}"
        case RolledBack(data_version=to, reason=why):
            by = f" by {recorded.actor}" if recorded.actor else ""
            return f"{subject} rolled back to {short(to)}{by}" + (f": {why}" if why else "")
        case RunStarted():
            attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
            names = tuple(AssetPartition(one.asset, one.partition) for one in event.targets)
            return f"run {recorded.position} of {_listed(names)} started ({event.reason}{attempt})"
        case RunSucceeded() | RunFailed() | RunCancelled() | ResultRefused() | JobSubmitted():
            return f"{subject} {_of_run(event)}"
        case RunDelayed():
            return delay_text(event)
        case Demanded() | Invalidated():
            what = "demanded" if isinstance(event, Demanded) else "invalidated"
            by = f" by {recorded.actor}" if recorded.actor else ""
            return f"{_listed(event.targets)} {what}{by}" + (
                f": {event.reason}" if event.reason else ""
            )
        case FellDue(targets=targets, pulled=pulled, policy=policy):
            text = f"{_listed(targets or pulled)} fell due by {policy}"
            return f"{text}, with {_listed(pulled)}" if targets and pulled else text
        case FreshnessAtRisk() | FreshnessBreached() | FreshnessRestored():
            return f"{subject} {_of_promise(event)}"
        case GraphDeployed(digest=digest, assets=assets):
            return f"{counted(len(assets), 'definition')} deployed (digest {short(digest)})"
        case OrphanHandled():
            return f"on_removed was told of {subject}, which is no longer defined"
        case Paused(scope=scope, reason=reason) | Resumed(scope=scope, reason=reason):
            verb = "paused" if isinstance(event, Paused) else "resumed"
            by = f" by {recorded.actor}" if recorded.actor else ""
            until = event.until if isinstance(event, Paused) else None
            end = f" until {utc(until)}" if until is not None else ""
            return f"{scope} {verb}{by}{end}" + (f": {reason}" if reason else "")
        case SensorFailed() | SensorRecovered() | MessageRejected() | MessageSettled():
            return _of_sensor(event)
        case CursorMoved(sensor=sensor) if recorded.actor not in (None, sensor_scope(sensor)):
            return f"cursor of {sensor} moved by {recorded.actor}: {_moves(event.items)}"
        case WindowsOpened(until=until):
            return f"windows over by {utc(until)} exist"
        case PartitionsAdded(asset=asset, keys=keys) | PartitionsRemoved(asset=asset, keys=keys):
            verb = "added to" if isinstance(event, PartitionsAdded) else "removed from"
            more = f" and {len(keys) - MAX_BREADTH} more" if len(keys) > MAX_BREADTH else ""
            return f"{', '.join(keys[:MAX_BREADTH])}{more} {verb} {asset}"
        case EngineStarted(version=version, pid=pid, host=host, profile=profile):
            under = f", profile {profile}" if profile else ""
            return f"engine {version} started (pid {pid} on {host}{under})"
        case EngineReloaded(slots=slots, sensors=sensors):
            parts = f"{counted(slots, 'slot')} and {counted(len(sensors), 'sensor')}"
            return f"engine goes on with {parts}"
        case EngineStopped(reason=reason):
            return f"engine stopped ({reason})"
        case _:
            return f"{type_of(event)} {subject}".strip()


def _of_promise(event: FreshnessAtRisk | FreshnessBreached | FreshnessRestored) -> str:
    match event:
        case FreshnessRestored(promise=promise):
            return f"keeps {promise} again"
        case FreshnessAtRisk(promise=promise, reason=reason):
            return f"is at risk of missing {promise}" + (f": {reason}" if reason else "")
        case FreshnessBreached(promise=promise, reason=reason):
            return f"missed {promise}" + (f": {reason}" if reason else "")


def _of_run(
    event: RunSucceeded | RunFailed | RunCancelled | ResultRefused | JobSubmitted,
) -> str:
    match event:
        case RunSucceeded(adopted=True):
            return "was cut off while it published, and was finished"
        case RunSucceeded():
            return f"succeeded in {event.duration_us / 1000:.1f} ms"
        case RunFailed():
            return f"failed ({event.kind}): {event.error}"
        case RunCancelled(reason=reason):
            return f"was cancelled: {reason}"
        case ResultRefused(reason=reason):
            return f"came to its end too late: {reason}"
        case JobSubmitted(job=job):
            return f"has its work done elsewhere, as {job}"


def _of_sensor(event: SensorFailed | SensorRecovered | MessageRejected | MessageSettled) -> str:
    match event:
        case SensorFailed(sensor=sensor, error=error, hint=hint):
            verb = "is hindered" if event.hindered else "halted" if event.halted else "failed"
            return f"{sensor} {verb}: {error}" + (f" ({hint})" if hint else "")
        case SensorRecovered(sensor=sensor):
            return f"{sensor} works again"
        case MessageRejected(sensor=sensor, item=item, reason=reason):
            return f"{sensor} rejected {item}: {reason}"
        case MessageSettled(sensor=sensor, item=item, accepted=accepted):
            return f"{item}, which {sensor} had rejected, " + (
                "counts after all" if accepted else "is gone"
            )


def _moves(items: Mapping[str, str | None]) -> str:
    """The first of these, and how many more; what people ask for stands behind a `?`."""
    shown = [f"{item.lstrip('?')} {place or ''}".strip() for item, place in items.items()]
    more = f" and {len(shown) - MAX_BREADTH} more" if len(shown) > MAX_BREADTH else ""
    return ", ".join(shown[:MAX_BREADTH]) + more


def _listed(names: tuple[AssetPartition, ...]) -> str:
    """The first of these, and how many more there are."""
    more = f" and {len(names) - MAX_BREADTH} more" if len(names) > MAX_BREADTH else ""
    return ", ".join(str(AssetPartition(*name)) for name in names[:MAX_BREADTH]) + more


def short(text: str) -> str:
    """The first eight characters of a version or digest; shorter ones whole."""
    return text if len(text) <= 12 else text[:8]


def _held(
    view: View, status: Status, steps: list[Step], now_us: int
) -> Generator[int, Recorded | None, str]:
    """What the cell waits for, the event behind it, and what would release it."""
    blocker = status.blocker
    key = AssetPartition(status.asset, status.partition)
    if blocker is not None:
        steps.append(Step(0, blocker.position, f"waits: {blocker_text(blocker)}"))
        if blocker.position:
            yield from _event(blocker.position, 1, steps)
        circuit = view.circuits.open.get(blocker.asset)
        if circuit is not None and blocker.what == "tripped":
            steps.append(Step(1, circuit.failed_at, circuit_text(circuit)))
        holding = view.staleness.cell(blocker.asset, blocker.partition)
        if holding is not None and holding.failure is not None and not holding.running:
            steps.append(Step(1, holding.failure.position, outlook(holding.failure)))
        origin, what = AssetPartition(blocker.asset, blocker.partition), blocker.what
    elif status.activity == "unwanted":
        steps.append(Step(0, 0, "waits: its policy is manual, and nobody has asked for it"))
        return f"freshet materialize {key}"
    elif status.activity == "paused":
        pause = view.pauses.holding(view.staleness.states[status.asset].spec)
        position = pause.position if pause is not None else 0
        steps.append(Step(0, position, "waits: it is paused"))
        if position:
            yield from _event(position, 1, steps)
        return _resume(view, status.asset)
    elif status.activity == "ready":
        state = view.staleness.states[status.asset]
        full = room_kept(view.staleness, view.runs, state, now_us).full(state.spec)
        if full is None:
            steps.append(Step(0, 0, "waits: for its turn"))
            return ""
        steps.append(Step(0, full.run, f"waits: {full_text(full)}"))
        if full.run:
            yield from _event(full.run, 1, steps)
        return ""
    elif status.activity == "tripped":
        circuit = view.circuits.open[status.asset]
        steps.append(Step(0, circuit.failed_at, f"waits: {circuit_text(circuit)}"))
        yield from _event(circuit.failed_at, 1, steps)
        return f"repair its code, or run `freshet materialize {key}`"
    elif status.activity == "deferred":
        steps.append(Step(0, 0, "waits: nothing asks for it now (`freshet next` says when)"))
        return f"freshet next {key}"
    elif status.activity == "held":
        steps.append(Step(0, 0, "waits: for missing inputs, until its deadline"))
        return ""
    else:
        origin, what = key, "failed" if status.activity == "failed" else "retry"
    return {
        "tripped": f"repair the code of {origin.asset}, or run `freshet materialize {origin}`",
        "failed": f"repair its inputs or its code, or run `freshet materialize {origin}`",
        "missing_source": f"it is released when {origin} lands; or `freshet emit {origin}`",
        "paused": _resume(view, origin.asset),
        "removed": f"it is released when {origin} is there again",
        "not_materialized": f"freshet materialize {origin}",
    }.get(what, "")


def _resume(view: View, asset: AssetKey) -> str:
    """The command that ends the pause that holds this asset."""
    state = view.staleness.states.get(asset)
    pause = view.pauses.holding(state.spec) if state is not None else None
    scope = subject_of(pause.event) if pause is not None else EVERYTHING
    return "freshet resume" if scope == EVERYTHING else f"freshet resume {scope}"


def _owed(view: View, target: AssetPartition, status: Status, steps: list[Step]) -> Asking:
    """What it owes: the change, or, if that only began the wave, those of the wave it reads."""
    assert status.owed is not None
    found = yield status.owed
    asset = getattr(found.event, "asset", target.asset) if found is not None else target.asset
    if asset == target.asset or asset in view.staleness.graph.ancestors(target.asset):
        steps.append(Step(0, status.owed, f"owes the change at position {status.owed}"))
        yield from _event(status.owed, 1, steps)
        return
    steps.append(Step(0, status.owed, f"owes the wave that began at position {status.owed}"))
    for cause in status.causes[:MAX_BREADTH]:
        if cause.what == "input":
            yield from _event(cause.position, 1, steps)


def _event(position: int, depth: int, steps: list[Step]) -> Asking:
    found = yield position
    if found is not None:
        steps.append(Step(depth, position, describe(found)))


def _made(position: int, depth: int, steps: list[Step]) -> Asking:
    """How the version at `position` came to be: its run, and what had changed for that run."""
    found = yield position
    if found is None:
        return
    steps.append(Step(depth, position, describe(found)))
    event = found.event
    if isinstance(event, RolledBack):
        yield from _made(event.version_at, depth + 1, steps)
    if not isinstance(event, Materialized) or depth >= MAX_DEPTH:
        return
    started = yield event.run
    if started is None or not isinstance(started.event, RunStarted):
        return
    run = started.event
    steps.append(Step(depth + 1, event.run, f"because {describe(started)}"))
    if run.asked:
        yield from _event(run.asked, depth + 2, steps)
    told = [cause.position for cause in run.causes if cause.position != run.asked][:MAX_BREADTH]
    for position in told:
        yield from _made(position, depth + 2, steps)
    hidden = run.changed - len(told) - any(one.position == run.asked for one in run.causes)
    if hidden > 0:
        steps.append(Step(depth + 2, event.run, f"and {hidden} more changed inputs or wishes"))
    if run.reason == "code" or not run.causes:
        owed = started.cause
        if owed is not None:
            yield from _event(owed, depth + 2, steps)
