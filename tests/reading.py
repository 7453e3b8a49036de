"""A reader of a file sensor, as the engine is one: it keeps the cursor, batch by batch."""

from collections.abc import AsyncGenerator, Callable

import anyio

from freshet.engine.digests import digest
from freshet.engine.events import SourceChanged
from freshet.sensors.files import FilesSensor
from freshet.sensors.sensor import Batch, Rejection, Settlement

PATIENCE_S = 60
"""Bound on a wait for something that comes within milliseconds on any machine that is not stuck."""


class Reader:
    """Reads a sensor as the engine does: takes a batch, keeps its cursor, asks for the next."""

    def __init__(self, sensor: FilesSensor, cursor: dict[str, str] | None = None) -> None:
        self.cursor = dict(cursor or {})
        self.current: dict[str, str] = {}
        self.rejected: dict[str, str] = {}
        self.said: list[Rejection | Settlement] = []
        self.seen: list[SourceChanged] = []
        self.beats = 0
        self.behind: int | None = None
        self.trouble = ""
        self._batches: AsyncGenerator[Batch, None] = sensor.run(dict(self.cursor))

    @property
    def files(self) -> dict[str, str]:
        """The cursor without what it says of the watch itself."""
        return {item: value for item, value in self.cursor.items() if not item.startswith("//")}

    async def any_batch(self) -> Batch:
        """The next batch, also one that only says that the sensor works."""
        with anyio.fail_after(PATIENCE_S):
            batch = await anext(self._batches)
        for item, value in batch.cursor.items():
            if value is None:
                self.cursor.pop(item)
            else:
                self.cursor[item] = value
        for change in batch.changes:
            self.seen.append(change)
            self.current[change.partition] = change.data_version
            if not change.data_version:
                del self.current[change.partition]
        for rejection in batch.rejected:
            self.rejected[rejection.item] = rejection.reason
        for settlement in batch.settled:
            del self.rejected[settlement.item]
        self.said += [*batch.rejected, *batch.settled]
        self.beats += not batch.cursor
        self.behind, self.trouble = batch.behind, batch.trouble
        return batch

    async def batch(self) -> Batch:
        """The next batch with something in it."""
        while not (batch := await self.any_batch()).cursor:
            pass
        return batch

    async def beat(self) -> None:
        """Read on until the sensor says that it works, and nothing else."""
        before = self.beats
        while self.beats == before:
            await self.any_batch()

    async def changes(self, count: int) -> list[SourceChanged]:
        """The next `count` changes, whatever batches they come in."""
        found: list[SourceChanged] = []
        while len(found) < count:
            found.extend((await self.any_batch()).changes)
        assert len(found) == count
        return found

    async def until(self, current: Callable[[], dict[str, str]]) -> None:
        """Read on until the partitions that are there have the versions of these contents."""
        while self.current != {day: version(text) for day, text in current().items()}:
            await self.any_batch()

    async def told(self, rejected: Callable[[dict[str, str]], bool]) -> None:
        """Read on until what is rejected fits."""
        while not rejected(self.rejected):
            await self.any_batch()

    async def troubled(self, how: str) -> None:
        """Read on until that is wrong with the watch; nothing, when it is empty."""
        while how not in self.trouble if how else self.trouble:
            await self.any_batch()

    async def stop(self) -> None:
        await self._batches.aclose()


def version(content: str) -> str:
    return digest([content.encode()])
