"""Brokers that go, freeze or lie, topics that are replaced or truncated, messages nobody can read:
what is lost is said, and nothing else is.
"""

import asyncio
import io
import logging
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest
from aiokafka import codec
from anyio import to_thread
from structlog.dev import RichTracebackFormatter
from structlog.testing import capture_logs

import freshet as fr
from freshet.engine.events import (
    CursorMoved,
    SensorFailed,
    SensorRecovered,
)
from freshet.engine.memory import MemoryStream
from freshet.sensors.kafka import KafkaSensor
from freshet.sensors.sensor import START
from freshet.sensors.topics import client
from freshet.sensors.topics import reading as reading_of
from freshet.sensors.topics.access import KafkaError
from tests.broker import Broker
from tests.kafka import Read, history, new_topic, numbered, produce, reading, sensor, until

pytestmark = pytest.mark.anyio


# --- brokers ----------------------------------------------------------------------------------


async def test_a_restart_while_messages_are_produced_loses_none(broker: Broker) -> None:
    """The broker comes back at its address within the seconds that clients retry."""
    topic = await to_thread.run_sync(new_topic, broker, 3)
    async with reading(sensor(broker, topic)) as read:
        async with anyio.create_task_group() as tasks:

            async def go_on() -> None:
                for n in range(20):
                    await produce(broker, topic, numbered(range(10 * n, 10 * n + 10)))

            tasks.start_soon(go_on)
            await read.until(50)
            await to_thread.run_sync(broker.restart)
        await read.until(200)
        await read.idle()
        places = await read.offsets()
        assert len(places) == len(set(places)) >= 200  # a producer may repeat, we must not


@pytest.mark.parametrize(
    "down_s", [8, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
async def test_a_broker_that_is_down_is_one_failure_and_one_recovery(
    broker: Broker, down_s: float
) -> None:
    """However often it is tried in between; and what was produced afterwards comes."""
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(5)))
    async with reading(sensor(broker, topic)) as read:
        await read.until(5)
        await to_thread.run_sync(broker.stop)
        began = monotonic()
        try:
            (failed,) = await read.until(1, SensorFailed)
            assert "no broker has answered" in failed.error
            assert "see that the brokers are up" in failed.hint
            assert not failed.halted
            await anyio.sleep(max(0, began + down_s - monotonic()))  # it stays down
        finally:
            await to_thread.run_sync(broker.start)
        await produce(broker, topic, numbered(range(5)))
        with anyio.fail_after(90):
            while len(await read.events(SensorRecovered)) < 1:
                await anyio.sleep(0.05)
        await read.until(10)
        assert len(await read.events(SensorFailed)) == 1
        assert len(await read.events(SensorRecovered)) == 1
        assert await read.versions() == [f"0:{n}" for n in range(10)]


async def test_a_frozen_broker_is_noticed_and_survived(broker: Broker) -> None:
    """Connections stand and nothing answers: a failure, then all goes on without loss or double."""
    topic = await to_thread.run_sync(new_topic, broker)
    options = {"request_timeout_ms": 3000}
    async with reading(sensor(broker, topic, options=options)) as read:
        await produce(broker, topic, numbered(range(5)))
        await read.until(5)
        with broker.frozen():
            await read.until(1, SensorFailed)
        await produce(broker, topic, numbered(range(5)))
        await read.until(1, SensorRecovered)
        await read.until(10)
        assert await read.versions() == [f"0:{n}" for n in range(10)]
        assert len(await read.events(SensorFailed)) == 1


async def test_a_pause_too_short_to_matter_is_no_failure(broker: Broker) -> None:
    """Frozen for two seconds: nothing is recorded of it."""
    topic = await to_thread.run_sync(new_topic, broker)
    async with reading(sensor(broker, topic)) as read:
        await produce(broker, topic, numbered(range(5)))
        await read.until(5)
        with broker.frozen():
            await anyio.sleep(2)  # the time that matters
        await produce(broker, topic, numbered(range(5)))
        await read.until(10)
        assert await read.events(SensorFailed) == []


