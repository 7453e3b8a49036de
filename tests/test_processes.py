"""Worker processes: the same as threads, but for that they can be killed, and die alone."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import msgspec
import pytest

import freshet as fr
from freshet.engine.daemon import daemon
from freshet.engine.events import (
    JobSubmitted,
    Materialized,
    RunCancelled,
    RunFailed,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.executors import pool
from freshet.engine.orders import Order
from freshet.engine.runlogs import read_log
from freshet.testing import simulate
from tests.processes import Works, at_work, is_alive, number_in, project_in, wait_until_gone
from tests.test_cli import Place

pytestmark = pytest.mark.anyio

SAME = """
DAYS = fr.static([f"{n:03}" for n in range(70)])
raw = fr.source("raw")
rows = fr.source("rows", partitions=DAYS)

@fr.asset(code_version="1", retries=1, retry_delay=0, executor=EXECUTOR)
ASYNC def flaky(raw: str, context: fr.Context) -> fr.Output:
    if context.attempt == 1:
        raise ValueError(f"not {raw}")
    return fr.Output({"rows": 3}, metadata={"run": context.run})

@fr.asset(code_version="1", executor=EXECUTOR)
ASYNC def below(flaky: dict[str, int]) -> int:
    return flaky["rows"]

@fr.asset(code_version="1", executor=EXECUTOR)
ASYNC def own(raw: str) -> fr.Output:
    return fr.Output(data_version=f"mine {raw}")

@fr.asset(code_version="1", deps=[own], executor=EXECUTOR)
ASYNC def nothing() -> None: ...

@fr.asset(code_version="1", deps=[own], executor=EXECUTOR)
ASYNC def refused() -> str:
    return "bad"

@fr.check(refused, blocking=True, code_version="1")
ASYNC def good(refused: str) -> bool:
    return refused == "good"

@fr.check(refused, code_version="1")
def length(refused: str, context: fr.Context) -> fr.CheckResult:
    return fr.CheckResult(True, {"length": len(refused), "run": context.run})

@fr.asset(code_version="1", deps=[own], executor=EXECUTOR)
ASYNC def wrong() -> int:
    return "no number"

@fr.asset(code_version="1", deps=[own], executor=EXECUTOR)
ASYNC def leaves() -> int:
    raise SystemExit(3)

@fr.asset(code_version="1", partitions=DAYS, batch=100, executor=EXECUTOR)
ASYNC def each(rows: dict[str, str]) -> dict[str, str]:
    return {day: rows[day] * 2 for day in rows}

@fr.asset(code_version="1", executor=EXECUTOR)
ASYNC def total(each: dict[str, str]) -> int:
    return sum(len(each[day]) for day in each)

@fr.asset(code_version="1", executor=EXECUTOR)
async def elsewhere(raw: str, context: fr.Context) -> str:
    return await context.job(lambda: f"job of {raw}")

@fr.asset(code_version="1", executor=EXECUTOR)
ASYNC def news(raw: fr.Changes) -> list[str]:
    return [*(raw.previous or []), *(change.data_version for change in raw)]

project = fr.Project([raw, rows, flaky, below, own, nothing, refused, wrong, leaves, each, total,
    elsewhere, news], checks=[good, length], store=fr.LocalStore(FOLDER + "/data"), slots=1)
"""

KINDS = {"loop": ("async", "None"), "thread": ("", "None"), "process": ("", '"process"')}
KINDS["async process"] = ("async", '"process"')


async def everything(folder: Path, kind: str) -> list[object]:
    prefix, executor = KINDS[kind]
    folder.mkdir()
    text = SAME.replace("ASYNC ", prefix + " " if prefix else "").replace("EXECUTOR", executor)
    now = [1_700_000_000_000_000]
    async with at_work(folder, text, clock=lambda: now[0]) as works:
        days = [f"{n:03}" for n in range(70)]
        await works.running.stream.append(
            [SourceChanged("rows", day, day) for day in days] + [SourceChanged("raw", "", "1")]
        )
        await works.loop.quiet()
        now[0] += 1_000_000
        await works.change("2")
        await works.loop.quiet()
        return [plain(recorded.event) for recorded in await works.history()][2:]


def plain(event: Any) -> object:
    """An event without what depends on time, and on where a traceback began."""
    if isinstance(event, RunSucceeded):
        return msgspec.structs.replace(event, duration_us=0)
    if isinstance(event, RunFailed):
        last = event.detail.splitlines()[-1:]
        at = None if event.retry_at is None else 0
        return msgspec.structs.replace(event, duration_us=0, retry_at=at, detail="".join(last))
    return event


@pytest.fixture(scope="module")
def by_thread(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return anyio.run(everything, tmp_path_factory.mktemp("same") / "thread", "thread")


@pytest.mark.parametrize("kind", ["loop", "process", "async process"])
def test_every_executor_gives_the_same_events(  # B4.1
    kind: str, by_thread: list[Any], tmp_path: Path
) -> None:
    """Values, versions, inputs, metadata, checks, failures of every kind, retries, batches, more
    inputs than are looked up beforehand, changes: event by event.
    """
    found = anyio.run(everything, tmp_path / "same", kind)
    assert found == by_thread
    kinds = {event.kind for event in by_thread if isinstance(event, RunFailed)}
    assert sorted(kinds) == ["check", "error", "exit", "value"]


HANGS = """
import os, subprocess, time
raw = fr.source("raw")

