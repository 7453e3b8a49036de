"""The command that says how well promises of freshness were kept, from the state folder alone."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

import click
import msgspec

from freshet.engine.asking import events_at
from freshet.engine.cli.output import age, console, moment, print_json, table
from freshet.engine.cli.state import json_option, reader, run_async, state_option
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, RequestError
from freshet.engine.keys import AssetKey
from freshet.engine.policies import MaxLag
from freshet.engine.selection import select
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import wall_clock
from freshet.projections.attainment import Attainment, AttainmentRow
from freshet.projections.why import describe

MAX_PERIODS = 10_000
"""Periods reported at most: more than a year by the hour, and more than anyone reads."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

FORMATS = {"second": "%Y-%m-%d %H:%M:%S", "hour": "%Y-%m-%d %H:%M"}
"""How a moment is shown; a longer period by its first day."""


class Question(msgspec.Struct, frozen=True):
    """What is asked: of which assets, from when to when as written, by which lag and target."""

    selection: tuple[str, ...]
    since: str | None
    until: str | None
    invented: MaxLag | None
    target: Fraction
    by: str


class PromiseRow(msgspec.Struct, frozen=True):
    """One promise in one period: what was measured, and what a target leaves of its budget."""

    asset: str
    promise: str
    from_us: int
    until_us: int
    attainment_percent: float
    observed_us: int
    breach_us: int
    budget_us: int
    budget_left_us: int
    episodes: int
    worst_lag_us: int
    worst_partition: str | None
    worst_at_us: int | None
    worst_owed: int | None
    worst_cause: str


class PeriodRow(msgspec.Struct, frozen=True):
    """All promises of one period together."""

    from_us: int
    until_us: int
    promises: int
    on_target: int
    attainment_percent: float
    observed_us: int
    breach_us: int
    episodes: int


class FreshnessReport(msgspec.Struct, frozen=True):
    """What was measured from `since_us` to `until_us`, by promise and by period."""

    since_us: int
    until_us: int
    target_percent: float
    rows: list[PromiseRow]
    periods: list[PeriodRow]


@click.command()
@click.argument("selection", nargs=-1)
@click.option("--since", metavar="WHEN", help="From then on: 30d (before the end), 2026-01-31.")
@click.option("--until", metavar="WHEN", help="Up to then, now if not given: 2d (ago), 2026-01-31.")
@click.option("--lag", metavar="TIME", help="Judge by this promise instead: 30s, 10m, 2h.")
@click.option(
    "--target", default="99", show_default=True, metavar="PERCENT", help="What is aimed at."
)
@click.option(
    "--by",
    type=click.Choice(["hour", "day", "week", "month", "none"]),
    default="none",
    show_default=True,
    metavar="PERIOD",
    help="A row for each hour, day, week or month, in local time.",
)
@state_option
@json_option
def freshness(
    selection: tuple[str, ...],
    since: str | None,
    until: str | None,
    lag: str | None,
    target: str,
    by: str,
    state: Path,
    as_json: bool,
) -> None:
    """How well were promises kept? Of each max_lag, the share of the time that its partitions were
    no further behind, what is left of the error budget, and the worst that happened.

    Each moment is judged by the promise that was in force then. With --lag, all selected assets are
    judged by a promise invented now, as if it had been made from the start. Time counts while a
    partition exists, whether or not the engine ran; by default from the first event on.
    """
    question = Question(selection, since, until, _invented(lag), _target(target), by)
    report = run_async(_report, state, question)
    if as_json:
        print_json(report)
    else:
        _print_report(report, by)


# --- asking ---------------------------------------------------------------------------------------


async def _report(state: Path, question: Question) -> FreshnessReport:
    async with reader(state) as stream:
        since, until = await _period(stream, question)
        measured = Attainment(starts(since, until, question.by), question.invented)
        position, over = 0, False
        while not over and (batch := await stream.read(position)):
            position = batch[-1].position
            over = batch[-1].recorded_at > until
            for recorded in batch:
                if recorded.recorded_at <= until:
                    measured.apply(recorded)
        rows = measured.report(until)
        found = _selected(measured, rows, question.selection)
        events = await events_at(stream.at, (r.worst_owed for r in found if r.worst_owed))
    causes = {position: describe(recorded) for position, recorded in events.items()}
    percent = float(100 * question.target)
    shown = [_promise_row(row, question.target, causes) for row in found]
    return FreshnessReport(since, until, percent, shown, _period_rows(shown))


