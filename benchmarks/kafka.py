"""Kafka to durable stream: how many messages a second beside what bounds it, how soon an asset
reacts to one, and whether any is lost in a minute at 1,000 a second.

    python -m benchmarks kafka

A real broker on this machine (`tests/broker.py`: Java 17, jars fetched once). Rounds of all sides
alternate, so that a busy machine hurts all; medians count, of the ratio that of the rounds.
"""

import gc
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

import freshet as fr
from benchmarks.case import Figure, compared, daemon, measured
from freshet.engine.events import SourceChanged
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stream import MAX_BATCH
from freshet.engine.supervisor import supervise
from freshet.sensors.kafka import KafkaSensor
from tests.broker import Broker, Message, MissingError

CASE = "kafka"

CONFIGURATION = (
    "a real broker (Java 17) on this machine, three partitions, messages of 100 bytes; raw is"
    " aiokafka's getmany into a list, the append the same events 1,000 at a time; the producer of"
    " the minute runs in the same process"
)
MESSAGES = 60_000
PARTITIONS = 3
ROUNDS = 9
VALUE = (
    b'{"flight":"UA1545","origin":"EWR","dest":"IAH","delay":11,"distance":1400,"hour":5,"n":%d}'
)
"""About a hundred bytes, as an event of a business is."""

LATENCIES = 500
"""Messages produced one after the other: the 99th percentile is then the fifth worst."""

RATE = 1000
SECONDS = 60


def run() -> list[Figure]:
    """All cases; none where no broker can run, and why."""
    try:
        with _broker() as broker:
            options = {"use_uvloop": find_spec("uvloop") is not None}
            found: list[Figure] = []
            for case in (_throughput, _latency, _steady):
                found += anyio.run(case, broker, backend_options=options)
            return found
    except MissingError as missing:
        print(f"kafka: left out, {missing}")
        return []


@contextmanager
def _broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory(dir=".", ignore_cleanup_errors=True) as folder:
        broker = Broker(Path(folder).absolute())
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


def _sensor(broker: Broker, topic: str, source: Any, **more: Any) -> KafkaSensor:
    return fr.kafka(topic, bootstrap_servers=broker.bootstrap, source=source, name="kafka", **more)


# --- throughput -------------------------------------------------------------------------------


async def _throughput(broker: Broker) -> list[Figure]:
    await anyio.to_thread.run_sync(broker.create_topic, "flights", PARTITIONS)
    for start in range(0, MESSAGES, 20_000):
        messages = [
            Message(b"%d" % (n % 1000), VALUE % n, n % PARTITIONS)
            for n in range(start, start + 20_000)
        ]
        await anyio.to_thread.run_sync(broker.produce, "flights", messages)
    sides: dict[str, list[float]] = {"raw": [], "append": [], "ours": []}
    for _ in range(ROUNDS):
        for side, measure in (("raw", _raw), ("append", _append), ("ours", _ours)):
            gc.collect()
            sides[side].append(await measure(broker))
    rounds = zip(sides["ours"], sides["raw"], sides["append"], strict=True)
    ratios = [ours / min(limits) for ours, *limits in rounds]
    what, unit = "messages read and recorded", "messages/s"
    limits = {"raw": "raw getmany into a list", "append": "the same events appended in batches"}
    return [
        *(
            measured(CASE, what, sides[side], unit, higher_is_better=True, side=name)
            for side, name in limits.items()
        ),
        measured(CASE, what, sides["ours"], unit, higher_is_better=True),
        compared(CASE, "ratio to the slower of raw and append", ratios, 0.6),
    ]


async def _raw(broker: Broker) -> float:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition("flights", n) for n in range(PARTITIONS)]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        found: list[Any] = []
        began = perf_counter()
        while len(found) < MESSAGES:
            for records in (
                await consumer.getmany(timeout_ms=1000, max_records=MAX_BATCH)
            ).values():
                found += records
        return MESSAGES / (perf_counter() - began)
    finally:
        await consumer.stop()


async def _append(_: Broker) -> float:
    """The changes that the messages are, in batches as large as the stream commits at once."""
    changes = [
        SourceChanged(
            "flights",
            str(n % 1000),
            f"{n % PARTITIONS}:{n // PARTITIONS}",
            {
                "topic": "flights",
                "partition": n % PARTITIONS,
                "offset": n // PARTITIONS,
                "timestamp_ms": 1_795_266_170_179,
            },
        )
        for n in range(MESSAGES)
    ]
    async with _stream() as stream:
        began = perf_counter()
        for start in range(0, len(changes), MAX_BATCH):
            await stream.append(changes[start : start + MAX_BATCH], actor="sensor:kafka")
        return len(changes) / (perf_counter() - began)


