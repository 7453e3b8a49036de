"""The state folder as commands see it: read it without its daemon, write
through it if there is one.
"""

import getpass
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import click

from freshet.engine.checkpoints import CHECKPOINT
from freshet.engine.checkpoints import view_of as folded
from freshet.engine.errors import InUseError, RequestError
from freshet.engine.events import Recorded
from freshet.engine.settings import PROFILE
from freshet.engine.socket import Request, Wish, ask
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from freshet.projections.view import View

STREAM_FILE = "stream.db"

NOBODY = (OSError, anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError)
"""What asking ends in when no daemon listens, or it ended before it could answer."""

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


def _choose(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """Into the environment: there the project finds it while it is imported, also when a worker
    process or a reload imports it anew.
    """
    if name:
        os.environ[PROFILE] = name


profile_option = click.option(
    "--profile",
    metavar="NAME",
    envvar=PROFILE,
    show_envvar=True,
    expose_value=False,
    callback=_choose,
    help="Under which of the project's profiles (default: its first).",
)
"""For every command that loads a project."""

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
    return await folded(stream, stream.path.with_name(CHECKPOINT))


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


async def append(state: Path, build: Callable[[View], tuple[Wish, ...]]) -> range:
    """Append through the daemon if one listens, else in its place; `build` is
    given the view first.
    """
    async with reader(state) as stream:
        events = build(await view_of(stream))
    if not events:
        return range(0)
    request = Request(events, f"cli:{user()}", uuid4().hex)  # the key makes a second try harmless
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


def user() -> str:
    """Who asks, by the name of their account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
