"""Multi-assets: one function, several outputs, one run that makes all of them or none."""

from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import anyio
import polars as pl
import pytest

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.events import (
    Demanded,
    Invalidated,
    Materialized,
    PartitionsAdded,
    PartitionsRemoved,
    Paused,
    Resumed,
    RunFailed,
    RunStarted,
    RunSucceeded,
)
from freshet.engine.keys import AssetPartition
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio

SALES = fr.source("sales")


@fr.multi_asset(["totals", "people"])
async def split(sales: str) -> dict[str, str]:
    return {"totals": sales.upper(), "people": f"{len(sales)}"}


@fr.asset
async def report(people: str) -> str:
    return f"{people}!"


async def started(under_test: Engine) -> list[list[str]]:
    """The targets of each run, in order."""
    return [
        [str(AssetPartition(t.asset, t.partition)) for t in r.event.targets]
        for r in await under_test.history()
        if isinstance(r.event, RunStarted)
    ]


async def test_one_run_makes_all_outputs_in_one_append() -> None:  # B2.3
    async with engine(SALES, split, report) as under_test:
        at = under_test.stream.head
        await under_test.change("sales", "a")
        await under_test.quiet()
        assert await started(under_test) == [["totals", "people"], ["report"]]
        made = [r.event for r in await under_test.history(at + 2)][:3]
        assert [type(event) for event in made] == [Materialized, Materialized, RunSucceeded]
        assert [one.asset for one in made if isinstance(one, Materialized)] == ["totals", "people"]
        for name in ("totals", "people", "report"):
            assert under_test.status(name).state == "fresh"


async def test_what_is_downstream_of_an_output_that_is_equal_is_left_alone() -> None:
    async with engine(SALES, split, report) as under_test:
        await under_test.change("sales", "a")
        await under_test.quiet()
        await under_test.change("sales", "b")  # as long as before: people are the same
        await under_test.quiet()
        assert await started(under_test) == [
            ["totals", "people"],
            ["report"],
            ["totals", "people"],
        ]
        assert under_test.status("report").state == "fresh"


async def test_a_wish_for_one_output_makes_all() -> None:
    async with engine(SALES, split) as under_test:
        await under_test.change("sales", "a")
        await under_test.quiet()
        await under_test.demand("people")
        await under_test.quiet()
        await under_test.say(Invalidated((AssetPartition("totals"),)))
        await under_test.quiet()
        assert await started(under_test) == [
            ["totals", "people"],
            ["totals", "people"],
            ["totals", "people"],
        ]


async def test_wishes_for_all_outputs_at_once_are_one_run() -> None:
    async with engine(SALES, split) as under_test:
        await under_test.change("sales", "a")
        await under_test.quiet()
        await under_test.demand("people", "totals")
        await under_test.quiet()
        assert await started(under_test) == [["totals", "people"], ["totals", "people"]]


async def test_a_change_during_a_run_is_one_more_run_of_all() -> None:
    gate = anyio.Event()

    @fr.multi_asset(["a", "b"])
    async def both(sales: str) -> tuple[str, str]:
        await gate.wait()
        return sales, sales

    async with engine(SALES, both) as under_test:
        await under_test.change("sales", "1")
        await under_test.live_run()
        await under_test.change("sales", "2")
        gate.set()
        await under_test.quiet()
        assert await started(under_test) == [["a", "b"], ["a", "b"]]
        for name in ("a", "b"):
            version = await under_test.version(name)
            assert version is not None
            assert [i.data_version for i in version.inputs] == ["2"]


async def test_a_failure_leaves_all_outputs_as_they_were() -> None:
    bad = {"2"}

    @fr.multi_asset(["a", "b"], retries=1, retry_delay="10s")
    async def both(sales: str) -> tuple[str, str]:
        if sales in bad:
            raise ValueError("cannot")
        return sales, sales

    async with engine(SALES, both) as under_test:
        await under_test.change("sales", "1")
        await under_test.quiet()
        before = [await under_test.version("a"), await under_test.version("b")]
        await under_test.change("sales", "2")
        await under_test.settled()
        assert [await under_test.version("a"), await under_test.version("b")] == before
        assert [under_test.status(n).activity for n in ("a", "b")] == ["retrying", "retrying"]
        bad.clear()
        await under_test.quiet_at(20)
        assert await started(under_test) == [["a", "b"]] * 3
        assert [under_test.status(n).state for n in ("a", "b")] == ["fresh", "fresh"]
        attempts = [
            r.event.attempt for r in await under_test.history() if isinstance(r.event, RunStarted)
        ]
        assert attempts == [1, 1, 2]


