"""The checked graph of definitions: pure data, the same whether it came from code or from the
stream.
"""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from freshet.engine.errors import DefinitionError, RequestError, did_you_mean
from freshet.engine.keys import AssetKey
from freshet.engine.mappings import Dimensions, Identity, Offset, PartitionMapping, mapping_problem
from freshet.engine.partitions import describe
from freshet.engine.policies import inputs_of
from freshet.engine.schemas import version_before
from freshet.engine.specs import AssetSpec, Dependency


class Edge(NamedTuple):
    """One end of a dependency, seen from the other: the asset there, and how partitions map."""

    asset: AssetKey
    mapping: PartitionMapping


class Graph:
    """Definitions that fit together. Made by `build`; never changed.

    `specs` is in topological order, upstream first; `digest` is equal for equal definitions.
    """

    def __init__(self, specs: Mapping[AssetKey, AssetSpec]) -> None:
        self.specs = specs
        self.digest = _digest(specs.values())
        self.upstream: dict[AssetKey, tuple[Edge, ...]] = {
            key: tuple(Edge(dep.asset, dep.mapping) for dep in spec.deps)
            for key, spec in specs.items()
        }
        down: dict[AssetKey, list[Edge]] = {key: [] for key in specs}
        for key, spec in specs.items():
            for dep in spec.deps:
                down[dep.asset].append(Edge(key, dep.mapping))
        self.downstream = {key: tuple(edges) for key, edges in down.items()}

    @classmethod
    def build(
        cls, specs: Iterable[AssetSpec], places: Mapping[AssetKey, str] | None = None
    ) -> "Graph":
        """Check the definitions and order them. `places` says where each was written (`file:line`).

        Raises DefinitionError for a duplicate key, an unknown dependency, a cycle, a mapping that
        cannot hold, or a source that depends on something.
        """
        places = places or {}
        by_key: dict[AssetKey, AssetSpec] = {}
        for spec in specs:
            if spec.key in by_key:
                raise DefinitionError(f"asset '{spec.key}' is defined twice{_at(spec.key, places)}")
            by_key[spec.key] = spec
        for spec in by_key.values():
            _check_dependencies(spec, by_key, places)
            _check_policy(spec, places)
            _check_together(spec, by_key, places)
        return cls(_ordered(by_key, places))

    def ancestors(self, key: AssetKey) -> set[AssetKey]:
        """Everything the asset is made from, at any distance."""
        return _reach(key, self.upstream)

    def descendants(self, key: AssetKey) -> set[AssetKey]:
        """Everything made from the asset, at any distance."""
        return _reach(key, self.downstream)

    def require(self, key: AssetKey) -> AssetSpec:
        """The definition of an asset. Raises RequestError with the nearest known key."""
        spec = self.specs.get(key)
        if spec is None:
            raise RequestError(
                f"there is no asset '{key}'",
                cause=f"{len(self.specs)} assets and sources are defined",
                hint=did_you_mean(key, self.specs) or "list them with `freshet graph`",
            )
        return spec


def _check_dependencies(
    spec: AssetSpec, by_key: Mapping[AssetKey, AssetSpec], places: Mapping[AssetKey, str]
) -> None:
    if spec.is_source and spec.deps:
        raise DefinitionError(
            f"source '{spec.key}' depends on '{spec.deps[0].asset}'{_at(spec.key, places)}",
            cause="a source is produced outside Freshet",
            hint="make it an asset, or drop the dependency",
        )
    for dep in spec.deps:
        upstream = by_key.get(dep.asset)
        if upstream is None:
            raise DefinitionError(
                f"asset '{spec.key}' depends on '{dep.asset}', which is not defined"
                + _at(spec.key, places),
                hint=did_you_mean(dep.asset, by_key) or "add it to Project(assets=[...])",
            )
        complete = dep.missing in ("", "wait")
        problem = mapping_problem(
            dep.mapping, upstream.partitions, spec.partitions, complete=complete
        )
        if problem is None and dep.asset == spec.key and not _is_earlier(dep):
            problem = "an asset can depend on its own earlier partitions only: fr.previous()"
        if problem is not None:
            raise DefinitionError(
                f"the partitions of '{spec.key}' do not fit those of '{dep.asset}'"
                + _at(spec.key, places),
                cause=f"{problem} ({describe(upstream.partitions)} -> {describe(spec.partitions)})",
                hint="say how they map, as in inputs={'x': fr.Input(key, mapping=fr.last())}",
            )


