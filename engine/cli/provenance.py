"""The command that says what a version was made from."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from freshet.engine.cli.output import moment, print_json
from freshet.engine.cli.state import answer, json_option, reader, run_async, state_option
from freshet.engine.errors import RequestError
from freshet.engine.events import GraphDeployed, Recorded, RunStarted
from freshet.engine.keys import AssetPartition, parse_asset_partition
from freshet.engine.orders import order_of
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import MAX_BATCH
from freshet.projections.provenance import Node, Tracer, Versions, name_of, runs_in
from freshet.projections.view import View
from freshet.projections.why import short

SHOWN_GAPS = 3
"""Missing inputs named in a line."""


@click.command()
@click.argument("target", metavar="ASSET[@PARTITION]")
@click.option("--version", help="Of which version, or how it begins (default: the newest).")
@click.option("--all", "whole", is_flag=True, help="Also each of many partitions read as one.")
@state_option
@json_option
def provenance(target: str, version: str | None, whole: bool, state: Path, as_json: bool) -> None:
    """From which data, code and parameters a version was made, down to the sources.

    Where an asset reads many partitions as one, they stand in one line with the newest of them;
    --all lists them, which takes the time to fold the stream up to that run.
    """
    found = run_async(_provenance, state, parse_asset_partition(target), version, whole)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(_lines(found)))


async def _provenance(state: Path, name: AssetPartition, version: str | None, whole: bool) -> Node:
    async with reader(state) as stream:
        position = await _position(stream, name, version)
        deployments = await _deployments(stream)
        expanded: dict[int, Versions] = {}
        while True:
            node = await answer(stream, Tracer(deployments, expanded).trace(position))
            assert node is not None
            missing = runs_in(node) - set(expanded) if whole else set()
            if not missing:
                return node
            for run in sorted(missing):
                expanded[run] = await _behind(stream, run)


async def _position(stream: SqliteReader, name: AssetPartition, version: str | None) -> int:
    """Where the version was stated. Raises RequestError when it was not."""
    found, known, after = 0, [], 0
    while batch := await stream.read(after, limit=MAX_BATCH, subject=str(name)):
        for recorded in batch:
            said = getattr(recorded.event, "data_version", "")
            if said and not hasattr(recorded.event, "check"):
                known.append(said)
                found = recorded.position if said.startswith(version or "") else found
        after = batch[-1].position
    if found:
        return found
    if not known:
        raise RequestError(
            f"there is no version of {name}", hint="`freshet status` lists assets and partitions"
        )
    raise RequestError(
        f"no version of {name} begins with '{version}'",
        cause=f"the newest: {', '.join(short(one) for one in known[-3:])}",
        hint=f"freshet history {name}",
    )


async def _deployments(stream: SqliteReader) -> list[Recorded]:
    found: list[Recorded] = []
    after = 0
    while batch := await stream.read(after, limit=MAX_BATCH, subject=""):
        found += [recorded for recorded in batch if isinstance(recorded.event, GraphDeployed)]
        after = batch[-1].position
    return found


async def _behind(stream: SqliteReader, run: int) -> Versions:
    """Every version a run has read: as its order had it."""
    view = View()
    found: Versions = {}
    while view.position < run:
        for recorded in await stream.read(view.position, limit=min(MAX_BATCH, run - view.position)):
            view.apply(recorded)
            if recorded.position == run and isinstance(recorded.event, RunStarted):
                order = order_of(view, recorded, recorded.event)
                reads = [read for target in order.reads for read in target] if order else []
                for read in reads:
                    if not read.named():
                        found |= {(read.asset, key): position for key, position in read.items()}
    return found


# --- printing -------------------------------------------------------------------------------------


def _lines(node: Node, lead: str = "", below: str = "") -> Iterator[str]:
    yield lead + _line(node)
    for facts in (_facts("with", node.config), _facts("said", node.metadata)):
        if facts:
            yield f"{below}{'│ ' if node.inputs else '  '} {facts}"
    for number, one in enumerate(node.inputs, 1):
        branch, beyond = ("└─ ", "   ") if number == len(node.inputs) else ("├─ ", "│  ")
        yield from _lines(one, below + branch, below + beyond)


def _line(node: Node) -> str:
    name = str(name_of(node))
    gaps = f", missing {', '.join(node.gaps[:SHOWN_GAPS])}" if node.gaps else ""
    if node.count != 1:
        return f"{name}  {node.count} versions, the newest at [{node.position}]{gaps}"
    if not node.data_version:
        return f"{name}  missing"
    by = f"  run {node.run}  code {short(node.code_version)}" if node.run else "  from outside"
    read = ""
    if node.read is not None:
        read = f"  {node.read.count} changes of ({node.read.since}, {node.read.until}]"
    again = "  (see above)" if node.again else "  (made of more: ask for it)" if node.deeper else ""
    at = f"  {moment(node.recorded_at)}  [{node.position}]"
    return f"{name}  {short(node.data_version)}{by}{read}{at}{again}"


def _facts(word: str, facts: Mapping[str, object]) -> str:
    return f"{word} " + " ".join(f"{key}={value}" for key, value in facts.items()) if facts else ""
