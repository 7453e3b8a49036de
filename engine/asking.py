"""What people ask by name, answered from a view: the partitions they mean, and how those stand."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
from msgspec.structs import replace

from freshet.engine.errors import RequestError, did_you_mean
from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey, AssetPartition, parse_asset_partition
from freshet.engine.partitions import describe
from freshet.engine.spaces import contains, examples, is_too_far, space_of
from freshet.projections.answers import (
    StatusReport,
    one_partition,
    positions_in,
    status_report,
    with_versions,
)
from freshet.projections.cells import cells_of
from freshet.projections.pauses import EVERYTHING, sensor_scope
from freshet.projections.sensors import Pulse, sensor_rows
from freshet.projections.view import View

MAX_GUESSES = 10_000
"""Partitions among which the nearest to a mistyped one is looked for."""

At = Callable[[int], Awaitable[Recorded | None]]


class StatusQuestion(msgspec.Struct, frozen=True, omit_defaults=True):
    """How do they stand: all assets, a selection, one asset with a page of its partitions, or one
    partition?
    """

    target: str | None = None
    after: str | None = None
    limit: int = 100


async def status_of(
    view: View,
    at: At,
    question: StatusQuestion,
    now_us: int,
    pulses: Mapping[str, Pulse] | None = None,
) -> StatusReport:
    """The answer, with the versions that are shown read from the stream; `pulses` are those of the
    sensors that are read right now. Raises RequestError.
    """
    target = question.target
    if target is not None and "@" in target and " " not in target:
        report = one_partition(view, existing(view, target), now_us)
    else:
        report = status_report(view, target, now_us, after=question.after, limit=question.limit)
    about: set[AssetKey] | None = None
    if target is not None:
        shown = {row.asset for row in report.assets} | {row.asset for row in report.partitions}
        about = shown.union(*map(view.staleness.graph.ancestors, shown))
    rows = sensor_rows(view.sensors, view.pauses, pulses, about)
    report = replace(report, sensors=rows, profile=view.profile)
    events = await events_at(at, positions_in(report))
    return with_versions(report, events, view.staleness.graph.specs)


async def events_at(at: At, positions: Iterable[int]) -> dict[int, Recorded]:
    """The events at these positions."""
    found = {}
    for position in dict.fromkeys(positions):
        event = await at(position)
        if event is not None:
            found[position] = event
    return found


def existing(view: View, text: str) -> AssetPartition:
    """The asset partition a person typed. Raises RequestError with the nearest that does exist."""
    target = parse_asset_partition(text)
    spec = view.staleness.graph.require(target.asset)
    if view.staleness.cell(*target) is not None:
        return target
    state = view.staleness.states[target.asset]
    shown = next((cell.partition for cell in cells_of(state)), "") or "PARTITION"
    if not target.partition:
        raise RequestError(
            f"'{target.asset}' has partitions ({describe(spec.partitions)})",
            hint=f"name one, for example {target.asset}@{shown}",
        )
    kept = view.staleness.attic.get(target)
    if kept is not None:
        raise RequestError(
            f"'{target.asset}' has no partition '{target.partition}' any more",
            cause=f"what it was is kept, as of position {kept.made_at}",
            hint=f"freshet history {target}",
        )
    known = [cell.partition for cell, _ in zip(cells_of(state), range(MAX_GUESSES), strict=False)]
    looks = ", ".join(examples(spec.partitions, 2))
    raise RequestError(
        f"'{target.asset}' has no partition '{target.partition}'",
        cause=f"it is {describe(spec.partitions)}; {state.existing} exist now"
        + (f", keys look like {looks}" if looks else ""),
        hint=did_you_mean(target.partition, known) or f"freshet status {target.asset}",
    )


def possible(view: View, text: str, now_us: int) -> AssetPartition:
    """As `existing`, but for a partition that may come into being: only the
    definition must admit it.
    """
    target = parse_asset_partition(text)
    spec = view.staleness.graph.require(target.asset)
    space = space_of(spec.partitions)
    i = space.ordinal(target.partition)
    if i is not None and is_too_far(space, i, now_us):
        raise RequestError(
            f"'{target}' is more than ten years ahead",
            cause="a window that far away is taken for a slip of the pen",
        )
    if not contains(spec.partitions, target.partition):
        return existing(view, text)
    return target


def wanted(view: View, text: str, now_us: int) -> list[AssetPartition]:
    """What a person wants built: one partition, or all that the asset has. Raises RequestError."""
    spec = view.staleness.graph.require(text.partition("@")[0])
    if spec.is_source:
        raise RequestError(
            f"'{spec.key}' is a source, which is produced outside Freshet",
            hint=f"freshet emit {text} --version V",
        )
    if "@" in text or spec.partitions is None:
        return [possible(view, text, now_us)]
    found = [cell.key for cell in cells_of(view.staleness.states[spec.key])]
    if not found:
        raise RequestError(
            f"'{spec.key}' has no partition yet", hint=f"name one: {spec.key}@PARTITION"
        )
    return found


def scope_in(view: View, scope: str) -> str:
    """The scope a person typed: an asset, `group:NAME`, `sensor:NAME`, or everything. Raises
    RequestError.
    """
    specs = view.staleness.graph.specs
    sensors = [sensor_scope(name) for name in view.sensors.names()]
    known = {EVERYTHING, *(f"group:{spec.group}" for spec in specs.values()), *specs, *sensors}
    if scope in known:
        return scope
    near = did_you_mean(scope, known)
    if scope.startswith(sensor_scope("")):
        raise RequestError(
            f"there is no sensor '{scope.removeprefix(sensor_scope(''))}'",
            cause=f"known are {', '.join(sensors) or 'none'}",
            hint=near or "a new sensor is known once the daemon of its project has started",
        )
    raise RequestError(
        f"'{scope}' is no asset and no group",
        hint=near or "name an asset, 'group:NAME', 'sensor:NAME', or '*' for everything",
    )