def _check_policy(spec: AssetSpec, places: Mapping[AssetKey, str]) -> None:
    policy, inputs = spec.policy, {dep.asset for dep in spec.deps}
    if policy.condition is not None and not inputs_of(policy.condition) <= inputs:
        stranger = min(inputs_of(policy.condition) - inputs)
        raise DefinitionError(
            f"asset '{spec.key}' waits for '{stranger}', which is none of its inputs"
            + _at(spec.key, places),
            cause=f"its inputs are {', '.join(sorted(inputs)) or 'none'}",
            hint=did_you_mean(stranger, inputs) or "when(...) combines inputs of the asset",
        )
    if policy.newest is not None and spec.partitions is None:
        raise DefinitionError(
            f"asset '{spec.key}' has .latest({policy.newest}) but no partitions"
            + _at(spec.key, places),
            hint="leave it out, or give the asset partitions",
        )


def _made_of(spec: AssetSpec) -> tuple[object, ...]:
    """What all outputs of a function have in common; their columns are their own."""
    code_version = version_before(spec.code_version, spec.columns)
    return spec.together, spec.deps, spec.partitions, code_version


def _check_together(
    spec: AssetSpec, by_key: Mapping[AssetKey, AssetSpec], places: Mapping[AssetKey, str]
) -> None:
    """What one run makes is made from the same."""
    for key in spec.together:
        other = by_key.get(key)
        if other is None:
            raise DefinitionError(
                f"'{spec.key}' is made together with '{key}', which is not in the project"
                + _at(spec.key, places),
                cause="one function makes both, in one run",
                hint="give Project(assets=[...]) the multi-asset itself",
            )
        if _made_of(other) != _made_of(spec):
            raise DefinitionError(
                f"'{spec.key}' and '{key}' are made together, but not from the same"
                + _at(spec.key, places),
                cause="they differ in inputs, partitions, code, or in what is made with them",
                hint="declare them with one @fr.multi_asset",
            )


def _is_earlier(dep: Dependency) -> bool:
    mapping = dep.mapping
    if isinstance(mapping, Dimensions):  # the dimension that grows comes first in the numbering
        return any(
            isinstance(pair.mapping, Offset) and pair.mapping.windows < 0 for pair in mapping.pairs
        ) and all(isinstance(pair.mapping, Offset | Identity) for pair in mapping.pairs)
    return isinstance(mapping, Offset) and mapping.windows < 0


def _ordered(
    by_key: Mapping[AssetKey, AssetSpec], places: Mapping[AssetKey, str]
) -> dict[AssetKey, AssetSpec]:
    sorter = TopologicalSorter(
        {key: [dep.asset for dep in by_key[key].deps if dep.asset != key] for key in sorted(by_key)}
    )
    try:
        return {key: by_key[key] for key in sorter.static_order()}
    except CycleError as error:
        path = list(reversed(error.args[1]))
        raise DefinitionError(
            f"assets depend on each other in a cycle: {' <- '.join(path)}{_at(path[0], places)}",
            cause="an asset cannot be made from itself",
            hint="break the cycle by dropping one of these dependencies",
        ) from None


def _reach(key: AssetKey, edges: Mapping[AssetKey, tuple[Edge, ...]]) -> set[AssetKey]:
    found: set[AssetKey] = set()
    stack = [key]
    while stack:
        for edge in edges[stack.pop()]:
            if edge.asset not in found and edge.asset != key:
                found.add(edge.asset)
                stack.append(edge.asset)
    return found


def _at(key: AssetKey, places: Mapping[AssetKey, str]) -> str:
    return f" ({places[key]})" if key in places else ""


def _digest(specs: Iterable[AssetSpec]) -> str:
    data = msgspec.json.encode(sorted(specs, key=lambda spec: spec.key), order="deterministic")
    return blake2b(data, digest_size=16).hexdigest()


EMPTY = Graph({})
"""No definitions at all."""
