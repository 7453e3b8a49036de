"""Inputs of a run: the versions an order names, looked up in the stream, and the values they have.

A parameter that reads one partition receives its value; one that reads many receives a mapping of
partition key to value, loaded as it is asked for.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from freshet.engine.counts import counted
from freshet.engine.errors import StoreError
from freshet.engine.events import Recorded
from freshet.engine.executors.invoke import Rejected
from freshet.engine.given import Given
from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.engine.orders import Order, Read
from freshet.engine.signatures import element_annotation
from freshet.engine.stores.landing import Landed, load_landed
from freshet.engine.stores.store import Store
from freshet.projections.catalog import Version

EAGER_VERSIONS = 64
"""Versions of one edge looked up before the run begins; those of more, as they are asked for."""

At = Callable[[int], Awaitable[Recorded | None]]


class Load(msgspec.Struct, frozen=True):
    """All that one parameter reads: positions by partition key, over all targets of the run."""

    read: Read
    positions: Mapping[PartitionKey, int]

    @property
    def is_eager(self) -> bool:
        return len(self.positions) <= EAGER_VERSIONS


def loads_of(order: Order) -> dict[str, Load]:
    """What each parameter receives. Raises Rejected for a missing input that must not be."""
    found: dict[str, Load] = {}
    for number, dep in enumerate(order.spec.deps):
        reads = [target[number] for target in order.reads]
        for read in reads:
            if read.missing and dep.missing == "fail":
                raise Rejected(
                    "input", f"input {AssetPartition(read.asset, read.gaps[0])} is missing"
                )
        if dep.parameter and not dep.changes:
            positions = {key: at for read in reads for key, at in read.items()}
            found[dep.parameter] = Load(reads[0], positions)
    return found


async def versions_of(order: Order, loads: Mapping[str, Load], at: At) -> dict[int, Version]:
    """The versions, by position, that must be known: those that are recorded one by one, and those
    of parameters that read few partitions.
    """
    wanted: dict[int, None] = {}
    for load in loads.values():
        if load.is_eager:
            wanted.update(dict.fromkeys(load.positions.values()))
    for target in order.reads:
        for read in target:
            if read.named():
                wanted.update(dict.fromkeys(read.made_at))
    found = {}
    for position in wanted:
        found[position] = version_in(await at(position), position)
    return found


def version_in(recorded: Recorded | None, position: int) -> Version:
    """The version stated at a position. Raises Rejected when there is none: that is no user's
    fault.
    """
    version = Version.of(recorded)
    if version is None:
        raise Rejected("input", f"the stream states no version at position {position}")
    return version


class Values(Mapping[PartitionKey, Any]):
    """The values of many partitions by key, each loaded when it is asked for, and not kept.

    `seen` has what was loaded so far. In the order of the partitions.
    """

    def __init__(
        self,
        load: Load,
        versions: Mapping[int, Version],
        fetch: Callable[[int], Version],
        loader: Callable[[PartitionKey, Version], Any],
    ) -> None:
        self._positions = load.positions
        self._versions = versions
        self._fetch = fetch
        self._loader = loader
        self.seen: dict[PartitionKey, Version] = {}

    def __getitem__(self, key: PartitionKey) -> Any:
        position = self._positions[key]
        version = self._versions.get(position) or self._fetch(position)
        self.seen[key] = version
        return self._loader(key, version)

    def __iter__(self) -> Iterator[PartitionKey]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'partition')}, loaded on access>"


def each_of(annotation: Any) -> Any:
    """The annotation of one value of those of many partitions."""
    return Given if annotation is Given else element_annotation(annotation)


def load_value(
    store: Store, read: Read, key: PartitionKey, version: Version, annotation: Any
) -> Any:
    """One value in the form the annotation asks for. Raises StoreError."""
    if annotation is Given:
        return _given(store, read, key, version)
    landed = landed_file(version) if read.is_source else None
    if landed is not None:
        return load_landed(landed[0], annotation, landed[1])
    if read.is_source:
        return version.data_version
    if "bytes" not in version.metadata:
        return None  # the asset writes its own data and said only which version it is
    return store.load(AssetPartition(read.asset, key), version.data_version, annotation)


def _given(store: Store, read: Read, key: PartitionKey, version: Version) -> Given:
    found = None
    try:
        found = load_value(store, read, key, version, Path)
    except StoreError:
        if read.is_source:
            raise
    if found is None and "bytes" in version.metadata and not read.is_source:
        name = AssetPartition(read.asset, key)
        return Given(version.data_version, None, store.load(name, version.data_version, None))
    return Given(version.data_version, found if isinstance(found, Path) else None)


def landed_file(version: Version) -> tuple[Path, Landed] | None:
    """Where a source's file lies and how to recognise it, or None when the source is no file."""
    path, size, mtime_ns = (version.metadata.get(name) for name in ("path", "size", "mtime_ns"))
    if not isinstance(path, str) or not isinstance(size, int) or not isinstance(mtime_ns, int):
        return None
    landed = Landed(version.data_version, size, mtime_ns)
    ignored = version.metadata.get("ignored")  # said of folders
    if isinstance(ignored, str):
        landed = msgspec.structs.replace(landed, ignored=ignored)
    return Path(path), landed
