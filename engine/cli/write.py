"""Commands that append: through the daemon's socket if one runs, else in the writer's place."""

from pathlib import Path

import click

from freshet.engine.asking import possible, wanted
from freshet.engine.cli.state import append, run_async, state_option
from freshet.engine.errors import RequestError
from freshet.engine.events import Demanded, Invalidated, Observed, SourceChanged
from freshet.engine.keys import AssetPartition
from freshet.engine.socket import Wish
from freshet.engine.stream import wall_clock
from freshet.projections.view import View

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


def _named(view: View, targets: tuple[str, ...]) -> tuple[AssetPartition, ...]:
    """What a person named, each once. Raises RequestError."""
    now = wall_clock()
    return tuple(dict.fromkeys(name for text in targets for name in wanted(view, text, now)))
