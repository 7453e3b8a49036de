"""Commands about checks: what they said, and having them look at what is there."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from freshet.engine.checks import Check, CheckResult
from freshet.engine.cli.output import age, console, moment, print_json, table
from freshet.engine.cli.state import (
    append,
    json_option,
    profile_option,
    reader,
    run_async,
    state_option,
    view_of,
)
from freshet.engine.context import Context
from freshet.engine.counts import counted
from freshet.engine.errors import RequestError
from freshet.engine.events import CheckEvaluated, Recorded
from freshet.engine.executors.invoke import saying
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey, parse_asset_partition
from freshet.engine.lending import Lender, NotOpened
from freshet.engine.logs import redacted_output
from freshet.engine.profiles import check_state
from freshet.engine.project import Project
from freshet.engine.publishing import asked, evaluated
from freshet.engine.specs import CheckSpec, Metadata
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import MAX_BATCH, wall_clock
from freshet.engine.target import load_project
from freshet.projections.answers import select_assets
from freshet.projections.catalog import Version
from freshet.projections.cells import cells_of
from freshet.projections.view import View

Result = Literal["passed", "warned", "failed", "blocked", "new"]
"""Of what did not pass: a warning, an error, or one that has kept a run from publishing; `new`: it
has not looked yet.
"""

ORDER: tuple[Result, ...] = ("blocked", "failed", "warned", "new", "passed")
"""What is listed first."""


class CheckRow(msgspec.Struct, frozen=True):
    """What a check said of an asset partition, and when (µs since the epoch, UTC; 0: not yet)."""

    asset: AssetKey
    partition: PartitionKey
    check: str
    result: Result
    blocking: bool
    severity: str
    message: str = ""
    metadata: Metadata = {}
    data_version: str = ""
    run: int = 0
    position: int = 0
    recorded_at: int = 0


@click.command()
@click.argument("target", required=False, metavar="[ASSET[@PARTITION]]")
@click.option("--failed", is_flag=True, help="Only what did not pass.")
@click.option("--history", is_flag=True, help="All that was ever said, the oldest first.")
@state_option
@json_option
def checks(target: str | None, failed: bool, history: bool, state: Path, as_json: bool) -> None:
    """What the checks said last, of all assets, one, or one partition.

    `blocked` has kept a run from publishing: the version before is still the current one. With
    --history each evaluation is listed with what it measured: a series, to be drawn.
    """
    rows = run_async(_rows, state, target, history)
    if failed:
        rows = [row for row in rows if row.result not in ("passed", "new")]
    if not history:
        rows.sort(key=lambda row: (ORDER.index(row.result), row.asset, row.partition))
    if as_json:
        print_json(rows)
    else:
        _print(rows, history=history)


@click.command("check-data")
@click.argument("target", metavar="TARGET")
@click.option("--select", "selection", default="*", help="Of which assets (default: of all).")
@profile_option
@state_option
@json_option
def check_data(target: str, selection: str, state: Path, as_json: bool) -> int:
    """Have the checks of a project look at the values that are there now.

    TARGET is `path.py` or `module:project`. What they say is recorded; nothing is built, published
    or withdrawn. Exits with 1 if a value does not pass a check whose severity is that of an error.
    """
    with redacted_output():
        project = load_project(target)
        found = run_async(_look, project, selection, state)
    rows = [_row(event, 0, 0) for event in found]
    rows.sort(key=lambda row: (ORDER.index(row.result), row.asset, row.partition))
    if as_json:
        print_json(rows)
    else:
        _print([row for row in rows if row.result != "passed"], history=False)
        bad = sum(row.result != "passed" for row in rows)
        click.echo(f"{counted(len(rows), 'look')}, {bad} did not pass", err=True)
    return 1 if any(row.result in ("failed", "blocked") for row in rows) else 0


# --- what was said --------------------------------------------------------------------------------


async def _rows(state: Path, target: str | None, history: bool) -> list[CheckRow]:
    async with reader(state) as stream:
        view = await view_of(stream)
        name = parse_asset_partition(target) if target is not None else None
        specs = view.staleness.graph.specs
        if name is not None:
            view.staleness.graph.require(name.asset)
            if not specs[name.asset].checks and not _ever(view, name.asset):
                raise RequestError(
                    f"'{name.asset}' has no checks", hint=f"declare one: @fr.check({name.asset!r})"
                )
        if history:
            return [row async for row in _history(stream, name)]
        return [row async for row in _last(stream, view, name)]


def _ever(view: View, asset: AssetKey) -> bool:
    return any(known.asset == asset for known in view.checks.last)


async def _history(stream: SqliteReader, name: AssetPartition | None) -> AsyncIterator[CheckRow]:
    after = 0
    while batch := await stream.read(after, limit=MAX_BATCH):
        for recorded in batch:
            event = recorded.event
            if isinstance(event, CheckEvaluated) and (
                name is None or name.covers(event.asset, event.partition)
            ):
                yield _said(recorded, event)
        after = batch[-1].position


async def _last(
    stream: SqliteReader, view: View, name: AssetPartition | None
) -> AsyncIterator[CheckRow]:
    for state in view.staleness.order:
        for cell in cells_of(state) if state.spec.checks else ():
            if name is not None and not name.covers(*cell.key):
                continue
            verdicts = view.checks.last.get(cell.key, {})
            for spec in state.spec.checks:
                verdict = verdicts.get(spec.name)
                recorded = await stream.at(verdict.position) if verdict is not None else None
                if recorded is not None and isinstance(recorded.event, CheckEvaluated):
                    yield _said(recorded, recorded.event)
                else:
                    yield _unsaid(cell.key, spec)


def _unsaid(key: AssetPartition, spec: CheckSpec) -> CheckRow:
    return CheckRow(*key, spec.name, "new", spec.blocking, spec.severity)


def _said(recorded: Recorded, event: CheckEvaluated) -> CheckRow:
    return _row(event, recorded.position, recorded.recorded_at)


def _row(event: CheckEvaluated, position: int, recorded_at: int) -> CheckRow:
    result: Result = "passed"
    if not event.passed:
        result = "failed" if event.severity == "error" else "warned"
        result = "blocked" if event.blocking and event.run else result
    return CheckRow(
        event.asset,
        event.partition,
        event.check,
        result,
        event.blocking,
        event.severity,
        event.message,
        event.metadata,
        event.data_version,
        event.run,
        position,
        recorded_at,
    )


# --- looking --------------------------------------------------------------------------------------


async def _look(project: Project, selection: str, state: Path) -> list[CheckEvaluated]:
    found: list[CheckEvaluated] = []
    lender = Lender(project.resources)
    async with reader(state) as stream, lender.kept():
        view = await view_of(stream)
        check_state(view.profile, project.profile, project.profiles)
        for key in select_assets(view, selection):
            for check in project.checks.get(key, ()):
                for cell in cells_of(view.staleness.states[key]):
                    version = Version.of(await stream.at(cell.made_at)) if cell.there else None
                    if version is not None:
                        found.append(await _ask(project, lender, check, cell.key, version))
    for start in range(0, len(found), MAX_BATCH):
        page = tuple(found[start : start + MAX_BATCH])
        await append(state, lambda _, page=page: page)  # type: ignore[misc]  # a tuple of wishes
    return found


async def _ask(
    project: Project, lender: Lender, check: Check, key: AssetPartition, version: Version
) -> CheckEvaluated:
    try:
        async with lender.lent(n for n in check.parameters if n in project.resources) as lent:
            result = await asked(lambda: _called(project, check, key, version, lent))
    except NotOpened as error:
        result = CheckResult(False, message=saying(error))
    return evaluated(check, key, 0, version.data_version, result)


def _called(
    project: Project,
    check: Check,
    key: AssetPartition,
    version: Version,
    lent: dict[str, object],
) -> Any:
    arguments: dict[str, Any] = dict(lent)
    if check.takes_context:
        arguments["context"] = Context(*key, version.run, 1, wall_clock())
    if check.parameter:
        own = project.assets[key.asset].annotations.get("return")
        wanted = check.annotation if check.annotation is not None else own
        arguments[check.parameter] = _value(project, key, version, wanted)
    return check.function(**arguments)


def _value(project: Project, key: AssetPartition, version: Version, wanted: Any) -> Any:
    if "bytes" not in version.metadata:
        return None  # it writes its own data
    return project.store.load(key, version.data_version, wanted)


# --- printing -------------------------------------------------------------------------------------


def _print(rows: Iterable[CheckRow], *, history: bool) -> None:
    when = "at" if history else ">ago"
    shown = table("asset", "partition", "check", "result", when, "what", "measured")
    now, any_ = wall_clock(), False
    for row in rows:
        any_ = True
        said = moment(row.recorded_at) if history else age(max(0, now - row.recorded_at))
        measured = " ".join(f"{key}={value}" for key, value in row.metadata.items())
        shown.add_row(
            row.asset,
            row.partition,
            row.check,
            row.result,
            said if row.recorded_at else "",
            row.message,
            measured,
        )
    if any_:
        console().print(shown)
    else:
        click.echo("nothing to tell", err=True)
