"""Commands that append: through the daemon's socket if one runs, else in the writer's place."""

from pathlib import Path

import click

from freshet.engine.asking import possible
from freshet.engine.cli.state import append, run_async, state_option
from freshet.engine.errors import RequestError, did_you_mean
from freshet.engine.events import Demanded, Paused, Resumed, SourceChanged
from freshet.engine.keys import AssetPartition
from freshet.engine.socket import Wish
from freshet.engine.stream import wall_clock
from freshet.projections.cells import cells_of
from freshet.projections.pauses import EVERYTHING
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
        wanted: dict[AssetPartition, None] = {}
        for text in targets:
            wanted.update(dict.fromkeys(_wanted(view, text)))
        return (Demanded(tuple(wanted), reason),)

    positions = run_async(append, state, build)
    click.echo(f"demanded at position {positions[0]}", err=True)


@click.command()
@click.argument("target", metavar="SOURCE[@PARTITION]")
@click.option(
    "--version", "data_version", required=True, help="Its data version; '' says it is gone."
)
@state_option
def emit(target: str, data_version: str, state: Path) -> None:
    """Say that a source has a new version. An equal version is recorded, and changes nothing."""

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
@click.argument("scope", default=EVERYTHING)
@reason_option
@state_option
def pause(scope: str, reason: str, state: Path) -> None:
    """Start nothing in a scope until it is resumed: an asset, 'group:NAME', or everything ('*').

    Debts accrue meanwhile, and are paid once on `freshet resume`. Live runs go on to their end.
    """
    run_async(append, state, lambda view: (Paused(_scope(view, scope), reason),))
    click.echo(f"paused {scope}", err=True)


@click.command()
@click.argument("scope", default=EVERYTHING)
@reason_option
@state_option
def resume(scope: str, reason: str, state: Path) -> None:
    """End a pause; what is owed is paid once."""

    def build(view: View) -> tuple[Wish, ...]:
        if scope not in view.pauses.scopes:
            raise RequestError(
                f"'{scope}' is not paused",
                cause=f"paused now: {', '.join(view.pauses.scopes) or 'nothing'}",
                hint=did_you_mean(scope, view.pauses.scopes),
            )
        return (Resumed(scope, reason),)

    run_async(append, state, build)
    click.echo(f"resumed {scope}", err=True)


def _wanted(view: View, text: str) -> list[AssetPartition]:
    spec = view.staleness.graph.require(text.partition("@")[0])
    if spec.is_source:
        raise RequestError(
            f"'{spec.key}' is a source, which is produced outside Freshet",
            hint=f"freshet emit {text} --version V",
        )
    if "@" in text or spec.partitions is None:
        return [possible(view, text, wall_clock())]
    found = [cell.key for cell in cells_of(view.staleness.states[spec.key])]
    if not found:
        raise RequestError(
            f"'{spec.key}' has no partition yet", hint=f"name one: {spec.key}@PARTITION"
        )
    return found


def _scope(view: View, scope: str) -> str:
    groups = {f"group:{spec.group}" for spec in view.staleness.graph.specs.values()}
    known = {EVERYTHING, *groups, *view.staleness.graph.specs}
    if scope not in known:
        raise RequestError(
            f"'{scope}' is no asset and no group",
            hint=did_you_mean(scope, known) or "name an asset, 'group:NAME', or '*' for everything",
        )
    return scope
