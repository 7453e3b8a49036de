"""Random histories: graphs, changes, runs, failures, cutoffs, wishes and redeployments,
from one seed.
"""

import random
from hashlib import blake2b

import msgspec

from freshet.engine import events as e
from freshet.engine.keys import AssetPartition
from freshet.engine.mappings import All, Identity, Last, Offset
from freshet.engine.origins import cause_of
from freshet.engine.partitions import Dynamic, Partitions
from freshet.engine.parts import Absorbed, Target
from freshet.engine.policies import (
    AllOf,
    AnyOf,
    Eager,
    Manual,
    MaxLag,
    OnMissing,
    Policy,
    changed,
    inputs_of,
)
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.windows import Windows
from freshet.projections.cells import Cell, cells_of
from freshet.projections.feeds import starts_over
from freshet.projections.view import View
from tests.shapes import SHAPES, mappings_between, universe

KEYS_USED = 7
"""Of each shape the first so many keys are used."""

DAY_US = 86_400_000_000
JANUARY_US = 1_704_067_200_000_000


DENSE = [*SHAPES[:7], *SHAPES[8:]]
"""Without windows that lie far apart: some steps on, the slow model does not list them any more."""


def keys_of(shape: Partitions | None) -> list[str]:
    return universe(shape)[:KEYS_USED]