async def _ours(broker: Broker) -> float:
    source = fr.source("flights", partitions=fr.dynamic())
    sensor = _sensor(broker, "flights", source, partition="key")
    async with _stream() as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, sensor, stream, random.Random(0))
        while not stream.head:
            await anyio.sleep(0.001)
        began, first = perf_counter(), stream.head  # from the first batch on: without connecting
        while await _read(stream) < MESSAGES:
            await anyio.sleep(0.005)
        seconds = perf_counter() - began
        tasks.cancel_scope.cancel()
    return (MESSAGES - first) / seconds


async def _read(stream: SqliteStream) -> int:
    """How many messages are in the stream, by its cursor."""
    if stream.head < MESSAGES:
        return 0  # asking costs time, too
    return sum(int(at) for item, at in (await stream.cursor("kafka")).items() if "/" in item)


@asynccontextmanager
async def _stream() -> AsyncIterator[SqliteStream]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        async with SqliteStream.open(Path(folder, "stream.db")) as stream:
            yield stream


# --- reaction ---------------------------------------------------------------------------------


async def _latency(broker: Broker) -> list[Figure]:
    await anyio.to_thread.run_sync(broker.create_topic, "orders", PARTITIONS)
    entered: dict[str, float] = {}
    waits = []
    async with _daemon(broker, "orders", entered) as producer:
        for number in range(LATENCIES):
            await anyio.sleep(0.02 + 0.001 * (number % 37))
            key = str(number)
            began = perf_counter()
            await producer.send("orders", b"%d" % number, key.encode(), number % PARTITIONS)
            while key not in entered:
                await anyio.sleep(0.0005)
            waits.append((entered[key] - began) * 1000)
    waits = waits[20:]  # less the first, which meet a cold Java
    name = "message produced → asset entered"
    return [
        measured(CASE, f"{name}, p50", waits, "ms", 30),
        measured(CASE, f"{name}, p99", waits, "ms", 150, percent=99),
    ]


async def _steady(broker: Broker) -> list[Figure]:
    """Each message a partition of its own, so that each must be reacted to."""
    await anyio.to_thread.run_sync(broker.create_topic, "clicks", PARTITIONS)
    entered: dict[str, float] = {}
    sent: dict[str, float] = {}
    async with _daemon(broker, "clicks", entered) as producer:
        began = perf_counter()
        for number in range(RATE * SECONDS):
            key = str(number)
            sent[key] = perf_counter()
            await producer.send("clicks", b"%d" % number, key.encode(), number % PARTITIONS)
            ahead = began + number / RATE - perf_counter()
            if ahead > 0:
                await anyio.sleep(ahead)
        with anyio.move_on_after(60):
            while len(entered) < len(sent):
                await anyio.sleep(0.01)
    waits = [(entered[key] - at) * 1000 for key, at in sent.items() if key in entered]
    name = f"{RATE} messages/s for {SECONDS} s"
    return [
        Figure(CASE, f"{name}: lost", len(sent) - len(entered), "messages", 0),
        measured(CASE, f"{name}: produced → asset entered, p50", waits, "ms"),
        measured(CASE, f"{name}: produced → asset entered, p99", waits, "ms", 1000, percent=99),
    ]


@asynccontextmanager
async def _daemon(
    broker: Broker, topic: str, entered: dict[str, float]
) -> AsyncIterator[AIOKafkaProducer]:
    """A daemon whose asset notes when it is entered for each key, and a producer."""
    source = fr.source("source", partitions=fr.dynamic())

    @fr.asset(partitions=fr.dynamic(), deps=[source])
    async def made(context: fr.Context) -> None:
        entered.setdefault(context.partition, perf_counter())

    sensor = _sensor(broker, topic, source, partition="key")
    project = fr.Project([source, made], sensors=[sensor], store=fr.MemoryStore(), slots=64)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    try:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            async with daemon(project, Path(folder)) as running:
                while running.sensing.pulses["kafka"].batches < 1:
                    await anyio.sleep(0.01)
                yield producer
                running.stop("measured")
                await running.stopped()
    finally:
        await producer.stop()
