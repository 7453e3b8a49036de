"""The outsides that the sensor contract is tried with: one adapter for each kind of sensor, and a
process that reads one until it is killed.

To add a sensor: write an `Outside` for it, and name it in `OUTSIDES`.
"""

import json
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import anyio
import obstore
import obstore.store
import pytest
from anyio import to_thread

import freshet as fr
from freshet.engine.checkpoints import fold
from freshet.engine.digests import digest
from freshet.engine.sqlite import SqliteStream
from freshet.engine.supervisor import supervise
from freshet.sensors.sensor import Sensor
from tests.broker import Message, MissingError, shared

EVERY = "10ms"
"""How often sensors look that have to."""

FIRST_DAY = date(2024, 1, 1)

days = fr.source("landing/days", partitions=fr.daily(str(FIRST_DAY), opens="data"))


class Expected(NamedTuple):
    """The one change that the stream must hold for something that was done outside."""

    partition: str
    data_version: str


class Outside(ABC):
    """Something outside with a sensor on it. All of it lies below `folder`, so that another process
    makes the same of the same folder; the sensor reports `days`, its cursor is never empty once it
    has reported anything.
    """

    can_break = True
    """Is there a way to make it unreadable?"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def open(self) -> None:  # noqa: B027 - there may be nothing to make
        """Make the outside, empty."""

    async def close(self) -> None:  # noqa: B027 - nor to take away
        """Take it away."""

    @abstractmethod
    def sensor(self) -> Sensor:
        """The sensor as a new process would define it: always by the same name."""

    @abstractmethod
    async def change(self, n: int) -> Expected:
        """Make the nth change, of the partition of the nth day."""

    @abstractmethod
    async def spoil(self, n: int) -> str:
        """Put something there that cannot count; part of the item by which it will be rejected."""

    async def break_(self) -> None:
        """From now on it cannot be read; changes are still made."""
        raise NotImplementedError

    async def repair(self) -> None:
        """It can be read again."""
        raise NotImplementedError


def day(n: int) -> str:
    return str(FIRST_DAY + timedelta(days=n))


def written(path: Path, text: str) -> None:
    """At once, as a whole."""
    hidden = path.with_name(f".{path.name}.new")
    hidden.write_text(text)
    hidden.rename(path)


class Files(Outside):
    """A folder with a file for each day."""

    can_break = False

    async def open(self) -> None:
        (self.folder / "landing").mkdir()

    def sensor(self) -> Sensor:
        return fr.files(f"{self.folder}/landing/{{partition}}.csv", source=days, name="outside")

    async def change(self, n: int) -> Expected:
        written(self.folder / "landing" / f"{day(n)}.csv", f"content {n}")
        return Expected(day(n), digest([f"content {n}".encode()]))

    async def spoil(self, n: int) -> str:
        written(self.folder / "landing" / f"no-day-{n}.csv", "content")
        return f"no-day-{n}"


class Generator(Outside):
    """A log of lines, read by a user's own generator from an offset on; some lines are no days."""

    async def open(self) -> None:
        self._path.touch()

    @property
    def _path(self) -> Path:
        return self.folder / "log.txt"

    def sensor(self) -> Sensor:
        path, broken = self._path, self.folder / "broken"

        @fr.sensor(sources=[days], name="outside")
        async def log(cursor: Mapping[str, str]) -> AsyncGenerator[fr.Batch, None]:
            offset = int(cursor.get("offset", "0"))
            while True:
                if broken.exists():
                    raise OSError("the log is away")
                lines = path.read_text()[offset:].splitlines(keepends=True)[:3]
                offset += sum(map(len, lines))
                changes = tuple(
                    fr.change(days, line.split()[0], version=line.split()[1]) for line in lines
                )
                yield fr.Batch(changes, {"offset": str(offset)} if lines else {})
                if not lines:
                    await anyio.sleep(0.005)

        return log

    async def change(self, n: int) -> Expected:
        self._write(f"{day(n)} v{n}\n")
        return Expected(day(n), f"v{n}")

    async def spoil(self, n: int) -> str:
        self._write(f"no-day-{n} v{n}\n")
        return f"no-day-{n}"

    async def break_(self) -> None:
        (self.folder / "broken").touch()

    async def repair(self) -> None:
        (self.folder / "broken").unlink()

    def _write(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line)


