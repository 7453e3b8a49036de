"""Orders: what a run is to read, fixed from the view at the very position where the run started."""

from collections.abc import Mapping

import msgspec

from freshet.engine.events import EVERY, Input, Recorded, RunStarted, Target
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.specs import AssetSpec, Dependency
from freshet.projections.catalog import Version
from freshet.projections.cells import AssetState, Cell
from freshet.projections.view import View


class Load(msgspec.Struct, frozen=True):
    """One parameter's values: the versions to load, by partition; `many` if it receives a
    mapping.
    """

    asset: AssetKey
    is_source: bool
    many: bool
    versions: Mapping[PartitionKey, Version]


class Order(msgspec.Struct, frozen=True):
    """All that a run needs to know, taken from the stream before its `RunStarted`.

    `missing` names an input that was withdrawn between the decision and the start.
    """

    run: int
    started_at: int
    attempt: int
    target: Target
    spec: AssetSpec
    loads: Mapping[str, Load]
    inputs: tuple[Input, ...]
    missing: AssetPartition | None = None

    @property
    def key(self) -> AssetPartition:
        return AssetPartition(self.target.asset, self.target.partition)


def order_of(view: View, recorded: Recorded, event: RunStarted) -> Order | None:
    """The order of a run the view has just folded; None when its target is no longer defined."""
    target = event.targets[0]
    cell = view.staleness.cell(target.asset, target.partition)
    if cell is None or cell.run != recorded.position:
        return None
    loads: dict[str, Load] = {}
    inputs: list[Input] = []
    missing: AssetPartition | None = None
    for dep, link in zip(cell.home.spec.deps, cell.home.up, strict=True):
        versions = _versions(view, cell, link.other, link.all_)
        if not versions:
            missing = AssetPartition(dep.asset, "" if link.all_ else cell.partition)
            continue
        inputs.append(_input(dep, link.other, versions, link.all_))
        if dep.parameter:
            many = link.all_ and link.other.spec.partitions is not None
            loads[dep.parameter] = Load(dep.asset, link.other.is_source, many, versions)
    return Order(
        recorded.position,
        recorded.recorded_at,
        event.attempt,
        target,
        cell.home.spec,
        loads,
        tuple(inputs),
        missing,
    )


def _versions(
    view: View, cell: Cell, upstream: AssetState, all_: bool
) -> dict[PartitionKey, Version]:
    keys = sorted(upstream.cells) if all_ else [cell.partition]
    found = {}
    for key in keys:
        other = upstream.cells.get(key)
        version = view.catalog.version(upstream.spec.key, key)
        if other is not None and other.version is not None and version is not None:
            found[key] = version
    return found


def _input(
    dep: Dependency, upstream: AssetState, versions: Mapping[PartitionKey, Version], all_: bool
) -> Input:
    newest = max(version.position for version in versions.values())
    if all_ and upstream.spec.partitions is not None:
        return Input(dep.asset, EVERY, f"{upstream.total:032x}", newest, len(versions))
    partition, version = next(iter(versions.items()))
    return Input(dep.asset, partition, version.data_version, newest)
