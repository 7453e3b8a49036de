"""What the stores share whose values are bytes under a name, and no files."""

from pathlib import Path
from typing import Any

from freshet.engine.digests import digest
from freshet.engine.errors import NotKeptError, StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.formats import Encoded, Formats
from freshet.engine.stores.store import Staged


def staged_of(target: AssetPartition, run: int, encoded: Encoded, location: str) -> Staged:
    """What is told of a value that was staged."""
    return Staged(target, run, version_of(encoded), encoded.metadata, location)


def version_of(encoded: Encoded) -> str:
    """The data version of a stored form: its digest."""
    return digest([encoded.suffix.encode(), encoded.data])


def read(
    formats: Formats, target: AssetPartition, found: Encoded, annotation: Any, store: str
) -> Any:
    """A value of a store without files. Raises StoreError."""
    if annotation is Path:
        raise StoreError(
            f"{target} cannot be loaded as a Path",
            cause=f"{store} has no files",
            hint="annotate the parameter as bytes, or use a LocalStore",
        )
    return formats.decode(found.suffix, found.data, annotation)


def in_the_way(what: str, path: Path) -> StoreError:
    """Of a folder where a file should be, or a file where a folder should be."""
    for above in reversed(path.parents):
        if above.exists() and not above.is_dir():
            return StoreError(
                f"cannot {what} {path}",
                cause=f"{above} is a file, and a folder is needed there",
                hint="move the file away, or give the store another folder",
            )
    return StoreError(
        f"cannot {what} {path}",
        cause=f"{path} is a folder, and a file is needed there",
        hint="move the folder away, or give the store another path",
    )


def not_staged(staged: Staged) -> StoreError:
    """Of a value that is to be published."""
    return StoreError(
        f"run {staged.run} has staged nothing for {staged.target}",
        hint=f"freshet materialize {staged.target}",
    )


def not_kept(target: AssetPartition, data_version: str, where: str, cause: str) -> NotKeptError:
    """Of a version that is asked for."""
    return NotKeptError(
        f"version {data_version} of {target} is not in {where}",
        cause=cause,
        hint=f"freshet materialize {target}",
    )
