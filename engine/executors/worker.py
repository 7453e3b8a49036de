"""`python -m freshet.engine.executors.worker`: a process that calls functions of assets for a
daemon, and ends with it.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedWriter, FileIO, TextIOWrapper
from queue import SimpleQueue
from typing import Any, NoReturn, TextIO

import anyio
import anyio.to_thread
import msgspec

from freshet.engine import logs
from freshet.engine.allocation import give_back
from freshet.engine.capture import Records
from freshet.engine.context import Output
from freshet.engine.errors import FreshetError
from freshet.engine.events import CheckEvaluated
from freshet.engine.executors.frames import (
    Answer,
    Frames,
    Made,
    Ready,
    Setup,
    Spoken,
    Submitted,
    Task,
    Wanted,
    send,
)
from freshet.engine.executors.invoke import Failed, Rejected, failure
from freshet.engine.inputs import loads_of
from freshet.engine.lending import Lender
from freshet.engine.project import Project
from freshet.engine.publishing import Draft, audit_inline
from freshet.engine.resources import Resource
from freshet.engine.runlogs import SINK, Stream, spoken
from freshet.engine.target import reload_project
from freshet.engine.work import Work, check_lent
from freshet.projections.catalog import Version

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""

CHUNK_BYTES = 64 * 1024


class Post:
    """The two pipes to the daemon. When it is gone, so is this process, with all it has started."""

    def __init__(self, asked: int, tell: int) -> None:
        self._asked = asked
        self._tell = tell
        self._lock = threading.Lock()
        self._come: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._listen, name="freshet daemon", daemon=True).start()

    def next(self) -> Any:
        """Wait for the next message."""
        return self._come.get()

    def send(self, message: object) -> None:
        """Send a message, from any thread."""
        with self._lock:
            send(self._tell, message)

    # As a sink of lines:

    def write(
        self, stream: Stream, text: str, level: str = "", fields: Mapping[str, object] = {}
    ) -> None:
        kept = {name: _plain(value) for name, value in fields.items()}
        with suppress(OSError):
            self.send(Spoken(stream, text, level, kept))

    def hear(self, stream: Stream, text: str) -> None:
        """What is printed goes through the pipes of the process instead."""

    def _listen(self) -> None:
        frames = Frames()
        while data := os.read(self._asked, CHUNK_BYTES):
            for message in frames.feed(data):
                self._come.put(message)
        os.killpg(0, signal.SIGKILL)


def main() -> NoReturn:
    asked, tell, home, parent = map(int, sys.argv[1:])
    for descriptor in (asked, tell, home):
        os.set_inheritable(descriptor, False)
    _die_with(parent)
    give_back()
    post = Post(asked, tell)
    setup: Setup = post.next()
    sys.path[:] = setup.path
    # What a project prints or logs while it is loaded belongs to no run.
    sys.stdout = sys.stderr = _text(home)
    logs.configure()
    project = _load(setup, post)
    _hear(post)
    while True:
        task: Task = post.next()
        answer = _carry_out(project, task, post)
        _flush()
        post.send(answer)


def _load(setup: Setup, post: Post) -> Project:
    try:
        # Anew: a bytecode cache misses an edit within the same second.
        project = reload_project(setup.origin)
    except FreshetError as error:
        post.send(Ready(f"a worker process cannot load the project: {error}"))
    else:
        wanted = (setup.digest, setup.code)
        # Of a project that nobody has loaded from a target, the graph is all there is to compare.
        found = (project.graph.digest, project.code if setup.code else "")
        if found == wanted:
            post.send(Ready())
            return project
        was, now = next((a, b) for a, b in zip(wanted, found, strict=True) if a != b)
        post.send(
            Ready(
                f"the files of '{setup.origin}' have changed since the daemon loaded them: their"
                f" digest was {was[:8]}, and is {now[:8]}; `freshet reload`, or start the daemon"
                " anew"
            )
        )
    post.next()  # until the daemon ends us
    raise SystemExit(1)


def _hear(post: Post) -> None:
    """From here on what is said belongs to runs."""
    SINK.set(post)
    root = logging.getLogger()
    if not root.handlers and root.level == logging.WARNING:
        root.setLevel(logging.INFO)
    root.addHandler(Records(sys.stderr))
    sys.stdout, sys.stderr = _text(1), _text(2)


def _text(descriptor: int) -> TextIO:
    raw = FileIO(descriptor, "w", closefd=False)
    return TextIOWrapper(BufferedWriter(raw), errors="backslashreplace", line_buffering=True)


def _carry_out(project: Project, task: Task, post: Post) -> Answer:
    """All that is done of a run but its publication."""
    order = task.order
    try:
        definitions = project.definitions
        work = Work(
            order,
            definitions.assets[order.spec.key],
            definitions.checks_of(target.asset for target in order.targets),
            definitions.store,
            partial(_fetch, post),
            loads_of(order),
            task.versions,
            task.taken,
            task.previous,
            task.payloads,
            submitted=partial(_submitted, post),
        )
        names = definitions.lent_to(work.asset, work.checks)
        if names:
            return anyio.run(_perform_lending, work, definitions.resources, names)
        return _perform(work)
    except BaseException as error:  # recorded: as the run's failure
        return failure(error)


async def _perform_lending(
    work: Work, resources: Mapping[str, Resource], names: Iterable[str]
) -> Answer:
    """As `_perform`, with the resources that its functions take, opened for this run alone: what is
    open in the daemon is not open here.
    """
    lender = Lender(resources)
    made: Answer | None = None
    try:
        async with lender.kept(), lender.lent(names) as lent:
            check_lent(resources, lent, work)
            made = await _made(msgspec.structs.replace(work, lent=lent))
            if isinstance(made, Failed):
                raise Rejected(made.kind, made.error)
    except Rejected as rejected:
        return made or failure(rejected)
    return made


async def _made(work: Work) -> Answer:
    """Called in a thread of the worker, if it is no coroutine: resources may need the loop."""
    try:
        if not work.asset.is_async:
            draft = await anyio.to_thread.run_sync(_drafted, work)
        else:
            arguments = work.arguments(lazy=False)
            value = await work.asset.function(**arguments)
            work.confirm_files(arguments)
            draft = work.draft(value)
        found = await audit_inline(work.audit(draft)) if work.checks else []
    except BaseException as error:  # recorded: as the run's failure
        return failure(error)
    return _told(draft, found)


def _drafted(work: Work) -> Draft:
    """Called where no event loop runs."""
    arguments = work.arguments()
    if work.asset.is_async:
        value = anyio.run(partial(work.asset.function, **arguments))
    else:
        value = work.asset.function(**arguments)
    work.confirm_files(arguments)
    return work.draft(value)


def _told(draft: Draft, found: Sequence[CheckEvaluated]) -> Made:
    outputs = tuple(
        Output(metadata=one.metadata, data_version=one.data_version) for one in draft.outputs
    )
    return Made(outputs, tuple(draft.staged), tuple(found))


def _perform(work: Work) -> Made:
    draft = _drafted(work)
    found = anyio.run(audit_inline, work.audit(draft)) if work.checks else []
    return _told(draft, found)


def _fetch(post: Post, position: int) -> Version:
    post.send(Wanted(position))
    answer: Version | Failed = post.next()
    if isinstance(answer, Failed):
        raise Rejected(answer.kind, answer.error)
    return answer


async def _submitted(post: Post, job: str) -> None:
    post.send(Submitted(job))
    answer: Failed | None = post.next()
    if answer is not None:
        raise Rejected(answer.kind, answer.error)


def _flush() -> None:
    """What was printed is in the pipes before the answer is; also what was printed in C."""
    ctypes.CDLL(None).fflush(None)  # first: it most often has whole lines
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)  # it ended before we could say that


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else spoken(value)


if __name__ == "__main__":
    main()
