"""Freshness policies as data: when a partition that owes should be brought up to date.

A policy is nothing but a source of demand (DESIGN.md section 1); the reactor knows the one rule
that turns demand into runs. Eager, and `on_missing` for what is missing, ask at once; the others
ask at a moment that `projections.promises` works out, and the asking is recorded. What each may
say besides (hours, limits, conditions …) is the same for all: `Modifiers`.
"""

from typing import Literal, TypeVar

import msgspec

from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError
from freshet.engine.keys import AssetKey, asset_key
from freshet.engine.ticks import Hours, cron_problem, hours_between

OnFailure = Literal["wait", "proceed"]


# --- conditions over inputs -------------------------------------------------------------------


class Condition(msgspec.Struct, frozen=True):
    """What must have changed since the last run; combine with `&` and `|`."""

    def __and__(self, other: object) -> "AllOf":
        return all_of(self, other)

    def __or__(self, other: object) -> "AnyOf":
        return any_of(self, other)


class Changed(Condition, frozen=True, tag="changed"):
    """This input has a partition, among those that are read, that the last run has not seen."""

    asset: AssetKey


class AllOf(Condition, frozen=True, tag="all_of"):
    """Every one of the terms."""

    terms: tuple["AnyCondition", ...]


class AnyOf(Condition, frozen=True, tag="any_of"):
    """At least one of the terms."""

    terms: tuple["AnyCondition", ...]


AnyCondition = Changed | AllOf | AnyOf


def changed(key: str) -> Changed:
    """The input `key` has changed since the last run: a term for `policy.when(...)`."""
    return Changed(asset_key(key))


def inputs_of(condition: AnyCondition) -> set[AssetKey]:
    """Every input a condition speaks of."""
    if isinstance(condition, Changed):
        return {condition.asset}
    return set().union(*map(inputs_of, condition.terms))


def all_of(*terms: object) -> AllOf:
    """Every one of these conditions, assets or sources."""
    found: list[AnyCondition] = []
    for term in map(_condition, terms):
        found += term.terms if isinstance(term, AllOf) else [term]
    return AllOf(tuple(found))


def any_of(*terms: object) -> AnyOf:
    """At least one of these conditions, assets or sources."""
    found: list[AnyCondition] = []
    for term in map(_condition, terms):
        found += term.terms if isinstance(term, AnyOf) else [term]
    return AnyOf(tuple(found))


def _condition(value: object) -> AnyCondition:
    """A condition, or what can be read as one: an asset, a source."""
    if isinstance(value, AllOf | AnyOf | Changed):
        return value
    key = getattr(value, "key", None)
    if not isinstance(key, str):
        raise DefinitionError(
            f"when(...) has {value!r}, which is no input",
            hint='combine assets, sources or fr.changed("key") with & and |',
        )
    return Changed(key)


# --- what every policy may say besides --------------------------------------------------------

P = TypeVar("P", bound="Modifiers")


class Limit(msgspec.Struct, frozen=True):
    """At most `runs` runs of one partition in any `per_ms`."""

    runs: int
    per_ms: int


