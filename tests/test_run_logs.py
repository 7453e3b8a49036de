"""Run logs: what a run says is kept, apart from all others, bounded, and never in its way."""

import asyncio
import errno
import json
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import anyio
import pytest
import structlog

import freshet as fr
from freshet.engine import runlogs, secrets
from freshet.engine.capture import structured
from freshet.engine.daemon import daemon
from freshet.engine.events import RunStarted, SourceChanged
from freshet.engine.runlogs import MAX_LINE_CHARS, Line, RunLogs, path_of, read_log
from freshet.engine.secrets import conceal
from freshet.testing import simulate
from tests.test_cli import Place

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


async def said(folder: Path, *assets: fr.Asset, ends: int = 1) -> dict[str, list[Line]]:
    """What each asset's run has said, when all have ended; in order of the assets' names."""
    project = fr.Project([RAW, *assets], store=fr.MemoryStore())
    state = folder / "state"
    async with daemon(project, state) as running:
        await running.stream.append([SourceChanged("raw", "", "1")])
        counts = running.view.runs.counts
        while counts["succeeded"] + counts["failed"] < ends * len(assets):
            await anyio.sleep(0.001)
        events = await running.stream.read()
        running.stop("done")
    found: dict[str, list[Line]] = {}
    for recorded in events:
        if isinstance(recorded.event, RunStarted):
            path = state / "logs" / f"{recorded.position}.jsonl"
            lines = [line for _, line in read_log(path)] if path.exists() else []
            found.setdefault(recorded.event.targets[0].asset, []).extend(lines)
    return dict(sorted(found.items()))


def told(lines: list[Line]) -> list[tuple[str, str, str, dict[str, object]]]:
    return [(line.stream, line.level, line.text, dict(line.fields)) for line in lines]


def speak(context: fr.Context) -> None:
    print("one", 1)
    print("two\nthree", end="")
    sys.stderr.write("trouble\n")
    logging.getLogger("mine").info("logged %s", 4)
    context.log.info("counted", rows=3, ok=True, where=Path("a"))
    context.log.warning("hm")


SPOKEN = [
    ("stdout", "", "one 1", {}),
    ("stdout", "", "two", {}),
    ("stderr", "", "trouble", {}),
    ("log", "info", "logged 4", {"logger": "mine"}),
    ("log", "info", "counted", {"rows": 3, "ok": True, "where": "a"}),
    ("log", "warning", "hm", {}),
    ("stdout", "", "three", {}),
]


@pytest.mark.parametrize("where", ["thread", "loop"])
async def test_all_that_a_run_says_is_kept_line_by_line(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def in_thread(context: fr.Context) -> None:
        speak(context)

    async def on_loop(context: fr.Context) -> None:
        speak(context)

    asset = fr.asset(key="a", deps=["raw"])(in_thread if where == "thread" else on_loop)
    found = await said(tmp_path, asset)
    assert told(found["a"]) == SPOKEN
    moments = [line.at for line in found["a"]]
    assert moments == sorted(moments)


async def test_runs_at_the_same_time_are_not_mixed(tmp_path: Path) -> None:
    """Not in threads, on the loop, or in what they hand on to threads and tasks of their own."""
    together = threading.Barrier(3)
    met = anyio.Event()
    waiting: list[str] = []

    def make(name: str) -> fr.Asset:
        @fr.asset(key=name, deps=["raw"])
        def made() -> None:
            for number in range(20):
                together.wait(30)
                print(name, end=" ")
                print(number)

        return made

    def make_async(name: str) -> fr.Asset:
        @fr.asset(key=name, deps=["raw"])
        async def made() -> None:
            print(name, end=" ")
            waiting.append(name)
            if len(waiting) == 2:
                met.set()
            await met.wait()
            print("met")
            await asyncio.to_thread(print, name, "elsewhere")
            await asyncio.create_task(asyncio.to_thread(print, name, "later"))

        return made

    names, others = ["a", "b", "c"], ["x", "y"]
    found = await said(tmp_path, *map(make, names), *map(make_async, others))
    assert {key: [line.text for line in lines] for key, lines in found.items()} == {
        **{name: [f"{name} {number}" for number in range(20)] for name in names},
        **{name: [f"{name} met", f"{name} elsewhere", f"{name} later"] for name in others},
    }


async def test_a_silent_run_has_no_file_and_what_is_said_outside_goes_where_it_went(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @fr.asset(deps=["raw"])
    def silent() -> None:
        thread = threading.Thread(target=print, args=("of no run",))
        thread.start()
        thread.join()

    @fr.asset(deps=[silent])
    def loud() -> None:
        print("heard here too")

    before = sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)
    found = await said(tmp_path, silent, loud)
    assert [line.text for line in found["loud"]] == ["heard here too"]
    assert len(list((tmp_path / "state" / "logs").iterdir())) == 1
    assert sorted(capsys.readouterr().out.splitlines()) == ["heard here too", "of no run"]
    after = sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)
    assert after == before


