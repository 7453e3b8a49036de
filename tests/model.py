"""The slow model of staleness: DESIGN.md's appendix, recomputed over everything at every event.

No sums, no heaps, no touched sets: which partitions exist is derived from the definitions each
time,
fingerprints are the sets of versions themselves, and settling loops over all until nothing moves.
"""

from collections.abc import Iterator

from freshet.engine import events as e
from freshet.engine.graph import Graph
from freshet.engine.mappings import (
    All,
    Dimensions,
    Identity,
    Last,
    PartitionMapping,
    Table,
)
from freshet.engine.partitions import Partitions
from freshet.engine.parts import Absorbed
from freshet.engine.policies import (
    AllOf,
    AnyCondition,
    Changed,
    Cron,
    Eager,
    Manual,
    OnMissing,
    Policy,
    is_at_once,
)
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.windows import Windows
from tests.shapes import (
    admits,
    brings,
    does_bring,
    grows,
    named,
    open_ended,
    reads,
    time_part,
    universe,
    window_of,
)

INF = 1 << 62
Key = tuple[str, str]
Read = tuple[tuple[Key, str], ...]


def asks_by_name(mapping: PartitionMapping, up: Partitions | None, down: Partitions | None) -> bool:
    """Does a partition say which it reads, even if the upstream does not have them?"""
    if isinstance(mapping, Dimensions):
        pairs = [pair for pair in mapping.pairs if pair.up == ""]
        return any(asks_by_name(p.mapping, up, named(down)[p.down]) for p in pairs)
    windows = isinstance(up, Windows) and isinstance(down, Windows)
    return isinstance(mapping, Table) or (isinstance(mapping, Identity) and not windows)


def is_eager(policy: Policy) -> bool:
    """Does it always ask for everything?"""
    narrowed = policy.newest is not None or policy.condition is not None
    return isinstance(policy, Eager) and is_at_once(policy) and not narrowed


