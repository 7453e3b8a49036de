"""`freshet sensors`: how each sensor is, what it rejected, and what people ask of it; from the
stream alone, and with a daemon that reads them.
"""

import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import freshet as fr
from freshet.engine.cli.main import run
from freshet.engine.cli.sensors import MAX_WELL
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    EngineStarted,
    GraphDeployed,
    MessageRejected,
    MessageSettled,
    Recorded,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
)
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.valves import actor_of
from freshet.sensors.sensor import REPLAY, START
from tests.test_cli import PATIENCE_S, Place

Captured = pytest.CaptureFixture[str]

SENSORS: dict[str, tuple[str, ...]] = {
    "orders": ("shop/orders",),
    "files": ("landing",),
    "idle": ("landing",),
}
"""The sensors of the project whose stream the tests without a daemon write."""

REJECTED = tuple(MessageRejected("orders", f"orders/0/{n}", f"reason {n}") for n in range(4))


class Stream:
    """A state folder that a daemon has left, and the commands run on it in this process."""

    def __init__(self, folder: Path, capsys: Captured) -> None:
        self.folder = folder
        self.capsys = capsys
        orders, landing = fr.source("shop/orders"), fr.source("landing")

        @fr.asset
        def total(orders: str) -> str:
            return orders

        project = fr.Project([orders, landing, total])
        graph = GraphDeployed(project.graph.digest, tuple(project.graph.specs.values()))
        self.append(EngineStarted("1", sensors=SENSORS), graph)

    def append(self, *events: AnyEvent, by: str | None = None) -> None:
        async def record() -> None:
            async with SqliteStream.open(self.folder / "stream.db") as stream:
                await stream.append(events, actor=actor_of(by) if by else None)

        anyio.run(record)

    def cursor(self, sensor: str) -> dict[str, str]:
        async def read() -> dict[str, str]:
            async with SqliteReader.open(self.folder / "stream.db") as stream:
                return dict(await stream.cursor(sensor))

        return anyio.run(read)

    def last(self) -> Recorded:
        async def read() -> Recorded | None:
            async with SqliteReader.open(self.folder / "stream.db") as stream:
                return await stream.at(stream.head)

        found = anyio.run(read)
        assert found is not None
        return found

    def freshet(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self.capsys.readouterr()
        code = run([*arguments, "--state", str(self.folder)])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: str) -> Any:
        code, out, err = self.freshet(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def stream(tmp_path: Path, capsys: Captured) -> Stream:
    return Stream(tmp_path, capsys)


# --- listing, without a daemon --------------------------------------------------------------------


def test_each_sensor_of_the_project_is_listed_with_stable_names(stream: Stream) -> None:
    """The exact fields of `--json`, in their order; what nobody reads is stopped."""
    stream.append(
        SourceChanged("shop/orders", "", "1"),
        SourceChanged("shop/orders", "", "2"),
        *REJECTED[:2],
        CursorMoved("orders", {"at": "2"}),
        by="orders",
    )
    seen = stream.last().recorded_at
    rows = stream.json("sensors")
    assert list(rows[0].items()) == [
        ("sensor", "orders"),
        ("sources", ["shop/orders"]),
        ("state", "stopped"),
        ("seen_us", seen),
        ("behind", None),
        ("changes", 2),
        ("rejected", 2),
        ("error", ""),
        ("hint", ""),
    ]
    assert [row["sensor"] for row in rows] == list(SENSORS)


def test_a_sensor_that_has_recorded_nothing_was_never_seen(stream: Stream) -> None:
    """Neither a wrong age nor an error."""
    code, out, err = stream.freshet("sensors")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == [
        "sensor", "sources", "state", "seen", "behind", "changes", "rejected",
    ]  # fmt: skip
    assert out.splitlines()[3].split() == ["idle", "landing", "stopped", "never", "0", "0"]


@pytest.mark.parametrize(("halted", "state"), [(False, "failed"), (True, "halted")])
def test_what_ended_badly_says_so_without_a_daemon(
    stream: Stream, halted: bool, state: str
) -> None:
    """Its error and hint stand below the table, in full."""
    error, hint = "no such topic " + "x" * 400, "choose [one]"
    stream.append(SensorFailed("orders", error, hint, halted), by="orders")
    assert stream.json("sensors")[0]["state"] == state
    _, out, _ = stream.freshet("sensors")
    assert out.splitlines()[4:] == ["orders:", f"  error: {error}", f"  hint: {hint}"]


def test_what_is_only_hindered_has_an_error_and_rejects_nothing(stream: Stream) -> None:
    """It has not failed: nobody reads it now, and something was wrong when somebody did."""
    stream.append(SensorFailed("files", "a is missing", "make it", hindered=True), by="files")
    row = stream.json("sensors")[1]
    assert (row["state"], row["error"], row["hint"]) == ("stopped", "a is missing", "make it")
    assert row["rejected"] == 0
    assert "  error: a is missing\n  hint: make it" in stream.freshet("sensors")[1]


def test_what_works_again_has_no_error(stream: Stream) -> None:
    """`SensorRecovered` ends the episode in the list, too."""
    stream.append(SensorFailed("orders", "no", "", True), by="orders")
    stream.append(SensorRecovered("orders"), by="orders")
    row = stream.json("sensors")[0]
    assert (row["state"], row["error"]) == ("stopped", "")


def test_a_halted_sensor_always_names_a_command_that_exists(stream: Stream) -> None:
    """Also one whose sensor gave no hint: each choice it names is taken by the command line."""
    stream.append(SensorFailed("orders", "lost", "", True), by="orders")
    (hint,) = [x for x in stream.freshet("sensors")[1].splitlines() if x.startswith("  hint: ")]
    words = shlex.split(hint.removeprefix("  hint: "))
    assert words[0] == "freshet"
    for choice in words[-1].split("|"):
        assert stream.freshet(*words[1:-1], choice)[0] == 0
        assert stream.cursor("orders") == {START: choice}


def test_a_project_without_sensors_has_an_empty_list(tmp_path: Path, capsys: Captured) -> None:
    """And text that says so on stderr, none on stdout."""
    (tmp_path / "x").mkdir()
    stream = Stream(tmp_path / "x", capsys)
    stream.append(EngineStarted("1"))
    assert stream.json("sensors") == []
    code, out, err = stream.freshet("sensors")
    assert (code, out) == (0, "")
    assert "no sensor is known" in err


# --- rejections -----------------------------------------------------------------------------------


def test_rejections_are_listed_with_stable_names_the_newest_last(stream: Stream) -> None:
    """Of all sensors in the order of the stream; what is settled is not among them."""
    stream.append(*REJECTED[:2], by="orders")
    first = stream.last().position - 1
    odd = MessageRejected("files", "a/b.csv", "no date", "id,am", {"path": "a/b.csv"})
    stream.append(odd, by="files")
    seen = stream.last().recorded_at
    stream.append(REJECTED[2], MessageSettled("orders", "orders/0/0"), by="orders")
    rows = stream.json("sensors", "--rejected")
    assert [row["item"] for row in rows] == ["orders/0/1", "a/b.csv", "orders/0/2"]
    assert list(rows[1].items()) == [
        ("sensor", "files"),
        ("item", "a/b.csv"),
        ("position", first + 2),
        ("rejected_at_us", seen),
        ("reason", "no date"),
        ("excerpt", "id,am"),
        ("metadata", {"path": "a/b.csv"}),
        ("replay", False),
    ]


def test_rejections_of_one_sensor_are_no_others(stream: Stream) -> None:
    """`--rejected NAME`, also of a sensor that has none."""
    stream.append(REJECTED[0], MessageRejected("files", "a.csv", "odd"))
    assert [row["item"] for row in stream.json("sensors", "--rejected", "files")] == ["a.csv"]
    assert stream.json("sensors", "--rejected", "idle") == []
    assert "nothing is rejected" in stream.freshet("sensors", "--rejected", "idle")[2]


def test_a_limit_leaves_the_newest_and_the_count(stream: Stream) -> None:
    """What is not shown is still counted."""
    stream.append(*REJECTED)
    rows = stream.json("sensors", "--rejected", "--limit", "2")
    assert [row["item"] for row in rows] == ["orders/0/2", "orders/0/3"]
    _, out, err = stream.freshet("sensors", "--rejected", "orders", "--limit", "2")
    assert len(out.splitlines()) == 3
    assert "2 of 4 rejected" in err
    assert "freshet sensors replay orders --all" in err


def test_what_is_rejected_again_is_one_rejection_the_newest(stream: Stream) -> None:
    """As after a replay that did not help."""
    stream.append(*REJECTED[:2], MessageRejected("orders", "orders/0/0", "still bad"))
    rows = stream.json("sensors", "--rejected", "orders")
    assert [(row["item"], row["reason"]) for row in rows] == [
        ("orders/0/1", "reason 1"),
        ("orders/0/0", "still bad"),
    ]


def test_a_terminal_is_shown_what_was_rejected_and_obeys_none_of_it(stream: Stream) -> None:
    """Brackets, emoji names, escapes and line ends come out as they are, on one line."""
    stream.append(MessageRejected("orders", "o/[/x]", "bad \x1b[31m\nline", "[/red] :smile: {}"))
    for arguments in (("sensors", "--rejected"), ("events",)):
        _, out, _ = stream.freshet(*arguments)
        line = out.splitlines()[-1]
        assert "o/[/x]" in line
        assert r"bad \x1b[31m\nline" in line
        assert "\x1b" not in out
    assert "[/red] :smile: {}" in stream.freshet("sensors", "--rejected")[1]


# --- replay and reset, without a daemon -----------------------------------------------------------


def test_replay_asks_for_the_items_named_each_once(stream: Stream) -> None:
    """Recorded for who asked, and nothing else; the sensor will see it in its cursor."""
    stream.append(*REJECTED, CursorMoved("orders", {"at": "4"}), by="orders")
    before = stream.last().position
    asked = ["orders/0/2", "orders/0/0", "orders/0/2"]
    code, out, err = stream.freshet("sensors", "replay", "orders", *asked)
    assert (code, out) == (0, "")
    assert err == (
        f"recorded at position {before + 1}: orders looks again at 2 items, once a daemon runs\n"
    )
    last = stream.last()
    assert last.position == before + 1
    assert last.event == CursorMoved(
        "orders", {f"{REPLAY}orders/0/2": "", f"{REPLAY}orders/0/0": ""}
    )
    assert (last.actor or "").startswith("cli:")
    rows = stream.json("sensors", "--rejected", "orders")
    assert [row["replay"] for row in rows] == [True, False, True, False]


def test_replay_of_all_asks_for_what_is_not_settled(stream: Stream) -> None:
    """Of this sensor alone."""
    stream.append(*REJECTED[:3], MessageSettled("orders", "orders/0/1"), by="orders")
    stream.append(MessageRejected("files", "a.csv", "odd"), by="files")
    assert stream.freshet("sensors", "replay", "orders", "--all")[0] == 0
    assert stream.cursor("orders") == {f"{REPLAY}orders/0/{n}": "" for n in (0, 2)}


def test_replay_of_all_of_nothing_records_nothing(stream: Stream) -> None:
    """And says so: it is no error."""
    before = stream.last().position
    code, out, err = stream.freshet("sensors", "replay", "files", "--all")
    assert (code, out) == (0, "")
    assert "nothing to look at" in err
    assert stream.last().position == before


@pytest.mark.parametrize("start", ["earliest", "latest", "resume"])
def test_reset_records_where_to_go_on(stream: Stream, start: str) -> None:
    """One event, by who asked; the cursor itself stays, for the sensor to read."""
    stream.append(CursorMoved("orders", {"at": "4"}), by="orders")
    code, out, err = stream.freshet("sensors", "reset", "orders", "--from", start)
    assert (code, out) == (0, "")
    assert err.endswith(f"orders goes on from '{start}', once a daemon runs\n")
    last = stream.last()
    assert last.event == CursorMoved("orders", {START: start})
    assert (last.actor or "").startswith("cli:")
    assert stream.cursor("orders") == {"at": "4", START: start}


@pytest.mark.parametrize("command", [["reset", "--from", "resume"], ["replay", "--all"]])
def test_a_halted_sensor_is_halted_no_more_once_somebody_has_chosen(
    stream: Stream, command: list[str]
) -> None:
    """Also while no daemon runs, which then only waits to be started; until it halts again."""
    lost = SensorFailed("orders", "lost", "choose", True)
    stream.append(REJECTED[0], lost, by="orders")
    assert stream.json("sensors")[0]["state"] == "halted"
    assert stream.freshet("sensors", command[0], "orders", *command[1:])[0] == 0
    row = stream.json("sensors")[0]
    assert (row["state"], row["error"], row["hint"]) == ("stopped", "", "")
    stream.append(lost, by="orders")
    assert stream.json("sensors")[0]["state"] == "halted"


def test_a_sensor_that_passes_over_nothing_is_not_asked_to(stream: Stream) -> None:
    """It would be dropped without a word; the other starts are as good as with any sensor."""
    stream.append(EngineStarted("1", sensors=SENSORS, without_latest=("files",)))
    before = stream.last().position
    code, _, err = stream.freshet("sensors", "reset", "files", "--from", "latest")
    assert (code, stream.last().position) == (2, before)
    assert "sensor 'files' cannot go on from 'latest'" in err
    assert "--from earliest" in err.partition("hint: ")[2]
    for sensor, start in (("files", "earliest"), ("files", "resume"), ("orders", "latest")):
        assert stream.freshet("sensors", "reset", sensor, "--from", start)[0] == 0


def test_a_sensor_no_longer_in_the_project_can_still_be_asked(stream: Stream) -> None:
    """It is known from what it recorded, and may come back."""
    stream.append(MessageRejected("older", "x/1", "odd"), by="older")
    assert stream.freshet("sensors", "replay", "older", "x/1")[0] == 0
    assert [row["item"] for row in stream.json("sensors", "--rejected")] == ["x/1"]


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["--rejected", "ordres"], "there is no sensor 'ordres'", "did you mean 'orders'?"),
        (["--rejected", "zzz"], "known are orders, files, idle", "once the daemon"),
        (["replay", "fils", "--all"], "there is no sensor 'fils'", "did you mean 'files'?"),
        (["replay", "orders", "orders/0/7"], "'orders/0/7'", "did you mean 'orders/0/"),
        (["replay", "orders", "zzz"], "orders/0/3, orders/0/2", "sensors --rejected orders"),
        (["replay", "orders", "orders/0/1", "zzz"], "'zzz'", "sensors --rejected orders"),
        (["replay", "files", "x"], "rejected are none", "sensors --rejected files"),
        (["replay", "orders"], "no item is named", "--all"),
        (["replay", "orders", "orders/0/1", "--all"], "--all and 1 item at once", "or give --all"),
        (["reset", "order", "--from", "latest"], "no sensor 'order'", "did you mean 'orders'?"),
        (["reset", "orders"], "--from", "freshet sensors reset --help"),
        (["reset", "orders", "--from", "newest"], "'newest'", "freshet sensors reset --help"),
        (["--json", "reset", "orders", "--from", "latest"], "'--json'", "sensors reset --help"),
        (["--limit", "3", "replay", "orders", "--all"], "'--limit'", "sensors replay --help"),
        (["orders"], "'orders'", "freshet sensors --help"),
    ],
)
def test_what_makes_no_sense_is_an_error_and_records_nothing(
    stream: Stream, arguments: list[str], error: str, hint: str
) -> None:
    """Exit code 2, the error and what to do on stderr, nothing on stdout."""
    stream.append(*REJECTED, by="orders")
    before = stream.last().position
    code, out, err = stream.freshet("sensors", *arguments)
    assert (code, out) == (2, "")
    assert error in err
    assert hint in err.partition("hint: ")[2]
    assert stream.last().position == before


