"""Reload: other definitions while everything goes on; nothing of what runs is lost."""

import os
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import anyio
import pytest

import freshet as fr
from freshet.engine.asking import StatusQuestion
from freshet.engine.daemon import daemon
from freshet.engine.errors import DefinitionError, RequestError
from freshet.engine.events import (
    EngineReloaded,
    GraphDeployed,
    Materialized,
    Recorded,
    RunCancelled,
    RunStarted,
)
from freshet.engine.project import Project
from freshet.engine.running import Daemon
from freshet.engine.target import load_project, reload_project
from freshet.sensors.sameness import is_same
from tests.engine import engine

PATIENCE_S = 60
"""Bound on every wait; what is waited for comes at once."""

STATUS = StatusQuestion()


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """Leave the modules of this process as they were."""
    modules, search = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = search


# --- loading anew ---------------------------------------------------------------------------------

PROJECT = """
import freshet as fr
from lib.words import WORD

@fr.asset
def said() -> str:
    return WORD

project = fr.Project([said], store=fr.MemoryStore())
"""


def written(folder: Path) -> str:
    """A project with a module of its own, in a folder without `__init__.py`."""
    (folder / "lib").mkdir()
    (folder / "lib" / "words.py").write_text('WORD = "one"\n')
    (folder / "shop.py").write_text(PROJECT)
    return str(folder / "shop.py")


def said_by(project: Project) -> str:
    word: str = project.assets["said"].function()
    return word


def test_modules_of_the_project_are_loaded_anew_whatever_the_cache_says(tmp_path: Path) -> None:
    """An edit of the same size, with the time of before, is seen; what ran keeps what it had."""
    target = written(tmp_path)
    words = tmp_path / "lib" / "words.py"
    old = load_project(target)
    at = words.stat()
    words.write_text('WORD = "two"\n')
    os.utime(words, ns=(at.st_atime_ns, at.st_mtime_ns))
    new = reload_project(target)
    assert (said_by(old), said_by(new)) == ("one", "two")
    assert old.code != new.code
    assert reload_project(target).code == new.code
    assert sys.path.count(str(tmp_path)) == 1


def test_what_was_installed_is_not_loaded_anew(tmp_path: Path) -> None:
    """Also of an environment that lies in the project's folder."""
    target = written(tmp_path)
    site = tmp_path / ".venv" / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed_thing.py").write_text("STATE = []\n")
    sys.path.append(str(site))
    (tmp_path / "shop.py").write_text("import installed_thing\n" + PROJECT)
    load_project(target)
    held = sys.modules["installed_thing"]
    engine_of_ours = sys.modules["freshet.engine.loop"]
    reload_project(target)
    assert sys.modules["installed_thing"] is held
    assert sys.modules["freshet.engine.loop"] is engine_of_ours


@pytest.mark.parametrize("broken", ["lib/words.py", "shop.py"])
def test_what_does_not_load_leaves_the_modules_as_they_were(tmp_path: Path, broken: str) -> None:
    """The error names the file; the modules are the very same objects, also half-loaded ones."""
    target = written(tmp_path)
    load_project(target)
    before = {name: sys.modules[name] for name in ("lib", "lib.words", "shop")}
    search = list(sys.path)
    (tmp_path / broken).write_text("import lib.words\nimport lib.late\n1 / 0\n")
    (tmp_path / "lib" / "late.py").write_text("")
    with pytest.raises(DefinitionError, match=rf"{Path(broken).name}:3"):
        reload_project(target)
    assert {name: sys.modules[name] for name in before} == before
    assert "lib.late" not in sys.modules
    assert sys.path == search


def test_a_module_that_is_gone_is_not_found_in_memory(tmp_path: Path) -> None:
    target = written(tmp_path)
    load_project(target)
    (tmp_path / "lib" / "words.py").unlink()
    with pytest.raises(DefinitionError, match=r"No module named 'lib\.words'"):
        reload_project(target)


# --- the same sensor ------------------------------------------------------------------------------

S, DAYS = fr.source("s"), fr.source("days", partitions=fr.daily("2024-01-01"))


def looked() -> str:
    return "1"


def asks(every: str = "1h") -> fr.Sensor:
    return fr.poll(looked, source=S, every=every)


def topics(**options: Any) -> fr.Sensor:
    return fr.kafka("orders", source=S, bootstrap_servers="localhost:9092", **options)