async def _period(stream: SqliteReader, question: Question) -> tuple[int, int]:
    """From when to when (µs) to measure. Raises RequestError."""
    first, last = await stream.at(1), await stream.at(stream.head)
    if first is None or last is None:
        raise RequestError("nothing is recorded yet", hint="freshet run PROJECT")
    now = max(wall_clock(), last.recorded_at)  # another machine's clock may be ahead
    until = now if question.until is None else _moment_us("--until", question.until, now)
    begun = first.recorded_at
    since = begun if question.since is None else _moment_us("--since", question.since, until)
    if until > now:
        raise RequestError(
            f"'--until {question.until}' is still to come",
            cause=f"it is {moment(now)} now",
            hint="leave it out to measure up to now",
        )
    if until <= begun:
        raise RequestError(
            f"'--until {question.until}' is before anything was recorded",
            cause=f"the stream begins at {moment(begun)}",
        )
    if since >= until:
        raise RequestError(
            f"'--since {question.since}' leaves no time to measure",
            cause=f"that would be from {moment(since)} to {moment(until)}",
            hint="name an earlier time",
        )
    return max(since, begun), until


def _selected(
    measured: Attainment, rows: tuple[AttainmentRow, ...], selection: tuple[str, ...]
) -> list[AttainmentRow]:
    """The rows of the selected assets. Raises RequestError for a selection without any."""
    if not selection:
        if not rows:
            raise _nothing(measured, "the project", list(measured.graph.specs))
        return list(rows)
    seen, wanted = {row.asset for row in rows}, set()
    for text in selection:
        keys = select(measured.graph, text)
        if seen.isdisjoint(keys):
            raise _nothing(measured, f"'{text}'", keys)
        wanted.update(keys)
    return [row for row in rows if row.asset in wanted]


def _nothing(measured: Attainment, named: str, keys: list[AssetKey]) -> RequestError:
    """Why there is nothing to report of these assets."""
    if not keys:
        return RequestError(f"{named} selects nothing", hint="`freshet graph` lists the assets")
    if all(measured.graph.specs[key].is_source for key in keys):
        return RequestError(f"{named}: a source owes nothing", hint="name an asset made from it")
    if not any(key in measured.promised for key in keys):
        return RequestError(
            f"{named} has no promise to measure",
            cause="no policy is a max_lag",
            hint="--lag 10m measures one that is invented now",
        )
    return RequestError(
        f"{named}: in that time there was nothing to keep fresh",
        cause="no partition existed under the promise",
        hint="name an earlier --since or a later --until",
    )


def _promise_row(row: AttainmentRow, target: Fraction, causes: dict[int, str]) -> PromiseRow:
    budget = row.budget_us(target)
    return PromiseRow(
        row.asset,
        row.promise,
        row.from_us,
        row.until_us,
        100 * (row.observed_us - row.breach_us) / row.observed_us,
        row.observed_us,
        row.breach_us,
        budget,
        budget - row.breach_us,
        row.episodes,
        row.worst_lag_us,
        row.worst_partition,
        row.worst_at_us,
        row.worst_owed,
        causes.get(row.worst_owed or 0, ""),
    )


def _period_rows(rows: list[PromiseRow]) -> list[PeriodRow]:
    periods: dict[int, list[PromiseRow]] = {}
    for row in rows:
        periods.setdefault(row.from_us, []).append(row)
    found = []
    for start, inside in periods.items():
        observed, breach = sum(r.observed_us for r in inside), sum(r.breach_us for r in inside)
        found.append(
            PeriodRow(
                start,
                inside[0].until_us,
                len(inside),
                sum(r.budget_left_us >= 0 for r in inside),
                100 * (observed - breach) / observed,
                observed,
                breach,
                sum(r.episodes for r in inside),
            )
        )
    return found


# --- what was typed -------------------------------------------------------------------------------


def starts(since: int, until: int, by: str) -> list[int]:
    """The moments (µs) at which periods begin, by the clock of this machine. Raises
    RequestError.
    """
    found = [since]
    while by != "none":
        following = _next_start(found[-1], by)
        if following >= until:
            break
        found.append(following)
        if len(found) > MAX_PERIODS:
            raise RequestError(
                f"'--by {by}' makes more than {MAX_PERIODS} periods",
                cause=f"from {moment(since)} to {moment(until)}",
                hint="name a later --since, or longer periods",
            )
    return found