# --- status and events ----------------------------------------------------------------------------


def test_status_names_each_sensor_that_somebody_must_look_after(stream: Stream) -> None:
    """Below the table on stdout, with what to do; in `--json` all are there."""
    stream.append(SensorFailed("orders", "lost", "choose", True), REJECTED[0], by="orders")
    _, out, err = stream.freshet("status")
    lines = out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("sensor "))
    assert lines[at].startswith("sensor orders: halted, seen ")
    assert lines[at].endswith(" ago, 1 rejected")
    assert lines[at + 1 :] == [
        "  error: lost",
        "  hint: choose",
        "  1 rejected: freshet sensors --rejected orders",
    ]
    assert "orders" not in err
    assert stream.json("status")["sensors"] == stream.json("sensors")


def test_status_of_everything_names_well_sensors_on_stderr(stream: Stream) -> None:
    """So that stdout is the table alone."""
    _, out, err = stream.freshet("status")
    assert "sensor " not in out
    assert err.splitlines()[:3] == [f"sensor {name}: stopped, never seen" for name in SENSORS]


def test_status_of_everything_names_a_few_well_sensors_and_counts_the_others(
    stream: Stream,
) -> None:
    """However many there are, they do not hide the verdict."""
    stream.append(EngineStarted("1", sensors={f"s{n}": ("landing",) for n in range(MAX_WELL + 7)}))
    _, _, err = stream.freshet("status")
    assert len(err.splitlines()) == MAX_WELL + 2
    assert "and 7 more: freshet sensors" in err


