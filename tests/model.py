"""The slow model of staleness: DESIGN.md's appendix, recomputed over everything at every event.

No sums, no heaps, no touched sets: which partitions exist is derived from the definitions each
time,
fingerprints are the sets of versions themselves, and settling loops over all until nothing moves.
"""

from collections.abc import Iterator

from freshet.engine import events as e
from freshet.engine.graph import Graph
from freshet.engine.partitions import All, contains, declared, is_open
from freshet.engine.policies import Manual
from freshet.engine.specs import AssetSpec

INF = 1 << 62
Key = tuple[str, str]
Read = tuple[tuple[Key, str], ...]


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
        self.forced: dict[Key, int] = {}
        self.demand: dict[Key, int] = {}
        self.failed: dict[Key, tuple[tuple[Read, str], int | None]] = {}
        self.runs: dict[int, Key] = {}
        self.wave = (0, -INF)
        self.attic: dict[Key, tuple[str, Read | None, str]] = {}

    def is_wall(self, asset: str) -> bool:
        return self.specs[asset].is_source or isinstance(self.specs[asset].policy, Manual)

    def ups(self, n: Key) -> Iterator[tuple[str, list[Key], bool]]:
        """Edges of n: (upstream asset, its cells that n reads, all-to-one?)."""
        for dep in self.specs[n[0]].deps if n[0] in self.specs else ():
            every = isinstance(dep.mapping, All)
            yield (
                dep.asset,
                [c for c in self.cells if c[0] == dep.asset and (every or c[1] == n[1])],
                every,
            )

    def downs(self, u: Key) -> list[Key]:
        return [n for n in self.cells if any(u in cells for _, cells, _ in self.ups(n))]

    def eff(self, n: Key) -> int:
        return self.running.get(n, self.owed.get(n, INF))

    def up_eff(self, n: Key) -> int:
        effs = [
            self.eff(c) for asset, cells, _ in self.ups(n) if not self.is_wall(asset) for c in cells
        ]
        return min(effs, default=INF)

    def fingerprint(self, n: Key) -> Read:
        read = [
            (c, self.version[c]) for _, cells, _ in self.ups(n) for c in cells if c in self.version
        ]
        return tuple(sorted(read))

    def gate_open(self, n: Key) -> bool:
        gate = self.demand[n] if self.is_wall(n[0]) and self.demand.get(n) else self.owed[n]
        for asset, cells, every in self.ups(n):
            there = sum(c in self.version for c in cells)
            spec = self.specs[asset].partitions
            needed = 1 if not every or is_open(spec) else len(declared(spec))
            if there < max(needed, 1):
                return False
        return self.up_eff(n) > gate

    def must_run(self, n: Key) -> bool:
        return (
            n not in self.version or n not in self.consumed or bool(self.forced.get(n))
            or self.code[n] != self.specs[n[0]].code_version or self.consumed[n] !=
            self.fingerprint(n)
        )  # fmt: skip

    def startable(self) -> tuple[set[Key], set[Key]]:
        """(ready now, waiting for a retry time)"""
        ready, retry = set(), set()
        for n in self.cells:
            wanted = not self.is_wall(n[0]) or self.demand.get(n)
            if n in self.running or self.owed.get(n, INF) == INF or not wanted:
                continue
            if self.gate_open(n) and self.must_run(n):
                tried, retry_at = self.failed.get(n, (None, None))
                if tried != (self.fingerprint(n), self.specs[n[0]].code_version):
                    ready.add(n)
                elif retry_at is not None:
                    retry.add(n)
        return ready, retry

    def mark(self, n: Key, w: int) -> None:
        if n in self.running:
            self.next[n] = min(self.next[n], w)
        elif self.owed.get(n, INF) > w:
            self.owed[n] = w
            if not self.is_wall(n[0]):
                for d in self.downs(n):
                    self.mark(d, w)

    def exist(self, w: int) -> None:
        """Derive which cells exist; new ones owe w, gone ones are forgotten and marked below."""
        now: set[Key] = set()
        before = self.cells
        for asset, spec in self.specs.items():
            keys = set(declared(spec.partitions)) | {k for a, k in self.explicit if a == asset}
            if is_open(spec.partitions):
                if spec.is_source:
                    keys |= {k for a, k in [*self.version, *self.attic] if a == asset}
                ups = [d.asset for d in spec.deps if not isinstance(d.mapping, All)]
                keys |= {k for a, k in now if a in ups}
            now |= {(asset, k) for k in keys if contains(spec.partitions, k)}
        for gone in before - now:
            for d in self.downs(gone) if gone[0] in self.specs else []:
                self.mark(d, w)
        for gone in before - now:
            if gone in self.version:
                self.attic[gone] = (
                    self.version[gone],
                    self.consumed.get(gone),
                    self.code.get(gone, ""),
                )
            for table in (
                self.version,
                self.owed,
                self.consumed,
                self.forced,
                self.demand,
                self.failed,
            ):
                table.pop(gone, None)
            self.explicit.discard(gone)
            self.next[gone] = INF
        self.cells = now
        for n in (now - before) & set(self.attic):
            self.version[n], consumed, self.code[n] = self.attic.pop(n)
            if consumed is not None:
                self.consumed[n] = consumed
        for asset in self.specs:
            for n in sorted(
                c for c in now - before if c[0] == asset and not self.specs[asset].is_source
            ):
                if n in self.running and not self.is_wall(asset):
                    for d in self.downs(n):
                        self.mark(d, self.running[n])
                self.mark(n, min(w, self.up_eff(n)))

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for n in self.cells:
                if n in self.running or self.owed.get(n, INF) == INF or self.specs[n[0]].is_source:
                    continue
                if self.gate_open(n) and not self.must_run(n) and self.owed[n] != self.up_eff(n):
                    self.owed[n], moved = self.up_eff(n), True
                    self.failed.pop(n, None)

    def apply(self, recorded: e.Recorded) -> None:
        p, event = recorded.position, recorded.event
        match event:
            case (
                e.SourceChanged(asset=a, partition=k, data_version=v)
                | e.Observed(asset=a, partition=k, data_version=v)
            ):
                if a not in self.specs or not contains(self.specs[a].partitions, k):
                    self.attic.pop((a, k), None)
                    if v:
                        self.attic[a, k] = (v, None, "")
                elif v != self.version.get((a, k), ""):
                    self.change((a, k), v or None, self.wave_of(recorded))
            case e.GraphDeployed():
                self.deploy(p, event)
            case e.RunStarted(targets=(target,)):
                n = (target.asset, target.partition)
                if n in self.cells and n not in self.running:
                    self.runs[p], self.next[n] = n, self.up_eff(n)
                    self.running[n] = self.owed.get(n, INF)
                    self.pinned[n] = (self.fingerprint(n), target.code_version)
            case e.Materialized(run=run, data_version=v) if run in self.runs:
                self.finish(recorded, run, self.runs.pop(run), v)
            case e.RunFailed(run=run) | e.RunCancelled(run=run) | e.RunAbandoned(run=run) if (
                run in self.runs
            ):
                n = self.runs.pop(run)
                self.owed[n] = self.running.pop(n)
                if n not in self.cells:
                    self.owed.pop(n)
                elif not isinstance(event, e.RunAbandoned) and self.forced.get(n, 0) < run:
                    self.failed[n] = (self.pinned[n], getattr(event, "retry_at", None))
            case e.Demanded(targets=targets) | e.Invalidated(targets=targets):
                for n in ((t.asset, t.partition) for t in targets):
                    if (
                        n[0] in self.specs
                        and not self.specs[n[0]].is_source
                        and contains(self.specs[n[0]].partitions, n[1])
                    ):
                        if n not in self.cells:
                            self.explicit.add(n)
                            self.exist(p)
                        self.failed.pop(n, None)
                        self.forced[n] = p
                        if isinstance(event, e.Demanded):
                            self.demand[n] = p
                        self.mark(n, min(p, self.up_eff(n)))
            case e.DemandCancelled(demand=d):
                for n in [n for n in self.cells if self.demand.get(n) == d]:
                    self.demand.pop(n)
                    if self.forced.get(n) == d:
                        self.forced.pop(n)
        self.settle()

    def wave_of(self, recorded: e.Recorded) -> int:
        if recorded.recorded_at > self.wave[1]:
            self.wave = (recorded.position, recorded.recorded_at + 250_000)
        return self.wave[0]

    def change(self, n: Key, v: str | None, w: int) -> None:
        below = self.downs(n)
        self.version.pop(n, None)
        if v is not None:
            self.version[n] = v
        self.exist(w)
        for d in below + self.downs(n):
            if d in self.cells:
                self.mark(d, w)
        if v is None and n in self.cells and not self.specs[n[0]].is_source:
            self.mark(n, min(w, self.up_eff(n)))

    def finish(self, recorded: e.Recorded, run: int, n: Key, v: str) -> None:
        paid = self.running.pop(n)
        if n not in self.cells:
            return
        changed = self.version.get(n) != v
        self.consumed[n], self.code[n] = self.pinned[n]
        self.version[n], self.owed[n] = v, self.next[n]
        self.failed.pop(n, None)
        for table in (self.forced, self.demand):
            if table.get(n, 0) < run:
                table.pop(n, None)
        if changed and (self.is_wall(n[0]) or paid == INF):
            w = self.wave_of(recorded)
            for d in self.downs(n):
                self.mark(d, w)

    def deploy(self, p: int, event: e.GraphDeployed) -> None:
        old, self.specs = (
            self.specs,
            dict(Graph.build(event.assets).specs.items()),
        )
        self.exist(p)

        def part(s: AssetSpec | None) -> object:
            return s and (s.kind, s.deps, s.partitions, s.code_version, s.policy)

        for asset, spec in self.specs.items():
            for n in sorted(c for c in self.cells if c[0] == asset and not spec.is_source):
                w = self.up_eff(n)
                self.mark(n, min(p, w) if part(old.get(asset)) != part(spec) else w)
