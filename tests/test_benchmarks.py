"""The harness of the benchmarks: figures with their bounds, results, the page, cases in short."""

import os
import re
import socket
import sys
from importlib.util import cache_from_source
from pathlib import Path

import msgspec
import pytest

from benchmarks import planner, reaction, report, sizes, staleness
from benchmarks.__main__ import CASES
from benchmarks.case import (
    MOST_SAMPLES,
    TIMES,
    Figure,
    Spread,
    compared,
    compile_modules,
    measured,
    percentile,
    thinned,
)
from benchmarks.pictures import Line, pictures
from benchmarks.results import FOLDER, Failure, Machine, Result, quantity, read, result_of, write

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


def test_no_process_that_is_measured_compiles_our_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    compile_modules()
    ours = [one for name, one in sys.modules.items() if name.partition(".")[0] == "freshet"]
    assert len(ours) > 100
    for module in ours:
        assert module.__file__ is not None
        assert Path(cache_from_source(module.__file__)).exists(), module.__name__


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


def test_what_goes_over_time_is_drawn_and_no_row() -> None:
    grown = [Figure("speed", "memory", 50 + n, "MB", size=n, counted="minutes") for n in range(60)]
    result = msgspec.structs.replace(example(), figures=(*example().figures, *grown))
    page = report.render({"speed": result}, report.readings("# Speed\n"))
    assert "memory" not in page
    assert "results/speed-minutes.svg" in page


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
