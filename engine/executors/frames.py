"""Frames: what a daemon and its worker processes say to each other over two pipes. Both run the
same release on the same machine, so it is pickled; values of assets never come this way.
"""

import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from freshet.engine.context import Output
from freshet.engine.events import CheckEvaluated
from freshet.engine.executors.invoke import Failed
from freshet.engine.orders import Order
from freshet.engine.readings import Taken
from freshet.engine.runlogs import Stream
from freshet.engine.stores.payloads import Payloads
from freshet.engine.stores.store import Staged
from freshet.projections.catalog import Version

HEADER = struct.Struct("!Q")
"""Before each message, its length in bytes."""


class Setup(msgspec.Struct, frozen=True):
    """First to a worker: the project it is to load, the digests that its graph and its files must
    have (the latter empty if nobody knows), and where modules are looked for.
    """

    origin: str
    digest: str
    code: str
    path: tuple[str, ...]


class Ready(msgspec.Struct, frozen=True):
    """The worker has loaded the project; or it cannot, and why."""

    error: str = ""


class Task(msgspec.Struct, frozen=True):
    """To a worker: everything that a run needs but the values of its inputs, and the code."""

    order: Order
    versions: dict[int, Version]
    taken: Taken | None
    previous: Version | None
    payloads: Payloads | None


class Made(msgspec.Struct, frozen=True):
    """From a worker: what the run has staged, and what the checks said. The outputs are without
    their values.
    """

    outputs: tuple[Output, ...]
    staged: tuple[Staged | None, ...]
    found: tuple[CheckEvaluated, ...]


class Wanted(msgspec.Struct, frozen=True):
    """From a worker: which version was stated at this position? Answered by Version or Failed."""

    position: int


class Submitted(msgspec.Struct, frozen=True):
    """From a worker: this job does the work elsewhere. Answered by None, or Failed, once it is
    recorded.
    """

    job: str


class Spoken(msgspec.Struct, frozen=True):
    """From a worker: a line for the log of the run."""

    stream: Stream
    text: str
    level: str
    fields: Mapping[str, object]


Answer = Made | Failed
Told = Ready | Made | Failed | Wanted | Submitted | Spoken


def send(descriptor: int, message: object) -> None:
    """Write a whole message. Raises OSError when nobody reads any more."""
    data = pickle.dumps(message, protocol=5)
    left = memoryview(HEADER.pack(len(data)) + data)
    while left:
        left = left[os.write(descriptor, left) :]


class Frames:
    """Puts messages together again from what comes in pieces."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are whole now."""
        self._data += data
        while len(self._data) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._data)
            end = HEADER.size + length
            if len(self._data) < end:
                return
            message = pickle.loads(memoryview(self._data)[HEADER.size : end])
            del self._data[:end]
            yield message
