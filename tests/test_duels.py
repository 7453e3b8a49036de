"""Duels: what the script of a peer says, fails to say, or never says, beside our own figures."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks import report
from benchmarks.__main__ import CASES
from benchmarks.duels import DUELS, SCRIPTS, Duel, Pair, fight
from benchmarks.peers.hearing import Said, hear, shortened
from benchmarks.results import Failure, Result

PATIENCE_S = 60.0
"""Bound on scripts that end by themselves, in milliseconds."""

GOOD = """
import json, sys
line = {"peer": "Stub", "version": "1.0", "case": "c", "setting": "best", "size": None}
for what, unit, values in (("task done", "s", [2.0, 4.0, 3.0]), ("events", "/s", [50.0])):
    print("chatter on stdout")
    print(json.dumps({**line, "what": what, "unit": unit, "values": values,
                      "configuration": "everything at its smallest"}), flush=True)
"""

FAILED = """
print('{"peer": "Stub", "version": "1.0", "case": "c", "failed": "no server at /root/x/y.sock"}')
"""

HANGS = GOOD + "\nimport time\ntime.sleep(600)\n"

DIES = GOOD + "\nsys.exit('Traceback: no such table in /root/somewhere/db.sqlite')\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the script of the duel `stub`, and gives its folder, where it is fought."""
    monkeypatch.chdir(tmp_path)

    def written(code: str) -> Path:
        (tmp_path / "stub.py").write_text(code)
        return tmp_path

    return written


def mine() -> dict[tuple[str, float | None], list[float]]:
    """As measured once: half a second for a task, and a hundred events a second."""
    return {("task", None): [0.25, 0.5, 0.75], ("events", None): [100.0]}


STUB = Duel(
    "stub",
    "Stub",
    (),
    mine,
    (Pair("^best: task", "task", 5), Pair("events", "events", 3)),
    "as it is",
    limit_s=PATIENCE_S,
)


def fought(folder: Path, duel: Duel = STUB) -> Result:
    return fight(duel, Path(sys.executable), folder)


def test_a_duel_has_both_sides_and_their_ratios_against_the_bounds(
    script: Callable[[str], Path],
) -> None:
    result = fought(script(GOOD))
    assert [(f.side, f.what, f.value, f.unit, f.met) for f in result.figures] == [
        ("freshet", "task", 0.5, "s", None),
        ("freshet", "events", 100, "/s", None),
        ("Stub 1.0, best", "task done", 3, "s", None),
        ("Stub 1.0, best", "events", 50, "/s", None),
        ("freshet", "task: times better than Stub 1.0, best, task done", 6, "×", True),
        ("freshet", "events: times better than Stub 1.0, best", 2, "×", False),
    ]
    ours = result.figures[0].spread
    assert ours is not None
    assert ours.runs == 6, "measured before the peer and after it"
    assert result.sides == {"Stub 1.0, best": "everything at its smallest"}
    assert result.failures == ()
    assert [figure.what for figure in result.missed] == ["events: times better than Stub 1.0, best"]


def test_a_failed_peer_is_a_row_that_says_why_and_nothing_is_guessed(
    script: Callable[[str], Path],
) -> None:
    result = fought(script(FAILED))
    assert result.figures == ()
    assert result.failures == (Failure("Stub 1.0", "no server at …"),)


def test_a_peer_that_hangs_is_ended_and_what_it_said_before_counts(
    script: Callable[[str], Path],
) -> None:
    said: list[Said] = []
    limit_s = 1.0
    while not any(one.values for one in said):  # on a busy machine python takes long to start
        command = [sys.executable, str(script(HANGS) / "stub.py")]
        said = hear("Stub", command, limit_s)
        limit_s *= 2
    assert [one.what for one in said] == ["task done", "events", ""]
    assert said[-1].failed == f"not over after {limit_s / 2:g} s"


def test_a_peer_that_dies_says_so_in_its_own_last_line(script: Callable[[str], Path]) -> None:
    result = fought(script(DIES))
    assert len(result.figures) == 6
    assert result.failures == (Failure("Stub", "ended with code 1: Traceback: no such table in …"),)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "said nothing"),
        ('print(\'{"peer": "Stub"}\')', "said what cannot be read"),
        ("print('{nonsense')", "said what cannot be read"),
    ],
)
def test_a_peer_that_says_nothing_of_use_has_failed(
    script: Callable[[str], Path], code: str, reason: str
) -> None:
    result = fought(script(code))
    assert result.figures == ()
    (failure,) = result.failures
    assert failure.reason.startswith(reason)