class Poll(Outside):
    """A table of versions, read by a plain function."""

    async def open(self) -> None:
        written(self._path, "{}")

    @property
    def _path(self) -> Path:
        return self.folder / "versions.json"

    def sensor(self) -> Sensor:
        path, broken = self._path, self.folder / "broken"

        def look() -> dict[str, str]:
            if broken.exists():
                raise OSError("the table is away")
            found: dict[str, str] = json.loads(path.read_text())
            return found

        return fr.poll(look, source=days, every=EVERY, name="outside")

    async def change(self, n: int) -> Expected:
        self._write(day(n), f"v{n}")
        return Expected(day(n), f"v{n}")

    async def spoil(self, n: int) -> str:
        self._write(f"no-day-{n}", "v")
        return f"no-day-{n}"

    async def break_(self) -> None:
        (self.folder / "broken").touch()

    async def repair(self) -> None:
        (self.folder / "broken").unlink()

    def _write(self, partition: str, version: str) -> None:
        versions = json.loads(self._path.read_text())
        written(self._path, json.dumps({**versions, partition: version}))


class Objects(Outside):
    """A store of objects, in a folder; tests/test_objects.py speaks S3."""

    async def open(self) -> None:
        self._bucket.mkdir()

    @property
    def _bucket(self) -> Path:
        return self.folder / "bucket"

    def sensor(self) -> Sensor:
        pattern = f"file://{self._bucket}/{{partition}}.csv"
        return fr.objects(pattern, source=days, every=EVERY, name="outside")

    async def change(self, n: int) -> Expected:
        return Expected(day(n), self._put(f"{day(n)}.csv"))

    async def spoil(self, n: int) -> str:
        self._put(f"no-day-{n}.csv")
        return f"no-day-{n}"

    async def break_(self) -> None:
        self._bucket.rename(self.folder / "away")

    async def repair(self) -> None:
        (self.folder / "away").rename(self._bucket)

    def _put(self, key: str) -> str:
        here = self._bucket if self._bucket.exists() else self.folder / "away"
        store = obstore.store.LocalStore(here)
        obstore.put(store, key, b"content")
        return (obstore.head(store, key)["e_tag"] or "").strip('"')


class Kafka(Outside):
    """A topic with a message for each change; test_kafka_trouble.py stops its broker."""

    can_break = False

    async def open(self) -> None:
        try:
            broker = await to_thread.run_sync(shared)
        except MissingError as missing:
            pytest.skip(f"no Kafka broker: {missing}")
        topic = f"outside-{uuid4()}"
        await to_thread.run_sync(broker.create_topic, topic)
        self._path.write_text(f"{broker.bootstrap} {topic}")

    @property
    def _path(self) -> Path:
        return self.folder / "kafka.txt"

    def sensor(self) -> Sensor:
        servers, topic = self._path.read_text().split()
        return fr.kafka(
            topic, bootstrap_servers=servers, source=days, partition="key", name="outside"
        )

    async def change(self, n: int) -> Expected:
        return Expected(day(n), f"0:{await self._produce(day(n))}")

    async def spoil(self, n: int) -> str:
        _, topic = self._path.read_text().split()
        return f"{topic}/0/{await self._produce(f'no-day-{n}')}"

    async def _produce(self, key: str) -> int:
        _, topic = self._path.read_text().split()
        messages = [Message(key.encode(), b"1")]
        ((_, offset),) = await to_thread.run_sync(shared().produce, topic, messages)
        return offset


OUTSIDES: dict[str, Callable[[Path], Outside]] = {
    "files": Files,
    "generator": Generator,
    "poll": Poll,
    "objects": Objects,
    "kafka": Kafka,
}


class Hasty(random.Random):
    """Random numbers that make every wait as short as can be; counts the waits."""

    def __init__(self) -> None:
        super().__init__(0)
        self.waits = 0

    def uniform(self, a: float, b: float) -> float:
        self.waits += 1
        return 0.0


async def read_until_killed(name: str, folder: Path) -> None:
    """Read an outside into a stream beside it, and print the head whenever it moves."""
    async with SqliteStream.open(folder / "stream.db") as stream:
        view = await fold(stream)
        async with anyio.create_task_group() as tasks:
            sensor = OUTSIDES[name](folder).sensor()
            health = view.sensors.health.get(sensor.name)
            read = lambda: supervise(sensor, stream, Hasty(), health=health)  # noqa: E731
            tasks.start_soon(read)
            print(stream.head, flush=True)
            async for recorded in stream.follow(stream.head):
                print(recorded[-1].position, flush=True)


if __name__ == "__main__":
    anyio.run(read_until_killed, sys.argv[1], Path(sys.argv[2]))
