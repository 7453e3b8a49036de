"""The example projects do what they say: on real files and a real broker, under a real daemon."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from anyio import to_thread

from freshet.engine.events import MessageRejected, Recorded, RunStarted
from freshet.engine.sqlite_reader import SqliteReader
from tests.broker import Broker, Message

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

PATIENCE_S = 60
"""Bound on waits for a daemon that take milliseconds when nothing is wrong."""

pytestmark = pytest.mark.anyio


class Example:
    """A copy of an example's folder, and its daemon."""

    def __init__(self, name: str, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = {**os.environ, **env}
        shutil.copytree(EXAMPLES / name, folder, dirs_exist_ok=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [sys.executable, "-m", "freshet", "run", "project.py"]
        with (self.folder / "log").open("ab") as log:
            daemon = subprocess.Popen(command, cwd=self.folder, env=self.env, stderr=log)
        try:
            yield
        finally:
            daemon.kill()
            daemon.wait()

    def land(self, path: str, text: str) -> None:
        """Write beside, and rename into place, as careful writers do."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        hidden = self.folder / f"{uuid4().hex}.tmp"
        hidden.write_text(text)
        hidden.rename(file)

    def value(self, path: str) -> Any:
        """The current value of an asset partition; None if there is none yet."""
        file = self.folder / "data" / f"{path}.json"
        return json.loads(file.read_text()) if file.exists() else None

    async def until(self, holds: Callable[[], bool]) -> None:
        """Follow the stream until something holds."""
        with anyio.fail_after(PATIENCE_S):
            async for _ in self.batches():
                if holds():
                    return

    async def batches(self) -> AsyncIterator[list[Recorded]]:
        path = self.folder / ".freshet" / "stream.db"
        while not path.exists() or not path.stat().st_size:
            await anyio.sleep(0.01)
        async with SqliteReader.open(path) as stream:
            async for batch in stream.follow():
                yield batch

    def freshet(self, *arguments: str) -> Any:
        """What a command says, as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "freshet", *arguments, "--json"],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            timeout=PATIENCE_S,
            check=True,
        )
        return json.loads(done.stdout)

    def status(self) -> Any:
        return self.freshet("status")

    async def history(self) -> list[Recorded]:
        found: list[Recorded] = []
        async with SqliteReader.open(self.folder / ".freshet" / "stream.db") as stream:
            while batch := await stream.read(len(found)):
                found += batch
        return found


async def test_landing_rebuilds_a_day_for_a_file_and_all_for_the_price_list(tmp_path: Path) -> None:
    example = Example("landing", tmp_path / "landing")
    example.land("landing/prices.csv", "product,price\napple,2\npear,3\n")
    example.land("landing/sales/2024-01-01/oslo.csv", "product,sold\napple,5\n")
    with example.running():
        example.land("landing/sales/2024-01-01/rome.csv", "product,sold\npear,1\n")
        example.land("landing/sales/2024-01-02/rome.csv", "product,sold\npear,2\n")
        await example.until(
            lambda: (example.value("revenue_of_day/2024-01-01"),
                     example.value("revenue_of_day/2024-01-02")) == (13.0, 6.0)
        )  # fmt: skip
        example.land("landing/prices.csv", "product,price\napple,4\npear,3\n")
        await example.until(lambda: bool(example.value("revenue_of_day/2024-01-01") == 23.0))
    assert example.value("revenue_of_day/2024-01-02") == 6.0


async def test_kafka_orders_count_each_order_once_across_kills(
    tmp_path: Path, broker: Broker
) -> None:  # B2.4
    """Also those that came while no daemon ran; and what is no order is rejected by name."""
    topic = f"orders-{uuid4().hex[:8]}"
    example = Example(
        "kafka_orders", tmp_path / "orders", KAFKA=broker.bootstrap, ORDERS_TOPIC=topic
    )
    await to_thread.run_sync(broker.create_topic, topic, 3)

    async def order(first: int, count: int) -> None:
        sent = [
            Message(None, json.dumps({"id": n, "day": f"day {n % 2}", "amount": 1.5}).encode())
            for n in range(first, first + count)
        ]
        await to_thread.run_sync(broker.produce, topic, sent)

    def total() -> float:
        found: dict[str, float] = example.value("revenue") or {}
        return sum(found.values())

    await order(0, 40)
    with example.running():
        await example.until(lambda: total() == 60.0)
    await order(40, 10)
    await to_thread.run_sync(broker.produce, topic, [Message(None, b"no order")])
    with example.running():
        await order(50, 50)
        await example.until(lambda: total() == 150.0)
    history = await example.history()
    rejected = [r.event for r in history if isinstance(r.event, MessageRejected)]
    assert [(one.sensor, one.excerpt) for one in rejected] == [("orders", "no order")]


