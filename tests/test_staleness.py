"""Corners of the fold that random histories seldom reach, one small history each."""

from msgspec.structs import replace

from freshet.engine.events import (
    AnyEvent,
    Demanded,
    FellDue,
    GraphDeployed,
    Materialized,
    Recorded,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.mappings import All
from freshet.engine.partitions import daily, static
from freshet.engine.parts import Target
from freshet.engine.policies import Eager, Manual, MaxLag
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.projections.view import View

DAYS = daily("2024-01-01")
DAY = "2024-01-01"


class Fold:
    """A view and the events said to it, 100 ms apart unless told otherwise."""

    def __init__(self, *specs: AssetSpec) -> None:
        self.view = View()
        self.now = 1_703_980_800_000_000
        self.say(GraphDeployed("x", specs))

    def say(self, event: AnyEvent, *, after_ms: int = 100) -> int:
        self.now += after_ms * 1000
        self.view.apply(Recorded(self.view.position + 1, self.now, event))
        return self.view.position

    def startable(self) -> list[str]:
        starts = decide(self.view, self.now, 100).starts
        return [str(AssetPartition(s.targets[0].asset, s.targets[0].partition)) for s in starts]

    def start(self, asset: str, partition: str = "") -> int:
        return self.say(RunStarted((Target(asset, partition, 1, "", ""),)))

    def finish(self, run: int, asset: str, version: str, partition: str = "") -> None:
        self.say(Materialized(asset, partition, run, version, ""), after_ms=0)
        self.say(RunSucceeded(run), after_ms=0)

    def state(self, asset: str, partition: str = "") -> tuple[str, str]:
        status = self.view.status(asset, partition)
        assert status is not None
        return status.state, status.activity


def chain() -> Fold:
    """s -> a -> b, all built from version 1."""
    fold = Fold(
        AssetSpec("s", "source"),
        AssetSpec("a", deps=(Dependency("s"),)),
        AssetSpec("b", deps=(Dependency("a"),)),
    )
    fold.say(SourceChanged("s", "", "1"), after_ms=1000)
    fold.finish(fold.start("a"), "a", "a1")
    fold.finish(fold.start("b"), "b", "b1")
    assert fold.state("b") == ("fresh", "")
    return fold


def test_a_gate_that_was_open_shuts_when_the_same_wave_goes_on() -> None:
    """b is ready for a wave; its source changes again within it: b waits for a once more."""
    fold = chain()
    fold.say(SourceChanged("s", "", "2"), after_ms=1000)
    fold.finish(fold.start("a"), "a", "a2")
    assert fold.startable() == ["b"]
    fold.say(SourceChanged("s", "", "3"), after_ms=10)
    assert fold.startable() == ["a"]
    fold.finish(fold.start("a"), "a", "a3")
    assert fold.startable() == ["b"]


def test_a_wish_made_during_a_run_outlives_its_failure() -> None:
    """Demanded while it runs, then the run fails for good: it is startable at once all the same."""
    fold = chain()
    fold.say(SourceChanged("s", "", "2"), after_ms=1000)
    run = fold.start("a")
    fold.say(Demanded((AssetPartition("a"),)))
    fold.say(RunFailed(run))
    assert fold.startable() == ["a"]
    fold.say(RunFailed(fold.start("a")))
    assert fold.startable() == []
    assert fold.state("a") == ("stale", "failed")


def test_a_partition_that_returns_during_its_run_is_no_lost_update() -> None:
    """Withdrawn and back while its run goes on: what is made from it sees the result."""
    fold = Fold(
        AssetSpec("s", "source", partitions=DAYS),
        AssetSpec("day", deps=(Dependency("s"),), partitions=DAYS),
        AssetSpec("all", deps=(Dependency("day", All()),)),
    )
    fold.say(SourceChanged("s", DAY, "1"), after_ms=1000)
    fold.say(SourceChanged("s", "2024-01-02", "1"))
    fold.finish(fold.start("day", "2024-01-02"), "day", "v1", "2024-01-02")
    run = fold.start("day", DAY)
    fold.say(SourceChanged("s", DAY, ""), after_ms=1000)
    fold.finish(fold.start("all"), "all", "without the day")
    assert fold.state("all") == ("fresh", "")
    fold.say(SourceChanged("s", DAY, "1"), after_ms=1000)
    fold.finish(run, "day", "v2", DAY)
    while "all" not in fold.startable():
        assert fold.startable() == [f"day@{DAY}"]
        fold.finish(fold.start("day", DAY), "day", "v3", DAY)
    fold.finish(fold.start("all"), "all", "with the day")
    assert fold.state("all") == ("fresh", "")


def test_a_run_whose_reason_went_away_still_tells_those_below() -> None:
    """Decided on, cut off before it starts, and yet it makes another value: b follows."""
    fold = chain()
    fold.say(SourceChanged("s", "", "2"), after_ms=1000)
    (start,) = decide(fold.view, fold.now, 1).starts
    fold.say(SourceChanged("s", "", "1"))
    assert fold.state("a") == ("fresh", "")
    run = fold.say(start)
    fold.finish(run, "a", "not the same from the same")
    assert fold.state("b")[0] == "stale"
    assert fold.startable() == ["b"]


def test_who_goes_on_without_an_input_waits_when_a_run_is_about_to_bring_it() -> None:
    """As long as nothing can bring it, it does not; when the run fails, it no longer does."""
    fold = Fold(
        AssetSpec("s", "source"),
        AssetSpec("u", deps=(Dependency("s"),)),
        AssetSpec("n", deps=(Dependency("u", missing="skip"),)),
    )
    assert fold.startable() == ["n"]
    fold.say(SourceChanged("s", data_version="1"))
    assert fold.startable() == ["u"]
    run = fold.start("u")
    assert fold.startable() == []
    fold.say(RunFailed(run))
    assert fold.startable() == ["n"]
    fold.say(SourceChanged("s", data_version="2"), after_ms=300)
    assert fold.startable() == ["u"]
    fold.finish(fold.start("u"), "u", "made")
    assert fold.startable() == ["n"]


def test_news_during_a_run_without_reason_outlives_its_failure() -> None:
    """A run that owed nothing any more when it started, a change meanwhile, a failure: it owes
    the change.
    """
    fold = chain()
    run = fold.start("a")
    fold.say(SourceChanged("s", data_version="9"), after_ms=300)
    fold.say(RunFailed(run))
    assert fold.state("a") == ("stale", "ready")


def test_news_of_an_older_wave_during_a_run_reaches_those_below() -> None:
    """They owed what the run set out to pay, which is later: now they owe what it still owes."""
    fold = Fold(
        AssetSpec("s", "source"),
        AssetSpec("other", "source"),
        AssetSpec("u", deps=(Dependency("s"),)),
        AssetSpec("n", deps=(Dependency("u"),)),
    )
    fold.say(SourceChanged("s", data_version="1"))
    for name in ("u", "n"):
        fold.finish(fold.start(name), name, "1")
    wave = fold.say(SourceChanged("other", data_version="1"), after_ms=1000)
    fold.say(Demanded((AssetPartition("u"),)), after_ms=10)
    run = fold.start("u")
    fold.say(SourceChanged("s", data_version="2"), after_ms=10)
    fold.finish(run, "u", "2")
    owed = {name: fold.view.staleness.cell(name, "") for name in ("u", "n")}
    assert [cell.owed for cell in owed.values() if cell is not None] == [wave, wave]


def test_who_went_on_without_what_was_deferred_waits_when_a_deployment_has_it_move() -> None:
    """d reads c, which is asked for; far above it a is lazy, until a deployment makes it eager."""

    def made(key: str, *ups: str, lazy: bool = False) -> AssetSpec:
        policy = MaxLag(1000) if lazy else Eager()
        return AssetSpec(key, deps=tuple(map(Dependency, ups)), policy=policy)

    def graph(*, lazy: bool) -> GraphDeployed:
        below = made("b", "a"), made("c", "b", lazy=True), made("d", "c", "s")
        return GraphDeployed(f"{lazy}", (*sources, made("a", "r", lazy=lazy), *below))

    sources = AssetSpec("r", "source"), AssetSpec("s", "source")
    fold = Fold(*sources, made("c", "r", lazy=True), made("d", "c", "s"))
    for source in ("r", "s"):
        fold.say(SourceChanged(source, "", "1"))
    fold.say(FellDue((AssetPartition("c"),), "first"))
    fold.finish(fold.start("c"), "c", "1")
    fold.finish(fold.start("d"), "d", "1")
    fold.say(graph(lazy=True))
    fold.say(FellDue((AssetPartition("c"),), "again"))
    fold.say(SourceChanged("s", "", "2"))
    assert fold.startable() == ["d"]
    fold.say(graph(lazy=False))
    assert fold.startable() == ["a"]


def test_partitions_of_an_asset_take_turns() -> None:
    """One that is ready again and again does not keep those after it waiting."""
    fold = Fold(
        AssetSpec("s", "source", partitions=static(["a", "b", "c"])),
        AssetSpec("u", deps=(Dependency("s"),), partitions=static(["a", "b", "c"])),
    )
    for key in "abc":
        fold.say(SourceChanged("s", key, "1"))
    order = []
    for number in range(6):
        key = fold.startable()[0].partition("@")[2]
        order.append(key)
        fold.finish(fold.start("u", key), "u", f"{number}", key)
        fold.say(SourceChanged("s", "a", f"again {number}"), after_ms=300)
    assert order[:4] == ["a", "b", "c", "a"]


def test_what_was_asked_during_a_run_that_paid_it_is_not_asked_later() -> None:
    """Also of a row that a deployment made eager meanwhile: what runs next says its own reason."""
    source, lazy = AssetSpec("s", "source"), MaxLag(lag_ms=3_600_000)
    spec = AssetSpec("a", deps=(Dependency("s"),), policy=lazy)
    fold = Fold(source, spec)
    fold.say(SourceChanged("s", "", "1"))
    fold.say(FellDue((AssetPartition("a"),), "by time"))
    run = fold.start("a")
    fold.say(FellDue((AssetPartition("a"),), "by time"))
    fold.say(GraphDeployed("y", (source, replace(spec, policy=Eager()))))
    fold.finish(run, "a", "1")
    fold.say(SourceChanged("s", "", "2"))
    (start,) = decide(fold.view, fold.now, 100).starts
    assert start.asked == 0


def test_nobody_waits_for_what_a_person_has_to_build() -> None:
    """b reads m, built by hand and behind, and a: it goes on with m as it is."""
    fold = Fold(
        AssetSpec("s", "source"),
        AssetSpec("m", deps=(Dependency("s"),), policy=Manual()),
        AssetSpec("a", deps=(Dependency("s"),)),
        AssetSpec("b", deps=(Dependency("m"), Dependency("a"))),
    )
    fold.say(SourceChanged("s", "", "1"))
    for asset in ("m", "a", "b"):
        fold.finish(fold.start(asset), asset, "1")
    fold.say(SourceChanged("s", "", "2"), after_ms=1000)
    assert fold.startable() == ["a"]
    fold.finish(fold.start("a"), "a", "2")
    assert fold.startable() == ["b"]


def test_what_runs_for_nothing_and_then_has_news_says_so() -> None:
    """A plain row that owes nothing runs; a change above it makes it wait, and not its run end."""
    fold = chain()
    run = fold.start("b")
    fold.say(SourceChanged("s", "", "2"), after_ms=1000)
    assert fold.state("b") == ("waiting", "running")
    fold.finish(run, "b", "b2")
    assert fold.state("b")[0] == "waiting"
    fold.finish(fold.start("a"), "a", "a2")
    assert fold.startable() == ["b"]


def test_a_late_result_is_counted_nowhere() -> None:
    """Its run had ended: that is history, but no news."""
    fold = chain()
    made = fold.view.catalog.materializations
    run = fold.start("a")
    fold.say(RunFailed(run))
    fold.say(Materialized("a", "", run, "late", ""))
    assert fold.view.catalog.materializations == made
    assert fold.view.staleness.made_at("a", "") < run