async def test_what_cannot_be_said_fails_no_run(tmp_path: Path) -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError("no text")

    @fr.asset(deps=["raw"])
    def odd(context: fr.Context) -> None:
        context.log.info(Odd(), value=Odd(), large=2**70, half="\ud800")
        print("\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"))

    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "logs").write_text("no folder")
    assert await said(tmp_path, odd) == {"odd": []}
    (tmp_path / "state" / "logs").unlink()
    (line, _) = (await said(tmp_path / "again", odd))["odd"]
    assert line.text == "(its text cannot be had: ValueError)"
    assert line.fields["large"] == str(2**70)


async def test_a_structlog_line_keeps_its_fields(tmp_path: Path) -> None:
    before = structlog.get_config()
    out = StringIO()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structured,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(out),
    )

    @fr.asset(deps=["raw"])
    def a() -> None:
        structlog.get_logger().error("no rows", table="orders")

    try:
        found = await said(tmp_path, a)
    finally:
        structlog.configure(**before)
    assert told(found["a"]) == [("log", "error", "no rows", {"table": "orders"})]
    assert json.loads(out.getvalue()) == {"event": "no rows", "level": "error", "table": "orders"}


async def test_secrets_are_kept_in_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", {})
    conceal("hunter2-hunter2")

    @fr.asset(deps=["raw"])
    def a(context: fr.Context) -> None:
        print("hunter2-", end="")
        print("hunter2")
        context.log.info("with hunter2-hunter2", password="hunter2-hunter2")

    (printed, logged) = (await said(tmp_path, a))["a"]
    assert (printed.text, logged.text, logged.fields) == ("***", "with ***", {"password": "***"})


async def test_what_a_run_has_said_that_is_cut_off_is_kept(tmp_path: Path) -> None:
    began = anyio.Event()

    @fr.asset(deps=["raw"])
    async def a() -> None:
        print("half a line", end="")
        began.set()
        await anyio.sleep_forever()

    async with daemon(fr.Project([RAW, a], store=fr.MemoryStore()), tmp_path) as running:
        await running.stream.append([SourceChanged("raw", "", "1")])
        await began.wait()
    (path,) = (tmp_path / "logs").iterdir()
    assert [line.text for _, line in read_log(path)] == ["half a line"]


