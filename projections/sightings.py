"""Sightings: what is said of versions from outside, and what that sets in motion."""

from freshet.engine.events import Observed, Recorded, RolledBack, SourceChanged
from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.engine.spaces import is_too_far
from freshet.projections.cells import fingerprint, upstream_owed, version_hash
from freshet.projections.debts import Debts, belongs
from freshet.projections.deployment import pass_watermark, rows_of
from freshet.projections.feeds import read_again, takes_all
from freshet.projections.marks import Keepsake
from freshet.projections.states import AssetState


class Sightings(Debts):
    """The debts, and the part of the fold that concerns what was seen. Changed by the fold of
    staleness alone.
    """

    def sight(self, event: SourceChanged | Observed, recorded: Recorded) -> None:
        state = self.states.get(event.asset)
        i = self._row_for(state, event.partition) if state is not None else None
        if state is None or i is None:
            self._keep_unseen(event, recorded)
            return
        there = i < state.n and state.there[i]
        if not event.data_version:
            self._withdraw(state, i, recorded)
            return
        found = version_hash(event.asset, event.partition, event.data_version)
        if there and state.hash[i] == found:
            state.made(i, recorded.position)
            self._feed(state, i, recorded)
            return
        wave = self.wave_of(recorded)
        if i >= state.n or not state.exists[i]:
            self.open(state, i, wave)
        mark = wave if there else min(wave, state.owed[i])
        state.made(i, recorded.position)
        state.set_version(i, found, recorded.position)
        self.touch(state, i)
        # Marks touch; what they do not reach, because nothing is owed, need not be looked at.
        self.mark_below(state, i, mark)
        if state.is_source and state.calendar is not None:
            pass_watermark(self, state, i, wave)

    def roll_back(self, event: RolledBack, recorded: Recorded) -> None:
        """An earlier version is the current one again, by choice: made as it is from what its
        inputs and its code are now, so that only what comes after counts. What it had read change
        by change stays read. While it runs it is history, but no news: the run's result is newer.
        """
        state = self.states.get(event.asset)
        i = state.number(event.partition) if state is not None else None
        if state is None or i is None or i >= state.n or not state.exists[i]:
            return
        if state.is_source or i in state.live or not event.data_version:
            return
        state.consumed[i] = fingerprint(state, i)
        state.code[i] = state.code_number(state.spec.code_version)
        state.failures.pop(i, None)
        state.forced.take(i)
        self.touch(state, i)
        found = version_hash(event.asset, event.partition, event.data_version)
        there = state.there[i]
        state.made(i, recorded.position)
        if there and state.hash[i] == found:
            return
        wave = self.wave_of(recorded)
        mark = wave if there else min(wave, state.owed[i])
        state.set_version(i, found, recorded.position)
        self.mark_below(state, i, mark)

    def _feed(self, state: AssetState, i: int, recorded: Recorded) -> None:
        """No other version stops here; but who reads changes has one more to read."""
        for link in state.feeds:
            for k in link.readers(i):
                self.mark(link.down, k, self.wave_of(recorded))

    def _row_for(self, state: AssetState, key: PartitionKey) -> int | None:
        """The row of something that was seen; None if the definition does not let it in."""
        i = state.number(key)
        if i is not None and is_too_far(state.space, i, self.marks.now[1]):
            return None
        if i is None and state.adds_keys and state.grows and state.windows is None:
            return state.number(key, add=True)
        return i

    def _keep_unseen(self, event: SourceChanged | Observed, recorded: Recorded) -> None:
        """Of what no definition admits now: a later definition will ask, and so does at once who
        reads all changes of the source.
        """
        key = AssetPartition(event.asset, event.partition)
        if event.data_version:
            found = version_hash(*key, event.data_version)
            self.attic[key] = Keepsake(found, recorded.position)
        else:
            self.attic.pop(key, None)
        state = self.states.get(event.asset)
        heard = self.heard.setdefault(event.asset, {}) if state is None else state.heard
        heard[event.partition] = recorded.position
        if state is None:
            return
        state.newest, state.newest_row = recorded.position, -1
        for link in state.feeds:
            for k in rows_of(link.down) if takes_all(link) else ():
                self.mark(link.down, k, self.wave_of(recorded))

    def _withdraw(self, state: AssetState, i: int, recorded: Recorded) -> None:
        """A value is gone, and with it a partition that only it brought into being."""
        if i >= state.n or not state.there[i]:
            self.attic.pop(state.key(i), None)
            if state.is_source:
                state.ensure(i)
                state.made(i, recorded.position)
                self._feed(state, i, recorded)
            return
        wave = self.wave_of(recorded)
        if state.started_at[i]:
            read_again(state, i)  # what it was made of by change, if it was
        state.forget_version(i)
        state.made(i, recorded.position)
        state.note_change(i, recorded.position)
        self.touch(state, i)
        self.mark_below(state, i, wave)
        if not state.is_source:
            self.mark(state, i, min(wave, upstream_owed(state, i)))
        elif not belongs(state, i):
            self.remove(state, i, wave)
