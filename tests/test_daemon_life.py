"""The daemon as a service: its health, its word to the service manager, and reloads, with real
processes, signals and sockets.
"""

import configparser
import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from freshet.engine.cli.daemon import unit
from freshet.engine.notify import MAX_STATUS_CHARS, VARIABLES, Notifier
from freshet.engine.reports import MIN_FREE_BYTES, Fault, Vitals, health_of
from freshet.engine.running import GRACE_S
from freshet.engine.socket import socket_path
from freshet.projections.sensors import SensorRow
from tests.test_cli import PATIENCE_S, PROJECT, Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.kill()


def started(place: Place, *options: str, **environment: str) -> None:
    """With one day built."""
    place.land("2024-01-01", "abc")
    place.start(*options, **environment)
    place.wait_for("RunSucceeded", "")
    place.wait_for("Materialized", "analytics/total")


# --- reload ---------------------------------------------------------------------------------------


def test_sighup_loads_the_project_anew_with_its_modules(place: Place) -> None:
    """The function, from a module of the project, is the new one; the same process goes on."""
    (place.folder / "counting.py").write_text("FACTOR = 1\n")
    text = "from counting import FACTOR\n" + PROJECT.replace(
        "return len(flights)", "return FACTOR * len(flights)"
    )
    (place.folder / "project.py").write_text(text)
    started(place)
    (place.folder / "counting.py").write_text("FACTOR = 7\n")
    (place.folder / "project.py").write_text(text.replace("FACTOR *", "FACTOR * 1 *"))
    assert place.daemon is not None
    place.daemon.send_signal(signal.SIGHUP)
    place.wait_for("GraphDeployed", "", 2)
    place.wait_for("Materialized", "delays", 2)
    assert (place.folder / "data" / "delays" / "2024-01-01.json").read_text() == "21"
    _, err = place.stop()
    assert "reloaded" in err
    started_events = [
        line for line in place.freshet("events").stdout.splitlines() if "EngineStarted" in line
    ]
    assert len(started_events) == 1


def test_a_reload_tells_what_came_of_it_or_why_nothing_did(place: Place) -> None:
    """Exit code 0 with what changed; 1 with the error, which health and status show until the next
    good one.
    """
    started(place)
    project = place.folder / "project.py"
    done = place.freshet("reload")
    assert (done.returncode, done.stdout) == (0, "reloaded: the definitions are the same\n")
    project.write_text(PROJECT.replace("total: int", "totl: int"))
    done = place.freshet("reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "totl" in done.stderr
    assert "hint: " in done.stderr
    health = place.freshet("health")
    assert health.returncode == 0
    assert "warning: the last reload failed, older definitions are live: " in health.stdout
    assert "note: the last reload failed" in place.freshet("status").stdout
    project.write_text(
        PROJECT.replace(
            'fr.daily("2024-01-01"), group', 'fr.daily("2024-01-01"), owners=["me"], group'
        )
    )
    done = place.freshet("reload", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["deployed"], report["changed"]) == (0, True, ["delays"])
    assert "warning" not in place.freshet("health").stdout
    assert "note:" not in place.freshet("status").stdout


def test_without_a_daemon_nothing_is_reloaded_and_nothing_is_well(place: Place) -> None:
    done = place.freshet("reload")
    assert done.returncode == 2
    assert "no daemon answers for '.freshet'" in done.stderr
    done = place.freshet("health")
    assert (done.returncode, done.stdout) == (1, "not ok: no daemon answers for '.freshet'\n")
    done = place.freshet("health", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)


# --- health ---------------------------------------------------------------------------------------

WELL = Vitals(
    version="1",
    pid=7,
    position=10,
    head=10,
    now_us=5_000_000,
    acted_at_us=2_000_000,
    runs=0,
    sensors=(),
    free_bytes=1 << 30,
)


def row(state: str, error: str = "") -> SensorRow:
    return SensorRow("files", ("s",), state, 0, None, 0, 0, error)  # type: ignore[arg-type]  # a word


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({}, ()),
        ({"position": 8}, ("the loop stands still: 2 recorded events not folded",)),
        ({"free_bytes": None}, ()),
        (
            {"free_bytes": MIN_FREE_BYTES - 1},
            (
                f"nothing can be recorded: {MIN_FREE_BYTES - 1} bytes are free on the disk of the"
                " state folder",
            ),
        ),
        ({"refusal": "the disk is full"}, ("nothing can be recorded: the disk is full",)),
        ({"draining": True, "runs": 2}, ("it is stopping, and waits for 2 runs",)),
        ({"sensors": (row("running"), row("paused"), row("starting"))}, ()),
        ({"sensors": (row("halted", "moved"),)}, ("sensor files is halted: moved",)),
        ({"sensors": (row("retrying", "away"),)}, ("sensor files is retrying: away",)),
        ({"sensors": (row("running", "slow"),)}, ("sensor files is hindered: slow",)),
        ({"reload_fault": Fault("odd")}, ()),
    ],
)
def test_a_daemon_is_well_unless_something_is_wrong(
    changed: dict[str, object], problems: tuple[str, ...]
) -> None:
    found = health_of(
        Vitals(**{**{f: getattr(WELL, f) for f in WELL.__struct_fields__}, **changed})
    )
    assert (found.ok, found.problems) == (not problems, problems)


def test_health_says_what_was_seen() -> None:
    found = health_of(WELL)
    assert (found.decided_ms_ago, found.can_write, found.warnings) == (3000, True, ())


def test_a_daemon_that_does_not_answer_is_as_good_as_none(place: Place) -> None:
    """One that hangs does not hang those who ask how it is."""
    state = place.folder / ".freshet"
    state.mkdir()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(socket_path(state)))
        mute.listen()
        done = place.freshet("health")
    assert (done.returncode, done.stdout) == (1, "not ok: no daemon answers for '.freshet'\n")