@fr.asset(EXTRA executor="process")
def a(raw: str) -> str:
    if raw == "1":
        child = subprocess.Popen(["sleep", "1000"])
        for name, pid in (("worker", os.getpid()), ("child", child.pid)):
            with open(f"{FOLDER}/{name}", "w") as file:
                print(pid, file=file)
        time.sleep(1000)
    return raw

@fr.asset(executor="process")
def other(raw: str) -> str:
    return raw

project = fr.Project([raw, a, other], store=fr.LocalStore(FOLDER + "/data"), processes=2)
"""


async def test_what_times_out_is_killed_with_all_it_has_started(tmp_path: Path) -> None:
    """And another worker takes its place; nothing is left behind."""
    async with at_work(tmp_path, HANGS.replace("EXTRA", 'timeout="3s",')) as works:
        await works.change("1")
        await works.ended(2)
        (failed,) = await works.failures()
        assert (failed.kind, failed.error) == ("timeout", "still running after its timeout of 3 s")
        wait_until_gone(number_in(tmp_path / "worker"), number_in(tmp_path / "child"))
        await works.change("2")
        await works.ended(4)
        assert works.running.view.status("a", "").state == "fresh"  # type: ignore[union-attr]
        assert works.loop.runner.left_behind == 0
    assert not list((tmp_path / "state" / "children").iterdir())
    assert not list((tmp_path / "data" / ".staged").glob("*"))


SLOW_START = """
import os, time
raw = fr.source("raw")
if "FRESHET_CHILD" in os.environ:
    time.sleep(4)

@fr.asset(executor="process", timeout="3s")
def a(raw: str) -> str:
    return raw

project = fr.Project([raw, a], store=fr.LocalStore(FOLDER + "/data"))
"""


async def test_the_start_of_a_worker_is_no_part_of_the_timeout(tmp_path: Path) -> None:
    async with at_work(tmp_path, SLOW_START) as works:
        await works.change("1")
        await works.ended(1)
        assert await works.failures() == []


async def test_what_is_cancelled_is_killed_with_all_it_has_started(tmp_path: Path) -> None:
    async with at_work(tmp_path, HANGS.replace("EXTRA", "")) as works:
        await works.change("1")
        await works.ended(1)
        pids = [
            await anyio.to_thread.run_sync(number_in, tmp_path / n) for n in ("worker", "child")
        ]
        (run,) = works.running.view.runs.live
        await works.running.stream.append([RunCancelled(run, "enough")])
        await works.until(lambda: not works.loop.runner.live)
        wait_until_gone(*pids)
        assert await works.failures() == []
        assert works.loop.runner.left_behind == 0


SUBMITS = """
import anyio
raw = fr.source("raw")

@fr.asset(executor="process")
def elsewhere(raw: str, context: fr.Context) -> str:
    return anyio.run(context.job, lambda: f"job of {raw}")

project = fr.Project([raw, elsewhere], store=fr.LocalStore(FOLDER + "/data"))
"""


async def test_a_function_in_a_process_that_is_not_async_submits_a_job(tmp_path: Path) -> None:
    async with at_work(tmp_path, SUBMITS) as works:
        await works.change("1")
        await works.ended(1)
        history = await works.history()
        assert [r.event.job for r in history if isinstance(r.event, JobSubmitted)] == ["job of 1"]
        assert await works.failures() == []


SPEAKS = """
import ctypes, logging, os, sys, structlog
raw = fr.source("raw")
print("while it is loaded")

