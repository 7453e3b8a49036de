"""The offline optimum: the fewest runs that keep every promise, when all changes are known ahead.

The model. Time goes in ticks. At a tick, runs that end do so first, then sources change, then runs
start. A run of an asset takes `times[asset]` ticks, reads when it starts what its inputs have then
(of each source, all changes up to some moment; of several inputs, the least), and brings it about
when it ends. An asset runs once at a time, any number of assets at once. A promise of L in lags is
kept if each change at t of a source upstream is in the asset at t + L. Everything is fresh at the
start, and what is not promised may stay behind for ever.

The search. Of each tick, the states that can be reached, with the fewest runs; a state is, of each
asset, what it has, when its run ends and what that will bring. Left out is what another state has
for no more runs (that one can do all the same from there on), and what cannot be finished within a
budget, which grows until a plan is found. The bound: on its own, with inputs as fast as they can
be, an asset does best to start each run at the last moment for what it lacks. Runs start only at
moments from which, run upon run, something ends at a deadline: any other run can be put off by a
tick, reads no less then, and nobody misses it.
"""

from bisect import bisect_right
from functools import cache
from itertools import chain, combinations
from typing import NamedTuple

Has = tuple[int, ...]
"""Of each source, how many of its changes are absorbed; ALL of what is not upstream."""

ALL = 1 << 30


class Problem(NamedTuple):
    """Assets with their inputs (in topological order; what is no key is a source), the times of
    their runs, promised lags, and the changes of each source in order, all in ticks.
    """

    inputs: dict[str, tuple[str, ...]]
    times: dict[str, int]
    lags: dict[str, int]
    changes: dict[str, list[int]]


class Part(NamedTuple):
    """One asset in a state: what it has; when its run ends, or 0; what it will have then."""

    has: Has
    ends: int
    will: Has


State = tuple[Part, ...]


def fewest_runs(problem: Problem) -> int | None:
    """The fewest runs of all assets together; None if no plan keeps all promises."""
    return _Search(problem).solve()


class _Search:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.assets = list(problem.inputs)
        self.changes = list(problem.changes.values())
        self.end = max(map(max, filter(None, self.changes)), default=0) + max(problem.lags.values())
        self.slack, self.starts = self._slack(), self._starts()
        self.above: dict[str, list[int]] = {}
        for name, ups in problem.inputs.items():
            ways = [self.above[u] if u in self.above else self._source(u, 0, -1) for u in ups]
            self.above[name] = [max(way) for way in zip(*ways, strict=True)]
            self.above[name] = [w + problem.times[name] if w >= 0 else w for w in self.above[name]]
        self.bound = cache(self._bound)

    def solve(self) -> int | None:
        has: dict[str, Has] = {}
        for name in self.assets:
            has[name] = self._read(name, has, -1)
        start = tuple(Part(h, 0, h) for h in has.values())
        least = self._least(start, -1)
        for budget in range(least, len(self.assets) * self.end + 1):
            front = {start: 0}
            for now in range(self.end + 1):
                reached: dict[State, int] = {}
                for state, runs in front.items():
                    for after, started in self._step(state, now, budget - runs):
                        reached[after] = min(runs + started, reached.get(after, ALL))
                front = _best(reached)
            if front:
                return min(front.values())
        return None

    def _step(self, state: State, now: int, budget: int) -> list[tuple[State, int]]:
        """The states at the end of a tick, each with how many runs were started."""
        parts = [Part(p.will, 0, p.will) if p.ends == now else p for p in state]
        has = {name: part.has for name, part in zip(self.assets, parts, strict=True)}
        able = {}
        for i, name in enumerate(self.assets):
            if not parts[i].ends and now in self.starts[name]:
                will = self._read(name, has, now)
                if will != has[name]:
                    able[i] = Part(has[name], now + self.problem.times[name], will)
        found = []
        for chosen in chain.from_iterable(combinations(able, n) for n in range(len(able) + 1)):
            after = tuple(able[i] if i in chosen else part for i, part in enumerate(parts))
            if len(chosen) + self._least(after, now) <= budget:
                found.append((after, len(chosen)))
        return found

    def _read(self, name: str, has: dict[str, Has], now: int) -> Has:
        """What a run would read now."""
        ups = self.problem.inputs[name]
        read = [has[up] if up in has else self._absorbed(up, now) for up in ups]
        return tuple(map(min, zip(*read, strict=True)))

    def _absorbed(self, source: str, now: int) -> Has:
        return tuple(self._source(source, bisect_right(self.problem.changes[source], now), ALL))

    def _source(self, source: str, value: int, others: int) -> list[int]:
        return [value if name == source else others for name in self.problem.changes]

    def _least(self, state: State, now: int) -> int:
        """No fewer runs are needed from here on; ALL if it is too late."""
        found = 0
        for name, part in zip(self.assets, state, strict=True):
            last, runs = self.bound(name, part.will)
            found += runs if last >= max(part.ends, now + 1) else ALL
        return found

    def _bound(self, name: str, has: Has) -> tuple[int, int]:
        """Of one asset on its own, when its next run has to start, and how many it needs."""
        lacks = [times[n] for times, n in zip(self.changes, has, strict=True) if n < len(times)]
        if not lacks or self.slack[name] >= ALL:
            return ALL, 0
        last, time = min(lacks) + self.slack[name], self.problem.times[name]
        ways = [last - way + time for way in self.above[name]]
        got = map(bisect_right, self.changes, ways)
        after = tuple(max(n, m) for n, m in zip(has, got, strict=True))
        return last, 1 + self.bound(name, after)[1] if after != has else ALL

    def _slack(self) -> dict[str, int]:
        """From a change to the last start of an asset that keeps the promises below it."""
        found: dict[str, int] = {}
        for name in reversed(self.assets):
            below = [found[low] for low in found if name in self.problem.inputs[low]]
            found[name] = min([self.problem.lags.get(name, ALL), *below]) - self.problem.times[name]
            found[name] = found[name] if found[name] < ALL // 2 else 2 * ALL
        return found

    def _starts(self) -> dict[str, set[int]]:
        """Moments from which runs of an asset end at a deadline or where another one starts."""
        found: dict[str, set[int]] = {}
        for name in reversed(self.assets):
            time, lag = self.problem.times[name], self.problem.lags.get(name)
            ends = set[int]().union(
                *(s for n, s in found.items() if name in self.problem.inputs[n])
            )
            if lag is not None:
                ends |= {t + lag for times in self.changes for t in times}
            found[name] = set()
            while ends:
                ends = {t - time for t in ends if t >= time} - found[name]
                found[name] |= ends
        return found


def _best(reached: dict[State, int]) -> dict[State, int]:
    """Without the states that another one makes needless."""
    kept: dict[State, int] = {}
    for state, runs in sorted(reached.items(), key=lambda item: item[1]):
        if not any(_covers(other, state) for other in kept):
            kept[state] = runs
    return kept


def _covers(one: State, other: State) -> bool:
    """Can `one` do from here on whatever `other` can?"""
    for a, b in zip(one, other, strict=True):
        if a.ends > b.ends or any(x < y for x, y in zip(a.has, b.has, strict=True)):
            return False
        if b.ends and any(x < y for x, y in zip(a.will, b.will, strict=True)):
            return False
    return True
