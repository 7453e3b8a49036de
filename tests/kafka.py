"""A Kafka sensor under its supervisor, what is produced for it, and what it brought."""

import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import anyio
from anyio import to_thread

import freshet as fr
from freshet.engine.events import Recorded, SourceChanged
from freshet.engine.memory import MemoryStream
from freshet.engine.stream import EventStream
from freshet.engine.supervisor import supervise
from freshet.projections.sensors import Pulse, Sensors
from freshet.sensors.kafka import KafkaSensor
from tests.broker import Broker, Message

PATIENCE_S = 30
"""Bound on waits for what takes milliseconds, or the few seconds that a broker is down."""

T = TypeVar("T")

_topics = count(1)


def new_topic(broker: Broker, partitions: int = 1, **config: str) -> str:
    """A topic of this test alone."""
    name = f"topic-{next(_topics)}"
    broker.create_topic(name, partitions, config)
    return name


def numbered(numbers: Iterable[int], partition: int | None = None) -> list[Message]:
    """Messages whose key and value are a number."""
    return [Message(str(n).encode(), str(n).encode(), partition) for n in numbers]


def sensor(broker: Broker, topic: Any, **more: Any) -> KafkaSensor:
    """A sensor `k` of the source `s`, which has no partitions unless they are named."""
    more.setdefault("name", "k")
    if not isinstance(topic, dict):
        partitions = fr.dynamic() if more.get("partition") is not None else None
        more.setdefault("source", fr.source("s", partitions=partitions))
    return fr.kafka(topic, bootstrap_servers=broker.bootstrap, **more)


class Read:
    """A stream that a sensor is read into."""

    def __init__(self, stream: EventStream) -> None:
        self.stream = stream
        self.pulse = Pulse()

    async def events(self, kind: type[T]) -> list[T]:
        return [r.event for r in await history(self.stream) if isinstance(r.event, kind)]

    async def offsets(self) -> list[tuple[str, int, int]]:
        return offsets(await history(self.stream))

    async def versions(self) -> list[str]:
        return [event.data_version for event in await self.events(SourceChanged)]

    async def until(self, number: int, kind: type[Any] = SourceChanged) -> list[Any]:
        """Wait until there are so many events of a kind."""

        async def there() -> bool:
            return len(await self.events(kind)) >= number

        await until(there, f"{number} of {kind.__name__}", self)
        return await self.events(kind)

    async def idle(self) -> None:
        """Wait until the sensor says that nothing is left to read."""

        async def caught_up() -> bool:
            return self.pulse.batches > 0 and self.pulse.behind == 0

        await until(caught_up, "nothing left to read", self)


@asynccontextmanager
async def reading(
    sensor: Any, stream: EventStream | None = None, seed: int = 0
) -> AsyncIterator[Read]:
    """The sensor is read into the stream for as long as the block lasts."""
    read = Read(stream if stream is not None else MemoryStream())
    known = Sensors()
    for recorded in await history(read.stream):
        known.apply(recorded)
    health = known.health.get(sensor.name)
    async with anyio.create_task_group() as tasks:

        async def go_on() -> None:
            rng = random.Random(seed)
            await supervise(sensor, read.stream, rng, health=health, pulse=read.pulse)

        tasks.start_soon(go_on)
        yield read
        tasks.cancel_scope.cancel()


async def history(stream: EventStream) -> list[Recorded]:
    found: list[Recorded] = []
    while batch := await stream.read(len(found)):
        found.extend(batch)
    return found


def offsets(history: Sequence[Recorded]) -> list[tuple[str, int, int]]:
    """Topic, partition and offset of each change, in the order of the stream."""
    return [
        (str(m["topic"]), int(str(m["partition"])), int(str(m["offset"])))
        for m in (r.event.metadata for r in history if isinstance(r.event, SourceChanged))
    ]


async def until(condition: Callable[[], Any], what: str, told: Any = None) -> None:
    """Wait until the (asynchronous) condition holds, at most `PATIENCE_S`."""
    with anyio.move_on_after(PATIENCE_S):
        while not await condition():
            await anyio.sleep(0.005)
        return
    raise AssertionError(f"never: {what}; {vars(getattr(told, 'pulse', None) or object)}")


async def produce(
    broker: Broker, topic: str, messages: Iterable[Message], compression: str | None = None
) -> list[tuple[int, int]]:
    return await to_thread.run_sync(broker.produce, topic, messages, compression)
