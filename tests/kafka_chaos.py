"""A daemon that reads Kafka is killed again and again, while others join its group and leave."""

import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from aiokafka import AIOKafkaConsumer
from anyio import to_thread

from freshet.engine.events import EngineStarted, Recorded, SourceChanged
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import MAX_BATCH
from tests.broker import Broker, Message
from tests.killable import Killable

PROJECT = """
import freshet as fr

events = fr.source("events")


@fr.asset(deps=[events])
async def seen() -> None:
    pass


project = fr.Project(
    assets=[events, seen],
    sensors=[
        fr.kafka(
            "{topic}",
            bootstrap_servers="{servers}",
            source=events,
            name="k",
            group="{topic}",
            member=True,
            options={{"session_timeout_ms": 1500, "heartbeat_interval_ms": 200}},
        )
    ],
    store=fr.MemoryStore(),
)
"""

PARTITIONS = 3
PATIENCE_S = 60
"""Bound on waits that take a second or two when nothing is wrong."""


class KafkaChaos(Killable):
    """A topic, a daemon that reads it as a member of a group, and other members."""

    def __init__(self, folder: Path, broker: Broker, topic: str, seed: int) -> None:
        super().__init__(folder, PROJECT.format(topic=topic, servers=broker.bootstrap), seed)
        self.broker = broker
        self.topic = topic
        self.written: list[tuple[int, int]] = []
        self.rebalances = 0

    # --- what happens -------------------------------------------------------------------------

    async def round(self, count: int, *, rebalance: bool) -> None:
        """A daemon starts, messages come, perhaps another member too, and at some moment the
        daemon is killed.
        """
        before = len(await self.read())
        daemon = self.start()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.produce, count)
                if rebalance:
                    await self.wait_for(before + 1, daemon)
                    tasks.start_soon(self.join_and_leave)
                if self.rng.random() < 0.8:  # else it is killed while it starts or joins
                    await self.wait_for(before + self.rng.randint(1, count), daemon, 5)
                await anyio.sleep(self.rng.uniform(0, 0.5))
                assert daemon.poll() is None, self.log()
                daemon.kill()
        finally:
            daemon.kill()
            daemon.wait()
        assert daemon.returncode == -signal.SIGKILL, self.log()

    async def last(self, count: int) -> None:
        """A daemon that is not killed reads all there is and what comes, and is stopped."""
        daemon = self.start()
        try:
            await self.wait_for(len(self.written), daemon)
            await self.produce(count)
            await self.wait_for(len(self.written), daemon)
            daemon.send_signal(signal.SIGTERM)
            ended = await to_thread.run_sync(daemon.wait, PATIENCE_S)
            assert ended == 0, (ended, self.log())
        finally:
            daemon.kill()
            daemon.wait()

    async def produce(self, count: int) -> None:
        """Messages in some bursts, over the partitions at random."""
        while count > 0:
            burst = min(count, self.rng.randint(1, 40))
            count -= burst
            messages = [
                Message(None, b"%d" % self.rng.randrange(1000), self.rng.randrange(PARTITIONS))
                for _ in range(burst)
            ]
            done = await to_thread.run_sync(self.broker.produce, self.topic, messages)
            self.written += done
            await anyio.sleep(self.rng.uniform(0, 0.05))

    async def join_and_leave(self) -> None:
        """Another member takes partitions, reads and commits them, and leaves."""
        async with self.member() as other:
            with anyio.move_on_after(10):
                while not other.assignment():
                    await other.getmany(timeout_ms=50)
                self.rebalances += 1
                await other.getmany(timeout_ms=100)
                await other.commit()
                await anyio.sleep(self.rng.uniform(0, 0.3))

    @asynccontextmanager
    async def member(self) -> AsyncIterator[AIOKafkaConsumer]:
        other = AIOKafkaConsumer(
            bootstrap_servers=self.broker.bootstrap,
            group_id=self.topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=200,
            session_timeout_ms=1500,
        )
        await other.start()
        try:
            other.subscribe([self.topic])
            yield other
        finally:
            await other.stop()

    async def wait_for(
        self, count: int, daemon: subprocess.Popen[bytes], patience_s: float | None = None
    ) -> None:
        """Until so many messages are in the stream; with its own patience, at most so long."""
        with anyio.move_on_after(patience_s or PATIENCE_S) as patience:
            while len(await self.read()) < count:
                assert daemon.poll() is None, self.log()
                await anyio.sleep(0.01)
        assert patience_s or not patience.cancelled_caught, (count, self.log())

    # --- what is there ------------------------------------------------------------------------

    async def history(self) -> list[Recorded]:
        events: list[Recorded] = []
        if not self.stream.exists() or not self.stream.stat().st_size:
            return events
        async with SqliteReader.open(self.stream) as stream:
            while batch := await stream.read(len(events), limit=MAX_BATCH):
                events.extend(batch)
        return events

    async def read(self) -> list[tuple[int, int]]:
        """Partition and offset of every change, in order."""
        places = []
        for recorded in await self.history():
            if isinstance(recorded.event, SourceChanged):
                of = recorded.event.metadata
                places.append((int(str(of["partition"])), int(str(of["offset"]))))
        return places

    async def starts(self) -> int:
        """How often a daemon got as far as to say that it started."""
        return sum(isinstance(r.event, EngineStarted) for r in await self.history())
