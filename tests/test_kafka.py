"""Kafka topics read from a real broker: each message is one change, whatever comes between."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from anyio import to_thread

import freshet as fr
from freshet.engine.daemon import daemon
from freshet.engine.events import (
    CursorMoved,
    MessageRejected,
    MessageSettled,
    RunSucceeded,
    SensorFailed,
    SourceChanged,
)
from freshet.engine.memory import MemoryStream
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stores.payloads import MAX_INLINE_BYTES, Payloads
from freshet.engine.supervisor import supervise
from freshet.sensors.sensor import REPLAY
from tests.broker import Broker, Message
from tests.kafka import history, new_topic, numbered, produce, reading, sensor, until

pytestmark = pytest.mark.anyio


# --- reading ----------------------------------------------------------------------------------


async def test_each_message_becomes_one_change_with_its_place(broker: Broker) -> None:
    """Version and metadata say where it lies; the cursor moves in the same transaction."""
    topic = await to_thread.run_sync(new_topic, broker, 2)
    written = await produce(broker, topic, numbered(range(20)))
    async with reading(sensor(broker, topic)) as read:
        changes = await read.until(20)
        await read.idle()
        assert sorted(await read.offsets()) == sorted((topic, *place) for place in written)
        change = changes[0]
        place = change.metadata
        assert change.data_version == f"{place['partition']}:{place['offset']}"
        assert place["topic"] == topic
        assert isinstance(place["timestamp_ms"], int)
        cursor = await read.stream.cursor("k")
        ends = {p: 1 + max(o for q, o in written if q == p) for p, _ in written}
        assert {k: v for k, v in cursor.items() if k != topic} == {
            f"{topic}/{p}": str(end) for p, end in ends.items()
        }
        assert read.pulse.behind == 0


async def test_a_restart_goes_on_where_the_stream_says(broker: Broker, tmp_path: Path) -> None:
    """Nothing is read twice, and nothing that came while nobody read is missed."""
    topic = await to_thread.run_sync(new_topic, broker, 3)
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        for n in range(3):
            await produce(broker, topic, numbered(range(30)))
            async with reading(sensor(broker, topic), stream) as read:
                await read.until(30 * (n + 1))
        places = await read.offsets()
        assert len(places) == len(set(places)) == 90
        assert await read.events(SensorFailed) == []


async def test_latest_begins_with_what_comes_after_it_first_looked(broker: Broker) -> None:
    """The end at that time is remembered, also when nothing came before a restart."""
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(5)))
    stream = MemoryStream()
    async with reading(sensor(broker, topic, start="latest"), stream) as read:
        await read.idle()
    await produce(broker, topic, numbered(range(3)))
    async with reading(sensor(broker, topic, start="latest"), stream) as read:
        await read.until(3)
        await read.idle()
        assert await read.versions() == ["0:5", "0:6", "0:7"]


async def test_several_topics_feed_one_source_or_each_its_own(broker: Broker) -> None:
    """With one source the version names the topic, as offsets meet."""
    first = await to_thread.run_sync(new_topic, broker)
    second = await to_thread.run_sync(new_topic, broker)
    for topic in (first, second):
        await produce(broker, topic, numbered(range(2)))
    async with reading(sensor(broker, [first, second])) as read:
        await read.until(4)
        assert sorted(await read.versions()) == [
            f"{t}:0:{n}" for t in (first, second) for n in (0, 1)
        ]
    fed = {first: fr.source("a"), second: fr.source("b")}
    async with reading(sensor(broker, fed)) as read:
        changes = await read.until(4)
        assert sorted((c.asset, c.data_version) for c in changes) == [
            *(("a", "0:0"), ("a", "0:1")),
            *(("b", "0:0"), ("b", "0:1")),
        ]
    assert sensor(broker, fed).sources == ("a", "b")


async def test_a_new_partition_is_read_from_its_beginning(broker: Broker) -> None:
    """Also with start="latest": the topic is known, so nothing of it may be missed."""
    topic = await to_thread.run_sync(new_topic, broker)
    async with reading(sensor(broker, topic, start="latest")) as read:
        await read.idle()
        await to_thread.run_sync(broker.add_partitions, topic, 2)
        await produce(broker, topic, numbered(range(3), 1))
        await read.until(3)
        assert await read.versions() == ["1:0", "1:1", "1:2"]


async def test_control_records_and_aborted_messages_are_passed_over(broker: Broker) -> None:
    """What was aborted never happened; the cursor goes past what is no message."""
    topic = await to_thread.run_sync(new_topic, broker)
    await to_thread.run_sync(broker.transact, topic, numbered(range(2)), True)
    await to_thread.run_sync(broker.transact, topic, numbered(range(2, 4)), False)
    await to_thread.run_sync(broker.transact, topic, numbered(range(4, 6)), True)
    async with reading(sensor(broker, topic, keep="payload")) as read:
        changes = await read.until(4)
        assert [c.payload.data for c in changes] == ["0", "1", "4", "5"]

        async def passed() -> bool:
            return (await read.stream.cursor("k"))[f"{topic}/0"] == "9"

        await until(passed, "past the last control record", read)
        assert read.pulse.behind == 0


async def test_the_place_is_shown_to_others_and_never_read_back(broker: Broker) -> None:
    """The group's committed offset follows ours; one that somebody moved changes nothing."""
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(10)))
    stream = MemoryStream()
    async with reading(sensor(broker, topic, name="shown"), stream) as read:
        await read.until(10)

        async def shown() -> bool:
            return await committed(broker, "freshet-shown", topic) == 10

        await until(shown, "the place is committed", read)
    await commit(broker, "freshet-shown", topic, 3)
    async with reading(sensor(broker, topic, name="shown"), stream) as read:
        await produce(broker, topic, numbered(range(1)))
        await read.until(11)
        assert await read.versions() == [f"0:{n}" for n in range(11)]