def test_of_a_long_run_the_beginning_and_the_end_are_kept(tmp_path: Path) -> None:
    """1 MiB in all, and what was left out is said."""
    log = RunLogs(tmp_path).of(7)
    for number in range(40_000):
        log.write("log", f"line {number} {'x' * (number % 97)}", "info")
    log.close()
    lines = [line.text.split(" x")[0].strip() for _, line in read_log(tmp_path / "7.jsonl")]
    assert (lines[0], lines[-1]) == ("line 0", "line 39999")
    (cut,) = [n for n, line in enumerate(lines) if "left out here" in line]
    first, last = (int(lines[n].split()[1]) for n in (cut - 1, cut + 1))
    assert [int(line.split()[1]) for line in lines[:cut]] == list(range(first + 1))
    assert [int(line.split()[1]) for line in lines[cut + 1 :]] == list(range(last, 40_000))
    log.write("log", "too late")
    assert len(lines) == sum(1 for _ in read_log(tmp_path / "7.jsonl"))
    assert 0.9 < (tmp_path / "7.jsonl").stat().st_size / runlogs.MAX_RUN_BYTES < 1.01


def test_a_line_without_an_end_and_a_bar_that_is_drawn_over_are_bounded(tmp_path: Path) -> None:
    log = RunLogs(tmp_path).of(7)
    for number in range(100_000):
        log.hear("stderr", f"\r{number} %")
    log.hear("stderr", "\nx")
    log.hear("stderr", "y" * 40_000)
    log.close()
    first, *rest = [line.text for _, line in read_log(tmp_path / "7.jsonl")]
    assert first == "99999 %"
    assert [len(text) for text in rest] == [16384, 16384, 40_001 - 2 * 16384]


def test_the_oldest_logs_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and by size, also those of an earlier daemon; never those of live runs."""
    monkeypatch.setattr(runlogs, "MAX_RUNS", 3)

    def write(logs: RunLogs, run: int, size: int = 1) -> None:
        log = logs.of(run)
        log.write("log", "x" * size)
        log.close()

    for run in range(1, 4):
        write(RunLogs(tmp_path), run)
    logs = RunLogs(tmp_path)
    live = logs.of(4)
    live.write("log", "going on")
    assert sorted(runlogs.sizes(tmp_path)) == [2, 3, 4]
    for run in range(5, 9):
        write(logs, run)
    assert sorted(runlogs.sizes(tmp_path)) == [4, 7, 8]
    live.close()
    monkeypatch.setattr(runlogs, "MAX_BYTES", 2000)
    write(logs, 9, 1500)
    write(logs, 10, 1500)
    assert sorted(runlogs.sizes(tmp_path)) == [10]
    write(logs, 11, 800)
    for run in range(12, 31):
        write(logs, run, 800)
        assert sorted(runlogs.sizes(tmp_path)) == [run - 1, run]


def test_two_logs_of_one_run_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlogs, "MAX_BYTES", 5000)
    logs = RunLogs(tmp_path)
    for run, many in (1, 2), (2, 1), (3, 1), (4, 1):
        together = [logs.of(run) for _ in range(many)]
        for log in together:
            log.write("log", "x" * 1000)
        for log in together:
            log.close()
    assert sorted(runlogs.sizes(tmp_path)) == [1, 2, 3, 4]


def test_a_folder_that_was_tidied_away_is_made_again(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path / "logs")
    for run in (1, 2):
        said_by(logs, run)
        assert sorted(runlogs.sizes(tmp_path / "logs")) == [run]
        shutil.rmtree(tmp_path / "logs")


def test_what_could_not_be_begun_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlogs, "MAX_RUNS", 3)
    logs = RunLogs(tmp_path)
    for run in (1, 2):
        said_by(logs, run)
    with monkeypatch.context() as full:
        full.setattr(runlogs, "FileIO", refuses)
        for run in range(3, 9):
            said_by(logs, run)
    said_by(logs, 9)
    assert sorted(runlogs.sizes(tmp_path)) == [1, 2, 9]


def said_by(logs: RunLogs, run: int) -> None:
    log = logs.of(run)
    log.write("log", "said")
    log.close()


def refuses(*_: object) -> None:
    raise OSError(errno.ENOSPC, "the disk is full")


def test_a_context_logs_in_plain_tests_and_in_simulations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @fr.asset(deps=["raw"])
    def a(context: fr.Context) -> None:
        context.log.info("counted", rows=3)

    caplog.set_level(logging.INFO)
    a(fr.Context("a", "", 1, 1, 0))
    with simulate(fr.Project([RAW, a])) as simulation:
        simulation.change("raw", "1")
        simulation.settle()
    assert [record.message for record in caplog.records] == ["counted rows=3"] * 2


PROJECT = """
import logging
import time
from pathlib import Path
import freshet as fr