def test_status_of_an_asset_is_about_the_sensors_that_feed_it(stream: Stream) -> None:
    """A sick one that feeds something else is not named, nor is one that is well."""
    stream.append(MessageRejected("files", "a.csv", "odd"), by="files")
    for target, named in (("total", False), ("shop/orders", False), ("landing", True)):
        _, out, err = stream.freshet("status", target)
        assert ("sensor files: stopped" in out) is named
        assert "sensor " not in err
        assert "orders: " not in out


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (SensorFailed("s", "no broker"), "s failed: no broker"),
        (SensorFailed("s", "topic is new", "choose", True), "s halted: topic is new (choose)"),
        (
            SensorFailed("s", "a is missing", "make it", hindered=True),
            "s is hindered: a is missing (make it)",
        ),
        (SensorRecovered("s"), "s works again"),
        (MessageRejected("s", "t/0/1", "no JSON"), "s rejected t/0/1: no JSON"),
        (MessageSettled("s", "t/0/1"), "t/0/1, which s had rejected, counts after all"),
        (MessageSettled("s", "t/0/1", False), "t/0/1, which s had rejected, is gone"),
        (CursorMoved("s", {"t/0": "7"}), "CursorMoved s"),
    ],
)
def test_events_say_what_a_sensor_did(stream: Stream, event: AnyEvent, text: str) -> None:
    """In a line, with the reason."""
    stream.append(event, by="s")
    assert stream.freshet("events")[1].splitlines()[-1].endswith(f"  {text}")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["reset", "orders", "--from", "latest"], "from latest"),
        (["replay", "orders", "orders/0/2"], "replay orders/0/2"),
        (
            ["replay", "orders", "--all"],
            "replay orders/0/0, replay orders/0/1, replay orders/0/2 and 1 more",
        ),
    ],
)
def test_events_say_what_people_ask_of_a_sensor(
    stream: Stream, arguments: list[str], text: str
) -> None:
    """Who, and what."""
    stream.append(*REJECTED, by="orders")
    assert stream.freshet("sensors", *arguments)[0] == 0
    line = stream.freshet("events")[1].splitlines()[-1]
    assert line.endswith(f"  cursor of orders moved by {stream.last().actor}: {text}")


