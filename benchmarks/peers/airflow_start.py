"""How long Airflow takes to import, and the memory it then has.

python_of_the_environment benchmarks/peers/airflow_start.py --tries 5
"""

import argparse
import tempfile
from importlib.metadata import version

from fresh import say_start  # type: ignore[import-not-found]  # beside this script when it is run
from said import Side, within  # type: ignore[import-not-found]  # likewise

SIDE = Side(
    "Airflow",
    version("apache-airflow"),
    "start",
    "best",
    "a fresh process with compiled and cached modules imports what a file of DAGs needs, with its "
    "configuration already written, and none of the three processes that run it; the start of the "
    "interpreter does not count",
)


def main() -> None:
    """Says seconds and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tries", type=int, default=5, help="processes (default %(default)s)")
    parser.add_argument("--limit-s", type=float, default=300.0, help="(default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, within(SIDE, options.limit_s):
        environment = {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        say_start(SIDE, "from airflow.sdk import DAG, Asset, task", options.tries, environment)


if __name__ == "__main__":
    main()
