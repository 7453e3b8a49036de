"""Commands about sensors: how each is, what it rejected, and where a person wants it to go on."""

from collections.abc import Iterable
from pathlib import Path

import click
import msgspec
from click.core import ParameterSource
from rich.text import Text

from freshet.engine.asking import StatusQuestion, events_at
from freshet.engine.cli.output import age, console, moment, print_json, table
from freshet.engine.cli.state import (
    NOBODY,
    append,
    json_option,
    reader,
    run_async,
    state_option,
    view_of,
)
from freshet.engine.counts import counted
from freshet.engine.errors import RequestError, did_you_mean
from freshet.engine.events import CursorMoved, MessageRejected
from freshet.engine.socket import Wish, ask_status
from freshet.engine.specs import Metadata
from freshet.engine.stream import wall_clock
from freshet.projections.pauses import sensor_scope
from freshet.projections.sensors import SensorRow, sensor_rows
from freshet.projections.view import View
from freshet.sensors.sensor import REPLAY, START

MAX_ROWS = 100
"""Rejections listed at once unless asked otherwise."""

MAX_NAMED = 5
"""Of what exists, named in an error: enough to see how names look."""

MAX_WELL = 10
"""Sensors that work, named below the status of everything; the others are counted."""

STARTS = ("earliest", "latest", "resume")

STYLES = {
    "running": "green",
    "starting": "blue",
    "paused": "cyan",
    "retrying": "yellow",
    "failed": "red",
    "halted": "bold red",
}


class RejectedRow(msgspec.Struct, frozen=True):
    """Something a sensor rejected that is not settled: where it lies outside, the position and time
    (µs) of its event, why, how it begins; and whether it is still to be looked at again, because a
    person asked for it.
    """

    sensor: str
    item: str
    position: int
    rejected_at_us: int
    reason: str
    excerpt: str
    metadata: Metadata
    replay: bool


@click.group(invoke_without_command=True)
@click.option(
    "--rejected",
    is_flag=False,
    flag_value="",
    metavar="[SENSOR]",
    help="List what was rejected and is not settled, the newest last.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=MAX_ROWS,
    show_default=True,
    help="With --rejected: at most this many, the newest.",
)
@state_option
@json_option
@click.pass_context
def sensors(
    context: click.Context, rejected: str | None, limit: int, state: Path, as_json: bool
) -> None:
    """How is each sensor, and what did it reject? Also: look again, or go on elsewhere.

    `freshet sensors replay SENSOR ITEM...` (or --all) has a sensor look again at what it rejected.

    `freshet sensors reset SENSOR --from earliest` (or latest, or resume) says where it goes on;
    one that is halted waits for that.
    """
    if context.invoked_subcommand is not None:
        _check_order(context)
    elif rejected is not None:
        _list_rejected(state, rejected, limit, as_json)
    else:
        _list_sensors(state, as_json)


@sensors.command("replay")
@click.argument("sensor")
@click.argument("items", nargs=-1, metavar="[ITEM]...")
@click.option("--all", "everything", is_flag=True, help="Everything that is not settled.")
@state_option
def replay(sensor: str, items: tuple[str, ...], everything: bool, state: Path) -> None:
    """Have a sensor look again at what it rejected.

    What can count now is recorded as a change, and settled; what cannot is rejected anew. ITEM is
    as `freshet sensors --rejected` lists it. A sensor that cannot look at single items starts anew.
    """
    if everything == bool(items):
        both = f"--all and {counted(len(items), 'item')} at once"
        raise RequestError(
            both if everything else "no item is named",
            hint=f"name items as `freshet sensors --rejected {sensor}` lists them, or give --all",
        )
    chosen: list[str] = []

    def build(view: View) -> tuple[Wish, ...]:
        known = view.sensors.rejected.get(existing_sensor(view, sensor), {})
        chosen.extend(known if everything else dict.fromkeys(items))
        for item in chosen:
            if item not in known:
                raise _no_such_item(sensor, item, known)
        return (CursorMoved(sensor, {REPLAY + item: "" for item in chosen}),) if chosen else ()

    positions = run_async(append, state, build)
    if not chosen:
        said = f"nothing to look at: {sensor} has rejected nothing that is not settled"
        click.echo(said, err=True)
        return
    _tell(state, positions[0], sensor, f"looks again at {counted(len(chosen), 'item')}")


