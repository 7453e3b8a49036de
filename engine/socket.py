"""The daemon's local socket: how other processes append while the daemon holds the stream.

One JSON request per line, one JSON answer per line. The socket lies in the state folder, so who
may write there may ask; there is no other authentication.
"""

import os
import tempfile
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
import msgspec
from anyio.abc import ByteStream, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from freshet.engine.asking import StatusQuestion
from freshet.engine.errors import FreshetError, RequestError
from freshet.engine.events import (
    CheckEvaluated,
    CursorMoved,
    DemandCancelled,
    Demanded,
    Invalidated,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    Paused,
    Resumed,
    RunCancelled,
    SourceChanged,
)
from freshet.engine.reports import HealthReport, ReloadReport
from freshet.engine.rollback import RollbackQuestion, RolledBackTo
from freshet.engine.stream import EventStream
from freshet.projections.answers import StatusReport

T = TypeVar("T")

MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""A demand for 1,000,000 partitions fits; what is larger is not a request from us."""

MAX_SOCKET_PATH = 100
"""Bytes in the path of a Unix socket (108 on Linux, 104 on macOS, less a margin)."""

GONE = (
    anyio.IncompleteRead,
    anyio.EndOfStream,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,  # what Linux says if they had not read the answer
)
"""What reading ends in when whoever asked has gone."""

Wish = (
    SourceChanged
    | Observed
    | Demanded
    | DemandCancelled
    | Invalidated
    | PartitionsAdded
    | PartitionsRemoved
    | Paused
    | Resumed
    | CursorMoved
    | CheckEvaluated
    | RunCancelled
)
"""What others may append: changes, wishes, where a sensor is to go on, what a check says of what is
there, and that a run is to stop. Runs, their checks and materializations are the daemon's own.
"""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """Append these events for `actor`, once per `key`; or answer a question; or reload."""

    events: tuple[Wish, ...] = ()
    actor: str | None = None
    key: str | None = None
    status: StatusQuestion | None = None
    rollback: RollbackQuestion | None = None
    health: bool = False
    reload: bool = False


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first and last position appended, or the answer, or the error in its three parts."""

    first: int = 0
    last: int = 0
    report: StatusReport | None = None
    rolled_back: RolledBackTo | None = None
    health: HealthReport | None = None
    reload: ReloadReport | None = None
    error: str = ""
    cause: str | None = None
    hint: str | None = None


def socket_path(state: Path) -> Path:
    """Where the daemon of this state folder listens; in the temporary folder if the path were too
    long.
    """
    path = state.resolve() / "daemon.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    digest = blake2b(os.fsencode(path), digest_size=12).hexdigest()
    return Path(tempfile.gettempdir()) / f"freshet-{os.getuid()}-{digest}.sock"


class Answers(NamedTuple):
    """Who answers which question, and does what is asked."""

    status: Callable[[StatusQuestion], Awaitable[StatusReport]]
    health: Callable[[], Awaitable[HealthReport]]
    reload: Callable[[], Awaitable[ReloadReport]]
    rollback: Callable[[RollbackQuestion, str | None, str | None], Awaitable[RolledBackTo]]
    """With who asks, and the key under which it is asked once."""


async def serve(
    state: Path,
    stream: EventStream,
    answers: Answers,
    *,
    ready: anyio.Event | None = None,
) -> None:
    """Answer requests until cancelled; a socket left by a dead daemon is replaced."""
    path = socket_path(state)
    path.unlink(missing_ok=True)
    listener = await anyio.create_unix_listener(path, mode=0o600)
    try:
        if ready is not None:
            ready.set()
        async with listener:
            await listener.serve(lambda client: _converse(client, stream, answers))
    finally:
        path.unlink(missing_ok=True)


async def ask(state: Path, request: Request) -> range:
    """Append through the daemon and return the positions.

    Raises OSError when no daemon listens, an anyio stream error when it ends before it answers,
    RequestError as the daemon says.
    """
    answer = await _exchange(state, request)
    return range(answer.first, answer.last + 1)


async def ask_status(state: Path, question: StatusQuestion) -> StatusReport:
    """How things stand, as the daemon knows it: nothing is read or folded for it. Raises as `ask`,
    and OSError also when the daemon does not know the question.
    """
    return _known((await _exchange(state, Request(status=question))).report)


async def ask_health(state: Path) -> HealthReport:
    """How the daemon is. Raises as `ask_status`."""
    return _known((await _exchange(state, Request(health=True))).health)


async def ask_reload(state: Path) -> ReloadReport:
    """Have the daemon load its definitions anew; what came of it. Raises as `ask_status`."""
    return _known((await _exchange(state, Request(reload=True))).reload)


def _known(answer: T | None) -> T:
    if answer is None:
        raise OSError("the daemon is of another release")
    return answer


async def ask_rollback(state: Path, request: Request) -> RolledBackTo:
    """Have the daemon roll back. Raises as `ask`, RequestError also when it cannot."""
    answer = await _exchange(state, request)
    if answer.rolled_back is None:
        raise RequestError(
            "the daemon that is running cannot roll back",
            cause="it is of another release",
            hint="stop it, and start it anew",
        )
    return answer.rolled_back


async def _exchange(state: Path, request: Request) -> Answer:
    async with await anyio.connect_unix(socket_path(state)) as daemon:
        await daemon.send(msgspec.json.encode(request) + b"\n")
        line = await BufferedByteReceiveStream(daemon).receive_until(b"\n", MAX_REQUEST_BYTES)
    answer = msgspec.json.decode(line, type=Answer)
    if answer.error:
        raise RequestError(answer.error, cause=answer.cause, hint=answer.hint)
    return answer


async def _converse(client: SocketStream, stream: EventStream, answers: Answers) -> None:
    async with client:
        lines = BufferedByteReceiveStream(client)
        while True:
            try:
                line = await lines.receive_until(b"\n", MAX_REQUEST_BYTES)
            except GONE:
                return
            except anyio.DelimiterNotFound:
                await _say(
                    client, Answer(error=f"a request is longer than {MAX_REQUEST_BYTES} bytes")
                )
                return
            await _say(client, await _answer(line, stream, answers))


async def _say(client: ByteStream, answer: Answer) -> None:
    try:
        await client.send(msgspec.json.encode(answer) + b"\n")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # whoever asked has gone; what was appended stays appended


async def _answer(line: bytes, stream: EventStream, answers: Answers) -> Answer:
    try:
        request = msgspec.json.decode(line, type=Request)
        if request.status is not None:
            return Answer(report=await answers.status(request.status))
        if request.rollback is not None:
            to = await answers.rollback(request.rollback, request.actor, request.key)
            return Answer(rolled_back=to)
        if request.health:
            return Answer(health=await answers.health())
        if request.reload:
            return Answer(reload=await answers.reload())
        if not request.events:
            return Answer(error="a request appends no event")
        if any(isinstance(event, CheckEvaluated) and event.run for event in request.events):
            return Answer(error="what checks say of a run is recorded by the run alone")
        positions = await stream.append(request.events, key=request.key, actor=request.actor)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Answer(error="a request could not be read", cause=str(error))
    except FreshetError as error:
        return Answer(error=error.message, cause=error.cause, hint=error.hint)
    except Exception as error:  # recorded: as the answer; one odd request ends no daemon
        return Answer(error="a request could not be answered", cause=repr(error))
    return Answer(positions[0], positions[-1])
