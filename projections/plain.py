"""Plain rows: those whose policy asks for everything and that wait for one row over each edge. By
far most rows are; what settles any row is asked of them without ranges, sums and minima.

The answers are those of `cells.gate` and `cells.must_run`, at a third of their cost.
"""

from freshet.projections.marks import NOTHING
from freshet.projections.states import AssetState
from freshet.projections.sums import MASK


def is_plain(state: AssetState) -> bool:
    """May `weigh` be asked? True of an asset from one deployment to the next."""
    if not state.is_eager or state.tells or state.relook or state.reads_changes:
        return False
    return all(
        link.shift is not None
        and link.rule == "wait"
        and not (link.changes or link.whole or link.last or link.up.tells)
        for link in state.up
    )


def weigh(state: AssetState, i: int) -> tuple[bool, bool]:
    """Has everything a plain row waits for arrived, and would a run do something new?"""
    is_open, total, floor = True, 0, state.owed[i]
    for link in state.up:
        up, shift = link.up, link.shift
        assert shift is not None
        j = i + shift
        if j < 0:
            continue  # before the first there is nothing to read
        if j >= up.n or not up.there[j]:
            is_open = False
            continue
        total += up.hash[j]
        if up.owed[j] <= floor < NOTHING and not up.is_wall:
            is_open = False
    number = state.code[i]
    news = (
        not number
        or not state.there[i]
        or state.consumed[i] != total & MASK
        or state.codes[number - 1] != state.spec.code_version
        or i in state.forced
    )
    return is_open, news