class History:
    """A growing history and the view that folds it; `say` records one event."""

    def __init__(
        self,
        rng: random.Random,
        size: int,
        *,
        skips: bool = True,
        lazy: bool = True,
        by_change: bool = True,
        together: bool = True,
        alike: bool = False,
    ) -> None:
        """`alike`: all have the same partitions, and read one row over each edge, as most graphs
        are; without lazy assets, skips and reading by change most of them are plain then.
        """
        self.rng = rng
        self.alike = alike
        self.shapes = [rng.choice(DENSE)] if alike else SHAPES
        self.skips = skips
        self.lazy = lazy
        self.by_change = by_change
        self.together = together
        self.view = View()
        self.recorded: list[e.Recorded] = []
        self.now = JANUARY_US - DAY_US
        self.coarse: dict[str, int] = {}
        self.delivered: dict[tuple[str, str], set[int]] = {}
        """What each asset partition has read change by change since it last began anew."""
        self.anew: set[int] = set()
        """The runs that begin anew."""
        self.specs: list[AssetSpec] = []
        for number in range(size):
            self.specs.append(self._spec(number))
            if self.together and rng.random() < 0.25:
                self._add_mate()
        self.deploy()

    def say(self, event: e.AnyEvent) -> e.Recorded:
        self.now += self.rng.choice([0, 1000, 50_000, 300_000])
        recorded = e.Recorded(self.view.position + 1, self.now, event, cause_of(event))
        self.recorded.append(recorded)
        self.view.apply(recorded)
        if isinstance(event, e.RunStarted):
            for target in event.targets:
                cell = self.view.staleness.cell(target.asset, target.partition)
                if cell is not None and cell.running and starts_over(cell.home, cell.i):
                    self.anew.add(recorded.position)
        return recorded

    def deploy(self) -> None:
        self.specs = _parted(self.specs)
        self.say(e.GraphDeployed(str(len(self.recorded)), tuple(self.specs)))

    # --- what can happen ------------------------------------------------------------------------

    def step(self) -> None:
        actions = [self.change] * 4 + [self.start] * 6 + [self.finish] * 6
        actions += [self.fail, self.wish, self.redeploy, self.abandon, self.decide_only]
        actions += [self.pass_time, self.fall_due, self.roll_back]
        self.rng.choice(actions)()

    def change(self) -> None:
        sources = [spec for spec in self.specs if spec.is_source]
        if self.rng.random() < 0.15:  # of a source that may not be defined, or not like that
            name = f"s{self.rng.randrange(3)}"
            key = self.rng.choice(keys_of(self.rng.choice(SHAPES)))
            self.say(e.SourceChanged(name, key, self.rng.choice(["1", "2", ""])))
            return
        spec = self.rng.choice(sources)
        key = self.rng.choice(keys_of(spec.partitions))
        self.say(e.SourceChanged(spec.key, key, self.rng.choice(["1", "2", "3", ""])))

    def roll_back(self) -> None:
        """To a version that was made, whatever is going on; now and then of what is not there."""
        made = [r for r in self.recorded if isinstance(r.event, e.Materialized)]
        if not made:
            return
        found = self.rng.choice(made)
        event = found.event
        assert isinstance(event, e.Materialized)
        self.say(e.RolledBack(event.asset, event.partition, event.data_version, found.position))

    def pass_time(self) -> None:
        """Windows are over: those that come into being by time do."""
        self.say(e.WindowsOpened(JANUARY_US + self.rng.randrange(6) * DAY_US))

    def start(self) -> None:
        starts = decide(self.view, self.now, 1000).starts
        if starts:
            self.say(self.rng.choice(starts))

    def decide_only(self) -> None:
        """Decide now and start later: what comes in between may take the reason away."""
        starts = decide(self.view, self.now, 1000).starts
        self.rng.choice([self.change, self.finish, self.wish])()
        for start in starts:
            if {target.asset for target in start.targets} <= {spec.key for spec in self.specs}:
                self.say(start)

    def finish(self) -> None:
        live = self._live()
        if live is not None:
            self.succeed(*live)

    def succeed(self, run: int, targets: tuple[Target, ...], *, as_new: bool = False) -> None:
        """The run ends well, with values that follow from what it read, or with new ones."""
        for target in targets:
            cell = self.view.staleness.cell(target.asset, target.partition)
            made = f"{target.asset}{run}" if as_new else self.content(target, pinned_of(cell))
            name = (target.asset, target.partition, run, made, target.code_version)
            self.say(e.Materialized(*name, absorbed=self._absorbed(run, target)))
        self.say(e.RunSucceeded(run))

    def _absorbed(self, run: int, target: Target) -> Absorbed | None:
        """What a run reads of the changes before it, of an asset that reads changes."""
        cell = self.view.staleness.cell(target.asset, target.partition)
        if cell is None or not cell.home.spec.reads_changes:
            return None
        feeds = cell.home.live[cell.i].feeds
        since = min((feed.first for feed in feeds), default=0)
        found = [
            recorded
            for recorded in self.recorded[: run - 1]
            if isinstance(recorded.event, e.SourceChanged | e.Observed)
            and any(
                feed.source == recorded.event.asset
                and feed.wants(recorded.event.partition, recorded.position)
                for feed in feeds
            )
        ]
        limit = cell.home.spec.max_changes
        self._deliver(run, (target.asset, target.partition), found[:limit])
        if len(found) <= limit:
            return Absorbed(since, run, len(found))
        rest = found[limit]
        until = found[limit - 1].position
        return Absorbed(since, until, limit, rest.position, rest.recorded_at)

    def _deliver(self, run: int, n: tuple[str, str], changes: list[e.Recorded]) -> None:
        if run in self.anew:
            self.delivered[n] = set()
        had = self.delivered.setdefault(n, set())
        positions = {recorded.position for recorded in changes}
        assert not had & positions, (n, had & positions)
        had |= positions

    def fail(self) -> None:
        live = self._live()
        if live is not None:
            retry_at = self.rng.choice([None, self.now + 100_000])
            self.say(
                e.RunFailed(live[0], retry_at=retry_at)
                if self.rng.random() < 0.5
                else e.RunCancelled(live[0])
            )

    def abandon(self) -> None:
        live = self._live()
        if live is not None:
            self.say(e.RunAbandoned(live[0]))

    def wish(self) -> None:
        assets = [spec for spec in self.specs if not spec.is_source]
        if not assets:
            return
        spec = self.rng.choice(assets)
        key = self.rng.choice(keys_of(spec.partitions))
        targets = (AssetPartition(spec.key, key),)
        if self.rng.random() < 0.3:
            self.say(e.Invalidated(targets))
            return
        said = self.say(e.Demanded(targets))
        if self.rng.random() < 0.2:
            self.say(e.DemandCancelled(said.position))

    def fall_due(self) -> None:
        """Some partitions are asked for by policies, whatever these say."""
        cells = [c.key for s in self.view.staleness.order for c in cells_of(s) if not s.is_source]
        if cells:
            targets = tuple(self.rng.sample(cells, min(len(cells), self.rng.choice([1, 2, 4]))))
            self.say(e.FellDue(targets[:1], "by chance", targets[1:]))

    def redeploy(self) -> None:
        index = self.rng.randrange(len(self.specs))
        spec = self.specs[index]
        if self.rng.random() < 0.3:
            gone = spec.key
            kept = [s for s in self.specs if s.key != gone]
            self.specs = [_without(s, gone) for s in kept] or self.specs
        elif spec.is_source:
            shape = self.rng.choice(self.shapes)
            self.specs[index] = AssetSpec(spec.key, "source", partitions=shape)
            self.specs = [_fitting(s, self.specs[index]) for s in self.specs]
        else:
            self.specs[index] = self._spec(int(spec.key[1:]), index)
            self.specs = [_fitting(s, self.specs[index]) for s in self.specs]
        if self.rng.random() < 0.3:
            number = self.rng.randrange(8, 12)
            if number not in {int(spec.key[1:]) for spec in self.specs}:
                self.specs.append(self._spec(number))
        returning = f"s{self.rng.randrange(3)}"
        if self.rng.random() < 0.3 and returning not in {spec.key for spec in self.specs}:
            shape = self.rng.choice(self.shapes)
            self.specs.insert(0, AssetSpec(returning, "source", partitions=shape))
        if not any(spec.is_source for spec in self.specs):
            self.specs.insert(0, AssetSpec(f"s{20 + len(self.recorded)}", "source"))
        self.deploy()

    # --- helpers --------------------------------------------------------------------------------

    def content(self, target: Target, pinned: int) -> str:
        """A deterministic value of code and inputs; coarse assets often map to an equal
        one (cutoff).
        """
        coarse = int(target.asset[1:]) % 3 == 0
        text = f"{target.asset}|{target.partition}|{'' if coarse else target.code_version}|{pinned}"
        digest = blake2b(text.encode(), digest_size=8).hexdigest()
        return str(int(digest, 16) % 2) if coarse else digest

    def _live(self) -> tuple[int, tuple[Target, ...]] | None:
        live = list(self.view.runs.live.values())
        if not live:
            return None
        run = self.rng.choice(live)
        return run.run, run.event.targets

    def _spec(self, number: int, index: int | None = None) -> AssetSpec:
        before = self.specs[: len(self.specs) if index is None else index]
        shape = self.rng.choice(self.shapes)
        key = f"a{number}"
        ups = [up for up in before if up.key != key]
        if index is None and (not ups or (number < 3 and self.rng.random() < 0.6)):
            return AssetSpec(f"s{number}", "source", partitions=shape)
        deps = []
        for up in self.rng.sample(ups, min(len(ups), self.rng.choice([0, 1, 1, 2, 2, 3]))):
            mappings = mappings_between(up.partitions, shape)
            if self.alike:
                kind = Offset if self.rng.random() < 0.2 else Identity
                mappings = [one for one in mappings if isinstance(one, kind)] or mappings
            mapping = self.rng.choice(mappings)
            rule = self.rng.choice(["", "", "", "skip" if self.skips else ""])
            by_change = self.by_change and up.is_source and self.rng.random() < 0.3
            by_change = by_change and not isinstance(mapping, Last)
            deps.append(
                Dependency(up.key, mapping, changes=True)
                if by_change
                else Dependency(up.key, mapping, missing=rule)  # type: ignore[arg-type]  # a Missing
            )
        if isinstance(shape, Windows) and self.rng.random() < 0.3:
            deps.append(Dependency(key, Offset(-1)))
        ordered = shape is not None and not isinstance(shape, Dynamic)
        policy = self._policy(sorted({dep.asset for dep in deps}), ordered)
        code = self.rng.choice(["x", "y"])
        return AssetSpec(
            key,
            deps=tuple(deps),
            partitions=shape,
            policy=policy,
            code_version=code,
            max_changes=self.rng.choice([1, 2, 1000]),
        )

    def _add_mate(self) -> None:
        """The newest asset is made together with another one."""
        spec = self.specs[-1]
        if spec.is_source or spec.reads_changes or spec.key in {dep.asset for dep in spec.deps}:
            return
        mate = f"a{int(spec.key[1:]) + 50}"
        together = (spec.key, mate)
        ordered = spec.partitions is not None and not isinstance(spec.partitions, Dynamic)
        policy = self._policy(sorted({dep.asset for dep in spec.deps}), ordered)
        self.specs[-1] = msgspec.structs.replace(spec, together=together)
        self.specs.append(msgspec.structs.replace(spec, key=mate, together=together, policy=policy))

    def _policy(self, inputs: list[str], ordered: bool) -> Policy:
        """Eager as a rule; lazy ones, whose time comes at random, and narrowed ones."""
        rng = self.rng
        if not self.lazy or rng.random() < 0.5:
            return Manual() if rng.random() < 0.15 else Eager()
        lazy: list[Policy] = [Eager(), Eager(), OnMissing(), MaxLag(lag_ms=1000)]
        policy = rng.choice(lazy)
        if ordered and rng.random() < 0.2:
            policy = policy.latest(rng.choice([1, 2]))
        if inputs and rng.random() < 0.3:
            terms = [changed(key) for key in rng.sample(inputs, min(2, len(inputs)))]
            both = terms[0] if len(terms) == 1 else AllOf(tuple(terms))
            policy = policy.when(rng.choice([both, AnyOf(tuple(terms))]))
        if rng.random() < 0.3:
            policy = policy.if_upstream_fails("proceed", after=rng.choice([0, 1]))
        return policy


