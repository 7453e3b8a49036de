"""Commands that hold things up and let them go on again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from freshet.engine.asking import scope_in
from freshet.engine.cli.output import moment
from freshet.engine.cli.state import append, run_async, state_option
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, RequestError, did_you_mean
from freshet.engine.events import Paused, Resumed
from freshet.engine.socket import Wish
from freshet.engine.stream import wall_clock
from freshet.projections.pauses import EVERYTHING
from freshet.projections.view import View

MAX_PAUSE_US = 10 * 366 * 86_400_000_000
"""Ten years: a later end is taken for a slip of the pen; a pause without one has no end."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

reason_option = click.option("--reason", default="", help="Why; recorded with it.")


@click.command()
@click.argument("scope", default=EVERYTHING)
@reason_option
@click.option("--for", "length", metavar="TIME", help="End it after so long: 30s, 15m, 2h, 1d.")
@click.option(
    "--until", metavar="WHEN", help="End it then: '2026-01-31 08:00', local time unless zoned."
)
@state_option
def pause(scope: str, reason: str, length: str | None, until: str | None, state: Path) -> None:
    """Start nothing in a scope until it is resumed: an asset, 'group:NAME', 'sensor:NAME', or all
    assets ('*').

    Debts accrue meanwhile, and are paid once on `freshet resume`, or when --for or --until is over.
    Live runs go on to their end. Pausing again replaces the pause and its end.

    A paused sensor is not read: what changes meanwhile is found when it is resumed. '*' pauses no
    sensor.
    """
    ends: list[int | None] = []

    def build(view: View) -> tuple[Wish, ...]:
        # The daemon's clock may be ahead of the machine's: what is recorded tells by how much.
        end = end_us(length, until, max(wall_clock(), view.recorded_at))
        ends.append(end)
        return (Paused(scope_in(view, scope), reason, end),)

    run_async(append, state, build)
    end = ends[-1]
    click.echo(f"paused {scope}" + (f" until {moment(end)}" if end is not None else ""), err=True)


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


def end_us(length: str | None, until: str | None, now_us: int) -> int | None:
    """The end (µs) that the two options ask for, or None for none. Raises RequestError."""
    if length is not None and until is not None:
        raise RequestError(
            f"--for {length} and --until {until} at once",
            cause="a pause has one end",
            hint="leave one of them out",
        )
    if length is not None:
        end, asked = now_us + _length_us(length), f"--for {length}"
    elif until is not None:
        end, asked = _moment_us(until), f"--until {until}"
    else:
        return None
    if end <= now_us:
        raise RequestError(
            f"'{asked}' is no time to come",
            cause=f"it is {moment(now_us)} now, and that would be {moment(end)}",
            hint="name a later time, or leave it out to pause without end",
        )
    if end > now_us + MAX_PAUSE_US:
        raise RequestError(
            f"'{asked}' is more than ten years ahead",
            cause="a time that far away is taken for a slip of the pen",
            hint="leave it out to pause without end",
        )
    return end


def _length_us(text: str) -> int:
    try:
        return parse_duration_ms(text, "--for") * 1000
    except DefinitionError:
        raise RequestError(
            f"'--for {text}' is no length of time", hint="write 30s, 15m, 2h or 1d"
        ) from None


def _moment_us(text: str) -> int:
    """Local time of this machine unless a zone is given; of a time that occurs twice the first."""
    try:
        read = datetime.fromisoformat(text)
        return (read.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError) as error:
        raise RequestError(
            f"'--until {text}' is no time", cause=str(error), hint="write 2026-01-31 08:00"
        ) from None
