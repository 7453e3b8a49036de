"""Landings in a simulation: a file that a project's sensor waits for, kept in a private folder."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from freshet.engine.digests import digest
from freshet.engine.errors import RequestError
from freshet.engine.events import SourceChanged
from freshet.engine.keys import PartitionKey, partition_key_problem
from freshet.engine.partitions import describe
from freshet.engine.simulated import placed
from freshet.engine.spaces import contains, is_too_far, space_of
from freshet.engine.specs import Plain
from freshet.sensors.files import FilesSensor
from freshet.sensors.sensor import Sensor
from freshet.sensors.watch import Watched


class Lying(msgspec.Struct, frozen=True):
    """What lies at a path now, and whose it is; an empty version says that it is gone."""

    watched: Watched
    partition: PartitionKey
    version: str = ""
    metadata: dict[str, Plain] = {}


class Landings:
    """The files that have landed, below `folder`, and what sensors have not yet recorded of
    them.
    """

    def __init__(self, sensors: Sequence[Sensor], folder: Path) -> None:
        self._watched = [s.watched for s in sensors if isinstance(s, FilesSensor)]
        self._folder = folder
        self._lying: dict[str, Lying] = {}
        self._recorded: dict[str, str] = {}

    def land(self, path: str, content: bytes | str | None, now_us: int) -> None:
        """Keep the file, or remove it.

        Raises RequestError when no sensor waits for it, or for a partition that cannot be.
        """
        path = str(PurePosixPath(path))
        watched, partition = self._sensor_of(path, now_us)
        file = placed(self._folder, path)
        if content is None:
            file.unlink(missing_ok=True)
            self._lying[path] = Lying(watched, partition)
            return
        data = content.encode() if isinstance(content, str) else content
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, ns=(now_us * 1000, now_us * 1000))
        metadata: dict[str, Plain] = {"path": path, "size": len(data), "mtime_ns": now_us * 1000}
        self._lying[path] = Lying(watched, partition, digest([data]), metadata)

    def news(self, held: Callable[[str], bool]) -> Iterator[tuple[str, SourceChanged]]:
        """What sensors, by name, record now; nothing by those that are `held`. Each once."""
        for path, lying in self._lying.items():
            watched = lying.watched
            if held(watched.name) or self._recorded.get(path, "") == lying.version:
                continue
            self._recorded[path] = lying.version
            if lying.version or not watched.keep:
                yield (
                    watched.name,
                    SourceChanged(
                        watched.source.key, lying.partition, lying.version, lying.metadata
                    ),
                )

    def _sensor_of(self, path: str, now_us: int) -> tuple[Watched, PartitionKey]:
        for watched in self._watched:
            root = PurePosixPath(watched.pattern.root)
            if PurePosixPath(path).is_relative_to(root):
                relative = str(PurePosixPath(path).relative_to(root))
                partition = watched.pattern.partition_of(relative)
                if partition is not None:
                    _check(watched, path, partition, now_us)
                    return watched, partition
        patterns = ", ".join(repr(watched.pattern.text) for watched in self._watched)
        raise RequestError(
            f"no sensor of the project waits for a file '{path}'",
            cause=f"its patterns are {patterns}" if patterns else "it has no file sensors",
            hint="write the path as in the pattern, or use sim.change('SOURCE')",
        )


def _check(watched: Watched, path: str, partition: PartitionKey, now_us: int) -> None:
    """A real sensor would pass such a file over; here that is a slip of the pen."""
    shape = watched.source.partitions
    space = space_of(shape)
    i = space.ordinal(partition)
    problem = partition_key_problem(partition) if watched.pattern.partitioned else None
    if problem is None and not contains(shape, partition):
        problem = f"'{watched.source.key}' is {describe(shape)}"
    if problem is None and i is not None and is_too_far(space, i, now_us):
        problem = "it is more than ten years ahead"
    if problem is not None:
        raise RequestError(f"'{path}' would be partition '{partition}', which cannot be: {problem}")
