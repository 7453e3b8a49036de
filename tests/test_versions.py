"""Versions: listed, rolled back to, kept for who reads them, and restored where people look."""

import errno
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
import pytest

import freshet as fr
from freshet.engine.errors import StoreError
from freshet.engine.events import Materialized, RolledBack, RunCancelled
from freshet.engine.keys import AssetPartition
from freshet.engine.readers import Readers
from freshet.engine.rollback import Restorer, RollbackQuestion, held_roll_back, roll_back
from freshet.engine.stores.store import Staged
from tests.engine import Engine, engine
from tests.test_cli import PATIENCE_S, Place

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


@fr.asset
def made(raw: str) -> str:
    return f"made of {raw}"


@fr.asset
def below(made: str) -> str:
    return f"below {made}"


async def back(under_test: Engine, name: str, version: str, reason: str = "") -> int:
    question = RollbackQuestion(name, version, reason)
    found = await roll_back(
        under_test.stream, lambda: under_test.view, under_test.store, question, actor="test"
    )
    await under_test.folded()
    return found.position


async def value(under_test: Engine, name: str) -> object:
    version = await under_test.version(name)
    assert version is not None
    return under_test.store.load(AssetPartition(name), version.data_version, str)


async def data_version(under_test: Engine, name: str) -> str:
    version = await under_test.version(name)
    assert version is not None
    return version.data_version


async def built_twice(under_test: Engine) -> str:
    """Of `raw` at "1", then at "2"; the first data version of `made`."""
    await under_test.change("raw", "1")
    await under_test.quiet()
    first = await data_version(under_test, "made")
    await under_test.change("raw", "2")
    await under_test.quiet()
    return first


def restorer_of(under_test: Engine) -> Restorer:
    """One that heeds what the engine folds, and is not at work yet."""
    restorer = Restorer(
        under_test.view, under_test.stream, lambda: under_test.store, under_test.loop.readers
    )
    under_test.loop.listeners.append(restorer.heed)
    return restorer


async def restored(restorer: Restorer) -> None:
    """Wait until nothing is to be restored any more."""
    with anyio.fail_after(PATIENCE_S):
        while restorer._pending:
            await anyio.sleep(0.001)