@sensors.command("reset")
@click.argument("sensor")
@click.option(
    "--from",
    "start",
    type=click.Choice(STARTS),
    required=True,
    help="With the first that is still there, with what is yet to come, or where it was.",
)
@state_option
def reset(sensor: str, start: str, state: Path) -> None:
    """Say where a sensor goes on.

    It starts anew at once, also when it was halted. What it brings a second time (`earliest`) with
    the same version rebuilds nothing; what it passes over (`latest`) is never seen. Sensors that
    compare what is there with what they know, as that of files does, have no `latest`.
    """

    def build(view: View) -> tuple[Wish, ...]:
        name = existing_sensor(view, sensor)
        if start == "latest" and name in view.sensors.without_latest:
            raise RequestError(
                f"sensor '{name}' cannot go on from 'latest'",
                cause="it compares what is there with what it knows, and passes over nothing",
                hint="--from earliest has it forget what it knows, --from resume only starts it"
                " anew",
            )
        return (CursorMoved(name, {START: start}),)

    positions = run_async(append, state, build)
    _tell(state, positions[0], sensor, f"goes on from '{start}'")


# --- health, here and in `freshet status` ---------------------------------------------------------


def is_unwell(row: SensorRow) -> bool:
    """Does somebody have to look after it?"""
    return bool(row.error or row.rejected)


def print_health(rows: Iterable[SensorRow], now_us: int, *, whole: bool) -> None:
    """Below the status: the sensors that somebody has to look after; with `whole` the others too,
    on stderr.
    """
    listed = list(rows)
    for row in filter(is_unwell, listed):
        click.echo(_health_line(row, now_us))
        _print_trouble(row)
    well = [row for row in listed if not is_unwell(row)] if whole else []
    for row in well[:MAX_WELL]:
        click.echo(_health_line(row, now_us), err=True)
    if len(well) > MAX_WELL:
        click.echo(f"and {len(well) - MAX_WELL} more: freshet sensors", err=True)


def _health_line(row: SensorRow, now_us: int) -> str:
    facts = [row.state, f"seen {_seen(row, now_us)}" if row.seen_us else "never seen"]
    facts += [f"{row.behind} behind"] if row.behind else []
    facts += [f"{row.rejected} rejected"] if row.rejected else []
    return f"sensor {plain(row.sensor)}: {', '.join(facts)}"


def _print_trouble(row: SensorRow) -> None:
    hint = row.hint
    if row.error:
        click.echo(f"  error: {plain(row.error)}")
    if row.state == "halted" and not hint:
        hint = f"freshet sensors reset {row.sensor} --from {'|'.join(STARTS)}"
    if hint:
        click.echo(f"  hint: {plain(hint)}")
    if row.rejected:
        click.echo(f"  {row.rejected} rejected: freshet sensors --rejected {plain(row.sensor)}")


def _seen(row: SensorRow, now_us: int) -> str:
    return f"{age(max(0, now_us - row.seen_us))} ago" if row.seen_us else "never"