async def committed(broker: Broker, group: str, topic: str) -> int | None:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group)
    await consumer.start()
    try:
        found: int | None = await consumer.committed(TopicPartition(topic, 0))
        return found
    finally:
        await consumer.stop()


async def commit(broker: Broker, group: str, topic: str, offset: int) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.commit({TopicPartition(topic, 0): offset})
    finally:
        await consumer.stop()


# --- what cannot count ------------------------------------------------------------------------


class Order(msgspec.Struct):
    id: int
    day: str


async def test_poison_is_listed_and_the_rest_goes_on(broker: Broker) -> None:
    """Typed values: what does not fit is named with its place, its reason and how it begins."""
    topic = await to_thread.run_sync(new_topic, broker)
    days = fr.source("orders", partitions=fr.daily("2024-01-01", opens="data"))
    values = [
        b'{"id": 1, "day": "2024-01-02"}',
        b"{nonsense",
        b'{"id": "x", "day": "2024-01-02"}',
        b'{"id": 3, "day": "someday"}',
        b'{"id": 4, "day": "2024-01-03"}',
    ]
    await produce(broker, topic, [Message(b"k", value) for value in values])
    typed = sensor(broker, topic, source=days, value=Order, partition="value.day")
    async with reading(typed) as read:
        await read.until(2)
        await read.idle()
        assert [c.partition for c in await read.events(SourceChanged)] == [
            "2024-01-02",
            "2024-01-03",
        ]
        rejected = await read.events(MessageRejected)
        assert [r.item for r in rejected] == [f"{topic}/0/{n}" for n in (1, 2, 3)]
        reasons = [r.reason for r in rejected]
        assert "malformed" in reasons[0]
        assert "Expected `int`, got `str` - at `$.id`" in reasons[1]
        assert "'someday' is no partition" in reasons[2]
        assert rejected[0].excerpt == "{nonsense"
        assert rejected[0].metadata["offset"] == 1
        assert (await read.stream.cursor("k"))[f"{topic}/0"] == "5"


