"""A store in memory: the same contract without files, for tests and trials."""

import threading
from pathlib import Path
from typing import Any

from freshet.engine.digests import digest
from freshet.engine.errors import StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.formats import Encoded, decode, encode
from freshet.engine.stores.store import Staged


class MemoryStore:
    """Keeps every published version as bytes, so what a loader does to a value stays with the
    loader.
    """

    in_memory = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._staged: dict[int, dict[AssetPartition, Encoded]] = {}
        self._published: dict[tuple[AssetPartition, str], Encoded] = {}

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        """Keep the value where no loader looks."""
        encoded = encode(value)
        with self._lock:
            self._staged.setdefault(run, {})[target] = encoded
        version = digest([encoded.suffix.encode(), encoded.data])
        return Staged(target, run, version, encoded.metadata, "memory")

    def look(self, staged: Staged, annotation: Any) -> Any:
        """The staged value."""
        with self._lock:
            found = self._staged[staged.run][staged.target]
        return _read(staged.target, found, annotation)

    def publish(self, staged: Staged) -> None:
        """Make the staged value loadable."""
        with self._lock:
            value = self._staged.get(staged.run, {}).pop(staged.target, None)
            if value is None:
                raise StoreError(f"run {staged.run} has staged nothing for {staged.target}")
            self._published[staged.target, staged.data_version] = value
            if not self._staged[staged.run]:
                del self._staged[staged.run]

    def discard(self, run: int) -> None:
        """Forget what the run staged."""
        with self._lock:
            self._staged.pop(run, None)

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version."""
        with self._lock:
            found = self._published.get((target, data_version))
        if found is None:
            raise StoreError(
                f"version {data_version} of {target} is not in memory",
                cause="a memory store ends with its process",
                hint=f"freshet materialize {target}",
            )
        return _read(target, found, annotation)

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Can this version be loaded?"""
        with self._lock:
            return (target, data_version) in self._published


def _read(target: AssetPartition, found: Encoded, annotation: Any) -> Any:
    if annotation is Path:
        raise StoreError(
            f"{target} cannot be loaded as a Path",
            cause="a memory store has no files",
            hint="annotate the parameter as bytes, or use a LocalStore",
        )
    return decode(found.suffix, found.data, annotation)
