"""The harness of the benchmarks: figures, bounds and ratios, duels with a peer, and the page."""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from benchmarks import planner, reaction, report, sizes, staleness
from benchmarks.__main__ import CASES
from benchmarks.case import (
    MOST_SAMPLES,
    TIMES,
    Figure,
    Spread,
    compared,
    measured,
    percentile,
    thinned,
)
from benchmarks.duels import DUELS, Duel, Pair, fight
from benchmarks.peers.hearing import Said, hear, shortened
from benchmarks.pictures import Line, pictures
from benchmarks.results import FOLDER, Failure, Machine, Result, quantity, read, result_of, write

PATIENCE_S = 60.0
"""Bound on scripts that end by themselves, in milliseconds."""


# --- figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bound", "higher_is_better", "met", "ratio"),
    [
        (5, 10, False, True, 2.0),
        (10, 10, False, True, 1.0),
        (20, 10, False, False, 0.5),
        (20, 10, True, True, 2.0),
        (5, 10, True, False, 0.5),
        (5, None, True, None, None),
        (0, 0, False, True, None),
    ],
)
def test_a_bound_is_a_ceiling_or_for_what_is_better_higher_a_floor(
    value: float, bound: float | None, higher_is_better: bool, met: bool | None, ratio: float | None
) -> None:
    figure = Figure("c", "w", value, "ms", bound, higher_is_better)
    assert (figure.met, figure.ratio) == (met, ratio)


def test_a_figure_of_samples_has_their_spread_and_the_median_keeps_them() -> None:
    values = [float(n) for n in range(101, 0, -1)]
    median = measured("c", "w, p50", values, "ms", 60)
    assert (median.value, median.met) == (51, True)
    assert median.spread == Spread(101, 1, 51, 100, 101)
    assert median.samples == tuple(sorted(values))
    worst = measured("c", "w, max", values, "ms", 60, percent=100)
    assert (worst.value, worst.met, worst.samples) == (101, False, ())


def test_one_sample_is_its_own_spread() -> None:
    assert measured("c", "w", [7], "ms").spread == Spread(1, 7, 7, 7, 7)
    assert [percentile([3, 1, 2], percent) for percent in (0, 50, 100)] == [1, 2, 3]


def test_many_samples_are_thinned_to_their_quantiles_with_both_ends() -> None:
    found = thinned([float(n) for n in range(100_000)])
    assert len(found) == MOST_SAMPLES
    assert (found[0], found[-1]) == (0, 99_999)
    assert abs(found[MOST_SAMPLES // 2] - 50_000) < 100


def test_a_ratio_is_the_median_of_its_rounds() -> None:
    figure = compared("c", "ratio to raw", [0.5, 0.9, 0.7], 0.6)
    assert (figure.value, figure.unit, figure.met) == (0.7, TIMES, True)
    assert compared("c", "ratio to raw", [2.5], 2, at_most=True).met is False


def test_quantities_are_read_with_the_unit_that_fits() -> None:
    told = [(0.0115, "s"), (0.00002, "s"), (43, "s"), (1234.5, "/s"), (0.7249, "×"), (0, "ms")]
    assert [quantity(*one) for one in told] == [
        "11.5 ms",
        "20 µs",
        "43 s",
        "1,234 /s",
        "0.725 ×",
        "0 ms",
    ]


# --- results ----------------------------------------------------------------------------------


def test_a_result_is_kept_whole_and_names_neither_the_machine_nor_its_folders(
    tmp_path: Path,
) -> None:
    result = result_of("c", "as it is", [measured("c", "w", [1.5, 2.5], "ms", 2)], 0.25)
    path = write(result, tmp_path)
    assert read(tmp_path) == {"c": result}
    text = path.read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if '"what"' in line]) == 1, "a line for each"
    assert socket.gethostname() not in text
    assert str(Path.cwd()) not in text
    assert result.machine.cores == os.cpu_count()
    assert {"python", "sqlite", "freshet", "msgspec"} <= set(result.versions)
    assert re.fullmatch(r"[0-9a-f]{12}( dirty)?|unknown", result.commit)


def test_each_case_says_how_it_is_set_in_one_sentence() -> None:
    for name, case in CASES.items():
        assert case.CONFIGURATION, name
        assert not case.CONFIGURATION.endswith("."), name


# --- what a peer says -------------------------------------------------------------------------

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
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the script of the duel `stub`, and gives its folder."""

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


def test_each_duel_has_a_name_of_its_own_and_a_reading() -> None:
    names = [duel.name for duel in DUELS]
    written = report.readings(report.READINGS.read_text(encoding="utf-8"))
    assert len(set(names)) == len(names)
    assert set(written.cases) == {*CASES, *names}


# --- the page ---------------------------------------------------------------------------------


def example() -> Result:
    """One result with all there can be in one."""
    point = {"counted": "assets", "side": "raw | limit"}
    return Result(
        "speed",
        "2026-01-02 03:04 UTC",
        "0123456789ab",
        Machine(2, "Some CPU", 8, "Linux 6"),
        {"python": "3.11.7", "sqlite": "3.40.1"},
        0.5,
        "as it is",
        (
            measured("speed", "wait, p50", [1, 2, 3, 4, 5], "ms", 2),
            Figure("speed", "cost", 10, "µs", size=100, **point),  # type: ignore[arg-type]
            Figure("speed", "cost", 20, "µs", size=1000, **point),  # type: ignore[arg-type]
            Figure("speed", "ratio to raw", 0.75, TIMES, 0.6, True),
        ),
        {"Peer 1.0, best": "at its smallest"},
        (Failure("Peer 1.0, default", "hung"),),
    )


PAGE = """\
<!-- Made by `python -m benchmarks.report` from results/ and readings.md: edit those. -->

