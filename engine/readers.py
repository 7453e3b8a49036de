"""Who may be reading: since when a version must have been superseded for no live run to load it."""

import structlog

from freshet.engine.errors import StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.retention import now_us
from freshet.engine.stores.store import Store

log = structlog.get_logger("freshet.readers")


class Readers:
    """The live runs, as the fold of the stream knows them, by the clock of the stores.

    A run loads the versions that were current when its start was folded. One of them may have been
    superseded a little before that, by a run whose end was not folded yet; but not before that run
    started. So `since` is, over the live runs, the earliest start of a run that was alive when they
    started. Read from any thread, changed on the event loop.
    """

    def __init__(self) -> None:
        self._started: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self._oldest: int | None = None
        self._held: set[AssetPartition] = set()

    def hold(self, target: AssetPartition) -> None:
        """Nothing of this asset partition is collected until it is released."""
        self._held.add(target)

    def release(self, target: AssetPartition) -> None:
        self._held.discard(target)

    def begin(self, run: int) -> None:
        """The start of a run was folded."""
        self._started[run] = now_us()
        self._since[run] = min(self._started.values())
        self._oldest = min(self._since.values())

    def end(self, run: int) -> None:
        """The end of a run was folded."""
        self._started.pop(run, None)
        self._since.pop(run, None)
        self._oldest = min(self._since.values(), default=None)

    def collect(self, store: Store, target: AssetPartition) -> None:
        """Have the store delete what it need not keep, and no live run reads. Called in any thread;
        a store that cannot is told of in the log, as what was published is published.
        """
        if target in self._held:
            return
        try:
            store.collect(target, self.since)
        except (StoreError, OSError) as error:
            log.warning("old versions were not collected", asset=str(target), why=str(error))

    @property
    def since(self) -> int:
        """What was superseded before this moment (µs) no live run reads."""
        oldest = self._oldest
        return oldest if oldest is not None else now_us()