@fr.asset(executor="process")
def a(raw: str, context: fr.Context) -> None:
    print("run", raw)
    os.system("echo by a child")
    print("no end", end="")
    print("trouble", file=sys.stderr)
    logging.info("logged")
    structlog.get_logger().warning("structured", rows=3)
    context.log.info("said", where=os.path)
    ctypes.CDLL(None).printf(b"in C\\n")

project = fr.Project([raw, a], store=fr.LocalStore(FOLDER + "/data"))
"""


async def test_what_is_said_in_a_process_is_heard(tmp_path: Path) -> None:
    """Run by run, whole when the run has ended, by functions, their children, and in C; what is
    said while the project is loaded belongs to no run.
    """
    async with at_work(tmp_path, SPEAKS) as works:
        for number in (1, 2):
            await works.change(str(number))
            await works.ended(number)
        assert await works.failures() == []
    logs = sorted((tmp_path / "state" / "logs").iterdir(), key=lambda path: int(path.stem))
    assert len(logs) == 2
    for number, path in enumerate(logs, 1):
        lines = [line for _, line in read_log(path)]
        by_stream = {
            stream: sorted((line.level, line.text) for line in lines if line.stream == stream)
            for stream in ("stdout", "stderr", "log")
        }
        assert by_stream == {
            "stdout": [("", "by a child"), ("", "in C"), ("", "no end"), ("", f"run {number}")],
            "stderr": [("", "trouble")],
            "log": [("info", "logged"), ("info", "said"), ("warning", "structured")],
        }


LENT = """
import os
from contextlib import asynccontextmanager
raw = fr.source("raw")

@asynccontextmanager
async def db():
    print("opened")
    yield {"pid": os.getpid()}
    print("closed")

@fr.asset(executor="process")
def a(raw: str, db: dict) -> int:
    return db["pid"]

@fr.asset(executor="process")
async def b(raw: str, db: dict) -> int:
    return db["pid"]

@fr.check(a, blocking=True)
async def same(a: int, db: dict) -> bool:
    return db["pid"] == a

project = fr.Project([raw, a, b], checks=[same], resources={"db": db},
    store=fr.LocalStore(FOLDER + "/data"))
"""


async def test_resources_are_opened_in_the_worker_for_each_run(tmp_path: Path) -> None:
    async with at_work(tmp_path, LENT) as works:
        await works.change("1")
        await works.ended(2)
        assert await works.failures() == []
    assert int((tmp_path / "data" / "a.json").read_text()) != os.getpid()
    for path in (tmp_path / "state" / "logs").iterdir():
        printed = [line.text for _, line in read_log(path) if line.stream == "stdout"]
        assert printed == ["opened", "closed"]


DIES = """
import os, signal, threading
raw = fr.source("raw")

@fr.asset(executor="process", retries=1, retry_delay=0)
def a(raw: str, context: fr.Context) -> str:
    if context.attempt == 1:
        print("last words")
        HOW
    return raw

@fr.asset(executor="process")
def other(raw: str) -> str:
    return raw

project = fr.Project([raw, a, other], store=fr.LocalStore(FOLDER + "/data"), processes=2)
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os._exit(3)", "ended with exit code 3"),
        ("os._exit(0)", "ended with exit code 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    ],
)
async def test_a_worker_that_dies_fails_its_run_and_no_other(
    how: str, said: str, tmp_path: Path
) -> None:
    async with at_work(tmp_path, DIES.replace("HOW", how)) as works:
        await works.change("1")
        await works.ended(3)
        (failed,) = await works.failures()
        assert (failed.kind, failed.error) == (
            "error",
            f"its worker process {said} before it had answered",
        )
        made = [event.asset for event in await works.events() if isinstance(event, Materialized)]
        assert sorted(made) == ["a", "other"]
    (log,) = (tmp_path / "state" / "logs").iterdir()
    assert "last words" in log.read_text()


PIDS = """
import os
raw = fr.source("raw")

def make(name):
    @fr.asset(key=name, executor="process", deps=["raw"], code_version="1")
    def made() -> int:
        return os.getpid()
    return made

one, two, three = map(make, ["one", "two", "three"])

@fr.asset
def here(one: int, two: int, three: int) -> list[int]:
    return [one, two, three]

project = fr.Project([raw, one, two, three, here], store=fr.LocalStore(FOLDER + "/data"),
    processes=1)
"""


