"""The state folder as commands see it: read it without its daemon, write
through it if there is one.
"""

import getpass
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import click

from freshet.engine.errors import InUseError, RequestError, did_you_mean
from freshet.engine.events import Recorded
from freshet.engine.keys import AssetPartition, parse_asset_partition
from freshet.engine.partitions import describe
from freshet.engine.socket import Request, Wish, ask
from freshet.engine.spaces import contains, examples
from freshet.engine.sqlite import SqliteReader, SqliteStream
from freshet.engine.stream import MAX_BATCH
from freshet.projections.cells import cells_of
from freshet.projections.view import View

STREAM_FILE = "stream.db"

NOBODY = (OSError, anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError)
"""What asking ends in when no daemon listens, or it ended before it could answer."""

MAX_GUESSES = 10_000
"""Partitions among which the nearest to a mistyped one is looked for."""

T = TypeVar("T")

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".freshet"),
    envvar="FRESHET_STATE",
    show_default=True,
    show_envvar=True,
    help="The folder that holds the stream.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@asynccontextmanager
async def reader(state: Path) -> AsyncIterator[SqliteReader]:
    """The stream of a state folder, for reading, daemon or not. Raises
    RequestError if there is none.
    """
    path = state / STREAM_FILE
    if not path.exists():
        raise RequestError(
            f"there is no stream in '{state}'",
            hint="start one with `freshet run TARGET`, or name another folder with --state",
        )
    async with SqliteReader.open(path) as stream:
        yield stream


async def view_of(stream: SqliteReader) -> View:
    """The fold of everything recorded so far."""
    view = View()
    while view.position < stream.head:
        batch = await stream.read(view.position, limit=MAX_BATCH)
        if not batch:
            break
        for recorded in batch:
            view.apply(recorded)
    return view


async def answer(stream: SqliteReader, question: Generator[int, Recorded | None, T]) -> T:
    """Drive a question that asks for events by position."""
    found: Recorded | None = None
    try:
        position = next(question)
        while True:
            found = await stream.at(position)
            position = question.send(found)
    except StopIteration as done:
        result: T = done.value
        return result


async def recorded_at(stream: SqliteReader, positions: Iterable[int]) -> dict[int, Recorded]:
    """The events at these positions."""
    found = {}
    for position in dict.fromkeys(positions):
        event = await stream.at(position)
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
    known = [cell.partition for cell, _ in zip(cells_of(state), range(MAX_GUESSES), strict=False)]
    looks = ", ".join(examples(spec.partitions, 2))
    raise RequestError(
        f"'{target.asset}' has no partition '{target.partition}'",
        cause=f"it is {describe(spec.partitions)}; {state.existing} exist now"
        + (f", keys look like {looks}" if looks else ""),
        hint=did_you_mean(target.partition, known) or f"freshet status {target.asset}",
    )


def possible(view: View, text: str) -> AssetPartition:
    """As `existing`, but for a partition that may come into being: only the
    definition must admit it.
    """
    target = parse_asset_partition(text)
    spec = view.staleness.graph.require(target.asset)
    if not contains(spec.partitions, target.partition):
        return existing(view, text)
    return target


async def append(state: Path, build: Callable[[View], tuple[Wish, ...]]) -> range:
    """Append through the daemon if one listens, else in its place; `build` is
    given the view first.
    """
    async with reader(state) as stream:
        events = build(await view_of(stream))
    if not events:
        return range(0)
    request = Request(events, f"cli:{_user()}", uuid4().hex)  # the key makes a second try harmless
    try:
        return await ask(state, request)
    except NOBODY:
        pass
    try:
        async with SqliteStream.open(state / STREAM_FILE) as writer:
            return await writer.append(events, key=request.key, actor=request.actor)
    except InUseError:
        return await ask(state, request)  # a daemon started in between


def run_async(function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run an async command to its end."""
    return anyio.run(function, *args)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
