"""The command that shows what a run has printed and logged."""

import re
from pathlib import Path

import anyio
import click

from freshet.engine.cli.output import moment, print_json
from freshet.engine.cli.state import json_option, reader, run_async, state_option
from freshet.engine.errors import RequestError
from freshet.engine.events import RunStarted
from freshet.engine.keys import AssetPartition, parse_asset_partition
from freshet.engine.runlogs import FOLDER, LEVELS, Line, path_of, read_log
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import MAX_BATCH
from freshet.projections.why import Explanation

LOOK_S = 0.1
"""How often a log that is followed is looked at: as soon as a person notices."""

SHOWN_AS = {"stdout": "out", "stderr": "err"}
"""What stands where a logged line has its level."""


@click.command()
@click.argument("target", metavar="RUN|ASSET[@PARTITION]")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.option(
    "--level", type=click.Choice(LEVELS), default="debug", help="Only lines at least that grave."
)
@state_option
@json_option
def logs(target: str, follow: bool, level: str, state: Path, as_json: bool) -> None:
    """What a run has printed and logged; of an asset, its newest run.

    What is printed has no level and counts as info. Of each run 1 MiB is kept, its beginning and
    its end; of all, the newest 1,000 runs, or 256 MiB. --json prints one object for each line.
    """
    run_async(_logs, state, target, follow, LEVELS.index(level), as_json)


async def _logs(state: Path, text: str, follow: bool, least: int, as_json: bool) -> None:
    async with reader(state) as stream:
        run = await _run(stream, text)
        place, shown = 0, 0
        while True:
            over = not follow or bool(await stream.read(run, limit=1, subject=f"run {run}"))
            for end, line in _new(state, run, place):
                place = end
                level = LEVELS.index(line.level) if line.level in LEVELS else LEVELS.index("info")
                if level >= least:
                    shown += 1
                    _print(line, as_json)
            if over:
                break
            await anyio.sleep(LOOK_S)
    if not shown:
        click.echo(f"run {run} has said nothing, or it is too long ago", err=True)


def _new(state: Path, run: int, place: int) -> list[tuple[int, Line]]:
    try:
        return list(read_log(path_of(state / FOLDER, run), place))
    except FileNotFoundError:
        return []


async def _run(stream: SqliteReader, text: str) -> int:
    """The run that is meant. Raises RequestError when there is none."""
    if text.isdigit():
        recorded = await stream.at(int(text))
        if recorded is None or not isinstance(recorded.event, RunStarted):
            raise RequestError(
                f"there is no run {text}",
                cause="a run is named by the position of its start",
                hint="`freshet events` lists them; or name an asset, for its newest run",
            )
        return int(text)
    name = parse_asset_partition(text)
    until = stream.head
    while until > 0:  # from the end, as what is asked about is mostly new
        after = max(0, until - MAX_BATCH)
        for recorded in reversed(await stream.read(after, limit=MAX_BATCH, until=until)):
            event = recorded.event
            if isinstance(event, RunStarted) and _is_of(event, name):
                return recorded.position
        until = after
    raise RequestError(f"there is no run of '{name}'", hint="`freshet status` lists all assets")


def _is_of(event: RunStarted, name: AssetPartition) -> bool:
    return any(name.covers(target.asset, target.partition) for target in event.targets)


def _print(line: Line, as_json: bool) -> None:
    if as_json:
        print_json(line)
        return
    said = "".join(f"  {name}={value}" for name, value in line.fields.items())
    word = line.level or SHOWN_AS.get(line.stream, "")
    click.echo(f"{moment(line.at)}  {word:<7}  {line.text}{said}")


def talkative(explanation: Explanation, state: Path) -> list[int]:
    """The failed runs of the explanation that have said something."""
    found = [re.match(r"run (\d+) failed", step.text) for step in explanation.steps]
    runs = dict.fromkeys(int(match[1]) for match in found if match)
    return [run for run in runs if path_of(state / FOLDER, run).exists()]