def plain(text: str) -> str:
    """What came from outside, on one line, with nothing in it that a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# --- listing --------------------------------------------------------------------------------------


def _list_sensors(state: Path, as_json: bool) -> None:
    rows, now_us = run_async(_rows, state), wall_clock()
    if as_json:
        print_json(rows)
        return
    shown = table("sensor", "sources", "state", "seen", ">behind", ">changes", ">rejected")
    for row in rows:
        shown.add_row(
            Text(plain(row.sensor)),
            ", ".join(row.sources),
            Text(row.state, style=STYLES.get(row.state, "")),
            _seen(row, now_us),
            "" if row.behind is None else str(row.behind),
            str(row.changes),
            str(row.rejected),
        )
    if not rows:
        said = "no sensor is known; one is once the daemon of its project has started"
        click.echo(said, err=True)
        return
    console().print(shown)
    for row in filter(is_unwell, rows):
        click.echo(f"{plain(row.sensor)}:")
        _print_trouble(row)


def _list_rejected(state: Path, sensor: str, limit: int, as_json: bool) -> None:
    rows, total = run_async(_rejected, state, sensor, limit)
    if as_json:
        print_json(rows)
        return
    shown = table("sensor", "item", "rejected", "reason", "begins with", "")
    for column in shown.columns[3:5]:  # these give way in a narrow terminal, the item does not
        column.no_wrap = False
    for row in rows:
        texts = (row.sensor, row.item, moment(row.rejected_at_us), row.reason, row.excerpt)
        shown.add_row(*(Text(plain(text)) for text in texts), "asked for" if row.replay else "")
    if rows:
        console().print(shown)
        click.echo(_verdict(len(rows), total, sensor or "SENSOR"), err=True)
    else:
        click.echo("nothing is rejected", err=True)


def _verdict(shown: int, total: int, sensor: str) -> str:
    of = f"{shown} of {total}" if shown < total else str(total)
    return f"{of} rejected; to have them looked at again: freshet sensors replay {sensor} --all"


async def _rows(state: Path) -> tuple[SensorRow, ...]:
    try:
        return (await ask_status(state, StatusQuestion(limit=1))).sensors
    except NOBODY:
        pass  # no daemon: the stream is read
    async with reader(state) as stream:
        view = await view_of(stream)
        return sensor_rows(view.sensors, view.pauses)


async def _rejected(state: Path, sensor: str, limit: int) -> tuple[list[RejectedRow], int]:
    """The newest rejections of a sensor, or of all, and how many there are."""
    async with reader(state) as stream:
        view = await view_of(stream)
        known = view.sensors.rejected
        names = [existing_sensor(view, sensor)] if sensor else list(known)
        total = sum(view.sensors.health[name].rejected for name in names if name in known)
        places = sorted((at, name) for name in names for at in known.get(name, {}).values())
        newest = places[-limit:]
        events = await events_at(stream.at, (at for at, _ in newest))
        asked = {name: await stream.cursor(name) for name in dict.fromkeys(n for _, n in newest)}
    rows = []
    for at, name in newest:
        event = events[at].event
        assert isinstance(event, MessageRejected)
        row = RejectedRow(
            name,
            event.item,
            at,
            events[at].recorded_at,
            event.reason,
            event.excerpt,
            event.metadata,
            REPLAY + event.item in asked[name],
        )
        rows.append(row)
    return rows, total


# --- asking for something -------------------------------------------------------------------------


def existing_sensor(view: View, name: str) -> str:
    """The sensor a person named. Raises RequestError with the nearest that does exist."""
    names = view.sensors.names()
    if name in names:
        return name
    raise RequestError(
        f"there is no sensor '{name}'",
        cause=f"known are {_some(names)}",
        hint=did_you_mean(name, names)
        or "a new sensor is known once the daemon of its project has started",
    )


def _no_such_item(sensor: str, item: str, known: Iterable[str]) -> RequestError:
    newest_first = list(reversed(list(known)))
    return RequestError(
        f"'{item}' is nothing that '{sensor}' has rejected and not settled",
        cause=f"rejected are {_some(newest_first)}",
        hint=did_you_mean(item, newest_first) or f"freshet sensors --rejected {sensor}",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (", ".join(names[:MAX_NAMED]) or "none") + more


def _check_order(context: click.Context) -> None:
    """An option before a subcommand would be for nothing. Raises RequestError."""
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "--json" if name == "as_json" else f"--{name}"
            raise RequestError(
                f"'{option}' stands before '{context.invoked_subcommand}'",
                cause=f"there it is an option of `{context.command_path}` alone",
                hint=f"{context.command_path} {context.invoked_subcommand} --help",
            )


def _tell(state: Path, position: int, sensor: str, what: str) -> None:
    when = run_async(_when, state, sensor)
    click.echo(f"recorded at position {position}: {sensor} {what}, {when}", err=True)


async def _when(state: Path, sensor: str) -> str:
    """When the sensor will see what was recorded for it."""
    try:
        rows = (await ask_status(state, StatusQuestion(limit=1))).sensors
    except NOBODY:
        return "once a daemon runs"
    found = next((row for row in rows if row.sensor == sensor), None)
    if found is None:
        return "once the project that runs has it again"
    if found.state == "paused":
        return f"once it is resumed (freshet resume {sensor_scope(sensor)})"
    return "now"
