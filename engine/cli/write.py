"""Commands that append: through the daemon's socket if one runs, else in the writer's place."""

from pathlib import Path

import click

from freshet.engine.asking import possible, wanted
from freshet.engine.cli.state import append, run_async, state_option
from freshet.engine.errors import RequestError
from freshet.engine.events import Demanded, Invalidated, Observed, RunCancelled, SourceChanged
from freshet.engine.keys import AssetPartition, parse_asset_partition
from freshet.engine.socket import Wish
from freshet.engine.stream import wall_clock
from freshet.projections.view import View

MAX_NAMED = 5
"""Live runs named to who has asked for another."""

reason_option = click.option("--reason", default="", help="Why; recorded with it.")


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="ASSET[@PARTITION]...")
@reason_option
@state_option
def materialize(targets: tuple[str, ...], reason: str, state: Path) -> None:
    """Ask for assets to be built, whether they owe or not.

    A key without a partition asks for all partitions the asset has. The demand is recorded at once;
    a daemon carries it out, now or when it next starts.
    """

    def build(view: View) -> tuple[Wish, ...]:
        return (Demanded(_named(view, targets), reason),)

    positions = run_async(append, state, build)
    click.echo(f"demanded at position {positions[0]}", err=True)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="ASSET[@PARTITION]...")
@reason_option
@state_option
def invalidate(targets: tuple[str, ...], reason: str, state: Path) -> None:
    """Declare values wrong: they are built anew, even from equal inputs.

    What reads changes starts over, with the first change ever recorded and without the value it
    had. A key without a partition means all partitions the asset has.
    """

    def build(view: View) -> tuple[Wish, ...]:
        return (Invalidated(_named(view, targets), reason),)

    positions = run_async(append, state, build)
    click.echo(f"declared wrong at position {positions[0]}", err=True)


@click.command()
@click.argument("target", metavar="RUN|ASSET[@PARTITION]")
@reason_option
@state_option
def cancel(target: str, reason: str, state: Path) -> None:
    """Stop what is running; the same inputs are not tried again.

    Nothing is published of it. What an asset's function does in a thread cannot be stopped: it goes
    on for nobody. A new version of an input, new code or `freshet materialize` starts the next run.
    """

    def build(view: View) -> tuple[Wish, ...]:
        return tuple(RunCancelled(run, reason) for run in _live(view, target))

    positions = run_async(append, state, build)
    runs = "run" if len(positions) == 1 else f"{len(positions)} runs"
    click.echo(f"{runs} of {target} cancelled at position {positions[0]}", err=True)


@click.command()
@click.argument("target", metavar="SOURCE[@PARTITION]")
@click.option(
    "--version", "data_version", required=True, help="Its data version; '' says it is gone."
)
@state_option
def emit(target: str, data_version: str, state: Path) -> None:
    """Say that a source has a new version.

    An equal version is recorded, and changes nothing but for assets that read it change by change.
    """

    def build(view: View) -> tuple[Wish, ...]:
        name = possible(view, target, wall_clock())
        if not view.staleness.graph.specs[name.asset].is_source:
            raise RequestError(
                f"'{name.asset}' is no source",
                cause="the versions of an asset come from its runs",
                hint=f"freshet materialize {name}",
            )
        return (SourceChanged(name.asset, name.partition, data_version),)

    positions = run_async(append, state, build)
    click.echo(f"recorded at position {positions[0]}", err=True)


@click.command()
@click.argument("target", metavar="ASSET[@PARTITION]")
@click.option("--version", "data_version", required=True, help="The data version that was seen.")
@state_option
def observe(target: str, data_version: str, state: Path) -> None:
    """Say which version of an asset was seen, though Freshet did not produce it just now.

    Another version than the last one makes what is downstream stale; nothing of the asset itself is
    run for it. For an asset that somebody else writes to, or repaired by hand.
    """

    def build(view: View) -> tuple[Wish, ...]:
        if not data_version:
            raise RequestError(
                "an observation needs a version", hint="to have a value built anew: invalidate"
            )
        name = possible(view, target, wall_clock())
        return (Observed(name.asset, name.partition, data_version),)

    positions = run_async(append, state, build)
    click.echo(f"recorded at position {positions[0]}", err=True)


def _live(view: View, target: str) -> list[int]:
    """The live runs that a person means. Raises RequestError when there is none."""
    if target.isdecimal():
        found = [int(target)] if int(target) in view.runs.live else []
    else:
        name = parse_asset_partition(target)
        view.staleness.graph.require(name.asset)
        found = [
            run.run
            for run in view.runs.live.values()
            if any(name.covers(one.asset, one.partition) for one in run.event.targets)
        ]
    if not found:
        live = ", ".join(
            f"{run.run} of {run.event.targets[0].asset}"
            for run in list(view.runs.live.values())[:MAX_NAMED]
        )
        raise RequestError(
            f"nothing of '{target}' is running",
            cause=f"running: {live}" if live else "nothing is running at all",
            hint="freshet status",
        )
    return found


def _named(view: View, targets: tuple[str, ...]) -> tuple[AssetPartition, ...]:
    """What a person named, each once. Raises RequestError."""
    now = wall_clock()
    return tuple(dict.fromkeys(name for text in targets for name in wanted(view, text, now)))