async def test_a_consumer_that_is_stuck_is_built_anew(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own fetching has died: it says nothing, and never fetches again."""
    monkeypatch.setattr(reading_of, "SILENCE_S", 1.0)
    monkeypatch.setattr(reading_of, "STUCK_S", 2.0)
    opened: list[Any] = []
    start = client.Link._start

    async def started(link: client.Link) -> None:
        await start(link)
        opened.append(link._consumer)

    monkeypatch.setattr(client.Link, "_start", started)
    topic = await to_thread.run_sync(new_topic, broker)
    async with reading(sensor(broker, topic)) as read:
        await produce(broker, topic, numbered(range(5)))
        await read.until(5)
        opened[0]._fetcher._fetch_task.cancel()
        await produce(broker, topic, numbered(range(5)))
        (failed,) = await read.until(1, SensorFailed)
        assert "the consumer is built anew" in failed.error
        await produce(broker, topic, numbered(range(5)))
        await read.until(15)
        assert await read.versions() == [f"0:{n}" for n in range(15)]


async def test_a_topic_that_is_missing_is_waited_for(broker: Broker) -> None:
    """It is not created by asking; once it is there, it is read."""
    async with reading(sensor(broker, "not-yet")) as read:
        (failed,) = await read.until(1, SensorFailed)
        assert failed.error == f"topic 'not-yet' does not exist ({broker.bootstrap})"
        assert "create it" in failed.hint
        await to_thread.run_sync(broker.create_topic, "not-yet")
        await produce(broker, "not-yet", numbered(range(3)))
        await read.until(3)
        assert len(await read.events(SensorRecovered)) == 1


async def test_ending_is_quick_and_leaves_nothing(broker: Broker) -> None:
    """With the broker up, frozen and gone: no task is left, and the end takes seconds at most."""
    topic = await to_thread.run_sync(new_topic, broker)
    for state in ("up", "frozen", "down"):
        before = asyncio.all_tasks()
        async with reading(sensor(broker, topic)) as read:
            await read.idle()
            if state == "frozen":
                frozen = broker.frozen()
                frozen.__enter__()
            elif state == "down":
                await to_thread.run_sync(broker.kill)
            began = monotonic()
        took = monotonic() - began
        left = asyncio.all_tasks() - before
        if state == "frozen":
            frozen.__exit__(None, None, None)
        elif state == "down":
            await to_thread.run_sync(broker.start)
        assert took < 7, state
        assert left == set(), state


# --- topics that are others than they were ----------------------------------------------------


async def halted(read: Read) -> SensorFailed:
    async def there() -> bool:
        return any(failed.halted for failed in await read.events(SensorFailed))

    await until(there, "halted", read)
    return [failed for failed in await read.events(SensorFailed) if failed.halted][-1]


async def choose(read: Read, choice: str) -> None:
    """As `freshet sensors reset` does it; without a daemon nobody stirs the sensor."""
    await read.stream.append([CursorMoved("k", {START: choice})])


def recreate(broker: Broker, topic: str, partitions: int = 1) -> None:
    broker.delete_topic(topic)
    broker.create_topic(topic, partitions)


@pytest.mark.parametrize("count", [3, 15], ids=["fewer", "more"])
@pytest.mark.parametrize("choice", ["earliest", "latest", "resume"])
async def test_a_topic_re_created_while_nobody_reads_halts_with_a_choice(
    broker: Broker, count: int, choice: str
) -> None:
    """Fewer or more messages than were read: noticed before anything of it is recorded. Versions
    of the new topic differ from those of the old, though offsets begin anew.
    """
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(10)))
    stream = MemoryStream()
    async with reading(sensor(broker, topic), stream) as read:
        await read.until(10)
    await to_thread.run_sync(recreate, broker, topic)
    await produce(broker, topic, numbered(range(count)))
    async with reading(sensor(broker, topic), stream) as read:
        failed = await halted(read)
        assert f"topic '{topic}' was re-created: its id was" in failed.error
        assert f"{topic}/0 was to be read from offset 10 on, and now holds 0 to {count - 1}" in (
            failed.error
        )
        assert "freshet sensors reset k --from earliest" in failed.hint
        assert len(await read.versions()) == 10
        await choose(read, choice)
    async with reading(sensor(broker, topic), stream) as read:
        await read.until(1, SensorRecovered)
        await produce(broker, topic, numbered(range(1)))
        begin = {"earliest": 0, "latest": count, "resume": 10 if count >= 10 else 0}[choice]
        fresh = [f"0:{n}~2" for n in range(begin, count + 1)]
        await read.until(10 + len(fresh))
        assert (await read.versions())[10:] == fresh
        assert START not in await stream.cursor("k")


async def test_a_topic_re_created_while_it_is_read_halts(broker: Broker) -> None:
    """With as many messages as were read, so that no offset is out of range: nothing of the new
    topic is recorded before somebody has chosen.
    """
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(10)))
    async with reading(sensor(broker, topic)) as read:
        await read.until(10)
        await to_thread.run_sync(recreate, broker, topic)
        await produce(broker, topic, numbered(range(15)))
        failed = await halted(read)
        assert "was re-created" in failed.error
        assert await read.versions() == [f"0:{n}" for n in range(10)]


async def test_a_topic_re_created_while_the_process_stood_still_halts(broker: Broker) -> None:
    """As on a laptop that slept: the first fetch afterwards finds the place in the new topic."""
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(10)))
    async with reading(sensor(broker, topic)) as read:
        await read.until(10)

        def meanwhile() -> None:
            recreate(broker, topic)
            broker.produce(topic, numbered(range(15)))

        aside = threading.Thread(target=meanwhile)
        aside.start()
        aside.join()  # and so nothing else runs in this one
        assert "was re-created" in (await halted(read)).error
        assert await read.versions() == [f"0:{n}" for n in range(10)]


async def test_messages_removed_unread_halt(broker: Broker) -> None:
    """Retention or a person was faster: which offsets are lost is said; `resume` goes on after
    them.
    """
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(5)))
    stream = MemoryStream()
    async with reading(sensor(broker, topic), stream) as read:
        await read.until(5)
    await produce(broker, topic, numbered(range(10)))
    await to_thread.run_sync(broker.delete_records, topic, {0: 12})
    async with reading(sensor(broker, topic), stream) as read:
        failed = await halted(read)
        assert f"removed before they were read: {topic}/0 offsets 5 to 11" in failed.error
        await choose(read, "resume")
    async with reading(sensor(broker, topic), stream) as read:
        await read.until(8)
        assert (await read.versions())[5:] == ["0:12", "0:13", "0:14"]


async def test_what_was_read_may_be_removed(broker: Broker) -> None:
    """Retention up to our place, and of all there is, is no loss."""
    topic = await to_thread.run_sync(new_topic, broker)
    await produce(broker, topic, numbered(range(5)))
    stream = MemoryStream()
    async with reading(sensor(broker, topic), stream) as read:
        await read.until(5)
    await to_thread.run_sync(broker.delete_records, topic, {0: -1})
    async with reading(sensor(broker, topic), stream) as read:
        await produce(broker, topic, numbered(range(1)))
        await read.until(6)
        assert await read.events(SensorFailed) == []


# --- messages that nobody can read ------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 1])
async def test_a_codec_that_is_missing_halts_with_what_to_install(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """All before it is read, and of the other partition nothing is lost."""
    topic = await to_thread.run_sync(new_topic, broker, 2)
    await produce(broker, topic, numbered(range(3), 0) + numbered(range(3), 1), "gzip")
    monkeypatch.setattr(codec, "cramjam", None)
    await to_thread.run_sync(broker.configure, topic, {"compression.type": "lz4"})
    await produce(broker, topic, numbered(range(3), bad))
    stream = MemoryStream()
    async with reading(sensor(broker, topic), stream) as read:
        failed = await halted(read)
        assert f"{topic}/{bad} cannot be read at offset 3" in failed.error
        assert "lz4" in failed.error
        assert "pip install 'freshet[kafka]'" in failed.hint
        assert sorted(await read.offsets()) == [(topic, p, n) for p in (0, 1) for n in range(3)]


async def test_a_corrupt_batch_halts_and_is_not_skipped(broker: Broker) -> None:
    """All before it is read; removed from the topic, `earliest` goes on right after it."""
    topic = await to_thread.run_sync(new_topic, broker, 2)
    await produce(broker, topic, numbered(range(3), 0) + numbered(range(3), 1))
    await produce(broker, topic, numbered(range(3), 0))
    await produce(broker, topic, numbered(range(1), 0))
    await to_thread.run_sync(corrupt, broker, topic)
    stream = MemoryStream()
    async with reading(sensor(broker, topic), stream) as read:
        failed = await halted(read)
        assert f"{topic}/0 cannot be read at offset 3" in failed.error
        assert "Invalid CRC" in failed.error
        assert "kafka-delete-records" in failed.hint
        assert sorted(await read.offsets()) == [(topic, p, n) for p in (0, 1) for n in range(3)]
        await to_thread.run_sync(broker.delete_records, topic, {0: 6})
        await choose(read, "resume")
    async with reading(sensor(broker, topic), stream) as read:
        await read.until(7)
        assert (await read.versions())[6:] == ["0:6"]


def corrupt(broker: Broker, topic: str) -> None:
    """One byte of the second batch of partition 0, while the broker is down."""
    broker.stop()
    (log,) = (broker.log.parent / "data" / f"{topic}-0").glob("*.log")
    data = bytearray(log.read_bytes())
    second = 12 + int.from_bytes(data[8:12], "big")
    end = second + 12 + int.from_bytes(data[second + 8 : second + 12], "big")
    data[end - 3] ^= 0xFF
    log.write_bytes(data)
    broker.start()


# --- secrets ----------------------------------------------------------------------------------

CANARY = "hunter2-canary"


@pytest.mark.parametrize("form", ["plain", "env", "file"])
async def test_secrets_reach_neither_events_nor_logs(
    broker: Broker,
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A password for a broker that refuses it, or is not there: it is nowhere to be seen, also not
    in the local variables of a traceback, if anybody showed it.
    """
    monkeypatch.setenv("KAFKA_PASSWORD", CANARY)
    (tmp_path / "password").write_text(f"{CANARY}\n")
    named = {"plain": CANARY, "env": "env:KAFKA_PASSWORD", "file": f"file:{tmp_path}/password"}
    plain = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me",
        "sasl_plain_password": named[form],
        "request_timeout_ms": 1000,
    }
    (tmp_path / "cert.pem").write_text("no certificate")
    certified = {"ssl_certfile": str(tmp_path / "cert.pem"), "ssl_password": named[form]}
    caplog.set_level(logging.DEBUG)
    for servers, options in (
        (broker.bootstrap, plain),
        ("127.0.0.1:1", plain),
        (broker.bootstrap, plain | {"sasl_mechanism": "NONSENSE"}),
        (broker.bootstrap, plain | certified | {"security_protocol": "SASL_SSL"}),
    ):
        secret = fr.kafka(
            "any", bootstrap_servers=servers, source=fr.source("s"), name="k", options=options
        )
        stream = MemoryStream()
        with capture_logs() as logs:
            async with reading(secret, stream) as read:
                (failed,) = await read.until(1, SensorFailed)
        assert "cannot connect" in failed.error
        told = f"{await history(stream)!r} {secret!r} {secret.topics!r} {logs} {caplog.text}"
        told += _shown(await _crash_of(secret))
        assert CANARY not in told