async def restore_all(restorer: Restorer) -> None:
    """Have it do what there is to do."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(restorer.run)
        await restored(restorer)
        tasks.cancel_scope.cancel()


# --- what follows from a rollback -----------------------------------------------------------------


async def test_what_is_made_from_it_follows_and_it_itself_stays() -> None:
    """One run downstream, which loads exactly that version; none of its own, until its input
    changes; with the run, inputs and metadata it was made with.
    """
    async with engine(RAW, made, below) as e:
        await e.change("raw", "1")
        await e.quiet()
        first = await e.version("made")
        assert first is not None
        await e.change("raw", "2")
        await e.quiet()
        head = e.stream.head
        position = await back(e, "made", first.data_version[:6], "2 is wrong")
        await e.quiet()
        assert await e.runs(head) == ["below"]
        assert await value(e, "below") == "below made of 1"
        assert (e.status("made").state, e.status("below").state) == ("fresh", "fresh")
        found = await e.version("made")
        assert found is not None
        assert found.position == position
        assert (found.run, found.inputs, found.metadata, found.code_version) == (
            first.run,
            first.inputs,
            first.metadata,
            first.code_version,
        )
        recorded = await e.stream.at(position)
        assert recorded is not None
        assert isinstance(recorded.event, RolledBack)
        assert (recorded.event.version_at, recorded.event.reason) == (first.position, "2 is wrong")
        assert (recorded.cause, recorded.actor) == (first.position, "test")
        head = e.stream.head
        await e.change("raw", "3")
        await e.quiet()
        assert await e.runs(head) == ["made", "below"]
        assert await value(e, "below") == "below made of 3"


async def test_it_stays_though_its_input_goes_back_to_what_it_had_before() -> None:
    """What counts from a rollback on is what its inputs were then: an equal version is no news."""
    async with engine(RAW, made, below) as e:
        first = await built_twice(e)
        await back(e, "made", first)
        await e.quiet()
        head = e.stream.head
        await e.change("raw", "2")
        await e.quiet()
        assert await e.runs(head) == []
        assert await value(e, "made") == "made of 1"
        await e.change("raw", "1")
        await e.quiet()
        assert await e.runs(head) == ["made"]


async def test_it_is_built_anew_when_somebody_asks_or_its_code_changes() -> None:
    """A demand that came before it has been answered by the choice; one after it has not."""

    @fr.asset(key="made", code_version="2")
    def other(raw: str) -> str:
        return f"other of {raw}"

    async with engine(RAW, made, below) as e:
        first = await built_twice(e)
        await back(e, "made", first)
        await e.quiet()
        head = e.stream.head
        await e.demand("made")
        await e.quiet()
        assert await e.runs(head) == ["made", "below"]
        assert await value(e, "made") == "made of 2"
        await back(e, "made", first)
        await e.quiet()
        head = e.stream.head
        await e.redeploy(RAW, other, below)
        await e.quiet()
        assert await e.runs(head) == ["made", "below"]
        assert await value(e, "below") == "below other of 2"


async def test_what_failed_or_owed_is_settled_by_the_choice() -> None:
    """A version for which the run had failed is not tried again; nothing of it blocks any more."""

    @fr.asset(key="made")
    def picky(raw: str) -> str:
        if raw == "bad":
            raise ValueError("bad")
        return f"made of {raw}"

    async with engine(RAW, picky, below) as e:
        for version in ("1", "2", "bad"):
            await e.change("raw", version)
            await e.settled()
        assert e.status("made").activity == "failed"
        first = next(
            r.event for r in await e.history() if isinstance(r.event, Materialized)
        ).data_version
        head = e.stream.head
        await back(e, "made", first)
        await e.settled()
        assert await e.runs(head) == ["below"]
        assert (e.status("made").state, e.status("made").activity) == ("fresh", "")
        assert e.status("below").state == "fresh"
        await e.change("raw", "4")
        await e.settled()
        assert await value(e, "below") == "below made of 4"


# --- what is refused ------------------------------------------------------------------------------


async def test_what_cannot_be_rolled_back_is_refused_and_nothing_is_recorded() -> None:
    """Sources, what was never built, unknown and ambiguous versions, and those not kept."""

    @fr.asset(freshness=fr.manual())
    def never(raw: str) -> str:
        return raw

    @fr.asset
    def elsewhere(raw: str) -> fr.Output:
        return fr.Output(data_version=f"v{raw}")

    async with engine(RAW, made, never, elsewhere) as e:
        e.loop.readers.hold(AssetPartition("made"))
        for version in "123456789abcdefghijkl":
            await e.change("raw", version)
            await e.quiet()
        made_so_far = [
            r.event.data_version
            for r in await e.history()
            if isinstance(r.event, Materialized) and r.event.asset == "made"
        ]
        shared = next(one[0] for one in made_so_far if sum(v[0] == one[0] for v in made_so_far) > 1)
        e.store._published[AssetPartition("made")].pop(made_so_far[0])
        head = e.stream.head
        for name, version, said in [
            ("raw", "1", "'raw' is a source"),
            ("never", "1", "'never' was never built"),
            ("made", "zz", "no version of 'made' begins with 'zz'"),
            ("made", shared, f"versions of 'made' begin with '{shared}'"),
            ("made", "", "versions of 'made' begin with ''"),
            ("made", made_so_far[0], "is not kept any more"),
            ("elsewhere", "v1", "came without a value"),
            ("mad", "1", "mad"),
        ]:
            with pytest.raises(fr.FreshetError, match=said):
                await back(e, name, version)
        assert e.stream.head == head
        assert await back(e, "made", made_so_far[-1]) == 0
        assert e.stream.head == head


async def test_while_it_runs_it_is_refused_and_one_that_slips_through_is_no_news() -> None:
    """The run's result is newer."""
    gate, began = anyio.Event(), anyio.Event()
    held: list[bool] = []

    @fr.asset(key="made")
    async def slow(raw: str) -> str:
        if held:
            began.set()
            await gate.wait()
        return f"made of {raw}"

    async with engine(RAW, slow, below) as e:
        await e.change("raw", "1")
        await e.quiet()
        first = await data_version(e, "made")
        held.append(True)
        await e.change("raw", "2")
        await began.wait()
        with pytest.raises(fr.FreshetError, match=r"run \d+ of 'made' is going on"):
            await back(e, "made", first)
        await e.say(RolledBack("made", data_version="x", version_at=1))
        gate.set()
        await e.quiet()
        assert await value(e, "below") == "below made of 2"


