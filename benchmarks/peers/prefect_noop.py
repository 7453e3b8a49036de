"""How many tasks and flow runs that do nothing Prefect gets done in a second.

    python_of_the_environment benchmarks/peers/prefect_noop.py --tasks 1000 --rounds 3

Each with the server that Prefect starts for a script by itself, and with one started beforehand,
both on SQLite. Each kind of server has a process of its own, whose first flow is not counted.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from said import Side, failed, say, within  # type: ignore[import-not-found]  # beside this script
from servers import ask, free_port, servers  # type: ignore[import-not-found]  # likewise

SERVERS = {
    "ephemeral": "the server that Prefect starts by itself for a script",
    "local": "a server started before and warm",
}

UP_S = 120.0
"""Longest wait for the server: on a first start it writes its tables."""

FASTER = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_CLIENT_METRICS_ENABLED": "false",
}


def side(server: str) -> Side:
    """Who is measured with which server."""
    return Side(
        "Prefect",
        version("prefect"),
        "noop",
        "best",
        f"{SERVERS[server]}, on its SQLite, whose commits Prefect does not sync one by one; no "
        "log lines, neither shown nor sent to the server; no results kept and no cache keys made; "
        "Prefect sends the states of tasks to the server in the background, so the clock may stop "
        "before they are stored; the first flow of the process is not counted",
    )


def measure(server: str, tasks: int, flows: int, rounds: int) -> None:
    """Says the figures with the server that this process is told to use."""
    from prefect import flow, task  # type: ignore[import-not-found]  # reads its settings
    from prefect.cache_policies import NO_CACHE  # type: ignore[import-not-found]  # likewise
    from prefect.futures import wait  # type: ignore[import-not-found]  # likewise
    from prefect.task_runners import ThreadPoolTaskRunner  # type: ignore[import-not-found]

    @task(cache_policy=NO_CACHE)  # type: ignore[untyped-decorator]  # no types where mypy looks
    def noop() -> None:
        pass

    @flow  # type: ignore[untyped-decorator]
    def called(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            noop()
        return count / (time.perf_counter() - began)

    @task(cache_policy=NO_CACHE)  # type: ignore[untyped-decorator]
    async def noop_on_loop() -> None:
        pass

    @flow  # type: ignore[untyped-decorator]
    async def gathering(count: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(noop_on_loop() for _ in range(count)))
        return count / (time.perf_counter() - began)

    def gathered(count: int) -> float:
        return asyncio.run(gathering(count))  # type: ignore[no-any-return]

    def submitted(threads: int) -> Callable[[int], Any]:
        @flow(task_runner=ThreadPoolTaskRunner(threads))  # type: ignore[untyped-decorator]
        def submitting(count: int) -> float:
            began = time.perf_counter()
            wait([noop.submit() for _ in range(count)])
            return count / (time.perf_counter() - began)

        return submitting  # type: ignore[no-any-return]

    # A flow that is a plain function waits up to a second for its heartbeat at its end.
    @flow  # type: ignore[untyped-decorator]
    async def empty() -> None:
        pass

    async def running(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            await empty()
        return count / (time.perf_counter() - began)

    def runs(count: int) -> float:
        return asyncio.run(running(count))

    cases: dict[str, tuple[Callable[[int], Any], int]] = {
        f"{tasks:,} no-op tasks called in one flow": (called, tasks),
        f"{tasks:,} async no-op tasks gathered in one flow": (gathered, tasks),
        f"{tasks:,} no-op tasks submitted to 1 thread": (submitted(1), tasks),
        f"{tasks:,} no-op tasks submitted to 8 threads": (submitted(8), tasks),
        "async no-op flow runs, one after the other": (runs, flows),
    }
    called(10)
    for what, (rate, count) in cases.items():
        say(
            side(server),
            f"{what}, {server} server",
            "/s",
            [float(rate(count)) for _ in range(rounds)],
        )


def apart(server: str, options: argparse.Namespace) -> None:
    """The figures with one kind of server, said by a process of its own."""
    with (
        tempfile.TemporaryDirectory(dir=".", ignore_cleanup_errors=True) as home,
        servers(Path(home)) as started,
        within(side(server), options.limit_s),
    ):
        environment = {**FASTER, "PREFECT_HOME": str(Path(home).resolve())}
        if server == "local":
            port = free_port()
            command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
            started.start("prefect server", command, environment)
            url = f"http://127.0.0.1:{port}/api"
            started.until(lambda: ask(f"{url}/health"), "answer of the server", UP_S)
            environment["PREFECT_API_URL"] = url
        sizes = [str(options.tasks), str(options.flows), str(options.rounds)]
        done = subprocess.run(
            [sys.executable, __file__, "--measure", server, *sizes],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            failed(side(server), lines[-1] if lines else f"exit code {done.returncode}")


def main() -> None:
    """Says every figure, or why there is none."""
    if sys.argv[1:2] == ["--measure"]:
        tasks, flows, rounds = map(int, sys.argv[3:])
        measure(sys.argv[2], tasks, flows, rounds)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1000, help="(default %(default)s)")
    parser.add_argument("--flows", type=int, default=30, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="samples (default %(default)s)")
    parser.add_argument(
        "--limit-s", type=float, default=400.0, help="for each kind of server (default %(default)s)"
    )
    options = parser.parse_args()
    for server in SERVERS:
        apart(server, options)


if __name__ == "__main__":
    main()
