"""Commands that read: from the state folder alone, with or without a daemon,
without the user's code.
"""

from pathlib import Path

import click
import msgspec
from rich.text import Text

from freshet.engine.asking import StatusQuestion, existing, status_of
from freshet.engine.cli.logs import talkative
from freshet.engine.cli.output import (
    COLOURS,
    age,
    coloured,
    console,
    moment,
    print_drift,
    print_json,
    table,
)
from freshet.engine.cli.sensors import plain, print_health
from freshet.engine.cli.state import (
    NOBODY,
    answer,
    json_option,
    reader,
    run_async,
    state_option,
    view_of,
)
from freshet.engine.codec import type_of
from freshet.engine.counts import counted
from freshet.engine.events import Materialized, Recorded, RolledBack
from freshet.engine.keys import AssetPartition, parse_asset_partition
from freshet.engine.socket import ask_status
from freshet.engine.stream import MAX_BATCH, wall_clock
from freshet.projections.answers import (
    AssetRow,
    PartitionRow,
    StatusReport,
    graph_rows,
)
from freshet.projections.cells import cells_of
from freshet.projections.circuits import CircuitRow
from freshet.projections.matrix import MARKS, Matrix
from freshet.projections.pauses import PauseRow
from freshet.projections.view import View
from freshet.projections.why import Explanation, describe, explain, short

MAX_ROWS = 100
"""Partitions listed at once unless asked otherwise."""


@click.command()
@click.argument("target", required=False, metavar="[SELECTION | ASSET[@PARTITION]]")
@click.option("--after", metavar="KEY", help="Only partitions after this one.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=MAX_ROWS,
    show_default=True,
    help="At most this many partitions.",
)
@state_option
@json_option
def status(target: str | None, after: str | None, limit: int, state: Path, as_json: bool) -> None:
    """Is it fresh? All assets, some, one with its partitions, or one partition.

    A selection names several: 'analytics/*', 'group:daily', 'tag:tier=gold', 'owner:me'. Of one
    asset its partitions are drawn as a bar, and listed a page at a time: --json gives `next`, the
    key for --after. A sensor that feeds it is named when it has failed, is halted, or has rejected
    something; all of them by `freshet sensors`.
    """
    now = wall_clock()
    report = run_async(_status, state, target, now, after, limit)
    if as_json:
        print_json(report)
    else:
        _print_status(report, now, whole=target is None)


@click.command()
@click.argument("target", metavar="ASSET[@PARTITION]")
@state_option
@json_option
def why(target: str, state: Path, as_json: bool) -> None:
    """Why is it as it is: the chain of causes, or what it waits for."""
    explanation = run_async(_why, state, target)
    if as_json:
        print_json(explanation)
    else:
        _print_why(explanation)
        for run in talkative(explanation, state):
            click.echo(f"  what it said: freshet logs {run}")


@click.command()
@click.argument("pattern", required=False)
@state_option
@json_option
def graph(pattern: str | None, state: Path, as_json: bool) -> None:
    """What is made from what: the definitions as last deployed, upstream first."""
    rows = graph_rows(run_async(_view, state), pattern)
    if as_json:
        print_json(rows)
        return
    shown = table("asset", "group", "policy", "partitions", "made from")
    for row in rows:
        policy = row.policy or "(source)"
        shown.add_row(row.asset, row.group, policy, row.partitions, ", ".join(row.upstream))
    console().print(shown)


@click.command()
@click.argument("asset")
@state_option
@json_option
def impact(asset: str, state: Path, as_json: bool) -> None:
    """What would have to follow if this changed: everything made from it, nearest first."""
    definitions = run_async(_view, state).staleness.graph
    definitions.require(asset)
    below = definitions.descendants(asset)
    ordered = [key for key in definitions.specs if key in below]
    if as_json:
        print_json(ordered)
    else:
        click.echo("\n".join(ordered) if ordered else f"nothing is made from {asset}")


@click.command()
@click.argument("target", metavar="ASSET[@PARTITION]")
@state_option
@json_option
def history(target: str, state: Path, as_json: bool) -> None:
    """All materializations of an asset or partition, the oldest first, with their metadata; and
    what it was rolled back to.
    """
    found = run_async(_history, state, target)
    if as_json:
        for recorded in found:
            print_json(_event_json(recorded))
        return
    shown = table(">position", "recorded", "partition", "version", ">run", "metadata")
    for recorded in found:
        event = recorded.event
        if isinstance(event, Materialized | RolledBack):
            facts = " ".join(f"{key}={value}" for key, value in event.metadata.items())
            if isinstance(event, RolledBack):
                facts = f"rolled back to [{event.version_at}]" + (
                    f": {event.reason}" if event.reason else ""
                )
            version = short(event.data_version)
            when = moment(recorded.recorded_at)
            position, run = str(recorded.position), str(event.run)
            shown.add_row(position, when, event.partition, version, run, facts)
    console().print(shown)


