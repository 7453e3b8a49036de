"""Kills: what ran when the engine was killed, and whether it may have been the reason."""

from freshet.projections.cells import fingerprint
from freshet.projections.marks import SUSPECT
from freshet.projections.states import AssetState


def kills_of(state: AssetState, i: int) -> int:
    """How often in a row the engine was killed while the row ran, with the inputs and the code it
    has now; while it runs, with those of the run.
    """
    kills, live = state.kills.get(i), state.live.get(i)
    if kills is None:
        return 0
    now = (live.pinned, live.trial) if live else (fingerprint(state, i), state.trial)
    return kills.count if (kills.fingerprint, kills.trial) == now else 0


def is_suspect(state: AssetState, i: int) -> bool:
    """Was the engine killed while the row ran, more than once in a row?"""
    return bool(state.kills) and kills_of(state, i) >= SUSPECT
