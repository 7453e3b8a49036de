"""Commands about versions: which there were, and going back to one."""

from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import anyio.to_thread
import click
from msgspec.structs import replace

from freshet.engine.checkpoints import CHECKPOINT
from freshet.engine.checkpoints import view_of as folded
from freshet.engine.cli.output import console, moment, print_json, table
from freshet.engine.cli.read import names_of
from freshet.engine.cli.state import (
    NOBODY,
    STREAM_FILE,
    json_option,
    reader,
    run_async,
    state_option,
    user,
    view_of,
)
from freshet.engine.counts import counted
from freshet.engine.errors import InUseError, RequestError
from freshet.engine.keys import AssetPartition, parse_asset_partition
from freshet.engine.project import Project
from freshet.engine.rollback import RollbackQuestion, RolledBackTo, events_about, roll_back
from freshet.engine.socket import Request, ask_rollback
from freshet.engine.sqlite import SqliteStream
from freshet.engine.target import load_project
from freshet.projections.editions import VersionRow, version_rows
from freshet.projections.orphans import OrphanRow, orphan_rows
from freshet.projections.view import View
from freshet.projections.why import short

project_option = click.option(
    "--project", "project", metavar="TARGET", help="`path.py` or `module:project`: whose store."
)


@click.command()
@click.argument("target", metavar="ASSET[@PARTITION]")
@project_option
@state_option
@json_option
def versions(target: str, project: str | None, state: Path, as_json: bool) -> None:
    """Which versions there were, the oldest first, and which is the current one.

    The stream knows all of them; which ones can still be loaded, only the store: with --project it
    is asked.
    """
    loaded = load_project(project) if project is not None else None
    rows = run_async(_rows, state, parse_asset_partition(target), loaded)
    if as_json:
        print_json(rows)
    else:
        _print(rows)


@click.command()
@click.argument("target", metavar="ASSET[@PARTITION]")
@click.argument("version", metavar="VERSION")
@click.option("--reason", default="", help="Why; recorded with it.")
@project_option
@state_option
@json_option
def rollback(
    target: str, version: str, reason: str, project: str | None, state: Path, as_json: bool
) -> None:
    """Make an earlier version the current one.

    VERSION is its name, or how that begins. What is made from it follows, as after any change; it
    itself stays as it is until its inputs or its code change, or somebody asks for it. A daemon
    looks whether its store has the value; where none is running, --project says which store.
    """
    question = RollbackQuestion(target, version, reason)
    loaded = load_project(project) if project is not None else None
    found = run_async(_roll_back, state, question, loaded)
    if as_json:
        print_json(found)
    elif found.position:
        name = AssetPartition(found.asset, found.partition)
        click.echo(
            f"{name} is {short(found.data_version)} again, of position {found.version_at}:"
            f" recorded at position {found.position}",
            err=True,
        )
    else:
        name = AssetPartition(found.asset, found.partition)
        said = f"{name} is {short(found.data_version)} already: nothing to do"
        click.echo(said, err=True)


@click.command()
@state_option
@json_option
def orphans(state: Path, as_json: bool) -> None:
    """What was built and is not defined any more, since when, and whether a hook was told.

    Its values stay where they are, and its history too, unless `on_removed` of the project deletes
    them.
    """
    rows = run_async(_orphans, state)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        parts = f" ({counted(len(row.partitions), 'partition')})" if any(row.partitions) else ""
        told = f"; on_removed was told [{row.handled_at}]" if row.handled_at else ""
        click.echo(f"{row.asset}{parts}: not defined since [{row.removed_at}]{told}")
    if not rows:
        click.echo("no orphans: all that was ever built is defined", err=True)


async def _orphans(state: Path) -> list[OrphanRow]:
    async with reader(state) as stream:
        return orphan_rows(await view_of(stream))


async def _rows(state: Path, target: AssetPartition, project: Project | None) -> list[VersionRow]:
    async with reader(state) as stream:
        view = await view_of(stream)
        found: list[VersionRow] = []
        for name in names_of(view, target):
            events = await events_about(stream, name)
            rows = version_rows(events, view.staleness.made_at(*name))
            if project is not None and rows:
                stored = await anyio.to_thread.run_sync(project.store.versions, name)
                kept = {one.data_version for one in stored}
                rows = [replace(row, kept=row.data_version in kept) for row in rows]
            found += rows
        return sorted(found, key=lambda row: row.position)


async def _roll_back(
    state: Path, question: RollbackQuestion, project: Project | None
) -> RolledBackTo:
    async with reader(state):
        pass  # there is a stream
    request = Request(actor=f"cli:{user()}", key=uuid4().hex, rollback=question)
    try:
        return await ask_rollback(state, request)
    except NOBODY:
        pass
    if project is None:
        raise RequestError(
            "no daemon is running, so nobody knows whether the store has that version",
            hint=f"name the project: freshet rollback {question.target} {question.version}"
            " --project project.py",
        )
    try:
        async with SqliteStream.open(state / STREAM_FILE) as writer:
            return await _in_its_place(writer, state, question, project, request)
    except InUseError:
        return await ask_rollback(state, request)  # a daemon started in between


async def _in_its_place(
    writer: SqliteStream,
    state: Path,
    question: RollbackQuestion,
    project: Project,
    request: Request,
) -> RolledBackTo:
    """Nobody else writes while this lasts: recorded, and then restored."""
    view = await folded(writer, state / CHECKPOINT)

    def current_view() -> View:
        return view

    found = await roll_back(
        writer, current_view, project.store, question, actor=request.actor, key=request.key
    )
    if found.position:
        name = AssetPartition(found.asset, found.partition)
        await anyio.to_thread.run_sync(project.store.restore, name, found.data_version)
    return found


def _print(rows: Iterable[VersionRow]) -> None:
    shown = table(">position", "recorded", "partition", "version", ">run", "code", "", "")
    for row in rows:
        said = row.how + (f": {row.reason}" if row.reason else "")
        marks = ["current"] if row.current else []
        marks += ["not kept any more"] if row.kept is False else []
        shown.add_row(
            str(row.position),
            moment(row.recorded_at),
            row.partition,
            short(row.data_version),
            str(row.run or ""),
            short(row.code_version),
            said if row.how != "materialized" else "",
            ", ".join(marks),
        )
    if shown.row_count:
        console().print(shown)
    else:
        click.echo("there is no version yet", err=True)