async def test_workers_are_few_persistent_and_not_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One serves all runs, and the next ones too; without work it is ended after a while."""
    async with at_work(tmp_path, PIDS) as works:
        for version in ("1", "2"):
            await works.change(version)
            await works.loop.quiet()
        pids = msgspec.json.decode((tmp_path / "data" / "here.json").read_bytes())
        assert len(set(pids)) == 1
        assert pids[0] != os.getpid()
        assert is_alive(pids[0])
        monkeypatch.setattr(pool, "IDLE_S", 0.0)
        await works.change("3")
        await works.until(lambda: not is_alive(pids[0]))


async def test_a_project_whose_file_changed_meanwhile_is_not_mixed_with_the_one_loaded(
    tmp_path: Path,
) -> None:
    """Nor with one that cannot be loaded; once the file is as it was, all goes on by itself."""
    async with at_work(tmp_path, PIDS) as works:
        (path,) = tmp_path.glob("project_*.py")
        text = path.read_text()
        path.write_text(text.replace('code_version="1"', 'code_version="2"'))
        await works.change("1")
        await works.ended(3)
        failures = [(one.kind, one.passing, one.error) for one in await works.failures()]
        assert {one[:2] for one in failures} == {("infrastructure", True)}
        assert all("have changed since the daemon loaded them" in one[2] for one in failures)
        path.write_text("import freshet as fr\nraise OSError('gone')")
        while "OSError: gone" not in (await works.failures())[-1].error:
            await works.ended(works.running.view.runs.counts["failed"] + 1)
        path.write_text(text)
        await works.until((tmp_path / "data" / "here.json").exists)


HELPED = """
import os
import HELPER
from pathlib import Path
raw = fr.source("raw")

@fr.asset(code_version="1", executor="process")
def far(raw: str) -> str:
    Path(FOLDER, "pid").write_text(f"{os.getpid()}\\n")
    return f"{HELPER.WORD} {raw}"

@fr.asset(code_version="1")
def near(raw: str) -> str:
    return f"{HELPER.WORD} {raw}"

project = fr.Project([raw, far, near],
    store=fr.SqliteStore(FOLDER + "/" + Path(FOLDER, "where").read_text()))
"""


def helped(folder: Path) -> tuple[str, Path]:
    """A project that says a word of another module; where its values lie, a file says."""
    name = f"helper_{uuid4().hex}"
    (folder / "where").write_text("a.db")
    helper = folder / f"{name}.py"
    helper.write_text('WORD = "old"')
    return HELPED.replace("HELPER", name), helper


@asynccontextmanager
async def helped_at_work(folder: Path) -> AsyncIterator[tuple[Works, Path]]:
    """That project at work, once all is built of version 1; and the other module's file."""
    text, helper = helped(folder)
    async with at_work(folder, text) as works:
        await works.change("1")
        await works.ended(2)
        yield works, helper


async def said(works: Works, *names: str) -> list[object]:
    """The values of these assets as they are now."""
    store = works.loop.definitions.store
    made = {e.asset: e.data_version for e in await works.events() if isinstance(e, Materialized)}
    return [store.load(fr.AssetPartition(name), made[name], str) for name in names]


async def test_after_a_reload_processes_run_the_same_code_as_threads(tmp_path: Path) -> None:
    """Also if only a helper has changed, of which the definitions say nothing; no worker from
    before is used again.
    """
    async with helped_at_work(tmp_path) as (works, helper):
        before = number_in(tmp_path / "pid")
        assert await said(works, "far", "near") == ["old 1", "old 1"]
        helper.write_text('WORD = "new"')  # as long as before, and within the same second
        await works.running.reload()
        await works.change("2")
        await works.ended(4)
        assert await said(works, "far", "near") == ["new 2", "new 2"]
        assert not is_alive(before)
        assert await works.failures() == []


async def test_after_a_reload_processes_use_the_store_that_the_daemon_does(
    tmp_path: Path,
) -> None:
    """Also if no file of the code has changed, but something that it reads."""
    async with helped_at_work(tmp_path) as (works, _):
        (tmp_path / "where").write_text("b.db")
        await works.running.reload()
        await works.change("2")
        await works.ended(4)
        assert await said(works, "far", "near") == ["old 2", "old 2"]
        assert await works.failures() == []


