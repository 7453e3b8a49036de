"""Checks: what does not pass is never seen by anybody, and what is repaired goes on by itself."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest

import freshet as fr
from freshet.engine.codec import decode, encode
from freshet.engine.errors import DefinitionError
from freshet.engine.events import CheckEvaluated, Materialized, RunFailed, RunStarted
from freshet.engine.keys import AssetPartition
from freshet.testing import simulate
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


@fr.asset(deps=[RAW])
def table(context: fr.Context) -> list[int]:
    return [context.run]


class Pair(msgspec.Struct):
    a: int


def numbers() -> tuple[fr.Asset, fr.Asset, list[list[int]]]:
    """An asset whose value a test sets, one below it, and what that read."""
    seen: list[list[int]] = []

    @fr.asset(deps=[RAW], retries=3)
    def table() -> list[int]:
        return VALUE[:]

    @fr.asset
    def report(table: list[int]) -> int:
        seen.append(table)
        return sum(table)

    return table, report, seen


VALUE: list[int] = []


async def events(under_test: Engine, kind: type[Any]) -> list[Any]:
    return [r.event for r in await under_test.history() if isinstance(r.event, kind)]


async def test_what_fails_a_blocking_check_is_seen_by_nobody() -> None:  # A6, K9, S11, S12
    """The version before stays, nothing below runs, and repaired data goes on by itself."""
    table, report, seen = numbers()

    @fr.check(table, blocking=True)
    def no_negatives(table: list[int]) -> fr.CheckResult:
        bad = sum(n < 0 for n in table)
        return fr.CheckResult(bad == 0, {"negatives": bad}, f"{bad} numbers are negative")

    async with engine(RAW, table, report, no_negatives) as under_test:
        VALUE[:] = [1, 2]
        await under_test.change("raw", "good")
        await under_test.quiet()
        before = await under_test.version("table")
        assert before is not None
        VALUE[:] = [1, -2]
        await under_test.change("raw", "bad")
        await under_test.quiet()
        assert await under_test.version("table") == before
        assert seen == [[1, 2]]
        status = under_test.status("report")
        assert (status.state, status.activity) == ("waiting", "blocked")
        assert status.blocker is not None
        assert (status.blocker.what, status.blocker.asset) == ("failed", "table")
        (failed,) = await events(under_test, RunFailed)
        assert failed.kind == "check"
        assert failed.error == "check 'no_negatives' failed: 1 numbers are negative"
        assert failed.retry_at is None  # the same value would fail again, whatever retries= says
        VALUE[:] = [3]
        await under_test.change("raw", "repaired")
        await under_test.quiet()
    assert seen == [[1, 2], [3]]


async def test_a_repaired_check_lets_the_same_data_pass() -> None:  # A6
    """Without a person, and without building what has passed before once more."""
    table, report, seen = numbers()

    @fr.check(table, blocking=True, name="small")
    def too_strict(table: list[int]) -> bool:
        return sum(table) < 5

    @fr.check(table, blocking=True, name="small")
    def repaired(table: list[int]) -> bool:
        return sum(table) < 50

    async with engine(RAW, table, report, too_strict) as under_test:
        VALUE[:] = [10]
        await under_test.change("raw", "1")
        await under_test.quiet()
        assert seen == []
        await under_test.redeploy(RAW, table, report, repaired)
        await under_test.quiet()
        assert seen == [[10]]
        at = under_test.stream.head
        await under_test.redeploy(RAW, table, report, too_strict)  # of nothing new
        await under_test.quiet()
        assert await under_test.runs(at) == []


async def test_a_check_that_is_taken_away_blocks_no_more() -> None:
    table, report, seen = numbers()

    @fr.check(table, blocking=True)
    def never(table: list[int]) -> bool:
        return False

    async with engine(RAW, table, report, never) as under_test:
        VALUE[:] = [1]
        await under_test.change("raw", "1")
        await under_test.quiet()
        await under_test.redeploy(RAW, table, report)
        await under_test.quiet()
    assert seen == [[1]]


async def test_other_checks_warn_and_everything_goes_on() -> None:
    table, report, seen = numbers()

    @fr.check(table)
    def even(table: list[int]) -> fr.CheckResult:
        odd = [n for n in table if n % 2]
        return fr.CheckResult(not odd, {"odd": len(odd), "share": len(odd) / len(table)})

    @fr.check(table, severity="error")
    async def never(value: list[int], context: fr.Context) -> bool:
        await anyio.sleep(0)
        return context.asset != "table"

    async with engine(RAW, table, report, even, never) as under_test:
        VALUE[:] = [1, 2]
        await under_test.change("raw", "1")
        await under_test.quiet()
        one, two = await events(under_test, CheckEvaluated)
        assert (one.check, one.passed, one.severity) == ("even", False, "warn")
        assert one.metadata == {"odd": 1, "share": 0.5}
        assert (two.check, two.passed, two.severity) == ("never", False, "error")
        (made,) = [e for e in await events(under_test, Materialized) if e.asset == "table"]
        assert one.data_version == made.data_version
        assert one.run == made.run
        last = under_test.view.checks.last[AssetPartition("table")]
        assert [verdict.passed for verdict in last.values()] == [False, False]
    assert seen == [[1, 2]]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_check_that_raises_has_not_passed(is_async: bool) -> None:
    """Nor one that says nothing, or what cannot be recorded; and the engine goes on."""
    table, report, seen = numbers()

    def raising(value: list[int]) -> bool:
        raise ValueError("no idea")

    async def raising_later(value: list[int]) -> bool:
        raise SystemExit(3)

    def silent(value: list[int]) -> None:
        return None

    def odd(value: list[int]) -> fr.CheckResult:
        return fr.CheckResult(True, {"all": set(value)})

    checks = [fr.check(table)(raising), fr.check(table)(raising_later)]
    checks += [fr.check(table)(silent), fr.check(table, blocking=is_async)(odd)]
    async with engine(RAW, table, report, *checks) as under_test:
        VALUE[:] = [1]
        await under_test.change("raw", "1")
        await under_test.quiet()
        found = await events(under_test, CheckEvaluated)
        assert [one.passed for one in found] == [False] * 4
        assert found[0].message == "ValueError: no idea"
        assert found[1].message == "SystemExit: 3"
        assert "returns True or False (or a CheckResult), not NoneType" in found[2].message
        assert "metadata 'all' cannot be recorded: it is a set" in found[3].message
    assert seen == ([] if is_async else [[1]])


@pytest.mark.parametrize("made_by", ["thread", "loop"])
async def test_checks_of_each_kind_see_values_of_each_kind(made_by: str) -> None:
    """Sync and async checks of sync and async assets, in the form the check asks for."""
    seen: list[object] = []

    def value() -> dict[str, int]:
        return {"a": 1}

    async def value_later() -> dict[str, int]:
        return {"a": 1}

    asset = fr.asset(key="made", deps=[RAW])(value if made_by == "thread" else value_later)

    @fr.check(asset)
    def as_it_is(made: dict[str, int]) -> bool:
        seen.append(made)
        return True

    @fr.check(asset)
    async def as_struct(made: Pair) -> bool:
        seen.append(made)
        return True

    @fr.check(asset)
    def without() -> bool:
        return True

    async with engine(RAW, asset, as_it_is, as_struct, without) as under_test:
        await under_test.change("raw", "1")
        await under_test.quiet()
        said = [(one.check, one.passed) for one in await events(under_test, CheckEvaluated)]
    assert said == [("as_it_is", True), ("as_struct", True), ("without", True)]
    assert seen == [{"a": 1}, Pair(1)]


async def test_one_bad_partition_of_a_batch_keeps_all_of_it_back() -> None:
    days = fr.static(["a", "b", "c"])

    @fr.asset(partitions=days, batch=3)
    def parts(context: fr.Context) -> dict[str, int]:
        return {key: ord(key) for key in context.partitions}

    @fr.check(parts, blocking=True)
    def not_b(parts: int, context: fr.Context) -> fr.CheckResult:
        return fr.CheckResult(chr(parts) != "b", message=f"it is {context.partition}")

    async with engine(parts, not_b) as under_test:
        await under_test.quiet()
        (first, *_) = await events(under_test, RunFailed)
        assert first.error == "check 'not_b' failed for b: it is b"
        assert [one.passed for one in await events(under_test, CheckEvaluated)][:3] == [
            True,
            False,
            True,
        ]
        # Each is then tried alone: what is bad holds up nobody else.
        starts = await events(under_test, RunStarted)
        assert [len(start.targets) for start in starts] == [3, 1, 1, 1]
        states = {key: under_test.status(f"parts@{key}").state for key in "abc"}
        assert states == {"a": "fresh", "b": "missing", "c": "fresh"}


def test_a_simulation_has_the_checks() -> None:
    good: list[bool] = [False]

    @fr.asset(deps=[RAW])
    async def made() -> int:
        return 1

    @fr.check(made, blocking=True)
    async def is_good(made: int) -> bool:
        return good[0]

    with simulate(fr.Project([RAW, made], checks=[is_good])) as sim:
        sim.change("raw", "1")
        sim.advance("1m")
        assert sim.status("made").state == "missing"
        good[0] = True
        sim.change("raw", "2")
        sim.advance("1m")
        assert sim.value("made") == 1


def test_a_check_is_called_like_any_function() -> None:
    @fr.check("table")
    def positive(table: list[int]) -> bool:
        return min(table) > 0

    assert positive([1, 2])
    assert not positive([0])


def of_two(table: int, other: int) -> bool:
    return True


def of_another(other: int) -> bool:
    return True


def fine(table: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            lambda: fr.Project([RAW, table], checks=[fr.check("table")(of_two)]),
            "has the parameters table, other",
        ),
        (
            lambda: fr.Project([RAW, table], checks=[fr.check("table")(of_another)]),
            "has the parameters other",
        ),
        (lambda: fr.check(RAW)(fine), "a check of source 'raw'"),  # type: ignore[arg-type]  # no asset
        (lambda: fr.check("table", blocking=True, severity="warn")(fine), "severity='warn'"),
        (lambda: fr.Project([RAW], checks=[fr.check("table")(fine)]), "no asset of the project"),
        (lambda: fr.Project([RAW], checks=[fine]), "which is no check"),  # type: ignore[list-item]  # that is it
        (
            lambda: fr.Project(
                [RAW, table], checks=[fr.check("table")(fine), fr.check("table")(fine)]
            ),
            "two checks 'fine'",
        ),
    ],
)
def test_what_is_no_check_is_said_at_load(wrong: Callable[[], object], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        wrong()


def test_a_check_is_part_of_the_graph_and_makes_nothing_stale() -> None:
    """It is recorded with its code; what was built without it stays as it is."""
    plain = fr.Project([RAW, table])
    judged = fr.Project([RAW, table], checks=[fr.check(table, blocking=True)(fine)])
    (spec,) = judged.graph.specs["table"].checks
    assert (spec.name, spec.blocking, spec.severity) == ("fine", True, "error")
    assert spec.code_version
    assert plain.graph.digest != judged.graph.digest


ODD = {
    "text passed": lambda: fr.CheckResult("False"),  # type: ignore[arg-type]  # that is the point
    "none passed": lambda: fr.CheckResult(None),  # type: ignore[arg-type]  # likewise
    "numpy passed": lambda: fr.CheckResult(np.bool_(True)),  # type: ignore[arg-type]  # likewise
    "numpy metadata": lambda: fr.CheckResult(True, {"a": np.float64(1), "b": np.str_("b")}),
    "no metadata": lambda: fr.CheckResult(True, None),  # type: ignore[arg-type]  # likewise
    "half a pair": lambda: fr.CheckResult(False, {"\ud800": "\ud800"}, "\ud800"),
    "not a number": lambda: fr.CheckResult(True, {"a": float("nan"), "b": float("inf")}),
}


class Unusual(BaseException):
    pass


def raising(error: BaseException) -> Any:
    raise error


ODD |= {
    "odd text": lambda: raising(ValueError("\ud800")),
    "base exception": lambda: raising(Unusual()),
    "cancelled by itself": lambda: raising(asyncio.CancelledError()),
}


@pytest.mark.parametrize("made_by", ["thread", "loop"])
@pytest.mark.parametrize("judged_by", ["sync", "async"])
@pytest.mark.parametrize("odd", ODD)
async def test_nothing_a_check_says_ends_the_engine(odd: str, judged_by: str, made_by: str) -> None:
    """It is recorded as what can be read again, or the run fails and says so; all goes on."""

    def value() -> list[int]:
        return [1]

    async def value_later() -> list[int]:
        return [1]

    def judge() -> Any:
        return ODD[odd]()

    async def judge_later() -> Any:
        return ODD[odd]()

    asset = fr.asset(key="made", deps=[RAW])(value if made_by == "thread" else value_later)
    check = fr.check(asset, name="odd")(judge if judged_by == "sync" else judge_later)
    async with engine(RAW, asset, check) as under_test:
        await under_test.change("raw", "1")
        with anyio.fail_after(10):
            await under_test.quiet()
        (found,) = await events(under_test, CheckEvaluated)
        assert decode("CheckEvaluated", encode(found)) is not None
        assert found.passed is (
            odd in ("numpy passed", "numpy metadata", "no metadata", "not a number")
        )
        assert under_test.status("made").state == "fresh"


@pytest.mark.parametrize("odd", ["text", "numpy", "bytes"])
async def test_nothing_an_asset_says_ends_the_engine(odd: str) -> None:
    said: Any = {"text": "\ud800", "numpy": np.float64(1), "bytes": b"x"}[odd]

    @fr.asset(deps=[RAW])
    async def made() -> fr.Output:
        return fr.Output(1, metadata={"said": said})

    @fr.asset(deps=[RAW])
    async def failing() -> int:
        raise Unusual(said)

    async with engine(RAW, made, failing) as under_test:
        await under_test.change("raw", "1")
        with anyio.fail_after(10):
            await under_test.quiet()
        assert under_test.status("made").state == ("missing" if odd == "bytes" else "fresh")
        assert under_test.status("failing").activity == "failed"


@pytest.mark.parametrize("made_by", ["thread", "loop"])
async def test_the_timeout_of_an_asset_is_that_of_its_checks_too(made_by: str) -> None:
    go_on = threading.Event()

    def value() -> int:
        return 1

    async def value_later() -> int:
        return 1

    asset = fr.asset(key="made", deps=[RAW], timeout=0.05)(
        value if made_by == "thread" else value_later
    )

    @fr.check(asset)
    def slow() -> bool:
        return go_on.wait(20)

    async with engine(RAW, asset, slow) as under_test:
        await under_test.change("raw", "1")
        await under_test.quiet()
        (failed,) = await events(under_test, RunFailed)
        assert failed.kind == "timeout"
        go_on.set()
        await anyio.sleep(0.05)
        assert under_test.store._published == {}


async def test_what_a_check_does_to_a_value_no_other_sees() -> None:
    table, report, _ = numbers()

    @fr.check(table)
    def careless(table: list[int]) -> bool:
        table.remove(-1)
        return True

    @fr.check(table, blocking=True)
    def no_negatives(table: list[int]) -> bool:
        return min(table) > 0

    async with engine(RAW, table, report, careless, no_negatives) as under_test:
        VALUE[:] = [1, -1]
        await under_test.change("raw", "1")
        await under_test.quiet()
        assert under_test.status("table").state == "missing"


async def test_a_check_may_say_that_the_value_may_be_missing() -> None:
    table, report, seen = numbers()

    @fr.check(table, blocking=True)
    def as_pairs(table: list[int] | None) -> bool:
        return table == [1]

    async with engine(RAW, table, report, as_pairs) as under_test:
        VALUE[:] = [1]
        await under_test.change("raw", "1")
        await under_test.quiet()
    assert seen == [[1]]


@pytest.mark.parametrize("version", ["\ud800", 5], ids=["half a pair", "no text"])
async def test_a_version_that_cannot_be_recorded_fails_the_run(version: Any) -> None:
    """With words, and the engine goes on."""

    @fr.asset(deps=[RAW])
    async def made() -> fr.Output:
        return fr.Output(data_version=version)

    async with engine(RAW, made) as under_test:
        await under_test.change("raw", "1")
        with anyio.fail_after(10):
            await under_test.quiet()
        (failed,) = await events(under_test, RunFailed)
        assert failed.kind == "value"
        assert "surrogate" in failed.error or "a data_version is text, not 5" in failed.error