# --- with a daemon --------------------------------------------------------------------------------

PROJECT = '''
from pathlib import Path

import anyio
import freshet as fr
from freshet.engine.errors import SensorError
from freshet.engine.events import SourceChanged
from freshet.sensors.sensor import REPLAY, START, Batch, Rejection, Settlement

orders = fr.source("shop/orders", partitions=fr.dynamic())


class Lines:
    """Each line `key=version` of a file is a change; `crash` and `halt` do what they say."""

    name = "orders"
    sources = ("shop/orders",)
    answers = frozenset({START, REPLAY})

    async def run(self, cursor):
        at = int(cursor.get("at", "0"))
        start = cursor.get(START)
        if start is not None:
            at = {"earliest": 0, "latest": len(self.lines()), "resume": at}[start]
            yield Batch(cursor={"at": str(at), START: None})
        for asked in [item for item in cursor if item.startswith(REPLAY)]:
            item = asked.removeprefix(REPLAY)
            change, rejection = self.read(int(item.rpartition("/")[2]))
            yield Batch(
                (change,) if change else (),
                {asked: None},
                rejected=(rejection,) if rejection else (),
                settled=(Settlement(item),) if change else (),
            )
        while True:
            lines = self.lines()
            for number in range(at, len(lines)):
                change, rejection = self.read(number)
                at = number + 1
                yield Batch(
                    (change,) if change else (),
                    {"at": str(at)},
                    rejected=(rejection,) if rejection else (),
                    behind=len(lines) - at,
                )
            yield Batch(behind=0)
            await anyio.sleep(0.01)

    def lines(self):
        return Path("orders.txt").read_text().splitlines()

    def read(self, number):
        line = self.lines()[number]
        if line == "halt":
            raise SensorError("the file was created anew", cause="it begins with 0", hint=HINT)
        if line == "crash":
            raise OSError("no such host")
        key, found, version = line.partition("=")
        if not found:
            return None, Rejection(f"orders/{number}", "it has no '='", line, {"line": number})
        return SourceChanged("shop/orders", key, version), None


HINT = "freshet sensors reset orders --from earliest|latest|resume"
project = fr.Project([orders], sensors=[Lines()], store=fr.LocalStore("data"))
'''


