"""Never two live runs of one asset partition; what is asked for meanwhile is one run (B4.3)."""

from collections import Counter

import anyio
import pytest

import freshet as fr
from freshet.engine.events import Demanded, Recorded, RunStarted, SourceChanged
from freshet.engine.keys import AssetPartition
from freshet.engine.parts import MAX_CAUSES
from freshet.projections.why import explain
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio

TARGET = (AssetPartition("a"),)


class Gate:
    """An asset of two sources whose runs wait to be let go."""

    def __init__(self) -> None:
        self.open = anyio.Event()
        self.sources = [fr.source("s"), fr.source("t")]

        @fr.asset(deps=self.sources)
        async def a() -> str:
            await self.open.wait()
            return "a"

        self.asset = a


async def started(e: Engine) -> list[Recorded]:
    return [r for r in await e.history() if isinstance(r.event, RunStarted)]


def named(recorded: Recorded) -> list[int]:
    assert isinstance(recorded.event, RunStarted)
    return sorted(cause.position for cause in recorded.event.causes)


async def why(e: Engine, name: str) -> list[str]:
    asking = explain(e.view, AssetPartition(name), e.now)
    try:
        position = next(asking)
        while True:
            position = asking.send(await e.stream.at(position))
    except StopIteration as end:
        return [step.text for step in end.value.steps]


async def ask(e: Engine, actor: str, reason: str, *, force: bool = True) -> int:
    event = Demanded(TARGET, reason, force=force)
    (position,) = await e.stream.append([event], actor=actor)
    await e.folded()
    return position


@pytest.mark.parametrize("meanwhile", ["waits", "runs"])
async def test_demands_and_changes_meanwhile_are_one_run_that_names_them_all(
    meanwhile: str,
) -> None:  # B4.3
    """Several people, and both sources, while it waits for a slot or runs: one run follows, its
    causes are exactly these, and why tells who asked.
    """
    gate, other = Gate(), anyio.Event()

    @fr.asset(deps=["z"])
    async def busy() -> int:
        await other.wait()
        return 1

    async with engine(*gate.sources, fr.source("z"), gate.asset, busy, slots=1) as e:
        gate.open.set()
        await e.change("s", "1")
        await e.change("t", "1")
        await e.quiet()
        if meanwhile == "waits":
            await e.change("z", "1")  # the only slot is taken
        else:
            gate.open = anyio.Event()
            await e.change("s", "2")
        await e.live_run()
        before = await started(e)
        asked = [
            await ask(e, "cli:ana", "for the meeting"),
            await ask(e, "cli:ben", "it looks odd"),
        ]
        await e.change("s", "3")
        asked.append(await ask(e, "http:eve", "now please", force=False))
        changed = [e.stream.head - 1]
        await e.change("t", "2")
        changed.append(e.stream.head)
        assert await started(e) == before
        gate.open.set()
        other.set()
        await e.quiet()
        (run,) = (await started(e))[len(before) :]
        assert named(run) == sorted([*asked, *changed])
        assert isinstance(run.event, RunStarted)
        assert (run.event.reason, run.event.asked) == ("demanded", asked[-1])
        assert run.event.changed == 5
        told = await why(e, "a")
        assert any("demanded by http:eve: now please" in text for text in told)
        assert any("demanded by cli:ben: it looks odd" in text for text in told)
        assert e.status("a").state == "fresh"


async def test_of_very_many_demands_the_newest_are_named_and_no_input_is_hidden() -> None:
    """All are counted; both changed inputs are among the causes."""
    gate = Gate()
    async with engine(*gate.sources, gate.asset) as e:
        await e.change("s", "1")
        await e.change("t", "1")
        await e.live_run()
        for n in range(20):
            await ask(e, f"cli:{n}", "again")
        newest = e.stream.head
        await e.say(SourceChanged("s", "", "2"), SourceChanged("t", "", "2"))
        gate.open.set()
        await e.quiet()
        run = (await started(e))[-1]
        rest = MAX_CAUSES - 2
        assert named(run) == [*range(newest - rest + 1, newest + 1), newest + 1, newest + 2]
        assert isinstance(run.event, RunStarted)
        assert run.event.changed == 22


async def test_never_two_live_runs_of_one_partition_however_it_is_asked_for() -> None:
    """Over a storm of demands and changes: an interval check on the stream."""
    s = fr.source("s")

    @fr.asset(deps=[s], partitions=fr.static(["x", "y", "z"]))
    async def a() -> int:
        await anyio.sleep(0)
        return 1

    async with engine(s, a) as e:
        for n in range(200):
            await e.change("s", str(n))
            await e.demand("a@x", "a@y")
        await e.quiet()
        live: Counter[str] = Counter()
        most, runs = 0, 0
        for recorded in await e.history():
            event = recorded.event
            if isinstance(event, RunStarted):
                live[event.targets[0].partition] += 1
                runs += 1
                most = max(most, *live.values())
            elif type(event).__name__ == "RunSucceeded":
                started_by = await e.stream.at(event.run)  # type: ignore[union-attr]  # by its name
                assert started_by is not None
                live[started_by.event.targets[0].partition] -= 1  # type: ignore[union-attr]  # a start
        assert most == 1
        assert 3 <= runs <= 603
