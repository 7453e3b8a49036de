"""Definitions as data: what `GraphDeployed` records, and all that a fold needs to know of user
code.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from freshet.engine import metadata
from freshet.engine.keys import AssetKey
from freshet.engine.mappings import Identity, PartitionMapping
from freshet.engine.partitions import Partitions
from freshet.engine.policies import Eager, Policy

Missing = Literal["", "wait", "skip", "fail"]
"""What is done when an input is missing: wait for it, go on without it and record the gap, or fail
and say so; empty: wait, but for what reads all of something that grows.
"""

Plain: TypeAlias = metadata.Plain
"""Values that are data by themselves; nested ones are not needed and not allowed."""

Metadata: TypeAlias = Mapping[str, metadata.Value]
"""What is said of a definition or a version, by name: plain values and typed ones."""


Severity = Literal["warn", "error"]


GROUP = "group:"
"""Pools of this name limit a group: each run of one of its assets takes 1."""


class PoolShare(msgspec.Struct, frozen=True, array_like=True):
    """What a run takes of a pool: `weight` of the `limit` that all live runs may take together."""

    pool: str
    weight: int
    limit: int


class CheckSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check of an asset, as data: a `blocking` one keeps what does not pass from being
    published.
    """

    name: str
    blocking: bool = False
    severity: Severity = "warn"
    code_version: str = ""
    description: str = ""


class Dependency(msgspec.Struct, frozen=True, omit_defaults=True):
    """One edge: the upstream asset, how partitions map, and the parameter that receives the value.

    `parameter` is empty when the dependency's value is not loaded (`deps=`). With `changes` a
    source is read change by change instead of as it is now. Under `missing` skip
    and fail, a partition waits for what is missing until `deadline_ms` after its window is over;
    if it is no window, after the change it owes.
    """

    asset: AssetKey
    mapping: PartitionMapping = Identity()
    parameter: str = ""
    missing: Missing = ""
    deadline_ms: int = 0
    changes: bool = False


class AssetSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One asset or source, as data. Only `deps`, `partitions` and `code_version` decide
    staleness; `batch` is how many partitions one run may take, `max_changes` how many changes one
    that reads sources change by change.
    """

    key: AssetKey
    kind: Literal["asset", "source"] = "asset"
    deps: tuple[Dependency, ...] = ()
    partitions: Partitions | None = None
    policy: Policy = Eager()
    code_version: str = ""
    retries: int = 0
    retry_delay_ms: int = 1000
    timeout_ms: int | None = None
    batch: int = 1
    max_changes: int = 1000
    group: str = "default"
    tags: dict[str, str] = {}
    owners: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    description: str = ""
    metadata: Metadata = {}
    checks: tuple[CheckSpec, ...] = ()
    pools: tuple[PoolShare, ...] = ()
    store: str = ""
    """The name of the project's store that has its values; part of its code version too, so that it
    is built anew where it moves to.
    """
    columns: dict[str, str] = {}
    """Of the table it makes: name and type, as `engine.schemas` has them. Part of its code version.
    """
    config: dict[str, Plain] = {}
    """The function's parameters that have a default: part of its code version."""
    together: tuple[AssetKey, ...] = ()
    """All assets that the same function makes, this one included, in the order of its outputs: one
    run makes all of them. Empty for a function that makes one.
    """

    @property
    def is_source(self) -> bool:
        return self.kind == "source"

    @property
    def trial(self) -> str:
        """What decides, with the inputs, whether a run fails: its code and what may block it."""
        checks = [f"{one.name}={one.code_version}" for one in self.checks if one.blocking]
        return "|".join([self.code_version, *checks])

    @property
    def reads_changes(self) -> bool:
        """Is it built from the changes of its sources, each of which it has to read once?"""
        return any(dep.changes for dep in self.deps)