async def test_a_rejected_message_can_be_replayed(broker: Broker) -> None:
    """Accepted, it is a change and settled; rejected again, it stays listed; gone, it is settled
    as gone. Each request is forgotten with its answer, and reading goes on where it was.
    """
    topic = await to_thread.run_sync(new_topic, broker, 2)
    accepts: set[bytes] = set()

    def decode(content: bytes) -> bytes:
        if content.startswith(b"bad") and content not in accepts:
            raise ValueError("not yet")
        return content

    await produce(broker, topic, [Message(None, b"good", 0), Message(None, b"bad 1", 0)])
    await produce(broker, topic, [Message(None, b"bad 2", 1), Message(None, b"bad 3", 1)])
    stream = MemoryStream()
    read_by = sensor(broker, topic, value=decode)
    async with reading(read_by, stream) as read:
        await read.until(3, MessageRejected)
    accepts.add(b"bad 1")
    await to_thread.run_sync(broker.delete_records, topic, {1: 1})
    asked = [f"{topic}/0/1", f"{topic}/1/1", f"{topic}/1/0", "nowhere/0/0", "what?"]
    wishes: dict[str, str | None] = {REPLAY + item: "" for item in asked}
    await stream.append([CursorMoved("k", wishes)])
    async with reading(read_by, stream) as read:
        await read.until(4, MessageSettled)
        await read.until(4, MessageRejected)
        settled = {s.item: s.accepted for s in await read.events(MessageSettled)}
        assert settled == {
            f"{topic}/0/1": True,
            f"{topic}/1/0": False,
            "nowhere/0/0": False,
            "what?": False,
        }
        assert (await read.events(MessageRejected))[-1].item == f"{topic}/1/1"
        assert await read.versions() == ["0:0", "0:1"]
        await produce(broker, topic, [Message(None, b"more", 0)])
        await read.until(3)
        assert await read.versions() == ["0:0", "0:1", "0:2"]
        assert not [name for name in await stream.cursor("k") if name.startswith("?")]


async def test_values_are_kept_and_large_ones_by_reference(broker: Broker, tmp_path: Path) -> None:
    """Text as text, bytes as base64, above 64 kB in a file under its digest; above max_payload
    rejected.
    """
    topic = await to_thread.run_sync(new_topic, broker)
    large = b"x" * (MAX_INLINE_BYTES + 1)
    await produce(
        broker,
        topic,
        [
            Message(None, b"text"),
            Message(None, b"\xff\x00"),
            Message(None, large),
            Message(None, large * 3),
            Message(b"key", None),
        ],
    )
    kept = sensor(broker, topic, value="bytes", keep="payload", max_payload=2 * len(large))
    stream = MemoryStream()
    payloads = Payloads(tmp_path)
    async with anyio.create_task_group() as tasks:

        async def go_on() -> None:
            await supervise(kept, stream, random.Random(0), payloads=payloads)

        tasks.start_soon(go_on)

        async def there() -> bool:
            return (await stream.cursor("k")).get(f"{topic}/0") == "5"

        await until(there, "all are read")
        tasks.cancel_scope.cancel()
    found = [r.event for r in await history(stream)]
    changes = [e for e in found if isinstance(e, SourceChanged)]
    forms = [(c.payload.form, payloads.content(c.payload)) for c in changes if c.payload]
    assert forms == [("text", b"text"), ("base64", b"\xff\x00"), ("stored", large)]
    assert changes[-1].payload is None  # the tombstone
    (rejected,) = [e for e in found if isinstance(e, MessageRejected)]
    assert rejected.item == f"{topic}/0/3"
    assert "more than max_payload" in rejected.reason


# --- downstream -------------------------------------------------------------------------------


