"""The command line: what it prints, where, and with which exit code; with a daemon and without."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
import click
import pytest

from freshet.engine.cli.main import COMMANDS, Commands, cli, run
from freshet.engine.counts import counted
from freshet.engine.events import Recorded, RunAbandoned
from freshet.engine.socket import socket_path
from freshet.engine.sqlite_reader import SqliteReader

PROJECT = '''
import freshet as fr

DAYS = fr.daily("2024-01-01", opens="data")
flights = fr.source("landing/flights", partitions=DAYS, owners=["ops"])


@fr.asset(partitions=fr.daily("2024-01-01"), group="daily", tags={"tier": "gold"})
def delays(flights: str) -> int:
    """Characters in the file."""
    print("talk, not data")
    return len(flights)


@fr.asset(key="analytics/total", group="all")
def total(delays: dict[str, int]) -> int:
    return sum(delays.values())


@fr.asset(freshness=fr.manual())
def report(total: int) -> str:
    return f"total {total}"


project = fr.Project(
    assets=[flights, delays, total, report],
    sensors=[fr.files("landing/{partition}.csv", source=flights)],
    store=fr.LocalStore("data"),
)
'''

PATIENCE_S = 60
"""Bound on waits for another process that take milliseconds when nothing is wrong."""


def freshet(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command there, to its end; in the environment of the tests, or in this one."""
    return subprocess.run(
        [sys.executable, "-m", "freshet", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Place:
    """A project folder, the commands run in it, and its daemon."""

    environment: dict[str, str] | None = None
    """That of all commands, where it is not the one of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "project.py").write_text(PROJECT)
        (folder / "landing").mkdir(exist_ok=True)
        self.daemon: subprocess.Popen[str] | None = None

    def freshet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return freshet(self.folder, *arguments, environment=self.environment)

    def start(self, *options: str, **environment: str) -> None:
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "freshet", "run", "project.py", *options],
            cwd=self.folder,
            env={**(self.environment or os.environ), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> tuple[str, str]:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        out, err = self.daemon.communicate(timeout=PATIENCE_S)
        assert self.daemon.returncode == 0, err
        return out, err

    def kill(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.communicate()

    def land(self, day: str, content: str) -> None:
        (self.folder / "landing" / f"{day}.csv").write_text(content)

    def wait_for(self, kind: str, subject: str, count: int = 1) -> Recorded:
        """Follow the stream until the `count`th event of this type and asset is there."""
        return anyio.run(self._wait_for, kind, subject, count)

    async def _wait_for(self, kind: str, subject: str, count: int) -> Recorded:
        path = self.folder / ".freshet" / "stream.db"
        with anyio.fail_after(PATIENCE_S):
            while not path.exists():
                await anyio.sleep(0.01)
            async with SqliteReader.open(path) as stream:
                async for batch in stream.follow():
                    for recorded in batch:
                        event = recorded.event
                        named = getattr(event, "asset", subject) == subject
                        if type(event).__name__ == kind and named:
                            count -= 1
                            if not count:
                                return recorded
        raise AssertionError("the stream ended")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a daemon has built two days and was stopped."""
    place = Place(tmp_path_factory.mktemp("template"))
    place.land("2024-01-01", "abc")
    place.land("2024-01-02", "defgh")
    place.start()
    place.wait_for("Materialized", "delays", 2)
    place.wait_for("Materialized", "analytics/total")
    place.stop()
    return place.folder


@pytest.fixture
def built(template: Path, tmp_path: Path) -> Iterator[Place]:
    """A copy of the built folder, to do with as one likes."""
    shutil.copytree(template, tmp_path / "built")
    made = Place(tmp_path / "built")
    yield made
    made.kill()


def test_the_daemon_builds_what_lands_and_drains_on_sigterm(place: Place) -> None:  # A10, B4.1
    """Files become assets; stdout stays empty though assets print; the stop is recorded."""
    place.start()
    place.land("2024-01-01", "abc")
    place.wait_for("Materialized", "analytics/total")
    out, err = place.stop()
    assert out == ""
    assert "talk, not data" in err
    assert (place.folder / "data" / "delays" / "2024-01-01.json").read_text() == "3"
    assert (place.folder / "data" / "analytics" / "total.json").read_text() == "3"
    last = json.loads(place.freshet("events", "--json").stdout.splitlines()[-1])
    assert last["event"] == {"type": "EngineStopped", "reason": "SIGTERM"}


def test_audit_gives_account_of_every_change(built: Place) -> None:  # X1
    """What waits, for whom and why; and as JSON the same."""
    done = built.freshet("audit", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["changes"], found["unaccounted"]) == (2, 0)
    assert [(p["asset"], p["why"]) for p in found["pending"]] == [
        ("report", "it is manual, and nobody has asked for it")
    ]
    assert built.freshet("emit", "landing/flights@2024-01-02", "--version", "2").returncode == 0
    done = built.freshet("audit")
    assert "delays@2024-01-02 is waiting since position" in done.stdout
    assert "3 changes, 0 unaccounted for" in done.stderr


@pytest.mark.parametrize(("number", "said"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")])
def test_one_is_not_said_as_many(number: int, said: str) -> None:
    assert counted(number, "run") == said


def test_commands_say_one_of_a_kind_as_one(built: Place) -> None:
    """What a project has, what is not fresh, what a backfill would run."""
    assert "3 assets, 1 source, 1 sensor: all fits" in built.freshet("check", "project.py").stdout
    assert built.freshet("plan", "report").stderr.splitlines()[-1] == "1 partition is not fresh"
    planned = built.freshet("backfill", "report", "--dry-run")
    assert planned.stdout.splitlines()[-1].startswith("1 partition, "), planned


def test_the_sensor_of_files_passes_over_nothing(built: Place) -> None:
    """The daemon has recorded that, so it is refused without one."""
    name = "files:landing/{partition}.csv"
    done = built.freshet("sensors", "reset", name, "--from", "latest")
    assert done.returncode == 2
    assert f"sensor '{name}' cannot go on from 'latest'" in done.stderr


def test_observe_and_invalidate_are_recorded_and_make_stale(built: Place) -> None:  # T2
    """An observed version is news for what is below; a value declared wrong is built anew."""
    seen = built.freshet("observe", "analytics/total", "--version", "seen elsewhere")
    assert seen.returncode == 0
    assert json.loads(built.freshet("status", "report", "--json").stdout)["fresh"] is False
    wrong = built.freshet("invalidate", "delays@2024-01-01", "--reason", "a bad file")
    assert wrong.returncode == 0
    events = [
        json.loads(line)["event"] for line in built.freshet("events", "--json").stdout.splitlines()
    ]
    assert events[-2:] == [
        {
            "type": "Observed",
            "asset": "analytics/total",
            "data_version": "seen elsewhere",
        },
        {
            "type": "Invalidated",
            "targets": [["delays", "2024-01-01"]],
            "reason": "a bad file",
        },
    ]
    built.start()
    built.wait_for("Materialized", "delays", 3)
    built.stop()
    assert built.freshet("observe", "nothing", "--version", "1").returncode == 2
    assert built.freshet("observe", "report", "--version", "").returncode == 2
    assert built.freshet("invalidate", "landing/flights").returncode == 2


def test_a_second_daemon_is_refused_and_told_who_is_first(place: Place) -> None:
    """The pid and host of the first are named, and the exit code is 1."""
    place.start()
    place.wait_for("EngineStarted", "")
    assert place.daemon is not None
    second = place.freshet("run", "project.py")
    assert second.returncode == 1
    assert f"process {place.daemon.pid} on host {socket.gethostname()}" in second.stderr
    assert "hint: " in second.stderr
    place.stop()


SLOW = PROJECT.replace(
    '    print("talk, not data")\n',
    """
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
""",
).replace("import freshet as fr", "import pathlib\nimport time\n\nimport freshet as fr")


def test_who_goes_without_reading_the_answer_ends_no_daemon(place: Place) -> None:
    place.start()
    place.land("2024-01-01", "abc")
    place.wait_for("Materialized", "delays")
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(socket_path(place.folder / ".freshet")))
        asking.sendall(b'{"health":true}\n')
        assert select.select([asking], [], [], PATIENCE_S)[0] == [asking]
    assert place.freshet("health").returncode == 0
    place.stop()


def test_sigterm_lets_live_runs_finish(place: Place) -> None:  # B4.1
    """After SIGTERM nothing new starts, the live run ends and is recorded, and then the daemon."""
    (place.folder / "project.py").write_text(SLOW)
    place.land("2024-01-01", "abc")
    place.start()
    place.wait_for("RunStarted", "")
    assert place.daemon is not None
    place.daemon.send_signal(signal.SIGTERM)
    assert place.daemon.stderr is not None
    for line in place.daemon.stderr:
        if "waiting for live runs" in line:
            break
    (place.folder / "go").touch()
    place.daemon.communicate(timeout=PATIENCE_S)
    assert place.daemon.returncode == 0
    events = [
        json.loads(x)["event"]["type"]
        for x in place.freshet("events", "--json").stdout.split("\n")
        if x
    ]
    assert events[-3:] == ["Materialized", "RunSucceeded", "EngineStopped"]


def test_a_second_sigterm_stops_at_once_and_the_run_is_made_good(place: Place) -> None:  # B4.1
    """A run that is cut off is abandoned on the next start, and run again."""
    (place.folder / "project.py").write_text(SLOW)
    place.land("2024-01-01", "abc")
    place.start()
    started = place.wait_for("RunStarted", "")
    assert place.daemon is not None
    place.daemon.send_signal(signal.SIGTERM)
    assert place.daemon.stderr is not None
    for line in place.daemon.stderr:
        if "waiting for live runs" in line:
            break
    place.daemon.send_signal(signal.SIGTERM)
    place.daemon.communicate(timeout=PATIENCE_S)
    assert place.daemon.returncode == 0
    (place.folder / "go").touch()
    place.start()
    abandoned = place.wait_for("RunAbandoned", "")
    assert isinstance(abandoned.event, RunAbandoned)
    assert abandoned.event.run == started.position
    made = place.wait_for("Materialized", "delays")
    assert made.position > abandoned.position
    place.stop()


def test_status_says_yes_or_no_and_where(built: Place) -> None:  # D8, B1.6, A11
    """Counts per asset, the position it was computed at, and selection by
    pattern, group and tag.
    """
    report = json.loads(built.freshet("status", "--json").stdout)
    assert report["fresh"] is False  # the manual report has never been asked for
    rows = {row["asset"]: row for row in report["assets"]}
    assert (rows["delays"]["fresh"], rows["delays"]["total"]) == (2, 2)
    assert (rows["report"]["state"], rows["report"]["activity"]) == ("missing", "unwanted")
    for pattern, keys in (
        ("analytics/*", ["analytics/total"]),
        ("group:daily", ["delays"]),
        ("tag:tier=gold", ["delays"]),
        ("owner:ops", ["landing/flights"]),
    ):
        found = json.loads(built.freshet("status", pattern, "--json").stdout)
        assert [row["asset"] for row in found["assets"]] == keys
    one = built.freshet("status", "delays@2024-01-02")
    assert "delays@2024-01-02  fresh" in one.stdout
    assert "everything is fresh, at position" in one.stderr
    shown = built.freshet("status")
    assert "analytics/total" in shown.stdout
    assert "not everything is fresh" in shown.stderr


def test_why_leads_back_to_the_file_or_names_what_is_awaited(built: Place) -> None:  # B5.6
    """A built value: its run and the file. A waiting one: what it waits for
    and how to release it.
    """
    lines = built.freshet("why", "delays@2024-01-02").stdout.splitlines()
    assert lines[0] == "delays@2024-01-02 is fresh"
    assert "materialized as" in lines[1]
    assert "because run" in lines[2]
    assert "landing/flights@2024-01-02 changed to" in lines[3]
    assert "(landing/2024-01-02.csv)" in lines[3]
    waiting = built.freshet("why", "report").stdout
    assert "report is missing, unwanted" in waiting
    assert "nobody has asked for it" in waiting
    assert "freshet materialize report" in waiting
    answer = json.loads(built.freshet("why", "analytics/total", "--json").stdout)
    assert answer["status"]["state"] == "fresh"
    assert any("landing/flights@" in step["text"] for step in answer["steps"])


def test_wishes_go_in_without_a_daemon_and_are_carried_out_by_the_next(built: Place) -> None:  # D17
    """materialize and emit take the writer's place; a daemon started later does the work once."""
    assert built.freshet("materialize", "report", "--reason", "weekly").returncode == 0
    assert built.freshet("emit", "landing/flights@2024-02-01", "--version", "7").returncode == 0
    demanded = json.loads(built.freshet("events", "--json").stdout.splitlines()[-2])
    assert demanded["event"]["reason"] == "weekly"
    assert demanded["actor"].startswith("cli:")
    built.start()
    built.wait_for("Materialized", "report")
    built.wait_for("Materialized", "delays", 3)
    built.stop()
    assert (built.folder / "data" / "report.txt").read_text().startswith("total ")


def test_wishes_go_through_the_daemon_that_runs(built: Place) -> None:
    """materialize, pause and resume reach a live daemon by its socket, and it obeys."""
    built.start()
    built.wait_for("EngineStarted", "", 2)
    assert built.freshet("materialize", "report").returncode == 0
    built.wait_for("Materialized", "report")
    assert built.freshet("pause", "group:daily", "--reason", "repair").returncode == 0
    built.land("2024-01-03", "later")
    built.wait_for("SourceChanged", "landing/flights", 3)
    assert built.freshet("resume", "group:daily").returncode == 0
    done = built.wait_for("Materialized", "delays", 3)
    resumed = built.wait_for("Resumed", "")
    assert done.position > resumed.position
    again = built.freshet("resume", "group:daily")
    assert again.returncode == 2
    assert "is not paused" in again.stderr
    built.stop()


def test_status_is_answered_by_the_daemon_and_odd_requests_end_nothing(built: Place) -> None:
    """What it says is what the stream says; a request out of all bounds gets an answer."""
    alone = built.freshet("status", "delays", "--json")
    built.start()
    built.wait_for("EngineStarted", "", 2)
    with_daemon = built.freshet("status", "delays", "--json")
    both = [json.loads(found.stdout) for found in (alone, with_daemon)]
    assert both[0]["partitions"] == both[1]["partitions"]
    assert both[0]["matrix"] == both[1]["matrix"]
    path = socket_path(built.folder / ".freshet")
    for limit in (-1, 0, 10**18, 10**30):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            request = {"status": {"target": "delays", "limit": limit}}
            client.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(client.makefile().readline())
            assert "report" in answer or answer["error"]
    assert built.freshet("status", "dellays").returncode == 2
    built.stop()


def test_history_events_graph_impact_and_verify_read_the_folder_alone(built: Place) -> None:  # T9
    """Every reading verb works with no daemon and without the user's code."""
    (built.folder / "project.py").unlink()
    history = [
        json.loads(x) for x in built.freshet("history", "delays", "--json").stdout.splitlines()
    ]
    assert sorted(x["event"]["partition"] for x in history) == ["2024-01-01", "2024-01-02"]
    assert all(x["event"]["metadata"]["bytes"] == 1 for x in history)
    rows = json.loads(built.freshet("graph", "--json").stdout)
    assert [(r["asset"], r["upstream"]) for r in rows] == [
        ("landing/flights", []),
        ("delays", ["landing/flights"]),
        ("analytics/total", ["delays"]),
        ("report", ["analytics/total"]),
    ]
    assert rows[1]["description"] == "Characters in the file."
    assert built.freshet("impact", "delays").stdout.split() == ["analytics/total", "report"]
    events = built.freshet("events", "--after", "2", "--limit", "3").stdout.splitlines()
    assert [line.split()[0] for line in events] == ["3", "4", "5"]
    assert "all as they were recorded" in built.freshet("verify").stdout
    assert "GraphDeployed" in built.freshet("events").stdout


def test_check_has_no_side_effect_and_names_what_is_wrong(place: Place) -> None:  # B7.5
    """A good project exits 0 and leaves nothing behind; a broken one exits 1
    with asset and file.
    """
    good = place.freshet("check", "project.py")
    assert (good.returncode, "all fits" in good.stdout) == (0, True)
    assert not (place.folder / ".freshet").exists()
    source = place.folder / "project.py"
    source.write_text(PROJECT.replace("def delays(flights:", "def delays(flihgts:"))
    bad = place.freshet("check", "project.py")
    assert bad.returncode == 1
    assert "error: parameter 'flihgts' of asset 'delays' is no asset" in bad.stderr
    assert "project.py:" in bad.stderr
    assert "hint: did you mean 'flights'?" in bad.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def broken(:", "SyntaxError"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("1 / 0", "ZeroDivisionError"),
        ("int('x')", "ValueError"),
        ("import sys; sys.exit(3)", "SystemExit"),
    ],
)
def test_code_that_cannot_be_imported_is_named_with_its_line(
    place: Place, content: str, words: str
) -> None:
    """The file and line of the user's own code, by path or by module, no traceback, exit 1."""
    (place.folder / "project.py").write_text("\n\n" + content)
    for target in ("project.py", "project:project"):
        bad = place.freshet("check", target)
        assert bad.returncode == 1
        assert "project.py:3" in bad.stderr
        assert words in bad.stderr
        assert "Traceback" not in bad.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["statsu"], "there is no command 'statsu'", "did you mean 'status'?"),
        (["status", "--jsno"], "--jsno", "--json"),
        (["status", "delay"], "there is no asset 'delay'", "did you mean 'delays'?"),
        (["why", "delays@2024-01-09"], "no partition '2024-01-09'", "did you mean '2024-01-0"),
        (["why", "delays"], "'delays' has partitions", "delays@2024-01-0"),
        (["why", "a b"], "bad segment", "ASSET@PARTITION"),
        (["materialize", "landing/flights"], "is a source", "freshet emit"),
        (["materialize", "delays@monday"], "no partition 'monday'", ""),
        (["emit", "delays@2024-01-01", "--version", "1"], "is no source", "freshet materialize"),
        (["emit", "landing/flights@2023-12-31", "--version", "1"], "no partition", ""),
        (["pause", "group:dayly"], "no asset and no group", "did you mean 'group:daily'?"),
        (["run", "nowhere.py"], "there is no file 'nowhere.py'", "for example"),
        (["run", "no module"], "'no module' is no module name", "for example"),
        (["run", "no.such.module"], "there is no module 'no.such.module'", "for example"),
        (["check", "project.py:wrong"], "no project named 'wrong'", "fr.Project"),
        (["events", "--after", "-1"], "-1", ""),
        (["status", "--state", "elsewhere"], "there is no stream in 'elsewhere'", "freshet run"),
    ],
)
def test_what_does_not_exist_is_an_error_with_a_hint(
    built: Place, arguments: list[str], error: str, hint: str
) -> None:
    """Exit code 2, the three lines on stderr, nothing on stdout, nothing appended."""
    before = built.freshet("events").stdout
    result = built.freshet(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert error in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert built.freshet("events").stdout == before


def test_a_damaged_stream_is_named_and_left_as_it_is(built: Place) -> None:
    """A byte changed in the middle: status and run exit 1 with the position;
    the file is untouched.
    """
    path = built.folder / ".freshet" / "stream.db"
    data = bytearray(path.read_bytes())
    at = data.rindex(b'"type":"SourceChanged"') + 10
    data[at] ^= 1
    path.write_bytes(data)
    for arguments in (["status"], ["run", "project.py"], ["verify"]):
        result = built.freshet(*arguments)
        assert result.returncode == 1, arguments
        assert "damaged at position" in result.stderr
        assert path.read_bytes() == bytes(data)


def test_a_pipe_that_is_closed_early_is_no_error(built: Place) -> None:
    """`freshet events | head -1` prints one line and no traceback."""
    command = f"{sys.executable} -m freshet events --json | head -1"
    result = subprocess.run(
        command,
        shell=True,
        cwd=built.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_the_help_of_each_command_is_what_the_list_says() -> None:
    """The list that spares importing the commands tells the truth about each of them."""
    context = click.Context(cli)
    for name, (_, text) in COMMANDS.items():
        command = Commands.get_command(cli, context, name)
        assert command is not None
        assert command.name == name
        assert command.help is not None
        assert (
            command.help.splitlines()[0].rstrip(".").startswith(text.rstrip(".").split(":")[0][:20])
        )


def test_help_and_version_exit_zero(capsys: pytest.CaptureFixture[str]) -> None:
    """Both print to stdout."""
    assert run(["--help"]) == 0
    assert "materialize" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("freshet ")


def test_a_state_folder_that_cannot_be_written_is_refused_but_can_be_read(built: Place) -> None:
    """A state folder in the place of a file, or made read-only for others: a clear error."""
    (built.folder / "taken").write_text("a file")
    result = built.freshet("run", "project.py", "--state", "taken")
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert os.listdir(built.folder / ".freshet")