async def test_a_blocking_check_of_one_output_keeps_all_back_and_is_recorded() -> None:  # S13
    @fr.check(split["totals"], blocking=True)
    def is_upper_a(totals: str) -> bool:
        return totals == "A"

    async with engine(SALES, split, report, is_upper_a) as under_test:
        await under_test.change("sales", "a")
        await under_test.quiet()
        before = await under_test.version("people")
        at = under_test.stream.head
        await under_test.change("sales", "longer")
        await under_test.settled()
        assert [type(r.event).__name__ for r in await under_test.history(at)] == [
            "SourceChanged",
            "RunStarted",
            "CheckEvaluated",
            "RunFailed",
        ]
        failed = (await under_test.history(at))[-1].event
        assert isinstance(failed, RunFailed)
        assert failed.retry_at is None, "what is always made together is no batch to take apart"
        assert await under_test.version("people") == before
        assert under_test.status("people").state == "stale"
        assert under_test.status("report").state == "waiting"
        await under_test.change("sales", "a")  # repaired data releases it, and there is no news
        await under_test.settled()
        assert {under_test.status(n).state for n in ("totals", "people", "report")} == {"fresh"}


async def test_a_pause_of_one_output_holds_the_run() -> None:
    async with engine(SALES, split) as under_test:
        await under_test.say(Paused("people"))
        await under_test.change("sales", "a")
        await under_test.loop.act()
        assert await started(under_test) == []
        assert under_test.status("totals").activity == "paused"
        await under_test.say(Resumed("people"))
        await under_test.quiet()
        assert await started(under_test) == [["totals", "people"]]


async def test_it_takes_of_a_pool_and_of_the_slots_once() -> None:
    gate = anyio.Event()

    @fr.multi_asset(["a", "b"], pools="db", partitions=fr.static(["x", "y", "z"]))
    async def both(sales: str) -> tuple[str, str]:
        await gate.wait()
        return sales, sales

    async with engine(SALES, both, pools={"db": 2}) as under_test:
        await under_test.change("sales", "1")
        await under_test.loop.act()
        await under_test.folded()
        assert len(await started(under_test)) == 2
        gate.set()
        await under_test.quiet()
        assert sorted(await started(under_test)) == [[f"a@{k}", f"b@{k}"] for k in "xyz"]


async def test_partitions_that_are_named_come_and_go_for_all_outputs() -> None:
    @fr.multi_asset(["a", "b"], partitions=fr.dynamic())
    async def both(context: fr.Context) -> tuple[str, str]:
        return f"{context.asset} {context.partition}", "b"

    async with engine(both) as under_test:
        await under_test.say(PartitionsAdded("b", ("x",)))
        await under_test.quiet()
        await under_test.demand("a@x")
        await under_test.quiet()
        assert await started(under_test) == [["a@x", "b@x"], ["a@x", "b@x"]]
        await under_test.say(PartitionsRemoved("a", ("x",)))
        assert under_test.view.status("b", "x") is None


async def test_an_output_that_is_added_is_made_with_all_others() -> None:
    @fr.multi_asset(["totals", "people", "extra"], code_version="1")
    async def more(sales: str) -> dict[str, str]:
        return {"totals": sales.upper(), "people": f"{len(sales)}", "extra": sales}

    @fr.multi_asset(["totals", "people"], code_version="1")
    async def fewer(sales: str) -> dict[str, str]:
        return {"totals": sales.upper(), "people": f"{len(sales)}"}

    async with engine(SALES, fewer, report) as under_test:
        await under_test.change("sales", "a")
        await under_test.quiet()
        await under_test.redeploy(SALES, more, report)
        await under_test.quiet()
        assert (await started(under_test))[2:] == [["totals", "people", "extra"]]
        await under_test.redeploy(SALES, fewer, report)
        await under_test.quiet()
        assert len(await started(under_test)) == 3


class Pair(NamedTuple):
    a: int
    b: str


class Fields(TypedDict):
    a: int
    b: str


@pytest.mark.parametrize("promised", [Pair, Fields, tuple[int, str], dict[str, int]])
async def test_each_output_keeps_what_the_annotation_promises(promised: Any) -> None:
    def both(sales: str) -> Any:
        return {"a": 1, "b": 2.5}

    both.__annotations__["return"] = promised
    async with engine(SALES, fr.multi_asset(["x/a", "x/b"])(both)) as under_test:
        await under_test.change("sales", "1")
        await under_test.settled()
        failed = [r.event for r in await under_test.history() if isinstance(r.event, RunFailed)]
        assert len(failed) == 1
        assert "'x/b' should return" in failed[0].error


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1}, "a dict of its outputs, a, b, not ['a']"),
        ({"a": 1, "b": 2, "c": 3}, "not ['a', 'b', 'c']"),
        ((1, 2, 3), "not a tuple of 3"),
        ("text", "not str"),
    ],
)
async def test_what_does_not_fit_the_outputs_is_refused(value: object, said: str) -> None:
    @fr.multi_asset(["a", "b"])
    def both(sales: str) -> Any:
        return value

    async with engine(SALES, both) as under_test:
        await under_test.change("sales", "1")
        await under_test.settled()
        failed = [r.event for r in await under_test.history() if isinstance(r.event, RunFailed)]
        assert [event.kind for event in failed] == ["value"]
        assert said in failed[0].error
        assert await under_test.version("a") is None


async def test_outputs_may_say_only_their_version() -> None:
    @fr.multi_asset(["a", "b"])
    def both(sales: str) -> Any:
        return fr.Output(data_version=sales, metadata={"rows": 3}), "value"

    async with engine(SALES, both) as under_test:
        await under_test.change("sales", "v7")
        await under_test.quiet()
        version = await under_test.version("a")
        assert version is not None
        assert (version.data_version, version.metadata) == ("v7", {"rows": 3})