days = fr.source("days", partitions=fr.static(["mon", "tue"]))


@fr.asset
def a(days: str, context: fr.Context) -> None:
    print("reading", context.partition)
    context.log.warning("few rows", rows=2)
    while not Path("go").exists():
        time.sleep(0.01)
    logging.info("done %s", 1)
    if context.partition == "tue":
        raise ValueError("no rows")


@fr.asset(deps=["days"], partitions=fr.static(["mon", "tue"]))
def silent() -> None: ...


project = fr.Project([days, a, silent])
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    text = PROJECT.replace("@fr.asset\n", '@fr.asset(partitions=fr.static(["mon", "tue"]))\n')
    (tmp_path / "project.py").write_text(text)
    yield found
    found.kill()


def test_at_the_command_line(place: Place) -> None:
    """Of a run, of an asset the newest, followed until it ends, by level, as JSON."""
    place.start()
    place.wait_for("GraphDeployed", "")
    assert place.freshet("emit", "days@mon", "--version", "1").returncode == 0
    started = place.wait_for("RunStarted", "")
    following = anyio.run(_follow, place, started.position)
    assert [line.split("  ", 1)[1] for line in following] == [
        "out      reading mon",
        "warning  few rows  rows=2",
        "info     done 1  logger=root",
    ]
    assert place.freshet("emit", "days@tue", "--version", "1").returncode == 0
    place.wait_for("RunFailed", "")
    assert "out      reading tue" in place.freshet("logs", "a").stdout
    assert "reading mon" in place.freshet("logs", "a@mon").stdout
    grave = place.freshet("logs", "a", "--level", "warning", "--json").stdout
    (line,) = [json.loads(line) for line in grave.splitlines()]
    del line["at"]
    assert line == {"stream": "log", "text": "few rows", "level": "warning", "fields": {"rows": 2}}
    why = place.freshet("why", "a@tue").stdout
    assert "what it said: freshet logs " in why
    silent = place.freshet("logs", "silent@mon")
    assert (silent.returncode, silent.stdout) == (0, "")
    assert "has said nothing" in silent.stderr
    for odd in ("nobody", "1", "99999"):
        assert place.freshet("logs", odd).returncode == 2
    _, err = place.stop()
    assert "reading mon" in err
    assert "done 1" not in err


async def _follow(place: Place, run: int) -> list[str]:
    command = [sys.executable, "-m", "freshet", "logs", str(run), "--follow"]
    lines: list[str] = []
    with anyio.fail_after(60):
        async with await anyio.open_process(command, cwd=place.folder) as process:
            assert process.stdout is not None
            text = ""
            async for data in process.stdout:
                text += data.decode()
                if "few rows" in text:
                    (place.folder / "go").touch()  # it was shown while the run still went on
            lines = text.splitlines()
    return lines


def test_a_secret_in_a_very_long_line_is_not_cut_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it lies to the place where the line is cut, and however it arrives."""
    monkeypatch.setattr(secrets, "_known", {})
    conceal("open-sesame-123")
    for before in range(0, 3 * MAX_LINE_CHARS, 1013):
        log = RunLogs(tmp_path / str(before)).of(1)
        text = "x" * before + "open-sesame-123" + "y" * 3 * MAX_LINE_CHARS
        for start in range(0, len(text), 4099):
            log.hear("stdout", text[start : start + 4099])
        log.close()
        said = "".join(line.text for _, line in read_log(path_of(tmp_path / str(before), 1)))
        assert "***" in said
        assert "sesame" not in said
        assert "open-" not in said
