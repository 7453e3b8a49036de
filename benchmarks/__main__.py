"""`python -m benchmarks [case …]`: measure, keep each result in `benchmarks/results/`, and print
one table for each case with its bounds.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks import (
    append,
    executors,
    kafka,
    landings,
    limits,
    partitions,
    planner,
    policies,
    reaction,
    restart,
    sizes,
    soak,
    staleness,
    startup,
    throughput,
)
from benchmarks.case import Case, compile_modules
from benchmarks.results import FOLDER, Result, result_of, show, write

CASES: dict[str, Case] = {
    "limits": limits,
    "append": append,
    "reaction": reaction,
    "landings": landings,
    "kafka": kafka,
    "throughput": throughput,
    "executors": executors,
    "size": sizes,
    "partitions": partitions,
    "staleness": staleness,
    "policies": policies,
    "planner": planner,
    "startup": startup,
    "restart": restart,
    "soak": soak,
}

ON_DEMAND = frozenset({"soak"})
"""Cases that take an hour: run when they are named, and only then."""


def main() -> int:
    """Run the named cases (none: all but those on demand); exit 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help=", ".join(CASES))
    parser.add_argument(
        "--into", type=Path, default=FOLDER, help="keep results in this folder, not where they are"
    )
    options = parser.parse_args()
    compile_modules()
    missed = False
    for name in options.cases or [name for name in CASES if name not in ON_DEMAND]:
        result = measure(name)
        show(result)
        write(result, options.into)
        missed |= bool(result.missed)
    return 1 if missed else 0


def measure(name: str) -> Result:
    """One case, with what it was measured on."""
    case, (load, *_) = CASES[name], os.getloadavg()
    return result_of(name, case.CONFIGURATION, case.run(), load)


if __name__ == "__main__":
    sys.exit(main())