def _parted(specs: list[AssetSpec]) -> list[AssetSpec]:
    """What is not made from the same any more is not made together any more."""
    by_key = {spec.key: spec for spec in specs}

    def alike(spec: AssetSpec, key: str) -> bool:
        other = by_key.get(key)
        if other is None or other.together != spec.together:
            return False
        return (other.deps, other.partitions, other.code_version) == (
            spec.deps,
            spec.partitions,
            spec.code_version,
        )

    return [
        spec
        if all(alike(spec, key) for key in spec.together)
        else msgspec.structs.replace(spec, together=())
        for spec in specs
    ]


def pinned_of(cell: Cell | None) -> int:
    """The inputs a live run of this partition was started with."""
    live = cell.home.live.get(cell.i) if cell is not None else None
    return live.pinned if live is not None else 0


def _fitting(spec: AssetSpec, reshaped: AssetSpec) -> AssetSpec:
    """The spec with its edge to a reshaped upstream made all-to-one where identity no
    longer holds.
    """
    deps = tuple(
        msgspec.structs.replace(dep, mapping=All())
        if dep.asset == reshaped.key != spec.key
        and dep.mapping not in mappings_between(reshaped.partitions, spec.partitions)
        else dep
        for dep in spec.deps
    )
    return _sound(msgspec.structs.replace(spec, deps=deps))


def _without(spec: AssetSpec, gone: str) -> AssetSpec:
    deps = tuple(dep for dep in spec.deps if dep.asset != gone)
    return _sound(msgspec.structs.replace(spec, deps=deps))


def _sound(spec: AssetSpec) -> AssetSpec:
    """Without a condition over what is no input any more."""
    condition = spec.policy.condition
    if condition is None or inputs_of(condition) <= {dep.asset for dep in spec.deps}:
        return spec
    policy = msgspec.structs.replace(spec.policy, condition=None)
    return msgspec.structs.replace(spec, policy=policy)
