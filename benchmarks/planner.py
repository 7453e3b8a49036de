"""The lag planner on random small worlds: its runs beside those of eager assets and beside the
fewest that are possible when all changes are known ahead; and how late its promises are kept.
"""

import freshet as fr
from benchmarks.case import OURS, TIMES, Figure, compared, measured
from tests.optimum import fewest_runs
from tests.test_planner import TICK, problem_of, run_problem

WORLDS = 500

CASE = "planner"

CONFIGURATION = (
    f"{WORLDS} random graphs of two to five assets with promises of two to four times the longest"
    " way, the real fold and decisions on virtual time, runs of known length; the optimum is exact,"
    " by a search over all plans that know every change ahead (`tests/optimum.py`)"
)

OPTIMUM, EAGER = "optimum that knows the future", "everything eager"


def run() -> list[Figure]:
    """Runs of each side, ratios of each world, and lags as shares of their promises."""
    runs: dict[str, list[float]] = {OURS: [], EAGER: [], OPTIMUM: []}
    late: dict[str, list[float]] = {OURS: [], EAGER: []}
    broken = 0
    for seed in range(WORLDS):
        problem = problem_of(seed)
        best = fewest_runs(problem)
        assert best is not None, f"seed {seed} cannot be kept"
        if not best:
            continue  # nothing changes in it
        planned, eager = run_problem(problem), run_problem(problem, fr.eager())
        for side, value in ((OURS, planned.total), (EAGER, eager.total), (OPTIMUM, best)):
            runs[side].append(value)
        broken += planned.breached
        for side, trace in ((OURS, planned), (EAGER, eager)):
            late[side] += [
                100 * trace.worst[key] / (lag * TICK)
                for key, lag in problem.lags.items()
                if key in trace.worst
            ]
    ours = runs[OURS]
    to_best = [a / b for a, b in zip(ours, runs[OPTIMUM], strict=True)]
    to_eager = [a / b for a, b in zip(ours, runs[EAGER], strict=True)]
    what = "longest lag of an asset"
    return [
        *(
            measured(CASE, "runs in one world", values, "runs", side=side)
            for side, values in runs.items()
        ),
        Figure(
            CASE, "runs in all worlds, ratio to the optimum", sum(ours) / sum(runs[OPTIMUM]), TIMES
        ),
        Figure(
            CASE,
            "runs in one world, ratio to the optimum, mean",
            sum(to_best) / len(to_best),
            TIMES,
            1.15,
        ),
        compared(CASE, "runs in one world, ratio to the optimum", to_best, at_most=True),
        compared(CASE, "runs in one world, ratio to everything eager", to_eager, 1, at_most=True),
        *(
            measured(CASE, f"{what}, p50", values, "% of its promise", side=side)
            for side, values in late.items()
        ),
        measured(CASE, f"{what}, p99", late[OURS], "% of its promise", 100, percent=99),
        Figure(CASE, "promises broken", broken, "breaches", 0),
    ]
