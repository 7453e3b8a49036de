"""A store in memory: the same contract without files, for tests and trials."""

import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from freshet.engine.errors import StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.blobs import not_kept, not_staged, read, staged_of, version_of
from freshet.engine.stores.formats import Encoded, Format, Formats
from freshet.engine.stores.retention import Retention, next_us, now_us, retention
from freshet.engine.stores.store import Staged, StoredVersion


class _Kept(msgspec.Struct, frozen=True):
    encoded: Encoded
    stored_at: int


class MemoryStore:
    """Keeps published versions as bytes, so what a loader does to a value stays with the loader:
    all of them, or, as other stores, `keep` of each asset partition.
    """

    in_memory = True

    def __init__(
        self,
        *,
        keep: int | None = None,
        keep_for: float | str | None = None,
        formats: Sequence[Format] = (),
    ) -> None:
        self._retention: Retention | None = None
        if keep is not None or keep_for is not None:
            self._retention = retention("MemoryStore", 1 if keep is None else keep, keep_for)
        self._formats = Formats(formats)
        self._lock = threading.Lock()
        self._staged: dict[int, dict[AssetPartition, Encoded]] = {}
        self._published: dict[AssetPartition, dict[str, _Kept]] = {}

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        """Keep the value where no loader looks."""
        encoded = self._formats.encode(value)
        with self._lock:
            self._staged.setdefault(run, {})[target] = encoded
        return staged_of(target, run, encoded, "memory")

    def look(self, staged: Staged, annotation: Any) -> Any:
        """The staged value."""
        with self._lock:
            found = self._staged[staged.run][staged.target]
        return self._read(staged.target, found, annotation)

    def publish(self, staged: Staged) -> None:
        """Make the staged value loadable."""
        with self._lock:
            value = self._staged.get(staged.run, {}).get(staged.target)
            if value is not None and version_of(value) == staged.data_version:
                self._state(staged.target, staged.data_version, value)
                del self._staged[staged.run][staged.target]
                if not self._staged[staged.run]:
                    del self._staged[staged.run]
                return
            kept = self._published.get(staged.target, {}).get(staged.data_version)
            if kept is None:
                raise not_staged(staged)
            self._state(staged.target, staged.data_version, kept.encoded)

    def discard(self, run: int) -> None:
        """Forget what the run staged."""
        with self._lock:
            self._staged.pop(run, None)

    def staged_runs(self) -> list[int]:
        """The runs of which something is staged."""
        with self._lock:
            return sorted(self._staged)

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version."""
        with self._lock:
            found = self._published.get(target, {}).get(data_version)
        if found is None:
            raise self._not_kept(target, data_version)
        return self._read(target, found.encoded, annotation)

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Can this version be loaded?"""
        with self._lock:
            return data_version in self._published.get(target, {})

    def versions(self, target: AssetPartition) -> Sequence[StoredVersion]:
        """The versions that are kept, the one last published or restored first."""
        with self._lock:
            return self._versions(target)

    def restore(self, target: AssetPartition, data_version: str) -> None:
        """Make a kept version the current one."""
        with self._lock:
            kept = self._published.get(target, {}).get(data_version)
            if kept is None:
                raise self._not_kept(target, data_version)
            self._state(target, data_version, kept.encoded)

    def remove(self, target: AssetPartition) -> None:
        """Delete the current value and all kept versions."""
        with self._lock:
            self._published.pop(target, None)

    def collect(self, target: AssetPartition, before_us: int) -> None:
        """Delete what retention does not ask for and nobody can be reading."""
        if self._retention is None:
            return
        with self._lock:
            versions = self._versions(target)
            for one in self._retention.collectable(versions, before_us, now_us()):
                del self._published[target][one.data_version]

    def _state(self, target: AssetPartition, data_version: str, encoded: Encoded) -> None:
        """This is the current version now: the last one in the order of the dict."""
        versions = self._versions(target)
        if versions and versions[0].data_version == data_version:
            return
        kept = self._published.setdefault(target, {})
        kept.pop(data_version, None)
        kept[data_version] = _Kept(encoded, next_us(versions))

    def _versions(self, target: AssetPartition) -> list[StoredVersion]:
        kept = list(reversed(self._published.get(target, {}).items()))
        return [
            StoredVersion(version, len(one.encoded.data), one.stored_at, number == 0)
            for number, (version, one) in enumerate(kept)
        ]

    def _read(self, target: AssetPartition, found: Encoded, annotation: Any) -> Any:
        return read(self._formats, target, found, annotation, "a memory store")

    def _not_kept(self, target: AssetPartition, data_version: str) -> StoreError:
        return not_kept(target, data_version, "memory", "a memory store ends with its process")
