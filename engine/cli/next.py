"""The command that looks ahead: when something runs next, or what it waits for."""

from pathlib import Path

import click
from rich.text import Text

from freshet.engine.asking import existing
from freshet.engine.cli.output import age, coloured, console, moment, print_json, table
from freshet.engine.cli.state import json_option, reader, run_async, state_option, view_of
from freshet.engine.keys import AssetPartition
from freshet.engine.stream import wall_clock
from freshet.projections.answers import select_assets
from freshet.projections.cells import Cell
from freshet.projections.forecast import Forecast, forecast
from freshet.projections.marks import NOTHING
from freshet.projections.view import View

MOST_LOOKED_AT = 10_000
"""Partitions of one selection that are forecast at most."""

WORDS = {
    "fresh": "fresh",
    "running": "running since",
    "starting": "starts now",
    "timed": "starts at",
    "following": "starts about",
    "planned": "starts about",
    "waiting": "waits for",
}


@click.command(name="next")
@click.argument("target", required=False, metavar="[SELECTION | ASSET[@PARTITION]]")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="At most this many partitions, the soonest first.",
)
@state_option
@json_option
def next_(target: str | None, limit: int, state: Path, as_json: bool) -> None:
    """When assets run next, or the exact condition that they wait for.

    A time is a forecast: from what is owed, the policies, and the time that nine of ten recent runs
    did not exceed (one second for what never ran).
    """
    now = wall_clock()
    rows, left = run_async(_forecasts, state, target, limit, now)
    if as_json:
        print_json(rows)
        return
    shown = table("partition", "what", "when", "in", "done by", "why")
    for row in rows:
        shown.add_row(*_cells(row, now))
    console().print(shown)
    if left:
        click.echo(f"and {left} more: --limit", err=True)


async def _forecasts(
    state: Path, target: str | None, limit: int, now_us: int
) -> tuple[list[Forecast], int]:
    async with reader(state) as stream:
        view = await view_of(stream)
    if target is not None and "@" in target and " " not in target:
        names = [existing(view, target)]
    else:
        keys = list(view.staleness.states) if target is None else select_assets(view, target)
        names = _names(view, keys)
    found = [forecast(view, name, now_us) for name in names[:MOST_LOOKED_AT]]
    found.sort(key=lambda row: (row.starts_us is None, row.starts_us or 0))
    return found[:limit], len(names) - len(found[:limit])


def _names(view: View, keys: list[str]) -> list[AssetPartition]:
    """What is not fresh of these assets; of an asset that is all fresh, its first partition."""
    names = []
    for key in keys:
        state = view.staleness.states[key]
        if state.is_source:
            continue
        owing = [
            i
            for i in range(state.n)
            if state.exists[i] and (state.owed[i] < NOTHING or i in state.live)
        ]
        first = state.exists.find(1)
        names += [Cell(state, i).key for i in owing or ([first] if first >= 0 else [])]
    return names


def _cells(row: Forecast, now_us: int) -> list[str | Text]:
    name = str(AssetPartition(row.asset, row.partition))
    if row.starts_us is None:
        return [name, coloured(WORDS[row.stage]), "", "", "", row.condition]
    away = row.starts_us - now_us
    return [
        name,
        coloured(WORDS[row.stage]),
        moment(row.starts_us),
        age(away) if away > 0 else "",
        moment(row.ends_us) if row.ends_us is not None else "",
        row.condition,
    ]
