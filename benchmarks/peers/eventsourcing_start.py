"""How long the eventsourcing library takes to import, and the memory it then has.

python_of_the_environment benchmarks/peers/eventsourcing_start.py --tries 10
"""

import argparse
from importlib.metadata import version

from fresh import say_start  # type: ignore[import-not-found]  # beside this script when it is run
from said import Side, within  # type: ignore[import-not-found]  # likewise

SIDE = Side(
    "eventsourcing",
    version("eventsourcing"),
    "start",
    "best",
    "a fresh process with compiled and cached modules imports the application and its SQLite "
    "recorder and nothing else; the start of the interpreter does not count",
)


def main() -> None:
    """Says seconds and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tries", type=int, default=10, help="processes (default %(default)s)")
    parser.add_argument("--limit-s", type=float, default=120.0, help="(default %(default)s)")
    options = parser.parse_args()
    with within(SIDE, options.limit_s):
        say_start(SIDE, "import eventsourcing.application, eventsourcing.sqlite", options.tries)


if __name__ == "__main__":
    main()
