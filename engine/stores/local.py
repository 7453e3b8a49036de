"""A store of plain files: the current value where people look for it, every version where it stays
put.

data/carriers.json                         the current value, one hard link
data/delays/2013-01-05.json                of a partition
data/.versions/delays/2013-01-05/4f2a….json   published versions, never changed
data/.staged/212/…                         what run 212 has written and not yet published
"""

import os
import shutil
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from freshet.engine.digests import digest
from freshet.engine.errors import DefinitionError, StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.formats import decode, encode
from freshet.engine.stores.store import Staged

KEEP_VERSIONS = 3
"""Versions kept of each asset partition: the current one, the one live runs may be reading, and a
spare.
"""

SAFE = " !#$&'()+,-;=@[]^_`{}~"
"""Characters of a partition key that may stand in a file name as they are, besides letters and
digits.
"""


class LocalStore:
    """Values as files below `root` (relative: to the working directory).

    A value is written and synced in full under `.staged`, moved to `.versions` by one rename, and
    becomes the current file by a second: readers of either see a whole value or the one before.
    `keep` versions of each asset partition stay; `fallback="pickle"` stores what has no format.
    The current files of partition `x` of asset `a` and of an asset `a/x` would have one name: do
    not have both (their versions are kept apart all the same).
    """

    in_memory = False

    def __init__(
        self,
        root: str | Path,
        *,
        keep: int = KEEP_VERSIONS,
        fallback: Literal["pickle"] | None = None,
    ) -> None:
        if keep < 1:
            raise DefinitionError(
                f"LocalStore(keep={keep}) would keep nothing", hint="keep 1 or more"
            )
        if fallback not in (None, "pickle"):
            raise DefinitionError(
                f"LocalStore(fallback={fallback!r}) is no format", hint="the only one is 'pickle'"
            )
        self.root = Path(root)
        self._keep = keep
        self._pickle = fallback == "pickle"

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        """Write and sync the value below `.staged`. Raises StoreError; then nothing is
        left behind.
        """
        encoded = encode(value, allow_pickle=self._pickle)
        version = digest([encoded.suffix.encode(), encoded.data])
        folder = self.root / ".staged" / str(run) / _name(target)
        path = folder / f"{version}{encoded.suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(encoded.data)
                file.flush()
                os.fdatasync(file.fileno())
        except OSError as error:
            self.discard(run)
            raise _failed("write", path, error) from error
        return Staged(target, run, version, encoded.metadata, str(path))

    def look(self, staged: Staged, annotation: Any) -> Any:
        """The staged value; annotated as Path, its file, to be read only."""
        return _read(Path(staged.location), annotation)

    def publish(self, staged: Staged) -> None:
        """Move the staged file among the versions, and point the current file at it; synced on
        return.
        """
        path = Path(staged.location)
        kept = self._versions(staged.target) / path.name
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, kept)
            os.utime(kept)
            shown = self._point(staged, kept)
            # Synced together at the end: one commit of the file system's journal serves both.
            _sync(kept.parent)
            _sync(shown.parent)
            self._collect(kept)
        except OSError as error:
            raise _failed("publish", kept, error) from error
        self._remove_staged(path)

    def discard(self, run: int) -> None:
        """Forget what the run staged."""
        shutil.rmtree(self.root / ".staged" / str(run), ignore_errors=True)

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version; annotated as Path, the file itself, to be
        read only.
        """
        path = self._find(target, data_version)
        if path is None:
            raise StoreError(
                f"version {data_version} of {target} is not in {self.root}",
                cause=f"the newest {self._keep} versions are kept; the file may have been removed",
                hint=f"freshet materialize {target}",
            )
        return _read(path, annotation)

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Is the file of this version there?"""
        return self._find(target, data_version) is not None

    def current(self, target: AssetPartition) -> Path | None:
        """The file people look at: the last published value, or None."""
        folder, stem = self._shown(target)
        return next((path for path in _files(folder) if _stem(path.name) == stem), None)

    def _versions(self, target: AssetPartition) -> Path:
        return self.root / ".versions" / _name(target)

    def _find(self, target: AssetPartition, data_version: str) -> Path | None:
        folder = self._versions(target)
        return next((path for path in _files(folder) if _stem(path.name) == data_version), None)

    def _shown(self, target: AssetPartition) -> tuple[Path, str]:
        """Folder and stem of the current file: `a/b.json`, or `a/b/2013-01-05.json` for a
        partition.
        """
        segments = target.asset.split("/")
        if target.partition:
            return self.root.joinpath(*segments), _quoted(target.partition)
        return self.root.joinpath(*segments[:-1]), segments[-1]

    def _point(self, staged: Staged, kept: Path) -> Path:
        """Make the current file a link to this version, by one rename; drop
        one of another format.
        """
        folder, stem = self._shown(staged.target)
        folder.mkdir(parents=True, exist_ok=True)
        shown = folder / (stem + kept.suffix)
        fresh = kept.parent / ".current.link"
        fresh.unlink(missing_ok=True)
        try:
            os.link(kept, fresh)
        except OSError:
            shutil.copyfile(kept, fresh)  # a file system without hard links
        os.replace(fresh, shown)
        for suffix in {path.suffix for path in _files(kept.parent)} - {kept.suffix}:
            (folder / (stem + suffix)).unlink(missing_ok=True)
        return shown

    def _collect(self, kept: Path) -> None:
        """Remove all but the newest versions beside the one just published."""
        aged = sorted(_files(kept.parent), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in aged[self._keep :]:
            if path != kept:
                path.unlink(missing_ok=True)

    def _remove_staged(self, path: Path) -> None:
        """Remove the folders of a staged file that has moved, as far as they are empty: a run may
        have staged several.
        """
        for folder in path.parents:
            if folder == self.root / ".staged":
                break
            try:
                folder.rmdir()
            except OSError:
                break


def _read(path: Path, annotation: Any) -> Any:
    if annotation is Path:
        return path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _failed("read", path, error) from error
    return decode(path.suffix, data, annotation)


def _name(target: AssetPartition) -> Path:
    """A folder of its own for each asset partition; `=` keeps partitions apart from deeper
    segments.
    """
    return Path(*target.asset.split("/")) / ("=" + _quoted(target.partition))


def _quoted(partition: str) -> str:
    """A partition key as a file name: what is unsafe becomes %XX, a leading dot too; one to one."""
    name = quote(partition, safe=SAFE, errors="surrogatepass")
    name = name.replace(".", "%2E") if name.startswith(".") else name
    return name


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _files(folder: Path) -> list[Path]:
    try:
        return [
            path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(what: str, path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot {what} {path}",
        cause=error.strerror or str(error),
        hint="check the folder's permissions and the space on its disk",
    )