async def _crash_of(sensor: KafkaSensor) -> KafkaError:
    """What it raises; caught here, where no frame of its traceback is one of a test's."""
    try:
        await anext(sensor.run({}))
    except KafkaError as crash:
        return crash
    raise AssertionError


def _shown(crash: BaseException) -> str:
    """An error as a terminal could show it, with the locals of every frame."""
    told = io.StringIO()
    show = RichTracebackFormatter(show_locals=True, width=400)
    show(told, (type(crash), crash, crash.__traceback__))
    return told.getvalue()


async def test_an_option_that_cannot_be_looked_up_is_named_without_its_value(
    broker: Broker,
) -> None:
    """Only the name of the option is said."""
    options = {"sasl_plain_password": f"env:{CANARY}"}
    async with reading(sensor(broker, "any", options=options)) as read:
        (failed,) = await read.until(1, SensorFailed)
    assert "'sasl_plain_password' names an environment variable that is not set" in failed.error
    assert CANARY not in failed.error


async def test_the_client_does_not_fill_the_log(broker: Broker) -> None:
    """While a broker is down it says ten lines a second; each is passed on once a minute."""
    topic = await to_thread.run_sync(new_topic, broker)
    with capture_logs() as logs:
        async with reading(sensor(broker, topic)) as read:
            await read.idle()
            await to_thread.run_sync(broker.kill)
            try:
                await read.until(1, SensorFailed)
            finally:
                await to_thread.run_sync(broker.start)
    said = [entry["said"] for entry in logs if entry["event"] == "kafka client"]
    assert len(said) < 20