async def test_an_output_says_more_of_itself_than_the_others() -> None:
    @fr.multi_asset([fr.Out("a", owners=["ada"], kinds=["table"]), "b"], group="gold")
    def both() -> Any:
        """Both."""

    project = fr.Project([both])
    a, b = (project.graph.specs[key] for key in ("a", "b"))
    assert (a.group, a.owners, a.kinds, a.description) == (
        "gold",
        ("ada",),
        ("table",),
        "Both.",
    )
    assert (b.group, b.owners, b.kinds) == ("gold", (), ())
    assert both["a"].key == "a"
    assert [one.key for one in both] == ["a", "b"]


async def test_each_output_keeps_to_its_own_columns() -> None:
    """Other columns of one are other code of that one; the run makes both."""

    def project(**columns: type) -> list[Any]:
        @fr.multi_asset([fr.Out("a", columns=columns), fr.Out("b", columns={"n": str})])
        def both() -> Any:
            return pl.DataFrame({"n": [1]}), pl.DataFrame({"n": ["x"]})

        return [both]

    async with engine(*project(n=int)) as under_test:
        await under_test.quiet()
        assert under_test.status("a").state == under_test.status("b").state == "fresh"
        at = under_test.stream.head
        await under_test.redeploy(*project(n=str))
        await under_test.settled()
        assert await under_test.runs(at) == ["a", "b"]
        (failed,) = [
            r.event for r in await under_test.history(at) if isinstance(r.event, RunFailed)
        ]
        assert "'a' does not fit its columns: column 'n' is Int64, not str" in failed.error


async def test_calling_it_calls_the_function() -> None:
    assert await split("x") == {"totals": "X", "people": "1"}


def test_a_part_of_it_is_no_project() -> None:
    with pytest.raises(DefinitionError, match="'totals' is made together with 'people'"):
        fr.Project([SALES, split["totals"]])


@pytest.mark.parametrize("outputs", [["a"], [], "ab", ["x/a", "y/a"]])
def test_outputs_that_cannot_be_told_apart_are_refused(outputs: Any) -> None:
    with pytest.raises(DefinitionError, match="the outputs of multi-asset 'both'"):

        @fr.multi_asset(outputs)
        def both() -> None: ...


def test_changes_are_read_by_single_assets() -> None:
    with pytest.raises(DefinitionError, match=r"fr\.Changes"):

        @fr.multi_asset(["a", "b"], deps=[SALES])
        def both(changes: fr.Changes) -> None: ...


def test_an_output_it_does_not_have_is_named() -> None:
    with pytest.raises(DefinitionError, match="no output 'total'") as caught:
        split["total"]
    assert "totals" in str(caught.value)


async def test_a_key_that_is_taken_is_named_with_both_places() -> None:
    @fr.asset
    def people() -> None: ...

    with pytest.raises(DefinitionError, match="'people' is defined twice") as caught:
        fr.Project([SALES, split, people])
    assert caught.value.message.count(Path(__file__).name) == 2


async def test_demands_are_withdrawn_one_by_one() -> None:
    """A wish that was taken back does not make the mates run."""
    async with engine(SALES, split) as under_test:
        await under_test.change("sales", "a")
        await under_test.quiet()
        await under_test.say(Paused("*"))
        await under_test.say(Demanded((AssetPartition("people"),)))
        await under_test.say(Resumed("*"))
        await under_test.quiet()
        assert len(await started(under_test)) == 2


async def test_an_output_that_owed_nothing_has_not_failed() -> None:
    bad = False

    @fr.multi_asset(["a", "b"])
    def both(sales: str) -> tuple[str, str]:
        if bad:
            raise ValueError("cannot")
        return sales, sales

    async with engine(SALES, both) as under_test:
        await under_test.change("sales", "1")
        await under_test.quiet()
        bad = True
        await under_test.demand("a")
        await under_test.settled()
        assert under_test.status("a").activity == "failed"
        assert (under_test.status("b").state, under_test.status("b").activity) == ("fresh", "")
        assert under_test.view.staleness.states["a"].failures != {}
        assert under_test.view.staleness.states["b"].failures == {}


async def test_an_output_that_is_added_during_a_run_waits_for_its_end() -> None:
    gate = anyio.Event()

    @fr.multi_asset(["totals", "people"], code_version="1")
    async def fewer(sales: str) -> tuple[str, str]:
        await gate.wait()
        return sales, sales

    @fr.multi_asset(["totals", "people", "extra"], code_version="1")
    async def more(sales: str) -> tuple[str, str, str]:
        return sales, sales, sales

    async with engine(SALES, fewer) as under_test:
        await under_test.change("sales", "a")
        await under_test.live_run()
        await under_test.redeploy(SALES, more)
        await under_test.loop.act()
        await under_test.folded()
        assert await started(under_test) == [["totals", "people"]]
        gate.set()
        await under_test.quiet()
        assert (await started(under_test))[1:] == [["totals", "people", "extra"]]
