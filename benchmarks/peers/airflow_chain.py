"""How long Airflow takes through three DAGs chained by assets, and how many tasks it does a second.

    python_of_the_environment benchmarks/peers/airflow_chain.py --samples 10

A scheduler with its local executor, a DAG processor and an API server, all on one SQLite database.
Two figures from the same events of an asset: until the task of the first DAG is entered, and until
that of the third ends. Then no-op tasks per second: mapped tasks of one DAG, from the start of its
run to the end, as Airflow recorded them.
"""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from said import Side, say, within  # type: ignore[import-not-found]  # beside this script
from servers import (  # type: ignore[import-not-found]  # likewise
    Servers,
    ask,
    free_port,
    servers,
)

UP_S = 240.0
"""Longest wait for the database, and for all three processes to be up and the DAGs read."""

CHAIN_S = 120.0
"""Longest wait for the end of one chain; seconds are normal."""

NOOPS_S = 300.0
"""Longest wait for one run of no-op tasks."""

NOTED = "noted"

SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "best": (
        {
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "0",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        },
        "the scheduler rests 0.1 s between its looks, where it does 1 s unless told otherwise; "
        "eight processes that are already there for the tasks; no limit of tasks to a DAG or a "
        "look; only warnings are logged",
    ),
    "default": ({}, "every interval, limit and log as it is delivered"),
}

FAVOUR = (
    "; tasks forked from processes that have Airflow loaded; everything on this machine, warmed by "
    "a chain that is not counted; the event is posted straight to the API, so nobody has to notice "
    "a file; DAGs read beforehand and not paused; no triggerer, no examples, no login"
)

DAGS = """
import time

from airflow.sdk import DAG, Asset, task


def link(name, before, after):
    with DAG(name, schedule=[Asset(before)], catchup=False):

        @task(task_id="link", outlets=[Asset(after)])
        def noting():
            with open({noted!r}, "a") as noted:
                noted.write(f"{{name}} {{time.time()}}\\n")

        noting()


link("first", "source", "a")
link("second", "a", "b")
link("third", "b", "c")

with DAG("noops", schedule=None, catchup=False):

    @task
    def noop(number):
        pass

    noop.expand(number=list(range({tasks})))
"""


def side(setting: str) -> Side:
    """Who is measured with which setting."""
    configuration = SETTINGS[setting][1] + FAVOUR
    return Side("Airflow", version("apache-airflow"), "chain", setting, configuration)


class Airflow:
    """The API of a running Airflow, and what its tasks note."""

    def __init__(self, home: Path, port: int, running: Servers) -> None:
        self._api = f"http://127.0.0.1:{port}/api/v2"
        self._noted = home / NOTED
        self._running = running
        self._token = running.until(
            lambda: ask(f"http://127.0.0.1:{port}/auth/token")["access_token"], "token", UP_S
        )
        self._source = running.until(self._ready, "DAGs and a healthy scheduler", UP_S, every_s=0.5)

    def chain(self) -> tuple[float, float]:
        """Seconds from one event until the first task is entered, and until the third notes it."""
        before = len(list(self._entered()))

        def entries() -> dict[str, float] | None:
            found = dict(list(self._entered())[before:])
            return found if "third" in found else None

        began = time.time()
        self._ask("assets/events", {"asset_id": self._source, "extra": {}})
        found = self._running.until(entries, "end of the chain", CHAIN_S)
        return found["first"] - began, found["third"] - began

    def noops(self) -> float:
        """Seconds of one run of the DAG of no-op tasks."""
        run = self._ask("dags/noops/dagRuns", {"logical_date": None})["dag_run_id"]

        def over() -> dict[str, Any] | None:
            now: dict[str, Any] = self._ask(f"dags/noops/dagRuns/{run}")
            if now["state"] == "failed":
                raise RuntimeError("the run of no-op tasks failed")
            return now if now["state"] == "success" else None

        done = self._running.until(over, "end of the no-op tasks", NOOPS_S, every_s=0.5)
        began, ended = (datetime.fromisoformat(done[field]) for field in ("start_date", "end_date"))
        return (ended - began).total_seconds()

    def _ready(self) -> int | None:
        """The id of the source asset, once all DAGs are read and the scheduler works."""
        if len(self._ask("dags")["dags"]) < 4:
            return None
        if self._ask("monitor/health")["scheduler"]["status"] != "healthy":
            return None
        assets = self._ask("assets")["assets"]
        return next((int(each["id"]) for each in assets if each["name"] == "source"), None)

    def _ask(self, path: str, body: object = None) -> Any:
        return ask(f"{self._api}/{path}", body, self._token)

    def _entered(self) -> Iterator[tuple[str, float]]:
        lines = self._noted.read_text().splitlines() if self._noted.exists() else []
        for line in lines:
            link, _, moment = line.partition(" ")
            yield link, float(moment)


def measure(setting: str, home: Path, running: Servers, options: argparse.Namespace) -> None:
    """Says the figures of one setting."""
    samples = options.samples if setting == "best" else options.default_samples
    port = free_port()
    environment = {**SETTINGS[setting][0], **necessary(home, port)}
    dags = home / "dags"
    dags.mkdir()
    (dags / "chain.py").write_text(DAGS.format(noted=str(home / NOTED), tasks=options.tasks))
    airflow = [sys.executable, "-m", "airflow"]
    running.call("migration", [*airflow, "db", "migrate"], environment, UP_S)
    for name in ("api-server", "dag-processor", "scheduler"):
        running.start(name, [*airflow, name], environment)
    peer = Airflow(home, port, running)
    found = [peer.chain() for _ in range(samples + 1)][1:]
    say(side(setting), "asset event → task of the first DAG entered", "s", [a for a, _ in found])
    say(side(setting), "asset event → end of the third DAG's task", "s", [c for _, c in found])
    rates = [options.tasks / peer.noops() for _ in range(options.rounds)]
    say(side(setting), f"{options.tasks} mapped no-op tasks of one DAG", "/s", rates)


def necessary(home: Path, port: int) -> dict[str, str]:
    """What an Airflow of its own needs to be told, whatever the setting."""
    address = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    }


def main() -> None:
    """Says every figure, or why there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10, help="best (default %(default)s)")
    parser.add_argument("--default-samples", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--tasks", type=int, default=50, help="no-op tasks (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of those (default %(default)s)")
    parser.add_argument(
        "--limit-s", type=float, default=600.0, help="for each setting (default %(default)s)"
    )
    options = parser.parse_args()
    for setting, samples in [("best", options.samples), ("default", options.default_samples)]:
        if samples:
            with (
                tempfile.TemporaryDirectory(dir=".", ignore_cleanup_errors=True) as folder,
                servers(Path(folder).resolve()) as running,
                within(side(setting), options.limit_s),
            ):
                measure(setting, Path(folder).resolve(), running, options)


if __name__ == "__main__":
    main()
