"""The sensor contract: an async source of batches, each a set of changes and a move of the
cursor.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import msgspec

from freshet.engine.events import SourceChanged
from freshet.engine.keys import AssetKey

MAX_BATCH_CHANGES = 500
"""Changes a sensor puts into one batch: one transaction, small enough not to hold up others."""


class Batch(msgspec.Struct, frozen=True):
    """Changes seen outside, and how the cursor moves with them (an item set to None is
    forgotten).
    """

    changes: tuple[SourceChanged, ...]
    cursor: dict[str, str | None]


class Sensor(Protocol):
    """An outside source of changes, read exactly once into the stream.

    `run` yields batches for as long as it is iterated. The engine appends the changes and the
    cursor
    in one transaction, and only then asks for the next batch: when a `yield` returns, its batch is
    durable. `run` starts from the cursor it is given, whatever it saw before; it may raise, and is
    then restarted with backoff from the last durable cursor. It never yields a version it did not
    see.
    """

    @property
    def name(self) -> str:
        """Unique in the project, stable across restarts: the cursor is stored under it."""
        ...

    @property
    def sources(self) -> tuple[AssetKey, ...]:
        """The sources whose changes it reports."""
        ...

    def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """Batches from the given cursor on, for ever."""
        ...