# Speed

What it is.

## Bounds

1 of 2 bounds are kept.

| case | what | measured | bound |  |
| --- | --- | --- | --- | --- |
| speed | wait, p50 | 3 ms | ≤ 2 ms | **NOT MET** |
| speed | ratio to raw | 0.75 × | ≥ 0.6 × | met |

## later: not yet

Not measured yet.

It will be.

## speed: how quick

2026-01-02 03:04 UTC, commit 0123456789ab; 2 cores of Some CPU, 8 GiB, Linux 6; Python 3.11.7, \
SQLite 3.40.1, without uvloop; load before 0.5.

How: as it is.

Peer 1.0, best: at its smallest.

| speed | side | measured | bound |  | runs | min | median | p99 | max |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| wait, p50 | freshet | 3 ms | ≤ 2 ms | **NOT MET** | 5 | 1 ms | 3 ms | 4.96 ms | 5 ms |
| cost; 100 assets | raw \\| limit | 10 µs |  |  |  |  |  |  |  |
| cost; 1,000 assets | raw \\| limit | 20 µs |  |  |  |  |  |  |  |
| ratio to raw | freshet | 0.75 × | ≥ 0.6 × | met |  |  |  |  |  |

| not measured | why |
| --- | --- |
| Peer 1.0, default | hung |

![speed: how many took no longer](results/speed-latency.svg)

![speed: against assets](results/speed-assets.svg)

Slow, and why.
"""


def test_the_page_is_made_of_results_and_readings() -> None:
    written = report.readings(
        "# Speed\n\nWhat it is.\n\n## later: not yet\n\nIt will be.\n\n## speed: how quick\n\n"
        "Slow, and why.\n"
    )
    assert report.render({"speed": example()}, written) == PAGE


def test_the_pictures_of_a_result_are_its_distributions_and_its_curves() -> None:
    latency, curve = pictures(example())
    assert latency.lines == (Line("wait (freshet)", (1, 2, 3, 4, 5), (20, 40, 60, 80, 100)),)
    assert curve.lines == (Line("cost (raw | limit)", (100, 1000), (10, 20)),)
    assert (curve.x, curve.y, curve.log_x, curve.log_y) == ("assets", "µs", True, True)


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    results = read()
    written = report.readings(report.READINGS.read_text(encoding="utf-8"))
    assert report.README.read_text(encoding="utf-8") == report.render(results, written)
    called_for = {one.file for result in results.values() for one in pictures(result)}
    assert {path.name for path in FOLDER.glob("*.svg")} == called_for


def test_results_are_read_as_they_were_written() -> None:
    text = msgspec.json.encode(example())
    assert msgspec.json.decode(text, type=Result) == example()


# --- cases in a short form --------------------------------------------------------------------


def test_sizes_measure_every_size_in_every_round() -> None:
    found = sizes.costs("assets", (100, 200), 2, 3)
    assert list(found) == [100, 200]
    for by_what in found.values():
        assert [list(map(len, rounds)) for rounds in by_what.values()] == [[3, 3]] * 3 + [[1, 1]]
    partitions = sizes.costs("partitions", (100, 200), 1, 2)
    assert [len(by_what[sizes.ALL]) for by_what in partitions.values()] == [1, 1]


@pytest.mark.parametrize("counted", ["assets", "partitions"])
def test_a_change_calls_as_many_functions_in_a_graph_ten_times_as_large(counted: str) -> None:
    found = sizes.costs(counted, (200, 2000), 1, 1)
    small, large = (by_what[sizes.CALLS][0][0] for by_what in found.values())
    assert large <= 1.05 * small


def test_an_idle_graph_decides_and_records_nothing() -> None:
    assert sizes.idle(50) == (0, 0)


@pytest.mark.parametrize("shape", staleness.SHAPES)
def test_all_are_stale_below_one_change(shape: str) -> None:
    found = staleness.rounds(shape, 30, 2)
    assert [len(values) for values in found.values()] == [2, 2]


def test_the_planner_stands_between_the_optimum_and_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "WORLDS", 5)
    found = {(figure.what, figure.side): figure for figure in planner.run()}
    runs = [
        found["runs in one world", side].value
        for side in (planner.OPTIMUM, "freshet", planner.EAGER)
    ]
    assert runs == sorted(runs)
    assert found["promises broken", "freshet"].met


def test_a_chain_of_three_is_followed_after_files_and_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    waits = reaction.chains(2)
    assert [len(values) for values in waits.values()] == [2] * 5
    assert min(map(min, waits.values())) > 0
    for first, last in ((reaction.FILE, reaction.FILE_END), (reaction.TOLD, reaction.TOLD_END)):
        assert all(a < b for a, b in zip(waits[first], waits[last], strict=True))