async def test_duplicates_rebuild_nothing_where_content_is_the_version(
    broker: Broker, tmp_path: Path
) -> None:
    """A producer that writes half of its messages twice: each offset is recorded, none twice, and
    what depends on the state is built once for each content.
    """
    topic = await to_thread.run_sync(new_topic, broker)
    days = fr.dynamic()
    prices = fr.source("prices", partitions=days)
    built: list[str] = []

    @fr.asset(partitions=days, deps=[prices])
    async def priced(context: fr.Context) -> None:
        built.append(context.partition)

    read_by = sensor(broker, topic, source=prices, partition="key", version="content")
    project = fr.Project([prices, priced], sensors=[read_by], store=fr.MemoryStore())
    messages = [Message(b"%d" % n, b'{"price": %d}' % n) for n in range(50) for _ in range(2)]
    async with daemon(project, tmp_path) as running:
        for message in messages[:10]:  # one by one, each with time to be reacted to
            await produce(broker, topic, [message])
        await produce(broker, topic, messages[10:])
        await until(lambda: read_all(running.stream, topic, len(messages)), "all are read")
        await running.loop.quiet()
        found = await history(running.stream)
        running.stop("seen")
        await running.stopped()
    offsets = [r.event.metadata["offset"] for r in found if isinstance(r.event, SourceChanged)]
    assert offsets == list(range(len(messages)))
    assert sorted(built) == sorted(str(n) for n in range(50))
    assert sum(isinstance(r.event, RunSucceeded) for r in found) == 50


async def read_all(stream: Any, topic: str, end: int) -> bool:
    cursor: Mapping[str, str] = await stream.cursor("k")
    return cursor.get(f"{topic}/0") == str(end)


async def test_a_thousand_a_second_are_all_reacted_to(broker: Broker, tmp_path: Path) -> None:
    """B9.4, shortened: each message is a partition of its own, and each is built."""
    topic = await to_thread.run_sync(new_topic, broker, 3)
    keys = fr.dynamic()
    clicks = fr.source("clicks", partitions=keys)
    entered: set[str] = set()

    @fr.asset(partitions=keys, deps=[clicks])
    async def seen(context: fr.Context) -> None:
        entered.add(context.partition)

    read_by = sensor(broker, topic, source=clicks, partition="key")
    project = fr.Project([clicks, seen], sensors=[read_by], store=fr.MemoryStore(), slots=64)
    async with daemon(project, tmp_path) as running:
        for start in range(0, 3000, 100):
            await produce(broker, topic, numbered(range(start, start + 100)))

        async def all_entered() -> bool:
            return len(entered) == 3000

        await until(all_entered, "each is reacted to")
        running.stop("seen")
        await running.stopped()


# --- groups -----------------------------------------------------------------------------------


async def test_a_member_gives_and_takes_partitions_without_loss_or_double(
    broker: Broker,
) -> None:
    """Another member joins, reads and commits, and leaves: everything is recorded once by us."""
    topic = await to_thread.run_sync(new_topic, broker, 3)
    options = {"session_timeout_ms": 3000, "heartbeat_interval_ms": 200}
    member = sensor(broker, topic, name="m", group=f"g-{topic}", member=True, options=options)
    async with reading(member) as read:
        await produce(broker, topic, [m for p in range(3) for m in numbered(range(10), p)])
        await read.until(30)
        other = AIOKafkaConsumer(
            topic,
            bootstrap_servers=broker.bootstrap,
            group_id=f"g-{topic}",
            auto_offset_reset="earliest",
            heartbeat_interval_ms=200,
        )
        await other.start()
        try:
            await produce(broker, topic, [m for p in range(3) for m in numbered(range(10), p)])

            async def takes() -> bool:
                found = await other.getmany(timeout_ms=100)
                return any(m.offset >= 15 for messages in found.values() for m in messages)

            await until(takes, "the other member reads beyond our place", read)
            await other.commit()
        finally:
            await other.stop()
        await produce(broker, topic, numbered(range(30)))
        await read.until(90)
        await read.idle()
        places = await read.offsets()
        assert len(places) == len(set(places)) == 90
        for number in range(3):
            mine = [offset for _, p, offset in places if p == number]
            assert mine == list(range(len(mine)))
        instance = (await read.stream.cursor("m"))["?member"]
    async with reading(member, read.stream) as again:
        await again.idle()
        assert (await again.stream.cursor("m"))["?member"] == instance
