"""Failures by class: what is tried again, when, and what is not."""

import errno
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import duckdb
import msgspec
import pytest

import freshet as fr
from freshet.engine.errors import StoreError
from freshet.engine.events import RunFailed, RunStarted
from freshet.engine.runner import MAX_RETRY_DELAY_MS, PASSING_DELAY_MS
from freshet.engine.stores.memory import MemoryStore
from freshet.engine.stores.outages import is_outage
from freshet.engine.stores.store import Staged
from freshet.projections.why import Explanation, explain
from freshet.testing import simulate
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio


async def failures(e: Engine) -> list[tuple[RunFailed, float]]:
    """Every failure, and the seconds from it to the next attempt (-1: none)."""
    return [
        (r.event, (r.event.retry_at - r.recorded_at) / 1e6 if r.event.retry_at is not None else -1)
        for r in await e.history()
        if isinstance(r.event, RunFailed)
    ]


async def why(e: Engine, name: str) -> list[str]:
    asking = explain(e.view, fr.AssetPartition(name), e.now)
    found: Explanation
    try:
        position = next(asking)
        while True:
            position = asking.send(await e.stream.at(position))
    except StopIteration as end:
        found = end.value
    return [step.text for step in found.steps]


def test_fail_fail_succeed_waits_between_and_runs_downstream_once() -> None:  # B2.5
    """In virtual time: each wait lies within a bound that doubles, and what is below runs once."""
    left = [True, True, False]

    @fr.asset(retries=2, retry_delay="10s")
    async def flaky() -> int:
        if left.pop(0):
            raise OSError("the bank does not answer")
        return 1

    @fr.asset
    async def below(flaky: int) -> int:
        return flaky

    with simulate(fr.Project([flaky, below]), seed=3) as sim:
        sim.advance("40s")
        runs = sim.runs()
    told = [(run.asset, run.attempt, run.outcome) for run in runs]
    assert told == [
        ("flaky", 1, "failed"),
        ("flaky", 2, "failed"),
        ("flaky", 3, "succeeded"),
        ("below", 1, "succeeded"),
    ]
    started = [run.started for run in runs]
    waits = [(b - a).total_seconds() for a, b in pairwise(started)]
    assert 1 < waits[0] < 10
    assert 1 < waits[1] < 20


def in_a_group(error: Exception) -> Callable[[], Any]:
    async def raises() -> None:
        raise error

    async def made() -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raises)
        return 1

    return made


def in_a_thread(error: Exception) -> Callable[[], Any]:
    def made() -> int:
        raise error

    return made


def on_the_loop(error: Exception) -> Callable[[], Any]:
    async def made() -> int:
        raise error

    return made


WAYS = [in_a_thread, on_the_loop, in_a_group]


class NoSuchCustomerError(fr.Fatal):
    """One of the user's own."""


@pytest.mark.parametrize("raised", WAYS)
async def test_what_is_fatal_is_not_tried_again_whatever_retries_says(
    raised: Callable[[Exception], Callable[[], Any]],
) -> None:
    """One failure, of its own kind; why says so in words, and what is below names it."""
    made = raised(NoSuchCustomerError("there is no customer 7"))
    asset = fr.asset(key="a", retries=5)(made)

    @fr.asset(deps=["a"])
    async def below() -> int:
        return 1

    async with engine(asset, below) as e:
        await e.quiet()
        found = [(f.kind, f.error, wait) for f, wait in await failures(e)]
        assert found == [("fatal", "there is no customer 7", -1)]
        assert await e.runs() == ["a"]
        assert e.status("a").activity == "failed"
        told = "not tried again: it said itself that another attempt is of no use"
        assert told in await why(e, "a")
        assert told in await why(e, "below")


@pytest.mark.parametrize("raised", WAYS)
async def test_who_asks_to_be_tried_again_is_at_that_time_and_as_often_as_retries_says(
    raised: Callable[[Exception], Callable[[], Any]],
) -> None:
    """After 30 seconds and not before; the third attempt was the last of two retries."""
    made = raised(fr.Retry("the bank is closed", after="30s"))
    async with engine(fr.asset(key="a", retries=2)(made)) as e:
        await e.settled()
        await e.quiet_at(29.9)
        assert await e.runs() == ["a"]
        await e.quiet_at(0.2)
        assert await e.runs() == ["a", "a"]
        assert (await why(e, "a"))[-1].startswith("tried again at 2023-")
        await e.quiet_at(30.1)
        await e.quiet_at(3600)
        found = [(f.kind, f.error, wait) for f, wait in await failures(e)]
        assert found == [("retry", "the bank is closed", wait) for wait in (30, 30, -1)]
        told = await why(e, "a")
    assert "not tried again: it failed 3 times, and has no retries left" in told


async def test_without_a_time_it_is_the_usual_wait_and_what_is_no_time_is_said() -> None:
    once = fr.asset(key="a", retries=1, retry_delay="4s")(on_the_loop(fr.Retry("later")))
    odd = fr.asset(key="b", retries=1)(on_the_loop(fr.Retry("later", after="soon")))
    async with engine(once, odd) as e:
        await e.settled()
        found = {f.error: wait for f, wait in await failures(e)}
    assert 0 <= found["later"] <= 4
    assert 0 <= found["later (after='soon' is no length of time)"] <= 1


class HastyError(fr.Retry):
    """One of the user's own that forgets to call what it derives from."""

    def __init__(self) -> None:
        self.why = "in a hurry"


