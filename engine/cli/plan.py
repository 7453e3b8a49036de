"""`freshet plan`: what is not as it should be, and what would run."""

from pathlib import Path

import click

from freshet.engine.asking import events_at, existing
from freshet.engine.cli.output import console, print_drift, print_json, table
from freshet.engine.cli.state import json_option, reader, run_async, state_option, view_of
from freshet.engine.counts import counted
from freshet.projections.answers import select_assets
from freshet.projections.plan import PlanRow, drifting, plan_for, plan_of, with_drift


@click.command()
@click.argument("selection", required=False, metavar="[SELECTION | ASSET@PARTITION]")
@state_option
@json_option
def plan(selection: str | None, state: Path, as_json: bool) -> None:
    """What is not as it should be: what would run, in order, why, and what it waits for.

    Of a selection or one partition, exactly what makes it fresh: it and what it needs upstream that
    is not fresh, up to sources and manual assets. Empty when all is fresh.
    """
    rows = run_async(_plan, state, selection)
    if as_json:
        print_json(rows)
        return
    shown = table("asset", ">missing", ">stale", ">may follow", "from", "to", "why", "waits for")
    for row in rows:
        counts = (str(count or "") for count in (row.missing, row.stale, row.waiting))
        shown.add_row(row.asset, *counts, row.first, row.last, row.why, row.blocked_by)
    if rows:
        console().print(shown)
    for row in rows:
        print_drift(row.asset, row.drift)
    total = sum(row.partitions for row in rows)
    verb = "is" if total == 1 else "are"
    said = f"{counted(total, 'partition')} {verb} not fresh" if rows else "nothing to do"
    click.echo(said, err=True)


async def _plan(state: Path, selection: str | None) -> list[PlanRow]:
    async with reader(state) as stream:
        view = await view_of(stream)
        if selection is not None and "@" in selection and " " not in selection:
            cell = view.staleness.cell(*existing(view, selection))
            rows = plan_for(view, [cell] if cell is not None else [])
        else:
            keys = list(view.staleness.states)
            rows = plan_of(view, keys if selection is None else select_assets(view, selection))
        newest = drifting(view, rows)
        events = await events_at(stream.at, newest.values())
        return [with_drift(view, row, events.get(newest.get(row.asset, 0))) for row in rows]