# --- what is being read stays ---------------------------------------------------------------------


async def test_a_live_run_loads_what_it_was_started_with_however_many_came_since() -> None:
    """From a store that keeps one version: five are published while it runs; afterwards the old
    ones go.
    """
    began, go_on = threading.Event(), threading.Event()
    read: list[str] = []

    @fr.asset(partitions=fr.static(["a", "b"]))
    def part(raw: str, context: fr.Context) -> str:
        return f"{context.partition}{raw}"

    @fr.asset(freshness=fr.manual())
    def reader(part: Mapping[str, str]) -> str:
        began.set()
        assert go_on.wait(PATIENCE_S)
        read.extend(part[key] for key in part)
        return "".join(read)

    async with engine(RAW, part, reader, store=fr.MemoryStore(keep=1)) as e:
        await e.change("raw", "1")
        await e.quiet()
        await e.demand("reader")
        while not began.is_set():
            await anyio.sleep(0.001)
        for version in "23456":
            await e.change("raw", version)
            while {e.status(f"part@{key}").state for key in "ab"} != {"fresh"}:
                await anyio.sleep(0.001)
        kept = e.store.versions(AssetPartition("part", "a"))
        assert len(kept) == 6
        go_on.set()
        await e.quiet()
        assert read == ["a1", "b1"]
        await e.change("raw", "7")
        await e.quiet()
        await e.change("raw", "8")
        await e.quiet()
        # The one before is what the newest run may have been read beside.
        assert len(e.store.versions(AssetPartition("part", "a"))) <= 2


# --- from the command line, with real processes ---------------------------------------------------

