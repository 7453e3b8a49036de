"""What a start makes of what the last end left: publishing that was cut off, runs that kill the
engine, jobs that go on elsewhere. Real daemons, killed by themselves at the worst moments.
"""

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

import freshet as fr
from freshet.engine.context import Context
from freshet.engine.errors import StoreError
from freshet.engine.events import (
    EngineStarted,
    JobSubmitted,
    Materialized,
    Recorded,
    RunAbandoned,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
)
from freshet.engine.intents import Intent, Intents, finish
from freshet.engine.reactor import decide
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stores.store import Staged
from tests.engine import engine
from tests.test_cli import PATIENCE_S, freshet

pytestmark = pytest.mark.anyio

PROJECT = """
from pathlib import Path

import freshet as fr

ticks = fr.source("ticks")


@fr.multi_asset(["left", "right"])
def both(ticks: str) -> dict[str, str]:
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{ticks}\\n")
    return {"left": f"left {ticks}", "right": f"right {ticks}"}


@fr.asset
def below(left: str, right: str) -> str:
    return f"{left} {right}"


project = fr.Project([ticks, both, below], store=fr.LocalStore("data"))
"""

DYING = """
import os, signal, sys
from freshet.engine import recovery
from freshet.engine.cli.main import main
from freshet.engine.intents import Intents
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stores.local import LocalStore

where, when, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
left = count


def at(moment):
    global left
    if moment == when:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def dies(owner, name):
    real = getattr(owner, name)

    def dying(*arguments, **options):
        at("before")
        found = real(*arguments, **options)
        at("after")
        return found

    setattr(owner, name, dying)


def dies_appending(kind):
    real = SqliteStream.append

    async def dying(self, events, **options):
        meant = any(type(event).__name__ == kind for event in events)
        if meant:
            at("before")
        found = await real(self, events, **options)
        if meant:
            at("after")
        return found

    SqliteStream.append = dying


if where == "write":
    dies(Intents, "write")
elif where == "publish":
    dies(LocalStore, "publish")
elif where == "drop":
    dies(Intents, "drop")
elif where == "finish":
    dies(recovery, "finish")
elif where:
    dies_appending(where)
main(["run", "project.py"])
"""


