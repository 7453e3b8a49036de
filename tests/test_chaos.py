"""Kills at random moments: nothing acknowledged is lost, nothing done twice, all is made good."""

from pathlib import Path

import pytest

from freshet.engine.events import SourceChanged
from tests.chaos import (
    Chaos,
    abandoned,
    repeated_changes,
    repeated_runs,
    starts,
    torn_batches,
    wrongly_ended_runs,
)

pytestmark = pytest.mark.anyio

FINAL = "the last word"


async def survive(folder: Path, seed: int, kills: int) -> None:
    chaos = Chaos(folder / "killed", seed)
    told = f"seed {seed}"
    try:
        for _ in range(kills):
            await chaos.round()
        chaos.land()
        view = await chaos.last(FINAL)
        history = await chaos.history()
        twin = await chaos.twin(folder / "never killed", FINAL)
    except BaseException as error:
        error.add_note(told)
        raise
    recorded = {r.position: r.event for r in history}
    assert {p: recorded.get(p) for p in chaos.acknowledged} == chaos.acknowledged, told
    ticks = [
        r.event.data_version
        for r in history
        if isinstance(r.event, SourceChanged) and r.event.asset == "ticks"
    ]
    unanswered = set(chaos.sent) - {e.data_version for e in chaos.acknowledged.values()}
    assert [t for t in ticks if t not in unanswered] == [
        *(t for t in chaos.sent if t not in unanswered),
        FINAL,
    ], told
    assert len(ticks) == len(set(ticks)), told
    assert chaos.unfinished(view) == [], told
    assert wrongly_ended_runs(history) == [], told
    assert repeated_runs(history) == [], told
    assert repeated_changes(history) == [], told
    assert torn_batches(history) == [], told
    assert chaos.staged() == [], told
    assert chaos.outputs() == twin.outputs(), told
    assert len(chaos.outputs()) == len(chaos.landed()) + 5, told
    # The kills have hit something: daemons at work, and runs under way.
    assert starts(history) > kills / 2, told
    assert kills < 50 or abandoned(history) > 0, told


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_daemon_killed_at_any_moment_makes_everything_good(
    tmp_path: Path, seed: int
) -> None:
    """After 8 kills: what was acknowledged is there, once; the results are those of an
    uncrashed run; no run that succeeded was repeated.
    """
    await survive(tmp_path, seed, kills=8)


@pytest.mark.slow
@pytest.mark.timeout(3000)
async def test_a_daemon_killed_two_hundred_times_makes_everything_good(tmp_path: Path) -> None:
    """The same after 200 kills."""
    await survive(tmp_path, 200, kills=200)
