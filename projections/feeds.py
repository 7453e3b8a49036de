"""Feeds: what a row reads of its sources change by change, and whether there is more to read."""

from freshet.projections.progress import (
    NOW,
    Feed,
    Partitions,
    Progress,
    advanced,
    beside,
    feed_of,
    pinned,
    since_of,
)
from freshet.projections.states import AssetState, Link


def feeds_of(state: AssetState, i: int) -> tuple[Feed, ...]:
    """What the row is to read next."""
    return tuple(_feed(link, i) for link in state.up if link.changes)


def progress_of(state: AssetState, i: int) -> Progress:
    """Up to where the row has read, said so that it stays true whatever it reads from here on."""
    known = {**state.elsewhere.get(i, {}), **state.absorbed.get(i, {})}
    return pinned(known, feeds_of(state, i))


def pin_down(state: AssetState, i: int) -> None:
    """What the row reads is about to be something else."""
    state.absorbed[i] = progress_of(state, i)
    state.elsewhere.pop(i, None)


def absorb(state: AssetState, i: int, feeds: tuple[Feed, ...], run: int, until: int) -> None:
    """The row was made by a run that has read these feeds up to a position, if all: to the run."""
    progress = state.absorbed.get(i)
    state.halfway.discard(i)
    if not feeds:
        if progress is not None or i in state.elsewhere:
            read_again(state, i)  # what it read by change is not in what it is now
        return
    if progress is None and until == run:
        return
    as_then = {feed.source: feed.partitions for feed in feeds}
    as_now = {feed.source: feed.partitions for feed in feeds_of(state, i)}
    move = advanced if as_then == as_now else pinned
    progress = state.absorbed[i] = move(progress or {}, feeds, until)
    if until < run:
        state.halfway.add(i)
        return
    now = feeds_of(state, i)
    if all(feed.since == run and not feed.apart for feed in now):
        del state.absorbed[i]
        rest = beside(progress, now)
        if rest:
            state.elsewhere[i] = {**state.elsewhere.get(i, {}), **rest}


def let_in(state: AssetState, j: int) -> None:
    """A partition of a source that was heard of before has come into being: what was said of it is
    unread by all who did not ask for it by name, however far they have read.
    """
    key = state.space.key(j)
    for link in state.feeds:
        if takes_all(link):
            continue
        here = link.down
        for i in link.readers(j):
            if key in link.lane.asked(i) or not (here.started_at[i] or i in here.live):
                continue
            if i not in here.absorbed:
                here.absorbed[i] = advanced({}, feeds_of(here, i), 0)
            before, progress = here.elsewhere.get(i, {}), here.absorbed[i]
            known = before.get((state.spec.key, key), before.get((state.spec.key, None), 0))
            all_ = progress.get((state.spec.key, None), 0)  # when it read whatever partitions came
            progress.setdefault((state.spec.key, key), max(known, all_))


def newest_change(link: Link, i: int) -> int:
    """Position of the newest change over an edge, withdrawals too; 0 when there was none yet."""
    up = link.up
    if takes_all(link):
        return up.newest
    rows = link.reads(i)
    if up.newest_row in rows:
        return up.newest
    if isinstance(rows, range):
        return max(up.made_at[rows.start : rows.stop : rows.step], default=0)
    return max((up.made_at[j] for j in rows if j < up.n), default=0)


def has_unread(link: Link, i: int) -> bool:
    """Is there a change over this edge that the row has not read?"""
    progress = link.down.absorbed.get(i)
    if progress is None:
        return newest_change(link, i) > link.down.started_at[i]
    return _goes_on(link, i, progress)


def _goes_on(link: Link, i: int, progress: Progress) -> bool:
    up, source, everything = link.up, link.dep.asset, takes_all(link)
    newest = newest_change(link, i)
    if not any(named == source and key is not None and key != NOW for named, key in progress):
        return newest > since_of(source, progress, everything=everything)
    feed = feed_of(source, "", _partitions(link, i), progress)
    if newest <= feed.first:
        return False
    if everything and any(feed.wants(key, at) for key, at in up.heard.items()):
        return True
    made_at, key = up.made_at, up.space.key
    rows = (j for j in link.reads(i) if j < up.n and made_at[j])
    return any(feed.wants(key(j), made_at[j]) for j in rows)


def leaves_some(state: AssetState, i: int) -> bool:
    """Is there something that neither the row nor its live run has read?"""
    live = state.live.get(i)
    if live is None:
        return reads_anew(state, i)
    progress = pinned(state.absorbed.get(i, {}), live.feeds, live.run)
    return any(link.changes and _goes_on(link, i, progress) for link in state.up)


def takes_all(link: Link) -> bool:
    """Does it read all that is said of a source, whatever partitions that has?"""
    return link.whole and link.up.spec.partitions is not None


def reads_anew(state: AssetState, i: int) -> bool:
    """Is there something that the row is to read change by change?"""
    return i in state.halfway or any(link.changes and has_unread(link, i) for link in state.up)


def read_until(link: Link, i: int) -> int:
    """All that came over this edge up to this position has been read."""
    return _feed(link, i).first if i in link.down.absorbed else link.down.started_at[i]


def read_again(state: AssetState, i: int) -> None:
    """The row is to begin with the first change."""
    state.absorbed[i] = {}
    state.elsewhere.pop(i, None)
    state.halfway.discard(i)
    if i in state.live:
        state.live[i].feeds = ()


def starts_over(state: AssetState, i: int) -> bool:
    """Has the row read nothing yet of what it reads change by change, or is it to read it anew?"""
    progress = state.absorbed.get(i)
    return not (state.started_at[i] if progress is None else any(progress.values()))


def _feed(link: Link, i: int) -> Feed:
    state, source, parameter = link.down, link.dep.asset, link.dep.parameter
    partitions, progress = _partitions(link, i), state.absorbed.get(i)
    if progress is None:
        return Feed(source, parameter, partitions, state.started_at[i])
    return feed_of(source, parameter, partitions, progress)


def _partitions(link: Link, i: int) -> Partitions:
    """By name, so that they stay the same when the source comes to have them."""
    up = link.up
    if takes_all(link):
        return None
    asked = link.lane.asked(i)
    return frozenset(asked or map(up.space.key, filter(up.space.valid, link.reads(i))))