class Place:
    """A project folder, and daemons in it that kill themselves where they are told to."""

    def __init__(self, folder: Path, project: str = PROJECT) -> None:
        self.folder = folder
        (folder / "project.py").write_text(project)
        (folder / "dying.py").write_text(DYING)

    @property
    def stream(self) -> Path:
        return self.folder / ".freshet" / "stream.db"

    def start(self, *moment: str) -> subprocess.Popen[bytes]:
        script = ["dying.py", *moment] if moment else ["-m", "freshet", "run", "project.py"]
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *script], cwd=self.folder, stdout=log, stderr=log
            )

    def dies(self, *moment: str) -> None:
        daemon = self.start(*moment)
        try:
            assert daemon.wait(PATIENCE_S) == -signal.SIGKILL, self.log()
        finally:
            daemon.kill()
            daemon.wait()

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()[-3000:]

    def freshet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return freshet(self.folder, *arguments)

    async def until(self, kind: type, count: int, daemon: subprocess.Popen[bytes]) -> None:
        """Wait until so many events of this type were recorded."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                assert daemon.poll() is None, self.log()
                found = await self.history()
                if sum(isinstance(r.event, kind) for r in found) >= count:
                    return
                await anyio.sleep(0.01)

    async def history(self) -> list[Recorded]:
        if not self.stream.exists() or not self.stream.stat().st_size:
            return []
        async with SqliteReader.open(self.stream) as stream:
            found: list[Recorded] = []
            while batch := await stream.read(len(found)):
                found += batch
            return found

    async def make_stream(self) -> None:
        """A stream in which nothing was ever started."""
        (self.folder / ".freshet").mkdir()
        async with SqliteStream.open(self.stream):
            pass

    async def finish(self) -> list[Recorded]:
        """A daemon that is not killed, until everything is fresh; the history afterwards."""
        before = [r for r in await self.history() if isinstance(r.event, EngineStarted)]
        daemon = self.start()
        try:
            await self.until(EngineStarted, len(before) + 1, daemon)
            with anyio.fail_after(PATIENCE_S):
                while not self.freshet("status").stderr.startswith("everything is fresh"):
                    assert daemon.poll() is None, self.log()
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0, self.log()
        finally:
            daemon.kill()
            daemon.wait()
        return await self.history()

    def calls(self) -> list[str]:
        return (self.folder / "calls.txt").read_text().split()


async def began(folder: Path, project: str = PROJECT, source: str = "ticks") -> Place:
    """A place where a source has changed, and nothing was built."""
    place = Place(folder, project)
    daemon = place.start()
    try:
        await place.until(EngineStarted, 1, daemon)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    assert place.freshet("emit", source, "--version", "one").returncode == 0
    return place


def made_by(history: list[Recorded], asset: str) -> list[int]:
    return [
        r.event.run for r in history if isinstance(r.event, Materialized) and r.event.asset == asset
    ]


CUT_OFF = [
    ("write", "before", "1"),
    ("write", "after", "1"),
    ("publish", "before", "1"),
    ("publish", "after", "1"),
    ("publish", "after", "2"),
    ("RunSucceeded", "before", "1"),
    ("RunSucceeded", "after", "1"),
    ("drop", "before", "1"),
]


@pytest.mark.parametrize(
    ("moment", "again"),
    [
        *((moment, ()) for moment in CUT_OFF),
        (("write", "after", "1"), ("finish", "before", "1")),
        (("publish", "after", "1"), ("finish", "after", "1")),
        (("RunSucceeded", "before", "1"), ("finish", "before", "1")),
        (("RunSucceeded", "before", "1"), ("finish", "after", "1")),
    ],
    ids=lambda moment: "-".join(moment) or "once",
)
async def test_what_had_begun_to_publish_is_finished_and_not_made_again(
    tmp_path: Path, moment: tuple[str, str, str], again: tuple[str, ...]
) -> None:  # B2.3
    """Whenever a daemon is killed while a run publishes, and whenever the next one is while it
    recovers: both outputs come from one run, each run has one end, and nothing was called twice
    that had got so far that it could be finished.
    """
    place = await began(tmp_path)
    place.dies(*moment)
    recorded = moment[0] == "drop" or moment[:2] == ("RunSucceeded", "after")
    nothing_to_finish = recorded or moment == ("write", "before", "1")
    if again and not nothing_to_finish:
        place.dies(*again)
        place.dies("EngineStarted", "before", "1")
        place.dies("EngineStarted", "after", "1")
    history = await place.finish()
    begun = moment != ("write", "before", "1")
    assert place.calls() == ["one"] * (1 if begun else 2)
    assert made_by(history, "left") == made_by(history, "right")
    assert len(made_by(history, "left")) == 1
    runs = [r.position for r in history if isinstance(r.event, RunStarted)]
    ends = [
        r.event.run for r in history if isinstance(r.event, RunSucceeded | RunFailed | RunAbandoned)
    ]
    assert sorted(ends) == runs
    adopted = [
        r.event.run for r in history if isinstance(r.event, RunSucceeded) and r.event.adopted
    ]
    assert adopted == ([] if nothing_to_finish else runs[:1])
    assert (tmp_path / "data" / "below.txt").read_text() == "left one right one"
    assert list(Intents(tmp_path / ".freshet" / "publishing").left()) == []
    staged = tmp_path / "data" / ".staged"
    assert [path for path in staged.rglob("*") if path.is_file()] == []


def test_what_cannot_be_finished_as_the_store_is_away_keeps_no_daemon_from_starting() -> None:
    """The run is made again; what it has staged waits until it can be discarded."""

    class Away(fr.MemoryStore):
        def publish(self, staged: Staged) -> None:
            raise StoreError("the store is away")

        def discard(self, run: int) -> None:
            raise StoreError("the store is away")

    store = Away()
    staged = store.stage(fr.AssetPartition("left"), 7, "half")
    assert not finish(store, Intent(7, (staged,), ()))


async def test_a_torn_intent_is_none(tmp_path: Path) -> None:
    """Half of a file, as a machine may leave it that loses its power: the run is made again."""
    place = await began(tmp_path)
    place.dies("publish", "before", "1")
    (path,) = (tmp_path / ".freshet" / "publishing").glob("*.json")
    path.write_bytes(path.read_bytes()[:40])
    history = await place.finish()
    assert place.calls() == ["one", "one"]
    assert len([r for r in history if isinstance(r.event, RunAbandoned)]) == 1


KILLER = """
import os, signal, time
from pathlib import Path

