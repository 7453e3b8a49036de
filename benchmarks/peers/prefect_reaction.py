"""How long Prefect takes from an event to the flow that an automation runs because of it.

    python_of_the_environment benchmarks/peers/prefect_reaction.py --samples 10

A server, and a runner that serves three deployments: the first is triggered by an event, each
further one by the completion of a run of the one before. Two figures from the same events: until
the function of the first flow is entered, and until that of the third is.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from said import Side, say, within  # type: ignore[import-not-found]  # beside this script
from servers import (  # type: ignore[import-not-found]  # likewise
    Servers,
    ask,
    free_port,
    servers,
)

UP_S = 180.0
"""Longest wait for the server, and for the runner to have registered its deployments."""

CHAIN_S = 120.0
"""Longest wait for the end of one chain; seconds are normal."""

LINKS = ("first", "second", "third")
EVENT, RESOURCE = "landing.closed", "landing.file"
NOTED = "entered"

SETTINGS = {
    "best": (
        0.1,
        {
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
        },
        "the runner asks for work every 0.1 s, where a worker or runner does every 10 s unless "
        "told otherwise; no log lines sent to the server",
    ),
    "default": (None, {}, "everything as it is delivered: the runner asks for work every 10 s"),
}

FAVOUR = (
    "; server, SQLite and runner on this machine, warmed by a chain that is not counted; the event "
    "is posted straight to the server, so nobody has to notice a file; no tasks in the flows; "
    "flows are coroutines, as plain functions wait up to a second for their heartbeat to end"
)

SERVED = """
import asyncio
import time

from prefect import flow
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner


def note(link):
    with open({noted!r}, "a") as noted:
        noted.write(f"{{link}} {{time.time()}}\\n")


@flow
async def first():
    note("first")


@flow
async def second():
    note("second")


@flow
async def third():
    note("third")


def after(link):
    return DeploymentEventTrigger(
        expect={{"prefect.flow-run.Completed"}},
        match_related={{"prefect.resource.role": "flow", "prefect.resource.name": link}},
    )


async def main():
    runner = Runner(name="runner", query_seconds={query_seconds})
    landed = DeploymentEventTrigger(
        expect={{{event!r}}}, match={{"prefect.resource.id": {resource!r}}}
    )
    await runner.aadd_flow(first, name="first", triggers=[landed])
    await runner.aadd_flow(second, name="second", triggers=[after("first")])
    await runner.aadd_flow(third, name="third", triggers=[after("second")])
    open({noted!r}, "a").close()
    await runner.start()


if __name__ == "__main__":
    asyncio.run(main())
"""


def side(setting: str) -> Side:
    """Who is measured with which setting."""
    configuration = SETTINGS[setting][2] + FAVOUR
    return Side("Prefect", version("prefect"), "reaction", setting, configuration)


def measure(setting: str, home: Path, running: Servers, samples: int) -> None:
    """Says how long the first and the third flow took to be entered."""
    query_seconds, environment, _ = SETTINGS[setting]
    url = f"http://127.0.0.1:{(port := free_port())}/api"
    environment = {**environment, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}
    noted, served = home / NOTED, home / "served.py"
    served.write_text(
        SERVED.format(noted=str(noted), query_seconds=query_seconds, event=EVENT, resource=RESOURCE)
    )
    server = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    running.start("prefect server", server, environment)
    running.until(lambda: ask(f"{url}/health"), "answer of the server", UP_S)
    running.start("runner", [sys.executable, str(served)], environment)
    running.until(lambda: noted.exists() or None, "served deployment", UP_S)
    found = [chain(url, noted, running) for _ in range(samples + 1)][1:]
    say(side(setting), "event → flow entered", "s", [first for first, _ in found])
    say(side(setting), "event → third flow of a chain entered", "s", [third for _, third in found])


def chain(url: str, noted: Path, running: Servers) -> tuple[float, float]:
    """Seconds from one event until the first and the third flow are entered."""
    before = len(list(entered(noted)))

    def entries() -> dict[str, float] | None:
        found = dict(list(entered(noted))[before:])
        return found if LINKS[-1] in found else None

    event = {
        "id": str(uuid4()),
        "event": EVENT,
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "resource": {"prefect.resource.id": RESOURCE},
        "payload": {},
    }
    began = time.time()
    ask(f"{url}/events", [event])
    found = running.until(entries, "end of the chain", CHAIN_S)
    return found[LINKS[0]] - began, found[LINKS[-1]] - began


def entered(noted: Path) -> Iterator[tuple[str, float]]:
    """Which flows noted that they were entered, and when, in order."""
    for line in noted.read_text().splitlines():
        link, _, moment = line.partition(" ")
        yield link, float(moment)


def main() -> None:
    """Says every figure, or why there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10, help="best (default %(default)s)")
    parser.add_argument("--default-samples", type=int, default=3, help="(default %(default)s)")
    parser.add_argument(
        "--limit-s", type=float, default=400.0, help="for each setting (default %(default)s)"
    )
    options = parser.parse_args()
    for setting, samples in [("best", options.samples), ("default", options.default_samples)]:
        if samples:
            with (
                tempfile.TemporaryDirectory(dir=".", ignore_cleanup_errors=True) as folder,
                servers(Path(folder).resolve()) as running,
                within(side(setting), options.limit_s),
            ):
                measure(setting, Path(folder).resolve(), running, samples)


if __name__ == "__main__":
    main()
