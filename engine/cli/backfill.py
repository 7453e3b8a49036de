"""Commands about many partitions at once: backfills, and partitions that come and go by name."""

from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from freshet.engine.asking import StatusQuestion
from freshet.engine.cli.output import age, console, moment, print_json, table
from freshet.engine.cli.state import (
    NOBODY,
    append,
    json_option,
    reader,
    run_async,
    state_option,
    view_of,
)
from freshet.engine.counts import counted
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, FreshetError, RequestError
from freshet.engine.events import (
    DemandCancelled,
    Demanded,
    PartitionsAdded,
    PartitionsRemoved,
)
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.partitions import describe
from freshet.engine.project import DEFAULT_SLOTS
from freshet.engine.reactor import BULK_SHARE
from freshet.engine.socket import Wish, ask_status
from freshet.engine.spaces import contains
from freshet.engine.stream import wall_clock
from freshet.projections.answers import select_assets
from freshet.projections.backfills import Forecast, Wanted, forecast, progress_of, targets_of
from freshet.projections.backfills import Progress as BackfillProgress
from freshet.projections.view import View

MAX_TARGETS = 1_000_000
"""Partitions of one backfill: they are recorded in one event."""


@click.command()
@click.argument("selection")
@click.option("--partitions", metavar="FIRST..LAST", default="", help="Only these, both included.")
@click.option("--last", metavar="30d", help="Only windows that ended within this time or go on.")
@click.option("--missing", is_flag=True, help="Only what was never built.")
@click.option("--stale", is_flag=True, help="Only what is stale or waiting.")
@click.option("--failed", is_flag=True, help="Only what failed last.")
@click.option("--reason", default="", help="Why; recorded with it.")
@click.option("--dry-run", is_flag=True, help="Say what would be built, and record nothing.")
@click.option("--wait", is_flag=True, help="Show a progress bar until it is over.")
@state_option
@json_option
def backfill(
    selection: str, reason: str, dry_run: bool, wait: bool, state: Path, as_json: bool, **only: Any
) -> None:
    """Build many partitions anew, beside what changes: the selection's, with the code of now.

    A selection is a key or a pattern, 'group:daily', 'tag:tier=gold', 'owner:me', 'kind:table',
    'status:stale', '+x' (with all upstream), 'x+' (downstream), joined by and, or, not. Backfills
    have half of the slots at most, so changes find the others free. What is recorded is carried on
    after any restart, and can be taken back with `freshet backfills --cancel`.
    """
    wanted = Wanted(
        only["partitions"],
        _last_us(only["last"]),
        only["missing"],
        only["stale"],
        only["failed"],
    )
    planned: list[Forecast] = []

    def build(view: View) -> tuple[Wish, ...]:
        assets = select_assets(view, selection)
        targets = targets_of(view, assets, wanted, wall_clock())
        if len(targets) > MAX_TARGETS:
            raise RequestError(
                f"{len(targets)} partitions are more than {MAX_TARGETS}",
                hint="take them in several backfills, by --partitions",
            )
        planned.append(forecast(view, targets, _bulk_slots(view)))
        if not targets:
            return ()
        return (Demanded(tuple(targets), reason, bulk=True, force=wanted.force),)

    if dry_run:
        build(run_async(_view, state))
    else:
        positions = run_async(append, state, build)
    if as_json:
        print_json(planned[0])
    else:
        _print_forecast(planned[0])
    if planned[0].total == 0:
        click.echo("nothing to build: no partition is meant", err=True)
    elif dry_run:
        click.echo("nothing was recorded (--dry-run)", err=True)
    else:
        click.echo(f"backfill {positions[0]} recorded", err=True)
        if wait:
            run_async(_wait, state, positions[0])
        else:
            click.echo("see `freshet backfills`", err=True)


@click.command()
@click.option("--cancel", type=click.IntRange(min=1), metavar="N", help="Take backfill N back.")
@click.option("--reason", default="", help="Why; recorded with it.")
@state_option
@json_option
def backfills(cancel: int | None, reason: str, state: Path, as_json: bool) -> None:
    """How far each backfill is; --cancel takes back what one has not built yet."""
    if cancel is not None:
        run_async(append, state, lambda view: (_cancelled(view, cancel, reason),))
        click.echo(f"cancelled backfill {cancel}; live runs go on to their end", err=True)
        return
    view = run_async(_view, state)
    found = [progress_of(view, recorded) for recorded in view.backfills.backfills.values()]
    if as_json:
        print_json(found)
        return
    shown = table(">backfill", "recorded", ">done", ">of", ">running", ">failed", "state", "reason")
    for one in found:
        shown.add_row(
            str(one.position),
            moment(one.recorded_at),
            str(one.done),
            str(one.total),
            str(one.running),
            str(one.failed),
            _word(one),
            one.reason,
        )
    console().print(shown)


