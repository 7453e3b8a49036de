"""Intents: what runs are about to publish, written down before they do, so that a run that is cut
off in the middle is finished at the next start instead of being made again.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from freshet.engine.errors import StoreError
from freshet.engine.events import CheckEvaluated, Materialized
from freshet.engine.stores.store import Staged, Store


class Intent(msgspec.Struct, frozen=True):
    """What one run is about to publish, and what is recorded once it has."""

    run: int
    staged: tuple[Staged, ...]
    events: tuple[CheckEvaluated | Materialized, ...]


class Intents:
    """A folder of intents, one file for each run that publishes. They outlive the process, and need
    not outlive the machine: one that is lost costs a run, one that is torn is no intent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, intent: Intent) -> None:
        """Before the first value becomes visible. Raises StoreError."""
        path = self._path(intent.run)
        hidden = path.with_suffix(".part")
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(parents=True, exist_ok=True)
            hidden.write_bytes(msgspec.json.encode(intent))
            os.replace(hidden, path)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}", cause=error.strerror, hint="is there space on the disk?"
            ) from error

    def read(self, run: int) -> Intent | None:
        """What the run was about to publish; None if it was not, or nobody can tell."""
        try:
            return msgspec.json.decode(self._path(run).read_bytes(), type=Intent)
        except (OSError, msgspec.MsgspecError):
            return None

    def drop(self, run: int) -> None:
        """It is recorded, or will not be."""
        self._path(run).unlink(missing_ok=True)

    def left(self) -> Iterator[int]:
        """The runs of which an intent is there."""
        for path in list(self._folder.glob("*")) if self._folder.is_dir() else ():
            if path.suffix == ".part":
                path.unlink(missing_ok=True)  # cut off while it was written: it is none
            elif path.suffix == ".json" and path.stem.isdecimal():
                yield int(path.stem)

    def _path(self, run: int) -> Path:
        return self._folder / f"{run}.json"


def finish(store: Store, intent: Intent) -> bool:
    """Publish what is left of it to publish. False when some of it is not there any more: then the
    run has to be made again.
    """
    try:
        for staged in intent.staged:
            store.publish(staged)  # what is published already stays so
    except StoreError:
        return False
    return True