class Shop(Place):
    """A project with a sensor that does as `orders.txt` says, and the commands in this process."""

    def __init__(self, folder: Path, capsys: Captured) -> None:
        super().__init__(folder)
        (folder / "project.py").write_text(PROJECT)
        self.capsys = capsys
        self.write("a=1", "b=1")

    def write(self, *lines: str) -> None:
        made = self.folder / "orders.new"
        made.write_text("\n".join(lines))
        made.replace(self.folder / "orders.txt")

    def here(self, *arguments: str) -> tuple[str, str]:
        """Stdout and stderr of a command that succeeds."""
        self.capsys.readouterr()
        code = run([*arguments, "--state", str(self.folder / ".freshet")])
        said = self.capsys.readouterr()
        assert code == 0, said.err
        return said.out, said.err

    def row(self) -> dict[str, Any]:
        (found,) = json.loads(self.here("sensors", "--json")[0])
        return dict(found)

    def rejected(self) -> list[tuple[str, str]]:
        rows = json.loads(self.here("sensors", "--rejected", "orders", "--json")[0])
        return [(row["item"], row["excerpt"]) for row in rows]

    def changes(self) -> list[tuple[str, str]]:
        events = [json.loads(x)["event"] for x in self.here("events", "--json")[0].splitlines()]
        return [
            (event["partition"], event["data_version"])
            for event in events
            if event["type"] == "SourceChanged"
        ]


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again until it holds; what is waited for takes milliseconds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline


@pytest.fixture
def shop(tmp_path: Path, capsys: Captured) -> Iterator[Shop]:
    """Two changes are in, and a daemon reads on."""
    made = Shop(tmp_path, capsys)
    made.start()
    made.wait_for("SourceChanged", "shop/orders", 2)
    yield made
    made.kill()


def test_the_daemon_knows_how_its_sensors_are(shop: Shop) -> None:
    """Running, nothing behind, and seen long after the last thing that it recorded."""
    until(lambda: shop.row()["behind"] == 0)
    first = shop.row()
    assert (first["state"], first["changes"], first["rejected"]) == ("running", 2, 0)
    until(lambda: shop.row()["seen_us"] > first["seen_us"])
    out, _ = shop.here("sensors")
    assert out.splitlines()[1].split()[:3] == ["orders", "shop/orders", "running"]
    shop.stop()
    assert shop.row()["state"] == "stopped"


def test_status_says_how_the_sensors_of_the_daemon_are(shop: Shop) -> None:
    """The same line as without a daemon, with what only it knows."""
    until(lambda: shop.row()["state"] == "running")
    _, err = shop.here("status")
    assert err.startswith("sensor orders: running, seen ")


def test_a_paused_sensor_is_paused_and_a_reset_waits_for_its_end(shop: Shop) -> None:
    """The command that ends the pause is named."""
    shop.here("pause", "sensor:orders")
    assert shop.row()["state"] == "paused"
    _, err = shop.here("sensors", "reset", "orders", "--from", "earliest")
    assert "once it is resumed (freshet resume sensor:orders)" in err
    shop.here("resume", "sensor:orders")
    shop.wait_for("SourceChanged", "shop/orders", 4)


def test_a_crashing_sensor_retries_until_it_works_again(shop: Shop) -> None:
    """Once an error in `sensors` and `status`, and gone once the cause is repaired."""
    shop.write("a=1", "b=1", "crash")
    shop.wait_for("SensorFailed", "")
    until(lambda: shop.row()["state"] == "retrying")
    assert shop.row()["error"] == "OSError: no such host"
    out, _ = shop.here("status")
    assert "  error: OSError: no such host" in out.splitlines()
    shop.write("a=1", "b=1", "c=1")
    shop.wait_for("SensorRecovered", "")
    until(lambda: shop.row()["state"] == "running")
    assert shop.row()["error"] == ""