import freshet as fr

ticks = fr.source("ticks")


@fr.asset
def killer(ticks: str) -> str:
    with Path("calls.txt").open("a") as calls:
        calls.write("call\\n")
    if ticks == "one":
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return ticks


@fr.asset
async def innocent(ticks: str) -> str:
    return ticks


project = fr.Project([ticks, killer, innocent], store=fr.LocalStore("data"))
"""


async def test_what_kills_the_engine_three_times_in_a_row_is_quarantined(tmp_path: Path) -> None:
    """It is not started again by itself; the rest goes on; new inputs release it."""
    place = await began(tmp_path, KILLER)
    for _ in range(3):
        place.dies("", "", "0")
    daemon = place.start()
    try:
        await place.until(EngineStarted, 5, daemon)
        history = await place.history()
        failed = [r.event for r in history if isinstance(r.event, RunFailed)]
        assert [one.kind for one in failed] == ["killed"]
        assert "killed 3 times in a row" in failed[0].error
        assert place.calls() == ["call"] * 3
        why = place.freshet("why", "killer").stdout
        assert "quarantined" in why
        assert "innocent" in place.freshet("status").stdout
        assert place.freshet("emit", "ticks", "--version", "two").returncode == 0
        await place.until(RunSucceeded, 3, daemon)
        assert place.freshet("status", "killer").returncode == 0
        assert (tmp_path / "data" / "killer.txt").read_text() == "two"
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


async def test_two_suspects_do_not_run_beside_each_other() -> None:
    """After two kills during runs of both, one at a time is started: the third tells which it is.
    After one kill they still run together; and each is tried alone of a batch.
    """

    @fr.asset(partitions=fr.static(["a", "b", "c"]), batch=3)
    def built() -> None: ...

    async with engine(built, deploy=False) as under_test:
        under_test.loop.draining = True
        await under_test.deploy()
        starts: list[list[list[str]]] = []
        for _ in range(3):
            found = decide(under_test.view, under_test.now, 8).starts
            starts.append([[t.partition for t in start.targets] for start in found])
            for start in found:
                await under_test.stream.append([start])
                await under_test.folded()
            for run in list(under_test.view.runs.live):
                await under_test.say(RunAbandoned(run, "cut off", killed=True))
        assert starts == [[["a", "b", "c"]], [["a"], ["b"], ["c"]], [["a"]]]


async def test_a_failure_or_a_stop_in_order_is_no_kill() -> None:
    @fr.asset(retries=9, retry_delay=0.0)
    def built() -> None: ...

    async with engine(built, deploy=False) as under_test:
        under_test.loop.draining = True
        await under_test.deploy()
        kills: list[int] = []
        for killed, fails in ((True, False), (True, True), (True, False), (False, False)):
            (start,) = decide(under_test.view, under_test.now, 8).starts
            (run,) = await under_test.stream.append([start])
            await under_test.folded()
            kills.append(under_test.view.staleness.kills_during(run))
            end = RunFailed(run, retry_at=0) if fails else RunAbandoned(run, killed=killed)
            await under_test.say(end)
        assert kills == [0, 1, 0, 1]


HOSTED = """
import asyncio
from pathlib import Path

import freshet as fr

features = fr.source("features")