async def test_orders_and_prices_are_joined_day_by_day(tmp_path: Path, broker: Broker) -> None:
    """A new order rebuilds its day alone, a new price list all days."""
    topic = f"orders-{uuid4().hex[:8]}"
    example = Example(
        "orders_and_prices", tmp_path / "joined", KAFKA=broker.bootstrap, ORDERS_TOPIC=topic
    )
    await to_thread.run_sync(broker.create_topic, topic, 2)
    example.land("landing/prices.csv", "product,price\napple,2\n")

    async def order(day: str, count: int) -> None:
        value = json.dumps({"day": day, "product": "apple", "count": count}).encode()
        await to_thread.run_sync(broker.produce, topic, [Message(None, value)])

    def turnover() -> list[float | None]:
        return [example.value(f"turnover/2024-01-0{day}") for day in (1, 2)]

    await order("2024-01-01", 3)
    await order("2024-01-02", 1)
    with example.running():
        await example.until(lambda: turnover() == [6.0, 2.0])
        at = len(await example.history())
        await order("2024-01-02", 4)
        await example.until(lambda: turnover() == [6.0, 10.0])
        started = [
            target.partition
            for recorded in (await example.history())[at:]
            if isinstance(recorded.event, RunStarted)
            for target in recorded.event.targets
        ]
        assert set(started) == {"2024-01-02"}
        example.land("landing/prices.csv", "product,price\napple,10\n")
        await example.until(lambda: turnover() == [30.0, 50.0])


async def test_training_follows_the_data_and_the_hyperparameters(tmp_path: Path) -> None:
    """A5, B7.4: a model that learns nothing is not published; data that is repaired to what it was
    trains nothing; other hyperparameters train the model and not its features; provenance names
    data, code and parameters.
    """
    example = Example("training", tmp_path / "training")
    rows = [f"{50 + 10 * n},{100 + 3 * (50 + 10 * n)}" for n in range(12)]
    good = "\n".join(["area,price", *rows])
    bad = "\n".join(["area,price", *(f"{50 + 10 * n},{500 - n}" for n in range(12))])
    with example.running():
        example.land("landing/houses.csv", good)
        await example.until(lambda: example.value("mean_error") is not None)
        assert example.value("mean_error") < 5
        before = example.value("models/prices")
        example.land("landing/houses.csv", bad)
        await example.until(lambda: any(row["failed"] for row in example.status()["assets"]))
        assert example.value("models/prices") == before
        example.land("landing/houses.csv", good)
        await example.until(lambda: bool(example.status()["fresh"]))
    project = example.folder / "project.py"
    project.write_text(project.read_text().replace("epochs: int = 400", "epochs: int = 500"))
    with example.running():
        await example.until(lambda: example.value("models/prices") != before)
        await example.until(lambda: bool(example.status()["fresh"]))
    found = example.freshet("provenance", "models/prices")
    assert found["config"] == {"learning_rate": 0.5, "epochs": 500}
    assert set(found["metadata"]) >= {"loss", "houses"}
    assert [one["asset"] for one in found["inputs"]] == ["features/train"]
    assert [one["asset"] for one in found["inputs"][0]["inputs"]] == ["landing/houses"]
    starts = [r.event for r in await example.history() if isinstance(r.event, RunStarted)]
    trained = [event for event in starts if event.targets[0].asset == "models/prices"]
    assert [event.reason for event in trained] == ["missing", "changed", "code"]
    assert sum(len(event.targets) == 2 for event in starts) == 3  # the features: good, bad, good