async def test_a_helper_that_changed_meanwhile_is_not_mixed_with_the_one_loaded(
    tmp_path: Path,
) -> None:
    """By a worker that takes the place of one that died; after a reload all goes on."""
    async with helped_at_work(tmp_path) as (works, helper):
        helper.write_text('WORD = "new"')
        await works.change("2")
        await works.ended(4)
        assert await said(works, "far", "near") == ["old 2"] * 2  # by the worker that there was
        workers = works.loop.runner.workshop.pool
        assert workers is not None
        os.kill(number_in(tmp_path / "pid"), signal.SIGKILL)
        await works.until(lambda: not any(one.is_alive for one in workers._idle))
        await works.change("3")
        counts = works.running.view.runs.counts
        await works.until(lambda: counts["succeeded"] >= 5 and counts["failed"] >= 1)
        assert await said(works, "near") == ["old 3"]
        failed = (await works.failures())[0]
        assert (failed.kind, failed.passing) == ("infrastructure", True)
        assert "have changed since the daemon loaded them" in failed.error
        await works.running.reload()
        await works.until(lambda: counts["succeeded"] >= 6)
        assert await said(works, "far") == ["new 3"]


async def test_an_order_is_not_carried_out_with_other_definitions_than_it_was_launched_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If those come before it has a worker, it is tried again."""
    async with at_work(tmp_path, PIDS) as works:
        await works.change("1")
        await works.loop.quiet()
        runner = works.loop.runner
        launch = runner.launch
        others = msgspec.structs.replace(
            runner.definitions, store=fr.LocalStore(tmp_path / "other"), generation=0
        )

        def launched(order: Order) -> None:
            launch(order)
            runner.use(others, 1)

        monkeypatch.setattr(runner, "launch", launched)
        await works.change("2")
        await works.ended(5)
        failed = (await works.failures())[0]
        assert (failed.kind, failed.passing) == ("infrastructure", True)
        assert failed.error == "other definitions were loaded before it had a worker process"
        assert failed.retry_at is not None


def test_a_simulation_calls_them_inline(tmp_path: Path) -> None:
    with simulate(project_in(tmp_path, PIDS)) as simulation:
        simulation.change("raw", "1")
        simulation.settle()
        assert simulation.value("here") == [os.getpid()] * 3


@pytest.mark.parametrize(
    ("kind", "executor", "said"),
    [
        ("sync", "loop", "its function is sync: it is called in a thread"),
        ("async", "thread", "its function is async: it is called on the event loop"),
        ("sync", "processes", "executor='processes'"),
    ],
)
def test_an_executor_that_cannot_be_is_refused(kind: str, executor: str, said: str) -> None:
    def sync() -> None: ...

    async def on_loop() -> None: ...

    with pytest.raises(fr.DefinitionError) as caught:
        fr.asset(key="a", executor=executor)(sync if kind == "sync" else on_loop)
    assert said in str(caught.value)
    assert "test_processes.py" in str(caught.value)


async def test_a_daemon_does_not_start_where_workers_could_not(tmp_path: Path) -> None:
    """When nobody knows where the project is, and when values are kept in its own memory."""
    raw = fr.source("raw")

    @fr.asset(executor="process")
    def a(raw: str) -> str:
        return raw

    for project, said in (
        (fr.Project([raw, a]), "origin='package.module:project'"),
        (fr.Project([raw, a], origin="x", store=fr.MemoryStore()), "use fr.LocalStore"),
    ):
        with pytest.raises(fr.DefinitionError, match="asset 'a' runs in a process") as caught:
            async with daemon(project, tmp_path):
                pass
        assert said in str(caught.value)
    with pytest.raises(fr.DefinitionError, match="processes=0"):
        fr.Project([raw], processes=0)


KILLED = """
import ctypes, os, subprocess, time
import freshet as fr
raw = fr.source("raw")

@fr.asset(executor="process")
def a(raw: str) -> str:
    if raw == "1":
        held = subprocess.Popen(["sleep", "1000"])
        for name, pid in (("worker", os.getpid()), ("child", held.pid)):
            with open(name, "w") as file:
                print(pid, file=file)
        ctypes.PyDLL(None).sleep(1000)  # as C code that does not let go of the interpreter
    return raw

project = fr.Project([raw, a])
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    (tmp_path / "project.py").write_text(KILLED)
    yield found
    found.kill()


def test_workers_end_with_a_daemon_that_is_killed(place: Place) -> None:
    """At once, and what they have started when the next one starts, at the latest; the run is made
    up for.
    """
    place.start()
    place.wait_for("GraphDeployed", "")
    place.freshet("emit", "raw", "--version", "1")
    pids = [number_in(place.folder / name) for name in ("worker", "child")]
    place.kill()
    wait_until_gone(pids[0])
    place.freshet("emit", "raw", "--version", "2")
    place.start()
    wait_until_gone(*pids)
    place.wait_for("Materialized", "a")
    place.stop()
    assert (place.folder / "data" / "a.txt").read_text() == "2"