class Feed:
    """A sensor of one's own, with a client."""

    name, sources = "feed", ("s",)

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = Lock()

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[fr.Batch, None]:
        yield fr.Batch()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (lambda: fr.files("in/a.csv", source=S), lambda: fr.files("in/a.csv", source=S), True),
        (
            lambda: fr.files("in/a.csv", source=S),
            lambda: fr.files("in/a.csv", source=S, settle="1s"),
            False,
        ),
        (
            lambda: fr.files("in/{partition}.csv", source=DAYS),
            lambda: fr.files("in/{partition}.csv", source=DAYS),
            True,
        ),
        (
            lambda: fr.files("in/{partition}.csv", source=DAYS),
            lambda: fr.files("out/{partition}.csv", source=DAYS),
            False,
        ),
        (asks, asks, True),
        (asks, lambda: asks("2h"), False),
        (topics, topics, True),
        (topics, lambda: topics(start="latest"), False),
        (lambda: Feed("a"), lambda: Feed("a"), True),
        (lambda: Feed("a"), lambda: Feed("b"), False),
        (lambda: Feed("a"), asks, False),
    ],
)
def test_a_sensor_is_the_same_when_it_is_configured_the_same(
    old: Any, new: Any, same: bool
) -> None:
    assert is_same(old(), new(), same_code=True) is same


def test_functions_count_as_changed_when_any_file_of_the_project_has() -> None:
    """Nobody can tell what they call; a sensor without functions is not concerned."""
    assert not is_same(asks(), fr.poll(lambda: "1", source=S, every="1h"), same_code=True)
    made = [load_elsewhere(asks) for _ in range(2)]
    assert is_same(*made, same_code=True)
    assert not is_same(*made, same_code=False)
    files = [fr.files("in/a.csv", source=S) for _ in range(2)]
    assert is_same(*files, same_code=False)


def load_elsewhere(_: object) -> fr.Sensor:
    """The same function from a module that was executed once more."""
    space: dict[str, Any] = {"__name__": "shop"}
    exec("def looked():\n    return '1'\n", space)
    return fr.poll(space["looked"], source=S, every="1h")


# --- the loop -------------------------------------------------------------------------------------

pytestmark = pytest.mark.anyio


async def test_what_runs_goes_on_with_its_own_and_the_next_has_the_new() -> None:
    """The run that is alive publishes what the old function returns; then the new code runs."""
    gate, s = anyio.Event(), fr.source("s")

    @fr.asset(key="made", code_version="1")
    async def old(s: str) -> str:
        await gate.wait()
        return f"old {s}"

    @fr.asset(key="made", code_version="2")
    async def new(s: str) -> str:
        return f"new {s}"

    async with engine(s, old) as e:
        await e.change("s", "1")
        await e.live_run()
        await e.redeploy(s, new)
        gate.set()
        await e.quiet()
        made = [r.event for r in await e.history() if isinstance(r.event, Materialized)]
        assert [event.code_version for event in made] == ["1", "2"]
        assert await e.runs() == ["made", "made"]
        assert e.store.load(fr.AssetPartition("made", ""), made[0].data_version, str) == "old 1"
        assert e.store.load(fr.AssetPartition("made", ""), made[1].data_version, str) == "new 1"


async def test_each_run_is_done_by_the_code_it_records() -> None:
    """Whatever happens between two of thirty deploys."""
    s, seen = fr.source("s"), []

    def version(number: int) -> fr.Asset:
        @fr.asset(key="made", code_version=str(number))
        async def made(s: str) -> str:
            seen.append((number, s))
            return f"{number} {s}"

        return made

    async with engine(s, version(0)) as e:
        for number in range(1, 30):
            await e.stream.append([fr.change(s, version=str(number))])
            await e.redeploy(s, version(number))
        await e.quiet()
        started = [r.event for r in await e.history() if isinstance(r.event, RunStarted)]
        assert [int(event.targets[0].code_version) for event in started] == [n for n, _ in seen]
        assert seen[-1] == (29, "29")


async def test_a_run_of_before_can_still_be_cancelled() -> None:
    from_outside = anyio.Event()

    @fr.asset(key="made", code_version="1")
    async def old() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            from_outside.set()
        return "never"

    @fr.asset(key="made", code_version="2")
    async def new() -> str:
        return "new"

    async with engine(old) as e:
        run = await e.live_run()
        await e.redeploy(new)
        await e.say(RunCancelled(run))
        with anyio.fail_after(PATIENCE_S):
            await from_outside.wait()
        await e.quiet()
        assert e.loop.runner.left_behind == 0


# --- the daemon -----------------------------------------------------------------------------------


class Told:
    """A sensor that says when it is started and when it ends."""

    sources = ("s",)

    def __init__(self, name: str, log: list[str], setting: str = "") -> None:
        self.name = name
        self.setting = setting
        self._log = log

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[fr.Batch, None]:
        self._log.append(f"{self.name}{self.setting} from {cursor.get('at', 'nothing')}")
        if "at" not in cursor:
            yield fr.Batch((), {"at": "1"})
        try:
            await anyio.sleep_forever()
        finally:
            self._log.append(f"{self.name}{self.setting} ended")


def project(*sensors: fr.Sensor, slots: int = 8, version: str = "1", **options: Any) -> Project:
    @fr.asset(key="made", code_version=version)
    async def made() -> str:
        return version

    store = fr.MemoryStore()
    return Project([fr.source("s"), made], sensors=sensors, slots=slots, store=store, **options)