PROJECT = """
import freshet as fr

raw = fr.source("raw")


@fr.asset(partitions=fr.static(["x", "y"]))
def made(raw: str) -> str:
    return f"made of {raw}"


@fr.asset
def below(made: dict[str, str]) -> str:
    return " ".join(made.values())


project = fr.Project([raw, made, below], store=fr.LocalStore("data"))
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    here = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    yield here
    here.kill()


def shown(place: Place) -> str:
    return (place.folder / "data" / "made" / "x.txt").read_text()


def listed(place: Place, *options: str) -> list[dict[str, object]]:
    found = place.freshet("versions", "made@x", "--json", *options)
    assert found.returncode == 0, found.stderr
    rows: list[dict[str, object]] = json.loads(found.stdout)
    return rows


def built(place: Place) -> None:
    """A daemon that has built two versions of everything."""
    place.start()
    place.wait_for("GraphDeployed", "")
    for number, version in enumerate("12", 1):
        assert place.freshet("emit", "raw", "--version", version).returncode == 0
        place.wait_for("Materialized", "below", number)


def test_versions_and_rollback_with_a_daemon(place: Place) -> None:
    """The file people look at follows, what is below is built from it, and every command that
    tells of the past says what happened.
    """
    built(place)
    old, new = listed(place)
    assert [row["how"] for row in (old, new)] == ["materialized", "materialized"]
    assert ("current" not in old, new["current"]) == (True, True)
    assert shown(place) == "made of 2"
    first = str(old["data_version"])
    said = place.freshet("rollback", "made@x", first[:7], "--reason", "2 is wrong")
    assert (said.returncode, said.stdout) == (0, "")
    assert f"made@x is {first[:8]} again, of position {old['position']}" in said.stderr
    place.wait_for("Materialized", "below", 3)
    assert (place.folder / "data" / "below.txt").read_text() == "made of 1 made of 2"
    until(lambda: shown(place) == "made of 1")
    rows = listed(place, "--project", "project.py")
    assert [(row["how"], row.get("current", False), row["kept"]) for row in rows] == [
        ("materialized", False, True),
        ("materialized", False, True),
        ("rolled back", True, True),
    ]
    assert rows[2]["reason"] == "2 is wrong"
    table = place.freshet("versions", "made@x").stdout
    assert "rolled back: 2 is wrong" in table
    assert table.count("current") == 1
    again = place.freshet("rollback", "made@x", first)
    assert (again.returncode, f"made@x is {first[:8]} already" in again.stderr) == (0, True)
    why = place.freshet("why", "made@x").stdout
    assert f"made@x rolled back to {first[:8]}" in why
    assert f"made@x materialized as {first[:8]}" in why
    assert "2 is wrong" in why
    assert f"rolled back to [{old['position']}]: 2 is wrong" in (
        place.freshet("history", "made@x").stdout
    )
    tree = place.freshet("provenance", "made@x").stdout
    assert f"made@x  {first[:8]}  run {old['run']}" in tree
    assert "raw  1" in tree
    status = json.loads(place.freshet("status", "made@x", "--json").stdout)
    assert status["partitions"][0]["data_version"] == first
    second = place.freshet("rollback", "made@x", str(new["data_version"]), "--json")
    assert json.loads(second.stdout)["version_at"] == new["position"]
    until(lambda: shown(place) == "made of 2")
    assert len(listed(place)) == 4
    place.stop()


def until(condition: object) -> None:
    assert callable(condition)

    async def poll() -> None:
        with anyio.fail_after(PATIENCE_S):
            while not condition():
                await anyio.sleep(0.005)

    anyio.run(poll)


def test_what_is_refused_exits_with_2_and_says_why(place: Place) -> None:
    """With a daemon and without one, which also asks for the project."""
    built(place)
    for arguments, said in [
        (("made@x", "zz"), "no version of 'made@x' begins with 'zz'"),
        (("raw", "1"), "'raw' is a source"),
        (("made@z", "1"), "'made' has no partition 'z'"),
    ]:
        found = place.freshet("rollback", *arguments)
        assert (found.returncode, said in found.stderr) == (2, True), found.stderr
    place.stop()
    first = str(listed(place)[0]["data_version"])
    alone = place.freshet("rollback", "made@x", first)
    assert alone.returncode == 2
    assert f"freshet rollback made@x {first} --project project.py" in alone.stderr
    for path in (place.folder / "data" / ".versions" / "made" / "=x").glob(f"{first}*"):
        path.unlink()
    gone = place.freshet("rollback", "made@x", first, "--project", "project.py")
    assert (gone.returncode, "is not kept any more" in gone.stderr) == (2, True)
    rows = listed(place, "--project", "project.py")
    assert [row["kept"] for row in rows] == [False, True]


def test_without_a_daemon_the_project_says_which_store(place: Place) -> None:
    """It is restored at once; what is below is built when a daemon starts."""
    built(place)
    place.stop()
    first = str(listed(place)[0]["data_version"])
    done = place.freshet("rollback", "made@x", first, "--project", "project.py")
    assert done.returncode == 0, done.stderr
    assert shown(place) == "made of 1"
    place.start()
    place.wait_for("Materialized", "below", 3)
    assert (place.folder / "data" / "below.txt").read_text() == "made of 1 made of 2"
    assert place.freshet("status", "made@x").stderr.startswith("everything is fresh")
    place.stop()


def test_a_daemon_restores_on_start_what_its_last_one_had_not(place: Place) -> None:
    """As if it had been cut off between the record and the file."""
    built(place)
    first = str(listed(place)[0]["data_version"])
    assert place.freshet("rollback", "made@x", first).returncode == 0
    until(lambda: shown(place) == "made of 1")
    place.stop()
    file = place.folder / "data" / "made" / "x.txt"
    file.unlink()
    file.write_text("made of 2")
    place.start()
    until(lambda: shown(place) == "made of 1")
    place.stop()


def test_events_tell_of_a_rollback() -> None:
    """In a line, by whom and why."""
    from freshet.engine.events import Recorded
    from freshet.projections.why import describe

    event = RolledBack("made", "x", "0123456789abcdef", 7, "wrong")
    said = describe(Recorded(9, 0, event, actor="cli:somebody"))
    assert said == "made@x rolled back to 01234567 by cli:somebody: wrong"


def test_what_may_have_been_superseded_before_a_run_began_is_kept_for_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a run that was alive when it began, as the end of that was not folded yet; but nothing
    that is older than those runs; nor is what is to be restored collected.
    """
    now = [0]
    monkeypatch.setattr("freshet.engine.readers.now_us", lambda: now[0])
    readers = Readers()
    seen = []
    for at, call, run in [(10, "begin", 1), (20, "begin", 2), (30, "end", 1), (40, "begin", 3)]:
        now[0] = at
        getattr(readers, call)(run)
        seen.append(readers.since)
    assert seen == [10, 10, 10, 10]
    readers.end(2)
    assert readers.since == 20  # where run 2 began, which may have published before run 3 began
    readers.end(3)
    now[0] = 50
    assert readers.since == 50
    store, target = fr.MemoryStore(keep=1), AssetPartition("a")
    for run in (1, 2):
        store.publish(store.stage(target, run, str(run)))
    now[0] = 1 << 62
    readers.hold(target)
    readers.collect(store, target)
    assert len(store.versions(target)) == 2
    readers.release(target)
    readers.collect(store, target)
    assert len(store.versions(target)) == 1