class OddError(fr.Retry):
    """One whose own attribute raises."""

    @property
    def after(self) -> str:
        raise RuntimeError("not even that")

    @after.setter
    def after(self, value: object) -> None:
        pass


async def test_wishes_that_are_badly_made_are_wishes_all_the_same() -> None:
    """The usual wait; and nobody has to wait longer than a year."""
    raised = [HastyError(), OddError("odd"), fr.Retry("long", after="9999999d")]
    assets = [fr.asset(key=f"a{n}", retries=1)(in_a_thread(one)) for n, one in enumerate(raised)]
    async with engine(*assets) as e:
        await e.settled()
        found = await failures(e)
        assert sorted(f.error for f, _ in found)[1:] == ["long", "odd (not even that)"]
        assert [f.kind for f, _ in found] == ["retry"] * 3
        assert sorted(wait for _, wait in found)[1] <= 1
        assert max(wait for _, wait in found) == 365 * 86_400
        assert (await why(e, "a2"))[-1].startswith("tried again at 2024-")


@pytest.mark.parametrize("news", ["input", "code", "person"])
async def test_what_was_fatal_is_released_by_news(news: str) -> None:
    """Other inputs, other code or a person: then it runs once more."""

    async def made() -> int:
        raise fr.Fatal("no")

    s = fr.source("s")
    async with engine(s, fr.asset(key="a", deps=[s], code_version="1")(made)) as e:
        await e.change("s", "1")
        await e.settled()
        await e.loop.act()
        assert await e.runs() == ["a"]
        if news == "input":
            await e.change("s", "2")
        elif news == "code":
            await e.redeploy(s, fr.asset(key="a", deps=[s], code_version="2")(made))
        else:
            await e.demand("a")
        await e.settled()
        assert await e.runs() == ["a", "a"]


class AwayStore(MemoryStore):
    """Refuses to keep values as long as there is an error to raise."""

    def __init__(self, errors: list[OSError]) -> None:
        super().__init__()
        self.errors = errors

    def stage(self, target: fr.AssetPartition, run: int, value: Any) -> Staged:
        if self.errors:
            error = self.errors.pop()
            raise StoreError(f"cannot write {target}", cause=error.strerror) from error
        return super().stage(target, run, value)


async def stored_in(e: Engine, store: MemoryStore) -> None:
    e.loop.use(msgspec.structs.replace(e.definitions, store=store))


async def test_a_store_that_is_away_uses_up_no_retries() -> None:
    """Four outages, one failure of the function, and with its only retry a success."""
    left = [OSError(code, "gone") for code in (errno.ENOSPC, errno.ESTALE, errno.EIO)]
    left.append(ConnectionResetError("by peer"))
    calls: list[int] = []

    @fr.asset(retries=1, retry_delay="1s")
    async def a() -> int:
        calls.append(1)
        if len(calls) == 5:
            raise ValueError("its own fault")
        return 1

    async with engine(a, deploy=False) as e:
        await stored_in(e, AwayStore(left))
        await e.deploy()
        for _ in range(8):
            await e.settled()
            e.advance(20)
            await e.loop.act()
            await e.folded()
        await e.settled()
        found = await failures(e)
        attempts = [r.event.attempt for r in await e.history() if isinstance(r.event, RunStarted)]
        assert e.status("a").state == "fresh"
    kinds = [(f.kind, f.passing) for f, _ in found]
    assert kinds == [("infrastructure", True)] * 4 + [("error", False)]
    assert attempts == [1, 2, 3, 4, 5, 6]
    for number, (_, wait) in enumerate(found[:4]):
        assert 0 <= wait <= min(PASSING_DELAY_MS * 2**number, MAX_RETRY_DELAY_MS) / 1000


async def test_a_store_that_refuses_for_good_is_no_outage() -> None:
    """Somebody has to change permissions: it is not tried again without retries."""

    @fr.asset
    async def a() -> int:
        return 1

    async with engine(a, deploy=False) as e:
        await stored_in(e, AwayStore([PermissionError(errno.EACCES, "denied")]))
        await e.deploy()
        await e.settled()
        assert [(f.kind, wait) for f, wait in await failures(e)] == [("store", -1)]
        assert "not tried again: it has no retries" in await why(e, "a")


def test_an_outage_is_known_by_the_errors_behind() -> None:
    """Also behind others; not those that only a person ends, nor a ring of causes."""
    away, ring = StoreError("no"), StoreError("no")
    away.__cause__ = StoreError("no")
    away.__cause__.__cause__ = OSError(errno.ENOSPC, "full")
    ring.__cause__ = ring
    found = [away, TimeoutError(), ring, StoreError("no"), FileNotFoundError(errno.ENOENT, "")]
    assert list(map(is_outage, found)) == [True, True, False, False, False]


def test_an_outage_is_known_by_what_a_database_says() -> None:
    """SQLite by its code, also an extended one; DuckDB by its text, if it is about the file."""
    codes = [sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CORRUPT]
    said = [sqlite3.OperationalError("no") for _ in codes]
    for error, code in zip(said, codes, strict=True):
        error.sqlite_errorcode = code
    texts = ['Could not write "x": No space left on device', 'Cannot open "x": Permission denied']
    said_too: list[Exception] = [duckdb.IOException(text) for text in texts]
    said_too.append(duckdb.BinderException(texts[0]))
    assert [is_outage(error) for error in said] == [True, True, False]
    assert [is_outage(error) for error in said_too] == [True, False, False]
