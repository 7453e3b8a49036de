"""The sweep: a value that is gone from the store is noticed, and made again by itself."""

import errno
import shutil
from pathlib import Path

import anyio
import pytest

import freshet as fr
from freshet.engine.definitions import Definitions
from freshet.engine.errors import StoreError
from freshet.engine.events import Materialized, Observed, RunFailed, RunStarted, SourceChanged
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.router import Router
from freshet.engine.stores.store import Store
from freshet.engine.sweep import AT_ONCE, Sweeper, sweep
from tests.engine import Engine, engine
from tests.test_cli import PATIENCE_S
from tests.test_recovery import began

pytestmark = pytest.mark.anyio

SOURCE = fr.source("s", partitions=fr.dynamic())


@fr.asset(partitions=fr.dynamic())
def made(s: str) -> str:
    return f"made of {s}"


@fr.asset
async def below(made: dict[str, str]) -> str:
    return " ".join(made.values())


@fr.asset(deps=[SOURCE])
def written_elsewhere() -> fr.Output:
    return fr.Output(data_version="7")


class Place:
    def __init__(self, under_test: Engine, folder: Path) -> None:
        self.engine = under_test
        self.store: Store = fr.LocalStore(folder)
        self.use(self.store)

    def use(self, store: Store) -> None:
        self.store = store
        found = self.engine.definitions
        self.engine.loop.use(Definitions(found.assets, store, found.checks))

    async def sweep(self) -> int:
        return await sweep(self.engine.view, self.engine.stream, lambda: self.store, pause_s=0.0)

    def remove(self, folder: Path, name: str) -> None:
        """All that the store has of an asset partition, as somebody may who cleans up."""
        for path in folder.rglob("*"):
            if path.is_file() and name in str(path):
                path.unlink()


async def test_what_is_gone_is_made_again_and_nothing_else(tmp_path: Path) -> None:  # B9.1
    """The partition that was removed is withdrawn and rebuilt; as it comes out equal, nothing
    downstream follows.
    """
    async with engine(SOURCE, made, below, written_elsewhere) as under_test:
        place = Place(under_test, tmp_path)
        for key in "abc":
            await under_test.change(f"s@{key}", key)
        await under_test.quiet()
        assert await place.sweep() == 0
        place.remove(tmp_path, "made/=b")
        at = under_test.stream.head
        assert await place.sweep() == 1
        await under_test.folded()
        await under_test.quiet()
        found = [r.event for r in await under_test.history(at)]
        assert [
            (type(e).__name__, e.partition) for e in found if isinstance(e, Observed | Materialized)
        ] == [("Observed", "b"), ("Materialized", "b")]
        assert await under_test.runs(at) == ["made@b"]
        assert under_test.status("below").state == "fresh"
        assert place.store.has(AssetPartition("made", "b"), found[-2].data_version)  # type: ignore[union-attr]  # Materialized, as said above
        assert await place.sweep() == 0


async def test_a_sweep_over_many_goes_on_where_it_was(tmp_path: Path) -> None:
    async with engine(SOURCE, made) as under_test:
        place = Place(under_test, tmp_path)
        keys = [f"k{number:04}" for number in range(AT_ONCE + 20)]
        for key in keys:
            await under_test.stream.append([SourceChanged("s", key, key)])
        await under_test.folded()
        await under_test.quiet()
        place.remove(tmp_path, f"made/={keys[3]}")
        place.remove(tmp_path, f"made/={keys[-1]}")
        assert await place.sweep() == 2


async def test_what_is_being_made_anew_is_left_alone(tmp_path: Path) -> None:
    gate = anyio.Event()
    gate.set()

    @fr.asset(deps=[SOURCE])
    async def slow() -> str:
        await gate.wait()
        return "slow"

    async with engine(SOURCE, slow) as under_test:
        place = Place(under_test, tmp_path)
        await under_test.change("s@a", "1")
        await under_test.quiet()
        gate = anyio.Event()
        await under_test.demand("slow")
        await under_test.live_run()
        place.remove(tmp_path, "slow")
        assert await place.sweep() == 0
        gate.set()
        await under_test.quiet()
        assert await place.sweep() == 0


async def test_a_store_that_cannot_be_looked_at_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine(SOURCE, made) as under_test:
        place = Place(under_test, tmp_path)
        await under_test.change("s@a", "1")
        await under_test.quiet()

        def away(*_: object) -> bool:
            raise StoreError("the store is away")

        def broken(*_: object) -> bool:
            raise OSError(errno.EIO, "the disk is broken")

        at = under_test.stream.head
        for owner, verb, fails in ((place.store, "has", away), (Path, "iterdir", broken)):
            with monkeypatch.context() as patched:
                patched.setattr(owner, verb, fails)
                assert await place.sweep() == 0
        assert under_test.stream.head == at
        assert [r for r in await under_test.history(at) if isinstance(r.event, RunStarted)] == []


@pytest.mark.parametrize("several", [False, True])
async def test_a_volume_that_is_not_mounted_has_lost_nothing(tmp_path: Path, several: bool) -> None:
    """Also where it is one of several stores."""
    async with engine(SOURCE, made) as under_test:
        place = Place(under_test, tmp_path / "volume")
        if several:
            place.use(Router(fr.MemoryStore(), {"volume": place.store}, {"made": "volume"}))
        await under_test.change("s@a", "1")
        await under_test.quiet()
        (tmp_path / "volume").rename(tmp_path / "unmounted")
        (tmp_path / "volume").mkdir()
        assert await place.sweep() == 0
        (tmp_path / "volume").rmdir()
        (tmp_path / "unmounted").rename(tmp_path / "volume")
        assert await place.sweep() == 0


async def test_a_daemon_makes_again_what_was_deleted_while_it_was_down(tmp_path: Path) -> None:
    place = await began(tmp_path)
    await place.finish()
    shutil.rmtree(tmp_path / "data")
    daemon = place.start()
    try:
        with anyio.fail_after(PATIENCE_S):
            while not (tmp_path / "data" / "below.txt").exists():
                assert daemon.poll() is None, place.log()
                await anyio.sleep(0.01)
    finally:
        daemon.kill()
        daemon.wait()
    assert (tmp_path / "data" / "below.txt").read_text() == "left one right one"


async def test_what_a_run_could_not_load_is_looked_for_at_once(tmp_path: Path) -> None:
    """The value was deleted since the last sweep: who needed it fails, it is made again, and who
    needed it is, too; without retries of its own.
    """
    async with engine(SOURCE, made, below) as under_test:
        place = Place(under_test, tmp_path)
        await under_test.change("s@a", "a")
        await under_test.quiet()
        place.remove(tmp_path, "made/=a")
        sweeper = Sweeper(under_test.loop, under_test.stream)
        under_test.loop.runner.missed = sweeper.missed
        at = under_test.stream.head
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sweeper._look)
            await under_test.demand("below")
            with anyio.fail_after(PATIENCE_S):
                while under_test.status("below").state != "fresh":
                    under_test.advance(1)
                    await under_test.loop.act()
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        runs = await under_test.runs(at)
        assert runs.count("made@a") == 1
        assert runs[-2:] == ["made@a", "below"]
        failed = [r.event for r in await under_test.history(at) if isinstance(r.event, RunFailed)]
        assert {(event.kind, event.passing) for event in failed} == {("input", True)}