class Model:
    def __init__(self) -> None:
        self.specs: dict[str, AssetSpec] = {}
        self.cells: set[Key] = set()
        self.explicit: set[Key] = set()
        self.version: dict[Key, str] = {}
        self.owed: dict[Key, int] = {}
        self.running: dict[Key, int] = {}
        self.next: dict[Key, int] = {}
        self.pinned: dict[Key, tuple[Read, str]] = {}
        self.consumed: dict[Key, Read] = {}
        self.code: dict[Key, str] = {}
        self.forced: dict[Key, set[int]] = {}
        self.demand: dict[Key, set[int]] = {}
        self.due: dict[Key, set[int]] = {}
        self.changed: dict[Key, int] = {}
        self.said: list[tuple[int, Key]] = []
        """Position and subject of all that was ever said of versions from outside."""
        self.was_read: dict[Key, set[int]] = {}
        """The positions of what it has read change by change."""
        self.reading: dict[Key, set[int]] = {}
        """Those of what its live run reads."""
        self.halfway: set[Key] = set()
        self.started: dict[Key, int] = {}
        self.failed: dict[Key, tuple[tuple[Read, str], int | None]] = {}
        self.runs: dict[int, list[Key]] = {}
        self.wave = (0, -INF)
        self.attic: dict[Key, tuple[str, Read | None, str, int]] = {}
        self.now_us = self.position = 0
        self.seen: dict[str, int] = {}
        self.memo: dict[Key, bool] = {}
        self.memo_standing: dict[Key, str] = {}
        self.memo_tells: dict[str, bool] = {}
        self.cache: dict[tuple[str, int, str], list[str]] = {}

    def is_wall(self, asset: str) -> bool:
        return self.specs[asset].is_source or isinstance(self.specs[asset].policy, Manual)

    def wanted(self, n: Key, number: int, dep: Dependency) -> list[Key]:
        """What n depends on over one edge, existing or not; of all-to-one edges what exists."""
        if isinstance(dep.mapping, All | Last):
            return [c for c in self.cells if c[0] == dep.asset]
        found = self.cache.get((n[0], number, n[1]))
        if found is None:
            up, down = self.specs[dep.asset].partitions, self.specs[n[0]].partitions
            found = self.cache[n[0], number, n[1]] = reads(dep.mapping, up, down, n[1])
        return [(dep.asset, key) for key in found]

    def ups(self, n: Key) -> Iterator[tuple[Dependency, list[Key], list[Key]]]:
        """Edges of n: the edge, all that n depends on, and what of it exists."""
        for number, dep in enumerate(self.specs[n[0]].deps if n[0] in self.specs else ()):
            wanted = self.wanted(n, number, dep)
            yield dep, wanted, [c for c in wanted if c in self.cells]

    def downs(self, u: Key) -> list[Key]:
        return [n for n in self.cells if any(u in cells for _, cells, _ in self.ups(n))]

    def eff(self, n: Key) -> int:
        return self.running.get(n, self.owed.get(n, INF))

    def up_eff(self, n: Key, *, coming: bool = False, every: bool = False) -> int:
        effs = [
            self.eff(c)
            for dep, _, cells in self.ups(n)
            if not self.is_wall(dep.asset)
            for c in cells
            if every
            or dep.missing in ("", "wait")
            or c in self.version
            or (coming and self.coming(c))
        ]
        return min(effs, default=INF)

    def coming(self, n: Key) -> bool:
        """Is a run of it alive or about to start?"""
        if n not in self.memo:
            self.memo[n] = n in self.running or self.listed(n) == "ready"
        return self.memo[n]

    def fingerprint(self, n: Key) -> Read:
        read = []
        for dep, _, cells in self.ups(n):
            if dep.changes:
                newest = max(self.heard(n, dep), default=0)
                read += [((dep.asset, "#"), str(newest))] if newest else []
                continue
            there = [c for c in cells if c in self.version]
            if isinstance(dep.mapping, Last):
                there = self.newest_of(cells)
            read += [(c, self.version[c]) for c in there]
        return tuple(sorted(read))

    def fed(self, n: Key, dep: Dependency) -> set[int]:
        """All that n is ever to read change by change over an edge, by what it says now."""
        up, down = self.specs[dep.asset].partitions, self.specs[n[0]].partitions
        said = [(p, k) for p, (a, k) in self.said if a == dep.asset]
        if isinstance(dep.mapping, All) and up is not None:
            return {p for p, _ in said}
        plain = isinstance(dep.mapping, All)
        keys = {""} if plain else set(reads(dep.mapping, up, down, n[1]))
        by_name = asks_by_name(dep.mapping, up, down)
        return {p for p, k in said if k in keys and (by_name or admits(up, k))}

    def heard(self, n: Key, dep: Dependency) -> set[int]:
        """The same without what the source does not let in, unless all of it is read."""
        up = self.specs[dep.asset].partitions
        let_in = {p for p, (_, k) in self.said if admits(up, k)}
        whole = isinstance(dep.mapping, All) and up is not None
        return self.fed(n, dep) if whole else self.fed(n, dep) & let_in

    def unread(self, n: Key, source: str | None = None) -> set[int]:
        """What n has heard of, and has not read."""
        if n[0] not in self.specs:
            return set()
        deps = [d for d in self.specs[n[0]].deps if d.changes and source in (None, d.asset)]
        heard: set[int] = set().union(*(self.heard(n, dep) for dep in deps))
        return heard - self.was_read.get(n, set())

    def gate(self, n: Key) -> str:
        """ "shut", "open", or "gaps" when only what may be missing, or has failed, is."""
        wall, policy = self.is_wall(n[0]), self.specs[n[0]].policy
        floor = max(self.demand[n]) if wall and self.demand.get(n) else self.owed[n]
        limit = max([floor, *self.due.get(n, ()), *self.demand.get(n, ())])
        found = "open"
        for dep, wanted, cells in self.ups(n):
            for c in cells if not self.is_wall(dep.asset) else ():
                if dep.missing == "skip" and c not in self.version and not self.coming(c):
                    continue
                standing = self.standing(c) if self.eff(c) <= limit else "deferred"
                if self.eff(c) > floor and limit not in self.due.get(c, ()):
                    standing = "deferred"
                if standing == "moving" or (standing == "stuck" and self.eff(c) <= floor):
                    if standing == "moving" or policy.on_failure == "wait":
                        return "shut"
                    found = "gaps" if policy.on_failure_after_ms else found
            if self.lacks(n, dep, wanted):
                if dep.missing in ("", "wait"):
                    return "shut"
                found = "gaps"
        return found

    def lacks(self, n: Key, dep: Dependency, wanted: list[Key]) -> bool:
        there = sum(c in self.version for c in wanted)
        shape = self.specs[dep.asset].partitions
        needed = len(wanted)
        if open_ended(dep.mapping, shape):
            needed = 1
        elif isinstance(dep.mapping, All):
            needed = len(universe(shape))
        if dep.changes:
            return needed > 0 and not self.heard(n, dep)
        return there < needed

    def standing(self, n: Key) -> str:
        """ "moving", "deferred" (nobody asks for it) or "stuck" (needs news)."""
        if n not in self.memo_standing:
            self.memo_standing[n] = self.standing_now(n) if self.tells(n[0]) else "moving"
        return self.memo_standing[n]

    def standing_now(self, n: Key) -> str:
        if n in self.running or self.owed.get(n, INF) == INF or self.listed(n):
            return "moving"
        gate = self.gate(n)
        if gate == "shut" or self.must_run(n):
            if not self.wanted_now(n):
                return "deferred"
            if gate != "shut":
                return "stuck"
        standings = set()
        wall = self.is_wall(n[0])
        floor = max(self.demand[n]) if wall and self.demand.get(n) else self.owed[n]
        for dep, wanted, cells in self.ups(n):
            absent = dep.missing in ("", "wait") and gate == "shut" and self.lacks(n, dep, wanted)
            if absent and self.is_wall(dep.asset):
                return "stuck"
            if self.is_wall(dep.asset):
                continue
            if absent:
                shape = self.specs[dep.asset].partitions
                # Of what has no end it reads what there is, and waits for nothing beyond.
                asked = cells if open_ended(dep.mapping, shape) else wanted
                rows = [c for c in asked if c not in self.version]
                standings |= set() if asked else {"stuck"}
                standings |= {self.standing(c) if c in self.cells else "stuck" for c in rows}
            else:
                skips = dep.missing not in ("", "wait")
                standings |= {
                    self.standing(c)
                    for c in cells
                    if self.eff(c) <= floor and (not skips or c in self.version or self.coming(c))
                }
        if gate == "shut" and "stuck" in standings:
            return "stuck"
        for found in ("moving", "deferred"):
            if found in standings:
                return found
        return "moving" if gate == "shut" else "stuck"

    def tells(self, asset: str) -> bool:
        """May its rows be deferred, or is somebody below who goes on without what is stuck?"""
        if asset not in self.memo_tells:
            self.memo_tells[asset] = not self.is_wall(asset) and (
                self.lazy_above(asset) or self.proceeds_below(asset)
            )
        return self.memo_tells[asset]

    def lazy_above(self, asset: str) -> bool:
        spec = self.specs[asset]
        ups = {dep.asset for dep in spec.deps} - {asset}
        return not self.is_wall(asset) and (
            not is_eager(spec.policy) or any(self.lazy_above(up) for up in ups)
        )

    def proceeds_below(self, asset: str) -> bool:
        downs = [s for s in self.specs.values() if asset in {d.asset for d in s.deps}]
        return any(
            s.policy.on_failure == "proceed"
            or (s.key != asset and not self.is_wall(s.key) and self.proceeds_below(s.key))
            for s in downs
        )

    def wanted_now(self, n: Key) -> bool:
        """Does a demand, or a policy that needs no clock, ask for it?"""
        policy = self.specs[n[0]].policy
        if self.due.get(n) or self.demand.get(n):
            return True
        if self.is_wall(n[0]) or not is_at_once(policy):
            return False
        if policy.newest is not None:
            place = universe(self.specs[n[0]].partitions).index
            later = [c for c in self.cells if c[0] == n[0] and place(c[1]) > place(n[1])]
            if len(later) >= policy.newest:
                return False
        if policy.condition is not None and not self.holds(n, policy.condition):
            return False
        if n in self.version and isinstance(policy, OnMissing):
            return n in self.halfway
        return True

    def holds(self, n: Key, condition: AnyCondition) -> bool:
        if isinstance(condition, Changed):
            return bool(self.unread(n, condition.asset)) or any(
                self.changed.get(c, 0) > self.started.get(n, 0)
                for dep, _, cells in self.ups(n)
                if dep.asset == condition.asset and not dep.changes
                for c in (cells if not isinstance(dep.mapping, Last) else self.newest_of(cells))
            )
        combine = all if isinstance(condition, AllOf) else any
        return combine(self.holds(n, term) for term in condition.terms)

    def newest_of(self, cells: list[Key]) -> list[Key]:
        there = [c for c in cells if c in self.version]
        order = universe(self.specs[there[0][0]].partitions) if there else []
        return [max(there, key=lambda c: order.index(c[1]))] if there else []

    def must_run(self, n: Key) -> bool:
        return (
            n not in self.version or n not in self.consumed or bool(self.forced.get(n))
            or bool(self.unread(n)) or (n in self.halfway and self.specs[n[0]].reads_changes)
            or self.code[n] != self.specs[n[0]].code_version
            or self.consumed[n] != self.fingerprint(n)
        )  # fmt: skip

    def startable(self) -> tuple[set[Key], set[Key]]:
        """(ready now, waiting for a time)"""
        self.forget()
        listed = {n: self.listed(n) for n in self.cells}
        return (
            {n for n, word in listed.items() if word == "ready"},
            {n for n, word in listed.items() if word == "timed"},
        )

    def forget(self) -> None:
        self.memo, self.memo_standing, self.memo_tells = {}, {}, {}

    def listed(self, n: Key) -> str:
        """ "ready", "timed", or neither."""
        if n in self.running or self.owed.get(n, INF) == INF or not self.wanted_now(n):
            return ""
        gate = self.gate(n)
        if gate == "shut" or not self.must_run(n):
            return ""
        tried, retry_at = self.failed.get(n, (None, None))
        if tried != (self.fingerprint(n), self.specs[n[0]].code_version):
            return "ready" if gate == "open" else "timed"
        return "timed" if retry_at is not None else ""

    def state(self, n: Key) -> str:
        if n not in self.version:
            return "missing"
        if self.specs[n[0]].is_source or (self.eff(n) == INF and n not in self.running):
            return "fresh"
        return "stale" if self.must_run(n) else "waiting"

    def mark(self, n: Key, w: int) -> None:
        if n in self.running:
            self.next[n] = min(self.next[n], w)
        elif self.owed.get(n, INF) > w:
            self.owed[n] = w
            if not self.is_wall(n[0]):
                for d in self.downs(n):
                    self.mark(d, w)

    def exist(self, w: int, readers: dict[Key, list[Key]] | None = None) -> None:
        """Derive which cells exist; new ones owe w, gone ones are forgotten and marked below."""
        now: set[Key] = set()
        before = self.cells
        for asset, spec in self.specs.items():
            shape = spec.partitions
            keys = {k for a, k in self.explicit if a == asset}
            keys |= set() if grows(shape) else set(universe(shape))
            if grows(shape):
                if spec.is_source:
                    keys |= {k for a, k in [*self.version, *self.attic] if a == asset}
                keys |= self.over(spec)
                for dep in spec.deps:
                    above = [k for a, k in now if a == dep.asset]
                    theirs = self.specs[dep.asset].partitions
                    possible = {*universe(shape), *above, *(k for a, k in before if a == asset)}
                    possible |= {part for up in above for part in up.split("|")}
                    for k in possible:
                        if admits(shape, k) and any(
                            brings(dep.mapping, theirs, shape, k, up) for up in above
                        ):
                            keys.add(k)
            now |= {(asset, k) for k in keys if admits(shape, k)}
        for gone in before - now:
            below = self.downs(gone) if gone[0] in self.specs else []
            for d in {*below, *(readers or {}).get(gone, [])}:
                if d in self.cells and d[0] in self.specs:
                    self.mark(d, w)
        for gone in before - now:
            if gone in self.version:
                self.attic[gone] = (
                    self.version[gone],
                    self.consumed.get(gone),
                    self.code.get(gone, ""),
                    w,
                )
            else:
                self.was_read.pop(gone, None)
                self.halfway.discard(gone)
            for table in (
                self.version,
                self.owed,
                self.consumed,
                self.forced,
                self.demand,
                self.due,
                self.failed,
                self.changed,
            ):
                table.pop(gone, None)
            self.explicit.discard(gone)
            self.next[gone] = INF
        self.cells = now
        went: dict[Key, int] = {}
        for n in (now - before) & set(self.attic):
            self.version[n], consumed, self.code[n], went[n] = self.attic.pop(n)
            self.changed[n] = self.position
            if consumed is not None:
                self.consumed[n] = consumed
        for n in sorted(c for c in now - before if self.specs[c[0]].is_source):
            for d in self.downs(n) if n in self.version else []:
                self.mark(d, w)
        for asset in self.specs:
            for n in sorted(
                c for c in now - before if c[0] == asset and not self.specs[asset].is_source
            ):
                if n in self.version and self.is_wall(asset):
                    for d in self.downs(n):
                        self.mark(d, w)
                if n in self.running and not self.is_wall(asset):
                    for d in self.downs(n):
                        self.mark(d, self.running[n])
                self.mark(n, min(w, went.get(n, INF), self.up_eff(n, every=True)))

    def over(self, spec: AssetSpec) -> set[str]:
        """The windows that time or an event time has closed."""
        part = time_part(spec.partitions)
        if part is None or part.opens != "time":
            return set()
        until = self.now_us
        if part.lateness_ms is not None:
            if not spec.is_source or spec.key not in self.seen:
                return set()
            until = self.seen[spec.key] - part.lateness_ms * 1000
        elif any(
            does_bring(dep.mapping, spec.partitions) and dep.asset != spec.key for dep in spec.deps
        ):
            return set()
        shape = spec.partitions
        return {k for k in universe(shape) if window_of(shape, k)[1] <= until}

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for n in self.cells:
                self.forget()
                if n in self.running or self.specs[n[0]].is_source:
                    continue
                if self.owed.get(n, INF) == INF:
                    moved = bool(self.due.pop(n, None)) or moved
                elif not self.must_run(n) and self.gate(n) != "shut":
                    moved = bool(self.due.pop(n, None)) or moved
                    moved = bool(self.demand.pop(n, None)) or moved
                    if self.owed[n] != self.up_eff(n):
                        self.owed[n], moved = self.up_eff(n), True
                        self.failed.pop(n, None)

    def apply(self, recorded: e.Recorded) -> None:
        p, event = recorded.position, recorded.event
        self.position = p
        self.forget()
        match event:
            case (
                e.SourceChanged(asset=a, partition=k, data_version=v)
                | e.Observed(asset=a, partition=k, data_version=v)
            ):
                self.said.append((p, (a, k)))
                self.attic.pop((a, k), None) if not v else None
                if a not in self.specs or not admits(self.specs[a].partitions, k):
                    if v:
                        self.attic[a, k] = (v, None, "", INF)
                    self.one_more((a, k), recorded)
                elif v or (a, k) in self.version:
                    self.state_version((a, k), v, recorded)
                else:
                    self.one_more((a, k), recorded)
            case e.GraphDeployed():
                self.now_us = max(self.now_us, recorded.recorded_at)
                self.deploy(p, event)
            case e.WindowsOpened(until=until):
                self.now_us = max(self.now_us, until)
                self.exist(p)
            case e.RunStarted(targets=targets):
                for target in targets:
                    n = (target.asset, target.partition)
                    if n not in self.cells or n in self.running:
                        continue
                    self.runs.setdefault(p, []).append(n)
                    self.next[n] = self.up_eff(n)
                    self.running[n] = self.owed.get(n, INF)
                    self.pinned[n] = (self.fingerprint(n), target.code_version)
                    deps = [dep for dep in self.specs[n[0]].deps if dep.changes]
                    fed: set[int] = set().union(*(self.fed(n, dep) for dep in deps))
                    if deps:
                        self.reading[n] = fed - self.was_read.get(n, set())
            case e.Materialized(asset=a, partition=k, run=run, data_version=v) if (
                a,
                k,
            ) in self.runs.get(run, ()):
                self.runs[run].remove((a, k))
                self.finish(recorded, run, (a, k), v, event.absorbed)
            case e.RunFailed(run=run) | e.RunCancelled(run=run) | e.RunAbandoned(run=run) if (
                run in self.runs
            ):
                for n in self.runs.pop(run):
                    self.end(n, min(self.running[n], self.next[n]))
                    if n not in self.cells:
                        self.owed.pop(n)
                    elif (
                        self.owed[n] < INF
                        and not isinstance(event, e.RunAbandoned)
                        and all(p < run for p in self.forced.get(n, ()))
                    ):
                        self.failed[n] = (self.pinned[n], getattr(event, "retry_at", None))
            case e.Demanded(targets=targets) | e.Invalidated(targets=targets):
                for n in ((t.asset, t.partition) for t in targets):
                    if (
                        n[0] in self.specs
                        and not self.specs[n[0]].is_source
                        and admits(self.specs[n[0]].partitions, n[1])
                    ):
                        if n not in self.cells:
                            mates = self.specs[n[0]].together or (n[0],)
                            self.explicit |= {(mate, n[1]) for mate in mates}
                            self.exist(p)
                        self.failed.pop(n, None)
                        self.forced.setdefault(n, set()).add(p)
                        if isinstance(event, e.Invalidated) and self.specs[n[0]].reads_changes:
                            self.read_again(n)
                        if isinstance(event, e.Demanded):
                            self.demand.setdefault(n, set()).add(p)
                        self.mark(n, min(p, self.up_eff(n)))
                        if isinstance(event, e.Demanded):
                            self.pull(n, p, set())
            case e.FellDue(targets=targets, pulled=pulled):
                for n in ((t.asset, t.partition) for t in (*targets, *pulled)):
                    if n in self.cells:
                        self.ask(n, p)
            case e.RolledBack(asset=a, partition=k, data_version=v):
                n = (a, k)
                if n in self.cells and n not in self.running and not self.specs[a].is_source:
                    self.consumed[n], self.code[n] = self.fingerprint(n), self.specs[a].code_version
                    self.failed.pop(n, None)
                    self.forced.pop(n, None)
                    if v != self.version.get(n):
                        self.change(n, v, self.wave_of(recorded))
            case e.DemandCancelled(demand=d):
                for n in self.cells:
                    self.due.get(n, set()).discard(d)
                    if d in self.demand.get(n, ()):
                        self.demand[n].discard(d)
                        self.forced.get(n, set()).discard(d)
        self.settle()

    def ask(self, n: Key, p: int) -> None:
        if not self.is_wall(n[0]) and not is_eager(self.specs[n[0]].policy) and self.eff(n) < INF:
            self.due.setdefault(n, set()).add(p)

    def pull(self, n: Key, p: int, seen: set[Key]) -> None:
        """What has to move upstream for n is asked for too."""
        for dep, _, cells in self.ups(n):
            for c in cells if not self.is_wall(dep.asset) else ():
                ahead = self.next[c] if c in self.running else self.owed.get(c, INF)
                if c not in seen and ahead < INF:
                    seen.add(c)
                    self.ask(c, p)
                    self.pull(c, p, seen)

    def wave_of(self, recorded: e.Recorded) -> int:
        if recorded.recorded_at > self.wave[1]:
            self.wave = (recorded.position, recorded.recorded_at + 250_000)
        return self.wave[0]

    def state_version(self, n: Key, v: str, recorded: e.Recorded) -> None:
        if v == self.version.get(n):
            self.one_more(n, recorded)
            return
        if not v and n in self.consumed:
            self.read_again(n)
        self.change(n, v or None, self.wave_of(recorded))

    def one_more(self, n: Key, recorded: e.Recorded) -> None:
        """No news for who reads the state, but one more change to read."""
        for d in list(self.cells):
            deps = self.specs[d[0]].deps if d[0] in self.specs else ()
            if any(dep.changes and recorded.position in self.heard(d, dep) for dep in deps):
                self.mark(d, self.wave_of(recorded))

    def read_again(self, n: Key) -> None:
        self.was_read[n] = set()
        if n in self.running and n in self.reading:
            self.reading[n] = set()
        self.halfway.discard(n)

    def change(self, n: Key, v: str | None, w: int) -> None:
        below = self.downs(n)
        self.version.pop(n, None)
        self.changed[n] = self.position
        if v is not None:
            self.version[n] = v
            self.see(n)
        self.exist(w)
        for d in below + self.downs(n):
            if d in self.cells:
                self.mark(d, w)
        if v is None and n in self.cells and not self.specs[n[0]].is_source:
            self.mark(n, min(w, self.up_eff(n)))

    def see(self, n: Key) -> None:
        shape = self.specs[n[0]].partitions
        if self.specs[n[0]].is_source and time_part(shape) is not None:
            self.seen[n[0]] = max(self.seen.get(n[0], 0), window_of(shape, n[1])[0])

    def end(self, n: Key, owed: int) -> None:
        paid = self.running.pop(n)
        self.reading.pop(n, None)
        self.owed[n] = owed
        if owed < paid and n in self.cells and not self.is_wall(n[0]):
            for d in self.downs(n):
                self.mark(d, owed)

    def finish(
        self, recorded: e.Recorded, run: int, n: Key, v: str, absorbed: Absorbed | None
    ) -> None:
        paid = self.running[n]
        reads_changes, reading = n in self.reading, self.reading.get(n, set())
        rest = absorbed.rest if reading and absorbed is not None and absorbed.rest else INF
        until = absorbed.until if absorbed is not None and rest < INF else run
        self.end(n, min(self.next[n], rest))
        if n not in self.cells:
            return
        if not reads_changes:
            self.was_read[n] = set()
        self.was_read.setdefault(n, set()).update(p for p in reading if p <= until)
        self.halfway.discard(n)
        self.halfway |= {n} if rest < INF else set()
        changed, first = self.version.get(n) != v, n not in self.version
        self.consumed[n], self.code[n] = self.pinned[n]
        self.version[n] = v
        self.started[n] = run
        if changed:
            self.changed[n] = recorded.position
        self.failed.pop(n, None)
        for table in (self.forced, self.demand, self.due):
            paid_until = run if table is self.forced else min(run, rest)
            table[n] = {p for p in table.get(n, ()) if p >= paid_until}
        if changed and (self.is_wall(n[0]) or paid == INF):
            paid = self.wave_of(recorded)
        elif not first:
            return
        for d in self.downs(n):
            self.mark(d, paid)

    def deploy(self, p: int, event: e.GraphDeployed) -> None:
        # Who reads a partition that a new shape drops is told by the old shape.
        readers = {c: self.downs(c) for c in self.cells}
        old, self.specs = (
            self.specs,
            dict(Graph.build(event.assets).specs.items()),
        )
        self.cache = {}
        kept = [n for n in [*self.version, *self.attic] if n[0] in self.specs]
        for n in kept:
            if self.specs[n[0]].is_source and admits(self.specs[n[0]].partitions, n[1]):
                self.see(n)
        self.exist(p, readers)

        def part(s: AssetSpec | None) -> object:
            return s and (s.kind, s.deps, s.partitions, s.code_version, s.policy)

        for asset, spec in self.specs.items():
            for n in sorted(c for c in self.cells if c[0] == asset and not spec.is_source):
                w = self.up_eff(n)
                news = part(old.get(asset)) != part(spec) or bool(
                    self.unread(n) - self.reading.get(n, set())
                )
                self.mark(n, min(p, w) if news else w)
        if any(a in old and old[a].policy != s.policy for a, s in self.specs.items()):
            for asset, spec in self.specs.items():
                for n in sorted(c for c in self.cells if c[0] == asset):
                    due = self.due.get(n, set())
                    asked = self.demand.get(n, set()) | (
                        due if isinstance(spec.policy, Cron) else set()
                    )
                    if asked:
                        self.pull(n, max(asked | due), set())
