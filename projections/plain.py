"""Plain rows: those whose policy asks for everything and that wait for one row over each edge. By
far most rows are; what settles any row is asked of them without ranges, sums and minima.

The answers are those of `cells` (`gate`, `must_run`, `fingerprint`, `upstream_owed`), all in one
look at each edge.
"""

from freshet.projections.marks import NOTHING
from freshet.projections.states import AssetState
from freshet.projections.sums import MASK


def is_plain(state: AssetState) -> bool:
    """May the questions here be asked? True of an asset from one deployment to the next."""
    if not state.is_eager or state.tells or state.relook or state.reads_changes:
        return False
    return all(
        link.shift is not None
        and link.rule == "wait"
        and not (link.changes or link.whole or link.last or link.up.tells)
        for link in state.up
    )


def weigh(state: AssetState, i: int) -> tuple[bool, int, int, bool]:
    """Of what a plain row reads: is all of it there, the oldest change that it has not absorbed,
    and the sum of its versions, which is the row's fingerprint. And would a run do something new?
    """
    complete, low, total = True, NOTHING, 0
    for link in state.up:
        up, j = link.up, i + link.shift  # type: ignore[operator]  # a number, as the row is plain
        if j < 0:
            continue  # before the first there is nothing to read
        if j >= up.n:
            complete = False
            continue
        if not up.there[j]:
            complete = False
        total += up.hash[j]
        owed = up.owed[j]
        if owed < low and not up.is_wall:
            low = owed
    total &= MASK
    number = state.code[i]
    news = (
        not number
        or not state.there[i]
        or state.consumed[i] != total
        or state.codes[number - 1] != state.spec.code_version
        or i in state.forced
    )
    return complete, low, total, news