@click.command()
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only what came after N.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many.")
@click.option("--follow", is_flag=True, help="Go on with what is still to come.")
@state_option
@json_option
def events(after: int, limit: int | None, follow: bool, state: Path, as_json: bool) -> None:
    """The stream itself, one event a line; with --json one object a line."""
    run_async(_events, state, after, limit, follow, as_json)


@click.command()
@state_option
def verify(state: Path) -> None:
    """Check the stream against its hash chain; the first bad position is named."""
    head = run_async(_verify, state)
    click.echo(f"{counted(head, 'event')}, all as they were recorded")


# --- asking ---------------------------------------------------------------------------------------


async def _view(state: Path) -> View:
    async with reader(state) as stream:
        return await view_of(stream)


async def _status(
    state: Path, target: str | None, now: int, after: str | None, limit: int
) -> StatusReport:
    question = StatusQuestion(target, after, limit)
    try:
        return await ask_status(state, question)
    except NOBODY:
        pass  # no daemon: the stream is read
    async with reader(state) as stream:
        return await status_of(await view_of(stream), stream.at, question, now)


async def _why(state: Path, text: str) -> Explanation:
    async with reader(state) as stream:
        view = await view_of(stream)
        return await answer(stream, explain(view, existing(view, text), wall_clock()))


async def _history(state: Path, text: str) -> list[Recorded]:
    target = parse_asset_partition(text)
    async with reader(state) as stream:
        found: list[Recorded] = []
        for name in names_of(await view_of(stream), target):
            after = 0
            while batch := await stream.read(after, limit=MAX_BATCH, subject=str(name)):
                found += [r for r in batch if isinstance(r.event, Materialized | RolledBack)]
                after = batch[-1].position
        return sorted(found, key=lambda recorded: recorded.position)


def names_of(view: View, target: AssetPartition) -> list[AssetPartition]:
    """What a person means who may leave out the partition: all that are there, and that were.
    Raises RequestError for an asset that was never defined.
    """
    if target.asset not in view.catalog.removed:
        view.staleness.graph.require(target.asset)
    rows = view.staleness.states.get(target.asset)
    names = [target]
    if not target.partition:
        names += [name for name in view.staleness.attic if name.asset == target.asset]
        names += [cell.key for cell in cells_of(rows)] if rows is not None else []
    return list(dict.fromkeys(names))


async def _events(state: Path, after: int, limit: int | None, follow: bool, as_json: bool) -> None:
    left = limit if limit is not None else 1 << 62
    async with reader(state) as stream:
        while left > 0 and (batch := await stream.read(after, limit=min(left, MAX_BATCH))):
            for recorded in batch:
                _print_event(recorded, as_json)
            left -= len(batch)
            after = batch[-1].position
        if follow and left > 0:
            async for batch in stream.follow(after):
                for recorded in batch[:left]:
                    _print_event(recorded, as_json)
                left -= len(batch)
                if left <= 0:
                    return


async def _verify(state: Path) -> int:
    async with reader(state) as stream:
        return await stream.verify()


# --- printing -------------------------------------------------------------------------------------


def _print_status(report: StatusReport, now_us: int, *, whole: bool) -> None:
    out = console()
    if report.assets:
        shown = table("asset", ">fresh", "state", "", "lag", "version", "changed", "waits for")
        for row in report.assets:
            shown.add_row(*_asset_cells(row, now_us))
        out.print(shown)
    for row in report.assets:
        print_drift(row.asset, row.drift)
    if report.matrix is not None and report.matrix.bar:
        _print_matrix(report.matrix)
    if report.partitions and (len(report.partitions) > 1 or not report.assets):
        shown = table(
            "partition", "state", "", "lag", "version", "changed", ">position", "waits for"
        )
        for part in report.partitions:
            shown.add_row(*_partition_cells(part, now_us))
        out.print(shown)
        if report.next is not None:
            click.echo(f"… and more: --after {report.next}, or a larger --limit")
    for pause in report.pauses:
        click.echo(_pause_line(pause, now_us))
    for circuit in report.circuits:
        click.echo(_circuit_line(circuit, now_us))
    print_health(report.sensors, now_us, whole=whole)
    for key in report.orphans:
        click.echo(f"{key}: no longer defined; its history is kept")
    for notice in report.notices:
        click.echo(f"note: {notice}")
    verdict = "everything is fresh" if report.fresh else "not everything is fresh"
    under = f", profile {report.profile}" if report.profile else ""
    click.echo(f"{verdict}, at position {report.position}{under}", err=True)