async def test_versions_that_cannot_be_collected_fail_no_run() -> None:
    """What was published is published; that old versions stay is said in the log."""

    class Stuck(fr.MemoryStore):
        def collect(self, target: AssetPartition, before_us: int) -> None:
            raise StoreError("stuck")

    async with engine(RAW, made, store=Stuck()) as e:
        await e.change("raw", "1")
        await e.quiet()
        assert e.status("made").state == "fresh"
        assert await value(e, "made") == "made of 1"


async def test_a_version_collected_while_the_rollback_waits_is_refused() -> None:
    """A run that ends between the look and the record has collected it: it is looked for again."""

    class Slow(fr.MemoryStore):
        looked = 0

        def has(self, target: AssetPartition, data_version: str) -> bool:
            found = super().has(target, data_version)
            self.looked += 1
            if self.looked == 1:
                asked.set()
                assert go_on.wait(PATIENCE_S)
            return found

    asked, go_on = threading.Event(), threading.Event()
    store, target = Slow(keep=2), AssetPartition("made")
    refused: list[str] = []

    async def ask() -> None:
        with pytest.raises(fr.FreshetError) as failed:
            await back(e, "made", first)
        refused.append(failed.value.message)

    async with engine(RAW, made, store=store) as e:
        first = await built_twice(e)
        assert store.versions(target)[-1].data_version == first
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.to_thread.run_sync(asked.wait)
            for version in "34":
                await e.change("raw", version)
                await e.quiet()
            assert first not in [one.data_version for one in store.versions(target)]
            go_on.set()
        assert refused == [f"version {first} of 'made' is not kept any more"]
        assert not any(isinstance(r.event, RolledBack) for r in await e.history())


async def test_what_is_busy_elsewhere_is_rolled_back_with_one_look_at_the_store() -> None:
    """What is recorded of others in between is no reason to ask the store again."""

    class Busy(fr.MemoryStore):
        looked = 0

        def has(self, target: AssetPartition, data_version: str) -> bool:
            self.looked += 1
            anyio.from_thread.run(e.change, "other", str(self.looked))
            return super().has(target, data_version)

    store = Busy()
    async with engine(RAW, fr.source("other"), made, store=store) as e:
        first = await built_twice(e)
        assert await back(e, "made", first) > 0
        assert store.looked == 1


async def test_what_is_rolled_back_is_held_until_it_is_restored() -> None:
    """From before the look; let go when it is refused, and not while another restore is pending."""
    held: list[bool] = []

    class Watched(fr.MemoryStore):
        def has(self, target: AssetPartition, data_version: str) -> bool:
            held.append(target in e.loop.readers._held)
            return super().has(target, data_version)

    store, target = Watched(), AssetPartition("made")
    async with engine(RAW, made, store=store) as e:
        first = await built_twice(e)
        restorer = restorer_of(e)

        async def ask(version: str) -> None:
            question = RollbackQuestion("made", version)
            await held_roll_back(restorer, e.stream, lambda: e.view, e.store, question)

        with pytest.raises(fr.FreshetError, match="no version"):
            await ask("zz")
        assert not e.loop.readers._held
        await ask(first)
        assert (held, e.loop.readers._held) == ([True], {target})
        with pytest.raises(fr.FreshetError, match="no version"):
            await ask("zz")
        assert e.loop.readers._held == {target}
        await restore_all(restorer)
        assert not e.loop.readers._held


