"""Commands that load the user's code: run a project, or check it."""

import os
import sys
import threading
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anyio
import click
import structlog

from freshet.engine import logs
from freshet.engine.allocation import collect_garbage, give_back, settle_down
from freshet.engine.cli.output import age
from freshet.engine.cli.state import profile_option, state_option
from freshet.engine.counts import counted
from freshet.engine.daemon import daemon, obey, signals_of_life
from freshet.engine.errors import RequestError
from freshet.engine.events import (
    EngineReloaded,
    EngineStarted,
    FreshnessAtRisk,
    FreshnessBreached,
    FreshnessRestored,
    GraphDeployed,
    Materialized,
    Paused,
    Recorded,
    Resumed,
    RunAbandoned,
    RunDelayed,
    RunFailed,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.notify import Notifier
from freshet.engine.project import Project
from freshet.engine.target import load_project, reload_project
from freshet.projections.view import View
from freshet.projections.why import describe

UNWILLING_S = 30.0
"""How long, once it is to end at once, the process waits for what does not let itself be cancelled:
longer than resources and functions may take to put things in order.
"""

LAST_WAIT_S = 1.0
"""How long threads may take to come back once the daemon has stopped."""

log = structlog.get_logger("freshet")


@click.command()
@click.argument("target", metavar="TARGET")
@click.option(
    "--slots", type=click.IntRange(min=1), help="Runs alive at once (default: the project's)."
)
@profile_option
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append logs to this file instead of stderr; it may be rotated at any time.",
)
@state_option
def run(target: str, slots: int | None, log_file: Path | None, state: Path) -> None:
    """Keep a project fresh until told to stop.

    TARGET is `path.py` or `module:project`. SIGTERM or Ctrl-C drains: nothing new starts, live runs
    get 30 s to finish; the second one stops at once. What was cut off is run again on the next
    start. SIGHUP has the project loaded anew, as `freshet reload` does.
    """
    with logs.redacted_output():
        _log_to(log_file)
        give_back()
        project = load_project(target)
        fast = {"use_uvloop": find_spec("uvloop") is not None}
        left_behind = anyio.run(_run, target, project, state, slots, backend_options=fast)
        if left_behind or _still_working():
            # A thread that outlived its timeout cannot be ended, and would keep the process for
            # ever.
            sys.stderr.flush()
            os._exit(0)


def _log_to(path: Path | None) -> None:
    try:
        logs.configure(path)
    except OSError as error:
        raise RequestError(
            f"the log file '{path}' cannot be written",
            cause=error.strerror,
            hint="its folder must be there, and writable",
        ) from None


def _still_working() -> bool:
    """Is there a thread, as of a user's sensor, that does not come back soon?"""
    others = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    for thread in others:
        thread.join(LAST_WAIT_S / len(others))
    return any(thread.is_alive() for thread in others)


@click.command()
@click.argument("target", metavar="TARGET")
@profile_option
def check(target: str) -> None:
    """Load a project and say what is wrong with it; changes nothing."""
    with logs.redacted_output():
        project = load_project(target)
    sources = sum(spec.is_source for spec in project.graph.specs.values())
    counts = {"asset": len(project.assets), "source": sources, "sensor": len(project.sensors)}
    under = f", profile {project.profile}" if project.profile else ""
    click.echo(
        f"{', '.join(counted(number, noun) for noun, number in counts.items())}: all fits"
        f" (digest {project.graph.digest[:8]}{under})"
    )


async def _run(target: str, project: Project, state: Path, slots: int | None) -> int:
    # What assets print is talk, not data: stdout belongs to whoever pipes our output.
    with redirect_stdout(sys.stderr), signals_of_life() as signals:
        load, notifier = partial(reload_project, target), Notifier.of(os.environ)
        async with daemon(project, state, slots=slots, load=load, notifier=notifier) as running:
            running.loop.listeners.append(tell)
            assets, at = len(project.assets), running.view.position
            under = {"profile": project.profile} if project.profile else {}
            place = {"state": str(state), "position": at, "pid": os.getpid()}
            settle_down()
            log.info("running", assets=assets, **place, **under)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(obey, running, signals, tasks)
                tasks.start_soon(collect_garbage, lambda: running.stream.head)
                await running.stopped()
                _leave_after(UNWILLING_S)
                tasks.cancel_scope.cancel()
        log.info("stopped", reason=running.stop_reason, position=running.stream.head)
        return running.loop.runner.left_behind


def _leave_after(seconds: float) -> None:
    """End the process then at the latest: something of the user's does not let itself be cancelled.
    What was acknowledged is on the disk; what still runs is abandoned, as after a kill.
    """

    def leave() -> None:
        sys.stderr.flush()
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def tell(recorded: Recorded, view: View) -> None:
    """One line for what a person at the terminal wants to see go by."""
    event = recorded.event
    match event:
        case Materialized():
            key = AssetPartition(event.asset, event.partition)
            run = view.runs.live.get(event.run)
            took = recorded.recorded_at - run.started_at if run is not None else 0
            log.info("materialized", asset=str(key), run=event.run, took=age(took))
        case SourceChanged():
            log.info("changed", what=describe(recorded), position=recorded.position)
        case RunFailed():
            log.error("failed", what=describe(recorded), detail=event.detail, retry=event.retry_at)
        case FreshnessAtRisk() | FreshnessBreached() | RunDelayed():
            log.warning(describe(recorded), position=recorded.position)
        case FreshnessRestored():
            log.info(describe(recorded), position=recorded.position)
        case RunAbandoned() | GraphDeployed() | Paused() | Resumed():
            log.info(describe(recorded), position=recorded.position)
        case EngineStarted() | EngineReloaded():
            log.info(describe(recorded), position=recorded.position)
        case _:
            pass
    if isinstance(event, EngineReloaded | GraphDeployed):
        settle_down()  # other definitions are there to stay