def _pause_line(pause: PauseRow, now_us: int) -> str:
    by = f" by {pause.actor}" if pause.actor else ""
    end = f", until {moment(pause.until_us)}" if pause.until_us is not None else ""
    why = f": {pause.reason}" if pause.reason else ""
    return f"paused: {pause.scope}, for {age(max(0, now_us - pause.since_us))}{by}{end}{why}"


def _circuit_line(circuit: CircuitRow, now_us: int) -> str:
    since = age(max(0, now_us - circuit.since_us))
    tries = f"next try at {moment(circuit.next_us)}"
    if circuit.probe is not None:
        tries = f"run {circuit.probe} tries"
    return (
        f"circuit open: {circuit.asset}, for {since}: {circuit.failures} runs of this code failed,"
        f" the last was run {circuit.run}; {tries}"
    )


def _print_matrix(matrix: Matrix) -> None:
    words = {mark: word for word, mark in MARKS.items()}
    bar = Text()
    for mark in matrix.bar:
        bar.append(mark, style=COLOURS.get(words[mark], ""))
    console().print(Text(f"{matrix.first} ") + bar + Text(f" {matrix.last}"))
    counts = ", ".join(f"{count} {word}" for word, count in matrix.counts.items() if count)
    legend = " ".join(f"{mark} {words[mark]}" for mark in dict.fromkeys(matrix.bar) if mark != " ")
    each = f", {matrix.per_mark} partitions a mark" if matrix.per_mark > 1 else ""
    console().print(f"{counts} ({legend}{each})")


def _asset_cells(row: AssetRow, now_us: int) -> list[str | Text]:
    return [
        row.asset,
        f"{row.fresh}/{row.total}",
        coloured(row.state if row.kind != "source" else "source"),
        coloured(row.activity),
        age(row.lag_ms * 1000) if row.lag_ms else "",
        short(row.data_version or ""),
        _ago(row.changed_at_us, now_us),
        row.blocked_by or row.note,
    ]


def _ago(us: int | None, now_us: int) -> str:
    return f"{age(max(0, now_us - us))} ago" if us is not None else ""


def _partition_cells(row: PartitionRow, now_us: int) -> list[str | Text]:
    return [
        str(AssetPartition(row.asset, row.partition)),
        coloured(row.state),
        coloured(row.activity),
        age(row.lag_ms * 1000) if row.lag_ms else "",
        short(row.data_version or ""),
        _ago(row.changed_at_us, now_us),
        str(row.position or ""),
        row.blocked_by,
    ]


def _print_why(explanation: Explanation) -> None:
    status = explanation.status
    going_on = f", {status.activity}" if status.activity else ""
    behind = f", {age(explanation.lag_us)} behind" if explanation.lag_us else ""
    click.echo(f"{explanation.target} is {status.state}{going_on}{behind}")
    for step in explanation.steps:
        place = f"  [{step.position}]" if step.position else ""
        click.echo(f"{'  ' * (step.depth + 1)}{step.text}{place}")
    if explanation.hint:
        click.echo(f"  to release it: {explanation.hint}")


def _print_event(recorded: Recorded, as_json: bool) -> None:
    if as_json:
        print_json(_event_json(recorded))
        return
    when = moment(recorded.recorded_at)
    cause = f"  because of {recorded.cause}" if recorded.cause else ""
    kind = type_of(recorded.event)
    click.echo(f"{recorded.position:>6}  {when}  {kind:<15}  {plain(describe(recorded))}{cause}")


def _event_json(recorded: Recorded) -> dict[str, object]:
    """Position, recorded time (µs) and origin, then the event as stored, its type first."""
    event = recorded.event
    data = msgspec.to_builtins(event) if type_of(event) != "Unknown" else {}
    return {
        "position": recorded.position,
        "recorded_at": recorded.recorded_at,
        "cause": recorded.cause,
        "actor": recorded.actor,
        "event": data,
    }
