"""Provenance: from which data, by which code, with which parameters a version was made, down to the
versions of the sources.
"""

from collections.abc import Generator
from typing import Any

import msgspec

from freshet.engine.events import (
    GraphDeployed,
    Materialized,
    Observed,
    Recorded,
    RolledBack,
    SourceChanged,
)
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.parts import Absorbed, Input
from freshet.engine.specs import AssetSpec, Metadata, Plain

Asking = Generator[int, Recorded | None, Any]
"""Yields positions, and is sent the events that stand there."""

Versions = dict[tuple[AssetKey, PartitionKey], int]
"""Of asset partitions, the position of the event that stated the version a run has read."""


MAX_DEPTH = 100
"""How deep a tree is told."""


class Node(msgspec.Struct, frozen=True):
    """A version, and what it was made from. `run` is 0 for what Freshet did not make.

    Where an asset reads many partitions as one, `count` of them stand for one node: their sum as
    `data_version`, `partition` `*` or `first..last`. `read` says which changes were read one by
    one. `again` is set where the same version stands elsewhere in the tree, with its inputs;
    `deeper` where it has inputs that are more than `MAX_DEPTH` below the root: ask for it.
    """

    asset: AssetKey
    partition: PartitionKey
    data_version: str
    position: int
    recorded_at: int = 0
    run: int = 0
    code_version: str = ""
    config: dict[str, Plain] = {}
    metadata: Metadata = {}
    count: int = 1
    missing: int = 0
    gaps: tuple[PartitionKey, ...] = ()
    read: Absorbed | None = None
    again: bool = False
    deeper: bool = False
    inputs: tuple["Node", ...] = ()


class Tracer:
    """Follows the inputs of versions. `deployments` are all that there were, in order; `expanded`
    says of some runs what stood behind inputs that were recorded as one: others are left as one.
    """

    def __init__(self, deployments: list[Recorded], expanded: dict[int, Versions]) -> None:
        self._deployments = deployments
        self._expanded = expanded
        self._seen: set[int] = set()

    def trace(self, position: int, depth: int = 0) -> Generator[int, Recorded | None, Node | None]:
        """The version that the event at a position states, with all it was made from; None if it
        states none.
        """
        recorded = yield position
        if recorded is None:
            return None
        event = recorded.event
        if isinstance(event, SourceChanged | Observed):
            return Node(
                event.asset,
                event.partition,
                event.data_version,
                position,
                recorded.recorded_at,
                metadata=event.metadata,
            )
        if isinstance(event, RolledBack):
            return (yield from self.trace(event.version_at, depth))
        if not isinstance(event, Materialized):
            return None
        again, deeper = position in self._seen, depth >= MAX_DEPTH
        if not deeper:
            self._seen.add(position)
        inputs: list[Node] = []
        for one in event.inputs if not (again or deeper) else ():
            inputs += yield from self._inputs(event, one, depth + 1)
        spec = self._spec(event.asset, event.run)
        return Node(
            event.asset,
            event.partition,
            event.data_version,
            position,
            recorded.recorded_at,
            event.run,
            event.code_version,
            spec.config if spec is not None else {},
            event.metadata,
            read=event.absorbed,
            again=again,
            deeper=deeper and bool(event.inputs) and not again,
            inputs=tuple(inputs),
        )

    def _inputs(
        self, event: Materialized, one: Input, depth: int
    ) -> Generator[int, Recorded | None, list[Node]]:
        if one.count == 1 and one.position:
            found = yield from self.trace(one.position, depth)
            return [found] if found is not None else []
        behind = self._expanded.get(event.run, {})
        nodes = []
        for (asset, _), position in behind.items():
            if asset == one.asset:
                found = yield from self.trace(position, depth)
                nodes += [found] if found is not None else []
        return [
            Node(
                one.asset,
                one.partition,
                one.data_version,
                one.position,
                count=one.count,
                missing=one.missing,
                gaps=one.gaps,
                inputs=tuple(nodes),
            )
        ]

    def _spec(self, asset: AssetKey, run: int) -> AssetSpec | None:
        """The definition that was in force when a run started."""
        found: AssetSpec | None = None
        for recorded in self._deployments:
            if recorded.position > run or not isinstance(recorded.event, GraphDeployed):
                break
            found = next((spec for spec in recorded.event.assets if spec.key == asset), None)
        return found


def runs_in(node: Node) -> set[int]:
    """The runs of a tree that have read many partitions as one."""
    own = {node.run} if any(one.count > 1 and not one.inputs for one in node.inputs) else set()
    return own.union(*(runs_in(one) for one in node.inputs))


def name_of(node: Node) -> AssetPartition:
    return AssetPartition(node.asset, node.partition)