class Modifiers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What narrows a policy's own demand. What is asked for from elsewhere (a person, a promise
    downstream) is not narrowed, but for `on_failure`.
    """

    hours: Hours | None = None
    limit: Limit | None = None
    newest: int | None = None
    condition: AnyCondition | None = None
    priority: int = 0
    on_failure: OnFailure = "wait"
    on_failure_after_ms: int = 0

    def between(self: P, start: str, end: str, *, tz: str = "UTC", days: str = "mon-sun") -> P:
        """Only at these hours of the day, as in `.between("08:00", "18:00", days="mon-fri")`.

        Local times in `tz`; an end before the start is on the next day. What falls due at other
        hours is asked for when they begin; the clock of a `max_lag` stands still until then.
        """
        return self._with(hours=hours_between(start, end, tz, days))

    def at_most(self: P, runs: int, per: float | str) -> P:
        """At most so many runs of a partition in any period of this length."""
        if not _is_count(runs) or runs < 1:
            raise DefinitionError(
                f"at_most({runs!r}, ...): nothing could ever run", hint="1 or more"
            )
        return self._with(limit=Limit(runs, _positive_ms(per, "at_most(..., per)")))

    def latest(self: P, count: int) -> P:
        """Only the newest so many partitions; older ones only when they are asked for."""
        if not _is_count(count) or count < 1:
            raise DefinitionError(f"latest({count!r}) leaves no partition", hint="1 or more")
        return self._with(newest=count)

    def when(self: P, condition: object) -> P:
        """Only once these inputs have changed since the last run: `.when(a & (b | c))`."""
        return self._with(condition=_condition(condition))

    def with_priority(self: P, priority: int) -> P:
        """Before what has a lower priority (the default is 0) when slots are scarce."""
        if not _is_count(priority):
            raise DefinitionError(
                f"with_priority({priority!r}) is no whole number", hint="the default is 0"
            )
        return self._with(priority=priority)

    def if_upstream_fails(self: P, what: OnFailure, *, after: float | str = 0) -> P:
        """`"wait"` (the default) until it is repaired, or `"proceed"` with its last good value,
        at once or `after` so long in debt.
        """
        if what not in ("wait", "proceed"):
            raise DefinitionError(f"if_upstream_fails({what!r})", hint="'wait' or 'proceed'")
        after_ms = parse_duration_ms(after, "if_upstream_fails(after)") if after else 0
        if after_ms and what == "wait":
            raise DefinitionError(
                'if_upstream_fails("wait", after=...) would wait without end all the same',
                hint='"proceed" goes on after that time',
            )
        return self._with(on_failure=what, on_failure_after_ms=after_ms)

    def _with(self: P, **fields: object) -> P:
        found = msgspec.structs.replace(self, **fields)
        problem = _contradiction(found)
        if problem is not None:
            raise DefinitionError(f"{describe(found)}: {problem[0]}", hint=problem[1])
        return found


# --- policies ---------------------------------------------------------------------------------


class Eager(Modifiers, frozen=True, tag="eager"):
    """Absorb everything, at once: unlimited demand. Missing partitions are filled too.

    With `debounce_ms`, once nothing has changed upstream for so long, but no later than
    `max_wait_ms` after the first change.
    """

    debounce_ms: int = 0
    max_wait_ms: int | None = None


class MaxLag(Modifiers, frozen=True, tag="max_lag"):
    """Never further behind the sources than `lag_ms`, with as few runs as that takes. With
    `warn_ms` runs are planned for that, and what is further behind is at risk.
    """

    lag_ms: int
    warn_ms: int | None = None

    @property
    def planned_ms(self) -> int:
        """How far behind it may be by plan."""
        return self.lag_ms if self.warn_ms is None else self.warn_ms


class Cron(Modifiers, frozen=True, tag="cron"):
    """Absorb at each tick everything that changed before it."""

    expression: str
    tz: str = "UTC"


class OnMissing(Modifiers, frozen=True, tag="on_missing"):
    """Build what was never built; rebuild only what something else asks for."""


class Manual(Modifiers, frozen=True, tag="manual"):
    """Run only when a person asks. A wall: downstream treats it as a source."""


Policy = Eager | MaxLag | Cron | OnMissing | Manual


def eager(*, debounce: float | str = 0, max_wait: float | str | None = None) -> Eager:
    """Rebuild as soon as something upstream has changed and every upstream has caught up with it.

    `debounce` waits until nothing has changed for so long, but no longer than `max_wait` (without
    it: ten times `debounce`) after the first change. Durations are seconds or text like "10s".
    """
    if not debounce:
        if max_wait is not None:
            raise DefinitionError(
                f"eager(max_wait={max_wait!r}) without debounce waits for nothing",
                hint='say both: fr.eager(debounce="5s", max_wait="1m")',
            )
        return Eager()
    quiet_ms = _positive_ms(debounce, "eager(debounce)")
    longest = DEFAULT_WAITS * quiet_ms if max_wait is None else _positive_ms(max_wait, "max_wait")
    if longest < quiet_ms:
        raise DefinitionError(
            f"eager(debounce={debounce!r}, max_wait={max_wait!r}): the wait ends before it can be"
            " quiet",
            hint="max_wait must not be shorter than debounce",
        )
    return Eager(debounce_ms=quiet_ms, max_wait_ms=longest)


def max_lag(lag: float | str, *, warn: float | str | None = None) -> MaxLag:
    """Promise that this is never further behind its sources than `lag`: from the moment a change is
    recorded, through everything between, to the end of the run that absorbs it.

    Runs start as late as the promise allows, by the time recent runs took, so that one run absorbs
    as many changes as it can; what is needed upstream is built in time for it. With `warn`, runs
    are planned for that, and a `FreshnessAtRisk` is recorded of what is further behind.
    """
    lag_ms = _positive_ms(lag, "max_lag")
    warn_ms = None if warn is None else _positive_ms(warn, "max_lag(warn)")
    if warn_ms is not None and warn_ms >= lag_ms:
        raise DefinitionError(
            f"max_lag({lag!r}, warn={warn!r}) would warn when it is too late",
            hint="warn must be shorter than the lag",
        )
    return MaxLag(lag_ms=lag_ms, warn_ms=warn_ms)


def cron(expression: str, *, tz: str = "UTC") -> Cron:
    """Bring it up to date at each tick of a cron expression, in the local time of `tz`.

    What has not changed is not rebuilt. A tick in an hour that the clock skips comes when the clock
    has gone forward, one in an hour that it repeats comes once; one missed while nothing ran is
    caught up once.
    """
    problem = cron_problem(expression, tz)
    if problem is not None:
        raise DefinitionError(
            f"cron({expression!r}, tz={tz!r}): {problem}",
            hint='five fields: minute hour day month weekday, as in fr.cron("0 6 * * mon-fri")',
        )
    return Cron(expression=expression, tz=tz)


def on_missing() -> OnMissing:
    """Build what was never built, at once; rebuild only when a promise downstream, a backfill or a
    person asks.
    """
    return OnMissing()


def manual() -> Manual:
    """Rebuild only on `freshet materialize`; what is below moves when this is materialized anew."""
    return Manual()


DEFAULT_WAITS = 10
"""How many times `debounce` the first change waits at most, unless `max_wait` is said."""


def check_policy(policy: object, what: str) -> None:
    """Raise DefinitionError if this is no policy; `what` names where it was given."""
    if not isinstance(policy, Modifiers):
        raise DefinitionError(
            f"{what}={policy!r} is no freshness policy",
            hint='fr.eager(), fr.max_lag("15m"), fr.cron("0 6 * * *"), fr.on_missing()',
        )


def is_at_once(policy: Modifiers) -> bool:
    """Does it ask without looking at a clock? Then its demand needs no record."""
    if policy.hours is not None or policy.limit is not None:
        return False
    return isinstance(policy, OnMissing) or (isinstance(policy, Eager) and not policy.debounce_ms)


def describe(policy: Modifiers) -> str:
    """A policy in a few words, as the CLI and events name it."""
    match policy:
        case Eager(debounce_ms=quiet) if quiet:
            text = f"eager, debounced {in_words(quiet)}"
        case MaxLag(lag_ms=lag):
            text = f"max_lag {in_words(lag)}"
        case Cron(expression=expression, tz=tz):
            text = f"cron {expression}" + (f" {tz}" if tz != "UTC" else "")
        case _:
            text = {Eager: "eager", OnMissing: "on_missing", Manual: "manual"}[type(policy)]
    if policy.hours is not None:
        text += f" {policy.hours}"
    if policy.limit is not None:
        text += f", at most {policy.limit.runs} per {in_words(policy.limit.per_ms)}"
    if policy.newest is not None:
        text += f", latest {policy.newest}"
    if policy.condition is not None:
        text += f", when {_written(policy.condition)}"
    return text


def in_words(ms: int) -> str:
    """A length of time as one would write it: 90000 is "90s", 3600000 is "1h"."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms % size == 0 and ms >= size:
            return f"{ms // size}{unit}"
    return f"{ms / 1000:g}s" if ms >= 1000 else f"{ms}ms"


def _written(condition: AnyCondition) -> str:
    if isinstance(condition, Changed):
        return condition.asset
    mark = " & " if isinstance(condition, AllOf) else " | "
    return "(" + mark.join(map(_written, condition.terms)) + ")"


def _contradiction(policy: Modifiers) -> tuple[str, str] | None:
    limit = policy.limit
    if isinstance(policy, Manual) and policy != Manual(priority=policy.priority):
        return (
            "manual asks for nothing by itself, so there is nothing to narrow",
            "drop one of them",
        )
    if not isinstance(policy, MaxLag) or limit is None:
        return None
    if limit.per_ms / limit.runs > policy.lag_ms:
        return (
            "so few runs cannot keep that promise",
            f"allow a run every {in_words(policy.lag_ms)}, or promise less",
        )
    return None


def _positive_ms(value: float | str, what: str) -> int:
    found = parse_duration_ms(value, what)
    if found <= 0:
        raise DefinitionError(f"{what}={value!r} is no time at all", hint='use e.g. "10s" or "15m"')
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