def _next_start(at_us: int, by: str) -> int:
    """The first moment after this one at which such a period begins."""
    local = (EPOCH + at_us * MICROSECOND).astimezone()
    if by == "hour":
        begun = local.replace(minute=0, second=0, microsecond=0)
        return (begun.astimezone(UTC) + timedelta(hours=1) - EPOCH) // MICROSECOND
    midnight = datetime(local.year, local.month, local.day)
    if by == "day":
        following = midnight + timedelta(days=1)
    elif by == "week":
        following = midnight + timedelta(days=7 - midnight.weekday())
    else:
        following = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    return (following.astimezone(UTC) - EPOCH) // MICROSECOND


def _moment_us(option: str, text: str, end_us: int) -> int:
    """A moment as typed: so long before `end_us`, or a date or time, local unless zoned."""
    try:
        return end_us - parse_duration_ms(text, option) * 1000
    except DefinitionError:
        pass  # no length of time, so a moment
    try:
        return (datetime.fromisoformat(text).astimezone(UTC) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError, OSError):
        raise RequestError(
            f"'{option} {text}' is no time", hint="write 30d, 12h, 2026-01-31 or '2026-01-31 08:00'"
        ) from None


def _invented(text: str | None) -> MaxLag | None:
    if text is None:
        return None
    try:
        lag_ms = parse_duration_ms(text, "--lag")
    except DefinitionError:
        lag_ms = 0
    if lag_ms <= 0:
        raise RequestError(f"'--lag {text}' is no length of time", hint="write 30s, 10m or 2h")
    return MaxLag(lag_ms=lag_ms)


def _target(text: str) -> Fraction:
    """The share that a target in percent means."""
    try:
        percent = Decimal(text.strip().removesuffix("%"))
    except InvalidOperation:
        percent = Decimal(-1)
    if not (percent.is_finite() and 0 < percent < 100):
        raise RequestError(
            f"'--target {text}' is no share to aim at",
            cause="it is in percent, more than 0 and less than 100",
            hint="write 99 or 99.9",
        )
    return Fraction(percent) / 100


# --- printing -------------------------------------------------------------------------------------


def _print_report(report: FreshnessReport, by: str) -> None:
    shown = table(
        *(() if by == "none" else (by,)),
        *("asset", "promise", ">kept", ">breached", ">episodes", ">budget left"),
        *(">worst lag", "of", "at", "owing to"),
    )
    by_period = iter(report.periods)
    for n, row in enumerate(report.rows):
        start = () if by == "none" else (_label(row.from_us, by),)
        cause = f" {row.worst_cause}" if by == "none" else ""
        owing = f"[{row.worst_owed}]{cause}" if row.worst_owed is not None else ""
        shown.add_row(
            *start,
            *(row.asset, row.promise, _percent(row.observed_us, row.breach_us)),
            *(_length(row.breach_us), str(row.episodes or ""), _budget(row)),
            *(_length(row.worst_lag_us), row.worst_partition or ""),
            *(_label(row.worst_at_us, "second") if row.worst_at_us is not None else "", owing),
        )
        last = n + 1 == len(report.rows) or report.rows[n + 1].from_us != row.from_us
        if last and (total := next(by_period)).promises > 1:
            kept, breached = _percent(total.observed_us, total.breach_us), _length(total.breach_us)
            promises = f"{total.on_target} of {total.promises} on target"
            shown.add_row(*start, "(all)", promises, kept, breached, str(total.episodes or ""))
    console().print(shown)
    on_target = sum(period.on_target for period in report.periods)
    rows = "promises" if by == "none" else "promises and periods"
    click.echo(
        f"measured from {moment(report.since_us)} to {moment(report.until_us)}:"
        f" {on_target} of {len(report.rows)} {rows} on target ({report.target_percent:g} %)",
        err=True,
    )


def _percent(observed_us: int, breach_us: int) -> str:
    """Rounded down, so that 100 % is said of nothing less."""
    thousandths = (observed_us - breach_us) * 100_000 // observed_us
    return f"{thousandths / 1000:.3f}".rstrip("0").rstrip(".") + " %"


def _budget(row: PromiseRow) -> str:
    left = row.budget_left_us
    of = f" of {age(row.budget_us)}"
    return (f"-{age(-left)}" if left < 0 else age(left)) + of


def _length(us: int) -> str:
    return age(us) if us else ""


def _label(at_us: int, by: str) -> str:
    local = (EPOCH + at_us * MICROSECOND).astimezone()
    return local.strftime(FORMATS.get(by, "%Y-%m-%d"))