async def submit(text: str, token: str) -> str:
    \"\"\"The service does a job once for each token.\"\"\"
    path = Path("service") / f"job-{token[:8]}"
    path.parent.mkdir(exist_ok=True)
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{path.name}\\n")
    path.write_text(text)
    return path.name


@fr.asset
async def model(features: str, context: fr.Context) -> str:
    name = await context.job(lambda: submit(features, context.token))
    while not (Path("service") / f"{name}.done").exists():
        await asyncio.sleep(0.01)
    return (Path("service") / f"{name}.done").read_text()


project = fr.Project([features, model], store=fr.LocalStore("data"))
"""


async def test_a_job_elsewhere_is_found_again_and_not_submitted_twice(tmp_path: Path) -> None:
    """D3: killed while it waits, stopped while it waits, killed before the job was recorded."""
    place = await began(tmp_path, HOSTED, "features")
    place.dies("JobSubmitted", "after", "1")
    daemon = place.start()
    await place.until(EngineStarted, 3, daemon)
    daemon.send_signal(signal.SIGTERM)
    with anyio.fail_after(PATIENCE_S):
        while daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)  # the second one does not wait for the run
            await anyio.sleep(0.4)
    daemon = place.start()
    try:
        await place.until(EngineStarted, 4, daemon)
        (job,) = place.calls()
        (tmp_path / "service" / f"{job}.done").write_text("trained on one")
        await place.until(Materialized, 1, daemon)
        history = await place.history()
        assert [r.event.job for r in history if isinstance(r.event, JobSubmitted)] == [job]
        assert place.calls() == [job]
        assert (tmp_path / "data" / "model.txt").read_text() == "trained on one"
        assert place.freshet("emit", "features", "--version", "v2").returncode == 0
        await place.until(JobSubmitted, 2, daemon)
        assert len(set(place.calls())) == 2  # other inputs are another job
    finally:
        daemon.kill()
        daemon.wait()


async def test_the_token_is_the_same_when_the_engine_is_killed_before_the_job_is_recorded(
    tmp_path: Path,
) -> None:
    place = await began(tmp_path, HOSTED, "features")
    place.dies("JobSubmitted", "before", "1")
    place.dies("JobSubmitted", "after", "1")
    first, second = place.calls()
    assert first == second


async def test_a_job_that_failed_or_was_cancelled_is_submitted_anew() -> None:
    names: list[str] = []
    fails = True
    gate = anyio.Event()

    @fr.asset(retries=1, retry_delay="10s")
    async def model(context: Context) -> str:
        async def submit() -> str:
            names.append(context.token)
            return f"job {len(names)}"

        job = await context.job(submit)
        if fails:
            raise RuntimeError("the job failed")
        await gate.wait()
        return job

    async with engine(model) as under_test:
        await under_test.settled()
        fails = False
        under_test.advance(20)
        await under_test.loop.act()
        while not under_test.view.runs.live or len(names) < 2:
            await anyio.sleep(0)
        (run,) = under_test.view.runs.live
        await under_test.say(RunCancelled(run))
        await under_test.demand("model")
        while len(names) < 3:
            await anyio.sleep(0)
        gate.set()
        await under_test.quiet()
        assert len(set(names)) == 3  # each is another attempt
        jobs = [
            r.event.job for r in await under_test.history() if isinstance(r.event, JobSubmitted)
        ]
        assert jobs == ["job 1", "job 2", "job 3"]


async def test_a_function_in_a_thread_submits_a_job_too() -> None:
    @fr.asset
    def model(context: fr.Context) -> str:
        return anyio.from_thread.run(context.job, lambda: "job 7")

    async with engine(model) as under_test:
        await under_test.quiet()
        history = await under_test.history()
        assert [r.event.job for r in history if isinstance(r.event, JobSubmitted)] == ["job 7"]
        assert under_test.status("model").state == "fresh"


async def test_a_job_in_a_plain_call_is_submitted() -> None:
    context = Context("model", "", 1, 1, 0)
    assert await context.job(lambda: "job 7") == "job 7"
    with pytest.raises(TypeError, match="a job has a name"):
        await context.job(lambda: "")