def test_what_a_bound_is_held_against_and_the_peer_leaves_out_is_named(
    script: Callable[[str], Path],
) -> None:
    duel = STUB._replace(pairs=(*STUB.pairs, Pair("^default: task", "task", 1)))
    assert fought(script(GOOD), duel).failures == (
        Failure("Stub", "said nothing of '^default: task'"),
    )


def test_a_peer_that_cannot_be_installed_is_not_fought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(peer: str, *needs: str) -> None:
        print(f"{peer}: {needs[0]} cannot be installed: no such thing", file=sys.stderr)

    monkeypatch.setattr("benchmarks.duels.python_of", refused)
    duel = STUB._replace(needs=("stub==1",), measure=lambda: pytest.fail("measured in vain"))
    result = fight(duel, scripts=tmp_path)
    assert result.figures == ()
    assert result.failures == (Failure("Stub", "Stub: stub==1 cannot be installed: no such thing"),)


def test_nothing_that_a_peer_has_started_outlives_it(script: Callable[[str], Path]) -> None:
    """A daemon that is left behind has the output of the script open, too."""
    code = """
import subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print('{"peer": "Stub", "version": "%d", "case": "c", "failed": "on purpose"}' % left.pid)
"""
    (said,) = hear("Stub", [sys.executable, str(script(code) / "stub.py")], PATIENCE_S)
    until = time.monotonic() + PATIENCE_S
    while is_alive(int(said.version)):
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # nobody may collect it
    except psutil.NoSuchProcess:
        return False


def test_a_peer_writes_where_we_do(script: Callable[[str], Path]) -> None:
    code = """
import json, pathlib, tempfile
here, room = pathlib.Path.cwd(), tempfile.gettempdir()
told = {"peer": str(here.parents[1]), "version": room, "case": str(here), "failed": "on purpose"}
print(json.dumps(told))
"""
    folder = script(code)
    (said,) = hear("Stub", [sys.executable, str(folder / "stub.py")], PATIENCE_S)
    assert said.peer == str(folder.resolve())
    assert said.version == said.case
    assert [path.name for path in folder.iterdir()] == ["stub.py"], "nothing is left"


def test_sizes_must_be_equal_to_be_compared(script: Callable[[str], Path]) -> None:
    line = {
        "peer": "Stub",
        "version": "1.0",
        "case": "c",
        "what": "cost",
        "unit": "s",
        "setting": "best",
        "configuration": "",
        "values": [8.0],
    }
    lines = [json.dumps({**line, "size": size}) for size in (10, 20)]
    folder = script("\n".join(f"print({text!r})" for text in lines))
    duel = STUB._replace(
        measure=lambda: {("cost", 10): [2.0], ("cost", 30): [1.0]},
        pairs=(Pair("cost", "cost"),),
        counted="assets",
    )
    result = fought(folder, duel)
    assert [(f.side, f.size, f.value, f.unit) for f in result.figures] == [
        ("freshet", 10, 2, "s"),
        ("Stub 1.0, best", 10, 8, "s"),
        ("Stub 1.0, best", 20, 8, "s"),
        ("freshet", 10, 4, "×"),
    ]


def test_reasons_hold_no_address_and_no_path() -> None:
    reason = "GET https://registry.example/simple/x failed,\n see /home/someone/.cache/pip/log.txt"
    assert shortened(reason) == "GET … failed, see …"
    assert shortened("1/2 of 30/s and/or more") == "1/2 of 30/s and/or more"


def test_each_script_of_a_peer_is_a_duel() -> None:
    scripts = {path.stem for path in SCRIPTS.glob("*.py") if "ArgumentParser" in path.read_text()}
    assert scripts == {duel.name for duel in DUELS}


def test_each_duel_has_a_name_of_its_own_and_a_reading() -> None:
    names = [duel.name for duel in DUELS]
    written = report.readings(report.READINGS.read_text(encoding="utf-8"))
    assert len(set(names)) == len(names)
    assert set(written.cases) == {*CASES, *names}