def test_health_of_a_daemon_that_is_well_and_of_one_with_a_failing_sensor(place: Place) -> None:
    """Exit code 0, then 1 with the sensor's name and error."""
    sensor = """
@fr.sensor(sources=[flights])
async def odd(cursor):
    import pathlib
    if pathlib.Path("broken").exists():
        raise ValueError("the feed is odd")
    yield fr.Batch()
    import anyio
    await anyio.sleep_forever()


project ="""
    text = PROJECT.replace("project =", sensor).replace("    sensors=[", "    sensors=[odd, ")
    (place.folder / "project.py").write_text(text)
    started(place)
    done = place.freshet("health", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["problems"]) == (0, True, [])
    assert place.freshet("health").stdout.startswith("ok: pid ")
    (place.folder / "broken").touch()
    place.freshet("pause", "sensor:odd")
    place.freshet("resume", "sensor:odd")
    place.wait_for("SensorFailed", "")
    done = place.freshet("health")
    assert done.returncode == 1
    assert done.stdout.startswith("not ok: pid ")
    assert "sensor odd is retrying: ValueError: the feed is odd" in done.stdout


# --- systemd --------------------------------------------------------------------------------------


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def silent(self) -> None:
        """Pass over what was said before, and see that nothing more comes for a second."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.heard()
        self.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            self.heard()
        self.socket.settimeout(PATIENCE_S)

    def heard(self) -> dict[str, str]:
        """The next message."""
        lines = self.socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, variable: str) -> dict[str, str]:
        while True:
            message = self.heard()
            if variable in message:
                return message


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@freshet-test-{os.getpid()}"


def test_the_service_manager_is_told_of_start_reload_and_stop(place: Place, address: str) -> None:
    """READY once it answers; RELOADING with the time, then READY again, also when nothing loads;
    STOPPING at the end.
    """
    with Manager(address) as manager:
        place.start(NOTIFY_SOCKET=address)
        ready = manager.heard()
        assert ready["READY"] == "1"
        assert ready["STATUS"].startswith("3 assets at position ")
        assert place.freshet("health").returncode == 0
        assert place.daemon is not None
        for content in (PROJECT, "1 / 0"):
            (place.folder / "project.py").write_text(content)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            place.daemon.send_signal(signal.SIGHUP)
            reloading = manager.heard()
            assert reloading["RELOADING"] == "1"
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            ready = manager.heard()
            assert ready["READY"] == "1"
        assert "the last reload failed" in ready["STATUS"]
        place.stop()
        assert manager.heard()["STOPPING"] == "1"


def test_the_watchdog_hears_of_a_loop_that_turns_and_of_no_other(place: Place) -> None:
    """Signs of life come at half its time, and none while the process stands still."""
    address = f"@freshet-watch-{os.getpid()}"
    with Manager(address) as manager:
        place.start(NOTIFY_SOCKET=address, WATCHDOG_USEC="200000")
        for _ in range(3):
            manager.wait_for("WATCHDOG")
        assert place.daemon is not None
        place.daemon.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, place.daemon.pid, os.WSTOPPED)
        manager.silent()
        place.daemon.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG")


def test_nothing_is_said_where_nobody_listens(tmp_path: Path) -> None:
    """No socket, a dead one, one of another kind; the environment is cleared for children."""
    for address in ("", str(tmp_path / "nobody"), "vsock:2:1"):
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "HOME": "/"}
        notifier = Notifier.of(environment)
        notifier.ready("x")
        notifier.stopping("x")
        assert environment == {"HOME": "/"}
        assert (notifier.watchdog_s is not None) == address.startswith("/")


def test_the_watchdog_of_another_process_is_none_of_ours() -> None:
    one = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000"}
    assert Notifier.of({**one, "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 1.0
    assert Notifier.of({**one, "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier.of({**one, "WATCHDOG_USEC": "soon"}).watchdog_s is None
    assert set(VARIABLES) == {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}


def test_a_status_is_one_short_line(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with Manager(address) as manager:
        Notifier(address).ready("odd\nREADY=0\n" + "x" * 10_000)
        message = manager.heard()
    assert message["READY"] == "1"
    assert message["STATUS"].startswith("odd READY=0 xxx")
    assert len(message["STATUS"]) == MAX_STATUS_CHARS


def test_the_unit_runs_the_project_of_this_folder(place: Place) -> None:
    """Absolute paths; it waits longer than live runs may; its command is the one that works."""
    printed = place.freshet("systemd-unit", "project.py")
    assert printed.returncode == 0, printed.stderr
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # keep upper case
    parsed.read_string(printed.stdout)
    service = dict(parsed["Service"])
    folder = str(place.folder)
    assert service["Type"] == "notify"
    assert service["WorkingDirectory"] == folder
    words = shlex.split(service["ExecStart"])
    assert Path(words[0]).is_absolute()
    assert words[1:] == ["-m", "freshet", "run", "project.py", "--state", f"{folder}/.freshet"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (service["Restart"], service["KillMode"]) == ("on-failure", "mixed")
    assert int(service["TimeoutStopSec"]) > GRACE_S
    assert place.freshet("systemd-unit", "nowhere.py").returncode == 2


def test_a_unit_holds_odd_paths() -> None:
    """Blanks are quoted, and nothing is taken for a specifier or a variable of systemd's."""
    text = unit("a b.py", Path("/srv/100%"), Path("/var/$x"), Path("/opt/my py/bin/python"), "")
    assert 'ExecStart="/opt/my py/bin/python" -m freshet run "a b.py" --state "/var/$$x"' in text
    assert "WorkingDirectory=/srv/100%%\n" in text
