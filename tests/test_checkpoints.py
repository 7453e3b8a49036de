"""Checkpoints: a start that folds only what came since says the same as one that folds all."""

import os
import pickle
import random
import signal
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.engine import checkpoints
from freshet.engine.checkpointing import Checkpointing, make
from freshet.engine.checkpoints import CHECKPOINT, Header, fold, position_of, save, view_of
from freshet.engine.events import EngineStarted, GraphDeployed, Recorded, SourceChanged
from freshet.engine.mappings import Identity
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from freshet.projections.view import View
from tests.histories import History
from tests.model import Model
from tests.test_recovery import Place
from tests.test_staleness_model import agree

pytestmark = pytest.mark.anyio


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(2, 8), steps=st.integers(2, 60))
def test_a_view_goes_on_after_it_was_written_down_as_if_it_had_not_been(
    seed: int, size: int, steps: int
) -> None:
    """Over random histories, written and read back at a random position: the slow model agrees at
    every one after it, and the same is decided.
    """
    history = History(random.Random(seed), size)
    for _ in range(steps):
        history.step()
    at = random.Random(seed).randrange(len(history.recorded))
    whole, model = View(), Model()
    for recorded in history.recorded[:at]:
        whole.apply(recorded)
        model.apply(recorded)
    view = pickle.loads(pickle.dumps(whole, protocol=5))
    for recorded in history.recorded[at:]:
        view.apply(recorded)
        whole.apply(recorded)
        model.apply(recorded)
        agree(view, model)
        now = recorded.recorded_at
        assert decide(view, now, 1000) == decide(whole, now, 1000)
    assert view.runs.counts == whole.runs.counts
    assert view.catalog.digest == whole.catalog.digest


async def stream_with(folder: Path, changes: int, prefix: str = "v") -> Path:
    async with SqliteStream.open(folder / "stream.db") as stream:
        for number in range(changes):
            await stream.append([SourceChanged("s", "", f"{prefix}{number}")])
    return folder / "stream.db"