def test_a_halted_sensor_says_between_what_to_choose_and_goes_on_then(shop: Shop) -> None:
    """The hint's own command starts it anew, in the same daemon, past what halted it."""
    shop.write("a=1", "b=1", "halt")
    shop.wait_for("SensorFailed", "")
    until(lambda: shop.row()["state"] == "halted")
    hint = str(shop.row()["hint"])
    assert f"  hint: {hint}" in shop.here("sensors")[0].splitlines()
    words = shlex.split(hint)
    _, err = shop.here(*words[1:-1], "latest")
    assert "orders goes on from 'latest', now" in err
    shop.wait_for("SensorRecovered", "")
    until(lambda: shop.row()["state"] == "running")
    assert shop.row()["error"] == ""
    assert shop.changes() == [("a", "1"), ("b", "1")]


def test_a_halted_sensor_is_halted_after_the_daemon_too(shop: Shop) -> None:
    """The stream knows; and what is chosen then is obeyed at the next start."""
    shop.write("a=1", "b=1", "halt", "c=1")
    shop.wait_for("SensorFailed", "")
    shop.stop()
    assert shop.row()["state"] == "halted"
    _, err = shop.here("sensors", "reset", "orders", "--from", "latest")
    assert "once a daemon runs" in err
    shop.start()
    shop.wait_for("SensorRecovered", "")
    shop.write("a=1", "b=1", "halt", "c=1", "d=1")
    shop.wait_for("SourceChanged", "shop/orders", 3)
    assert shop.changes()[2:] == [("d", "1")]


def test_a_reset_reaches_a_sensor_that_runs(shop: Shop) -> None:
    """It starts anew in the same daemon and reads everything again; then what is new, once."""
    shop.here("sensors", "reset", "orders", "--from", "earliest")
    shop.wait_for("SourceChanged", "shop/orders", 4)
    shop.write("a=1", "b=1", "c=1")
    shop.wait_for("SourceChanged", "shop/orders", 5)
    assert shop.changes() == [("a", "1"), ("b", "1"), ("a", "1"), ("b", "1"), ("c", "1")]


def test_a_replay_brings_in_what_counts_now_and_rejects_the_rest_anew(shop: Shop) -> None:
    """Two of three are repaired: each is one change, and off the list; the third stays on it."""
    shop.write("a=1", "b=1", "c", "d", "e", "f=1")
    shop.wait_for("MessageRejected", "", 3)
    assert shop.rejected() == [("orders/2", "c"), ("orders/3", "d"), ("orders/4", "e")]
    shop.wait_for("SourceChanged", "shop/orders", 3)
    shop.write("a=1", "b=1", "c=1", "d", "e=1", "f=1")
    _, err = shop.here("sensors", "replay", "orders", "orders/2")
    assert "orders looks again at 1 item, now" in err
    shop.wait_for("MessageSettled", "")
    assert shop.rejected() == [("orders/3", "d"), ("orders/4", "e")]
    shop.here("sensors", "replay", "orders", "--all")
    shop.wait_for("MessageSettled", "", 2)
    assert shop.rejected() == [("orders/3", "d")]
    assert shop.row()["rejected"] == 1
    assert shop.changes()[2:] == [("f", "1"), ("c", "1"), ("e", "1")]


def test_a_replay_asked_for_without_a_daemon_is_done_at_its_next_start(shop: Shop) -> None:
    """Once."""
    shop.write("a=1", "b=1", "c")
    shop.wait_for("MessageRejected", "")
    shop.stop()
    shop.write("a=1", "b=1", "c=1")
    shop.here("sensors", "replay", "orders", "--all")
    shop.start()
    shop.wait_for("MessageSettled", "")
    shop.write("a=1", "b=1", "c=1", "d=1")
    shop.wait_for("SourceChanged", "shop/orders", 4)
    assert shop.rejected() == []
    assert shop.changes()[2:] == [("c", "1"), ("d", "1")]


def test_a_sensor_the_daemon_does_not_have_is_said_so(shop: Shop) -> None:
    """Another project once ran on this stream."""
    shop.stop()

    async def record() -> None:
        async with SqliteStream.open(shop.folder / ".freshet" / "stream.db") as stream:
            await stream.append([MessageRejected("older", "x", "odd")])

    anyio.run(record)
    shop.start()
    shop.wait_for("EngineStarted", "", 2)
    until(lambda: shop.row()["state"] == "running")
    _, err = shop.here("sensors", "replay", "older", "x")
    assert "once the project that runs has it again" in err