@click.group()
def partitions() -> None:
    """Add or remove partitions by name: of dynamic definitions, or of windows to come."""


@partitions.command("add")
@click.argument("asset")
@click.argument("keys", nargs=-1, required=True)
@state_option
def add(asset: str, keys: tuple[str, ...], state: Path) -> None:
    """Bring partitions of a source or asset into being."""

    def build(view: View) -> tuple[Wish, ...]:
        spec = view.staleness.graph.require(asset)
        for key in keys:
            if not contains(spec.partitions, key) or not view.staleness.states[asset].grows:
                raise RequestError(
                    f"'{asset}' cannot have the partition '{key}'",
                    cause=f"it is {describe(spec.partitions)}",
                )
        return (PartitionsAdded(asset, keys),)

    positions = run_async(append, state, build)
    click.echo(f"added at position {positions[0]}", err=True)


@partitions.command("remove")
@click.argument("asset")
@click.argument("keys", nargs=-1, required=True)
@state_option
def remove(asset: str, keys: tuple[str, ...], state: Path) -> None:
    """End partitions; what was made from them alone ends too. Their history is kept."""

    def build(view: View) -> tuple[Wish, ...]:
        view.staleness.graph.require(asset)
        for key in keys:
            if view.staleness.cell(asset, key) is None:
                raise RequestError(
                    f"there is no '{AssetPartition(asset, key)}'", hint=f"freshet status {asset}"
                )
        if not view.staleness.states[asset].grows:
            raise RequestError(
                f"the partitions of '{asset}' are fixed",
                cause="static partitions change with their definition only",
            )
        return (PartitionsRemoved(asset, keys),)

    positions = run_async(append, state, build)
    click.echo(f"removed at position {positions[0]}", err=True)


# --- inside ---------------------------------------------------------------------------------------


async def _view(state: Path) -> View:
    async with reader(state) as stream:
        return await view_of(stream)


async def _wait(state: Path, position: int) -> None:
    """Follow the stream until the backfill is over. Raises FreshetError if not all of it was
    built, or nobody is there to build it.
    """
    try:
        await ask_status(state, StatusQuestion(limit=1))
    except NOBODY:
        raise FreshetError(
            f"backfill {position} is recorded, but no daemon runs to build it",
            hint="start one with `freshet run TARGET`; it carries on with the backfill",
        ) from None
    async with reader(state) as stream:
        view = await view_of(stream)
        now = progress_of(view, view.backfills.backfills[position])
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True)) as bar:
            task = bar.add_task(f"backfill {position}", total=now.total, completed=now.done)
            batches = stream.follow(view.position)
            while not now.over:
                for recorded in await anext(batches):
                    view.apply(recorded)
                now = progress_of(view, view.backfills.backfills[position])
                bar.update(task, completed=now.done)
    if now.cancelled:
        raise FreshetError(f"backfill {position} was cancelled after {now.done} of {now.total}")
    if now.failed:
        raise FreshetError(
            f"{now.failed} of {counted(now.total, 'partition')} failed",
            hint=f"freshet status {_failed_asset(view, position)}",
        )


def _failed_asset(view: View, position: int) -> AssetKey:
    for state in view.staleness.order:
        if any(position in state.demand.get(i, ()) for i in state.failures):
            return state.spec.key
    return ""


def _cancelled(view: View, position: int, reason: str) -> DemandCancelled:
    recorded = view.backfills.backfills.get(position)
    if recorded is None:
        raise RequestError(f"there is no backfill {position}", hint="freshet backfills lists them")
    if progress_of(view, recorded).over:
        raise RequestError(f"backfill {position} is over: there is nothing to take back")
    return DemandCancelled(position, reason)


def _bulk_slots(view: View) -> int:
    return max(1, (view.slots or DEFAULT_SLOTS) // BULK_SHARE)


def _last_us(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_duration_ms(text, "--last") * 1000
    except DefinitionError as error:
        raise RequestError(error.message, hint=error.hint) from None


def _word(progress: BackfillProgress) -> str:
    if progress.cancelled:
        return "cancelled"
    if not progress.over:
        return "running"
    return "done, with failures" if progress.failed else "done"


def _print_forecast(planned: Forecast) -> None:
    if planned.shares:
        shown = table("asset", ">partitions", "from", "to", ">run time")
        for share in planned.shares:
            took = age(share.run_us) if share.run_us is not None else "unknown"
            shown.add_row(share.asset, str(share.partitions), share.first, share.last, took)
        console().print(shown)
    about = planned.about_us
    slots = counted(planned.slots, "slot")
    when = f"about {age(about)} on {slots}" if about is not None else "unknown time"
    if planned.total:
        below = f"; up to {planned.following} below may follow" if planned.following else ""
        click.echo(f"{counted(planned.total, 'partition')}, {when}{below}")
