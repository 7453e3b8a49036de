"""Consumers never see a torn or mixed value, while it is published again and again by a daemon that
is killed.
"""

import threading
from pathlib import Path

import anyio
import pytest

from freshet.engine.events import Materialized, RunSucceeded, SourceChanged
from freshet.engine.keys import AssetPartition
from freshet.engine.socket import Request, ask
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stores.local import LocalStore
from tests.chaos import GONE, PATIENCE_S
from tests.killable import Killable

pytestmark = pytest.mark.anyio

PROJECT = """
import freshet as fr

ticks = fr.source("ticks")


@fr.multi_asset(["left", "right"])
def both(ticks: str) -> dict[str, str]:
    return {"left": f"{ticks};" * 20_000, "right": f"{ticks};" * 20_000}


project = fr.Project([ticks, both], store=fr.LocalStore("data"))
"""

LINES = 20_000


class Readers:
    """Look at the values as other programs do: at the files, and by what the stream says."""

    def __init__(self, place: Killable) -> None:
        self.place = place
        self.store = LocalStore(place.folder / "data")
        self.over = threading.Event()
        self.looked = 0
        self.seen: set[str] = set()
        self.wrong: list[str] = []

    def read_files(self) -> None:
        """The current file of each output, as it is found under its name."""
        while not self.over.is_set():
            for name in ("left", "right"):
                path = self.place.folder / "data" / f"{name}.txt"
                if path.exists():
                    self.judge(name, path.read_text())

    def judge(self, name: str, text: str) -> str:
        ticks = text.split(";")
        self.looked += 1
        self.seen.add(ticks[0])
        if len(ticks) != LINES + 1 or ticks[-1] or len(set(ticks[:-1])) != 1:
            self.wrong.append(f"{name}: {len(ticks)} parts of {sorted(set(ticks))[:4]}")
        return ticks[0]

    async def read_versions(self) -> None:
        """Both outputs, at the versions that the stream states: of one and the same run."""
        while not self.over.is_set():
            found = await self.newest()
            if len(found) == 2:
                ticks = [
                    self.judge(name, self.store.load(AssetPartition(name), one.data_version, str))
                    for name, one in found.items()
                ]
                if len(set(ticks)) != 1 or len({one.run for one in found.values()}) != 1:
                    self.wrong.append(f"mixed: {ticks}")
            await anyio.sleep(0.001)

    async def newest(self) -> dict[str, Materialized]:
        """What a reader of the stream sees as the newest values, at one moment."""
        if not self.place.stream.exists() or not self.place.stream.stat().st_size:
            return {}
        async with SqliteReader.open(self.place.stream) as stream:
            last = await stream.read(max(0, stream.head - 40))
        return {r.event.asset: r.event for r in last if isinstance(r.event, Materialized)}


async def publish_under_kills(folder: Path, publishes: int, kills: int) -> Readers:
    """So many values are published, while the daemon is killed at random moments."""
    place = Killable(folder, PROJECT, seed=publishes)
    readers = Readers(place)
    threads = [threading.Thread(target=readers.read_files) for _ in range(1)]
    each = publishes // (kills + 1)
    number = goal = 0

    async def tick() -> None:
        nonlocal number
        number += 1
        try:
            event = SourceChanged("ticks", "", f"tick{number}")
            await ask(place.state, Request((event,), actor="test", key=f"tick{number}"))
        except GONE:
            number -= 1
            await anyio.sleep(0.005)

    for thread in threads:
        thread.start()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(readers.read_versions)
            for _ in range(kills + 1):
                daemon = place.start()
                try:
                    goal += each
                    with anyio.fail_after(PATIENCE_S):
                        while await published(place) < goal:
                            assert daemon.poll() is None, place.log()
                            await tick()
                            await anyio.sleep(place.rng.uniform(0, 0.02))
                finally:
                    daemon.kill()
                    daemon.wait()
            readers.over.set()
    finally:
        readers.over.set()
        for thread in threads:
            thread.join()
    return readers


async def published(place: Killable) -> int:
    """How many runs have published so far."""
    if not place.stream.exists() or not place.stream.stat().st_size:
        return 0
    async with SqliteReader.open(place.stream) as stream:
        found, at = 0, 0
        while batch := await stream.read(at):
            found += sum(isinstance(r.event, RunSucceeded) for r in batch)
            at = batch[-1].position
        return found


@pytest.mark.parametrize(
    ("publishes", "kills"), [(60, 5), pytest.param(520, 30, marks=pytest.mark.slow)]
)
async def test_no_reader_sees_a_torn_or_mixed_value(
    tmp_path: Path, publishes: int, kills: int
) -> None:  # K10
    readers = await publish_under_kills(tmp_path / "place", publishes, kills)
    assert readers.wrong == []
    assert await published(readers.place) >= publishes - publishes % (kills + 1)
    assert len(readers.seen) > kills
    assert readers.looked > publishes