class Loads:
    """What the next reload loads: a project, or an error."""

    def __init__(self) -> None:
        self.next: Project | Exception = RequestError("nothing")

    def __call__(self) -> Project:
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


@asynccontextmanager
async def running(first: Project, state: Path) -> AsyncGenerator[tuple[Daemon, Loads], None]:
    loads = Loads()
    with anyio.fail_after(PATIENCE_S):
        async with daemon(first, state, load=loads) as it:
            await it.loop.quiet()
            yield it, loads
            it.stop()


async def events_after(it: Daemon, position: int, *kinds: type) -> list[Recorded]:
    return [r for r in await it.stream.read(position) if isinstance(r.event, kinds)]


async def until(log: list[str], *lines: str) -> None:
    while not set(lines) <= set(log):
        await anyio.sleep(0.001)


async def test_sensors_follow_a_reload_and_those_that_are_the_same_are_not_disturbed(
    tmp_path: Path,
) -> None:
    """Removed ones end, new ones start, changed ones go on from the cursor, each once."""
    log: list[str] = []
    first = project(Told("same", log), Told("gone", log), Told("changed", log, "1"))
    async with running(first, tmp_path) as (it, loads):
        await until(log, "same from nothing", "gone from nothing", "changed1 from nothing")
        while it.view.sensors.health.keys() != {"same", "gone", "changed"}:
            await anyio.sleep(0.001)
        at, began = it.stream.head, len(log)
        loads.next = project(Told("same", log), Told("new", log), Told("changed", log, "2"))
        report = await it.reload()
        assert (report.sensors_started, report.sensors_stopped, report.sensors_renewed) == (
            ("new",),
            ("gone",),
            ("changed",),
        )
        await until(log, "changed2 from 1", "new from nothing")
        assert sorted(log[began:]) == [
            "changed1 ended",
            "changed2 from 1",
            "gone ended",
            "new from nothing",
        ]
        assert log.index("changed1 ended") < log.index("changed2 from 1")
        reloaded = await events_after(it, at, EngineReloaded, GraphDeployed)
        sensors: dict[str, tuple[str, ...]] = dict.fromkeys(("same", "new", "changed"), ("s",))
        assert [r.event for r in reloaded] == [EngineReloaded(8, sensors, tuple(sensors))]
        assert list(it.sensing.pulses) == ["same", "new", "changed"]


async def test_a_reload_of_the_same_records_and_runs_nothing(tmp_path: Path) -> None:
    """A store in memory keeps its values, too."""
    async with running(project(), tmp_path) as (it, loads):
        at = it.stream.head
        loads.next = project()
        report = await it.reload()
        await it.loop.quiet()
        assert it.stream.head == at
        assert (report.deployed, report.describe()) == (False, "the definitions are the same")
        name = fr.AssetPartition("made", "")
        made = [r.event for r in await it.stream.read() if isinstance(r.event, Materialized)]
        assert it.project.store.load(name, made[0].data_version, str) == "1"


async def test_slots_and_pools_follow_a_reload(tmp_path: Path) -> None:
    async with running(project(slots=8), tmp_path) as (it, loads):
        at = it.stream.head
        loads.next = project(slots=2)
        await it.reload()
        assert it.loop.slots == 2
        assert it.view.promises.planner.slots == 2
        kinds = [type(r.event).__name__ for r in await it.stream.read(at)]
        assert kinds == ["EngineReloaded"]


async def test_new_code_is_run_after_a_reload_and_recorded_once(tmp_path: Path) -> None:
    async with running(project(), tmp_path) as (it, loads):
        at = it.stream.head
        loads.next = project(version="2")
        report = await it.reload()
        await it.loop.quiet()
        assert (report.deployed, report.changed) == (True, ("made",))
        kinds = [type(r.event).__name__ for r in await it.stream.read(at)]
        assert kinds == ["GraphDeployed", "RunStarted", "Materialized", "RunSucceeded"]


async def test_what_does_not_load_changes_nothing_and_is_shown_until_it_does(
    tmp_path: Path,
) -> None:
    """Whatever the project raises: the error stands in health and status until the next good
    reload.
    """
    log: list[str] = []
    async with running(project(Told("same", log)), tmp_path) as (it, loads):
        await until(log, "same from nothing")
        while not it.view.sensors.health:
            await anyio.sleep(0.001)
        at = it.stream.head
        for error in (DefinitionError("asset 'x' is odd", hint="mend it"), ValueError("odd")):
            loads.next = error
            report = await it.reload()
            assert report.fault is not None
            assert it.stream.head == at
            health = await it.health()
            assert (health.ok, len(health.warnings)) == (True, 1)
            assert str(report.fault) in health.warnings[0]
            status = await it.status(STATUS)
            assert str(report.fault) in status.notices[0]
        assert log == ["same from nothing"]
        loads.next = project(Told("same", log))
        await it.reload()
        assert (await it.health()).warnings == ()
        assert (await it.status(STATUS)).notices == ()
