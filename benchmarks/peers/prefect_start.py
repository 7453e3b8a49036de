"""How long Prefect takes to import, and the memory it then has.

python_of_the_environment benchmarks/peers/prefect_start.py --tries 10
"""

import argparse
import tempfile
from importlib.metadata import version

from fresh import say_start  # type: ignore[import-not-found]  # beside this script when it is run
from said import Side, within  # type: ignore[import-not-found]  # likewise

SIDE = Side(
    "Prefect",
    version("prefect"),
    "start",
    "best",
    "a fresh process with compiled and cached modules imports what a script with one flow and one "
    "task needs, and neither a server nor a worker; the start of the interpreter does not count",
)


def main() -> None:
    """Says seconds and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tries", type=int, default=10, help="processes (default %(default)s)")
    parser.add_argument("--limit-s", type=float, default=240.0, help="(default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, within(SIDE, options.limit_s):
        environment = {"PREFECT_HOME": home}
        say_start(SIDE, "from prefect import flow, task", options.tries, environment)


if __name__ == "__main__":
    main()
