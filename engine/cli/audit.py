"""The command that gives account of every change."""

from pathlib import Path

import click

from freshet.engine.cli.output import console, print_json, table
from freshet.engine.cli.state import json_option, reader, run_async, state_option
from freshet.engine.counts import counted
from freshet.engine.keys import AssetPartition
from freshet.engine.stream import MAX_BATCH
from freshet.projections.audit import Audit, Changes
from freshet.projections.audit import audit as audit_of
from freshet.projections.view import View


@click.command()
@state_option
@json_option
def audit(state: Path, as_json: bool) -> int:
    """What became of every change: absorbed by a run, cut off as equal, waiting or blocked.

    Unread is what no asset is made from now. What waits or is blocked is listed with the reason.
    Reads the whole stream. Exits with 1 if any change is unaccounted for, which is a fault of
    Freshet's own.
    """
    found = run_async(_audit, state)
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 1 if found.unaccounted else 0


async def _audit(state: Path) -> Audit:
    view, changes = View(), Changes()
    async with reader(state) as stream:
        while view.position < stream.head:
            for recorded in await stream.read(view.position, limit=MAX_BATCH):
                view.apply(recorded)
                changes.note(recorded)
    return audit_of(view, changes)


def _print(found: Audit) -> None:
    shown = table(
        "source", ">changes", ">absorbed", ">cut off", ">waiting", ">blocked", ">unread",
        ">unaccounted",
    )  # fmt: skip
    for row in found.accounts:
        counts = (row.changes, row.absorbed, row.cut_off, row.waiting, row.blocked, row.unread)
        shown.add_row(row.source, *(str(count or "") for count in counts), str(row.unaccounted))
    if found.accounts:
        console().print(shown)
    for one in found.pending:
        name = AssetPartition(one.asset, one.partition)
        word = "blocked" if one.blocked else "waiting"
        click.echo(f"{name} is {word} since position {one.owed}: {one.why}")
    rejected = f"; {found.rejected} rejected by sensors" if found.rejected else ""
    changes = counted(found.changes, "change")
    click.echo(f"{changes}, {found.unaccounted} unaccounted for{rejected}", err=True)