@pytest.mark.parametrize("away", [True, False])
async def test_a_restore_is_tried_again_while_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """Held until then; what the store refuses for good is given up at once, and let go."""
    monkeypatch.setattr("freshet.engine.rollback.AGAIN_S", 0.001)
    tried: list[str] = []

    class Away(fr.MemoryStore):
        def restore(self, target: AssetPartition, data_version: str) -> None:
            tried.append(data_version)
            if len(tried) < 4:
                assert target in e.loop.readers._held
                error = OSError(errno.ENOSPC if away else errno.EACCES, "no")
                raise StoreError("cannot restore") from error
            super().restore(target, data_version)

    store, target = Away(), AssetPartition("made")
    async with engine(RAW, made, store=store) as e:
        first = await built_twice(e)
        second = await data_version(e, "made")
        restorer = restorer_of(e)
        await back(e, "made", first)
        await restore_all(restorer)
        assert tried == [first] * (4 if away else 1)
        assert store.versions(target)[0].data_version == (first if away else second)
        assert not e.loop.readers._held


@pytest.mark.parametrize("fails", [False, True])
async def test_what_people_look_at_follows_though_a_run_began_meanwhile(fails: bool) -> None:
    """Restored once nothing of it runs: what is current in the stream then, be it the rollback's
    version or that of the run.
    """
    gate, began = anyio.Event(), anyio.Event()

    @fr.asset(key="made")
    async def slow(raw: str) -> str:
        if raw == "3":
            began.set()
            await gate.wait()
            if fails:
                raise ValueError("3")
        return f"made of {raw}"

    async with engine(RAW, slow) as e:
        target, first = AssetPartition("made"), await built_twice(e)
        restorer = restorer_of(e)
        await back(e, "made", first)
        await e.change("raw", "3")
        await began.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(restorer.run)
            await anyio.wait_all_tasks_blocked()
            assert e.store.versions(target)[0].data_version != first
            gate.set()
            await e.settled()
            await restored(restorer)
            tasks.cancel_scope.cancel()
        current = e.store.versions(target)[0].data_version
        assert current == await data_version(e, "made")
        assert (current == first) is fails


@pytest.mark.parametrize("how", ["cancelled", "failed half way"])
async def test_what_was_published_in_vain_is_not_what_people_go_on_looking_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Cancelled while it publishes, or failed at the second of two outputs: the files are again
    those that the stream has stayed with.
    """
    entered, go_on = threading.Event(), threading.Event()
    real = fr.LocalStore.publish
    published: list[str] = []

    def publish(self: fr.LocalStore, staged: Staged) -> None:
        if how == "failed half way" and len(published) == 3:
            raise StoreError("no space")
        real(self, staged)
        published.append(staged.target.asset)
        if how == "cancelled" and len(published) == 4:
            entered.set()
            go_on.wait()

    monkeypatch.setattr(fr.LocalStore, "publish", publish)

    @fr.multi_asset(["one", "two"])
    def both(raw: str) -> tuple[str, str]:
        return f"one {raw}", f"two {raw}"

    async with engine(RAW, both, store=fr.LocalStore(tmp_path)) as e:
        restorer = restorer_of(e)
        e.loop.runner.in_vain = restorer.put_right
        await e.change("raw", "1")
        await e.quiet()
        await e.change("raw", "2")
        if how == "cancelled":
            await anyio.to_thread.run_sync(entered.wait)
            await e.say(RunCancelled(await e.live_run()))
            go_on.set()
        with anyio.fail_after(PATIENCE_S):
            while e.view.runs.live or not restorer._pending:
                await anyio.sleep(0.001)
        assert (tmp_path / "one.txt").read_text() == "one 2"
        await restore_all(restorer)
        assert (tmp_path / "one.txt").read_text() == "one 1"
        assert (tmp_path / "two.txt").read_text() == "two 1"
        assert (
            await data_version(e, "one") == e.store.versions(AssetPartition("one"))[0].data_version
        )