async def folded_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many events were read to make the view, and up to which position it goes."""
    seen = 0
    real = View.apply

    def counting(self: View, recorded: object) -> None:
        nonlocal seen
        seen += 1
        real(self, recorded)  # type: ignore[arg-type]  # as it came

    with monkeypatch.context() as patch:
        patch.setattr(View, "apply", counting)
        async with SqliteReader.open(path) as stream:
            view = await view_of(stream, path.with_name(CHECKPOINT))
    return seen, view.position


async def test_only_what_came_since_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # B4.4
    path = await stream_with(tmp_path, 30)
    await make(path)
    assert position_of(tmp_path / CHECKPOINT) == 30
    await stream_with(tmp_path, 5, "w")
    assert await folded_from(path, monkeypatch) == (5, 35)
    await make(path)
    assert await folded_from(path, monkeypatch) == (0, 35)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def no_header(path: Path) -> None:
    path.write_bytes(b"{}\n" + path.read_bytes())


def writable(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("harm", [torn, flipped, emptied, no_header, writable])
async def test_one_that_cannot_be_trusted_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: object
) -> None:
    path = await stream_with(tmp_path, 10)
    await make(path)
    assert await folded_from(path, monkeypatch) == (0, 10)
    assert callable(harm)
    harm(tmp_path / CHECKPOINT)
    assert await folded_from(path, monkeypatch) == (10, 10)


async def test_one_of_other_code_or_another_stream_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await stream_with(tmp_path, 10)
    await make(path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "code", lambda: "of tomorrow")
        assert await folded_from(path, monkeypatch) == (10, 10)
    (tmp_path / "other").mkdir()
    other = await stream_with(tmp_path / "other", 12, "another")
    os.replace(tmp_path / CHECKPOINT, tmp_path / "other" / CHECKPOINT)
    assert await folded_from(other, monkeypatch) == (12, 12)
    (tmp_path / "short").mkdir()
    shorter = await stream_with(tmp_path / "short", 3)
    os.replace(tmp_path / "other" / CHECKPOINT, tmp_path / "short" / CHECKPOINT)
    assert await folded_from(shorter, monkeypatch) == (3, 3)


async def test_what_is_no_view_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await stream_with(tmp_path, 4)
    async with SqliteReader.open(path) as stream:
        view = await fold(stream)
        monkeypatch.setattr(pickle, "dumps", lambda *_, **__: b"no pickle at all")
        await save(view, stream, tmp_path / CHECKPOINT)
        monkeypatch.undo()
    assert await folded_from(path, monkeypatch) == (4, 4)


async def test_one_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await stream_with(tmp_path, 4)
    await make(path)
    await stream_with(tmp_path, 4, "w")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        await make(path)
    monkeypatch.undo()
    assert await folded_from(path, monkeypatch) == (4, 8)
    assert [one.name for one in tmp_path.iterdir() if "checkpoint" in one.name] == [CHECKPOINT]


async def test_a_daemon_has_one_made_beside_it(tmp_path: Path) -> None:
    """By a process of its own, once enough has come; and the next only after as much again."""
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        keeper = Checkpointing(tmp_path / "stream.db", every=10)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.run)
            for number in range(10):
                await stream.append([SourceChanged("s", "", f"{number}")])
                for recorded in await stream.read(number):
                    keeper.heed(recorded, View())
                if number == 5:
                    assert position_of(tmp_path / CHECKPOINT) == 0
            with anyio.fail_after(60):
                while not position_of(tmp_path / CHECKPOINT):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert position_of(tmp_path / CHECKPOINT) == 10


async def test_a_stopped_daemon_leaves_one_and_a_killed_one_starts_from_it(tmp_path: Path) -> None:
    """What is known after a stop, a start from a checkpoint and a kill is what the stream says."""
    place = Place(tmp_path)
    await place.make_stream()
    async with SqliteStream.open(place.stream) as stream:
        for number in range(1200):
            await stream.append([SourceChanged("ticks", "", f"{number}")])
    history = await place.finish()
    at = position_of(place.stream.with_name(CHECKPOINT))
    assert at >= 1200
    assert history[-1].position >= at
    daemon = place.start()
    try:
        await place.until(EngineStarted, 2, daemon)
        assert place.freshet("emit", "ticks", "--version", "more").returncode == 0
        with anyio.fail_after(60):
            while "more" not in "".join(place.calls()):
                assert daemon.poll() is None, place.log()
                await anyio.sleep(0.01)
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    await place.finish()
    async with SqliteReader.open(place.stream) as stream:
        whole = await fold(stream)
        quick = await view_of(stream, place.stream.with_name(CHECKPOINT))
    assert {k: s.counts() for k, s in whole.staleness.states.items()} == {
        k: s.counts() for k, s in quick.staleness.states.items()
    }
    assert whole.runs.counts == quick.runs.counts


def test_the_header_says_of_what_it_is() -> None:
    assert Header(1, 2, "c", "d", "e").position == 2


def test_a_chain_however_long_can_be_written_down() -> None:
    """Edges lead from one asset to the next: they are not followed one inside the other."""
    specs = [AssetSpec("a0", "source")]
    specs += [
        AssetSpec(f"a{n}", deps=(Dependency(f"a{n - 1}", Identity()),), code_version="1")
        for n in range(1, 3000)
    ]
    view = View()
    view.apply(Recorded(1, 1, GraphDeployed("d", tuple(specs))))
    view.apply(Recorded(2, 2, SourceChanged("a0", "", "1")))
    found = pickle.loads(pickle.dumps(view, protocol=5))
    assert decide(found, 3, 8) == decide(view, 3, 8)
    found.apply(Recorded(3, 3, SourceChanged("a0", "", "2")))
    assert found.staleness.states["a2999"].owing() == 1
    (last,) = found.staleness.states["a2999"].up
    assert last.up is found.staleness.states["a2998"]
